//! The whole state as bytes, taken while it goes on changing.
//!
//! ```text
//! block    0  1  kind
//!          1  3  0
//!          4  4  len      bytes of the body, at most 1 MiB
//!          8  4  crc      CRC-32 (IEEE) of the 8 bytes before and the body
//!         12  …  body
//!
//! kind  body, in this order
//!   1   head        magic 8 · version u32 · 0 u32 · grace, retention, max_life u64 (ms) ·
//!                   refusals of which one is an event u64 · index u64 · now u64 (µs) · shift u64 (ms) · fronts of the wheel and of the buckets u64 ·
//!                   counts u32: warehouses, skus, cells, details, records, lines, groups, annexes,
//!                   shares, steps, owners, items, ticks, buckets, aliases, crossings · free chains of
//!                   the slabs, records to items: head u32, length u32 · limits of owners 12 · number of
//!                   the next crossing u64 · of the next event u64
//!   2   warehouses  names: len u8 + bytes                       blocks of whole items,
//!   3   skus        names                                       as many blocks as it takes
//!   4   cells       warehouse u32 · sku u32 · earliest due tick u64 · on_hand, reserved, committed i64
//!   5   details     100 bytes each, see details.rs
//!   6   records     64 bytes each, see record.rs, free ones included
//!   7   lines       24 bytes each
//!   8   groups      24 bytes each
//!   9   annexes     32 bytes each, see annex.rs
//!  10   shares      32 bytes each
//!  11   steps       24 bytes each
//!  12   owners      64 bytes each, see owners.rs
//!  13   aliases     names
//!  14   items       116 bytes each, see catalogue.rs
//!  15   crossings   32 bytes each, see crossings.rs
//!  16   ticks       tick u64 · first group u32
//!  17   buckets     bucket u64 · first record u32
//!  18   end         blocks before this one u64
//! ```
//!
//! The slabs go out as they lie in memory, chains and all: a replica restored from a snapshot hands
//! out the same handles and sweeps in the same order as one that applied the log, so their digests
//! stay equal. Hash indexes are built anew.
//!
//! Invariant: the bytes are those of the moment of the cut, whatever is applied meanwhile.

use bytes::{BufMut, Bytes, BytesMut};

use super::crossings::KEPT_BYTES;
use super::hash::Digest;
use super::ring::Ring;
use super::state::StockState;

pub(super) const MAGIC: &[u8; 8] = b"STOCKSNP";
pub(super) const VERSION: u32 = 6;
pub(super) const BLOCK_HEADER_BYTES: usize = 12;
pub(super) const BLOCK_BODY_BYTES_MAX: usize = 1 << 20;

/// What a block holds, in the order in which they come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Kind {
    Head = 1,
    Warehouses = 2,
    Skus = 3,
    Cells = 4,
    Details = 5,
    Records = 6,
    Lines = 7,
    Groups = 8,
    Annexes = 9,
    Shares = 10,
    Steps = 11,
    Owners = 12,
    Aliases = 13,
    Items = 14,
    Crossings = 15,
    Ticks = 16,
    Buckets = 17,
    End = 18,
}

/// Names and chain heads per block.
const ITEMS_PER_BLOCK: usize = 1_024;

/// A snapshot being taken: where it has come to.
#[derive(Debug)]
pub struct SnapshotCut {
    number: u64,
    index: u64,
    kind: Option<Kind>,
    /// Items of the present kind already written.
    written: u32,
    blocks: u64,
}

impl SnapshotCut {
    /// The last log entry in the snapshot.
    pub fn index(&self) -> u64 {
        self.index
    }
}

/// The small things, copied at the cut.
pub(super) struct Cut {
    number: u64,
    head: Vec<u8>,
    warehouses: u32,
    skus: u32,
    aliases: u32,
    crossings: Vec<u8>,
    ticks: Vec<(u64, u32)>,
    buckets: Vec<(u64, u32)>,
}

impl StockState {
    /// Cuts a snapshot of the present state; [`StockState::snapshot_chunk`] gives its bytes. Cheap:
    /// a scan of a megabyte. A cut that is not ended is dropped.
    pub fn begin_snapshot(&mut self) -> SnapshotCut {
        self.cuts += 1;
        let number = self.cuts;
        let ticks: Vec<_> = self.holds.wheel.ring.iter().collect();
        let buckets: Vec<_> = self.holds.forget.iter().collect();
        let table = self.cells.table();
        let (warehouses, skus) = (table.warehouses.count(), table.skus.count());
        let aliases = table.aliases.names.count();
        let head = self.encode_head(ticks.len() as u32, buckets.len() as u32);
        let mut crossings = Vec::new();
        self.crossings.put(&mut crossings);
        self.cut = Some(Cut { number, head, warehouses, skus, aliases, crossings, ticks, buckets });
        self.cells.begin_cut();
        self.holds.records.begin_cut();
        self.holds.lines.begin_cut();
        self.holds.wheel.groups.begin_cut();
        self.holds.annexes.annexes.begin_cut();
        self.holds.annexes.shares.begin_cut();
        self.holds.annexes.steps.begin_cut();
        self.holds.annexes.owners.owners.begin_cut();
        self.catalogue.items.begin_cut();
        SnapshotCut { number, index: self.index, kind: Some(Kind::Head), written: 0, blocks: 0 }
    }

