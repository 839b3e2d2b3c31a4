//! What a run did and found, printed so that a quiet pass and an idle one look different.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stockd_check::Report;

use crate::faults::{Kind, Tally};
use crate::network::Counts;

/// A run that does less than this is a failure, because it shows nothing.
const OPERATIONS_PER_S_MIN: f64 = 20.0;
const FAULTS_PER_MINUTE_MIN: f64 = 4.0;
/// Of the kinds that are possible here, so many of a hundred must have happened in a run that is long
/// enough for all of them.
const KINDS_PERCENT_MIN: usize = 90;
/// One clock in three that is wrong moves the cluster's by no more than what nodes cannot know of each
/// other's: half of the longest round trip that counts (`replication/clock.rs`), with room for a busy
/// machine.
const CLOCK_AHEAD_MAX: Duration = Duration::from_secs(1);
/// About how long it takes until every kind has been drawn.
const ALL_KINDS: Duration = Duration::from_secs(180);

/// A finished run.
pub struct Summary {
    pub seed: u64,
    pub attacked: Duration,
    pub rounds: u64,
    pub faults: Tally,
    /// What might have happened.
    pub kinds: Vec<Kind>,
    pub asides: BTreeMap<String, u64>,
    pub longest_pause: Duration,
    pub clock_ahead: Duration,
    pub packets: Option<Arc<Counts>>,
    pub operations: usize,
    /// What this machine does not permit.
    pub missing: Vec<String>,
    /// How the units add up; `None` if they could not be counted.
    pub sums: Option<String>,
    /// What the checker says, and how long it took.
    pub checked: Option<(Report, Duration)>,
    /// What was found of the events, of each node and of the subscriber.
    pub events: Vec<String>,
    pub wrong: Vec<String>,
}

impl Summary {
    /// Adds to what is wrong what the figures say; true if nothing is.
    pub fn judge(&mut self) -> bool {
        let faults: u64 = self.faults.struck.values().sum();
        let minutes = self.attacked.as_secs_f64() / 60.0;
        let operations_min = self.attacked.as_secs_f64() * OPERATIONS_PER_S_MIN;
        if (self.operations as f64) < operations_min {
            self.wrong.push(format!(
                "only {} operations, of at least {operations_min:.0}",
                self.operations
            ));
        }
        if (faults as f64) < minutes * FAULTS_PER_MINUTE_MIN {
            self.wrong.push(format!("only {faults} faults in {minutes:.1} minutes"));
        }
        let kinds_min = self.kinds.len() * KINDS_PERCENT_MIN / 100;
        if self.attacked >= ALL_KINDS && self.faults.struck.len() < kinds_min {
            self.wrong.push(format!(
                "only {} kinds of faults, of {}",
                self.faults.struck.len(),
                self.kinds.len()
            ));
        }
        if self.clock_ahead > CLOCK_AHEAD_MAX {
            self.wrong.push(format!("the cluster's clock was {:?} ahead", self.clock_ahead));
        }
        match &self.checked {
            Some((report, _)) if report.is_ok() => {}
            Some((report, _)) => {
                self.wrong
                    .push(format!("the checker found {} violations", report.violations_count));
            }
            None => self.wrong.push("nothing could be checked".to_owned()),
        }
        self.is_ok()
    }

    /// Nothing is wrong.
    pub const fn is_ok(&self) -> bool {
        self.wrong.is_empty()
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\nfaults by kind")?;
        for kind in &self.kinds {
            writeln!(f, "  {:<18} {:>6}", kind.name(), self.faults.struck.get(kind).unwrap_or(&0))?;
        }
        let faults: u64 = self.faults.struck.values().sum();
        writeln!(f, "  {:<18} {faults:>6}  of {} kinds", "all", self.faults.struck.len())?;
        for ((kind, why), count) in &self.faults.missed {
            writeln!(f, "  not counted: {} ({why}) {count}", kind.name())?;
        }
        if let Some(packets) = &self.packets {
            let read = |count: &std::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
            writeln!(
                f,
                "packets: {} passed, {} delayed, {} dropped by a fault, {} dropped by a full queue",
                read(&packets.passed),
                read(&packets.delayed),
                read(&packets.dropped),
                read(&packets.overflowed)
            )?;
        }
        for missing in &self.missing {
            writeln!(f, "not tested here: {missing}")?;
        }
        writeln!(f, "\nnot part of the history")?;
        for (what, count) in &self.asides {
            writeln!(f, "  {what:<40} {count:>8}")?;
        }
        if let Some((report, took)) = &self.checked {
            writeln!(f, "\nchecked in {:.1} s", took.as_secs_f64())?;
            write!(f, "{report}")?;
        }
        for line in &self.events {
            writeln!(f, "events: {line}")?;
        }
        if let Some(sums) = &self.sums {
            writeln!(f, "sums: {sums}")?;
        }
        writeln!(
            f,
            "\nseed {}: {:.0} s of attacks in {} rounds, {faults} faults of {} kinds, {} operations, \
             longest time without an acknowledged write {:.1} s, cluster's clock at most {} ms ahead",
            self.seed,
            self.attacked.as_secs_f64(),
            self.rounds,
            self.faults.struck.len(),
            self.operations,
            self.longest_pause.as_secs_f64(),
            self.clock_ahead.as_millis()
        )?;
        for what in &self.wrong {
            writeln!(f, "WRONG: {what}")?;
        }
        writeln!(f, "{}", if self.is_ok() { "PASSED" } else { "FAILED" })
    }
}
