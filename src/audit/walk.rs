//! All events on disk, once, from the oldest to the newest.

use super::checkpoints::difference;
use super::counters::compare;
use super::derived::Derived;
use super::findings::{Finding, Findings};
use super::report::hex;
use super::sums::Sums;
use super::{Progress, SHARD};
use crate::events::{Checks, EventDir, Position};
use crate::log::Storage;

/// Progress is told about every so many bytes.
const PROGRESS_BYTES: u64 = 4 << 20;
/// So much of what is behind the last record is looked at; a node has less in one write.
const TAIL_BYTES_MAX: usize = 8 << 20;

const WHY_MISSING: &str =
    "a snapshot was installed in their place, or the node kept none then (--events 0s)";

/// Where a state was taken, which is the one that the log is applied to.
#[derive(Clone, Debug)]
pub(super) struct Mark {
    /// The snapshot's file.
    pub file: String,
    /// After the last event in it.
    pub position: Position,
    /// This node has made the snapshot itself, as far as the log tells: then the events before are on disk.
    pub is_own: bool,
}

/// What becomes of a walk.
pub(super) struct Walk<'a> {
    pub findings: &'a mut Findings,
    pub notes: &'a mut Vec<String>,
    pub sums: Sums,
    /// A state to compare with, and a log that goes on from it.
    pub mark: Option<Mark>,
    pub derived: Option<Derived>,
    pub compared: u64,
    pub end: Option<Position>,
    /// What was compared with the mark, and with the state at the end of the log.
    has_met: bool,
    has_ended: bool,
}

impl<'a> Walk<'a> {
    pub fn new(
        findings: &'a mut Findings,
        notes: &'a mut Vec<String>,
        sums: Sums,
        mark: Option<Mark>,
        derived: Option<Derived>,
    ) -> Self {
        Self {
            findings,
            notes,
            sums,
            mark,
            derived,
            compared: 0,
            end: None,
            has_met: false,
            has_ended: false,
        }
    }

    /// Reads everything.
    pub fn run(&mut self, storage: &dyn Storage, files: &EventDir, progress: Progress<'_>) {
        let before = self.findings.count();
        for segment in files.segments().filter(|segment| segment.shard != SHARD) {
            self.findings.at(&segment.file, 0, format!("it is of shard {}", segment.shard.0));
        }
        let directory = storage.path("events-*");
        let mut at = Place::new(files);
        let mut records = files.records(Checks::Index);
        loop {
            match records.next() {
                Ok(None) => break,
                Ok(Some(found)) => {
                    at.tell(found.file, found.offset, progress);
                    if let Some(next) = self.sums.go_on_at(found.before) {
                        let missing =
                            format!("events {next}..{} are not here", found.before.next - 1);
                        self.notes.push(missing + ": " + WHY_MISSING);
                    }
                    self.meet(found.before, (found.file, found.offset));
                    if let Some(derived) = &mut self.derived
                        && !derived.check(&found, self.findings)
                    {
                        self.end_with_log(found.before);
                    }
                    let findings = &mut *self.findings;
                    self.sums.take(found.before, &found.record, &mut |what| {
                        findings.at(found.file, found.offset, what);
                    });
                }
                Err(error) => {
                    self.findings.add(Finding::of_events(error, &directory));
                    self.sums.forget();
                }
            }
        }
        let (end, ignored_bytes) = (records.position(), records.ignored_bytes());
        self.end = end;
        let oldest = files.segments().next().map_or(1, |segment| segment.start.next);
        if oldest > 1 {
            let which = format!("events 1..{} are not here", oldest - 1);
            self.notes
                .push(format!("{which}: they are older than events are kept, or {WHY_MISSING}"));
        }
        if end.is_some_and(|end| !end.is_whole) {
            let why =
                "the chain begins anew where the node kept no events before: no other node has it";
            self.notes.push(why.to_owned());
        }
        if let (Some(end), Some(last)) = (end, files.segments().last()) {
            self.meet(end, (&last.file, last.bytes - ignored_bytes));
            self.check_tail(files, ignored_bytes, end);
        }
        if self.findings.count() == before {
            self.check_met(files, end);
        }
    }

    /// Between two records: the state of the mark may be the one after those before.
    fn meet(&mut self, at: Position, (file, offset): (&str, u64)) {
        let Some(mark) = self.mark.as_ref().filter(|mark| mark.position.next == at.next) else {
            return;
        };
        if std::mem::replace(&mut self.has_met, true) {
            return;
        }
        if !mark.position.fits(&at) {
            let what = format!(
                "before event {} the chain is {}; {} says that it is {}: events before were changed",
                at.next,
                hex(&at.chain),
                mark.file,
                hex(&mark.position.chain)
            );
            self.findings.at(file, offset, what);
        }
        let state = mark.file.clone();
        self.compare(&state);
    }

