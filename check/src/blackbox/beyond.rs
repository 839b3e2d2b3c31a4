//! What the black box has no rules for.

use std::collections::{BTreeMap, BTreeSet};

use stockd_protocol::Op;

use crate::history::{Cell, Operation, Request};

type Id = [u8; 16];

/// Ids and cells of which more was asked than the search can explain.
#[derive(Default)]
pub(super) struct Beyond {
    pub ids: BTreeSet<Id>,
    /// As requests name them.
    pub cells: BTreeSet<Cell>,
}

impl Beyond {
    pub fn of(history: &[Operation]) -> Self {
        let mut beyond = Self::default();
        let mut reserved: BTreeMap<Id, Vec<Cell>> = BTreeMap::new();
        for operation in history {
            match &operation.request {
                Request::Reserve { id, lines, .. } => {
                    let cells = lines.iter().map(|line| line.0.clone());
                    reserved.entry(id.0).or_default().extend(cells);
                }
                Request::Other(sent) if operation.request.is_write() => {
                    beyond.add(&sent.op().0);
                }
                _ => (),
            }
        }
        for id in &beyond.ids {
            beyond.cells.extend(reserved.remove(id).into_iter().flatten());
        }
        beyond
    }

    fn add(&mut self, op: &Op<'_>) {
        self.ids.extend(op.key());
        self.cells.extend(op.written_cell().map(Cell::of));
        match *op {
            Op::TransferShip { from, .. } => {
                self.cells.insert(Cell::of(from));
            }
            Op::Reserve { lines, .. } | Op::Amend { lines, .. } => {
                self.cells.extend(lines.iter().map(|line| Cell::of(line.cell)));
            }
            Op::ReserveFrom { wishes, .. } => {
                let cells = wishes.iter().flat_map(|wish| wish.cells());
                self.cells.extend(cells.map(Cell::of));
            }
            _ => (),
        }
    }
}
