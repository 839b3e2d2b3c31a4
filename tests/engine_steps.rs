//! A reservation remembers 4,096 steps, of whichever operation, and not one more.

use bytes::BytesMut;
use stockd::engine::batch::BatchBuilder;
use stockd::engine::{EngineConfig, StockState};
use stockd::protocol::limits::STEPS_MAX;
use stockd::protocol::{
    CellRef, Code, Line, Op, OpFlags, OpId, Opcode, Part, Parts, Reader, ReservationId, Terms,
    take_outcome,
};
use stockd::world::UnixMicros;

const NAME: CellRef<'static> = CellRef::Name { warehouse: b"w", sku: b"s" };

struct Shop(StockState);

impl Shop {
    /// A shop with so many units, all of them in one reservation.
    fn new(units: u32) -> Self {
        let mut shop = Self(StockState::new(EngineConfig::default()));
        let (none, op_id) = (OpFlags::default(), OpId(id(1).0));
        let received = |ops: &mut BytesMut| {
            Op::encode_receive(ops, OpFlags::DEFINE, None, op_id, NAME, units);
        };
        assert_eq!(shop.apply(received), Code::OK);
        let lines = [Line { cell: NAME, quantity: units }];
        assert_eq!(
            shop.apply(|ops| Op::encode_reserve(ops, none, None, id(2), 0, &lines)),
            Code::OK
        );
        shop
    }

    fn apply(&mut self, fill: impl FnOnce(&mut BytesMut)) -> Code {
        let (mut entry, mut out) = (BytesMut::new(), BytesMut::new());
        let batch = BatchBuilder::begin(&mut entry);
        fill(&mut entry);
        batch.finish(&mut entry, UnixMicros(0), 1);
        self.0.apply(self.0.applied_index() + 1, &entry, Some(&mut out));
        take_outcome(&mut Reader::new(&out)).expect("one operation has one outcome").code
    }

    /// One unit of the reservation's only line.
    fn part(&mut self, opcode: Opcode, step: u32) -> Code {
        let part = [Part { line: 0, quantity: 1 }];
        self.apply(|ops| Op::encode_parts(ops, opcode, &Terms::default(), id(2), step, &part))
    }

    fn amend(&mut self, step: u32, units: u32) -> Code {
        let lines = [Line { cell: NAME, quantity: units }];
        self.apply(|ops| Op::encode_amend(ops, &Terms::default(), id(2), step, &lines))
    }
}

fn id(number: u8) -> ReservationId {
    ReservationId::from_parts(0, [0, 0, 0, 0, 0, 0, 0, 0, 0, number])
}

#[test]
fn parts_of_a_reservation_are_moved_in_4096_steps_at_most() {
    let mut shop = Shop::new(STEPS_MAX + 10);
    // Each operation counts its own steps; the reservation remembers those of all.
    for step in 1..=STEPS_MAX / 2 {
        assert_eq!(shop.part(Opcode::Confirm, step), Code::OK, "{step}");
        assert_eq!(shop.part(Opcode::Fulfil, step), Code::OK, "{step}");
    }
    let new = STEPS_MAX / 2 + 1;
    for opcode in [Opcode::Confirm, Opcode::Release] {
        assert_eq!(shop.part(opcode, new), Code::OVERFLOW, "{opcode:?}");
    }
    // What was done is said again, and what contradicts it is one.
    assert_eq!(shop.part(Opcode::Confirm, 1), Code::REPLAY);
    assert_eq!(shop.part(Opcode::Fulfil, STEPS_MAX / 2), Code::REPLAY);
    let two = [Part { line: 0, quantity: 2 }];
    let terms = Terms::default();
    let code = shop.apply(|ops| Op::encode_parts(ops, Opcode::Confirm, &terms, id(2), 1, &two));
    assert_eq!(code, Code::CONFLICT);
    let counters = |shop: &Shop| {
        let cells = shop.0.cells();
        let cell = cells.handle(b"w", b"s").expect("it was received into");
        let counters = cells.counters(cell).expect("a handle has counters");
        (counters.reserved, counters.committed, counters.available)
    };
    let left = i64::from(10 + STEPS_MAX / 2);
    assert_eq!(counters(&shop), (left, 0, 0));
    // The whole is a step, too, but it is always possible: nothing is stuck.
    for (op, after) in [
        (Op::Confirm { id: id(2), parts: Parts::WHOLE }, (0, left, 0)),
        (Op::Fulfil { id: id(2), parts: Parts::WHOLE }, (0, 0, 0)),
    ] {
        assert_eq!(shop.apply(|ops| op.encode(ops, &terms)), Code::OK, "{op:?}");
        assert_eq!(counters(&shop), after, "{op:?}");
        assert_eq!(shop.apply(|ops| op.encode(ops, &terms)), Code::REPLAY, "{op:?}");
    }
    shop.0.audit().expect("every invariant holds");
}

#[test]
fn a_reservation_is_amended_in_4096_steps_at_most() {
    let mut shop = Shop::new(9);
    for step in 1..=STEPS_MAX {
        assert_eq!(shop.amend(step, 1 + step % 9), Code::OK, "{step}");
    }
    assert_eq!(shop.amend(STEPS_MAX + 1, 1), Code::OVERFLOW);
    assert_eq!(shop.part(Opcode::Release, 1), Code::OVERFLOW);
    assert_eq!(shop.amend(STEPS_MAX, 1 + STEPS_MAX % 9), Code::REPLAY);
    assert_eq!(shop.amend(STEPS_MAX, 9), Code::CONFLICT);
    shop.0.audit().expect("every invariant holds");
}
