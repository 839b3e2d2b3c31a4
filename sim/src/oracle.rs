//! What must hold at every moment, on every node: told of every state of every engine.
//!
//! The first node that applies an index says what is there; from then on every other node, and the
//! same one after a crash, must find the same bytes and the same digest. So a committed entry that
//! is lost or replaced, and a state that diverges, are seen at the first entry that shows it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use stockd::engine::StockState;
use stockd::protocol::CellHandle;
use stockd::replication::Observer;
use stockd_check::Entry;

use crate::node::Handle;

/// Digests and audits are made at every such index.
const DIGEST_EVERY: u64 = 8;

/// Everything seen so far.
#[derive(Clone)]
pub struct Oracle {
    /// Cells in which nobody can sell more than there is.
    plain: Arc<[(String, String)]>,
    seen: Arc<Mutex<Seen>>,
}

/// See [`Oracle`].
#[derive(Default)]
pub struct Seen {
    /// What each index holds, and the digest of the state after it.
    entries: BTreeMap<u64, (Option<Bytes>, Option<u64>)>,
    /// What was broken.
    pub violations: Vec<String>,
    /// Entries applied, on all nodes.
    pub applied: u64,
    /// States taken from a node's own snapshot when it started.
    pub restored: u64,
    /// States taken from a snapshot that a leader sent.
    pub installed: u64,
}

impl Oracle {
    /// Nothing seen yet. `plain` are the warehouses and SKUs of cells in which nobody can sell more than
    /// there is, whatever is written.
    pub fn new(plain: Vec<(String, String)>) -> Self {
        Self { plain: plain.into(), seen: Arc::default() }
    }

    /// What was seen.
    ///
    /// # Panics
    /// Never: nobody panics while looking.
    pub fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().expect("nobody panics while looking")
    }

    /// Notes that a rule is broken.
    pub fn violation(&self, what: String) {
        eprintln!("VIOLATION: {what}");
        self.seen().violations.push(what);
    }

    /// The committed log, as any node has applied it.
    pub fn log(&self) -> Vec<Entry> {
        let seen = self.seen();
        let entry = |(index, (batch, _)): (&u64, &(Option<Bytes>, Option<u64>))| {
            Some(Entry { index: *index, batch: batch.clone()? })
        };
        seen.entries.iter().filter_map(entry).collect()
    }

    /// An observer for a node's process.
    pub fn observer(&self, node: u64, process: Handle) -> Arc<dyn Observer> {
        Arc::new(Watch { oracle: self.clone(), node, process, next: Mutex::new(0) })
    }
}

struct Watch {
    oracle: Oracle,
    node: u64,
    process: Handle,
    /// The lowest index that it may apply next; Raft's indices begin at 0.
    next: Mutex<u64>,
}

impl Watch {
    /// Nobody applies an entry twice, or goes back to an older snapshot.
    fn moved_to(&self, index: u64, restored: bool) {
        let mut next = self.next.lock().expect("nobody panics while looking");
        if index + u64::from(restored) < *next {
            let node = self.node;
            self.oracle.violation(format!("node {node} is at index {next}, and goes to {index}"));
        }
        *next = index + 1;
    }

    fn compare(&self, index: u64, digest: u64) {
        let known = self.oracle.seen().entries.get(&index).and_then(|(_, digest)| *digest);
        match known {
            Some(known) if known != digest => self.oracle.violation(format!(
                "node {} has digest {digest:016x} at index {index}, another had {known:016x}",
                self.node
            )),
            _ => (),
        }
    }
}

impl Observer for Watch {
    fn applied(&self, index: u64, batch: Option<&[u8]>, stock: &StockState) {
        self.moved_to(index, false);
        // A digest walks everything; a state that diverges does not find back.
        let digest = index.is_multiple_of(DIGEST_EVERY).then(|| stock.digest());
        let batch = batch.map(Bytes::copy_from_slice);
        let mut seen = self.oracle.seen();
        seen.applied += 1;
        let known = seen.entries.get(&index).map(|(known, _)| *known == batch);
        let first = known.is_none();
        if first {
            seen.entries.insert(index, (batch, digest));
        }
        drop(seen);
        if known == Some(false) {
            let node = self.node;
            self.oracle.violation(format!("node {node} has another entry at index {index}"));
        }
        if let Some(digest) = digest {
            self.compare(index, digest);
        }
        if first {
            check_state(&self.oracle, index, stock);
        }
    }

    fn restored(&self, index: u64, stock: &StockState) {
        self.moved_to(index, true);
        let mut seen = self.oracle.seen();
        match self.process.is_started() {
            true => seen.installed += 1,
            false => seen.restored += 1,
        }
        drop(seen);
        if index.is_multiple_of(DIGEST_EVERY) {
            self.compare(index, stock.digest());
        }
        check_state(&self.oracle, index, stock);
    }
}

/// No oversell, no negative counter, and every invariant that the engine states of itself.
fn check_state(oracle: &Oracle, index: u64, stock: &StockState) {
    let cells = stock.cells();
    let names = oracle.plain.iter();
    let plain: Vec<_> = names
        .filter_map(|(warehouse, sku)| cells.handle(warehouse.as_bytes(), sku.as_bytes()))
        .collect();
    for cell in (0..cells.count()).map(CellHandle) {
        let Some(counters) = cells.counters(cell) else { continue };
        let available = counters.on_hand - counters.reserved - counters.committed;
        let oversold = available < 0 && plain.contains(&cell);
        if counters.reserved < 0 || counters.committed < 0 || oversold {
            oracle.violation(format!("{cell:?} is oversold at index {index}: {counters:?}"));
        }
    }
    if !index.is_multiple_of(DIGEST_EVERY) {
        return;
    }
    if let Err(rule) = stock.audit() {
        oracle.violation(format!("the state at index {index} breaks the rule: {rule}"));
    }
}
