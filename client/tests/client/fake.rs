//! A server that does what a test tells it to, frame by frame.

use bytes::{BufMut, BytesMut};
use stockd_client::{Code, Options, ReservationState, UnixMillis};
use stockd_protocol::{
    ErrorReply, Frame, Header, HelloReply, Kind, Opcode, OutcomeHeader, Reader, ReplyPrefix,
    ShardId, VERSION, begin_frame, begin_outcome, finish_frame, finish_outcome, limits, take_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

pub const NOW: UnixMillis = UnixMillis(1_800_000_000_000);
pub const INDEX: u64 = 77;

/// A listening node.
pub struct Node {
    listener: TcpListener,
    pub address: String,
    pub frames_in_flight_max: u32,
    pub frame_bytes_max: u32,
    cluster_id: u64,
}

/// One accepted connection.
pub struct Peer {
    stream: TcpStream,
    buffer: BytesMut,
}

impl Node {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        Self {
            listener,
            address,
            frames_in_flight_max: 1000,
            frame_bytes_max: limits::FRAME_BYTES_MAX,
            cluster_id: 1,
        }
    }

    /// It says that it is of another cluster than the others; 0: of none yet.
    pub fn of_cluster(mut self, cluster_id: u64) -> Self {
        self.cluster_id = cluster_id;
        self
    }

    /// Takes the next connection and answers its hello, naming `leader` (empty: unknown).
    pub async fn accept(&self, leader: &str) -> Peer {
        let mut peer = self.accept_silent().await;
        let hello = peer.frame().await.expect("a hello");
        assert_eq!(hello.header.kind, Kind::Hello);
        let reply = HelloReply {
            version: VERSION,
            frame_bytes_max: self.frame_bytes_max,
            batch_ops_max: limits::BATCH_OPS_MAX,
            frames_in_flight_max: self.frames_in_flight_max,
            cluster_id: self.cluster_id,
            node_id: 2,
            server_now: NOW,
            leader: leader.as_bytes(),
        };
        let header = Header { kind: Kind::HelloReply, ..hello.header };
        peer.send(frame(header, |out| reply.encode(out))).await;
        peer
    }

    /// Takes the next connection as the leader.
    pub async fn accept_as_leader(&self) -> Peer {
        self.accept(&self.address).await
    }

    /// Takes the next connection and says nothing.
    pub async fn accept_silent(&self) -> Peer {
        let (stream, _) = self.listener.accept().await.unwrap();
        Peer { stream, buffer: BytesMut::new() }
    }

    /// Answers everything of everybody with `answer`; `None` swallows it.
    pub async fn serve_all(&self, answer: impl Fn(&Frame) -> Option<BytesMut>) -> ! {
        loop {
            let mut peer = self.accept_as_leader().await;
            while let Some(frame) = peer.frame().await {
                if let Some(answer) = answer(&frame) {
                    peer.send(answer).await;
                }
            }
        }
    }
}

impl Peer {
    /// The next frame, or `None` when the client has closed the connection.
    pub async fn frame(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.buffer, limits::FRAME_BYTES_MAX).unwrap() {
                return Some(frame);
            }
            // A client that closes with our bytes unread resets the connection.
            if self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) == 0 {
                return None;
            }
        }
    }

    pub async fn expect(&mut self) -> Frame {
        self.frame().await.expect("a frame, not the end of the connection")
    }

    pub async fn send(&mut self, bytes: BytesMut) {
        self.stream.write_all(&bytes).await.unwrap();
    }
}

pub fn frame(header: Header, body: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    let start = begin_frame(&mut out, header);
    body(&mut out);
    finish_frame(&mut out, start);
    out
}

/// Appends one outcome.
pub fn outcome(out: &mut BytesMut, code: Code, detail: u16, body: impl FnOnce(&mut BytesMut)) {
    let start = begin_outcome(out, OutcomeHeader { code, detail });
    body(out);
    finish_outcome(out, start);
}

/// A reply to a single operation.
pub fn reply(to: &Frame, code: Code, detail: u16, body: impl FnOnce(&mut BytesMut)) -> BytesMut {
    replies(to, None, |out| outcome(out, code, detail, body))
}

/// A reply with whatever outcomes `body` appends; `count` for a batch.
pub fn replies(to: &Frame, count: Option<u32>, body: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let kind = if count.is_some() { Kind::BatchReply } else { Kind::OpReply };
    let header = Header { request_id: to.header.request_id, kind, shard: ShardId(0) };
    frame(header, |out| {
        ReplyPrefix { index: INDEX, server_now: NOW, age_ms: 0 }.encode(out);
        if let Some(count) = count {
            out.put_u32_le(count);
        }
        body(out);
    })
}

/// A reply that grants a reserve until `deadline`.
pub fn grant(to: &Frame, code: Code, deadline: u64) -> BytesMut {
    reply(to, code, ReservationState::Active as u16, |out| out.put_u64_le(deadline))
}

/// A reply that refuses the whole frame.
pub fn error(to: &Frame, code: Code, retry_after_ms: u32, leader: &str) -> BytesMut {
    let leader = leader.as_bytes();
    refusal(to, &ErrorReply { code, retry_after_ms, leader, message: b"no", event: 0 })
}

pub fn refusal(to: &Frame, reply: &ErrorReply<'_>) -> BytesMut {
    let kind = Kind::Error;
    let header = Header { request_id: to.header.request_id, kind, shard: ShardId(0) };
    frame(header, |out| reply.encode(out))
}

/// The opcodes, RETRY flags and bodies of a request's operations. Bodies start with the id, where
/// there is one.
pub fn ops(frame: &Frame) -> Vec<(u8, bool, Vec<u8>)> {
    let mut reader = Reader::new(&frame.body);
    if frame.header.kind == Kind::Batch {
        reader.u32().unwrap();
    }
    let mut ops = Vec::new();
    while !reader.is_empty() {
        let (opcode, flags) = (reader.u8().unwrap(), reader.u8().unwrap());
        reader.u16().unwrap();
        let len = reader.u32().unwrap();
        ops.push((opcode, flags & 1 != 0, reader.bytes(len as usize).unwrap().to_vec()));
    }
    ops
}

/// The only operation of a request.
pub fn op(frame: &Frame) -> (u8, bool, Vec<u8>) {
    let mut ops = ops(frame);
    assert_eq!((frame.header.kind, ops.len()), (Kind::Op, 1));
    ops.remove(0)
}

pub fn is(frame: &Frame, opcode: Opcode) -> bool {
    op(frame).0 == opcode as u8
}

/// Patient defaults: a test that works never waits for them.
pub fn options(nodes: &[&Node]) -> Options {
    Options::new(nodes.iter().map(|node| node.address.clone()))
}
