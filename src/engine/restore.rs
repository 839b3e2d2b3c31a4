//! From a snapshot's bytes back to a state. The bytes come from a disk or a peer: nothing in them can
//! panic, and nothing is taken on trust.
//!
//! Checked: block headers, checksums, order and counts; then every reference and every sum
//! (`audit.rs`), since a checksum only says that these are the bytes somebody wrote.

use bytes::{Buf, BytesMut};

use crate::protocol::limits::{COUNTER_MAX, SKU_BYTES_MAX, WAREHOUSE_BYTES_MAX};
use crate::protocol::{OwnerLimits, Reader, Truncated};
use crate::world::UnixMicros;

use super::EngineConfig;
use super::annex::{Annex, Annexes, Share, Step};
use super::catalogue::{Catalogue, Item};
use super::cell::{Details, Sums};
use super::cell_writer::CellWriter;
use super::cells::{CELL_BYTES, decode};
use super::crossings::Crossings;
use super::details::ROW_BYTES;
use super::holds::{FORGET_SPAN, Holds};
use super::names::{Names, SkuId};
use super::owners::{Owner, Owners};
use super::record::{ExtraLine, Group, Record};
use super::ring::{NIL, Ring};
use super::slab::{Entry, Slab};
use super::snapshot::{BLOCK_BODY_BYTES_MAX, BLOCK_HEADER_BYTES, Kind, MAGIC, VERSION, block_crc};
use super::state::StockState;
use super::time::HoldClock;
use super::wheel::{SPAN_TICKS, Wheel};

/// Times past the year 140,000 are no times: keeps every later sum within 64 bits.
pub(super) const MILLIS_MAX: u64 = 1 << 50;
/// Half a million years of a million events a second.
const EVENTS_MAX: u64 = 1 << 63;

/// A snapshot that cannot be restored. Retrying the same bytes fails again; the snapshot must be
/// taken or fetched anew.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SnapshotError {
    /// Where the block at fault begins, or the total length if all blocks were read.
    pub offset: u64,
    /// What is wrong.
    pub fault: SnapshotFault,
}

/// What is wrong with a snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SnapshotFault {
    /// A block has another length than its kind allows, or holds more items than the head says.
    Block,
    /// It was taken under another grace, retention or longest life than this node has.
    Config,
    /// The content breaks this rule.
    Content(&'static str),
    /// A checksum does not match: the bytes are damaged.
    Crc,
    /// A block of another kind was expected.
    Order,
    /// The bytes end before the snapshot does.
    Truncated,
    /// It has another format version, or is no snapshot at all.
    Version,
}

impl std::fmt::Display for SnapshotError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "snapshot at byte {}: ", self.offset)?;
        match self.fault {
            SnapshotFault::Block => f.write_str("a block does not fit its kind"),
            SnapshotFault::Config => f.write_str("taken under other settings"),
            SnapshotFault::Content(rule) => write!(f, "broken rule: {rule}"),
            SnapshotFault::Crc => f.write_str("checksum mismatch"),
            SnapshotFault::Order => f.write_str("blocks out of order"),
            SnapshotFault::Truncated => f.write_str("ends too early"),
            SnapshotFault::Version => f.write_str("not a snapshot of this version"),
        }
    }
}

impl std::error::Error for SnapshotError {}

impl From<Truncated> for SnapshotFault {
    fn from(_: Truncated) -> Self {
        Self::Block
    }
}

/// Restores a state from chunks of a snapshot, cut anywhere.
pub struct SnapshotLoader {
    config: EngineConfig,
    pending: BytesMut,
    offset: u64,
    blocks: u64,
    /// The kind of the last block; `None` before the first.
    kind: Option<Kind>,
    head: Head,
    cells: CellWriter,
    records: Slab<Record>,
    lines: Slab<ExtraLine>,
    groups: Slab<Group>,
    annexes: Slab<Annex>,
    shares: Slab<Share>,
    steps: Slab<Step>,
    owners: Slab<Owner>,
    items: Slab<Item>,
    crossings: Crossings,
    ring: Ring,
    forget: Ring,
    ticks: u32,
    buckets: u32,
}

#[derive(Default)]
struct Head {
    index: u64,
    now: UnixMicros,
    shift_ms: u64,
    warehouses: u32,
    skus: u32,
    cells: u32,
    details: u32,
    records: u32,
    lines: u32,
    groups: u32,
    annexes: u32,
    shares: u32,
    steps: u32,
    owners: u32,
    items: u32,
    ticks: u32,
    buckets: u32,
    aliases: u32,
    crossings: u32,
    free: [(u32, u32); 8],
    limits: OwnerLimits,
    next_crossing: u64,
    next_event: u64,
}