    /// The log has no more events, and those up to here were its own: the state is what they add up to.
    fn end_with_log(&mut self, at: Position) {
        let Some(derived) = &self.derived else { return };
        let stock = derived.replay.stock();
        if stock.next_event() != at.next || std::mem::replace(&mut self.has_ended, true) {
            return;
        }
        let index = derived.replay.applied();
        self.compare(&format!("the state after entry {index} of the log"));
    }

    /// The state is what the events up to here add up to. `state`: what it is called.
    fn compare(&mut self, state: &str) {
        let Some(derived) = &self.derived else { return };
        let (stock, sums) = (derived.replay.stock(), &self.sums);
        let (cells, before) = (stock.cells(), self.findings.count());
        let findings = &mut *self.findings;
        self.compared = compare(sums.ledger(), &cells, sums.is_complete(), &mut |difference| {
            findings.about(state, difference.describe(&cells));
        });
        // No event that is here may be about a cell that is another; a CHECKPOINT has counted it all the same.
        if findings.count() == before
            && let Some(totals) = sums.checkpoints.totals()
            && let Some((name, found, expected)) = difference(&stock.totals(), totals)
        {
            let what =
                format!("{name} is {found} in all; the events up to it add up to {expected}");
            findings.about(state, what);
        }
    }

    /// What is behind the last record is what the log makes next, or was never written.
    fn check_tail(&mut self, files: &EventDir, ignored_bytes: u64, end: Position) {
        let Some(last) = files.segments().last().filter(|_| ignored_bytes > 0) else { return };
        let tail = match files.tail(ignored_bytes, TAIL_BYTES_MAX) {
            Ok(tail) => tail,
            Err(error) => return self.findings.about(&last.file, error.to_string()),
        };
        let (offset, bytes) = tail;
        self.notes.push(format!(
            "{ignored_bytes} bytes behind the last record were being written when the node stopped, or are now; \
             the next start makes them again"
        ));
        if let Some(derived) = &mut self.derived {
            derived.check_tail((&last.file, offset), &bytes, end, self.findings);
        }
    }

    /// The mark was somewhere, or there is a good reason why not.
    fn check_met(&mut self, files: &EventDir, end: Option<Position>) {
        let Some(mark) = self.mark.as_ref().filter(|_| !self.has_met) else { return };
        let (next, oldest) =
            (mark.position.next, files.segments().next().map(|segment| segment.start.next));
        let is_behind = end.is_none_or(|end| end.next < next);
        match is_behind {
            false if oldest.is_some_and(|oldest| next < oldest) => self.notes.push(format!(
                "events are kept from {} on, after the snapshot: nothing to compare its counters with",
                oldest.unwrap_or_default()
            )),
            true if !mark.position.is_whole => self.notes.push(
                "the node kept no events when the snapshot was made: nothing to compare with".to_owned(),
            ),
            true if !mark.is_own => {
                self.notes.push(format!("events up to {} are not here: {WHY_MISSING}", next - 1));
            }
            true => self.findings.about(&mark.file, match end {
                Some(end) => format!(
                    "it has the events up to {}, and those on disk end with {}: the newest are missing",
                    next - 1,
                    end.next - 1
                ),
                None => format!("it has the events up to {}, and none are on disk", next - 1),
            }),
            false => {
                let what = format!("no record of the events on disk begins with event {next}");
                self.findings.about(&mark.file, what);
            }
        }
    }

    /// The rest of the log, behind the last event on disk.
    pub fn finish(&mut self) {
        let Some(derived) = &mut self.derived else { return };
        let end = self.end.unwrap_or(Position::START);
        let ahead = derived.replay.finish(end);
        if self.end.is_some() && derived.not_judged > 0 {
            self.notes.push(format!(
                "{} events at the end are not judged: they are of entries after {}, the last one that is known to \
                 be committed",
                derived.not_judged,
                derived.replay.end()
            ));
        } else if ahead > 0 && self.end.is_some() {
            self.notes.push(format!(
                "the log makes {ahead} events more than there are on disk; a start writes those behind its snapshot"
            ));
        }
        self.end_with_log(end);
    }
}

/// How far the reading is.
struct Place<'a> {
    /// The files, the bytes before each, and of all.
    files: Vec<(&'a str, u64)>,
    bytes: u64,
    at: usize,
    told: u64,
}

impl<'a> Place<'a> {
    fn new(files: &'a EventDir) -> Self {
        let mut bytes = 0;
        let mut before = |more: u64| {
            bytes += more;
            bytes - more
        };
        let files = files.segments().map(|file| (&*file.file, before(file.bytes))).collect();
        Self { files, bytes, at: 0, told: 0 }
    }

    fn tell(&mut self, file: &str, offset: u64, progress: Progress<'_>) {
        while self.files.get(self.at).is_some_and(|(name, _)| *name != file) {
            self.at += 1;
        }
        let Some((_, before)) = self.files.get(self.at) else { return };
        let done = before + offset;
        if done >= self.told + PROGRESS_BYTES {
            self.told = done;
            progress("reading the events", done, self.bytes);
        }
    }
}
