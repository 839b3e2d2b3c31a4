//! What is sold, and whether the sums are right afterwards.
//!
//! The sums are a check of their own, which knows neither the log nor the model: units that were
//! received and promised, as the answers told it, against what the cells say in the end.

use std::collections::BTreeMap;
use std::sync::Mutex;

use stockd_check::history::{Cell, Operation, Request, Verdict};
use stockd_client::{CellCounters, CellHandle, Code, ReservationId};

use crate::dice::Dice;

const WAREHOUSES: usize = 3;
const SKUS: usize = 16;
/// Half of the buyers want one of so many cells, which are often sold out.
const HOT: u64 = 4;

/// The cells, by number, and what has been learned of them.
#[derive(Default)]
pub struct Market {
    handles: Mutex<BTreeMap<usize, CellHandle>>,
}

impl Market {
    /// How many cells there are.
    pub const CELLS: usize = WAREHOUSES * SKUS;

    /// A cell that somebody wants.
    pub fn draw(dice: &mut Dice) -> usize {
        let among = if dice.chance(50) { HOT } else { Self::CELLS as u64 };
        dice.roll(among) as usize
    }

    /// The name of a cell.
    pub fn name(cell: usize) -> Cell {
        Cell::name(format!("W{}", cell % WAREHOUSES), Self::sku(cell))
    }

    /// The name of a cell's SKU.
    pub fn sku(cell: usize) -> String {
        format!("S{}", cell / WAREHOUSES)
    }

    /// The cells, all by handle if these are known and it falls so, else all by name.
    pub fn refer(&self, cells: &[usize], dice: &mut Dice) -> Vec<Cell> {
        let handles = self.handles.lock().expect("no holder panics");
        let known: Vec<_> =
            cells.iter().filter_map(|cell| handles.get(cell).copied().map(Cell::Handle)).collect();
        match known.len() == cells.len() && dice.chance(40) {
            true => known,
            false => cells.iter().map(|cell| Self::name(*cell)).collect(),
        }
    }

    /// An answer told a cell's handle.
    pub fn learn(&self, cell: usize, handle: CellHandle) {
        self.handles.lock().expect("no holder panics").insert(cell, handle);
    }

    /// Which cell it is.
    fn number(&self, cell: &Cell) -> Option<usize> {
        match cell {
            Cell::Name(warehouse, sku) => {
                let digits = |name: &[u8]| std::str::from_utf8(name.get(1..)?).ok()?.parse().ok();
                let (warehouse, sku): (usize, usize) = (digits(warehouse)?, digits(sku)?);
                Some(sku * WAREHOUSES + warehouse).filter(|number| *number < Self::CELLS)
            }
            Cell::Handle(handle) => {
                let handles = self.handles.lock().expect("no holder panics");
                handles.iter().find(|(_, known)| *known == handle).map(|(number, _)| *number)
            }
        }
    }
}

/// Units of a cell that certainly are, and that perhaps are.
#[derive(Clone, Copy, Default, Debug)]
struct Units {
    certain: i64,
    perhaps: i64,
}

impl Units {
    fn allow(self, found: i64) -> bool {
        (self.certain..=self.certain + self.perhaps).contains(&found)
    }
}

/// Compares the cells, by number, with the answers. All reservations have ended by now, so that
/// nothing is held.
///
/// # Errors
/// Says which cell does not add up, and how.
pub fn check_sums(
    market: &Market,
    history: &[Operation],
    found: &[CellCounters],
) -> Result<String, String> {
    let received = count_received(market, history);
    let committed = count_committed(market, history);
    let mut sums = CellCounters::default();
    for (cell, counters) in found.iter().enumerate() {
        let (received, committed) = (received[cell], committed[cell]);
        let right = received.allow(counters.on_hand)
            && committed.allow(counters.committed)
            && counters.reserved == 0
            && counters.available == counters.on_hand - counters.committed
            && counters.available >= 0;
        if !right {
            return Err(format!(
                "cell {cell} ({:?}) is {counters:?}; the answers say received {received:?}, \
                 committed {committed:?}, and nothing is held any more",
                Market::name(cell)
            ));
        }
        sums.on_hand += counters.on_hand;
        sums.committed += counters.committed;
        sums.available += counters.available;
    }
    Ok(format!(
        "{} units received = {} promised + {} left, 0 held",
        sums.on_hand, sums.committed, sums.available
    ))
}

fn count_received(market: &Market, history: &[Operation]) -> Vec<Units> {
    let mut by_id = BTreeMap::new();
    for operation in history {
        let Request::Receive { op_id, quantity, cell, .. } = &operation.request else { continue };
        let Some(cell) = market.number(cell) else { continue };
        let certain = is_ok(&operation.verdict);
        let perhaps = operation.verdict == Verdict::Unknown;
        let entry = by_id.entry(*op_id).or_insert((cell, *quantity, false, false));
        *entry = (cell, *quantity, entry.2 || certain, entry.3 || perhaps);
    }
    let mut units = vec![Units::default(); Market::CELLS];
    for (cell, quantity, certain, perhaps) in by_id.into_values() {
        add(&mut units[cell], i64::from(quantity), certain, perhaps);
    }
    units
}

fn count_committed(market: &Market, history: &[Operation]) -> Vec<Units> {
    let mut lines: BTreeMap<ReservationId, &[(Cell, u32)]> = BTreeMap::new();
    let mut confirmed: BTreeMap<ReservationId, (bool, bool)> = BTreeMap::new();
    for operation in history {
        match &operation.request {
            Request::Reserve { id, lines: asked, .. } => {
                // A reused id with other lines is refused, so the grant's lines are those that count.
                let granted = is_ok(&operation.verdict);
                if granted || !lines.contains_key(id) {
                    lines.insert(*id, asked);
                }
            }
            Request::Confirm { id } => {
                let entry = confirmed.entry(*id).or_default();
                entry.0 |= is_ok(&operation.verdict);
                entry.1 |= operation.verdict == Verdict::Unknown;
            }
            _ => {}
        }
    }
    let mut units = vec![Units::default(); Market::CELLS];
    for (id, (certain, perhaps)) in confirmed {
        for (cell, quantity) in lines.get(&id).copied().unwrap_or_default() {
            if let Some(cell) = market.number(cell) {
                add(&mut units[cell], i64::from(*quantity), certain, perhaps);
            }
        }
    }
    units
}

fn add(units: &mut Units, quantity: i64, certain: bool, perhaps: bool) {
    if certain {
        units.certain += quantity;
    } else if perhaps {
        units.perhaps += quantity;
    }
}

fn is_ok(verdict: &Verdict) -> bool {
    verdict.answer().is_some_and(|answer| answer.code.is_ok() || answer.code == Code::REPLAY)
}