impl SnapshotLoader {
    /// Begins. `config` must be that of the snapshot, except for its seed.
    pub fn new(config: EngineConfig) -> Self {
        Self {
            config,
            pending: BytesMut::new(),
            offset: 0,
            blocks: 0,
            kind: None,
            head: Head::default(),
            cells: CellWriter::new(config.hash_seed),
            records: Slab::new(),
            lines: Slab::new(),
            groups: Slab::new(),
            annexes: Slab::new(),
            shares: Slab::new(),
            steps: Slab::new(),
            owners: Slab::new(),
            items: Slab::new(),
            crossings: Crossings::default(),
            ring: Ring::new(SPAN_TICKS),
            forget: Ring::new(FORGET_SPAN),
            ticks: 0,
            buckets: 0,
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// They are no snapshot's; the loader is then of no further use.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        self.pending.extend_from_slice(bytes);
        while let Some(len) = self.block_len().map_err(|fault| self.error(fault))? {
            let block = self.pending.split_to(len);
            self.block(&block).map_err(|fault| self.error(fault))?;
            self.offset += len as u64;
            self.blocks += 1;
        }
        Ok(())
    }

    /// Checks that the snapshot is whole and consistent, and gives the state.
    ///
    /// # Errors
    /// It is not.
    pub fn finish(self) -> Result<StockState, SnapshotError> {
        let offset = self.offset;
        self.build().map_err(|fault| SnapshotError { offset, fault })
    }

    fn error(&self, fault: SnapshotFault) -> SnapshotError {
        SnapshotError { offset: self.offset, fault }
    }

    /// Length of the next block, or `None` if it is not all there yet.
    fn block_len(&self) -> Result<Option<usize>, SnapshotFault> {
        let Some(len) = self.pending.get(4..8) else { return Ok(None) };
        let len = (&mut &*len).get_u32_le() as usize;
        if len > BLOCK_BODY_BYTES_MAX {
            return Err(SnapshotFault::Block);
        }
        let len = BLOCK_HEADER_BYTES + len;
        Ok((self.pending.len() >= len).then_some(len))
    }

    fn block(&mut self, block: &[u8]) -> Result<(), SnapshotFault> {
        let (header, body) = block.split_at(BLOCK_HEADER_BYTES);
        let (header, crc) = header.split_at(8);
        if block_crc(header, body) != (&mut &*crc).get_u32_le() {
            return Err(SnapshotFault::Crc);
        }
        let kind = self.next_kind(header[0])?;
        self.kind = Some(kind);
        let mut reader = Reader::new(body);
        while !reader.is_empty() {
            self.item(kind, &mut reader)?;
        }
        Ok(())
    }

    /// Blocks come in the order of their kinds; a kind may take many blocks, or none.
    fn next_kind(&self, byte: u8) -> Result<Kind, SnapshotFault> {
        let first = match self.kind {
            None => Some(Kind::Head),
            Some(Kind::Head) => Kind::Head.next(),
            Some(Kind::End) => None,
            kind => kind,
        };
        let kind = std::iter::successors(first, |kind| kind.next()).find(|k| *k as u8 == byte);
        match (self.kind, kind) {
            (None, Some(kind)) if kind != Kind::Head => Err(SnapshotFault::Version),
            (None, None) => Err(SnapshotFault::Version),
            (_, kind) => kind.ok_or(SnapshotFault::Order),
        }
    }

    fn item(&mut self, kind: Kind, reader: &mut Reader<'_>) -> Result<(), SnapshotFault> {
        let head = &self.head;
        match kind {
            Kind::Head => self.head(reader),
            Kind::Warehouses => add_name(
                &self.cells.table().warehouses,
                head.warehouses,
                WAREHOUSE_BYTES_MAX,
                reader,
            ),
            Kind::Skus => add_name(&self.cells.table().skus, head.skus, SKU_BYTES_MAX, reader),
            Kind::Cells => self.cell(reader),
            Kind::Details => self.details(reader),
            Kind::Records => push(&mut self.records, head.records, reader),
            Kind::Lines => push(&mut self.lines, head.lines, reader),
            Kind::Groups => push(&mut self.groups, head.groups, reader),
            Kind::Annexes => push(&mut self.annexes, head.annexes, reader),
            Kind::Shares => push(&mut self.shares, head.shares, reader),
            Kind::Steps => push(&mut self.steps, head.steps, reader),
            Kind::Owners => push(&mut self.owners, head.owners, reader),
            Kind::Aliases => {
                let names = &self.cells.table().aliases.names;
                add_name(names, head.aliases, SKU_BYTES_MAX, reader)
            }
            Kind::Items => push(&mut self.items, head.items, reader),
            Kind::Crossings => {
                let taken = self.crossings.take(reader)?;
                taken.ok_or(SnapshotFault::Content("a crossing is one, and not too many are kept"))
            }
            Kind::Ticks => chain(&mut self.ring, &mut self.ticks, head.ticks, reader),
            Kind::Buckets => chain(&mut self.forget, &mut self.buckets, head.buckets, reader),
            Kind::End if reader.u64()? == self.blocks => Ok(()),
            Kind::End => Err(SnapshotFault::Order),
        }
    }

    fn head(&mut self, reader: &mut Reader<'_>) -> Result<(), SnapshotFault> {
        if reader.bytes(8)? != MAGIC || reader.u32()? != VERSION {
            return Err(SnapshotFault::Version);
        }
        reader.u32()?;
        let EngineConfig { retention_ms, max_life_ms, sample_refusals, .. } = self.config;
        let grace_ms = self.config.grace_rounded();
        for our in [grace_ms, retention_ms, max_life_ms, u64::from(sample_refusals)] {
            if reader.u64()? != our {
                return Err(SnapshotFault::Config);
            }
        }
        let head = &mut self.head;
        (head.index, head.now, head.shift_ms) =
            (reader.u64()?, UnixMicros(reader.u64()?), reader.u64()?);
        let (front, forget_front) = (reader.u64()?, reader.u64()?);
        let times = [head.now.as_millis(), head.shift_ms, front, forget_front];
        if times.iter().any(|time| *time > MILLIS_MAX) {
            return Err(SnapshotFault::Content("times are within range"));
        }
        self.ring.skip_empty(front);
        self.forget.skip_empty(forget_front);
        for count in [
            &mut head.warehouses,
            &mut head.skus,
            &mut head.cells,
            &mut head.details,
            &mut head.records,
            &mut head.lines,
            &mut head.groups,
            &mut head.annexes,
            &mut head.shares,
            &mut head.steps,
            &mut head.owners,
            &mut head.items,
            &mut head.ticks,
            &mut head.buckets,
            &mut head.aliases,
            &mut head.crossings,
        ] {
            *count = reader.u32()?;
        }
        for free in &mut head.free {
            *free = (reader.u32()?, reader.u32()?);
        }
        head.limits = OwnerLimits::take(reader)?;
        if u64::from(head.limits.cool_down_ms) > self.config.retention_ms {
            return Err(SnapshotFault::Content("an owner is known while it cools down"));
        }
        (head.next_crossing, head.next_event) = (reader.u64()?, reader.u64()?);
        if !(1..=EVENTS_MAX).contains(&head.next_event) {
            return Err(SnapshotFault::Content("events are counted from 1"));
        }
        if reader.is_empty() { Ok(()) } else { Err(SnapshotFault::Block) }
    }

    fn cell(&mut self, reader: &mut Reader<'_>) -> Result<(), SnapshotFault> {
        let mut cell = Reader::new(reader.bytes(CELL_BYTES)?);
        let (warehouse, sku, value) = decode(&mut cell)?;
        let table = self.cells.table();
        let named = warehouse.0 < table.warehouses.count() && sku.0 < table.skus.count();
        if table.count() >= self.head.cells || !named || table.has(warehouse, sku) {
            return Err(SnapshotFault::Content("a cell is one pair of names"));
        }
        let limits = -COUNTER_MAX..=COUNTER_MAX;
        let own = [value.on_hand, value.reserved, value.committed];
        if !own.iter().all(|units| limits.contains(units))
            || value.reserved < 0
            || value.committed < 0
            || !Sums::of(&value, &Details::default()).are_in_range()
        {
            return Err(SnapshotFault::Content("counters are within range"));
        }
        self.cells.push(warehouse, sku, value);
        self.check_sums(sku)
    }

    fn details(&mut self, reader: &mut Reader<'_>) -> Result<(), SnapshotFault> {
        let table = self.cells.table();
        let mut row = Reader::new(reader.bytes(ROW_BYTES)?);
        let bytes = row.rest();
        if table.details.count() >= self.head.details {
            return Err(SnapshotFault::Block);
        }
        let taken = table.details.take(&mut row)?;
        let taken = taken.filter(|(cell, details)| *cell < table.count() && details.are_sound());
        let Some((cell, details)) = taken else {
            return Err(SnapshotFault::Content("details are of one cell, and within range"));
        };
        let row = table.details.count() - 1;
        table.details.store(row, &details);
        let mut stored = Vec::new();
        table.details.put(row, &mut stored);
        if stored != bytes {
            return Err(SnapshotFault::Content("details have one form"));
        }
        self.cells.adopt_details(cell, &details);
        let (_, sku) = self.cells.table().key(cell).expect("the cell is counted");
        self.check_sums(sku)
    }

    /// Keeps the sums of a SKU far from the end of 64 bits while its cells come in. In the end the
    /// audit checks that they are within their range.
    fn check_sums(&self, sku: SkuId) -> Result<(), SnapshotFault> {
        const FAR: i64 = i64::MAX / 4;
        let sums = self.cells.table().sums(sku);
        let all = [sums.on_hand, sums.promised, sums.withheld, sums.incoming, sums.in_transit];
        match all.iter().all(|sum| (-FAR..=FAR).contains(sum)) {
            true => Ok(()),
            false => Err(SnapshotFault::Content("the counters of a SKU are within range")),
        }
    }

    fn build(mut self) -> Result<StockState, SnapshotFault> {
        if self.kind != Some(Kind::End) || !self.pending.is_empty() {
            return Err(SnapshotFault::Truncated);
        }
        let head = &self.head;
        let table = self.cells.table();
        let have = [table.warehouses.count(), table.skus.count(), table.count()];
        let more = [
            table.details.count(),
            self.ticks,
            self.buckets,
            table.aliases.names.count(),
            self.crossings.count(),
        ];
        let slabs = [
            (self.records.len(), head.records, restore_chain(&mut self.records, head.free[0])),
            (self.lines.len(), head.lines, restore_chain(&mut self.lines, head.free[1])),
            (self.groups.len(), head.groups, restore_chain(&mut self.groups, head.free[2])),
            (self.annexes.len(), head.annexes, restore_chain(&mut self.annexes, head.free[3])),
            (self.shares.len(), head.shares, restore_chain(&mut self.shares, head.free[4])),
            (self.steps.len(), head.steps, restore_chain(&mut self.steps, head.free[5])),
            (self.owners.len(), head.owners, restore_chain(&mut self.owners, head.free[6])),
            (self.items.len(), head.items, restore_chain(&mut self.items, head.free[7])),
        ];
        if have != [head.warehouses, head.skus, head.cells]
            || more != [head.details, head.ticks, head.buckets, head.aliases, head.crossings]
            || slabs.iter().any(|(have, expected, _)| have != expected)
        {
            return Err(SnapshotFault::Content("the head counts all items"));
        }
        if slabs.iter().any(|(_, _, chained)| !chained) {
            return Err(SnapshotFault::Content("free entries are chained"));
        }
        let seed = self.config.hash_seed;
        let wheel = Wheel::restore(self.groups, self.ring, seed);
        let owners = Owners::restore(self.owners, head.limits, seed);
        let annexes = Annexes::restore(self.annexes, self.shares, self.steps, owners, seed);
        let holds = Holds::restore(self.records, self.lines, annexes, wheel, self.forget, seed);
        let mut state = StockState::new(self.config);
        state.index = head.index;
        state.clock = HoldClock { now: head.now, shift_ms: head.shift_ms, ..state.clock };
        (state.cells, state.holds) = (self.cells, holds);
        state.catalogue = Catalogue::restore(self.items, seed);
        state.catalogue.publish(&mut state.cells);
        let sums = state.cells.sums_of_all();
        state.cells.events.restore(head.next_event, sums);
        let counted = self.crossings.set_next(head.next_crossing);
        if !counted || !self.crossings.are_sound(state.cells.table()) {
            return Err(SnapshotFault::Content("crossings are of what is there, and are counted"));
        }
        state.crossings = self.crossings;
        state.audit().map_err(SnapshotFault::Content)?;
        state.cells.publish(&state.clock, state.holds.wheel.front());
        Ok(state)
    }
}

fn restore_chain<T: Entry>(slab: &mut Slab<T>, (head, count): (u32, u32)) -> bool {
    slab.set_free_chain(head, count)
}

fn add_name(
    names: &Names,
    expected: u32,
    bytes_max: usize,
    reader: &mut Reader<'_>,
) -> Result<(), SnapshotFault> {
    let name = reader.short_bytes()?;
    let count = names.count();
    if count >= expected || name.is_empty() || name.len() > bytes_max || names.add(name) != count {
        return Err(SnapshotFault::Content("names are distinct and of proper length"));
    }
    Ok(())
}

fn push<T: Entry>(
    slab: &mut Slab<T>,
    expected: u32,
    reader: &mut Reader<'_>,
) -> Result<(), SnapshotFault> {
    let bytes = reader.bytes(T::BYTES)?;
    if slab.len() >= expected {
        return Err(SnapshotFault::Block);
    }
    slab.push(T::take(bytes));
    Ok(())
}

fn chain(
    ring: &mut Ring,
    count: &mut u32,
    expected: u32,
    reader: &mut Reader<'_>,
) -> Result<(), SnapshotFault> {
    let (number, head) = (reader.u64()?, reader.u32()?);
    *count += 1;
    if number < ring.front() || number > MILLIS_MAX || head == NIL || *count > expected {
        return Err(SnapshotFault::Content("chains lie ahead of the front"));
    }
    match ring.replace(number, head) {
        NIL => Ok(()),
        _ => Err(SnapshotFault::Content("a moment has one chain")),
    }
}
