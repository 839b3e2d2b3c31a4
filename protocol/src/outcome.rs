//! Outcomes: what became of an operation.
//!
//! ```text
//! offset size
//!      0    2  code
//!      2    2  detail   the reservation's state (ReservationState), the transfer's (TransferState), the
//!                      first line at fault (UNKNOWN_*, NOT_STOCKED, FROZEN), the limit that is reached
//!                      (OwnerBound), or 0
//!      4    4  len      bytes of the body
//!      8    …  body, by operation and code:
//!
//! DEFINE ok              handle u32
//! stock writes ok        handle u32 · on_hand i64 · available i64, but:
//! TRANSFER_* ok          from u32 · to u32 · shipped u32 · received u32 · damaged u32
//! RESERVE ok             deadline u64 (ms) · handles, one u32 per line if the request named cells
//! AMEND ok               as RESERVE
//! RESERVE_FROM ok        deadline u64 (ms) · parts u32 · parts × (line u16 · 0 u16 · handle u32 ·
//!                        quantity u32)
//! CONFIRM, RELEASE, CANCEL, FULFIL, SET_OWNER_LIMITS, DESCRIBE_SKU, NAME_SKU, SET_REORDER ok
//!                        nothing
//! EXTEND, PIN ok         deadline u64 (ms)
//! READ_CELLS ok          count × (handle u32 · found u32 (1 or 0) · on_hand i64 · reserved i64 ·
//!                        committed i64 · available i64); not found: the handle as asked, or
//!                        ffffffff, and zeros
//! READ_RESERVATION ok    created u64 · deadline u64 · lines u32 · lines × (handle u32 · quantity u32)
//! READ_SKU ok            more u32 (1: ask again after the last handle) · cells u32 ·
//!                        total on_hand, reserved, committed, available i64 each, over all warehouses ·
//!                        cells × (warehouse: u8 len + bytes · as in READ_CELLS)
//! READ_DETAILS ok        count × (handle u32 · found u32 · CellDetails 120)
//! READ_LINES ok          created u64 · deadline u64 · pinned u32 (1 or 0) · lines u32 ·
//!                        lines × (handle u32 · reserved, committed, fulfilled, released, expired,
//!                        cancelled u32 each)
//! READ_TRANSFER ok       as TRANSFER_*
//! LIST_CELLS ok          next u32 (ffffffff: this was the last page) · cells u32 ·
//!                        cells × (handle u32 · 2 × (name: u8 len + bytes) · CellDetails 120)
//! READ_OWNER ok          see owner.rs
//! READ_CATALOGUE ok      see catalogue.rs
//! LIST_SKUS, READ_CROSSINGS ok   see reorder.rs
//! PING ok                nothing
//! CLUSTER_STATUS ok      UTF-8 JSON, as the admin line `json status` prints it
//! NO_STOCK, WOULD_SHORT, MIN_QTY  shorts × (line u16 · 0 u16 · handle u32 · asked for u64 · available i64);
//!                        "asked for" sums the lines on that cell
//! UNKNOWN_*, NOT_STOCKED, FROZEN, QTY_EXCEEDS   line u16 each
//! OWNER_LIMIT            by detail, see owner.rs
//! STALE_EXPECTED         on_hand i64, as it is
//! STALE_FEED             sequence u64, the last one applied
//! other refusals         nothing
//! ```

use bytes::{BufMut, BytesMut};

use crate::reader::{Reader, Truncated};
use crate::{CellHandle, Code, UnixMillis};

/// Where a reservation stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum ReservationState {
    /// Holds units until its deadline.
    Active = 1,
    /// Its units are promised to an order.
    Confirmed = 2,
    /// Its units were given back.
    Released = 3,
    /// Its deadline passed.
    Expired = 4,
    /// It was released before it was made; it can never be made.
    Fenced = 5,
    /// Its units were handed over.
    Fulfilled = 6,
    /// The promise was taken back.
    Cancelled = 7,
}

impl ReservationState {
    /// Reads the detail field of an outcome.
    pub const fn from_detail(detail: u16) -> Option<Self> {
        Some(match detail {
            1 => Self::Active,
            2 => Self::Confirmed,
            3 => Self::Released,
            4 => Self::Expired,
            5 => Self::Fenced,
            6 => Self::Fulfilled,
            7 => Self::Cancelled,
            _ => return None,
        })
    }

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Active => "ACTIVE",
            Self::Confirmed => "CONFIRMED",
            Self::Released => "RELEASED",
            Self::Expired => "EXPIRED",
            Self::Fenced => "FENCED",
            Self::Fulfilled => "FULFILLED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// Opens every outcome.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct OutcomeHeader {
    /// What became of it.
    pub code: Code,
    /// The state of the reservation or the transfer, or the line at fault, or 0.
    pub detail: u16,
}

