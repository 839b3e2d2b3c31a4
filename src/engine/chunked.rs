//! Tables that one writer appends to while any number of threads read, without locks.
//!
//! ```text
//! chunk 0: 4,096 items   1: 8,192   …   5: 131,072   then 262,144 each      made once, never moved
//! ```
//!
//! Doubling keeps small tables small; the limit bounds what a large one holds in vain, and the stall
//! of the operation that needs a new chunk.
//!
//! Items are made of atomics (or set once): a writer publishes a new item by filling it and then
//! storing the table's count with `Release`; a reader that saw the count with `Acquire` sees the item.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};

const FIRST_BITS: u32 = 12;
const LAST_BITS: u32 = 18;
const DOUBLING: usize = (LAST_BITS - FIRST_BITS) as usize;
/// As many as handles of 32 bits can name.
const LAST_CHUNKS: usize = 1 << (32 - LAST_BITS);

type Chunk<T> = OnceLock<Box<[T]>>;

/// An append-only array in chunks.
pub(super) struct Chunked<T> {
    doubling: [Chunk<T>; DOUBLING],
    /// The chunks of equal size, once there is one.
    last: OnceLock<Box<[Chunk<T>]>>,
}

impl<T: Default> Chunked<T> {
    pub fn new() -> Self {
        Self { doubling: [const { OnceLock::new() }; DOUBLING], last: OnceLock::new() }
    }

    /// The item, or `None` if its chunk was never made.
    #[inline]
    pub fn get(&self, index: u32) -> Option<&T> {
        let (chunk, offset) = place(index);
        let chunk = match chunk.checked_sub(DOUBLING) {
            None => &self.doubling[chunk],
            Some(chunk) => self.last.get()?.get(chunk)?,
        };
        chunk.get()?.get(offset)
    }

    /// The item, its chunk made if need be.
    ///
    /// # Panics
    /// The index is beyond 2³² − 4,097.
    pub fn make(&self, index: u32) -> &T {
        let (chunk, offset) = place(index);
        let all = || (0..LAST_CHUNKS).map(|_| OnceLock::new()).collect();
        let (chunk, bits) = match chunk.checked_sub(DOUBLING) {
            None => (&self.doubling[chunk], FIRST_BITS as usize + chunk),
            Some(chunk) => (&self.last.get_or_init(all)[chunk], LAST_BITS as usize),
        };
        &chunk.get_or_init(|| (0..1_usize << bits).map(|_| T::default()).collect())[offset]
    }

    /// Bytes of memory held, without what items point to.
    pub fn bytes(&self) -> u64 {
        let last = self.last.get().map_or(&[][..], |chunks| chunks);
        let items = self.doubling.iter().chain(last).filter_map(OnceLock::get);
        items.map(|chunk| size_of_val::<[T]>(chunk) as u64).sum::<u64>() + size_of_val(last) as u64
    }
}

/// Chunk and offset in it; chunks from [`DOUBLING`] on are of equal size.
#[inline]
fn place(index: u32) -> (usize, usize) {
    let shifted = u64::from(index) + (1 << FIRST_BITS);
    let bits = shifted.ilog2().min(LAST_BITS);
    match bits {
        LAST_BITS => {
            let chunk = (shifted >> LAST_BITS) as usize - 1;
            (DOUBLING + chunk, shifted as usize & ((1 << LAST_BITS) - 1))
        }
        bits => ((bits - FIRST_BITS) as usize, shifted as usize & ((1 << bits) - 1)),
    }
}

const PARTITIONS: usize = 64;
const SLOTS_MIN: u32 = 16;
/// The first piece, and four for each doubling up to 2²⁹ slots.
const PIECES: usize = 1 + 4 * 25;

/// A hash index that is only added to: slots are `hash's low half << 32 | handle + 1`, as in
/// [`Index`](super::index::Index).
///
/// Each partition grows by a quarter of a doubling in place, as a seqlock: `version` is odd while its
/// entries are laid out anew, and a reader that found nothing meanwhile looks again. So no memory is
/// held for readers of an older layout, and 5/8 to 3/4 of the slots are in use.
pub(super) struct SharedIndex {
    partitions: Box<[Partition]>,
}

