//! A connection without manners: frames in, frames out, no retries. For load generators, and what
//! the [`Client`](crate::Client) is built on.
//!
//! ```text
//! Connection::connect ─ hello ─▶ Connection ─ split ─▶ Writer   buffer() … buffer() flush()
//!                                                  └─▶ Reader   next_burst() → frames of one read
//! ```
//!
//! One `flush` is one write of everything in the buffer; one `next_burst` is one read in the common
//! case. The caller encodes with `stockd_protocol::{begin_frame, finish_frame}` and
//! `stockd_protocol::Op::encode_*`, and numbers its requests from 1.

use std::io;

use bytes::BytesMut;
use stockd_protocol::{
    Code, ErrorReply, Frame, FrameError, Header, Hello, HelloReply, Kind, MAGIC, ShardId,
    UnixMillis, VERSION, begin_frame, finish_frame, limits, take_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::net::{OwnedReadHalf, OwnedWriteHalf, TcpStream};

/// Room made before each read: one read then brings up to a thousand small replies.
const READ_BYTES: usize = 64 * 1024;
/// … or as much as is missing of a large frame, up to this: fewer reads, and the buffer need not grow step by step.
const READ_BYTES_MAX: usize = 512 * 1024;
/// One may be filled, one wait, and one be looked at.
const SPARES_MAX: usize = 2;
/// A larger one is not kept: it was for a reply of many cells.
const SPARE_BYTES_MAX: usize = 2 << 20;

/// Why a connection cannot be used, or not any more.
#[derive(Debug)]
pub enum Error {
    /// The peer closed it.
    Closed,
    /// The peer sent bytes that are no frame.
    Frame(FrameError),
    /// The peer's first frame is no answer to a hello.
    NotStockd,
    /// The operating system says no.
    Io(io::Error),
    /// The server refuses this client, for example with VERSION.
    Refused {
        /// Why.
        code: Code,
        /// For people.
        message: String,
    },
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("the server closed the connection"),
            Self::Frame(error) => error.fmt(f),
            Self::NotStockd => f.write_str("what answers there does not speak stockd's protocol"),
            Self::Io(error) => error.fmt(f),
            Self::Refused { code, message } => write!(f, "the server refuses: {code}: {message}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<FrameError> for Error {
    fn from(error: FrameError) -> Self {
        Self::Frame(error)
    }
}

/// What the server said in its hello.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Greeting {
    /// The version both speak.
    pub version: u16,
    /// Largest frame the server takes.
    pub frame_bytes_max: u32,
    /// Most operations in a batch.
    pub batch_ops_max: u32,
    /// Most frames of this connection without a reply.
    pub frames_in_flight_max: u32,
    /// The same on all nodes of a cluster.
    pub cluster_id: u64,
    /// Which node this is.
    pub node_id: u64,
    /// The server's clock when it answered.
    pub server_now: UnixMillis,
    /// Where the leader serves clients, if this node knows.
    pub leader: Option<String>,
}

/// A connection whose hello is done.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    received: BytesMut,
    greeting: Greeting,
}

/// The sending half.
#[derive(Debug)]
pub struct Writer {
    half: OwnedWriteHalf,
    buffer: BytesMut,
}

/// The receiving half.
#[derive(Debug)]
pub struct Reader {
    half: OwnedReadHalf,
    received: Received,
    /// A whole frame that no burst has given out yet.
    first: Option<Frame>,
}

/// The whole frames that have arrived: an iterator that stops at the first incomplete one. Dropping
/// it early loses nothing.
#[derive(Debug)]
pub struct Burst<'a>(&'a mut Reader);

impl Connection {
    /// Connects to `address` (`host:port`) and says hello as `client_name` (cut to 64 bytes).
    ///
    /// # Errors
    /// Any of [`Error`]. No time limit is set here.
    pub async fn connect(address: &str, client_name: &str) -> Result<Self, Error> {
        let mut stream = TcpStream::connect(address).await?;
        // Frames are already coalesced; Nagle's algorithm would only hold back the last one.
        stream.set_nodelay(true)?;
        let mut hello = BytesMut::new();
        encode_hello(&mut hello, client_name);
        stream.write_all_buf(&mut hello).await?;
        let mut received = BytesMut::new();
        let frame = loop {
            if let Some(frame) = take_frame(&mut received, limits::FRAME_BYTES_MAX_BEFORE_HELLO)? {
                break frame;
            }
            received.reserve(READ_BYTES);
            read_some(&mut stream, &mut received).await?;
        };
        let greeting = decode_greeting(&frame)?;
        Ok(Self { stream, received, greeting })
    }

