//! A running node, and strangers who talk to it over real sockets.
//!
//! The node lives in this process and on this thread, on a disk in memory, and stays from one input
//! to the next; so an input that breaks it may be explained by those before.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use bytes::BytesMut;
use stockd::archive::ArchiveOptions;
use stockd::engine::EngineConfig;
use stockd::events::EventOptions;
use stockd::log::{LogOptions, SimStorage};
use stockd::replication::{Bootstrap, NodeInfo, Replica, ReplicaOptions, Timing};
use stockd::server::{Limits, Listeners, Server};
use stockd::world::{TaskThreads, World};
use stockd_client::fuzzing;
use stockd_protocol::{Frame, Header, Kind, Reader, limits, take_frame, take_op};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;

use crate::input::{Input, mend_frames};
use crate::traffic;

/// Longer than any answer takes, shorter than a person waits.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

struct Node {
    runtime: Runtime,
    client: SocketAddr,
    admin: SocketAddr,
    _server: Server,
}

thread_local! {
    static NODE: OnceCell<Node> = const { OnceCell::new() };
}

impl Node {
    fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("the operating system gives a poll descriptor");
        let (client, admin, server) = runtime.block_on(Self::serve());
        Self { runtime, client, admin, _server: server }
    }

    async fn serve() -> (SocketAddr, SocketAddr, Server) {
        let any = "127.0.0.1:0".parse().expect("an address");
        let listeners = Listeners::bind(any, any).await.expect("a free port");
        let client = listeners.client_address().expect("a bound port");
        let admin = listeners.admin_address().expect("a bound port");
        // Nobody connects to it: a single node has no peers.
        let peer = "127.0.0.1:0".to_owned();
        let node =
            NodeInfo { id: 1, client_address: client.to_string(), peer_address: peer.clone() };
        let options = ReplicaOptions {
            node,
            peer_listen: peer,
            bootstrap: Bootstrap::Single,
            engine: EngineConfig { retention_ms: 5_000, ..EngineConfig::default() },
            log: LogOptions { segment_bytes: 8 << 20, ..LogOptions::default() },
            timing: Timing::default(),
            reservations_max: 5_000,
            snapshot_log_bytes: 16 << 20,
            follower_lag_max: 1_000,
            lease_reads: false,
            archive: Some(ArchiveOptions::default()),
            events: Some(EventOptions::default()),
            reconcile: None,
            draining: Arc::new(AtomicBool::new(false)),
            observer: None,
            notice: Arc::new(|_| {}),
        };
        let world = World { threads: Arc::new(TaskThreads), ..World::real() };
        let storage = Arc::new(SimStorage::new());
        let started = Replica::start(options, storage, world.clone(), &mut |_, _, _| {}).await;
        let replica = started.expect("an empty disk makes a cluster of one");
        while replica.read_barrier().await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let limits = Limits { cells_max: 200, ..Limits::default() };
        (client, admin, listeners.serve(replica, world, limits).expect("there are threads"))
    }

    /// Says all of `bytes` in pieces and nothing more; what is answered until the node closes.
    fn talk(&self, to: SocketAddr, bytes: &[u8], piece: usize) -> Vec<u8> {
        self.runtime.block_on(async {
            let talk = async {
                let stream = TcpStream::connect(to).await.expect("the node accepts");
                let (mut reader, mut writer) = stream.into_split();
                let mut answer = Vec::new();
                let say = async {
                    for piece in bytes.chunks(piece) {
                        // The node may close at any time, and then takes no more.
                        if writer.write_all(piece).await.is_err() {
                            return;
                        }
                        tokio::task::yield_now().await;
                    }
                    let _ = writer.shutdown().await;
                };
                // A reset after the node closed early ends the answer as well.
                let (_, _) = tokio::join!(say, reader.read_to_end(&mut answer));
                answer
            };
            let answer = tokio::time::timeout(ANSWER_TIMEOUT, talk).await;
            answer.expect("the node answers and closes")
        })
    }
}

fn with_node<R>(look: impl FnOnce(&Node) -> R) -> R {
    NODE.with(|node| look(node.get_or_init(Node::start)))
}

/// A client's connection. Byte 0: bit 0 keeps wrong checksums, bit 1 says no hello first; byte 1 is
/// the length of a piece.
pub fn session(data: &[u8]) {
    let mut input = Input(data);
    let (flags, piece) = (input.u8(), usize::from(input.u8()) * 64 + 1);
    let mut bytes = input.0.to_vec();
    if flags & 1 == 0 {
        mend_frames(&mut bytes);
    }
    if flags & 2 == 0 {
        bytes = [traffic::hello(), bytes].concat();
    }
    let answer = with_node(|node| node.talk(node.client, &bytes, piece));
    let asked = asked_in(&bytes);
    let mut answer = BytesMut::from(&answer[..]);
    let mut replies = 0;
    while let Some(frame) = take_frame(&mut answer, limits::REPLY_BYTES_MAX).expect("a frame") {
        if frame.header.kind == Kind::Events {
            check_events(&frame, &asked);
            continue;
        }
        replies += 1;
        check_reply(&frame, &asked);
    }
    assert!(answer.is_empty(), "a node ends with a whole frame");
    // One of them may be the reason why the node closed.
    assert!(replies <= asked.len() + 1, "{replies} replies to {} frames", asked.len());
}

