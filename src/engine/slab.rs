//! A slab: fixed-size entries under 32-bit handles.
//!
//! ```text
//! entries   0 1 2 3 4 5 6 7 …  len        in boxes of 1,024, so that growth copies nothing
//!           a a . a . a a a
//!               └───┴── free chain, last freed first
//! ```
//!
//! Which handle an entry gets is a function of the log: the last one freed, else the next new one.
//! A snapshot therefore dumps the slab as it stands, free chain and all, and every replica hands out
//! the same handles for ever.
//!
//! Every change goes through [`Slab::get_mut`], which is where a running snapshot saves a page before
//! its first change, and where a journal notes an entry before it changes.

use super::cut::{PAGE, PAGE_BITS, PageCut};
use super::hash::Digest;
use super::prefetch::prefetch;
use super::ring::NIL;

/// What a slab holds.
pub(super) trait Entry: Copy + 'static {
    /// Bytes in a snapshot.
    const BYTES: usize;

    /// A free entry, whose link to the next free one is `next`.
    fn free(next: u32) -> Self;

    /// The link of a free entry; `None` if the entry is in use.
    fn free_next(&self) -> Option<u32>;

    /// Appends exactly [`Entry::BYTES`] bytes.
    fn put(&self, out: &mut Vec<u8>);

    /// Reads exactly [`Entry::BYTES`] bytes; any bytes give some entry.
    fn take(bytes: &[u8]) -> Self;
}

/// Handles have 31 bits: a line reference needs the 32nd.
const LEN_MAX: u32 = (1 << 31) - 1;

/// See the module.
pub(super) struct Slab<T> {
    pages: Vec<Box<[T]>>,
    len: u32,
    free_head: u32,
    free_count: u32,
    watch: Option<Box<Watch<T>>>,
}

/// What wants to know of changes before they are made.
struct Watch<T> {
    cut: Option<PageCut>,
    journal: Option<Journal<T>>,
}

/// What it takes to undo the changes since some moment.
struct Journal<T> {
    len: u32,
    free_head: u32,
    free_count: u32,
    /// Entries before each change, in order.
    before: Vec<(u32, T)>,
}

impl<T: Entry> Slab<T> {
    /// An empty slab.
    pub fn new() -> Self {
        Self { pages: Vec::new(), len: 0, free_head: NIL, free_count: 0, watch: None }
    }

    /// Entries ever made, free ones included: handles are below this.
    pub fn len(&self) -> u32 {
        self.len
    }

    /// Entries in use.
    pub fn in_use(&self) -> u32 {
        self.len - self.free_count
    }

    /// Head and length of the free chain.
    pub fn free_chain(&self) -> (u32, u32) {
        (self.free_head, self.free_count)
    }

    /// The entry at `handle`.
    #[inline(always)]
    pub fn get(&self, handle: u32) -> &T {
        &self.pages[handle as usize >> PAGE_BITS][handle as usize & (PAGE - 1)]
    }

    /// The entry at a handle that came from outside; `None` if it is out of range.
    pub fn try_get(&self, handle: u32) -> Option<&T> {
        (handle < self.len).then(|| self.get(handle))
    }

    /// The entry at `handle`, about to change.
    #[inline(always)]
    pub fn get_mut(&mut self, handle: u32) -> &mut T {
        if let Some(watch) = &mut self.watch {
            watch.before_change(handle, &self.pages);
        }
        &mut self.pages[handle as usize >> PAGE_BITS][handle as usize & (PAGE - 1)]
    }

    /// Starts fetching an entry; `handle` may be stale or out of range.
    #[inline]
    pub fn prefetch(&self, handle: u32) {
        if let Some(page) = self.pages.get(handle as usize >> PAGE_BITS) {
            prefetch(&page[handle as usize & (PAGE - 1)]);
        }
    }

    /// Stores a new entry and returns its handle.
    ///
    /// # Panics
    /// The slab has 2³¹ − 1 entries: admission must refuse long before.
    #[inline]
    pub fn insert(&mut self, entry: T) -> u32 {
        let handle = self.free_head;
        if handle == NIL {
            return self.push(entry);
        }
        let slot = self.get_mut(handle);
        let next = slot.free_next().expect("the free chain holds free entries");
        *slot = entry;
        self.free_head = next;
        self.free_count -= 1;
        // The next insert reads where the chain goes on.
        self.prefetch(next);
        handle
    }

