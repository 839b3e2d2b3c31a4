//! The archive of old ids on a disk that fails: what was flushed is found, whatever happens.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::sync::Arc;

use bytes::BytesMut;
use stockd::archive::{Archive, ArchiveOptions};
use stockd::engine::batch::{self, BatchBuilder};
use stockd::engine::{ArchiveBatch, ArchivedRecord, EngineConfig, StockState};
use stockd::log::{Fault, SimStorage, Storage, Survival};
use stockd::protocol::limits::LINES_MAX;
use stockd::protocol::{
    CellHandle, CellRef, Code, Line, Op, OpFlags, OpId, Reader, ReservationId, Terms, take_op,
    take_outcome,
};
use stockd::world::{TaskThreads, UnixMicros, World};

const START_MS: u64 = 1_700_000_000_000;

fn world() -> World {
    World { threads: Arc::new(TaskThreads), ..World::real() }
}

fn silent() -> Arc<dyn Fn(&str) + Send + Sync> {
    Arc::new(|_| ())
}

fn id(born_ms: u64, number: u32) -> ReservationId {
    let mut random = [0; 10];
    random[6..].copy_from_slice(&number.to_be_bytes());
    ReservationId::from_parts(born_ms, random)
}

fn apply(state: &mut StockState, now_ms: u64, count: u32, ops: impl FnOnce(&mut BytesMut)) {
    let mut entry = BytesMut::new();
    let builder = BatchBuilder::begin(&mut entry);
    ops(&mut entry);
    builder.finish(&mut entry, UnixMicros(now_ms * 1_000), count);
    let mut out = BytesMut::new();
    state.apply(state.applied_index() + 1, &entry, Some(&mut out));
    let mut outcomes = Reader::new(&out);
    (0..count).for_each(|_| assert!(take_outcome(&mut outcomes).unwrap().code.is_ok()));
}

/// What an engine forgets that was asked for these: every third is a cart of three lines, given back, the
/// others are fences.
fn forgotten(state: &mut StockState, born_ms: u64, numbers: std::ops::Range<u32>) -> ArchiveBatch {
    state.keep_forgotten();
    apply(state, born_ms, 2, |out| {
        let cell = CellRef::Name { warehouse: b"w", sku: b"s" };
        Op::encode_define(out, b"w", b"s");
        let op_id = OpId(id(born_ms, u32::MAX).0);
        Op::encode_receive(out, OpFlags::default(), None, op_id, cell, 1_000_000);
    });
    for number in numbers {
        let id = id(born_ms, number);
        let none = OpFlags::default();
        if number % 3 == 0 {
            let line = Line { cell: CellRef::Handle(CellHandle(0)), quantity: 1 };
            apply(state, born_ms, 1, |out| Op::encode_reserve(out, none, None, id, 0, &[line; 3]));
        }
        apply(state, born_ms, 1, |out| Op::encode_release(out, none, None, id));
    }
    let after_all = born_ms + EngineConfig::default().retention_ms + 20_000;
    apply(state, after_all, 1, |out| batch::encode_expire(out, u32::MAX));
    state.take_forgotten()
}

fn open(disk: &SimStorage, options: ArchiveOptions) -> Archive {
    Archive::open(Arc::new(disk.clone()), &world(), options, silent()).unwrap()
}

/// The answer to a release of an archived id.
fn released_again(state: &mut StockState, record: &ArchivedRecord) -> (Code, u16) {
    let (mut asked, mut out) = (BytesMut::new(), BytesMut::new());
    Op::encode_release(&mut asked, OpFlags::default(), None, record.id());
    let (op, flags, not_after) = take_op(&mut Reader::new(&asked)).unwrap();
    assert!(state.answer_archived(record, None, (&op, flags, not_after), &mut out));
    let outcome = take_outcome(&mut Reader::new(&out)).unwrap();
    (outcome.code, outcome.detail)
}

