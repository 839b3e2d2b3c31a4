//! What was at a moment: the state, derived again from a backup, and its place among log and events.
//!
//! The newest snapshot at or before the target is loaded, and the log that goes on from it is applied entry by entry,
//! as a node does that starts. An entry is all or nothing: what would go past the target is not applied. Each record
//! of events that the log makes is compared with the backup's, byte by byte, and the chain over them is what the
//! result has.

use std::ops::RangeInclusive;

use super::manifest::Manifest;
use super::{Error, MANIFEST, Progress, SHARD};
use crate::audit::{Finding, Replay, empty};
use crate::engine::StockState;
use crate::engine::batch::Batch;
use crate::events::{Checks, DirRecords, EventDir, Position};
use crate::log::{self, Records, SegmentStart, Storage, View, segment_starts};
use crate::protocol::event::RecordHeader;
use crate::replication::{Checkpoint, batch_of, load_checkpoint, peek_checkpoint};
use crate::world::UnixMicros;

/// How far to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    /// To the end of the backup.
    End,
    /// Up to the event of this number, and with it.
    Sequence(u64),
    /// Up to what had happened at this moment of the cluster's clock, in µs since 1970.
    Time(u64),
}

/// A backup that is there.
pub struct Backup<'a> {
    storage: &'a dyn Storage,
    manifest: Manifest,
}

/// What was at the target.
pub struct Reached {
    /// The state.
    pub stock: StockState,
    /// The last log entry in it.
    pub index: u64,
    /// After its last event. The chain is zero if the node kept no events.
    pub position: Position,
    /// Events that the log has made, and that are in the backup as they were made.
    pub compared: u64,
    /// Events that the log has made, and that are not in the backup.
    pub not_compared: u64,
    /// The snapshot's file; `None`: everything was applied from the first entry on.
    pub snapshot: Option<String>,
}

impl Reached {
    /// The log's time.
    pub fn now(&self) -> UnixMicros {
        self.stock.now()
    }
}

impl<'a> Backup<'a> {
    /// A backup with this manifest, whether it is written or not.
    pub(super) fn new(storage: &'a dyn Storage, manifest: Manifest) -> Self {
        Self { storage, manifest }
    }

    /// Opens the backup in a directory.
    ///
    /// # Errors
    /// There is none, it was never finished, or its manifest is damaged.
    pub fn open(storage: &'a dyn Storage) -> Result<Self, Error> {
        let file = storage.path(MANIFEST);
        match Manifest::read(storage)? {
            None => Err(Error::NoBackup { file }),
            Some(manifest) if !manifest.is_finished() => Err(Error::Unfinished { file }),
            Some(manifest) => Ok(Self::new(storage, manifest)),
        }
    }

