//! Frames: what travels on a connection.
//!
//! ```text
//! offset size
//!      0    4  len          bytes after this field: 16 + body
//!      4    4  crc32        IEEE, over everything after this field
//!      8    8  request_id   chosen by the client, echoed by the reply
//!     16    1  kind         see Kind
//!     17    1  flags        0 in this version
//!     18    2  shard        in replies, the shard that answered; 0 in requests
//!     20    …  body
//! ```

use bytes::{BufMut, Bytes, BytesMut};

use crate::ShardId;
#[cfg(doc)]
use crate::limits;

/// What a frame's body is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Client → server, first on a connection: [`Hello`](crate::Hello).
    Hello = 0x01,
    /// Client → server: one operation.
    Op = 0x02,
    /// Client → server: `count u32`, then that many operations, all writes or all reads.
    Batch = 0x03,
    /// Client → server: who wants to follow the events: [`Subscribe`](crate::Subscribe).
    Subscribe = 0x04,
    /// Client → server: so many more bytes of events may come: `bytes u32`. The request id is the subscription's.
    Credit = 0x05,
    /// Client → server, without a body: which files a backup is made of.
    BackupList = 0x06,
    /// Client → server: a piece of one of these files: [`BackupRead`](crate::BackupRead).
    BackupRead = 0x07,
    /// Server → client: [`HelloReply`](crate::HelloReply).
    HelloReply = 0x81,
    /// Server → client: a [`ReplyPrefix`](crate::ReplyPrefix) and one outcome.
    OpReply = 0x82,
    /// Server → client: a [`ReplyPrefix`](crate::ReplyPrefix), `count u32`, and that many outcomes in the order of
    /// the operations.
    BatchReply = 0x83,
    /// Server → client: [`EventsHead`](crate::EventsHead) and records of [events](crate::event), as often as there
    /// are any.
    Events = 0x84,
    /// Server → client: [`BackupHead`](crate::BackupHead), `count u32`, and that many
    /// [files](crate::BackupFile).
    BackupFiles = 0x85,
    /// Server → client: bytes of a file.
    BackupBytes = 0x86,
    /// Server → client: the whole frame was refused: [`ErrorReply`](crate::ErrorReply).
    Error = 0xff,
}

impl Kind {
    /// Every kind of this version, in order.
    pub const ALL: &'static [Self] = &[
        Self::Hello,
        Self::Op,
        Self::Batch,
        Self::Subscribe,
        Self::Credit,
        Self::BackupList,
        Self::BackupRead,
        Self::HelloReply,
        Self::OpReply,
        Self::BatchReply,
        Self::Events,
        Self::BackupFiles,
        Self::BackupBytes,
        Self::Error,
    ];

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hello => "HELLO",
            Self::Op => "OP",
            Self::Batch => "BATCH",
            Self::Subscribe => "SUBSCRIBE",
            Self::Credit => "CREDIT",
            Self::BackupList => "BACKUP_LIST",
            Self::BackupRead => "BACKUP_READ",
            Self::HelloReply => "HELLO_REPLY",
            Self::OpReply => "OP_REPLY",
            Self::BatchReply => "BATCH_REPLY",
            Self::Events => "EVENTS",
            Self::BackupFiles => "BACKUP_FILES",
            Self::BackupBytes => "BACKUP_BYTES",
            Self::Error => "ERROR",
        }
    }

    const fn from_u8(kind: u8) -> Option<Self> {
        Some(match kind {
            0x01 => Self::Hello,
            0x02 => Self::Op,
            0x03 => Self::Batch,
            0x04 => Self::Subscribe,
            0x05 => Self::Credit,
            0x06 => Self::BackupList,
            0x07 => Self::BackupRead,
            0x81 => Self::HelloReply,
            0x82 => Self::OpReply,
            0x83 => Self::BatchReply,
            0x84 => Self::Events,
            0x85 => Self::BackupFiles,
            0x86 => Self::BackupBytes,
            0xff => Self::Error,
            _ => return None,
        })
    }
}

/// A frame's header without length and checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Chosen by the client, echoed by the reply.
    pub request_id: u64,
    /// What the body is.
    pub kind: Kind,
    /// In replies, the shard that answered; 0 in requests.
    pub shard: ShardId,
}

impl Header {
    /// Bytes of a header on the wire.
    pub const BYTES: usize = 20;
}

/// A whole frame whose checksum was right.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Its header.
    pub header: Header,
    /// Its body, shared with the read buffer.
    pub body: Bytes,
}

