//! The entries of the slabs: reservations, their further lines, groups of lines that fall due
//! together.
//!
//! ```text
//! record (64 bytes: one cache line)             line (24)               group (24)
//!  0 16 id                                       0 4 record              0 8 tick
//! 16  8 created   ms, real clock                 4 4 cell                8 4 cell
//! 24  8 deadline  ms, hold clock                 8 4 quantity           12 4 head: a line reference
//! 32  8 forget    ms, hold clock                12 4 more: next line    16 4 next group of the tick
//! 40  4 fingerprint of the request              16 4 next in its group  20 4 0
//! 44  4 meta: state 4 | lines 12 | linked 12    20 4 0
//!       | annexed 1 | pinned 1 | truth 1 | 0
//! 48  4 cell      ┐ the first line
//! 52  4 quantity  ┘
//! 56  4 more: the second line, in the line slab
//! 60  4 next: in its group while linked, else in its retention bucket, else free chain
//! ```
//!
//! A stock write has no lines. Its `cell` is where it was; a count keeps what was on hand in `deadline` and
//! the cell's epoch in `quantity`; a transfer keeps `to` in `cell`, what was shipped in `quantity`, `from` and
//! what was received in the halves of `deadline`, what came damaged in `fingerprint`.
//!
//! `linked` counts the lines that are still in a group. A line stays in its group when the
//! reservation is confirmed, released or extended; whoever walks the group drops or moves it. Until
//! then the record is not freed.

use crate::protocol::{CellHandle, ReservationId, ReservationState, Transfer, TransferState};

use super::ring::NIL;
use super::slab::Entry;
use super::time::{HoldMillis, Tick};

/// What a record stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Standing {
    /// A count that has begun; the record is its token.
    Count,
    /// What is left of a reservation whose lines were replaced, until no group holds them any more.
    /// Its id leads to its successor.
    Ghost,
    /// A stock write that was done; the record is its idempotency key.
    Op,
    /// A reservation.
    Reservation(ReservationState),
    /// Units on their way to another cell.
    Transfer(TransferState),
}

impl Standing {
    const fn to_bits(self) -> u32 {
        match self {
            Self::Reservation(state) => state as u32,
            Self::Transfer(TransferState::Open) => 9,
            Self::Transfer(TransferState::Received) => 10,
            Self::Transfer(TransferState::Closed) => 11,
            Self::Transfer(TransferState::Cancelled) => 12,
            Self::Ghost => 13,
            Self::Count => 14,
            Self::Op => 15,
        }
    }

    fn from_bits(bits: u32) -> Option<Self> {
        Some(match bits {
            9 => Self::Transfer(TransferState::Open),
            10 => Self::Transfer(TransferState::Received),
            11 => Self::Transfer(TransferState::Closed),
            12 => Self::Transfer(TransferState::Cancelled),
            13 => Self::Ghost,
            14 => Self::Count,
            15 => Self::Op,
            _ => Self::Reservation(ReservationState::from_detail(bits as u16)?),
        })
    }

    /// It is over and waits to be forgotten.
    pub const fn is_terminal(self) -> bool {
        use ReservationState::{Active, Confirmed};
        !matches!(self, Self::Reservation(Active | Confirmed) | Self::Transfer(TransferState::Open))
    }
}

/// A reservation or the trace of a stock write.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Record {
    pub id: ReservationId,
    pub created_ms: u64,
    pub deadline: HoldMillis,
    /// While active: the earliest moment at which it may be forgotten. Once ended: the moment.
    pub forget: HoldMillis,
    pub fingerprint: u32,
    /// Packed: use the methods. Visible for struct update syntax only.
    pub meta: u32,
    pub cell: u32,
    pub quantity: u32,
    pub more: u32,
    pub next: u32,
}

const _: () = assert!(size_of::<Record>() == 64);

const STATE_MASK: u32 = 0xf;
const LINES_SHIFT: u32 = 4;
const LINKED_SHIFT: u32 = 16;
const COUNT_MASK: u32 = 0xfff;
const ANNEXED: u32 = 1 << 28;
const PINNED: u32 = 1 << 29;
const TRUTH: u32 = 1 << 30;
/// A record's bits that never change with its lines.
const MARKS: u32 = ANNEXED | PINNED | TRUTH;

