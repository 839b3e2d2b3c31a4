//! Are two states the same, and where are they not? By the blocks of their snapshots, whose bytes are a function of
//! the log alone.
//!
//! ```text
//! snapshot ─▶ kind and checksum of each block ─▶ fingerprint ─▶ the same? else: which blocks
//!                                                               their bytes, side by side ─▶ which entries
//! ```

use std::collections::BTreeMap;

use bytes::{BufMut, BytesMut};

use crate::protocol::event::Counts;
use crate::protocol::{CellHandle, Reader, ReservationId, Truncated};

use super::cells::CELL_BYTES;
use super::crossings::KEPT_BYTES;
use super::cut::PAGE;
use super::details::ROW_BYTES;
use super::hash::Digest;
use super::record::{Record, Standing};
use super::slab::Entry;
use super::snapshot::{BLOCK_HEADER_BYTES, Kind};

/// A block of a snapshot: its kind, and the how-manieth of that kind it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    kind: u8,
    at: u32,
}

impl Place {
    /// Appends it.
    pub fn encode(self, out: &mut BytesMut) {
        out.put_u8(self.kind);
        out.put_u32_le(self.at);
    }

    /// Takes it off the front of a body.
    ///
    /// # Errors
    /// It is cut off.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self { kind: reader.u8()?, at: reader.u32()? })
    }
}

/// The checksums of a snapshot's blocks: a few bytes for each 64 KiB of a state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Fingerprint {
    blocks: BTreeMap<u8, Vec<u32>>,
    bytes: u64,
}

impl Fingerprint {
    /// Takes the next whole blocks in, and shows each.
    ///
    /// # Panics
    /// They are none: the engine made them, or a file whose checksums were right.
    pub fn add(&mut self, mut chunk: &[u8], mut show: impl FnMut(Place, &[u8])) {
        self.bytes += chunk.len() as u64;
        while let Some((header, rest)) = chunk.split_first_chunk::<BLOCK_HEADER_BYTES>() {
            let [kind, .., a, b, c, d, e, f, g, h] = *header;
            let len = u32::from_le_bytes([a, b, c, d]) as usize;
            assert!(len <= rest.len(), "a chunk has whole blocks");
            let (body, rest) = rest.split_at(len);
            let blocks = self.blocks.entry(kind).or_default();
            show(Place { kind, at: blocks.len() as u32 }, body);
            blocks.push(u32::from_le_bytes([e, f, g, h]));
            chunk = rest;
        }
        assert!(chunk.is_empty(), "a chunk has whole blocks");
    }

    /// Bytes of all blocks so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The same for the same state.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        for (kind, blocks) in &self.blocks {
            digest.word(u64::from(*kind));
            blocks.iter().for_each(|crc| digest.word(u64::from(*crc)));
        }
        digest.finish()
    }

    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.bytes);
        out.put_u8(self.blocks.len() as u8);
        for (kind, blocks) in &self.blocks {
            out.put_u8(*kind);
            out.put_u32_le(blocks.len() as u32);
            blocks.iter().for_each(|crc| out.put_u32_le(*crc));
        }
    }

    /// Takes it off the front of a body.
    ///
    /// # Errors
    /// It is cut off.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let mut print = Self { bytes: reader.u64()?, ..Self::default() };
        for _ in 0..reader.u8()? {
            let (kind, count) = (reader.u8()?, reader.u32()? as usize);
            let crcs = reader.bytes(count.saturating_mul(4))?.chunks_exact(4);
            let crcs = crcs.map(|crc| u32::from_le_bytes(*crc.first_chunk().expect("four bytes")));
            print.blocks.insert(kind, crcs.collect());
        }
        Ok(print)
    }

    /// The blocks that the two do not share.
    pub fn differing(&self, other: &Self) -> Vec<Place> {
        let kinds = self.blocks.keys().chain(other.blocks.keys());
        let mut places = Vec::new();
        for kind in std::collections::BTreeSet::from_iter(kinds.copied()) {
            let [one, two] = [self, other].map(|print| print.blocks.get(&kind));
            let [one, two] = [one, two].map(|blocks| blocks.map_or(&[][..], Vec::as_slice));
            let differ = (0..one.len().max(two.len())).filter(|at| one.get(*at) != two.get(*at));
            places.extend(differ.map(|at| Place { kind, at: at as u32 }));
        }
        places
    }
}

/// An entry that differs between two states.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// What it is: `cell`, `reservation`, or a part of a snapshot.
    pub part: &'static str,
    /// Its number among those.
    pub number: u32,
    /// The cell that it is, or is about.
    pub cell: Option<CellHandle>,
    /// The reservation, transfer or write that it is.
    pub id: Option<ReservationId>,
    /// What is in memory.
    pub live: String,
    /// What it should be: what the log makes, or what another node has.
    pub right: String,
}

