//! Readers on other threads while the engine applies: what they see is of one moment.

use bytes::BytesMut;
use stockd::engine::batch::BatchBuilder;
use stockd::engine::{CellReader, EngineConfig, StockState};
use stockd::protocol::{CellRef, Line, Op, OpFlags, OpId, ReservationId};
use stockd::world::UnixMicros;

const NAME: CellRef<'static> = CellRef::Name { warehouse: b"w", sku: b"s" };

fn apply(state: &mut StockState, count: u32, fill: impl FnOnce(&mut BytesMut)) {
    let mut entry = BytesMut::new();
    let batch = BatchBuilder::begin(&mut entry);
    fill(&mut entry);
    batch.finish(&mut entry, UnixMicros(0), count);
    state.apply(state.applied_index() + 1, &entry, None);
}

/// Every reserve of one unit is confirmed in the next operation, and each pair follows a receipt of
/// one: whatever the moment, no more is promised than is there, and at most one unit is reserved.
fn watch(reader: &CellReader, pairs: u32) {
    let mut seen = 0;
    while seen < i64::from(pairs) {
        let Some(cell) = reader.handle(b"w", b"s") else { continue };
        let counters = reader.counters(cell).expect("a handle has counters");
        assert!((0..=1).contains(&counters.reserved), "{counters:?}");
        assert!(counters.committed >= seen, "{counters:?} after {seen}");
        assert!(counters.available >= 0, "{counters:?}");
        let promised = counters.reserved + counters.committed;
        assert_eq!(counters.available, counters.on_hand - promised, "{counters:?}");
        assert!(counters.on_hand - promised <= 1, "{counters:?}");
        seen = counters.committed;
    }
}

#[test]
fn a_reader_never_sees_half_a_change() {
    // Miri takes a millisecond for what takes the processor a microsecond.
    const PAIRS: u32 = if cfg!(miri) { 200 } else { 20_000 };
    let mut state = StockState::new(EngineConfig::default());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            let reader = state.cells();
            scope.spawn(move || watch(&reader, PAIRS));
        }
        for pair in 0..PAIRS {
            let id = |kind: u8| {
                let n = pair.to_be_bytes();
                ReservationId::from_parts(0, [0, 0, kind, 0, 0, 0, n[0], n[1], n[2], n[3]])
            };
            apply(&mut state, 3, |ops| {
                let none = OpFlags::default();
                Op::encode_receive(ops, OpFlags::DEFINE, None, OpId(id(1).0), NAME, 1);
                let lines = [Line { cell: NAME, quantity: 1 }];
                Op::encode_reserve(ops, none, None, id(2), 0, &lines);
                Op::encode_confirm(ops, none, None, id(2));
            });
        }
    });
    state.audit().expect("every invariant holds");
}
