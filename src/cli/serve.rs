//! `stockd serve`: a node.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::progress::Progress;
use super::{Done, admin, backup, client, parse_duration};
use crate::archive::ArchiveOptions;
use crate::engine::EngineConfig;
use crate::events::EventOptions;
use crate::log::{KeepOptions, LogOptions, RealStorage, SEGMENT_BYTES_MAX, SEGMENT_BYTES_MIN_REAL};
use crate::replication::{Bootstrap, NodeInfo, Replica, ReplicaOptions, StopReason, Timing};
use crate::server::{Limits, Listeners, Server};
use crate::world::World;

/// `stockd serve`.
#[derive(Args)]
#[command(after_help = "\
Without options it is a cluster of one, which needs no ceremony: clients on 127.0.0.1:7400, an \
admin port to type into (nc 127.0.0.1 7401) and data in ./stockd-data. Others join it at any time \
with --join and its peer address. A node that has data tells the others its addresses with it, and \
comes back if it was removed.

Ctrl-C or SIGTERM leaves in order: what is in flight is answered, leadership is handed over. A second \
one leaves at once, which loses nothing that was acknowledged.")]
pub(super) struct Serve {
    /// The data directory; it is made if it is not there.
    #[arg(long, value_name = "DIR", default_value = "stockd-data")]
    data: PathBuf,
    /// Where to serve clients.
    #[arg(long, value_name = "ADDR", default_value = client::CLIENT_ADDRESS)]
    listen: SocketAddr,
    /// Where to listen for operators. There is no password: keep it on loopback.
    #[arg(long, value_name = "ADDR", default_value = admin::ADMIN_ADDRESS)]
    admin: SocketAddr,
    /// Where to listen for the other nodes.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:7402")]
    peer: SocketAddr,
    /// This node's id, unique in the cluster and kept for ever.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,
    /// Join the cluster of the node with this peer address. May be given several times.
    #[arg(long, value_name = "PEER_ADDR")]
    join: Vec<String>,
    /// The client address to tell others, host:port. Default: --listen.
    #[arg(long, value_name = "ADDR")]
    advertise_client: Option<String>,
    /// The peer address to tell others, host:port. Default: --peer.
    #[arg(long, value_name = "ADDR")]
    advertise_peer: Option<String>,
    /// Most reservations in memory, ended ones that are still remembered and stock writes included;
    /// more are BUSY. Each takes about 130 bytes, and each line of a cart beyond its first half as much:
    /// it counts half.
    #[arg(long, value_name = "N", default_value_t = 20_000_000)]
    max_reservations: u64,
    /// Most cells in memory; what would make more is BUSY. Each takes about 127 bytes,
    /// its names included.
    #[arg(long, value_name = "N", default_value_t = Limits::default().cells_max)]
    max_cells: u32,
    /// Most connections of clients; more are BUSY.
    #[arg(long, value_name = "N", default_value_t = Limits::default().connections_max)]
    max_connections: u32,
    /// How long after its deadline a reservation can still be confirmed, in ms. The same on all nodes.
    #[arg(long, value_name = "MS", default_value_t = EngineConfig::default().grace_ms,
        value_parser = clap::value_parser!(u64).range(..=GRACE_MS_MAX))]
    grace_ms: u64,
    /// How long ended reservations are remembered, for retries: 30m, 1h. The same on all nodes.
    #[arg(long, value_name = "TIME", default_value = "1h", value_parser = parse_retention)]
    retention: Duration,
    /// Of about one in N refused requests, an event tells; 0: of none. The same on all nodes. What looks sold out is
    /// refused without the log, but for those that are told.
    #[arg(long, value_name = "N", default_value_t = EngineConfig::default().sample_refusals)]
    sample_refusals: u32,
    /// How long an id is answered for, from disk, after it is no longer in memory: 7d, 36h; 0s: not at all.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_archive)]
    archive: Duration,
    /// Most bytes on disk for that; above it the oldest answers are dropped. Each id takes about 58.
    #[arg(long, value_name = "BYTES", default_value_t = ArchiveOptions::default().bytes_max)]
    archive_bytes: u64,
    /// How long events are kept, for subscribers and auditors: 30d, 12h; 0s: this node keeps none. They go by files, each
    /// of a sixteenth of that time or a minute at most.
    #[arg(long, value_name = "TIME", default_value = "30d", value_parser = parse_events)]
    events: Duration,
    /// Most bytes on disk for that; above it the oldest files are removed. An event takes about 35.
    #[arg(long, value_name = "BYTES", default_value_t = EventOptions::default().bytes_max)]
    events_bytes: u64,
    /// How often all counters and reservations in memory are compared with what the log makes of them: 5m, 1h; 0s:
    /// never. Meanwhile a second state is in memory.
    #[arg(long, value_name = "TIME", default_value = "5m", value_parser = parse_duration)]
    reconcile: Duration,
    /// How long segments of the log are kept for backups when the node needs them no more: 7d, 12h; 0s: not at all.
    #[arg(long, value_name = "TIME", default_value = "7d", value_parser = parse_keep)]
    keep_log: Duration,
    /// Most bytes on disk for that; above it, and before a full disk stops anything, the oldest are removed.
    #[arg(long, value_name = "BYTES", default_value_t = KeepOptions::default().bytes_max)]
    keep_log_bytes: u64,
    /// Bytes of one log segment, a multiple of 4096.
    #[arg(long, value_name = "BYTES", default_value_t = LogOptions::default().segment_bytes,
        value_parser = clap::value_parser!(u64).range(SEGMENT_BYTES_MIN_REAL..=SEGMENT_BYTES_MAX))]
    segment_bytes: u64,
    /// Log bytes after which a snapshot is written and the log before it dropped.
    #[arg(long, value_name = "BYTES", default_value_t = 512 << 20)]
    snapshot_log_bytes: u64,
    /// Answer reads on the leader's lease instead of asking a majority: faster, and right only while no
    /// node's clock runs slow against the others'.
    #[arg(long)]
    lease_reads: bool,
    /// Allow addresses that other machines reach. There is neither encryption nor a password yet.
    #[arg(long)]
    insecure_bind: bool,
}

