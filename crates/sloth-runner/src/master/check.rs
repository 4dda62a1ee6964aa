//! What would become of an agent's registration, for an agent that asks before.

use super::{
    core::{Core, rejection},
    join::Standing,
    rows, session,
};
use crate::access::Caller;
use link::LossReason;
use proto::{CheckReply, CheckRequest, rejected::Reason};
use tonic::Status;

/// Looks, and changes nothing. An agent with a certificate is told of itself alone.
pub fn check(core: &Core, request: CheckRequest, caller: Option<&Caller>) -> CheckReply {
    let reply = CheckReply {
        master_name: core.name().to_owned(),
        master_version: env!("CARGO_PKG_VERSION").to_owned(),
        time_unix_ms: core.now().unix_ms,
        ..CheckReply::default()
    };
    let mut message = request.register.unwrap_or_default();
    (message.held, message.past) = (Vec::new(), Vec::new());
    let ids = (rows::id(&message.agent_id), rows::id(&message.instance_id), rows::id(&message.spool_id));
    let (Some(id), Some(instance), Some(spool_id)) = ids else {
        let message = "agent_id, instance_id and spool_id must be 16 bytes each".to_owned();
        return CheckReply { reason: rejection(LossReason::Protocol).into(), message, ..reply };
    };
    let remote = caller.and_then(|caller| caller.address);
    let (mut register, _) = session::split(message, id, instance, spool_id, remote, core.now());
    if let Some(standing) = Standing::look(core, caller) {
        let holder = core.read(|fleet| fleet.registry().find(&register.name));
        if let Err((reason, message)) = standing.apply(&mut register, holder) {
            if let (LossReason::Unauthorized, Some(security)) = (reason, &core.security) {
                let what = format!("as {}: {message}", register.name);
                security.refused(caller, None, "/agent.AgentRegistry/Check", &Status::permission_denied(what));
            }
            return CheckReply { reason: rejection(reason).into(), message, ..reply };
        }
    }
    let forecast = core.read(|fleet| fleet.registry().would_register(core.now(), register));
    let reason = forecast.refused.map_or(Reason::Unspecified, rejection);
    CheckReply { reason: reason.into(), message: forecast.message, known: forecast.known, ..reply }
}