/// The frames of a client, as far as they are frames.
fn asked_in(bytes: &[u8]) -> Vec<Frame> {
    let mut buffer = BytesMut::from(bytes);
    let max = limits::FRAME_BYTES_MAX;
    std::iter::from_fn(|| take_frame(&mut buffer, max).ok().flatten()).collect()
}

/// A reply belongs to a request, and a client understands it.
fn check_reply(reply: &Frame, asked: &[Frame]) {
    let Header { request_id, kind, .. } = reply.header;
    match kind {
        Kind::HelloReply => assert!(fuzzing::read_greeting(reply).is_ok(), "a hello is answered"),
        Kind::Error => assert!(fuzzing::read_error(reply).is_some(), "an error can be read"),
        Kind::OpReply | Kind::BatchReply => {
            // Ids may repeat: one of the requests must fit.
            let mut same_id = asked.iter().filter(|frame| frame.header.request_id == request_id);
            let fits = same_id.any(|frame| {
                let batch = frame.header.kind == Kind::Batch;
                let opcodes = opcodes_of(frame);
                fuzzing::read_reply(batch, &opcodes, reply).is_some()
            });
            assert!(fits, "a client understands the reply to what it asked");
        }
        Kind::BackupFiles | Kind::BackupBytes => {
            let wanted = match kind {
                Kind::BackupFiles => Kind::BackupList,
                _ => Kind::BackupRead,
            };
            let mut same_id = asked.iter().filter(|frame| frame.header.request_id == request_id);
            let is_asked = same_id.any(|frame| frame.header.kind == wanted);
            assert!(is_asked, "files come to who asked for them");
        }
        kind => panic!("a node does not send {kind:?}"),
    }
}

/// Events belong to a subscription, and a client understands them.
fn check_events(frame: &Frame, asked: &[Frame]) {
    let mut subscriptions = asked.iter().filter(|asked| asked.header.kind == Kind::Subscribe);
    let is_asked = subscriptions.any(|asked| asked.header.request_id == frame.header.request_id);
    assert!(is_asked, "events come to who asked for them");
    let read = fuzzing::read_events(false, None, &frame.body);
    assert!(read.is_some(), "a client understands the events that it gets");
}

fn opcodes_of(frame: &Frame) -> Vec<stockd_protocol::Opcode> {
    let skip = if frame.header.kind == Kind::Batch { 4 } else { 0 };
    let mut reader = Reader::new(frame.body.get(skip..).unwrap_or_default());
    std::iter::from_fn(|| take_op(&mut reader).ok()).map(|(op, ..)| op.opcode()).collect()
}

/// An operator's lines. What changes the cluster for good is left out: the node must stay.
pub fn admin(data: &[u8]) {
    const LASTING: [&[u8]; 5] = [b"add", b"remove", b"drain", b"transfer", b"snapshot"];
    let forbidden = LASTING.iter().any(|word| data.windows(word.len()).any(|at| at == *word));
    // Quotes and escapes can spell the words as well.
    if forbidden || data.contains(&b'"') || data.contains(&b'\\') {
        return words(data);
    }
    let answer = with_node(|node| node.talk(node.admin, data, 700));
    let answer = String::from_utf8(answer).expect("an operator reads text");
    let control = |c: char| c.is_control() && c != '\n';
    assert!(!answer.contains(control), "an answer has no control characters: {answer:?}");
    words(data);
}

/// Lines taken apart into words, and words escaped into lines.
fn words(data: &[u8]) {
    for line in data.split(|byte| *byte == b'\n') {
        let Ok(words) = stockd::server::split_words(line) else { continue };
        let text: Vec<_> =
            words.iter().map(|word| format!("\"{}\"", stockd::server::escape(word))).collect();
        let again = stockd::server::split_words(text.join(" ").as_bytes());
        assert_eq!(again, Ok(words), "what is escaped reads back");
    }
}

/// What clients say to a node: one thing, everything, reads of all kinds.
pub fn conversations() -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for (request_id, op) in (1..).zip(traffic::writes().iter().chain(&traffic::reads())) {
        all.extend_from_slice(&traffic::frame(Kind::Op, request_id, op));
    }
    let batches =
        [traffic::batch_frame(8, &traffic::writes()), traffic::batch_frame(9, &traffic::reads())];
    let mut seeds = vec![[&[0, 255], &all[..]].concat(), [&[0, 1], &batches.concat()[..]].concat()];
    for (request_id, op) in (1..).zip(traffic::writes()) {
        seeds.push([&[0, 255], &traffic::frame(Kind::Op, request_id, &op)[..]].concat());
    }
    seeds.push([&[2, 255], &traffic::hello()[..]].concat());
    seeds.push([&[0, 255], &traffic::following().concat()[..]].concat());
    seeds
}

/// Lines that operators type.
pub fn admin_lines() -> Vec<Vec<u8>> {
    let lines = "status\nmembers\ntop\nhelp\nhelp code 100\ncell BER shirt-m\nsku shirt-m\n\
                 hold 018bcfe5680000000000000000000001\nlimits\nversion\nundrain\n\
                 json status\njson cell BER x\njson nonsense\njson top\n\nquit\nversion\n";
    let mut seeds: Vec<Vec<u8>> = lines.lines().map(|line| format!("{line}\n").into()).collect();
    seeds.push(lines.into());
    seeds.push(b"json cell BER \"old town\" a\\x00b\\\"\n".to_vec());
    seeds
}
