//! What a check found, for people and for scripts.

use std::collections::BTreeMap;
use std::fmt;

use crate::history::{Operation, Verdict};

/// Violations that are kept whole; the rest are counted.
const VIOLATIONS_KEPT: usize = 100;

/// What may be broken.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Rule {
    /// Engine and model answer alike, and keep the same counters.
    Agreement,
    /// An id takes effect at most once.
    AtMostOnce,
    /// Units are neither made nor lost.
    Conservation,
    /// What was acknowledged is in the log, at the index that the answer names.
    Durability,
    /// The history or the log is what it says it is.
    Form,
    /// The log holds nothing that nobody sent.
    Invention,
    /// No order of the operations explains the answers.
    Linearizable,
    /// Never more is promised than is there.
    Oversell,
    /// The log says of each operation who asked for it, and that one did.
    Principal,
    /// Nodes tell of all that has happened, and of nothing else.
    Stream,
    /// Answers are what the log says at the index that they name.
    Truth,
    /// What the client calls not executed never takes effect.
    NotExecuted,
    /// Later operations see what earlier ones saw; nothing takes effect before it was asked for.
    RealTime,
    /// A stale read is no older than it says.
    StaleAge,
    /// The search was given up, which proves nothing.
    GaveUp,
}

/// A broken rule, with what is needed to understand it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// Which rule.
    pub rule: Rule,
    /// The log index that it is about, or 0.
    pub index: u64,
    /// Places in the history that it is about.
    pub operations: Vec<usize>,
    /// What was expected, and what there is.
    pub text: String,
}

/// What a check looked at and what it found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// What was looked at, by name: operations by outcome, entries, cells, states.
    pub counts: BTreeMap<String, u64>,
    /// The first broken rules, whole.
    pub violations: Vec<Violation>,
    /// How many broken rules there are in all.
    pub violations_count: u64,
}

impl Report {
    /// Nothing is broken.
    pub const fn is_ok(&self) -> bool {
        self.violations_count == 0
    }

    /// Some violation is of this rule.
    pub fn breaks(&self, rule: Rule) -> bool {
        self.violations.iter().any(|violation| violation.rule == rule)
    }

    /// A count, or 0.
    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, what: &str, count: u64) {
        match self.counts.get_mut(what) {
            Some(sum) => *sum += count,
            None => drop(self.counts.insert(what.to_owned(), count)),
        }
    }

    pub(crate) fn break_rule(
        &mut self,
        rule: Rule,
        index: u64,
        operations: &[usize],
        text: impl Into<String>,
    ) {
        self.violations_count += 1;
        if self.violations.len() < VIOLATIONS_KEPT {
            let operations = operations.to_vec();
            self.violations.push(Violation { rule, index, operations, text: text.into() });
        }
    }

    /// Counts the operations of a history by how they ended.
    pub(crate) fn count_history(&mut self, history: &[Operation]) {
        self.add("operations", history.len() as u64);
        let mut codes = BTreeMap::new();
        for operation in history {
            let kind = match (operation.request.is_write(), operation.request.is_stale()) {
                (true, _) => "writes",
                (false, true) => "stale reads",
                (false, false) => "reads",
            };
            let end = match &operation.verdict {
                Verdict::Answered(answer) => answer.code.name(),
                Verdict::NotExecuted => "not executed",
                Verdict::Unknown => "unknown",
            };
            *codes.entry((kind, end)).or_insert(0) += 1;
        }
        for ((kind, end), count) in codes {
            self.add(&format!("{kind}: {end}"), count);
        }
    }

    /// Takes in what another check found.
    pub fn merge(&mut self, other: Self) {
        for (what, count) in other.counts {
            self.add(&what, count);
        }
        self.violations_count += other.violations_count;
        let room = VIOLATIONS_KEPT.saturating_sub(self.violations.len());
        self.violations.extend(other.violations.into_iter().take(room));
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.rule)?;
        if self.index > 0 {
            write!(f, " at index {}", self.index)?;
        }
        write!(f, ": {}", self.text)?;
        for operation in &self.operations {
            write!(f, " [operation {operation}]")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.counts.keys().map(String::len).max().unwrap_or(0);
        for (what, count) in &self.counts {
            writeln!(f, "{what:width$}  {count:>10}")?;
        }
        for violation in &self.violations {
            writeln!(f, "{violation}")?;
        }
        match self.violations_count {
            0 => writeln!(f, "OK"),
            count => writeln!(f, "VIOLATION: {count}"),
        }
    }
}
