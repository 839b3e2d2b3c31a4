//! A hash index that is only added to, by one writer, while any number of threads search it without
//! locks.
//!
//! Slots are `hash's low half << 32 | handle + 1`, as in [`Index`](super::index::Index). Each of 64
//! partitions grows by half of a doubling in place, under a seqlock: a search that found nothing
//! while entries were laid out anew is done again. So no memory is held for readers of an older layout.
//! Hashes fill all partitions alike, so each grows at a fill of its own, from 3/4 down to 17/32: one after
//! the other, and never all in the same moment, which would hold up everybody for milliseconds.
//!
//! `races/` includes this very file with loom's atomics.

use std::sync::OnceLock;

use super::atomic::{AtomicU32, AtomicU64, Ordering};
use super::seqlock::Sequence;

const PARTITIONS: usize = 64;
const SLOTS_MIN: u32 = 16;
/// Of 1,024 slots so many are in use when the first partition grows, and so many fewer when the last one does.
const FULL: u32 = 768;
const FULL_SPREAD: u32 = 224;
/// The first piece, and two for each doubling up to 2²⁹ slots.
pub(super) const PIECES: usize = 1 + 2 * 25;

/// See the module.
pub struct SharedIndex {
    partitions: Box<[Partition]>,
}

/// The entries whose hashes begin alike.
pub struct Partition {
    layout: Sequence,
    /// Slots in use by the present layout.
    slots: AtomicU32,
    count: AtomicU32,
    /// Of 1,024 slots, how many may be in use.
    full: u32,
    pieces: [OnceLock<Box<[AtomicU64]>>; PIECES],
}

impl SharedIndex {
    pub fn new() -> Self {
        let full = |number| FULL - FULL_SPREAD * number / PARTITIONS as u32;
        let partition = |number| Partition { full: full(number), ..Partition::default() };
        Self { partitions: (0..PARTITIONS as u32).map(partition).collect() }
    }

    /// The handle under `hash` that `is_it` accepts.
    #[inline]
    pub fn find(&self, hash: u64, is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        self.partition(hash).find(hash as u32, is_it)
    }

    /// Adds an entry that is not there yet. Only the writer calls this.
    pub fn insert(&self, hash: u64, handle: u32) {
        self.partition(hash).insert(hash as u32, handle);
    }

    /// The slot where a search for `hash` begins, if this thread sees it.
    #[inline]
    pub fn home(&self, hash: u64) -> Option<&AtomicU64> {
        let partition = self.partition(hash);
        let (piece, offset) = piece_of(home(hash as u32, partition.slots.load(Ordering::Relaxed)));
        partition.pieces[piece].get()?.get(offset)
    }

    fn partition(&self, hash: u64) -> &Partition {
        &self.partitions[(hash >> 58) as usize]
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        let pieces = self.partitions.iter().flat_map(|p| p.pieces.iter().filter_map(OnceLock::get));
        let slots: u64 = pieces.map(|piece| size_of_val::<[AtomicU64]>(piece) as u64).sum();
        slots + size_of_val::<[Partition]>(&self.partitions) as u64
    }
}

impl Default for Partition {
    fn default() -> Self {
        let new = Self {
            layout: Sequence::default(),
            slots: AtomicU32::new(SLOTS_MIN),
            count: AtomicU32::new(0),
            full: FULL,
            pieces: [const { OnceLock::new() }; PIECES],
        };
        new.make(0, SLOTS_MIN);
        new
    }
}

impl Partition {
    /// The handle under `low` that `is_it` accepts.
    #[inline]
    pub fn find(&self, low: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        // What was found is right in any layout: entries are never removed.
        self.layout.search(|| self.find_now(low, &mut is_it))
    }

