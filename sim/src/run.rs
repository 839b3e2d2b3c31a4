//! One seed from beginning to end: a cluster comes up, applications work while things go wrong,
//! everything is healed, and then it must all have been right.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use stockd::replication::Replica;
use stockd_check::{Entry, Operation, Request, Rule, Verdict, blackbox};
use stockd_protocol::{Code, ReservationId, ReservationState};

use crate::cluster::{APP_HOSTS, Cluster};
use crate::doors::{self, Ids};
use crate::faults::Faults;
use crate::node;
use crate::plan::Plan;
use crate::shop::{EVENT_BITS, History, Shop, client_name};
use crate::stream::{self, Told};

/// How long a cluster may take to come up, and to be whole again after the last fault.
const COME_UP_MS: u64 = 15_000;
/// How long applications may take to end, which is more than their longest errand.
const CLOSE_MS: u64 = 30_000;
/// How far the cluster's clock may be ahead of true time while single clocks jump: the machines' clocks
/// are up to 50 ms apart and gain up to 200 ms on a run's bad stretches, and what nodes know of each
/// other's is off by up to 250 ms (`replication/clock.rs`).
const CLOCK_AHEAD_MAX_MS: u64 = 500;
/// How long the last hold may take to run out: its time, the grace, and the outages given back.
const RUN_OUT_MS: u64 = 60_000;

/// How long the last events may take until they can be read.
const STREAM_MS: u64 = 10_000;

/// States of one cell or reservation after which the black box gives up. Half of the cells need more, but few do with ten times as many.
const SEARCH_STEPS_MAX: u64 = 20_000;

/// What a run has to show.
pub struct Outcome {
    /// What was broken; nothing: the run passed.
    pub violations: Vec<String>,
    /// Counters, by name.
    pub counters: BTreeMap<String, u64>,
    /// Equal for equal runs.
    pub trace: u64,
}

/// Runs a seed.
pub fn run(seed: u64) -> Outcome {
    let plan = Plan::of(seed);
    let mut cluster = Cluster::new(plan.clone());
    cluster.note(&format!("{plan:?}"));
    let history = History::default();
    let closed = Arc::new(AtomicBool::new(false));
    let finished = live(&mut cluster, &history, &closed);
    if let Err(what) = finished {
        cluster.oracle.violation(what);
    }
    judge(&cluster, &history)
}

fn live(cluster: &mut Cluster, history: &History, closed: &Arc<AtomicBool>) -> Result<(), String> {
    come_up(cluster)?;
    open_shop(cluster, history, closed);
    let mut faults = Faults::default();
    let end = cluster.now_ms + cluster.plan.faults_ms;
    while cluster.now_ms < end && !broken(cluster) {
        cluster.step();
        faults.step(cluster);
    }
    cluster.note("healing");
    faults.heal_all(cluster);
    cluster.step_until(500, broken);
    closed.store(true, Ordering::Relaxed);
    if !cluster.step_until(CLOSE_MS, |cluster| cluster.apps.iter().all(|app| !app.is_up())) {
        return Err("an application's call does not return".into());
    }
    if broken(cluster) {
        return Ok(());
    }
    become_whole(cluster)?;
    serve_again(cluster, history)?;
    run_out(cluster)?;
    cluster.told = read_stream(cluster)?;
    Ok(())
}

fn broken(cluster: &mut Cluster) -> bool {
    !cluster.oracle.seen().violations.is_empty()
}

fn come_up(cluster: &mut Cluster) -> Result<(), String> {
    (0..cluster.plan.nodes as usize).for_each(|at| cluster.start(at));
    match cluster.step_until(COME_UP_MS, |cluster| cluster.has_converged()) {
        true => Ok(()),
        false => Err("the cluster does not come up".into()),
    }
}

