//! Evidence: whoever made it, it is refused, or it is all of what it says.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use stockd::audit::evidence::{Proof, verify, write};
use stockd::engine::{EngineConfig, StockState};
use stockd::events::{EventLog, EventOptions, Position};
use stockd::log::{SimStorage, Storage};
use stockd::replication::fuzzing;
use stockd::world::{TaskThreads, World};
use stockd_protocol::ShardId;

use crate::input::{Input, u32_at};
use crate::traffic;

/// Bytes before the cells.
const HEAD_BYTES: usize = 164;
/// Where the head says what is after the records: the next event, and the chain.
const AFTER_AT: usize = 112;
/// Where it says how many bytes the records have, and how many cells there are.
const RECORDS_AT: usize = 152;
const NAMED_AT: usize = 160;
const DIGEST_BYTES: usize = 32;

/// A file. Bit 0 of byte 0 keeps a wrong digest, bit 1 wrong checksums of records and a wrong chain.
pub fn file(data: &[u8]) {
    let mut input = Input(data);
    let flags = input.u8();
    let mut bytes = input.0.to_vec();
    if flags & 2 == 0 {
        mend_records(&mut bytes);
    }
    if flags & 1 == 0 {
        mend_digest(&mut bytes);
    }
    let Some(proof) = verified(&bytes) else { return };
    let head = &proof.head;
    assert_eq!(head.before.next + proof.events, head.after.next, "every event was read");
    assert!(proof.records > 0 && proof.defined <= u64::from(head.named));
    assert!(head.before.next <= head.from && head.to < head.after.next, "all that was asked for");
    bytes.pop();
    assert!(verified(&bytes).is_none(), "evidence without its last byte is none");
}

fn verified(mut bytes: &[u8]) -> Option<Proof> {
    verify(&mut bytes, &mut |_| ()).ok()
}

/// Sets the checksums of records right, the chain over them, and what the head says of both.
fn mend_records(bytes: &mut [u8]) {
    let Some(begin) = records_begin(bytes) else { return };
    let Some(end) = bytes.len().checked_sub(DIGEST_BYTES).filter(|end| *end >= begin) else {
        return;
    };
    let word = |bytes: &[u8], at: usize| {
        u64::from_le_bytes(*bytes[at..].first_chunk().expect("a head is there"))
    };
    let chain = *bytes[80..].first_chunk().expect("a head");
    let mut position = Position { next: word(bytes, 72), chain, is_whole: true };
    let mut at = begin;
    while let Some(len) = u32_at(&bytes[..end], at) {
        let to = at + 4 + len as usize;
        if len < 36 || to > end {
            break;
        }
        let crc = crc32fast::hash(&bytes[at + 8..to]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        let count = u32_at(bytes, at + 36).expect("a record has a header");
        let next = word(bytes, at + 8).saturating_add(u64::from(count));
        position.pass(&bytes[at..to], next);
        at = to;
    }
    bytes[AFTER_AT..AFTER_AT + 8].copy_from_slice(&position.next.to_le_bytes());
    bytes[AFTER_AT + 8..AFTER_AT + 40].copy_from_slice(&position.chain);
    let records_bytes = (end - begin) as u64;
    bytes[RECORDS_AT..RECORDS_AT + 8].copy_from_slice(&records_bytes.to_le_bytes());
}

/// Behind the names.
fn records_begin(bytes: &[u8]) -> Option<usize> {
    let mut at = HEAD_BYTES;
    for _ in 0..u32_at(bytes, NAMED_AT)? {
        at += 4;
        at += 1 + usize::from(*bytes.get(at)?);
        at += 1 + usize::from(*bytes.get(at)?);
    }
    Some(at)
}

fn mend_digest(bytes: &mut [u8]) {
    let Some(end) = bytes.len().checked_sub(DIGEST_BYTES).filter(|end| *end >= 32) else { return };
    // The chain after a record is the SHA-256 of the 32 bytes before it, and of the record.
    let chain = *bytes.first_chunk().expect("there are so many");
    let mut all = Position { next: 0, chain, is_whole: true };
    all.pass(&bytes[32..end], 0);
    bytes[end..].copy_from_slice(&all.chain);
}

/// Evidence of all events of some days, and of one in the middle.
pub fn files() -> Vec<Vec<u8>> {
    let disk = SimStorage::new();
    let identity = disk.create("identity").expect("this disk has no faults");
    identity.write_at(0, &fuzzing::sample_identity()).expect("this disk has no faults");
    let next = write_events(&disk);
    let ranges = [1..=next - 1, next / 2..=next / 2, 1..=1];
    let evidence = ranges.map(|range| {
        let mut seed = vec![0];
        write(&disk, range, &mut seed, &mut |_, _, _| ()).expect("all events are there");
        assert!(verified(&seed[1..]).is_some(), "a seed is sound");
        seed
    });
    evidence.into()
}

/// The events of the shop's days; gives the number after the last one.
fn write_events(disk: &SimStorage) -> u64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime without sockets").block_on(async {
        let world = World { threads: Arc::new(TaskThreads), ..World::real() };
        let (storage, options) = (Arc::new(disk.clone()), EventOptions::default());
        let (shard, notice) = (ShardId(0), Arc::new(|text: &str| panic!("{text}")));
        let log = EventLog::open(storage, &world, options, shard, Position::START, notice);
        let log = log.expect("the directory is empty");
        let mut state = StockState::new(EngineConfig::default());
        state.keep_events(shard);
        for round in 0..3 {
            let mut ops = BytesMut::new();
            traffic::writes().iter().for_each(|op| ops.put_slice(op));
            let count = traffic::writes().len() as u32;
            let entry = traffic::entry(traffic::START_MS + round * 700_000, count, &ops);
            state.apply(round + 1, &entry, None);
            state.take_events().into_iter().for_each(|record| drop(log.append(record)));
        }
        log.mark().await.expect("this disk has no faults").next
    })
}
