//! What is done to the cluster, one kind at a time; `schedule` does several at once.
//!
//! Each fault begins, lasts and ends by itself, and leaves behind what it found: processes that run,
//! disks that work, clocks that are right. What breaks a process or a disk holds that node's machine,
//! so that no fault meets another's half-done repair; rules of the network only add up.

mod clocks;
mod disks;
mod members;
mod network;
mod processes;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::OwnedMutexGuard;
use tokio::time::Instant;

use crate::cluster::{Cluster, VOTERS};
use crate::dice::Dice;
use crate::host::Abilities;
use crate::load::Ledger;
use crate::node::Machine;

pub use clocks::SLOW_TENTHS;

/// What can go wrong.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Kind {
    /// The wall clock of a node jumps and jumps back.
    ClockJump,
    /// Every packet of a node, or of all, takes longer, by varying times.
    Delay,
    /// Every write and sync of a node fails; it has to stop by itself.
    DiskFailure,
    /// A node's disk has no space for a while, and its log is made longer until it notices.
    DiskFull,
    /// A fourth node joins, votes, and is removed.
    Guest,
    /// A node hears and is heard by nobody.
    Isolation,
    /// kill -9 of all nodes.
    KillAll,
    /// kill -9 of two nodes.
    KillMajority,
    /// kill -9 of a node.
    KillOne,
    /// A part of all packets is lost.
    Loss,
    /// A node can send to the others and not hear them, or the other way round.
    OneWay,
    /// A node's process stands still for longer than a lease, up to three times.
    Pause,
    /// A node is cut off from the other nodes; clients reach it.
    PeersOnly,
    /// All machines lose power.
    PowerCutAll,
    /// A machine loses power.
    PowerCutOne,
    /// Each node in turn is asked to leave and started again.
    RollingRestart,
    /// A node's clocks run slow; it leads, and is cut off from the other nodes several times.
    SlowClock,
    /// A node writes a snapshot and is killed, or loses power, meanwhile.
    SnapshotKill,
    /// Leadership is handed over.
    Transfer,
    /// A node is removed, loses its disk, and joins anew.
    WipeAndJoin,
}

impl Kind {
    /// As in reports and after `--only`.
    pub fn name(self) -> String {
        let value = clap::ValueEnum::to_possible_value(&self).expect("no kind is hidden");
        value.get_name().to_owned()
    }

    /// All that this machine permits.
    pub fn possible(abilities: &Abilities) -> Vec<Self> {
        let all = <Self as clap::ValueEnum>::value_variants();
        all.iter().copied().filter(|kind| kind.is_possible(abilities)).collect()
    }

    const fn is_possible(self, abilities: &Abilities) -> bool {
        match self {
            Self::Delay | Self::Isolation | Self::Loss | Self::OneWay | Self::PeersOnly => {
                abilities.network
            }
            Self::DiskFailure | Self::DiskFull | Self::PowerCutAll | Self::PowerCutOne => {
                abilities.disks
            }
            Self::ClockJump => abilities.faketime.is_some(),
            Self::SlowClock => abilities.faketime.is_some() && abilities.network,
            _ => true,
        }
    }

    /// Does it to `attack`'s cluster, and undoes it.
    ///
    /// # Errors
    /// The cluster did not take it as it promises, or the machine does not do its part.
    pub async fn inflict(self, attack: &Attack, dice: &mut Dice) -> Result<(), String> {
        match self {
            Self::ClockJump => clocks::jump(attack, dice).await,
            Self::Delay => network::delay(attack, dice).await,
            Self::DiskFailure => disks::fail(attack, dice).await,
            Self::DiskFull => disks::fill(attack, dice).await,
            Self::Guest => members::guest(attack, dice).await,
            Self::Isolation => network::isolate(attack, dice).await,
            Self::KillAll => processes::kill_all(attack, dice).await,
            Self::KillMajority => processes::kill_majority(attack, dice).await,
            Self::KillOne => processes::kill_one(attack, dice).await,
            Self::Loss => network::lose(attack, dice).await,
            Self::OneWay => network::one_way(attack, dice).await,
            Self::Pause => processes::pause(attack, dice).await,
            Self::PeersOnly => network::peers_only(attack, dice).await,
            Self::PowerCutAll => disks::cut_all(attack, dice).await,
            Self::PowerCutOne => disks::cut_one(attack, dice).await,
            Self::RollingRestart => processes::rolling_restart(attack, dice).await,
            Self::SlowClock => clocks::slow(attack, dice).await,
            Self::SnapshotKill => disks::kill_in_snapshot(attack, dice).await,
            Self::Transfer => members::transfer(attack, dice).await,
            Self::WipeAndJoin => members::wipe_and_join(attack, dice).await,
        }
    }
}

