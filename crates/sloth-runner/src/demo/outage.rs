//! One agent's way through the outage: what is shown as it happens, and the last table. Pure.

use super::lines::Line;
use crate::tool::table::Table;
use std::time::Duration;

/// All times are counted from the death of the master.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outage {
    lost: Option<Duration>,
    waits: u32,
    failed: u32,
    back: Option<Duration>,
}

impl Outage {
    /// Takes one line of the agent's log and returns what to tell of it.
    pub fn take(&mut self, at: Duration, line: &Line) -> String {
        match line {
            Line::Lost { reason } => {
                self.lost.get_or_insert(at);
                format!("lost the master: {reason}")
            }
            Line::Waits { delay } => {
                self.waits += 1;
                format!("waits {} before the next attempt", short(*delay))
            }
            Line::AttemptFailed { attempt, reason, next } => {
                self.failed += 1;
                self.waits += 1;
                format!("attempt {attempt} failed: {reason}; waits {}", short(*next))
            }
            Line::Registered => {
                if self.lost.is_some() {
                    self.back.get_or_insert(at);
                }
                "is back: registered with the master".to_owned()
            }
            Line::HeartbeatFailed { what } => format!("heartbeat failed {what}"),
            Line::Recovered => "heartbeat recovered".to_owned(),
            Line::NetworkChanged => "network changed, tries at once".to_owned(),
        }
    }

    pub fn is_lost(&self) -> bool {
        self.lost.is_some()
    }

    pub fn is_back(&self) -> bool {
        self.back.is_some()
    }

    /// What should have happened by now and was not seen; `None` when all was.
    pub fn missing(&self) -> Option<&'static str> {
        match self {
            Self { lost: None, .. } => Some("it did not say that it lost the master"),
            Self { waits: 0, .. } => Some("it did not say how long it waits"),
            Self { failed: 0, .. } => Some("no attempt failed, though the master was away"),
            Self { back: None, .. } => Some("it did not come back"),
            _ => None,
        }
    }
}

/// The last table; a line for each agent.
pub fn table<'a>(outages: impl IntoIterator<Item = (&'a str, &'a Outage)>) -> Table {
    let mut table = Table::new(&["AGENT", "LOSS FOUND AFTER", "ATTEMPTS", "BACK AFTER"]);
    let after = |time: Option<Duration>| time.map_or_else(|| "-".to_owned(), short);
    for (name, outage) in outages {
        let attempts = outage.failed + u32::from(outage.is_back());
        table.row(vec![name.into(), after(outage.lost).into(), attempts.to_string().into(), after(outage.back).into()]);
    }
    table
}

/// `0.7ms`, `12ms`, `4.6s`
pub fn short(time: Duration) -> String {
    if time < Duration::from_millis(10) {
        format!("{:.1}ms", time.as_secs_f64() * 1000.0)
    } else if time < Duration::from_secs(1) {
        format!("{}ms", time.as_millis())
    } else {
        let text = format!("{:.1}", time.as_secs_f64());
        format!("{}s", text.trim_end_matches(".0"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    fn refused(attempt: u32) -> Line {
        Line::AttemptFailed { attempt, reason: "connection refused".to_owned(), next: ms(9_500) }
    }

    #[test]
    fn an_outage_is_told_and_counted() {
        let mut outage = Outage::default();
        assert_eq!(outage.missing(), Some("it did not say that it lost the master"));
        let lost = Line::Lost { reason: "connection reset by master".to_owned() };
        assert_eq!(outage.take(ms(12), &lost), "lost the master: connection reset by master");
        assert_eq!(outage.take(ms(13), &Line::Waits { delay: ms(4_600) }), "waits 4.6s before the next attempt");
        assert_eq!(outage.missing(), Some("no attempt failed, though the master was away"));
        assert_eq!(outage.take(ms(4_613), &refused(1)), "attempt 1 failed: connection refused; waits 9.5s");
        assert_eq!(outage.missing(), Some("it did not come back"));
        outage.take(ms(14_200), &Line::Registered);
        assert_eq!(outage.missing(), None);
        assert_eq!(
            table([("lady", &outage), ("kei", &Outage::default())]).render(false),
            "AGENT  LOSS FOUND AFTER  ATTEMPTS  BACK AFTER\n\
             lady   12ms              2         14.2s\n\
             kei    -                 0         -\n"
        );
    }

    #[test]
    fn times_are_short_and_never_nothing() {
        for (micros, text) in [(400, "0.4ms"), (12_900, "12ms"), (4_600_000, "4.6s"), (5_000_000, "5s")] {
            assert_eq!(short(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn a_registration_before_the_loss_is_no_return() {
        let mut outage = Outage::default();
        outage.take(ms(1), &Line::Registered);
        assert!(!outage.is_back());
    }
}
