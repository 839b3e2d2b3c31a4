//! What a SKU is called, and what it is.
//!
//! ```text
//! READ_CATALOGUE ok   scale u8 · title · point i64 (−1: none) · position i64 · names u8 · names × name;
//!                     the first one is shown in lists
//!                     title, name: u8 len + bytes
//! ```

use bytes::{BufMut, BytesMut};

use crate::op::OpError;
use crate::reader::{Reader, Truncated};
use crate::stock::{put_point, take_point};

/// What becomes of a SKU's new name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Naming {
    /// It is one more name.
    Alias = 0,
    /// It is one more name, and the one that is shown in lists.
    Rename = 1,
}

impl Naming {
    /// The inverse of `as u8`.
    pub const fn from_u8(naming: u8) -> Option<Self> {
        match naming {
            0 => Some(Self::Alias),
            1 => Some(Self::Rename),
            _ => None,
        }
    }

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alias => "ALIAS",
            Self::Rename => "RENAME",
        }
    }

    pub(crate) fn take(body: &mut Reader<'_>) -> Result<Self, OpError> {
        match body.u8()? {
            0 => Ok(Self::Alias),
            1 => Ok(Self::Rename),
            other => Err(OpError::Choice(other)),
        }
    }
}

/// What the catalogue says about a SKU. One that was never described has scale 0 and no title.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Described<'a> {
    /// A unit is 10⁻ˢᶜᵃˡᵉ of what people count in: with 3, a quantity of 1,500 is 1.5 kg.
    pub scale: u8,
    /// For people; may be empty.
    pub title: &'a [u8],
    /// Its reorder point over all warehouses: order more when its position is not above it.
    pub point: Option<i64>,
    /// The sum of its cells' positions: see [`CellDetails::position`](crate::CellDetails::position).
    pub position: i64,
    /// All its names, the one first that is shown in lists.
    pub names: Vec<&'a [u8]>,
}

impl<'a> Described<'a> {
    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.scale);
        put_short(out, self.title);
        put_point(out, self.point);
        out.put_i64_le(self.position);
        out.put_u8(self.names.len() as u8);
        self.names.iter().for_each(|name| put_short(out, name));
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'a>) -> Result<Self, Truncated> {
        let (scale, title) = (reader.u8()?, reader.short_bytes()?);
        let (point, position) = (take_point(reader)?, reader.i64()?);
        let count = reader.u8()?;
        let names = (0..count).map(|_| reader.short_bytes()).collect::<Result<_, _>>()?;
        Ok(Self { scale, title, point, position, names })
    }
}

pub(crate) fn put_short(out: &mut BytesMut, bytes: &[u8]) {
    out.put_u8(bytes.len() as u8);
    out.put_slice(bytes);
}
