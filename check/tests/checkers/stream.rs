//! The events of a small story, told by nodes in the right way and in wrong ones. Wrong ones are well made: what lies
//! on disk is in order, with checksums, numbers and chain, so that only the log can say what is wrong with it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use stockd::engine::StockState;
use stockd::events::{EventLog, EventOptions, Position};
use stockd::log::RealStorage;
use stockd::world::World;
use stockd_check::{Cell, Options, Report, Request, Rule, Sent, Stream, check_with_stream};
use stockd_protocol::event::{
    Cause, CellChange, Counts, Event, EventKind, EventRecord, RecordWriter, seal,
};
use stockd_protocol::{CellHandle, Note, Op, Reader, ReservationId, ShardId, Terms};

use crate::handmade::{Script, cell, id, reserve};
use crate::server::{CONFIG, client_name};

const SHARD: ShardId = ShardId(0);

/// Holds that are confirmed, released and run out, and units that are written off for a reason.
fn story() -> Script {
    let mut script = Script::new();
    script.call(reserve(1, 4));
    script.call(reserve(2, 3));
    script.call(Request::Confirm { id: id(1) });
    script.call(Request::Release { id: id(2) });
    script.call(reserve(3, 6));
    // Its hold is in the way, and has run out.
    script.wait(2_000);
    script.call(reserve(4, 5));
    let note = Some(Note { reason: 7, reference: b"broken" });
    let Cell::Name(warehouse, sku) = cell() else { unreachable!() };
    let place = stockd_protocol::CellRef::Name { warehouse: &warehouse, sku: &sku };
    let op = Op::Adjust { op_id: stockd_protocol::OpId(id(5).0), delta: -1, cell: place };
    let sent = Sent::new(&op, &Terms { note, ..Terms::default() }).unwrap();
    script.call(Request::Other(sent));
    script
}

/// The records that the log of a story makes.
fn records(script: &Script) -> Vec<Vec<u8>> {
    let mut state = StockState::new(CONFIG);
    state.keep_events(SHARD);
    for entry in &script.log {
        state.apply(entry.index, &entry.batch, None);
    }
    let mut records = state.take_events();
    records.iter_mut().for_each(|record| seal(record));
    records
}

fn judged(script: &Script) -> (Report, Stream) {
    let client_name: Option<fn(u32) -> String> = Some(client_name);
    let options = Options { engine: CONFIG, client_name, ..Options::default() };
    check_with_stream(&script.log, &script.history, &options)
}

/// The records again, with events changed, left out or added, and numbers that follow each other.
fn retold(records: &[Vec<u8>], tell: impl Fn(Event<'_>, &mut RecordWriter)) -> Vec<Vec<u8>> {
    let mut next = 1;
    let mut again = Vec::new();
    for record in records {
        let record = EventRecord::take(&mut Reader::new(record)).unwrap();
        let header = record.header();
        let mut writer = RecordWriter::begin(Vec::new(), SHARD, next, header.index, header.at_us);
        record.events().for_each(|event| tell(event.unwrap(), &mut writer));
        if writer.is_empty() {
            continue;
        }
        next += u64::from(writer.count());
        let mut record = writer.finish();
        seal(&mut record);
        again.push(record);
    }
    again
}

/// A data directory with these events.
async fn directory(name: &str, records: &[Vec<u8>], gap_before: usize) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("stream-{name}"));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    let storage = Arc::new(RealStorage::open(&path).unwrap());
    let (world, options) = (World::real(), EventOptions::default());
    let first = EventRecord::take(&mut Reader::new(&records[gap_before])).unwrap();
    let log =
        EventLog::open(storage, &world, options, SHARD, Position::START, Arc::new(|_| ())).unwrap();
    if gap_before > 0 {
        let position = Position::told(first.header().first, [7; 32]);
        log.rebase(position).await.unwrap();
    }
    for record in &records[gap_before..] {
        log.append(record.clone());
    }
    log.mark().await.unwrap();
    path
}

/// What is wrong with a directory of these events, which belong to a right history.
async fn said(name: &str, script: &Script, records: &[Vec<u8>]) -> String {
    let (mut report, mut stream) = judged(script);
    assert!(report.is_ok(), "{report}");
    stream.judge(&[directory(name, records, 0).await], &mut report);
    assert!(report.breaks(Rule::Stream), "{report}");
    report.to_string()
}

