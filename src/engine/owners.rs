//! Owners: the open reservations of each, so that nobody takes more than his share.
//!
//! ```text
//! owner (64 bytes)                            name ──▶ owner ──▶ annex ⇄ annex ⇄ annex
//!  0 32 name                                                    (active or confirmed)
//! 32  4 length of the name
//! 36  4 records that name it
//! 40  4 first annex of an open one
//! 44  4 open ones
//! 48  8 when its latest expired reservation fell due, on the hold clock; 0: none has
//! 56  4 lines of the open ones            60  4 0
//! ```
//!
//! What an owner has is counted when it asks for more, by a walk over its open reservations, of which it has
//! few: a count that nobody keeps cannot drift. Only how long the walk would be is kept. An owner is known as
//! long as one of its reservations is remembered, which is longer than it cools down.
//!
//! Invariants:
//! - An annex is in the list of its owner while its reservation is active or confirmed.
//! - `open` and `lines` count that list, and the lines of its reservations.

use crate::protocol::OwnerLimits;
use crate::protocol::limits::OWNER_BYTES_MAX;

use super::hash::hash_bytes;
use super::index::Index;
use super::record::{u32_at, u64_at};
use super::ring::NIL;
use super::slab::{Entry, Slab};
use super::time::HoldMillis;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Owner {
    name: [u8; OWNER_BYTES_MAX],
    len: u32,
    pub records: u32,
    /// The first annex in its list; of a free entry, the next free one.
    pub first: u32,
    pub open: u32,
    pub lines: u32,
    pub last_due: HoldMillis,
}

impl Owner {
    /// An owner of nothing.
    fn new(name: &[u8]) -> Self {
        let mut bytes = [0; OWNER_BYTES_MAX];
        bytes[..name.len()].copy_from_slice(name);
        let len = name.len() as u32;
        Self {
            name: bytes,
            len,
            records: 0,
            first: NIL,
            open: 0,
            lines: 0,
            last_due: HoldMillis(0),
        }
    }

    /// It is a free entry of the slab.
    pub fn is_free(&self) -> bool {
        self.len == 0
    }

    /// Its name; of one from a snapshot that is damaged, nothing.
    pub fn name(&self) -> &[u8] {
        self.name.get(..self.len as usize).unwrap_or_default()
    }
}

impl Entry for Owner {
    const BYTES: usize = 64;

    fn free(next: u32) -> Self {
        Self { first: next, ..Self::new(b"") }
    }

    fn free_next(&self) -> Option<u32> {
        self.is_free().then_some(self.first)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.name);
        for word in [self.len, self.records, self.first, self.open] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.last_due.0.to_le_bytes());
        out.extend_from_slice(&self.lines.to_le_bytes());
        out.extend_from_slice(&[0; 4]);
    }

    fn take(bytes: &[u8]) -> Self {
        let mut name = [0; OWNER_BYTES_MAX];
        name.copy_from_slice(&bytes[..OWNER_BYTES_MAX]);
        Self {
            name,
            len: u32_at(bytes, 32),
            records: u32_at(bytes, 36),
            first: u32_at(bytes, 40),
            open: u32_at(bytes, 44),
            last_due: HoldMillis(u64_at(bytes, 48)),
            lines: u32_at(bytes, 56),
        }
    }
}

/// All owners, by name.
pub(super) struct Owners {
    pub owners: Slab<Owner>,
    pub limits: OwnerLimits,
    /// The limits before the chain that is being decided.
    limits_before: OwnerLimits,
    index: Index,
    seed: u64,
}

impl Owners {
    /// Puts the index to the slab. The seed is this process's own.
    pub fn restore(owners: Slab<Owner>, limits: OwnerLimits, seed: u64) -> Self {
        let mut index = Index::new();
        for (handle, owner) in owners.iter().filter(|(_, owner)| !owner.is_free()) {
            index.insert(hash_bytes(seed, owner.name()), handle);
        }
        Self { owners, limits, limits_before: limits, index, seed }
    }

    /// The owner of this name, if anybody knows it.
    pub fn find(&self, name: &[u8]) -> Option<u32> {
        let is_it = |owner| self.owners.get(owner).name() == name;
        self.index.find(hash_bytes(self.seed, name), is_it)
    }

    /// The owner of this name, made if nobody knows it, with one record more.
    pub fn add_record(&mut self, name: &[u8]) -> u32 {
        let owner = self.find(name).unwrap_or_else(|| {
            let owner = self.owners.insert(Owner::new(name));
            self.index.insert(hash_bytes(self.seed, name), owner);
            owner
        });
        self.owners.get_mut(owner).records += 1;
        owner
    }

    /// One record less; one that has none left is forgotten.
    pub fn remove_record(&mut self, owner: u32) {
        let entry = self.owners.get_mut(owner);
        entry.records -= 1;
        if entry.records == 0 {
            let hash = hash_bytes(self.seed, self.owners.get(owner).name());
            self.index.remove(hash, owner);
            self.owners.remove(owner);
        }
    }

    /// Notes changes from now on, so that they can be undone.
    pub fn begin_journal(&mut self) {
        self.owners.begin_journal();
        self.index.begin_journal();
        self.limits_before = self.limits;
    }

    /// Ends the journal: undoes what it has noted, or keeps it.
    pub fn end_journal(&mut self, undo: bool) {
        self.owners.end_journal(undo);
        self.index.end_journal(undo);
        if undo {
            self.limits = self.limits_before;
        }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.owners.bytes() + self.index.bytes()
    }
}
