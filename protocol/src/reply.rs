//! What stands before the outcomes of a reply, and the reply that refuses a whole frame.

use bytes::{BufMut, BytesMut};

use crate::reader::{Reader, Truncated};
use crate::{Code, UnixMillis};

/// Opens every reply that carries outcomes.
///
/// ```text
/// offset size
///      0    8  index       log index at which the outcomes hold (its revision)
///      8    8  server_now  ms since 1970 on the cluster's clock
///     16    4  age_ms      0: linearizable; else how old a stale read may be (u32::MAX: unknown)
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReplyPrefix {
    /// The log index at which the outcomes hold.
    pub index: u64,
    /// The cluster's clock when they were made.
    pub server_now: UnixMillis,
    /// 0 for writes and linearizable reads; else the age bound of a stale read.
    pub age_ms: u32,
}

impl ReplyPrefix {
    /// Bytes on the wire.
    pub const BYTES: usize = 20;

    /// Appends it.
    #[inline]
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.index);
        out.put_u64_le(self.server_now.0);
        out.put_u32_le(self.age_ms);
    }

    /// Takes it off the front of a reply's body.
    ///
    /// # Errors
    /// The body is too short.
    #[inline]
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            index: reader.u64()?,
            server_now: UnixMillis(reader.u64()?),
            age_ms: reader.u32()?,
        })
    }
}

/// Refuses a whole frame. Codes 2xx: nothing of it was executed, except for `OUTCOME_UNKNOWN`.
///
/// ```text
/// offset size
///      0    2  code
///      2    2  reserved, 0
///      4    4  retry_after_ms   0: at once
///      8    2  address length, then bytes: the leader's client address, or empty
///      …    2  message length, then UTF-8 for people
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ErrorReply<'a> {
    /// Why.
    pub code: Code,
    /// How long to wait before sending it again.
    pub retry_after_ms: u32,
    /// The leader's client address with NOT_LEADER, empty if unknown.
    pub leader: &'a [u8],
    /// For people: what is wrong and what to do.
    pub message: &'a [u8],
    /// With EVENTS_GONE, the first event after the missing ones that the node has, or will have; 0 if it knows none, and
    /// with other codes.
    pub event: u64,
}

impl<'a> ErrorReply<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.code.0);
        out.put_u16_le(0);
        out.put_u32_le(self.retry_after_ms);
        out.put_u16_le(self.leader.len() as u16);
        out.put_slice(self.leader);
        out.put_u16_le(self.message.len() as u16);
        out.put_slice(self.message);
        if self.event > 0 {
            out.put_u64_le(self.event);
        }
    }

    /// Reads a body.
    ///
    /// # Errors
    /// The body is too short.
    pub fn decode(body: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(body);
        let code = Code(reader.u16()?);
        reader.u16()?;
        Ok(Self {
            code,
            retry_after_ms: reader.u32()?,
            leader: reader.long_bytes()?,
            message: reader.long_bytes()?,
            event: reader.u64().unwrap_or(0),
        })
    }
}
