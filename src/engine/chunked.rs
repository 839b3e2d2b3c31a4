//! Tables that one writer appends to while any number of threads read, without locks.
//!
//! ```text
//! chunk 0: 4,096 items   chunk 1: 8,192   chunk 2: 16,384 …      allocated once, never moved
//! ```
//!
//! Items are made of atomics (or set once): a writer publishes a new item by filling it and then
//! storing the table's count with `Release`; a reader that saw the count with `Acquire` sees the item.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

const FIRST_BITS: u32 = 12;
/// 4,096 × (2²⁰ − 1) items: more than handles of 32 bits can name.
const CHUNKS: usize = 20;

/// An append-only array in chunks of doubling size.
pub(super) struct Chunked<T> {
    chunks: [OnceLock<Box<[T]>>; CHUNKS],
}

impl<T: Default> Chunked<T> {
    pub fn new() -> Self {
        Self { chunks: [const { OnceLock::new() }; CHUNKS] }
    }

    /// The item, or `None` if its chunk was never made.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let (chunk, offset) = place(index);
        self.chunks.get(chunk)?.get()?.get(offset)
    }

    /// The item, its chunk made if need be.
    pub fn make(&self, index: u32) -> &T {
        let (chunk, offset) = place(index);
        let make = || (0..1_usize << (FIRST_BITS as usize + chunk)).map(|_| T::default()).collect();
        &self.chunks[chunk].get_or_init(make)[offset]
    }

    /// Bytes of memory held, without what items point to.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().filter_map(OnceLock::get).map(|c| size_of_val::<[T]>(c) as u64).sum()
    }
}

#[inline]
fn place(index: u32) -> (usize, usize) {
    let shifted = u64::from(index) + (1 << FIRST_BITS);
    let chunk = shifted.ilog2() - FIRST_BITS;
    (chunk as usize, (shifted - (1 << (FIRST_BITS + chunk))) as usize)
}

const PARTITIONS: usize = 64;
const SLOTS_MIN: usize = 16;
const SIZES: usize = 26;

/// A hash index that is only added to: slots are `hash's low half << 32 | handle + 1`, as in
/// [`Index`](super::index::Index). A partition grows by publishing a table of twice the size; the
/// old one stays for those who still read it, which costs as much memory again at most.
pub(super) struct SharedIndex {
    partitions: Box<[Partition]>,
}

struct Partition {
    tables: [OnceLock<Box<[AtomicU64]>>; SIZES],
    size: AtomicU32,
    count: AtomicU32,
}

impl SharedIndex {
    pub fn new() -> Self {
        Self { partitions: (0..PARTITIONS).map(|_| Partition::new()).collect() }
    }

    /// The handle under `hash` that `is_it` accepts.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        // Acquire: what the writer stored before it published the table.
        let partition = &self.partitions[(hash >> 58) as usize];
        let table = partition.tables[partition.size.load(Ordering::Acquire) as usize].get()?;
        let mask = table.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            // Acquire: what the writer stored about the handle before it published the slot.
            let slot = table[at].load(Ordering::Acquire);
            if slot == 0 {
                return None;
            }
            let handle = slot as u32 - 1;
            if slot >> 32 == hash & 0xffff_ffff && is_it(handle) {
                return Some(handle);
            }
            at = (at + 1) & mask;
        }
    }

    /// Adds an entry that is not there yet. Only the writer calls this.
    pub fn insert(&self, hash: u64, handle: u32) {
        let partition = &self.partitions[(hash >> 58) as usize];
        let size = partition.size.load(Ordering::Relaxed) as usize;
        let count = partition.count.load(Ordering::Relaxed) + 1;
        partition.count.store(count, Ordering::Relaxed);
        let slot = hash << 32 | u64::from(handle + 1);
        let table = partition.table(size);
        if count as usize * 4 <= table.len() * 3 {
            return place_slot(table, slot);
        }
        let doubled = partition.table(size + 1);
        let slots = table.iter().map(|slot| slot.load(Ordering::Relaxed));
        slots.filter(|slot| *slot != 0).for_each(|slot| place_slot(doubled, slot));
        place_slot(doubled, slot);
        // Release: readers that see the size see the table filled.
        partition.size.store(size as u32 + 1, Ordering::Release);
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        let tables = self.partitions.iter().flat_map(|p| p.tables.iter().filter_map(OnceLock::get));
        tables.map(|table| table.len() as u64 * 8).sum()
    }
}

impl Partition {
    fn new() -> Self {
        Self {
            tables: [const { OnceLock::new() }; SIZES],
            size: AtomicU32::new(0),
            count: AtomicU32::new(0),
        }
    }

    fn table(&self, size: usize) -> &[AtomicU64] {
        self.tables[size]
            .get_or_init(|| (0..SLOTS_MIN << size).map(|_| AtomicU64::new(0)).collect())
    }
}

fn place_slot(table: &[AtomicU64], slot: u64) {
    let mask = table.len() - 1;
    let mut at = (slot >> 32) as usize & mask;
    while table[at].load(Ordering::Relaxed) != 0 {
        at = (at + 1) & mask;
    }
    // Release: a reader that sees the slot sees what was stored about its handle.
    table[at].store(slot, Ordering::Release);
}

#[cfg(test)]
mod tests {
    use super::super::hash::mix2;
    use super::*;

    #[test]
    fn items_fill_chunks_without_gaps() {
        assert_eq!(place(0), (0, 0));
        assert_eq!(place(4_095), (0, 4_095));
        assert_eq!(place(4_096), (1, 0));
        assert_eq!(place(12_287), (1, 8_191));
        assert_eq!(place(12_288), (2, 0));
        assert!(place(u32::MAX - 1).0 < CHUNKS + 1);
    }

    #[test]
    fn the_shared_index_finds_what_was_inserted() {
        let index = SharedIndex::new();
        for handle in 0..10_000_u32 {
            let hash = mix2(7, u64::from(handle), 0);
            assert_eq!(index.find(hash, |found| found == handle), None);
            index.insert(hash, handle);
            assert_eq!(index.find(hash, |found| found == handle), Some(handle));
        }
        for handle in 0..10_000_u32 {
            let hash = mix2(7, u64::from(handle), 0);
            assert_eq!(index.find(hash, |found| found == handle), Some(handle));
        }
    }
}
