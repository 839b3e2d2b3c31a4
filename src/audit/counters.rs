//! Is what the events add up to what a state has in its cells?

use crate::engine::CellReader;
use crate::protocol::CellHandle;
use crate::protocol::event::{Counts, Ledger};

/// A cell in which a state has something else than the events add up to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The cell.
    pub cell: CellHandle,
    /// What the events add up to; `None`: no event is about it, and all events are known.
    pub events: Option<Counts>,
    /// What the state has; `None`: it has no such cell.
    pub state: Option<Counts>,
}

impl Difference {
    /// As a sentence, with the cell's names as the state knows them.
    pub fn describe(&self, cells: &CellReader) -> String {
        let cell = name_of(self.cell, cells);
        let (events, state) = match (self.events, self.state) {
            (None, _) => return format!("{cell}: no event is about it, since the first one"),
            (_, None) => return format!("{cell}: events are about it, and it is not there"),
            (Some(events), Some(state)) => (events, state),
        };
        let both = Counts::NAMES.iter().zip(events.all().into_iter().zip(state.all()));
        let others: Vec<_> = both
            .filter(|(_, (events, state))| events != state)
            .map(|(name, (events, state))| format!("{name} {state}, the events say {events}"))
            .collect();
        format!("{cell}: {}", others.join("; "))
    }
}

/// A cell as people know it.
fn name_of(cell: CellHandle, cells: &CellReader) -> String {
    match cells.names(cell) {
        Some((warehouse, sku)) => {
            format!("cell {} ({} {})", cell.0, warehouse.escape_ascii(), sku.escape_ascii())
        }
        None => format!("cell {}", cell.0),
    }
}

/// Compares every cell that a ledger knows with a state of the same moment; gives how many it knows. `is_complete`:
/// the ledger has all events from the first one on, and must know every cell.
pub fn compare(
    ledger: &Ledger,
    cells: &CellReader,
    is_complete: bool,
    differs: &mut dyn FnMut(Difference),
) -> u64 {
    let mut known = 0;
    for (cell, counts) in ledger.known() {
        known += 1;
        let state = cells.details(cell).map(|details| Counts::from(&details));
        if state != Some(counts) {
            differs(Difference { cell, events: Some(counts), state });
        }
    }
    if is_complete && known < u64::from(cells.count()) {
        let unknown = (0..cells.count()).map(CellHandle);
        for cell in unknown.filter(|cell| ledger.counts(*cell).is_none()) {
            let state = cells.details(cell).map(|details| Counts::from(&details));
            differs(Difference { cell, events: None, state });
        }
    }
    known
}
