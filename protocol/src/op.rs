//! Operations: what a client asks for. The same bytes go into the log.
//!
//! ```text
//! offset size
//!      0    1  opcode
//!      1    1  flags        see OpFlags
//!      2    2  count        lines, parts or cells; else 0
//!      4    4  len          bytes of the body
//!      8    …  body         [not_after u64 if flag NOT_AFTER]
//!                           [reason u16 · reference: u8 len + bytes, if flag NOTE] then, by opcode:
//!
//! 0x01 DEFINE            cell by name
//! 0x02 RECEIVE           op_id 16 · quantity u32 · cell
//! 0x03 ADJUST            op_id 16 · delta i64 · cell
//! 0x04 SET               op_id 16 · on_hand i64 · guard u8 (0 expected, 1 feed) · i64 · cell
//! 0x05 COUNT_BEGIN       op_id 16 · cell
//! 0x06 COUNT_COMMIT      op_id 16 · token 16 (the op_id of the COUNT_BEGIN) · counted i64
//! 0x07 MOVE              op_id 16 · from u8 · to u8 · quantity u32 · cell
//! 0x08 ANNOUNCE          op_id 16 · delta i64 · cell
//! 0x09 ARRIVE            op_id 16 · quantity u32 · bucket u8 · cell
//! 0x0a RETURN            op_id 16 · quantity u32 · bucket u8 · cell
//! 0x0b TRANSFER_SHIP     op_id 16 · quantity u32 · from: cell · to: cell
//! 0x0c TRANSFER_RECEIVE  op_id 16 · transfer 16 (the op_id of the ship) · good u32 · damaged u32
//! 0x0d TRANSFER_CLOSE    transfer 16
//! 0x0e TRANSFER_CANCEL   transfer 16
//! 0x0f SET_POLICY        op_id 16 · change 32 · cell
//! 0x10 RESERVE           id 16 · ttl_ms u32 · count × (cell · quantity u32)
//! 0x11 CONFIRM           id 16 · parts
//! 0x12 RELEASE           id 16 · parts
//! 0x13 EXTEND            id 16 · ttl_ms u32
//! 0x14 PIN               id 16 · ttl_ms u32
//! 0x15 AMEND             id 16 · step u32 · count × (cell · quantity u32)
//! 0x16 CANCEL            id 16 · parts
//! 0x17 FULFIL            id 16 · parts
//! 0x18 RESERVE_FROM      id 16 · ttl_ms u32 · mode u8 · sourcing u8 · splits_max u8 · owner ·
//!                        count × wish
//! 0x19 SET_OWNER_LIMITS  op_id 16 · holds_max u32 · units_max u32 · cool_down_ms u32
//! 0x1a DESCRIBE_SKU      op_id 16 · scale u8 · title: u8 len + bytes · sku: u8 len + bytes
//! 0x1b NAME_SKU          op_id 16 · naming u8 (0 alias, 1 rename) · sku · name: u8 len + bytes each
//! 0x1c SET_REORDER       op_id 16 · point i64 (−1: none) · sku: u8 len + bytes
//! 0x20 READ_CELLS        count × cell
//! 0x21 READ_RESERVATION  id 16
//! 0x22 READ_SKU          after u32 (cell handle, ffffffff: from the first) · sku: u8 len + bytes
//! 0x23 READ_DETAILS      count × cell
//! 0x24 READ_LINES        id 16
//! 0x25 READ_TRANSFER     transfer 16
//! 0x26 LIST_CELLS        from u32 · filter u8 · 0 u8 · 0 u16 · 2 × (prefix: u8 len + bytes)
//! 0x27 READ_OWNER        owner, 1 to 32 bytes
//! 0x28 READ_CATALOGUE    sku: u8 len + bytes
//! 0x29 LIST_SKUS         from u32 · filter u8 · 0 u8 · 0 u16 · prefix: u8 len + bytes
//! 0x2a READ_CROSSINGS    from u64 (the count is that of the header)
//! 0x30 PING              nothing
//! 0x31 CLUSTER_STATUS    nothing
//!
//! cell    without flag NAMES: handle u32
//!         with flag NAMES:    warehouse: u8 len + bytes · sku: u8 len + bytes
//! parts   nothing if count is 0: the whole; else step u32 · count × (line u16 · 0 u16 · quantity u32)
//! owner   u8 len (0: nobody; at most 32) + bytes
//! wish    quantity u32 · min_quantity u32 · cells u8 · 0 u8 · 0 u16 · cells × cell
//! change  mask u16 · bits u16 · oversell_limit i64 · buffer i64 · reorder_point i64 (−1: none) ·
//!         owner_max u32 (0: none)
//!         mask and bits: 1 frozen, 2 untracked, 4 preorder, 8 no_hold; mask alone: 16, 32, 64, 128
//!         for the numbers in their order; what is not in the mask is 0
//! ```
//!
//! Opcodes from 0xf0 up are the server's own log records and are refused on the wire.

