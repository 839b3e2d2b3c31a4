//! A connection that has said hello, and the search for the node that leads.

use std::time::Duration;

use bytes::BytesMut;
use stockd_protocol::{
    ErrorReply, Frame, Header, Hello, HelloReply, Kind, MAGIC, ShardId, VERSION, begin_frame,
    finish_frame, limits, take_frame,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// A connection that has said hello.
#[derive(Debug)]
pub struct Link {
    /// The socket.
    pub stream: TcpStream,
    /// Bytes read and not yet taken.
    pub input: BytesMut,
    /// What the server allows.
    pub bounds: Bounds,
    /// Where the hello said that the leader is; empty: unknown.
    pub leader: String,
}

/// What a server's hello allows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// Largest frame.
    pub frame_bytes_max: u32,
    /// Most operations in a batch.
    pub batch_ops_max: u32,
    /// Most frames in flight on a connection.
    pub frames_in_flight_max: u32,
}

/// Where nodes may be found.
#[derive(Clone, Debug)]
pub struct Nodes {
    addresses: Vec<String>,
    next: usize,
    hint: Option<String>,
    client_name: String,
}

/// No node could be reached, or the one that was does not talk this protocol.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LinkError(pub String);

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LinkError {}

const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
const ATTEMPT_PAUSE: Duration = Duration::from_millis(20);

impl Nodes {
    /// Tries the addresses in turn, the first one first.
    pub fn new(addresses: Vec<String>) -> Self {
        Self { addresses, next: 0, hint: None, client_name: "stockd-bench".to_owned() }
    }

    /// What connections call themselves from now on.
    #[must_use]
    pub fn called(self, client_name: String) -> Self {
        Self { client_name, ..self }
    }

    /// Somebody said that this node leads: try it first.
    pub fn leads(&mut self, leader: Option<String>) {
        self.hint = leader;
    }

    /// Finds a node that leads, trying for at most `patience`.
    ///
    /// # Errors
    /// None was found; the last failure is named.
    pub async fn connect(&mut self, patience: Duration) -> Result<Link, LinkError> {
        let end = Instant::now() + patience;
        loop {
            let (address, hinted) = match self.hint.take() {
                Some(leader) => (leader, true),
                None => {
                    self.next += 1;
                    (self.addresses[(self.next - 1) % self.addresses.len()].clone(), false)
                }
            };
            let failure = match Link::open(&address, &self.client_name).await {
                // One step to the leader is worth it; a node that was named as the leader is taken
                // at its word, and says NOT_LEADER if it is not.
                Ok(link) if hinted || link.leader == address || self.addresses.len() == 1 => {
                    self.next = self.next.saturating_sub(usize::from(!hinted));
                    return Ok(link);
                }
                Ok(link) if link.leader.is_empty() => LinkError(format!("{address}: no leader")),
                Ok(link) => {
                    self.hint = Some(link.leader);
                    continue;
                }
                Err(error) => error,
            };
            if Instant::now() >= end {
                return Err(failure);
            }
            sleep(ATTEMPT_PAUSE).await;
        }
    }
}

impl Link {
    /// Connects and says hello.
    ///
    /// # Errors
    /// Nobody listens there, or whoever does is no stockd of this version.
    pub async fn open(address: &str, client_name: &str) -> Result<Self, LinkError> {
        let fail = |error: &dyn std::fmt::Display| LinkError(format!("{address}: {error}"));
        match timeout(HELLO_TIMEOUT, Self::greet(address, client_name)).await {
            Ok(Ok(link)) => Ok(link),
            Ok(Err(error)) => Err(fail(&error)),
            Err(_) => Err(fail(&"no answer to the hello within 2 s")),
        }
    }

    async fn greet(address: &str, client_name: &str) -> std::io::Result<Self> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut out = BytesMut::new();
        let header = Header { request_id: 0, kind: Kind::Hello, shard: ShardId(0) };
        let start = begin_frame(&mut out, header);
        let hello = Hello {
            magic: MAGIC,
            version_min: VERSION,
            version_max: VERSION,
            client_name: client_name.as_bytes(),
        };
        hello.encode(&mut out);
        finish_frame(&mut out, start);
        stream.write_all(&out).await?;
        let mut input = BytesMut::with_capacity(64 << 10);
        let frame = read_frame(&mut stream, &mut input).await?;
        let malformed = || std::io::Error::other("the hello's reply is no stockd hello");
        match frame.header.kind {
            Kind::HelloReply => {}
            Kind::Error => {
                let error = ErrorReply::decode(&frame.body).map_err(|_| malformed())?;
                let message = String::from_utf8_lossy(error.message);
                return Err(std::io::Error::other(format!("{}: {message}", error.code)));
            }
            _ => return Err(malformed()),
        }
        let reply = HelloReply::decode(&frame.body).map_err(|_| malformed())?;
        let bounds = Bounds {
            frame_bytes_max: reply.frame_bytes_max,
            batch_ops_max: reply.batch_ops_max,
            frames_in_flight_max: reply.frames_in_flight_max,
        };
        let leader = String::from_utf8_lossy(reply.leader).into_owned();
        Ok(Self { stream, input, bounds, leader })
    }
}

/// Reads until a whole frame is there.
///
/// # Errors
/// The connection broke or the bytes are no frame.
pub async fn read_frame(stream: &mut TcpStream, input: &mut BytesMut) -> std::io::Result<Frame> {
    loop {
        let frame = take_frame(input, limits::REPLY_BYTES_MAX).map_err(std::io::Error::other)?;
        if let Some(frame) = frame {
            return Ok(frame);
        }
        input.reserve(64 << 10);
        if stream.read_buf(input).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
