//! Sessions and the admin port of a single node, over real sockets and a real log.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, also in its helpers")]

mod events;

use std::collections::BTreeSet;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use stockd::archive::ArchiveOptions;
use stockd::engine::batch::{Batch, Command};
use stockd::engine::{EngineConfig, StockState};
use stockd::events::EventOptions;
use stockd::log::{LogOptions, RealStorage};
use stockd::protocol::{
    CellHandle, CellRef, Code, ErrorReply, Frame, Header, Hello, HelloReply, Kind, Line, MAGIC, Op,
    OpFlags, OpId, Opcode, Part, Reader, ReplyPrefix, ReservationId, ShardId, Terms, begin_frame,
    finish_frame, limits, take_frame, take_outcome,
};
use stockd::replication::{Bootstrap, NodeInfo, Observer, Replica, ReplicaOptions, Role, Timing};
use stockd::server::{Limits, Listeners, Server};
use stockd::world::World;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A node in a directory of its own.
struct Node {
    server: Server,
    replica: Replica,
    client: String,
    admin: String,
    peer: String,
    _directory: TempDir,
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// What a node is started with.
struct Setup {
    id: u64,
    bootstrap: Bootstrap,
    limits: Limits,
    reservations_max: u64,
    engine: EngineConfig,
    observer: Option<Arc<dyn Observer>>,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            id: 1,
            bootstrap: Bootstrap::Single,
            limits: Limits::default(),
            reservations_max: 1_000_000,
            engine: EngineConfig::default(),
            observer: None,
        }
    }
}

impl Node {
    async fn start(limits: Limits) -> Self {
        Self::start_first(Setup { limits, ..Setup::default() }).await
    }

    async fn start_first(setup: Setup) -> Self {
        let node = Self::start_as(setup).await;
        while node.replica.read_barrier().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        // Reads are answered before writes are taken, which begins when LEADER_START has been applied:
        // by the task that is woken then, and so runs before this one does again.
        until(|| node.replica.with_state(|state| state.now().0) > 0).await;
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        node
    }

    /// Node 2 of this node's cluster, when it votes.
    async fn joined(&self) -> Self {
        self.joined_by(Setup::default()).await
    }

    async fn joined_by(&self, setup: Setup) -> Self {
        let bootstrap = Bootstrap::Join(vec![self.peer.clone()]);
        let node = Self::start_as(Setup { id: 2, bootstrap, ..setup }).await;
        until(|| self.replica.status().members.iter().filter(|member| member.voter).count() == 2)
            .await;
        until(|| node.replica.leadership().role == Role::Follower).await;
        until(|| node.replica.leadership().leader.is_some()).await;
        node
    }

    async fn start_as(setup: Setup) -> Self {
        let Setup { id, bootstrap, limits, reservations_max, engine, observer } = setup;
        let directory = tempfile::tempdir().unwrap();
        let any = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners::bind(any, any).await.unwrap();
        let client = listeners.client_address().unwrap().to_string();
        let admin = listeners.admin_address().unwrap().to_string();
        let peer = free_address();
        let options = ReplicaOptions {
            node: NodeInfo { id, client_address: client.clone(), peer_address: peer.clone() },
            peer_listen: peer.clone(),
            bootstrap,
            engine,
            log: LogOptions { segment_bytes: 8 << 20, ..LogOptions::default() },
            timing: Timing::default(),
            reservations_max,
            snapshot_log_bytes: 64 << 20,
            follower_lag_max: 1_000,
            lease_reads: false,
            archive: Some(ArchiveOptions::default()),
            events: Some(EventOptions::default()),
            reconcile: None,
            draining: Arc::new(AtomicBool::new(false)),
            notice: Arc::new(|_| {}),
            observer,
        };
        let storage = Arc::new(RealStorage::open(directory.path()).unwrap());
        let world = World::real();
        let replica =
            Replica::start(options, storage, world.clone(), &mut |_, _, _| {}).await.unwrap();
        let server = listeners.serve(replica.clone(), world, limits).unwrap();
        Self { server, replica, client, admin, peer, _directory: directory }
    }

    async fn stop(self) {
        self.server.shutdown().await;
    }

    async fn connect(&self) -> Wire {
        let stream = TcpStream::connect(&self.client).await.unwrap();
        Wire { stream, received: BytesMut::new() }
    }

    async fn greeted(&self) -> Wire {
        self.greeted_as(b"test").await
    }

    async fn greeted_as(&self, client_name: &[u8]) -> Wire {
        let mut wire = self.connect().await;
        wire.send(&hello_of(client_name, 1, 1)).await;
        assert_eq!(wire.next().await.unwrap().header.kind, Kind::HelloReply);
        wire
    }

    async fn operator(&self) -> Operator {
        Operator(BufReader::new(TcpStream::connect(&self.admin).await.unwrap()))
    }
}

async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A client that sends what it is told to.
struct Wire {
    stream: TcpStream,
    received: BytesMut,
}

impl Wire {
    async fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    /// The next frame, or `None` when the server has closed.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = take_frame(&mut self.received, limits::REPLY_BYTES_MAX).unwrap() {
                return Some(frame);
            }
            match self.stream.read_buf(&mut self.received).await {
                Ok(0) | Err(_) => return None,
                Ok(_) => {}
            }
        }
    }

    /// The next frame as its request id and the code of an error or of each outcome.
    async fn codes(&mut self) -> (u64, Vec<Code>) {
        codes(&self.next().await.expect("the server answers"))
    }
}

