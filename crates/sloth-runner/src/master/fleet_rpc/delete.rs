//! Deleting an agent.

use super::no_agent;
use crate::{
    access::{Caller, REVOKED},
    master::{core::Core, join::blocking, session::shut_out},
    security::Security,
};
use fleet::{AgentId, DeleteRefused};
use proto::DeleteReply;
use std::sync::Arc;
use tonic::Status;

/// Revokes its certificates, deletes it, and records who did. In this order: a master that is killed in between still
/// knows the agent, and deleting it again does the rest.
///
/// # Errors
/// It is unknown or connected, or a part of it failed: what is done then is recorded as what it is.
pub async fn delete(
    core: Arc<Core>,
    caller: Option<Caller>,
    name: String,
    id: AgentId,
    force: bool,
) -> Result<DeleteReply, Status> {
    let explained = |refused| match refused {
        DeleteRefused::Unknown => no_agent(&core, &name),
        DeleteRefused::Connected => {
            Status::failed_precondition(format!("agent {name} is connected: stop it first, or delete it with --force"))
        }
    };
    let record = |what: &str| core.audit(caller.as_ref(), "audit.delete", (&name, id), what);
    let secured = core.security.clone();
    if let Some(security) = &secured {
        // It may have been asked for by its id.
        let called = core.read(|fleet| fleet.registry().view(id)).map_or_else(|| name.clone(), |view| view.record.name);
        let asked = core.decide(|fleet, now| {
            fleet.registry().may_delete(id, force)?;
            // From now on it does not come in; nor does who was let so far as to wait for its session.
            security.admission.refuse_agent(&id, &called);
            if let Some(conn) = fleet.registry().newcomer(id) {
                shut_out(&core, fleet, now, conn, REVOKED, "it was deleted");
            }
            Ok(())
        });
        asked.map_err(explained)?;
        let revoke = move |security: &Security| {
            let failed = |error| {
                Status::internal(format!(
                    "nothing is deleted, for its certificates cannot be revoked for good: {error}; until the master is \
                     started again they are refused"
                ))
            };
            security.admission.revoke_agent(&id, &called).map_err(failed)
        };
        if let Err(status) = blocking(security, revoke).await {
            core.decide(|fleet, now| {
                for conn in fleet.registry().connections_of_others(id, &[0; 16]) {
                    shut_out(&core, fleet, now, conn, REVOKED, "its certificates are revoked");
                }
            });
            record("certificates of the agent refused until the next start, the agent not deleted");
            return Err(status);
        }
    }
    let (ticket, answer) = core.ticket();
    let mut commands = (0, 0);
    let asked = core.decide(|fleet, now| {
        commands = fleet.dispatch().would_forget(id);
        // Who is out by his certificates goes whether or not he is connected.
        fleet.delete(now, id, force || secured.is_some(), ticket)
    });
    if let Err(refused) = asked {
        core.drop_ticket(ticket);
        return Err(explained(refused));
    }
    let deleted = match answer.await {
        Ok(Ok(())) => Ok(DeleteReply { message: format!("agent {name} deleted{}", what_becomes(commands)) }),
        Ok(Err(error)) => Err(Status::internal(format!("the master cannot record the deletion: {error}"))),
        Err(_) => Err(Status::unavailable("the master is shutting down")),
    };
    core.look_again(id);
    match (&deleted, &secured) {
        (Ok(_), None) => record("agent deleted"),
        (Ok(_), Some(_)) => record("agent deleted, its certificates revoked"),
        (Err(_), Some(_)) => record("certificates of the agent revoked, the agent not deleted"),
        (Err(_), None) => {}
    }
    deleted
}

/// Of its commands: those that it was never sent, and the others.
fn what_becomes((never_sent, others): (usize, usize)) -> String {
    let count = |count: usize, of: &str| format!("{count} {of}command{}", if count == 1 { "" } else { "s" });
    let is = |count: usize| if count == 1 { "is" } else { "are" };
    let mut parts = Vec::new();
    if never_sent > 0 {
        parts.push(format!("{} {} refused, never sent", count(never_sent, "queued "), is(never_sent)));
    }
    if others > 0 {
        // Told at its return that nobody knows them, the agent ends them.
        parts.push(format!(
            "{} {} recorded as interrupted (what runs on the node still is ended if the agent comes back here)",
            count(others, if never_sent > 0 { "other " } else { "" }),
            is(others)
        ));
    }
    if parts.is_empty() { String::new() } else { format!("; {}", parts.join(", and ")) }
}

#[cfg(test)]
mod tests {
    use super::what_becomes;

    #[test]
    fn what_becomes_of_an_agents_commands_is_said() {
        assert_eq!(what_becomes((0, 0)), "");
        assert_eq!(what_becomes((2, 0)), "; 2 queued commands are refused, never sent");
        assert_eq!(
            what_becomes((1, 1)),
            "; 1 queued command is refused, never sent, and 1 other command is recorded as interrupted (what runs on the \
             node still is ended if the agent comes back here)"
        );
        assert!(what_becomes((0, 3)).starts_with("; 3 commands are recorded as interrupted ("));
    }
}
