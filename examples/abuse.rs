//! What attacks cost everybody else: a victim's latency with and without each attack, in turns, against a
//! server that runs already. `scripts/abuse.sh` starts one and runs this.
//!
//! ```text
//! cargo run --release --example abuse -- 127.0.0.1:7400 5 [NAME…]     seconds of each turn
//! ```
//!
//! The victims are a few buyers that share a client and reserve and release, one call at a time. Latency
//! counts from when a call was due; they are due so seldom that a call that takes ten times as long does
//! not delay the next, or the ratio would be that of a queue. The attackers are a process of their own
//! (this program, as `abuse --attack NAME ADDRESS`) of the lowest priority: elsewhere they would have a
//! processor of their own, here they are to compete for the server and not for the victims' processor. What
//! the kernel does for them is still in the figure.
#![expect(clippy::unwrap_used, reason = "it measures or it stops")]

#[path = "../tests/abuse/attacks.rs"]
mod attacks;

use std::io::Read;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use attacks::{Attack, greet};
use stockd_client::{Batch, CellRef, Client, Options, Reserve};
use tokio::net::TcpStream;
use tokio::runtime::Runtime;
use tokio::time::{Instant, sleep, sleep_until};

/// Buyers at once.
const BUYERS: u32 = 8;
/// Each buyer's calls are due this often.
const PACE: Duration = Duration::from_millis(24);
/// Turns with and without the attack.
const TURNS: usize = 5;
/// An attack may not make others' p99 more than so many times what it is without.
const RATIO_MAX: f64 = 2.0;
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

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build().unwrap();
    if let [flag, name, address] = &arguments[..]
        && flag == "--attack"
    {
        let attack = ATTACKS.into_iter().find(|attack| format!("{attack:?}") == *name).unwrap();
        attack_until_told(attack, address, &runtime);
        return ExitCode::SUCCESS;
    }
    let mut arguments = arguments.into_iter();
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(5);
    let names: Vec<String> = arguments.collect();
    let worst = runtime.block_on(run(&address, Duration::from_secs(seconds), &names));
    if worst > RATIO_MAX {
        println!(
            "others' p99 was {worst:.1} times what it is in quiet; at most {RATIO_MAX} is wanted"
        );
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

/// Attacks until the standard input ends, and says how often.
fn attack_until_told(attack: Attack, address: &str, runtime: &Runtime) {
    let inside = runtime.enter();
    let running = attack.start(address);
    drop(inside);
    std::io::stdin().read_to_end(&mut Vec::new()).unwrap();
    assert!(running.done() > 0, "an idle attack measures nothing");
    println!("{}", runtime.block_on(running.stop()));
}

/// An attack by a process of the lowest priority.
struct Attackers(Child);

impl Attackers {
    fn start(attack: Attack, address: &str) -> Self {
        let program = std::env::current_exe().unwrap();
        let mut command = Command::new("nice");
        command.args(["-n", "19"]).arg(program).args(["--attack", &format!("{attack:?}"), address]);
        Self(command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap())
    }

    /// Ends it and says how often it did what it does.
    fn stop(mut self) -> u64 {
        drop(self.0.stdin.take());
        let said = self.0.wait_with_output().unwrap().stdout;
        String::from_utf8(said).unwrap().trim().parse().unwrap()
    }
}

/// Every attack that is wanted; the worst of their ratios.
async fn run(address: &str, turn: Duration, names: &[String]) -> f64 {
    let mut worst: f64 = 0.0;
    let client = Arc::new(Client::connect(Options::new([address])).await.unwrap());
    stock(&client).await;
    println!(
        "{:16} {:>24} {:>24} {:>12} {:>12}  did",
        "attack", "p50 µs: quiet, under it", "p99", "p99 ratio", "worst p99"
    );
    let wanted = |name: &str| names.is_empty() || names.iter().any(|wanted| wanted == name);
    for attack in ATTACKS.into_iter().filter(|attack| wanted(&format!("{attack:?}"))) {
        let (mut quiet, mut under, mut done) = (Vec::new(), Vec::new(), 0);
        for _ in 0..TURNS {
            quiet.push(buy(&client, turn).await);
            let attackers = Attackers::start(attack, address);
            sleep(Duration::from_millis(500)).await;
            under.push(buy(&client, turn).await);
            done += attackers.stop();
            sleep(Duration::from_millis(500)).await;
        }
        worst = worst.max(print(&format!("{attack:?}"), &quiet, &under, done));
    }
    if wanted("Crowd") {
        worst = worst.max(crowd(address, &client, turn).await);
    }
    worst
}

/// As many connections as there may be, and what they cost.
async fn crowd(address: &str, client: &Arc<Client>, turn: Duration) -> f64 {
    let (mut quiet, mut under, mut held) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        quiet.push(buy(client, turn).await);
    }
    while held.len() < CROWD - 1 {
        let Ok(mut stream) = TcpStream::connect(address).await else { break };
        match greet(&mut stream).await {
            Ok(()) => held.push(stream),
            Err(_) => break,
        }
    }
    for _ in 0..TURNS {
        under.push(buy(client, turn).await);
    }
    print("Crowd", &quiet, &under, held.len() as u64)
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

/// What a turn showed, in microseconds.
#[derive(Clone, Copy)]
struct Latency {
    p50: u64,
    p99: u64,
}

/// Reserves and releases; how long after it was due each reserve was answered.
async fn buy(client: &Arc<Client>, turn: Duration) -> Latency {
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
    let mut micros = Vec::new();
    for buyer in buyers.collect::<Vec<_>>() {
        micros.extend(buyer.await.unwrap());
    }
    micros.sort_unstable();
    let of = |percent: usize| micros[(micros.len() - 1) * percent / 100];
    Latency { p50: of(50), p99: of(99) }
}

/// Medians of the turns, because one stall of a disk that others share is not the attack's, and the worst
/// turn. Returns the ratio of the p99.
fn print(name: &str, quiet: &[Latency], under: &[Latency], done: u64) -> f64 {
    let median = |turns: &[Latency], of: fn(&Latency) -> u64| {
        let mut all: Vec<u64> = turns.iter().map(of).collect();
        all.sort_unstable();
        all[all.len() / 2]
    };
    let (p50, p50_under) = (median(quiet, |l| l.p50), median(under, |l| l.p50));
    let (p99, p99_under) = (median(quiet, |l| l.p99), median(under, |l| l.p99));
    let ratio = p99_under as f64 / p99.max(1) as f64;
    let worst = under.iter().map(|turn| turn.p99).max().unwrap_or_default();
    println!(
        "{name:16} {p50:>11} {p50_under:>12} {p99:>11} {p99_under:>12} {ratio:>12.1} {worst:>12}  {done}"
    );
    ratio
}
