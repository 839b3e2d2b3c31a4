//! A node's life, and what it leaves on its disk.

use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use stockd::audit::audit;
use stockd::engine::EngineConfig;
use stockd::events::EventOptions;
use stockd::log::{LogOptions, RealStorage, Storage};
use stockd::protocol::{
    Bucket, CellHandle, CellRef, Code, Line, Op, OpFlags, OpId, Reader, ReplyPrefix, ReservationId,
    ShardId, Terms, take_outcome,
};
use stockd::replication::{
    Bootstrap, NodeInfo, Refusal, Replica, ReplicaOptions, ReplyTo, RequestTag, Role, Source,
    Timing, load_checkpoint, newest_checkpoint,
};
use stockd::world::{Clock, RealClock, World};
use tokio::sync::Notify;

use super::{Files, HEAD_BYTES, disk_of};

/// Most that any wait of a test may take before it fails.
const PATIENCE: Duration = Duration::from_secs(30);
/// Bytes of a segment of events: a dozen of records.
pub const SEGMENT_BYTES: u64 = 2_048;

/// What a node left that had events, a snapshot, and more events; and the first event after the snapshot.
pub struct Life {
    pub files: Files,
    pub next: u64,
}

impl Life {
    fn of(files: Files) -> Self {
        let disk = disk_of(&files);
        let name = newest_checkpoint(&disk).unwrap().unwrap();
        let loaded = load_checkpoint(&disk, &name, &EngineConfig::default(), &mut |_, _| ());
        Self { files, next: loaded.unwrap().events.next }
    }
}

/// One such life for all tests.
pub fn life() -> &'static Life {
    static LIFE: OnceLock<Life> = OnceLock::new();
    LIFE.get_or_init(|| Life::of(live(true, None)))
}

/// The life of a node that made a CHECKPOINT in every entry that it proposed.
pub fn watched() -> &'static Life {
    static WATCHED: OnceLock<Life> = OnceLock::new();
    WATCHED.get_or_init(|| {
        let mut files = live(true, Some(Duration::ZERO));
        // Its last entry may have made a segment that nothing was written into.
        files.retain(|name, content| !name.starts_with("events-") || content.len() > HEAD_BYTES);
        Life::of(files)
    })
}

#[derive(Default)]
struct Inbox {
    answers: Mutex<Vec<Result<Bytes, Refusal>>>,
    arrived: Notify,
    source: Source,
}

impl ReplyTo for Inbox {
    fn reply(&self, _: RequestTag, _: ShardId, _: ReplyPrefix, outcomes: &[u8]) {
        self.answers.lock().unwrap().push(Ok(Bytes::copy_from_slice(outcomes)));
        self.arrived.notify_one();
    }

    fn refuse(&self, _: RequestTag, refusal: &Refusal) {
        self.answers.lock().unwrap().push(Err(refusal.clone()));
        self.arrived.notify_one();
    }

    fn source(&self) -> &Source {
        &self.source
    }
}

