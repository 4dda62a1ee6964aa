//! The history's file: a head, then one entry a line, fields apart by tabs. What cannot be read is left out: it is a
//! help to people, and nothing rests on it.

use super::{DETAIL_MAX, Entry, History, KEPT, Kind, Moment};
use std::fmt::Write;

/// More than this is never written, and never read.
pub const FILE_MAX: u64 = 64 * 1024;

/// Longest word, boot mark or address of a master that is read, bytes.
const FIELD_MAX: usize = 300;

const HEAD: &str = "sloth-history 1";

pub(super) fn write(history: &History) -> String {
    let mut text = format!("{HEAD}\t{}\n", history.told);
    for entry in &history.entries {
        let Entry { number, kind, at, boot, reason, detail, master, epoch, lasted_ms, attempts } = entry;
        let (kind, Moment { unix_ms, boot_ms }) = (kind.word(), at);
        let _ = writeln!(
            text,
            "{number}\t{kind}\t{unix_ms}\t{boot_ms}\t{boot}\t{lasted_ms}\t{attempts}\t{epoch}\t{reason}\t{master}\t{detail}"
        );
    }
    text
}

/// What a file holds; nothing, where it is none of these.
pub fn read(kept: &[u8]) -> History {
    let text = String::from_utf8_lossy(kept);
    let mut lines = text.lines();
    let told = lines.next().and_then(|head| head.strip_prefix(HEAD)?.strip_prefix('\t')?.parse().ok());
    let Some(told) = told else { return History::default() };
    let mut history = History { told, ..History::default() };
    for entry in lines.filter_map(entry) {
        // Numbers only grow: what is out of order is not ours.
        if entry.number > history.latest {
            history.latest = entry.number;
            history.entries.push_back(entry);
        }
    }
    let surplus = history.entries.len().saturating_sub(KEPT);
    history.entries.drain(..surplus);
    history.told = told.min(history.latest);
    history
}

fn entry(line: &str) -> Option<Entry> {
    let mut fields = line.splitn(11, '\t');
    let mut next = || fields.next();
    let number = next()?.parse().ok().filter(|number| *number < u64::MAX / 2)?;
    let word = next()?;
    let kind = Kind::ALL.into_iter().find(|kind| kind.word() == word)?;
    let at = Moment { unix_ms: next()?.parse().ok()?, boot_ms: next()?.parse().ok()? };
    let boot = next()?.to_owned();
    let (lasted_ms, attempts, epoch) = (next()?.parse().ok()?, next()?.parse().ok()?, next()?.parse().ok()?);
    let [reason, master, detail] = [next()?, next()?, next()?].map(str::to_owned);
    let fits = boot.len().max(reason.len()).max(master.len()) <= FIELD_MAX && detail.len() <= DETAIL_MAX;
    let clean = ![&boot, &reason, &master, &detail].into_iter().any(|text| text.contains(char::is_control));
    (fits && clean).then_some(Entry { number, kind, at, boot, reason, detail, master, epoch, lasted_ms, attempts })
}
