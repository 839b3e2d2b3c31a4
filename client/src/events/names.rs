//! What cells are called: events carry handles.
//!
//! ```text
//! CELL_DEFINED comes by ─▶ ┐
//! a page of LIST_CELLS  ─▶ ┤ handle → warehouse, SKU ─▶ whoever shows events
//! SKU_NAMED comes by    ─▶ ┘ (a renamed SKU: all are forgotten)
//! ```
//!
//! Any name of a SKU names it in requests. Here it is its own name where a CELL_DEFINED told it, else the one under
//! which lists show it.

use std::collections::BTreeMap;

use stockd_protocol::event::{Event, EventBody};
use stockd_protocol::{CellHandle, Naming};

use super::Batch;
use crate::client::Client;
use crate::error::Error;
use crate::listing::ListCells;
use crate::request::Consistency;

/// Most cells whose names are kept, in about 100 bytes each. When there are more, all are forgotten, and asked for
/// again as they are needed.
const CELLS_MAX: usize = 1 << 20;

/// A cell's names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct CellName<'a> {
    /// Of the warehouse.
    pub warehouse: &'a [u8],
    /// Of the SKU.
    pub sku: &'a [u8],
}

/// Names of cells, as they become known.
///
/// ```no_run
/// # use stockd_client::{Client, events::{EventStream, Names}};
/// # async fn show(client: Client, mut stream: EventStream) -> Result<(), Box<dyn std::error::Error>> {
/// let mut names = Names::new();
/// let batch = stream.next().await?;
/// names.resolve(&client, &batch).await?;
/// for event in batch.events() {
///     let name = event.change.and_then(|change| names.get(change.cell));
///     println!("{name:?} {event}");
/// }
/// # Ok(()) }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Names {
    cells: BTreeMap<u32, Entry>,
}

/// Both names in one piece of memory.
#[derive(Clone, Debug)]
struct Entry {
    both: Box<[u8]>,
    warehouse_len: u8,
}

impl Names {
    /// None is known.
    pub fn new() -> Self {
        Self::default()
    }

    /// A cell's names, if they are known.
    pub fn get(&self, cell: CellHandle) -> Option<CellName<'_>> {
        let entry = self.cells.get(&cell.0)?;
        let (warehouse, sku) = entry.both.split_at(usize::from(entry.warehouse_len));
        Some(CellName { warehouse, sku })
    }

    /// Learns what an event says of names.
    pub fn learn(&mut self, event: &Event<'_>) {
        match (&event.body, &event.change) {
            (EventBody::Names { warehouse, sku }, Some(change)) => {
                self.insert(change.cell, warehouse, sku);
            }
            (EventBody::Named { naming: Naming::Rename, .. }, _) => self.cells.clear(),
            _ => {}
        }
    }

    /// Learns from a batch, and asks for the names of its cells that are not known, a page of cells at a time: after
    /// it, [`get`](Self::get) knows them.
    ///
    /// # Errors
    /// See [`Error`]; what was learned until then is kept.
    pub async fn resolve(&mut self, client: &Client, batch: &Batch) -> Result<(), Error> {
        if self.cells.len() > CELLS_MAX {
            self.cells.clear();
        }
        for event in batch {
            self.learn(&event);
        }
        for event in batch {
            if let Some(change) = event.change {
                self.ask(client, change.cell).await?;
            }
        }
        Ok(())
    }

    /// A cell's names; `None`: there is no such cell.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn of(
        &mut self,
        client: &Client,
        cell: CellHandle,
    ) -> Result<Option<CellName<'_>>, Error> {
        self.ask(client, cell).await?;
        Ok(self.get(cell))
    }

    /// Cells that were made together are often sold together: a page brings the cell and those after it.
    async fn ask(&mut self, client: &Client, cell: CellHandle) -> Result<(), Error> {
        if self.cells.contains_key(&cell.0) {
            return Ok(());
        }
        let list = ListCells::new().from(cell.0);
        let page = client.list_cells(&list, Consistency::Linearizable).await?.value;
        for found in &page.cells {
            self.insert(found.handle, &found.warehouse, &found.sku);
        }
        Ok(())
    }

    fn insert(&mut self, cell: CellHandle, warehouse: &[u8], sku: &[u8]) {
        // A warehouse's name has at most 32 bytes; of one that lies, nothing is kept.
        if let Ok(warehouse_len) = u8::try_from(warehouse.len()) {
            let both = [warehouse, sku].concat().into();
            self.cells.insert(cell.0, Entry { both, warehouse_len });
        }
    }
}
