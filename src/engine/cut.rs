//! Copy-on-write by pages: a consistent picture of a table while the table goes on changing.
//!
//! ```text
//! page      0 1 2 3 4 5 6 7        pages at the time of the cut
//!           └───┘ └───────┘
//!           taken  still to take: the first change to one of these saves its old bytes
//! ```
//!
//! A page costs memory only between its first change and the moment it is taken.

use std::collections::BTreeMap;

/// Entries per page. 1,024 records are 64 KiB: copying one stalls apply by some 10 µs.
pub(super) const PAGE: usize = 1 << PAGE_BITS;
pub(super) const PAGE_BITS: u32 = 10;

/// See the module. Counts entries of a table; the table encodes its own pages.
#[derive(Default)]
pub(super) struct PageCut {
    entries: u32,
    next: u32,
    saved: BTreeMap<u32, Vec<u8>>,
}

impl PageCut {
    /// Cuts a table that has so many entries.
    pub fn new(entries: u32) -> Self {
        Self { entries, next: 0, saved: BTreeMap::new() }
    }

    /// To be called before `entry` changes; `encode` gives the bytes of a range of entries.
    #[cold]
    pub fn before_change(
        &mut self,
        entry: u32,
        encode: impl FnOnce(std::ops::Range<u32>) -> Vec<u8>,
    ) {
        let page = entry >> PAGE_BITS;
        if entry < self.entries && page >= self.next && !self.saved.contains_key(&page) {
            let range = self.range(page);
            self.saved.insert(page, encode(range));
        }
    }

    /// The next page's entry count and bytes as they were at the cut, or `None` after the last.
    pub fn take(
        &mut self,
        encode: impl FnOnce(std::ops::Range<u32>) -> Vec<u8>,
    ) -> Option<(u32, Vec<u8>)> {
        let page = self.next;
        let range = self.range(page);
        if range.is_empty() {
            return None;
        }
        self.next += 1;
        let count = range.len() as u32;
        Some((count, self.saved.remove(&page).unwrap_or_else(|| encode(range))))
    }

    fn range(&self, page: u32) -> std::ops::Range<u32> {
        let start = u64::from(page) << PAGE_BITS;
        let end = (start + PAGE as u64).min(u64::from(self.entries));
        start.min(end) as u32..end as u32
    }
}