struct Partition {
    version: AtomicU32,
    /// Slots in use by the present layout.
    slots: AtomicU32,
    count: AtomicU32,
    pieces: [OnceLock<Box<[AtomicU64]>>; PIECES],
}

impl SharedIndex {
    pub fn new() -> Self {
        Self { partitions: (0..PARTITIONS).map(|_| Partition::new()).collect() }
    }

    /// The handle under `hash` that `is_it` accepts.
    #[inline]
    pub fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let partition = &self.partitions[(hash >> 58) as usize];
        loop {
            // Acquire: the loads below come after it.
            let before = partition.version.load(Ordering::Acquire);
            let found = partition.find(hash as u32, &mut is_it);
            // What was found is right in any layout: entries are never removed.
            if found.is_some() {
                return found;
            }
            // Acquire fence: the loads above come before the load below; it pairs with the
            // writer's Release fence.
            fence(Ordering::Acquire);
            if before & 1 == 0 && partition.version.load(Ordering::Relaxed) == before {
                return None;
            }
            std::hint::spin_loop();
        }
    }

    /// Adds an entry that is not there yet. Only the writer calls this.
    pub fn insert(&self, hash: u64, handle: u32) {
        let partition = &self.partitions[(hash >> 58) as usize];
        let count = partition.count.load(Ordering::Relaxed) + 1;
        partition.count.store(count, Ordering::Relaxed);
        if u64::from(count) * 4 > u64::from(partition.slots.load(Ordering::Relaxed)) * 3 {
            partition.grow();
        }
        partition.put(hash << 32 | u64::from(handle + 1));
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        let pieces = self.partitions.iter().flat_map(|p| p.pieces.iter().filter_map(OnceLock::get));
        let slots: u64 = pieces.map(|piece| size_of_val::<[AtomicU64]>(piece) as u64).sum();
        slots + size_of_val::<[Partition]>(&self.partitions) as u64
    }
}

impl Partition {
    fn new() -> Self {
        let new = Self {
            version: AtomicU32::new(0),
            slots: AtomicU32::new(SLOTS_MIN),
            count: AtomicU32::new(0),
            pieces: [const { OnceLock::new() }; PIECES],
        };
        new.make(0, SLOTS_MIN);
        new
    }

    fn make(&self, piece: usize, slots: u32) {
        self.pieces[piece].get_or_init(|| (0..slots).map(|_| AtomicU64::new(0)).collect());
    }

    /// The slot, or `None` if this thread does not see its piece yet.
    #[inline]
    fn slot(&self, at: u32) -> Option<&AtomicU64> {
        let (piece, offset) = piece_of(at);
        self.pieces[piece].get()?.get(offset)
    }

    #[inline]
    fn find(&self, low: u32, is_it: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        let slots = self.slots.load(Ordering::Relaxed);
        let mut at = home(low, slots);
        // While entries are being moved there may be no empty slot in sight.
        for _ in 0..slots {
            // Acquire: what the writer stored about the handle before it published the slot.
            let slot = self.slot(at)?.load(Ordering::Acquire);
            if slot == 0 {
                return None;
            }
            let handle = slot as u32 - 1;
            if (slot >> 32) as u32 == low && is_it(handle) {
                return Some(handle);
            }
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
        None
    }

    /// Stores an entry in the first empty slot from its home on; the caller has seen to it that
    /// there is one.
    fn put(&self, entry: u64) {
        let slots = self.slots.load(Ordering::Relaxed);
        let mut at = home((entry >> 32) as u32, slots);
        loop {
            let slot = self.slot(at).expect("the writer made all pieces of the layout");
            if slot.load(Ordering::Relaxed) == 0 {
                // Release: a reader that sees the slot sees what was stored about its handle.
                return slot.store(entry, Ordering::Release);
            }
            at = if at + 1 == slots { 0 } else { at + 1 };
        }
    }

    #[cold]
    fn grow(&self) {
        let slots = self.slots.load(Ordering::Relaxed);
        let (piece, offset) = piece_of(slots);
        assert!(offset == 0, "a layout ends where a piece does");
        let more = 1 << (slots.ilog2() - 2);
        self.make(piece, more);
        let old = (0..slots).filter_map(|at| self.slot(at));
        let entries: Vec<u64> = old
            .clone()
            .map(|slot| slot.load(Ordering::Relaxed))
            .filter(|slot| *slot != 0)
            .collect();
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        // Release fence: a reader that sees any store below sees the odd version.
        fence(Ordering::Release);
        old.for_each(|slot| slot.store(0, Ordering::Relaxed));
        self.slots.store(slots + more, Ordering::Relaxed);
        entries.into_iter().for_each(|entry| self.put(entry));
        // Release: a reader that sees the even version sees the whole layout.
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }
}

/// Where a search begins: the hash's low half, scaled to the slots.
#[inline]
fn home(low: u32, slots: u32) -> u32 {
    ((u64::from(low) * u64::from(slots)) >> 32) as u32
}

/// Pieces begin at 0, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, …
#[inline]
fn piece_of(at: u32) -> (usize, usize) {
    if at < SLOTS_MIN {
        return (0, at as usize);
    }
    let bits = at.ilog2();
    let quarter = at >> (bits - 2) & 3;
    let piece = 1 + 4 * (bits - SLOTS_MIN.ilog2()) + quarter;
    (piece as usize, (at & ((1 << (bits - 2)) - 1)) as usize)
}

#[cfg(test)]
mod tests {
    use super::super::hash::mix2;
    use super::*;

