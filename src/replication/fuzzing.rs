//! Doors for the fuzz targets (`fuzz/`): bytes from a disk or a peer go through the node's own
//! decoders and come back as bytes. No openraft type passes.
//!
//! Not an interface for anything else.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    VoteRequest, VoteResponse,
};

use super::api::NodeInfo;
use super::error::Error;
use super::freshness::{Stamp, Word};
use super::identity::{Identity, Rules};
use super::message;
use super::peer_frame::{FRAME_BYTES_MAX, take_frame};
use super::peer_hello::{HelloReply, PeerHello};
use super::reconcile::Statement;
use super::snapshot;
use super::types::{
    Entry, Malformed, MemberNode, Members, Payload, RaftLogId, SnapshotMeta, StoredMembership,
    Vote, put_snapshot_meta, put_vote, take_node, take_snapshot_meta, take_vote,
};
use crate::engine::{EngineConfig, StockState};
use crate::log::Storage;
use crate::protocol::Reader;
use crate::protocol::event::{Divergence, Finding};

/// Takes one peer's frame off the front of `buffer`: its kind and its body.
///
/// # Errors
/// What the connection would be closed with.
pub fn take_peer_frame(buffer: &mut BytesMut) -> Result<Option<(u8, Bytes)>, String> {
    let frame = take_frame(buffer, FRAME_BYTES_MAX).map_err(|error| error.to_string())?;
    Ok(frame.map(|frame| (frame.kind as u8, frame.body)))
}

/// Everything that peers tell each other, and what of it is stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// An append's request.
    Append,
    /// An append's reply.
    AppendReply,
    /// What a node says of its state.
    Compared,
    /// A hello's reply.
    HelloReply,
    /// A request to be taken in.
    Join,
    /// The end of a snapshot transfer.
    SnapshotEnd,
    /// A snapshot's place in the log, as its file has it.
    SnapshotMeta,
    /// A hand-over's request.
    Transfer,
    /// A hand-over's reply.
    TransferReply,
    /// A vote, as the log keeps it.
    Vote,
    /// A request for a vote.
    VoteRequest,
    /// A vote's reply.
    VoteReply,
}

impl Message {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::Append,
        Self::AppendReply,
        Self::Compared,
        Self::HelloReply,
        Self::Join,
        Self::SnapshotEnd,
        Self::SnapshotMeta,
        Self::Transfer,
        Self::TransferReply,
        Self::Vote,
        Self::VoteRequest,
        Self::VoteReply,
    ];
}

/// Decodes a body and encodes what came out; `None` if it is malformed.
pub fn through(what: Message, body: &Bytes) -> Option<BytesMut> {
    let mut out = BytesMut::new();
    pass(what, body, &mut out).ok().map(|()| out)
}

fn pass(what: Message, body: &Bytes, out: &mut BytesMut) -> Result<(), Malformed> {
    let mut reader = Reader::new(body);
    match what {
        Message::Append => {
            let (request, word) = message::take_append(body)?;
            message::put_append(out, &request, word);
        }
        Message::AppendReply => {
            let (response, stamp) = message::take_append_response(body)?;
            message::put_append_response(out, &response, stamp);
        }
        Message::Compared => {
            let statement = Statement::decode(body)?.ok_or(Malformed)?;
            out.extend_from_slice(&statement.encode());
        }
        Message::HelloReply => HelloReply::decode(body)?.encode(out),
        Message::Join => {
            let (relayed, rules) = (reader.u8()? != 0, Rules::take(&mut reader)?);
            message::put_join(out, &take_node(&mut reader)?, &rules, relayed);
        }
        Message::SnapshotEnd => {
            let (bytes, vote, meta) = message::take_snapshot_end(body)?;
            message::put_snapshot_end(out, &vote, &meta, bytes);
        }
        Message::SnapshotMeta => put_snapshot_meta(out, &take_snapshot_meta(&mut reader)?),
        Message::Transfer => message::put_transfer(out, &message::take_transfer(body)?),
        Message::TransferReply => {
            message::put_transfer_response(out, &message::take_transfer_response(body)?);
        }
        Message::Vote => put_vote(out, &take_vote(&mut reader)?),
        Message::VoteRequest => message::put_vote_request(out, &message::take_vote_request(body)?),
        Message::VoteReply => message::put_vote_response(out, &message::take_vote_response(body)?),
    }
    Ok(())
}

/// The answer of node 7 of cluster 9 to a stranger's hello: who it is, or why not.
///
/// # Errors
/// What the stranger is told.
pub fn check_hello(body: &[u8]) -> Result<u64, String> {
    PeerHello { cluster_id: 9, node_id: 7, incarnation: 1 }.check(body)
}

/// Decodes an identity file, and encodes what came out; `None` if it is damaged.
pub fn identity_through(content: &[u8]) -> Option<Vec<u8>> {
    Identity::decode(content).map(|identity| identity.encode())
}

/// Restores a snapshot file, as a node does that starts.
///
/// # Errors
/// It is damaged.
pub fn load_snapshot(
    storage: &dyn Storage,
    name: &str,
    config: &EngineConfig,
) -> Result<StockState, Error> {
    snapshot::load(storage, name, config, &mut |_, _| ()).map(|loaded| loaded.stock)
}