    /// What it says of itself.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// The directory.
    pub const fn storage(&self) -> &'a dyn Storage {
        self.storage
    }

    /// Derives what was at the target.
    ///
    /// # Errors
    /// See [`Error`]: the target is out of reach, something is missing or damaged.
    pub fn at(&self, target: Target, progress: Progress<'_>) -> Result<Reached, Error> {
        let goal = self.goal(target)?;
        let (checkpoint, log) = self.source(&goal, progress)?;
        let end = goal.end(&log, self.manifest.head.index);
        let file = checkpoint.file.clone();
        let walk = Walk::new(self, checkpoint, log, end)?;
        let reached = walk.run(progress)?;
        if matches!(target, Target::Time(_)) && reached.now().0 == 0 {
            let what = "that is before the first entry of the log";
            return Err(Error::Unreachable { what: what.to_owned() });
        }
        let snapshot = (!file.is_empty()).then_some(file);
        if let Err(rule) = reached.stock.audit() {
            let what = format!("the state after entry {}: this is not so: {rule}", reached.index);
            return Err(Error::damaged(self.storage.path(""), what));
        }
        let is_end = reached.index == self.manifest.head.index;
        if is_end && !reached.is_at(&self.manifest) {
            let what = "the state at the end has another number or chain of events";
            return Err(Error::damaged(self.storage.path(MANIFEST), what));
        }
        Ok(Reached { snapshot, ..reached })
    }

    /// Where the target is, as far as events and manifest tell.
    fn goal(&self, target: Target) -> Result<Goal, Error> {
        let head = self.manifest.head;
        match target {
            Target::Sequence(sequence) => {
                if head.next_event == 0 {
                    let what = "the backup has no events, so nobody knows what a number means: use --to-time";
                    return Err(Error::Unreachable { what: what.to_owned() });
                }
                if sequence >= head.next_event {
                    let what = format!(
                        "event {sequence} is not in the backup: its last one is {}",
                        head.next_event.saturating_sub(1)
                    );
                    return Err(Error::Unreachable { what });
                }
                let next = sequence + 1;
                let before = self.entry_of(next)?;
                Ok(Goal { next_max: next, now_max: u64::MAX, before })
            }
            Target::Time(at_us) if at_us > head.now_us => {
                let what = format!(
                    "that is behind the end of the backup, which is {} s earlier; without --to-time all of it is restored",
                    (at_us - head.now_us).div_ceil(1_000_000)
                );
                Err(Error::Unreachable { what })
            }
            Target::Time(at_us) => Ok(Goal { next_max: u64::MAX, now_max: at_us, before: None }),
            Target::End => Ok(Goal { next_max: u64::MAX, now_max: u64::MAX, before: None }),
        }
    }

    /// The log entry that an event is of; `None`: it comes after the end.
    fn entry_of(&self, sequence: u64) -> Result<Option<u64>, Error> {
        if sequence == self.manifest.head.next_event {
            return Ok(None);
        }
        let events = self.events()?;
        let mut records = events.records_from(Checks::Records, sequence);
        loop {
            let found = records.next().map_err(|error| self.of_events(&error))?;
            let header = found.map(|found| *found.record.header());
            match header.filter(|header| header.first <= sequence) {
                Some(header) if header.next() > sequence => return Ok(Some(header.index)),
                Some(_) => {}
                None => {
                    let what =
                        format!("event {sequence} is not in the backup: the node did not have it");
                    return Err(Error::Unreachable { what });
                }
            }
        }
    }

    fn events(&self) -> Result<EventDir, Error> {
        EventDir::open(self.storage).map_err(|error| self.of_events(&error))
    }

    fn of_events(&self, error: &crate::events::ReadError) -> Error {
        Error::damaged(self.storage.path("events-*"), error.to_string())
    }

    /// The newest snapshot that is not past the goal, and the log that goes on from it.
    fn source(&self, goal: &Goal, progress: Progress<'_>) -> Result<(Checkpoint, Records), Error> {
        let engine = self.manifest.engine();
        for name in self.snapshots().rev() {
            let (index, position) = self.peek(name)?;
            if goal.is_past(index, position.next) {
                continue;
            }
            let told = &mut |done, total| progress("loading the snapshot", done, total);
            let checkpoint = load_checkpoint(self.storage, name, &engine, told)
                .map_err(|error| self.of_snapshot(&error))?;
            if checkpoint.stock.now().0 <= goal.now_max {
                let log = self.log_after(index, progress)?;
                return Ok((checkpoint, log.unwrap_or_default()));
            }
        }
        let log = self.log_after(0, progress)?.filter(has_first_entry);
        let log = log.ok_or_else(|| self.too_early())?;
        Ok((empty(engine), log))
    }

    /// The oldest first: by name they are in the order of their entries.
    fn snapshots(&self) -> impl DoubleEndedIterator<Item = &String> {
        self.manifest.files.keys().filter(|name| name.starts_with("snapshot-"))
    }

    /// The last entry in a snapshot, and its place among the events.
    fn peek(&self, name: &str) -> Result<(u64, Position), Error> {
        peek_checkpoint(self.storage, name).map_err(|error| self.of_snapshot(&error))
    }

    fn of_snapshot(&self, error: &crate::replication::Error) -> Error {
        Error::damaged(self.storage.path("snapshot-*"), error.to_string())
    }

    fn too_early(&self) -> Error {
        let oldest = self.snapshots().next().and_then(|name| self.peek(name).ok());
        let what = match oldest {
            Some((index, position)) => format!(
                "that is before the beginning of the backup: its oldest snapshot is of entry {index}, after event {}",
                position.next.saturating_sub(1)
            ),
            None => "there is no snapshot in the backup, and its log does not begin with the first entry".to_owned(),
        };
        Error::Unreachable { what }
    }

    /// The entries after `index`, and a few before, as far as segments go on without a hole. `None`: they begin later.
    fn log_after(&self, index: u64, progress: Progress<'_>) -> Result<Option<Records>, Error> {
        let run = self.run_after(index)?;
        run.map(|run| self.read_run(&run, progress)).transpose()
    }

    /// The segments that go on from the newest snapshot, or from nothing.
    pub(super) fn newest_run(&self) -> Result<Option<Run>, Error> {
        let newest = self.snapshots().next_back().map(|name| self.peek(name)).transpose()?;
        self.run_after(newest.map_or(0, |(index, _)| index))
    }

    /// The segments that have the entry after `index`, or should have it, and what goes on from them.
    fn run_after(&self, index: u64) -> Result<Option<Run>, Error> {
        Ok(self.runs()?.into_iter().rev().find_map(|run| run.after(index)))
    }

    /// The segment with which a restore from the oldest snapshot begins; `None`: there is no snapshot that can be read.
    pub(super) fn first_needed_segment(&self) -> Result<Option<String>, Error> {
        let Some(Ok((index, _))) = self.snapshots().next().map(|name| self.peek(name)) else {
            return Ok(None);
        };
        Ok(self.run_after(index)?.map(|run| run.names().0.to_owned()))
    }

    /// Segments of which nothing can be restored any more: those before the one that the oldest snapshot needs, unless
    /// they go on from the first entry. What cannot be read is no reason to remove anything.
    pub(super) fn unneeded_segments(&self) -> Result<Vec<String>, Error> {
        let Some(needed) = self.first_needed_segment()? else { return Ok(Vec::new()) };
        let runs = self.runs()?;
        let segments = self.manifest.files.keys().filter(|name| name.starts_with("segment-"));
        if segments.count() != runs.iter().map(|run| run.0.len()).sum::<usize>() {
            return Ok(Vec::new());
        }
        let mut unneeded = Vec::new();
        for mut run in runs {
            run.0.retain(|segment| segment.name < needed);
            let is_of_use = |first| self.begins_a_restore(first).unwrap_or(true);
            if run.0.first().is_some_and(|first| !is_of_use(first)) {
                unneeded.extend(run.0.into_iter().map(|segment| segment.name));
            }
        }
        Ok(unneeded)
    }

    /// The segment has the first entry of all, so that no snapshot is needed.
    fn begins_a_restore(&self, segment: &SegmentStart) -> Result<bool, Error> {
        // A log that was given a snapshot, or goes on from one, begins with a later entry.
        let run = Run(vec![segment.clone()]);
        Ok(segment.last.is_none() && has_first_entry(&self.read_run(&run, &mut |_, _, _| ())?))
    }

    fn read_run(&self, run: &Run, progress: Progress<'_>) -> Result<Records, Error> {
        let log = Records::read(&self.view_of(run)?, SHARD, &mut |at| {
            progress("reading the log", at.bytes_done, at.bytes_total);
        });
        log.map_err(|error| self.of_log(&error))
    }

    /// The entries of some segments, in pieces without a hole.
    pub(super) fn spans_of(
        &self,
        run: &Run,
        progress: Progress<'_>,
    ) -> Result<Vec<RangeInclusive<u64>>, Error> {
        let spans = Records::spans(&self.view_of(run)?, SHARD, &mut |at| {
            progress("looking for holes in the log", at.bytes_done, at.bytes_total);
        });
        spans.map_err(|error| self.of_log(&error))
    }

    fn view_of(&self, run: &Run) -> Result<View<'a>, Error> {
        let view = View::new(self.storage, |entry| {
            let is_of_it = run.0.iter().any(|segment| segment.name == entry.name);
            is_of_it.then(|| entry.name.clone())
        });
        view.map_err(Error::io(self.storage.path("")))
    }

    fn of_log(&self, error: &log::Error) -> Error {
        Error::damaged(self.storage.path("segment-*.log"), error.to_string())
    }

    /// The segments of the log, in pieces without a hole in their numbers.
    pub(super) fn runs(&self) -> Result<Vec<Run>, Error> {
        let starts = segment_starts(self.storage, SHARD).map_err(|error| self.of_log(&error))?;
        let mut runs: Vec<Run> = Vec::new();
        for start in starts {
            if !self.manifest.files.contains_key(&start.name) {
                continue;
            }
            match runs.last_mut().and_then(|run| Some((run.0.last()?.number + 1, run))) {
                Some((expected, run)) if expected == start.number => run.0.push(start),
                _ => runs.push(Run(vec![start])),
            }
        }
        Ok(runs)
    }
}

