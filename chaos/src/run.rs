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

use crate::cluster::{self, Cluster, HEAL_LIMIT, RETENTION};
use crate::faults::{Attack, Kind, SLOW_TENTHS};
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
    let attack = Attack::new(Arc::clone(&cluster), Arc::clone(&ledger));
    let begun = Instant::now();
    let mut rounds = 0;
    if let Err(what) = fight(plan, &attack, &market, &ledger, &mut rounds).await {
        cluster.report(what);
    }
    let attacked = begun.elapsed();
    let history = ledger.take();
    let (sums, checked) = settle(&cluster, &market, &history, &plan.kinds).await;
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
        sums,
        checked,
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
        attack.say(&format!(
            "round {rounds}: whole {:.1} s after the last fault, equal digests at index {index}, \
             {} operations so far",
            whole.as_secs_f64(),
            ledger.len()
        ));
    }
    looking.abort();
    Ok(())
}

/// After the last fault: nothing is held for ever, the sums are right, the nodes leave in order, and
/// every answer is what the log says. Each step is tried only when those before went well.
async fn settle(
    cluster: &Cluster,
    market: &Market,
    history: &[Operation],
    kinds: &[Kind],
) -> (Option<String>, Option<(Report, Duration)>) {
    let mut sums = None;
    if cluster.wrong().is_empty() {
        match nothing_held(cluster, market, history).await {
            Ok(what) => sums = Some(what),
            Err(what) => cluster.report(what),
        }
    }
    // What is wrong may be explained by the log, so it is checked in any case.
    let logs = cluster.stop().await;
    let begun = Instant::now();
    match committed::read(&logs) {
        Ok(log) => {
            let engine = EngineConfig {
                retention_ms: RETENTION.as_millis() as u64,
                ..EngineConfig::default()
            };
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
            let report = witness::check(&log, history, &options);
            (sums, Some((report, begun.elapsed())))
        }
        Err(what) => {
            cluster.report(format!("reading the logs: {what}"));
            (sums, None)
        }
    }
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
        for (number, log) in machine.disk.logs().iter().enumerate() {
            let to = evidence.join(format!("n{}-log{number}", node.setup.id));
            fs::create_dir_all(&to).map_err(say)?;
            let Ok(entries) = fs::read_dir(log) else { continue };
            for entry in entries {
                let entry = entry.map_err(say)?;
                fs::copy(entry.path(), to.join(entry.file_name())).map_err(say)?;
            }
        }
    }
    Ok(())
}
