//! Cells by the beginning of their names, page by page.

use stockd_protocol::{
    CellDetails, CellHandle, Filter, ListHead, ListedCell, Listing, Reader, limits,
};

use crate::client::Client;
use crate::error::Error;
use crate::outcome::{BadReply, Read};
use crate::request::Consistency;

/// What lists of cells and of SKUs have in common.
macro_rules! pages {
    () => {
        /// Only those at or below their reorder point. Give this before [`Self::from`]: the places of one
        /// list mean nothing to the other.
        #[must_use]
        pub const fn low(mut self) -> Self {
            self.filter = Filter::Low;
            self
        }

        /// From the `next` of the page before on. In a list of all cells, places are handles.
        #[must_use]
        pub const fn from(mut self, next: u32) -> Self {
            self.from = next;
            self
        }
    };
}

pub(crate) use pages;

/// Which cells to list, for [`Client::list_cells`](crate::Client::list_cells).
///
/// ```
/// # use stockd_client::ListCells;
/// let low_in_berlin = ListCells::new().warehouse_prefix("BER").low();
/// ```
#[derive(Clone, Debug)]
pub struct ListCells {
    from: u32,
    count: u16,
    filter: Filter,
    warehouse: Vec<u8>,
    sku: Vec<u8>,
}

impl Default for ListCells {
    fn default() -> Self {
        Self::new()
    }
}

impl ListCells {
    pages!();

    /// All cells, from the first on, 1,024 a page.
    pub const fn new() -> Self {
        let count = limits::LIST_CELLS_MAX;
        Self { from: 0, count, filter: Filter::All, warehouse: Vec::new(), sku: Vec::new() }
    }

    /// Only cells in warehouses whose name begins so.
    #[must_use]
    pub fn warehouse_prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        self.warehouse = prefix.into();
        self
    }

    /// Only cells of SKUs whose name begins so.
    #[must_use]
    pub fn sku_prefix(mut self, prefix: impl Into<Vec<u8>>) -> Self {
        self.sku = prefix.into();
        self
    }

    /// At most so many cells on a page, 1 to 1,024.
    #[must_use]
    pub const fn page_cells(mut self, count: u16) -> Self {
        self.count = count;
        self
    }

    pub(crate) fn listing(&self) -> Listing<'_> {
        let Self { from, count, filter, ref warehouse, ref sku } = *self;
        Listing { from, count, filter, warehouse, sku }
    }
}

/// Some of the cells of a list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CellPage {
    /// Those of this page. There may be none on a page that is not the last: a node looks at so many
    /// cells at a time, whether or not they are asked for.
    pub cells: Vec<NamedCell>,
    /// Where the next page begins; `None` on the last page.
    pub next: Option<u32>,
}

/// All about a cell, with its names.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NamedCell {
    /// Its compact name.
    pub handle: CellHandle,
    /// Its warehouse's name.
    pub warehouse: Vec<u8>,
    /// Its SKU's name.
    pub sku: Vec<u8>,
    /// Its counters and rules.
    pub details: CellDetails,
}

impl Client {
    /// What a cell is called of which a reply gave the handle, and all about it; `None` if there is no such
    /// cell. A handle is never reused, so that its names may be kept; only the SKU may be renamed.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cell_name(
        &self,
        cell: CellHandle,
        consistency: Consistency,
    ) -> Result<Option<Read<NamedCell>>, Error> {
        // Whatever its names are, it is the first cell from its handle on.
        let list = ListCells::new().from(cell.0).page_cells(1);
        let Read { age, index, server_now, value } = self.list_cells(&list, consistency).await?;
        let found = value.cells.into_iter().find(|found| found.handle == cell);
        Ok(found.map(|value| Read { age, index, server_now, value }))
    }
}

pub(crate) fn take_page(body: &mut Reader<'_>) -> Result<CellPage, BadReply> {
    let head = ListHead::take(body)?;
    let mut cells = Vec::new();
    for _ in 0..head.cells {
        let ListedCell { handle, warehouse, sku, details } = ListedCell::take(body)?;
        let (warehouse, sku) = (warehouse.to_vec(), sku.to_vec());
        cells.push(NamedCell { handle, warehouse, sku, details });
    }
    Ok(CellPage { cells, next: head.next })
}
