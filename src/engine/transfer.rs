//! Transfers: units that have left one warehouse and are not yet in another.
//!
//! ```text
//!                              ┌─ RECEIVE of the rest ─▶ RECEIVED
//! TRANSFER_SHIP ──▶ OPEN ──────┼─ CLOSE ───────────────▶ CLOSED       the rest is lost
//!                   │  ▲       └─ CANCEL ──────────────▶ CANCELLED    the rest is back
//!                   └──┘ RECEIVE of a part
//! ```
//!
//! Invariant: a cell's `in_transit` is the sum of what has not arrived of the open transfers to it. An
//! open transfer is never forgotten.

use crate::protocol::event::{Cause, EventKind};
use crate::protocol::{
    Bucket, CellHandle, CellRef, Code, OpFlags, OpId, ReservationId, Transfer, TransferState,
};

use super::cell::Change;
use super::hash::{mix2, to_32};
use super::outcomes::{Outcomes, in_time};
use super::record::Standing;
use super::state::StockState;
use super::stock::{Refused, refuse_name};
use super::time::HoldMillis;

/// Who asks about a transfer.
#[derive(Clone, Copy)]
pub(super) struct Asker {
    /// The operation's key.
    pub op_id: OpId,
    /// Its hash.
    pub hash: u64,
    /// It must not take effect any more.
    pub late: bool,
}

