//! Snapshots: whatever the bytes say, they are refused, or the state is sound and goes on.

use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use stockd::engine::{EngineConfig, SnapshotLoader, StockState, batch};
use stockd::log::{SimStorage, Storage};
use stockd::replication::fuzzing::{self, Message};

use crate::input::{Input, put_block, u32_at};
use crate::traffic;

/// Bytes before a block's body: kind, length, checksum.
const BLOCK_HEADER_BYTES: usize = 12;
/// The kind of the last block, which counts the others.
const END: u8 = 10;

/// A snapshot's blocks. Byte 0 cuts them into chunks; bit 0 of byte 1 keeps wrong checksums, bit 1
/// a wrong count of blocks.
pub fn restore(data: &[u8]) {
    let mut input = Input(data);
    let (piece, flags) = (usize::from(input.u8()) * 16 + 1, input.u8());
    let mut bytes = input.0.to_vec();
    mend_blocks(&mut bytes, flags & 1 == 0, flags & 2 == 0);
    let config = EngineConfig { hash_seed: 99, ..EngineConfig::default() };
    let mut loader = SnapshotLoader::new(config);
    let fed = bytes.chunks(piece).try_for_each(|piece| loader.feed(piece));
    if let Ok(state) = fed.and_then(|()| loader.finish()) {
        goes_on(state, config);
    }
}

/// A snapshot's file, from its parts: what it says of its place in the log, and the engine's blocks,
/// cut into chunks of the length in byte 0. Bits 0 and 1 of byte 1 as in [`restore`]; bit 2 takes the
/// rest as a file as it is.
pub fn file(data: &[u8]) {
    let mut input = Input(data);
    let (piece, flags) = (usize::from(input.u8()) * 16 + 1, input.u8());
    let content = match flags & 4 {
        0 => {
            let meta = input.block();
            let mut blocks = input.0.to_vec();
            mend_blocks(&mut blocks, flags & 1 == 0, flags & 2 == 0);
            assemble(meta, &blocks, piece)
        }
        _ => input.0.to_vec(),
    };
    let storage = SimStorage::new();
    let name = "snapshot-1";
    let file = storage.create(name).expect("this disk has no faults");
    file.write_at(0, &content).expect("this disk has no faults");
    let storage: Arc<dyn Storage> = Arc::new(storage);
    let verified = fuzzing::verify_snapshot(storage.as_ref(), name);
    let config = EngineConfig { hash_seed: 99, ..EngineConfig::default() };
    if let Ok(state) = fuzzing::load_snapshot(storage.as_ref(), name, &config) {
        assert!(verified.is_ok(), "what loads has passed the check of a receiver");
        goes_on(state, config);
    }
}

fn assemble(meta: &[u8], blocks: &[u8], piece: usize) -> Vec<u8> {
    let mut out = b"STKDSNAP\x01\0\0\0".to_vec();
    out.put_u32_le(meta.len() as u32);
    out.put_slice(meta);
    out.put_u32_le(crc32fast::hash(meta));
    for chunk in blocks.chunks(piece) {
        out.put_u32_le(chunk.len() as u32);
        out.put_u32_le(crc32fast::hash(chunk));
        out.put_slice(chunk);
    }
    out.put_u32_le(0);
    out.put_u32_le(u32::MAX);
    out
}

/// Sets checksums and the count of blocks right, as far as the lengths make sense.
fn mend_blocks(bytes: &mut [u8], checksums: bool, count: bool) {
    let (mut at, mut blocks) = (0, 0_u64);
    while let Some(len) = u32_at(bytes, at + 4) {
        let body = at + BLOCK_HEADER_BYTES;
        let end = body + len as usize;
        if end > bytes.len() {
            return;
        }
        if count && bytes[at] == END && len == 8 {
            bytes[body..end].copy_from_slice(&blocks.to_le_bytes());
        }
        if checksums {
            let mut crc = crc32fast::Hasher::new();
            crc.update(&bytes[at..at + 8]);
            crc.update(&bytes[body..end]);
            bytes[at + 8..body].copy_from_slice(&crc.finalize().to_le_bytes());
        }
        (at, blocks) = (end, blocks + 1);
    }
}

/// A state that was accepted is sound, is the same after another snapshot, and serves.
fn goes_on(mut state: StockState, config: EngineConfig) {
    state.audit().expect("a restored state is sound");
    let bytes = traffic::snapshot(&mut state);
    let mut loader = SnapshotLoader::new(config);
    loader.feed(&bytes).expect("a state's own snapshot is taken");
    let mut twin = loader.finish().expect("a state's own snapshot is taken");
    assert_eq!(twin.digest(), state.digest(), "a snapshot is the state");
    let (index, now_ms) = (state.applied_index(), state.now().as_millis());
    if index > u64::MAX - 4 {
        return;
    }
    let mut ops = BytesMut::new();
    traffic::writes().iter().for_each(|op| ops.put_slice(op));
    let count = traffic::writes().len() as u32;
    let mut expire = BytesMut::new();
    batch::encode_expire(&mut expire, u32::MAX);
    // At once, then when all that lives now is over, then when it is forgotten.
    let entries = [
        traffic::entry(now_ms, count, &ops),
        traffic::entry(now_ms + 5 * 60 * 60 * 1_000, 1, &expire),
        traffic::entry(now_ms + 48 * 60 * 60 * 1_000, 1, &expire),
    ];
    for (index, entry) in (index + 1..).zip(entries) {
        state.apply(index, &entry, None);
        twin.apply(index, &entry, None);
    }
    state.audit().expect("a state stays sound");
    assert_eq!(twin.digest(), state.digest(), "restored and original go on alike");
}

/// Snapshots of an empty shop, and of one after some days.
pub fn streams() -> Vec<Vec<u8>> {
    let shops =
        [0, 1, 3, 9].into_iter().map(|rounds| traffic::snapshot(&mut traffic::state(rounds)));
    shops.map(|bytes| [&[255, 0], &bytes[..]].concat()).collect()
}

pub fn files() -> Vec<Vec<u8>> {
    let samples = fuzzing::samples();
    let meta = samples.iter().find(|(what, _)| *what == Message::SnapshotMeta);
    let (_, meta) = meta.expect("there is a sample of each message");
    let mut seeds = Vec::new();
    for rounds in [0, 3] {
        let blocks = traffic::snapshot(&mut traffic::state(rounds));
        let mut seed = vec![16, 0];
        put_block(&mut seed, meta);
        seed.extend_from_slice(&blocks);
        seeds.push(seed);
        seeds.push([&[0, 4], &assemble(meta, &blocks, 300)[..]].concat());
    }
    seeds
}