use crate::catalogue::Naming;
use crate::listing::Listing;
use crate::lists::{CellRef, Lines, Parts, Refs, take_name, take_quantity};
use crate::opcode::{OpFlags, Opcode};
use crate::owner::OwnerLimits;
use crate::reader::{Reader, Truncated};
use crate::stock::{Bucket, Guard, NO_POINT, Note, PolicyChange, in_range, take_delta};
use crate::wishes::Wishes;
use crate::{CellHandle, OpId, ReservationId, UnixMillis, limits};

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
    /// Change a cell's on_hand by what was found, lost or written off.
    Adjust {
        /// The idempotency key.
        op_id: OpId,
        /// How many units more, or fewer; not 0.
        delta: i64,
        /// Where.
        cell: CellRef<'a>,
    },
    /// Say how many units a cell has on hand.
    Set {
        /// The idempotency key.
        op_id: OpId,
        /// How many; at least 0.
        on_hand: i64,
        /// What must be so.
        guard: Guard,
        /// Where.
        cell: CellRef<'a>,
    },
    /// Begin to count a cell: what is sold from now on will not be taken for missing.
    CountBegin {
        /// The idempotency key, and the token of the count.
        op_id: OpId,
        /// Where.
        cell: CellRef<'a>,
    },
    /// Say how many units there were when the count began.
    CountCommit {
        /// The idempotency key.
        op_id: OpId,
        /// The `op_id` of the COUNT_BEGIN.
        token: OpId,
        /// How many; at least 0.
        counted: i64,
    },
    /// Move units from one bucket of a cell to another.
    Move {
        /// The idempotency key.
        op_id: OpId,
        /// Where they are.
        from: Bucket,
        /// Where they go; another one.
        to: Bucket,
        /// How many, at least 1.
        quantity: u32,
        /// Of which cell.
        cell: CellRef<'a>,
    },
    /// Say that units are on order for a cell, or are not any more.
    Announce {
        /// The idempotency key.
        op_id: OpId,
        /// How many more, or fewer; not 0.
        delta: i64,
        /// For which cell.
        cell: CellRef<'a>,
    },
    /// Take in units that were announced.
    Arrive {
        /// The idempotency key.
        op_id: OpId,
        /// How many, at least 1.
        quantity: u32,
        /// What becomes of them.
        bucket: Bucket,
        /// Where.
        cell: CellRef<'a>,
    },
    /// Take back units from a customer.
    Return {
        /// The idempotency key.
        op_id: OpId,
        /// How many, at least 1.
        quantity: u32,
        /// What becomes of them.
        bucket: Bucket,
        /// Where.
        cell: CellRef<'a>,
    },
    /// Send units of a SKU to another warehouse.
    TransferShip {
        /// The idempotency key, and the name of the transfer.
        op_id: OpId,
        /// How many, at least 1.
        quantity: u32,
        /// Where they leave.
        from: CellRef<'a>,
        /// Where they go: another cell of the same SKU.
        to: CellRef<'a>,
    },
    /// Take in units of a transfer.
    TransferReceive {
        /// The idempotency key.
        op_id: OpId,
        /// The `op_id` of the TRANSFER_SHIP.
        transfer: OpId,
        /// How many arrived in good order.
        good: u32,
        /// How many arrived damaged; at least one unit in all.
        damaged: u32,
    },
    /// Give up what is still in transit.
    TransferClose {
        /// The `op_id` of the TRANSFER_SHIP.
        transfer: OpId,
    },
    /// Put what is still in transit back where it came from.
    TransferCancel {
        /// The `op_id` of the TRANSFER_SHIP.
        transfer: OpId,
    },
    /// Change the rules of a cell.
    SetPolicy {
        /// The idempotency key.
        op_id: OpId,
        /// What changes.
        change: PolicyChange,
        /// Of which cell.
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
        /// All of it, or which part.
        parts: Parts<'a>,
    },
    /// Give a reservation's units back; an unknown id is fenced.
    Release {
        /// Which.
        id: ReservationId,
        /// All of it, or which part.
        parts: Parts<'a>,
    },
    /// Move the deadline to at least now + ttl.
    Extend {
        /// Which.
        id: ReservationId,
        /// Time to live from now; 0 means the default.
        ttl_ms: u32,
    },
    /// Keep a reservation from expiring for so long from now, whatever its longest life.
    Pin {
        /// Which.
        id: ReservationId,
        /// 1 s to 7 days.
        ttl_ms: u32,
    },
    /// Give an active reservation other lines; its own units count as available to it.
    Amend {
        /// Which.
        id: ReservationId,
        /// By the client's count; the idempotency key together with the id. At least 1.
        step: u32,
        /// What it holds afterwards.
        lines: Lines<'a>,
    },
    /// Take a promise back.
    Cancel {
        /// Which.
        id: ReservationId,
        /// All of it, or which part.
        parts: Parts<'a>,
    },
    /// Hand over what was promised.
    Fulfil {
        /// Which.
        id: ReservationId,
        /// All of it, or which part.
        parts: Parts<'a>,
    },
    /// Take units until a deadline, of lines that may each be met by several cells.
    ReserveFrom {
        /// The reservation's id and idempotency key.
        id: ReservationId,
        /// Time to live; 0 means the default.
        ttl_ms: u32,
        /// 1…1,024 lines, and how they are met.
        wishes: Wishes<'a>,
    },
    /// Say how much each owner may hold from now on.
    SetOwnerLimits {
        /// The idempotency key.
        op_id: OpId,
        /// How much.
        limits: OwnerLimits,
    },
    /// Say what a SKU is.
    DescribeSku {
        /// The idempotency key.
        op_id: OpId,
        /// A unit is 10⁻ˢᶜᵃˡᵉ of what people count in; at most 9.
        scale: u8,
        /// For people; at most 64 bytes.
        title: &'a [u8],
        /// One of its names.
        sku: &'a [u8],
    },
    /// Give a SKU another name, under which it is found from then on, too.
    NameSku {
        /// The idempotency key.
        op_id: OpId,
        /// Whether it is shown in lists.
        naming: Naming,
        /// One of its names.
        sku: &'a [u8],
        /// The new name, or one that it has.
        name: &'a [u8],
    },
    /// Say when to order more of a SKU, over all warehouses.
    SetReorder {
        /// The idempotency key.
        op_id: OpId,
        /// When its position is not above this; `None`: nobody asks.
        point: Option<i64>,
        /// One of its names.
        sku: &'a [u8],
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
    /// Read all counters of cells, and their rules.
    ReadDetails {
        /// 1…8,192 cells.
        cells: Refs<'a>,
    },
    /// Read what has become of each line of a reservation.
    ReadLines {
        /// Which.
        id: ReservationId,
    },
    /// Read a transfer.
    ReadTransfer {
        /// The `op_id` of the TRANSFER_SHIP.
        transfer: OpId,
    },
    /// List cells by the beginning of their names.
    ListCells(Listing<'a>),
    /// Read what an owner holds.
    ReadOwner {
        /// Its name.
        owner: &'a [u8],
    },
    /// Read what a SKU is, and what it is called.
    ReadCatalogue {
        /// One of its names.
        sku: &'a [u8],
    },
    /// List SKUs by the beginning of their names.
    ListSkus(Listing<'a>),
    /// Read which reorder points were crossed.
    ReadCrossings {
        /// The number of the first one, from 0.
        from: u64,
        /// Most of them, 1…1,024.
        count: u16,
    },
    /// Is anybody there?
    Ping,
    /// Nodes, roles and progress.
    ClusterStatus,
}

/// Bytes that are no operation of this version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OpError {
    /// More cells are named than one RESERVE_FROM may look at.
    Candidates(usize),
    /// A byte that chooses among a few things has another value.
    Choice(u8),
    /// No lines, parts or cells, or too many.
    Count(u16),
    /// A name is empty or too long.
    NameLength(usize),
    /// The operation needs names or cannot have them.
    NamesFlag,
    /// The name of an owner is too long, or missing.
    OwnerLength(usize),
    /// A title is longer than 64 bytes.
    TitleLength(usize),
    /// Parts are not by ascending line.
    Parts,
    /// A number is out of its range.
    Range,
    /// A reference is longer than 64 bytes.
    ReferenceLength(usize),
    /// A step is 0.
    Step,
    /// The lines may be split into more parts than a reservation has lines.
    TooManyParts(usize),
    /// Bytes are left over after the body's fields.
    TrailingBytes,
    /// The input ends inside the operation.
    Truncated,
    /// The opcode is not one a client may send.
    UnknownOpcode(u8),
    /// A quantity is zero.
    ZeroQuantity,
}

impl std::fmt::Display for OpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Candidates(cells) => {
                write!(f, "the lines name {cells} cells in all; they may name 8,192")
            }
            Self::Choice(byte) => write!(f, "{byte} is none of the values of its field"),
            Self::Count(count) => write!(f, "count {count} is out of range"),
            Self::NameLength(len) => {
                write!(f, "a name has {len} bytes; warehouses have 1 to 32, SKUs 1 to 64")
            }
            Self::NamesFlag => f.write_str("the flag NAMES does not fit this operation"),
            Self::OwnerLength(len) => {
                write!(f, "the name of an owner has {len} bytes; it may have 1 to 32")
            }
            Self::TitleLength(len) => write!(f, "a title has {len} bytes; it may have 64"),
            Self::Parts => f.write_str("parts name each line once, in ascending order"),
            Self::Range => f.write_str("a number is out of its range, or not in the mask"),
            Self::ReferenceLength(len) => {
                write!(f, "a reference has {len} bytes; it may have 64")
            }
            Self::Step => f.write_str("a step is 0; steps count from 1"),
            Self::TooManyParts(parts) => write!(
                f,
                "the lines may be split into {parts} parts; a reservation has at most 1,024: lower splits_max"
            ),
            Self::TrailingBytes => f.write_str("the operation has bytes after its last field"),
            Self::Truncated => f.write_str("the operation is cut short"),
            Self::UnknownOpcode(opcode) => write!(f, "opcode {opcode:#04x} is unknown"),
            Self::ZeroQuantity => f.write_str("a quantity is zero"),
        }
    }
}

