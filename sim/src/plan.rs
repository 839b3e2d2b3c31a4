//! What a seed stands for: the shape of the cluster, its settings, and how bad the world is.

use crate::doors::Dice;

/// One simulation.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed of everything.
    pub seed: u64,
    /// Nodes at the start: 1, 3 or 5. One more waits to be taken in.
    pub nodes: u64,
    /// Applications.
    pub apps: u32,
    /// Cells that they buy from.
    pub cells: u64,
    /// Most milliseconds between two steps of an application.
    pub think_ms: u64,
    /// Longest time to live of a reservation.
    pub ttl_ms_max: u64,
    /// How long faults go on.
    pub faults_ms: u64,
    /// Most milliseconds between two faults.
    pub fault_gap_ms: u64,
    /// The way between two hosts, shortest and longest.
    pub latency_ms: (u64, u64),
    /// The disks' usual and longest sync.
    pub sync_ms: u64,
    /// After so many bytes of log there is a snapshot.
    pub snapshot_log_bytes: u64,
    /// A follower so many entries behind gets a snapshot.
    pub follower_lag_max: u64,
    /// Reads on the leader's lease. Then clocks are steady, which is what leases assume.
    pub lease_reads: bool,
    /// Clocks may jump, but all run within two hundredths of true.
    pub steady_clocks: bool,
    /// The engine's grace.
    pub grace_ms: u64,
    /// The engine's retention.
    pub retention_ms: u64,
    /// Of so many refused requests one is told as an event; 0: none.
    pub sample_refusals: u32,
    /// How often states are compared.
    pub reconcile_ms: u64,
}

impl Plan {
    /// What `seed` stands for.
    pub fn of(seed: u64) -> Self {
        let dice = Dice::new(seed ^ 0x0073_746f_636b_6421);
        let (slow, lease_reads) = (dice.chance(20), dice.chance(20));
        Self {
            seed,
            nodes: *dice.pick(&[1, 3, 3, 3, 3, 3, 3, 3, 5, 5]),
            apps: dice.between(10, 30) as u32,
            cells: dice.between(2, 10),
            think_ms: dice.between(20, 150),
            ttl_ms_max: dice.between(1_000, 3_000),
            faults_ms: dice.between(4_000, 10_000),
            fault_gap_ms: dice.between(150, 1_200),
            latency_ms: if slow { (1, 15) } else { (1, 2) },
            sync_ms: if slow { 10 } else { 1 },
            snapshot_log_bytes: dice.between(8, 96) << 10,
            follower_lag_max: dice.between(5, 300),
            lease_reads,
            steady_clocks: lease_reads || dice.chance(50),
            grace_ms: dice.between(0, 1_000),
            retention_ms: dice.between(4_000, 60_000),
            sample_refusals: *dice.pick(&[0, 1, 3, 50]),
            reconcile_ms: dice.between(200, 3_000),
        }
    }

    /// Warehouses and SKUs of the cells. In the first half nothing but buying goes on.
    pub fn names(&self) -> Vec<(String, String)> {
        let name = |number: u64| (format!("w{}", number % 2), format!("sku-{}", number / 2));
        (0..self.cells).map(name).collect()
    }

    /// The cells in which nobody can sell more than there is, whatever is written.
    pub fn plain_names(&self) -> Vec<(String, String)> {
        let mut names = self.names();
        names.truncate(names.len() / 2);
        names
    }
}
