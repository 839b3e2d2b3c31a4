//! `stockd events export`: a range of the events of a cluster, into a file.
//!
//! ```text
//! EventStream ─▶ FILE.part ─▶ FILE, once it is whole
//! ```
//!
//! The same range gives the same events whenever it is exported: an export that was killed begins anew. Not the same
//! names, if a SKU was renamed: events have handles, and the cluster tells only the names that it shows now.

use std::fs::{self, File, OpenOptions};
use std::io::{BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use stockd_client::events::{Batch, CellName, Event, EventStream, Start};
use tokio::time::{Instant, sleep, timeout_at};

use super::super::progress::Progress;
use super::super::{Done, lock_alone};
use super::columns::Parquet;
use super::moment::{self, Moment};
use super::names::{Namer, RETRY};
use super::select::Select;
use super::tail::parse_from;
use super::{block_on, json};
use crate::world::RealClock;

/// How long it may take to reach a cluster at first.
const CONNECT: Duration = Duration::from_secs(10);

/// How long it may be away before the export stops.
const PATIENCE: Duration = Duration::from_secs(60);

/// `stockd events export`.
#[derive(Args)]
#[command(after_help = "\
The file gets its name when it is whole; until then it is FILE.part. The same range gives the same events again: \
keep next and cluster as they are printed at the end, and the next file begins --from that number. With --cluster \
one that was restored from a backup, where other events have these numbers, is not taken for the same.

A SKU that was renamed may have its first name in the file or that of now; a cell's number never changes.

Examples:
  stockd events export --from oldest --out events.ndjson
  stockd events export --from 1234 --to 99000 --out april.parquet
  stockd events export --from 99000 --cluster 865762dca3d564a1 --out may.parquet
  stockd events export --since 24h --kind RECEIVED --out received.ndjson")]
pub(super) struct Export {
    /// The number of the first event, or oldest.
    #[arg(long, value_name = "SEQ", value_parser = parse_first, required_unless_present = "since")]
    from: Option<Start>,
    /// From this moment on: 2026-11-30T03:15:17Z, or 15m for so long ago.
    #[arg(long, value_name = "TIME", value_parser = moment::parse, conflicts_with = "from")]
    since: Option<Moment>,
    /// Up to the event before this number; waits for those that have not happened. now: up to the last one that has.
    #[arg(long, value_name = "SEQ", value_parser = parse_to, default_value = "now")]
    to: Start,
    /// The file; it must not be there yet.
    #[arg(long, value_name = "FILE", value_parser = parse_file)]
    out: PathBuf,
    /// How the file is written [default: by its name: .ndjson, .jsonl or .parquet]
    #[arg(long, value_enum)]
    format: Option<Format>,
    #[command(flatten)]
    select: Select,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A JSON object a line.
    Ndjson,
    /// For analysis: a row for each event, a column for each field.
    Parquet,
}

fn parse_first(text: &str) -> Result<Start, String> {
    match parse_from(text) {
        Ok(Start::Now) | Err(_) => Err("write the number of an event, or oldest".to_owned()),
        from => from,
    }
}

fn parse_file(text: &str) -> Result<PathBuf, String> {
    match text {
        "-" => Err("to standard output, stockd tail --format ndjson writes events".to_owned()),
        file => Ok(PathBuf::from(file)),
    }
}

fn parse_to(text: &str) -> Result<Start, String> {
    match parse_from(text) {
        Ok(Start::Oldest) | Err(_) => Err("write the number of an event, or now".to_owned()),
        to => to,
    }
}

impl Format {
    fn of(file: &Path, asked: Option<Self>) -> Result<Self, String> {
        let by_name = file.extension().and_then(|end| match end.to_str()? {
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            "parquet" => Some(Self::Parquet),
            _ => None,
        });
        asked.or(by_name).ok_or_else(|| {
            format!("{}: how is it to be written? Say so with --format", file.display())
        })
    }
}

/// A file that is not whole.
struct Part {
    path: PathBuf,
    writer: Writer,
}

/// What a file is made of.
enum Writer {
    Ndjson { file: BufWriter<File>, line: Vec<u8> },
    Parquet(Box<Parquet>),
}

impl Export {
    pub(super) fn run(self) -> Done {
        block_on(self.export())
    }

    async fn export(self) -> Done {
        let format = Format::of(&self.out, self.format)?;
        let failed = |error| said(&self.out, &error);
        if self.out.try_exists().map_err(failed)? {
            return Err(format!("{} is there already; take another name", self.out.display()));
        }
        let start = match (self.from, self.since) {
            (_, Some(since)) => Start::Time(since.0),
            (Some(start), None) => start,
            (None, None) => return Err("say where to begin: --from or --since".to_owned()),
        };
        let (stream, namer) = self.select.open("stockd-export", CONNECT, start).await?;
        let (from, next) = (stream.position(), stream.reached());
        if from > next {
            let node = stream.connected_to().unwrap_or_default();
            return Err(format!("event {from} has not happened; the next on {node} is {next}"));
        }
        let to = match self.to {
            Start::Sequence(to) => to,
            _ => next,
        };
        if to < from {
            return Err(format!("event {to} comes before event {from}, where the range begins"));
        }
        let cluster_id = stream.cluster_id();
        let mut part = Part::create(&self.out, format)?;
        let mut range = Range { from, to, events: 0, progress: progress() };
        let written = range.write(stream, namer, &mut part).await;
        range.progress.finish();
        written?;
        part.finish(&self.out, cluster_id, (from, to))?;
        println!("events  {}", range.events);
        println!("from    {from}");
        println!("next    {to}");
        println!("cluster {cluster_id:016x}");
        println!("file    {}", self.out.display());
        Ok(())
    }
}

fn progress() -> Progress {
    Progress::counting(std::sync::Arc::new(RealClock::new()), "events")
}

/// What goes into the file.
struct Range {
    from: u64,
    to: u64,
    events: u64,
    progress: Progress,
}

impl Range {
    async fn write(&mut self, mut stream: EventStream, mut namer: Namer, part: &mut Part) -> Done {
        let mut position = self.from;
        while position < self.to {
            let batch = match timeout_at(Instant::now() + PATIENCE, stream.next()).await {
                Ok(batch) => batch.map_err(|error| error.to_string())?,
                // Heartbeats come far more often.
                Err(_) => return Err(waited(&stream)),
            };
            resolve(&mut namer, &batch).await?;
            for event in batch.events().take_while(|event| event.sequence < self.to) {
                part.put(&event, namer.of(&event))?;
                self.events += 1;
            }
            position = batch.next();
            let done = position.min(self.to) - self.from;
            self.progress.update("exporting", done, self.to - self.from);
        }
        Ok(())
    }
}

fn waited(stream: &EventStream) -> String {
    let troubles = stream.troubles().into_iter();
    let troubles: Vec<String> =
        troubles.map(|(address, trouble)| format!("{address}: {trouble}")).collect();
    format!("no node sends events ({}); run the same command again", troubles.join("; "))
}

/// Asks for names until they are told: a file without them would be another one.
async fn resolve(namer: &mut Namer, batch: &Batch) -> Done {
    let until = Instant::now() + PATIENCE;
    loop {
        match namer.resolve(batch).await {
            Ok(()) => return Ok(()),
            Err(error) if Instant::now() > until => {
                return Err(format!("{error}; run the same command again"));
            }
            Err(_) => sleep(RETRY).await,
        }
    }
}

impl Part {
    fn create(path: &Path, format: Format) -> Result<Self, String> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let path = PathBuf::from(part);
        let failed = |error| said(&path, &error);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
        let file = file.map_err(failed)?;
        lock_alone(&file, &path)?;
        file.set_len(0).map_err(failed)?;
        let writer = match format {
            Format::Ndjson => Writer::Ndjson { file: BufWriter::new(file), line: Vec::new() },
            Format::Parquet => Writer::Parquet(Box::new(Parquet::begin(file).map_err(failed)?)),
        };
        Ok(Self { path, writer })
    }

    fn put(&mut self, event: &Event<'_>, name: Option<CellName<'_>>) -> Done {
        let put = match &mut self.writer {
            Writer::Ndjson { file, line } => {
                line.clear();
                json::put_line(line, event, name);
                file.write_all(line)
            }
            Writer::Parquet(parquet) => parquet.put(event, name),
        };
        put.map_err(|error| said(&self.path, &error))
    }

    /// Gives it its name. It has the events of a cluster from one number to the one before another.
    fn finish(self, path: &Path, cluster_id: u64, range: (u64, u64)) -> Done {
        let file = match self.writer {
            Writer::Ndjson { file, .. } => file.into_inner().map_err(IntoInnerError::into_error),
            Writer::Parquet(parquet) => parquet.finish(cluster_id, range),
        };
        let synced = file.and_then(|file| file.sync_all());
        synced.map_err(|error| said(&self.path, &error))?;
        let named = fs::rename(&self.path, path).and_then(|()| sync_dir_of(path));
        named.map_err(|error| said(path, &error))
    }
}

/// Before the number that the next file begins with is told, this one must not be gone with the power.
fn sync_dir_of(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn said(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}
