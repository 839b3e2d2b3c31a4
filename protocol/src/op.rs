//! Operations: what a client asks for. The same bytes go into the log.
//!
//! ```text
//! offset size
//!      0    1  opcode
//!      1    1  flags        see OpFlags
//!      2    2  count        lines of a reserve, cells of a read; else 0
//!      4    4  len          bytes of the body
//!      8    …  body         [not_after u64 if flag NOT_AFTER] then, by opcode:
//!
//! 0x01 DEFINE            cell by name
//! 0x02 RECEIVE           op_id 16 · quantity u32 · cell
//! 0x10 RESERVE           id 16 · ttl_ms u32 · count × (cell · quantity u32)
//! 0x11 CONFIRM           id 16
//! 0x12 RELEASE           id 16
//! 0x13 EXTEND            id 16 · ttl_ms u32
//! 0x20 READ_CELLS        count × cell
//! 0x21 READ_RESERVATION  id 16
//! 0x22 READ_SKU          after u32 (cell handle, ffffffff: from the first) · sku: u8 len + bytes
//! 0x30 PING              nothing
//! 0x31 CLUSTER_STATUS    nothing
//!
//! cell   without flag NAMES: handle u32
//!        with flag NAMES:    warehouse: u8 len + bytes · sku: u8 len + bytes
//! ```
//!
//! Opcodes from 0xf0 up are the server's own log records and are refused on the wire.

use bytes::{BufMut, BytesMut};

use crate::reader::{Reader, Truncated};
use crate::{CellHandle, OpId, ReservationId, UnixMillis, limits};

/// Which operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Opcode {
    /// Make a cell.
    Define = 0x01,
    /// Add units.
    Receive = 0x02,
    /// Take units under a deadline.
    Reserve = 0x10,
    /// Promise a reservation's units to an order.
    Confirm = 0x11,
    /// Give a reservation's units back.
    Release = 0x12,
    /// Move a reservation's deadline.
    Extend = 0x13,
    /// Read counters.
    ReadCells = 0x20,
    /// Read a reservation.
    ReadReservation = 0x21,
    /// Read a SKU over all warehouses.
    ReadSku = 0x22,
    /// Is anybody there?
    Ping = 0x30,
    /// Nodes, roles and progress.
    ClusterStatus = 0x31,
}

impl Opcode {
    const fn from_u8(opcode: u8) -> Option<Self> {
        Some(match opcode {
            0x01 => Self::Define,
            0x02 => Self::Receive,
            0x10 => Self::Reserve,
            0x11 => Self::Confirm,
            0x12 => Self::Release,
            0x13 => Self::Extend,
            0x20 => Self::ReadCells,
            0x21 => Self::ReadReservation,
            0x22 => Self::ReadSku,
            0x30 => Self::Ping,
            0x31 => Self::ClusterStatus,
            _ => return None,
        })
    }

    /// Every operation of this version, in order.
    pub const ALL: &'static [Self] = &[
        Self::Define,
        Self::Receive,
        Self::Reserve,
        Self::Confirm,
        Self::Release,
        Self::Extend,
        Self::ReadCells,
        Self::ReadReservation,
        Self::ReadSku,
        Self::Ping,
        Self::ClusterStatus,
    ];

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Define => "DEFINE",
            Self::Receive => "RECEIVE",
            Self::Reserve => "RESERVE",
            Self::Confirm => "CONFIRM",
            Self::Release => "RELEASE",
            Self::Extend => "EXTEND",
            Self::ReadCells => "READ_CELLS",
            Self::ReadReservation => "READ_RESERVATION",
            Self::ReadSku => "READ_SKU",
            Self::Ping => "PING",
            Self::ClusterStatus => "CLUSTER_STATUS",
        }
    }

    /// The operation changes state and goes through the log.
    pub const fn is_write(self) -> bool {
        (self as u8) < 0x20
    }
}

/// Bits of an operation's flags byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpFlags(pub u8);

impl OpFlags {
    /// The request may have been sent before: it always goes through the log.
    pub const RETRY: Self = Self(1);
    /// The body starts with `not_after`.
    pub const NOT_AFTER: Self = Self(2);
    /// Cells are given by name, not by handle.
    pub const NAMES: Self = Self(4);
    /// RECEIVE makes the cell if it is not there.
    pub const DEFINE: Self = Self(8);
    /// A read may be answered from this node's present state, whoever leads.
    pub const STALE: Self = Self(16);

