//! Snapshots of the engine: complete, consistent while the state goes on changing, and refused when
//! damaged.

use bytes::{BufMut, BytesMut};
use stockd::engine::batch::{self, BatchBuilder};
use stockd::engine::{EngineConfig, SnapshotError, SnapshotLoader, StockState};
use stockd::protocol::{CellHandle, CellRef, Line, Op, OpFlags, OpId, ReservationId};
use stockd::world::UnixMicros;

const START_MS: u64 = 1_700_000_000_000;

struct Shard {
    state: StockState,
}

impl Shard {
    fn new() -> Self {
        Self { state: StockState::new(EngineConfig::default()) }
    }

    fn apply(&mut self, now_ms: u64, op_count: u32, ops: &[u8]) {
        let mut entry = BytesMut::new();
        let batch = BatchBuilder::begin(&mut entry);
        entry.put_slice(ops);
        batch.finish(&mut entry, UnixMicros(now_ms * 1_000), op_count);
        self.state.apply(self.state.applied_index() + 1, &entry, None);
    }
}

fn id(millis: u64, number: u64) -> ReservationId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    ReservationId::from_parts(millis, random)
}

/// Cells, reservations of one and of two lines, some confirmed, released, extended, and time enough
/// for some to fall due.
fn work(shard: &mut Shard, from: u64, steps: u64) {
    for step in from..from + steps {
        let now = START_MS + step * 20;
        let mut ops = BytesMut::new();
        let cell = |n: u64| CellRef::Handle(CellHandle((n % 50) as u32));
        let sku = (step % 50).to_string();
        let named = CellRef::Name { warehouse: b"w", sku: sku.as_bytes() };
        let op_id = OpId(id(now, step << 1).0);
        Op::encode_receive(&mut ops, OpFlags::DEFINE, None, op_id, named, 3);
        let lines = [
            Line { cell: cell(step / 2), quantity: 1 },
            Line { cell: cell(step / 3), quantity: 1 },
        ];
        let count = 1 + (step % 2) as usize;
        let ttl_ms = 1_000 + (step % 7) as u32 * 500;
        let this = id(now, step << 1 | 1);
        Op::encode_reserve(&mut ops, OpFlags::default(), None, this, ttl_ms, &lines[..count]);
        let old = id(now.saturating_sub(200), (step.saturating_sub(10)) << 1 | 1);
        match step % 5 {
            0 => Op::encode_confirm(&mut ops, OpFlags::default(), None, old),
            1 => Op::encode_release(&mut ops, OpFlags::default(), None, old),
            2 => Op::encode_extend(&mut ops, OpFlags::default(), None, old, 5_000),
            3 => batch::encode_expire(&mut ops, 4),
            _ => batch::encode_tick(&mut ops),
        }
        shard.apply(now, 3, &ops);
    }
}

fn snapshot(shard: &mut Shard, mut between: impl FnMut(&mut Shard)) -> Vec<u8> {
    let mut cut = shard.state.begin_snapshot();
    let mut bytes = Vec::new();
    while let Some(chunk) = shard.state.snapshot_chunk(&mut cut, 10_000) {
        bytes.extend_from_slice(&chunk);
        between(shard);
    }
    shard.state.end_snapshot(cut);
    bytes
}

fn restore(bytes: &[u8]) -> Result<StockState, SnapshotError> {
    let mut loader = SnapshotLoader::new(EngineConfig { hash_seed: 99, ..EngineConfig::default() });
    for part in bytes.chunks(777) {
        loader.feed(part)?;
    }
    loader.finish()
}

#[test]
fn a_restored_state_goes_on_exactly_alike() {
    let mut shard = Shard::new();
    work(&mut shard, 0, 4_000);
    shard.state.audit().unwrap();
    let bytes = snapshot(&mut shard, |_| ());
    let mut restored = Shard { state: restore(&bytes).unwrap() };
    assert_eq!(restored.state.digest(), shard.state.digest());
    assert_eq!(restored.state.applied_index(), 4_000);
    work(&mut shard, 4_000, 1_000);
    work(&mut restored, 4_000, 1_000);
    assert_eq!(restored.state.digest(), shard.state.digest());
    assert!(shard.state.stats().confirmed > 0 && shard.state.stats().active > 0);
}

#[test]
fn a_cut_is_of_one_moment_while_the_state_goes_on() {
    let mut shard = Shard::new();
    work(&mut shard, 0, 4_000);
    let digest = shard.state.digest();
    let mut step = 4_000;
    let bytes = snapshot(&mut shard, |shard| {
        work(shard, step, 50);
        step += 50;
    });
    assert!(step > 4_500, "the state went on while the snapshot was taken");
    assert_eq!(restore(&bytes).unwrap().digest(), digest);
    assert_ne!(shard.state.digest(), digest);
}

#[test]
fn readers_of_a_replaced_state_see_the_new_one() {
    let mut shard = Shard::new();
    work(&mut shard, 0, 30);
    let mut behind = Shard::new();
    work(&mut behind, 0, 30);
    let reader = behind.state.cells();
    assert_eq!(reader.handle(b"w", b"45"), None);
    work(&mut shard, 30, 500);
    let bytes = snapshot(&mut shard, |_| ());
    behind.state.replace_from(restore(&bytes).unwrap());
    let cell = reader.handle(b"w", b"45").unwrap();
    assert_eq!(reader.counters(cell), shard.state.cells().counters(cell));
    assert_eq!(behind.state.digest(), shard.state.digest());
    work(&mut shard, 530, 100);
    work(&mut behind, 530, 100);
    assert_eq!(behind.state.digest(), shard.state.digest());
    assert_eq!(reader.counters(cell), shard.state.cells().counters(cell));
}

#[test]
fn a_damaged_snapshot_is_refused() {
    let mut shard = Shard::new();
    work(&mut shard, 0, 200);
    let bytes = snapshot(&mut shard, |_| ());
    assert!(restore(&bytes).is_ok());
    for at in (0..bytes.len()).step_by(501).chain(0..24) {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        assert!(restore(&damaged).is_err(), "byte {at} of {}", bytes.len());
    }
    for len in (0..bytes.len()).step_by(1_333) {
        assert!(restore(&bytes[..len]).is_err(), "cut at {len}");
    }
    assert!(restore(&[&bytes[..], &[0]].concat()).is_err());
}

/// Damage under a valid checksum: whatever the fields say, no panic; and what is accepted is sound.
#[test]
fn no_field_can_crash_the_loader() {
    let mut shard = Shard::new();
    work(&mut shard, 0, 60);
    let bytes = snapshot(&mut shard, |_| ());
    let mut refused = 0;
    let mut at = 0;
    while at < bytes.len() {
        let len = u32::from_le_bytes(bytes[at + 4..at + 8].try_into().unwrap()) as usize;
        // Far into a block of entries, more of the same is learned.
        for byte in (at + 12..at + 12 + len.min(1_200)).step_by(3) {
            for flip in [0x01, 0xff] {
                let mut damaged = bytes.clone();
                damaged[byte] ^= flip;
                let mut crc = crc32fast::Hasher::new();
                crc.update(&damaged[at..at + 8]);
                crc.update(&damaged[at + 12..at + 12 + len]);
                damaged[at + 8..at + 12].copy_from_slice(&crc.finalize().to_le_bytes());
                match restore(&damaged) {
                    Ok(state) => state.audit().unwrap(),
                    Err(_) => refused += 1,
                }
            }
        }
        at += 12 + len;
    }
    assert!(refused > 500, "{refused}");
}
