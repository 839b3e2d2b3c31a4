//! `stockd log`: looking at the log of a data directory without changing it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Subcommand;

use super::Done;
use super::progress::Progress;
use crate::log::inspect::{Entry, Summary, scan};
use crate::log::{Progress as LogProgress, RealStorage, View};
use crate::world::{Clock, RealClock};

/// `stockd log`.
#[derive(Subcommand)]
#[command(after_help = "\
Both only read, and may be used while a node runs on the directory; its end moves then.

Examples:
  stockd log check stockd-data
  stockd log dump stockd-data | tail")]
pub(super) enum Log {
    /// Print every frame of the log, one line each.
    Dump {
        /// The data directory.
        directory: PathBuf,
        /// Begin with the purged segments that are kept for backups.
        #[arg(long)]
        kept: bool,
    },
    /// Read the whole log as a start would, and say whether it is sound.
    Check {
        /// The data directory.
        directory: PathBuf,
        /// Begin with the purged segments that are kept for backups.
        #[arg(long)]
        kept: bool,
    },
}

impl Log {
    pub(super) fn run(self) -> Done {
        match self {
            Self::Dump { directory, kept } => dump(&directory, kept),
            Self::Check { directory, kept } => check(&directory, kept),
        }
    }
}

fn look(directory: &Path, kept: bool, on_entry: &mut dyn FnMut(&Entry)) -> Result<Summary, String> {
    let storage = RealStorage::open_read_only(directory).map_err(|error| error.to_string())?;
    let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
    let mut progress = Progress::new(clock);
    let told = &mut |at: LogProgress| {
        progress.update("reading the log", at.bytes_done, at.bytes_total);
    };
    let summary = match kept {
        true => View::with_kept(&storage).and_then(|whole| scan(&whole, on_entry, told)),
        false => scan(&storage, on_entry, told),
    };
    progress.finish();
    let summary = summary.map_err(|error| error.to_string())?;
    match summary.segments {
        0 => Err(format!("{} holds no log; is it a data directory?", directory.display())),
        _ => Ok(summary),
    }
}

fn dump(directory: &Path, kept: bool) -> Done {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    // Whoever reads our output may stop early: that ends the printing, not the look.
    let mut open = writeln!(out, "{HEADINGS}").is_ok();
    let summary = look(directory, kept, &mut |entry| {
        open = open && print(&mut out, entry).is_ok();
    });
    let _ = out.flush();
    summary.map(drop)
}

const HEADINGS: &str =
    "       seq  shard        term         index  kind                 bytes  at";

fn print(out: &mut impl Write, entry: &Entry) -> std::io::Result<()> {
    let (term, index) = match entry.id {
        Some(id) => (id.term.to_string(), id.index.to_string()),
        None => ("-".to_owned(), "-".to_owned()),
    };
    let kind = format!("{:?}/{}", entry.kind, entry.record_kind);
    let Entry { seq, shard, payload, file, offset, .. } = entry;
    let payload_bytes = payload.len();
    let file = Path::new(file).file_name().unwrap_or_default().to_string_lossy();
    writeln!(
        out,
        "{seq:>10}  {:>5}  {term:>10}  {index:>12}  {kind:16}  {payload_bytes:>8}  {file}:{offset}",
        shard.0
    )
}

fn check(directory: &Path, kept: bool) -> Done {
    let summary = look(directory, kept, &mut |_| {})?;
    println!("segments  {} ({} unused)", summary.segments, summary.segments_unused);
    println!("bytes     {}", summary.bytes);
    println!("frames    {}", summary.frames);
    println!("records   {}", summary.records);
    if let Some((file, offset)) = &summary.end {
        println!("end       {file}, offset {offset}");
    }
    match summary.torn_bytes {
        0 => println!("the log is sound"),
        torn => println!(
            "the log is sound; {torn} bytes behind its end were being written when it stopped, \
             nobody was told of them, and the next start cuts them"
        ),
    }
    Ok(())
}
