//! The example that orders what runs low, killed at random.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stockd_client::events::{Cursor, EventBody, EventKind, EventStream, Subscription};
use stockd_client::{
    CellHandle, CellRef, Client, Code, Error, OpId, PolicyChange, Reserve, StockWrite,
};
use tokio::time::timeout;

use crate::{Cluster, PATIENCE, receive, sell, until};

#[expect(dead_code, reason = "the example's own entry point")]
#[path = "../../client/examples/replenish.rs"]
mod example;

/// Where the process that is killed finds its arguments: the cursor's path, then the nodes.
const ARGUMENTS: &str = "STOCKD_TEST_REPLENISH";

/// The example, as a process of its own, if a test below started it; else it has no cluster, and says so.
#[test]
fn the_process_that_is_killed() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let Ok(arguments) = std::env::var(ARGUMENTS) else {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("cursor");
        let nowhere = ["127.0.0.1:1".to_owned()];
        let ended = runtime.block_on(example::replenish(path.to_str().unwrap(), &nowhere));
        return assert!(ended.is_err(), "there is no cluster");
    };
    let mut words = arguments.split(' ').map(str::to_owned);
    let path = words.next().unwrap();
    let nodes: Vec<String> = words.collect();
    runtime.block_on(example::replenish(&path, &nodes)).unwrap();
}

/// Kills the process, whatever becomes of the test.
struct Buyer(Child);

impl Buyer {
    fn start(path: &str, nodes: &[String]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "replenish::the_process_that_is_killed"]);
        command.env(ARGUMENTS, [&[path.to_owned()], nodes].concat().join(" "));
        Self(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap())
    }

    fn assert_runs(&mut self) {
        assert_eq!(self.0.try_wait().unwrap(), None, "it has ended by itself");
    }
}

impl Drop for Buyer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What was crossed, and how often each was ordered.
#[derive(Default)]
struct Book {
    crossings: BTreeMap<u64, u32>,
    /// The last event that was seen.
    events: u64,
}

impl Book {
    /// Takes what comes next; the kinds of what was seen.
    async fn read(&mut self, stream: &mut EventStream) -> Vec<EventKind> {
        let batch = timeout(PATIENCE, stream.next()).await.expect("something comes").unwrap();
        let mut seen = Vec::new();
        for event in &batch {
            self.events = event.sequence;
            let is_of_cell =
                matches!(event.body, EventBody::Crossed { .. } if event.change.is_some());
            let reference = event.note.map_or(&b""[..], |note| note.reference);
            let ordered = std::str::from_utf8(reference).unwrap().strip_prefix("crossing ");
            match event.kind {
                EventKind::CrossedDown if is_of_cell => {
                    self.crossings.insert(event.sequence, 0);
                }
                EventKind::Received if ordered.is_some() => {
                    let crossing: u64 = ordered.unwrap().parse().unwrap();
                    *self
                        .crossings
                        .get_mut(&crossing)
                        .expect("no order comes before its crossing") += 1;
                }
                _ => continue,
            }
            seen.push(event.kind);
        }
        seen
    }

    /// Takes all that has happened.
    async fn read_all(&mut self, stream: &mut EventStream, nodes: &[String]) {
        let end = Subscription::new(nodes).now().open().await.unwrap().position();
        while stream.position() < end {
            self.read(stream).await;
        }
    }

    fn open(&self) -> usize {
        self.crossings.values().filter(|orders| **orders == 0).count()
    }

    fn assert_each_once(&self) {
        for (crossing, orders) in &self.crossings {
            assert_eq!(*orders, 1, "crossing {crossing} was ordered {orders} times");
        }
    }
}

/// How far the events were handled, by the file of a cursor that another process has open.
fn position(path: &str) -> u64 {
    let bytes = std::fs::read(path).unwrap_or_default();
    bytes.get(20..28).map_or(0, |next| u64::from_le_bytes(next.try_into().unwrap()))
}

async fn set_point(client: &Client, sku: &str, point: i64) {
    let change = PolicyChange { reorder_point: Some(Some(point)), ..PolicyChange::default() };
    let cell = CellRef::name("BER", sku);
    client.write(&StockWrite::policy(client.new_op_id(), cell, change)).await.unwrap();
}

/// Numbers that a seed gives: SplitMix64.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ mixed >> 31) % sides
    }
}

const SKUS: [&str; 4] = ["mug", "cup", "hat", "tie"];

