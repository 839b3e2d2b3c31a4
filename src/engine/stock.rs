//! Stock writes: what is there, what may be sold, and what people say about it.
//!
//! ```text
//! known op_id ─▶ REPLAY / ID_REUSED
//! unknown     ─▶ not_after ─▶ op_id's age ─▶ names ─▶ what the write itself asks for ─▶ range ─▶ done
//! ```
//!
//! Each is done once per op_id. A write that says what has happened (TRUTH, SET, COUNT_COMMIT) is recorded
//! even if more is promised than is there then: nobody loses a reservation, and the cell shows that it is
//! short.

use bytes::BufMut;

use crate::protocol::event::{Cause, EventBody, EventKind};
use crate::protocol::limits::COUNTER_MAX;
use crate::protocol::{
    CellHandle, CellRef, Code, Guard, LineFault, Op, OpFlags, OpId, ReservationId, ShortLine,
};

use super::cell::{Change, Details};
use super::cells::Missing;
use super::hash::{mix2, to_32};
use super::holds::{HeldLine, trace};
use super::outcomes::{Outcomes, in_time};
use super::record::{Record, Standing};
use super::reserve::fingerprint;
use super::ring::NIL;
use super::state::StockState;
use super::time::HoldMillis;

/// How long the token of a count lives: long enough for a night in a large warehouse.
pub(super) const COUNT_MS_MAX: u64 = 24 * 60 * 60 * 1_000;

/// Why a stock write does not take effect.
#[derive(Clone, Copy)]
pub(super) enum Refused {
    /// A plain refusal.
    Code(Code),
    /// A bucket, or what is in transit or announced, has fewer units.
    Exceeds,
    /// The cell's on_hand is another.
    StaleExpected,
    /// This message of the feed, or a later one, was applied.
    StaleFeed(u64),
    /// So many units are promised or withheld.
    WouldShort(u64),
}

impl StockState {
    /// Making a cell that is there says where it is: OK both times.
    pub(super) fn define(&mut self, cell: CellRef<'_>, late: bool, out: &mut Outcomes<'_>) {
        let handle = match (self.cells.table().resolve(cell), cell) {
            (Ok(handle), _) => handle,
            _ if late => return out.plain(Code::DEADLINE_PASSED, 0),
            (_, CellRef::Name { warehouse, sku }) => self.cells.define(warehouse, sku),
            // A define by handle does not decode.
            (Err(missing), CellRef::Handle(_)) => return refuse_name(missing, 0, out),
        };
        out.body(Code::OK, 0, |out| out.put_u32_le(handle));
    }

