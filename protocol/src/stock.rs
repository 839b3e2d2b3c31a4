//! What stock writes say and what reads of stock show.

use bytes::{BufMut, BytesMut};

use crate::limits::{COUNTER_MAX, REFERENCE_BYTES_MAX};
use crate::op::OpError;
use crate::outcome::CellCounters;
use crate::reader::{Reader, Truncated};
use crate::{CellHandle, ReservationState};

/// Where units of a cell lie: for sale, or blocked for a reason.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Bucket {
    /// For sale.
    Sellable = 0,
    /// Broken.
    Damaged = 1,
    /// Waiting for an inspection.
    Quality = 2,
    /// Kept as a safety stock.
    Safety = 3,
    /// Blocked for another reason.
    Other = 4,
}

impl Bucket {
    /// Every bucket, in order.
    pub const ALL: [Self; 5] =
        [Self::Sellable, Self::Damaged, Self::Quality, Self::Safety, Self::Other];

    /// Reads a byte of an operation.
    pub const fn from_u8(bucket: u8) -> Option<Self> {
        Some(match bucket {
            0 => Self::Sellable,
            1 => Self::Damaged,
            2 => Self::Quality,
            3 => Self::Safety,
            4 => Self::Other,
            _ => return None,
        })
    }

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sellable => "SELLABLE",
            Self::Damaged => "DAMAGED",
            Self::Quality => "QUALITY",
            Self::Safety => "SAFETY",
            Self::Other => "OTHER",
        }
    }

    pub(crate) fn take(body: &mut Reader<'_>) -> Result<Self, OpError> {
        let bucket = body.u8()?;
        Self::from_u8(bucket).ok_or(OpError::Choice(bucket))
    }
}

/// What must be so for a SET to take effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Guard {
    /// The cell has this many units on hand: nobody changed it since the caller looked.
    Expected(i64),
    /// No message of the cell's feed with this sequence number or a later one was applied. At least 1.
    Feed(u64),
}

impl Guard {
    pub(crate) fn put(self, out: &mut BytesMut) {
        match self {
            Self::Expected(on_hand) => {
                out.put_u8(0);
                out.put_i64_le(on_hand);
            }
            Self::Feed(sequence) => {
                out.put_u8(1);
                out.put_u64_le(sequence);
            }
        }
    }

    pub(crate) fn take(body: &mut Reader<'_>) -> Result<Self, OpError> {
        match body.u8()? {
            0 => Ok(Self::Expected(in_range(body.i64()?, -COUNTER_MAX)?)),
            1 => match body.u64()? {
                0 => Err(OpError::Range),
                sequence => Ok(Self::Feed(sequence)),
            },
            other => Err(OpError::Choice(other)),
        }
    }
}

/// The rules of a cell. Default: tracked, nothing held back, nothing sold beyond what is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Policy {
    /// No RESERVE, AMEND or REACQUIRE takes units. What was promised is honoured.
    pub frozen: bool,
    /// Units are sold without being counted first: a grant never finds too few.
    pub untracked: bool,
    /// Units that are announced or in transit to the cell may be promised.
    pub preorder: bool,
    /// Units are sold at once or not at all: no RESERVE but one that confirms at once takes them.
    pub no_hold: bool,
    /// How far below zero `available` may go by a grant; at least 0.
    pub oversell_limit: i64,
    /// Units that are never granted; at least 0.
    pub buffer: i64,
    /// Order more when no more than this is left; `None`: nobody asks.
    pub reorder_point: Option<i64>,
    /// Most units that one owner may hold or have been promised; 0: as many as there are. A cell that has
    /// such a limit is sold to owners only.
    pub owner_max: u32,
}

impl Policy {
    const FROZEN: u32 = 1;
    const UNTRACKED: u32 = 2;
    const PREORDER: u32 = 4;
    const NO_HOLD: u32 = 8;

    /// The yes-or-no rules as bits: 1 frozen, 2 untracked, 4 preorder, 8 no_hold.
    pub fn bits(&self) -> u32 {
        let bit = |is_set: bool, bit: u32| if is_set { bit } else { 0 };
        bit(self.frozen, Self::FROZEN)
            | bit(self.untracked, Self::UNTRACKED)
            | bit(self.preorder, Self::PREORDER)
            | bit(self.no_hold, Self::NO_HOLD)
    }

