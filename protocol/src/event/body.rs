//! What an event says beside its cell, by kind.
//!
//! ```text
//! CELL_DEFINED                   warehouse · sku
//! POLICY_SET                     rules before · rules after                               32 bytes each:
//!                                oversell_limit, buffer, reorder_point i64 · bits u32 · owner_max u32
//! RESERVED                       owner, if it is somebody's
//! SKU_DESCRIBED                  sku · scale u8 · title
//! SKU_NAMED                      sku · naming u8 (0 ALIAS, 1 RENAME) · name
//! REORDER_SET                    sku · point i64 (−1: none)
//! OWNER_LIMITS_SET               holds_max u32 · units_max u32 · cool_down_ms u32
//! CROSSED_DOWN, CROSSED_UP       position i64 · point i64 (−1: taken away) · sku, empty if it is about the cell
//! OUTAGE_GIVEN_BACK              ms u64
//! REFUSED                        opcode u8 · code u16 · units asked for u64 (0: of none in particular)
//! CHECKPOINT, DIVERGED           see checkpoint.rs
//! every other kind               nothing
//!
//! warehouse, sku, owner, title, name: u8 length + bytes; a SKU by its own name
//! ```

use bytes::BufMut;

use super::{Checkpoint, Divergence, EventError, EventKind};
use crate::catalogue::Naming;
use crate::code::Code;
use crate::opcode::Opcode;
use crate::owner::OwnerLimits;
use crate::reader::{Reader, Truncated};
use crate::stock::{NO_POINT, Policy};

