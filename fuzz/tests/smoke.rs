//! A bounded run of every fuzz target on a stable toolchain: all seeds, all inputs that once broke
//! something (`regressions/`), and seeded mutations of both. Prints executions per target.
//!
//! `STOCKD_FUZZ_SECONDS=n` gives each target so long; `STOCKD_SEED=n` mutates otherwise.

use std::alloc::System;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use stockd::world::{Clock, RealClock};
use stockd_fuzz::{TARGETS, Target};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// A panic on another task of the runtime would be swallowed.
static PANICKED: AtomicBool = AtomicBool::new(false);

/// Executions after which a target has had its share, however fast it is.
const EXECUTIONS_MAX: u64 = 20_000;

/// SplitMix64 (Steele, Lea, Flood 2014).
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ z >> 31) % limit.max(1) as u64) as usize
    }

    fn byte(&mut self) -> u8 {
        self.below(256) as u8
    }

    /// A part of the bytes, at most so long.
    fn part<'a>(&mut self, bytes: &'a [u8], len_max: usize) -> &'a [u8] {
        let from = self.below(bytes.len() + 1);
        let len = self.below(len_max.min(bytes.len() - from) + 1);
        &bytes[from..from + len]
    }

    fn mutate(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        const EDGES: [u64; 8] = [0, 1, 0x7f, 0xff, 0xffff, 0x7fff_ffff, 1 << 53, u64::MAX];
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len());
            match self.below(8) {
                _ if bytes.is_empty() => bytes.push(self.byte()),
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = self.byte(),
                2 => bytes.truncate(at),
                3 => drop(bytes.drain(at..(at + 1 + self.below(8)).min(bytes.len()))),
                4 => {
                    let edge = EDGES[self.below(EDGES.len())].to_le_bytes();
                    let end = (at + [1, 2, 4, 8][self.below(4)]).min(bytes.len());
                    bytes[at..end].copy_from_slice(&edge[..end - at]);
                }
                5 => bytes[at] = bytes[at].wrapping_add(if self.below(2) == 0 { 1 } else { 255 }),
                6 => {
                    let again = self.part(&bytes, 200).to_vec();
                    bytes.splice(at..at, again);
                }
                _ => {
                    let other = self.below(seeds.len());
                    let part = self.part(&seeds[other], 200).to_vec();
                    bytes.splice(at..at, part);
                }
            }
        }
        bytes
    }
}

fn env(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs one input under the target's allowance of memory.
fn execute(target: &Target, input: &[u8]) {
    let region = Region::new(ALLOCATOR);
    let result = std::panic::catch_unwind(|| (target.run)(input));
    let allocated = region.change().bytes_allocated as u64;
    let sound = result.is_ok() && !PANICKED.swap(false, Ordering::Relaxed);
    assert!(sound, "{} broke on {}", target.name, hex(input));
    let (base, per_byte) = target.allowance;
    let allowed = base + per_byte * input.len() as u64;
    assert!(
        allocated <= allowed,
        "{} allocated {allocated} bytes of {allowed} on {}",
        target.name,
        hex(input)
    );
}

/// One test, so that targets run one after the other and what one allocates is its own.
#[test]
fn every_target_holds() {
    let default_hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        PANICKED.store(true, Ordering::Relaxed);
        default_hook(info);
    }));
    let seed = env("STOCKD_SEED").unwrap_or(1);
    let budget = Duration::from_millis(env("STOCKD_FUZZ_SECONDS").map_or(1_500, |s| s * 1_000));
    let clock = RealClock::new();
    for target in TARGETS {
        let mut inputs = (target.seeds)();
        assert!(!inputs.is_empty(), "{} has seeds", target.name);
        let kept = target.regressions();
        let mut executions = (inputs.len() + kept.len()) as u64;
        inputs.extend(kept);
        // Whatever is made once and kept, such as a node, is nobody's allocation.
        (target.run)(&inputs[0]);
        inputs.iter().for_each(|input| execute(target, input));
        let mut dice = Dice(seed);
        let started = clock.monotonic();
        while clock.monotonic() - started < budget && executions < EXECUTIONS_MAX {
            execute(target, &dice.mutate(&inputs));
            executions += 1;
        }
        println!(
            "{:>14}: {} inputs, {executions} executions, seed {seed}",
            target.name,
            inputs.len()
        );
        assert!(executions > inputs.len() as u64 + 10, "{} is too slow to say much", target.name);
    }
}
