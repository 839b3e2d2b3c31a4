//! Whole replicas in one process: real log, real sockets, real openraft.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use stockd::archive::ArchiveOptions;
use stockd::engine::EngineConfig;
use stockd::events::EventOptions;
use stockd::log::{LogOptions, RealStorage};
use stockd::protocol::{
    CellHandle, CellRef, Code, Line, Op, OpFlags, OpId, Reader, ReplyPrefix, ReservationId,
    ShardId, take_outcome,
};
use stockd::replication::{
    Bootstrap, Error, NodeInfo, Refusal, Replica, ReplicaOptions, ReplyTo, RequestTag, Role,
    Source, Timing,
};
use stockd::world::{Clock, RealClock, World};
use tempfile::TempDir;
use tokio::sync::Notify;

/// Most that any wait of a test may take before it fails.
const PATIENCE: Duration = Duration::from_secs(30);

type Answer = Result<(u64, Bytes), Refusal>;

#[derive(Default)]
struct Inbox {
    answers: Mutex<Vec<(u64, Answer)>>,
    arrived: Notify,
    source: Source,
}

impl ReplyTo for Inbox {
    fn reply(&self, tag: RequestTag, _: ShardId, prefix: ReplyPrefix, outcomes: &[u8]) {
        let answer = Ok((prefix.index, Bytes::copy_from_slice(outcomes)));
        self.answers.lock().unwrap().push((tag.request_id, answer));
        self.arrived.notify_one();
    }

    fn refuse(&self, tag: RequestTag, refusal: &Refusal) {
        self.answers.lock().unwrap().push((tag.request_id, Err(refusal.clone())));
        self.arrived.notify_one();
    }

    fn source(&self) -> &Source {
        &self.source
    }
}

struct Node {
    directory: TempDir,
    replica: Option<Replica>,
    info: NodeInfo,
    /// What the node told its operator.
    told: Arc<Mutex<Vec<String>>>,
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

impl Node {
    fn new(id: u64) -> Self {
        let info = NodeInfo { id, client_address: free_address(), peer_address: free_address() };
        Self { directory: tempfile::tempdir().unwrap(), replica: None, info, told: Arc::default() }
    }

    async fn start(&mut self, bootstrap: Bootstrap) -> Replica {
        self.start_under(EngineConfig::default(), bootstrap).await.unwrap()
    }

    async fn start_under(
        &mut self,
        engine: EngineConfig,
        bootstrap: Bootstrap,
    ) -> Result<Replica, Error> {
        let (id, told) = (self.info.id, self.told.clone());
        let options = ReplicaOptions {
            node: self.info.clone(),
            peer_listen: self.info.peer_address.clone(),
            bootstrap,
            engine,
            log: LogOptions { segment_bytes: 8 << 20, ..LogOptions::default() },
            timing: Timing::default(),
            reservations_max: 1 << 20,
            snapshot_log_bytes: 1 << 30,
            follower_lag_max: 1 << 20,
            lease_reads: false,
            archive: Some(ArchiveOptions::default()),
            events: Some(EventOptions::default()),
            reconcile: None,
            draining: Arc::new(AtomicBool::new(false)),
            notice: Arc::new(move |line| {
                eprintln!("node {id}: {line}");
                told.lock().unwrap().push(line.to_owned());
            }),
            observer: None,
        };
        // The tasks of an earlier start may still be letting go of the directory.
        let mut storage = None;
        until("the data directory", || {
            storage = RealStorage::open(self.directory.path()).ok();
            storage.is_some()
        })
        .await;
        let storage = Arc::new(storage.unwrap());
        let world = World::real();
        let replica = Replica::start(options, storage, world, &mut |_, _, _| ()).await?;
        self.replica = Some(replica.clone());
        Ok(replica)
    }