/// The entries of a block that differ.
pub fn differences(place: Place, live: &[u8], right: &[u8]) -> Vec<Difference> {
    let (part, bytes) = part_of(place.kind);
    // Another node may have said which place.
    let first = place.at.saturating_mul(PAGE as u32);
    let entry = |block: &'_ [u8], at: usize| {
        let begin = (at * bytes).min(block.len());
        block[begin..block.len().min(begin + bytes)].to_vec()
    };
    let count = live.len().max(right.len()).div_ceil(bytes);
    let differ = (0..count).map(|at| (at, entry(live, at), entry(right, at)));
    let differ = differ.filter(|(_, live, right)| live != right);
    differ
        .map(|(at, live, right)| {
            let number = first.saturating_add(at as u32);
            let known = if right.len() == bytes { &right } else { &live };
            let (cell, id) = about(place.kind, number, known);
            let [live, right] = [&live, &right].map(|entry| show(place.kind, entry));
            Difference { part, number, cell, id, live, right }
        })
        .collect()
}

/// What a kind of block holds, and the bytes of an entry; names are of no one length, and shown as a whole.
fn part_of(kind: u8) -> (&'static str, usize) {
    let is = |one: Kind| one as u8 == kind;
    match kind {
        _ if is(Kind::Cells) => ("cell", CELL_BYTES),
        _ if is(Kind::Details) => ("details", ROW_BYTES),
        _ if is(Kind::Records) => ("record", Record::BYTES),
        _ if is(Kind::Lines) => ("line", 24),
        _ if is(Kind::Groups) => ("group", 24),
        _ if is(Kind::Annexes) => ("annex", 32),
        _ if is(Kind::Shares) => ("share", 32),
        _ if is(Kind::Steps) => ("step", 24),
        _ if is(Kind::Owners) => ("owner", 64),
        _ if is(Kind::Items) => ("item", 116),
        _ if is(Kind::Crossings) => ("crossing", KEPT_BYTES),
        _ if is(Kind::Ticks) => ("tick", 12),
        _ if is(Kind::Buckets) => ("bucket", 12),
        _ if is(Kind::Head) => ("head", usize::MAX),
        _ if is(Kind::End) => ("end", usize::MAX),
        _ => ("names", usize::MAX),
    }
}

/// The words of a row of details behind its counters, in their order.
const RULE_NAMES: [&str; 6] = [
    "feed_sequence",
    "epoch",
    "oversell_limit",
    "buffer",
    "reorder_point_and_1",
    "owner_max_and_bits",
];

fn about(kind: u8, number: u32, entry: &[u8]) -> (Option<CellHandle>, Option<ReservationId>) {
    if kind == Kind::Cells as u8 {
        return (Some(CellHandle(number)), None);
    }
    if kind == Kind::Details as u8 && entry.len() == ROW_BYTES {
        let cell = entry.first_chunk().map(|cell| CellHandle(u32::from_le_bytes(*cell)));
        return (cell, None);
    }
    if kind == Kind::Records as u8 && entry.len() == Record::BYTES {
        let record = Record::take(entry);
        return (Some(CellHandle(record.cell)), Some(record.id));
    }
    (None, None)
}

fn show(kind: u8, entry: &[u8]) -> String {
    if entry.is_empty() {
        return "nothing".to_owned();
    }
    if kind == Kind::Cells as u8 && entry.len() == CELL_BYTES {
        let counters = [16, 24, 32].map(|at| i64::from_le_bytes(eight(entry, at)));
        let due = u64::from_le_bytes(eight(entry, 8));
        let [on_hand, reserved, committed] = counters;
        return format!("on_hand={on_hand} reserved={reserved} committed={committed} due={due}");
    }
    if kind == Kind::Records as u8 && entry.len() == Record::BYTES {
        let record = Record::take(entry);
        return match record.standing() {
            None => "free".to_owned(),
            Some(Standing::Reservation(state)) => format!(
                "{} cell={} quantity={} deadline_ms={}",
                state.name(),
                record.cell,
                record.quantity,
                record.deadline.0
            ),
            Some(other) => format!("{other:?} cell={} quantity={}", record.cell, record.quantity),
        };
    }
    if kind == Kind::Details as u8 && entry.len() == ROW_BYTES {
        let word = |at: usize| i64::from_le_bytes(eight(entry, 4 + 8 * at));
        let names = Counts::NAMES[3..].iter().chain(&RULE_NAMES);
        let named = names.enumerate().map(|(at, name)| format!("{name}={}", word(at)));
        return named.collect::<Vec<_>>().join(" ");
    }
    // The heads of long ones: what differs is told by its part and number already.
    entry.iter().take(64).map(|byte| format!("{byte:02x}")).collect()
}

