//! Records, and the frames that hold them on disk.
//!
//! A frame is 40 bytes of head, the payload, and zeros up to the next multiple of eight. All
//! integers are little-endian.
//!
//! ```text
//!  0  u32  crc32 of everything that follows, padding included; starts from the log's salt
//!  4  u32  payload bytes
//!  8  u64  seq: 1, 2, 3, … through all segments; zeroed or stale bytes can not continue it
//! 16  u32  unsynced: seq - unsynced is the last frame known to be on disk when this one was written
//! 20  u16  shard
//! 22  u8   kind of frame, see `FrameKind`
//! 23  u8   the record's own kind (append); 1 = "after this id", 0 = "everything" (truncate)
//! 24  u64  term
//! 32  u64  index
//! 40  …    payload (append: the record's; vote: its bytes; else none)
//! ```
//!
//! The salt comes from the log's random id. A client can put any bytes it likes into a payload, but
//! it can not make them look like a frame of this log without knowing the salt.

use bytes::Bytes;
use stockd_protocol::ShardId;

/// One Raft entry as the log sees it: opaque bytes with a place.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its place in the shard's log, without gaps.
    pub index: u64,
    /// Whatever the caller wants to tell apart; opaque to the log.
    pub kind: u8,
    /// At most [`Log::record_bytes_max`](super::Log::record_bytes_max) bytes.
    pub payload: Bytes,
}

impl Record {
    /// The record's name.
    pub const fn id(&self) -> RecordId {
        RecordId { term: self.term, index: self.index }
    }
}

/// The name of a record: two records of a shard with the same id are the same record.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RecordId {
    /// The term of the leader that made it.
    pub term: u64,
    /// Its place in the shard's log.
    pub index: u64,
}

/// Longest payload of one record, whatever the segment size: one client frame of 1 MiB, or many
/// small ones, with room for the heads that the floors above put around it.
pub const PAYLOAD_BYTES_MAX: usize = 2 << 20;

/// No index, term or sequence number gets here: what is larger is no frame and no header, so that
/// one more always fits.
pub(super) const NUMBER_MAX: u64 = 1 << 62;

/// Longest vote. A vote is a term, a node and a flag.
pub const VOTE_BYTES_MAX: usize = 256;

/// Bytes in front of a payload.
pub(super) const FRAME_HEAD_BYTES: usize = 40;

/// Frames begin at multiples of this, which is what lets a scan find the next one after a bad place.
pub(super) const FRAME_ALIGN: usize = 8;

const _: () = assert!(FRAME_HEAD_BYTES.is_multiple_of(FRAME_ALIGN));

/// What a frame tells.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum FrameKind {
    /// A record.
    Append = 1,
    /// Everything up to this id is committed.
    Committed = 2,
    /// Nothing: it only carries the sequence and the sync mark (written at a clean close).
    Mark = 3,
    /// Everything up to this id is covered by a snapshot.
    Purged = 4,
    /// Everything after this id is dropped.
    TruncateAfter = 5,
    /// The shard's vote.
    Vote = 6,
}

impl FrameKind {
    const fn from_byte(byte: u8) -> Option<Self> {
        Some(match byte {
            1 => Self::Append,
            2 => Self::Committed,
            3 => Self::Mark,
            4 => Self::Purged,
            5 => Self::TruncateAfter,
            6 => Self::Vote,
            _ => return None,
        })
    }

    /// The word for it in a dump.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Append => "append",
            Self::Committed => "committed",
            Self::Mark => "mark",
            Self::Purged => "purged",
            Self::TruncateAfter => "truncate",
            Self::Vote => "vote",
        }
    }
}

/// Everything in a frame but its payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct FrameHead {
    pub(super) seq: u64,
    /// The last frame that was known to be on disk when this one was written.
    pub(super) synced: u64,
    pub(super) shard: ShardId,
    pub(super) kind: FrameKind,
    pub(super) record_kind: u8,
    pub(super) id: RecordId,
    pub(super) payload_bytes: usize,
}

/// The bytes a frame with such a payload takes on disk.
pub(super) const fn frame_bytes(payload_bytes: usize) -> usize {
    (FRAME_HEAD_BYTES + payload_bytes).next_multiple_of(FRAME_ALIGN)
}

impl FrameHead {
    /// The bytes of the whole frame.
    pub(super) const fn bytes(&self) -> usize {
        frame_bytes(self.payload_bytes)
    }

