//! What goes wrong, when, and for how long: drawn from the seed.
//!
//! | what | how |
//! |---|---|
//! | network | cuts between two hosts in one or both directions; a node cut from its peers, from its clients, from all; loss; slow and uneven ways, so that connections overtake each other |
//! | process | kill -9; leaving in order; pauses up to several leases; all killed at once |
//! | power | of one node, of all; at the n-th write or sync from now; what was not synced is lost, kept or torn |
//! | disk | syncs that are slow, that fail; a full disk; bits that rot in a stopped node's files |
//! | clock | jumps of a wall clock, a machine whose time runs fast or slow |
//! | cluster | hand-over, snapshots on demand, nodes added and removed, a node that loses its disk |
//!
//! TCP hides lost, doubled and reordered packets from an application, so here they are what they
//! become above it: delay, requests sent again by clients and peers, connections that overtake.

use std::time::Duration;

use stockd::log::{Fault, SimStorage, Storage};
use stockd::replication::Replica;
use stockd_simnet::{Host, LinkState};

use crate::cluster::{APP_HOSTS, Cluster};
use crate::machine::TRUE_RATE;

/// A change of links from host to host.
#[derive(Clone, Copy, Debug)]
enum Trouble {
    Cut { from: Host, to: Host },
    Isolated { host: Host, peers: bool, apps: bool },
    Lossy { per_mille: u64 },
    Slow { host: Host, latency_ms: (u64, u64) },
}

impl Trouble {
    fn change(self, from: Host, to: Host, link: &mut LinkState) {
        let concerns = |host| from == host || to == host;
        match self {
            Self::Cut { from: cut_from, to: cut_to } => {
                link.cut |= (from, to) == (cut_from, cut_to);
            }
            Self::Isolated { host, peers, apps } => {
                let other = if from == host { to } else { from };
                let is_app = APP_HOSTS.contains(&other);
                link.cut |= concerns(host) && if is_app { apps } else { peers };
            }
            Self::Lossy { per_mille } => link.loss_per_mille = per_mille,
            Self::Slow { host, latency_ms } if concerns(host) => link.latency_ms = latency_ms,
            Self::Slow { .. } => (),
        }
    }
}

/// How something is made good.
#[derive(Clone, Copy, Debug)]
enum Cure {
    Clock(usize),
    Disk(usize),
    Links,
    Rate(usize),
    Resume(usize),
}

/// What is wrong at the moment.
#[derive(Default)]
pub struct Faults {
    next_ms: u64,
    troubles: Vec<(u64, Trouble)>,
    cures: Vec<(u64, Cure)>,
}

type Deed = fn(&mut Faults, &mut Cluster, usize) -> bool;

/// Each with its name and how often it is drawn, against the others.
const DEEDS: &[(&str, u64, Deed)] = &[
    ("cut pair", 3, |faults, cluster, at| faults.cut_pair(cluster, at, true)),
    ("cut one-way", 3, |faults, cluster, at| faults.cut_pair(cluster, at, false)),
    ("isolate", 3, |faults, cluster, at| faults.isolate(cluster, at, true, true)),
    ("isolate from peers", 3, |faults, cluster, at| faults.isolate(cluster, at, true, false)),
    ("isolate from clients", 1, |faults, cluster, at| faults.isolate(cluster, at, false, true)),
    ("loss", 2, Faults::lose),
    ("slow ways", 2, Faults::slow_ways),
    ("kill", 4, Faults::kill),
    ("kill all", 1, Faults::kill_all),
    ("leave", 2, Faults::leave),
    ("pause", 4, Faults::pause),
    ("power cut", 4, Faults::power_cut),
    ("power cut of all", 2, Faults::power_cut_all),
    ("power cut at a write", 5, Faults::crash_point),
    ("sync fails", 2, |_, cluster, at| fault_soon(cluster, at, Fault::SyncFails)),
    ("write fails", 1, |_, cluster, at| fault_soon(cluster, at, Fault::WriteFails)),
    ("slow syncs", 2, Faults::slow_syncs),
    ("full disk", 2, Faults::fill_disk),
    ("bit rot", 4, Faults::rot),
    ("clock jump", 2, Faults::jump),
    ("clock rate", 2, Faults::change_rate),
    ("hand-over", 3, |_, cluster, _| hand_over(cluster, None)),
    ("snapshot", 6, |_, cluster, at| snapshot(cluster, at)),
    ("lost disk", 3, Faults::lose_disk),
    ("add node", 3, |_, cluster, _| add_node(cluster)),
    ("remove node", 4, |_, cluster, _| remove_node(cluster)),
];

