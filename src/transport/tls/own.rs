//! The certificate that this agent shows, as far as it is told of: when it ends, and what to do then.

use super::{Certificate, errors::Seconds, time};

/// From when to when it is good, seconds since 1970, and where it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    pub from: u64,
    pub to: u64,
    /// It was given for a token; else it is that of `tls.cert_file`.
    pub joined: bool,
}

impl Own {
    /// None: it is of a form that is not known here.
    pub fn of(certificate: &[u8], joined: bool) -> Option<Self> {
        let read = Certificate::read(certificate)?;
        Some(Self { from: read.not_before, to: read.not_after, joined })
    }

    /// That it has ended, if it has by this machine's clock, and the remedy. A clock can be wrong: that is for the
    /// master to judge.
    pub fn ended(&self) -> Option<String> {
        self.ended_at(time::now())
    }

    /// What it means that a master finds it ended, or not valid yet.
    pub(super) fn refused(&self) -> String {
        self.refused_at(time::now())
    }

    fn ended_at(&self, now: u64) -> Option<String> {
        let ended = || format!("the certificate of this agent ended on {}: {}", Seconds(self.to), self.remedy());
        (self.to <= now).then(ended)
    }

    fn refused_at(&self, now: u64) -> String {
        self.ended_at(now).unwrap_or_else(|| {
            format!(
                "the master says that the certificate of this agent has ended or is not valid yet: it is good from {} \
                 to {}, and this machine's clock says {}: set the clock that is wrong, or {}",
                Seconds(self.from),
                Seconds(self.to),
                Seconds(now),
                self.remedy()
            )
        })
    }

    fn remedy(&self) -> &'static str {
        match self.joined {
            true => {
                "join again with a new token: `sloth-runner token create --name NAME`, NAME being this agent's, makes one; \
                 auth.token_file or --token takes it"
            }
            false => "renew tls.cert_file, which is used without a restart",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn its_end_is_told_with_the_remedy_and_a_wrong_clock_with_both_times() {
        let own = Own { from: 0, to: 86_400, joined: true };
        assert_eq!(own.ended_at(86_399), None);
        let said = own.ended_at(86_400).unwrap();
        assert!(
            said.starts_with(
                "the certificate of this agent ended on 1970-01-02T00:00:00Z: join again with a new token: "
            ),
            "{said}"
        );
        assert_eq!(own.refused_at(90_000), said);
        let said = own.refused_at(60);
        assert!(said.contains("good from 1970-01-01T00:00:00Z to 1970-01-02T00:00:00Z, and this machine's clock says"));
        assert!(said.contains("clock says 1970-01-01T00:01:00Z: set the clock that is wrong, or join again"), "{said}");
        let said = Own { joined: false, ..own }.ended_at(86_400).unwrap();
        assert!(said.ends_with("00:00:00Z: renew tls.cert_file, which is used without a restart"), "{said}");
    }
}
