//! The stream of events at the end of a run: on every node the same, true to the state, and to what was answered.
//!
//! Each node is read as a subscriber would: from its oldest event to its last. What one has and another has, too,
//! must be the same bytes; all of it added up must be what is in the cells; and who was told that a reservation was made or that
//! units came in finds the event of that log entry.

use std::collections::{BTreeMap, BTreeSet};

use stockd::events::ReadError;
use stockd::protocol::event::{Counts, EventKind, EventRecord, Ledger};
use stockd::replication::Replica;
use stockd_check::{Operation, Request};
use stockd_protocol::{Code, Reader};

/// Bytes of one read.
const CHUNK_BYTES: usize = 64 << 10;

/// What the nodes have told.
#[derive(Default)]
pub struct Stream {
    /// Each record by the number of its first event.
    records: BTreeMap<u64, Vec<u8>>,
    /// Log entry and id of what was made and what came in.
    made: BTreeSet<(u64, [u8; 16])>,
    /// The first log entry of which a node still has the events.
    since: Option<u64>,
    pub events: u64,
}

/// All that is applied on a node can be read.
pub fn is_readable(replica: &Replica) -> bool {
    let next = replica.with_state(|stock| stock.next_event());
    replica.events().is_some_and(|events| events.position().next == next)
}

impl Stream {
    /// Reads a node's events, and holds them against those of others and against its own state.
    ///
    /// # Errors
    /// What is wrong.
    pub fn read(&mut self, name: usize, replica: &Replica) -> Result<(), String> {
        let events = replica.events().expect("every node of a simulation keeps events");
        let mut ledger = Ledger::new();
        let (mut from, next) = (events.oldest(), replica.with_state(|stock| stock.next_event()));
        while from < next {
            let chunk = match events.read(from, CHUNK_BYTES) {
                Ok(chunk) => chunk,
                // A snapshot was installed: what is in the cells after it is not known from here.
                Err(ReadError::Gone { oldest }) if oldest > from => {
                    (from, ledger) = (oldest, Ledger::new());
                    continue;
                }
                Err(error) => return Err(format!("node {name}: event {from}: {error}")),
            };
            let mut reader = Reader::new(&chunk.bytes);
            while !reader.is_empty() {
                let record = EventRecord::take(&mut reader);
                let record = record.map_err(|error| format!("node {name}: {error}"))?;
                self.take(name, &record, &mut ledger)?;
            }
            from = chunk.next;
        }
        for (cell, counts) in ledger.known() {
            let now = replica.cells().details(cell).map(|details| Counts::from(&details));
            if now != Some(counts) {
                return Err(format!("node {name}: cell {}: events {counts:?}, it {now:?}", cell.0));
            }
        }
        Ok(())
    }

    fn take(
        &mut self,
        name: usize,
        record: &EventRecord<'_>,
        ledger: &mut Ledger,
    ) -> Result<(), String> {
        let header = record.header();
        let known = self.records.entry(header.first).or_insert_with(|| record.bytes().to_vec());
        if known != record.bytes() {
            return Err(format!("node {name}: event {} is another than elsewhere", header.first));
        }
        let since = self.since.get_or_insert(header.index);
        *since = header.index.min(*since);
        for event in record.events() {
            let event = event.map_err(|error| format!("node {name}: {error}"))?;
            ledger.take(&event).map_err(|fault| format!("node {name}: {fault}: {event}"))?;
            self.events += 1;
            if let (EventKind::Reserved | EventKind::Received, Some(id)) = (event.kind, event.id) {
                self.made.insert((event.index, id.0));
            }
        }
        Ok(())
    }

    /// Who was told that something is done finds its event.
    pub fn check(&self, operations: &[Operation]) -> Vec<String> {
        let since = self.since.unwrap_or(u64::MAX);
        let lacks = |operation: &&Operation| {
            let id = match &operation.request {
                Request::Reserve { id, .. } => id.0,
                Request::Receive { op_id, .. } => op_id.0,
                _ => return false,
            };
            let answer = operation.verdict.answer();
            let done = answer.filter(|answer| answer.code == Code::OK && answer.index >= since);
            done.is_some_and(|answer| !self.made.contains(&(answer.index, id)))
        };
        let lacking = operations.iter().filter(lacks).take(3);
        lacking.map(|operation| format!("no event tells of {operation:?}")).collect()
    }
}