fn codes(frame: &Frame) -> (u64, Vec<Code>) {
    let id = frame.header.request_id;
    if frame.header.kind == Kind::Error {
        return (id, vec![ErrorReply::decode(&frame.body).unwrap().code]);
    }
    let mut reader = Reader::new(&frame.body);
    ReplyPrefix::take(&mut reader).unwrap();
    if frame.header.kind == Kind::BatchReply {
        reader.u32().unwrap();
    }
    let mut codes = Vec::new();
    while !reader.is_empty() {
        codes.push(take_outcome(&mut reader).unwrap().code);
    }
    (id, codes)
}

fn frame(request_id: u64, kind: Kind, body: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    let start = begin_frame(&mut out, Header { request_id, kind, shard: ShardId::default() });
    body(&mut out);
    finish_frame(&mut out, start);
    out
}

fn hello(version_min: u16, version_max: u16) -> BytesMut {
    hello_of(b"test", version_min, version_max)
}

fn hello_of(client_name: &[u8], version_min: u16, version_max: u16) -> BytesMut {
    let hello = Hello { magic: MAGIC, version_min, version_max, client_name };
    frame(0, Kind::Hello, |out| hello.encode(out))
}

fn cell() -> CellRef<'static> {
    CellRef::name("BER", "shirt")
}

fn receive(out: &mut BytesMut, n: u8, quantity: u32) {
    Op::encode_receive(out, OpFlags::DEFINE, None, OpId(id(n).0), cell(), quantity);
}

/// An id of this moment.
fn id(n: u8) -> ReservationId {
    ReservationId::from_parts(World::real().clock.wall().as_millis(), [n; 10])
}

fn reserve(out: &mut BytesMut, n: u8, quantity: u32) {
    let line = Line { cell: cell(), quantity };
    Op::encode_reserve(out, OpFlags::default(), None, id(n), 60_000, &[line]);
}

fn read(out: &mut BytesMut, flags: OpFlags) {
    Op::encode_read_cells(out, flags, &[cell()]);
}

/// A batch frame with `count` in front of what `ops` writes.
fn batch(request_id: u64, count: u32, ops: impl FnOnce(&mut BytesMut)) -> BytesMut {
    frame(request_id, Kind::Batch, |out| {
        out.put_u32_le(count);
        ops(out);
    })
}

struct Operator(BufReader<TcpStream>);

impl Operator {
    async fn say(&mut self, line: &str) {
        self.0.get_mut().write_all(line.as_bytes()).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        self.0.read_line(&mut line).await.unwrap();
        line
    }

    /// Asks in text: all lines up to the empty one.
    async fn ask(&mut self, line: &str) -> String {
        self.say(&format!("{line}\r\n")).await;
        let mut answer = String::new();
        loop {
            match self.line().await.as_str() {
                "" | "\n" => return answer,
                line => answer.push_str(line),
            }
        }
    }
}

#[tokio::test]
async fn hello_states_version_limits_and_leader() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.connect().await;
    // A range that holds our version, and a request right behind it.
    let mut bytes = hello(0, 7);
    bytes.extend_from_slice(&frame(5, Kind::Op, Op::encode_ping));
    wire.send(&bytes).await;
    let reply = wire.next().await.unwrap();
    let reply = HelloReply::decode(&reply.body).unwrap();
    assert_eq!((reply.version, reply.node_id), (1, 1));
    assert_eq!(reply.frames_in_flight_max, Limits::default().frames_in_flight_max);
    assert_eq!(reply.leader, node.client.as_bytes());
    assert_ne!(reply.cluster_id, 0);
    assert_eq!(wire.codes().await, (5, vec![Code::OK]));
    node.stop().await;
}