fn has_first_entry(log: &Records) -> bool {
    log.all().first_key_value().is_some_and(|(first, _)| *first <= 1)
}

/// Segments that go on from each other.
pub(super) struct Run(Vec<SegmentStart>);

impl Run {
    /// From the last segment on before which there is no later entry than `index`: whatever was later when it began had
    /// been truncated. `None`: there are later ones before each.
    fn after(mut self, index: u64) -> Option<Self> {
        let ends_before = |start: &SegmentStart| start.last.is_none_or(|last| last.index <= index);
        let at = self.0.iter().rposition(ends_before)?;
        self.0.drain(..at);
        Some(self)
    }

    pub(super) fn names(&self) -> (&str, &str) {
        (&self.0[0].name, &self.0[self.0.len() - 1].name)
    }
}

/// Where a target is.
struct Goal {
    /// The next event after it is at most this one.
    next_max: u64,
    /// The log's time is at most this, in µs.
    now_max: u64,
    /// This entry goes past it.
    before: Option<u64>,
}

impl Goal {
    fn is_past(&self, index: u64, next: u64) -> bool {
        next > self.next_max || self.before.is_some_and(|before| index >= before)
    }

    /// The last entry that does not go past it.
    fn end(&self, log: &Records, index: u64) -> u64 {
        let before = match self.before {
            None if self.now_max < u64::MAX => first_after(log, self.now_max),
            before => before,
        };
        before.map_or(index, |before| index.min(before - 1))
    }
}

