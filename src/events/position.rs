//! The chain: each record is bound to all before it.
//!
//! ```text
//! chain of nothing   = 32 zeros
//! chain after record = SHA-256(chain before it ‖ the record's bytes, checksum included)
//! ```
//!
//! So the 32 bytes at the end of a history tell it from every other: a record that was changed, left out, added or
//! moved gives another chain at its place and at every later one.
//!
//! A node that kept no events for a while knows no chain before those that it keeps again: there it begins anew with
//! zeros, and is **not whole** from there on, until the node is given a snapshot with one that is. Such a chain binds this
//! node's records together; with the chains of others, in snapshots and CHECKPOINTs, it has nothing in common.

use sha2::{Digest, Sha256};

/// A place between two events, and what came before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The sequence number of the event that comes next.
    pub next: u64,
    /// The chain over all records before, or over those that this node knows.
    pub chain: [u8; 32],
    /// Over all.
    pub is_whole: bool,
}

impl Position {
    /// Before the first event.
    pub const START: Self = Self { next: 1, chain: [0; 32], is_whole: true };

    /// Before an event, without knowing what came before it.
    pub const fn unknown(next: u64) -> Self {
        Self { next, chain: [0; 32], is_whole: false }
    }

    /// As another says it, with zeros for what is not known.
    pub fn told(next: u64, chain: [u8; 32]) -> Self {
        Self { next, chain, is_whole: next == 1 || chain != [0; 32] }
    }

    /// The chain as others are told it: zeros if it is not whole.
    pub fn told_chain(&self) -> [u8; 32] {
        if self.is_whole { self.chain } else { [0; 32] }
    }

    /// The same place, of the same history as far as both know it.
    pub fn fits(&self, other: &Self) -> bool {
        let is_known = self.is_whole && other.is_whole;
        self.next == other.next && (self.chain == other.chain || !is_known)
    }

    /// Goes past a sealed record, behind which `next` comes.
    pub fn pass(&mut self, record: &[u8], next: u64) {
        let mut hash = Sha256::new();
        hash.update(self.chain);
        hash.update(record);
        (self.next, self.chain) = (next, hash.finalize().into());
    }
}

impl Default for Position {
    fn default() -> Self {
        Self::START
    }
}

impl std::fmt::Debug for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:", self.next)?;
        self.chain[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chain_is_sha_256_over_the_one_before_and_the_record() {
        let mut position = Position::START;
        position.pass(b"abc", 7);
        let mut expected = Sha256::new();
        expected.update([0; 32]);
        expected.update(b"abc");
        let chain = expected.finalize().into();
        assert_eq!(position, Position { next: 7, chain, is_whole: true });
        // By `sha256sum`: (head -c 32 /dev/zero; printf abc) | sha256sum
        let hex: String = position.chain.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "365aa7d8f7f9402c4b9434502b4cc89ddb09fe50d7cd95b493b834c62d5a5370");
        let before = position;
        position.pass(b"", 7);
        assert_ne!(position, before);
    }

    #[test]
    fn what_is_not_whole_fits_at_the_same_place_and_stays_so() {
        let (whole, mut part) = (Position::told(7, [3; 32]), Position::unknown(7));
        assert!(whole.is_whole && Position::told(1, [0; 32]) == Position::START);
        assert_eq!(Position::told(7, whole.told_chain()), whole);
        assert_eq!(Position::told(7, part.told_chain()), part);
        part.pass(b"abc", 8);
        assert!(!part.is_whole && part.told_chain() == [0; 32] && part.chain != [0; 32]);
        let other = Position::told(8, [4; 32]);
        assert!(other.fits(&part) && part.fits(&other) && part.fits(&part));
        assert!(!other.fits(&Position::told(8, [5; 32])) && !other.fits(&Position::unknown(9)));
    }
}
