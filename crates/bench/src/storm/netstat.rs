//! What the kernel counts of connections, in this network.

use std::io;

/// Connection attempts that the kernel dropped because nobody accepted them in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    pub overflows: u64,
    pub drops: u64,
}

impl Dropped {
    /// # Errors
    /// Not a Linux with `/proc`.
    pub fn so_far() -> io::Result<Self> {
        parse(&std::fs::read_to_string("/proc/thread-self/net/netstat")?)
            .ok_or_else(|| io::Error::other("this kernel does not tell ListenOverflows"))
    }

    pub fn since(self, before: Self) -> Self {
        Self { overflows: self.overflows - before.overflows, drops: self.drops - before.drops }
    }
}

/// A line of names, and below it one of numbers.
fn parse(text: &str) -> Option<Dropped> {
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let value = |name: &str| {
        let mut pairs = names.split_whitespace().zip(values.split_whitespace());
        pairs.find(|(other, _)| *other == name)?.1.parse().ok()
    };
    Some(Dropped { overflows: value("ListenOverflows")?, drops: value("ListenDrops")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_are_found_by_name() {
        let text =
            "TcpExt: SyncookiesSent ListenOverflows ListenDrops\nTcpExt: 1 22 333\nIpExt: ListenDrops\nIpExt: 9\n";
        assert_eq!(parse(text), Some(Dropped { overflows: 22, drops: 333 }));
        assert_eq!(parse("IpExt: ListenDrops\nIpExt: 9\n"), None);
    }
}
