//! LIST_CELLS and LIST_SKUS: cells or SKUs by the beginning of their names, page by page.
//!
//! ```text
//! request   from u32 · filter u8 · 0 u8 · 0 u16 · warehouse prefix · SKU prefix     prefix: u8 len + bytes
//!           LIST_SKUS has no warehouse prefix
//! reply     next u32 (ffffffff: this was the last page) · cells u32 ·
//!           cells × (handle u32 · warehouse · SKU · CellDetails 120)                name: u8 len + bytes
//! ```

use bytes::{BufMut, BytesMut};

use crate::op::OpError;
use crate::reader::{Reader, Truncated};
use crate::{CellDetails, CellHandle, limits};

/// `next` of the last page.
const NO_NEXT: u32 = u32::MAX;

/// Which of the cells whose names begin as asked for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Filter {
    /// All.
    #[default]
    All = 0,
    /// Those at or below their reorder point: see [`CellDetails::is_low`], [`ListedSku`](crate::ListedSku).
    Low = 1,
}

/// What LIST_CELLS asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listing<'a> {
    /// 0, or the `next` of the page before. It means nothing with another filter.
    pub from: u32,
    /// Most cells or SKUs in the reply, 1…1,024.
    pub count: u16,
    /// Which.
    pub filter: Filter,
    /// What the warehouse's name begins with; empty: anything. Of SKUs it is empty.
    pub warehouse: &'a [u8],
    /// What the SKU's name begins with; empty: anything.
    pub sku: &'a [u8],
}

impl<'a> Listing<'a> {
    /// It passes over none.
    pub fn is_of_all(&self) -> bool {
        self.filter == Filter::All && self.warehouse.is_empty() && self.sku.is_empty()
    }

    pub(crate) fn take(body: &mut Reader<'a>, count: u16) -> Result<Self, OpError> {
        let (from, filter) = take_start(body)?;
        let (warehouse, sku) = (body.short_bytes()?, body.short_bytes()?);
        Ok(Self { from, count, filter, warehouse, sku })
    }

    pub(crate) fn take_of_skus(body: &mut Reader<'a>, count: u16) -> Result<Self, OpError> {
        let (from, filter) = take_start(body)?;
        Ok(Self { from, count, filter, warehouse: b"", sku: body.short_bytes()? })
    }

    pub(crate) fn check(&self) -> Result<(), OpError> {
        let prefix = |prefix: &[u8], max: usize| match prefix.len() > max {
            true => Err(OpError::NameLength(prefix.len())),
            false => Ok(()),
        };
        match self.count {
            1..=limits::LIST_CELLS_MAX => {}
            count => return Err(OpError::Count(count)),
        }
        prefix(self.warehouse, limits::WAREHOUSE_BYTES_MAX)?;
        prefix(self.sku, limits::SKU_BYTES_MAX)
    }

    pub(crate) fn put_of_skus(&self, out: &mut BytesMut) {
        self.put_start(out);
        put_prefix(out, self.sku, limits::SKU_BYTES_MAX);
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        self.put_start(out);
        put_prefix(out, self.warehouse, limits::WAREHOUSE_BYTES_MAX);
        put_prefix(out, self.sku, limits::SKU_BYTES_MAX);
    }

    fn put_start(&self, out: &mut BytesMut) {
        assert!((1..=limits::LIST_CELLS_MAX).contains(&self.count), "1 to 1,024 cells");
        out.put_u32_le(self.from);
        out.put_u8(self.filter as u8);
        out.put_u8(0);
        out.put_u16_le(0);
    }
}

fn take_start(body: &mut Reader<'_>) -> Result<(u32, Filter), OpError> {
    let from = body.u32()?;
    let filter = match body.u8()? {
        0 => Filter::All,
        1 => Filter::Low,
        other => return Err(OpError::Choice(other)),
    };
    match (body.u8()?, body.u16()?) {
        (0, 0) => Ok((from, filter)),
        _ => Err(OpError::Choice(0)),
    }
}

fn put_prefix(out: &mut BytesMut, prefix: &[u8], max: usize) {
    assert!(prefix.len() <= max, "a name has at most {max} bytes");
    out.put_u8(prefix.len() as u8);
    out.put_slice(prefix);
}

/// Opens the reply to LIST_CELLS; its cells follow.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListHead {
    /// Where the next page begins; `None`: there is none.
    pub next: Option<u32>,
    /// Cells on this page. There may be none on a page that is not the last.
    pub cells: u32,
}

impl ListHead {
    /// Bytes on the wire.
    pub const BYTES: usize = 8;

    /// It, as sent.
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let next = u64::from(self.next.unwrap_or(NO_NEXT));
        (u64::from(self.cells) << 32 | next).to_le_bytes()
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let next = Some(reader.u32()?).filter(|next| *next != NO_NEXT);
        Ok(Self { next, cells: reader.u32()? })
    }
}

/// A cell in the reply to LIST_CELLS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ListedCell<'a> {
    /// Its handle.
    pub handle: CellHandle,
    /// Its warehouse's name.
    pub warehouse: &'a [u8],
    /// Its SKU's name.
    pub sku: &'a [u8],
    /// Everything about it, of one moment.
    pub details: CellDetails,
}

impl<'a> ListedCell<'a> {
    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.handle.0);
        for name in [self.warehouse, self.sku] {
            out.put_u8(name.len() as u8);
            out.put_slice(name);
        }
        self.details.encode(out);
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'a>) -> Result<Self, Truncated> {
        Ok(Self {
            handle: CellHandle(reader.u32()?),
            warehouse: reader.short_bytes()?,
            sku: reader.short_bytes()?,
            details: CellDetails::take(reader)?,
        })
    }
}
