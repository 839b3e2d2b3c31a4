//! A log entry's payload: a batch of operations with the moment at which they happen.
//!
//! ```text
//! offset size
//!      0    1  format      1: no client said who it is; 2: there is a table of principals
//!      1    1  0
//!      2    2  0
//!      4    4  op_count
//!      8    8  now         micros since 1970, stamped by the leader
//!     16    …  format 2: size u32 of the table, and the table (principals.rs)
//!      …    …  operations, each exactly as the protocol encodes it, or one of the server's own:
//!
//! 0xf0 EXPIRE        budget u32    expire and forget what is due, at most so many lines
//! 0xf1 LEADER_START  nothing       the first entry of a leader: gives back the outage
//! 0xf2 TICK          nothing       moves time
//! 0xf3 CHECKPOINT    anchor 40     says how much there is of everything; replicas compare their states after it
//! 0xf4 DIVERGED      21 bytes      a node's state is found to be wrong    both in protocol/src/event/checkpoint.rs
//! ```
//!
//! All integers are little-endian. The server's own operations have the protocol's 8-byte header
//! (opcode, flags 0, count 0, len). Every operation, its own ones included, gives one outcome.
//!
//! A table with nobody in it is not written: clients without a name, and entries of the server alone, cost
//! what they cost before there was one.

use bytes::{BufMut, BytesMut};

pub use super::principals::{PrincipalRuns, Principals};
use crate::protocol::event::{ANCHOR_BYTES, Anchor, Divergence};
use crate::protocol::{Op, OpError, OpFlags, Reader, UnixMillis, take_op};
use crate::world::UnixMicros;

/// Bytes before the first operation, or before the table of principals.
pub const HEADER_BYTES: usize = 16;

const NAMELESS: u8 = 1;
const NAMED: u8 = 2;
const EXPIRE: u8 = 0xf0;
const LEADER_START: u8 = 0xf1;
const TICK: u8 = 0xf2;
const CHECKPOINT: u8 = 0xf3;
const DIVERGED: u8 = 0xf4;

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

/// Bytes before the first operation of a payload whose table of principals has so many.
pub const fn head_bytes(table_bytes: usize) -> usize {
    if table_bytes == 0 { HEADER_BYTES } else { HEADER_BYTES + 4 + table_bytes }
}

impl BatchBuilder {
    /// Leaves room for the header at the end of `out`. Append the operations next, which have no
    /// principals.
    pub fn begin(out: &mut BytesMut) -> Self {
        Self::begin_named(out, &PrincipalRuns::default())
    }

    /// Leaves room for the header at the end of `out`, and says whose the first operations are. Append
    /// these next, and then those that nobody asked for.
    pub fn begin_named(out: &mut BytesMut, principals: &PrincipalRuns) -> Self {
        let start = out.len();
        out.put_bytes(0, HEADER_BYTES);
        out[start] = NAMELESS;
        if !principals.is_empty() {
            out[start] = NAMED;
            out.put_u32_le(principals.bytes().len() as u32);
            out.put_slice(principals.bytes());
        }
        Self { start }
    }