/// Checks a snapshot file's checksums, as a node does that was sent one.
///
/// # Errors
/// It is damaged.
pub fn verify_snapshot(storage: &dyn Storage, name: &str) -> Result<(), Error> {
    snapshot::verify(storage, name)
}

/// One body of each kind, and of each variant, as nodes send them.
pub fn samples() -> Vec<(Message, Vec<u8>)> {
    let mut samples = Vec::new();
    let mut put = |what, encode: &dyn Fn(&mut BytesMut)| {
        let mut out = BytesMut::new();
        encode(&mut out);
        samples.push((what, out.to_vec()));
    };
    let word = Word::take(&mut Reader::new(&[5; 36])).expect("a word has 36 bytes");
    let stamp = Stamp::take(&mut Reader::new(&[6; 16])).expect("a stamp has 16 bytes");
    let at = |index| Some(RaftLogId::new_term_index(3, index));
    let (vote, voted) = (Vote::new(4, 2), Vote::new_committed(4, 2));
    let node = |id: u64| MemberNode {
        info: NodeInfo {
            id,
            client_address: format!("127.0.0.1:{}", 7400 + id),
            peer_address: format!("[::1]:{}", 7500 + id),
        },
        incarnation: 0xfeed ^ id,
    };
    let (old, new) = (BTreeSet::from([1, 2, 3]), BTreeSet::from([2, 3, 4]));
    let nodes: BTreeMap<_, _> = (1..=5).map(|id| (id, node(id))).collect();
    let members = Members::new(vec![old, new], nodes).expect("every voter is a node");
    let entry = |index, payload| Entry { log_id: RaftLogId::new_term_index(3, index), payload };
    use openraft::EntryPayload::{Blank, Membership, Normal};
    let batch = Payload(Bytes::from_static(b"\x01\0\0\0 a batch of operations"));
    let entries =
        vec![entry(8, Blank), entry(9, Normal(batch)), entry(10, Membership(members.clone()))];
    let append = AppendEntriesRequest {
        vote: voted,
        prev_log_id: at(7),
        leader_commit: at(6),
        entries: entries.clone(),
    };
    put(Message::Append, &|out| message::put_append(out, &append, word));
    let beat = AppendEntriesRequest { entries: vec![], prev_log_id: None, ..append };
    put(Message::Append, &|out| message::put_append(out, &beat, word));
    for reply in [
        AppendEntriesResponse::Success,
        AppendEntriesResponse::PartialSuccess(at(9)),
        AppendEntriesResponse::Conflict,
        AppendEntriesResponse::HigherVote(vote),
    ] {
        put(Message::AppendReply, &|out| message::put_append_response(out, &reply, stamp));
    }
    let divergence = Divergence { node: 2, index: 9, finding: Finding::Replay, cell: None };
    let digest = Statement::Digest { index: 9, digest: 0xfeed, chain: Some(0xbeef) };
    for statement in [digest, Statement::Alarm(divergence)] {
        put(Message::Compared, &|out| out.extend_from_slice(&statement.encode()));
    }
    put(Message::HelloReply, &|out| {
        HelloReply { cluster_id: 9, node_id: 7, incarnation: 1 }.encode(out);
    });
    let rules = Rules::of(&EngineConfig::default());
    put(Message::Join, &|out| message::put_join(out, &node(4), &rules, true));
    let meta = SnapshotMeta {
        last_log_id: at(10),
        last_membership: StoredMembership::new(at(10), members),
    };
    put(Message::SnapshotEnd, &|out| message::put_snapshot_end(out, &voted, &meta, 1 << 20));
    put(Message::SnapshotMeta, &|out| put_snapshot_meta(out, &meta));
    let transfer = TransferLeaderRequest::new(voted, 3, at(10));
    put(Message::Transfer, &|out| message::put_transfer(out, &transfer));
    for reply in [
        Ok(()),
        Err(TransferLeaderError::VoteChanged { expected: vote, actual: voted }),
        Err(TransferLeaderError::LogNotFlushed { expected: at(9), actual: None }),
    ] {
        put(Message::TransferReply, &|out| message::put_transfer_response(out, &reply));
    }
    put(Message::Vote, &|out| put_vote(out, &voted));
    let ask = VoteRequest { leadership_transfer: true, ..VoteRequest::new(vote, at(10)) };
    put(Message::VoteRequest, &|out| message::put_vote_request(out, &ask));
    let reply = VoteResponse { vote, vote_granted: true, last_log_id: at(10) };
    put(Message::VoteReply, &|out| message::put_vote_response(out, &reply));
    samples
}

/// Hellos: to anybody, and to node 7 of cluster 9.
pub fn sample_hellos() -> Vec<Vec<u8>> {
    let encode = |cluster_id, to| {
        let mut out = BytesMut::new();
        PeerHello { cluster_id, node_id: 2, incarnation: 5 }.encode(&mut out, to);
        out.to_vec()
    };
    vec![encode(0, 0), encode(9, 7), encode(8, 7)]
}

/// An identity file.
pub fn sample_identity() -> Vec<u8> {
    let rules = Rules::of(&EngineConfig::default());
    Identity { cluster_id: 9, node_id: 7, incarnation: 1, rules }.encode()
}
