//! Applying a log again: the state after what is known to be committed, and the events that it makes on the way.

use std::collections::VecDeque;

use crate::engine::StockState;
use crate::events::Position;
use crate::log::Records;
use crate::protocol::ShardId;
use crate::protocol::event::seal;
use crate::replication::{Checkpoint, batch_of};

/// Entries are applied one by one, when an event of theirs is asked for.
///
/// ```text
///   checkpoint ─▶ entry ─▶ entry ─▶ … ─▶ the last one that is known to be committed │ the tail: nobody knows
///                   └ events ┘
/// ```
pub struct Replay {
    log: Records,
    stock: StockState,
    /// The last entry that was applied, or the last one in the checkpoint.
    applied: u64,
    /// Entries behind this one may never have been committed.
    end: u64,
    events: VecDeque<Vec<u8>>,
}

impl Replay {
    /// From a checkpoint, or from nothing at all.
    ///
    /// # Errors
    /// The log is not the one that the checkpoint was made of, as far as it goes: what is wrong.
    pub fn new(from: Checkpoint, log: Records, shard: ShardId) -> Result<Self, String> {
        let end = log.committed().max(from.index);
        Self::until(from, log, shard, end)
    }

    /// As [`Replay::new`], up to an entry of which somebody else knows that it is committed.
    ///
    /// # Errors
    /// As [`Replay::new`].
    pub fn until(from: Checkpoint, log: Records, shard: ShardId, end: u64) -> Result<Self, String> {
        let Checkpoint { index, term, mut stock, .. } = from;
        if let Some(record) = log.all().get(&index).filter(|record| record.term != term) {
            return Err(format!(
                "entry {index} is of term {}; the snapshot that ends with it is of term {term}",
                record.term
            ));
        }
        let mut expected = index + 1;
        for found in log.all().range(index + 1..).map(|(found, _)| *found) {
            if found != expected || found > end {
                break;
            }
            expected += 1;
        }
        if expected <= end {
            return Err(format!(
                "entry {expected} is missing, which comes after the snapshot and is committed"
            ));
        }
        stock.keep_events(shard);
        Ok(Self { log, stock, applied: index, end, events: VecDeque::new() })
    }

    /// The state as it is now.
    pub fn stock(&self) -> &StockState {
        &self.stock
    }

    /// The state, to keep.
    pub fn into_stock(self) -> StockState {
        self.stock
    }

    /// The last entry that is known to be committed.
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The last entry that was applied.
    pub fn applied(&self) -> u64 {
        self.applied
    }

    /// Applies the next entry; `false`: this was all that is known to be committed.
    ///
    /// # Panics
    /// The entry is no batch, which a whole log's checksums rule out.
    pub fn apply_next(&mut self) -> bool {
        let index = self.applied + 1;
        if index > self.end {
            return false;
        }
        let record = self.log.all().get(&index).expect("all entries are there, as was seen");
        if let Some(batch) = batch_of(record.kind, record.payload.clone()) {
            self.stock.apply(index, &batch, None);
            self.events.extend(self.stock.take_events().into_iter().map(|mut record| {
                seal(&mut record);
                record
            }));
        }
        self.applied = index;
        true
    }

    /// The next record of events that the log makes, with its checksum; applies what it takes to know. It is not
    /// taken. `None`: there are no more.
    pub fn peek(&mut self) -> Option<&[u8]> {
        while self.events.is_empty() && self.apply_next() {}
        self.events.front().map(Vec::as_slice)
    }

    /// Takes the record that was looked at.
    pub fn take(&mut self) -> Option<Vec<u8>> {
        self.events.pop_front()
    }

    /// Applies all there is, and gives how many events that makes which nobody has taken.
    pub fn finish(&mut self, known: Position) -> u64 {
        while self.apply_next() {
            self.events.clear();
        }
        self.stock.next_event().saturating_sub(known.next)
    }
}

/// Where a directory begins that has no snapshot: with nothing.
pub fn empty(engine: crate::engine::EngineConfig) -> Checkpoint {
    let stock = StockState::new(engine);
    Checkpoint { file: String::new(), index: 0, term: 0, events: Position::START, stock }
}
