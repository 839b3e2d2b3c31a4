//! The details of those cells that have any, readable without locks.
//!
//! ```text
//! index      cell ──▶ row                      only for cells whose slot says that they have one
//! row        cell u32 · 12 words               guarded by the slot's sequence
//! ```
//!
//! Rows are made once and never freed: a cell that once had rules of its own is likely to have them
//! again.

use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};

use crate::protocol::{Policy, Reader, Truncated};

use super::cell::Details;
use super::chunked::Chunked;
use super::hash::mix2;
use super::ring::NIL;
use super::shared_index::SharedIndex;

const WORDS: usize = 12;

/// Bytes of a row in a snapshot: its cell and its words.
pub(super) const ROW_BYTES: usize = 4 + WORDS * 8;

struct Row {
    cell: AtomicU32,
    words: [AtomicI64; WORDS],
}

impl Default for Row {
    fn default() -> Self {
        Self { cell: AtomicU32::new(NIL), words: [const { AtomicI64::new(0) }; WORDS] }
    }
}

/// See the module. One writer; every reader reads under the sequence of the cell.
pub(super) struct DetailTable {
    rows: Chunked<Row>,
    count: AtomicU32,
    index: SharedIndex,
    seed: u64,
}

impl DetailTable {
    pub fn new(seed: u64) -> Self {
        Self { rows: Chunked::new(), count: AtomicU32::new(0), index: SharedIndex::new(), seed }
    }

    /// How many rows there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// The row of a cell, if it has one.
    pub fn find(&self, cell: u32) -> Option<u32> {
        self.index.find(self.hash(cell), |row| self.cell_of(row) == Some(cell))
    }

    /// Whose row it is.
    pub fn cell_of(&self, row: u32) -> Option<u32> {
        // Relaxed: the row was published by the index after its cell was stored.
        Some(self.rows.get(row)?.cell.load(Ordering::Relaxed)).filter(|cell| *cell != NIL)
    }

    /// Makes the row of a cell that has none.
    pub fn make(&self, cell: u32) -> u32 {
        let row = self.count.load(Ordering::Relaxed);
        self.rows.make(row).cell.store(cell, Ordering::Relaxed);
        // Release: whoever sees the count sees the row.
        self.count.store(row + 1, Ordering::Release);
        self.index.insert(self.hash(cell), row);
        row
    }

    /// What a row says. Relaxed: the caller checks the cell's sequence around it, or is the writer.
    pub fn load(&self, row: u32) -> Details {
        let Some(row) = self.rows.get(row) else { return Details::default() };
        let words = row.words.each_ref().map(|word| word.load(Ordering::Relaxed));
        let [a, b, c, d, incoming, in_transit, feed, epoch, oversell_limit, buffer, point, bits] =
            words;
        let policy = Policy {
            oversell_limit,
            buffer,
            reorder_point: Some(point - 1).filter(|point| *point >= 0),
            owner_max: (bits as u64 >> 32) as u32,
            ..Policy::default()
        };
        Details {
            blocked: [a, b, c, d],
            incoming,
            in_transit,
            feed_sequence: feed as u64,
            epoch: epoch as u32,
            policy: policy.with_bits(bits as u32),
        }
    }

    /// Changes a row. The caller does so within the cell's sequence.
    pub fn store(&self, row: u32, details: &Details) {
        let row = self.rows.get(row).expect("a row is made before it is stored");
        let [a, b, c, d] = details.blocked;
        let policy = &details.policy;
        let words = [
            a,
            b,
            c,
            d,
            details.incoming,
            details.in_transit,
            details.feed_sequence as i64,
            i64::from(details.epoch),
            policy.oversell_limit,
            policy.buffer,
            policy.reorder_point.map_or(0, |point| point + 1),
            (u64::from(policy.owner_max) << 32 | u64::from(policy.bits())) as i64,
        ];
        for (place, word) in row.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
    }

    /// Appends a row as a snapshot has it.
    pub fn put(&self, row: u32, out: &mut Vec<u8>) {
        let row = self.rows.get(row).expect("counted rows are there");
        out.extend_from_slice(&row.cell.load(Ordering::Relaxed).to_le_bytes());
        for word in &row.words {
            out.extend_from_slice(&word.load(Ordering::Relaxed).to_le_bytes());
        }
    }

    /// Reads a row as a snapshot has it, into one made for its cell. `None`: the cell has one already.
    pub fn take(&self, reader: &mut Reader<'_>) -> Result<Option<(u32, Details)>, Truncated> {
        let cell = reader.u32()?;
        let mut words = [0; WORDS];
        for word in &mut words {
            *word = reader.i64()?;
        }
        if cell == NIL || self.find(cell).is_some() {
            return Ok(None);
        }
        let row = self.make(cell);
        let places = &self.rows.get(row).expect("it was just made").words;
        for (place, word) in places.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        Ok(Some((cell, self.load(row))))
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.rows.bytes() + self.index.bytes()
    }

    fn hash(&self, cell: u32) -> u64 {
        mix2(self.seed, u64::from(cell), 0)
    }
}