#[tokio::test]
async fn what_was_flushed_is_there_after_a_power_cut() {
    let mut state = StockState::new(EngineConfig::default());
    let batch = forgotten(&mut state, START_MS, 0..100);
    assert_eq!(batch.len(), 101, "and one receive");
    for survival in [Survival::Lost, Survival::Kept, Survival::Torn(1)] {
        let disk = SimStorage::new();
        let archive = open(&disk, ArchiveOptions::default());
        archive.take_in(batch.clone());
        // Before it is on disk it is found in memory.
        assert!(archive.find(&id(START_MS, 0)).is_some());
        archive.flush().await.unwrap();
        let disk = disk.restart(survival);
        let archive = open(&disk, ArchiveOptions::default());
        assert_eq!(archive.stats().records, 101);
        for number in 0..100 {
            let record = archive.find(&id(START_MS, number)).unwrap();
            let detail = if number % 3 == 0 { 3 } else { 5 };
            assert_eq!(released_again(&mut state, &record), (Code::REPLAY, detail), "{number}");
        }
        assert!(archive.find(&id(START_MS, 100)).is_none());
        assert!(archive.find(&id(START_MS - 1, 0)).is_none());
    }
}

/// Takes in batches, with a flush after each; says which were flushed, up to the first that was not.
async fn fill(archive: &Archive, batches: &[ArchiveBatch]) -> Vec<bool> {
    let mut flushed = Vec::new();
    for batch in batches {
        archive.take_in(batch.clone());
        flushed.push(archive.flush().await.is_ok());
        if flushed.last() == Some(&false) {
            return flushed;
        }
    }
    tidied(archive).await;
    flushed
}

/// A run of each batch, the first one the oldest.
async fn write_in_turn(archive: &Archive, batches: &[ArchiveBatch]) {
    for (at, batch) in batches.iter().enumerate() {
        archive.tell_time(START_MS + at as u64);
        archive.take_in(batch.clone());
        archive.flush().await.unwrap();
    }
}

/// The keeper tidies up after a flush, and before the next one.
async fn tidied(archive: &Archive) {
    // A disk without power says no, which is all the same here.
    let _ = archive.flush().await;
}

fn thirty_batches() -> Vec<ArchiveBatch> {
    let batch = |at: u32| {
        let mut state = StockState::new(EngineConfig::default());
        forgotten(&mut state, START_MS + u64::from(at), at * 10..at * 10 + 10)
    };
    (0..30).map(batch).collect()
}

/// A cart of two cells that was given back, and a transfer from the second cell to the first, as an engine
/// forgets them.
fn cart_and_transfer() -> ArchiveBatch {
    let mut state = StockState::new(EngineConfig::default());
    state.keep_forgotten();
    let (none, cell) = (OpFlags::default(), |handle| CellRef::Handle(CellHandle(handle)));
    apply(&mut state, START_MS, 6, |out| {
        Op::encode_define(out, b"v", b"s");
        Op::encode_define(out, b"w", b"s");
        let (first, second) = (OpId(id(START_MS, 10).0), OpId(id(START_MS, 11).0));
        Op::encode_receive(out, none, None, first, cell(0), 5);
        Op::encode_receive(out, none, None, second, cell(1), 5);
        let lines = [0, 1].map(|handle| Line { cell: cell(handle), quantity: 1 });
        Op::encode_reserve(out, none, None, id(START_MS, 0), 0, &lines);
        Op::encode_release(out, none, None, id(START_MS, 0));
    });
    let transfer = OpId(id(START_MS, 1).0);
    apply(&mut state, START_MS, 2, |out| {
        let ship = Op::TransferShip { op_id: transfer, quantity: 2, from: cell(1), to: cell(0) };
        ship.encode(out, &Terms::default());
        Op::TransferCancel { transfer }.encode(out, &Terms::default());
    });
    let after_all = START_MS + EngineConfig::default().retention_ms + 20_000;
    apply(&mut state, after_all, 1, |out| batch::encode_expire(out, u32::MAX));
    state.take_forgotten()
}

