//! Subscriptions: who follows the events, and what they get.
//!
//! ```text
//! SUBSCRIBE   start u8 · value u64 · credit u32 · kinds u64 · count u8 · count × selector
//!             start      0 SEQUENCE  with the event that has this number
//!                        1 NOW       with the next one to come; value 0
//!                        2 OLDEST    with the oldest one that the node has; value 0
//!                        3 TIME      with the first at or after this moment, µs since 1970
//!             kinds      bit n: events of kind n; 0: of all kinds
//!             selector   1 WAREHOUSE  warehouse          u8 length + bytes each
//!                        2 SKU        sku                its own name
//!                        3 CELL       warehouse · sku
//! CREDIT      bytes u32
//! EVENTS      first u64 · next u64 · reached u64 · server_now u64 · records, see event/mod.rs
//! ```
//!
//! An event is wanted if its kind is, and if a selector names its cell or its SKU, or there is none.

use bytes::{BufMut, BytesMut};

use crate::UnixMillis;
use crate::catalogue::put_short;
use crate::limits::{SELECTORS_MAX, SKU_BYTES_MAX, WAREHOUSE_BYTES_MAX};
use crate::reader::{Reader, Truncated};

/// Where a subscription begins.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// With the event that has this number.
    Sequence(u64),
    /// With the next event to come.
    Now,
    /// With the oldest event that the node has.
    Oldest,
    /// With the first event at or after this moment, in µs since 1970.
    Time(u64),
}

/// Whose events are wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Selector<'a> {
    /// Of all cells of a warehouse.
    Warehouse(&'a [u8]),
    /// Of all cells of a SKU, and of itself.
    Sku(&'a [u8]),
    /// Of a cell.
    Cell {
        /// Its warehouse.
        warehouse: &'a [u8],
        /// Its SKU.
        sku: &'a [u8],
    },
}

/// Why a SUBSCRIBE cannot be read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SubscribeError {
    /// It ends too early.
    Truncated,
    /// It goes on after its end.
    Trailing,
    /// There is no such start.
    Start(u8),
    /// There is no such selector.
    Selector(u8),
    /// A name is empty or too long.
    Name(usize),
    /// There are too many selectors.
    Selectors(u8),
}

impl std::fmt::Display for SubscribeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Truncated => f.write_str("the subscription is cut off"),
            Self::Trailing => f.write_str("bytes follow the subscription's last selector"),
            Self::Start(start) => {
                write!(f, "a subscription starts in one of four ways, not {start}")
            }
            Self::Selector(selector) => write!(f, "there is no selector {selector}"),
            Self::Name(len) => write!(f, "a name in a selector has {len} bytes"),
            Self::Selectors(count) => {
                write!(f, "a subscription has at most {SELECTORS_MAX} selectors, not {count}")
            }
        }
    }
}

impl std::error::Error for SubscribeError {}

impl From<Truncated> for SubscribeError {
    fn from(_: Truncated) -> Self {
        Self::Truncated
    }
}

/// The body of a SUBSCRIBE frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Subscribe<'a> {
    /// Where it begins.
    pub start: Start,
    /// How many bytes of EVENTS the client takes before it grants more.
    pub credit: u32,
    /// Bit n: events of kind n; 0: of all kinds.
    pub kinds: u64,
    /// Whose events; none: everybody's.
    pub selectors: Vec<Selector<'a>>,
}

impl<'a> Subscribe<'a> {
    /// Appends the body.
    ///
    /// # Panics
    /// There are more than [`SELECTORS_MAX`] selectors, or names that no cell has.
    pub fn encode(&self, out: &mut BytesMut) {
        let (start, value) = match self.start {
            Start::Sequence(sequence) => (0, sequence),
            Start::Now => (1, 0),
            Start::Oldest => (2, 0),
            Start::Time(at_us) => (3, at_us),
        };
        out.put_u8(start);
        out.put_u64_le(value);
        out.put_u32_le(self.credit);
        out.put_u64_le(self.kinds);
        assert!(self.selectors.len() <= SELECTORS_MAX, "a subscription has few selectors");
        out.put_u8(self.selectors.len() as u8);
        for selector in &self.selectors {
            match *selector {
                Selector::Warehouse(warehouse) => {
                    out.put_u8(1);
                    put_short(out, warehouse);
                }
                Selector::Sku(sku) => {
                    out.put_u8(2);
                    put_short(out, sku);
                }
                Selector::Cell { warehouse, sku } => {
                    out.put_u8(3);
                    put_short(out, warehouse);
                    put_short(out, sku);
                }
            }
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// It is none.
    pub fn decode(body: &'a [u8]) -> Result<Self, SubscribeError> {
        let mut reader = Reader::new(body);
        let (start, value) = (reader.u8()?, reader.u64()?);
        let start = match start {
            0 => Start::Sequence(value),
            1 => Start::Now,
            2 => Start::Oldest,
            3 => Start::Time(value),
            start => return Err(SubscribeError::Start(start)),
        };
        let (credit, kinds, count) = (reader.u32()?, reader.u64()?, reader.u8()?);
        if usize::from(count) > SELECTORS_MAX {
            return Err(SubscribeError::Selectors(count));
        }
        let mut selectors = Vec::new();
        for _ in 0..count {
            selectors.push(take_selector(&mut reader)?);
        }
        match reader.is_empty() {
            true => Ok(Self { start, credit, kinds, selectors }),
            false => Err(SubscribeError::Trailing),
        }
    }
}

fn take_selector<'a>(reader: &mut Reader<'a>) -> Result<Selector<'a>, SubscribeError> {
    let kind = reader.u8()?;
    let mut name = |bytes_max: usize| {
        let name = reader.short_bytes()?;
        match (1..=bytes_max).contains(&name.len()) {
            true => Ok(name),
            false => Err(SubscribeError::Name(name.len())),
        }
    };
    Ok(match kind {
        1 => Selector::Warehouse(name(WAREHOUSE_BYTES_MAX)?),
        2 => Selector::Sku(name(SKU_BYTES_MAX)?),
        3 => Selector::Cell { warehouse: name(WAREHOUSE_BYTES_MAX)?, sku: name(SKU_BYTES_MAX)? },
        kind => return Err(SubscribeError::Selector(kind)),
    })
}

/// What the body of an EVENTS frame begins with; records follow, if there are any.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EventsHead {
    /// The number of the first event that the frame speaks for: where the subscription begins, or the `next` of the
    /// frame before.
    pub first: u64,
    /// The number after the last one: wanted events before it have all been sent.
    pub next: u64,
    /// The number that the node's next event will have.
    pub reached: u64,
    /// The cluster's clock.
    pub server_now: UnixMillis,
}

impl EventsHead {
    /// Bytes on the wire.
    pub const BYTES: usize = 32;

    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.first);
        out.put_u64_le(self.next);
        out.put_u64_le(self.reached);
        out.put_u64_le(self.server_now.0);
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            first: reader.u64()?,
            next: reader.u64()?,
            reached: reader.u64()?,
            server_now: UnixMillis(reader.u64()?),
        })
    }
}
