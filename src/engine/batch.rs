//! A log entry's payload: a batch of operations with the moment at which they happen.
//!
//! ```text
//! offset size
//!      0    1  format      1
//!      1    1  0
//!      2    2  0
//!      4    4  op_count
//!      8    8  now         micros since 1970, stamped by the leader
//!     16    …  operations, each exactly as the protocol encodes it, or one of the server's own:
//!
//! 0xf0 EXPIRE        budget u32    expire and forget what is due, at most so many lines
//! 0xf1 LEADER_START  nothing       the first entry of a leader: gives back the outage
//! 0xf2 TICK          nothing       moves time
//! ```
//!
//! All integers are little-endian. The server's own operations have the protocol's 8-byte header
//! (opcode, flags 0, count 0, len). Every operation, its own ones included, gives one outcome.

use bytes::{BufMut, BytesMut};

use crate::protocol::{Op, OpError, OpFlags, Reader, UnixMillis, take_op};
use crate::world::UnixMicros;

/// Bytes before the first operation.
pub const HEADER_BYTES: usize = 16;

const FORMAT: u8 = 1;
const EXPIRE: u8 = 0xf0;
const LEADER_START: u8 = 0xf1;
const TICK: u8 = 0xf2;

/// Builds one payload at the end of a buffer.
///
/// ```
/// use bytes::{BufMut, BytesMut};
/// use stockd::engine::batch::{self, BatchBuilder};
/// use stockd::world::UnixMicros;
///
/// let mut out = BytesMut::new();
/// let mut ops = BytesMut::new();
/// batch::encode_tick(&mut ops);
/// let batch = BatchBuilder::begin(&mut out);
/// out.put_slice(&ops);
/// batch.finish(&mut out, UnixMicros(1_700_000_000_000_000), 1);
/// assert_eq!(out.len(), batch::HEADER_BYTES + 8);
/// ```
#[must_use = "a batch that is not finished has no header"]
pub struct BatchBuilder {
    start: usize,
}

impl BatchBuilder {
    /// Leaves room for the header at the end of `out`. Append the operations next.
    pub fn begin(out: &mut BytesMut) -> Self {
        let start = out.len();
        out.put_bytes(0, HEADER_BYTES);
        Self { start }
    }

    /// Fills in the header.
    pub fn finish(self, out: &mut BytesMut, now: UnixMicros, op_count: u32) {
        let header = &mut out[self.start..self.start + HEADER_BYTES];
        header[0] = FORMAT;
        header[4..8].copy_from_slice(&op_count.to_le_bytes());
        header[8..16].copy_from_slice(&now.0.to_le_bytes());
    }
}

/// Appends EXPIRE: expire and forget what is due, at most `budget` lines and records.
pub fn encode_expire(out: &mut BytesMut, budget: u32) {
    put_header(out, EXPIRE, 4);
    out.put_u32_le(budget);
}

/// Appends LEADER_START.
pub fn encode_leader_start(out: &mut BytesMut) {
    put_header(out, LEADER_START, 0);
}

/// Appends TICK.
pub fn encode_tick(out: &mut BytesMut) {
    put_header(out, TICK, 0);
}

fn put_header(out: &mut BytesMut, opcode: u8, len: u32) {
    out.put_u8(opcode);
    out.put_u8(0);
    out.put_u16_le(0);
    out.put_u32_le(len);
}

/// A payload taken apart: for apply, and for whoever replays a log to check it.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// The leader's stamp. The engine's clock never goes back, so it may be later already.
    pub now: UnixMicros,
    /// How many operations there are in all.
    pub op_count: u32,
    /// Those that were not taken yet.
    pub ops: Reader<'a>,
}

/// One operation of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Command<'a> {
    /// No operation of this version: it gives BAD_OP.
    Bad,
    /// As a client sent it.
    Client(Op<'a>, OpFlags, Option<UnixMillis>),
    /// Expire and forget what is due, at most so many lines.
    Expire(u32),
    /// A leader's first operation: gives back the outage.
    LeaderStart,
    /// Moves time.
    Tick,
}

impl<'a> Command<'a> {
    /// Takes an operation off the front of those of a batch.
    ///
    /// # Panics
    /// They end inside it.
    #[inline]
    pub fn take(ops: &mut Reader<'a>) -> Self {
        let rest = ops.rest();
        if let Ok((op, flags, not_after)) = take_op(ops) {
            return Self::Client(op, flags, not_after);
        }
        *ops = Reader::new(rest);
        Self::take_own(ops)
    }

    /// An operation of a leader, or none of this version.
    fn take_own(ops: &mut Reader<'a>) -> Self {
        let Some((header, body)) = ops.rest().split_first_chunk::<8>() else {
            panic!("a log entry ends inside an operation's header");
        };
        let len = u32::from_le_bytes([header[4], header[5], header[6], header[7]]) as usize;
        assert!(len <= body.len(), "a log entry ends inside an operation");
        ops.bytes(8 + len).expect("the length was just checked");
        match header[0] {
            EXPIRE => match body[..len].try_into() {
                Ok(budget) => Self::Expire(u32::from_le_bytes(budget)),
                Err(_) => Self::Bad,
            },
            LEADER_START => Self::LeaderStart,
            TICK => Self::Tick,
            _ => Self::Bad,
        }
    }

    /// The next operation is linked to it.
    #[inline]
    pub const fn is_linked(&self) -> bool {
        matches!(self, Self::Client(_, flags, _) if flags.contains(OpFlags::LINKED))
    }
}

impl<'a> Batch<'a> {
    /// Reads the header.
    ///
    /// # Panics
    /// It is not a payload: the log gave back what nobody proposed.
    pub fn decode(payload: &'a [u8]) -> Self {
        let mut reader = Reader::new(payload);
        let mut word = || reader.u64().expect("a log entry has a batch header");
        let (head, now) = (word(), word());
        assert!(head as u32 == u32::from(FORMAT), "a log entry has batch format 1");
        Self { now: UnixMicros(now), op_count: (head >> 32) as u32, ops: reader }
    }

    /// Takes the next operation.
    ///
    /// # Panics
    /// The payload ends inside it.
    #[inline]
    pub fn take(&mut self) -> Command<'a> {
        Command::take(&mut self.ops)
    }
}

/// Walks operations as a client sent them, before they are proposed: how many there are, or what
/// is wrong with the first bad one. A leader proposes only what passes.
///
/// # Errors
/// The bytes are not whole operations that a client may have logged.
pub fn check_ops(bytes: &[u8]) -> Result<u32, OpError> {
    let mut reader = Reader::new(bytes);
    let mut count = 0;
    while !reader.is_empty() {
        let (op, _, _) = take_op(&mut reader)?;
        if !op.opcode().is_write() {
            return Err(OpError::UnknownOpcode(op.opcode() as u8));
        }
        count += 1;
    }
    Ok(count)
}