/// One encoded outcome, its body borrowed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome<'a> {
    /// What became of it.
    pub code: Code,
    /// The state of the reservation or the transfer, or the line at fault, or 0.
    pub detail: u16,
    /// By operation and code.
    pub body: &'a [u8],
}

/// Bytes of an outcome's header.
const HEADER_BYTES: usize = 8;

/// Starts an outcome at the end of `out`; write the body, then call [`finish_outcome`] with the
/// returned offset. An outcome without a body needs no finish.
#[inline]
pub fn begin_outcome(out: &mut BytesMut, header: OutcomeHeader) -> usize {
    let start = out.len();
    // Code, detail, and a length of 0, in one piece.
    out.put_u64_le(u64::from(header.detail) << 16 | u64::from(header.code.0));
    start
}

/// Fills in the body's length of the outcome that began at `start`.
#[inline]
pub fn finish_outcome(out: &mut BytesMut, start: usize) {
    let len = (out.len() - start - HEADER_BYTES) as u32;
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
}

/// Takes one outcome off the front of `reader`.
///
/// # Errors
/// The input ends inside the outcome.
#[inline]
pub fn take_outcome<'a>(reader: &mut Reader<'a>) -> Result<Outcome<'a>, Truncated> {
    let code = Code(reader.u16()?);
    let detail = reader.u16()?;
    let len = reader.u32()?;
    Ok(Outcome { code, detail, body: reader.bytes(len as usize)? })
}

/// The counters of one cell at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CellCounters {
    /// Units physically there.
    pub on_hand: i64,
    /// Units held by active reservations.
    pub reserved: i64,
    /// Units promised to orders.
    pub committed: i64,
    /// Units that a reserve could take.
    pub available: i64,
}

impl CellCounters {
    /// Appends the four counters.
    #[inline]
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_i64_le(self.on_hand);
        out.put_i64_le(self.reserved);
        out.put_i64_le(self.committed);
        out.put_i64_le(self.available);
    }

    /// Takes the four counters.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            on_hand: reader.i64()?,
            reserved: reader.i64()?,
            committed: reader.i64()?,
            available: reader.i64()?,
        })
    }
}

/// One entry of a NO_STOCK or WOULD_SHORT body.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ShortLine {
    /// The first line, from 0, that names this cell.
    pub line: u16,
    /// Which cell.
    pub cell: CellHandle,
    /// What the lines on this cell asked for together.
    pub asked: u64,
    /// What the cell has.
    pub available: i64,
}

impl ShortLine {
    /// Appends it.
    #[inline]
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.line);
        out.put_u16_le(0);
        out.put_u32_le(self.cell.0);
        out.put_u64_le(self.asked);
        out.put_i64_le(self.available);
    }

    /// Takes one off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let line = reader.u16()?;
        reader.u16()?;
        Ok(Self {
            line,
            cell: CellHandle(reader.u32()?),
            asked: reader.u64()?,
            available: reader.i64()?,
        })
    }
}

/// A line of a refused reserve that names no cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LineFault {
    /// The line, from 0.
    pub line: u16,
}

impl LineFault {
    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.line);
    }

    /// Takes one off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self { line: reader.u16()? })
    }
}

/// Opens a READ_SKU body; the cells of this page follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SkuTotal {
    /// More cells follow the last one of this page.
    pub more: bool,
    /// Cells on this page.
    pub cells: u32,
    /// The sum over all warehouses, not only over this page.
    pub total: CellCounters,
}

impl SkuTotal {
    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(u32::from(self.more));
        out.put_u32_le(self.cells);
        self.total.encode(out);
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            more: reader.u32()? != 0,
            cells: reader.u32()?,
            total: CellCounters::take(reader)?,
        })
    }
}

impl Outcome<'_> {
    /// The reservation's state that a reply to RESERVE, CONFIRM, RELEASE, EXTEND or
    /// READ_RESERVATION carries.
    pub const fn state(&self) -> Option<ReservationState> {
        ReservationState::from_detail(self.detail)
    }

    /// The deadline of a grant or an extension.
    pub fn deadline(&self) -> Option<UnixMillis> {
        Reader::new(self.body).u64().ok().map(UnixMillis)
    }
}
