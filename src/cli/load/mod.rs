//! `stockd load`: the stock of a file into a cluster, while sales go on.
//!
//! ```text
//! file ─▶ rows ─▶ chunks of 50 ─▶ rounds of what is due, one in flight ─▶ answers
//!          └ bad lines, by number            └ journal: begun, done ───────┘
//! ```
//!
//! A round has as many chunks as have come due at the load's rate since the one before: small ones while
//! answers come fast, larger ones while they do not. So sales notice a steady stream, not all the speed
//! that a fast machine has.
//!
//! A load that was killed goes on where it was when it is started again, and counts no row twice
//! (journal.rs).

mod journal;
mod rows;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Read, Seek, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use stockd_client::{Batch, CellRef, Client, Code, Error, OpId, Options, Outcome, StockWrite, Why};

use super::Done;
use super::client::{CLIENT_ADDRESS, cluster_of, connect};
use super::progress::Progress;
use crate::world::{Clock, Pace, RealClock};
use journal::{Journal, What, beside};
pub(super) use rows::Format;
use rows::{Line, Row, Rows};

/// Rows of a chunk, which is begun and done as a whole.
const CHUNK_ROWS: usize = 50;

/// Most chunks of a round. All sales of an entry wait for its rows, and beyond 512 of them the server would let
/// the rows wait for the sales.
const ROUND_CHUNKS_MAX: u64 = 6;

/// Rows in a second: a million take eight to nine, and sales keep most of a processor.
const RATE: u64 = 130_000;

/// So much of the time in which the cluster did not answer is made up for, by larger rounds.
const MADE_UP: Duration = Duration::from_millis(100);

/// How long a cluster may be away before the load stops.
const PATIENCE: Duration = Duration::from_secs(60);

/// The pause between two attempts.
const RETRY: Duration = Duration::from_millis(200);

/// Bad lines that are shown; FILE.bad tells all.
const BAD_SHOWN: usize = 20;

/// `stockd load`.
#[derive(Args)]
#[command(after_help = "\
A CSV file names its columns in the first line: warehouse, sku and quantity, in any order, with others \
between. NDJSON has an object with these three a line. Beside FILE a journal FILE.load is kept: run the same \
command again after whatever happened, and it goes on without counting a row twice. FILE.bad tells which lines \
were not loaded, and why.

Examples:
  stockd load stock.csv                         adds to what is there
  stockd load stock.csv --as set --feed 20261   says what is there")]
pub(super) struct Load {
    /// The file.
    file: PathBuf,
    /// A node of the cluster; may be given several times. The leader is found from any of them.
    #[arg(long = "node", value_name = "ADDR", default_value = CLIENT_ADDRESS)]
    nodes: Vec<String>,
    /// How the file is written [default: by its name: .csv, .ndjson or .jsonl]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// What a row says.
    #[arg(long = "as", value_enum, default_value = "receive")]
    how: How,
    /// Set: the number of this message of the cells' feed; cells that have seen a later one are left alone.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), required_if_eq("how", "set"))]
    feed: Option<u64>,
    /// Most rows in a second; 300 travel at a time. While nobody buys, more can do no harm.
    #[arg(long, default_value_t = RATE, value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    rate: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum How {
    /// Units that are added to the cell.
    Receive,
    /// Units that the cell has, by a feed.
    Set,
}

/// What became of the rows so far.
struct Tally {
    loaded: u64,
    before: u64,
    bad: u64,
    shown: Vec<(u64, String)>,
    /// Where bad lines are told, once there is one.
    path: PathBuf,
    file: Option<BufWriter<File>>,
}

/// Rows that are begun and done together.
struct Chunk {
    number: u64,
    /// The numbers of the lines that are in the round's batch.
    lines: Vec<u64>,
    /// Those that the cluster does not take, and why.
    bad: Vec<(u64, String)>,
}

/// Chunks that are sent together.
#[derive(Default)]
struct Round {
    chunks: Vec<Chunk>,
    batch: Batch,
}

impl Load {
    pub(super) fn run(self) -> Done {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        runtime.block_on(self.load())
    }

    async fn load(self) -> Done {
        let format = Format::of(&self.file, self.format)?;
        let how = match (self.how, self.feed) {
            (How::Set, Some(feed)) => format!("set:{feed}"),
            (How::Receive, None) => "receive".to_owned(),
            _ => return Err("a --feed goes with --as set: it says what is there".to_owned()),
        };
        let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
        let mut progress = Progress::new(clock.clone());
        let options =
            Options { client_name: "stockd-load".to_owned(), ..Options::new(&self.nodes) };
        let client = connect(options).await?;
        let mut file = self.open()?;
        let (crc, bytes) = self.checksum(&mut file, &mut progress)?;
        let what = What { cluster: cluster_of(&client)?, crc, bytes, how };
        let seed = client.new_op_id().0;
        let seed = [seed[11], seed[12], seed[13], seed[14], seed[15]];
        let mut journal = Journal::open(beside(&self.file, ".load"), &what, seed)?;
        let mut tally = Tally::new(beside(&self.file, ".bad"))?;
        // What is appended from now on is of another file than the journal's.
        let rows = Rows::new(BufReader::with_capacity(1 << 18, file.take(bytes)), format);
        let pace = Pace::new(self.rate, MADE_UP);
        let mut sender =
            Sender { load: &self, client: &client, journal: &mut journal, tally: &mut tally };
        let sent = sender.send_all(rows, Rounds { clock, pace }, |done| {
            progress.update("loading", done, bytes);
        });
        let sent = sent.await;
        progress.finish();
        sent?;
        tally.report()
    }

