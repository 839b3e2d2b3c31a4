//! `stockd audit`: is what is in a directory what has happened? And what does a file of evidence prove?

use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use super::Done;
use super::progress::Progress;
use crate::audit::evidence::{Proof, verify};
use crate::audit::{Report, audit, grouped, hex};
use crate::events::Position;
use crate::log::{File, RealStorage, Storage};
use crate::world::{Clock, RealClock};

/// `stockd audit`.
#[derive(Args)]
#[command(after_help = "\
Only reads. The node should be stopped; beside a running one the verdict is as good, and what comes last is left to the \
next audit. The last line is the verdict, and the exit code is 0 only if everything is right.

Examples:
  stockd audit stockd-data
  stockd audit case-17.evidence")]
pub(super) struct Audit {
    /// A data directory, or a file that `stockd events evidence` wrote.
    path: PathBuf,
}

impl Audit {
    pub(super) fn run(self) -> Done {
        match self.path.is_file() {
            true => look_at_evidence(&self.path),
            false => look_at_directory(&self.path),
        }
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
    println!("told       {}", report.checkpoints);
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

fn look_at_evidence(path: &Path) -> Done {
    let said = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
    let name = path.file_name().and_then(|name| name.to_str());
    let name = name.ok_or_else(|| said(&"its name is no text"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let storage = RealStorage::open_read_only(parent.unwrap_or(Path::new(".")));
    let file = storage.map_err(|error| said(&error))?.open(name).map_err(|error| said(&error))?;
    let bytes = file.bytes().map_err(|error| said(&error))?;
    let mut progress = Progress::new(Arc::new(RealClock::new()));
    let mut input = BufReader::with_capacity(1 << 20, Content { file, bytes, at: 0 });
    let proof = verify(&mut input, &mut |done| progress.update("reading", done, bytes));
    progress.finish();
    match proof {
        Ok(proof) => {
            print_proof(&proof);
            Ok(())
        }
        Err(fault) => {
            println!("AUDIT FAILED: {} {fault}", path.display());
            Err("it proves nothing; ask for evidence that was not changed on the way".to_owned())
        }
    }
}

fn print_proof(proof: &Proof) {
    let Proof { head, events, records, defined, checkpoints, digest } = proof;
    let count = |number: u64| grouped(number.into());
    let chain = |at: Position| {
        let part = if at.is_whole { "" } else { ", which began anew: no other node has it" };
        format!("before event {}, chain {}{part}", at.next, hex(&at.chain))
    };
    let [grace, retention, max_life] = head.rules_ms;
    let (first, last) = (head.before.next, head.after.next - 1);
    println!("cluster    {:016x}, shard {}", head.cluster_id, head.shard.0);
    println!("taken from the directory of node {}", head.node_id);
    println!("rules      grace {grace} ms, retention {retention} ms, longest life {max_life} ms");
    println!("asked for  events {}..{}", head.from, head.to);
    println!("events     {} in {} whole records", count(*events), count(*records));
    println!("told       {checkpoints}");
    println!("from       {}", chain(head.before));
    println!("to         {}", chain(head.after));
    println!("digest     {}", hex(digest));
    println!(
        "It proves, if the last chain is that of the cluster: these are all events {first}..{last}, in their order \
         and as they were; what each says was in its cell is what the one before has left there, and what CHECKPOINTs \
         say fits as far as it was compared; and the names of the {} cells that are defined among them.",
        count(*defined)
    );
    println!(
        "It does not prove that the last chain is that of the cluster: compare it with one that was noted elsewhere \
         when event {last} was the last one, or with what another node has. Nor what the other {} cells are called, \
         what had happened before event {first}, and who is behind a principal.",
        count(u64::from(head.named).saturating_sub(*defined))
    );
    println!(
        "AUDIT OK: evidence of {} events {first}..{last}, {} cells, chain {}",
        count(*events),
        count(head.named.into()),
        hex(&head.after.chain)
    );
}

/// A file, from its first byte to its last.
struct Content {
    file: Arc<dyn File>,
    bytes: u64,
    at: u64,
}

impl Read for Content {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let count = bytes.len().min((self.bytes - self.at) as usize);
        self.file.read_at(self.at, &mut bytes[..count])?;
        self.at += count as u64;
        Ok(count)
    }
}
