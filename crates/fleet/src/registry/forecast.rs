//! What a `Register` would lead to, for whoever wants to know before.

use super::{
    Register, Registry,
    register::{check, duplicate_id, name_taken},
};
use crate::Now;
use link::LossReason;

/// What would become of a registration now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// Why it would be refused.
    pub refused: Option<LossReason>,
    /// What stands behind that, or whose place the agent would take; may be empty.
    pub message: String,
    /// An agent with this id was here before.
    pub known: bool,
}

impl Registry {
    /// Looks only: another process with the same id is taken to be alive while its session is, though a registration
    /// would ask it first.
    pub fn would_register(&self, now: Now, mut register: Register) -> Forecast {
        let own = self.agents.get(&register.id);
        let known = own.is_some_and(|agent| agent.stored);
        let refused = |reason, message| Forecast { refused: Some(reason), message, known };
        if let Err(message) = check(&mut register) {
            return refused(LossReason::Protocol, message);
        }
        let session = own.and_then(|agent| agent.session.as_ref());
        if let (Some(own), Some(session)) = (own, session)
            && session.instance != register.instance
        {
            return refused(LossReason::DuplicateId, duplicate_id(&own.record, &register));
        }
        let holder = self.names.get(&register.name).filter(|holder| **holder != register.id);
        let holder = holder.and_then(|holder| self.agents.get(holder));
        let message = match holder {
            Some(holder) if self.keeps_name(now, holder) => {
                return refused(LossReason::NameTaken, name_taken(&register, holder));
            }
            Some(holder) => format!(
                "it would take the name of the {} agent on host {:?}",
                holder.record.status.word(),
                holder.record.host
            ),
            None if session.is_some() => "its session of now would be replaced".to_owned(),
            None => String::new(),
        };
        Forecast { refused: None, message, known }
    }
}
