//! Is what is in a directory what has happened? Read from outside, from an idle node or beside a running one.
//!
//! ```text
//!   events on disk  ──▶ checksums, numbers, chain ──▶ ledger: what is in each cell          (sums.rs)
//!       │                    │                          │
//!       ▼                    ▼ at an earlier event      ▼ over all cells
//!   CHECKPOINTs ──────▶ the same chain?             the same totals?                        (checkpoints.rs)
//!                            │                          │
//!                            ▼ at its position          ▼ at its position
//!   newest snapshot ──▶ the same chain?             the same counters?                      (walk.rs, counters.rs)
//!        │
//!        ▼
//!   committed log ─────▶ the engine ──▶ events ──▶ the same bytes as on disk?               (replay.rs, derived.rs)
//!                            │
//!                            ▼
//!                        reservations against counters: no unit is held twice or by nobody
//! ```
//!
//! Four witnesses of the same history, and the leaders of its time, whose CHECKPOINTs are in it: each would have to be
//! changed in the same way, and the chain makes that a change of everything that comes later. What none of them can tell: a directory that was made anew as a
//! whole. Somebody who has noted a chain elsewhere can (see [`evidence`]).
//!
//! Invariants:
//! - Nothing is written.
//! - Whatever is on disk, memory is bounded by the state, and by the log that is applied to it.
//! - What may be so after a crash is a note; everything else that is not as it should be is a finding.
//!
//! The pieces serve others, too: [`load`] the newest snapshot and the log, apply it ([`Replay`]), [`compare`]
//! counters.
//!
//! Left out on purpose: the archive of old ids, which nothing is decided by; the tail of the log that is not known to
//! be committed.

mod checkpoints;
mod counters;
mod derived;
pub mod evidence;
mod findings;
mod replay;
mod report;
mod source;
mod sums;
mod walk;

pub use checkpoints::Checked;
pub use counters::{Difference, compare};
pub use findings::{FINDINGS_MAX, Finding, Findings};
pub use replay::{Replay, empty};
pub use report::{Report, grouped, hex};
pub use source::{Source, load};

use crate::engine::EngineConfig;
use crate::events::EventDir;
use crate::log::Storage;
use crate::protocol::ShardId;
use crate::replication::owner_of;
use crate::world::Clock;
use derived::Derived;
use sums::Sums;
use walk::{Mark, Walk};

/// The only one so far.
const SHARD: ShardId = ShardId(0);

/// Told what is done, how many bytes of it, and of how many.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);

/// Looks at a data directory.
pub fn audit(storage: &dyn Storage, clock: &dyn Clock, progress: Progress<'_>) -> Report {
    look(engine_of(storage), storage, clock, progress)
}

/// Looks at the files of a node whose rules are known, such as those of a backup.
pub fn audit_under(
    engine: EngineConfig,
    storage: &dyn Storage,
    clock: &dyn Clock,
    progress: Progress<'_>,
) -> Report {
    look(Ok(engine), storage, clock, progress)
}

fn look(
    engine: Result<EngineConfig, Finding>,
    storage: &dyn Storage,
    clock: &dyn Clock,
    progress: Progress<'_>,
) -> Report {
    let mut report = Report::default();
    let (mut findings, mut notes) = (std::mem::take(&mut report.findings), Vec::new());
    let state = engine.map(|engine| state_of(engine, storage, &mut findings, &mut notes, progress));
    let state = state.unwrap_or_else(|finding| {
        findings.add(finding);
        None
    });
    let (mark, derived) = match state {
        Some((mark, replay)) => (mark, Some(Derived::new(replay))),
        None => (None, None),
    };
    let began = clock.monotonic();
    let files = match EventDir::survey(storage) {
        Ok(files) => Some(files),
        Err(error) => {
            findings.about(&storage.path("events-*"), error.to_string());
            None
        }
    };
    let cells = derived.as_ref().map_or(0, |derived| derived.replay.stock().cells().count());
    let first = files.as_ref().and_then(|files| Some(files.segments().next()?.start.next));
    let sums = Sums::new(u64::from(cells));
    let mut walk = Walk::new(&mut findings, &mut notes, sums, mark, derived);
    if let Some(files) = &files {
        walk.run(storage, files, progress);
        report.segments = files.segments().len() as u64;
        report.bytes = files.segments().map(|segment| segment.bytes).sum();
    }
    progress("applying the log", 0, 0);
    walk.finish();
    report.took = clock.monotonic().saturating_sub(began);
    (report.events, report.records) = (walk.sums.events, walk.sums.records);
    report.checkpoints = walk.sums.checkpoints.checked;
    (report.first, report.end, report.compared) =
        (first.unwrap_or_default(), walk.end, walk.compared);
    let derived = walk.derived.take();
    if let Some(derived) = derived {
        report.derived = derived.equal;
        judge_state(&derived.replay, &mut report, &mut findings);
    }
    (report.findings, report.notes) = (findings, notes);
    report
}

/// Nobody knows how many cells were made by events that are not here; a ledger has room for so many.
const UNSEEN_CELLS_MAX: u64 = 1 << 26;

/// The rules of the node whose directory it is.
fn engine_of(storage: &dyn Storage) -> Result<EngineConfig, Finding> {
    let finding = |what: String| Finding { file: storage.path("identity"), offset: None, what };
    match owner_of(storage) {
        Ok(Some(owner)) => Ok(owner.engine),
        Ok(None) => Err(finding(
            "it is not there, so no node has ever started here; is it a data directory?".to_owned(),
        )),
        Err(error) => Err(finding(error.to_string())),
    }
}

/// The state to compare with, and the log that goes on from it. `None`: there is none, and it was said why.
fn state_of(
    engine: EngineConfig,
    storage: &dyn Storage,
    findings: &mut Findings,
    notes: &mut Vec<String>,
    progress: Progress<'_>,
) -> Option<(Option<Mark>, Replay)> {
    let source = load(storage, SHARD, &engine, progress);
    let Source { checkpoint, log } = match source {
        Ok(source) => source,
        Err(finding) => {
            findings.add(finding);
            return None;
        }
    };
    let mark = checkpoint.as_ref().map(|checkpoint| {
        let own = log.all().get(&checkpoint.index);
        Mark {
            file: checkpoint.file.clone(),
            position: checkpoint.events,
            is_own: own.is_some_and(|record| record.term == checkpoint.term),
        }
    });
    if mark.is_none() {
        notes.push("there is no snapshot: the log is applied from its beginning".to_owned());
    }
    let from = checkpoint.unwrap_or_else(|| empty(engine));
    match Replay::new(from, log, SHARD) {
        Ok(replay) => Some((mark, replay)),
        Err(what) => {
            findings.about(&storage.path("segment-*.log"), what);
            None
        }
    }
}

/// The state after the last entry is one, and is what the verdict shows.
fn judge_state(replay: &Replay, report: &mut Report, findings: &mut Findings) {
    let stock = replay.stock();
    if let Err(rule) = stock.audit() {
        let state = format!("the state after entry {} of the log", replay.applied());
        findings.about(&state, format!("this is not so: {rule}"));
    }
    let cells = stock.cells();
    report.cells = u64::from(cells.count());
    report.applied = Some(replay.applied());
    for cell in 0..cells.count() {
        let Some(counters) = cells.counters(crate::protocol::CellHandle(cell)) else { continue };
        let all = [counters.on_hand, counters.reserved, counters.committed];
        report.totals.iter_mut().zip(all).for_each(|(total, units)| *total += i128::from(units));
    }
}