    #[expect(clippy::too_many_arguments, reason = "the operation's fields, one by one")]
    pub(super) fn receive(
        &mut self,
        op_id: OpId,
        hash: u64,
        quantity: u32,
        cell: CellRef<'_>,
        flags: OpFlags,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let found = self.cells.table().resolve(cell);
        let print = |cell| fingerprint(&[HeldLine { line: 0, cell, quantity }], 0);
        let same = found.ok().map(|cell| (Some(cell), print(cell)));
        if self.answer_known(op_id, hash, same, late, out) {
            return;
        }
        if late {
            return out.plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new_id(&ReservationId(op_id.0)) {
            return out.plain(code, 0);
        }
        let cell = match self.cell_for_write(found, cell, flags) {
            Ok(cell) => cell,
            Err(missing) => return refuse_name(missing, 0, out),
        };
        let most = self.cells.get(cell).on_hand.max(self.cells.sums(cell).on_hand);
        if most + i64::from(quantity) > COUNTER_MAX {
            return out.plain(Code::OVERFLOW, 0);
        }
        // From here on the receipt succeeds.
        let cause = Cause::new(EventKind::Received, ReservationId(op_id.0));
        self.cells.update(cell, &cause, |cell| cell.on_hand += i64::from(quantity));
        self.remember_write(op_id, hash, (Standing::Op, cell), |record| {
            record.fingerprint = print(cell);
        });
        self.put_counters(Code::OK, cell, out);
    }

    /// Every other stock write that is about one cell.
    pub(super) fn write_stock(
        &mut self,
        op: &Op<'_>,
        hash: u64,
        flags: OpFlags,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let Some(key) = op.key() else { return out.plain(Code::BAD_OP, 0) };
        let op_id = OpId(key);
        let found = self.cell_of_write(op);
        let print = print(op, flags);
        let same = match op {
            // The count may be forgotten by now; its token is in the print.
            Op::CountCommit { .. } => Some((None, print)),
            _ => found.map(|(_, cell)| cell).ok().flatten().map(|cell| (Some(cell), print)),
        };
        if self.answer_known(op_id, hash, same, late, out) {
            return;
        }
        if late {
            return out.plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new_id(&ReservationId(op_id.0)) {
            return out.plain(code, 0);
        }
        let cell = match found {
            Ok((_, Some(cell))) => cell,
            Ok((Some(cell), None)) => {
                let missing = self.cells.table().resolve(cell);
                match self.cell_for_write(missing, cell, flags) {
                    Ok(cell) => cell,
                    Err(missing) => return refuse_name(missing, 0, out),
                }
            }
            Ok((None, None)) => return out.plain(Code::NOT_FOUND, 0),
            Err(code) => return out.plain(code, 0),
        };
        let change = match self.plan_write(op, cell, flags) {
            Ok(change) => change,
            Err(refused) => return self.refuse_write(refused, cell, 0, out),
        };
        if !self.fits(cell, &change) {
            return out.plain(Code::OVERFLOW, 0);
        }
        // From here on the write succeeds.
        let standing = match op {
            Op::CountBegin { .. } => Standing::Count,
            _ => Standing::Op,
        };
        let (value, details) = (self.cells.get(cell), self.cells.details(cell));
        self.cells.change(cell, &cause_of(op, op_id, &details, &change), &change);
        let count_ms_more = COUNT_MS_MAX.saturating_sub(self.config.retention_ms);
        self.remember_write(op_id, hash, (standing, cell), |record| {
            record.fingerprint = print;
            if standing == Standing::Count {
                record.deadline = HoldMillis(value.on_hand as u64);
                record.quantity = details.epoch;
                record.forget.0 += count_ms_more;
            }
        });
        self.put_counters(Code::OK, cell, out);
    }

    /// The cell as the request names it, and the cell it is, if it is there. A COUNT_COMMIT names its cell
    /// by the token.
    fn cell_of_write<'a>(
        &mut self,
        op: &Op<'a>,
    ) -> Result<(Option<CellRef<'a>>, Option<u32>), Code> {
        let named = match *op {
            Op::Adjust { cell, .. }
            | Op::Set { cell, .. }
            | Op::CountBegin { cell, .. }
            | Op::Move { cell, .. }
            | Op::Announce { cell, .. }
            | Op::Arrive { cell, .. }
            | Op::Return { cell, .. }
            | Op::SetPolicy { cell, .. } => cell,
            Op::CountCommit { token, .. } => return Ok((None, Some(self.count_of(token)?))),
            _ => return Err(Code::BAD_OP),
        };
        Ok((Some(named), self.cells.table().resolve(named).ok()))
    }

    /// The cell that a count is about.
    fn count_of(&mut self, token: OpId) -> Result<u32, Code> {
        let id = ReservationId(token.0);
        let Some(handle) = self.look_up(&id, self.holds.hash(&token.0)) else {
            let life = self.config.retention_ms.max(COUNT_MS_MAX);
            let now_ms = self.clock.now.as_millis();
            let too_old = token.born().is_some_and(|born_ms| born_ms + life <= now_ms);
            return Err(if too_old { Code::ID_TOO_OLD } else { Code::NOT_FOUND });
        };
        let record = self.holds.records.get(handle);
        match record.standing() {
            Some(Standing::Count) => Ok(record.cell),
            _ => Err(Code::ID_REUSED),
        }
    }

    /// What the write changes.
    ///
    /// # Errors
    /// It does not take effect.
    fn plan_write(&mut self, op: &Op<'_>, cell: u32, flags: OpFlags) -> Result<Change, Refused> {
        let (value, details) = (self.cells.get(cell), self.cells.details(cell));
        Ok(match *op {
            Op::Adjust { delta, .. } => {
                if delta < 0 {
                    self.check_free(cell, delta.unsigned_abs(), flags)?;
                }
                Change::on_hand(delta)
            }
            Op::Set { on_hand, guard, .. } => {
                let feed_sequence = match guard {
                    Guard::Expected(expected) if expected != value.on_hand => {
                        return Err(Refused::StaleExpected);
                    }
                    Guard::Expected(_) => None,
                    Guard::Feed(sequence) if sequence <= details.feed_sequence => {
                        return Err(Refused::StaleFeed(details.feed_sequence));
                    }
                    Guard::Feed(sequence) => Some(sequence),
                };
                let change = Change::on_hand(on_hand - value.on_hand);
                Change { feed_sequence, is_stated: true, ..change }
            }
            Op::CountBegin { .. } => Change::default(),
            Op::CountCommit { token, counted, .. } => {
                let handle = self.look_up(&ReservationId(token.0), self.holds.hash(&token.0));
                let count = self.holds.records.get(handle.expect("the count was found before"));
                if count.quantity != details.epoch {
                    return Err(Refused::StaleExpected);
                }
                let change = Change::on_hand(counted - count.counted_from());
                Change { is_stated: true, ..change }
            }
            Op::Move { from, to, quantity, .. } => {
                match details.bucket(from) {
                    Some(units) if units < i64::from(quantity) => return Err(Refused::Exceeds),
                    Some(_) => {}
                    None => self.check_free(cell, u64::from(quantity), flags)?,
                }
                let quantity = i64::from(quantity);
                Change::default().bucket(from, -quantity).bucket(to, quantity)
            }
            Op::Announce { delta, .. } => {
                if details.incoming + delta < 0 {
                    return Err(Refused::Exceeds);
                }
                Change { incoming: delta, ..Change::default() }
            }
            Op::Arrive { quantity, bucket, .. } => {
                let quantity = i64::from(quantity);
                if details.incoming < quantity {
                    return Err(Refused::Exceeds);
                }
                let change = Change { incoming: -quantity, ..Change::on_hand(quantity) };
                change.bucket(bucket, quantity)
            }
            Op::Return { quantity, bucket, .. } => {
                let quantity = i64::from(quantity);
                Change::on_hand(quantity).bucket(bucket, quantity)
            }
            Op::SetPolicy { change, .. } => {
                Change { policy: Some(change.apply(details.policy)), ..Change::default() }
            }
            _ => return Err(Refused::Code(Code::BAD_OP)),
        })
    }

    /// So many units can leave the cell without anything that is promised or withheld; unless they have
    /// left it already.
    pub(super) fn check_free(
        &mut self,
        cell: u32,
        quantity: u64,
        flags: OpFlags,
    ) -> Result<(), Refused> {
        let Self { holds, cells, clock, config, .. } = self;
        let asked = quantity as i64;
        let free = flags.contains(OpFlags::TRUTH)
            || cells.get(cell).grantable() >= asked
            || holds.reclaim(cells, clock, config.retention_ms, cell, asked);
        if free { Ok(()) } else { Err(Refused::WouldShort(quantity)) }
    }

    /// The op_id is known: answers, and says so. `same` is the cell and the fingerprint of the same
    /// request, if its cell is there.
    fn answer_known(
        &mut self,
        op_id: OpId,
        hash: u64,
        same: Option<(Option<u32>, u32)>,
        late: bool,
        out: &mut Outcomes<'_>,
    ) -> bool {
        let Some(handle) = self.look_up(&ReservationId(op_id.0), hash) else { return false };
        let record = self.holds.records.get(handle);
        let is_write = matches!(record.standing(), Some(Standing::Op | Standing::Count));
        // A write that is about no cell may have the same 32 bits.
        let is_same = is_write
            && record.cell != NIL
            && same.is_some_and(|(cell, print)| {
                cell.is_none_or(|cell| cell == record.cell) && print == record.fingerprint
            });
        match is_same {
            true => self.put_counters(Code::REPLAY, record.cell, out),
            false => out.plain(in_time(Code::ID_REUSED, late), 0),
        }
        true
    }

    /// May a write that is about no cell be done? It is known by its `print`.
    ///
    /// # Errors
    /// What to answer: it was done before, or it is refused.
    pub(super) fn check_unseen(
        &mut self,
        op_id: OpId,
        hash: u64,
        print: u32,
        late: bool,
    ) -> Result<(), Code> {
        let id = ReservationId(op_id.0);
        if let Some(handle) = self.look_up(&id, hash) {
            let record = self.holds.records.get(handle);
            let is_op = record.standing() == Some(Standing::Op) && record.cell == NIL;
            let same = is_op && record.fingerprint == print;
            return Err(if same { Code::REPLAY } else { in_time(Code::ID_REUSED, late) });
        }
        if late {
            return Err(Code::DEADLINE_PASSED);
        }
        self.check_new_id(&id)
    }

    /// Remembers a write that is about no cell.
    pub(super) fn remember_plain(&mut self, op_id: OpId, hash: u64, print: u32) {
        self.remember_write(op_id, hash, (Standing::Op, NIL), |record| record.fingerprint = print);
    }

    /// The cell of a write that names it; made if the write says so.
    pub(super) fn cell_for_write(
        &mut self,
        found: Result<u32, Missing>,
        cell: CellRef<'_>,
        flags: OpFlags,
    ) -> Result<u32, Missing> {
        match (found, cell) {
            (Err(_), CellRef::Name { warehouse, sku }) if flags.contains(OpFlags::DEFINE) => {
                Ok(self.cells.define(warehouse, sku))
            }
            (found, _) => found,
        }
    }

    /// Remembers a write under its op_id.
    pub(super) fn remember_write(
        &mut self,
        op_id: OpId,
        hash: u64,
        (standing, cell): (Standing, u32),
        fill: impl FnOnce(&mut Record),
    ) -> u32 {
        let id = ReservationId(op_id.0);
        let created_ms = self.clock.now.as_millis();
        let mut record =
            Record { created_ms, cell, ..trace(id, standing, self.forget_from_now(&id)) };
        fill(&mut record);
        self.holds.insert(&mut self.cells, record, hash, &[])
    }

    pub(super) fn refuse_write(
        &self,
        refused: Refused,
        cell: u32,
        line: u16,
        out: &mut Outcomes<'_>,
    ) {
        match refused {
            Refused::Code(code) => out.plain(code, 0),
            Refused::Exceeds => {
                out.body(Code::QTY_EXCEEDS, 0, |out| LineFault { line }.encode(out));
            }
            Refused::StaleExpected => {
                let on_hand = self.cells.get(cell).on_hand;
                out.body(Code::STALE_EXPECTED, 0, |out| out.put_i64_le(on_hand));
            }
            Refused::StaleFeed(sequence) => {
                out.body(Code::STALE_FEED, 0, |out| out.put_u64_le(sequence));
            }
            Refused::WouldShort(asked) => {
                let available = self.cells.get(cell).available();
                let short = ShortLine { line, cell: CellHandle(cell), asked, available };
                out.body(Code::WOULD_SHORT, 0, |out| short.encode(out));
            }
        }
    }

    fn put_counters(&self, code: Code, cell: u32, out: &mut Outcomes<'_>) {
        let value = self.cells.get(cell);
        out.body(code, 0, |out| {
            out.put_u32_le(cell);
            out.put_i64_le(value.on_hand);
            out.put_i64_le(value.available());
        });
    }
}

/// What a write has done to a cell.
fn cause_of<'a>(op: &Op<'_>, op_id: OpId, before: &Details, change: &Change) -> Cause<'a> {
    let kind = match op {
        Op::Adjust { .. } => EventKind::Adjusted,
        Op::Set { .. } => EventKind::Set,
        Op::CountBegin { .. } => EventKind::CountBegun,
        Op::CountCommit { .. } => EventKind::Counted,
        Op::Move { .. } => EventKind::Moved,
        Op::Announce { .. } => EventKind::Announced,
        Op::Arrive { .. } => EventKind::Arrived,
        Op::Return { .. } => EventKind::Returned,
        Op::SetPolicy { .. } => EventKind::PolicySet,
        _ => unreachable!("other writes are not planned"),
    };
    let rules = |after| EventBody::Policy { before: before.policy, after };
    let body = change.policy.map_or(EventBody::None, rules);
    Cause { body, ..Cause::new(kind, ReservationId(op_id.0)) }
}