    #[test]
    fn items_fill_chunks_without_gaps() {
        let mut next = (0, 0);
        let size = |chunk: usize| 1 << (FIRST_BITS as usize + chunk.min(DOUBLING));
        for index in 0..2_000_000 {
            assert_eq!(place(index), next, "{index}");
            next = (next.0, next.1 + 1);
            if next.1 == size(next.0) {
                next = (next.0 + 1, 0);
            }
        }
        assert!(place(u32::MAX - (1 << FIRST_BITS)).0 < DOUBLING + LAST_CHUNKS);
        let items: Chunked<AtomicU32> = Chunked::new();
        assert!(items.get(300_000).is_none() && items.get(u32::MAX).is_none());
        items.make(300_000).store(7, Ordering::Relaxed);
        assert_eq!(items.get(300_000).map(|item| item.load(Ordering::Relaxed)), Some(7));
    }

    #[test]
    fn pieces_follow_each_other() {
        let mut before = (0, 0);
        for at in 1..100_000 {
            let (piece, offset) = piece_of(at);
            let follows = (piece, offset) == (before.0, before.1 + 1)
                || (piece == before.0 + 1 && offset == 0 && at % 4 == 0);
            assert!(follows, "{at}: {before:?} {piece} {offset}");
            before = (piece, offset);
        }
        assert!(piece_of(1 << 28).0 < PIECES);
    }

    /// Entries go on being added and laid out anew while readers look for those that are there.
    #[test]
    fn readers_find_every_entry_while_the_index_grows() {
        let index = SharedIndex::new();
        let published = AtomicU32::new(0);
        // All in one partition, and far more than it begins with.
        let hash = |handle: u32| mix2(3, u64::from(handle), 1) >> 6;
        const ENTRIES: u32 = if cfg!(miri) { 1_000 } else { 60_000 };
        std::thread::scope(|scope| {
            for reader in 0..2 {
                let (index, published) = (&index, &published);
                scope.spawn(move || {
                    let mut at = 0_u64;
                    loop {
                        let count = published.load(Ordering::Acquire);
                        if count > 0 {
                            let handle = (mix2(reader, at, 2) % u64::from(count)) as u32;
                            let found = index.find(hash(handle), |found| found == handle);
                            assert_eq!(found, Some(handle), "of {count}");
                        }
                        at += 1;
                        if count == ENTRIES {
                            return;
                        }
                    }
                });
            }
            for handle in 0..ENTRIES {
                index.insert(hash(handle), handle);
                published.store(handle + 1, Ordering::Release);
            }
        });
        let slots = index.partitions[0].slots.load(Ordering::Relaxed);
        assert!((ENTRIES * 4 / 3..=ENTRIES * 8 / 5).contains(&slots), "{slots} slots");
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