fn open_shop(cluster: &mut Cluster, history: &History, closed: &Arc<AtomicBool>) {
    let plan = &cluster.plan;
    let shop = Shop {
        history: history.clone(),
        cells: plan.names(),
        addresses: (1..=plan.nodes).map(|id| node::info(id).client_address).collect(),
        closed: closed.clone(),
        known: Arc::default(),
        ledger: Arc::default(),
        handles: Arc::default(),
        think_ms: plan.think_ms,
        ttl_ms_max: plan.ttl_ms_max,
    };
    for (at, machine) in cluster.apps.iter_mut().enumerate() {
        let (shop, dice, clock) = (shop.clone(), cluster.dice.split(), machine.clock.clone());
        let numbers: Vec<u32> =
            (0..plan.apps).filter(|app| *app as usize % APP_HOSTS.len() == at).collect();
        machine.start(async move {
            let apps = numbers.into_iter().map(|number| {
                let ids = Ids { clock: clock.clone(), dice: dice.split() };
                tokio::spawn(shop.clone().run(number, dice.split(), ids))
            });
            for app in apps.collect::<Vec<_>>() {
                app.await.expect("an application does not panic");
            }
        });
    }
}

fn become_whole(cluster: &mut Cluster) -> Result<(), String> {
    let whole = cluster.step_until(COME_UP_MS, |cluster| {
        broken(cluster)
            || (cluster.nodes.iter().all(|node| !node.wiped && !node.leaving)
                && cluster.has_converged())
    });
    if whole {
        return Ok(());
    }
    let mut text = "the cluster is not whole long after the last fault:".to_owned();
    for at in 0..cluster.nodes.len() {
        let status = cluster.status(at).map(|status| {
            let members = status.members.iter().map(|m| (m.node.id, m.voter, m.matched_index));
            let members: Vec<_> = members.collect();
            let leadership = status.leadership;
            format!(
                "{leadership:?} last {} applied {} members {members:?}",
                status.last_index, status.applied_index
            )
        });
        let _ = write!(text, "\n  node {}: {status:?}", at + 1);
    }
    Err(text)
}

/// A fresh buyer is served at once.
fn serve_again(cluster: &mut Cluster, history: &History) -> Result<(), String> {
    let before = history.operations().len();
    let closed = Arc::new(AtomicBool::new(false));
    open_shop(cluster, history, &closed);
    let served = cluster.step_until(CLOSE_MS, |cluster| {
        let operations = history.operations();
        let answered = |write: bool| {
            operations[before..].iter().any(|operation| {
                operation.request.is_write() == write
                    && !operation.request.is_stale()
                    && matches!(operation.verdict, Verdict::Answered(_))
            })
        };
        (answered(true) && answered(false)) || !cluster.oracle.seen().violations.is_empty()
    });
    closed.store(true, Ordering::Relaxed);
    let ended = cluster.step_until(CLOSE_MS, |c| c.apps.iter().all(|app| !app.is_up()));
    match (served, ended) {
        (true, true) => Ok(()),
        (false, _) => Err("a whole cluster does not serve".into()),
        (true, false) => Err("an application's call does not return".into()),
    }
}

/// Every hold that nobody ends runs out, on all nodes.
fn run_out(cluster: &mut Cluster) -> Result<(), String> {
    let free = cluster.step_until(RUN_OUT_MS, |cluster| {
        cluster.has_converged()
            && cluster.leader().is_some_and(|(_, replica)| {
                replica.with_state(|stock| stock.active_reservations()) == 0
            })
    });
    if !free {
        return Err("stock is stuck: a hold does not run out, or a follower stays behind".into());
    }
    let digests: Vec<_> = (0..cluster.nodes.len())
        .filter_map(|at| cluster.replica(at))
        .map(|replica| replica.with_state(|stock| (stock.applied_index(), stock.digest())))
        .collect();
    match digests.iter().all(|digest| *digest == digests[0]) {
        true => Ok(()),
        false => Err(format!("the nodes end in different states: {digests:x?}")),
    }
}

