//! Evidence: some events in a file that verifies on its own, for whoever has no access to the node.
//!
//! ```text
//! offset size
//!      0    8  magic "STKDEVID"
//!      8    4  format = 1
//!     12    2  shard
//!     14    2  flags                     1 PART: the chain is not whole
//!     16    8  cluster id
//!     24    8  node id                   whose directory it was taken from
//!     32   24  rules                     grace, retention, longest life: u64 each, in ms
//!     56    8  from                      the first event that was asked for
//!     64    8  to                        the last one
//!     72   40  position before           next event u64 · chain 32: before the first record
//!    112   40  position after            the same, after the last one
//!    152    8  bytes of the records
//!    160    4  named                     how many cells follow
//!    164    …  cells, by handle          handle u32 · warehouse, SKU: u8 length + bytes each
//!      …    …  records                   as they lie in the event log: `protocol::event`
//!      …   32  SHA-256 of everything before
//! ```
//!
//! All numbers are little-endian. Records are whole, as the chain is over whole records: so the range is widened to
//! those that have its ends, and `from` and `to` say what was meant. Every cell that an event is about is named. SKUs
//! that an event is about, and not a cell, have their names in it.
//!
//! What it proves: that these are all events between both positions, in their order, as they were when the chain
//! after was noted; that the counters of every cell follow from one event to the next; and that what CHECKPOINTs among
//! them say of totals and of the chain is so, as far as it can be told from the events here. What it does not prove:
//! that the chain after is that of the cluster. Everything here can be made up, chain and digest included; but not so
//! that it ends with a chain that somebody has noted elsewhere, or another node shows. Neither does it prove the names
//! of cells that were defined before, nor who is behind a principal.

mod verify;
mod write;

pub use verify::{Fault, Proof, verify};
pub use write::write;

use crate::events::Position;
use crate::protocol::{Reader, ShardId, Truncated};

const MAGIC: &[u8; 8] = b"STKDEVID";
const FORMAT: u32 = 1;
/// The only flag.
const PART: u16 = 1;
/// Bytes before the cells.
const HEAD_BYTES: usize = 164;
/// Bytes of the digest at the end.
const DIGEST_BYTES: usize = 32;

/// What evidence says of itself.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Head {
    /// The shard whose events these are.
    pub shard: ShardId,
    /// The cluster.
    pub cluster_id: u64,
    /// The node from whose directory it was taken.
    pub node_id: u64,
    /// Grace, retention and longest life, in ms: the rules under which everything was decided.
    pub rules_ms: [u64; 3],
    /// The first event that was asked for.
    pub from: u64,
    /// The last one.
    pub to: u64,
    /// Before the first record.
    pub before: Position,
    /// After the last one.
    pub after: Position,
    /// Bytes of all records.
    pub records_bytes: u64,
    /// Cells that have names.
    pub named: u32,
}

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let mut out = Vec::with_capacity(HEAD_BYTES);
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&FORMAT.to_le_bytes());
        out.extend_from_slice(&self.shard.0.to_le_bytes());
        out.extend_from_slice(&if self.before.is_whole { 0 } else { PART }.to_le_bytes());
        let [grace, retention, max_life] = self.rules_ms;
        let words = [self.cluster_id, self.node_id, grace, retention, max_life, self.from, self.to];
        words.iter().for_each(|word| out.extend_from_slice(&word.to_le_bytes()));
        for position in [self.before, self.after] {
            out.extend_from_slice(&position.next.to_le_bytes());
            out.extend_from_slice(&position.chain);
        }
        out.extend_from_slice(&self.records_bytes.to_le_bytes());
        out.extend_from_slice(&self.named.to_le_bytes());
        out.try_into().expect("the fields are as many bytes as the drawing says")
    }

    /// `Err`: what is wrong.
    fn decode(bytes: &[u8; HEAD_BYTES]) -> Result<Self, &'static str> {
        let mut reader = Reader::new(bytes);
        let head = Self::take(&mut reader).expect("the fields are as many bytes as there are");
        head.ok_or("it is no evidence, or of another version")
    }

    fn take(reader: &mut Reader<'_>) -> Result<Option<Self>, Truncated> {
        let (magic, format) = (reader.array::<8>()?, reader.u32()?);
        let (shard, flags) = (ShardId(reader.u16()?), reader.u16()?);
        if magic != *MAGIC || format != FORMAT || flags > PART {
            return Ok(None);
        }
        let (cluster_id, node_id) = (reader.u64()?, reader.u64()?);
        let rules_ms = [reader.u64()?, reader.u64()?, reader.u64()?];
        let (from, to) = (reader.u64()?, reader.u64()?);
        let is_whole = flags != PART;
        let mut position =
            || Ok(Position { next: reader.u64()?, chain: reader.array()?, is_whole });
        let (before, after) = (position()?, position()?);
        let (records_bytes, named) = (reader.u64()?, reader.u32()?);
        Ok(Some(Self {
            shard,
            cluster_id,
            node_id,
            rules_ms,
            from,
            to,
            before,
            after,
            records_bytes,
            named,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_what_it_was() {
        let position = |next: u64| Position { next, chain: [next as u8; 32], is_whole: false };
        let head = Head {
            shard: ShardId(2),
            cluster_id: 3,
            node_id: 4,
            rules_ms: [5, 6, 7],
            from: 8,
            to: 9,
            before: position(10),
            after: position(11),
            records_bytes: 12,
            named: 13,
        };
        let bytes = head.encode();
        assert_eq!(Head::decode(&bytes), Ok(head));
        for at in [0, 8, 14] {
            let mut other = bytes;
            other[at] ^= 2;
            assert!(Head::decode(&other).is_err(), "byte {at}");
        }
    }
}
