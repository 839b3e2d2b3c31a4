//! The stream of events: what nodes tell of what has happened, against each other and against the log.
//!
//! ```text
//! log ──replay──▶ records that it makes ──┐              asked.rs: each event for a reason
//!                                         ▼
//! node 1 ──────▶ records ──────▶ the same bytes under the same number
//! node 2 ──────▶ records ──────▶ …
//! subscriber ──▶ records ──────▶ …
//!                   └──▶ ledger: what must be in each cell
//! ```
//!
//! Events are derived: the same log makes the same bytes, on every node and at every time. So the strongest there is
//! to ask is that whoever tells something tells those bytes. That these say what was asked for, and nothing else, is
//! looked at once, where they are made.
//!
//! Without a log ([`Stream::new`]), whoever tells a record first says what it is, and the others must agree.
//!
//! Left out on purpose: how far a node has come. Events are not synced, so after a crash they may lag behind the log;
//! whoever knows that they must not asks [`Stream::untold_until`].

mod asked;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use stockd::events::{Checks, EventDir};
use stockd::log::RealStorage;
use stockd_protocol::event::{Counts, EventRecord, Ledger, RecordHeader};
use stockd_protocol::{CellHandle, Reader};

use crate::report::{Report, Rule};
pub(crate) use asked::{Causes, Occasion, Own};

/// See the module.
#[derive(Default)]
pub struct Stream {
    /// By the number of the first event.
    records: BTreeMap<u64, Kept>,
    /// All that the log makes is there, so that nobody may tell more.
    is_whole: bool,
    told: u64,
}

struct Kept {
    index: u64,
    count: u32,
    bytes: Box<[u8]>,
    is_told: bool,
}

impl Stream {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The log will say all there is.
    pub(crate) fn of_log() -> Self {
        Self { is_whole: true, ..Self::default() }
    }

    /// The log makes this.
    pub(crate) fn make(&mut self, header: &RecordHeader, bytes: &[u8]) {
        self.records.insert(header.first, Kept::new(header, bytes));
    }

    /// Somebody begins to tell. `name` is for messages.
    pub fn teller(&mut self, name: impl Into<String>) -> Teller<'_> {
        let (name, ledger) = (name.into(), Ledger::new());
        Teller { stream: self, name, ledger, events: 0 }
    }

    /// The events in a node's data directory, from the oldest on; returns how many there are.
    ///
    /// # Errors
    /// They are not in order, or not what the log makes or others tell: the first thing that is wrong.
    pub fn read(&mut self, directory: &Path) -> Result<u64, String> {
        let name = directory.display().to_string();
        let say = |error: &dyn std::fmt::Display| format!("{name}: {error}");
        let storage = RealStorage::open_read_only(directory).map_err(|error| say(&error))?;
        let files = EventDir::open(&storage).map_err(|error| say(&error))?;
        let gaps = files.segments().filter(|segment| segment.is_after_gap);
        let gaps: BTreeSet<u64> = gaps.map(|segment| segment.start.next).collect();
        let mut teller = self.teller(&name);
        let mut records = files.records(Checks::Chain);
        while let Some(found) = records.next().map_err(|error| say(&error))? {
            if gaps.contains(&found.record.header().first) {
                teller.skip();
            }
            teller.take(&found.record)?;
        }
        Ok(teller.events())
    }

    /// Holds the events in these data directories against the log, which is the history's: the first thing that is
    /// wrong in each is a broken rule.
    pub fn judge(&mut self, directories: &[impl AsRef<Path>], report: &mut Report) {
        let before = self.told;
        for directory in directories {
            match self.read(directory.as_ref()) {
                Ok(0) => {}
                Ok(_) => report.add("nodes that tell events", 1),
                Err(what) => report.break_rule(Rule::Stream, 0, &[], what),
            }
        }
        report.add("events held against the history", self.told - before);
    }

    /// Events that were told, each time that one was.
    pub const fn told(&self) -> u64 {
        self.told
    }

    /// All records, in order: those that the log makes, or those that somebody has told.
    pub fn records(&self) -> impl Iterator<Item = EventRecord<'_>> {
        let records =
            self.records.values().map(|kept| EventRecord::take(&mut Reader::new(&kept.bytes)));
        records.filter_map(Result::ok)
    }

    /// How many events nobody has told, of those that come after the first that somebody told, up to a log entry that
    /// is known to be committed.
    pub fn untold_until(&self, index: u64) -> u64 {
        let known = self.records.values().take_while(|kept| kept.index <= index);
        let since = known.skip_while(|kept| !kept.is_told);
        since.filter(|kept| !kept.is_told).map(|kept| u64::from(kept.count)).sum()
    }

    fn take(&mut self, record: &EventRecord<'_>) -> Result<(), String> {
        let header = record.header();
        let kept = match self.records.get_mut(&header.first) {
            Some(kept) => kept,
            None if self.is_whole => {
                let (first, index) = (header.first, header.index);
                return Err(format!(
                    "event {first} is told to be of entry {index}; the log makes no such record"
                ));
            }
            None => self.records.entry(header.first).or_insert(Kept::new(header, record.bytes())),
        };
        if *kept.bytes != *record.bytes() {
            let other = if self.is_whole { "the log makes" } else { "elsewhere it is" };
            return Err(difference(record, other, &kept.bytes));
        }
        kept.is_told = true;
        self.told += u64::from(header.count);
        Ok(())
    }
}