    /// The inverse of [`Policy::bits`]; other bits are ignored.
    #[must_use]
    pub const fn with_bits(self, bits: u32) -> Self {
        Self {
            frozen: bits & Self::FROZEN != 0,
            untracked: bits & Self::UNTRACKED != 0,
            preorder: bits & Self::PREORDER != 0,
            no_hold: bits & Self::NO_HOLD != 0,
            ..self
        }
    }
}

/// Which rules of a cell change, and to what. `None` leaves a rule as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct PolicyChange {
    /// See [`Policy::frozen`].
    pub frozen: Option<bool>,
    /// See [`Policy::untracked`].
    pub untracked: Option<bool>,
    /// See [`Policy::preorder`].
    pub preorder: Option<bool>,
    /// See [`Policy::no_hold`].
    pub no_hold: Option<bool>,
    /// See [`Policy::oversell_limit`].
    pub oversell_limit: Option<i64>,
    /// See [`Policy::buffer`].
    pub buffer: Option<i64>,
    /// See [`Policy::reorder_point`]; `Some(None)` takes it away.
    pub reorder_point: Option<Option<i64>>,
    /// See [`Policy::owner_max`].
    pub owner_max: Option<u32>,
}

/// The reorder point of what has none.
pub(crate) const NO_POINT: i64 = -1;

pub(crate) fn put_point(out: &mut BytesMut, point: Option<i64>) {
    out.put_i64_le(point.unwrap_or(NO_POINT));
}

pub(crate) fn take_point(reader: &mut Reader<'_>) -> Result<Option<i64>, Truncated> {
    Ok(Some(reader.i64()?).filter(|point| *point >= 0))
}

impl PolicyChange {
    /// The bit of `owner_max` in the mask.
    const OWNER_MAX: u16 = 1 << 7;

    /// The rules after the change.
    #[must_use]
    pub fn apply(&self, policy: Policy) -> Policy {
        Policy {
            frozen: self.frozen.unwrap_or(policy.frozen),
            untracked: self.untracked.unwrap_or(policy.untracked),
            preorder: self.preorder.unwrap_or(policy.preorder),
            no_hold: self.no_hold.unwrap_or(policy.no_hold),
            oversell_limit: self.oversell_limit.unwrap_or(policy.oversell_limit),
            buffer: self.buffer.unwrap_or(policy.buffer),
            reorder_point: self.reorder_point.unwrap_or(policy.reorder_point),
            owner_max: self.owner_max.unwrap_or(policy.owner_max),
        }
    }

    /// It changes nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        let numbers = [
            self.oversell_limit,
            self.buffer,
            self.reorder_point.map(|point| point.unwrap_or(NO_POINT)),
        ];
        let flags = [self.frozen, self.untracked, self.preorder, self.no_hold];
        let (mut mask, mut bits) = (0_u16, 0_u16);
        for (at, flag) in flags.iter().enumerate() {
            mask |= u16::from(flag.is_some()) << at;
            bits |= u16::from(*flag == Some(true)) << at;
        }
        for (at, number) in numbers.iter().enumerate() {
            mask |= u16::from(number.is_some()) << (flags.len() + at);
        }
        mask |= if self.owner_max.is_some() { Self::OWNER_MAX } else { 0 };
        out.put_u16_le(mask);
        out.put_u16_le(bits);
        numbers.iter().for_each(|number| out.put_i64_le(number.unwrap_or(0)));
        out.put_u32_le(self.owner_max.unwrap_or(0));
    }

    pub(crate) fn take(body: &mut Reader<'_>) -> Result<Self, OpError> {
        let (mask, bits) = (body.u16()?, body.u16()?);
        if mask == 0 || mask >= 1 << 8 || bits & !mask != 0 || bits >= 1 << 4 {
            return Err(OpError::Range);
        }
        let flag = |at: u32| (mask & 1 << at != 0).then_some(bits & 1 << at != 0);
        let mut number = |at: u32, min: i64| match (body.i64()?, mask & 1 << at != 0) {
            (0, false) => Ok(None),
            (_, false) => Err(OpError::Range),
            (number, true) => in_range(number, min).map(Some),
        };
        let [oversell_limit, buffer] = [number(4, 0)?, number(5, 0)?];
        let point = number(6, NO_POINT)?;
        let owner_max = match (body.u32()?, mask & Self::OWNER_MAX != 0) {
            (0, false) => None,
            (_, false) => return Err(OpError::Range),
            (units, true) => Some(units),
        };
        Ok(Self {
            frozen: flag(0),
            untracked: flag(1),
            preorder: flag(2),
            no_hold: flag(3),
            oversell_limit,
            buffer,
            reorder_point: point.map(|point| Some(point).filter(|point| *point != NO_POINT)),
            owner_max,
        })
    }
}

