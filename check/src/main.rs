//! Checks a kept history against the logs and the events of stopped nodes: see `stockd-check --help`.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io::BufReader;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use stockd::engine::EngineConfig;
use stockd_check::{Options, committed, file, witness};

/// The check could not be made.
const EXIT_USAGE: u8 = 2;

/// Checks that what clients were told is what the committed log says, and that the nodes' events tell of that and of
/// nothing else.
#[derive(Parser)]
#[command(after_help = "\
Exit status: 0 all is well, 1 a rule is broken, 2 it cannot be told.

Example:
  stockd-check run-7.history node-1/data node-2/data node-3/data")]
struct Args {
    /// What was asked and answered, as stockd_check::file writes it.
    history: PathBuf,
    /// The data directories of the nodes, which must have stopped: all of them, or a majority.
    #[arg(required = true)]
    data: Vec<PathBuf>,
    /// The nodes' --grace-ms, if it is not what the directories say.
    #[arg(long)]
    grace_ms: Option<u64>,
    /// The nodes' retention in ms, if it is not what the directories say.
    #[arg(long)]
    retention_ms: Option<u64>,
    /// The nodes' --sample-refusals, if it is not what the directories say.
    #[arg(long)]
    sample_refusals: Option<u32>,
    /// Others wrote to the cluster too, who are not in the history.
    #[arg(long)]
    partial: bool,
    /// Invocations and completions are in nanoseconds of one clock: check the age of stale reads.
    #[arg(long)]
    nanoseconds: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err((code, message)) => {
            eprintln!("stockd-check: {message}");
            ExitCode::from(code)
        }
    }
}

fn run(args: &Args) -> Result<bool, (u8, String)> {
    let unreadable = |error: &dyn std::fmt::Display| {
        (EXIT_USAGE, format!("{}: {error}", args.history.display()))
    };
    let history = File::open(&args.history).map_err(|error| unreadable(&error))?;
    let history = file::load(BufReader::new(history)).map_err(|error| unreadable(&error))?;
    let log = committed::read(&args.data).map_err(|error| match error {
        committed::Error::Diverged(_) => (1, error.to_string()),
        error => (EXIT_USAGE, error.to_string()),
    })?;
    let rules = committed::rules(&args.data).unwrap_or_default();
    let engine = EngineConfig {
        grace_ms: args.grace_ms.unwrap_or(rules.grace_ms),
        retention_ms: args.retention_ms.unwrap_or(rules.retention_ms),
        sample_refusals: args.sample_refusals.unwrap_or(rules.sample_refusals),
        ..rules
    };
    let ticks_per_ms = args.nanoseconds.then_some(1_000_000);
    let options = Options { engine, complete: !args.partial, ticks_per_ms, ..Options::default() };
    let (mut report, mut stream) = witness::check_with_stream(&log, &history, &options);
    stream.judge(&args.data, &mut report);
    print!("{report}");
    Ok(report.is_ok())
}
