//! Measures the event log: writing, looking up what was in a cell, reading all of it with every check, and auditing it.
//!
//! ```text
//! cargo run --release --example event_scan -- [events] [cells] [directory]
//! cargo run --release --example event_scan -- 10_000_000 2          nearly all about one cell: the worst for look-ups
//! ```
//!
//! Reservations are made and go on to what most of them become; one event in a hundred is a receipt with a note.
//! One in ten is about one of a hundred hot cells, of which the first has got rules in the beginning and never again.
//! The last cell is touched only in the beginning. A record is of one to two hundred events. The directory must be on
//! a disk to mean anything for the time of writing; it is made, and removed at the end.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stockd::audit::audit;
use stockd::events::{Checks, Direction, EventDir, EventLog, EventOptions, Key, Past, Position};
use stockd::log::RealStorage;
use stockd::protocol::event::{
    Cause, CellChange, Counts, EventBody, EventKind, RecordHeader, RecordWriter,
};
use stockd::protocol::{CellHandle, Note, Policy, ReservationId, ShardId};
use stockd::world::{RealClock, World};

const START_MS: u64 = 1_700_000_000_000;
const HOT_CELLS: u64 = 100;
const RECORD_EVENTS: u64 = 200;
const LOOK_UPS: u64 = 200;
/// Events that `why` shows.
const SHOWN: usize = 20;
/// The hot cell with rules.
const RULED: CellHandle = CellHandle(0);
type Failure = Box<dyn std::error::Error>;

/// Makes records that say what they might.
struct Shop {
    dice: u64,
    /// on_hand, reserved, committed.
    cells: Vec<[i64; 3]>,
    open: VecDeque<(ReservationId, u32)>,
    next: u64,
    index: u64,
}

impl Shop {
    fn below(&mut self, count: u64) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ z >> 31) % count
    }

    fn cell(&mut self) -> u32 {
        // The last one is touched only in the beginning.
        let cells = self.cells.len() as u64 - 1;
        let range = if self.below(10) == 0 { HOT_CELLS.min(cells) } else { cells };
        self.below(range) as u32
    }

    fn id(&mut self, at_ms: u64) -> ReservationId {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.below(u64::MAX).to_le_bytes());
        ReservationId::from_parts(at_ms, random)
    }

    fn record(&mut self, room: Vec<u8>) -> Vec<u8> {
        self.index += 1;
        let at_ms = START_MS + self.index;
        let mut writer =
            RecordWriter::begin(room, ShardId(0), self.next, self.index, at_ms * 1_000);
        for _ in 0..=self.below(RECORD_EVENTS) {
            self.event(&mut writer, at_ms);
        }
        self.next += u64::from(writer.count());
        writer.finish()
    }

    /// The record of cells that are new.
    fn beginning(&mut self, cells: &[u32]) -> Vec<u8> {
        self.index += 1;
        let at_ms = START_MS + self.index;
        let mut writer =
            RecordWriter::begin(Vec::new(), ShardId(0), self.next, self.index, at_ms * 1_000);
        for cell in cells.iter().map(|cell| CellHandle(*cell)) {
            let on_hand = Counts { on_hand: 1_000, ..Counts::default() };
            let nothing = Counts::default();
            let made = CellChange { cell, after: nothing, delta: nothing };
            let received = CellChange { cell, after: on_hand, delta: on_hand };
            let id = self.id(at_ms);
            writer.cell_event(&Cause::new(EventKind::CellDefined, id), &made, false);
            writer.cell_event(&Cause::new(EventKind::Received, id), &received, false);
            if cell == RULED {
                let ruled = CellChange { delta: nothing, ..received };
                let body = EventBody::Policy { before: Policy::default(), after: rules() };
                let cause = Cause { body, ..Cause::new(EventKind::PolicySet, id) };
                writer.cell_event(&cause, &ruled, true);
            }
        }
        self.next += u64::from(writer.count());
        writer.finish()
    }

    fn event(&mut self, writer: &mut RecordWriter, at_ms: u64) {
        let (kind, id, cell, delta) = match self.below(100) {
            0 => (EventKind::Received, self.id(at_ms), self.cell(), [1_000, 0, 0]),
            dice if dice < 50 || self.open.len() < 10_000 => {
                let (id, cell) = (self.id(at_ms), self.cell());
                self.open.push_back((id, cell));
                (EventKind::Reserved, id, cell, [0, 1, 0])
            }
            dice => {
                let (id, cell) = self.open.pop_front().expect("some are open");
                match dice {
                    50..65 => (EventKind::Confirmed, id, cell, [0, -1, 1]),
                    65..80 => (EventKind::Released, id, cell, [0, -1, 0]),
                    _ => (EventKind::Expired, id, cell, [0, -1, 0]),
                }
            }
        };
        let counters = &mut self.cells[cell as usize];
        counters.iter_mut().zip(delta).for_each(|(counter, delta)| *counter += delta);
        let counts = |[on_hand, reserved, committed]: [i64; 3]| Counts {
            on_hand,
            reserved,
            committed,
            ..Counts::default()
        };
        let change =
            CellChange { cell: CellHandle(cell), after: counts(*counters), delta: counts(delta) };
        let mut cause = Cause::new(kind, id);
        match kind {
            EventKind::Received => cause.note = Some(Note { reason: 1, reference: b"PO-123456" }),
            EventKind::Reserved => cause.deadline_ms = Some(600_000),
            _ => {}
        }
        writer.cell_event(&cause, &change, change.cell == RULED);
    }
}