    const KNOWN: u8 = 31;

    /// All bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// A cell, by handle or by name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CellRef<'a> {
    /// By the handle that an earlier reply gave.
    Handle(CellHandle),
    /// By name: 1…32 and 1…64 bytes.
    Name {
        /// The warehouse's name.
        warehouse: &'a [u8],
        /// The SKU's name.
        sku: &'a [u8],
    },
}

impl<'a> CellRef<'a> {
    /// A cell by name.
    pub fn name<W, S>(warehouse: &'a W, sku: &'a S) -> Self
    where
        W: AsRef<[u8]> + ?Sized,
        S: AsRef<[u8]> + ?Sized,
    {
        Self::Name { warehouse: warehouse.as_ref(), sku: sku.as_ref() }
    }
}

/// One line of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// Which cell.
    pub cell: CellRef<'a>,
    /// How many units, at least 1.
    pub quantity: u32,
}

/// The lines of a decoded reserve: already checked, decoded again while iterating.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lines<'a> {
    bytes: &'a [u8],
    count: u16,
    named: bool,
}

/// The cells of a decoded read: already checked, decoded again while iterating.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refs<'a> {
    bytes: &'a [u8],
    count: u16,
    named: bool,
}

/// What a client asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op<'a> {
    /// Make a cell, or learn its handle if it is there.
    Define {
        /// By name.
        cell: CellRef<'a>,
    },
    /// Add units to a cell's on_hand, once per `op_id`.
    Receive {
        /// The idempotency key.
        op_id: OpId,
        /// How many units, at least 1.
        quantity: u32,
        /// Where.
        cell: CellRef<'a>,
    },
    /// Take units until a deadline: all lines or none.
    Reserve {
        /// The reservation's id and idempotency key.
        id: ReservationId,
        /// Time to live; 0 means the default.
        ttl_ms: u32,
        /// 1…1,024 lines; the same cell may repeat and is summed.
        lines: Lines<'a>,
    },
    /// Promise a reservation's units to an order.
    Confirm {
        /// Which.
        id: ReservationId,
    },
    /// Give a reservation's units back; an unknown id is fenced.
    Release {
        /// Which.
        id: ReservationId,
    },
    /// Move the deadline to at least now + ttl.
    Extend {
        /// Which.
        id: ReservationId,
        /// Time to live from now; 0 means the default.
        ttl_ms: u32,
    },
    /// Read the counters of cells.
    ReadCells {
        /// 1…8,192 cells.
        cells: Refs<'a>,
    },
    /// Read a reservation.
    ReadReservation {
        /// Which.
        id: ReservationId,
    },
    /// Read a SKU's cells and their sum.
    ReadSku {
        /// Where the last page ended, or `None` for the first.
        after: Option<CellHandle>,
        /// The SKU's name.
        sku: &'a [u8],
    },
    /// Is anybody there?
    Ping,
    /// Nodes, roles and progress.
    ClusterStatus,
}

/// Bytes that are no operation of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpError {
    /// The input ends inside the operation.
    Truncated,
    /// Bytes are left over after the body's fields.
    TrailingBytes,
    /// The opcode is not one a client may send.
    UnknownOpcode(u8),
    /// A flag of a later version is set.
    UnknownFlags(u8),
    /// A name is empty or too long.
    NameLength(usize),
    /// A quantity is zero.
    ZeroQuantity,
    /// No lines or cells, or too many.
    Count(u16),
    /// The operation needs names or cannot have them.
    NamesFlag,
}

impl std::fmt::Display for OpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => f.write_str("the operation is cut short"),
            Self::TrailingBytes => f.write_str("the operation has bytes after its last field"),
            Self::UnknownOpcode(opcode) => write!(f, "opcode {opcode:#04x} is unknown"),
            Self::UnknownFlags(flags) => write!(f, "flags {flags:#04x} are unknown"),
            Self::NameLength(len) => {
                write!(f, "a name has {len} bytes; warehouses have 1 to 32, SKUs 1 to 64")
            }
            Self::ZeroQuantity => f.write_str("a quantity is zero"),
            Self::Count(count) => write!(f, "count {count} is out of range"),
            Self::NamesFlag => f.write_str("the flag NAMES does not fit this operation"),
        }
    }
}