/// Longest grace: as long as a hold lives by default.
const GRACE_MS_MAX: u64 = 10 * 60 * 1_000;
/// Shortest and longest retention. All that has ended in its time is kept in memory, and a client
/// that retries must have an answer.
const RETENTION: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(1)..=Duration::from_secs(30 * 24 * 60 * 60);

fn parse_retention(text: &str) -> Result<Duration, String> {
    let retention = parse_duration(text)?;
    match RETENTION.contains(&retention) {
        true => Ok(retention),
        false => Err("a retention is at least 1s and at most 720h".to_owned()),
    }
}

/// Longest time for which old ids are answered for: beyond it a retry is no retry.
const ARCHIVE_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

fn parse_archive(text: &str) -> Result<Duration, String> {
    let archive = parse_duration(text)?;
    match archive <= ARCHIVE_MAX {
        true => Ok(archive),
        false => Err("old ids are answered for at most 366 days".to_owned()),
    }
}

/// Longest time for which events are kept: what is asked for later belongs in a warehouse of data.
const EVENTS_MAX: Duration = Duration::from_secs(10 * 366 * 24 * 60 * 60);

fn parse_events(text: &str) -> Result<Duration, String> {
    let events = parse_duration(text)?;
    match events <= EVENTS_MAX {
        true => Ok(events),
        false => Err("events are kept for at most ten years".to_owned()),
    }
}

/// Longest time for which segments are kept: what is restored from then belongs in backups.
const KEEP_MAX: Duration = Duration::from_secs(366 * 24 * 60 * 60);

fn parse_keep(text: &str) -> Result<Duration, String> {
    let keep = parse_duration(text)?;
    match keep <= KEEP_MAX {
        true => Ok(keep),
        false => Err("segments of the log are kept for at most 366 days".to_owned()),
    }
}

/// So many tasks have a turn before the runtime looks whom the log's thread has woken. With tokio's 31
/// what waits for a sync waits, too, for thirty sessions that answer floods of reads.
const THREADS_INTERVAL: u32 = 4;

impl Serve {
    pub(super) fn run(self) -> Done {
        self.check_addresses()?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .global_queue_interval(THREADS_INTERVAL)
            .build()
            .map_err(|error| format!("cannot start the runtime: {error}"))?;
        runtime.block_on(self.serve())
    }

    /// A port that everybody reaches and nothing protects is opened only on purpose.
    fn check_addresses(&self) -> Done {
        let open: Vec<_> =
            [("--listen", self.listen), ("--admin", self.admin), ("--peer", self.peer)]
                .into_iter()
                .filter(|(_, address)| !address.ip().is_loopback())
                .map(|(option, address)| format!("{option} {address}"))
                .collect();
        if open.is_empty() || self.insecure_bind {
            return Ok(());
        }
        Err(format!(
            "{} can be reached from other machines, and stockd has neither encryption nor passwords \
             yet: whoever reaches a port can take or change all stock. Use a 127.0.0.1 address, or \
             add --insecure-bind if the network keeps strangers out",
            open.join(", ")
        ))
    }