/// Why a write was made and what it belongs to, for whoever reads the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Note<'a> {
    /// A code that the user's own list explains.
    pub reason: u16,
    /// An order, a document, a person: at most 64 bytes.
    pub reference: &'a [u8],
}

impl<'a> Note<'a> {
    pub(crate) fn put(&self, out: &mut BytesMut) {
        assert!(self.reference.len() <= REFERENCE_BYTES_MAX, "a reference has at most 64 bytes");
        out.put_u16_le(self.reason);
        out.put_u8(self.reference.len() as u8);
        out.put_slice(self.reference);
    }

    pub(crate) fn take(body: &mut Reader<'a>) -> Result<Self, OpError> {
        let note = Self { reason: body.u16()?, reference: body.short_bytes()? };
        match note.reference.len() {
            0..=REFERENCE_BYTES_MAX => Ok(note),
            len => Err(OpError::ReferenceLength(len)),
        }
    }
}

/// Everything about a cell at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct CellDetails {
    /// What READ_CELLS shows.
    pub counters: CellCounters,
    /// Units that are not for sale, by [`Bucket`], without the first.
    pub blocked: [i64; 4],
    /// Announced, not there yet.
    pub incoming: i64,
    /// Sent here by other warehouses, not there yet.
    pub in_transit: i64,
    /// The sequence number of the last message of its feed; 0: none.
    pub feed_sequence: u64,
    /// Its rules.
    pub policy: Policy,
    /// More is promised than its rules allow: units were lost, or rules were tightened.
    pub short: bool,
}

/// The bit of [`CellDetails::short`] beside those of [`Policy::bits`].
const SHORT: u32 = 1 << 31;

impl CellDetails {
    /// Bytes on the wire.
    pub const BYTES: usize = 32 + 32 + 16 + 8 + 24 + 4 + 4;

    /// What there is or will be for orders to come: on_hand − committed − Σ blocked − buffer + incoming +
    /// in_transit. What is only reserved may yet come back.
    pub fn position(&self) -> i64 {
        let withheld = self.blocked.iter().sum::<i64>() + self.policy.buffer;
        let there = self.counters.on_hand - self.counters.committed - withheld;
        there + self.incoming + self.in_transit
    }

    /// It has a reorder point, and its position is not above that: time to order.
    pub fn is_low(&self) -> bool {
        self.policy.reorder_point.is_some_and(|point| self.position() <= point)
    }

    /// Appends it: on_hand, reserved, committed, available, damaged, quality, safety, other, incoming,
    /// in_transit i64 · feed_sequence u64 · oversell_limit, buffer, reorder_point i64 (−1: none) ·
    /// bits u32 (1 frozen, 2 untracked, 4 preorder, 8 no_hold, 2³¹ short) · owner_max u32.
    pub fn encode(&self, out: &mut BytesMut) {
        self.counters.encode(out);
        self.blocked.iter().for_each(|units| out.put_i64_le(*units));
        out.put_i64_le(self.incoming);
        out.put_i64_le(self.in_transit);
        out.put_u64_le(self.feed_sequence);
        let policy = &self.policy;
        out.put_i64_le(policy.oversell_limit);
        out.put_i64_le(policy.buffer);
        put_point(out, policy.reorder_point);
        out.put_u32_le(policy.bits() | if self.short { SHORT } else { 0 });
        out.put_u32_le(policy.owner_max);
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let counters = CellCounters::take(reader)?;
        let mut blocked = [0; 4];
        for units in &mut blocked {
            *units = reader.i64()?;
        }
        let [incoming, in_transit] = [reader.i64()?, reader.i64()?];
        let feed_sequence = reader.u64()?;
        let [oversell_limit, buffer] = [reader.i64()?, reader.i64()?];
        let reorder_point = take_point(reader)?;
        let (bits, owner_max) = (reader.u32()?, reader.u32()?);
        let policy =
            Policy { oversell_limit, buffer, reorder_point, owner_max, ..Policy::default() };
        Ok(Self {
            counters,
            blocked,
            incoming,
            in_transit,
            feed_sequence,
            policy: policy.with_bits(bits),
            short: bits & SHORT != 0,
        })
    }
}