impl std::error::Error for OpError {}

impl From<Truncated> for OpError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

impl Op<'_> {
    /// Bytes of an operation's header.
    pub const HEADER_BYTES: usize = 8;

    /// Its opcode.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Define { .. } => Opcode::Define,
            Self::Receive { .. } => Opcode::Receive,
            Self::Reserve { .. } => Opcode::Reserve,
            Self::Confirm { .. } => Opcode::Confirm,
            Self::Release { .. } => Opcode::Release,
            Self::Extend { .. } => Opcode::Extend,
            Self::ReadCells { .. } => Opcode::ReadCells,
            Self::ReadReservation { .. } => Opcode::ReadReservation,
            Self::ReadSku { .. } => Opcode::ReadSku,
            Self::Ping => Opcode::Ping,
            Self::ClusterStatus => Opcode::ClusterStatus,
        }
    }

    /// Appends DEFINE.
    pub fn encode_define(out: &mut BytesMut, warehouse: &[u8], sku: &[u8]) {
        let cell = CellRef::Name { warehouse, sku };
        encode(out, Opcode::Define, OpFlags::NAMES, 0, None, |out| put_cell(out, cell));
    }

    /// Appends RECEIVE. `flags` may hold DEFINE and RETRY.
    pub fn encode_receive(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        op_id: OpId,
        cell: CellRef<'_>,
        quantity: u32,
    ) {
        encode(out, Opcode::Receive, flags.with(names_flag(cell)), 0, not_after, |out| {
            out.put_slice(&op_id.0);
            out.put_u32_le(quantity);
            put_cell(out, cell);
        });
    }

    /// Appends RESERVE. All lines name their cells in the same way.
    ///
    /// # Panics
    /// No lines, more than 1,024, or names mixed with handles.
    #[inline]
    pub fn encode_reserve(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        id: ReservationId,
        ttl_ms: u32,
        lines: &[Line<'_>],
    ) {
        assert!(
            (1..=limits::LINES_MAX as usize).contains(&lines.len()),
            "a reservation has 1 to 1,024 lines"
        );
        let names = names_flag(lines[0].cell);
        encode(out, Opcode::Reserve, flags.with(names), lines.len() as u16, not_after, |out| {
            out.put_slice(&id.0);
            out.put_u32_le(ttl_ms);
            for line in lines {
                assert!(names_flag(line.cell) == names, "lines mix names and handles");
                put_cell(out, line.cell);
                out.put_u32_le(line.quantity);
            }
        });
    }

    /// Appends CONFIRM.
    #[inline]
    pub fn encode_confirm(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        id: ReservationId,
    ) {
        encode(out, Opcode::Confirm, flags, 0, not_after, |out| out.put_slice(&id.0));
    }

    /// Appends RELEASE.
    #[inline]
    pub fn encode_release(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        id: ReservationId,
    ) {
        encode(out, Opcode::Release, flags, 0, not_after, |out| out.put_slice(&id.0));
    }

    /// Appends EXTEND.
    pub fn encode_extend(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        id: ReservationId,
        ttl_ms: u32,
    ) {
        encode(out, Opcode::Extend, flags, 0, not_after, |out| {
            out.put_slice(&id.0);
            out.put_u32_le(ttl_ms);
        });
    }

    /// Appends READ_CELLS. All cells are named in the same way.
    ///
    /// # Panics
    /// No cells, more than 8,192, or names mixed with handles.
    pub fn encode_read_cells(out: &mut BytesMut, flags: OpFlags, cells: &[CellRef<'_>]) {
        assert!(
            (1..=limits::READ_CELLS_MAX as usize).contains(&cells.len()),
            "a read has 1 to 8,192 cells"
        );
        let names = names_flag(cells[0]);
        encode(out, Opcode::ReadCells, flags.with(names), cells.len() as u16, None, |out| {
            for cell in cells {
                assert!(names_flag(*cell) == names, "cells mix names and handles");
                put_cell(out, *cell);
            }
        });
    }

    /// Appends READ_RESERVATION.
    pub fn encode_read_reservation(out: &mut BytesMut, flags: OpFlags, id: ReservationId) {
        encode(out, Opcode::ReadReservation, flags, 0, None, |out| out.put_slice(&id.0));
    }

    /// Appends READ_SKU.
    pub fn encode_read_sku(
        out: &mut BytesMut,
        flags: OpFlags,
        after: Option<CellHandle>,
        sku: &[u8],
    ) {
        encode(out, Opcode::ReadSku, flags, 0, None, |out| {
            out.put_u32_le(after.map_or(u32::MAX, |cell| cell.0));
            put_name(out, sku, limits::SKU_BYTES_MAX);
        });
    }

    /// Appends PING.
    pub fn encode_ping(out: &mut BytesMut) {
        encode(out, Opcode::Ping, OpFlags::default(), 0, None, |_| ());
    }

    /// Appends CLUSTER_STATUS.
    pub fn encode_cluster_status(out: &mut BytesMut) {
        encode(out, Opcode::ClusterStatus, OpFlags::default(), 0, None, |_| ());
    }
}

/// Takes one operation off the front of `reader`.
///
/// # Errors
/// The bytes are no operation of this version; `reader` is then of no further use.
#[inline]
pub fn take_op<'a>(
    reader: &mut Reader<'a>,
) -> Result<(Op<'a>, OpFlags, Option<UnixMillis>), OpError> {
    let opcode = reader.u8()?;
    let flags = OpFlags(reader.u8()?);
    let count = reader.u16()?;
    let len = reader.u32()?;
    let mut body = Reader::new(reader.bytes(len as usize)?);
    let opcode = Opcode::from_u8(opcode).ok_or(OpError::UnknownOpcode(opcode))?;
    if flags.0 & !OpFlags::KNOWN != 0 {
        return Err(OpError::UnknownFlags(flags.0));
    }
    let not_after = match flags.contains(OpFlags::NOT_AFTER) {
        true => Some(UnixMillis(body.u64()?)),
        false => None,
    };
    let op = take_body(opcode, flags, count, &mut body)?;
    if body.is_empty() { Ok((op, flags, not_after)) } else { Err(OpError::TrailingBytes) }
}

