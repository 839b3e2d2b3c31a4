//! A run from end to end: setup, one or two phases of load, verification.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stockd_protocol::OwnerLimits;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::args::{Settings, Workload};
use crate::book::Book;
use crate::clock::Clock;
use crate::connection::{Patience, drive};
use crate::draw::{CartSizes, Zipf, mix};
use crate::driver::{Driver, Fault, Load, Trouble, frame_bytes_max};
use crate::link::{Bounds, Link, LinkError, Nodes};
use crate::pacer::Pacer;
use crate::plan::{Beside, Choice, IdStream, Plan, Ttl};
use crate::process::{Usage, listener};
use crate::progress::Progress;
use crate::report::{Report, Served};
use crate::session::Session;
use crate::setup::Cells;
use crate::stats::{Fresh, Shared, Stats, Window};
use crate::verify::Verification;

/// The run could not be made, so nothing is known about the server's promises.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RunError {
    /// The arguments ask for more than the server allows, or for what cannot be.
    Arguments(String),
    /// No node could be reached.
    Link(LinkError),
    /// A server does not follow the protocol.
    Server(Fault),
}

impl std::fmt::Display for RunError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Arguments(what) => f.write_str(what),
            Self::Link(error) => write!(f, "no connection: {error}"),
            Self::Server(fault) => write!(f, "the server does not follow the protocol: {fault}"),
        }
    }
}

impl std::error::Error for RunError {}

impl From<LinkError> for RunError {
    fn from(error: LinkError) -> Self {
        Self::Link(error)
    }
}

impl From<Fault> for RunError {
    fn from(fault: Fault) -> Self {
        Self::Server(fault)
    }
}

const SECOND_NS: f64 = 1e9;
const CONNECT_PATIENCE: Duration = Duration::from_secs(30);
/// How often a running phase is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);
const ZIPF_EXPONENT: f64 = 0.99;
/// The part of a storm in which the sweeper is busiest.
const STORM_FRONT_SECONDS: f64 = 2.0;

/// Makes a run.
///
/// # Errors
/// It could not be made. What the verification found is in the report, not in the error.
pub async fn run(settings: &Settings) -> Result<Report, RunError> {
    let clock = Clock::start();
    let nodes = Nodes::new(settings.args.addr.clone());
    let bounds = nodes.clone().connect(CONNECT_PATIENCE).await?.bounds;
    let bench = Bench { settings, clock, nodes, bounds };
    let cells = Cells {
        warehouse: format!("bench-{:x}", clock.unix_ms(clock.now_ns())),
        count: settings.cells,
        stock: settings.stock,
        born_ms: clock.unix_ms(clock.now_ns()),
    };
    let progress = Progress::new("setup", u64::from(cells.count), settings.args.no_progress);
    let mut session = Session::new(bench.nodes.clone());
    if settings.args.workload == Workload::Hoarder {
        let (holds_max, cool_down_ms) = (settings.args.holds_max, settings.args.cool_down_ms);
        let limits = OwnerLimits { holds_max, units_max: 0, cool_down_ms };
        cells.limit_owners(&mut session, limits).await?;
    }
    let handles = cells.make(&mut session, &progress).await?;
    drop(progress);
    bench.run(handles).await
}

/// What a load's connection calls itself: eight application servers, and programs that say nothing, so that
/// a log entry has names as it would have them.
fn client_name(connection: u32) -> String {
    if connection % 3 == 2 { String::new() } else { format!("stockd-bench-{}", connection % 8) }
}

/// What all phases of a run share.
struct Bench<'a> {
    settings: &'a Settings,
    clock: Clock,
    nodes: Nodes,
    bounds: Bounds,
}

/// What a phase left behind.
struct Phase {
    stats: Stats,
    books: Vec<Book>,
    totals: Fresh,
    pause_ns_max: u64,
    ended_ns: u64,
    served: Vec<Served>,
}