impl Record {
    /// A record without lines.
    pub fn new(id: ReservationId, standing: Standing) -> Self {
        Self { id, meta: standing.to_bits(), ..Self::free(NIL) }
    }

    /// What it stands for, or `None` if the entry is free.
    #[inline]
    pub fn standing(&self) -> Option<Standing> {
        Standing::from_bits(self.meta & STATE_MASK)
    }

    /// A reservation in this state.
    #[inline]
    pub fn is(&self, state: ReservationState) -> bool {
        self.meta & STATE_MASK == state as u32
    }

    /// It is over and waits to be forgotten.
    pub fn is_terminal(&self) -> bool {
        self.standing().is_some_and(Standing::is_terminal)
    }

    /// Changes the state.
    #[inline]
    pub fn set_state(&mut self, state: ReservationState) {
        self.set_standing(Standing::Reservation(state));
    }

    /// Changes what it stands for.
    #[inline]
    pub fn set_standing(&mut self, standing: Standing) {
        self.meta = self.meta & !STATE_MASK | standing.to_bits();
    }

    /// There is more about it in an annex.
    #[inline]
    pub fn is_annexed(&self) -> bool {
        self.meta & ANNEXED != 0
    }

    /// Says whether there is more about it in an annex.
    pub fn set_annexed(&mut self, annexed: bool) {
        self.meta = self.meta & !ANNEXED | if annexed { ANNEXED } else { 0 };
    }

    /// It was pinned.
    pub fn is_pinned(&self) -> bool {
        self.meta & PINNED != 0
    }

    /// It is pinned from now on.
    pub fn pin(&mut self) {
        self.meta |= PINNED;
    }

    /// The stock write was to be recorded whatever follows from it.
    pub fn is_truth(&self) -> bool {
        self.meta & TRUTH != 0
    }

    /// Says so.
    pub fn set_truth(&mut self, truth: bool) {
        self.meta = self.meta & !TRUTH | if truth { TRUTH } else { 0 };
    }

    /// What was on hand when a count began.
    pub fn counted_from(&self) -> i64 {
        self.deadline.0 as i64
    }

    /// A transfer as replies show it.
    pub fn transfer(&self) -> Transfer {
        Transfer {
            from: CellHandle((self.deadline.0 >> 32) as u32),
            to: CellHandle(self.cell),
            shipped: self.quantity,
            received: self.deadline.0 as u32,
            damaged: self.fingerprint,
        }
    }

    /// Stores a transfer as it stands.
    pub fn set_transfer(&mut self, transfer: &Transfer) {
        self.deadline = HoldMillis(u64::from(transfer.from.0) << 32 | u64::from(transfer.received));
        (self.cell, self.quantity) = (transfer.to.0, transfer.shipped);
        self.fingerprint = transfer.damaged;
    }

    /// How many lines it has: 0 for a fenced id and for a stock write.
    #[inline]
    pub fn lines(&self) -> u32 {
        self.meta >> LINES_SHIFT & COUNT_MASK
    }

    /// How many of its lines are in a group.
    #[inline]
    pub fn linked(&self) -> u32 {
        self.meta >> LINKED_SHIFT & COUNT_MASK
    }

    /// Sets the number of lines, none of them linked.
    pub fn set_lines(&mut self, count: u32) {
        self.meta = self.meta & (STATE_MASK | MARKS) | count << LINES_SHIFT;
    }

    /// One more line is in a group.
    #[inline]
    pub fn link(&mut self) {
        debug_assert!(self.linked() < self.lines(), "a line is in one group");
        self.meta += 1 << LINKED_SHIFT;
    }

    /// One line left its group.
    #[inline]
    pub fn unlink(&mut self) {
        assert!(self.linked() > 0, "a line that leaves its group was in it");
        self.meta -= 1 << LINKED_SHIFT;
    }
}

impl Entry for Record {
    const BYTES: usize = 64;

    fn free(next: u32) -> Self {
        Self {
            id: ReservationId([0; 16]),
            created_ms: 0,
            deadline: HoldMillis(0),
            forget: HoldMillis(0),
            fingerprint: 0,
            meta: 0,
            cell: NIL,
            quantity: 0,
            more: NIL,
            next,
        }
    }