/// 32 bits over what a write says, but for its cell.
fn print(op: &Op<'_>, flags: OpFlags) -> u32 {
    let words: [u64; 4] = match *op {
        Op::Adjust { delta, .. } => [delta as u64, truth(flags), 0, 0],
        Op::Set { on_hand, guard: Guard::Expected(expected), .. } => {
            [on_hand as u64, 0, expected as u64, 0]
        }
        Op::Set { on_hand, guard: Guard::Feed(sequence), .. } => [on_hand as u64, 1, sequence, 0],
        Op::CountCommit { token, counted, .. } => {
            let token = u128::from_le_bytes(token.0);
            [token as u64, (token >> 64) as u64, counted as u64, 0]
        }
        Op::Move { from, to, quantity, .. } => {
            [from as u64, to as u64, u64::from(quantity), truth(flags)]
        }
        Op::Announce { delta, .. } => [delta as u64, 0, 0, 0],
        Op::Arrive { quantity, bucket, .. } | Op::Return { quantity, bucket, .. } => {
            [u64::from(quantity), bucket as u64, 0, 0]
        }
        Op::SetPolicy { change, .. } => {
            let flag = |flag: Option<bool>| flag.map_or(0, |yes| 1 + u64::from(yes));
            let flags = [change.frozen, change.untracked, change.preorder, change.no_hold];
            let owner_max = change.owner_max.map_or(0, |most| 1 + u64::from(most));
            let flags = flags.into_iter().fold(owner_max, |bits, one| bits << 2 | flag(one));
            let number = |number: Option<i64>| number.map_or(u64::MAX, |number| number as u64);
            // No point is the number before the first.
            let point = change.reorder_point.map(|point| point.unwrap_or(-2));
            [flags, number(change.oversell_limit), number(change.buffer), number(point)]
        }
        _ => [0; 4],
    };
    let start = op.opcode() as u64;
    let hash = words.into_iter().fold(start, |hash, word| mix2(1, hash, word));
    to_32(hash)
}

