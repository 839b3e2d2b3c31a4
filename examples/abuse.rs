//! What attacks cost everybody else: a victim's latency with and without each attack, in turns, against a
//! server that runs already. `scripts/abuse.sh` starts one and runs this.
//!
//! ```text
//! cargo run --release --example abuse -- 127.0.0.1:7400 5 [NAME…]     seconds of each turn
//! ```
//!
//! The victims are a few buyers that share a client and reserve and release, one call at a time. Latency
//! counts from when a call was due; they are due so seldom that a call that takes ten times as long does
//! not delay the next, or the ratio would be that of a queue. The attackers run in this process, on a thread of their own:
//! on two cores their own work is part of what the victim suffers.
#![expect(clippy::unwrap_used, reason = "it measures or it stops")]

#[path = "../tests/abuse/attacks.rs"]
mod attacks;

use std::sync::Arc;
use std::time::Duration;

use attacks::{Attack, greet};
use stockd_client::{Batch, CellRef, Client, Options, Reserve};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until};

/// Buyers at once.
const BUYERS: u32 = 8;
/// Each buyer's calls are due this often.
const PACE: Duration = Duration::from_millis(24);
/// Turns with and without the attack.
const TURNS: u32 = 3;
/// Warehouses of the SKU that is scanned.
const WAREHOUSES: usize = 4_000;
/// Idle connections of the largest crowd.
const CROWD: usize = 10_000;

const ATTACKS: [Attack; 9] = [
    Attack::ConnectionFlood,
    Attack::Drip,
    Attack::Giant,
    Attack::HalfOpen,
    Attack::HeaderOnly,
    Attack::NeverRead,
    Attack::PipelineFlood,
    Attack::Reset,
    Attack::SkuScan,
];

fn main() {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let names: Vec<String> = arguments.collect();
    let runtime = |threads| {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(threads).enable_all().build().unwrap()
    };
    let attackers = runtime(1);
    runtime(1).block_on(run(&address, Duration::from_secs(seconds), &names, attackers.handle()));
    attackers.shutdown_background();
}

async fn run(address: &str, turn: Duration, names: &[String], attackers: &tokio::runtime::Handle) {
    let client = Arc::new(Client::connect(Options::new([address])).await.unwrap());
    stock(&client).await;
    println!(
        "{:16} {:>24} {:>24} {:>12}  did",
        "attack", "p50 µs: quiet, under it", "p99", "p99 ratio"
    );
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    for attack in ATTACKS.into_iter().filter(|attack| wanted(&format!("{attack:?}"))) {
        let (mut quiet, mut under, mut done) = (Vec::new(), Vec::new(), 0);
        for _ in 0..TURNS {
            buy(&client, turn, &mut quiet).await;
            let running = {
                let _attackers = attackers.enter();
                attack.start(address)
            };
            sleep(Duration::from_millis(200)).await;
            buy(&client, turn, &mut under).await;
            assert!(running.done() > 0, "an idle attack measures nothing");
            done += running.stop().await;
            sleep(Duration::from_millis(500)).await;
        }
        print(&format!("{attack:?}"), &mut quiet, &mut under, done);
    }
    if wanted("Crowd") {
        crowd(address, &client, turn).await;
    }
}

/// As many connections as there may be, and what they cost.
async fn crowd(address: &str, client: &Arc<Client>, turn: Duration) {
    let (mut quiet, mut under, mut held) = (Vec::new(), Vec::new(), Vec::new());
    buy(client, turn, &mut quiet).await;
    while held.len() < CROWD - 1 {
        let Ok(mut stream) = TcpStream::connect(address).await else { break };
        match greet(&mut stream).await {
            Ok(()) => held.push(stream),
            Err(_) => break,
        }
    }
    buy(client, turn, &mut under).await;
    print("Crowd", &mut quiet, &mut under, held.len() as u64);
}

/// A cell to buy from, and a SKU to scan.
async fn stock(client: &Client) {
    let cell = CellRef::name("W", "mug");
    client.receive(client.new_op_id(), cell, 1_000_000).await.unwrap();
    let mut batch = Batch::new();
    for warehouse in 0..WAREHOUSES {
        batch.define(format!("w{warehouse}"), "many").unwrap();
    }
    client.batch(batch).await.unwrap();
}

/// Reserves and releases, and notes how long after it was due each reserve was answered.
async fn buy(client: &Arc<Client>, turn: Duration, micros: &mut Vec<u64>) {
    let begin = Instant::now();
    let buyers = (0..BUYERS).map(|buyer| {
        let (client, mut micros) = (Arc::clone(client), Vec::new());
        tokio::spawn(async move {
            let mut due = begin + PACE * buyer / BUYERS;
            while due < begin + turn {
                sleep_until(due).await;
                let id = client.new_id();
                client.reserve(&Reserve::new(id).line("W", "mug", 1)).await.unwrap();
                micros.push(due.elapsed().as_micros() as u64);
                client.release(id).await.unwrap();
                due += PACE;
            }
            micros
        })
    });
    for buyer in buyers.collect::<Vec<_>>() {
        micros.extend(buyer.await.unwrap());
    }
}

fn print(name: &str, quiet: &mut [u64], under: &mut [u64], done: u64) {
    let of = |micros: &mut [u64], percent: usize| {
        micros.sort_unstable();
        micros[(micros.len() - 1) * percent / 100]
    };
    let (p50, p50_under) = (of(quiet, 50), of(under, 50));
    let (p99, p99_under) = (of(quiet, 99), of(under, 99));
    let ratio = p99_under as f64 / p99.max(1) as f64;
    println!("{name:16} {p50:>11} {p50_under:>12} {p99:>11} {p99_under:>12} {ratio:>12.1}  {done}");
}
