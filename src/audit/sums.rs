//! Adding up all events, one after the other.

use super::UNSEEN_CELLS_MAX;
use super::checkpoints::Checkpoints;
use crate::events::Position;
use crate::protocol::CellHandle;
use crate::protocol::event::{Event, EventRecord, Ledger, LedgerFault};

/// A ledger over the events of a directory, which begins anew where events are missing.
pub(super) struct Sums {
    ledger: Ledger,
    /// What is in no cell.
    pub checkpoints: Checkpoints,
    /// The event that comes next; `None`: whatever comes.
    next: Option<u64>,
    /// After the last event that was added up.
    reached: u64,
    /// The ledger has every event since the first one.
    is_complete: bool,
    /// Of the record before.
    entry: (u64, u64),
    /// No cell has a higher handle: a cell is made by an event.
    cells_max: u64,
    pub events: u64,
    pub records: u64,
}

impl Sums {
    /// `cells`: as many may be there before the first event that is seen.
    pub fn new(cells: u64) -> Self {
        Self {
            ledger: Ledger::new(),
            checkpoints: Checkpoints::new(),
            next: None,
            reached: 0,
            is_complete: false,
            entry: (0, 0),
            cells_max: cells,
            events: 0,
            records: 0,
        }
    }

    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub fn is_complete(&self) -> bool {
        self.is_complete
    }

    /// What comes next follows nothing that is known.
    pub fn forget(&mut self) {
        (self.next, self.ledger, self.is_complete) = (None, Ledger::new(), false);
        self.checkpoints.forget();
    }

    /// What comes next is here; gives the event that should be, if others are missing between.
    pub fn go_on_at(&mut self, position: Position) -> Option<u64> {
        let before = self.next.replace(position.next);
        if before == self.next {
            return None;
        }
        self.forget();
        // What was left out may have made cells.
        let unseen = position.next.saturating_sub(self.reached.max(1)).min(UNSEEN_CELLS_MAX);
        self.cells_max = self.cells_max.max((self.cells_max + unseen).min(UNSEEN_CELLS_MAX));
        self.ledger.expect(position.next);
        self.next = Some(position.next);
        self.is_complete = position == Position::START;
        self.checkpoints.begin_at(&position);
        before
    }

    /// Adds up the events of a record, which begins there; gives everything that is wrong with them.
    pub fn take(
        &mut self,
        before: Position,
        record: &EventRecord<'_>,
        wrong: &mut dyn FnMut(String),
    ) {
        let header = record.header();
        self.checkpoints.begin_record(before, header);
        self.records += 1;
        self.events += u64::from(header.count);
        self.cells_max += u64::from(header.count);
        let entry = (header.index, header.at_us);
        if entry.0 < self.entry.0 || entry.1 < self.entry.1 {
            wrong(format!("a record of entry {}, after one of entry {}", entry.0, self.entry.0));
        }
        self.entry = entry;
        if header.is_filtered {
            wrong("a record from which events were left out".to_owned());
        }
        for event in record.events() {
            match event {
                Ok(event) => self.add(&event, wrong),
                Err(error) => {
                    self.checkpoints.forget();
                    wrong(error.to_string());
                }
            }
        }
        (self.next, self.reached) = (Some(header.next()), header.next());
        self.ledger.expect(header.next());
    }

    #[inline]
    fn add(&mut self, event: &Event<'_>, wrong: &mut dyn FnMut(String)) {
        self.checkpoints.add(event, wrong);
        let is_cell = |cell: CellHandle| u64::from(cell.0) < self.cells_max;
        if event.change.as_ref().is_some_and(|change| !is_cell(change.cell)) {
            return wrong(format!("event {} is about a cell that cannot be", event.sequence));
        }
        if let Err(fault) = self.ledger.take(event) {
            self.doubt(event, &fault, wrong);
        }
    }

    /// An event does not fit. What it says is believed from here on, so that each fault is told once.
    #[cold]
    fn doubt(&mut self, event: &Event<'_>, fault: &LedgerFault, wrong: &mut dyn FnMut(String)) {
        wrong(fault.to_string());
        if let Some(change) = &event.change {
            self.ledger.set(change.cell, &change.after);
        }
        self.ledger.expect(event.sequence.saturating_add(1));
    }
}
