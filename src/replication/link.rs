//! One connection to a peer: requests out, replies matched by id, many in flight.
//!
//! A link connects when it is first used. It fails as a whole: after an I/O error, a bad frame or a
//! silent peer, every waiting request gets an error and the next request connects anew.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::clock::PeerOffsets;
use super::peer_frame::{FRAME_BYTES_MAX, Frame, Kind, put_frame, take_frame};
use super::peer_hello::{HelloReply, PeerHello};
use crate::protocol::{Reader, ShardId};
use crate::world::net::TcpStream;
use crate::world::{UnixMicros, World};

/// How long connecting and the hello may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// A peer that owes an answer and says nothing for so long is given up. A stuck append stream
/// would hold back the purge of the leader's log for ever.
pub const SILENCE_MAX: Duration = Duration::from_secs(4);
/// Requests that wait to be written. Raft has fewer in flight.
const QUEUE_MAX: usize = 256;
/// Written at once at most, so that a burst of large appends does not pile up.
const WRITE_BYTES_MAX: usize = 4 << 20;

/// Why a request to a peer failed. It may have arrived all the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LinkError {
    /// The peer cannot be reached.
    Unreachable(String),
    /// The connection broke or the peer was silent.
    Broken(String),
    /// The peer refused to do it; the text is its own.
    Refused(String),
}

impl std::fmt::Display for LinkError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unreachable(why) | Self::Broken(why) | Self::Refused(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for LinkError {}

/// What every link of a node needs.
#[derive(Clone)]
pub struct LinkContext {
    pub world: World,
    pub hello: Arc<Mutex<PeerHello>>,
    pub offsets: Arc<Mutex<PeerOffsets>>,
}

type Answer = oneshot::Sender<Result<Bytes, LinkError>>;

struct Request {
    kind: Kind,
    shard: ShardId,
    body: Bytes,
    answer: Answer,
}

/// The sending end of a link; dropping it closes the connection.
pub struct Link {
    context: LinkContext,
    peer: u64,
    address: String,
    requests: Option<mpsc::Sender<Request>>,
}

impl Link {
    /// A link to node `peer` at `address`; 0 if its id is not known yet.
    pub fn new(context: LinkContext, peer: u64, address: String) -> Self {
        Self { context, peer, address, requests: None }
    }

    /// Sends a request now and returns its answer's future, so that many can be in flight.
    ///
    /// # Errors
    /// The future fails when the peer cannot be reached, breaks off, is silent for
    /// [`SILENCE_MAX`], or refuses.
    pub fn call(
        &mut self,
        kind: Kind,
        shard: ShardId,
        body: Bytes,
    ) -> impl Future<Output = Result<Bytes, LinkError>> + Send + use<> {
        let (answer, answered) = oneshot::channel();
        let request = Request { kind, shard, body, answer };
        let sent = self.sender().try_send(request);
        async move {
            match sent {
                Ok(()) => answered
                    .await
                    .unwrap_or_else(|_| Err(LinkError::Broken("the connection closed".into()))),
                Err(_) => Err(LinkError::Broken("too many requests wait for this peer".into())),
            }
        }
    }

    /// Like [`call`](Self::call), with its own time limit; a late answer breaks the connection.
    pub async fn call_within(
        &mut self,
        kind: Kind,
        shard: ShardId,
        body: Bytes,
        limit: Duration,
    ) -> Result<Bytes, LinkError> {
        let answer = self.call(kind, shard, body);
        match timeout(limit, answer).await {
            Ok(result) => result,
            Err(_) => {
                self.close();
                Err(LinkError::Broken(format!("no answer within {limit:?}")))
            }
        }
    }

    /// Breaks the connection; the next request makes a new one.
    pub fn close(&mut self) {
        self.requests = None;
    }

    fn sender(&mut self) -> &mpsc::Sender<Request> {
        if self.requests.as_ref().is_some_and(mpsc::Sender::is_closed) {
            self.requests = None;
        }
        self.requests.get_or_insert_with(|| {
            let (requests, incoming) = mpsc::channel(QUEUE_MAX);
            let (context, peer, address) = (self.context.clone(), self.peer, self.address.clone());
            tokio::spawn(async move { run(context, peer, &address, incoming).await });
            requests
        })
    }
}

async fn run(
    context: LinkContext,
    peer: u64,
    address: &str,
    mut requests: mpsc::Receiver<Request>,
) {
    let connected = match timeout(CONNECT_TIMEOUT, connect(&context, peer, address)).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {CONNECT_TIMEOUT:?}")),
    };
    let stream = match connected {
        Ok(stream) => stream,
        Err(why) => {
            let error = LinkError::Unreachable(format!("peer {address}: {why}"));
            requests.close();
            while let Some(request) = requests.recv().await {
                // Whoever asked may have given up.
                let _ = request.answer.send(Err(error.clone()));
            }
            return;
        }
    };
    let mut connection = Connection { context, peer, stream, waiting: BTreeMap::new(), next_id: 1 };
    let why = connection.serve(&mut requests).await;
    let error = LinkError::Broken(format!("peer {address}: {why}"));
    requests.close();
    for (_, waiting) in std::mem::take(&mut connection.waiting) {
        let _ = waiting.answer.send(Err(error.clone()));
    }
    while let Some(request) = requests.recv().await {
        let _ = request.answer.send(Err(error.clone()));
    }
}