#[test]
fn a_record_of_more_cells_than_there_are_is_no_answer() {
    let batch = cart_and_transfer();
    let numbered = |number| {
        let records = (0..batch.len()).map(|at| batch.get(at).unwrap());
        records.into_iter().find(|record| record.id() == id(START_MS, number)).unwrap()
    };
    let (cart, transfer) = (numbered(0), numbered(1));
    for cells in 0..=2 {
        let mut state = StockState::new(EngineConfig::default());
        for warehouse in [b"v", b"w"].into_iter().take(cells) {
            apply(&mut state, START_MS, 1, |out| Op::encode_define(out, warehouse, b"s"));
        }
        let reads = [
            (&cart, Op::ReadLines { id: cart.id() }),
            (&transfer, Op::ReadTransfer { transfer: OpId(transfer.id().0) }),
        ];
        for (record, read) in reads {
            let mut out = BytesMut::new();
            assert_eq!(state.read_archived(record, &read, &mut out), cells == 2, "{read:?}");
            assert_eq!(out.is_empty(), cells < 2);
        }
    }
}

#[tokio::test]
async fn a_few_large_carts_are_written_before_they_fill_the_memory() {
    let mut state = StockState::new(EngineConfig::default());
    state.keep_forgotten();
    let line = Line { cell: CellRef::Name { warehouse: b"w", sku: b"s" }, quantity: 1 };
    let lines = [line; LINES_MAX as usize];
    for number in 0..16 {
        let (id, op_id) = (id(START_MS, number), OpId(id(START_MS, 100 + number).0));
        apply(&mut state, START_MS, 3, |out| {
            Op::encode_receive(out, OpFlags::DEFINE, None, op_id, line.cell, 10_000);
            Op::encode_reserve(out, OpFlags::default(), None, id, 0, &lines);
            Op::encode_release(out, OpFlags::default(), None, id);
        });
    }
    let after_all = START_MS + EngineConfig::default().retention_ms + 20_000;
    apply(&mut state, after_all, 1, |out| batch::encode_expire(out, u32::MAX));
    let batch = state.take_forgotten();
    assert_eq!(batch.len(), 32);
    let archive = open(&SimStorage::new(), ArchiveOptions::default());
    let mut taken_in = 0;
    // Nobody asks for a flush.
    while archive.stats().runs == 0 {
        archive.take_in(batch.clone());
        taken_in += batch.bytes();
        assert!(taken_in < 64 << 20, "it is not written");
        tokio::task::yield_now().await;
    }
    assert!(taken_in >= 16 << 20, "{taken_in}");
    for number in 0..16 {
        assert!(archive.find(&id(START_MS, number)).is_some());
    }
}

