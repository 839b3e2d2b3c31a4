//! Refusals as events: of about one in so many requests that are refused, and none else.
//!
//! ```text
//! refused in apply ─▶ is its id one of the sample? ─▶ REFUSED: operation, code, cell, units asked for
//! looks sold out to a session ─▶ is its id one? ─▶ through the log, like a retry
//! ```
//!
//! A refusal leaves no trace in the stock, and most of them do not even reach the log. To know what is asked for in
//! vain, a sample is enough. Which requests are in it follows from their ids alone: so every replica tells the same, and
//! what sessions refuse by themselves is no less likely to be in it than what the log refuses.
//!
//! Left out: what has no id; operations of a chain that another one has failed; and `ID_TOO_OLD`, in whose place the
//! leader's archive may give an answer. Clients make the ids, so one that wants to may stay out of the sample.

use crate::protocol::event::{Cause, EventBody, EventKind};
use crate::protocol::{CellRef, Code, Op, Opcode, Reader, ReservationId};

use super::batch::Command;
use super::hash::hash_id;
use super::outcomes::Outcomes;
use super::state::StockState;

/// Another one than those of the indexes, which differ from node to node.
const SEED: u64 = u64::from_le_bytes(*b"REFUSALS");

/// Is a refusal of the request with this id told? Of about one in so many; 0: of none.
#[inline]
pub(super) fn is_sampled(id: &[u8; 16], one_in: u32) -> bool {
    one_in > 0 && hash_id(SEED, id).is_multiple_of(u64::from(one_in))
}

/// A refusal that is to be told.
#[derive(Clone, Copy)]
pub(super) struct Refused<'a> {
    /// The operation as the client encoded it.
    bytes: &'a [u8],
    id: ReservationId,
    opcode: Opcode,
    code: Code,
    cell: Option<u32>,
    /// 0: of none in particular.
    asked: u64,
}

impl StockState {
    /// The last outcome, if it is a refusal to be told, of the operation that `bytes` begin with.
    #[inline]
    pub(super) fn refused<'a>(&self, bytes: &'a [u8], out: &Outcomes<'_>) -> Option<Refused<'a>> {
        let is_told = self.config.sample_refusals > 0 && !out.last().is_ok();
        if is_told { self.refused_as(bytes, out.last()) } else { None }
    }

    #[cold]
    fn refused_as<'a>(&self, bytes: &'a [u8], code: Code) -> Option<Refused<'a>> {
        if matches!(code, Code::LINKED_FAILED | Code::ID_TOO_OLD) {
            return None;
        }
        let Command::Client(op, ..) = Command::take(&mut Reader::new(bytes)) else { return None };
        let id = op.key().filter(|id| is_sampled(id, self.config.sample_refusals))?;
        let (cell, asked) = self.asked_for(&op, code);
        let (id, opcode) = (ReservationId(id), op.opcode());
        Some(Refused { bytes, id, opcode, code, cell, asked })
    }

    /// The cell that a refused operation is about, and the units it asked for: of several, the first that is short,
    /// or the first.
    fn asked_for(&self, op: &Op<'_>, code: Code) -> (Option<u32>, u64) {
        if let (Op::Reserve { .. } | Op::Amend { .. }, Code::NO_STOCK) = (op, code)
            && let Some(short) = self.scratch.shorts.first()
        {
            return (Some(short.cell.0), short.asked);
        }
        let (cell, asked) = first_of(op);
        (cell.and_then(|cell| self.cells.table().resolve(cell).ok()), asked)
    }

    /// Tells it. What a failed chain has done must be undone by then.
    #[cold]
    pub(super) fn tell_refused(&mut self, refused: &Refused<'_>) {
        let &Refused { bytes, id, opcode, code, cell, asked } = refused;
        let body = EventBody::Refused { opcode, code, asked };
        let cause = Cause { body, ..Cause::new(EventKind::Refused, id) };
        let cells = &mut self.cells;
        cells.events.take_note(bytes);
        match cell {
            Some(cell) => {
                let (value, details) = (cells.get(cell), cells.details(cell));
                cells.events.tell_of_cell(&cause, cell, &value, &details);
            }
            None => cells.events.tell(&cause),
        }
    }
}

/// The first cell that an operation names, and the units it asks for there.
fn first_of<'a>(op: &Op<'a>) -> (Option<CellRef<'a>>, u64) {
    match *op {
        Op::Receive { cell, quantity, .. }
        | Op::Move { cell, quantity, .. }
        | Op::Arrive { cell, quantity, .. }
        | Op::Return { cell, quantity, .. }
        | Op::TransferShip { from: cell, quantity, .. } => (Some(cell), u64::from(quantity)),
        Op::Adjust { cell, .. }
        | Op::Set { cell, .. }
        | Op::CountBegin { cell, .. }
        | Op::Announce { cell, .. }
        | Op::SetPolicy { cell, .. } => (Some(cell), 0),
        Op::Reserve { lines, .. } | Op::Amend { lines, .. } => {
            let line = lines.iter().next();
            line.map_or((None, 0), |line| (Some(line.cell), u64::from(line.quantity)))
        }
        Op::ReserveFrom { wishes, .. } => {
            let wish = wishes.iter().next();
            wish.map_or((None, 0), |wish| (wish.cells().next(), u64::from(wish.quantity)))
        }
        _ => (None, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn about_one_in_so_many_is_in_the_sample() {
        let id = |number: u64| {
            ReservationId::from_parts(1_700_000_000_000 + number / 50, {
                let mut random = [0; 10];
                random[2..].copy_from_slice(&number.to_le_bytes());
                random
            })
        };
        let sampled = |one_in| (0..100_000).filter(|at| is_sampled(&id(*at).0, one_in)).count();
        assert_eq!((sampled(0), sampled(1)), (0, 100_000));
        for (one_in, expected) in [(2, 50_000), (100, 1_000), (1_000, 100)] {
            let found = sampled(one_in);
            assert!(found.abs_diff(expected) < expected / 3, "one in {one_in}: {found}");
        }
    }
}