#[inline]
fn take_body<'a>(
    opcode: Opcode,
    flags: OpFlags,
    count: u16,
    body: &mut Reader<'a>,
) -> Result<Op<'a>, OpError> {
    let named = flags.contains(OpFlags::NAMES);
    Ok(match opcode {
        Opcode::Define if !named => return Err(OpError::NamesFlag),
        Opcode::Define => Op::Define { cell: take_cell(body, true)? },
        Opcode::Receive => {
            let op_id = OpId(body.array()?);
            let quantity = take_quantity(body)?;
            Op::Receive { op_id, quantity, cell: take_cell(body, named)? }
        }
        Opcode::Reserve => Op::Reserve {
            id: ReservationId(body.array()?),
            ttl_ms: body.u32()?,
            lines: take_lines(body, count, named)?,
        },
        Opcode::Confirm => Op::Confirm { id: ReservationId(body.array()?) },
        Opcode::Release => Op::Release { id: ReservationId(body.array()?) },
        Opcode::Extend => Op::Extend { id: ReservationId(body.array()?), ttl_ms: body.u32()? },
        Opcode::ReadCells => Op::ReadCells { cells: take_refs(body, count, named)? },
        Opcode::ReadReservation => Op::ReadReservation { id: ReservationId(body.array()?) },
        Opcode::ReadSku => {
            let after = Some(CellHandle(body.u32()?)).filter(|cell| cell.0 != u32::MAX);
            Op::ReadSku { after, sku: take_name(body, limits::SKU_BYTES_MAX)? }
        }
        Opcode::Ping => Op::Ping,
        Opcode::ClusterStatus => Op::ClusterStatus,
    })
}

