//! The engine: against its naive model, and with operations that no encoder would write.

#[path = "../../tests/engine_model/dice.rs"]
mod dice;
#[path = "../../tests/engine_model/run.rs"]
#[expect(clippy::unwrap_used, reason = "shared with a test, which stops at the first surprise")]
mod run;

use bytes::{BufMut, BytesMut};
use stockd::engine::batch::PrincipalRuns;
use stockd::engine::{EngineConfig, StockState, batch};
use stockd_protocol::{Reader, take_op, take_outcome};

use crate::input::{Input, put_block};
use crate::traffic;
use dice::Dice;
use run::Run;

/// Decisions of a run: which batches, which operations, when.
pub fn against_model(data: &[u8]) {
    let bytes = data.to_vec();
    let mut at = 0;
    let dice = Dice::new(move |count| {
        let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
        let mut word = [0; 8];
        let count = count.min(rest.len());
        word[..count].copy_from_slice(&rest[..count]);
        at += count;
        Some(u64::from_le_bytes(word))
    });
    Run::new(data.len() as u64, dice).run();
}

/// Log entries, each a step of time in quarters of a ms (u32), and a block of operations as clients send them.
/// Whatever passes the door's check is applied; two replicas agree, though one log says who asked and the other
/// does not.
pub fn ops(data: &[u8]) {
    let mut input = Input(data);
    let replica =
        |hash_seed| StockState::new(EngineConfig { hash_seed, ..EngineConfig::default() });
    let (mut one, mut two) = (replica(1), replica(2));
    let mut now_ms = traffic::START_MS;
    while !input.is_empty() {
        // Up to 12 days at once: past every retention.
        let step = input.u32();
        now_ms += u64::from(step) >> 2;
        let (mut count, mut principals) = (0, PrincipalRuns::default());
        let mut entry = BytesMut::new();
        let mut reader = Reader::new(input.block());
        loop {
            let before = reader.rest();
            match take_op(&mut reader) {
                Ok((op, ..)) if op.opcode().is_write() => {
                    entry.put_slice(&before[..before.len() - reader.rest().len()]);
                    let names: [&[u8]; 3] = [b"", b"shop", b"desk"];
                    let name = names[(step & 3) as usize * count as usize % names.len()];
                    principals.add(name, 1);
                    count += 1;
                }
                Ok(_) => {}
                Err(_) => break,
            }
        }
        assert_eq!(batch::check_ops(&entry), Ok(count), "writes that decode may be logged");
        batch::encode_expire(&mut entry, 3);
        let named = traffic::named_entry(now_ms, count + 1, &entry, &principals);
        let nameless = traffic::entry(now_ms, count + 1, &entry);
        let index = one.applied_index() + 1;
        let mut out = BytesMut::new();
        one.apply(index, &named, Some(&mut out));
        two.apply(index, &nameless, None);
        let mut outcomes = Reader::new(&out);
        for _ in 0..count + 1 {
            assert!(take_outcome(&mut outcomes).is_ok(), "every operation has an outcome");
        }
        assert!(outcomes.is_empty(), "there are no more outcomes than operations");
    }
    one.audit().expect("the state is sound");
    assert_eq!(one.digest(), two.digest(), "replicas agree");
}

/// Seeds of the kind a coin toss makes; the fuzzer's coverage does better from there.
pub fn decisions() -> Vec<Vec<u8>> {
    let toss = |seed: u64| {
        let mut state = seed;
        std::iter::repeat_with(move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        })
    };
    [(1, 400), (2, 1_500), (3, 3_000)].map(|(seed, len)| toss(seed).take(len).collect()).to_vec()
}

pub fn entries() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (step, op) in (0_u32..).zip(traffic::writes()) {
        all.extend_from_slice(&(step * 4_000).to_le_bytes());
        put_block(&mut all, &op);
    }
    let mut one = 1_u32.to_le_bytes().to_vec();
    put_block(&mut one, &traffic::writes().concat());
    vec![all.repeat(2), one, all]
}