/// See the module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum EventBody<'a> {
    /// Nothing.
    None,
    /// A cell's names.
    Names {
        /// Of the warehouse.
        warehouse: &'a [u8],
        /// Of the SKU: its own.
        sku: &'a [u8],
    },
    /// A cell's rules.
    Policy {
        /// What they were.
        before: Policy,
        /// What they are.
        after: Policy,
    },
    /// Whose a reservation is.
    Owner(&'a [u8]),
    /// What a SKU is.
    Described {
        /// Its own name.
        sku: &'a [u8],
        /// A unit is 10⁻ˢᶜᵃˡᵉ of what people count in.
        scale: u8,
        /// For people.
        title: &'a [u8],
    },
    /// What else a SKU is called.
    Named {
        /// Its own name.
        sku: &'a [u8],
        /// Is it shown under the other one?
        naming: Naming,
        /// The other one.
        name: &'a [u8],
    },
    /// When to order more of a SKU.
    Reorder {
        /// Its own name.
        sku: &'a [u8],
        /// At this position; `None`: never.
        point: Option<i64>,
    },
    /// What each owner may hold.
    OwnerLimits(OwnerLimits),
    /// A reorder point was crossed.
    Crossed {
        /// The position now.
        position: i64,
        /// The point; `None`: it was taken away.
        point: Option<i64>,
        /// Of this SKU, over all warehouses; empty: of the event's cell.
        sku: &'a [u8],
    },
    /// How much later deadlines are, in ms.
    Outage(u64),
    /// Why a request was refused.
    Refused {
        /// The operation.
        opcode: Opcode,
        /// The code of its outcome.
        code: Code,
        /// Units that it asked for of the event's cell; 0: none in particular.
        asked: u64,
    },
    /// How much there is of everything.
    Checkpoint(Checkpoint<'a>),
    /// Whose state is not as it should be.
    Diverged(Divergence),
}

impl<'a> EventBody<'a> {
    /// Appends it.
    ///
    /// # Panics
    /// A name is longer than 255 bytes.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        match *self {
            Self::None => {}
            Self::Names { warehouse, sku } => {
                put_short(out, warehouse);
                put_short(out, sku);
            }
            Self::Policy { before, after } => {
                put_policy(out, &before);
                put_policy(out, &after);
            }
            Self::Owner(owner) => put_short(out, owner),
            Self::Described { sku, scale, title } => {
                put_short(out, sku);
                out.put_u8(scale);
                put_short(out, title);
            }
            Self::Named { sku, naming, name } => {
                put_short(out, sku);
                out.put_u8(naming as u8);
                put_short(out, name);
            }
            Self::Reorder { sku, point } => {
                put_short(out, sku);
                out.put_i64_le(point.unwrap_or(NO_POINT));
            }
            Self::OwnerLimits(limits) => limits.encode(out),
            Self::Crossed { position, point, sku } => {
                out.put_i64_le(position);
                out.put_i64_le(point.unwrap_or(NO_POINT));
                put_short(out, sku);
            }
            Self::Outage(ms) => out.put_u64_le(ms),
            Self::Refused { opcode, code, asked } => {
                out.put_u8(opcode as u8);
                out.put_u16_le(code.0);
                out.put_u64_le(asked);
            }
            Self::Checkpoint(Checkpoint(bytes)) => out.put_slice(bytes),
            Self::Diverged(divergence) => divergence.encode(out),
        }
    }

    /// Reads the body of an event of a kind.
    ///
    /// # Errors
    /// It is none of that kind.
    pub(super) fn decode(kind: EventKind, bytes: &'a [u8]) -> Result<Self, EventError> {
        if bytes.is_empty() {
            return Ok(Self::None);
        }
        let mut reader = Reader::new(bytes);
        let body = Self::take(kind, &mut reader)?.ok_or(EventError::Body(kind))?;
        match reader.is_empty() {
            true => Ok(body),
            false => Err(EventError::Body(kind)),
        }
    }

    fn take(kind: EventKind, reader: &mut Reader<'a>) -> Result<Option<Self>, Truncated> {
        let point = |point: i64| Some(point).filter(|point| *point != NO_POINT);
        Ok(Some(match kind {
            EventKind::CellDefined => {
                Self::Names { warehouse: reader.short_bytes()?, sku: reader.short_bytes()? }
            }
            EventKind::PolicySet => {
                Self::Policy { before: take_policy(reader)?, after: take_policy(reader)? }
            }
            EventKind::Reserved => Self::Owner(reader.short_bytes()?),
            EventKind::SkuDescribed => Self::Described {
                sku: reader.short_bytes()?,
                scale: reader.u8()?,
                title: reader.short_bytes()?,
            },
            EventKind::SkuNamed => {
                let (sku, naming) = (reader.short_bytes()?, reader.u8()?);
                let Some(naming) = Naming::from_u8(naming) else { return Ok(None) };
                Self::Named { sku, naming, name: reader.short_bytes()? }
            }
            EventKind::ReorderSet => {
                Self::Reorder { sku: reader.short_bytes()?, point: point(reader.i64()?) }
            }
            EventKind::OwnerLimitsSet => Self::OwnerLimits(OwnerLimits::take(reader)?),
            EventKind::CrossedDown | EventKind::CrossedUp => Self::Crossed {
                position: reader.i64()?,
                point: point(reader.i64()?),
                sku: reader.short_bytes()?,
            },
            EventKind::OutageGivenBack => Self::Outage(reader.u64()?),
            EventKind::Refused => {
                let Some(opcode) = Opcode::from_u8(reader.u8()?) else { return Ok(None) };
                Self::Refused { opcode, code: Code(reader.u16()?), asked: reader.u64()? }
            }
            EventKind::Checkpoint => Self::Checkpoint(Checkpoint(reader.chunk()?)),
            EventKind::Diverged => match Divergence::take(reader)? {
                Some(divergence) => Self::Diverged(divergence),
                None => return Ok(None),
            },
            _ => return Ok(None),
        }))
    }
}

fn put_short(out: &mut Vec<u8>, bytes: &[u8]) {
    out.put_u8(u8::try_from(bytes.len()).expect("names are short"));
    out.put_slice(bytes);
}

fn put_policy(out: &mut Vec<u8>, policy: &Policy) {
    out.put_i64_le(policy.oversell_limit);
    out.put_i64_le(policy.buffer);
    out.put_i64_le(policy.reorder_point.unwrap_or(NO_POINT));
    out.put_u32_le(policy.bits());
    out.put_u32_le(policy.owner_max);
}

fn take_policy(reader: &mut Reader<'_>) -> Result<Policy, Truncated> {
    let [oversell_limit, buffer, point] = [reader.i64()?, reader.i64()?, reader.i64()?];
    let reorder_point = Some(point).filter(|point| *point != NO_POINT);
    let (bits, owner_max) = (reader.u32()?, reader.u32()?);
    let policy = Policy { oversell_limit, buffer, reorder_point, owner_max, ..Policy::default() };
    Ok(policy.with_bits(bits))
}