    /// Fills in the header.
    pub fn finish(self, out: &mut BytesMut, now: UnixMicros, op_count: u32) {
        let header = &mut out[self.start..self.start + HEADER_BYTES];
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

/// Appends CHECKPOINT, with the chain of the leader's events some way back.
pub fn encode_checkpoint(out: &mut BytesMut, anchor: &Anchor) {
    put_header(out, CHECKPOINT, ANCHOR_BYTES as u32);
    anchor.encode(out);
}

/// Appends DIVERGED.
pub fn encode_diverged(out: &mut BytesMut, divergence: &Divergence) {
    put_header(out, DIVERGED, Divergence::BYTES as u32);
    divergence.encode(out);
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
    /// Who asked for them, by their positions: operations may be taken long before they are executed.
    pub principals: Principals<'a>,
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
    /// Says how much there is of everything.
    Checkpoint(Anchor),
    /// A node's state is found to be wrong.
    Diverged(Divergence),
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
            CHECKPOINT => match Anchor::take(&mut Reader::new(&body[..len])) {
                Ok(anchor) if len == ANCHOR_BYTES => Self::Checkpoint(anchor),
                _ => Self::Bad,
            },
            DIVERGED => match Divergence::take(&mut Reader::new(&body[..len])) {
                Ok(Some(divergence)) if len == Divergence::BYTES => Self::Diverged(divergence),
                _ => Self::Bad,
            },
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
    /// Reads the header, and finds the operations behind it and the table.
    ///
    /// # Panics
    /// It is not a payload: the log gave back what nobody proposed.
    pub fn decode(payload: &'a [u8]) -> Self {
        let mut reader = Reader::new(payload);
        let mut word = || reader.u64().expect("a log entry has a batch header");
        let (head, now) = (word(), word());
        let table: &[u8] = match head as u32 {
            format if format == u32::from(NAMELESS) => &[],
            format if format == u32::from(NAMED) => {
                let table = reader.u32().and_then(|size| reader.bytes(size as usize));
                table.expect("a log entry has the principals that its header announces")
            }
            format => panic!("a log entry has batch format 1 or 2, not {format}"),
        };
        let (op_count, principals) = ((head >> 32) as u32, Principals::of_table(table));
        Self { now: UnixMicros(now), op_count, principals, ops: reader }
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

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: UnixMicros = UnixMicros(0x0807_0605_0403_0201);

    /// A payload of two operations of clients and a TICK.
    fn payload(principals: &PrincipalRuns) -> BytesMut {
        let mut out = BytesMut::from("before");
        let batch = BatchBuilder::begin_named(&mut out, principals);
        assert_eq!(out.len() - 6, head_bytes(principals.bytes().len()));
        Op::encode_define(&mut out, b"w", b"s");
        Op::encode_define(&mut out, b"w", b"t");
        encode_tick(&mut out);
        batch.finish(&mut out, NOW, 3);
        out.split_off(6)
    }

    /// The payload's operations, and whose they are.
    fn taken_apart(payload: &[u8]) -> Vec<(Command<'_>, &[u8])> {
        let mut batch = Batch::decode(payload);
        assert_eq!((batch.now, batch.op_count), (NOW, 3));
        let mut principals = batch.principals;
        let ops = (0..batch.op_count).map(|at| (batch.take(), principals.of(at))).collect();
        assert!(batch.ops.is_empty() && principals.end_within(3));
        ops
    }

    fn define(sku: &[u8]) -> Command<'_> {
        let cell = crate::protocol::CellRef::Name { warehouse: b"w", sku };
        Command::Client(Op::Define { cell }, OpFlags::NAMES, None)
    }

    #[test]
    fn a_payload_of_nameless_clients_is_format_1() {
        let mut nobody = PrincipalRuns::default();
        nobody.add(b"", 2);
        let payload = payload(&nobody);
        assert_eq!(payload[..16], *b"\x01\0\0\0\x03\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(payload[16], crate::protocol::Opcode::Define as u8);
        let ops: [(_, &[u8]); 3] = [(define(b"s"), b""), (define(b"t"), b""), (Command::Tick, b"")];
        assert_eq!(taken_apart(&payload), ops);
    }

    #[test]
    fn a_payload_with_a_name_is_format_2() {
        let mut runs = PrincipalRuns::default();
        runs.add(b"", 1);
        runs.add(b"shop", 1);
        let named = payload(&runs);
        assert_eq!(
            named[..36],
            *b"\x02\0\0\0\x03\0\0\0\x01\x02\x03\x04\x05\x06\x07\x08\x0e\0\0\0\
                \x01\0\0\0\x00\x01\0\0\0\x04shop\x01\x04"
        );
        // Behind the table there is what a payload without names has behind its header.
        assert_eq!(named[34..], payload(&PrincipalRuns::default())[16..]);
        let ops: [(_, &[u8]); 3] =
            [(define(b"s"), b""), (define(b"t"), b"shop"), (Command::Tick, b"")];
        assert_eq!(taken_apart(&named), ops);
    }

    #[test]
    #[should_panic(expected = "principals that its header announces")]
    fn a_table_that_goes_beyond_the_payload_is_noticed() {
        let mut runs = PrincipalRuns::default();
        runs.add(b"shop", 2);
        Batch::decode(&payload(&runs)[..28]);
    }

    #[test]
    #[should_panic(expected = "batch format 1 or 2, not 3")]
    fn a_format_of_another_version_is_noticed() {
        let mut payload = payload(&PrincipalRuns::default());
        payload[0] = 3;
        Batch::decode(&payload);
    }
}