/// The first entry that is later than a moment, in µs.
fn first_after(log: &Records, now_us: u64) -> Option<u64> {
    let mut later = log.all().iter().filter(|(_, record)| {
        let batch = batch_of(record.kind, record.payload.clone());
        batch.is_some_and(|batch| Batch::decode(&batch).now.0 > now_us)
    });
    later.next().map(|(index, _)| *index)
}

/// Applies the log, and compares its events.
struct Walk<'a> {
    backup: &'a Backup<'a>,
    replay: Replay,
    /// Payload of all entries that are applied, in bytes.
    bytes: u64,
    position: Position,
}

impl<'a> Walk<'a> {
    fn new(
        backup: &'a Backup<'a>,
        from: Checkpoint,
        log: Records,
        end: u64,
    ) -> Result<Self, Error> {
        let (begin, position) = (from.index, from.events);
        let behind = log.all().range(begin + 1..).take_while(|(index, _)| **index <= end);
        let bytes = behind.map(|(_, record)| record.payload.len() as u64).sum();
        let replay = Replay::until(from, log, SHARD, end.max(begin));
        let replay = replay.map_err(|what| Error::Gap { what })?;
        Ok(Self { backup, replay, bytes, position })
    }

    fn run(mut self, progress: Progress<'_>) -> Result<Reached, Error> {
        let events = self.backup.events()?;
        let mut there = There::new(self.backup, &events, self.position.next)?;
        let (mut compared, mut not_compared) = (0, 0);
        let (begin, end) = (self.replay.applied(), self.replay.end());
        while self.replay.apply_next() {
            let (done, all) = (self.replay.applied() - begin, end - begin);
            progress("applying the log", self.bytes / all * done, self.bytes);
            while let Some(made) = self.replay.take() {
                let header = RecordHeader::peek(&made).expect("the engine makes whole records");
                let count = u64::from(header.count);
                match there.has(&made, &header, &self.position)? {
                    true => compared += count,
                    false => not_compared += count,
                }
                self.position.pass(&made, header.next());
            }
        }
        let index = self.replay.applied();
        let (stock, position) = (self.replay.into_stock(), self.position);
        Ok(Reached { stock, index, position, compared, not_compared, snapshot: None })
    }
}

impl Reached {
    /// The events are those that the manifest tells of.
    fn is_at(&self, manifest: &Manifest) -> bool {
        let head = Position::told(manifest.head.next_event, manifest.head.chain);
        head.next == 0 || head.fits(&self.position)
    }
}

/// The backup's events, record by record.
struct There<'a> {
    backup: &'a Backup<'a>,
    records: DirRecords<'a>,
    /// The record that comes next; `None`: there are no more.
    header: Option<RecordHeader>,
    bytes: Vec<u8>,
    before: Position,
    /// Where it is.
    file: String,
    offset: u64,
}

impl<'a> There<'a> {
    fn new(backup: &'a Backup<'a>, events: &'a EventDir, from: u64) -> Result<Self, Error> {
        let records = events.records_from(Checks::Chain, from);
        let (file, bytes) = (String::new(), Vec::new());
        let before = Position::START;
        let mut there = Self { backup, records, header: None, bytes, before, file, offset: 0 };
        there.advance()?;
        Ok(there)
    }

    fn advance(&mut self) -> Result<(), Error> {
        let found = self.records.next().map_err(|error| self.backup.of_events(&error))?;
        self.header = found.as_ref().map(|found| *found.record.header());
        if let Some(found) = found {
            self.bytes.clear();
            self.bytes.extend_from_slice(found.record.bytes());
            (self.before, self.offset) = (found.before, found.offset);
            if self.file != found.file {
                found.file.clone_into(&mut self.file);
            }
        }
        Ok(())
    }

    /// Is a record that the log makes among them? `before`: where it begins.
    fn has(
        &mut self,
        made: &[u8],
        header: &RecordHeader,
        before: &Position,
    ) -> Result<bool, Error> {
        while self.header.is_some_and(|there| there.next() <= header.first) {
            self.advance()?;
        }
        if self.header.is_none_or(|there| there.first >= header.next()) {
            return Ok(false);
        }
        let differs = |what: String| {
            let (file, offset) = (self.file.clone(), Some(self.offset));
            Err(Error::Damaged(Finding { file, offset, what }))
        };
        if self.bytes != made {
            return differs(format!("event {} is not what the log makes", header.first));
        }
        match before.fits(&self.before) {
            true => Ok(true),
            false => differs(format!("the chain before event {} is another one", header.first)),
        }
    }
}