    /// The snapshot's next bytes: whole blocks, about `max_bytes` of them and at least one. `None`
    /// after the last.
    ///
    /// # Panics
    /// Another cut was begun, or the state was replaced.
    pub fn snapshot_chunk(&mut self, cut: &mut SnapshotCut, max_bytes: usize) -> Option<Bytes> {
        let mut out = BytesMut::new();
        while let Some(kind) = cut.kind
            && out.len() < max_bytes.max(1)
        {
            match self.next_body(cut, kind) {
                Some(body) => {
                    put_block(&mut out, kind, &body);
                    cut.blocks += 1;
                }
                None => (cut.kind, cut.written) = (kind.next(), 0),
            }
        }
        (!out.is_empty()).then(|| out.freeze())
    }

    /// Ends a snapshot, complete or not: changes no longer copy what they touch.
    pub fn end_snapshot(&mut self, cut: SnapshotCut) {
        if self.cut.as_ref().is_some_and(|own| own.number == cut.number) {
            self.cut = None;
            self.cells.end_cut();
            self.holds.records.end_cut();
            self.holds.lines.end_cut();
            self.holds.wheel.groups.end_cut();
            self.holds.annexes.annexes.end_cut();
            self.holds.annexes.shares.end_cut();
            self.holds.annexes.steps.end_cut();
            self.holds.annexes.owners.owners.end_cut();
            self.catalogue.items.end_cut();
        }
    }

    /// A hash of everything, the same on all replicas at the same index. Walks the whole state.
    pub fn digest(&self) -> u64 {
        let mut digest = Digest::new();
        for word in [self.index, self.clock.now.0, self.clock.shift_ms] {
            digest.word(word);
        }
        self.cells.table().digest(&mut digest);
        self.holds.records.digest(&mut digest);
        self.holds.lines.digest(&mut digest);
        self.holds.wheel.groups.digest(&mut digest);
        self.holds.annexes.annexes.digest(&mut digest);
        self.holds.annexes.shares.digest(&mut digest);
        self.holds.annexes.steps.digest(&mut digest);
        self.holds.annexes.owners.owners.digest(&mut digest);
        self.catalogue.items.digest(&mut digest);
        let mut crossings = Vec::new();
        self.crossings.put(&mut crossings);
        digest.bytes(&crossings);
        digest.word(self.crossings.next());
        digest.word(self.cells.events.next());
        let limits = self.holds.annexes.owners.limits;
        for limit in [limits.holds_max, limits.units_max, limits.cool_down_ms] {
            digest.word(u64::from(limit));
        }
        for ring in [&self.holds.wheel.ring, &self.holds.forget] {
            digest_ring(ring, &mut digest);
        }
        digest.finish()
    }

    fn encode_head(&self, ticks: u32, buckets: u32) -> Vec<u8> {
        let holds = &self.holds;
        let table = self.cells.table();
        let mut head = Vec::new();
        head.put_slice(MAGIC);
        head.put_u32_le(VERSION);
        head.put_u32_le(0);
        for word in [
            self.clock.grace_ms,
            self.config.retention_ms,
            self.config.max_life_ms,
            u64::from(self.config.sample_refusals),
            self.index,
            self.clock.now.0,
            self.clock.shift_ms,
            holds.wheel.ring.front(),
            holds.forget.front(),
        ] {
            head.put_u64_le(word);
        }
        let annexes = &holds.annexes;
        let slabs = [
            (holds.records.len(), holds.records.free_chain()),
            (holds.lines.len(), holds.lines.free_chain()),
            (holds.wheel.groups.len(), holds.wheel.groups.free_chain()),
            (annexes.annexes.len(), annexes.annexes.free_chain()),
            (annexes.shares.len(), annexes.shares.free_chain()),
            (annexes.steps.len(), annexes.steps.free_chain()),
            (annexes.owners.owners.len(), annexes.owners.owners.free_chain()),
            (self.catalogue.items.len(), self.catalogue.items.free_chain()),
        ];
        let names = [table.warehouses.count(), table.skus.count()];
        let cells = [table.count(), table.details.count()];
        let lens = slabs.iter().map(|(len, _)| *len);
        let counts = names.into_iter().chain(cells).chain(lens).chain([
            ticks,
            buckets,
            table.aliases.names.count(),
            self.crossings.count(),
        ]);
        let free = slabs.iter().flat_map(|(_, (at, count))| [*at, *count]);
        counts.chain(free).for_each(|number| head.put_u32_le(number));
        annexes.owners.limits.encode(&mut head);
        head.put_u64_le(self.crossings.next());
        head.put_u64_le(self.cells.events.next());
        head
    }