    /// Adds an entry that is not there yet. Only the writer calls this.
    pub fn insert(&self, low: u32, handle: u32) {
        let count = self.count.load(Ordering::Relaxed) + 1;
        self.count.store(count, Ordering::Relaxed);
        let slots = self.slots.load(Ordering::Relaxed);
        if u64::from(count) * 1_024 > u64::from(slots) * u64::from(self.full) {
            self.grow();
        }
        self.put(u64::from(low) << 32 | u64::from(handle + 1));
    }

    fn make(&self, piece: usize, slots: u32) {
        self.pieces[piece].get_or_init(|| (0..slots).map(|_| AtomicU64::new(0)).collect());
    }

    #[inline]
    fn find_now(&self, low: u32, is_it: &mut impl FnMut(u32) -> bool) -> Option<u32> {
        // Acquire: the pieces of a layout were made before it was told.
        let slots = self.slots.load(Ordering::Acquire);
        let (mut piece, mut offset) = piece_of(home(low, slots));
        // While entries are being moved there may be no empty slot in sight.
        for _ in 0..=PIECES {
            for slot in self.pieces[piece].get()?.get(offset..)? {
                // Acquire: what the writer stored about the handle before it published the slot.
                let slot = slot.load(Ordering::Acquire);
                if slot == 0 {
                    return None;
                }
                let handle = slot as u32 - 1;
                if (slot >> 32) as u32 == low && is_it(handle) {
                    return Some(handle);
                }
            }
            (piece, offset) = (piece_after(piece, slots), 0);
        }
        None
    }

    /// Stores an entry in the first empty slot from its home on; the caller has seen to it that
    /// there is one.
    fn put(&self, entry: u64) {
        let slots = self.slots.load(Ordering::Relaxed);
        let (mut piece, mut offset) = piece_of(home((entry >> 32) as u32, slots));
        loop {
            let made = self.pieces[piece].get().expect("the writer made all pieces of the layout");
            let empty = made[offset..].iter().find(|slot| slot.load(Ordering::Relaxed) == 0);
            if let Some(slot) = empty {
                // Release: a reader that sees the slot sees what was stored about its handle.
                return slot.store(entry, Ordering::Release);
            }
            (piece, offset) = (piece_after(piece, slots), 0);
        }
    }

    #[cold]
    fn grow(&self) {
        let slots = self.slots.load(Ordering::Relaxed);
        let (piece, offset) = piece_of(slots);
        assert!(offset == 0, "a layout ends where a piece does");
        let more = 1 << (slots.ilog2() - 1);
        self.make(piece, more);
        let old = self.pieces[..piece].iter().filter_map(OnceLock::get).flatten();
        // They lie in the order of their homes, nearly, and so they will again: memory is walked, not jumped
        // about in.
        let mut entries = Vec::with_capacity(self.count.load(Ordering::Relaxed) as usize);
        let all = old.clone().map(|slot| slot.load(Ordering::Relaxed));
        entries.extend(all.filter(|slot| *slot != 0));
        self.layout.write(|| {
            old.for_each(|slot| slot.store(0, Ordering::Relaxed));
            self.slots.store(slots + more, Ordering::Release);
            entries.into_iter().for_each(|entry| self.put(entry));
        });
    }
}

/// Where a search begins: the hash's low half, scaled to the slots.
#[inline]
fn home(low: u32, slots: u32) -> u32 {
    ((u64::from(low) * u64::from(slots)) >> 32) as u32
}

/// The piece that a search goes on in after `piece`.
#[inline]
fn piece_after(piece: usize, slots: u32) -> usize {
    if piece + 1 == piece_of(slots).0 { 0 } else { piece + 1 }
}

/// Pieces begin at 0, 16, 24, 32, 48, 64, 96, …
#[inline]
pub(super) fn piece_of(at: u32) -> (usize, usize) {
    if at < SLOTS_MIN {
        return (0, at as usize);
    }
    let bits = at.ilog2();
    let half = at >> (bits - 1) & 1;
    let piece = 1 + 2 * (bits - SLOTS_MIN.ilog2()) + half;
    (piece as usize, (at & ((1 << (bits - 1)) - 1)) as usize)
}
