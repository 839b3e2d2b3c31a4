//! Serves the peers' port: decodes their requests, asks Raft, answers in order.
//!
//! A connection's appends reach Raft in the order they came, and many are in flight at once. While
//! this node waits to be taken into a cluster it refuses Raft's requests: a node that has lost its
//! disk must not answer under its old name.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesOrdered;
use openraft::raft::AppendEntriesResponse;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::core::Core;
use super::identity::Rules;
use super::leader_loss;
use super::link::Link;
use super::message::{self, put_join};
use super::peer_frame::{
    FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_HELLO, Frame, Kind, put_frame, take_frame,
};
use super::peer_hello::HelloReply;
use super::reconcile::{self, Statement};
use super::snapshot::{self, SnapshotHandle, aside, incoming_name};
use super::types::{MemberNode, TypeConfig, Vote, is_credible, put_vote, take_node};
use crate::log::{File, Storage};
use crate::protocol::{Reader, ShardId};
use crate::world::net::{TcpListener, TcpStream};

/// Peers use three connections each; more than this are strangers.
const CONNECTIONS_MAX: usize = 256;
/// A stranger has so long to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// Requests of one connection that wait for Raft.
const IN_FLIGHT_MAX: usize = 64;
/// A peer that asks nothing for so long is gone, or connects again when it has something to ask:
/// connections that a partition cut off must not use up [`CONNECTIONS_MAX`].
const IDLE_MAX: Duration = Duration::from_secs(60);
/// A peer that takes no bytes for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// Accepts peers until the node stops.
pub async fn serve(core: Arc<Core>, listener: TcpListener) {
    let connections = Arc::new(AtomicUsize::new(0));
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = core.stopping() => return,
        };
        let Ok((stream, _)) = accepted else {
            // Out of file descriptors, say: the next second may be better.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        if connections.fetch_add(1, Ordering::Relaxed) >= CONNECTIONS_MAX {
            connections.fetch_sub(1, Ordering::Relaxed);
            continue;
        }
        let (core, connections) = (core.clone(), connections.clone());
        tokio::spawn(async move {
            let mut session = Session::new(core.clone(), stream);
            let result = tokio::select! {
                result = session.serve() => result,
                () = core.stopping() => Ok(()),
            };
            // Who leaves before the hello only looked whether somebody is there.
            if let (Err(error), true) = (result, session.peer != 0) {
                core.note(format_args!("a peer's connection closed: {error}"));
            }
            core.leader_loss.connection_closed(&core, session.peer);
            connections.fetch_sub(1, Ordering::Relaxed);
        });
    }
}

type Answer = (u64, ShardId, Result<BytesMut, String>);

struct Session {
    core: Arc<Core>,
    stream: TcpStream,
    /// Who it is; 0 before the hello.
    peer: u64,
    /// The snapshot that arrives on this connection.
    incoming: Option<Incoming>,
    /// Why the last one was not taken, as the operator was told.
    said: String,
}

/// Its file is removed with it; an installed one has another name by then.
struct Incoming {
    storage: Arc<dyn Storage>,
    name: String,
    file: Arc<dyn File>,
    bytes: u64,
    done: u64,
}

impl Incoming {
    fn create(core: &Core, bytes: u64) -> io::Result<Self> {
        let name = incoming_name(core.incoming.fetch_add(1, Ordering::Relaxed));
        let file = core.storage.create(&name)?;
        Ok(Self { storage: core.storage.clone(), name, file, bytes, done: 0 })
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        // What cannot be removed now is removed by the next start.
        let _ = self.storage.remove(&self.name);
    }
}