    fn explain(&self, error: &std::io::Error) -> String {
        format!("{}: {error}", self.file.display())
    }

    fn open(&self) -> Result<File, String> {
        let file = File::open(&self.file).map_err(|error| self.explain(&error))?;
        let is_file = file.metadata().map_err(|error| self.explain(&error))?.is_file();
        if !is_file {
            return Err(format!(
                "{} is no regular file; a load reads it twice, and again after a kill",
                self.file.display()
            ));
        }
        Ok(file)
    }

    /// CRC-32 and length of the file, which is at its beginning again.
    fn checksum(&self, file: &mut File, progress: &mut Progress) -> Result<(u32, u64), String> {
        let total = file.metadata().map_err(|error| self.explain(&error))?.len();
        let (mut hasher, mut bytes) = (crc32fast::Hasher::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer).map_err(|error| self.explain(&error))?;
            if read == 0 {
                break;
            }
            hasher.update(&buffer[..read]);
            bytes += read as u64;
            progress.update("reading", bytes, total);
        }
        file.rewind().map_err(|error| self.explain(&error))?;
        Ok((hasher.finalize(), bytes))
    }

    fn add(&self, batch: &mut Batch, op_id: OpId, row: &Row) -> Result<(), String> {
        let cell = CellRef::name(&row.warehouse, &row.sku);
        let added = match (self.how, self.feed) {
            (How::Set, Some(feed)) => {
                batch.write(&StockWrite::feed(op_id, cell, row.quantity, feed))
            }
            // Nothing is received, but the cell is there from now on.
            _ if row.quantity == 0 => batch.define(&row.warehouse, &row.sku),
            _ => {
                let quantity = u32::try_from(row.quantity);
                let quantity = quantity.map_err(|_| "a row adds at most 4,294,967,295 units")?;
                batch.receive(op_id, cell, quantity)
            }
        };
        added.map_err(|invalid| invalid.to_string())
    }
}

/// Sends the rows of a file.
struct Sender<'a> {
    load: &'a Load,
    client: &'a Client,
    journal: &'a mut Journal,
    tally: &'a mut Tally,
}

impl Sender<'_> {
    async fn send_all(
        &mut self,
        mut rows: Rows<impl BufRead>,
        mut rounds: Rounds,
        mut progress: impl FnMut(u64),
    ) -> Done {
        let mut number = 0;
        let mut is_last = false;
        while !is_last {
            let mut round = Round::default();
            let chunks_max = rounds.next().await;
            while !is_last && (round.chunks.len() as u64) < chunks_max {
                let lines = chunk_of(&mut rows)?;
                is_last = lines.is_empty();
                if number < self.journal.done {
                    self.pass_over(lines)?;
                } else if !is_last {
                    let chunk = self.chunk(number, lines, &mut round.batch)?;
                    round.chunks.push(chunk);
                }
                number += 1;
                progress(rows.bytes);
            }
            let results = send(self.client, &round.batch).await?;
            self.settle(round, results)?;
        }
        Ok(())
    }

    /// Tells again what became of lines that were loaded in an earlier run.
    fn pass_over(&mut self, lines: Vec<Line>) -> Done {
        for line in lines {
            match (line.row, self.journal.bad.get(&line.number)) {
                (Ok(_), None) => self.tally.before += 1,
                (Ok(_), Some(why)) => self.tally.refused(line.number, why)?,
                (Err(why), _) => self.tally.refused(line.number, &why)?,
            }
        }
        Ok(())
    }

    /// Writes down that a chunk begins, and adds it to a batch.
    fn chunk(&mut self, number: u64, lines: Vec<Line>, batch: &mut Batch) -> Result<Chunk, String> {
        let born_ms = self.journal.begin(number, self.client.new_op_id().millis())?;
        let mut chunk = Chunk { number, lines: Vec::new(), bad: Vec::new() };
        for (at, line) in lines.into_iter().enumerate() {
            let row = match line.row {
                Ok(row) => row,
                Err(why) => {
                    self.tally.refused(line.number, &why)?;
                    continue;
                }
            };
            let place = number * CHUNK_ROWS as u64 + at as u64;
            let op_id = op_id(born_ms, self.journal.seed, place);
            match self.load.add(batch, op_id, &row) {
                Ok(()) => chunk.lines.push(line.number),
                Err(why) => chunk.bad.push((line.number, why)),
            }
        }
        Ok(chunk)
    }

    /// Takes the answers of a round.
    fn settle(
        &mut self,
        round: Round,
        results: Vec<Result<Outcome, stockd_client::Refusal>>,
    ) -> Done {
        let mut results = results.into_iter();
        for mut chunk in round.chunks {
            for (line, result) in chunk.lines.into_iter().zip(&mut results) {
                match result {
                    Ok(Outcome::Received(received)) if received.replay => self.tally.before += 1,
                    Ok(Outcome::Written(written)) if written.replay => self.tally.before += 1,
                    Ok(_) => self.tally.loaded += 1,
                    // The chunk is not done: when the clock is right, it is sent again.
                    Err(refusal) if refusal.code == Code::CLOCK_SKEW => {
                        return Err(format!("{refusal}; then run the same command again to go on"));
                    }
                    Err(refusal) if refusal.code == Code::ID_TOO_OLD => {
                        let why = "the load was interrupted for so long that the cluster cannot tell whether \
                                   this row was loaded: look at its cell (ID_TOO_OLD)";
                        chunk.bad.push((line, why.to_owned()));
                    }
                    Err(refusal) => chunk.bad.push((line, refusal.to_string())),
                }
            }
            for (line, why) in &chunk.bad {
                self.tally.refused(*line, why)?;
            }
            self.journal.done(chunk.number, &chunk.bad)?;
        }
        Ok(())
    }
}