impl std::error::Error for OpError {}

impl From<Truncated> for OpError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// What stands around an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Terms<'a> {
    /// See [`OpFlags`]. NAMES, NOT_AFTER and NOTE are set by what is encoded.
    pub flags: OpFlags,
    /// Once the cluster's clock has passed this, the request can never take effect.
    pub not_after: Option<UnixMillis>,
    /// For whoever reads the log.
    pub note: Option<Note<'a>>,
}

impl Op<'_> {
    /// Bytes of an operation's header.
    pub const HEADER_BYTES: usize = 8;

    /// Its opcode.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Define { .. } => Opcode::Define,
            Self::Receive { .. } => Opcode::Receive,
            Self::Adjust { .. } => Opcode::Adjust,
            Self::Set { .. } => Opcode::Set,
            Self::CountBegin { .. } => Opcode::CountBegin,
            Self::CountCommit { .. } => Opcode::CountCommit,
            Self::Move { .. } => Opcode::Move,
            Self::Announce { .. } => Opcode::Announce,
            Self::Arrive { .. } => Opcode::Arrive,
            Self::Return { .. } => Opcode::Return,
            Self::TransferShip { .. } => Opcode::TransferShip,
            Self::TransferReceive { .. } => Opcode::TransferReceive,
            Self::TransferClose { .. } => Opcode::TransferClose,
            Self::TransferCancel { .. } => Opcode::TransferCancel,
            Self::SetPolicy { .. } => Opcode::SetPolicy,
            Self::Reserve { .. } => Opcode::Reserve,
            Self::Confirm { .. } => Opcode::Confirm,
            Self::Release { .. } => Opcode::Release,
            Self::Extend { .. } => Opcode::Extend,
            Self::Pin { .. } => Opcode::Pin,
            Self::Amend { .. } => Opcode::Amend,
            Self::Cancel { .. } => Opcode::Cancel,
            Self::Fulfil { .. } => Opcode::Fulfil,
            Self::ReserveFrom { .. } => Opcode::ReserveFrom,
            Self::SetOwnerLimits { .. } => Opcode::SetOwnerLimits,
            Self::DescribeSku { .. } => Opcode::DescribeSku,
            Self::NameSku { .. } => Opcode::NameSku,
            Self::SetReorder { .. } => Opcode::SetReorder,
            Self::ReadCells { .. } => Opcode::ReadCells,
            Self::ReadReservation { .. } => Opcode::ReadReservation,
            Self::ReadSku { .. } => Opcode::ReadSku,
            Self::ReadDetails { .. } => Opcode::ReadDetails,
            Self::ReadLines { .. } => Opcode::ReadLines,
            Self::ReadTransfer { .. } => Opcode::ReadTransfer,
            Self::ListCells(_) => Opcode::ListCells,
            Self::ReadOwner { .. } => Opcode::ReadOwner,
            Self::ReadCatalogue { .. } => Opcode::ReadCatalogue,
            Self::ListSkus(_) => Opcode::ListSkus,
            Self::ReadCrossings { .. } => Opcode::ReadCrossings,
            Self::Ping => Opcode::Ping,
            Self::ClusterStatus => Opcode::ClusterStatus,
        }
    }

    /// The cell that a stock write is about, as far as the request names it; for a transfer, where the
    /// units go. It is what the flag DEFINE makes.
    pub const fn written_cell(&self) -> Option<CellRef<'_>> {
        match *self {
            Self::Define { cell }
            | Self::Receive { cell, .. }
            | Self::Adjust { cell, .. }
            | Self::Set { cell, .. }
            | Self::CountBegin { cell, .. }
            | Self::Move { cell, .. }
            | Self::Announce { cell, .. }
            | Self::Arrive { cell, .. }
            | Self::Return { cell, .. }
            | Self::SetPolicy { cell, .. } => Some(cell),
            Self::TransferShip { to, .. } => Some(to),
            _ => None,
        }
    }

    /// The id under which a write is remembered: what a retry is known by. `None` for DEFINE and reads.
    #[inline]
    pub const fn key(&self) -> Option<[u8; 16]> {
        Some(match self {
            Self::Receive { op_id, .. }
            | Self::Adjust { op_id, .. }
            | Self::Set { op_id, .. }
            | Self::CountBegin { op_id, .. }
            | Self::CountCommit { op_id, .. }
            | Self::Move { op_id, .. }
            | Self::Announce { op_id, .. }
            | Self::Arrive { op_id, .. }
            | Self::Return { op_id, .. }
            | Self::TransferShip { op_id, .. }
            | Self::TransferReceive { op_id, .. }
            | Self::SetPolicy { op_id, .. }
            | Self::SetOwnerLimits { op_id, .. }
            | Self::DescribeSku { op_id, .. }
            | Self::NameSku { op_id, .. }
            | Self::SetReorder { op_id, .. } => op_id.0,
            Self::TransferClose { transfer } | Self::TransferCancel { transfer } => transfer.0,
            Self::Reserve { id, .. }
            | Self::Confirm { id, .. }
            | Self::Release { id, .. }
            | Self::Extend { id, .. }
            | Self::Pin { id, .. }
            | Self::Amend { id, .. }
            | Self::Cancel { id, .. }
            | Self::Fulfil { id, .. }
            | Self::ReserveFrom { id, .. } => id.0,
            Self::Define { .. }
            | Self::ReadCells { .. }
            | Self::ReadReservation { .. }
            | Self::ReadSku { .. }
            | Self::ReadDetails { .. }
            | Self::ReadLines { .. }
            | Self::ReadTransfer { .. }
            | Self::ListCells(_)
            | Self::ReadOwner { .. }
            | Self::ReadCatalogue { .. }
            | Self::ListSkus(_)
            | Self::ReadCrossings { .. }
            | Self::Ping
            | Self::ClusterStatus => return None,
        })
    }
}

