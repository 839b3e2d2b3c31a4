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
    #[inline(always)]
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
#[inline(always)]
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn items_fill_chunks_without_gaps() {
        let mut next = (0, 0);
        let size = |chunk: usize| 1 << (FIRST_BITS as usize + chunk.min(DOUBLING));
        // Past the chunks that double, or what miri gets through.
        for index in 0..if cfg!(miri) { 20_000 } else { 2_000_000 } {
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
}
