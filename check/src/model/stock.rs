//! What stock writes do to the model.

use stockd_protocol::{
    Bucket, CellHandle, CellRef, Code, Guard, Op, OpFlags, OpId, Terms, Transfer, TransferState,
};

use crate::history::Cell;

use super::{Body, Counters, Entry, Expected, Id, Model, born, cell_of, in_time, le, plain};

/// Tokens of counts live for a day.
const COUNT_MS: u64 = 24 * 60 * 60 * 1_000;

/// A refusal.
type Refused = Expected;

impl Model {
    /// A write that is about no cell.
    ///
    /// # Errors
    /// It is not done: it was before, or it is refused.
    pub(super) fn check_unseen(&self, id: &Id, said: &[u8], late: bool) -> Result<(), Expected> {
        match self.entries.get(id) {
            Some(Entry::Op { cell: u32::MAX, said: before, .. }) if before == said => {
                return Err(plain(Code::REPLAY, 0));
            }
            Some(_) => return Err(plain(in_time(Code::ID_REUSED, late), 0)),
            None if late => return Err(plain(Code::DEADLINE_PASSED, 0)),
            None => {}
        }
        self.check_new(id).map_err(|code| plain(code, 0))
    }

    /// A write about one cell, remembered by its op_id.
    pub(super) fn write(&mut self, op: &Op<'_>, terms: &Terms<'_>, late: bool) -> Expected {
        let id = op.key().expect("stock writes have an id");
        let named = op.written_cell();
        let resolved = named.map(|cell| self.resolve(&cell_of(cell)));
        let token = match op {
            Op::CountCommit { token, .. } => Some(*token),
            _ => None,
        };
        let here = match (&resolved, token) {
            (Some(found), _) => found.as_ref().ok().copied(),
            (None, Some(token)) => self.counted_cell(token).ok(),
            (None, None) => None,
        };
        if let Some(known) = self.entries.get(&id) {
            // What was said of a count has its token, and so its cell, which may be forgotten by now.
            let is_here = |cell| token.is_some() || here == Some(cell);
            return match known {
                Entry::Op { cell, said: before, .. } | Entry::Count { cell, said: before, .. }
                    if is_here(*cell) && *before == said(op, terms) =>
                {
                    self.counters_of(Code::REPLAY, *cell)
                }
                _ => plain(in_time(Code::ID_REUSED, late), 0),
            };
        }
        if late {
            return plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new(&id) {
            return plain(code, 0);
        }
        let cell = match (named, token) {
            (Some(cell), _) => match self.cell_for_write(&cell_of(cell), terms.flags) {
                Ok(cell) => cell,
                Err(code) => return no_cell(code, 0),
            },
            (None, Some(token)) => match self.counted_cell(token) {
                Ok(cell) => cell,
                Err(code) => return plain(code, 0),
            },
            (None, None) => unreachable!("a stock write has a cell or a token"),
        };
        let before = self.counters(cell);
        let after = match self.after_write(op, cell, before, terms.flags) {
            Ok(after) => after,
            Err(refused) => return refused,
        };
        if !self.fits(cell, &after) {
            return plain(Code::OVERFLOW, 0);
        }
        *self.cell(cell) = after;
        let (forget, said) = (self.forget_from_now(&id), said(op, terms));
        let entry = match op {
            Op::CountBegin { .. } => Entry::Count {
                cell,
                on_hand: before.on_hand,
                epoch: before.epoch,
                forget: forget + COUNT_MS.saturating_sub(self.config.retention_ms),
                said,
            },
            _ => Entry::Op { cell, forget, said },
        };
        self.store(id, entry);
        self.counters_of(Code::OK, cell)
    }

    /// What the cell has after the write.
    fn after_write(
        &self,
        op: &Op<'_>,
        cell: u32,
        before: Counters,
        flags: OpFlags,
    ) -> Result<Counters, Refused> {
        let mut after = before;
        match *op {
            Op::Receive { quantity, .. } => after.on_hand += i64::from(quantity),
            Op::Adjust { delta, .. } => {
                if delta < 0 {
                    self.check_free(cell, delta.unsigned_abs(), flags)?;
                    after.may_be_short |= flags.contains(OpFlags::TRUTH);
                }
                after.on_hand += delta;
            }
            Op::Set { on_hand, guard, .. } => {
                match guard {
                    Guard::Expected(expected) if expected != before.on_hand => {
                        return Err(stale(Code::STALE_EXPECTED, before.on_hand as u64));
                    }
                    Guard::Feed(sequence) if sequence <= before.feed_sequence => {
                        return Err(stale(Code::STALE_FEED, before.feed_sequence));
                    }
                    Guard::Expected(_) => {}
                    Guard::Feed(sequence) => after.feed_sequence = sequence,
                }
                after.on_hand = on_hand;
                after.epoch += 1;
                after.may_be_short = true;
            }
            Op::CountBegin { .. } => {}
            Op::CountCommit { token, counted, .. } => {
                let Some(Entry::Count { on_hand, epoch, .. }) = self.entries.get(&token.0) else {
                    unreachable!("the token was found");
                };
                if *epoch != before.epoch {
                    return Err(stale(Code::STALE_EXPECTED, before.on_hand as u64));
                }
                after.on_hand += counted - on_hand;
                after.epoch += 1;
                after.may_be_short = true;
            }
            Op::Move { from, to, quantity, .. } => {
                let units = i64::from(quantity);
                match after.bucket(from) {
                    Some(there) if *there < units => return Err(exceeds()),
                    Some(there) => *there -= units,
                    None => {
                        self.check_free(cell, u64::from(quantity), flags)?;
                        after.may_be_short |= flags.contains(OpFlags::TRUTH);
                    }
                }
                put_into(&mut after, to, units);
            }
            Op::Announce { delta, .. } => {
                after.incoming += delta;
                if after.incoming < 0 {
                    return Err(exceeds());
                }
                // Preordered units may not come.
                after.may_be_short |= delta < 0;
            }
            Op::Arrive { quantity, bucket, .. } => {
                after.incoming -= i64::from(quantity);
                if after.incoming < 0 {
                    return Err(exceeds());
                }
                after.on_hand += i64::from(quantity);
                after.may_be_short |= bucket != Bucket::Sellable;
                put_into(&mut after, bucket, i64::from(quantity));
            }
            Op::Return { quantity, bucket, .. } => {
                after.on_hand += i64::from(quantity);
                put_into(&mut after, bucket, i64::from(quantity));
            }
            Op::SetPolicy { change, .. } => {
                after.policy = change.apply(before.policy);
                after.may_be_short = true;
            }
            _ => unreachable!("{op:?} is no stock write of one cell"),
        }
        Ok(after)
    }

    fn check_free(&self, cell: u32, quantity: u64, flags: OpFlags) -> Result<(), Refused> {
        let counters = self.counters(cell);
        if flags.contains(OpFlags::TRUTH) || counters.grantable() >= quantity as i64 {
            return Ok(());
        }
        let mut body = le(&[u64::from(cell) << 32, quantity, counters.available() as u64]);
        body.truncate(24);
        Err(Expected { code: Code::WOULD_SHORT, detail: 0, body: Body::Exact(body) })
    }

    fn cell_for_write(&mut self, cell: &Cell, flags: OpFlags) -> Result<u32, Code> {
        if flags.contains(OpFlags::DEFINE) { self.define(cell) } else { self.resolve(cell) }
    }

    fn counted_cell(&self, token: OpId) -> Result<u32, Code> {
        let life = self.config.retention_ms.max(COUNT_MS);
        match self.entries.get(&token.0) {
            Some(Entry::Count { cell, .. }) => Ok(*cell),
            Some(_) => Err(Code::ID_REUSED),
            None if born(&token.0).is_some_and(|born| born + life <= self.now_ms()) => {
                Err(Code::ID_TOO_OLD)
            }
            None => Err(Code::NOT_FOUND),
        }
    }

    fn counters_of(&self, code: Code, cell: u32) -> Expected {
        let counters = self.counters(cell);
        let (on_hand, available_max) = (counters.on_hand, counters.available());
        Expected { code, detail: 0, body: Body::Received { cell, on_hand, available_max } }
    }

    /// The cell and its SKU stay within range.
    fn fits(&self, cell: u32, after: &Counters) -> bool {
        let (_, sku) = &self.names[cell as usize];
        let others = self.skus[sku].iter().filter(|other| **other != cell);
        let sums = others.fold(*after, |sums, other| sums.plus(&self.counters(*other)));
        after.is_in_range() && sums.is_in_range()
    }

    pub(super) fn transfer(&mut self, op: &Op<'_>, terms: &Terms<'_>, late: bool) -> Expected {
        match *op {
            Op::TransferShip { op_id, quantity, from, to } => {
                self.ship(op_id, quantity, (from, to), terms.flags, late)
            }
            Op::TransferReceive { op_id, transfer, good, damaged } => {
                self.receive_transfer(op_id, transfer, (good, damaged), late)
            }
            Op::TransferClose { transfer } => {
                self.end_transfer(transfer, TransferState::Closed, late)
            }
            Op::TransferCancel { transfer } => {
                self.end_transfer(transfer, TransferState::Cancelled, late)
            }
            _ => unreachable!("{op:?} is no step of a transfer"),
        }
    }

    fn ship(
        &mut self,
        op_id: OpId,
        quantity: u32,
        (from, to): (CellRef<'_>, CellRef<'_>),
        flags: OpFlags,
        late: bool,
    ) -> Expected {
        let truth = flags.contains(OpFlags::TRUTH);
        let (from_cell, to_cell) = (self.resolve(&cell_of(from)), self.resolve(&cell_of(to)));
        match self.entries.get(&op_id.0) {
            Some(Entry::Transfer { now, state, truth: was_truth, .. }) => {
                let same = from_cell == Ok(now.from.0)
                    && to_cell == Ok(now.to.0)
                    && now.shipped == quantity
                    && *was_truth == truth;
                return match same {
                    true => shown(Code::REPLAY, *state, now),
                    false => plain(in_time(Code::ID_REUSED, late), 0),
                };
            }
            Some(_) => return plain(in_time(Code::ID_REUSED, late), 0),
            None if late => return plain(Code::DEADLINE_PASSED, 0),
            None => {}
        }
        if let Err(code) = self.check_new(&op_id.0) {
            return plain(code, 0);
        }
        let from = match from_cell {
            Ok(from) => from,
            Err(code) => return no_cell(code, 0),
        };
        let to = match self.cell_for_write(&cell_of(to), flags) {
            Ok(to) => to,
            Err(code) => return no_cell(code, 1),
        };
        if from == to || self.names[from as usize].1 != self.names[to as usize].1 {
            return plain(Code::CONFLICT, 0);
        }
        if let Err(refused) = self.check_free(from, u64::from(quantity), flags) {
            return refused;
        }
        let (mut leaves, mut gets) = (self.counters(from), self.counters(to));
        leaves.on_hand -= i64::from(quantity);
        leaves.may_be_short |= truth;
        gets.in_transit += i64::from(quantity);
        if !self.fits(from, &leaves) || !self.fits(to, &gets) {
            return plain(Code::OVERFLOW, 0);
        }
        (*self.cell(from), *self.cell(to)) = (leaves, gets);
        let (from, to) = (CellHandle(from), CellHandle(to));
        let now = Transfer { from, to, shipped: quantity, received: 0, damaged: 0 };
        let forget = self.forget_from_now(&op_id.0);
        let state = TransferState::Open;
        self.store(op_id.0, Entry::Transfer { now, state, truth, forget });
        shown(Code::OK, state, &now)
    }

    fn receive_transfer(
        &mut self,
        op_id: OpId,
        transfer: OpId,
        (good, damaged): (u32, u32),
        late: bool,
    ) -> Expected {
        let op = Op::TransferReceive { op_id, transfer, good, damaged };
        let said = said(&op, &Terms::default());
        match self.entries.get(&op_id.0) {
            Some(Entry::Op { said: before, .. }) if *before == said => {
                return match self.transfer_at(transfer) {
                    Ok((state, now)) => shown(Code::REPLAY, state, &now),
                    Err(_) => plain(Code::REPLAY, 0),
                };
            }
            Some(_) => return plain(in_time(Code::ID_REUSED, late), 0),
            None if late => return plain(Code::DEADLINE_PASSED, 0),
            None => {}
        }
        if let Err(code) = self.check_new(&op_id.0) {
            return plain(code, 0);
        }
        let mut now = match self.transfer_at(transfer) {
            Ok((TransferState::Open, now)) => now,
            Ok((state, _)) => return plain(Code::CONFLICT, state as u16),
            Err(code) => return plain(code, 0),
        };
        if u64::from(good) + u64::from(damaged) > u64::from(now.rest()) {
            return exceeds();
        }
        let to = now.to.0;
        let units = i64::from(good) + i64::from(damaged);
        let mut after = self.counters(to);
        after.in_transit -= units;
        after.on_hand += units;
        after.may_be_short |= damaged > 0;
        put_into(&mut after, Bucket::Damaged, i64::from(damaged));
        if !self.fits(to, &after) {
            return plain(Code::OVERFLOW, 0);
        }
        *self.cell(to) = after;
        now.received += good;
        now.damaged += damaged;
        let state = if now.rest() == 0 { TransferState::Received } else { TransferState::Open };
        self.put_transfer(transfer, state, now);
        let forget = self.forget_from_now(&op_id.0);
        self.store(op_id.0, Entry::Op { cell: to, said, forget });
        shown(Code::OK, state, &now)
    }

    fn end_transfer(&mut self, transfer: OpId, into: TransferState, late: bool) -> Expected {
        let (state, now) = match self.transfer_at(transfer) {
            Ok(found) => found,
            Err(_) if late => return plain(Code::DEADLINE_PASSED, 0),
            Err(code) => return plain(code, 0),
        };
        if state == into {
            return shown(Code::REPLAY, state, &now);
        }
        if late {
            return plain(Code::DEADLINE_PASSED, 0);
        }
        if state != TransferState::Open {
            return plain(Code::CONFLICT, state as u16);
        }
        let rest = i64::from(now.rest());
        let mut origin = self.counters(now.from.0);
        origin.on_hand += if into == TransferState::Cancelled { rest } else { 0 };
        if !self.fits(now.from.0, &origin) {
            return plain(Code::OVERFLOW, 0);
        }
        let goal = self.cell(now.to.0);
        goal.in_transit -= rest;
        // Preordered units will not come.
        goal.may_be_short = true;
        *self.cell(now.from.0) = origin;
        self.put_transfer(transfer, into, now);
        shown(Code::OK, into, &now)
    }

    fn put_transfer(&mut self, transfer: OpId, state: TransferState, now: Transfer) {
        let from_now = self.forget_from_now(&transfer.0);
        let Some(Entry::Transfer { truth, forget, .. }) = self.entries.get(&transfer.0) else {
            unreachable!("the transfer was found");
        };
        let (truth, forget) = (*truth, (*forget).max(from_now));
        self.store(transfer.0, Entry::Transfer { now, state, truth, forget });
    }

    fn transfer_at(&self, transfer: OpId) -> Result<(TransferState, Transfer), Code> {
        match self.entries.get(&transfer.0) {
            Some(Entry::Transfer { now, state, .. }) => Ok((*state, *now)),
            Some(_) => Err(Code::ID_REUSED),
            None if self.check_new(&transfer.0) == Err(Code::ID_TOO_OLD) => Err(Code::ID_TOO_OLD),
            None => Err(Code::NOT_FOUND),
        }
    }

    /// The outcome of a READ_TRANSFER.
    pub fn read_transfer(&mut self, transfer: OpId) -> Expected {
        self.settle();
        match self.entries.get(&transfer.0) {
            Some(Entry::Transfer { now, state, .. }) => shown(Code::OK, *state, now),
            _ => plain(Code::NOT_FOUND, 0),
        }
    }
}

fn put_into(cell: &mut Counters, bucket: Bucket, units: i64) {
    if let Some(there) = cell.bucket(bucket) {
        *there += units;
    }
}

/// What a write says, but for its cell and what stands around it.
pub(super) fn said(op: &Op<'_>, terms: &Terms<'_>) -> Vec<u8> {
    let truth = terms.flags.contains(OpFlags::TRUTH);
    let op = match *op {
        Op::Receive { op_id, quantity, .. } => Op::Receive { op_id, quantity, cell: NOWHERE },
        Op::Adjust { op_id, delta, .. } => Op::Adjust { op_id, delta, cell: NOWHERE },
        Op::Set { op_id, on_hand, guard, .. } => Op::Set { op_id, on_hand, guard, cell: NOWHERE },
        Op::CountBegin { op_id, .. } => Op::CountBegin { op_id, cell: NOWHERE },
        Op::Move { op_id, from, to, quantity, .. } => {
            Op::Move { op_id, from, to, quantity, cell: NOWHERE }
        }
        Op::Announce { op_id, delta, .. } => Op::Announce { op_id, delta, cell: NOWHERE },
        Op::Arrive { op_id, quantity, bucket, .. } => {
            Op::Arrive { op_id, quantity, bucket, cell: NOWHERE }
        }
        Op::Return { op_id, quantity, bucket, .. } => {
            Op::Return { op_id, quantity, bucket, cell: NOWHERE }
        }
        Op::SetPolicy { op_id, change, .. } => Op::SetPolicy { op_id, change, cell: NOWHERE },
        other => other,
    };
    let flags = if truth && has_truth(&op) { OpFlags::TRUTH } else { OpFlags::default() };
    let mut bytes = bytes::BytesMut::new();
    op.encode(&mut bytes, &Terms { flags, ..Terms::default() });
    bytes.to_vec()
}

const NOWHERE: CellRef<'static> = CellRef::Handle(CellHandle(0));

const fn has_truth(op: &Op<'_>) -> bool {
    matches!(op, Op::Adjust { .. } | Op::Move { .. })
}

fn no_cell(code: Code, line: u16) -> Expected {
    let body = Body::Exact(line.to_le_bytes().to_vec());
    Expected { code, detail: line, body }
}

fn exceeds() -> Refused {
    Expected { code: Code::QTY_EXCEEDS, detail: 0, body: Body::Exact(vec![0, 0]) }
}

fn stale(code: Code, value: u64) -> Refused {
    Expected { code, detail: 0, body: Body::Exact(le(&[value])) }
}

fn shown(code: Code, state: TransferState, now: &Transfer) -> Expected {
    let mut body = bytes::BytesMut::new();
    now.encode(&mut body);
    Expected { code, detail: state as u16, body: Body::Exact(body.to_vec()) }
}