fn truth(flags: OpFlags) -> u64 {
    u64::from(flags.contains(OpFlags::TRUTH))
}

pub(super) fn refuse_name(missing: Missing, line: u16, out: &mut Outcomes<'_>) {
    out.body(missing.code(), line, |out| LineFault { line }.encode(out));
}

impl Missing {
    /// As replies say it.
    pub const fn code(self) -> Code {
        match self {
            Self::Pair => Code::NOT_STOCKED,
            Self::Sku => Code::UNKNOWN_SKU,
            Self::Warehouse => Code::UNKNOWN_WAREHOUSE,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::EngineConfig;
    use super::*;
    use crate::protocol::{CellHandle, Reader, take_outcome};

    const FOUND: Cause<'_> = Cause::new(EventKind::Adjusted, ReservationId([0; 16]));

    #[test]
    fn a_counter_reaches_its_limit_and_not_beyond() {
        let mut state = StockState::new(EngineConfig::default());
        let cell = state.cells.define(b"w", b"s");
        state.cells.update(cell, &FOUND, |cell| cell.on_hand = COUNTER_MAX - 10);
        fill_up(&mut state, cell);
        assert_eq!(state.cells.get(cell).on_hand, COUNTER_MAX);
    }

    #[test]
    fn a_sku_reaches_its_limit_over_all_warehouses_and_not_beyond() {
        let mut state = StockState::new(EngineConfig::default());
        let (cell, other) = (state.cells.define(b"w", b"s"), state.cells.define(b"v", b"s"));
        state.cells.update(other, &FOUND, |cell| cell.on_hand = COUNTER_MAX - 10);
        fill_up(&mut state, cell);
        assert_eq!(state.cells.get(cell).on_hand, 10);
        assert_eq!(state.cells.sums(other).on_hand, COUNTER_MAX);
        assert_eq!(state.audit(), Ok(()));
    }

    /// Ten units fit, and not one more.
    fn fill_up(state: &mut StockState, cell: u32) {
        for (number, quantity, code) in [
            (1, 11, Code::OVERFLOW),
            (2, 10, Code::OK),
            (3, 1, Code::OVERFLOW),
            (2, 10, Code::REPLAY),
        ] {
            let mut out = BytesMut::new();
            let by_handle = CellRef::Handle(CellHandle(cell));
            let id = OpId::from_parts(0, [number; 10]);
            let (hash, flags) = (state.holds.hash(&id.0), OpFlags::default());
            state.receive(
                id,
                hash,
                quantity,
                by_handle,
                flags,
                false,
                &mut Outcomes::new(Some(&mut out)),
            );
            assert_eq!(take_outcome(&mut Reader::new(&out)).unwrap().code, code);
        }
    }
}
