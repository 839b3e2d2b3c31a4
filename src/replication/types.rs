//! The types that openraft is built over, and their bytes.
//!
//! ```text
//! log id       term u64 · index u64                     index u64::MAX: none
//! vote         term u64 · node u64 · committed u8
//! entry        log id · kind u8 (0 blank, 1 batch, 2 membership) · len u32 · payload
//! membership   configs u16 × (ids u16 × u64) · nodes u16 × node
//! node         id u64 · incarnation u64 · client address, peer address: u16 len + bytes each
//! ```
//!
//! The same bytes are used in the log, in snapshots and between peers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use openraft::impls::leader_id_std;
use openraft::{EntryPayload, LogId, Membership, RaftTypeConfig};

use super::api::NodeInfo;
use crate::log::{Record, RecordId};
use crate::protocol::{Reader, Truncated};
use crate::world::UnixMicros;

/// A batch of operations: opaque to Raft.
#[derive(Clone)]
pub struct Payload(pub Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "batch of {} bytes", self.0.len())
    }
}

impl fmt::Display for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What apply made of a batch: outcomes in order, empty on followers.
#[derive(Clone, Default)]
pub struct Outcomes {
    pub bytes: Bytes,
    pub now: UnixMicros,
    /// The operations, if one of the outcomes says that an id is too old.
    pub too_old: Option<Bytes>,
}

/// A member as the replicated membership keeps it. The incarnation is drawn when a data directory
/// is made: a node that comes back with another one has lost its disk and must be taken in anew.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct MemberNode {
    pub info: NodeInfo,
    pub incarnation: u64,
}

/// Answers a proposed batch, or Raft's own question, with one boxed call.
pub struct OnComplete<T>(Box<dyn FnOnce(T) + Send>);

impl<T> OnComplete<T> {
    pub fn new(call: impl FnOnce(T) + Send + 'static) -> Self {
        Self(Box::new(call))
    }
}

impl<C: RaftTypeConfig, T: Send + 'static> openraft::raft::responder::Responder<C, T>
    for OnComplete<T>
{
    fn on_complete(self, result: T) {
        (self.0)(result);
    }
}

/// openraft over stockd's types.
#[derive(Debug, Clone, Copy, Default, Eq, PartialEq, Ord, PartialOrd)]
pub struct TypeConfig;

impl RaftTypeConfig for TypeConfig {
    type D = Payload;
    type R = Outcomes;
    type NodeId = u64;
    type Node = MemberNode;
    type Term = u64;
    type LeaderId = leader_id_std::LeaderId<u64, u64>;
    type Vote = openraft::impls::Vote<Self::LeaderId>;
    type Payload = EntryPayload<Payload, u64, MemberNode>;
    type Entry = openraft::Entry<CommittedLeader, Self::Payload>;
    type AsyncRuntime = super::runtime::SharpRuntime;
    type Responder<T>
        = OnComplete<T>
    where
        T: Send + 'static;
    type Batch<T>
        = openraft::impls::InlineBatch<T>
    where
        T: Send + 'static;
    type ErrorSource = openraft::impls::BoxedErrorSource;
}

pub type CommittedLeader =
    <leader_id_std::LeaderId<u64, u64> as openraft::vote::RaftLeaderId>::Committed;
pub type RaftLogId = LogId<CommittedLeader>;
pub type Vote = openraft::impls::Vote<leader_id_std::LeaderId<u64, u64>>;
pub type Entry = openraft::type_config::alias::EntryOf<TypeConfig>;
pub type StoredMembership = openraft::type_config::alias::StoredMembershipOf<TypeConfig>;
pub type Members = Membership<u64, MemberNode>;
pub type SnapshotMeta = openraft::type_config::alias::SnapshotMetaOf<TypeConfig>;

/// Bytes from a disk or a peer that are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Malformed;

impl From<Truncated> for Malformed {
    fn from(_: Truncated) -> Self {
        Self
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("malformed replication message")
    }
}

impl std::error::Error for Malformed {}

pub fn record_id(id: RaftLogId) -> RecordId {
    RecordId { term: id.leader_id.term, index: id.index }
}

pub fn log_id(id: RecordId) -> RaftLogId {
    RaftLogId::new_term_index(id.term, id.index)
}

pub fn put_log_id(out: &mut BytesMut, id: Option<RaftLogId>) {
    out.put_u64_le(id.map_or(0, |id| id.leader_id.term));
    out.put_u64_le(id.map_or(u64::MAX, |id| id.index));
}

pub fn take_log_id(reader: &mut Reader<'_>) -> Result<Option<RaftLogId>, Malformed> {
    let term = reader.u64()?;
    let index = reader.u64()?;
    Ok((index != u64::MAX).then(|| RaftLogId::new_term_index(term, index)))
}

pub fn put_vote(out: &mut BytesMut, vote: &Vote) {
    out.put_u64_le(vote.leader_id.term);
    out.put_u64_le(vote.leader_id.voted_for);
    out.put_u8(u8::from(vote.committed));
}

/// No cluster elects so many leaders, however long it lives.
const TERM_LEAP_MAX: u64 = 1 << 32;

/// A vote that a peer sent to a node in term `own` may be real. Who believed in the last term there is
/// could never vote again.
pub fn is_credible(vote: &Vote, own: u64) -> bool {
    vote.leader_id.term <= own.saturating_add(TERM_LEAP_MAX)
}

pub fn take_vote(reader: &mut Reader<'_>) -> Result<Vote, Malformed> {
    let (term, node) = (reader.u64()?, reader.u64()?);
    Ok(match reader.u8()? {
        0 => Vote::new(term, node),
        _ => Vote::new_committed(term, node),
    })
}