/// Where a transfer stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum TransferState {
    /// Units are in transit.
    Open = 1,
    /// All has arrived.
    Received = 2,
    /// What had not arrived was given up.
    Closed = 3,
    /// What had not arrived went back to where it came from.
    Cancelled = 4,
}

impl TransferState {
    /// Reads the detail field of an outcome.
    pub const fn from_detail(detail: u16) -> Option<Self> {
        Some(match detail {
            1 => Self::Open,
            2 => Self::Received,
            3 => Self::Closed,
            4 => Self::Cancelled,
            _ => return None,
        })
    }

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "OPEN",
            Self::Received => "RECEIVED",
            Self::Closed => "CLOSED",
            Self::Cancelled => "CANCELLED",
        }
    }
}

/// Units on their way from one cell to another. `shipped = received + damaged + rest`; the rest is in
/// transit while the transfer is open, was lost if it was closed, and is back if it was cancelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Where they left.
    pub from: CellHandle,
    /// Where they go.
    pub to: CellHandle,
    /// How many left.
    pub shipped: u32,
    /// How many arrived in good order.
    pub received: u32,
    /// How many arrived damaged.
    pub damaged: u32,
}

impl Transfer {
    /// Units that have not arrived.
    pub const fn rest(&self) -> u32 {
        self.shipped.saturating_sub(self.received).saturating_sub(self.damaged)
    }

    /// Appends it: from u32, to u32, shipped u32, received u32, damaged u32.
    pub fn encode(&self, out: &mut BytesMut) {
        for word in [self.from.0, self.to.0, self.shipped, self.received, self.damaged] {
            out.put_u32_le(word);
        }
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            from: CellHandle(reader.u32()?),
            to: CellHandle(reader.u32()?),
            shipped: reader.u32()?,
            received: reader.u32()?,
            damaged: reader.u32()?,
        })
    }
}

/// What has become of one line of a reservation. The six sum to what it asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LineShares {
    /// Held under the deadline.
    pub reserved: u32,
    /// Promised.
    pub committed: u32,
    /// Handed over.
    pub fulfilled: u32,
    /// Given back by a RELEASE.
    pub released: u32,
    /// Given back by the deadline.
    pub expired: u32,
    /// Given back by a CANCEL.
    pub cancelled: u32,
}

impl LineShares {
    /// What the line asked for.
    pub const fn requested(&self) -> u64 {
        self.reserved as u64
            + self.committed as u64
            + self.fulfilled as u64
            + self.released as u64
            + self.expired as u64
            + self.cancelled as u64
    }

    /// All of a line of a reservation that was never changed in part.
    pub const fn whole(state: ReservationState, quantity: u32) -> Self {
        let none =
            Self { reserved: 0, committed: 0, fulfilled: 0, released: 0, expired: 0, cancelled: 0 };
        match state {
            ReservationState::Active => Self { reserved: quantity, ..none },
            ReservationState::Confirmed => Self { committed: quantity, ..none },
            ReservationState::Fulfilled => Self { fulfilled: quantity, ..none },
            ReservationState::Released | ReservationState::Fenced => {
                Self { released: quantity, ..none }
            }
            ReservationState::Expired => Self { expired: quantity, ..none },
            ReservationState::Cancelled => Self { cancelled: quantity, ..none },
        }
    }

    /// Appends it: reserved, committed, fulfilled, released, expired, cancelled, u32 each.
    pub fn encode(&self, out: &mut BytesMut) {
        for units in [
            self.reserved,
            self.committed,
            self.fulfilled,
            self.released,
            self.expired,
            self.cancelled,
        ] {
            out.put_u32_le(units);
        }
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            reserved: reader.u32()?,
            committed: reader.u32()?,
            fulfilled: reader.u32()?,
            released: reader.u32()?,
            expired: reader.u32()?,
            cancelled: reader.u32()?,
        })
    }
}

/// `number` if it is within `min`…[`COUNTER_MAX`].
pub(crate) fn in_range(number: i64, min: i64) -> Result<i64, OpError> {
    if (min..=COUNTER_MAX).contains(&number) { Ok(number) } else { Err(OpError::Range) }
}

/// A change that is not none.
pub(crate) fn take_delta(body: &mut Reader<'_>) -> Result<i64, OpError> {
    match in_range(body.i64()?, -COUNTER_MAX)? {
        0 => Err(OpError::ZeroQuantity),
        delta => Ok(delta),
    }
}