impl Op<'_> {
    /// Looks at names, titles and numbers of what is about owners, SKUs and lists: what a server refuses, and
    /// what [`Op::encode`] does not take.
    ///
    /// # Errors
    /// One is too short, too long or out of range.
    pub fn check(&self) -> Result<(), OpError> {
        let name = |name: &[u8]| match name.len() {
            1..=limits::SKU_BYTES_MAX => Ok(()),
            len => Err(OpError::NameLength(len)),
        };
        match *self {
            Self::ReadOwner { owner } => match owner.len() {
                1..=limits::OWNER_BYTES_MAX => Ok(()),
                len => Err(OpError::OwnerLength(len)),
            },
            Self::DescribeSku { scale, .. } if scale > limits::SCALE_MAX => Err(OpError::Range),
            Self::DescribeSku { title, .. } if title.len() > limits::TITLE_BYTES_MAX => {
                Err(OpError::TitleLength(title.len()))
            }
            Self::DescribeSku { sku, .. } | Self::ReadCatalogue { sku } => name(sku),
            Self::NameSku { sku, name: new, .. } => name(sku).and_then(|()| name(new)),
            Self::SetReorder { point, sku, .. } => match point.unwrap_or(0) {
                0..=limits::COUNTER_MAX => name(sku),
                _ => Err(OpError::Range),
            },
            Self::ListCells(listing) | Self::ListSkus(listing) => listing.check(),
            Self::ReadCrossings { count, .. } => match count {
                1..=limits::LIST_CELLS_MAX => Ok(()),
                count => Err(OpError::Count(count)),
            },
            _ => Ok(()),
        }
    }
}

