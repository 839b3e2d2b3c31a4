//! Backups: what a node has, file by file, and pieces of these files.
//!
//! ```text
//! BACKUP_LIST   (nothing)
//! BACKUP_READ   offset u64 · bytes u32 · name            u8 length + bytes
//! BACKUP_FILES  cluster_id u64 · node_id u64 · incarnation u64 · grace_ms u64 · retention_ms u64 · max_life_ms u64
//!               sample_refusals u64 · index u64 · now u64 · next u64 · chain 32 bytes
//!               count u32 · count × (bytes u64 · flags u8 (1 sealed) · name)
//! BACKUP_BYTES  the bytes
//! ```
//!
//! The files reach at least to the log entry `index`, after which the log's time is `now`, the next event is `next` and
//! the [chain](crate::event) over all records of events before it is `chain`; zeros, if the node keeps none.

use bytes::{BufMut, BytesMut};

use crate::catalogue::put_short;
use crate::reader::{Reader, Truncated};

/// A flag of a file: it will never grow or change.
const SEALED: u8 = 1;

/// The beginning of a BACKUP_FILES body: whose files they are, and how far they reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupHead {
    /// The cluster.
    pub cluster_id: u64,
    /// The node in it.
    pub node_id: u64,
    /// Drawn when the node's directory was made: another one has another log.
    pub incarnation: u64,
    /// Grace, retention and longest life, in ms, and of how many refusals one is an event (0: none), which decide
    /// together with the log.
    pub rules: [u64; 4],
    /// The last log entry that all of them reach.
    pub index: u64,
    /// The log's time after it, in µs since 1970.
    pub now_us: u64,
    /// The number of the first event after it.
    pub next_event: u64,
    /// Over all events before that one; zeros: the node keeps none.
    pub chain: [u8; 32],
}

impl BackupHead {
    /// Appends it.
    pub fn encode(&self, out: &mut BytesMut) {
        for word in [self.cluster_id, self.node_id, self.incarnation] {
            out.put_u64_le(word);
        }
        self.rules.iter().for_each(|rule| out.put_u64_le(*rule));
        for word in [self.index, self.now_us, self.next_event] {
            out.put_u64_le(word);
        }
        out.put_slice(&self.chain);
    }

    /// Takes it off the front of a body.
    ///
    /// # Errors
    /// It is cut off.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            cluster_id: reader.u64()?,
            node_id: reader.u64()?,
            incarnation: reader.u64()?,
            rules: [reader.u64()?, reader.u64()?, reader.u64()?, reader.u64()?],
            index: reader.u64()?,
            now_us: reader.u64()?,
            next_event: reader.u64()?,
            chain: reader.array()?,
        })
    }
}

/// A file of a node.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupFile<'a> {
    /// Its name, which BACKUP_READ takes.
    pub name: &'a [u8],
    /// So many bytes of it are on disk and will stay as they are.
    pub bytes: u64,
    /// It will never have more.
    pub is_sealed: bool,
}

impl<'a> BackupFile<'a> {
    /// Bytes of a file in a body, at most.
    pub const BYTES_MAX: usize = 10 + u8::MAX as usize;

    /// Appends it.
    ///
    /// # Panics
    /// The name is longer than 255 bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        assert!(self.name.len() <= usize::from(u8::MAX), "names of a node's files are short");
        out.put_u64_le(self.bytes);
        out.put_u8(if self.is_sealed { SEALED } else { 0 });
        put_short(out, self.name);
    }

    /// Takes it off the front of a body.
    ///
    /// # Errors
    /// It is cut off.
    pub fn take(reader: &mut Reader<'a>) -> Result<Self, Truncated> {
        let (bytes, flags) = (reader.u64()?, reader.u8()?);
        Ok(Self { name: reader.short_bytes()?, bytes, is_sealed: flags & SEALED != 0 })
    }
}

/// The body of a BACKUP_READ.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct BackupRead<'a> {
    /// The file, as BACKUP_FILES has named it.
    pub name: &'a [u8],
    /// Where to begin.
    pub offset: u64,
    /// How many bytes, at most [`BACKUP_READ_BYTES_MAX`](crate::limits::BACKUP_READ_BYTES_MAX).
    pub bytes: u32,
}

impl<'a> BackupRead<'a> {
    /// Appends it.
    ///
    /// # Panics
    /// The name is longer than 255 bytes.
    pub fn encode(&self, out: &mut BytesMut) {
        assert!(self.name.len() <= usize::from(u8::MAX), "names of a node's files are short");
        out.put_u64_le(self.offset);
        out.put_u32_le(self.bytes);
        put_short(out, self.name);
    }

    /// Reads a body; bytes behind it are ignored.
    ///
    /// # Errors
    /// It is cut off.
    pub fn decode(body: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(body);
        let (offset, bytes) = (reader.u64()?, reader.u32()?);
        Ok(Self { name: reader.short_bytes()?, offset, bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bodies_come_back_as_they_went_and_are_never_read_beyond_their_end() {
        let head = BackupHead {
            cluster_id: 1,
            node_id: 2,
            incarnation: 3,
            rules: [4, 5, 6, 11],
            index: 7,
            now_us: 8,
            next_event: 9,
            chain: [10; 32],
        };
        let file = BackupFile { name: b"segment-0000000007.log", bytes: 64 << 20, is_sealed: true };
        let read = BackupRead { name: file.name, offset: 11, bytes: 12 };
        let mut out = BytesMut::new();
        head.encode(&mut out);
        file.encode(&mut out);
        let mut reader = Reader::new(&out);
        assert_eq!(BackupHead::take(&mut reader), Ok(head));
        assert_eq!(BackupFile::take(&mut reader), Ok(file));
        assert!(reader.is_empty());
        let mut body = BytesMut::new();
        read.encode(&mut body);
        assert_eq!(BackupRead::decode(&body), Ok(read));
        for len in 0..out.len() {
            let mut reader = Reader::new(&out[..len]);
            let all = BackupHead::take(&mut reader).and_then(|_| BackupFile::take(&mut reader));
            assert!(all.is_err(), "{len} bytes");
        }
        assert!((0..body.len()).all(|len| BackupRead::decode(&body[..len]).is_err()));
    }
}