fn eight(bytes: &[u8], at: usize) -> [u8; 8] {
    *bytes[at..].first_chunk().expect("the caller has looked how many there are")
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::engine::batch::BatchBuilder;
    use crate::engine::{EngineConfig, StockState};
    use crate::protocol::{CellRef, Line, Op, OpFlags, OpId};
    use crate::world::UnixMicros;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn id(number: u8) -> ReservationId {
        ReservationId::from_parts(NOW_MS, [number; 10])
    }

    fn apply(state: &mut StockState, fill: impl FnOnce(&mut BytesMut) -> u32) {
        let mut entry = BytesMut::new();
        let batch = BatchBuilder::begin(&mut entry);
        let count = fill(&mut entry);
        batch.finish(&mut entry, UnixMicros(NOW_MS * 1_000), count);
        state.apply(state.applied_index() + 1, &entry, None);
    }

    /// A state with stock and a reservation.
    fn state(hash_seed: u64) -> StockState {
        let mut state = StockState::new(EngineConfig { hash_seed, ..EngineConfig::default() });
        apply(&mut state, |out| {
            (0..3_000).for_each(|n: u32| Op::encode_define(out, b"w", n.to_string().as_bytes()));
            3_000
        });
        apply(&mut state, |out| {
            let cell = CellRef::Handle(CellHandle(2_050));
            Op::encode_receive(out, OpFlags::default(), None, OpId(id(1).0), cell, 10);
            let lines = [Line { cell, quantity: 3 }];
            Op::encode_reserve(out, OpFlags::default(), None, id(2), 60_000, &lines);
            2
        });
        state
    }

    fn print(state: &mut StockState) -> (Fingerprint, BTreeMap<Place, Vec<u8>>) {
        let (mut print, mut blocks) = (Fingerprint::default(), BTreeMap::new());
        let mut cut = state.begin_snapshot();
        while let Some(chunk) = state.snapshot_chunk(&mut cut, 10_000) {
            print.add(&chunk, |place, body| drop(blocks.insert(place, body.to_vec())));
        }
        state.end_snapshot(cut);
        (print, blocks)
    }

    #[test]
    fn the_same_log_makes_the_same_fingerprint_and_a_fault_is_found_where_it_is() {
        let (mut one, mut other) = (state(1), state(2));
        let (right, right_blocks) = print(&mut one);
        let (same, _) = print(&mut other);
        assert!(right.differing(&same).is_empty());
        assert_eq!(right.digest(), same.digest());
        let mut told = BytesMut::new();
        right.encode(&mut told);
        assert_eq!(Fingerprint::take(&mut Reader::new(&told)), Ok(right.clone()));
        assert!(Fingerprint::take(&mut Reader::new(&told[..told.len() - 1])).is_err());

        other.plant_fault(CellHandle(2_050), -1);
        let (wrong, wrong_blocks) = print(&mut other);
        assert_ne!(right.digest(), wrong.digest());
        let places = right.differing(&wrong);
        assert_eq!(places, [Place { kind: Kind::Cells as u8, at: 2 }]);
        let found = differences(places[0], &wrong_blocks[&places[0]], &right_blocks[&places[0]]);
        assert_eq!(found.len(), 1, "{found:?}");
        let Difference { part, number, cell, live, right, .. } = &found[0];
        assert_eq!((*part, *number, *cell), ("cell", 2_050, Some(CellHandle(2_050))));
        assert!(live.starts_with("on_hand=9 reserved=3"), "{live}");
        assert!(right.starts_with("on_hand=10 reserved=3"), "{right}");
    }

    #[test]
    fn a_record_that_is_missing_is_named() {
        let (mut one, mut other) = (state(1), state(1));
        apply(&mut one, |out| {
            Op::encode_release(out, OpFlags::default(), None, id(2));
            1
        });
        let [(one, one_blocks), (other, other_blocks)] = [print(&mut one), print(&mut other)];
        let places = one.differing(&other);
        let found: Vec<_> = places
            .iter()
            .flat_map(|place| differences(*place, &one_blocks[place], &other_blocks[place]))
            .filter(|difference| difference.id == Some(id(2)))
            .collect();
        assert_eq!(found.len(), 1, "{places:?}");
        assert!(found[0].live.starts_with("RELEASED"), "{found:?}");
        assert!(found[0].right.starts_with("ACTIVE"), "{found:?}");
    }
}