const BLANK: u8 = 0;
const BATCH: u8 = 1;
const MEMBERSHIP: u8 = 2;

/// The batch of operations that a record of the log holds, for whoever reads a log to check it;
/// `None`: it is Raft's own.
pub fn batch_of(record_kind: u8, payload: Bytes) -> Option<Bytes> {
    (record_kind == BATCH).then_some(payload)
}

/// An entry as the log keeps it.
pub fn record_of(entry: Entry) -> Record {
    let (kind, payload) = match entry.payload {
        EntryPayload::Blank => (BLANK, Bytes::new()),
        EntryPayload::Normal(batch) => (BATCH, batch.0),
        EntryPayload::Membership(members) => {
            let mut out = BytesMut::new();
            put_membership(&mut out, &members);
            (MEMBERSHIP, out.freeze())
        }
    };
    Record { term: entry.log_id.leader_id.term, index: entry.log_id.index, kind, payload }
}

/// An entry as Raft has it.
pub fn entry_of(record: Record) -> Result<Entry, Malformed> {
    let payload = match record.kind {
        BLANK => EntryPayload::Blank,
        BATCH => EntryPayload::Normal(Payload(record.payload)),
        MEMBERSHIP => EntryPayload::Membership(take_membership(&mut Reader::new(&record.payload))?),
        _ => return Err(Malformed),
    };
    Ok(Entry { log_id: RaftLogId::new_term_index(record.term, record.index), payload })
}

pub fn put_entry(out: &mut BytesMut, entry: &Entry) {
    put_log_id(out, Some(entry.log_id));
    match &entry.payload {
        EntryPayload::Blank => put_payload(out, BLANK, &[]),
        EntryPayload::Normal(batch) => put_payload(out, BATCH, &batch.0),
        EntryPayload::Membership(members) => {
            let mut bytes = BytesMut::new();
            put_membership(&mut bytes, members);
            put_payload(out, MEMBERSHIP, &bytes);
        }
    }
}

fn put_payload(out: &mut BytesMut, kind: u8, payload: &[u8]) {
    out.put_u8(kind);
    out.put_u32_le(payload.len() as u32);
    out.put_slice(payload);
}

/// Takes an entry whose payload shares `body`, the frame that `reader` reads.
pub fn take_entry(body: &Bytes, reader: &mut Reader<'_>) -> Result<Entry, Malformed> {
    let id = take_log_id(reader)?.ok_or(Malformed)?;
    let kind = reader.u8()?;
    let len = reader.u32()? as usize;
    let payload = body.slice_ref(reader.bytes(len)?);
    entry_of(Record { term: id.leader_id.term, index: id.index, kind, payload })
}

pub fn put_node(out: &mut BytesMut, node: &MemberNode) {
    out.put_u64_le(node.info.id);
    out.put_u64_le(node.incarnation);
    put_text(out, &node.info.client_address);
    put_text(out, &node.info.peer_address);
}

pub fn take_node(reader: &mut Reader<'_>) -> Result<MemberNode, Malformed> {
    let id = reader.u64()?;
    let incarnation = reader.u64()?;
    let client_address = take_text(reader)?;
    let peer_address = take_text(reader)?;
    Ok(MemberNode { info: NodeInfo { id, client_address, peer_address }, incarnation })
}

pub fn put_text(out: &mut BytesMut, text: &str) {
    out.put_u16_le(text.len() as u16);
    out.put_slice(text.as_bytes());
}

pub fn take_text(reader: &mut Reader<'_>) -> Result<String, Malformed> {
    String::from_utf8(reader.long_bytes()?.to_vec()).map_err(|_| Malformed)
}

fn put_membership(out: &mut BytesMut, members: &Members) {
    let configs = members.get_joint_config();
    out.put_u16_le(configs.len() as u16);
    for config in configs {
        out.put_u16_le(config.len() as u16);
        config.iter().for_each(|id| out.put_u64_le(*id));
    }
    let nodes: Vec<_> = members.nodes().collect();
    out.put_u16_le(nodes.len() as u16);
    nodes.iter().for_each(|(_, node)| put_node(out, node));
}

fn take_membership(reader: &mut Reader<'_>) -> Result<Members, Malformed> {
    let mut configs = Vec::new();
    for _ in 0..reader.u16()? {
        let mut config = BTreeSet::new();
        for _ in 0..reader.u16()? {
            config.insert(reader.u64()?);
        }
        configs.push(config);
    }
    let mut nodes = BTreeMap::new();
    for _ in 0..reader.u16()? {
        let node = take_node(reader)?;
        nodes.insert(node.info.id, node);
    }
    if configs.is_empty() && nodes.is_empty() {
        return Ok(Members::default());
    }
    Members::new(configs, nodes).map_err(|_| Malformed)
}

/// Appends what a snapshot says of its place in the log.
pub fn put_snapshot_meta(out: &mut BytesMut, meta: &SnapshotMeta) {
    put_log_id(out, meta.last_log_id);
    put_log_id(out, *meta.last_membership.log_id());
    put_membership(out, meta.last_membership.membership());
}

pub fn take_snapshot_meta(reader: &mut Reader<'_>) -> Result<SnapshotMeta, Malformed> {
    let last_log_id = take_log_id(reader)?;
    let membership_id = take_log_id(reader)?;
    let members = take_membership(reader)?;
    Ok(SnapshotMeta { last_log_id, last_membership: StoredMembership::new(membership_id, members) })
}
