//! Clocks that jump, on whole replicas in this process: wall time comes through a door that the test
//! has its foot in. Log, sockets and Raft are real.

use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::BytesMut;
use stockd::archive::ArchiveOptions;
use stockd::engine::EngineConfig;
use stockd::events::EventOptions;
use stockd::log::{LogOptions, RealStorage};
use stockd::protocol::{
    CellRef, Code, Line, Op, OpFlags, OpId, Reader, ReplyPrefix, ReservationId, ShardId,
    take_outcome,
};
use stockd::replication::{
    Bootstrap, NodeInfo, Refusal, Replica, ReplicaOptions, ReplyTo, RequestTag, Role, Source,
    Timing,
};
use stockd::world::{Clock, RealClock, UnixMicros, World};
use tempfile::TempDir;
use tokio::sync::Notify;

use crate::node::free_address;
use crate::{PATIENCE, until};

const HOUR: i64 = 3_600_000_000;
/// The cluster's clock may differ from the true one by so much: far less than the jumps, and more than
/// a busy machine needs to move it.
const TOLERANCE_MS: u64 = 30_000;

/// A true clock and what is wrong with it.
struct JumpyClock {
    real: RealClock,
    wrong_by_micros: AtomicI64,
}

impl Clock for JumpyClock {
    fn wall(&self) -> UnixMicros {
        let wrong = self.wrong_by_micros.load(Ordering::Relaxed);
        UnixMicros(self.real.wall().0.saturating_add_signed(wrong))
    }

    fn monotonic(&self) -> Duration {
        self.real.monotonic()
    }
}

struct Node {
    replica: Replica,
    clock: Arc<JumpyClock>,
    peer: String,
    _directory: TempDir,
}

impl Node {
    async fn start(id: u64, bootstrap: Bootstrap) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let clock = JumpyClock { real: RealClock::new(), wrong_by_micros: AtomicI64::new(0) };
        let clock = Arc::new(clock);
        let peer = free_address();
        let options = ReplicaOptions {
            node: NodeInfo { id, client_address: free_address(), peer_address: peer.clone() },
            peer_listen: peer.clone(),
            bootstrap,
            engine: EngineConfig::default(),
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
            notice: Arc::new(move |line| println!("node {id}: {line}")),
            observer: None,
        };
        let storage = Arc::new(RealStorage::open(directory.path()).unwrap());
        let world = World { clock: clock.clone(), ..World::real() };
        let replica = Replica::start(options, storage, world, &mut |_, _, _| ()).await.unwrap();
        Self { replica, clock, peer, _directory: directory }
    }

    fn jump(&self, micros: i64) {
        self.clock.wrong_by_micros.fetch_add(micros, Ordering::Relaxed);
    }

    /// The stamp of the newest entry that this node has applied.
    fn log_time(&self) -> UnixMicros {
        self.replica.with_state(|state| state.now())
    }

    fn active(&self) -> u64 {
        self.replica.status().stock.active
    }
}

/// Answers by their request's number.
#[derive(Default)]
struct Inbox {
    codes: Mutex<Vec<Result<Code, Refusal>>>,
    arrived: Notify,
    source: Source,
}

impl ReplyTo for Inbox {
    fn reply(&self, _: RequestTag, _: ShardId, _: ReplyPrefix, outcomes: &[u8]) {
        let code = take_outcome(&mut Reader::new(outcomes)).unwrap().code;
        self.codes.lock().unwrap().push(Ok(code));
        self.arrived.notify_one();
    }

    fn refuse(&self, _: RequestTag, refusal: &Refusal) {
        self.codes.lock().unwrap().push(Err(refusal.clone()));
        self.arrived.notify_one();
    }

    fn source(&self) -> &Source {
        &self.source
    }
}

struct Cluster {
    nodes: Vec<Node>,
    truth: RealClock,
    ids: u8,
}

impl Cluster {
    async fn start() -> Self {
        let first = Node::start(1, Bootstrap::Single).await;
        let peers = vec![first.peer.clone()];
        let second = Node::start(2, Bootstrap::Join(peers.clone())).await;
        let third = Node::start(3, Bootstrap::Join(peers)).await;
        let cluster = Self { nodes: vec![first, second, third], truth: RealClock::new(), ids: 0 };
        until("three voters", async || {
            let status = cluster.nodes[0].replica.status();
            status.members.iter().filter(|member| member.voter).count() == 3
        })
        .await;
        cluster
    }

    /// The position of the node that leads.
    async fn leader(&self) -> usize {
        let mut leader = None;
        until("a leader", async || {
            let leads = |node: &Node| node.replica.leadership().role == Role::Leader;
            leader = self.nodes.iter().position(leads);
            leader.is_some()
        })
        .await;
        leader.unwrap()
    }

