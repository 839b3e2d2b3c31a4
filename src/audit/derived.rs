//! The events on disk against those that the log makes.

use super::findings::Findings;
use super::replay::Replay;
use crate::events::{Found, Position};
use crate::protocol::Reader;
use crate::protocol::event::{EventRecord, RecordHeader};

/// A disk writes so many bytes or none of them.
const SECTOR_BYTES: u64 = 512;

/// Events are derived: the same log makes the same bytes, on every node and at every time.
pub(super) struct Derived {
    pub replay: Replay,
    /// The log makes events from here on.
    start: u64,
    /// Events that are as the log makes them.
    pub equal: u64,
    /// Events of entries of which nobody knows whether they are committed.
    pub not_judged: u64,
}

impl Derived {
    pub fn new(replay: Replay) -> Self {
        let start = replay.stock().next_event();
        Self { replay, start, equal: 0, not_judged: 0 }
    }

    /// Compares a record with what the log makes. `false`: the log makes no events any more, from this one on.
    pub fn check(&mut self, found: &Found<'_>, findings: &mut Findings) -> bool {
        let header = *found.record.header();
        if header.first < self.start {
            return true;
        }
        // Those before it are not here: events are missing, or are too old.
        while let Some(next) = self.replay.peek().and_then(header_of)
            && next.next() <= header.first
        {
            self.replay.take();
        }
        let count = u64::from(header.count);
        let Some(made) = self.replay.peek() else {
            match header.index <= self.replay.end() {
                true => findings.at(found.file, found.offset, nothing_made(&header)),
                false => self.not_judged += count,
            }
            return false;
        };
        if made == found.record.bytes() {
            self.equal += count;
        } else {
            findings.at(found.file, found.offset, difference(&found.record, made));
        }
        while let Some(next) = self.replay.peek().and_then(header_of)
            && next.first < header.next()
        {
            self.replay.take();
        }
        true
    }

    /// Compares what is behind the last record, which ends at `position`: bytes of the next ones of which the end,
    /// or some sectors, were not written.
    pub fn check_tail(
        &mut self,
        (file, offset): (&str, u64),
        tail: &[u8],
        position: Position,
        findings: &mut Findings,
    ) {
        let mut made = Vec::new();
        while made.len() < tail.len()
            && let Some(record) = self.replay.peek()
        {
            let follows = header_of(record).is_some_and(|header| header.first >= position.next);
            if follows {
                made.extend_from_slice(record);
            }
            self.replay.take();
        }
        if let Some(at) = written_otherwise(offset, tail, &made) {
            let what = "this is not what the log makes, and was not left out by a power cut either";
            findings.at(file, at, what);
        }
    }
}

/// Where bytes on disk are others than those that were to be written there, but for whole ends of sectors that are
/// zero: what was never written.
fn written_otherwise(offset: u64, found: &[u8], wanted: &[u8]) -> Option<u64> {
    let len = found.len().min(wanted.len());
    let mut at = 0;
    while at < len {
        let sector_end = (offset + at as u64 + 1).next_multiple_of(SECTOR_BYTES) - offset;
        let end = len.min(sector_end as usize);
        let other = (at..end).find(|at| found[*at] != wanted[*at]);
        if let Some(other) = other.filter(|other| found[*other..end].iter().any(|byte| *byte != 0))
        {
            return Some(offset + other as u64);
        }
        at = end;
    }
    None
}

fn header_of(record: &[u8]) -> Option<RecordHeader> {
    RecordHeader::peek(record).ok()
}

fn nothing_made(header: &RecordHeader) -> String {
    format!(
        "event {} is said to be of entry {}, and the log makes no such event",
        header.first, header.index
    )
}

/// What a record says, and what the log says in its place.
#[cold]
fn difference(found: &EventRecord<'_>, made: &[u8]) -> String {
    let Ok(made) = EventRecord::take(&mut Reader::new(made)) else {
        return "the log makes another record".to_owned();
    };
    let (ours, theirs) = (found.header(), made.header());
    if (ours.first, ours.index, ours.at_us) != (theirs.first, theirs.index, theirs.at_us) {
        return format!(
            "event {} of entry {} at {} µs; the log makes event {} of entry {} at {} µs",
            ours.first, ours.index, ours.at_us, theirs.first, theirs.index, theirs.at_us
        );
    }
    let (mut ours, mut theirs) = (found.events(), made.events());
    loop {
        let text = match (ours.next(), theirs.next()) {
            (Some(one), Some(other)) if one == other => continue,
            (Some(Ok(one)), Some(Ok(other))) => format!("event {one}; the log makes {other}"),
            (Some(Ok(one)), _) => format!("event {one}; the log makes no such event"),
            (_, Some(Ok(other))) => format!("the log makes event {other}, which is not here"),
            _ => "the log makes the same events, in other bytes".to_owned(),
        };
        return text;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_written_is_no_damage_and_what_was_changed_is() {
        let wanted: Vec<u8> = (0..2_000_u32).map(|at| (at % 250) as u8 + 1).collect();
        let offset = 100;
        assert_eq!(written_otherwise(offset, &wanted, &wanted), None);
        assert_eq!(written_otherwise(offset, &wanted[..700], &wanted), None, "cut short");
        let mut torn = wanted.clone();
        torn[412..924].fill(0);
        assert_eq!(written_otherwise(offset, &torn, &wanted), None, "a sector is missing");
        torn[924] = 0;
        assert_eq!(written_otherwise(offset, &torn, &wanted), Some(1_024), "one byte is");
        for at in 0..wanted.len() - 1 {
            let mut changed = wanted.clone();
            changed[at] ^= 0x80;
            let place = Some(offset + at as u64);
            assert_eq!(written_otherwise(offset, &changed, &wanted), place);
        }
    }
}