impl Faults {
    /// Heals what has been wrong for long enough, and breaks something when it is time.
    pub fn step(&mut self, cluster: &mut Cluster) {
        self.heal(cluster, cluster.now_ms);
        if cluster.now_ms < self.next_ms {
            return;
        }
        let gap = cluster.plan.fault_gap_ms;
        self.next_ms = cluster.now_ms + cluster.dice.between(gap / 4, gap);
        let weights: u64 = DEEDS.iter().map(|(_, weight, _)| weight).sum();
        let mut drawn = cluster.dice.between(1, weights);
        for (name, weight, deed) in DEEDS {
            if drawn > *weight {
                drawn -= weight;
                continue;
            }
            let at = self.victim(cluster);
            if deed(self, cluster, at) {
                cluster.note(&format!("fault: {name} (node {})", at + 1));
                *cluster.faults.entry(name).or_default() += 1;
            }
            return;
        }
    }

    /// All kinds of faults, by name.
    pub fn kinds() -> impl Iterator<Item = &'static str> {
        DEEDS.iter().map(|(name, ..)| *name)
    }

    /// Heals everything.
    pub fn heal_all(&mut self, cluster: &mut Cluster) {
        self.heal(cluster, u64::MAX);
        for at in 0..cluster.nodes.len() {
            cluster.nodes[at].start_at_ms = None;
            cluster.nodes[at].disk.forget_faults();
            if cluster.nodes[at].member && !cluster.nodes[at].machine.is_up() {
                cluster.start(at);
            }
        }
    }

    fn heal(&mut self, cluster: &mut Cluster, until_ms: u64) {
        let due: Vec<Cure> =
            self.cures.extract_if(.., |(at, _)| *at <= until_ms).map(|(_, cure)| cure).collect();
        for cure in due {
            match cure {
                Cure::Clock(at) => cluster.nodes[at].machine.clock.correct(),
                Cure::Disk(at) => {
                    let sync = Duration::from_millis(cluster.plan.sync_ms);
                    cluster.nodes[at].disk.set_bytes_max(None);
                    cluster.nodes[at].disk.set_sync_delay(sync);
                }
                Cure::Links => {
                    self.troubles.retain(|(end, _)| *end > until_ms);
                    self.set_links(cluster);
                }
                Cure::Rate(at) => cluster.nodes[at].machine.rate = TRUE_RATE,
                Cure::Resume(at) => cluster.nodes[at].machine.paused = false,
            }
        }
    }

    /// Some node; the leader more often than the others, because that is where it hurts.
    fn victim(&self, cluster: &Cluster) -> usize {
        match cluster.leader() {
            Some((leader, _)) if cluster.dice.chance(35) => leader,
            _ => cluster.dice.between(0, cluster.plan.nodes - 1) as usize,
        }
    }

    /// When a fault ends: mostly soon, sometimes after several leases.
    fn end(&self, cluster: &Cluster) -> u64 {
        let longest = if cluster.dice.chance(25) { 4_000 } else { 900 };
        cluster.now_ms + cluster.dice.between(20, longest)
    }

    fn cure(&mut self, end: u64, cure: Cure) -> bool {
        self.cures.push((end, cure));
        true
    }

    fn trouble(&mut self, cluster: &mut Cluster, trouble: Trouble) -> bool {
        let end = self.end(cluster);
        self.troubles.push((end, trouble));
        self.set_links(cluster);
        self.cure(end, Cure::Links)
    }

    fn set_links(&self, cluster: &mut Cluster) {
        let troubles = &self.troubles;
        cluster.set_links(&|from, to, link| {
            troubles.iter().for_each(|(_, trouble)| trouble.change(from, to, link));
        });
    }

    fn cut_pair(&mut self, cluster: &mut Cluster, at: usize, both: bool) -> bool {
        let from = at as Host + 1;
        let others: Vec<Host> = (1..=cluster.plan.nodes as Host)
            .chain(APP_HOSTS)
            .filter(|host| *host != from)
            .collect();
        let to = *cluster.dice.pick(&others);
        let (from, to) = if cluster.dice.chance(50) { (from, to) } else { (to, from) };
        if both {
            self.trouble(cluster, Trouble::Cut { from: to, to: from });
        }
        self.trouble(cluster, Trouble::Cut { from, to })
    }

    fn isolate(&mut self, cluster: &mut Cluster, at: usize, peers: bool, apps: bool) -> bool {
        self.trouble(cluster, Trouble::Isolated { host: at as Host + 1, peers, apps })
    }

    fn lose(&mut self, cluster: &mut Cluster, _: usize) -> bool {
        let per_mille = cluster.dice.between(10, 150);
        self.trouble(cluster, Trouble::Lossy { per_mille })
    }

    fn slow_ways(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        let longest = cluster.dice.between(10, 150);
        let latency_ms = (cluster.dice.between(1, longest), longest);
        self.trouble(cluster, Trouble::Slow { host: at as Host + 1, latency_ms })
    }

    fn kill(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        let up = cluster.nodes[at].machine.is_up();
        if up {
            cluster.kill(at);
            cluster.start_later(at);
        }
        up
    }

    fn kill_all(&mut self, cluster: &mut Cluster, _: usize) -> bool {
        (0..cluster.plan.nodes as usize).fold(false, |any, at| self.kill(cluster, at) | any)
    }

    fn leave(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        cluster.nodes[at].handle.leave.notify_one();
        cluster.nodes[at].machine.is_up()
    }

    fn pause(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        let machine = &mut cluster.nodes[at].machine;
        if !machine.is_up() || machine.paused {
            return false;
        }
        machine.paused = true;
        let end = self.end(cluster);
        self.cure(end, Cure::Resume(at))
    }

    fn power_cut(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        let up = cluster.nodes[at].machine.is_up();
        if up {
            cluster.power_off(at);
            cluster.start_later(at);
        }
        up
    }

    fn power_cut_all(&mut self, cluster: &mut Cluster, _: usize) -> bool {
        (0..cluster.plan.nodes as usize).fold(false, |any, at| self.power_cut(cluster, at) | any)
    }

    fn crash_point(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        fault_soon(cluster, at, Fault::PowerCut)
    }

    fn slow_syncs(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        let delay = Duration::from_millis(cluster.dice.between(20, 400));
        cluster.nodes[at].disk.set_sync_delay(delay);
        let end = self.end(cluster);
        self.cure(end, Cure::Disk(at))
    }

    fn fill_disk(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        let disk = &cluster.nodes[at].disk;
        disk.set_bytes_max(Some(disk.bytes_used() + cluster.dice.between(0, 50_000)));
        let end = self.end(cluster);
        self.cure(end, Cure::Disk(at))
    }

    fn jump(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        let most = *cluster.dice.pick(&[50_000, 3_000_000, 3_600_000_000]);
        let jump = cluster.dice.between(0, 2 * most) as i64 - most as i64;
        // Two wrong clocks of three would be a majority.
        if self.cures.iter().any(|(_, cure)| matches!(cure, Cure::Clock(_) | Cure::Rate(_))) {
            return false;
        }
        cluster.nodes[at].machine.clock.jump(jump);
        // A new leader is who could take the cluster's clock along.
        if cluster.dice.chance(50) {
            hand_over(cluster, Some(at));
        }
        let end = self.end(cluster);
        self.cure(end, Cure::Clock(at))
    }

    fn change_rate(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        if self.cures.iter().any(|(_, cure)| matches!(cure, Cure::Clock(_) | Cure::Rate(_))) {
            return false;
        }
        let rate = match cluster.plan.steady_clocks {
            true => cluster.dice.between(980_000, 1_020_000),
            false => cluster.dice.between(300_000, 2_500_000),
        };
        cluster.nodes[at].machine.rate = rate / 1_000 * 1_000;
        let end = self.end(cluster);
        self.cure(end, Cure::Rate(at))
    }

    /// Flips bits in a file of a stopped node: in the part that was acknowledged it must not start,
    /// and gets a new disk.
    fn rot(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        if !may_lose_disk(cluster, at) {
            return false;
        }
        if cluster.nodes[at].machine.is_up() {
            cluster.kill(at);
        }
        let disk = cluster.nodes[at].disk.clone();
        let Some((file, bytes)) = cold_file(&disk, cluster) else { return false };
        for _ in 0..cluster.dice.between(1, 3) {
            let offset = cluster.dice.between(0, bytes - 1);
            disk.flip(&file, offset, 1 << cluster.dice.between(0, 7));
        }
        (cluster.nodes[at].wiped, cluster.nodes[at].rotten) = (true, true);
        cluster.start_later(at);
        true
    }

    fn lose_disk(&mut self, cluster: &mut Cluster, at: usize) -> bool {
        if !may_lose_disk(cluster, at) {
            return false;
        }
        cluster.power_off(at);
        cluster.nodes[at].disk = SimStorage::new();
        (cluster.nodes[at].wiped, cluster.nodes[at].rotten) = (true, false);
        cluster.start_later(at);
        true
    }
}