    /// Executes one operation, wherever the leader is.
    async fn execute(&self, op: &[u8]) -> Code {
        let inbox = Arc::new(Inbox::default());
        let to: Arc<dyn ReplyTo> = inbox.clone();
        let executed = tokio::time::timeout(PATIENCE, async {
            loop {
                let leader = &self.nodes[self.leader().await];
                let tag = RequestTag { request_id: 1, batch: false, ops: 1 };
                if leader.replica.ingress().push(&to, tag, op).is_ok() {
                    inbox.arrived.notified().await;
                    if let Ok(code) = inbox.codes.lock().unwrap().pop().unwrap() {
                        return code;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        executed.await.expect("an operation is executed")
    }

    fn id(&mut self) -> [u8; 16] {
        self.ids += 1;
        OpId::from_parts(self.truth.wall().as_millis(), [self.ids; 10]).0
    }

    async fn receive(&mut self, quantity: u32) {
        let mut op = BytesMut::new();
        let id = OpId(self.id());
        Op::encode_receive(&mut op, OpFlags::DEFINE, None, id, cell(), quantity);
        assert_eq!(self.execute(&op).await, Code::OK);
    }

    async fn reserve(&mut self, ttl_ms: u32) -> ReservationId {
        let mut op = BytesMut::new();
        let id = ReservationId(self.id());
        let lines = [Line { cell: cell(), quantity: 1 }];
        Op::encode_reserve(&mut op, OpFlags::default(), None, id, ttl_ms, &lines);
        assert_eq!(self.execute(&op).await, Code::OK);
        id
    }

    async fn confirm(&self, id: ReservationId) -> Code {
        let mut op = BytesMut::new();
        Op::encode_confirm(&mut op, OpFlags::default(), None, id);
        self.execute(&op).await
    }

    /// Lets the cluster's clock go on by some seconds, and checks that it neither goes back nor
    /// away from the truth.
    async fn watch_time(&self, millis: u64) {
        let from = self.truth.wall().as_millis();
        let mut last = self.nodes.iter().map(Node::log_time).max().unwrap();
        until("time to pass in the log", async || {
            let times: Vec<UnixMicros> = self.nodes.iter().map(Node::log_time).collect();
            let newest = *times.iter().max().unwrap();
            assert!(newest >= last, "the cluster's clock went back");
            last = newest;
            let truth = self.truth.wall().as_millis();
            let wrong = truth.abs_diff(newest.as_millis());
            assert!(wrong < TOLERANCE_MS, "the cluster's clock is {wrong} ms off the truth");
            newest.as_millis() >= from + millis
        })
        .await;
    }

    async fn shut_down(&self) {
        for node in &self.nodes {
            node.replica.shutdown().await;
        }
    }
}

fn cell() -> CellRef<'static> {
    CellRef::Name { warehouse: b"W", sku: b"S" }
}

/// What everybody wants of a clock that is wrong: long holds live, short ones end, time goes on.
async fn holds_keep_their_time(cluster: &mut Cluster) {
    let long = cluster.reserve(600_000).await;
    let active = cluster.nodes[cluster.leader().await].active();
    cluster.reserve(1_000).await;
    cluster.watch_time(2_000).await;
    until("the short hold to end, and no other", async || {
        let now = cluster.nodes[cluster.leader().await].active();
        assert!(now >= active, "a hold has ended before its time");
        now == active
    })
    .await;
    assert_eq!(cluster.confirm(long).await, Code::OK);
}

#[tokio::test]
async fn a_leader_whose_clock_jumps_ends_no_hold_early_and_none_late() {
    let mut cluster = Cluster::start().await;
    cluster.receive(100).await;
    for _ in 0..5 {
        cluster.reserve(600_000).await;
    }
    for jump in [HOUR, -2 * HOUR, HOUR] {
        let leader = cluster.leader().await;
        cluster.nodes[leader].jump(jump);
        let wrong = cluster.nodes[leader].clock.wrong_by_micros.load(Ordering::Relaxed);
        until("the skew to show", async || {
            let shown = cluster.nodes[leader].replica.status().clock_skew_ms;
            shown.abs_diff(wrong.unsigned_abs() / 1000) < 60_000
        })
        .await;
        holds_keep_their_time(&mut cluster).await;
    }
    cluster.shut_down().await;
}

#[tokio::test]
async fn a_new_leader_whose_clock_is_wrong_is_outvoted() {
    let mut cluster = Cluster::start().await;
    cluster.receive(100).await;
    for _ in 0..5 {
        cluster.reserve(600_000).await;
    }
    for wrong in [HOUR, -HOUR] {
        let leader = cluster.leader().await;
        let next = (leader + 1) % 3;
        cluster.nodes[next].jump(wrong);
        until("the node with the wrong clock to lead", async || {
            let leader = cluster.leader().await;
            if leader != next {
                // It may be refused while another change is under way; then it is asked again.
                let to = Some(next as u64 + 1);
                drop(cluster.nodes[leader].replica.transfer_leader(to).await);
            }
            leader == next
        })
        .await;
        holds_keep_their_time(&mut cluster).await;
        cluster.nodes[next].jump(-wrong);
    }
    cluster.shut_down().await;
}
