//! What openraft says to its peers, over two links per peer and one for snapshots.
//!
//! - *data*: appends with entries, pipelined;
//! - *control*: heartbeats, votes, hand-over: they never wait behind a large append;
//! - *snapshot*: a snapshot's chunks, while one is sent.
//!
//! openraft puts no time limit on a stream, so the links have their own (see `link`).

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use openraft::OptionalSend;
use openraft::base::{BoxFuture, BoxStream};
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{RPCOption, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult,
    TransferLeaderRequest, TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::freshness::Witness;
use super::link::{Link, LinkContext, LinkError};
use super::message;
use super::peer_frame::Kind;
use super::snapshot::{CHUNK_BYTES_MAX, SnapshotHandle};
use super::types::{Malformed, MemberNode, TypeConfig, Vote, is_credible, take_vote};
use crate::log::Storage;
use crate::protocol::{Reader, ShardId};
use crate::world::Clock;

/// How many appends are in flight to one follower.
const APPENDS_IN_FLIGHT: usize = 16;
/// An append may wait for the follower's disk, so for a slow sync.
const APPEND_TIMEOUT: Duration = Duration::from_secs(4);
/// A vote waits for one sync.
const VOTE_TIMEOUT: Duration = Duration::from_secs(1);
/// A chunk is written, not synced; the last request also loads the whole state.
const SNAPSHOT_CHUNK_TIMEOUT: Duration = Duration::from_secs(10);
const SNAPSHOT_END_TIMEOUT: Duration = Duration::from_secs(600);

/// A transfer's name, bytes done and bytes in all, for `status`.
pub type Transfer = Arc<Mutex<Option<(String, u64, u64)>>>;

/// Makes the links.
pub struct Network {
    pub context: LinkContext,
    pub shard: ShardId,
    pub storage: Arc<dyn Storage>,
    pub transfer: Transfer,
    pub witness: Witness,
    /// One control link per peer and address, shared by votes and heartbeats.
    pub control: BTreeMap<(u64, String), Arc<tokio::sync::Mutex<Link>>>,
}

impl Network {
    fn peer(&mut self, target: u64, node: &MemberNode, heartbeat: bool) -> Peer {
        let address = node.info.peer_address.clone();
        let link = || Link::new(self.context.clone(), target, address.clone());
        let data = link();
        let control = self.control.entry((target, address.clone()));
        let control = control.or_insert_with(|| Arc::new(tokio::sync::Mutex::new(link()))).clone();
        Peer {
            target,
            heartbeat,
            shard: self.shard,
            data,
            control,
            storage: self.storage.clone(),
            transfer: self.transfer.clone(),
            witness: self.witness.clone(),
            clock: self.context.world.clock.clone(),
        }
    }
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &MemberNode) -> Peer {
        self.peer(target, node, false)
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &MemberNode) -> Peer {
        self.peer(target, node, true)
    }
}

/// One peer as openraft sees it.
pub struct Peer {
    target: u64,
    heartbeat: bool,
    shard: ShardId,
    data: Link,
    control: Arc<tokio::sync::Mutex<Link>>,
    storage: Arc<dyn Storage>,
    transfer: Transfer,
    witness: Witness,
    clock: Arc<dyn Clock>,
}

type RpcError = RPCError<TypeConfig>;

fn rpc_error(error: LinkError) -> RpcError {
    match error {
        LinkError::Broken(_) => RPCError::Network(NetworkError::new(&error)),
        LinkError::Refused(_) | LinkError::Unreachable(_) => {
            RPCError::Unreachable(Unreachable::new(&error))
        }
    }
}

/// An append that was sent.
struct Sent {
    to: u64,
    at: Duration,
    vote: Vote,
}

impl Sent {
    /// Takes its answer, and notes what that says of this leader beside what openraft makes of it.
    fn answered(
        self,
        body: Result<Bytes, LinkError>,
        witness: &Witness,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let (response, stamp) = decoded(body, |body| message::take_append_response(body))?;
        witness.heard(self.to, stamp);
        match &response {
            AppendEntriesResponse::HigherVote(vote) => believed(vote, &self.vote)?,
            _ => witness.acked(self.to, self.at),
        }
        Ok(response)
    }
}

/// A vote that comes back to who voted `own` must be possible.
fn believed(vote: &Vote, own: &Vote) -> Result<(), RpcError> {
    match is_credible(vote, own.leader_id.term) {
        true => Ok(()),
        false => Err(RPCError::Network(NetworkError::new(&Malformed))),
    }
}