#[inline]
fn take_lines<'a>(body: &mut Reader<'a>, count: u16, named: bool) -> Result<Lines<'a>, OpError> {
    if count == 0 || count > limits::LINES_MAX {
        return Err(OpError::Count(count));
    }
    let bytes = body.rest();
    for _ in 0..count {
        take_cell(body, named)?;
        take_quantity(body)?;
    }
    Ok(Lines { bytes: &bytes[..bytes.len() - body.rest().len()], count, named })
}

fn take_refs<'a>(body: &mut Reader<'a>, count: u16, named: bool) -> Result<Refs<'a>, OpError> {
    if count == 0 || count > limits::READ_CELLS_MAX {
        return Err(OpError::Count(count));
    }
    let bytes = body.rest();
    for _ in 0..count {
        take_cell(body, named)?;
    }
    Ok(Refs { bytes: &bytes[..bytes.len() - body.rest().len()], count, named })
}

#[inline]
fn take_cell<'a>(body: &mut Reader<'a>, named: bool) -> Result<CellRef<'a>, OpError> {
    if !named {
        return Ok(CellRef::Handle(CellHandle(body.u32()?)));
    }
    let warehouse = take_name(body, limits::WAREHOUSE_BYTES_MAX)?;
    let sku = take_name(body, limits::SKU_BYTES_MAX)?;
    Ok(CellRef::Name { warehouse, sku })
}

fn take_name<'a>(body: &mut Reader<'a>, max: usize) -> Result<&'a [u8], OpError> {
    let name = body.short_bytes()?;
    if name.is_empty() || name.len() > max {
        return Err(OpError::NameLength(name.len()));
    }
    Ok(name)
}

#[inline]
fn take_quantity(body: &mut Reader<'_>) -> Result<u32, OpError> {
    match body.u32()? {
        0 => Err(OpError::ZeroQuantity),
        quantity => Ok(quantity),
    }
}

#[inline]
fn encode(
    out: &mut BytesMut,
    opcode: Opcode,
    flags: OpFlags,
    count: u16,
    not_after: Option<UnixMillis>,
    body: impl FnOnce(&mut BytesMut),
) {
    let flags = if not_after.is_some() { flags.with(OpFlags::NOT_AFTER) } else { flags };
    let start = out.len();
    out.put_u8(opcode as u8);
    out.put_u8(flags.0);
    out.put_u16_le(count);
    out.put_u32_le(0);
    if let Some(not_after) = not_after {
        out.put_u64_le(not_after.0);
    }
    body(out);
    let len = (out.len() - start - Op::HEADER_BYTES) as u32;
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
}

const fn names_flag(cell: CellRef<'_>) -> OpFlags {
    match cell {
        CellRef::Handle(_) => OpFlags(0),
        CellRef::Name { .. } => OpFlags::NAMES,
    }
}

fn put_cell(out: &mut BytesMut, cell: CellRef<'_>) {
    match cell {
        CellRef::Handle(handle) => out.put_u32_le(handle.0),
        CellRef::Name { warehouse, sku } => {
            put_name(out, warehouse, limits::WAREHOUSE_BYTES_MAX);
            put_name(out, sku, limits::SKU_BYTES_MAX);
        }
    }
}

fn put_name(out: &mut BytesMut, name: &[u8], max: usize) {
    assert!((1..=max).contains(&name.len()), "a name has 1 to {max} bytes");
    out.put_u8(name.len() as u8);
    out.put_slice(name);
}

impl<'a> Lines<'a> {
    /// How many lines.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Never: a decoded reserve has at least one line.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Cells are given by name.
    pub const fn is_named(&self) -> bool {
        self.named
    }

    /// The lines, in order.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = Line<'a>> + use<'a> {
        let mut body = Reader::new(self.bytes);
        let named = self.named;
        (0..self.count).map(move |_| Line {
            cell: take_cell(&mut body, named).expect("checked when decoded"),
            quantity: take_quantity(&mut body).expect("checked when decoded"),
        })
    }
}

impl<'a> Refs<'a> {
    /// How many cells.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Never: a decoded read has at least one cell.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The cells, in order.
    pub fn iter(&self) -> impl Iterator<Item = CellRef<'a>> + use<'a> {
        let mut body = Reader::new(self.bytes);
        let named = self.named;
        (0..self.count).map(move |_| take_cell(&mut body, named).expect("checked when decoded"))
    }
}