    fn free_next(&self) -> Option<u32> {
        (self.meta & STATE_MASK == 0).then_some(self.next)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 64];
        bytes[..16].copy_from_slice(&self.id.0);
        bytes[16..24].copy_from_slice(&self.created_ms.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.deadline.0.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.forget.0.to_le_bytes());
        let words = [self.fingerprint, self.meta, self.cell, self.quantity, self.more, self.next];
        put_words(&mut bytes[40..], words);
        out.extend_from_slice(&bytes);
    }

    fn take(bytes: &[u8]) -> Self {
        Self {
            id: ReservationId(*bytes.first_chunk().expect("an entry has its size")),
            created_ms: u64_at(bytes, 16),
            deadline: HoldMillis(u64_at(bytes, 24)),
            forget: HoldMillis(u64_at(bytes, 32)),
            fingerprint: u32_at(bytes, 40),
            meta: u32_at(bytes, 44),
            cell: u32_at(bytes, 48),
            quantity: u32_at(bytes, 52),
            more: u32_at(bytes, 56),
            next: u32_at(bytes, 60),
        }
    }
}

/// A reservation's second or later line.
#[derive(Clone, Copy)]
pub(super) struct ExtraLine {
    pub record: u32,
    pub cell: u32,
    pub quantity: u32,
    pub more: u32,
    pub next: u32,
    /// The line of the request that it belongs to.
    pub line: u16,
}

impl Entry for ExtraLine {
    const BYTES: usize = 24;

    fn free(next: u32) -> Self {
        Self { record: NIL, cell: NIL, quantity: 0, more: NIL, next, line: 0 }
    }

    fn free_next(&self) -> Option<u32> {
        (self.record == NIL).then_some(self.next)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 24];
        let line = u32::from(self.line);
        let words = [self.record, self.cell, self.quantity, self.more, self.next, line];
        put_words(&mut bytes, words);
        out.extend_from_slice(&bytes);
    }

    fn take(bytes: &[u8]) -> Self {
        Self {
            record: u32_at(bytes, 0),
            cell: u32_at(bytes, 4),
            quantity: u32_at(bytes, 8),
            more: u32_at(bytes, 12),
            next: u32_at(bytes, 16),
            line: u32_at(bytes, 20) as u16,
        }
    }
}

/// The lines of one cell whose deadlines are in one tick.
#[derive(Clone, Copy)]
pub(super) struct Group {
    pub tick: Tick,
    pub cell: u32,
    pub head: LineRef,
    pub next: u32,
}

impl Entry for Group {
    const BYTES: usize = 24;

    fn free(next: u32) -> Self {
        Self { tick: Tick::NEVER, cell: NIL, head: LineRef::NONE, next }
    }

    fn free_next(&self) -> Option<u32> {
        (self.cell == NIL).then_some(self.next)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.tick.0.to_le_bytes());
        put_words(&mut bytes[8..], [self.cell, self.head.0, self.next]);
        out.extend_from_slice(&bytes);
    }

    fn take(bytes: &[u8]) -> Self {
        Self {
            tick: Tick(u64_at(bytes, 0)),
            cell: u32_at(bytes, 8),
            head: LineRef(u32_at(bytes, 12)),
            next: u32_at(bytes, 16),
        }
    }
}

/// A line as a member of a group: a record's first line, or an extra line (top bit set).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct LineRef(pub u32);

/// A line reference, taken apart.
pub(super) enum LineAt {
    /// The first line of this record.
    First(u32),
    /// This entry of the line slab.
    Extra(u32),
}

impl LineRef {
    /// No line: the end of a group.
    pub const NONE: Self = Self(NIL);
    const EXTRA: u32 = 1 << 31;

    /// The first line of a record.
    pub const fn first(record: u32) -> Self {
        Self(record)
    }

    /// An entry of the line slab.
    pub const fn extra(line: u32) -> Self {
        Self(line | Self::EXTRA)
    }

    /// Where the line is, or `None` at the end of a group.
    #[inline]
    pub fn at(self) -> Option<LineAt> {
        match self {
            Self::NONE => None,
            Self(bits) if bits & Self::EXTRA == 0 => Some(LineAt::First(bits)),
            Self(bits) => Some(LineAt::Extra(bits & !Self::EXTRA)),
        }
    }
}

pub(super) fn put_words<const N: usize>(bytes: &mut [u8], words: [u32; N]) {
    for (place, word) in bytes.chunks_exact_mut(4).zip(words) {
        place.copy_from_slice(&word.to_le_bytes());
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}