/// Executes an operation, which succeeds, as soon as the node takes it.
async fn execute(replica: &Replica, op: &[u8]) {
    let inbox = Arc::new(Inbox::default());
    let to: Arc<dyn ReplyTo> = inbox.clone();
    let tag = RequestTag { request_id: 1, batch: false, ops: 1 };
    let answered = async {
        loop {
            if replica.ingress().push(&to, tag, op).is_ok() {
                inbox.arrived.notified().await;
                let answer = inbox.answers.lock().unwrap().pop().unwrap();
                if let Ok(answer) = answer {
                    return answer;
                }
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let answer = tokio::time::timeout(PATIENCE, answered).await.unwrap();
    assert_eq!(take_outcome(&mut Reader::new(&answer)).unwrap().code, Code::OK);
}

fn id(number: u16) -> [u8; 16] {
    let mut random = [7; 10];
    random[..2].copy_from_slice(&number.to_le_bytes());
    OpId::from_parts(RealClock::new().wall().as_millis(), random).0
}

/// Three cells in two warehouses: receipts, holds, sales, damaged and announced units.
async fn trade(replica: &Replica, rounds: std::ops::Range<u16>) {
    let skus: [&[u8]; 3] = [b"mug", b"cup", b"mug"];
    let warehouses: [&[u8]; 3] = [b"BER", b"BER", b"HAM"];
    for round in rounds {
        let mut out: [BytesMut; 6] = Default::default();
        let number = |step: u16| round * 10 + step;
        let at = usize::from(round % 3);
        let cell = CellRef::Name { warehouse: warehouses[at], sku: skus[at] };
        let terms = Terms { flags: OpFlags::DEFINE, ..Terms::default() };
        Op::Receive { op_id: OpId(id(number(0))), quantity: 10, cell }.encode(&mut out[0], &terms);
        let lines = [Line { cell, quantity: 2 }, Line { cell, quantity: 1 }];
        let (held, sold) = (ReservationId(id(number(1))), ReservationId(id(number(2))));
        Op::encode_reserve(&mut out[1], OpFlags::default(), None, held, 0, &lines);
        Op::encode_reserve(&mut out[2], OpFlags::default(), None, sold, 0, &lines[..1]);
        Op::encode_confirm(&mut out[3], OpFlags::default(), None, sold);
        match round % 2 {
            0 => Op::encode_release(&mut out[4], OpFlags::default(), None, held),
            _ => {
                let (from, to) = (Bucket::Sellable, Bucket::Damaged);
                let op_id = OpId(id(number(3)));
                let moved = Op::Move { op_id, from, to, quantity: 1, cell };
                moved.encode(&mut out[4], &Terms::default());
            }
        }
        let announced = Op::Announce { op_id: OpId(id(number(4))), delta: 5, cell };
        announced.encode(&mut out[5], &Terms::default());
        for op in out {
            execute(replica, &op).await;
        }
    }
    assert!(replica.cells().details(CellHandle(2)).is_some());
}

/// Starts a node, and waits until it leads. `reconcile`: how often it makes a CHECKPOINT.
async fn start(directory: &Path, reconcile: Option<Duration>) -> Replica {
    let address = || "127.0.0.1:0".to_owned();
    let events = EventOptions { segment_bytes: SEGMENT_BYTES, ..EventOptions::default() };
    let options = ReplicaOptions {
        node: NodeInfo { id: 1, client_address: address(), peer_address: address() },
        peer_listen: address(),
        bootstrap: Bootstrap::Single,
        engine: EngineConfig::default(),
        log: LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() },
        timing: Timing::default(),
        reservations_max: 1 << 20,
        snapshot_log_bytes: 1 << 30,
        follower_lag_max: 1 << 20,
        lease_reads: false,
        archive: None,
        events: Some(events),
        reconcile,
        draining: Arc::default(),
        notice: Arc::new(|line| eprintln!("{line}")),
        observer: None,
    };
    let patient = async {
        // The tasks of an earlier start may still be letting go of the directory.
        let storage = loop {
            match RealStorage::open(directory) {
                Ok(storage) => break Arc::new(storage),
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        };
        let told = &mut |_: &str, _, _| ();
        let replica = Replica::start(options, storage, World::real(), told).await.unwrap();
        while replica.leadership().role != Role::Leader {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        replica
    };
    tokio::time::timeout(PATIENCE, patient).await.unwrap()
}

/// The files that a node leaves which was restarted once, and was looked at also while it ran.
pub fn live(with_snapshot: bool, reconcile: Option<Duration>) -> Files {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let directory = tempfile::tempdir().unwrap();
    runtime.block_on(async {
        let replica = start(directory.path(), reconcile).await;
        trade(&replica, 0..12).await;
        if with_snapshot {
            replica.snapshot().await.unwrap();
        }
        trade(&replica, 12..18).await;
        replica.shutdown().await;
        drop(replica);
        let replica = start(directory.path(), reconcile).await;
        trade(&replica, 18..24).await;
        // Nobody waits for events to be written but who asks.
        replica.events().unwrap().mark().await.unwrap();
        let outside = RealStorage::open_read_only(directory.path()).unwrap();
        let report = audit(&outside, &RealClock::new(), &mut |_, _, _| ());
        assert!(report.is_ok(), "beside the running node: {}", report.verdict());
        replica.shutdown().await;
    });
    let storage = RealStorage::open_read_only(directory.path()).unwrap();
    let read = |name: String| {
        let content = storage.read_small(&name).unwrap().unwrap();
        (name, content)
    };
    storage.list().unwrap().into_iter().map(|entry| read(entry.name)).collect()
}
