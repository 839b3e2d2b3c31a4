//! Reorder points: SKUs that are low, and points that were crossed.
//!
//! ```text
//! LIST_SKUS ok        next u32 (ffffffff: this was the last page) · skus u32 ·
//!                     skus × (scale u8 · title · point i64 (−1: none) · position i64 · name)
//! READ_CROSSINGS ok   first u64 · next u64 · count u32 · count × crossing, numbered from `first`
//! crossing            at u64 (ms) · position i64 · point i64 (−1: taken away) · low u8 (1 or 0) ·
//!                     0 u8 · 0 u16 · cell u32 (ffffffff: of the SKU) · warehouse · sku
//!                     title, name, warehouse, sku: u8 len + bytes
//! ```

use bytes::{BufMut, BytesMut};

use crate::CellHandle;
use crate::catalogue::put_short;
use crate::reader::{Reader, Truncated};
use crate::stock::{put_point, take_point};

/// A SKU in the reply to LIST_SKUS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListedSku<'a> {
    /// A unit is 10⁻ˢᶜᵃˡᵉ of what people count in.
    pub scale: u8,
    /// For people.
    pub title: &'a [u8],
    /// Its reorder point over all warehouses.
    pub point: Option<i64>,
    /// The sum of its cells' positions: see [`CellDetails::position`](crate::CellDetails::position).
    pub position: i64,
    /// Its name as it is shown.
    pub name: &'a [u8],
}

impl<'a> ListedSku<'a> {
    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.scale);
        put_short(out, self.title);
        put_point(out, self.point);
        out.put_i64_le(self.position);
        put_short(out, self.name);
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'a>) -> Result<Self, Truncated> {
        Ok(Self {
            scale: reader.u8()?,
            title: reader.short_bytes()?,
            point: take_point(reader)?,
            position: reader.i64()?,
            name: reader.short_bytes()?,
        })
    }
}

/// Opens the reply to READ_CROSSINGS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CrossingsHead {
    /// The number of the first one that follows. Larger than asked for: those between are not kept any more.
    pub first: u64,
    /// The number that the next one to come will have.
    pub next: u64,
    /// How many follow.
    pub count: u32,
}

impl CrossingsHead {
    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.first);
        out.put_u64_le(self.next);
        out.put_u32_le(self.count);
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self { first: reader.u64()?, next: reader.u64()?, count: reader.u32()? })
    }
}

/// A reorder point that was crossed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Crossing<'a> {
    /// When, on the cluster's clock in ms.
    pub at_ms: u64,
    /// What there was for orders to come, then.
    pub position: i64,
    /// The point; `None`: it was taken away.
    pub point: Option<i64>,
    /// It is low from then on; or it no longer is.
    pub is_low: bool,
    /// Which cell; `None`: the SKU over all warehouses.
    pub cell: Option<CellHandle>,
    /// The cell's warehouse; empty for a SKU.
    pub warehouse: &'a [u8],
    /// The SKU's name as it is shown now.
    pub sku: &'a [u8],
}

impl<'a> Crossing<'a> {
    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.at_ms);
        out.put_i64_le(self.position);
        put_point(out, self.point);
        out.put_u8(u8::from(self.is_low));
        out.put_u8(0);
        out.put_u16_le(0);
        out.put_u32_le(self.cell.map_or(u32::MAX, |cell| cell.0));
        put_short(out, self.warehouse);
        put_short(out, self.sku);
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'a>) -> Result<Self, Truncated> {
        let (at_ms, position, point) = (reader.u64()?, reader.i64()?, take_point(reader)?);
        let is_low = reader.u8()? == 1;
        reader.u8()?;
        reader.u16()?;
        let cell = Some(reader.u32()?).filter(|cell| *cell != u32::MAX).map(CellHandle);
        let (warehouse, sku) = (reader.short_bytes()?, reader.short_bytes()?);
        Ok(Self { at_ms, position, point, is_low, cell, warehouse, sku })
    }
}