/// What subscribers would be told.
fn read_stream(cluster: &mut Cluster) -> Result<Vec<Told>, String> {
    let nodes = 0..cluster.nodes.len();
    let readable = cluster.step_until(STREAM_MS, |cluster| {
        nodes.clone().filter_map(|at| cluster.replica(at)).all(|node| stream::is_readable(&node))
    });
    if !readable {
        return Err("events that were applied cannot be read".into());
    }
    let replicas = nodes.filter_map(|at| Some((at, cluster.replica(at)?)));
    let read = |(at, replica): (usize, Replica)| {
        Told::read(format!("node {}", at + 1), &replica, cluster.nodes[at].disk.is_rotten())
    };
    replicas.map(read).collect()
}

/// What was marked as a retry is never refused without the log, where an earlier attempt may be.
fn check_retries(log: &[Entry], history: &History) -> Vec<String> {
    let operations = history.operations();
    let in_log = |index: u64, id: &[u8; 16]| {
        let at = log.binary_search_by_key(&index, |entry| entry.index);
        at.is_ok_and(|at| log[at].batch.windows(id.len()).any(|bytes| bytes == id))
    };
    let retries = history.retries();
    let broken = retries.iter().map(|at| &operations[*at]).filter(|operation| {
        match (operation.verdict.answer(), operation.request.reservation()) {
            (Some(answer), Some(id)) => !in_log(answer.index, &id.0),
            _ => false,
        }
    });
    broken.map(|retry| format!("a retry was answered without the log: {retry:?}")).collect()
}

/// No hold runs out before its time, whatever single clocks say: the cluster's clock is at most a
/// twentieth faster than true (`replication/clock.rs`), and a machine's a fiftieth.
fn check_lives(operations: &[Operation]) -> Vec<String> {
    let mut begun: BTreeMap<ReservationId, (u64, u64)> = BTreeMap::new();
    let mut broken = Vec::new();
    for operation in operations {
        if let Request::Reserve { id, ttl_ms, .. } = operation.request {
            // Only what was asked for once: another body or a late copy may have been granted.
            let life = (operation.invoked >> EVENT_BITS, u64::from(ttl_ms));
            begun.entry(id).and_modify(|life| life.1 = 0).or_insert(life);
        }
    }
    for operation in operations {
        let (Some(answer), Some(id)) =
            (operation.verdict.answer(), operation.request.reservation())
        else {
            continue;
        };
        let Some((invoked_ms, ttl_ms)) = begun.get(&id) else { continue };
        let age_ms = (operation.completed >> EVENT_BITS) - invoked_ms;
        let told = answer.code == Code::HOLD_EXPIRED
            || answer.detail == ReservationState::Expired as u16
                && matches!(answer.code, Code::OK | Code::REPLAY);
        if told && age_ms < ttl_ms * 9 / 10 {
            broken.push(format!("a hold of {ttl_ms} ms ended within {age_ms}: {operation:?}"));
        }
    }
    broken
}

/// One clock that jumps does not take the cluster's along: two others are right. It may fall behind: of
/// two nodes that are left the slower clock counts, because a late expiry is the smaller harm.
fn check_clock(operations: &[Operation]) -> Vec<String> {
    let wrong = operations.iter().filter(|operation| {
        let true_ms = doors::EPOCH_MICROS / 1_000 + (operation.completed >> EVENT_BITS);
        // Who was just started and never heard of a leader has only its own clock, and says so.
        let knows = |age_ms| !operation.request.is_stale() || age_ms != u32::MAX;
        operation.verdict.answer().is_some_and(|answer| {
            knows(answer.age_ms) && answer.server_now.0 > true_ms + CLOCK_AHEAD_MAX_MS
        })
    });
    let first = wrong.take(3);
    first
        .map(|operation| format!("the cluster's clock is ahead of true time: {operation:?}"))
        .collect()
}