#[tokio::test]
async fn what_the_log_makes_may_be_told() {
    let script = story();
    let records = records(&script);
    let (mut report, mut stream) = judged(&script);
    let all = report.count("events made by the log");
    let middle = records.len() / 2;
    let whole = directory("whole", &records, 0).await;
    let late = directory("late", &records, middle).await;
    let behind = directory("behind", &records[..middle], 0).await;
    stream.judge(&[&behind], &mut report);
    assert_eq!(
        stream.untold_until(u64::MAX) + report.count("events held against the history"),
        all
    );
    stream.judge(&[&whole, &late], &mut report);
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.count("nodes that tell events"), 3);
    assert_eq!(report.count("events held against the history"), 2 * all);
    assert_eq!(stream.untold_until(u64::MAX), 0);
}

#[tokio::test]
async fn an_event_that_is_left_out() {
    let script = story();
    let told = retold(&records(&script), |event, writer| {
        if event.kind != EventKind::Released {
            writer.copy(&event);
        }
    });
    let said = said("left-out", &script, &told).await;
    assert!(said.contains("is told to be of entry"), "{said}");
}

#[tokio::test]
async fn another_quantity() {
    let script = story();
    let told = retold(&records(&script), |event, writer| {
        let mut change = event.change;
        if let Some(change) = change.as_mut().filter(|_| event.kind == EventKind::Adjusted) {
            (change.after.on_hand, change.delta.on_hand) = (change.after.on_hand - 1, -2);
        }
        writer.copy(&Event { change, ..event });
    });
    let said = said("quantity", &script, &told).await;
    assert!(said.contains("on_hand=8(-2)") && said.contains("the log makes"), "{said}");
}

#[tokio::test]
async fn an_event_of_another_entry() {
    let script = story();
    let mut told = records(&script);
    let last = told.last_mut().unwrap();
    last[16] += 1;
    seal(last);
    let said = said("index", &script, &told).await;
    assert!(said.contains("the log makes one of entry"), "{said}");
}

#[tokio::test]
async fn an_event_that_nobody_asked_for() {
    let script = story();
    let mut told = records(&script);
    let last = EventRecord::take(&mut Reader::new(told.last().unwrap())).unwrap();
    let (next, at_us) = (last.header().next(), last.header().at_us);
    let mut writer = RecordWriter::begin(Vec::new(), SHARD, next, last.header().index, at_us);
    let after = Counts { on_hand: 10, committed: 4, reserved: 5, ..Counts::default() };
    let delta = Counts { on_hand: 1, ..Counts::default() };
    let change = CellChange { cell: CellHandle(0), after, delta };
    let cause = Cause::new(EventKind::Received, ReservationId(id(9).0));
    writer.cell_event(&cause, &change, false);
    let mut record = writer.finish();
    seal(&mut record);
    told.push(record);
    let said = said("invented", &script, &told).await;
    assert!(said.contains("the log makes no such record"), "{said}");
}

#[tokio::test]
async fn another_reference_and_another_principal() {
    let script = story();
    let told = retold(&records(&script), |event, writer| {
        let note = event.note.map(|note| Note { reference: b"stolen", ..note });
        writer.copy(&Event { note, ..event });
    });
    let about = said("reference", &script, &told).await;
    assert!(about.contains("reference=stolen"), "{about}");
    let told = retold(&records(&script), |event, writer| {
        writer.copy(&Event { principal: b"nobody", ..event });
    });
    let about = said("principal", &script, &told).await;
    assert!(about.contains("by=nobody"), "{about}");
}

#[test]
fn without_a_log_nodes_are_held_against_each_other() {
    let script = story();
    let right = records(&script);
    let wrong = retold(&right, |event, writer| {
        let id = event.id.filter(|_| event.kind != EventKind::Confirmed).or(Some(id(8)));
        writer.copy(&Event { id, ..event });
    });
    let mut stream = Stream::new();
    let mut first = stream.teller("node 1");
    first.take_all(&right.concat()).unwrap();
    let counts = Counts { on_hand: 9, committed: 4, reserved: 5, ..Counts::default() };
    first.compare(|_| Some(counts)).unwrap();
    let said = first.compare(|_| None).unwrap_err();
    assert!(said.contains("node 1: cell 0"), "{said}");
    let said = stream.teller("node 2").take_all(&wrong.concat()).unwrap_err();
    assert!(said.starts_with("node 2: told is") && said.contains("elsewhere it is"), "{said}");
    // What is told twice, or with a hole in it, is wrong even if each record is right.
    for at in [1, 3] {
        let mut teller = stream.teller("node 3");
        teller.take_all(&right[2]).unwrap();
        let said = teller.take_all(&right[at + usize::from(at == 3)]).unwrap_err();
        assert!(said.contains("comes where"), "{said}");
    }
}
