//! The bodies of Raft's messages between peers.
//!
//! ```text
//! append            word 36 · vote · prev log id · commit log id · entries u32 × entry
//! append reply      stamp 16 · kind u8: 0 success · 1 partial (log id) · 2 conflict · 3 higher vote (vote)
//! vote, pre-vote    vote · last log id · transfer u8
//! vote reply        vote · granted u8 · last log id
//! transfer          from vote · to node u64 · last log id
//! transfer reply    kind u8: 0 ok · 1 vote changed (2 votes) · 2 not flushed (2 log ids)
//! snapshot begin    bytes u64
//! snapshot chunk    offset u64 · bytes
//! snapshot end      bytes u64 · vote · snapshot meta       reply: vote
//! compared          see reconcile/replicas.rs                              reply: agrees u8
//! join              relayed u8 · rules · node                                  reply: cluster id u64
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, TransferLeaderError, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};

use super::freshness::{Stamp, Word};
use super::identity::Rules;
use super::types::{
    Malformed, MemberNode, SnapshotMeta, TypeConfig, Vote, put_entry, put_log_id, put_node,
    put_snapshot_meta, put_vote, take_entry, take_log_id, take_snapshot_meta, take_vote,
};
use crate::protocol::Reader;

pub fn put_append(out: &mut BytesMut, request: &AppendEntriesRequest<TypeConfig>, word: Word) {
    word.put(out);
    put_vote(out, &request.vote);
    put_log_id(out, request.prev_log_id);
    put_log_id(out, request.leader_commit);
    out.put_u32_le(request.entries.len() as u32);
    request.entries.iter().for_each(|entry| put_entry(out, entry));
}

pub fn take_append(body: &Bytes) -> Result<(AppendEntriesRequest<TypeConfig>, Word), Malformed> {
    let mut reader = Reader::new(body);
    let word = Word::take(&mut reader)?;
    let vote = take_vote(&mut reader)?;
    let prev_log_id = take_log_id(&mut reader)?;
    let leader_commit = take_log_id(&mut reader)?;
    let count = reader.u32()?;
    let mut entries = Vec::new();
    for _ in 0..count {
        entries.push(take_entry(body, &mut reader)?);
    }
    Ok((AppendEntriesRequest { vote, prev_log_id, entries, leader_commit }, word))
}

pub fn put_append_response(
    out: &mut BytesMut,
    response: &AppendEntriesResponse<TypeConfig>,
    stamp: Stamp,
) {
    stamp.put(out);
    match response {
        AppendEntriesResponse::Success => out.put_u8(0),
        AppendEntriesResponse::PartialSuccess(upto) => {
            out.put_u8(1);
            put_log_id(out, *upto);
        }
        AppendEntriesResponse::Conflict => out.put_u8(2),
        AppendEntriesResponse::HigherVote(vote) => {
            out.put_u8(3);
            put_vote(out, vote);
        }
    }
}

pub fn take_append_response(
    body: &[u8],
) -> Result<(AppendEntriesResponse<TypeConfig>, Stamp), Malformed> {
    let mut reader = Reader::new(body);
    let stamp = Stamp::take(&mut reader)?;
    let response = match reader.u8()? {
        0 => AppendEntriesResponse::Success,
        1 => AppendEntriesResponse::PartialSuccess(take_log_id(&mut reader)?),
        2 => AppendEntriesResponse::Conflict,
        3 => AppendEntriesResponse::HigherVote(take_vote(&mut reader)?),
        _ => return Err(Malformed),
    };
    Ok((response, stamp))
}

pub fn put_vote_request(out: &mut BytesMut, request: &VoteRequest<TypeConfig>) {
    put_vote(out, &request.vote);
    put_log_id(out, request.last_log_id);
    out.put_u8(u8::from(request.leadership_transfer));
}

pub fn take_vote_request(body: &[u8]) -> Result<VoteRequest<TypeConfig>, Malformed> {
    let mut reader = Reader::new(body);
    let vote = take_vote(&mut reader)?;
    let last_log_id = take_log_id(&mut reader)?;
    let leadership_transfer = reader.u8()? != 0;
    Ok(VoteRequest { leadership_transfer, ..VoteRequest::new(vote, last_log_id) })
}

pub fn put_vote_response(out: &mut BytesMut, response: &VoteResponse<TypeConfig>) {
    put_vote(out, &response.vote);
    out.put_u8(u8::from(response.vote_granted));
    put_log_id(out, response.last_log_id);
}

pub fn take_vote_response(body: &[u8]) -> Result<VoteResponse<TypeConfig>, Malformed> {
    let mut reader = Reader::new(body);
    let vote = take_vote(&mut reader)?;
    let vote_granted = reader.u8()? != 0;
    Ok(VoteResponse { vote, vote_granted, last_log_id: take_log_id(&mut reader)? })
}

pub fn put_transfer(out: &mut BytesMut, request: &TransferLeaderRequest<TypeConfig>) {
    put_vote(out, request.from_leader());
    out.put_u64_le(*request.to_node_id());
    put_log_id(out, request.last_log_id().copied());
}

pub fn take_transfer(body: &[u8]) -> Result<TransferLeaderRequest<TypeConfig>, Malformed> {
    let mut reader = Reader::new(body);
    let from = take_vote(&mut reader)?;
    let to = reader.u64()?;
    Ok(TransferLeaderRequest::new(from, to, take_log_id(&mut reader)?))
}

pub fn put_transfer_response(out: &mut BytesMut, response: &TransferLeaderResponse<TypeConfig>) {
    match response {
        Ok(()) => out.put_u8(0),
        Err(TransferLeaderError::VoteChanged { expected, actual }) => {
            out.put_u8(1);
            put_vote(out, expected);
            put_vote(out, actual);
        }
        Err(TransferLeaderError::LogNotFlushed { expected, actual }) => {
            out.put_u8(2);
            put_log_id(out, *expected);
            put_log_id(out, *actual);
        }
    }
}

pub fn take_transfer_response(
    body: &[u8],
) -> Result<TransferLeaderResponse<TypeConfig>, Malformed> {
    let mut reader = Reader::new(body);
    Ok(match reader.u8()? {
        0 => Ok(()),
        1 => {
            let expected = take_vote(&mut reader)?;
            Err(TransferLeaderError::VoteChanged { expected, actual: take_vote(&mut reader)? })
        }
        2 => {
            let expected = take_log_id(&mut reader)?;
            Err(TransferLeaderError::LogNotFlushed { expected, actual: take_log_id(&mut reader)? })
        }
        _ => return Err(Malformed),
    })
}

pub fn put_snapshot_begin(out: &mut BytesMut, bytes: u64) {
    out.put_u64_le(bytes);
}

pub fn put_snapshot_end(out: &mut BytesMut, vote: &Vote, meta: &SnapshotMeta, bytes: u64) {
    out.put_u64_le(bytes);
    put_vote(out, vote);
    put_snapshot_meta(out, meta);
}

pub fn take_snapshot_end(body: &[u8]) -> Result<(u64, Vote, SnapshotMeta), Malformed> {
    let mut reader = Reader::new(body);
    let bytes = reader.u64()?;
    let vote = take_vote(&mut reader)?;
    Ok((bytes, vote, take_snapshot_meta(&mut reader)?))
}

pub fn put_join(out: &mut BytesMut, node: &MemberNode, rules: &Rules, relayed: bool) {
    out.put_u8(u8::from(relayed));
    rules.encode(out);
    put_node(out, node);
}