impl StockState {
    pub(super) fn ship_transfer(
        &mut self,
        by: Asker,
        quantity: u32,
        (from, to): (CellRef<'_>, CellRef<'_>),
        flags: OpFlags,
        out: &mut Outcomes<'_>,
    ) {
        let truth = flags.contains(OpFlags::TRUTH);
        let table = self.cells.table();
        let (found_from, found_to) = (table.resolve(from), table.resolve(to));
        let id = ReservationId(by.op_id.0);
        if let Some(handle) = self.look_up(&id, by.hash) {
            let record = self.holds.records.get(handle);
            let Some(Standing::Transfer(state)) = record.standing() else {
                return out.plain(in_time(Code::ID_REUSED, by.late), 0);
            };
            let known = record.transfer();
            let same = (found_from.ok(), found_to.ok(), quantity, truth)
                == (Some(known.from.0), Some(known.to.0), known.shipped, record.is_truth());
            return match same {
                true => put_transfer(Code::REPLAY, state, &known, out),
                false => out.plain(in_time(Code::ID_REUSED, by.late), 0),
            };
        }
        if by.late {
            return out.plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new_id(&id) {
            return out.plain(code, 0);
        }
        let from = match found_from {
            Ok(from) => from,
            Err(missing) => return refuse_name(missing, 0, out),
        };
        let to = match self.cell_for_write(found_to, to, flags) {
            Ok(to) => to,
            Err(missing) => return refuse_name(missing, 1, out),
        };
        if from == to || self.cells.sku(from) != self.cells.sku(to) {
            return out.plain(Code::CONFLICT, 0);
        }
        if let Err(refused) = self.check_free(from, u64::from(quantity), flags) {
            return self.refuse_write(refused, from, 0, out);
        }
        let units = i64::from(quantity);
        let leave = Change::on_hand(-units);
        let travel = Change { in_transit: units, ..Change::default() };
        if !self.fits(from, &leave) || !self.fits(to, &travel) {
            return out.plain(Code::OVERFLOW, 0);
        }
        // From here on the units are on their way.
        let cause = Cause::new(EventKind::TransferShipped, id);
        self.cells.change(from, &cause, &leave);
        self.cells.change(to, &cause, &travel);
        let (from, to) = (CellHandle(from), CellHandle(to));
        let transfer = Transfer { from, to, shipped: quantity, received: 0, damaged: 0 };
        let standing = Standing::Transfer(TransferState::Open);
        self.remember_write(by.op_id, by.hash, (standing, to.0), |record| {
            record.set_transfer(&transfer);
            record.set_truth(truth);
        });
        put_transfer(Code::OK, TransferState::Open, &transfer, out);
    }

    pub(super) fn receive_transfer(
        &mut self,
        by: Asker,
        transfer: OpId,
        (good, damaged): (u32, u32),
        out: &mut Outcomes<'_>,
    ) {
        let print = print(transfer, good, damaged);
        if let Some(handle) = self.look_up(&ReservationId(by.op_id.0), by.hash) {
            let record = self.holds.records.get(handle);
            let same = record.standing() == Some(Standing::Op) && record.fingerprint == print;
            return match (same, self.transfer(transfer)) {
                (false, _) => out.plain(in_time(Code::ID_REUSED, by.late), 0),
                (true, Ok((_, state, now))) => put_transfer(Code::REPLAY, state, &now, out),
                (true, Err(_)) => out.plain(Code::REPLAY, 0),
            };
        }
        if by.late {
            return out.plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new_id(&ReservationId(by.op_id.0)) {
            return out.plain(code, 0);
        }
        let (handle, state, mut now) = match self.transfer(transfer) {
            Ok(found) => found,
            Err(code) => return out.plain(code, 0),
        };
        let to = now.to.0;
        if state != TransferState::Open {
            return out.plain(Code::CONFLICT, state as u16);
        }
        if u64::from(good) + u64::from(damaged) > u64::from(now.rest()) {
            return self.refuse_write(Refused::Exceeds, to, 0, out);
        }
        let units = i64::from(good) + i64::from(damaged);
        let arrive = Change { in_transit: -units, ..Change::on_hand(units) };
        let arrive = arrive.bucket(Bucket::Damaged, i64::from(damaged));
        if !self.fits(to, &arrive) {
            return out.plain(Code::OVERFLOW, 0);
        }
        // From here on the units are there.
        let cause = Cause::new(EventKind::TransferReceived, ReservationId(transfer.0));
        self.cells.change(to, &cause, &arrive);
        now.received += good;
        now.damaged += damaged;
        let state = match now.rest() {
            0 => TransferState::Received,
            _ => TransferState::Open,
        };
        self.put_state_of_transfer(handle, state, &now);
        self.remember_write(by.op_id, by.hash, (Standing::Op, to), |record| {
            record.fingerprint = print;
        });
        put_transfer(Code::OK, state, &now, out);
    }

    /// CLOSE or CANCEL, by what the transfer becomes.
    pub(super) fn end_transfer(
        &mut self,
        transfer: OpId,
        into: TransferState,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let (handle, state, now) = match self.transfer(transfer) {
            Ok(found) => found,
            Err(_) if late => return out.plain(Code::DEADLINE_PASSED, 0),
            Err(code) => return out.plain(code, 0),
        };
        match state {
            state if state == into => return put_transfer(Code::REPLAY, state, &now, out),
            _ if late => return out.plain(Code::DEADLINE_PASSED, 0),
            TransferState::Open => {}
            _ => return out.plain(Code::CONFLICT, state as u16),
        }
        let rest = i64::from(now.rest());
        let vanish = Change { in_transit: -rest, ..Change::default() };
        let come_back = Change::on_hand(rest);
        let comes_back = into == TransferState::Cancelled;
        if comes_back && !self.fits(now.from.0, &come_back) {
            return out.plain(Code::OVERFLOW, 0);
        }
        // From here on nothing is in transit.
        let kind = match comes_back {
            true => EventKind::TransferCancelled,
            false => EventKind::TransferClosed,
        };
        let cause = Cause::new(kind, ReservationId(transfer.0));
        self.cells.change(now.to.0, &cause, &vanish);
        if comes_back {
            self.cells.change(now.from.0, &cause, &come_back);
        }
        self.put_state_of_transfer(handle, into, &now);
        put_transfer(Code::OK, into, &now, out);
    }

    fn put_state_of_transfer(&mut self, handle: u32, state: TransferState, now: &Transfer) {
        let id = self.holds.records.get(handle).id;
        let forget = self.forget_from_now(&id);
        let record = self.holds.records.get_mut(handle);
        record.set_transfer(now);
        record.set_standing(Standing::Transfer(state));
        if state != TransferState::Open {
            record.forget = HoldMillis(record.forget.0.max(forget.0));
            self.holds.settle(handle);
        }
    }

    /// The transfer as it stands.
    ///
    /// # Errors
    /// There is none under this id.
    fn transfer(&mut self, transfer: OpId) -> Result<(u32, TransferState, Transfer), Code> {
        let id = ReservationId(transfer.0);
        let Some(handle) = self.look_up(&id, self.holds.hash(&transfer.0)) else {
            let too_old = self.is_too_old(&id);
            return Err(if too_old { Code::ID_TOO_OLD } else { Code::NOT_FOUND });
        };
        let record = self.holds.records.get(handle);
        match record.standing() {
            Some(Standing::Transfer(state)) => Ok((handle, state, record.transfer())),
            _ => Err(Code::ID_REUSED),
        }
    }
}

fn print(transfer: OpId, good: u32, damaged: u32) -> u32 {
    let id = u128::from_le_bytes(transfer.0);
    let hash = mix2(2, id as u64, (id >> 64) as u64);
    let hash = mix2(2, hash, u64::from(good) << 32 | u64::from(damaged));
    to_32(hash)
}

pub(super) fn put_transfer(
    code: Code,
    state: TransferState,
    transfer: &Transfer,
    out: &mut Outcomes<'_>,
) {
    out.body(code, state as u16, |out| transfer.encode(out));
}