    fn peer(&self) -> String {
        self.info.peer_address.clone()
    }
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}

/// Pushes one operation until a leader takes it; returns its first outcome's code and its index.
async fn execute(replica: &Replica, op: &[u8]) -> (Code, u64) {
    let inbox = Arc::new(Inbox::default());
    let to: Arc<dyn ReplyTo> = inbox.clone();
    let mut last = None;
    let done = tokio::time::timeout(PATIENCE, async {
        loop {
            let tag = RequestTag { request_id: 1, batch: false, ops: 1 };
            let pushed = replica.ingress().push(&to, tag, op);
            let answer = match pushed {
                Err(refusal) => Err(refusal),
                Ok(()) => {
                    inbox.arrived.notified().await;
                    inbox.answers.lock().unwrap().pop().unwrap().1
                }
            };
            match answer {
                Ok((index, outcomes)) => {
                    let outcome = take_outcome(&mut Reader::new(&outcomes)).unwrap();
                    return (outcome.code, index);
                }
                Err(refusal) => last = Some(refusal),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    done.await.unwrap_or_else(|_| panic!("not executed, last refusal {last:?}"))
}

fn id(number: u8) -> [u8; 16] {
    let millis = RealClock::new().wall().as_millis();
    OpId::from_parts(millis, [number; 10]).0
}

fn receive(quantity: u32) -> BytesMut {
    let mut op = BytesMut::new();
    let cell = CellRef::Name { warehouse: b"W", sku: b"S" };
    Op::encode_receive(&mut op, OpFlags::DEFINE, None, OpId(id(0)), cell, quantity);
    op
}

fn reserve(number: u8, quantity: u32) -> BytesMut {
    let mut op = BytesMut::new();
    let lines = [Line { cell: CellRef::Handle(CellHandle(0)), quantity }];
    let id = ReservationId(id(number));
    Op::encode_reserve(&mut op, OpFlags::default(), None, id, 0, &lines);
    op
}

#[tokio::test]
async fn a_single_node_sells_what_it_has_and_remembers_it() {
    let mut node = Node::new(1);
    let replica = node.start(Bootstrap::Single).await;
    assert_eq!(execute(&replica, &receive(2)).await.0, Code::OK);
    assert_eq!(execute(&replica, &reserve(1, 2)).await.0, Code::OK);
    assert_eq!(execute(&replica, &reserve(2, 1)).await.0, Code::NO_STOCK);
    replica.read_barrier().await.unwrap();
    let digest = replica.with_state(|state| state.digest());
    replica.shutdown().await;
    drop((replica, node.replica.take()));

    let replica = node.start(Bootstrap::Single).await;
    until("the log to be applied", || {
        replica.with_state(|state| state.digest()) == digest || replica.status().applied_index > 5
    })
    .await;
    replica.read_barrier().await.ok();
    until("leadership", || replica.leadership().role == Role::Leader).await;
    let point = replica.read_barrier().await.unwrap();
    assert!(point.index > 0);
    let counters = replica.cells().counters(CellHandle(0)).unwrap();
    assert_eq!((counters.on_hand, counters.reserved, counters.available), (2, 2, 0));
    replica.shutdown().await;
}

#[tokio::test]
async fn a_directory_keeps_the_rules_it_was_made_under() {
    let mut node = Node::new(1);
    let replica = node.start(Bootstrap::Single).await;
    replica.shutdown().await;
    drop((replica, node.replica.take()));
    let other = EngineConfig { grace_ms: 7_000, ..EngineConfig::default() };
    let refused = node.start_under(other, Bootstrap::Single).await.err().unwrap();
    assert!(matches!(refused, Error::Rules { .. }), "{refused}");
    assert!(refused.to_string().contains("grace 7000 ms"), "{refused}");
    let other = EngineConfig { sample_refusals: 100, ..EngineConfig::default() };
    let refused = node.start_under(other, Bootstrap::Single).await.err().unwrap();
    assert!(refused.to_string().contains("one in 100 refusals told"), "{refused}");
}

#[tokio::test]
async fn a_node_with_other_rules_is_not_taken_in() {
    let mut nodes = [Node::new(1), Node::new(2)];
    let first = nodes[0].start(Bootstrap::Single).await;
    assert_eq!(execute(&first, &receive(1)).await.0, Code::OK);
    let other = EngineConfig { retention_ms: 60_000, ..EngineConfig::default() };
    let join = Bootstrap::Join(vec![nodes[0].peer()]);
    let second = nodes[1].start_under(other, join).await.unwrap();
    let told = &nodes[1].told;
    until("the refusal", || {
        told.lock().unwrap().iter().any(|line| line.contains("retention 60000 ms"))
    })
    .await;
    assert_eq!(first.status().members.len(), 1);
    first.shutdown().await;
    second.shutdown().await;
}

#[tokio::test]
async fn three_nodes_form_agree_and_hand_over() {
    let mut nodes = [Node::new(1), Node::new(2), Node::new(3)];
    let first = nodes[0].start(Bootstrap::Single).await;
    assert_eq!(execute(&first, &receive(100)).await.0, Code::OK);
    let peers = vec![nodes[0].peer()];
    let second = nodes[1].start(Bootstrap::Join(peers.clone())).await;
    let third = nodes[2].start(Bootstrap::Join(peers)).await;
    let voters = |replica: &Replica| replica.status().members.iter().filter(|m| m.voter).count();
    until("three voters", || voters(&first) == 3).await;
    for number in 1..=50 {
        assert_eq!(execute(&first, &reserve(number, 1)).await.0, Code::OK);
    }
    let leader = first.transfer_leader(Some(2)).await.unwrap();
    assert_eq!(leader, 2);
    until("node 2 to lead", || second.leadership().role == Role::Leader).await;
    let (code, index) = execute(&second, &reserve(51, 1)).await;
    assert_eq!(code, Code::OK);
    let all = [&first, &second, &third];
    until("all to apply it", || all.iter().all(|node| node.status().applied_index >= index)).await;
    let digests = all.map(|node| node.with_state(|state| (state.applied_index(), state.digest())));
    let newest = digests.iter().map(|(index, _)| *index).max();
    let same: Vec<_> = digests.iter().filter(|(index, _)| Some(*index) == newest).collect();
    assert!(same.iter().all(|digest| *digest == same[0]), "replicas differ: {digests:?}");
    let refused = first.read_barrier().await.unwrap_err();
    assert_eq!(refused.code, Code::NOT_LEADER);
    assert_eq!(refused.leader.as_deref(), Some(nodes[1].info.client_address.as_str()));
    for node in all {
        node.shutdown().await;
    }
}
