//! The chain: each record is bound to all before it.
//!
//! ```text
//! chain of nothing   = 32 zeros
//! chain after record = SHA-256(chain before it ‖ the record's bytes, checksum included)
//! ```
//!
//! So the 32 bytes at the end of a history tell it from every other: a record that was changed, left out, added or
//! moved gives another chain at its place and at every later one.

use sha2::{Digest, Sha256};

/// A place between two events, and what came before it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The sequence number of the event that comes next.
    pub next: u64,
    /// The chain over all records before.
    pub chain: [u8; 32],
}

impl Position {
    /// Before the first event.
    pub const START: Self = Self { next: 1, chain: [0; 32] };

    /// The chain is over all records before. It is zeros instead where a node kept no events: then nobody knows it here,
    /// and one that begins there is compared with no other.
    pub fn has_chain(&self) -> bool {
        self.chain != [0; 32] || self.next == 1
    }

    /// Goes past a sealed record, behind which `next` comes.
    pub fn pass(&mut self, record: &[u8], next: u64) {
        let mut hash = Sha256::new();
        hash.update(self.chain);
        hash.update(record);
        *self = Self { next, chain: hash.finalize().into() };
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
        assert_eq!(position, Position { next: 7, chain: expected.finalize().into() });
        // By `sha256sum`: (head -c 32 /dev/zero; printf abc) | sha256sum
        let hex: String = position.chain.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "365aa7d8f7f9402c4b9434502b4cc89ddb09fe50d7cd95b493b834c62d5a5370");
        let before = position;
        position.pass(b"", 7);
        assert_ne!(position, before);
    }
}
