//! `stockd backup` and `stockd restore`: a node's history into a directory, and a cluster out of it.
//!
//! ```text
//! stockd backup DIR             what the node has and DIR has not          node.rs, crate::backup
//! stockd backup --verify DIR    is every byte what it was, and enough?     verify.rs
//! stockd restore DIR            a data directory that begins there         restore.rs
//! ```

mod node;
mod restore;
mod verify;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

pub(super) use restore::Restore;

use super::Done;
use super::client::CLIENT_ADDRESS;
use super::events::moment::Moment;
use super::progress::Progress;
use crate::audit::{grouped, hex};
use crate::backup::{Error, Manifest, Updated, update};
use crate::log::{RealStorage, Storage};
use crate::world::{Clock, RealClock};
use node::Connection;

/// `stockd backup`.
#[derive(Args)]
#[command(after_help = "\
It is taken from one node, any of them, which serves on meanwhile. The same command again fetches what has come since: \
segments that are here are never fetched twice, and a run that was cut off goes on where it was. Each run adds the \
newest snapshot, from which a later restore begins. A node keeps the log since its last snapshots for a week \
(`stockd serve --keep-log`): take a backup more often.

What stays: the newest snapshots (--snapshots), and the log since the oldest of them, so that every moment since then can \
be restored; a log that begins with the first entry, from which every moment can be; and all events, for auditors. Take \
a backup into a new directory to begin anew, and keep or remove the old one as a whole.

Examples:
  stockd backup /backup/shop
  stockd backup /backup/shop --node db2:7400 --rate 20000000
  stockd backup --verify /backup/shop
  stockd restore /backup/shop --data stockd-data")]
pub(super) struct Backup {
    /// The directory of the backup; it is made if it is not there.
    directory: PathBuf,
    /// The node's client address; may be given several times: the first one that answers, and is the one whose backup
    /// this is, is asked.
    #[arg(long = "node", value_name = "ADDR", default_value = CLIENT_ADDRESS)]
    nodes: Vec<String>,
    /// Most bytes in a second [default: as fast as it goes]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u64).range(RATE_MIN..))]
    rate: Option<u64>,
    /// So many of the newest snapshots stay: restoring to a moment begins at the one before it.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    snapshots: u16,
    /// Fetch nothing: look at every byte that is there, and whether it can be restored.
    #[arg(long, conflicts_with_all = ["nodes", "rate", "snapshots"])]
    verify: bool,
}

/// Slower, and a piece would take seconds.
const RATE_MIN: u64 = 64 << 10;

impl Backup {
    pub(super) fn run(self) -> Done {
        match self.verify {
            true => verify::run(&self.directory),
            false => self.fetch(),
        }
    }

    fn fetch(&self) -> Done {
        refuse_data_directory(&self.directory)?;
        let storage = RealStorage::open(&self.directory).map_err(|error| error.to_string())?;
        let before = Manifest::read(&storage).map_err(|error| error.to_string())?;
        let mut node = Connection::open(&self.nodes, before.map(|before| before.head), self.rate)?;
        let mut progress = progress();
        let told = &mut |what: &str, done, total| progress.update(what, done, total);
        let updated = update(&storage, &mut node, usize::from(self.snapshots), told);
        progress.finish();
        let updated = updated.map_err(|error| match error {
            Error::Other { .. } | Error::BadManifest { .. } => error.to_string(),
            _ => format!(
                "{error}\nstockd: what was fetched is kept: the same command goes on from there"
            ),
        })?;
        print(&self.directory, &updated);
        Ok(())
    }
}

/// What a node has made is not to be mixed with a backup, not even its own.
fn refuse_data_directory(directory: &Path) -> Done {
    match directory.join("identity").exists() {
        true => Err(format!(
            "{} is the data directory of a node; a backup needs a directory of its own, best on another disk",
            directory.display()
        )),
        false => Ok(()),
    }
}

fn print(directory: &Path, updated: &Updated) {
    let count = |number: u64| grouped(number.into());
    let Updated { manifest, files, bytes, removed } = updated;
    println!("fetched    {} files, {} bytes", count(*files), count(*bytes));
    if *removed > 0 {
        println!("removed    {} files that no restore needs any more", count(*removed));
    }
    print_reach(manifest);
    let all: u64 = manifest.files.values().map(|file| file.bytes).sum();
    println!(
        "directory  {}: {} files, {} bytes",
        directory.display(),
        count(manifest.files.len() as u64),
        count(all)
    );
}

/// Whose backup it is, and what comes last in it.
fn print_reach(manifest: &Manifest) {
    let head = manifest.head;
    println!("of         cluster {:016x}, node {}", head.cluster_id, head.node_id);
    println!("reaches    entry {}, {}", grouped(head.index.into()), Moment(head.now_us));
    match head.next_event {
        0 => println!("events     none: the node keeps none"),
        next => println!(
            "events     up to {}, chain {}",
            grouped(i128::from(next) - 1),
            hex(&head.chain)
        ),
    }
}

fn progress() -> Progress {
    let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
    Progress::new(clock)
}

/// A directory with a backup, to be read.
fn open_backup(directory: &Path) -> Result<RealStorage, String> {
    RealStorage::open_read_only(directory).map_err(|error| error.to_string())
}

/// A node must not go on in a directory with a backup: it would be one that has forgotten what it has voted for.
pub(super) fn refuse_backup(storage: &dyn Storage) -> Done {
    match Manifest::read(storage) {
        Ok(None) => Ok(()),
        Ok(Some(_)) | Err(_) => Err(format!(
            "{} is a backup; make a data directory of it: stockd restore",
            storage.path("")
        )),
    }
}
