//! Owners: who holds what, and how much of it at most.
//!
//! ```text
//! limits   holds_max u32 · units_max u32 · cool_down_ms u32                        0: no limit
//! READ_OWNER ok   holds u32 · open u32 · units u64 · free_at u64 (ms; 0: now) · limits
//! OWNER_LIMIT     by detail: 1 HOLDS nothing · 2 UNITS left u64 · 3 COOL_DOWN free_at u64 (ms) ·
//!                 4 CELL, 5 NAMELESS line u16 each
//! ```

use bytes::{BufMut, BytesMut};

use crate::UnixMillis;
use crate::reader::{Reader, Truncated};

/// What each owner may hold, the same for all. 0: as much as there is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct OwnerLimits {
    /// Most active reservations at once.
    pub holds_max: u32,
    /// Most units in active reservations at once.
    pub units_max: u32,
    /// For how long an owner takes no more after a reservation of its own has expired. No longer than
    /// the cluster remembers ended reservations.
    pub cool_down_ms: u32,
}

impl OwnerLimits {
    /// Bytes on the wire.
    pub const BYTES: usize = 12;

    /// Appends them.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u32_le(self.holds_max);
        out.put_u32_le(self.units_max);
        out.put_u32_le(self.cool_down_ms);
    }

    /// Takes them off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self { holds_max: reader.u32()?, units_max: reader.u32()?, cool_down_ms: reader.u32()? })
    }
}

/// What an owner has, as READ_OWNER tells it. One that nobody knows has nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OwnerUsage {
    /// Active reservations.
    pub holds: u32,
    /// Active and confirmed reservations.
    pub open: u32,
    /// Units that are held under a deadline.
    pub units: u64,
    /// When it may reserve again; `None`: now, as far as its cool-down goes.
    pub free_at: Option<UnixMillis>,
    /// What it may have.
    pub limits: OwnerLimits,
}

impl OwnerUsage {
    /// Bytes on the wire.
    pub const BYTES: usize = 24 + OwnerLimits::BYTES;

    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.holds);
        out.put_u32_le(self.open);
        out.put_u64_le(self.units);
        out.put_u64_le(self.free_at.map_or(0, |at| at.0));
        self.limits.encode(out);
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            holds: reader.u32()?,
            open: reader.u32()?,
            units: reader.u64()?,
            free_at: Some(UnixMillis(reader.u64()?)).filter(|at| at.0 != 0),
            limits: OwnerLimits::take(reader)?,
        })
    }
}

/// The detail of an OWNER_LIMIT: which limit it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u16)]
pub enum OwnerBound {
    /// It has as many active reservations as it may have, or 256 open ones.
    Holds = 1,
    /// It would hold more units than it may.
    Units = 2,
    /// A reservation of its own has expired lately.
    CoolDown = 3,
    /// It would have more units of a cell than the cell gives to one owner.
    Cell = 4,
    /// The cell is sold to owners only, and the request names none.
    Nameless = 5,
}

impl OwnerBound {
    /// Reads the detail field of an outcome.
    pub const fn from_detail(detail: u16) -> Option<Self> {
        Some(match detail {
            1 => Self::Holds,
            2 => Self::Units,
            3 => Self::CoolDown,
            4 => Self::Cell,
            5 => Self::Nameless,
            _ => return None,
        })
    }

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Holds => "HOLDS",
            Self::Units => "UNITS",
            Self::CoolDown => "COOL_DOWN",
            Self::Cell => "CELL",
            Self::Nameless => "NAMELESS",
        }
    }
}
