//! What the agents and the master say, read back from their documented lines. Pure.

use std::{net::SocketAddr, time::Duration};

/// A line of an agent's log that is about its connection.
#[derive(Clone, Debug, PartialEq)]
pub enum Line {
    Registered,
    HeartbeatFailed {
        what: String,
    },
    Lost {
        reason: String,
    },
    /// The wait before the next attempt.
    Waits {
        delay: Duration,
    },
    AttemptFailed {
        attempt: u32,
        reason: String,
        next: Duration,
    },
    Recovered,
    NetworkChanged,
}

/// Reads a line of an agent's log; `None` for one that says something else. A timestamp may stand before it.
pub fn agent(line: &str) -> Option<Line> {
    let text = after_level(line)?;
    if text.starts_with("Agent registered with master at ") {
        return Some(Line::Registered);
    }
    if text.starts_with("Heartbeat recovered") {
        return Some(Line::Recovered);
    }
    if text.starts_with("Network changed") {
        return Some(Line::NetworkChanged);
    }
    if let Some(what) = text.strip_prefix("Heartbeat failed ") {
        return Some(Line::HeartbeatFailed { what: what.to_owned() });
    }
    if let Some(rest) = text.strip_prefix("Lost connection to master") {
        let reason = rest.trim_start_matches([':', ' ']).trim_end_matches("Reconnecting...").trim_end();
        return Some(Line::Lost { reason: reason.trim_end_matches('.').to_owned() });
    }
    if let Some(rest) = text.strip_prefix("🔄 Reconnecting to master in ") {
        return Some(Line::Waits { delay: delay(rest)? });
    }
    let (_, rest) = text.strip_prefix("Cannot connect to master at ")?.split_once(" (attempt ")?;
    let (attempt, rest) = rest.split_once("): ")?;
    let (reason, next) = rest.rsplit_once(". Retrying in ")?;
    Some(Line::AttemptFailed { attempt: attempt.parse().ok()?, reason: reason.to_owned(), next: delay(next)? })
}

/// Where a master listens, from the line with which it starts.
pub fn listening(line: &str) -> Option<SocketAddr> {
    let (_, rest) = line.strip_prefix("Master ")?.split_once(" listening on ")?;
    rest.split(' ').next()?.parse().ok()
}

/// What follows the level, and the timestamp before it, if there is one.
fn after_level(line: &str) -> Option<&str> {
    let from_level = match line.split_once(' ') {
        Some((first, rest)) if first.as_bytes().first().is_some_and(u8::is_ascii_digit) => rest,
        _ => line,
    };
    ["ERROR ", "WARN  ", "INFO  "].iter().find_map(|level| from_level.strip_prefix(level))
}

/// `5s...`, `4.3s...`, `250ms...`, `1m30s...`
fn delay(text: &str) -> Option<Duration> {
    let mut rest = text.trim_end_matches('.');
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let number = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.').len();
        let unit = rest[number..].len() - rest[number..].trim_start_matches(|c: char| c.is_ascii_alphabetic()).len();
        let seconds = match &rest[number..number + unit] {
            "ms" => 0.001,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        let number_of_units: f64 = rest[..number].parse().ok()?;
        total = total.checked_add(Duration::try_from_secs_f64(number_of_units * seconds).ok()?)?;
        rest = &rest[number + unit..];
    }
    Some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_lines_are_understood() {
        let refused = Line::AttemptFailed {
            attempt: 1,
            reason: "connection refused".to_owned(),
            next: Duration::from_millis(9_300),
        };
        for (line, expected) in [
            (
                "INFO  Agent registered with master at 192.168.1.15:50050, reporting address 192.168.1.16:50051",
                Line::Registered,
            ),
            (
                "WARN  Heartbeat failed (1/3): no answer within 5s",
                Line::HeartbeatFailed { what: "(1/3): no answer within 5s".to_owned() },
            ),
            (
                "ERROR Lost connection to master after 3 failed heartbeats. Reconnecting...",
                Line::Lost { reason: "after 3 failed heartbeats".to_owned() },
            ),
            (
                "2026-01-02T03:04:05.678Z ERROR Lost connection to master: connection reset by master. Reconnecting...",
                Line::Lost { reason: "connection reset by master".to_owned() },
            ),
            ("INFO  🔄 Reconnecting to master in 4.6s...", Line::Waits { delay: Duration::from_millis(4_600) }),
            (
                "2026-01-02T03:04:05Z WARN  Cannot connect to master at [::1]:50050 (attempt 1): connection refused. \
                 Retrying in 9.3s...",
                refused,
            ),
            ("INFO  Heartbeat recovered, connection stable", Line::Recovered),
            ("INFO  Network changed, reconnecting now", Line::NetworkChanged),
        ] {
            assert_eq!(agent(line), Some(expected), "{line}");
        }
    }

    #[test]
    fn other_lines_mean_nothing() {
        for line in [
            "",
            "✓ Agent registered with master at 127.0.0.1:1 (reporting address: 127.0.0.1:2)",
            "⚠ Connection to master lost. Attempting to reconnect...",
            "INFO  command x started",
            "WARN  Cannot connect to master at a:1 (attempt many): x. Retrying in 5s...",
            "INFO  🔄 Reconnecting to master in a while...",
        ] {
            assert_eq!(agent(line), None, "{line}");
        }
    }

    #[test]
    fn waits_are_read_with_any_unit() {
        for (text, millis) in [("5s...", 5_000), ("250ms...", 250), ("1m30s...", 90_000), ("1.5m", 90_000)] {
            assert_eq!(delay(text), Some(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(delay("5x..."), None);
        assert_eq!(delay("99999999999999999999999h"), None);
    }

    #[test]
    fn the_masters_first_line_names_its_port() {
        let line = "Master 0.1.0 listening on 127.0.0.1:40123 (state in /tmp/a b)";
        assert_eq!(listening(line), Some("127.0.0.1:40123".parse().unwrap()));
        assert_eq!(listening("Master 0.1.0 listens nowhere"), None);
    }
}
