//! Refusals become events, but not each of a hundred a minute.

use link::LossReason;
use std::{collections::HashMap, time::Duration};

/// At most one event a minute for a name and a reason.
const QUIET: Duration = Duration::from_secs(60);

/// Names and reasons that are remembered. When all of them were refused within the last minute, others make no event.
const REMEMBERED_MAX: usize = 1_024;

#[derive(Debug, Default)]
pub(super) struct Rejections {
    last: HashMap<(String, LossReason), Duration>,
}

impl Rejections {
    /// Is this refusal worth an event?
    pub(super) fn worth_an_event(&mut self, now: Duration, name: &str, reason: LossReason) -> bool {
        let key = (name.to_owned(), reason);
        if let Some(last) = self.last.get_mut(&key) {
            if now < *last + QUIET {
                return false;
            }
            *last = now;
            return true;
        }
        if self.last.len() >= REMEMBERED_MAX {
            self.last.retain(|_, last| now < *last + QUIET);
            if self.last.len() >= REMEMBERED_MAX {
                return false;
            }
        }
        self.last.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_once_a_minute_for_each_name_and_reason() {
        let mut rejections = Rejections::default();
        let at = Duration::from_secs;
        assert!(rejections.worth_an_event(at(10), "a", LossReason::NameTaken));
        assert!(!rejections.worth_an_event(at(69), "a", LossReason::NameTaken));
        assert!(rejections.worth_an_event(at(69), "a", LossReason::DuplicateId));
        assert!(rejections.worth_an_event(at(69), "b", LossReason::NameTaken));
        assert!(rejections.worth_an_event(at(70), "a", LossReason::NameTaken));
    }

    #[test]
    fn a_flood_of_names_takes_no_more_memory_than_stated() {
        let mut rejections = Rejections::default();
        for i in 0..5_000 {
            rejections.worth_an_event(Duration::ZERO, &i.to_string(), LossReason::NameTaken);
        }
        assert_eq!(rejections.last.len(), REMEMBERED_MAX);
        assert!(rejections.worth_an_event(QUIET, "new", LossReason::NameTaken));
        assert_eq!(rejections.last.len(), 1);
    }
}