impl Bench<'_> {
    async fn run(&self, handles: Vec<u32>) -> Result<Report, RunError> {
        let (mut books, phase) = match self.settings.args.workload {
            Workload::ExpiryStorm => self.storm(&handles).await?,
            _ => (Vec::new(), self.steady(&handles).await?),
        };
        books.extend(phase.books);
        let verification = Verification {
            books,
            stock: self.settings.stock,
            handles,
            sample: self.settings.args.verify_sample,
        };
        let begun_ns = self.clock.now_ns();
        let findings = verification.run(&self.nodes, self.settings.args.no_progress).await?;
        Ok(Report {
            settings: self.settings.clone(),
            stats: phase.stats,
            totals: phase.totals,
            pause_ns_max: phase.pause_ns_max,
            load_ended_ns: phase.ended_ns,
            served: phase.served,
            findings,
            verify_ns: self.clock.now_ns() - begun_ns,
        })
    }

    /// Every workload but the storm: one phase.
    async fn steady(&self, handles: &[u32]) -> Result<Phase, RunError> {
        let settings = self.settings;
        let choice = match settings.args.workload {
            Workload::Cart => Choice::Cart(CartSizes::new()),
            Workload::Zipf => Choice::Zipf(Zipf::new(u64::from(settings.cells), ZIPF_EXPONENT)),
            _ => Choice::Uniform,
        };
        let plan = self.plan(handles, choice, Ttl::Fixed(settings.ttl_kept_ms));
        let links = self.links(&plan).await?;
        let mut load = self.load(self.clock.now_ns());
        if let Some(reservations) = settings.args.reservations {
            load.budget = reservations.div_ceil(u64::from(settings.args.connections));
        }
        if settings.args.workload == Workload::Drop {
            let buyers = u64::from(settings.stock) * settings.args.demand_factor;
            load.budget = buyers.div_ceil(u64::from(settings.args.connections));
            load.until_confirmed = Some(u64::from(settings.stock) * u64::from(settings.cells));
        }
        let length = settings.warmup + settings.seconds;
        self.phase(0, plan, load, links, "load", (length * 1e3) as u64).await
    }

    /// The storm: reservations in advance, then offers before and after they fall due.
    async fn storm(&self, handles: &[u32]) -> Result<(Vec<Book>, Phase), RunError> {
        let settings = self.settings;
        let connections = settings.args.connections;
        let rate = settings.rate.expect("the settings give the storm a rate");
        let before = settings.advance_seconds + settings.seconds;
        let due_ns = self.clock.now_ns() + (before * SECOND_NS) as u64;
        let due_ms = self.clock.unix_ms(due_ns) - settings.args.grace_ms;
        let choice = Choice::RoundRobin { streams: u64::from(connections) };

        let plan = self.plan(handles, choice.clone(), Ttl::Until(due_ms));
        let links = self.links(&plan).await?;
        let mut load = self.load(self.clock.now_ns());
        load.rate = None;
        load.depth = load.depth.min(2);
        load.ops_per_frame = 1_000.min(self.bounds.batch_ops_max);
        load.stop_ns = due_ns;
        load.budget = settings.args.advance / u64::from(connections);
        load.windows.clear();
        let total = load.budget * u64::from(connections);
        let advance = self.phase(0, plan, load, links, "advance", total).await?;
        let granted = advance.totals.granted;
        if granted != total {
            let message = format!("of {total} reservations in advance only {granted} were granted");
            return Err(RunError::Arguments(message));
        }

        let start_ns = due_ns - (settings.seconds * SECOND_NS) as u64;
        if self.clock.now_ns() > start_ns {
            let message = "making the reservations took too long; raise --advance-seconds";
            return Err(RunError::Arguments(message.into()));
        }
        let plan = self.plan(handles, choice, Ttl::Fixed(settings.args.ttl_ms));
        let links = self.links(&plan).await?;
        sleep_until(self.clock.instant(start_ns)).await;
        let units = u64::from(settings.stock) * u64::from(settings.cells);
        let mut load = self.load(start_ns);
        load.budget = units / u64::from(connections);
        let end_ns = start_ns + (units as f64 / rate * SECOND_NS) as u64;
        load.stop_ns = end_ns + SECOND_NS as u64;
        let warm_ns = start_ns + (settings.warmup * SECOND_NS) as u64;
        let front_ns = due_ns + (STORM_FRONT_SECONDS * SECOND_NS) as u64;
        load.windows = vec![
            Window { name: "calm", from_ns: warm_ns, to_ns: due_ns },
            Window { name: "storm", from_ns: due_ns, to_ns: end_ns },
            Window { name: "storm, first 2 s", from_ns: due_ns, to_ns: front_ns },
        ];
        let length_ms = (load.stop_ns - start_ns) / 1_000_000;
        let mut phase = self.phase(1, plan, load, links, "load", length_ms).await?;
        phase.stats.deadlines_ms = advance.stats.deadlines_ms;
        Ok((advance.books, phase))
    }

    fn plan(&self, handles: &[u32], choice: Choice, ttl_kept: Ttl) -> Arc<Plan> {
        Arc::new(Plan {
            seed: self.settings.args.seed,
            choice,
            handles: handles.to_vec(),
            confirm_percent: self.settings.confirm_percent,
            release_percent: self.settings.release_percent,
            ttl: Ttl::Fixed(self.settings.args.ttl_ms),
            ttl_kept,
            beside: match self.settings.args.workload {
                Workload::Feeds => Beside::Feeds {
                    streams: u64::from(self.settings.args.connections),
                    stock: self.settings.stock,
                },
                Workload::Hoarder => Beside::Owners,
                _ => Beside::Nothing,
            },
        })
    }

    fn load(&self, start_ns: u64) -> Load {
        let settings = self.settings;
        let from_ns = start_ns + (settings.warmup * SECOND_NS) as u64;
        let to_ns = from_ns + (settings.seconds * SECOND_NS) as u64;
        Load {
            connections: settings.args.connections,
            depth: settings.args.depth,
            ops_per_frame: settings.args.ops_per_frame,
            rate: settings.rate,
            tick_ns: settings.args.tick_us * 1_000,
            start_ns,
            stop_ns: to_ns,
            budget: u64::MAX,
            until_confirmed: None,
            trouble: match settings.args.workload {
                Workload::Retries => Trouble { dropped_percent: 5, late_percent: 1 },
                _ => Trouble::default(),
            },
            windows: vec![Window { name: "measured", from_ns, to_ns }],
        }
    }

    /// Connects as often as the load wants, before its clock starts.
    async fn links(&self, plan: &Plan) -> Result<Vec<Link>, RunError> {
        let args = &self.settings.args;
        let Bounds { frame_bytes_max: frame, batch_ops_max, frames_in_flight_max } = self.bounds;
        if args.depth > frames_in_flight_max {
            let message =
                format!("--depth: the server allows {frames_in_flight_max} frames in flight");
            return Err(RunError::Arguments(message));
        }
        if args.ops_per_frame > batch_ops_max
            || frame_bytes_max(plan, args.ops_per_frame) > frame as usize
        {
            let message = format!(
                "--ops-per-frame: the server allows {batch_ops_max} operations and {frame} bytes"
            );
            return Err(RunError::Arguments(message));
        }
        let mut nodes = self.nodes.clone();
        let mut links = Vec::new();
        for connection in 0..args.connections {
            nodes = nodes.called(client_name(connection));
            links.push(nodes.connect(CONNECT_PATIENCE).await?);
        }
        Ok(links)
    }

    /// Runs one phase; `length` is what the progress counts up to: milliseconds, or reservations if
    /// the load has a budget and no windows.
    async fn phase(
        &self,
        number: u32,
        plan: Arc<Plan>,
        load: Load,
        links: Vec<Link>,
        name: &str,
        length: u64,
    ) -> Result<Phase, RunError> {
        let args = &self.settings.args;
        let (load, shared) = (Arc::new(load), Arc::new(Shared::default()));
        let patience = Patience {
            reply_ns: (args.reply_timeout * SECOND_NS) as u64,
            end_ns: load.stop_ns + (args.drain * SECOND_NS) as u64,
        };
        // Ids of two runs with one seed must differ, or the second would meet replays.
        let salt = mix(args.seed ^ mix(self.clock.unix_ms(0)));
        let ticks: Vec<_> = links.iter().map(|_| Arc::new(Notify::new())).collect();
        let pacer = load.rate.map(|_| {
            Pacer::start(self.clock, load.start_ns, load.tick_ns, ticks.clone())
                .map_err(|error| RunError::Arguments(format!("no thread for the pacer: {error}")))
        });
        let _pacer = pacer.transpose()?;
        let mut tasks = JoinSet::new();
        for (connection, (link, tick)) in links.into_iter().zip(ticks).enumerate() {
            let stream = number << 16 | connection as u32;
            let ids = IdStream::new(salt, stream);
            let driver = Driver::new(
                load.clone(),
                shared.clone(),
                self.clock,
                plan.clone(),
                ids,
                stream,
                connection as u32,
            );
            let nodes = self.nodes.clone().called(client_name(connection as u32));
            tasks.spawn(drive(driver, Some(link), nodes, self.clock, patience, tick));
        }
        let mut watch =
            Watch::new(self, &load, shared.clone(), Progress::new(name, length, args.no_progress));
        let mut phase = Phase {
            stats: Stats::new(&load.windows),
            books: Vec::new(),
            totals: Fresh::default(),
            pause_ns_max: 0,
            ended_ns: 0,
            served: Vec::new(),
        };
        let mut ticks = interval(LOOK_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                joined = tasks.join_next() => {
                    let Some(joined) = joined else { break };
                    let driver = joined.expect("a connection's task does not panic")?;
                    let (stats, book) = driver.into_parts(self.clock.now_ns());
                    phase.stats.merge(&stats);
                    phase.books.push(book);
                }
                _ = ticks.tick() => watch.look(self.clock.now_ns()),
            }
        }
        phase.ended_ns = self.clock.now_ns();
        phase.served = watch.finish(phase.ended_ns);
        phase.totals = shared.totals();
        // Relaxed: all tasks have ended.
        phase.pause_ns_max = shared.pause_ns_max.load(Ordering::Relaxed);
        Ok(phase)
    }
}

