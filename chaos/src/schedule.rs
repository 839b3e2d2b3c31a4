//! Several faults at a time, drawn from a seed.
//!
//! ```text
//! round 1                                        round 2
//! ├─ fault ──┤  ├──── fault ───┤   │ all heal,   ├─ …
//!     ├──── fault ────┤   ├─ fault ┤ │ compare     a bag of all kinds is emptied before it is filled
//! ```
//!
//! The seed decides the order of the kinds, the pauses between them and what they are drawn to do. It
//! does not decide who happens to lead, so a run with the same seed is alike and not the same.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::faults::{Attack, Kind};

/// Faults at a time. More would leave no majority for most of the run.
const AT_A_TIME: usize = 3;
/// Between two faults that begin, in milliseconds.
const PAUSE_MS: (u64, u64) = (300, 4_000);
/// Longest wait for the faults of a round to end.
const END_LIMIT: Duration = Duration::from_secs(300);

/// Kinds in a random order, each as often as the others.
struct Bag {
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

impl Bag {
    fn draw(&mut self, dice: &mut Dice) -> Kind {
        if self.left.is_empty() {
            self.left.clone_from(&self.kinds);
            dice.shuffle(&mut self.left);
        }
        self.left.pop().expect("there is a kind")
    }
}

/// The attacker.
pub struct Schedule {
    attack: Attack,
    bag: Bag,
    dice: Dice,
}

impl Schedule {
    /// Faults of `kinds`, which are some.
    pub fn new(attack: Attack, kinds: Vec<Kind>, seed: u64) -> Self {
        let bag = Bag { kinds, left: Vec::new() };
        Self { attack, bag, dice: Dice::new(seed, 2) }
    }

    /// Attacks for so long, and waits until the last fault has ended. Ends early when something is
    /// found to be wrong.
    ///
    /// # Errors
    /// A fault does not end.
    pub async fn round(&mut self, duration: Duration) -> Result<(), String> {
        let end = Instant::now() + duration;
        let mut running = JoinSet::new();
        while Instant::now() < end && self.attack.cluster.wrong().is_empty() {
            if running.len() < AT_A_TIME {
                let kind = self.bag.draw(&mut self.dice);
                let (attack, mut dice) = (self.attack.clone(), Dice::new(self.dice.next(), 3));
                running.spawn_local(async move {
                    if let Err(what) = kind.inflict(&attack, &mut dice).await {
                        attack.cluster.report(format!("{}: {what}", kind.name()));
                    }
                });
            }
            sleep(self.dice.millis(PAUSE_MS.0, PAUSE_MS.1)).await;
            while let Some(ended) = running.try_join_next() {
                ended.map_err(|error| format!("a fault failed: {error}"))?;
            }
        }
        let all = async {
            while let Some(ended) = running.join_next().await {
                ended.map_err(|error| format!("a fault failed: {error}"))?;
            }
            Ok(())
        };
        let all = tokio::time::timeout(END_LIMIT, all).await;
        all.unwrap_or_else(|_| Err(format!("a fault did not end within {END_LIMIT:?}")))
    }
}
