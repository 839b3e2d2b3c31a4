//! Interned names: from a user's bytes to a small number and back, readable without locks.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::chunked::Chunked;
use super::hash::hash_bytes;
use super::prefetch::prefetch;
use super::shared_index::SharedIndex;

/// A warehouse's number: the n-th warehouse named in the log, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct WarehouseId(pub u32);

/// A SKU's number: the n-th SKU named in the log, from 0.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct SkuId(pub u32);

/// Most names are short: these lie in the table itself, which saves an allocation and a cache miss.
const SHORT_BYTES_MAX: usize = 22;

enum Name {
    Long(Box<[u8]>),
    Short(u8, [u8; SHORT_BYTES_MAX]),
}

const _: () = assert!(size_of::<OnceLock<Name>>() == 32);

impl Name {
    fn new(name: &[u8]) -> Self {
        let mut short = [0; SHORT_BYTES_MAX];
        match short.get_mut(..name.len()) {
            Some(bytes) => {
                bytes.copy_from_slice(name);
                Self::Short(name.len() as u8, short)
            }
            None => Self::Long(name.into()),
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        match self {
            Self::Long(name) => name,
            Self::Short(len, name) => &name[..usize::from(*len)],
        }
    }
}

/// An append-only set of names, numbered from 0.
pub(super) struct Names {
    names: Chunked<OnceLock<Name>>,
    /// Bytes of the long ones.
    long_bytes: AtomicU64,
    index: SharedIndex,
    count: AtomicU32,
    seed: u64,
}

impl Names {
    /// An empty set. The seed is this process's own.
    pub fn new(seed: u64) -> Self {
        Self {
            names: Chunked::new(),
            long_bytes: AtomicU64::new(0),
            index: SharedIndex::new(),
            count: AtomicU32::new(0),
            seed,
        }
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

    /// Starts fetching the place where a search for the name begins.
    #[inline]
    pub fn prefetch(&self, name: &[u8]) {
        if let Some(slot) = self.index.home(hash_bytes(self.seed, name)) {
            prefetch(slot);
        }
    }

    /// The name with this number.
    pub fn name(&self, number: u32) -> Option<&[u8]> {
        self.names.get(number)?.get().map(Name::bytes)
    }

    /// The number of a name, added if need be. Only the writer calls this.
    pub fn add(&self, name: &[u8]) -> u32 {
        self.find(name).unwrap_or_else(|| self.push(name))
    }

    /// The number of a name that is not there yet. Only the writer calls this.
    pub fn push(&self, name: &[u8]) -> u32 {
        let number = self.count.load(Ordering::Relaxed);
        let fresh = self.names.make(number).set(Name::new(name)).is_ok();
        assert!(fresh, "a name's number is used once");
        if name.len() > SHORT_BYTES_MAX {
            // Relaxed: a gauge.
            self.long_bytes.fetch_add(name.len() as u64, Ordering::Relaxed);
        }
        // Release: whoever sees the count sees the name.
        self.count.store(number + 1, Ordering::Release);
        self.index.insert(hash_bytes(self.seed, name), number);
        number
    }

    /// Bytes of memory held, without what the allocator adds to long names.
    pub fn bytes(&self) -> u64 {
        self.names.bytes() + self.index.bytes() + self.long_bytes.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_length_come_back() {
        let names = Names::new(5);
        let all: Vec<Vec<u8>> = (1..=64).map(|len| vec![b'x'; len]).collect();
        for (number, name) in (0..).zip(&all) {
            assert_eq!(names.find(name), None);
            assert_eq!(names.add(name), number);
        }
        for (number, name) in (0..).zip(&all) {
            assert_eq!((names.find(name), names.add(name)), (Some(number), number));
            assert_eq!(names.name(number), Some(&name[..]));
        }
        assert_eq!((names.count(), names.name(64)), (64, None));
    }
}
