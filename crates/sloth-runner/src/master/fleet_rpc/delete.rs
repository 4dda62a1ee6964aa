//! Deleting an agent.

use super::no_agent;
use crate::{
    access::Caller,
    master::{core::Core, join::blocking},
    security::Security,
};
use fleet::{AgentId, DeleteRefused};
use proto::DeleteReply;
use std::sync::Arc;
use tonic::Status;

/// Deletes it, revokes its certificates, and records who did.
///
/// # Errors
/// It is unknown or connected, or a part of it failed: the others are done then, and recorded as what they are.
pub async fn delete(
    core: Arc<Core>,
    caller: Option<Caller>,
    name: String,
    id: AgentId,
    force: bool,
) -> Result<DeleteReply, Status> {
    let (ticket, answer) = core.ticket();
    // It may have been asked for by its id.
    let called = core.read(|fleet| fleet.registry().view(id)).map_or_else(|| name.clone(), |view| view.record.name);
    let asked = core.decide(|fleet, now| {
        let asked = fleet.delete(now, id, force, ticket);
        if let (Ok(()), Some(security)) = (&asked, &core.security) {
            // Before its session is closed: it would be back at once.
            security.admission.refuse_agent(&id, &called);
        }
        asked
    });
    if let Err(refused) = asked {
        core.drop_ticket(ticket);
        return Err(match refused {
            DeleteRefused::Unknown => no_agent(&core, &name),
            DeleteRefused::Connected => Status::failed_precondition(format!(
                "agent {name} is connected: stop it first, or delete it with --force"
            )),
        });
    }
    let revoked = match &core.security {
        None => Ok(()),
        Some(security) => {
            let failed = |error| Status::internal(format!("its certificate is not revoked: {error}"));
            let revoke = move |security: &Security| security.admission.revoke_agent(&id, &called).map_err(failed);
            blocking(security, revoke).await.map(drop)
        }
    };
    let deleted = match answer.await {
        Ok(Ok(())) => Ok(DeleteReply { message: format!("agent {name} deleted") }),
        Ok(Err(error)) => Err(Status::internal(format!("the master cannot record the deletion: {error}"))),
        Err(_) => Err(Status::unavailable("the master is shutting down")),
    };
    let done = match (&deleted, &revoked) {
        (Ok(_), Ok(())) if core.security.is_none() => Some("agent deleted"),
        (Ok(_), Ok(())) => Some("agent deleted, its certificates revoked"),
        (Ok(_), Err(_)) => Some("agent deleted, its certificates not revoked"),
        (Err(_), Ok(())) if core.security.is_some() => Some("certificates of the agent revoked, the agent not deleted"),
        (Err(_), _) => None,
    };
    if let Some(done) = done {
        core.audit(caller.as_ref(), "audit.delete", (&name, id), done);
    }
    revoked.and(deleted)
}