/// Sells whatever is there, until nobody buys any more.
async fn sell_on(client: Client, seed: u64, is_over: Arc<AtomicBool>) {
    let mut dice = Dice(seed);
    while !is_over.load(Ordering::Relaxed) {
        let sku = SKUS[dice.roll(SKUS.len() as u64) as usize];
        let units = 1 + dice.roll(4) as u32;
        let cart = Reserve::new(client.new_id()).line("BER", sku, units).commit();
        match client.reserve(&cart).await {
            Ok(_) => {}
            Err(Error::Refused(refusal)) if refusal.code == Code::NO_STOCK => {
                tokio::time::sleep(std::time::Duration::from_millis(1)).await;
            }
            Err(error) => panic!("a sale: {error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_crossing_is_ordered_once_however_often_the_buyer_is_killed() {
    const KILLS: u32 = 30;
    let seed = 0x5eed;
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    for sku in SKUS {
        receive(&client, "BER", sku, 30).await;
        set_point(&client, sku, 20).await;
    }
    let path = cluster.path("orders.cursor");
    let nodes = cluster.addresses();
    let mut stream = Subscription::new(nodes.clone()).from_sequence(1).open().await.unwrap();
    let mut book = Book::default();
    let is_over = Arc::new(AtomicBool::new(false));
    let sales = tokio::spawn(sell_on(cluster.client().await, seed, is_over.clone()));
    let mut dice = Dice(seed);
    for _ in 0..KILLS {
        let mut buyer = Buyer::start(&path, &nodes);
        // It must come to something, and is killed at one of its next steps: when it has seen a crossing, and has
        // perhaps written it down, and perhaps sent it; or when its order was done, and perhaps not forgotten.
        let mut steps = 1 + dice.roll(6) as usize;
        while steps > 0 {
            buyer.assert_runs();
            let seen = book.read(&mut stream).await;
            steps = steps.saturating_sub(seen.len());
        }
        for _ in 0..dice.roll(200) {
            std::thread::yield_now();
        }
    }
    // The last one does what is left, while nobody sells any more.
    let mut buyer = Buyer::start(&path, &nodes);
    is_over.store(true, Ordering::Relaxed);
    sales.await.unwrap();
    book.read_all(&mut stream, &nodes).await;
    while book.open() > 0 {
        buyer.assert_runs();
        book.read(&mut stream).await;
    }
    // What it might order twice it has ordered by the time that it is behind all of them.
    until("the buyer to be at the end", async || position(&path) > book.events).await;
    drop(buyer);
    book.read_all(&mut stream, &nodes).await;
    let crossings = book.crossings.len();
    println!("{crossings} crossings, {KILLS} kills");
    assert!(crossings >= KILLS as usize, "{crossings} crossings prove little");
    book.assert_each_once();
    let cursor = Cursor::open(&path).unwrap();
    assert_eq!(cursor.data(), b"", "nothing is left to do");
}

/// A write that stockd has forgotten, made now: later ones are too old as soon as this is.
async fn is_forgotten(client: &Client, op_id: OpId) -> bool {
    let write = StockWrite::receive(op_id, CellRef::name("HAM", "clock"), 1);
    matches!(client.write(&write).await, Err(error) if error.code() == Some(Code::ID_TOO_OLD))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_buyer_that_was_down_for_longer_than_ids_are_remembered_looks_before_it_orders() {
    let cluster = Cluster::start_with(1, &["--retention", "1s", "--archive", "0s"]).await;
    let client = cluster.client().await;
    for sku in ["mug", "cup"] {
        receive(&client, "BER", sku, 30).await;
        set_point(&client, sku, 20).await;
        sell(&client, "BER", sku, 25).await;
    }
    let nodes = cluster.addresses();
    let mut stream = Subscription::new(nodes.clone()).from_sequence(1).open().await.unwrap();
    let mut book = Book::default();
    while book.crossings.len() < 2 {
        book.read(&mut stream).await;
    }
    let crossings: Vec<u64> = book.crossings.keys().copied().collect();
    // The buyer has written down two orders, has sent one of them, and was killed.
    let path = cluster.path("orders.cursor");
    let [done, never] = [client.new_op_id(), client.new_op_id()];
    let reference = format!("crossing {}", crossings[0]);
    let order = StockWrite::receive(done, CellRef::Handle(CellHandle(0)), 35);
    client.write(&order.note(0, reference.as_bytes())).await.unwrap();
    let mut cursor = Cursor::open(&path).unwrap();
    cursor.bind(&stream).unwrap();
    let intents = format!("{done} 0 35 {}\n{never} 1 35 {}\n", crossings[0], crossings[1]);
    cursor.save_with(stream.position(), intents.as_bytes()).unwrap();
    drop(cursor);
    let later = client.new_op_id();
    until("ids to be forgotten", async || is_forgotten(&client, later).await).await;

    let mut buyer = Buyer::start(&path, &nodes);
    while book.open() > 0 {
        buyer.assert_runs();
        book.read(&mut stream).await;
    }
    until("all to be done", async || {
        let cursor = std::fs::read(&path).unwrap();
        cursor.len() == 32
    })
    .await;
    drop(buyer);
    book.read_all(&mut stream, &nodes).await;
    assert_eq!(book.crossings.len(), 2);
    book.assert_each_once();
}