    /// What the server said in its hello.
    pub const fn greeting(&self) -> &Greeting {
        &self.greeting
    }

    /// The two halves, for one task each or for one that does both.
    pub fn split(self) -> (Writer, Reader) {
        let (reader, writer) = self.stream.into_split();
        (
            Writer { half: writer, buffer: BytesMut::new() },
            Reader { half: reader, received: Received::new(self.received), first: None },
        )
    }
}

impl Writer {
    /// Where to append whole frames before the next [`flush`](Self::flush).
    pub const fn buffer(&mut self) -> &mut BytesMut {
        &mut self.buffer
    }

    /// Writes everything in the buffer and empties it.
    ///
    /// # Errors
    /// The connection is broken. How much arrived is unknown.
    pub async fn flush(&mut self) -> Result<(), Error> {
        self.half.write_all(&self.buffer).await?;
        self.buffer.clear();
        Ok(())
    }
}

impl Reader {
    /// Waits for at least one whole frame and gives all that arrived with it. Cancelling it loses
    /// nothing.
    ///
    /// # Errors
    /// The connection is broken or closed, or brought bytes that are no frame.
    pub async fn next_burst(&mut self) -> Result<Burst<'_>, Error> {
        while self.first.is_none() {
            self.first = take_frame(&mut self.received.buffer, limits::REPLY_BYTES_MAX)?;
            if self.first.is_none() {
                self.received.make_room();
                read_some(&mut self.half, &mut self.received.buffer).await?;
            }
        }
        Ok(Burst(self))
    }
}

/// What was read, and memory to read to.
#[derive(Debug)]
struct Received {
    buffer: BytesMut,
    /// Bytes of its memory.
    bytes: usize,
    /// Ends of earlier buffers, of which somebody may still have frames, and the bytes of their memory.
    spares: Vec<(BytesMut, usize)>,
}

impl Received {
    const fn new(buffer: BytesMut) -> Self {
        Self { buffer, bytes: 0, spares: Vec::new() }
    }

    /// Makes room in memory that was used before, if nobody has frames in it any more. The allocator would give large
    /// buffers back to the system, and get them again with every page to be cleared.
    fn make_room(&mut self) {
        let room = room_for(&self.buffer);
        let left = self.buffer.capacity() - self.buffer.len();
        if self.buffer.try_reclaim(room) || left >= READ_BYTES {
            return;
        }
        let needed = self.buffer.len() + room.max(READ_BYTES);
        let fits = |(spare, _): &mut (BytesMut, usize)| spare.try_reclaim(needed);
        let (mut next, bytes) = match self.spares.iter_mut().position(fits) {
            Some(at) => self.spares.swap_remove(at),
            None => (BytesMut::with_capacity(needed), needed),
        };
        next.extend_from_slice(&self.buffer);
        self.buffer.clear();
        let full = std::mem::replace(&mut self.buffer, next);
        let full_bytes = std::mem::replace(&mut self.bytes, bytes);
        if self.spares.len() == SPARES_MAX {
            self.spares.remove(0);
        }
        if full_bytes <= SPARE_BYTES_MAX {
            self.spares.push((full, full_bytes));
        }
    }
}

impl Iterator for Burst<'_> {
    type Item = Result<Frame, FrameError>;

    fn next(&mut self) -> Option<Self::Item> {
        match self.0.first.take() {
            Some(first) => Some(Ok(first)),
            None => take_frame(&mut self.0.received.buffer, limits::REPLY_BYTES_MAX).transpose(),
        }
    }
}

async fn read_some(
    stream: &mut (impl AsyncReadExt + Unpin),
    buffer: &mut BytesMut,
) -> Result<(), Error> {
    match stream.read_buf(buffer).await? {
        0 => Err(Error::Closed),
        _ => Ok(()),
    }
}