impl Kept {
    fn new(header: &RecordHeader, bytes: &[u8]) -> Self {
        Self { index: header.index, count: header.count, bytes: bytes.into(), is_told: false }
    }
}

/// Somebody who tells one record after the other.
pub struct Teller<'a> {
    stream: &'a mut Stream,
    name: String,
    ledger: Ledger,
    events: u64,
}

impl Teller<'_> {
    /// Events are missing here, and that is right: a snapshot was installed in their place. What is in the cells is
    /// not known any more.
    pub fn skip(&mut self) {
        self.ledger = Ledger::new();
    }

    /// Tells the next record.
    ///
    /// # Errors
    /// It does not come next, or it is not what the log makes or what others tell.
    pub fn take(&mut self, record: &EventRecord<'_>) -> Result<(), String> {
        self.stream.take(record).map_err(|what| format!("{}: {what}", self.name))?;
        for event in record.events() {
            let event = event.map_err(|error| format!("{}: {error}", self.name))?;
            let taken = self.ledger.take(&event);
            taken.map_err(|fault| format!("{}: {fault}: {event}", self.name))?;
            self.events += 1;
        }
        Ok(())
    }

    /// Tells whole records, as they lie on a disk or come over a wire.
    ///
    /// # Errors
    /// As [`Teller::take`], or they are no records.
    pub fn take_all(&mut self, bytes: &[u8]) -> Result<(), String> {
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let record = EventRecord::take(&mut reader);
            self.take(&record.map_err(|error| format!("{}: {error}", self.name))?)?;
        }
        Ok(())
    }

    /// How many events it was.
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// The number of the event that comes next, if any was told.
    pub fn next(&self) -> Option<u64> {
        self.ledger.next()
    }

    /// All of it added up must be what is in the cells, as far as events have said.
    ///
    /// # Errors
    /// The first cell in which something else is.
    pub fn compare(&self, counts: impl Fn(CellHandle) -> Option<Counts>) -> Result<(), String> {
        for (cell, told) in self.ledger.known() {
            let found = counts(cell);
            if found != Some(told) {
                let (name, cell) = (&self.name, cell.0);
                return Err(format!("{name}: cell {cell}: events make {told:?}, it is {found:?}"));
            }
        }
        Ok(())
    }
}

/// What a record says, and what it should.
#[cold]
fn difference(record: &EventRecord<'_>, other: &str, wanted: &[u8]) -> String {
    let (first, index) = (record.header().first, record.header().index);
    let Ok(wanted) = EventRecord::take(&mut Reader::new(wanted)) else {
        return format!("{other} another record at event {first}");
    };
    let (told_at, known_at) = (record.header().at_us, wanted.header().at_us);
    if (index, told_at) != (wanted.header().index, known_at) {
        return format!(
            "event {first} is told to be of entry {index} at {told_at} µs; {other} one of entry {} at {known_at} µs",
            wanted.header().index
        );
    }
    let (mut told, mut known) = (record.events(), wanted.events());
    loop {
        return match (told.next(), known.next()) {
            (Some(one), Some(two)) if one == two => continue,
            (Some(Ok(one)), Some(Ok(two))) => format!("told is {one}; {other} {two}"),
            (Some(Ok(one)), _) => format!("told is {one}; {other} no such event"),
            (_, Some(Ok(two))) => format!("{other} {two}, which is not told"),
            _ => format!("event {first} is told in other bytes"),
        };
    }
}