/// One disk may be lost at a time, and only where others have everything.
fn may_lose_disk(cluster: &Cluster, at: usize) -> bool {
    let voters = cluster.plan.nodes >= 3 && !cluster.nodes.iter().any(|node| node.wiped);
    let Some((leader, _)) = cluster.leader() else { return false };
    voters && leader != at && cluster.nodes[at].member
}

/// A file that is not the log's last segment, where damage would pass for a torn tail.
fn cold_file(disk: &SimStorage, cluster: &Cluster) -> Option<(String, u64)> {
    let mut files = disk.list().ok()?;
    let last_segments = files.iter().rev().filter(|file| file.name.starts_with("segment-")).take(2);
    let last_segments: Vec<String> = last_segments.map(|file| file.name.clone()).collect();
    files.retain(|file| file.bytes > 0 && !last_segments.contains(&file.name));
    (!files.is_empty()).then(|| {
        let file = cluster.dice.pick(&files);
        (file.name.clone(), file.bytes)
    })
}

fn fault_soon(cluster: &mut Cluster, at: usize, fault: Fault) -> bool {
    let node = &cluster.nodes[at];
    let soon = node.disk.operations() + cluster.dice.between(1, 40);
    node.disk.fault_at(soon, fault);
    node.machine.is_up()
}