/// Looks at the counts and at the processes while a phase runs.
struct Watch {
    shared: Arc<Shared>,
    progress: Progress,
    by_time: bool,
    start_ns: u64,
    from_ns: u64,
    to_ns: u64,
    pids: Vec<(String, u32)>,
    begun: Option<Vec<Option<Usage>>>,
    ops_begun: u64,
    served: Option<Vec<Served>>,
    last: (u64, Fresh),
    /// A file to create once so many reservations are confirmed.
    half_sold: Option<(PathBuf, u64)>,
}

impl Watch {
    fn new(bench: &Bench<'_>, load: &Load, shared: Arc<Shared>, progress: Progress) -> Self {
        let args = &bench.settings.args;
        let mut pids: Vec<(String, u32)> =
            args.server_pid.iter().map(|pid| ("server".to_owned(), *pid)).collect();
        if pids.is_empty() {
            let ports = args.addr.iter().filter_map(|addr| addr.rsplit(':').next()?.parse().ok());
            pids = ports.filter_map(listener).map(|pid| ("server".to_owned(), pid)).collect();
        }
        pids.push(("harness".to_owned(), std::process::id()));
        let span = |window: &Window| (window.from_ns, window.to_ns);
        let (from_ns, _) = load.windows.first().map_or((0, 0), span);
        let to_ns = load.windows.iter().map(|window| window.to_ns).max().unwrap_or(u64::MAX);
        let half = u64::from(bench.settings.stock) * u64::from(bench.settings.cells) / 2;
        Self {
            half_sold: args.half_sold_file.clone().map(|file| (file, half)),
            shared,
            progress,
            by_time: !load.windows.is_empty(),
            start_ns: load.start_ns,
            from_ns,
            to_ns,
            pids,
            begun: None,
            ops_begun: 0,
            served: None,
            last: (load.start_ns, Fresh::default()),
        }
    }