/// Takes one operation off the front of `reader`. Its note, if it has one, is passed over.
///
/// # Errors
/// The bytes are no operation of this version; `reader` is then of no further use.
#[inline]
pub fn take_op<'a>(
    reader: &mut Reader<'a>,
) -> Result<(Op<'a>, OpFlags, Option<UnixMillis>), OpError> {
    let mut head = Head::take(reader)?;
    head.take_note()?;
    Ok((head.take_body()?, head.flags, head.not_after))
}

/// Takes one operation off the front of `reader`, with all that stands around it.
///
/// # Errors
/// The bytes are no operation of this version; `reader` is then of no further use.
pub fn take_op_and_terms<'a>(reader: &mut Reader<'a>) -> Result<(Op<'a>, Terms<'a>), OpError> {
    let mut head = Head::take(reader)?;
    let note = head.take_note()?;
    let Head { flags, not_after, .. } = head;
    Ok((head.take_body()?, Terms { flags, not_after, note }))
}

/// What every operation begins with, and the rest of it.
struct Head<'a> {
    opcode: Opcode,
    flags: OpFlags,
    count: u16,
    not_after: Option<UnixMillis>,
    rest: Reader<'a>,
}

impl<'a> Head<'a> {
    #[inline]
    fn take(reader: &mut Reader<'a>) -> Result<Self, OpError> {
        let [opcode, flags, count @ .., a, b, c, d] = *reader.chunk::<8>()?;
        let (flags, count) = (OpFlags(flags), u16::from_le_bytes(count));
        let len = u32::from_le_bytes([a, b, c, d]);
        let mut rest = Reader::new(reader.bytes(len as usize)?);
        let opcode = Opcode::from_u8(opcode).ok_or(OpError::UnknownOpcode(opcode))?;
        let not_after = match flags.contains(OpFlags::NOT_AFTER) {
            true => Some(UnixMillis(rest.u64()?)),
            false => None,
        };
        Ok(Self { opcode, flags, count, not_after, rest })
    }