async fn connect(context: &LinkContext, peer: u64, address: &str) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let mut out = BytesMut::new();
    let hello = context.hello.lock().expect("no holder panics").clone();
    put_frame(&mut out, 0, Kind::Hello, ShardId(0), |out| hello.encode(out, peer));
    let sent = context.world.clock.monotonic();
    stream.write_all(&out).await?;
    let mut buffer = BytesMut::new();
    loop {
        if let Some(frame) = take_frame(&mut buffer, FRAME_BYTES_MAX).map_err(invalid)? {
            let round_trip = context.world.clock.monotonic() - sent;
            let body = answer_body(context, peer, &frame, round_trip).map_err(io::Error::other)?;
            HelloReply::decode(&body).map_err(invalid)?;
            return Ok(stream);
        }
        if stream.read_buf(&mut buffer).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// Takes the clock off an answer and notes it.
fn answer_body(
    context: &LinkContext,
    peer: u64,
    frame: &Frame,
    round_trip: Duration,
) -> Result<Bytes, LinkError> {
    let mut reader = Reader::new(&frame.body);
    let Ok(theirs) = reader.u64() else {
        return Err(LinkError::Broken("an answer is cut short".into()));
    };
    let clock = context.world.clock.as_ref();
    // One that is not known by its id is known by another link, and must not count twice.
    if peer != 0 {
        let mut offsets = context.offsets.lock().expect("no holder panics");
        offsets.observe(clock, peer, UnixMicros(theirs), round_trip);
    }
    match frame.kind {
        Kind::Reply => Ok(frame.body.slice(8..)),
        _ => Err(LinkError::Refused(String::from_utf8_lossy(reader.rest()).into_owned())),
    }
}

struct Waiting {
    answer: Answer,
    sent: Duration,
    /// Its caller sets a limit: loading a whole state or changing the membership takes longer than
    /// [`SILENCE_MAX`].
    slow: bool,
}

struct Connection {
    context: LinkContext,
    peer: u64,
    stream: TcpStream,
    waiting: BTreeMap<u64, Waiting>,
    next_id: u64,
}

impl Connection {
    /// Serves until the owner drops the link or something breaks; says why.
    async fn serve(&mut self, requests: &mut mpsc::Receiver<Request>) -> String {
        let mut input = BytesMut::with_capacity(64 << 10);
        let mut output = BytesMut::new();
        loop {
            let silence = tokio::time::sleep(SILENCE_MAX);
            let step = tokio::select! {
                request = requests.recv(), if output.len() < WRITE_BYTES_MAX => match request {
                    Some(request) => { self.take_requests(request, requests, &mut output); Ok(1) }
                    None => return "closed by this node".into(),
                },
                read = self.stream.read_buf(&mut input) => read,
                () = silence, if self.waiting.values().any(|waiting| !waiting.slow) => {
                    Err(io::Error::new(io::ErrorKind::TimedOut, "the peer is silent"))
                }
            };
            let result = match step {
                Ok(0) => return "the peer closed the connection".into(),
                Ok(_) => self.take_answers(&mut input),
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = result {
                return why;
            }
            if !output.is_empty() {
                match timeout(SILENCE_MAX, self.stream.write_all(&output)).await {
                    Ok(Ok(())) => output.clear(),
                    Ok(Err(error)) => return error.to_string(),
                    Err(_) => return "the peer takes no bytes".into(),
                }
            }
        }
    }

    /// Encodes a request and those that wait behind it into one write.
    fn take_requests(
        &mut self,
        first: Request,
        requests: &mut mpsc::Receiver<Request>,
        output: &mut BytesMut,
    ) {
        let mut next = Some(first);
        while let Some(request) = next {
            let id = self.next_id;
            self.next_id += 1;
            put_frame(output, id, request.kind, request.shard, |out| {
                out.extend_from_slice(&request.body);
            });
            let slow = matches!(request.kind, Kind::Join | Kind::Leave | Kind::SnapshotEnd);
            let sent = self.context.world.clock.monotonic();
            self.waiting.insert(id, Waiting { answer: request.answer, sent, slow });
            next = if output.len() < WRITE_BYTES_MAX { requests.try_recv().ok() } else { None };
        }
    }

    fn take_answers(&mut self, input: &mut BytesMut) -> Result<(), String> {
        while let Some(frame) = take_frame(input, FRAME_BYTES_MAX).map_err(|e| e.to_string())? {
            let Some(Waiting { answer, sent, .. }) = self.waiting.remove(&frame.request_id) else {
                return Err(format!("an answer to the unknown request {}", frame.request_id));
            };
            let round_trip = self.context.world.clock.monotonic() - sent;
            let body = answer_body(&self.context, self.peer, &frame, round_trip);
            // Whoever asked may have given up.
            let _ = answer.send(body);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peer_that_is_not_known_by_its_id_does_not_count_twice() {
        let hello = PeerHello { cluster_id: 1, node_id: 1, incarnation: 1 };
        let context = LinkContext {
            world: World::real(),
            hello: Arc::new(Mutex::new(hello)),
            offsets: Arc::default(),
        };
        let hour_ahead = context.world.clock.wall().0 + 3_600_000_000;
        let body = Bytes::copy_from_slice(&hour_ahead.to_le_bytes());
        let frame = Frame { request_id: 1, kind: Kind::Reply, shard: ShardId(0), body };
        let skew_after = |peer| {
            assert!(answer_body(&context, peer, &frame, Duration::ZERO).is_ok());
            context.offsets.lock().unwrap().skew(context.world.clock.as_ref())
        };
        assert_eq!(skew_after(0), Duration::ZERO, "a request to be taken in");
        assert!(skew_after(2) > Duration::from_secs(3_000));
    }
}