fn invalid(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Session {
    const fn new(core: Arc<Core>, stream: TcpStream) -> Self {
        Self { core, stream, peer: 0, incoming: None, said: String::new() }
    }

    async fn serve(&mut self) -> io::Result<()> {
        self.stream.set_nodelay(true)?;
        let mut input = BytesMut::with_capacity(64 << 10);
        let hello = timeout(HELLO_TIMEOUT, self.read_hello(&mut input)).await;
        hello.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let mut answers: FuturesOrdered<BoxFuture<'static, Answer>> = FuturesOrdered::new();
        let mut output = BytesMut::new();
        loop {
            while answers.len() < IN_FLIGHT_MAX {
                let Some(frame) = take_frame(&mut input, FRAME_BYTES_MAX).map_err(invalid)? else {
                    break;
                };
                let answer = self.answer(frame).await;
                answers.push_back(answer);
            }
            let idle = tokio::time::sleep(IDLE_MAX);
            tokio::select! {
                () = idle, if answers.is_empty() => return Ok(()),
                read = self.stream.read_buf(&mut input), if answers.len() < IN_FLIGHT_MAX => {
                    if read? == 0 {
                        return Ok(());
                    }
                }
                Some(answer) = answers.next() => self.put_answer(&mut output, answer),
            }
            // Whatever else is ready goes into the same write.
            while let Some(Some(answer)) = futures_util::FutureExt::now_or_never(answers.next()) {
                self.put_answer(&mut output, answer);
            }
            if !output.is_empty() {
                let written = timeout(WRITE_TIMEOUT, self.stream.write_all(&output)).await;
                written.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
                output.clear();
            }
        }
    }

    async fn read_hello(&mut self, input: &mut BytesMut) -> io::Result<()> {
        let frame = loop {
            let taken = take_frame(input, FRAME_BYTES_MAX_BEFORE_HELLO).map_err(invalid)?;
            if let Some(frame) = taken {
                break frame;
            }
            if self.stream.read_buf(input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let hello = self.core.hello();
        let checked = match frame.kind {
            Kind::Hello => hello.check(&frame.body),
            _ => Err("say hello first".into()),
        };
        let mut output = BytesMut::new();
        let answer = checked.clone().map(|_| {
            let mut out = BytesMut::new();
            HelloReply {
                cluster_id: hello.cluster_id,
                node_id: hello.node_id,
                incarnation: hello.incarnation,
            }
            .encode(&mut out);
            out
        });
        self.put_answer(&mut output, (frame.request_id, frame.shard, answer));
        self.stream.write_all(&output).await?;
        self.peer = checked.map_err(io::Error::other)?;
        Ok(())
    }

    fn put_answer(&self, output: &mut BytesMut, (request_id, shard, answer): Answer) {
        let wall = self.core.world.clock.wall().0;
        match answer {
            Ok(body) => put_frame(output, request_id, Kind::Reply, shard, |out| {
                out.put_u64_le(wall);
                out.put_slice(&body);
            }),
            Err(why) => put_frame(output, request_id, Kind::Refused, shard, |out| {
                out.put_u64_le(wall);
                out.put_slice(why.as_bytes());
            }),
        }
    }

    async fn answer(&mut self, frame: Frame) -> BoxFuture<'static, Answer> {
        let Frame { request_id, kind, shard, body } = frame;
        let result: BoxFuture<'static, Result<BytesMut, String>> = match kind {
            _ if shard != self.core.shard => {
                let why = format!("this node has no shard {}", shard.0);
                Box::pin(std::future::ready(Err(why)))
            }
            Kind::SnapshotBegin | Kind::SnapshotChunk | Kind::SnapshotEnd => {
                let result = self.snapshot(kind, &body).await;
                if let Err(why) = &result {
                    self.give_up_snapshot(why);
                }
                Box::pin(std::future::ready(result))
            }
            Kind::Join => {
                let core = self.core.clone();
                Box::pin(async move { join(&core, &body).await })
            }
            Kind::Leave => {
                let core = self.core.clone();
                Box::pin(async move { leave(&core, &body).await })
            }
            Kind::Compared => Box::pin(std::future::ready(compared(&self.core, self.peer, &body))),
            Kind::Differing => Box::pin(std::future::ready(differing(&self.core, &body))),
            _ => {
                let core = self.core.clone();
                Box::pin(async move { raft(&core, kind, &body).await })
            }
        };
        Box::pin(async move { (request_id, shard, result.await) })
    }

    async fn snapshot(&mut self, kind: Kind, body: &Bytes) -> Result<BytesMut, String> {
        self.core.admit()?;
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let mut reader = Reader::new(body);
        let first = reader.u64().map_err(|_| "the message is cut short".to_owned())?;
        match kind {
            Kind::SnapshotBegin => {
                self.incoming = None;
                let incoming = Incoming::create(&self.core, first);
                self.incoming = Some(incoming.map_err(|error| text(&error))?);
                Ok(BytesMut::new())
            }
            Kind::SnapshotChunk => {
                let incoming = self.incoming.as_mut().ok_or("no snapshot was begun")?;
                let chunk = reader.rest();
                let end = first.saturating_add(chunk.len() as u64);
                if first != incoming.done || end > incoming.bytes {
                    return Err("a snapshot's chunk is out of order".into());
                }
                incoming.file.write_at(first, chunk).map_err(|error| text(&error))?;
                incoming.done = end;
                let what = "receiving a snapshot".to_owned();
                self.core.set_transfer(Some((what, end, incoming.bytes)));
                Ok(BytesMut::new())
            }
            _ => self.install(body).await,
        }
    }

    /// The leader begins anew. A node that cannot take what it needs to catch up tells its operator, once.
    fn give_up_snapshot(&mut self, why: &str) {
        self.incoming = None;
        self.core.set_transfer(None);
        if self.said != why {
            let peer = self.peer;
            self.core.note(format_args!("a snapshot from node {peer} cannot be taken: {why}"));
            why.clone_into(&mut self.said);
        }
    }

    async fn install(&mut self, body: &Bytes) -> Result<BytesMut, String> {
        let incoming = self.incoming.take().ok_or("no snapshot was begun")?;
        let (bytes, vote, meta) = message::take_snapshot_end(body).map_err(|e| e.to_string())?;
        check_term(&self.core, &vote)?;
        if bytes != incoming.bytes || incoming.done != bytes {
            return Err("the snapshot did not arrive whole".into());
        }
        let file = incoming.file.clone();
        let (storage, name) = (self.core.storage.clone(), incoming.name.clone());
        let deed = move || {
            file.sync_data()?;
            Ok(snapshot::verify(storage.as_ref(), &name))
        };
        let verified = aside(&self.core.world, "snapshot-sync", deed).await;
        verified.map_err(|error| error.to_string())?.map_err(|error| error.to_string())?;
        let data = SnapshotHandle { name: incoming.name.clone(), bytes };
        let snapshot =
            openraft::type_config::alias::SnapshotOf::<TypeConfig, _> { meta, snapshot: data };
        let installed = self.core.raft().install_full_snapshot(vote, snapshot).await;
        self.core.set_transfer(None);
        let response = installed.map_err(|error| error.to_string())?;
        let mut out = BytesMut::new();
        put_vote(&mut out, &response.vote);
        Ok(out)
    }
}

/// Takes a node in, or hands the request on to the leader, once.
async fn join(core: &Arc<Core>, body: &Bytes) -> Result<BytesMut, String> {
    let mut reader = Reader::new(body);
    let relayed = reader.u8().map_err(|_| "the request is cut short".to_owned())? != 0;
    let rules = Rules::take(&mut reader).map_err(|_| "the request is cut short".to_owned())?;
    let node: MemberNode = take_node(&mut reader).map_err(|error| error.to_string())?;
    core.admit()?;
    let own = Rules::of(&core.options.engine);
    if rules != own {
        return Err(format!(
            "this cluster has {own}, the node {rules}: start it with an empty --data directory and \
             the cluster's --grace-ms and --retention"
        ));
    }
    let leadership = core.leadership();
    match &leadership.leader {
        Some(leader) if leader.id != core.me() && !relayed => {
            let mut out = BytesMut::new();
            put_join(&mut out, &node, &rules, true);
            let mut link = Link::new(core.links(), leader.id, leader.peer_address.clone());
            let limit = core.timing().admin_timeout;
            let answer = link.call_within(Kind::Join, core.shard, out.freeze(), limit).await;
            return answer.map(|body| body.as_ref().into()).map_err(|error| error.to_string());
        }
        _ => core.take_in(node).await.map_err(|error| error.to_string())?,
    }
    let mut out = BytesMut::new();
    out.put_u64_le(core.hello().cluster_id);
    Ok(out)
}

/// Removes a node that led and handed over.
async fn leave(core: &Arc<Core>, body: &Bytes) -> Result<BytesMut, String> {
    let id = Reader::new(body).u64().map_err(|_| "the request is cut short".to_owned())?;
    core.admit()?;
    core.remove(id).await.map_err(|error| error.to_string())?;
    Ok(BytesMut::new())
}

/// Hears what a node says of its state.
fn compared(core: &Core, peer: u64, body: &[u8]) -> Result<BytesMut, String> {
    core.admit()?;
    core.must_lead().map_err(|error| error.to_string())?;
    let told = Statement::decode(body).map_err(|_| "the message is cut short".to_owned())?;
    let told = told.ok_or("this version does not know what is told")?;
    let mut out = BytesMut::new();
    out.put_u8(u8::from(reconcile::hear(core, peer, told)));
    Ok(out)
}

/// Tells a node where its state is not this one's.
fn differing(core: &Core, body: &[u8]) -> Result<BytesMut, String> {
    core.admit()?;
    core.must_lead().map_err(|error| error.to_string())?;
    if !core.shared.reconciler.is_right(core.me()) {
        return Err("the state of this node was found to be wrong, too".to_owned());
    }
    reconcile::differing(core, body).map_err(|_| "the message is cut short".to_owned())
}

/// # Errors
/// The vote's term is not one that this node can believe.
fn check_term(core: &Core, vote: &Vote) -> Result<(), String> {
    let (own, term) = (core.leadership().term, vote.leader_id.term);
    match is_credible(vote, own) {
        true => Ok(()),
        false => Err(format!("term {term} is not possible after term {own}")),
    }
}

async fn raft(core: &Core, kind: Kind, body: &Bytes) -> Result<BytesMut, String> {
    core.admit()?;
    let raft = core.raft();
    let mut out = BytesMut::new();
    let malformed = |error: super::types::Malformed| error.to_string();
    match kind {
        Kind::Append => {
            let (request, word) = message::take_append(body).map_err(malformed)?;
            check_term(core, &request.vote)?;
            let response = raft.append_entries(request).await.map_err(|e| e.to_string())?;
            if !matches!(response, AppendEntriesResponse::HigherVote(_)) {
                core.heard_leader(word);
            }
            message::put_append_response(&mut out, &response, core.stamp());
        }
        Kind::Vote | Kind::PreVote => {
            core.admit_vote()?;
            let mut request = message::take_vote_request(body).map_err(malformed)?;
            check_term(core, &request.vote)?;
            if kind == Kind::Vote && !request.leadership_transfer {
                // To openraft a transfer is a vote that need not wait for the leader's lease.
                request.leadership_transfer = leader_loss::is_certain(core).await;
            }
            let response = match kind {
                Kind::Vote => raft.vote(request).await,
                _ => raft.pre_vote(request).await,
            };
            message::put_vote_response(&mut out, &response.map_err(|error| error.to_string())?);
        }
        Kind::TransferLeader => {
            let request = message::take_transfer(body).map_err(malformed)?;
            check_term(core, request.from_leader())?;
            let response = raft.handle_transfer_leader(request).await;
            message::put_transfer_response(&mut out, &response.map_err(|error| error.to_string())?);
        }
        _ => return Err("peers do not ask this".into()),
    }
    Ok(out)
}