#[tokio::test]
async fn small_runs_become_few() {
    let batches = thirty_batches();
    let disk = SimStorage::new();
    let archive = open(&disk, ArchiveOptions::default());
    assert!(fill(&archive, &batches).await.into_iter().all(|flushed| flushed));
    let stats = archive.stats();
    assert_eq!((stats.records, stats.waiting, stats.damaged), (30 * 11, 0, 0));
    assert!(stats.runs < 10, "{stats:?}");
    let files = disk.list().unwrap().len() as u64;
    assert_eq!(files, stats.runs, "what was merged is gone");
    for at in 0..30 {
        for number in at * 10..at * 10 + 10 {
            assert!(archive.find(&id(START_MS + u64::from(at), number)).is_some(), "{number}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_every_operation_loses_nothing_that_was_flushed() {
    let batches = thirty_batches();
    let mut cuts = 0;
    for operation in 1.. {
        let disk = SimStorage::new();
        disk.fault_at(operation, Fault::PowerCut);
        let archive = open(&disk, ArchiveOptions::default());
        let flushed = fill(&archive, &batches).await;
        if !disk.is_off() {
            break;
        }
        cuts += 1;
        let disk = disk.restart(Survival::Torn(operation));
        let archive = open(&disk, ArchiveOptions::default());
        for (at, _) in flushed.iter().enumerate().filter(|(_, flushed)| **flushed) {
            for number in at * 10..at * 10 + 10 {
                let id = id(START_MS + at as u64, number as u32);
                assert!(archive.find(&id).is_some(), "cut at {operation}: {number}");
            }
        }
    }
    assert!(cuts > 100, "{cuts}");
}

#[tokio::test]
async fn runs_of_any_size_become_few() {
    let archive = open(&SimStorage::new(), ArchiveOptions::default());
    let mut number = 0;
    for round in 0..80_u32 {
        let count = 1 + round.wrapping_mul(0x9e37_79b9) % 4_u32.pow(round % 5);
        let mut state = StockState::new(EngineConfig::default());
        let born_ms = START_MS + u64::from(round);
        archive.take_in(forgotten(&mut state, born_ms, number..number + count));
        archive.flush().await.unwrap();
        number += count;
    }
    tidied(&archive).await;
    let stats = archive.stats();
    assert_eq!(stats.records, u64::from(number) + 80);
    // Three of each size, from some hundred bytes to what all have together.
    assert!(stats.runs <= 3 * 6, "{stats:?}");
}

#[tokio::test]
async fn a_full_disk_is_waited_out() {
    let batches = thirty_batches();
    let disk = SimStorage::new();
    let archive = open(&disk, ArchiveOptions::default());
    disk.set_bytes_max(Some(100));
    archive.take_in(batches[0].clone());
    let error = archive.flush().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    assert!(archive.find(&id(START_MS, 1)).is_some(), "it is in memory still");
    assert_eq!(disk.list().unwrap(), [], "nothing is left half written");
    assert!(archive.stats().is_failing);
    disk.set_bytes_max(None);
    archive.flush().await.unwrap();
    tidied(&archive).await;
    assert!(!archive.stats().is_failing);
    assert_eq!(archive.stats().records, 11);
}

#[tokio::test]
async fn on_a_full_disk_the_oldest_answers_make_room() {
    let batches = thirty_batches();
    let disk = SimStorage::new();
    let archive = open(&disk, ArchiveOptions::default());
    write_in_turn(&archive, &batches[..3]).await;
    disk.set_bytes_max(Some(disk.bytes_used() + 100));
    archive.take_in(batches[3].clone());
    archive.flush().await.unwrap();
    let found = |at: u32| archive.find(&id(START_MS + u64::from(at), at * 10)).is_some();
    assert_eq!([0, 1, 2, 3].map(found), [false, true, true, true]);
}

#[tokio::test]
async fn who_needs_the_disk_gets_the_oldest_run() {
    let batches = thirty_batches();
    let disk = SimStorage::new();
    let archive = open(&disk, ArchiveOptions::default());
    write_in_turn(&archive, &batches[..2]).await;
    archive.make_room();
    tidied(&archive).await;
    let found = |at: u32| archive.find(&id(START_MS + u64::from(at), at * 10)).is_some();
    assert_eq!([0, 1].map(found), [false, true]);
    assert_eq!(disk.list().unwrap().len(), 1);
}

#[tokio::test]
async fn a_merge_that_has_no_room_waits_and_harms_nobody() {
    let batches = thirty_batches();
    let disk = SimStorage::new();
    let archive = open(&disk, ArchiveOptions::default());
    assert!(fill(&archive, &batches[..3]).await.into_iter().all(|flushed| flushed));
    let run = disk.bytes_used() / 3;
    disk.set_bytes_max(Some(disk.bytes_used() + run + run / 2));
    assert!(fill(&archive, &batches[3..4]).await.into_iter().all(|flushed| flushed));
    let stats = archive.stats();
    assert_eq!((stats.runs, stats.is_failing), (4, false), "they could be one");
    assert_eq!(disk.list().unwrap().len(), 4, "nothing is left half written");
    assert!((0..4).all(|at| archive.find(&id(START_MS + at, at as u32 * 10)).is_some()));
}

#[tokio::test]
async fn a_run_that_somebody_has_removed_is_gone_and_no_more() {
    let batches = thirty_batches();
    let disk = SimStorage::new();
    let archive = open(&disk, ArchiveOptions::default());
    assert!(fill(&archive, &batches[..3]).await.into_iter().all(|flushed| flushed));
    let name = disk.list().unwrap()[0].name.clone();
    disk.remove(&name).unwrap();
    assert!(fill(&archive, &batches[3..4]).await.into_iter().all(|flushed| flushed));
    let stats = archive.stats();
    assert_eq!((stats.runs, stats.is_failing), (1, false), "four were merged");
}

/// A record that is damaged where its id is must not hide the ones behind it from those who search.
#[tokio::test]
async fn a_damaged_id_hides_no_other_record_when_runs_are_merged() {
    let batches = thirty_batches();
    let disk = SimStorage::new();
    let archive = open(&disk, ArchiveOptions::default());
    archive.take_in(batches[0].clone());
    archive.flush().await.unwrap();
    let name = disk.list().unwrap()[0].name.clone();
    // The id of the third entry: it seems to be later than all.
    disk.flip(&name, 80 + 2 * 56, 0x80);
    drop(archive);
    let archive = open(&disk, ArchiveOptions::default());
    assert!(fill(&archive, &batches[1..8]).await.into_iter().all(|flushed| flushed));
    let stats = archive.stats();
    assert!(stats.runs < 8 && stats.damaged >= 1, "{stats:?}");
    for at in 0..8 {
        let born_ms = START_MS + at as u64;
        let known =
            (at * 10..at * 10 + 10).filter(|number| archive.find(&id(born_ms, *number)).is_some());
        assert_eq!(known.count(), if at == 0 { 9 } else { 10 }, "{at}");
    }
}

#[tokio::test]
async fn a_flipped_byte_gives_no_wrong_answer() {
    let mut state = StockState::new(EngineConfig::default());
    let batch = forgotten(&mut state, START_MS, 0..4);
    let disk = SimStorage::new();
    let archive = open(&disk, ArchiveOptions::default());
    archive.take_in(batch.clone());
    archive.flush().await.unwrap();
    let name = disk.list().unwrap()[0].name.clone();
    let bytes = disk.bytes_used();
    let (mut refused, mut missing) = (0, 0);
    for offset in 0..bytes {
        disk.flip(&name, offset, 0x10);
        let opened =
            Archive::open(Arc::new(disk.clone()), &world(), ArchiveOptions::default(), silent());
        match opened {
            Err(error) => {
                refused += 1;
                assert!(error.to_string().contains(&name), "{error}");
            }
            Ok(archive) => {
                for at in 0..batch.len() {
                    let record = batch.get(at).unwrap();
                    let found = archive.find(&record.id());
                    missing += u64::from(found.is_none());
                    assert!(found.is_none_or(|found| found == record), "byte {offset}");
                }
            }
        }
        disk.flip(&name, offset, 0x10);
    }
    assert!(refused >= 72, "{refused}: each byte of the head");
    assert!(missing >= 5 * 52, "{missing}: each byte of an entry but where its tail is");
}

#[tokio::test]
async fn what_is_too_old_or_too_much_goes() {
    let hour_ms = 60 * 60 * 1_000;
    let options = ArchiveOptions { retention_ms: 10 * hour_ms, ..ArchiveOptions::default() };
    let mut state = StockState::new(EngineConfig::default());
    let (old, young) = (
        forgotten(&mut state, START_MS, 0..10),
        forgotten(&mut state, START_MS + 5 * hour_ms, 0..10),
    );
    let disk = SimStorage::new();
    let archive = open(&disk, options);
    archive.tell_time(START_MS + hour_ms);
    archive.take_in(old);
    archive.flush().await.unwrap();
    archive.tell_time(START_MS + 5 * hour_ms);
    archive.take_in(young);
    archive.flush().await.unwrap();
    // Both sides of the boundary: so long after it was forgotten, however old its id was then.
    for (hours, is_there) in [(11 * hour_ms - 1, true), (11 * hour_ms, false)] {
        archive.tell_time(START_MS + hours);
        tidied(&archive).await;
        assert_eq!(archive.find(&id(START_MS, 1)).is_some(), is_there);
        assert!(archive.find(&id(START_MS + 5 * hour_ms, 1)).is_some());
    }
    assert_eq!((archive.stats().runs, archive.stats().records), (1, 11), "the old run is gone");
    drop(archive);

    // The disk has room for one run.
    let archive = open(&disk, ArchiveOptions { bytes_max: 1_500, ..options });
    let third = forgotten(&mut state, START_MS + 8 * hour_ms, 0..10);
    archive.tell_time(START_MS + 12 * hour_ms);
    archive.take_in(third);
    archive.flush().await.unwrap();
    tidied(&archive).await;
    assert_eq!(archive.stats().runs, 1);
    assert!(archive.find(&id(START_MS + 5 * hour_ms, 1)).is_none());
    assert!(archive.find(&id(START_MS + 8 * hour_ms, 1)).is_some());
}