/// Runs a command of an operator on a node; whether it succeeds is up to the weather.
fn command<F>(cluster: &Cluster, at: usize, command: impl FnOnce(Replica) -> F) -> bool
where
    F: Future<Output = ()> + Send + 'static,
{
    let Some(replica) = cluster.replica(at) else { return false };
    cluster.nodes[at].machine.spawn(command(replica));
    true
}

fn hand_over(cluster: &Cluster, to: Option<usize>) -> bool {
    let Some((leader, _)) = cluster.leader() else { return false };
    let to = to.map(|at| cluster.nodes[at].id);
    command(cluster, leader, async move |replica: Replica| {
        // A hand-over in bad weather may fail.
        let _ = replica.transfer_leader(to).await;
    })
}

fn snapshot(cluster: &Cluster, at: usize) -> bool {
    command(cluster, at, async |replica: Replica| {
        // The node may be stopped meanwhile.
        let _ = replica.snapshot().await;
    })
}

/// The one that waits is started and asks to be taken in.
fn add_node(cluster: &mut Cluster) -> bool {
    let at = cluster.plan.nodes as usize;
    let waits = !cluster.nodes[at].member && !cluster.nodes[at].machine.is_up();
    if waits {
        cluster.nodes[at].disk = SimStorage::new();
        cluster.nodes[at].member = true;
        cluster.start(at);
    }
    waits
}

/// The one that was added is removed for good, and its disk is thrown away.
fn remove_node(cluster: &mut Cluster) -> bool {
    let node = &mut cluster.nodes[cluster.plan.nodes as usize];
    let leaves = node.member && !node.leaving;
    node.leaving |= leaves;
    leaves
}
