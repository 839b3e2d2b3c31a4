//! Seeded random operations against the engine and a naive model of it. A failure names the seed;
//! `STOCKD_SEED=n` runs that one alone, `STOCKD_SEEDS=n` that many.
//!
//! The fuzz target `engine` plays the same run with bytes instead of a seed.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod dice;
mod run;

use dice::Dice;
use run::Run;
use stockd::protocol::Code;

/// SplitMix64 (Steele, Lea, Flood 2014).
fn seeded(mut seed: u64) -> Dice {
    Dice::new(move |_| {
        seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = seed;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(z ^ z >> 31)
    })
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[test]
fn the_engine_agrees_with_the_model() {
    let seeds = match env("STOCKD_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..env("STOCKD_SEEDS").unwrap_or(60),
    };
    let all = seeds.end - seeds.start >= 60;
    let mut codes = std::collections::BTreeMap::new();
    let (mut refused_early, mut archived, mut refusals_told) = (0, 0, 0);
    for seed in seeds {
        let (digest, run) = Run::new(seed, seeded(seed)).run();
        assert_eq!(Run::new(seed, seeded(seed)).run().0, digest, "seed {seed}: two runs agree");
        run.codes.into_iter().for_each(|(code, n)| *codes.entry(code).or_default() += n);
        refused_early += run.refused_early;
        archived += run.archived;
        refusals_told += run.refusals_told;
    }
    // The dice reach everything: a generator that never asks proves nothing.
    if all {
        assert!(refused_early > 50, "{refused_early}");
        assert!(archived > 1_000, "{archived}");
        assert!(refusals_told > 1_000, "{refusals_told}");
        for code in [
            Code::OK,
            Code::REPLAY,
            Code::OK_LATE,
            Code::NO_STOCK,
            Code::HOLD_EXPIRED,
            Code::HOLD_RELEASED,
            Code::HOLD_CONFIRMED,
            Code::NOT_FOUND,
            Code::ID_REUSED,
            Code::ID_TOO_OLD,
            Code::CLOCK_SKEW,
            Code::UNKNOWN_SKU,
            Code::UNKNOWN_WAREHOUSE,
            Code::NOT_STOCKED,
            Code::TTL_RANGE,
            Code::MAX_LIFE,
            Code::DEADLINE_PASSED,
            Code::OK_REACQUIRED,
            Code::NOT_CONFIRMED,
            Code::CONFLICT,
            Code::QTY_EXCEEDS,
            Code::STALE_EXPECTED,
            Code::STALE_FEED,
            Code::WOULD_SHORT,
            Code::FROZEN,
            Code::OVERFLOW,
            Code::LINKED_FAILED,
            Code::OK_PARTIAL,
            Code::MIN_QTY,
            Code::OWNER_LIMIT,
        ] {
            assert!(codes.get(&code).is_some_and(|n: &u64| *n > 20), "{code} {codes:?}");
        }
    }
}
