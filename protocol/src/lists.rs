//! What operations are about, and the lists of it that they carry: checked when they are decoded,
//! decoded again while iterating.

use bytes::{BufMut, BytesMut};

use crate::op::OpError;
use crate::reader::Reader;
use crate::{CellHandle, OpFlags, limits};

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

    pub(crate) const fn names_flag(self) -> OpFlags {
        match self {
            Self::Handle(_) => OpFlags(0),
            Self::Name { .. } => OpFlags::NAMES,
        }
    }

    pub(crate) fn put(self, out: &mut BytesMut) {
        match self {
            Self::Handle(handle) => out.put_u32_le(handle.0),
            Self::Name { warehouse, sku } => {
                put_name(out, warehouse, limits::WAREHOUSE_BYTES_MAX);
                put_name(out, sku, limits::SKU_BYTES_MAX);
            }
        }
    }

    #[inline]
    pub(crate) fn take(body: &mut Reader<'a>, named: bool) -> Result<Self, OpError> {
        if !named {
            return Ok(Self::Handle(CellHandle(body.u32()?)));
        }
        let warehouse = take_name(body, limits::WAREHOUSE_BYTES_MAX)?;
        let sku = take_name(body, limits::SKU_BYTES_MAX)?;
        Ok(Self::Name { warehouse, sku })
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

/// The lines of a decoded reserve or amend.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Lines<'a> {
    bytes: &'a [u8],
    count: u16,
    named: bool,
}

/// The cells of a decoded read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Refs<'a> {
    bytes: &'a [u8],
    count: u16,
    named: bool,
}

/// Some units of one line of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Part {
    /// The line, counted from 0 in the order of the reservation.
    pub line: u16,
    /// How many units, at least 1.
    pub quantity: u32,
}

/// What of a reservation a decoded CONFIRM, RELEASE, CANCEL or FULFIL is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Parts<'a> {
    bytes: &'a [u8],
    count: u16,
    step: u32,
}

impl<'a> Lines<'a> {
    #[inline]
    pub(crate) fn take(body: &mut Reader<'a>, count: u16, named: bool) -> Result<Self, OpError> {
        if count == 0 || count > limits::LINES_MAX {
            return Err(OpError::Count(count));
        }
        let bytes = body.rest();
        for _ in 0..count {
            CellRef::take(body, named)?;
            take_quantity(body)?;
        }
        Ok(Self { bytes: taken(bytes, body), count, named })
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_slice(self.bytes);
    }

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
            cell: CellRef::take(&mut body, named).expect("checked when decoded"),
            quantity: take_quantity(&mut body).expect("checked when decoded"),
        })
    }
}

impl<'a> Refs<'a> {
    pub(crate) fn take(body: &mut Reader<'a>, count: u16, named: bool) -> Result<Self, OpError> {
        if count == 0 || count > limits::READ_CELLS_MAX {
            return Err(OpError::Count(count));
        }
        let bytes = body.rest();
        for _ in 0..count {
            CellRef::take(body, named)?;
        }
        Ok(Self { bytes: taken(bytes, body), count, named })
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        out.put_slice(self.bytes);
    }

    /// How many cells.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Never: a decoded read has at least one cell.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(crate) const fn is_named(&self) -> bool {
        self.named
    }

    /// The cells, in order.
    pub fn iter(&self) -> impl Iterator<Item = CellRef<'a>> + use<'a> {
        let mut body = Reader::new(self.bytes);
        let named = self.named;
        (0..self.count).map(move |_| CellRef::take(&mut body, named).expect("checked when decoded"))
    }
}

impl<'a> Parts<'a> {
    /// The whole reservation, as far as the operation applies to it.
    pub const WHOLE: Self = Self { bytes: &[], count: 0, step: 0 };

    /// Bytes of a part: line u16, 0 u16, quantity u32.
    const PART_BYTES: usize = 8;

