//! `stockd events evidence`: some events of a data directory, in a file that verifies on its own.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;

use crate::audit::{evidence, grouped};
use crate::cli::Done;
use crate::cli::progress::Progress;
use crate::log::RealStorage;
use crate::world::{Clock, RealClock};

/// `stockd events evidence`.
#[derive(Args)]
#[command(after_help = "\
The range is widened to whole records: what one log entry has changed stays together. The directory is only read, and a \
node may run on it. What the file proves and what it does not is what `stockd audit FILE` says.

Example:
  stockd events evidence stockd-data --from 1000 --to 1999 --out 17.evidence")]
pub(super) struct Evidence {
    /// The data directory.
    directory: PathBuf,
    /// The first event.
    #[arg(long, value_name = "SEQ", value_parser = clap::value_parser!(u64).range(1..))]
    from: u64,
    /// The last event.
    #[arg(long, value_name = "SEQ")]
    to: u64,
    /// The file; it must not be there yet.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Evidence {
    pub(super) fn run(self) -> Done {
        if self.to < self.from {
            return Err(format!("--to {} is before --from {}", self.to, self.from));
        }
        let storage = RealStorage::open_read_only(&self.directory);
        let storage = storage.map_err(|error| error.to_string())?;
        let file = File::create_new(&self.out).map_err(|error| said(&self.out, &error))?;
        let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
        let mut progress = Progress::new(clock);
        let mut out = BufWriter::with_capacity(1 << 20, file);
        let told = &mut |what: &str, done, total| progress.update(what, done, total);
        let written = evidence::write(&storage, self.from..=self.to, &mut out, told);
        progress.finish();
        let written = written.map_err(|finding| finding.to_string()).and_then(|head| {
            let synced = out.flush().and_then(|()| out.get_ref().sync_all());
            synced.map(|()| head).map_err(|error| said(&self.out, &error))
        });
        let head = written.inspect_err(|_| {
            // Half of it proves nothing. That it cannot be removed is not worth hiding the reason.
            let _ = std::fs::remove_file(&self.out);
        })?;
        let (first, last) = (head.before.next, head.after.next.saturating_sub(1));
        println!("events     {first}..{last}, {} bytes", grouped(head.records_bytes.into()));
        println!("file       {}", self.out.display());
        Ok(())
    }
}

fn said(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
