//! Frames between peers: the clients' framing with the peers' own kinds and a larger limit.
//!
//! ```text
//! offset size
//!      0    4  len          bytes after this field: 16 + body
//!      4    4  crc32        IEEE, over everything after this field
//!      8    8  request_id   echoed by the reply
//!     16    1  kind         see Kind
//!     17    1  flags        0
//!     18    2  shard
//!     20    …  body
//! ```
//!
//! Every body that answers opens with the sender's wall clock (micros u64): the nodes learn how far
//! their clocks are apart from the traffic they have anyway.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::protocol::ShardId;

/// What a peer's frame is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    Hello = 0x41,
    Append = 0x42,
    Vote = 0x43,
    PreVote = 0x44,
    TransferLeader = 0x45,
    SnapshotBegin = 0x46,
    SnapshotChunk = 0x47,
    SnapshotEnd = 0x48,
    Join = 0x49,
    /// A node that led asks its successor to remove it; the body is its id, u64.
    Leave = 0x4a,
    /// A node tells the leader of its state; see `reconcile/replicas.rs`.
    Compared = 0x4b,
    /// A node asks the leader where their states differ; see `reconcile/places.rs`.
    Differing = 0x4c,
    /// The answer to any of the above.
    Reply = 0xc0,
    /// The request was not executed; the body is text after the clock.
    Refused = 0xc1,
}

impl Kind {
    const ALL: [Self; 14] = [
        Self::Hello,
        Self::Append,
        Self::Vote,
        Self::PreVote,
        Self::TransferLeader,
        Self::SnapshotBegin,
        Self::SnapshotChunk,
        Self::SnapshotEnd,
        Self::Join,
        Self::Leave,
        Self::Compared,
        Self::Differing,
        Self::Reply,
        Self::Refused,
    ];

    fn from_u8(kind: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|known| *known as u8 == kind)
    }
}

/// A frame whose checksum was right.
#[derive(Clone, Debug)]
pub struct Frame {
    pub request_id: u64,
    pub kind: Kind,
    pub shard: ShardId,
    pub body: Bytes,
}

/// Bytes that are no frame: the connection must close.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrameError {
    Checksum,
    Kind(u8),
    Length(u32),
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Checksum => f.write_str("a peer's frame has a wrong checksum"),
            Self::Kind(kind) => write!(f, "a peer's frame has the unknown kind {kind:#04x}"),
            Self::Length(len) => write!(f, "a peer's frame declares {len} bytes"),
        }
    }
}

impl std::error::Error for FrameError {}

/// Largest frame between peers: an append of 1 MiB whose last entry is of the largest size too, a
/// snapshot's chunk, and room for headers.
pub const FRAME_BYTES_MAX: u32 = 4 << 20;
/// Largest frame before the hello is done.
pub const FRAME_BYTES_MAX_BEFORE_HELLO: u32 = 4096;

const HEADER_BYTES: usize = 20;

/// Appends a frame whose body `body` writes.
pub fn put_frame(
    out: &mut BytesMut,
    request_id: u64,
    kind: Kind,
    shard: ShardId,
    body: impl FnOnce(&mut BytesMut),
) {
    let start = out.len();
    out.put_u64_le(0);
    out.put_u64_le(request_id);
    out.put_u8(kind as u8);
    out.put_u8(0);
    out.put_u16_le(shard.0);
    body(out);
    let len = (out.len() - start - 4) as u32;
    let crc = crc32fast::hash(&out[start + 8..]);
    out[start..start + 4].copy_from_slice(&len.to_le_bytes());
    out[start + 4..start + 8].copy_from_slice(&crc.to_le_bytes());
}

/// Takes a frame off the front of `buffer`, or `None` if it is not all there yet.
pub fn take_frame(buffer: &mut BytesMut, max: u32) -> Result<Option<Frame>, FrameError> {
    let Some(len) = buffer.first_chunk::<4>() else { return Ok(None) };
    let len = u32::from_le_bytes(*len);
    if len < HEADER_BYTES as u32 - 4 || len > max {
        return Err(FrameError::Length(len));
    }
    if buffer.len() - 4 < len as usize {
        return Ok(None);
    }
    let mut frame = buffer.split_to(4 + len as usize).freeze();
    frame.advance(4);
    let crc = frame.get_u32_le();
    if crc32fast::hash(&frame) != crc {
        return Err(FrameError::Checksum);
    }
    let request_id = frame.get_u64_le();
    let kind = frame.get_u8();
    let kind = Kind::from_u8(kind).ok_or(FrameError::Kind(kind))?;
    frame.advance(1);
    let shard = ShardId(frame.get_u16_le());
    Ok(Some(Frame { request_id, kind, shard, body: frame }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_comes_back_and_a_flipped_bit_does_not() {
        let mut out = BytesMut::new();
        put_frame(&mut out, 7, Kind::Vote, ShardId(0), |out| out.put_slice(b"body"));
        let whole = out.clone();
        let frame = take_frame(&mut out, FRAME_BYTES_MAX).unwrap().unwrap();
        assert_eq!((frame.request_id, frame.kind, &frame.body[..]), (7, Kind::Vote, &b"body"[..]));
        for bit in 32..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let taken = take_frame(&mut flipped, FRAME_BYTES_MAX);
            assert!(taken.is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn a_cut_frame_is_awaited_and_a_huge_one_refused() {
        let mut out = BytesMut::new();
        put_frame(&mut out, 7, Kind::Append, ShardId(0), |out| out.put_slice(&[0; 100]));
        for cut in 0..out.len() {
            let mut cut = BytesMut::from(&out[..cut]);
            assert!(take_frame(&mut cut, FRAME_BYTES_MAX).unwrap().is_none());
        }
        let mut huge = BytesMut::from(&u32::MAX.to_le_bytes()[..]);
        assert_eq!(
            take_frame(&mut huge, FRAME_BYTES_MAX).err(),
            Some(FrameError::Length(u32::MAX))
        );
    }
}