fn rules() -> Policy {
    Policy { buffer: 5, ..Policy::default() }
}

/// CPU time of this process's threads of a name, as the kernel counts it.
fn cpu_of(name: &str) -> Duration {
    let Ok(threads) = std::fs::read_dir("/proc/self/task") else { return Duration::ZERO };
    let nanos = threads.filter_map(|thread| {
        let path = thread.ok()?.path();
        let is_it = std::fs::read_to_string(path.join("comm")).ok()?.trim() == name;
        let times = std::fs::read_to_string(path.join("schedstat")).ok()?;
        is_it.then(|| times.split(' ').next()?.parse::<u64>().ok()).flatten()
    });
    Duration::from_nanos(nanos.sum())
}

fn show(name: &str, mut look_up: impl FnMut(u64) -> Result<u64, Failure>) -> Result<(), Failure> {
    let mut times = Vec::new();
    let mut found = 0;
    for at in 0..LOOK_UPS {
        let start = Instant::now();
        found += look_up(at)?;
        times.push(start.elapsed());
    }
    let first = times[0];
    times.sort();
    let (median, longest) = (times[times.len() / 2], times[times.len() - 1]);
    println!(
        "{name:<52} first {first:>9.2?}  median {median:>9.2?}  longest {longest:>9.2?}  {found} found"
    );
    Ok(())
}

/// A number that looks like chance, the same in every run.
fn spread(at: u64, of: u64) -> u64 {
    at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % of
}