/// Looks for an order of the operations that explains the answers, without the log: a second opinion.
/// A search that is given up says nothing. Returns what is wrong, and what was done.
fn explain(cluster: &Cluster, operations: &[Operation]) -> (Vec<String>, Vec<(&'static str, u64)>) {
    let options = blackbox::Options {
        grace_ms: cluster.plan.grace_ms,
        retention_ms: cluster.plan.retention_ms,
        late_attempts: true,
        steps_max: SEARCH_STEPS_MAX,
    };
    let report = blackbox::check(operations, &options);
    let (gave_up, wrong): (Vec<_>, Vec<_>) =
        report.violations.iter().partition(|violation| violation.rule == Rule::GaveUp);
    let mut broken = Vec::new();
    for violation in wrong {
        broken.push(format!("{violation:?}"));
        for at in violation.operations.iter().take(20) {
            broken.push(format!("  about {:?}", operations[*at]));
        }
    }
    let searched = report.count("cells searched") + report.count("ids searched");
    let done = vec![
        ("black box: cells and ids searched", searched),
        ("black box: searches given up", gave_up.len() as u64),
        ("black box: states visited", report.count("states visited")),
    ];
    (broken, done)
}

fn judge(cluster: &Cluster, history: &History) -> Outcome {
    let log = cluster.oracle.log();
    let options = stockd_check::Options {
        engine: node::engine(&cluster.plan, &doors::world(&cluster.apps[0].clock, &cluster.dice)),
        audit_entries: 0,
        ticks_per_ms: cluster.plan.steady_clocks.then_some(1 << EVENT_BITS),
        client_name: Some(client_name),
        ..stockd_check::Options::default()
    };
    let (report, mut stream) =
        stockd_check::check_with_stream(&log, &history.operations(), &options);
    let mut violations = cluster.oracle.seen().violations.clone();
    let operations = history.operations();
    for violation in &report.violations {
        violations.push(format!("{violation:?}"));
        for at in &violation.operations {
            violations.push(format!("  about {:?}", operations[*at]));
        }
    }
    drop(operations);
    violations.extend(cluster.told.iter().filter_map(|told| told.judge(&mut stream).err()));
    let untold = stream.untold_until(u64::MAX);
    if untold > 0 && !cluster.told.is_empty() {
        violations.push(format!("no node tells of {untold} events that the log makes"));
    }
    let black_box = explain(cluster, &history.operations());
    violations.extend(black_box.0);
    violations.extend(check_retries(&log, history));
    if cluster.plan.steady_clocks {
        violations.extend(check_lives(&history.operations()));
    }
    if cluster.plan.steady_clocks && cluster.plan.nodes >= 3 {
        violations.extend(check_clock(&history.operations()));
    }
    let mut counters = BTreeMap::new();
    let mut count = |name: &str, value: u64| *counters.entry(name.to_owned()).or_default() += value;
    let replicas = (0..cluster.nodes.len()).filter_map(|at| cluster.replica(at));
    let found: Vec<_> = replicas.map(|replica| replica.status().reconcile).collect();
    let compared = found.iter().map(|found| found.rounds + found.snapshots.0).sum();
    let agreed = found.iter().filter(|found| found.agreed_index > 0).count() as u64;
    let net = stockd_simnet::stats();
    let seen = cluster.oracle.seen();
    for (name, value) in [
        ("simulated ms", cluster.now_ms),
        ("operations", history.operations().len() as u64),
        ("log entries", log.len() as u64),
        ("entries applied", seen.applied),
        ("events held against the log", stream.told()),
        ("states compared with the log", compared),
        ("states that a majority agreed with", agreed),
        ("snapshots installed", seen.installed),
        ("snapshots restored", seen.restored),
        ("connections", net.connections),
        ("segments lost", net.lost),
        ("segments stalled", net.stalled),
        ("resets", net.resets),
    ] {
        count(name, value);
    }
    for (name, value) in &report.counts {
        count(&format!("checked: {name}"), *value);
    }
    for (name, value) in black_box.1 {
        count(name, value);
    }
    for (name, value) in &cluster.faults {
        count(&format!("fault: {name}"), *value);
    }
    let trace = log.iter().fold(stockd_simnet::trace(), |trace, entry| {
        trace.rotate_left(5) ^ entry.index ^ entry.batch.len() as u64
    });
    Outcome { violations, counters, trace }
}
