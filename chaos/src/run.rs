//! A whole run: a cluster, a load, rounds of attacks, and the verdict.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use stockd::engine::EngineConfig;
use stockd_check::{Operation, Report, committed, file, witness};
use stockd_client::{CellCounters, CellRef, Client, Consistency, Options as ClientOptions};
use tokio::time::{Instant, interval};

use crate::cluster::{self, Cluster, HEAL_LIMIT, RETENTION, VOTERS};
use crate::events;
use crate::faults::{Attack, Kind, SLOW_TENTHS};
use crate::follower::{Followed, Follower};
use crate::host::Abilities;
use crate::load::{Ledger, Load, Market, check_sums, client_name};
use crate::report::Summary;
use crate::schedule::Schedule;

/// A round of attacks, before all must be whole again.
const ROUND: Duration = Duration::from_secs(50);
/// How often nodes are looked after.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Longest wait for held units to come back: the longest life, the grace, and the outage given back.
const EXPIRY_LIMIT: Duration = Duration::from_secs(120);

/// What is to be done.
pub struct Plan {
    pub binary: PathBuf,
    pub work: PathBuf,
    pub seed: u64,
    pub duration: Duration,
    pub kinds: Vec<Kind>,
    /// More arguments of `serve`.
    pub arguments: Vec<String>,
    pub abilities: Abilities,
}

/// Does it. `Ok` also when something is wrong: the summary says so.
///
/// # Errors
/// The run could not be made; says nothing about the product.
pub async fn run(plan: &Plan) -> Result<Summary, String> {
    let options = cluster::Options {
        binary: &plan.binary,
        work: &plan.work,
        seed: plan.seed,
        arguments: &plan.arguments,
    };
    let cluster = Arc::new(Cluster::prepare(&options, plan.abilities.clone())?);
    if let Err(what) = cluster.form().await {
        let words = cluster.node(1).machine().await.last_words();
        return Err(format!("{what}; node 1 said:\n    {words}"));
    }
    let (market, ledger) = (Arc::new(Market::default()), Arc::new(Ledger::default()));
    let follower = Follower::start(&plan.work, &cluster.clients(), plan.seed)?;
    let attack = Attack::new(Arc::clone(&cluster), Arc::clone(&ledger));
    let begun = Instant::now();
    let mut rounds = 0;
    if let Err(what) = fight(plan, &attack, &market, &ledger, &follower, &mut rounds).await {
        cluster.report(what);
    }
    let attacked = begun.elapsed();
    let history = ledger.take();
    let settled = settle(&cluster, &market, &history, follower, &plan.kinds).await;
    let mut summary = Summary {
        seed: plan.seed,
        attacked,
        rounds,
        faults: attack.tally(),
        kinds: plan.kinds.clone(),
        asides: ledger.asides(),
        longest_pause: ledger.longest_pause(),
        clock_ahead: ledger.clock_ahead(),
        packets: cluster.packets.clone(),
        operations: history.len(),
        missing: plan.abilities.missing.clone(),
        sums: settled.sums,
        checked: settled.checked,
        events: settled.events,
        wrong: cluster.wrong(),
    };
    if !summary.judge()
        && let Err(what) = keep_evidence(&plan.work, &cluster, &history)
    {
        summary.wrong.push(what);
    }
    Ok(summary)
}

/// Rounds of attacks until the time is up or something is wrong.
async fn fight(
    plan: &Plan,
    attack: &Attack,
    market: &Arc<Market>,
    ledger: &Arc<Ledger>,
    follower: &Follower,
    rounds: &mut u64,
) -> Result<(), String> {
    let cluster = &attack.cluster;
    let looking = Arc::clone(cluster);
    let looking = tokio::task::spawn_local(async move {
        let mut interval = interval(LOOK_INTERVAL);
        loop {
            interval.tick().await;
            looking.look_after().await;
        }
    });
    let mut schedule = Schedule::new(attack.clone(), plan.kinds.clone(), plan.seed);
    let end = Instant::now() + plan.duration;
    while Instant::now() < end && cluster.wrong().is_empty() {
        *rounds += 1;
        let load = Load::start(&cluster.clients(), market, ledger, plan.seed ^ *rounds);
        let left = end.saturating_duration_since(Instant::now());
        schedule.round(left.min(ROUND)).await?;
        ledger.count_pause();
        if !cluster.wrong().is_empty() {
            return load.stop().await;
        }
        let healed = Instant::now();
        let whole = cluster.whole().await;
        ledger.count_pause();
        whole?;
        let whole = healed.elapsed();
        load.stop().await?;
        ledger.rest();
        let index = cluster.compare_digests().await?;
        let reconciled = cluster.reconciled().await?;
        if let Some(what) = follower.wrong() {
            return Err(format!("the subscriber: {what}"));
        }
        attack.say(&format!(
            "round {rounds}: whole {:.1} s after the last fault, equal digests at index {index}, \
             reconciled {reconciled} times since the last starts, {} operations so far",
            whole.as_secs_f64(),
            ledger.len()
        ));
    }
    looking.abort();
    Ok(())
}

/// What was found at the end of a run.
#[derive(Default)]
struct Settled {
    sums: Option<String>,
    checked: Option<(Report, Duration)>,
    events: Vec<String>,
}