fn decoded<T>(
    body: Result<Bytes, LinkError>,
    decode: impl FnOnce(&Bytes) -> Result<T, Malformed>,
) -> Result<T, RpcError> {
    let body = body.map_err(rpc_error)?;
    decode(&body).map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

impl Peer {
    async fn control(
        &mut self,
        kind: Kind,
        body: BytesMut,
        limit: Duration,
    ) -> Result<Bytes, LinkError> {
        let answer = self.control.lock().await.call(kind, self.shard, body.freeze());
        match tokio::time::timeout(limit, answer).await {
            Ok(result) => result,
            Err(_) => {
                // A peer that let a vote or a heartbeat wait so long gets a new connection.
                self.control.lock().await.close();
                Err(LinkError::Broken(format!("no answer within {limit:?}")))
            }
        }
    }

    async fn ask_vote(
        &mut self,
        kind: Kind,
        request: &VoteRequest<TypeConfig>,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        let mut out = BytesMut::new();
        message::put_vote_request(&mut out, request);
        let body = self.control(kind, out, VOTE_TIMEOUT).await;
        let response = decoded(body, |body| message::take_vote_response(body))?;
        believed(&response.vote, &request.vote)?;
        Ok(response)
    }

    async fn send_snapshot(
        &mut self,
        vote: Vote,
        snapshot: &openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotHandle>,
    ) -> Result<Vote, LinkError> {
        let handle = &snapshot.snapshot;
        let storage = self.storage.clone();
        let broken = |error: std::io::Error| LinkError::Broken(error.to_string());
        let file = storage.open(&handle.name).map_err(broken)?;
        let mut out = BytesMut::new();
        message::put_snapshot_begin(&mut out, handle.bytes);
        self.snapshot_call(Kind::SnapshotBegin, out).await?;
        let mut offset = 0;
        while offset < handle.bytes {
            let len = (handle.bytes - offset).min(CHUNK_BYTES_MAX as u64) as usize;
            let mut out = BytesMut::with_capacity(len + 16);
            out.put_u64_le(offset);
            out.resize(8 + len, 0);
            file.read_at(offset, &mut out[8..]).map_err(broken)?;
            self.snapshot_call(Kind::SnapshotChunk, out).await?;
            offset += len as u64;
            self.note(offset, handle.bytes);
        }
        let mut out = BytesMut::new();
        message::put_snapshot_end(&mut out, &vote, &snapshot.meta, handle.bytes);
        let shard = self.shard;
        let answer =
            self.data.call_within(Kind::SnapshotEnd, shard, out.freeze(), SNAPSHOT_END_TIMEOUT);
        let body = answer.await?;
        let answered = take_vote(&mut Reader::new(&body));
        match answered {
            Ok(answered) if is_credible(&answered, vote.leader_id.term) => Ok(answered),
            _ => Err(LinkError::Broken(Malformed.to_string())),
        }
    }

    async fn snapshot_call(&mut self, kind: Kind, body: BytesMut) -> Result<Bytes, LinkError> {
        let shard = self.shard;
        self.data.call_within(kind, shard, body.freeze(), SNAPSHOT_CHUNK_TIMEOUT).await
    }

    fn note(&self, done: u64, total: u64) {
        let what = format!("sending a snapshot to node {}", self.target);
        *self.transfer.lock().expect("no holder panics") = Some((what, done, total));
    }
}

impl RaftNetworkV2<TypeConfig> for Peer {
    type SnapshotData = SnapshotHandle;

    async fn append_entries(
        &mut self,
        request: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<TypeConfig>, RpcError> {
        let mut out = BytesMut::new();
        let sent = Sent { to: self.target, at: self.clock.monotonic(), vote: request.vote };
        message::put_append(&mut out, &request, self.witness.word(self.target, &*self.clock));
        let body = if self.heartbeat || request.entries.is_empty() {
            let limit = option.hard_ttl().max(VOTE_TIMEOUT);
            self.control(Kind::Append, out, limit).await
        } else {
            let shard = self.shard;
            self.data.call_within(Kind::Append, shard, out.freeze(), APPEND_TIMEOUT).await
        };
        sent.answered(body, &self.witness)
    }

    /// Sends appends as they come and yields their results in order.
    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<
        's,
        Result<BoxStream<'s, Result<StreamAppendResult<TypeConfig>, RpcError>>, RpcError>,
    >
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if self.heartbeat {
            return openraft::network::stream_append_sequential(self, input, option);
        }
        let shard = self.shard;
        let data = &mut self.data;
        let (target, witness, clock) = (self.target, &self.witness, &*self.clock);
        let results = input.map(move |request| {
            let prev = request.prev_log_id;
            let last = request.entries.last().map(|entry| entry.log_id).or(prev);
            let mut out = BytesMut::new();
            let sent = Sent { to: target, at: clock.monotonic(), vote: request.vote };
            message::put_append(&mut out, &request, witness.word(target, clock));
            let answer = data.call(Kind::Append, shard, out.freeze());
            async move {
                let body = tokio::time::timeout(APPEND_TIMEOUT, answer).await;
                let body = body.unwrap_or_else(|_| {
                    Err(LinkError::Broken(format!("no answer within {APPEND_TIMEOUT:?}")))
                });
                Ok(sent.answered(body, witness)?.into_stream_result(prev, last))
            }
        });
        let results = results.buffered(APPENDS_IN_FLIGHT);
        // After the first failure what follows is of no use: the stream ends with it.
        let results = results.scan(false, |failed, result| {
            let before = std::mem::replace(failed, !matches!(result, Ok(Ok(_))));
            std::future::ready((!before).then_some(result))
        });
        Box::pin(std::future::ready(Ok(results.boxed())))
    }

    async fn vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(Kind::Vote, &request).await
    }

    async fn pre_vote(
        &mut self,
        request: VoteRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<VoteResponse<TypeConfig>, RpcError> {
        self.ask_vote(Kind::PreVote, &request).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotHandle>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let transfer = self.transfer.clone();
        let result = tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, &snapshot) => match sent {
                Ok(vote) => Ok(SnapshotResponse::new(vote)),
                Err(error) => Err(StreamingError::from(rpc_error(error))),
            },
        };
        *transfer.lock().expect("no holder panics") = None;
        result
    }

    async fn transfer_leader(
        &mut self,
        request: TransferLeaderRequest<TypeConfig>,
        _option: RPCOption,
    ) -> Result<TransferLeaderResponse<TypeConfig>, RpcError> {
        let mut out = BytesMut::new();
        message::put_transfer(&mut out, &request);
        let body = self.control(Kind::TransferLeader, out, VOTE_TIMEOUT).await;
        decoded(body, |body| message::take_transfer_response(body))
    }
}
