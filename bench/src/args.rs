//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

/// What is asked of the server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Workload {
    /// Carts of 1 to 50 lines on cells drawn evenly: log-normal, p50 15, p90 53 before the cap of 50;
    /// 13.5 % of them repeat a cell
    #[value(alias = "basket")]
    Cart,
    /// A flash sale: one SKU, far more buyers than units; of the grants 85 % are confirmed, 5 %
    /// released, 10 % left to expire, and what comes back is sold again
    Drop,
    /// Reservations made in advance fall due all at once, while others are offered at a fixed rate
    /// on the same cells with no other stock to give
    ExpiryStorm,
    /// As uniform, but one operation of ten is a SET: a feed that states how many units a cell has, while
    /// they are sold
    Feeds,
    /// One cell, and half of the buyers are 50 that keep all they get until it expires; the others, each
    /// of them new, buy one unit
    Hoarder,
    /// As uniform, on one cell
    Hot,
    /// As uniform, but of all replies the harness throws 5 % away and asks again, and of all that it asked
    /// it asks 1 % once more half a second later; 40 % of the grants are confirmed, 40 % released
    Retries,
    /// Refusals: one cell that is soon sold out
    Soldout,
    /// One unit of a cell drawn evenly
    Uniform,
    /// One unit of a cell drawn by Zipf's law, exponent 0.99
    Zipf,
}

impl Workload {
    /// As the command line has it.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// Offers load to stockd, measures, and then verifies that everything acknowledged is there and
/// nothing was oversold.
///
/// Exit code 0: the verification passed. 1: an acknowledged write was lost, stock was oversold,
/// the server contradicted itself, or nothing was answered at all. 2: the run could not be made.
#[derive(Clone, Debug, Parser)]
#[command(
    name = "stockd-bench",
    version,
    after_long_help = "Closed loop (the default): every connection keeps --depth frames of --ops-per-frame \
operations in flight. Latency is per frame.\n\n\
Open loop (--rate): frames are due at fixed times, whatever the server does, and their latency \
counts from when they were due. A due frame waits in the harness while --depth frames are in flight.\n\n\
Examples:\n  \
stockd-bench uniform --connections 16 --depth 2 --ops-per-frame 1000 --seconds 10\n  \
stockd-bench uniform --connections 64 --depth 1 --seconds 10\n  \
stockd-bench uniform --rate 50000 --seconds 30\n  \
stockd-bench drop --stock 10000 --demand-factor 300 --addr 127.0.0.1:7400,127.0.0.1:7410,127.0.0.1:7420\n  \
stockd-bench expiry-storm --advance 1000000 --rate 100000"
)]
pub struct Args {
    /// What to ask for
    #[arg(value_enum)]
    pub workload: Workload,

    /// Where nodes serve clients; with several, the one that leads is found
    #[arg(
        long,
        value_delimiter = ',',
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT,…"
    )]
    pub addr: Vec<String>,

    /// Connections
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub connections: u32,

    /// Frames in flight on each connection
    #[arg(long, default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub depth: u32,

    /// Operations per frame: 1 sends single-operation frames, more sends batch frames
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=8192))]
    pub ops_per_frame: u32,

    /// Measured seconds; for drop the longest it may take [default: 10, drop: 60]
    #[arg(long)]
    pub seconds: Option<f64>,

    /// Seconds of load before measuring starts [default: 1, drop: 0]
    #[arg(long)]
    pub warmup: Option<f64>,

    /// Open loop: reservations a second over all connections [default for expiry-storm: 100000]
    #[arg(long)]
    pub rate: Option<f64>,

    /// Open loop: frames fall due in bursts, one burst every so many microseconds
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(50..=1_000_000))]
    pub tick_us: u64,

    /// Cells to make [default: 1000000; drop, hoarder, hot, soldout: 1; expiry-storm: 10000]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub cells: Option<u32>,

    /// Units received into each cell [default: 1000000; drop, hoarder: 10000; hot: 2000000000; soldout: 100;
    /// expiry-storm computes it]
    #[arg(long)]
    pub stock: Option<u32>,

    /// Most reservations asked for, over all connections; the load ends when they are answered
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub reservations: Option<u64>,

    /// drop: buyers per unit of stock
    #[arg(long, default_value_t = 300)]
    pub demand_factor: u64,

    /// hoarder: most reservations that the cluster lets one owner hold; 0: as many as there are units
    #[arg(long, default_value_t = 4)]
    pub holds_max: u32,

    /// hoarder: milliseconds for which an owner gets nothing after a reservation of its own expired
    #[arg(long, default_value_t = 60_000)]
    pub cool_down_ms: u32,

    /// Of 100 grants, how many are confirmed [default: 0, drop: 85, retries: 40]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub confirm_percent: Option<u32>,

    /// Of 100 grants, how many are released; the rest is left to expire [default: 0, drop: 5, retries: 40]
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub release_percent: Option<u32>,

    /// Time to live of reservations in milliseconds; 0 is the server's default
    #[arg(long, default_value_t = 0)]
    pub ttl_ms: u32,

    /// Time to live of those that are left to expire [default: --ttl-ms, drop, hoarder: 1000]
    #[arg(long)]
    pub ttl_kept_ms: Option<u32>,

    /// expiry-storm: reservations made in advance
    #[arg(long, default_value_t = 1_000_000)]
    pub advance: u64,

    /// expiry-storm: seconds allowed for making them [default: 5 + one per 200,000]
    #[arg(long)]
    pub advance_seconds: Option<f64>,

    /// The server's grace between a deadline and expiry, in milliseconds
    #[arg(long, default_value_t = 2_000)]
    pub grace_ms: u64,

    /// Verify only one in so many reservations; the default verifies all
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub verify_sample: u64,

    /// Seconds without any reply after which a connection counts as broken
    #[arg(long, default_value_t = 3.0)]
    pub reply_timeout: f64,

    /// Seconds after the load in which open requests may still be answered
    #[arg(long, default_value_t = 30.0)]
    pub drain: f64,

    /// Process of a server, for its CPU and memory; may be repeated. By default whoever listens on
    /// the ports of --addr on this machine
    #[arg(long, value_name = "PID")]
    pub server_pid: Vec<u32>,

    /// drop: create this file once half the stock is confirmed, as a signal for scripts
    #[arg(long, value_name = "FILE")]
    pub half_sold_file: Option<PathBuf>,

    /// Write the result as JSON to a file, or to standard output with -
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Show no progress
    #[arg(long)]
    pub no_progress: bool,

    /// Seed of all draws
    #[arg(long, default_value_t = 1)]
    pub seed: u64,

    /// Threads of the harness; one is best when it shares two cores with the server
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=256))]
    pub threads: u32,
}