    /// A count of 0 is the whole, and has no step.
    #[inline]
    pub(crate) fn take(body: &mut Reader<'a>, count: u16) -> Result<Self, OpError> {
        if count == 0 {
            return Ok(Self::WHOLE);
        }
        if count > limits::LINES_MAX {
            return Err(OpError::Count(count));
        }
        let step = body.u32()?;
        if step == 0 {
            return Err(OpError::Step);
        }
        let bytes = body.bytes(usize::from(count) * Self::PART_BYTES)?;
        let parts = Self { bytes, count, step };
        let mut next = 0;
        for at in bytes.chunks_exact(Self::PART_BYTES) {
            let part = part_at(at);
            if part.quantity == 0 {
                return Err(OpError::ZeroQuantity);
            }
            if u32::from(part.line) < next || at[2..4] != [0, 0] {
                return Err(OpError::Parts);
            }
            next = u32::from(part.line) + 1;
        }
        Ok(parts)
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        if self.count > 0 {
            out.put_u32_le(self.step);
            out.put_slice(self.bytes);
        }
    }

    /// The operation is about the whole reservation.
    #[inline]
    pub const fn is_whole(&self) -> bool {
        self.count == 0
    }

    /// How many lines are named; 0 for the whole.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// No line is named: it is about the whole.
    pub const fn is_empty(&self) -> bool {
        self.is_whole()
    }

    /// Which step of the reservation it is, by the client's count: its idempotency key, together with
    /// the reservation's id and the operation. At least 1; 0 for the whole.
    pub const fn step(&self) -> u32 {
        self.step
    }

    /// The parts, by ascending line, each line once.
    pub fn iter(&self) -> impl Iterator<Item = Part> + use<'a> {
        self.bytes.chunks_exact(Self::PART_BYTES).map(part_at)
    }
}

/// Appends what [`Parts`] reads.
///
/// # Panics
/// No parts, more than 1,024, a step of 0, a quantity of 0, or lines that do not ascend.
pub(crate) fn put_parts(out: &mut BytesMut, step: u32, parts: &[Part]) {
    let count = parts.len();
    assert!((1..=usize::from(limits::LINES_MAX)).contains(&count), "1 to 1,024 parts");
    assert!(step > 0, "steps count from 1");
    assert!(parts.is_sorted_by(|a, b| a.line < b.line), "parts are by ascending line");
    out.put_u32_le(step);
    for part in parts {
        assert!(part.quantity > 0, "a part has at least one unit");
        out.put_u16_le(part.line);
        out.put_u16_le(0);
        out.put_u32_le(part.quantity);
    }
}

fn part_at(bytes: &[u8]) -> Part {
    let mut reader = Reader::new(bytes);
    let mut take = || -> Result<Part, crate::Truncated> {
        let line = reader.u16()?;
        reader.u16()?;
        Ok(Part { line, quantity: reader.u32()? })
    };
    take().expect("a part has eight bytes")
}

/// What `body` took since `before`.
fn taken<'a>(before: &'a [u8], body: &Reader<'a>) -> &'a [u8] {
    &before[..before.len() - body.rest().len()]
}

pub(crate) fn take_name<'a>(body: &mut Reader<'a>, max: usize) -> Result<&'a [u8], OpError> {
    let name = body.short_bytes()?;
    if name.is_empty() || name.len() > max {
        return Err(OpError::NameLength(name.len()));
    }
    Ok(name)
}

pub(crate) fn put_name(out: &mut BytesMut, name: &[u8], max: usize) {
    assert!((1..=max).contains(&name.len()), "a name has 1 to {max} bytes");
    out.put_u8(name.len() as u8);
    out.put_slice(name);
}

#[inline]
pub(crate) fn take_quantity(body: &mut Reader<'_>) -> Result<u32, OpError> {
    match body.u32()? {
        0 => Err(OpError::ZeroQuantity),
        quantity => Ok(quantity),
    }
}