    #[inline]
    fn take_note(&mut self) -> Result<Option<Note<'a>>, OpError> {
        match self.flags.contains(OpFlags::NOTE) {
            true => Note::take(&mut self.rest).map(Some),
            false => Ok(None),
        }
    }

    #[inline]
    fn take_body(&mut self) -> Result<Op<'a>, OpError> {
        let op = take_body(self.opcode, self.flags, self.count, &mut self.rest)?;
        if !self.rest.is_empty() {
            return Err(OpError::TrailingBytes);
        }
        Ok(op)
    }
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
        Opcode::Reserve => Op::Reserve {
            id: ReservationId(*body.chunk()?),
            ttl_ms: body.u32()?,
            lines: Lines::take(body, count, named)?,
        },
        Opcode::Confirm => {
            Op::Confirm { id: ReservationId(*body.chunk()?), parts: Parts::take(body, count)? }
        }
        Opcode::Release => {
            Op::Release { id: ReservationId(*body.chunk()?), parts: Parts::take(body, count)? }
        }
        _ => take_rest(opcode, named, count, body)?,
    })
}

/// An operation that keeps to [`Op::check`].
fn checked(op: Op<'_>) -> Result<Op<'_>, OpError> {
    op.check()?;
    Ok(op)
}

/// Everything but what is sent millions of times, out of the way of that.
#[inline(never)]
fn take_rest<'a>(
    opcode: Opcode,
    named: bool,
    count: u16,
    body: &mut Reader<'a>,
) -> Result<Op<'a>, OpError> {
    Ok(match opcode {
        Opcode::Cancel => {
            Op::Cancel { id: ReservationId(*body.chunk()?), parts: Parts::take(body, count)? }
        }
        Opcode::Fulfil => {
            Op::Fulfil { id: ReservationId(*body.chunk()?), parts: Parts::take(body, count)? }
        }
        Opcode::Extend => Op::Extend { id: ReservationId(*body.chunk()?), ttl_ms: body.u32()? },
        Opcode::Pin => Op::Pin { id: ReservationId(*body.chunk()?), ttl_ms: body.u32()? },
        Opcode::Amend => {
            let (id, step) = (ReservationId(*body.chunk()?), body.u32()?);
            if step == 0 {
                return Err(OpError::Step);
            }
            Op::Amend { id, step, lines: Lines::take(body, count, named)? }
        }
        Opcode::ReserveFrom => Op::ReserveFrom {
            id: ReservationId(*body.chunk()?),
            ttl_ms: body.u32()?,
            wishes: Wishes::take(body, count, named)?,
        },
        Opcode::ReadCells => Op::ReadCells { cells: Refs::take(body, count, named)? },
        Opcode::ReadDetails => Op::ReadDetails { cells: Refs::take(body, count, named)? },
        Opcode::ReadReservation => Op::ReadReservation { id: ReservationId(*body.chunk()?) },
        Opcode::ReadLines => Op::ReadLines { id: ReservationId(*body.chunk()?) },
        Opcode::ReadTransfer => Op::ReadTransfer { transfer: OpId(*body.chunk()?) },
        Opcode::ReadSku => {
            let after = Some(CellHandle(body.u32()?)).filter(|cell| cell.0 != u32::MAX);
            Op::ReadSku { after, sku: take_name(body, limits::SKU_BYTES_MAX)? }
        }
        Opcode::ListCells => checked(Op::ListCells(Listing::take(body, count)?))?,
        Opcode::ReadOwner => checked(Op::ReadOwner { owner: body.short_bytes()? })?,
        Opcode::ReadCatalogue => checked(Op::ReadCatalogue { sku: body.short_bytes()? })?,
        Opcode::ListSkus => checked(Op::ListSkus(Listing::take_of_skus(body, count)?))?,
        Opcode::ReadCrossings => checked(Op::ReadCrossings { from: body.u64()?, count })?,
        Opcode::Ping => Op::Ping,
        Opcode::ClusterStatus => Op::ClusterStatus,
        _ => take_stock_write(opcode, named, body)?,
    })
}

