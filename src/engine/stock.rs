//! DEFINE and RECEIVE: cells and the units in them.

use bytes::BufMut;

use crate::protocol::limits::COUNTER_MAX;
use crate::protocol::{CellRef, Code, LineFault, OpFlags, OpId, ReservationId};

use super::cells::Missing;
use super::holds::{HeldLine, trace};
use super::outcomes::Outcomes;
use super::record::{Record, Standing};
use super::reserve::fingerprint;
use super::state::StockState;

impl StockState {
    /// Making a cell that is there says where it is: OK both times.
    pub(super) fn define(&mut self, cell: CellRef<'_>, late: bool, out: &mut Outcomes<'_>) {
        let handle = match (self.cells.table().resolve(cell), cell) {
            (Ok(handle), _) => handle,
            _ if late => return out.plain(Code::DEADLINE_PASSED, 0),
            (_, CellRef::Name { warehouse, sku }) => self.cells.define(warehouse, sku),
            // A define by handle does not decode.
            (Err(missing), CellRef::Handle(_)) => return refuse_name(missing, out),
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
        let id = ReservationId(op_id.0);
        let found = self.cells.table().resolve(cell);
        if let Some(handle) = self.look_up(&id, hash) {
            let record = self.holds.records.get(handle);
            let same = record.standing() == Some(Standing::Op)
                && found.is_ok_and(|cell| print(cell, quantity) == record.fingerprint);
            return match found {
                Ok(cell) if same => self.put_received(Code::REPLAY, cell, out),
                _ => out.plain(Code::ID_REUSED, 0),
            };
        }
        if late {
            return out.plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new_id(&id) {
            return out.plain(code, 0);
        }
        let cell = match (found, cell) {
            (Ok(cell), _) => cell,
            (Err(_), CellRef::Name { warehouse, sku }) if flags.contains(OpFlags::DEFINE) => {
                self.cells.define(warehouse, sku)
            }
            (Err(missing), _) => return refuse_name(missing, out),
        };
        let most = self.cells.get(cell).on_hand.max(self.cells.total_on_hand(cell));
        if most + i64::from(quantity) > COUNTER_MAX {
            return out.plain(Code::OVERFLOW, 0);
        }
        // From here on the receipt succeeds.
        self.cells.update(cell, |cell| cell.on_hand += i64::from(quantity));
        let record = Record {
            created_ms: self.clock.now.as_millis(),
            fingerprint: print(cell, quantity),
            ..trace(id, Standing::Op, self.forget_from_now(&id))
        };
        self.holds.insert(&mut self.cells, record, hash, &[]);
        self.put_received(Code::OK, cell, out);
    }

    fn put_received(&self, code: Code, cell: u32, out: &mut Outcomes<'_>) {
        let value = self.cells.get(cell);
        out.body(code, 0, |out| {
            out.put_u32_le(cell);
            out.put_i64_le(value.on_hand);
            out.put_i64_le(value.available());
        });
    }
}

fn print(cell: u32, quantity: u32) -> u32 {
    fingerprint(&[HeldLine { cell, quantity }], 0)
}

fn refuse_name(missing: Missing, out: &mut Outcomes<'_>) {
    out.body(missing.code(), 0, |out| LineFault { line: 0 }.encode(out));
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

    #[test]
    fn a_counter_reaches_its_limit_and_not_beyond() {
        let mut state = StockState::new(EngineConfig::default());
        let cell = state.cells.define(b"w", b"s");
        state.cells.update(cell, |cell| cell.on_hand = COUNTER_MAX - 10);
        fill_up(&mut state, cell);
        assert_eq!(state.cells.get(cell).on_hand, COUNTER_MAX);
    }

    #[test]
    fn a_sku_reaches_its_limit_over_all_warehouses_and_not_beyond() {
        let mut state = StockState::new(EngineConfig::default());
        let (cell, other) = (state.cells.define(b"w", b"s"), state.cells.define(b"v", b"s"));
        state.cells.update(other, |cell| cell.on_hand = COUNTER_MAX - 10);
        fill_up(&mut state, cell);
        assert_eq!(state.cells.get(cell).on_hand, 10);
        assert_eq!(state.cells.total_on_hand(other), COUNTER_MAX);
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
                &mut Outcomes(Some(&mut out)),
            );
            assert_eq!(take_outcome(&mut Reader::new(&out)).unwrap().code, code);
        }
    }
}