/// For the next read: what is missing of the frame whose beginning is in the buffer, but no more than that grows by half.
fn room_for(buffer: &BytesMut) -> usize {
    let len = buffer.first_chunk::<4>().map_or(0, |len| u32::from_le_bytes(*len) as usize + 4);
    match len.saturating_sub(buffer.len()) {
        0 => READ_BYTES,
        missing => missing.min(READ_BYTES_MAX.max(buffer.len() / 2)),
    }
}

fn encode_hello(out: &mut BytesMut, client_name: &str) {
    let name = client_name.as_bytes();
    let client_name = &name[..name.len().min(limits::CLIENT_NAME_BYTES_MAX)];
    let header = Header { request_id: 0, kind: Kind::Hello, shard: ShardId(0) };
    let start = begin_frame(out, header);
    Hello { magic: MAGIC, version_min: VERSION, version_max: VERSION, client_name }.encode(out);
    finish_frame(out, start);
}

pub(crate) fn decode_greeting(frame: &Frame) -> Result<Greeting, Error> {
    match frame.header.kind {
        Kind::HelloReply => {}
        Kind::Error => return Err(decode_refusal(&frame.body)),
        _ => return Err(Error::NotStockd),
    }
    let reply = HelloReply::decode(&frame.body).map_err(|_| Error::NotStockd)?;
    if reply.version != VERSION {
        let message = format!("the server chose version {}, not {VERSION}", reply.version);
        return Err(Error::Refused { code: Code::VERSION, message });
    }
    Ok(Greeting {
        version: reply.version,
        frame_bytes_max: reply.frame_bytes_max,
        batch_ops_max: reply.batch_ops_max,
        frames_in_flight_max: reply.frames_in_flight_max,
        cluster_id: reply.cluster_id,
        node_id: reply.node_id,
        server_now: reply.server_now,
        leader: leader_address(reply.leader),
    })
}

fn decode_refusal(body: &[u8]) -> Error {
    match ErrorReply::decode(body) {
        Ok(reply) => Error::Refused {
            code: reply.code,
            message: String::from_utf8_lossy(reply.message).into_owned(),
        },
        Err(_) => Error::NotStockd,
    }
}

/// A leader's address as hellos and error replies carry it; `None` if it is unknown.
pub(crate) fn leader_address(bytes: &[u8]) -> Option<String> {
    std::str::from_utf8(bytes).ok().filter(|text| !text.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_used_again_when_nobody_has_frames_in_it() {
        let mut received = Received::new(BytesMut::new());
        let mut fill = |byte: u8| {
            received.make_room();
            received.buffer.extend_from_slice(&vec![byte; READ_BYTES]);
            // A part of the next frame.
            received.buffer.extend_from_slice(&[byte; 3]);
            let frame = received.buffer.split_to(received.buffer.len() - 3).freeze();
            assert!(received.spares.len() <= SPARES_MAX);
            frame
        };
        let (first, second, third) = (fill(1), fill(2), fill(3));
        let at = first.as_ptr();
        assert!(at != second.as_ptr() && at != third.as_ptr(), "each is held");
        assert_eq!(
            (second[..4].to_vec(), third[..4].to_vec()),
            (vec![1, 1, 1, 2], vec![2, 2, 2, 3])
        );
        drop(first);
        let fourth = fill(4);
        assert_eq!(fourth.as_ptr(), at, "the memory of the first");
        assert_eq!(fourth[..4], [3, 3, 3, 4]);
        assert_eq!((second[3], third[3]), (2, 3));
    }

    #[test]
    fn a_frame_that_is_larger_than_a_read_is_not_copied_each_time() {
        let bytes = 4 << 20;
        let mut received = Received::new(BytesMut::new());
        received.buffer.extend_from_slice(&(bytes as u32 - 4).to_le_bytes());
        let mut moved = 0;
        while received.buffer.len() < bytes {
            let at = received.buffer.as_ptr();
            received.make_room();
            moved += if received.buffer.as_ptr() == at { 0 } else { received.buffer.len() };
            let some = (bytes - received.buffer.len()).min(100_000);
            received.buffer.extend_from_slice(&vec![0; some]);
        }
        assert!(moved < 3 * bytes, "{moved}");
        received.buffer.clear();
        received.make_room();
        assert!(received.spares.iter().all(|(_, bytes)| *bytes <= SPARE_BYTES_MAX));
    }
}
