//! Commands of an earlier run of the agent.

use super::{Command, Finish, Ledger, Output, State};
use crate::Outcome;
use std::time::Duration;

/// Where a command stood when the agent ended, as its record says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Restored {
    /// Certainly not started.
    Waiting,
    /// It was about to start, or had: what is left of it is ended, and its outcome is `interrupted`.
    MayRun {
        /// 0: not known.
        started_unix_ms: u64,
    },
    Finished(Finish),
    /// So long ago.
    Acknowledged(Finish, Duration),
}

const DIED: &str = "the agent died while it ran";

impl<S: Clone + Eq> Ledger<S> {
    /// Takes up a command as it is on record, before anything else is handled. In the order in which they came. One
    /// that may run is answered for like one that was started: [`Output::Terminate`], later [`Output::Kill`], until
    /// [`super::Input::Exited`] says that nothing of it is left.
    pub fn restore(&mut self, now: Duration, id: String, spec: S, timeout: Option<Duration>, restored: Restored) {
        let (state, started_unix_ms) = match restored {
            Restored::Acknowledged(finish, ago) => {
                let left = self.params.remember.saturating_sub(ago);
                self.tombstones.insert(id.clone(), finish);
                self.expiries.push_back((now.saturating_add(left), id));
                return;
            }
            Restored::Waiting => {
                self.queue.push_back(id.clone());
                (State::Waiting, 0)
            }
            Restored::MayRun { started_unix_ms } => {
                self.active.push(id.clone());
                self.outputs.push_back(Output::Terminate { id: id.clone() });
                let kill_at = Some(now.saturating_add(self.params.kill_grace));
                (State::Running { deadline: None, kill_at }, started_unix_ms)
            }
            Restored::Finished(finish) => {
                let started = finish.started_unix_ms;
                (State::Finished(finish), started)
            }
        };
        let interrupted = matches!(state, State::Running { .. }).then(|| Outcome::Interrupted(DIED.to_owned()));
        self.arrivals += 1;
        let command = Command {
            arrival: self.arrivals,
            spec,
            timeout,
            accepted: true,
            started_unix_ms,
            ending: interrupted,
            refused_other: false,
            state,
        };
        self.commands.insert(id, command);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Ending, Exit, HeldState, Input, Params, Record};
    use super::*;

    const NOW: Duration = Duration::from_secs(1);

    fn ledger() -> Ledger<&'static str> {
        Ledger::new(Params {
            disabled: None,
            max_running: 1,
            held_max: 100,
            kill_grace: Duration::from_secs(10),
            remember: Duration::from_secs(100),
            tombstones_max: 10,
        })
    }

    fn finish() -> Finish {
        Finish { outcome: Outcome::Exited(3), total_bytes: 7, started_unix_ms: 5, finished_unix_ms: 6 }
    }

    fn handle(ledger: &mut Ledger<&'static str>, input: Input<&'static str>) -> Vec<Output<&'static str>> {
        ledger.handle(NOW, 50, input);
        std::iter::from_fn(|| ledger.poll_output()).collect()
    }

    #[test]
    fn what_may_have_run_is_ended_and_interrupted_and_never_starts() {
        let mut ledger = ledger();
        ledger.restore(NOW, "a".into(), "true", None, Restored::MayRun { started_unix_ms: 40 });
        assert_eq!(ledger.held()[0].state, HeldState::Running);
        assert_eq!(handle(&mut ledger, Input::SessionUp), [Output::Terminate { id: "a".into() }]);
        assert_eq!(ledger.poll_timeout(), Some(Duration::from_secs(11)));
        ledger.handle(Duration::from_secs(11), 60, Input::Wake);
        assert_eq!(ledger.poll_output(), Some(Output::Kill { id: "a".into() }));
        let exited = Input::Exited { id: "a".into(), exit: Exit::Killed(Ending::Signal(9)), total_bytes: 4 };
        let record = match &handle(&mut ledger, exited)[..] {
            [Output::Persist { record: Record::Finished(finish), .. }] => finish.clone(),
            other => panic!("its end is recorded: {other:?}"),
        };
        assert!(matches!(&record.outcome, Outcome::Interrupted(why) if why == DIED));
        assert_eq!((record.total_bytes, record.started_unix_ms), (4, 40));
    }

    #[test]
    fn what_waited_starts_in_its_turn_behind_what_is_still_being_ended() {
        let mut ledger = ledger();
        ledger.restore(NOW, "a".into(), "true", None, Restored::MayRun { started_unix_ms: 0 });
        ledger.restore(NOW, "b".into(), "true", None, Restored::Waiting);
        assert_eq!(handle(&mut ledger, Input::Wake), [Output::Terminate { id: "a".into() }]);
        let exit = Exit::Killed(Ending::Signal(15));
        let outputs = handle(&mut ledger, Input::Exited { id: "a".into(), exit, total_bytes: 0 });
        assert_eq!(outputs[1], Output::Persist { id: "b".into(), record: Record::Starting });
    }

    #[test]
    fn an_outcome_without_an_acknowledgement_is_sent_in_the_next_session() {
        let mut ledger = ledger();
        ledger.restore(NOW, "a".into(), "true", None, Restored::Finished(finish()));
        let sent = Output::Finished { id: "a".into(), finish: finish() };
        assert_eq!(handle(&mut ledger, Input::SessionUp), [sent]);
    }

    #[test]
    fn a_tombstone_answers_until_its_time_is_over() {
        let mut ledger = ledger();
        let acknowledged = Restored::Acknowledged(finish(), Duration::from_secs(90));
        ledger.restore(NOW, "a".into(), "true", None, acknowledged);
        assert!(ledger.is_empty());
        let again = Input::Run { id: "a".into(), spec: "true", timeout: None };
        let answer = [Output::Accepted { id: "a".into() }, Output::Finished { id: "a".into(), finish: finish() }];
        assert_eq!(handle(&mut ledger, again), answer);
        ledger.handle(Duration::from_secs(11), 60, Input::Wake);
        assert_eq!(ledger.remembered("a"), None);
    }
}