/// Says how large the next round may be.
struct Rounds {
    clock: Arc<dyn Clock>,
    pace: Pace,
}

impl Rounds {
    /// Chunks that are due, at least one: waits for it.
    async fn next(&mut self) -> u64 {
        let early = self.pace.free_at().saturating_sub(self.clock.monotonic());
        if !early.is_zero() {
            tokio::time::sleep(early).await;
        }
        let now = self.clock.monotonic();
        let chunks = 1 + self.pace.due(now) / CHUNK_ROWS as u64;
        let chunks = chunks.min(ROUND_CHUNKS_MAX);
        self.pace.book(now, chunks * CHUNK_ROWS as u64);
        chunks
    }
}

/// The id of a row: of the chunk's millisecond, the load's seed and the row's place.
fn op_id(born_ms: u64, seed: [u8; 5], place: u64) -> OpId {
    let mut random = [0; 10];
    random[..5].copy_from_slice(&seed);
    random[5..].copy_from_slice(&place.to_be_bytes()[3..]);
    OpId::from_parts(born_ms, random)
}

/// The lines of the next chunk; none at the end of the file.
fn chunk_of(rows: &mut Rows<impl BufRead>) -> Result<Vec<Line>, String> {
    let mut lines = Vec::with_capacity(CHUNK_ROWS);
    while lines.len() < CHUNK_ROWS
        && let Some(line) = rows.next()?
    {
        lines.push(line);
    }
    Ok(lines)
}

/// Sends a batch until it is answered.
async fn send(
    client: &Client,
    batch: &Batch,
) -> Result<Vec<Result<Outcome, stockd_client::Refusal>>, String> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let mut until = tokio::time::Instant::now() + PATIENCE;
    let mut is_told = false;
    loop {
        // The same ids each time: what was executed before comes back as replay.
        match client.batch(batch.clone()).await {
            Ok(results) => return Ok(results),
            Err(error @ (Error::Invalid(_) | Error::Refused(_))) => return Err(error.to_string()),
            Err(error @ Error::Retry(Why::Code { code: Code::BUSY, .. })) => {
                // It is there and says so: it has to forget something first.
                until = tokio::time::Instant::now() + PATIENCE;
                if !std::mem::replace(&mut is_told, true) {
                    crate::cli::say!("waiting: {error}");
                }
            }
            Err(error) if tokio::time::Instant::now() > until => {
                return Err(format!("{error}; run the same command again to go on"));
            }
            Err(_) => (),
        }
        tokio::time::sleep(RETRY).await;
    }
}

impl Tally {
    /// Bad lines will be told in the file at `path`, all anew.
    fn new(path: PathBuf) -> Result<Self, String> {
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(format!("{}: {error}", path.display()))
            }
            _ => Ok(Self { loaded: 0, before: 0, bad: 0, shown: Vec::new(), path, file: None }),
        }
    }

    fn refused(&mut self, line: u64, why: &str) -> Done {
        self.bad += 1;
        if self.shown.len() < BAD_SHOWN {
            self.shown.push((line, why.to_owned()));
        }
        let told = (|| {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(BufWriter::new(File::create(&self.path)?)),
            };
            writeln!(file, "line {line}: {why}")
        })();
        told.map_err(|error| format!("{}: {error}", self.path.display()))
    }

    fn report(mut self) -> Done {
        println!("loaded  {}", self.loaded);
        if self.before > 0 {
            println!("before  {} (in an earlier run)", self.before);
        }
        println!("bad     {}", self.bad);
        self.shown.sort_by_key(|(line, _)| *line);
        for (line, why) in &self.shown {
            crate::cli::say!("line {line}: {why}");
        }
        let Some(file) = &mut self.file else { return Ok(()) };
        let path = self.path.display();
        file.flush().map_err(|error| format!("{path}: {error}"))?;
        Err(format!(
            "{} rows were not loaded, all others were; {path} tells why. Load them, corrected, from a file of \
             their own",
            self.bad
        ))
    }
}
