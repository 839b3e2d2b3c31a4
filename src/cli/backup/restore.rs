//! `stockd restore`: a data directory that begins where a backup has been.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use clap::Args;

use super::{open_backup, progress};
use crate::audit::grouped;
use crate::backup::{Backup, Reached, Restored, Target, restore};
use crate::cli::Done;
use crate::cli::events::moment::{self, Moment};
use crate::engine::EngineConfig;
use crate::log::RealStorage;
use crate::world::World;

/// `stockd restore`.
#[derive(Args)]
#[command(after_help = "\
The directory is that of a node which is a new cluster of its own: the old cluster's nodes refuse it, and it refuses \
them, and cursors of those who followed the old events. Start it with `stockd serve`, and others on empty directories \
with --join. All numbers go on: of events, log entries and cells.

What had happened after the point is gone, also where clients have been told of it: whoever retries a request from then \
may do it again. Holds go on for what was left of their time when the node is started, less the time since, but for a \
minute of it: what has run out expires. Confirmed reservations stay.

Examples:
  stockd restore /backup/shop --data restored
  stockd restore /backup/shop --data before-the-import --to-seq 912034
  stockd restore /backup/shop --data noon --to-time 2026-11-30T12:00:00Z")]
pub(in crate::cli) struct Restore {
    /// The directory of the backup.
    backup: PathBuf,
    /// The new data directory: it is made, or is empty.
    #[arg(long, value_name = "DIR")]
    data: PathBuf,
    /// Up to this event, and with it. An entry of the log is whole or not at all: it may end before.
    #[arg(long, value_name = "SEQ", conflicts_with = "to_time")]
    to_seq: Option<u64>,
    /// Up to what had happened at this moment: 2026-11-30T03:15:17Z, or 15m for so long ago.
    #[arg(long, value_name = "TIME", value_parser = moment::parse)]
    to_time: Option<Moment>,
    /// The node's id in the new cluster, as `stockd serve --node-id` takes it.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    node_id: u64,
}

impl Restore {
    pub(in crate::cli) fn run(self) -> Done {
        let storage = open_backup(&self.backup)?;
        let backup = Backup::open(&storage).map_err(|error| error.to_string())?;
        must_be_empty(&self.data)?;
        let mut progress = progress();
        let told = &mut |what: &str, done, total| progress.update(what, done, total);
        let reached = backup.at(self.target(), told);
        let reached = reached.inspect_err(|_| progress.finish());
        let reached = reached.map_err(|error| error.to_string())?;
        let lines = lines_of(&reached);
        let to = RealStorage::open(&self.data).map_err(|error| error.to_string())?;
        let told = &mut |what: &str, done, total| progress.update(what, done, total);
        let restored = restore(&backup, reached, (&to, &World::real()), self.node_id, told);
        progress.finish();
        let restored = restored.map_err(|error| {
            format!("{error}\nstockd: nothing was left in {}", self.data.display())
        })?;
        lines.iter().for_each(|line| println!("{line}"));
        self.print(&backup, &restored);
        Ok(())
    }

    fn target(&self) -> Target {
        match (self.to_seq, self.to_time) {
            (Some(sequence), _) => Target::Sequence(sequence),
            (None, Some(moment)) => Target::Time(moment.0),
            (None, None) => Target::End,
        }
    }

    fn print(&self, backup: &Backup<'_>, restored: &Restored) {
        let head = backup.manifest().head;
        println!(
            "digest     {:016x}   (`stockd admin digest` of a node at that entry)",
            restored.digest
        );
        println!("chain      {}", restored.chain);
        println!(
            "cluster    {:016x}, new; the backup is of {:016x}",
            restored.cluster_id, head.cluster_id
        );
        println!("start it   {}", self.command(&backup.manifest().engine()));
    }

    /// How the node is started.
    fn command(&self, engine: &EngineConfig) -> String {
        let usual = EngineConfig::default();
        let mut command = format!("stockd serve --data {}", self.data.display());
        if self.node_id != 1 {
            command += &format!(" --node-id {}", self.node_id);
        }
        if engine.grace_ms != usual.grace_ms {
            command += &format!(" --grace-ms {}", engine.grace_ms);
        }
        if engine.retention_ms != usual.retention_ms {
            command += &format!(" --retention {}ms", engine.retention_ms);
        }
        if engine.sample_refusals != usual.sample_refusals {
            command += &format!(" --sample-refusals {}", engine.sample_refusals);
        }
        command
    }
}

fn lines_of(reached: &Reached) -> Vec<String> {
    let count = |number: u64| grouped(number.into());
    let from = reached.snapshot.as_deref().unwrap_or("the first entry of the log");
    let last = reached.position.next - 1;
    let mut lines = vec![
        format!("from       {from}"),
        format!(
            "restored   entry {}, event {}, {}",
            count(reached.index),
            count(last),
            Moment(reached.now().0)
        ),
        format!("as logged  {} events are those of the backup", count(reached.compared)),
    ];
    if reached.not_compared > 0 {
        let missing = count(reached.not_compared);
        lines.push(format!(
            "note       {missing} events are not in the backup: the node did not have them"
        ));
    }
    lines
}

/// Nothing may be there: what is restored is not to be mixed with anything.
fn must_be_empty(directory: &Path) -> Done {
    let said = |error: std::io::Error| format!("{}: {error}", directory.display());
    let entries = match fs::read_dir(directory) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(said)?,
    };
    for entry in entries {
        // A restore that has failed leaves it.
        if entry.map_err(said)?.file_name() != "lock" {
            return Err(format!(
                "{} is not empty; name a directory that is not there yet",
                directory.display()
            ));
        }
    }
    Ok(())
}
