//! Interned names: from a user's bytes to a small number and back, readable without locks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use super::chunked::{Chunked, SharedIndex};
use super::hash::hash_bytes;

/// A warehouse's number: the n-th warehouse named in the log, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WarehouseId(pub u32);

/// A SKU's number: the n-th SKU named in the log, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SkuId(pub u32);

/// An append-only set of names, numbered from 0.
pub(super) struct Names {
    names: Chunked<OnceLock<Box<[u8]>>>,
    index: SharedIndex,
    count: AtomicU32,
    seed: u64,
}

impl Names {
    /// An empty set. The seed is this process's own.
    pub fn new(seed: u64) -> Self {
        Self { names: Chunked::new(), index: SharedIndex::new(), count: AtomicU32::new(0), seed }
    }

    /// How many names there are.
    pub fn count(&self) -> u32 {
        self.count.load(Ordering::Acquire)
    }

    /// The number of a name, or `None` if it was never added.
    #[inline]
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        self.index.find(hash_bytes(self.seed, name), |number| self.name(number) == Some(name))
    }

    /// The name with this number.
    pub fn name(&self, number: u32) -> Option<&[u8]> {
        self.names.get(number)?.get().map(|name| &**name)
    }

    /// The number of a name, added if need be. Only the writer calls this.
    pub fn add(&self, name: &[u8]) -> u32 {
        if let Some(number) = self.find(name) {
            return number;
        }
        let number = self.count.load(Ordering::Relaxed);
        let fresh = self.names.make(number).set(name.into()).is_ok();
        assert!(fresh, "a name's number is used once");
        // Release: whoever sees the count sees the name.
        self.count.store(number + 1, Ordering::Release);
        self.index.insert(hash_bytes(self.seed, name), number);
        number
    }

    /// Bytes of memory held; the names themselves are counted as 32 bytes each.
    pub fn bytes(&self) -> u64 {
        self.names.bytes() + self.index.bytes() + u64::from(self.count()) * 32
    }
}
