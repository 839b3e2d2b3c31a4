//! What somebody would do who wants it not to be noticed.

use std::sync::Arc;

use stockd::events::{EventLog, EventOptions, Position};
use stockd::log::{SimStorage, Storage};
use stockd::protocol::ShardId;
use stockd::protocol::event::seal;
use stockd::world::{TaskThreads, World};

use super::node::SEGMENT_BYTES;
use super::{Files, segments};

/// Where the id of a record's first event is, if it has one.
pub const ID_AT: usize = 42;

/// A part of the events; the node was given a snapshot at the position before it.
pub struct Part<'a> {
    pub start: Position,
    pub records: &'a [Vec<u8>],
}

/// Writes all events anew, as a node would: checksums, chain, indexes and seals are right.
pub fn rewritten(files: &Files, parts: &[Part<'_>]) -> Files {
    let mut forged = files.clone();
    forged.retain(|name, _| !name.starts_with("events-"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let disk = SimStorage::new();
    runtime.block_on(async {
        let world = World { threads: Arc::new(TaskThreads), ..World::real() };
        let options = EventOptions { segment_bytes: SEGMENT_BYTES, ..EventOptions::default() };
        let storage = Arc::new(disk.clone());
        let is_gap = |text: &str| text.contains("was given a snapshot");
        let notice = Arc::new(move |text: &str| assert!(is_gap(text), "{text}"));
        let start = Position::START;
        let log = EventLog::open(storage, &world, options, ShardId(0), start, notice).unwrap();
        for part in parts {
            log.rebase(part.start).await.unwrap();
            part.records.iter().for_each(|record| drop(log.append(record.clone())));
            log.mark().await.unwrap();
        }
    });
    for entry in disk.list().unwrap() {
        let content = disk.read_small(&entry.name).unwrap().unwrap();
        forged.insert(entry.name, content);
    }
    forged
}

/// All events anew, one record changed.
pub fn with_record(files: &Files, records: &[Vec<u8>], at: usize, record: Vec<u8>) -> Files {
    let mut records = records.to_vec();
    records[at] = record;
    rewritten(files, &[Part { start: Position::START, records: &records }])
}

/// The record with one byte changed, and its checksum right.
pub fn changed(record: &[u8], at: usize) -> Vec<u8> {
    let mut record = record.to_vec();
    record[at] ^= 1;
    seal(&mut record);
    record
}

/// A snapshot file in which the on_hand of the first cell is one more, with all checksums right.
pub fn richer(snapshot: &[u8]) -> Vec<u8> {
    const CELLS: u8 = 4;
    let word = |bytes: &[u8], at: usize| u32::from_le_bytes(*bytes[at..].first_chunk().unwrap());
    let mut out = snapshot.to_vec();
    // Behind the header come chunks: length, checksum, whole blocks of the engine.
    let mut chunk = 16 + word(&out, 12) as usize + 4;
    loop {
        let len = word(&out, chunk) as usize;
        assert!(len > 0, "there are cells");
        let (begin, end) = (chunk + 8, chunk + 8 + len);
        let mut block = begin;
        while block < end {
            let body = block + 12..block + 12 + word(&out, block + 4) as usize;
            if out[block] == CELLS {
                let on_hand = body.start + 16;
                out[on_hand] += 1;
                let mut crc = crc32fast::Hasher::new();
                crc.update(&out[block..block + 8]);
                crc.update(&out[body.clone()]);
                out[block + 8..block + 12].copy_from_slice(&crc.finalize().to_le_bytes());
                let crc = crc32fast::hash(&out[begin..end]);
                out[chunk + 4..chunk + 8].copy_from_slice(&crc.to_le_bytes());
                return out;
            }
            block = body.end;
        }
        chunk = end;
    }
}

#[test]
fn what_is_written_anew_unchanged_is_the_same() {
    let life = super::node::life();
    let records = super::records(&life.files);
    let again = rewritten(&life.files, &[Part { start: Position::START, records: &records }]);
    assert!(again == life.files, "else what is forged below would differ in more than it says");
    assert!(segments(&again).len() > 5);
}
