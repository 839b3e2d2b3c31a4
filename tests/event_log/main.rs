//! The event log on a disk that fails: what a mark said is on disk is found, and what comes again is the same.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

use stockd::events::{Direction, EventLog, EventOptions, Key, Position, ReadError};
use stockd::log::SimStorage;
use stockd::protocol::event::{Cause, CellChange, Counts, EventKind, EventRecord, RecordWriter};
use stockd::protocol::{CellHandle, Reader, ReservationId, ShardId};
use stockd::world::{TaskThreads, World};

const START_MS: u64 = 1_700_000_000_000;
const SHARD: ShardId = ShardId(0);

fn world() -> World {
    World { threads: Arc::new(TaskThreads), ..World::real() }
}

fn id(number: u64) -> ReservationId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    ReservationId::from_parts(START_MS, random)
}

/// The record of the log entry of this index: one to four events, the first of them about the cell `index % 7`.
fn record(index: u64, first: u64) -> Vec<u8> {
    let at_us = (START_MS + index * 10) * 1_000;
    let mut writer = RecordWriter::begin(Vec::new(), SHARD, first, index, at_us);
    for event in 0..=index % 4 {
        let cell = CellHandle((index % 7 + event * 100) as u32);
        let after = Counts { on_hand: index as i64, ..Counts::default() };
        let change = CellChange { cell, after, delta: Counts { on_hand: 1, ..Counts::default() } };
        writer.cell_event(&Cause::new(EventKind::Received, id(index)), &change, false);
    }
    writer.finish()
}

/// The sequence number of the first event of an entry.
fn first_of(index: u64) -> u64 {
    1 + (1..index).map(|index| 1 + index % 4).sum::<u64>()
}

fn append(log: &EventLog, indices: impl IntoIterator<Item = u64>) {
    indices.into_iter().for_each(|index| log.append(record(index, first_of(index))));
}

fn open(disk: &SimStorage, options: EventOptions, position: Position) -> std::io::Result<EventLog> {
    EventLog::open(Arc::new(disk.clone()), &world(), options, SHARD, position, Arc::new(|_| ()))
}

/// All records from an event on, by the index of their entries.
fn read_all(log: &EventLog, mut from: u64) -> Vec<u64> {
    let mut indices = Vec::new();
    loop {
        let chunk = match log.read(from, 100) {
            Ok(chunk) => chunk,
            Err(ReadError::Ahead { next }) if next == from => return indices,
            Err(error) => panic!("{from}: {error}"),
        };
        let mut reader = Reader::new(&chunk.bytes);
        while !reader.is_empty() {
            let record = EventRecord::take(&mut reader).unwrap();
            assert_eq!(record.header().first, from);
            from = record.header().next();
            indices.push(record.header().index);
        }
        assert_eq!(chunk.next, from);
    }
}

const SMALL: EventOptions =
    EventOptions { retention_ms: u64::MAX, bytes_max: u64::MAX, segment_bytes: 4_096 };

#[tokio::test(start_paused = true)]
async fn what_is_appended_is_read_and_found_again() {
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    append(&log, 1..=500);
    let position = log.mark().await.unwrap();
    assert_eq!(position.next, first_of(501));
    assert_eq!(read_all(&log, 1), (1..=500).collect::<Vec<_>>());
    let stats = log.stats();
    assert!(stats.segments > 5, "{stats:?}");
    append(&log, 501..=600);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(read_all(&log, first_of(400)), (400..=600).collect::<Vec<_>>());
    drop(log);
    let disk = disk.restart(stockd::log::Survival::Kept);
    let log = open(&disk, SMALL, position).unwrap();
    assert_eq!(read_all(&log, 1), (1..=500).collect::<Vec<_>>());
    append(&log, 501..=700);
    log.mark().await.unwrap();
    assert_eq!(read_all(&log, 1), (1..=700).collect::<Vec<_>>());
    let mut seen = Vec::new();
    let mut visit = |event: &stockd::protocol::event::Event<'_>| {
        seen.push(event.index);
        ControlFlow::Continue(())
    };
    let key = Key::Cell(CellHandle(3));
    assert_eq!(
        log.scan(key, 1..u64::MAX, Direction::Backward, &mut visit).unwrap(),
        ControlFlow::Continue(())
    );
    let expected: Vec<_> = (1..=700).rev().filter(|index| index % 7 == 3).collect();
    assert_eq!(seen, expected);
}