    /// Frees an entry.
    #[inline]
    pub fn remove(&mut self, handle: u32) {
        let next = self.free_head;
        let slot = self.get_mut(handle);
        debug_assert!(slot.free_next().is_none(), "an entry is freed once");
        *slot = T::free(next);
        self.free_head = handle;
        self.free_count += 1;
    }

    /// All entries with their handles, free ones included.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        (0..self.len).map(|handle| (handle, self.get(handle)))
    }

    /// Appends one entry, used or free, as a snapshot brings it.
    pub fn push(&mut self, entry: T) -> u32 {
        assert!(self.len < LEN_MAX, "a slab has less than 2^31 entries");
        let handle = self.len;
        if handle as usize >> PAGE_BITS == self.pages.len() {
            self.pages.push(vec![T::free(NIL); PAGE].into_boxed_slice());
        }
        self.len += 1;
        self.pages[handle as usize >> PAGE_BITS][handle as usize & (PAGE - 1)] = entry;
        handle
    }

    /// Takes over the free chain of a snapshot. `false`: the chain is broken or of another length.
    pub fn set_free_chain(&mut self, head: u32, count: u32) -> bool {
        let marked = self.iter().filter(|(_, entry)| entry.free_next().is_some()).count();
        let mut at = head;
        for _ in 0..count {
            if at >= self.len {
                return false;
            }
            match self.get(at).free_next() {
                Some(next) => at = next,
                None => return false,
            }
        }
        (self.free_head, self.free_count) = (head, count);
        at == NIL && marked == count as usize
    }

    /// Begins a cut: [`Slab::take_page`] then gives the entries as they are now.
    pub fn begin_cut(&mut self) {
        self.watch().cut = Some(PageCut::new(self.len));
    }

    /// Forgets the cut.
    pub fn end_cut(&mut self) {
        self.watch().cut = None;
        self.watch = None;
    }

    /// The next page of the cut: entry count and bytes.
    pub fn take_page(&mut self) -> Option<(u32, Vec<u8>)> {
        self.watch.as_mut()?.cut.as_mut()?.take(|range| encode(&self.pages, range))
    }

    /// Notes changes from now on, so that they can be undone.
    pub fn begin_journal(&mut self) {
        let Self { len, free_head, free_count, .. } = *self;
        let journal = Journal { len, free_head, free_count, before: Vec::new() };
        self.watch().journal = Some(journal);
    }

    /// Ends the journal: undoes what it has noted, or keeps it.
    pub fn end_journal(&mut self, undo: bool) {
        let Some(watch) = &mut self.watch else { return };
        let journal = watch.journal.take();
        if watch.cut.is_none() {
            self.watch = None;
        }
        let Some(journal) = journal.filter(|_| undo) else { return };
        for (handle, entry) in journal.before.into_iter().rev() {
            self.pages[handle as usize >> PAGE_BITS][handle as usize & (PAGE - 1)] = entry;
        }
        (self.len, self.free_head, self.free_count) =
            (journal.len, journal.free_head, journal.free_count);
    }

    fn watch(&mut self) -> &mut Watch<T> {
        self.watch.get_or_insert_with(|| Box::new(Watch { cut: None, journal: None }))
    }

    /// Mixes everything in.
    pub fn digest(&self, digest: &mut Digest) {
        let mut bytes = Vec::new();
        for handle in 0..self.len {
            bytes.clear();
            self.get(handle).put(&mut bytes);
            digest.bytes(&bytes);
        }
        digest.word(u64::from(self.free_head) << 32 | u64::from(self.free_count));
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        (self.pages.len() * PAGE * size_of::<T>()) as u64
    }
}

impl<T: Entry> Watch<T> {
    #[cold]
    fn before_change(&mut self, handle: u32, pages: &[Box<[T]>]) {
        if let Some(cut) = &mut self.cut {
            cut.before_change(handle, |range| encode(pages, range));
        }
        if let Some(journal) = &mut self.journal {
            let entry = pages[handle as usize >> PAGE_BITS][handle as usize & (PAGE - 1)];
            journal.before.push((handle, entry));
        }
    }
}

fn encode<T: Entry>(pages: &[Box<[T]>], range: std::ops::Range<u32>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(range.len() * T::BYTES);
    for handle in range {
        pages[handle as usize >> PAGE_BITS][handle as usize & (PAGE - 1)].put(&mut bytes);
    }
    bytes
}