/// The arguments with every default filled in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// As given.
    pub args: Args,
    /// Measured seconds.
    pub seconds: f64,
    /// Seconds before.
    pub warmup: f64,
    /// Reservations a second; `None`: closed loop.
    pub rate: Option<f64>,
    /// How many cells.
    pub cells: u32,
    /// Units per cell.
    pub stock: u32,
    /// Of 100 grants.
    pub confirm_percent: u32,
    /// Of 100 grants.
    pub release_percent: u32,
    /// Milliseconds.
    pub ttl_kept_ms: u32,
    /// Seconds.
    pub advance_seconds: f64,
}

/// So long after the advance reservations should have fallen due, the free stock still lasts: they
/// fall due a little late, by what it took to send and log them. After that only due units are left.
pub const STORM_SLACK_SECONDS: f64 = 0.2;

impl Settings {
    /// Fills in the defaults.
    ///
    /// # Errors
    /// The arguments contradict each other; the message says how.
    pub fn new(args: Args) -> Result<Self, String> {
        let drop = args.workload == Workload::Drop;
        let hoarder = args.workload == Workload::Hoarder;
        let storm = args.workload == Workload::ExpiryStorm;
        let (cells, stock) = match args.workload {
            Workload::Drop | Workload::Hoarder => (1, 10_000),
            Workload::ExpiryStorm => (10_000, 0),
            Workload::Hot => (1, 2_000_000_000),
            Workload::Soldout => (1, 100),
            Workload::Cart
            | Workload::Feeds
            | Workload::Retries
            | Workload::Uniform
            | Workload::Zipf => (1_000_000, 1_000_000),
        };
        let (confirm_percent, release_percent) = match args.workload {
            Workload::Drop => (85, 5),
            Workload::Retries => (40, 40),
            _ => (0, 0),
        };
        let mut settings = Self {
            seconds: args.seconds.unwrap_or(if drop { 60.0 } else { 10.0 }),
            warmup: args.warmup.unwrap_or(if drop { 0.0 } else { 1.0 }),
            rate: args.rate.or(storm.then_some(100_000.0)),
            cells: args.cells.unwrap_or(cells),
            stock: args.stock.unwrap_or(stock),
            confirm_percent: args.confirm_percent.unwrap_or(confirm_percent),
            release_percent: args.release_percent.unwrap_or(release_percent),
            ttl_kept_ms: args.ttl_kept_ms.unwrap_or(if drop || hoarder {
                1_000
            } else {
                args.ttl_ms
            }),
            advance_seconds: args.advance_seconds.unwrap_or(5.0 + args.advance as f64 / 200_000.0),
            args,
        };
        settings.check()?;
        if storm {
            settings.stock = settings.storm_stock()?;
        }
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        let bad = |number: f64| !number.is_finite() || number < 0.0;
        let args = &self.args;
        if bad(self.seconds) || self.seconds == 0.0 || bad(self.warmup) || bad(args.drain) {
            return Err("--seconds, --warmup and --drain must be positive".into());
        }
        if bad(args.reply_timeout) || args.reply_timeout == 0.0 || bad(self.advance_seconds) {
            return Err("--reply-timeout and --advance-seconds must be positive".into());
        }
        if self.rate.is_some_and(|rate| bad(rate) || rate < 1.0) {
            return Err("--rate must be at least 1".into());
        }
        if self.confirm_percent + self.release_percent > 100 {
            return Err("--confirm-percent and --release-percent exceed 100 together".into());
        }
        if args.workload == Workload::ExpiryStorm {
            let keeps_all = self.confirm_percent + self.release_percent == 0;
            if args.stock.is_some() || !keeps_all {
                return Err("expiry-storm computes its stock and confirms nothing".into());
            }
        }
        if args.workload == Workload::Drop && self.confirm_percent == 0 {
            return Err("drop never sells out with --confirm-percent 0".into());
        }
        Ok(())
    }

    /// Per cell: its share of the advance reservations, and of what is offered until they fall due.
    fn storm_stock(&self) -> Result<u32, String> {
        let cells = f64::from(self.cells);
        let offered = self.rate.unwrap_or(0.0) * (self.seconds + STORM_SLACK_SECONDS);
        let stock = (self.args.advance as f64 / cells).ceil() + (offered / cells).ceil() + 1.0;
        if stock > f64::from(u32::MAX) {
            Err("too much stock per cell".into())
        } else {
            Ok(stock as u32)
        }
    }
}
