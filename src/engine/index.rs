//! A hash index: from a 64-bit hash to a 32-bit handle, growing without long stalls.
//!
//! ```text
//! hash   63 ....... 56 | 55 ... 32 | 31 .............. 0
//!        partition                   kept in the slot; its low bits are the home position
//! slot   hash's low half << 32 | handle + 1        0: empty
//! ```
//!
//! Open addressing with linear probing and backward-shift deletion: no tombstones, and neither
//! removal nor growth reads the things indexed. Each of the 256 partitions doubles on its own, so
//! that no operation ever rehashes more than 1/256 of the index.
//!
//! Invariants:
//! - Between an entry's home position and its slot there is no empty slot.
//! - Nothing walks the index: its order depends on the seed and may differ between nodes.

use super::prefetch::prefetch;

const PARTITIONS: usize = 256;
const SLOTS_MIN: usize = 16;

/// See the module.
pub(super) struct Index {
    partitions: Vec<Partition>,
    /// Changes in order, if somebody may want to undo them.
    journal: Option<Vec<Change>>,
}

enum Change {
    Inserted(u64, u32),
    Removed(u64, u32),
}

struct Partition {
    slots: Box<[u64]>,
    count: usize,
}

impl Index {
    /// An empty index.
    pub fn new() -> Self {
        let empty = || Partition { slots: vec![0; SLOTS_MIN].into_boxed_slice(), count: 0 };
        Self { partitions: (0..PARTITIONS).map(|_| empty()).collect(), journal: None }
    }

    /// Starts fetching the slot where a search for `hash` begins.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        let partition = &self.partitions[partition_of(hash)];
        prefetch(&partition.slots[partition.home(hash as u32)]);
    }

    /// The first handle under `hash` that `is_it` accepts.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let partition = &self.partitions[partition_of(hash)];
        let low = hash as u32;
        let mask = partition.slots.len() - 1;
        let mut at = partition.home(low);
        loop {
            let slot = partition.slots[at];
            if slot == 0 {
                return None;
            }
            if (slot >> 32) as u32 == low && is_it(handle_of(slot)) {
                return Some(handle_of(slot));
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds an entry. The caller has made sure that it is not there.
    #[inline]
    pub fn insert(&mut self, hash: u64, handle: u32) {
        if let Some(journal) = &mut self.journal {
            journal.push(Change::Inserted(hash, handle));
        }
        let partition = &mut self.partitions[partition_of(hash)];
        // Past 3/4 full, probes for absent ids grow quickly.
        if (partition.count + 1) * 4 > partition.slots.len() * 3 {
            partition.grow();
        }
        partition.count += 1;
        partition.place(slot_of(hash, handle));
    }

    /// Removes an entry.
    ///
    /// # Panics
    /// It is not there.
    #[inline]
    pub fn remove(&mut self, hash: u64, handle: u32) {
        if let Some(journal) = &mut self.journal {
            journal.push(Change::Removed(hash, handle));
        }
        let partition = &mut self.partitions[partition_of(hash)];
        let mask = partition.slots.len() - 1;
        let wanted = slot_of(hash, handle);
        let mut hole = partition.home(hash as u32);
        while partition.slots[hole] != wanted {
            assert!(partition.slots[hole] != 0, "an entry to remove is in the index");
            hole = (hole + 1) & mask;
        }
        partition.count -= 1;
        let mut at = hole;
        loop {
            at = (at + 1) & mask;
            let slot = partition.slots[at];
            if slot == 0 {
                break;
            }
            // An entry may fill the hole unless its home lies after the hole, cyclically.
            let home = partition.home((slot >> 32) as u32);
            if at.wrapping_sub(home) & mask >= at.wrapping_sub(hole) & mask {
                partition.slots[hole] = slot;
                hole = at;
            }
        }
        partition.slots[hole] = 0;
    }

    /// Notes changes from now on, so that they can be undone.
    pub fn begin_journal(&mut self) {
        self.journal = Some(Vec::new());
    }

    /// Ends the journal: undoes what it has noted, or keeps it.
    pub fn end_journal(&mut self, undo: bool) {
        let journal = self.journal.take().filter(|_| undo).unwrap_or_default();
        for change in journal.into_iter().rev() {
            match change {
                Change::Inserted(hash, handle) => self.remove(hash, handle),
                Change::Removed(hash, handle) => self.insert(hash, handle),
            }
        }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.partitions.iter().map(|p| p.slots.len() as u64 * 8).sum()
    }
}

impl Partition {
    #[inline]
    fn home(&self, low: u32) -> usize {
        low as usize & (self.slots.len() - 1)
    }

    fn place(&mut self, slot: u64) {
        let mask = self.slots.len() - 1;
        let mut at = self.home((slot >> 32) as u32);
        while self.slots[at] != 0 {
            at = (at + 1) & mask;
        }
        self.slots[at] = slot;
    }

    #[cold]
    fn grow(&mut self) {
        let doubled = vec![0; self.slots.len() * 2].into_boxed_slice();
        let old = std::mem::replace(&mut self.slots, doubled);
        old.iter().filter(|slot| **slot != 0).for_each(|slot| self.place(*slot));
    }
}

#[inline]
fn partition_of(hash: u64) -> usize {
    (hash >> 56) as usize
}

#[inline]
fn slot_of(hash: u64, handle: u32) -> u64 {
    hash << 32 | u64::from(handle + 1)
}

#[inline]
fn handle_of(slot: u64) -> u32 {
    slot as u32 - 1
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::hash::mix2;
    use super::*;

    /// Few distinct low halves force long probe runs and wrap-around.
    #[test]
    fn agrees_with_a_map_under_collisions() {
        for spread in [3, 40, u64::MAX] {
            let mut index = Index::new();
            let mut model = BTreeMap::new();
            for step in 0..if cfg!(miri) { 600 } else { 20_000 } {
                let key = (mix2(1, step, spread) % 500) as u32;
                let hash = mix2(2, u64::from(key), 0) % spread;
                let found = index.find(hash, |handle| handle == key);
                assert_eq!(found, model.get(&key).map(|_| key), "spread {spread} step {step}");
                match model.remove(&key) {
                    Some(hash) => index.remove(hash, key),
                    None => {
                        index.insert(hash, key);
                        model.insert(key, hash);
                    }
                }
            }
        }
    }
}
