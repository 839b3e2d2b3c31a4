//! A node as a process of a simulated machine: what `stockd serve` does, over simulated doors.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stockd::archive::ArchiveOptions;
use stockd::engine::EngineConfig;
use stockd::events::EventOptions;
use stockd::log::{LogOptions, SimStorage};
use stockd::replication::{Bootstrap, NodeInfo, Replica, ReplicaOptions, StopReason, Timing};
use stockd::server::{Limits, Listeners};
use stockd::world::World;
use tokio::sync::Notify;

use crate::oracle::Oracle;
use crate::plan::Plan;

/// How a node's process ended.
#[derive(Debug)]
pub enum Exit {
    /// It did not start.
    Refused(String),
    /// It could not be trusted any more and stopped.
    Fatal(String),
    /// It was asked to leave.
    Left,
}

/// What the simulation keeps of a running node.
#[derive(Clone, Default)]
pub struct Handle {
    /// There once it has started.
    pub replica: Arc<Mutex<Option<Replica>>>,
    /// Asks it to leave in order.
    pub leave: Arc<Notify>,
}

impl Handle {
    /// It has opened its data directory and takes part.
    pub fn is_started(&self) -> bool {
        self.replica.lock().expect("nobody panics with it").is_some()
    }
}

/// Where a node's clients and peers reach it.
pub fn info(id: u64) -> NodeInfo {
    let address = |port| format!("10.0.0.{id}:{port}");
    NodeInfo { id, client_address: address(7400), peer_address: address(7402) }
}

/// The engine's settings.
pub fn engine(plan: &Plan, world: &World) -> EngineConfig {
    EngineConfig {
        grace_ms: plan.grace_ms,
        retention_ms: plan.retention_ms,
        sample_refusals: plan.sample_refusals,
        hash_seed: world.random.next_u64(),
        ..EngineConfig::default()
    }
}

/// How a node of this plan is set up.
pub fn options(
    plan: &Plan,
    id: u64,
    bootstrap: Bootstrap,
    world: &World,
    oracle: &Oracle,
    handle: Handle,
) -> ReplicaOptions {
    let observer = oracle.observer(id, handle);
    let oracle = oracle.clone();
    let info = info(id);
    let noisy = std::env::var_os("STOCKD_SIM_NOTICES").is_some();
    ReplicaOptions {
        peer_listen: info.peer_address.clone(),
        node: info,
        bootstrap,
        engine: engine(plan, world),
        log: LogOptions {
            segment_bytes: 64 << 10,
            cache_bytes_max: 64 << 10,
            headroom_bytes: 16 << 10,
            ..LogOptions::default()
        },
        timing: Timing::default(),
        reservations_max: 100_000,
        snapshot_log_bytes: plan.snapshot_log_bytes,
        follower_lag_max: plan.follower_lag_max,
        lease_reads: plan.lease_reads,
        archive: Some(ArchiveOptions::default()),
        events: Some(EventOptions::default()),
        reconcile: Some(Duration::from_millis(plan.reconcile_ms)),
        draining: Arc::new(AtomicBool::new(false)),
        notice: Arc::new(move |line| {
            // Nothing plants a fault in memory.
            if line.starts_with("ALARM") {
                oracle.violation(format!("node {id}: {line}"));
            }
            if noisy {
                eprintln!("  node {id}: {line}");
            }
        }),
        observer: Some(observer),
    }
}

/// The process.
pub async fn run(options: ReplicaOptions, disk: SimStorage, world: World, handle: Handle) -> Exit {
    let id = options.node.id as u8;
    let address = |port: u16| ([10, 0, 0, id], port).into();
    let listeners = match Listeners::bind(address(7400), address(7401)).await {
        Ok(listeners) => listeners,
        Err(error) => return Exit::Refused(error.to_string()),
    };
    let started = Replica::start(options, Arc::new(disk), world.clone(), &mut |_, _, _| ()).await;
    let replica = match started {
        Ok(replica) => replica,
        Err(error) => return Exit::Refused(error.to_string()),
    };
    *handle.replica.lock().expect("nobody panics with it") = Some(replica.clone());
    let server = listeners.serve(replica.clone(), world, Limits::default());
    let server = server.expect("a simulation has threads");
    tokio::select! {
        reason = replica.stopped() => match reason {
            StopReason::Shutdown => Exit::Left,
            StopReason::Fatal(why) => Exit::Fatal(why),
        },
        () = handle.leave.notified() => {
            server.shutdown().await;
            Exit::Left
        }
    }
}