#[tokio::test]
async fn strangers_are_refused_and_closed() {
    let node = Node::start(Limits::default()).await;
    let mut bad_crc = frame(1, Kind::Op, Op::encode_ping);
    bad_crc[20] ^= 1;
    let mut too_long = hello(1, 1);
    too_long[..4].copy_from_slice(&limits::FRAME_BYTES_MAX_BEFORE_HELLO.to_le_bytes());
    let cases = [
        (hello(2, 9), Code::VERSION),
        (frame(1, Kind::Op, Op::encode_ping), Code::BAD_FRAME),
        (frame(1, Kind::Hello, |out| out.put_u32_le(MAGIC)), Code::BAD_FRAME),
        (frame(1, Kind::Hello, |out| out.put_slice(&[7; 9])), Code::BAD_FRAME),
        (bad_crc, Code::BAD_FRAME),
        (too_long, Code::TOO_LARGE),
    ];
    for (bytes, code) in cases {
        let mut wire = node.connect().await;
        wire.send(&bytes).await;
        assert_eq!(wire.codes().await, (0, vec![code]), "{bytes:?}");
        assert!(wire.next().await.is_none(), "closed after {code}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_connection_without_hello_is_closed() {
    let limits = Limits { hello_timeout: Duration::from_millis(50), ..Limits::default() };
    let node = Node::start(limits).await;
    let mut silent = node.connect().await;
    let mut halting = node.connect().await;
    halting.send(&hello(1, 1)[..9]).await;
    assert!(silent.next().await.is_none());
    assert!(halting.next().await.is_none());
    node.stop().await;
}

#[tokio::test]
async fn those_who_say_nothing_make_room_for_those_who_speak() {
    let limits = Limits {
        connections_before_hello_max: 4,
        hello_timeout: Duration::from_secs(60 * 60),
        hello_timeout_crowded: Duration::from_millis(20),
        ..Limits::default()
    };
    let node = Node::start(limits).await;
    let mut silent = Vec::new();
    for _ in 0..12 {
        silent.push(node.connect().await);
    }
    node.greeted().await;
    assert!(silent[0].next().await.is_none(), "the first who came has left for others");
    node.stop().await;
}

#[tokio::test]
async fn a_frame_that_does_not_end_closes_the_connection() {
    let limits = Limits { frame_timeout: Duration::from_millis(50), ..Limits::default() };
    let node = Node::start(limits).await;
    let mut wire = node.greeted().await;
    wire.send(&frame(1, Kind::Op, Op::encode_ping)[..10]).await;
    assert!(wire.next().await.is_none());
    node.stop().await;
}

#[tokio::test]
async fn writes_reads_and_sold_out_reserves_are_answered() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.greeted().await;
    let op = |id, body: &dyn Fn(&mut BytesMut)| frame(id, Kind::Op, |out| body(out));
    wire.send(&op(1, &|out| receive(out, 1, 5))).await;
    assert_eq!(wire.codes().await, (1, vec![Code::OK]));
    wire.send(&batch(2, 2, |out| {
        reserve(out, 2, 3);
        reserve(out, 3, 2);
    }))
    .await;
    assert_eq!(wire.codes().await, (2, vec![Code::OK, Code::OK]));

    let before = node.replica.status().last_index;
    wire.send(&op(3, &|out| reserve(out, 4, 1))).await;
    assert_eq!(wire.codes().await, (3, vec![Code::NO_STOCK]));
    let all_short = batch(4, 2, |out| {
        reserve(out, 5, 1);
        reserve(out, 6, 1);
    });
    wire.send(&all_short).await;
    assert_eq!(wire.codes().await, (4, vec![Code::NO_STOCK, Code::NO_STOCK]));
    let mut operator = node.operator().await;
    let top = operator.ask("top").await;
    assert!(top.contains("sold_out_without_log  3"), "{top}");
    assert!(node.replica.status().last_index <= before + 1, "refusals stay out of the log");

    for flags in [OpFlags::default(), OpFlags::STALE] {
        wire.send(&op(5, &|out| read(out, flags))).await;
        let frame = wire.next().await.unwrap();
        assert_eq!(codes(&frame), (5, vec![Code::OK]));
        let prefix = ReplyPrefix::take(&mut Reader::new(&frame.body)).unwrap();
        assert!(prefix.index >= before);
        assert_eq!(prefix.age_ms, 0, "the leader's own state is not stale");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_sold_out_cell_does_not_hide_what_is_wrong_with_an_id() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.greeted().await;
    wire.send(&frame(1, Kind::Op, |out| Op::encode_define(out, b"BER", b"shirt"))).await;
    assert_eq!(wire.codes().await, (1, vec![Code::OK]));
    let now = World::real().clock.wall().as_millis();
    let retention = EngineConfig::default().retention_ms;
    let cases = [
        (now - retention - 1_000, Code::ID_TOO_OLD),
        (now, Code::NO_STOCK),
        (now + 10 * 60 * 1_000, Code::CLOCK_SKEW),
    ];
    for (millis, code) in cases {
        let id = ReservationId::from_parts(millis, [7; 10]);
        let line = Line { cell: cell(), quantity: 1 };
        let body = |out: &mut _| Op::encode_reserve(out, OpFlags::default(), None, id, 0, &[line]);
        wire.send(&frame(2, Kind::Op, body)).await;
        assert_eq!(wire.codes().await, (2, vec![code]), "{millis}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_bad_frame_body_harms_only_itself() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.greeted().await;
    let mut burst = BytesMut::new();
    let mixed = batch(1, 2, |out| {
        receive(out, 1, 5);
        read(out, OpFlags::default());
    });
    let cut = batch(2, 3, |out| {
        receive(out, 2, 5);
        receive(out, 3, 5);
    });
    let over = batch(3, limits::BATCH_OPS_MAX + 1, |out| receive(out, 4, 5));
    let internal = frame(4, Kind::Op, |out| out.put_slice(&[0xf1, 0, 0, 0, 0, 0, 0, 0]));
    let empty = frame(5, Kind::Batch, |_| {});
    for bytes in [mixed, cut, over, internal, empty, frame(6, Kind::Op, |out| receive(out, 9, 7))] {
        burst.extend_from_slice(&bytes);
    }
    wire.send(&burst).await;
    let bad = Code::BAD_OP;
    for (id, code) in [(1, bad), (2, bad), (3, Code::TOO_LARGE), (4, bad), (5, bad), (6, Code::OK)]
    {
        assert_eq!(wire.codes().await, (id, vec![code]));
    }
    let handle = node.replica.cells().handle(b"BER", b"shirt").unwrap();
    assert_eq!(node.replica.cells().counters(handle).unwrap().on_hand, 7);
    node.stop().await;
}

#[tokio::test]
async fn a_broken_frame_closes_after_what_was_admitted() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.greeted().await;
    let mut burst = frame(1, Kind::Op, |out| receive(out, 1, 5));
    let mut broken = frame(2, Kind::Op, Op::encode_ping);
    broken[21] ^= 0x80;
    burst.extend_from_slice(&broken);
    wire.send(&burst).await;
    let mut answers = vec![wire.codes().await, wire.codes().await];
    answers.sort_by_key(|(id, _)| *id);
    assert_eq!(answers, [(0, vec![Code::BAD_FRAME]), (1, vec![Code::OK])]);
    assert!(wire.next().await.is_none());
    node.stop().await;
}

#[tokio::test]
async fn frames_over_the_bound_in_flight_are_busy() {
    let node = Node::start(Limits { frames_in_flight_max: 3, ..Limits::default() }).await;
    let mut wire = node.greeted().await;
    let mut burst = BytesMut::new();
    for n in 1..=5 {
        burst.extend_from_slice(&frame(u64::from(n), Kind::Op, |out| receive(out, n, 1)));
    }
    wire.send(&burst).await;
    let mut answers = Vec::new();
    for _ in 0..5 {
        answers.push(wire.codes().await);
    }
    answers.sort_by_key(|(id, _)| *id);
    let codes: Vec<Code> = answers.iter().map(|(_, codes)| codes[0]).collect();
    assert_eq!(codes, [Code::OK, Code::OK, Code::OK, Code::BUSY, Code::BUSY]);
    // What was answered is owed no more.
    wire.send(&frame(6, Kind::Op, |out| receive(out, 5, 1))).await;
    assert_eq!(wire.codes().await, (6, vec![Code::OK]));
    node.stop().await;
}

#[tokio::test]
async fn bytes_over_the_bound_in_flight_are_busy() {
    let mut one = BytesMut::new();
    receive(&mut one, 1, 1);
    let request_bytes_in_flight_max = 3 * one.len() as u64;
    let node = Node::start(Limits { request_bytes_in_flight_max, ..Limits::default() }).await;
    let mut wire = node.greeted().await;
    let mut burst = BytesMut::new();
    for n in 1..=5 {
        burst.extend_from_slice(&frame(u64::from(n), Kind::Op, |out| receive(out, n, 1)));
    }
    // What was answered is owed no more, so that the second burst fares like the first.
    for _ in 0..2 {
        wire.send(&burst).await;
        let mut answers = Vec::new();
        for _ in 0..5 {
            answers.push(wire.codes().await);
        }
        answers.sort_by_key(|(id, _)| *id);
        let busy: Vec<bool> = answers.iter().map(|(_, codes)| codes[0] == Code::BUSY).collect();
        assert_eq!(busy, [false, false, false, true, true]);
    }
    node.stop().await;
}

/// A node that has forgotten a released cart of the most lines.
async fn forgotten_cart(limits: Limits) -> (Node, ReservationId) {
    let engine = EngineConfig { retention_ms: 2_000, ..EngineConfig::default() };
    let node = Node::start_first(Setup { engine, limits, ..Setup::default() }).await;
    let mut wire = node.greeted().await;
    let lines = vec![Line { cell: cell(), quantity: 1 }; usize::from(limits::LINES_MAX)];
    let cart = id(9);
    let reserve = |out: &mut _| {
        Op::encode_reserve(out, OpFlags::default(), None, cart, 60_000, &lines);
    };
    let release = |out: &mut _| Op::encode_release(out, OpFlags::default(), None, cart);
    wire.send(&frame(1, Kind::Op, |out| receive(out, 1, 10_000))).await;
    assert_eq!(wire.codes().await.1, [Code::OK]);
    wire.send(&frame(2, Kind::Op, reserve)).await;
    assert_eq!(wire.codes().await.1, [Code::OK]);
    wire.send(&frame(3, Kind::Op, release)).await;
    assert_eq!(wire.codes().await.1, [Code::OK]);
    let is_known = || {
        let mut out = BytesMut::new();
        node.replica.with_state(|state| state.read_lines(cart, &mut out));
        take_outcome(&mut Reader::new(&out)).unwrap().code.is_ok()
    };
    until(|| !is_known()).await;
    (node, cart)
}

fn read_lines(id: ReservationId) -> BytesMut {
    let mut read = BytesMut::new();
    Op::ReadLines { id }.encode(&mut read, &Terms::default());
    read
}

#[tokio::test]
async fn a_retry_of_what_is_forgotten_is_answered_whoever_asks() {
    let (node, cart) = forgotten_cart(Limits::default()).await;
    for name in [&b""[..], b"a shop of some name"] {
        let mut wire = node.greeted_as(name).await;
        let release = |out: &mut BytesMut| Op::encode_release(out, OpFlags::RETRY, None, cart);
        let again = batch(1, 2, |out| {
            Op::encode_define(out, b"BER", b"shirt");
            release(out);
        });
        wire.send(&again).await;
        assert_eq!(wire.codes().await.1, [Code::OK, Code::REPLAY], "{name:?}");
    }
    node.stop().await;
}

#[tokio::test]
async fn a_reply_that_the_archive_makes_too_large_is_refused() {
    let (node, cart) = forgotten_cart(Limits::default()).await;
    let (mut wire, read) = (node.greeted().await, read_lines(cart));
    for (count, expected) in [(50, vec![Code::OK; 50]), (500, vec![Code::TOO_LARGE])] {
        wire.send(&batch(1, count, |out| out.extend_from_slice(&read.repeat(count as usize))))
            .await;
        assert_eq!(wire.codes().await.1, expected);
    }
    node.stop().await;
}

#[tokio::test]
async fn bytes_that_wait_for_the_archive_are_bounded() {
    let (node, cart) =
        forgotten_cart(Limits { read_bytes_all_max: 1_000, ..Limits::default() }).await;
    let (mut wire, old) = (node.greeted().await, read_lines(cart));
    let ops = |out: &mut BytesMut| {
        out.extend_from_slice(&old);
        Op::encode_read_cells(out, OpFlags::default(), &[CellRef::Handle(CellHandle(0)); 50]);
    };
    // What the first has read so far is over the bound; the request of neither is.
    let mut burst = batch(1, 2, ops);
    burst.extend_from_slice(&batch(2, 2, ops));
    for _ in 0..2 {
        wire.send(&burst).await;
        let mut answers = [wire.codes().await, wire.codes().await];
        answers.sort_by_key(|(id, _)| *id);
        assert_eq!(answers, [(1, vec![Code::OK; 2]), (2, vec![Code::BUSY])]);
    }
    node.stop().await;
}

#[tokio::test]
async fn a_full_memory_takes_no_new_ids_and_serves_the_old_ones() {
    let node = Node::start_first(Setup { reservations_max: 2, ..Setup::default() }).await;
    let mut wire = node.greeted().await;
    let held = id(2);
    let line = Line { cell: cell(), quantity: 1 };
    let reserve_held =
        |out: &mut _| Op::encode_reserve(out, OpFlags::RETRY, None, held, 60_000, &[line]);
    wire.send(&frame(1, Kind::Op, |out| receive(out, 1, 5))).await;
    assert_eq!(wire.codes().await, (1, vec![Code::OK]));
    wire.send(&frame(2, Kind::Op, reserve_held)).await;
    assert_eq!(wire.codes().await, (2, vec![Code::OK]));
    until(|| node.replica.records_full()).await;

    let release = |id| move |out: &mut _| Op::encode_release(out, OpFlags::default(), None, id);
    let mut burst = frame(3, Kind::Op, |out| reserve(out, 3, 1));
    burst.extend_from_slice(&frame(4, Kind::Op, |out| receive(out, 4, 1)));
    burst.extend_from_slice(&frame(5, Kind::Op, release(id(5))));
    wire.send(&burst).await;
    for request in 3..=5 {
        assert_eq!(wire.codes().await, (request, vec![Code::BUSY]));
    }
    wire.send(&frame(6, Kind::Op, reserve_held)).await;
    assert_eq!(wire.codes().await, (6, vec![Code::REPLAY]));
    wire.send(&frame(7, Kind::Op, release(held))).await;
    assert_eq!(wire.codes().await, (7, vec![Code::OK]));
    node.stop().await;
}

#[tokio::test]
async fn stock_writes_leave_room_for_sales_and_steps_do_not_fill_a_full_memory() {
    let node = Node::start_first(Setup { reservations_max: 4, ..Setup::default() }).await;
    let mut wire = node.greeted().await;
    for seed in 1..=3 {
        wire.send(&frame(1, Kind::Op, |out| receive(out, seed, 5))).await;
        assert_eq!(wire.codes().await, (1, vec![Code::OK]));
    }
    until(|| node.replica.records_tight()).await;
    wire.send(&frame(2, Kind::Op, |out| receive(out, 4, 5))).await;
    assert_eq!(wire.codes().await, (2, vec![Code::BUSY]));
    let held = id(5);
    let line = Line { cell: cell(), quantity: 2 };
    let reserve = |out: &mut _| {
        Op::encode_reserve(out, OpFlags::default(), None, held, 60_000, &[line]);
    };
    wire.send(&frame(3, Kind::Op, reserve)).await;
    assert_eq!(wire.codes().await, (3, vec![Code::OK]));

    until(|| node.replica.records_full()).await;
    let one = [Part { line: 0, quantity: 1 }];
    let in_part = |out: &mut _| {
        Op::encode_parts(out, Opcode::Confirm, &Terms::default(), held, 1, &one);
    };
    let whole = |out: &mut _| Op::encode_confirm(out, OpFlags::default(), None, held);
    wire.send(&frame(4, Kind::Op, in_part)).await;
    assert_eq!(wire.codes().await, (4, vec![Code::BUSY]));
    wire.send(&frame(5, Kind::Op, whole)).await;
    assert_eq!(wire.codes().await, (5, vec![Code::OK]));
    node.stop().await;
}

#[tokio::test]
async fn a_silent_connection_is_closed() {
    let limits = Limits { idle_timeout: Duration::from_millis(50), ..Limits::default() };
    let node = Node::start(limits).await;
    let mut wire = node.greeted().await;
    assert!(wire.next().await.is_none());
    node.stop().await;
}

/// The code and the leader of the next frame, which is an ERROR.
async fn refusal(wire: &mut Wire) -> (Code, String) {
    let frame = wire.next().await.unwrap();
    assert_eq!(frame.header.kind, Kind::Error);
    let reply = ErrorReply::decode(&frame.body).unwrap();
    (reply.code, String::from_utf8(reply.leader.to_vec()).unwrap())
}

#[tokio::test]
async fn a_follower_names_the_leader_and_answers_stale_reads() {
    let leader = Node::start(Limits::default()).await;
    let follower = leader.joined().await;
    let mut wire = leader.greeted().await;
    wire.send(&frame(1, Kind::Op, |out| receive(out, 1, 5))).await;
    assert_eq!(wire.codes().await, (1, vec![Code::OK]));
    until(|| follower.replica.cells().handle(b"BER", b"shirt").is_some()).await;

    let mut wire = follower.connect().await;
    wire.send(&hello(1, 1)).await;
    let greeting = wire.next().await.unwrap();
    assert_eq!(HelloReply::decode(&greeting.body).unwrap().leader, leader.client.as_bytes());
    // More than there is, so that the counters alone could refuse it: a follower must not.
    let requests: [fn(&mut BytesMut); 3] =
        [|out| receive(out, 2, 1), |out| reserve(out, 3, 9), |out| read(out, OpFlags::default())];
    for request in requests {
        wire.send(&frame(2, Kind::Op, request)).await;
        assert_eq!(refusal(&mut wire).await, (Code::NOT_LEADER, leader.client.clone()));
    }
    wire.send(&frame(3, Kind::Op, |out| read(out, OpFlags::STALE))).await;
    let stale = wire.next().await.unwrap();
    assert_eq!(codes(&stale), (3, vec![Code::OK]));
    let prefix = ReplyPrefix::take(&mut Reader::new(&stale.body)).unwrap();
    assert!(prefix.age_ms > 0 && prefix.age_ms < u32::MAX, "{}", prefix.age_ms);
    wire.send(&frame(4, Kind::Op, Op::encode_ping)).await;
    assert_eq!(wire.codes().await, (4, vec![Code::OK]));
    follower.stop().await;
    leader.stop().await;
}

/// Keeps the log as a node applies it.
#[derive(Default)]
struct Applied(Mutex<Vec<Bytes>>);

impl Observer for Applied {
    fn applied(&self, _: u64, batch: Option<&[u8]>, _: &StockState) {
        self.0.lock().unwrap().extend(batch.map(Bytes::copy_from_slice));
    }

    fn restored(&self, _: u64, _: &StockState) {}
}

#[tokio::test]
async fn the_log_says_of_each_operation_which_client_asked_for_it() {
    let (node, applied) = (Node::start(Limits::default()).await, Arc::new(Applied::default()));
    let setup = Setup { observer: Some(applied.clone()), ..Setup::default() };
    let follower = node.joined_by(setup).await;
    // Each client makes cells that tell whose they are.
    let clients: [(&[u8], &[u8]); 3] =
        [(b"shop", b"of-shop"), (b"", b"of-nobody"), (b"desk", b"of-desk")];
    let mut wires = Vec::new();
    for (name, _) in clients {
        wires.push(node.greeted_as(name).await);
    }
    let shares_an_entry = || {
        applied.0.lock().unwrap().iter().any(|entry| {
            let mut batch = Batch::decode(entry);
            let skus = (0..batch.op_count).filter_map(|_| sku_defined(batch.take()));
            skus.collect::<BTreeSet<_>>().len() == clients.len()
        })
    };
    let mut request_id = 0;
    while !shares_an_entry() {
        request_id += 1;
        assert!(request_id < 1_000, "requests that come at once share entries");
        for (wire, (_, sku)) in wires.iter_mut().zip(clients) {
            let twice = batch(request_id, 2, |out| {
                Op::encode_define(out, b"BER", sku);
                Op::encode_define(out, b"HAM", sku);
            });
            wire.send(&twice).await;
        }
        for wire in &mut wires {
            assert_eq!(wire.codes().await, (request_id, vec![Code::OK, Code::OK]));
        }
        let index = node.replica.status().applied_index;
        until(|| follower.replica.status().applied_index >= index).await;
    }
    let mut asked = 0;
    for entry in applied.0.lock().unwrap().iter() {
        let mut batch = Batch::decode(entry);
        let mut principals = batch.principals;
        for position in 0..batch.op_count {
            let sku = sku_defined(batch.take());
            let client = clients.iter().find(|(_, own)| Some(*own) == sku);
            let name = client.map_or(&b""[..], |client| client.0);
            assert_eq!(principals.of(position), name, "{sku:?} at {position} of {entry:?}");
            asked += u64::from(client.is_some());
        }
        assert!(principals.end_within(batch.op_count));
    }
    assert_eq!(asked, request_id * 6);
    follower.stop().await;
    node.stop().await;
}

fn sku_defined<'a>(command: Command<'a>) -> Option<&'a [u8]> {
    match command {
        Command::Client(Op::Define { cell: CellRef::Name { sku, .. } }, ..) => Some(sku),
        _ => None,
    }
}

#[tokio::test]
async fn a_drained_node_that_leads_no_more_sends_clients_to_the_leader() {
    let drained = Node::start(Limits::default()).await;
    let other = drained.joined().await;
    let mut wire = drained.greeted().await;
    assert!(drained.operator().await.ask("drain").await.contains("takes no writes"));
    until(|| drained.replica.leadership().leader.as_ref().is_some_and(|node| node.id == 2)).await;
    wire.send(&frame(1, Kind::Op, |out| receive(out, 1, 5))).await;
    assert_eq!(refusal(&mut wire).await, (Code::NOT_LEADER, other.client.clone()));
    let answer = drained.operator().await.ask("remove 2").await;
    assert!(answer.starts_with("error: this node does not lead; ask the admin port of node 2"));
    other.stop().await;
    drained.stop().await;
}

#[tokio::test]
async fn reads_that_are_refused_as_too_large_do_not_keep_others_waiting() {
    let node = Node::start(Limits::default()).await;
    let (mut greedy, mut modest) = (node.greeted().await, node.greeted().await);
    let count = 4_096;
    let cells = batch(1, count, |out| {
        for n in 0..count {
            Op::encode_define(out, format!("warehouse-{n:08}").as_bytes(), b"shirt");
        }
    });
    greedy.send(&cells).await;
    assert_eq!(greedy.codes().await.1.len(), count as usize);
    // Each is refused after 4 MiB of it were read.
    let frames = 24;
    let mut burst = BytesMut::new();
    for n in 0..frames {
        burst.extend_from_slice(&batch(n, 96, |out| {
            for _ in 0..96 {
                Op::encode_read_sku(out, OpFlags::STALE, None, b"shirt");
            }
        }));
    }
    greedy.send(&burst).await;
    modest.send(&frame(1, Kind::Op, Op::encode_ping)).await;
    assert_eq!(modest.codes().await, (1, vec![Code::OK]));
    let mut answered = 0;
    while let Ok(1..) = greedy.stream.try_read_buf(&mut greedy.received) {}
    while let Some(frame) = take_frame(&mut greedy.received, limits::REPLY_BYTES_MAX).unwrap() {
        assert_eq!(codes(&frame).1, [Code::TOO_LARGE]);
        answered += 1;
    }
    assert!(answered < frames, "the ping waited for all of them");
    node.stop().await;
}

#[tokio::test]
async fn large_reads_wait_their_turn_and_hold_up_nobody() {
    let node = Node::start(Limits::default()).await;
    let (mut first, second) = (node.greeted().await, node.greeted().await);
    let (gone, mut modest) = (node.greeted().await, node.greeted().await);
    first.send(&frame(1, Kind::Op, |out| receive(out, 1, 5))).await;
    assert_eq!(first.codes().await, (1, vec![Code::OK]));
    let handle = node.replica.cells().handle(b"BER", b"shirt").unwrap();
    let cells = vec![CellRef::Handle(handle); usize::from(limits::READ_CELLS_MAX)];
    let asks = |flags| {
        let ask = |id| frame(id, Kind::Op, |out| Op::encode_read_cells(out, flags, &cells));
        (0..6).flat_map(ask).collect::<BytesMut>()
    };
    let mut wires = [gone, first, second];
    let plain = OpFlags::default();
    for (wire, flags) in wires.iter_mut().zip([plain, plain, OpFlags::STALE]) {
        wire.send(&asks(flags)).await;
    }
    let [gone, mut first, mut second] = wires;
    drop(gone);
    modest.send(&frame(1, Kind::Op, Op::encode_ping)).await;
    assert_eq!(modest.codes().await, (1, vec![Code::OK]));
    first.stream.shutdown().await.unwrap();
    for wire in [&mut second, &mut first] {
        for id in 0..6 {
            assert_eq!(wire.codes().await, (id, vec![Code::OK]));
        }
    }
    assert!(first.next().await.is_none(), "it had closed its side, and got all its answers");
    let mut operator = node.operator().await;
    while !operator.ask("top").await.contains("read_bytes_waiting    0\n") {}
    node.stop().await;
}

#[tokio::test]
async fn one_connection_too_many_is_busy_and_operators_still_get_in() {
    let node = Node::start(Limits { connections_max: 1, ..Limits::default() }).await;
    let _first = node.greeted().await;
    let mut second = node.connect().await;
    assert_eq!(second.codes().await, (0, vec![Code::BUSY]));
    assert!(second.next().await.is_none());
    assert!(node.operator().await.ask("status").await.contains("connections     1"));
    node.stop().await;
}

#[tokio::test]
async fn a_client_that_never_reads_is_bounded_and_closed() {
    let limits = Limits {
        unsent_bytes_pause: 64 << 10,
        send_timeout: Duration::from_millis(100),
        ..Limits::default()
    };
    let node = Node::start(limits).await;
    let mut wire = node.greeted().await;
    wire.send(&frame(1, Kind::Op, |out| receive(out, 1, 5))).await;
    assert_eq!(wire.codes().await, (1, vec![Code::OK]));
    // 8,192 cells a read: 300 KiB of reply for each frame of 32 KiB, and never read.
    let handle = node.replica.cells().handle(b"BER", b"shirt").unwrap();
    let cells = vec![CellRef::Handle(handle); usize::from(limits::READ_CELLS_MAX)];
    let ask = frame(2, Kind::Op, |out| Op::encode_read_cells(out, OpFlags::STALE, &cells));
    // The server stops reading, and then closes: writing fails in the end.
    while wire.stream.write_all(&ask).await.is_ok() {}
    let mut operator = node.operator().await;
    while !operator.ask("top").await.contains("bytes_unsent          0\n") {}
    node.stop().await;
}

#[tokio::test]
async fn admin_answers_in_text_and_json() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.greeted().await;
    let name = CellRef::name("old town", b"a\x00b");
    let op_id = OpId(id(1).0);
    let body = |out: &mut _| Op::encode_receive(out, OpFlags::DEFINE, None, op_id, name, 5);
    wire.send(&frame(1, Kind::Op, body)).await;
    assert_eq!(wire.codes().await, (1, vec![Code::OK]));
    wire.send(&frame(2, Kind::Op, |out| receive(out, 2, 4))).await;
    assert_eq!(wire.codes().await, (2, vec![Code::OK]));
    let held = id(3);
    let line = Line { cell: cell(), quantity: 3 };
    let body =
        |out: &mut _| Op::encode_reserve(out, OpFlags::default(), None, held, 60_000, &[line]);
    wire.send(&frame(3, Kind::Op, body)).await;
    assert_eq!(wire.codes().await, (3, vec![Code::OK]));

    let mut operator = node.operator().await;
    let answer = operator.ask(r#"cell "old town" a\x00b"#).await;
    assert!(answer.contains("sku          a\\x00b\n"), "{answer}");
    assert!(answer.contains("on_hand      5\n"), "{answer}");
    assert_eq!(operator.ask("cell BER").await, "error: write: cell WAREHOUSE SKU\n");
    assert_eq!(operator.ask("frob\x07").await, "error: unknown command 'frob\\x07'; type help\n");
    assert!(operator.ask(r#"cell "BER"#).await.starts_with("error: a quote is not closed"));
    assert!(operator.ask("cell BER nope").await.starts_with("error: no cell 'BER' 'nope'"));
    assert!(operator.ask("help code 100").await.contains("NO_STOCK"));
    assert!(operator.ask(&format!("hold {held}")).await.contains("state        ACTIVE\n"));
    assert!(operator.ask("sku shirt").await.contains("available    1\n"));
    for verb in ["help", "status", "members", "limits", "version", "top"] {
        assert!(!operator.ask(verb).await.starts_with("error"), "{verb}");
    }
    operator.say("json cell BER shirt\n").await;
    let json = operator.line().await;
    assert!(json.starts_with(r#"{"warehouse":"BER","sku":"shirt","#), "{json}");
    operator.say("json frob\n").await;
    assert_eq!(operator.line().await, "{\"error\":\"unknown command 'frob'; type help\"}\n");
    operator.say("json cell \"BER\n").await;
    assert!(operator.line().await.starts_with("{\"error\":\"a quote is not closed"));
    operator.say("quit\n").await;
    assert_eq!(operator.line().await, "", "closed");

    let mut shouter = node.operator().await;
    shouter.say(&"x".repeat(3_000)).await;
    assert!(shouter.line().await.starts_with("error: a line has at most 1024 bytes"));
    node.stop().await;
}

#[tokio::test]
async fn a_digest_tells_states_apart_and_says_of_which_index_it_is() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.greeted().await;
    let mut operator = node.operator().await;
    operator.say("json digest\n").await;
    let empty = operator.line().await;
    assert!(
        empty.starts_with(r#"{"applied_index":"#) && empty.contains(r#","digest":""#),
        "{empty}"
    );
    let mut seen = vec![empty];
    for n in 1..=2 {
        wire.send(&frame(n.into(), Kind::Op, |out| receive(out, n, 5))).await;
        assert_eq!(wire.codes().await, (n.into(), vec![Code::OK]));
        for _ in 0..2 {
            operator.say("json digest\n").await;
            seen.push(operator.line().await);
        }
    }
    assert_eq!((&seen[1], &seen[3]), (&seen[2], &seen[4]), "nothing happened between the two");
    let digest = |line: &str| line.split("digest").nth(1).map(str::to_owned);
    assert_ne!(digest(&seen[0]), digest(&seen[1]));
    assert_ne!(digest(&seen[1]), digest(&seen[3]));
    node.stop().await;
}

#[tokio::test]
async fn a_drained_node_takes_no_writes_and_still_reads() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.greeted().await;
    let mut operator = node.operator().await;
    assert!(operator.ask("drain").await.contains("takes no writes"));
    wire.send(&frame(1, Kind::Op, |out| receive(out, 1, 5))).await;
    assert_eq!(wire.codes().await, (1, vec![Code::BUSY]));
    wire.send(&frame(2, Kind::Op, |out| read(out, OpFlags::STALE))).await;
    assert_eq!(wire.codes().await, (2, vec![Code::OK]));
    operator.ask("undrain").await;
    wire.send(&frame(3, Kind::Op, |out| receive(out, 1, 5))).await;
    assert_eq!(wire.codes().await, (3, vec![Code::OK]));
    node.stop().await;
}

#[tokio::test]
async fn shutdown_answers_what_was_admitted_and_closes() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.greeted().await;
    let mut burst = BytesMut::new();
    for n in 1..=100 {
        burst.extend_from_slice(&frame(u64::from(n), Kind::Op, |out| receive(out, n, 1)));
    }
    wire.send(&burst).await;
    assert_eq!(wire.codes().await.1, [Code::OK]);
    node.stop().await;
    for _ in 2..=100 {
        assert_eq!(wire.codes().await.1, [Code::OK]);
    }
    assert!(wire.next().await.is_none());
}