    /// Appends the frame to `buffer`.
    ///
    /// # Panics
    /// The payload is too long, or 2³² frames have been written since the last sync.
    pub(super) fn encode(&self, payload: &[u8], salt: u32, buffer: &mut Vec<u8>) {
        assert!(payload.len() == self.payload_bytes, "a frame's head counts its payload");
        assert!(payload.len() <= PAYLOAD_BYTES_MAX, "a payload fits a frame");
        assert!(self.synced < self.seq, "a frame is not on disk before it is written");
        let unsynced =
            u32::try_from(self.seq - self.synced).expect("a group is synced long before");
        let start = buffer.len();
        let mut head = [0; FRAME_HEAD_BYTES];
        head[4..8].copy_from_slice(&(payload.len() as u32).to_le_bytes());
        head[8..16].copy_from_slice(&self.seq.to_le_bytes());
        head[16..20].copy_from_slice(&unsynced.to_le_bytes());
        head[20..22].copy_from_slice(&self.shard.0.to_le_bytes());
        head[22] = self.kind as u8;
        head[23] = self.record_kind;
        head[24..32].copy_from_slice(&self.id.term.to_le_bytes());
        head[32..40].copy_from_slice(&self.id.index.to_le_bytes());
        buffer.extend_from_slice(&head);
        buffer.extend_from_slice(payload);
        buffer.resize(start + self.bytes(), 0);
        let crc = checksum(salt, &buffer[start + 4..]);
        buffer[start..start + 4].copy_from_slice(&crc.to_le_bytes());
    }

    /// Reads the frame at the start of `bytes`; `None` when there is no whole, sound frame.
    pub(super) fn decode(bytes: &[u8], salt: u32) -> Option<Self> {
        let head = bytes.get(..FRAME_HEAD_BYTES)?;
        let payload_bytes = u32_at(head, 4) as usize;
        let (seq, unsynced) = (u64_at(head, 8), u32_at(head, 16));
        // Cheap refusals first: a scan for the next sound frame tries every eighth byte.
        if payload_bytes > PAYLOAD_BYTES_MAX || unsynced == 0 || seq < u64::from(unsynced) {
            return None;
        }
        let id = RecordId { term: u64_at(head, 24), index: u64_at(head, 32) };
        if seq.max(id.term).max(id.index) > NUMBER_MAX {
            return None;
        }
        let kind = FrameKind::from_byte(head[22])?;
        let whole = bytes.get(..frame_bytes(payload_bytes))?;
        if checksum(salt, &whole[4..]) != u32_at(head, 0) {
            return None;
        }
        Some(Self {
            seq,
            synced: seq - u64::from(unsynced),
            shard: ShardId(u16_at(head, 20)),
            kind,
            record_kind: head[23],
            id,
            payload_bytes,
        })
    }
}

/// CRC-32 (IEEE) starting from `salt`.
pub(super) fn checksum(salt: u32, bytes: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new_with_initial(salt);
    hasher.update(bytes);
    hasher.finalize()
}

/// # Panics
/// These three: `bytes` ends before the integer does.
pub(super) fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().expect("two bytes"))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SALT: u32 = 0x5eed;

    fn sample() -> (FrameHead, Vec<u8>) {
        let payload = b"eleven byte".to_vec();
        let head = FrameHead {
            seq: 77,
            synced: 70,
            shard: ShardId(3),
            kind: FrameKind::Append,
            record_kind: 9,
            id: RecordId { term: 5, index: 1 << 40 },
            payload_bytes: payload.len(),
        };
        (head, payload)
    }

    #[test]
    fn a_frame_comes_back_as_it_went() {
        let (head, payload) = sample();
        let mut buffer = vec![0xaa; 8];
        head.encode(&payload, SALT, &mut buffer);
        assert_eq!(buffer.len(), 8 + 56, "40 + 11 rounds up to 56");
        assert_eq!(FrameHead::decode(&buffer[8..], SALT), Some(head));
        assert_eq!(&buffer[48..59], &payload[..]);
    }

    #[test]
    fn any_flipped_bit_and_any_missing_byte_is_noticed() {
        let (head, payload) = sample();
        let mut buffer = Vec::new();
        head.encode(&payload, SALT, &mut buffer);
        for bit in 0..buffer.len() * 8 {
            buffer[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(FrameHead::decode(&buffer, SALT), None, "bit {bit}");
            buffer[bit / 8] ^= 1 << (bit % 8);
        }
        for bytes in 0..buffer.len() {
            assert_eq!(FrameHead::decode(&buffer[..bytes], SALT), None, "{bytes} bytes");
        }
        assert_eq!(FrameHead::decode(&buffer, SALT), Some(head));
    }

    #[test]
    fn a_number_without_a_successor_makes_no_frame() {
        let (head, payload) = sample();
        let RecordId { term, index } = head.id;
        for (seq, term, index, sound) in [
            (NUMBER_MAX, NUMBER_MAX, NUMBER_MAX, true),
            (NUMBER_MAX + 1, term, index, false),
            (head.seq, u64::MAX, index, false),
            (head.seq, term, u64::MAX, false),
        ] {
            let (synced, id) = (seq - 1, RecordId { term, index });
            let mut buffer = Vec::new();
            FrameHead { seq, synced, id, ..head }.encode(&payload, SALT, &mut buffer);
            assert_eq!(FrameHead::decode(&buffer, SALT).is_some(), sound, "{seq} {id:?}");
        }
    }

    #[test]
    fn a_frame_of_another_log_or_of_zeros_is_none() {
        let (head, payload) = sample();
        let mut buffer = Vec::new();
        head.encode(&payload, SALT, &mut buffer);
        assert_eq!(FrameHead::decode(&buffer, SALT + 1), None);
        assert_eq!(FrameHead::decode(&[0; 4096], SALT), None);
    }
}