/// After the last fault: nothing is held for ever, the sums are right, the nodes leave in order, and
/// every answer and every event is what the log says. Each step is tried only when those before went well.
async fn settle(
    cluster: &Cluster,
    market: &Market,
    history: &[Operation],
    follower: Follower,
    kinds: &[Kind],
) -> Settled {
    let (mut settled, mut followed) = (Settled::default(), None);
    if cluster.wrong().is_empty() {
        match nothing_held(cluster, market, history).await {
            Ok(what) => settled.sums = Some(what),
            Err(what) => cluster.report(what),
        }
    }
    if cluster.wrong().is_empty() {
        match followed_to_the_end(cluster, follower).await {
            Ok(what) => followed = Some(what),
            Err(what) => cluster.report(what),
        }
    }
    // What is wrong may be explained by the log, so it is checked in any case.
    let logs = cluster.stop().await;
    let begun = Instant::now();
    match committed::read(&logs) {
        Ok(log) => {
            let (directories, known) = (cluster.directories().await, events::known(history));
            let rules = committed::rules(&directories).unwrap_or_default();
            let engine = EngineConfig { retention_ms: RETENTION.as_millis() as u64, ..rules };
            // A node measures the age of what it has by its own clock.
            let slowest = if kinds.contains(&Kind::SlowClock) { SLOW_TENTHS } else { 10 };
            let ticks_per_ms = Some(10_000_000_u64.div_ceil(u64::from(slowest)));
            let options = witness::Options {
                engine,
                complete: true,
                ticks_per_ms,
                client_name: Some(client_name),
                ..Default::default()
            };
            let (mut report, mut stream) = witness::check_with_stream(&log, history, &options);
            let judged = (&mut stream, &mut report);
            settled.events = events::judge(cluster, &directories, followed.as_ref(), judged, known);
            settled.checked = Some((report, begun.elapsed()));
        }
        Err(what) => cluster.report(format!("reading the logs: {what}")),
    }
    settled
}

/// Waits until the subscriber knows all that the nodes know by now.
async fn followed_to_the_end(cluster: &Cluster, follower: Follower) -> Result<Followed, String> {
    cluster.reconciled().await?;
    let mut next = 0;
    for id in VOTERS {
        let status = cluster.node(id).status().await;
        next = next.max(status.map_or(0, |status| status.next_event));
    }
    follower.end(next, HEAL_LIMIT).await
}

/// Waits until every hold has ended and compares the sums.
async fn nothing_held(
    cluster: &Cluster,
    market: &Market,
    history: &[Operation],
) -> Result<String, String> {
    cluster
        .within(EXPIRY_LIMIT, "every hold to end", async || {
            cluster.leader().await.is_some_and(|(_, status)| status.active == 0)
        })
        .await?;
    cluster.whole().await?;
    cluster.compare_digests().await?;
    let options =
        ClientOptions { request_timeout: HEAL_LIMIT, ..ClientOptions::new(cluster.clients()) };
    let client = Client::connect(options).await.map_err(|error| error.to_string())?;
    let names: Vec<_> = (0..Market::CELLS).map(Market::name).collect();
    let cells: Vec<CellRef<'_>> = names.iter().map(stockd_check::Cell::as_ref).collect();
    let read = client.read_cells(&cells, Consistency::Linearizable).await;
    let read = read.map_err(|error| format!("reading the cells in the end: {error}"))?;
    let counters = |cell: Option<stockd_client::Cell>| {
        cell.map_or(CellCounters::default(), |cell| cell.counters)
    };
    let found: Vec<CellCounters> = read.value.into_iter().map(counters).collect();
    check_sums(market, history, &found)
}

/// Everything that it takes to look again, outside of the disks that go with the sandbox.
fn keep_evidence(work: &Path, cluster: &Cluster, history: &[Operation]) -> Result<(), String> {
    let say = |error: std::io::Error| format!("keeping the evidence: {error}");
    let evidence = work.join("evidence");
    fs::create_dir_all(&evidence).map_err(say)?;
    let out = File::create(evidence.join("history")).map_err(say)?;
    file::save(history, &mut BufWriter::new(out)).map_err(say)?;
    for node in &cluster.nodes {
        let Some(machine) = node.machine_if_idle() else { continue };
        let logs = machine.disk.logs();
        for (number, log) in logs.iter().enumerate() {
            let to = evidence.join(format!("n{}-log{number}", node.setup.id));
            fs::create_dir_all(&to).map_err(say)?;
            copy(log, &to, "").map_err(say)?;
            if number + 1 == logs.len() {
                for begin in ["events-", "identity", "snapshot-"] {
                    copy(&machine.disk.data(), &to, begin).map_err(say)?;
                }
            }
        }
    }
    Ok(())
}

/// Copies the files whose names begin so; a directory that cannot be read has none.
fn copy(from: &Path, to: &Path, begin: &str) -> std::io::Result<()> {
    let Ok(entries) = fs::read_dir(from) else { return Ok(()) };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(begin) {
            fs::copy(entry.path(), to.join(entry.file_name()))?;
        }
    }
    Ok(())
}