    /// The body of the next block of a kind, or `None` when the kind is done.
    fn next_body(&mut self, cut: &mut SnapshotCut, kind: Kind) -> Option<Vec<u8>> {
        let own = self.cut.as_ref().filter(|own| own.number == cut.number);
        let own = own.expect("a snapshot is taken from the latest cut");
        let table = self.cells.table();
        let (count, body) = match kind {
            Kind::Head | Kind::End if cut.written > 0 => return None,
            Kind::Head => (1, own.head.clone()),
            Kind::End => (1, cut.blocks.to_le_bytes().to_vec()),
            Kind::Warehouses => names(&table.warehouses, cut.written..own.warehouses)?,
            Kind::Skus => names(&table.skus, cut.written..own.skus)?,
            Kind::Aliases => names(&table.aliases.names, cut.written..own.aliases)?,
            Kind::Items => self.catalogue.items.take_page()?,
            Kind::Crossings => {
                let rest = own.crossings.get(cut.written as usize * KEPT_BYTES..)?;
                let count = (rest.len() / KEPT_BYTES).min(ITEMS_PER_BLOCK);
                let page = rest[..count * KEPT_BYTES].to_vec();
                (!page.is_empty()).then_some((count as u32, page))?
            }
            Kind::Ticks => chains(own.ticks.get(cut.written as usize..)?)?,
            Kind::Buckets => chains(own.buckets.get(cut.written as usize..)?)?,
            Kind::Cells => self.cells.take_page()?,
            Kind::Details => self.cells.take_details_page()?,
            Kind::Records => self.holds.records.take_page()?,
            Kind::Lines => self.holds.lines.take_page()?,
            Kind::Groups => self.holds.wheel.groups.take_page()?,
            Kind::Annexes => self.holds.annexes.annexes.take_page()?,
            Kind::Shares => self.holds.annexes.shares.take_page()?,
            Kind::Steps => self.holds.annexes.steps.take_page()?,
            Kind::Owners => self.holds.annexes.owners.owners.take_page()?,
        };
        cut.written += count;
        Some(body)
    }
}

impl Kind {
    /// The kind that comes after this one.
    pub fn next(self) -> Option<Self> {
        use Kind::{
            Aliases, Annexes, Buckets, Cells, Crossings, Details, End, Groups, Head, Items, Lines,
            Owners, Records, Shares, Skus, Steps, Ticks, Warehouses,
        };
        Some(match self {
            Head => Warehouses,
            Warehouses => Skus,
            Skus => Cells,
            Cells => Details,
            Details => Records,
            Records => Lines,
            Lines => Groups,
            Groups => Annexes,
            Annexes => Shares,
            Shares => Steps,
            Steps => Owners,
            Owners => Aliases,
            Aliases => Items,
            Items => Crossings,
            Crossings => Ticks,
            Ticks => Buckets,
            Buckets => End,
            End => return None,
        })
    }
}

fn names(names: &super::names::Names, range: std::ops::Range<u32>) -> Option<(u32, Vec<u8>)> {
    let mut body = Vec::new();
    let range = range.start..range.end.min(range.start + ITEMS_PER_BLOCK as u32);
    for number in range.clone() {
        let name = names.name(number).expect("counted names are there");
        body.put_u8(name.len() as u8);
        body.put_slice(name);
    }
    (!range.is_empty()).then_some((range.len() as u32, body))
}

fn chains(rest: &[(u64, u32)]) -> Option<(u32, Vec<u8>)> {
    let rest = &rest[..rest.len().min(ITEMS_PER_BLOCK)];
    let mut body = Vec::with_capacity(rest.len() * 12);
    for (number, head) in rest {
        body.put_u64_le(*number);
        body.put_u32_le(*head);
    }
    (!rest.is_empty()).then_some((rest.len() as u32, body))
}

fn put_block(out: &mut BytesMut, kind: Kind, body: &[u8]) {
    assert!(body.len() <= BLOCK_BODY_BYTES_MAX, "a block is bounded");
    let mut header = [kind as u8, 0, 0, 0, 0, 0, 0, 0];
    header[4..].copy_from_slice(&(body.len() as u32).to_le_bytes());
    out.put_slice(&header);
    out.put_u32_le(block_crc(&header, body));
    out.put_slice(body);
}

/// The checksum of a block.
pub(super) fn block_crc(header: &[u8], body: &[u8]) -> u32 {
    let mut crc = crc32fast::Hasher::new();
    crc.update(header);
    crc.update(body);
    crc.finalize()
}

fn digest_ring(ring: &Ring, digest: &mut Digest) {
    digest.word(ring.front());
    for (number, head) in ring.iter() {
        digest.word(number);
        digest.word(u64::from(head));
    }
}