/// Bytes that are not a frame. The connection cannot be used any further.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    /// The checksum is wrong.
    Checksum {
        /// As sent.
        expected: u32,
        /// As computed over the bytes that came.
        actual: u32,
    },
    /// The length is below a header's.
    TooShort {
        /// The declared length.
        len: u32,
    },
    /// The frame is larger than the limit in force.
    TooLarge {
        /// The declared length: the frame without its first four bytes.
        len: u32,
        /// The limit in force, on the whole frame.
        max: u32,
    },
    /// The kind is not one of this version.
    UnknownKind(u8),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Checksum { expected, actual } => {
                write!(f, "frame checksum is {actual:#010x}, the header says {expected:#010x}")
            }
            Self::TooShort { len } => write!(f, "frame length {len} is below the header's 16"),
            Self::TooLarge { len, max } => write!(f, "frame length {len} is over the limit {max}"),
            Self::UnknownKind(kind) => write!(f, "frame kind {kind:#04x} is unknown"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Takes one frame off the front of `buffer`, or `None` if it is not all there yet.
///
/// `max` bounds the whole frame, header included: for requests
/// [`limits::FRAME_BYTES_MAX_BEFORE_HELLO`] and then [`limits::FRAME_BYTES_MAX`], for replies
/// [`limits::REPLY_BYTES_MAX`]. Nothing is allocated for a declared length.
///
/// # Errors
/// The bytes are no frame; the connection must close.
#[inline]
pub fn take_frame(buffer: &mut BytesMut, max: u32) -> Result<Option<Frame>, FrameError> {
    let Some(len_bytes) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*len_bytes);
    if len < Header::BYTES as u32 - 4 {
        return Err(FrameError::TooShort { len });
    }
    if len > max.saturating_sub(4) {
        return Err(FrameError::TooLarge { len, max });
    }
    if buffer.len() - 4 < len as usize {
        return Ok(None);
    }
    let frame = buffer.split_to(4 + len as usize).freeze();
    decode_frame(frame).map(Some)
}

/// Decodes one whole frame, `len` field included.
fn decode_frame(frame: Bytes) -> Result<Frame, FrameError> {
    let head = frame.first_chunk::<{ Header::BYTES }>().expect("length checked by the caller");
    let expected = u32::from_le_bytes([head[4], head[5], head[6], head[7]]);
    let actual = crc32fast::hash(&frame[8..]);
    if expected != actual {
        return Err(FrameError::Checksum { expected, actual });
    }
    let (_, request_id) = head[..16].split_last_chunk::<8>().expect("16 bytes");
    let kind = Kind::from_u8(head[16]).ok_or(FrameError::UnknownKind(head[16]))?;
    let shard = ShardId(u16::from_le_bytes([head[18], head[19]]));
    let header = Header { request_id: u64::from_le_bytes(*request_id), kind, shard };
    Ok(Frame { header, body: frame.slice(Header::BYTES..) })
}

/// The checksum of frames and of records: IEEE 802.3. Here for the files of clients, who need no other crate for it.
pub fn crc32(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Starts a frame at the end of `out`; write the body, then call [`finish_frame`] with the returned
/// offset.
#[inline]
pub fn begin_frame(out: &mut BytesMut, header: Header) -> usize {
    let start = out.len();
    out.put_u64_le(0);
    out.put_u64_le(header.request_id);
    out.put_u8(header.kind as u8);
    out.put_u8(0);
    out.put_u16_le(header.shard.0);
    start
}

/// Fills in length and checksum of the frame that began at `start`.
#[inline]
pub fn finish_frame(out: &mut BytesMut, start: usize) {
    let len = out.len() - start - 4;
    let crc = crc32fast::hash(&out[start + 8..]);
    fill_in(out, start, len, crc);
}

/// As [`finish_frame`], of a frame whose last bytes are elsewhere and will be sent after `out`: so many, with this
/// [`crc32`]. They are not looked at, so that it costs nothing to send the same bytes to many.
pub fn finish_frame_before(out: &mut BytesMut, start: usize, tail_bytes: usize, tail_crc: u32) {
    let len = out.len() - start - 4 + tail_bytes;
    let mut crc = crc32fast::Hasher::new();
    crc.update(&out[start + 8..]);
    crc.combine(&crc32fast::Hasher::new_with_initial_len(tail_crc, tail_bytes as u64));
    fill_in(out, start, len, crc.finalize());
}

#[inline]
fn fill_in(out: &mut BytesMut, start: usize, len: usize, crc: u32) {
    out[start..start + 4].copy_from_slice(&(len as u32).to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_whose_end_is_elsewhere_is_the_same_frame() {
        let header = Header { request_id: 7, kind: Kind::Events, shard: ShardId(3) };
        for (body, tail) in [("head", "tail"), ("head", ""), ("", "tail"), ("", "")] {
            let mut whole = BytesMut::from("before");
            let start = begin_frame(&mut whole, header);
            whole.extend_from_slice([body, tail].concat().as_bytes());
            finish_frame(&mut whole, start);
            let mut parts = BytesMut::from("before");
            let start = begin_frame(&mut parts, header);
            parts.extend_from_slice(body.as_bytes());
            finish_frame_before(&mut parts, start, tail.len(), crc32(tail.as_bytes()));
            parts.extend_from_slice(tail.as_bytes());
            assert_eq!(parts, whole);
        }
    }
}
