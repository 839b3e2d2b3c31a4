//! Lists of SKUs, and the reorder points that were crossed.

use bytes::BytesMut;
use stockd_protocol::{
    CellHandle, Crossing, CrossingsHead, Filter, ListHead, ListedSku, Listing, Op, Opcode, Reader,
    Truncated, limits,
};

use crate::client::Client;
use crate::error::Error;
use crate::listing::pages;
use crate::outcome::{Outcome, Read};
use crate::request::{Consistency, Encoded};
use crate::writes::encode_checked;

/// Which SKUs to list, by the beginning of their names as they are shown.
#[derive(Clone, Debug)]
pub struct ListSkus {
    prefix: Vec<u8>,
    filter: Filter,
    from: u32,
    count: u16,
}

impl ListSkus {
    pages!();

    /// All SKUs, in pages of 1,024.
    pub const fn new() -> Self {
        let (filter, count) = (Filter::All, limits::LIST_CELLS_MAX);
        Self { prefix: Vec::new(), filter, from: 0, count }
    }

    /// Only those whose name begins so: at most 64 bytes.
    #[must_use]
    pub fn prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        self.prefix = prefix.into();
        self
    }

    /// At most so many on a page: 1 to 1,024.
    #[must_use]
    pub const fn count(mut self, count: u16) -> Self {
        self.count = count;
        self
    }
}

impl Default for ListSkus {
    fn default() -> Self {
        Self::new()
    }
}

/// A page of a list of SKUs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SkuListPage {
    /// The SKUs. There may be none on a page that is not the last.
    pub skus: Vec<NamedSku>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<u32>,
}

/// A SKU in a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedSku {
    /// Its name as it is shown.
    pub name: Vec<u8>,
    /// For people.
    pub title: String,
    /// A unit is 10⁻ˢᶜᵃˡᵉ of what people count in.
    pub scale: u8,
    /// Its reorder point over all warehouses.
    pub point: Option<i64>,
    /// What there is for orders to come, over all warehouses.
    pub position: i64,
}

/// Reorder points that were crossed, in order.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CrossingPage {
    /// The number of the first one. Larger than asked for: those between are no longer kept, and a list of
    /// what is low says what they would have said.
    pub first: u64,
    /// Where to go on: behind the last one of this page.
    pub next: u64,
    /// There are more.
    pub more: bool,
    /// What was crossed, numbered from `first`.
    pub crossings: Vec<PointCrossed>,
}

/// A reorder point that was crossed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PointCrossed {
    /// When, on the cluster's clock in ms.
    pub at_ms: u64,
    /// Order more; or no longer.
    pub is_low: bool,
    /// What there was for orders to come.
    pub position: i64,
    /// The point; `None`: it was taken away.
    pub point: Option<i64>,
    /// Which cell; `None`: the SKU over all warehouses.
    pub cell: Option<CellHandle>,
    /// The cell's warehouse; empty for a SKU.
    pub warehouse: Vec<u8>,
    /// The SKU's name as it is shown now.
    pub sku: Vec<u8>,
}

impl Client {
    /// Lists SKUs, a page at a time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_skus(
        &self,
        list: &ListSkus,
        consistency: Consistency,
    ) -> Result<Read<SkuListPage>, Error> {
        let ListSkus { prefix, filter, from, count } = list;
        let (from, count, filter) = (*from, *count, *filter);
        let op = Op::ListSkus(Listing { from, count, filter, warehouse: b"", sku: prefix });
        let encode = |out: &mut BytesMut| encode_checked(&op, &consistency.terms(), out);
        match self.one(Encoded::op(Opcode::ListSkus, encode)?).await? {
            Outcome::Skus(read) => Ok(read),
            _ => unreachable!("a list of SKUs is decoded as Skus"),
        }
    }

    /// Reads which reorder points were crossed, from a number on: 0 at first, then the `next` of the page
    /// before. The cluster keeps the latest 65,536.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_crossings(
        &self,
        from: u64,
        count: u16,
        consistency: Consistency,
    ) -> Result<Read<CrossingPage>, Error> {
        let op = Op::ReadCrossings { from, count };
        let encode = |out: &mut BytesMut| encode_checked(&op, &consistency.terms(), out);
        match self.one(Encoded::op(Opcode::ReadCrossings, encode)?).await? {
            Outcome::Crossings(read) => Ok(read),
            _ => unreachable!("a read of crossings is decoded as Crossings"),
        }
    }
}

pub(crate) fn take_skus(body: &mut Reader<'_>) -> Result<SkuListPage, Truncated> {
    let head = ListHead::take(body)?;
    let mut skus = Vec::new();
    for _ in 0..head.cells {
        let ListedSku { scale, title, point, position, name } = ListedSku::take(body)?;
        let (name, title) = (name.to_vec(), String::from_utf8_lossy(title).into_owned());
        skus.push(NamedSku { name, title, scale, point, position });
    }
    Ok(SkuListPage { skus, next: head.next })
}

pub(crate) fn take_crossings(body: &mut Reader<'_>) -> Result<CrossingPage, Truncated> {
    let CrossingsHead { first, next: end, count } = CrossingsHead::take(body)?;
    let mut crossings = Vec::new();
    for _ in 0..count {
        let Crossing { at_ms, position, point, is_low, cell, warehouse, sku } =
            Crossing::take(body)?;
        let (warehouse, sku) = (warehouse.to_vec(), sku.to_vec());
        crossings.push(PointCrossed { at_ms, is_low, position, point, cell, warehouse, sku });
    }
    let next = first.saturating_add(u64::from(count));
    Ok(CrossingPage { first, next, more: next < end, crossings })
}