    fn usages(&self) -> Vec<Option<Usage>> {
        self.pids.iter().map(|(_, pid)| Usage::of(*pid)).collect()
    }

    fn look(&mut self, now: u64) {
        let totals = self.shared.totals();
        if self.begun.is_none() && now >= self.from_ns {
            (self.begun, self.ops_begun) = (Some(self.usages()), totals.ops);
        }
        if self.served.is_none() && now >= self.to_ns {
            self.served = Some(self.measure(totals.ops));
        }
        if let Some((file, half)) = &self.half_sold
            && totals.confirmed >= *half
        {
            if let Err(error) = std::fs::write(file, "") {
                eprintln!("{}: {error}", file.display());
            }
            self.half_sold = None;
        }
        let (then, before) = self.last;
        if now.saturating_sub(then) < 500_000_000 {
            return;
        }
        let seconds = (now - then) as f64 / SECOND_NS;
        let rate = |new: u64, old: u64| ((new - old) as f64 / seconds) as u64;
        let text = format!(
            "{} op/s · granted {} · refused {} · confirmed {}",
            crate::report::grouped(rate(totals.ops, before.ops)),
            crate::report::grouped(totals.granted),
            crate::report::grouped(totals.refused),
            crate::report::grouped(totals.confirmed),
        );
        let elapsed_ms = now.saturating_sub(self.start_ns) / 1_000_000;
        self.progress.at(if self.by_time { elapsed_ms } else { totals.ops }, &text);
        self.last = (now, totals);
    }

    fn measure(&self, ops_now: u64) -> Vec<Served> {
        let Some(begun) = &self.begun else { return Vec::new() };
        let ops = ops_now - self.ops_begun;
        let pairs = self.pids.iter().zip(begun).zip(self.usages());
        pairs
            .filter_map(|(((name, pid), begun), ended)| {
                let usage = ended?.since(&(*begun)?);
                Some(Served { name: name.clone(), pid: *pid, usage, ops })
            })
            .collect()
    }

    fn finish(mut self, now: u64) -> Vec<Served> {
        self.look(now);
        let ops = self.shared.totals().ops;
        let served = self.served.take();
        served.unwrap_or_else(|| self.measure(ops))
    }
}