/// A cluster under attack, and what has been done to it.
#[derive(Clone)]
pub struct Attack {
    pub cluster: Arc<Cluster>,
    ledger: Arc<Ledger>,
    begun: Instant,
    tally: Arc<Mutex<Tally>>,
}

/// What became of the faults.
#[derive(Clone, Default)]
pub struct Tally {
    /// Those that took hold, by kind.
    pub struck: BTreeMap<Kind, u64>,
    /// Those that did not, by kind and reason.
    pub missed: BTreeMap<(Kind, &'static str), u64>,
}

impl Attack {
    pub fn new(cluster: Arc<Cluster>, ledger: Arc<Ledger>) -> Self {
        Self { cluster, ledger, begun: Instant::now(), tally: Arc::default() }
    }

    /// Prints a line with the time.
    pub fn say(&self, what: &str) {
        println!("{:8.2} s  {what}", self.begun.elapsed().as_secs_f64());
    }

    /// Counts a fault that takes hold now, and prints it.
    fn strike(&self, kind: Kind, what: &str) {
        *self.tally.lock().expect("no holder panics").struck.entry(kind).or_default() += 1;
        self.say(&format!("{:<15} {what}", kind.name()));
    }

    /// Counts a fault that was tried and did not take hold, and prints it.
    fn miss(&self, kind: Kind, why: &'static str, what: &str) {
        *self.tally.lock().expect("no holder panics").missed.entry((kind, why)).or_default() += 1;
        self.say(&format!("{:<15} {what} ({why})", kind.name()));
    }

    /// What became of the faults so far.
    pub fn tally(&self) -> Tally {
        self.tally.lock().expect("no holder panics").clone()
    }

    /// A voter: often the leader, because that hurts most.
    async fn victim(&self, dice: &mut Dice) -> u64 {
        let any = *dice.pick(&VOTERS);
        match dice.chance(50) {
            true => self.leader().await.unwrap_or(any),
            false => any,
        }
    }

    async fn leader(&self) -> Option<u64> {
        let leader = self.cluster.leader().await.map(|(id, _)| id);
        leader.filter(|id| VOTERS.contains(id))
    }

    /// A voter whose machine nobody breaks just now, if there is one; else one to wait for.
    async fn victim_machine(&self, dice: &mut Dice) -> (u64, OwnedMutexGuard<Machine>) {
        let first = self.victim(dice).await;
        let others = VOTERS.into_iter().filter(|id| *id != first);
        for id in [first].into_iter().chain(others) {
            if let Some(machine) = self.cluster.node(id).machine_if_idle() {
                return (id, machine);
            }
        }
        (first, self.cluster.node(first).machine().await)
    }

    /// The machines of several voters, always in the same order.
    async fn machines(&self, ids: &[u64]) -> Vec<(u64, OwnedMutexGuard<Machine>)> {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        let mut machines = Vec::new();
        for id in ids {
            machines.push((id, self.cluster.node(id).machine().await));
        }
        machines
    }
}

/// Some voters, fewer than all.
fn some_voters(dice: &mut Dice, count: usize) -> Vec<u64> {
    let mut ids = VOTERS;
    dice.shuffle(&mut ids);
    ids[..count].to_vec()
}

/// For messages.
fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