fn take_stock_write<'a>(
    opcode: Opcode,
    named: bool,
    body: &mut Reader<'a>,
) -> Result<Op<'a>, OpError> {
    if opcode == Opcode::Define {
        return match named {
            true => Ok(Op::Define { cell: CellRef::take(body, true)? }),
            false => Err(OpError::NamesFlag),
        };
    }
    let op_id = OpId(*body.chunk()?);
    Ok(match opcode {
        Opcode::Receive => {
            let quantity = take_quantity(body)?;
            Op::Receive { op_id, quantity, cell: CellRef::take(body, named)? }
        }
        Opcode::Adjust => {
            let delta = take_delta(body)?;
            Op::Adjust { op_id, delta, cell: CellRef::take(body, named)? }
        }
        Opcode::Set => {
            let on_hand = in_range(body.i64()?, 0)?;
            let guard = Guard::take(body)?;
            Op::Set { op_id, on_hand, guard, cell: CellRef::take(body, named)? }
        }
        Opcode::CountBegin => Op::CountBegin { op_id, cell: CellRef::take(body, named)? },
        Opcode::CountCommit => {
            let token = OpId(*body.chunk()?);
            Op::CountCommit { op_id, token, counted: in_range(body.i64()?, 0)? }
        }
        Opcode::Move => {
            let (from, to) = (Bucket::take(body)?, Bucket::take(body)?);
            if from == to {
                return Err(OpError::Choice(to as u8));
            }
            let quantity = take_quantity(body)?;
            Op::Move { op_id, from, to, quantity, cell: CellRef::take(body, named)? }
        }
        Opcode::Announce => {
            let delta = take_delta(body)?;
            Op::Announce { op_id, delta, cell: CellRef::take(body, named)? }
        }
        Opcode::Arrive => {
            let (quantity, bucket) = (take_quantity(body)?, Bucket::take(body)?);
            Op::Arrive { op_id, quantity, bucket, cell: CellRef::take(body, named)? }
        }
        Opcode::Return => {
            let (quantity, bucket) = (take_quantity(body)?, Bucket::take(body)?);
            Op::Return { op_id, quantity, bucket, cell: CellRef::take(body, named)? }
        }
        Opcode::TransferShip => {
            let quantity = take_quantity(body)?;
            let (from, to) = (CellRef::take(body, named)?, CellRef::take(body, named)?);
            Op::TransferShip { op_id, quantity, from, to }
        }
        Opcode::TransferReceive => {
            let transfer = OpId(*body.chunk()?);
            let (good, damaged) = (body.u32()?, body.u32()?);
            match good.checked_add(damaged) {
                None => return Err(OpError::Range),
                Some(0) => return Err(OpError::ZeroQuantity),
                Some(_) => Op::TransferReceive { op_id, transfer, good, damaged },
            }
        }
        Opcode::TransferClose => Op::TransferClose { transfer: op_id },
        Opcode::TransferCancel => Op::TransferCancel { transfer: op_id },
        Opcode::SetPolicy => {
            let change = PolicyChange::take(body)?;
            Op::SetPolicy { op_id, change, cell: CellRef::take(body, named)? }
        }
        Opcode::SetOwnerLimits => Op::SetOwnerLimits { op_id, limits: OwnerLimits::take(body)? },
        Opcode::DescribeSku => {
            let (scale, title) = (body.u8()?, body.short_bytes()?);
            // What comes first is judged first, whatever follows.
            if title.len() > limits::TITLE_BYTES_MAX {
                return Err(OpError::TitleLength(title.len()));
            }
            checked(Op::DescribeSku { op_id, scale, title, sku: body.short_bytes()? })?
        }
        Opcode::NameSku => {
            let naming = Naming::take(body)?;
            let mut name = || take_name(body, limits::SKU_BYTES_MAX);
            Op::NameSku { op_id, naming, sku: name()?, name: name()? }
        }
        Opcode::SetReorder => {
            let point = Some(body.i64()?).filter(|point| *point != NO_POINT);
            checked(Op::SetReorder { op_id, point, sku: body.short_bytes()? })?
        }
        _ => unreachable!("all other operations were taken before"),
    })
}