    async fn serve(self) -> Done {
        let mut signals = Signals::new()?;
        let world = World::real();
        let listeners =
            Listeners::bind(self.listen, self.admin).await.map_err(|error| error.to_string())?;
        let storage = RealStorage::open(&self.data).map_err(|error| error.to_string())?;
        backup::refuse_backup(&storage)?;
        let mut progress = Progress::new(Arc::clone(&world.clock));
        let client = address(listeners.client_address())?;
        let options = self.replica_options(&client, &world);
        let mut on_progress = |what: &str, done, all| progress.update(what, done, all);
        let storage = Arc::new(storage);
        let started = Replica::start(options, storage, world.clone(), &mut on_progress).await;
        progress.finish();
        let replica = started.map_err(|error| error.to_string())?;
        self.print_banner(&client, &address(listeners.admin_address())?, &replica);
        let limits = Limits {
            connections_max: self.max_connections,
            cells_max: self.max_cells,
            ..Limits::default()
        };
        let server = listeners.serve(replica.clone(), world, limits).map_err(|e| e.to_string())?;
        tokio::select! {
            () = signals.next() => leave(server, &mut signals).await,
            reason = replica.stopped() => match reason {
                StopReason::Shutdown => Ok(()),
                StopReason::Fatal(why) => Err(format!("the node stops, because it could not be trusted: {why}")),
            },
        }
    }

    fn replica_options(&self, client: &str, world: &World) -> ReplicaOptions {
        let peer = self.peer.to_string();
        let node = NodeInfo {
            id: self.node_id,
            client_address: self.advertise_client.clone().unwrap_or_else(|| client.to_owned()),
            peer_address: self.advertise_peer.clone().unwrap_or_else(|| peer.clone()),
        };
        let bootstrap = match self.join.is_empty() {
            true => Bootstrap::Single,
            false => Bootstrap::Join(self.join.clone()),
        };
        ReplicaOptions {
            node,
            peer_listen: peer,
            bootstrap,
            engine: EngineConfig {
                grace_ms: self.grace_ms,
                retention_ms: self.retention.as_millis() as u64,
                sample_refusals: self.sample_refusals,
                hash_seed: world.random.next_u64(),
                ..EngineConfig::default()
            },
            log: LogOptions {
                segment_bytes: self.segment_bytes,
                keep: self.keep_options(),
                ..LogOptions::default()
            },
            timing: Timing::default(),
            reservations_max: self.max_reservations,
            snapshot_log_bytes: self.snapshot_log_bytes,
            follower_lag_max: FOLLOWER_LAG_MAX,
            lease_reads: self.lease_reads,
            draining: Arc::new(AtomicBool::new(false)),
            notice: Arc::new(|line| crate::cli::say!("stockd: {line}")),
            archive: self.archive_options(),
            events: self.event_options(),
            reconcile: Some(self.reconcile).filter(|interval| !interval.is_zero()),
            observer: None,
        }
    }

    fn archive_options(&self) -> Option<ArchiveOptions> {
        let options = ArchiveOptions {
            retention_ms: self.archive.as_millis() as u64,
            bytes_max: self.archive_bytes,
        };
        (options.retention_ms > 0).then_some(options)
    }

    fn event_options(&self) -> Option<EventOptions> {
        let options = EventOptions {
            retention_ms: self.events.as_millis() as u64,
            bytes_max: self.events_bytes,
            ..EventOptions::default()
        };
        (options.retention_ms > 0).then_some(options)
    }

    fn keep_options(&self) -> Option<KeepOptions> {
        let options = KeepOptions {
            retention_ms: self.keep_log.as_millis() as u64,
            bytes_max: self.keep_log_bytes,
        };
        (options.retention_ms > 0 && options.bytes_max > 0).then_some(options)
    }

    fn print_banner(&self, client: &str, admin: &str, replica: &Replica) {
        let status = replica.status();
        let stock = &status.stock;
        crate::cli::say!("stockd {}, node {}", env!("CARGO_PKG_VERSION"), self.node_id);
        crate::cli::say!("  clients  {client}");
        crate::cli::say!("  admin    {admin}   (type: nc {}, then help)", admin.replace(':', " "));
        crate::cli::say!("  peers    {}", self.peer);
        crate::cli::say!(
            "  data     {}   ({} cells, {} active reservations)",
            self.data.display(),
            stock.cells,
            stock.active
        );
        crate::cli::say!("  try      stockd client --node {client} receive BER shirt-m 100");
    }
}

/// Entries that a follower may be behind the newest snapshot before it gets the snapshot instead.
const FOLLOWER_LAG_MAX: u64 = 100_000;

fn address(address: std::io::Result<SocketAddr>) -> Result<String, String> {
    let address = address.map_err(|error| format!("a listening socket has no address: {error}"))?;
    Ok(address.to_string())
}

/// Leaves in order, unless a second signal says that it takes too long.
async fn leave(server: Server, signals: &mut Signals) -> Done {
    crate::cli::say!("stockd: leaving; once more to leave at once");
    tokio::select! {
        () = server.shutdown() => {
            crate::cli::say!("stockd: bye");
            Ok(())
        }
        () = signals.next() => Err("left at once; nothing acknowledged is lost".to_owned()),
    }
}

/// What asks a process to end.
pub(super) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> Result<Self, String> {
        let open =
            |kind| signal(kind).map_err(|error| format!("cannot listen for signals: {error}"));
        Ok(Self {
            interrupt: open(SignalKind::interrupt())?,
            terminate: open(SignalKind::terminate())?,
        })
    }

    pub(super) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
