//! What the node says about itself: one tree for CLUSTER_STATUS and for the admin's `status`.

use std::sync::Arc;

use super::answer::Value;
use super::limits::{LARGE_READ_CELLS, LARGE_READ_CELLS_PER_SECOND, LARGE_READS_WAITING_MAX};
use super::metrics::read;
use super::outbox::Outbox;
use super::shared::{Phase, Shared};
use super::words::escape;
use crate::events::EventStats;
use crate::protocol::event::Divergence;
use crate::replication::{Member, NodeInfo, ReconcileStatus, Status};

type Fields = Vec<(&'static str, Value)>;

/// Role, progress, stock and members.
pub(super) fn status(shared: &Shared) -> Value {
    let status = shared.replica.status();
    let age_ms = shared.replica.stale_point().age_ms;
    let leader = status.leadership.leader.as_ref();
    let up = shared.world.clock.monotonic().saturating_sub(shared.started);
    Value::Object(vec![
        ("node", status.node_id.into()),
        ("cluster", format!("{:016x}", status.cluster_id).into()),
        ("version", env!("CARGO_PKG_VERSION").into()),
        ("role", status.leadership.role.name().into()),
        ("term", status.leadership.term.into()),
        ("leader", leader.map(|node| node.id).into()),
        ("leader_address", leader.map(|node| node.client_address.clone()).into()),
        ("state_age_ms", Some(age_ms).filter(|age| *age != u32::MAX).into()),
        ("state", state_word(shared, status.disk_full).into()),
        ("up_s", up.as_secs().into()),
        ("clock_skew_ms", status.clock_skew_ms.into()),
        ("connections", shared.session_count().into()),
        ("log", log(&status)),
        ("stock", stock(&status)),
        ("archive", archive(&status)),
        ("events", status.events.as_ref().map_or(Value::Object(Vec::new()), events)),
        ("reconcile", reconcile(&status.reconcile)),
        ("members", members(&status)),
    ])
}

fn log(status: &Status) -> Value {
    let (what, done, all) = status.snapshot_transfer.clone().unwrap_or_default();
    let mut fields: Fields = vec![
        ("last_index", status.last_index.into()),
        ("committed_index", status.committed_index.into()),
        ("applied_index", status.applied_index.into()),
        ("snapshot_index", status.snapshot_index.into()),
        ("purged_index", status.purged_index.into()),
        ("bytes", status.log_bytes.into()),
        ("segments", status.log_segments.into()),
        ("kept_bytes", status.log_kept.1.into()),
        ("kept_segments", status.log_kept.0.into()),
        ("syncs", status.log_syncs.into()),
        ("disk_full", status.disk_full.into()),
    ];
    if !what.is_empty() {
        let progress = match all {
            0 => format!("{what}, {done} bytes"),
            _ => format!("{what}, {done} of {all} bytes"),
        };
        fields.push(("snapshot_transfer", progress.into()));
    }
    Value::Object(fields)
}

fn stock(status: &Status) -> Value {
    let stock = &status.stock;
    Value::Object(vec![
        ("cells", stock.cells.into()),
        ("warehouses", stock.warehouses.into()),
        ("skus", stock.skus.into()),
        ("reservations_active", stock.active.into()),
        ("reservations_confirmed", stock.confirmed.into()),
        ("ended_remembered", stock.ended.into()),
        ("sweep_lag_ms", stock.sweep_lag_ms.into()),
        ("outage_given_back_ms", stock.outage_ms.into()),
        ("bytes", stock.bytes.into()),
    ])
}

fn archive(status: &Status) -> Value {
    let archive = &status.archive;
    Value::Object(vec![
        ("archived", archive.records.into()),
        ("archive_waiting", archive.waiting.into()),
        ("archive_bytes", archive.bytes.into()),
        ("archive_files", archive.runs.into()),
        ("archive_damaged", archive.damaged.into()),
        ("archive_dropped", archive.dropped.into()),
        ("archive_failing", archive.is_failing.into()),
    ])
}

fn events(events: &EventStats) -> Value {
    Value::Object(vec![
        ("events", events.events.into()),
        ("event_oldest", events.oldest.into()),
        ("event_next", events.next.into()),
        ("event_bytes", events.bytes.into()),
        ("event_files", events.segments.into()),
        ("event_gaps", events.gaps.into()),
        ("event_chain_whole", events.is_whole.into()),
        ("event_bytes_waiting", events.waiting_bytes.into()),
        ("events_failing", events.is_failing.into()),
    ])
}

/// What is known of the comparisons; all but the first two are counters and indexes that only grow.
fn reconcile(reconcile: &ReconcileStatus) -> Value {
    let running = reconcile.running.as_ref().map(progress);
    Value::Object(vec![
        ("diverged", reconcile.alarm.is_some().into()),
        ("chain_differs", reconcile.chain_differs_at.is_some().into()),
        ("found_wrong", named(&reconcile.named).into()),
        ("reconciled", reconcile.rounds.into()),
        ("reconciled_index", reconcile.index.into()),
        ("reconcile_given_up", reconcile.given_up.into()),
        ("agreed_index", reconcile.agreed_index.into()),
        ("snapshots_compared", reconcile.snapshots.0.into()),
        ("snapshots_not_compared", reconcile.snapshots.1.into()),
        ("reconciling", running.into()),
    ])
}

/// Whom the log names, and why.
pub(super) fn named(named: &[Divergence]) -> Option<String> {
    let one = |Divergence { node, index, finding, .. }: &Divergence| match node {
        0 => format!("some node, {} after entry {index}", finding.name()),
        node => format!("node {node}, {} after entry {index}", finding.name()),
    };
    let all: Vec<_> = named.iter().map(one).collect();
    (!all.is_empty()).then(|| all.join("; "))
}

/// What is being done, how much of it, of how much.
pub(super) fn progress((what, done, all): &(&'static str, u64, u64)) -> String {
    format!("{what}: {done} of {all}, {} %", 100 * u128::from(*done) / u128::from((*all).max(1)))
}

/// One row for each node of the cluster.
pub(super) fn members(status: &Status) -> Value {
    let row = |member: &Member| -> Fields {
        let lag = member.matched_index.map(|index| status.last_index.saturating_sub(index));
        vec![
            ("id", member.node.id.into()),
            ("role", role(member).into()),
            ("client", member.node.client_address.as_str().into()),
            ("peer", member.node.peer_address.as_str().into()),
            ("matched_index", member.matched_index.into()),
            ("behind", lag.into()),
        ]
    };
    Value::Table(status.members.iter().map(row).collect())
}

const fn role(member: &Member) -> &'static str {
    match (member.is_leader, member.voter) {
        (true, _) => "leader",
        (false, true) => "follower",
        (false, false) => "learner",
    }
}

/// A node in a sentence.
pub(super) fn describe(node: &NodeInfo) -> String {
    format!("node {} (clients reach it at {})", node.id, node.client_address)
}

/// Rates are against the counts of the previous `top`.
#[derive(Default)]
pub(super) struct Before {
    pub at_ms: u128,
    pub writes: u64,
    pub reads: u64,
    pub frames: u64,
}

/// What is going on: rates, queues, codes, and the busiest connections.
pub(super) fn top(shared: &Shared, before: &mut Before) -> Value {
    let (metrics, status) = (&shared.metrics, shared.replica.status());
    let now = Before {
        at_ms: shared.world.clock.monotonic().as_millis(),
        writes: read(&metrics.write_ops),
        reads: read(&metrics.read_ops),
        frames: read(&metrics.frames),
    };
    let elapsed_ms = now.at_ms.saturating_sub(before.at_ms).max(1);
    let rate = |now: u64, before: u64| u128::from(now - before) * 1000 / elapsed_ms;
    let (entries, entry_ops) = status.proposed;
    let codes = metrics.codes().map(|(code, count)| -> Fields {
        vec![("code", code.0.into()), ("name", code.name().into()), ("count", count.into())]
    });
    let answer = Value::Object(vec![
        ("over_ms", elapsed_ms.into()),
        ("writes_per_s", rate(now.writes, before.writes).into()),
        ("reads_per_s", rate(now.reads, before.reads).into()),
        ("frames_per_s", rate(now.frames, before.frames).into()),
        ("writes", now.writes.into()),
        ("reads", now.reads.into()),
        ("sold_out_without_log", read(&metrics.sold_out_ops).into()),
        ("frames", now.frames.into()),
        ("frames_in_flight", shared.frames_owed().into()),
        ("ingress_ops", status.ingress_ops.into()),
        ("entries_proposed", entries.into()),
        ("ops_per_entry", (entry_ops / entries.max(1)).into()),
        ("bytes_received", read(&metrics.bytes_received).into()),
        ("bytes_sent", read(&metrics.bytes_sent).into()),
        ("bytes_unsent", read(&metrics.bytes_unsent).into()),
        ("read_bytes_waiting", read(&metrics.read_bytes_waiting).into()),
        ("connections", shared.session_count().into()),
        ("connections_ever", read(&metrics.connections).into()),
        ("connections_refused", read(&metrics.connections_refused).into()),
        ("answers", Value::Table(codes.collect())),
        ("busiest", busiest(shared)),
    ]);
    *before = now;
    answer
}

/// How many connections `top` shows.
const BUSIEST: usize = 10;

fn busiest(shared: &Shared) -> Value {
    let mut all: Vec<(u64, Arc<Outbox>)> =
        shared.sessions().iter().map(|(number, outbox)| (*number, Arc::clone(outbox))).collect();
    all.sort_by_key(|(number, outbox)| (std::cmp::Reverse(read(&outbox.ops)), *number));
    let row = |(number, outbox): &(u64, Arc<Outbox>)| -> Fields {
        let owed = outbox.owed();
        vec![
            ("connection", (*number).into()),
            ("peer", outbox.peer.as_str().into()),
            ("client", escape(outbox.client_name()).into()),
            ("ops", read(&outbox.ops).into()),
            ("frames", read(&outbox.frames).into()),
            ("in_flight", owed.frames.into()),
            ("unsent", outbox.unsent().into()),
        ]
    };
    Value::Table(all.iter().take(BUSIEST).map(row).collect())
}

/// The limits in force.
pub(super) fn limits(shared: &Shared) -> Value {
    let limits = &shared.limits;
    let ms = |duration: std::time::Duration| Value::from(duration.as_millis());
    Value::Object(vec![
        ("connections_max", limits.connections_max.into()),
        ("cells_max", limits.cells_max.into()),
        ("connections_before_hello_max", limits.connections_before_hello_max.into()),
        ("admin_connections_max", limits.admin_connections_max.into()),
        ("frame_bytes_max", crate::protocol::limits::FRAME_BYTES_MAX.into()),
        ("reply_bytes_max", crate::protocol::limits::REPLY_BYTES_MAX.into()),
        ("batch_ops_max", crate::protocol::limits::BATCH_OPS_MAX.into()),
        ("frames_in_flight_max", limits.frames_in_flight_max.into()),
        ("request_bytes_in_flight_max", limits.request_bytes_in_flight_max.into()),
        ("unsent_bytes_pause", limits.unsent_bytes_pause.into()),
        ("unsent_bytes_all_max", limits.unsent_bytes_all_max.into()),
        ("read_bytes_all_max", limits.read_bytes_all_max.into()),
        ("large_read_cells", LARGE_READ_CELLS.into()),
        ("large_read_cells_per_second", LARGE_READ_CELLS_PER_SECOND.into()),
        ("large_reads_waiting_max", LARGE_READS_WAITING_MAX.into()),
        ("hello_timeout_ms", ms(limits.hello_timeout)),
        ("hello_timeout_crowded_ms", ms(limits.hello_timeout_crowded)),
        ("frame_timeout_ms", ms(limits.frame_timeout)),
        ("idle_timeout_ms", ms(limits.idle_timeout)),
        ("send_timeout_ms", ms(limits.send_timeout)),
        ("close_timeout_ms", ms(limits.close_timeout)),
        ("drain_timeout_ms", ms(limits.drain_timeout)),
    ])
}

/// One word for how the node takes requests.
fn state_word(shared: &Shared, disk_full: bool) -> &'static str {
    if shared.phase() != Phase::Running {
        "leaving"
    } else if shared.is_draining() {
        "drained"
    } else if disk_full {
        "disk full"
    } else {
        "running"
    }
}