/// Asks what an operator asks on the admin port, by the same functions, about the beginning, the middle and the end.
fn look_ups(log: &Arc<EventLog>, end: u64, cells: u64) -> Result<(), Failure> {
    let past = Past::new(log.clone(), end, None);
    let some = |at: u64| CellHandle(spread(at, cells - 1) as u32);
    let early = CellHandle(cells as u32 - 1);
    let as_of = |cell: CellHandle, before: u64| -> Result<u64, Failure> {
        let was = past.cell_before(cell, before)?;
        let is_right = was.is_none_or(|was| (was.policy == rules()) == (cell == RULED));
        if is_right { Ok(u64::from(was.is_some())) } else { Err("other rules".into()) }
    };
    // All cells are there after the first events.
    let made = 2 * cells + 2;
    for (part, name) in [(0, "the beginning"), (50, "the middle"), (100, "the end")] {
        let before = made + (end - made) / 100 * part;
        let at_us = RecordHeader::peek(&log.read(before - 1, 0)?.bytes)?.at_us;
        show(&format!("asof {name}, some cell"), |at| as_of(some(at), before))?;
        show(&format!("asof {name}, a hot cell with old rules"), |_| as_of(RULED, before))?;
        show(&format!("asof {name}, a cell touched only first"), |_| as_of(early, before))?;
        show(&format!("asof a moment near {name}, some cell"), |at| {
            as_of(some(at), past.after_moment(at_us + spread(at, 1_000))?)
        })?;
        let mut ids = Vec::new();
        let from = before.min(end.saturating_sub((end - made) / 20));
        let _ = log.scan(Key::Cell(RULED), from..end, Direction::Forward, &mut |event| {
            ids.extend(event.id);
            let is_enough = ids.len() >= LOOK_UPS as usize;
            if is_enough { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        let count = ids.len();
        show(&format!("history of an id of {name}"), |at| {
            let mut found = 0;
            past.life(ids[at as usize % count], end, |_| found += 1)?;
            Ok(found)
        })?;
    }
    let why = |cell: CellHandle| -> Result<u64, Failure> {
        let mut found = 0;
        past.latest(cell, past.oldest()..past.next(), SHOWN, |_| found += 1)?;
        past.cell_before(cell, end)?;
        Ok(found)
    };
    show("why, some cell", |at| why(some(at)))?;
    show("why, a hot cell with old rules", |_| why(RULED))?;
    show("why, a cell touched only first", |_| why(early))?;
    // A UUIDv4 tells no time, so that it may be anywhere.
    let mut unknown = [0xff; 16];
    (unknown[6], unknown[8]) = (0x4f, 0xbf);
    let unknown = ReservationId(unknown);
    show("history of an id without a time that never was", |_| {
        past.life(unknown, end, |_| ()).map(|_| 0).map_err(Failure::from)
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let mut number =
        |default: u64| arguments.next().map_or(Ok(default), |text| text.replace('_', "").parse());
    let (events, cells) = (number(10_000_000)?, number(100_000)?.max(2));
    let own = std::env::temp_dir().join(format!("stockd-events-{}", std::process::id()));
    let directory = arguments.next().map_or(own, PathBuf::from);
    let storage = Arc::new(RealStorage::open(&directory)?);
    let options = EventOptions::default();
    let notice = Arc::new(|text: &str| eprintln!("{text}"));
    let (world, shard, start) = (World::real(), ShardId(0), Position::START);
    let log = EventLog::open(storage.clone(), &world, options, shard, start, notice)?;
    let log = Arc::new(log);
    let mut shop = Shop {
        dice: 1,
        cells: vec![[1_000, 0, 0]; cells as usize],
        open: VecDeque::new(),
        next: 1,
        index: 0,
    };

    // Each cell is made and gets units, the last one nothing else.
    let numbers: Vec<u32> = (0..cells as u32).collect();
    let mut new = numbers.chunks(RECORD_EVENTS as usize / 2);
    let (mut making, mut appending) = (Duration::ZERO, Duration::ZERO);
    let mut bytes = 0;
    let start = Instant::now();
    loop {
        let begun = Instant::now();
        let record = match new.next() {
            Some(cells) => shop.beginning(cells),
            None if shop.next <= events => shop.record(Vec::new()),
            None => break,
        };
        bytes += record.len() as u64;
        let made = Instant::now();
        log.append(record);
        making += made - begun;
        appending += made.elapsed();
        log.room().await;
    }
    let end = log.mark().await?;
    let took = start.elapsed();
    let events = end.next - 1;
    let per_event = |time: Duration| time.as_nanos() as f64 / events as f64;
    let stats = log.stats();
    println!(
        "{events} events in {} records and {} files: {:.1} bytes each in records, {:.1} with indexes and filters",
        shop.index,
        stats.segments,
        bytes as f64 / events as f64,
        stats.bytes as f64 / events as f64,
    );
    println!(
        "written and synced     {:.0} events/s, {:.1} s",
        events as f64 / took.as_secs_f64(),
        took.as_secs_f64()
    );
    println!("making an event        {:.0} ns", per_event(making));
    println!("appending it           {:.1} ns", per_event(appending));
    println!("CPU of the writer      {:.0} ns per event", per_event(cpu_of("events")));

    look_ups(&log, end.next, cells)?;

    let files = EventDir::open(storage.as_ref())?;
    for checks in [Checks::Records, Checks::Chain, Checks::Index] {
        let start = Instant::now();
        let mut records = files.records(checks);
        let mut count = 0;
        while let Some(found) = records.next()? {
            count += u64::from(found.record.header().count);
        }
        if count != events {
            return Err(format!("{count} of {events} events were found").into());
        }
        let each = count as f64 / start.elapsed().as_secs_f64();
        println!("read from outside, {:<8} {each:.0} events/s", format!("{checks:?}:"));
    }
    // No node has lived there, which is what an audit says; all else is looked at.
    let begun = cpu_of("event_scan");
    let report = audit(storage.as_ref(), &RealClock::new(), &mut |_, _, _| ());
    let on_cpu = cpu_of("event_scan").saturating_sub(begun);
    if report.findings.count() != 1 || report.events != events {
        return Err(format!("{} events: {}", report.events, report.verdict()).into());
    }
    println!(
        "audited: index, chain and ledger     {:.0} events/s, {:.0} ns of a core per event",
        events as f64 / report.took.as_secs_f64(),
        per_event(on_cpu)
    );
    drop(log);
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
