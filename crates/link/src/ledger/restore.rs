//! A ledger as an earlier process left it on disk.

use super::{Command, Finish, Ledger, Output, Params, Record, State};
use crate::Outcome;
use std::time::Duration;

/// A command, as far as an earlier process had recorded it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored<S> {
    pub id: String,
    pub spec: S,
    /// From its start. `None`: it may take for ever.
    pub timeout: Option<Duration>,
    pub state: RestoredState,
}

/// The latest [`Record`] of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RestoredState {
    Accepted,
    /// It may have run. So much of its output is still there.
    Starting {
        total_bytes: u64,
    },
    Finished(Finish),
    Acknowledged(Finish),
}

const DIED: &str = "the agent died while it ran, or may have";

impl<S: Clone + Eq> Ledger<S> {
    /// What an earlier process left, in the order in which it came: what waited starts now, what may have run is
    /// interrupted, outcomes are told and remembered as before.
    ///
    /// # Panics
    /// As [`Self::new`].
    pub fn restore(params: Params, now: Duration, unix_ms: u64, commands: Vec<Restored<S>>) -> Self {
        let mut ledger = Self::new(params);
        for Restored { id, spec, timeout, state } in commands {
            let state = match state {
                RestoredState::Acknowledged(finish) => {
                    ledger.expiries.push_back((now.saturating_add(ledger.params.remember), id.clone()));
                    ledger.tombstones.insert(id, finish);
                    continue;
                }
                RestoredState::Accepted => {
                    ledger.queue.push_back(id.clone());
                    State::Waiting
                }
                RestoredState::Starting { total_bytes } => {
                    let outcome = Outcome::Interrupted(DIED.to_owned());
                    let finish = Finish { outcome, total_bytes, started_unix_ms: 0, finished_unix_ms: unix_ms };
                    let record = Record::Finished(finish.clone());
                    ledger.outputs.push_back(Output::Persist { id: id.clone(), record });
                    State::Finishing(finish)
                }
                RestoredState::Finished(finish) => State::Finished(finish),
            };
            ledger.arrivals += 1;
            let command = Command {
                arrival: ledger.arrivals,
                spec,
                timeout,
                accepted: true,
                started_unix_ms: 0,
                ending: None,
                refused_other: false,
                state,
            };
            ledger.commands.insert(id, command);
        }
        ledger.forget_expired(now);
        ledger.fill_slots();
        ledger
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::{Held, HeldState, Input};

    fn finish(outcome: Outcome) -> Finish {
        Finish { outcome, total_bytes: 3, started_unix_ms: 1, finished_unix_ms: 2 }
    }

    #[test]
    fn after_a_crash_what_waited_starts_and_what_may_have_run_does_not() {
        let params = Params {
            disabled: None,
            max_running: 1,
            held_max: 9,
            kill_grace: Duration::from_secs(1),
            remember: Duration::from_secs(9),
            tombstones_max: 9,
        };
        let restored = |id: &str, state| Restored { id: id.to_owned(), spec: 7, timeout: None, state };
        let commands = vec![
            restored("may-have-run", RestoredState::Starting { total_bytes: 5 }),
            restored("waited", RestoredState::Accepted),
            restored("ended", RestoredState::Finished(finish(Outcome::Exited(0)))),
            restored("known", RestoredState::Acknowledged(finish(Outcome::Exited(1)))),
        ];
        let mut ledger = Ledger::restore(params, Duration::from_secs(100), 50, commands);
        let mut interrupted = finish(Outcome::Interrupted(DIED.to_owned()));
        (interrupted.total_bytes, interrupted.started_unix_ms, interrupted.finished_unix_ms) = (5, 0, 50);
        let record = Record::Finished(interrupted);
        assert_eq!(ledger.poll_output(), Some(Output::Persist { id: "may-have-run".to_owned(), record }));
        let record = Record::Starting;
        assert_eq!(ledger.poll_output(), Some(Output::Persist { id: "waited".to_owned(), record }));
        assert_eq!(ledger.poll_output(), None);
        let held = |id, state| Held { id, state, spec: &7 };
        let all = [
            held("may-have-run", HeldState::Finished),
            held("waited", HeldState::Accepted),
            held("ended", HeldState::Finished),
        ];
        assert_eq!(ledger.held(), all);
        ledger.handle(Duration::from_secs(100), 50, Input::SessionUp);
        let outcome = finish(Outcome::Exited(0));
        assert_eq!(ledger.poll_output(), Some(Output::Finished { id: "ended".to_owned(), finish: outcome }));
        let run = |id: &str| Input::Run { id: id.to_owned(), spec: 7, timeout: None };
        ledger.handle(Duration::from_secs(100), 50, run("known"));
        assert_eq!(ledger.poll_output(), Some(Output::Accepted { id: "known".to_owned() }));
        assert!(matches!(ledger.poll_output(), Some(Output::Finished { .. })));
        ledger.handle(Duration::from_secs(100), 50, run("may-have-run"));
        assert_eq!(ledger.poll_output(), Some(Output::Accepted { id: "may-have-run".to_owned() }));
        assert_eq!(ledger.poll_output(), None, "its end is not recorded yet, so it is not told");
    }
}
