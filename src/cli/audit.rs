//! `stockd audit`: is what is in a directory what has happened?

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::Done;
use super::progress::Progress;
use crate::audit::{Report, audit, grouped};
use crate::log::RealStorage;
use crate::world::{Clock, RealClock};

/// `stockd audit`.
#[derive(Args)]
#[command(after_help = "\
Only reads. The node should be stopped; beside a running one the verdict is as good, and what comes last is left to the
next audit. The last line is the verdict, and the exit code is 0 only if everything is right.

Examples:
  stockd audit stockd-data")]
pub(super) struct Audit {
    /// A data directory.
    path: PathBuf,
}

impl Audit {
    pub(super) fn run(self) -> Done {
        look_at_directory(&self.path)
    }
}

fn look_at_directory(directory: &Path) -> Done {
    let storage = RealStorage::open_read_only(directory).map_err(|error| error.to_string())?;
    let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
    let mut progress = Progress::new(clock.clone());
    let report = audit(&storage, clock.as_ref(), &mut |what, done, total| {
        progress.update(what, done, total);
    });
    progress.finish();
    print(&report);
    match report.is_ok() {
        true => Ok(()),
        false => Err(format!(
            "keep {} as it is for whoever finds out why; the node gets everything from the others when it is \
             started on an empty directory with --join",
            directory.display()
        )),
    }
}

fn print(report: &Report) {
    let count = |number: u64| grouped(number.into());
    println!("events     {} in {} records", count(report.events), count(report.records));
    println!("files      {} with {} MiB", count(report.segments), report.bytes >> 20);
    let seconds = report.took.as_secs_f64();
    if report.events > 0 && seconds > 0.0 {
        println!("speed      {} events/s", count((report.events as f64 / seconds) as u64));
    }
    println!("as logged  {} events are what the log makes", count(report.derived));
    println!("counters   {} cells have what the events add up to", count(report.compared));
    for note in &report.notes {
        println!("note       {note}");
    }
    for finding in report.findings.kept() {
        println!("WRONG      {finding}");
    }
    let more = report.findings.count() - report.findings.kept().len() as u64;
    if more > 0 {
        println!("WRONG      and {} more", count(more));
    }
    println!("{}", report.verdict());
}
