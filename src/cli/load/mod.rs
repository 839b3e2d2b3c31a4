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
use std::io::{BufReader, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};
use stockd_client::{Batch, CellRef, Client, Code, Error, OpId, Options, Outcome, StockWrite};

use super::Done;
use super::client::{CLIENT_ADDRESS, connect};
use super::progress::Progress;
use crate::world::{Clock, Pace, RealClock};
use journal::{Journal, What};
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

/// Bad lines that are shown; all are counted.
const BAD_SHOWN: usize = 20;

/// `stockd load`.
#[derive(Args)]
#[command(after_help = "\
A CSV file names its columns in the first line: warehouse, sku and quantity, in any order, with others
between. NDJSON has an object with these three a line. Beside FILE a journal FILE.load is kept: run the same
command again after whatever happened, and it goes on without counting a row twice.

Examples:
  stockd load stock.csv                         adds the quantities to what is there
  stockd load stock.csv --as set --feed 20261   says what is there, as message 20261 of the cells' feed")]
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
    /// Most rows in a second. While nobody buys, more can do no harm.
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
#[derive(Default)]
struct Tally {
    loaded: u64,
    before: u64,
    bad: u64,
    shown: Vec<(u64, String)>,
}

/// Rows that are begun and done together; the numbers of the lines that are in the round's batch.
struct Chunk {
    number: u64,
    lines: Vec<u64>,
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
        let how = match self.feed {
            Some(feed) if self.how == How::Set => format!("set:{feed}"),
            _ => "receive".to_owned(),
        };
        let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
        let mut progress = Progress::new(clock.clone());
        let what = self.fingerprint(how, &mut progress)?;
        let options =
            Options { client_name: "stockd-load".to_owned(), ..Options::new(&self.nodes) };
        let client = connect(options).await?;
        let seed = client.new_op_id().0;
        let seed = [seed[11], seed[12], seed[13], seed[14], seed[15]];
        let mut journal = Journal::open(journal::path_of(&self.file), &what, seed)?;
        if journal.ended {
            println!("{} was loaded before; its journal says so", self.file.display());
            return Ok(());
        }
        let rounds = Rounds { clock, pace: Pace::new(self.rate, MADE_UP) };
        let tally = self.send_all(&client, &mut journal, format, rounds, |bytes| {
            progress.update("loading", bytes, what.bytes);
        });
        let tally = tally.await;
        progress.finish();
        let tally = tally?;
        journal.end()?;
        tally.report()
    }

    fn open(&self) -> Result<File, String> {
        File::open(&self.file).map_err(|error| format!("{}: {error}", self.file.display()))
    }

    /// What tells this load from others.
    fn fingerprint(&self, how: String, progress: &mut Progress) -> Result<What, String> {
        let mut file = self.open()?;
        let total = file.metadata().map_or(0, |data| data.len());
        let (mut hasher, mut bytes) = (crc32fast::Hasher::new(), 0);
        let mut buffer = vec![0; 1 << 20];
        loop {
            let read = file.read(&mut buffer);
            let read = read.map_err(|error| format!("{}: {error}", self.file.display()))?;
            if read == 0 {
                return Ok(What { crc: hasher.finalize(), bytes, how });
            }
            hasher.update(&buffer[..read]);
            bytes += read as u64;
            progress.update("reading", bytes, total);
        }
    }

    async fn send_all(
        &self,
        client: &Client,
        journal: &mut Journal,
        format: Format,
        mut rounds: Rounds,
        mut progress: impl FnMut(u64),
    ) -> Result<Tally, String> {
        let mut rows = Rows::new(BufReader::with_capacity(1 << 18, self.open()?), format);
        let mut tally = Tally::default();
        for (line, why) in std::mem::take(&mut journal.bad) {
            tally.refused(line, why);
        }
        let mut number = 0;
        let mut is_last = false;
        while !is_last {
            let mut round = Round::default();
            let chunks_max = rounds.next().await;
            while !is_last && (round.chunks.len() as u64) < chunks_max {
                let lines = chunk_of(&mut rows)?;
                is_last = lines.is_empty();
                if journal.is_done(number) {
                    tally.before += count_good(lines, &mut tally);
                } else if !is_last {
                    let chunk =
                        self.chunk(client, journal, number, lines, &mut tally, &mut round.batch)?;
                    round.chunks.push(chunk);
                }
                number += 1;
                progress(rows.bytes);
            }
            let results = send(client, &round.batch).await?;
            self.settle(&round, results, journal, &mut tally)?;
        }
        Ok(tally)
    }

    /// Writes down that a chunk begins, and adds it to a batch.
    fn chunk(
        &self,
        client: &Client,
        journal: &mut Journal,
        number: u64,
        lines: Vec<Line>,
        tally: &mut Tally,
        batch: &mut Batch,
    ) -> Result<Chunk, String> {
        let born_ms = match journal.born_ms(number) {
            Some(born_ms) => born_ms,
            None => {
                let born_ms = client.new_op_id().millis();
                journal.begin(number, born_ms)?;
                born_ms
            }
        };
        let mut chunk = Chunk { number, lines: Vec::new() };
        for (at, line) in lines.into_iter().enumerate() {
            let row = match line.row {
                Ok(row) => row,
                Err(why) => {
                    tally.refused(line.number, why);
                    continue;
                }
            };
            let place = number * CHUNK_ROWS as u64 + at as u64;
            let op_id = op_id(born_ms, journal.seed, place);
            match self.add(batch, op_id, &row) {
                Ok(()) => chunk.lines.push(line.number),
                Err(why) => tally.refused(line.number, why),
            }
        }
        Ok(chunk)
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

    /// Takes the answers of a round.
    fn settle(
        &self,
        round: &Round,
        results: Vec<Result<Outcome, stockd_client::Refusal>>,
        journal: &mut Journal,
        tally: &mut Tally,
    ) -> Result<(), String> {
        let mut results = results.into_iter();
        for chunk in &round.chunks {
            let mut bad = Vec::new();
            for (line, result) in chunk.lines.iter().zip(&mut results) {
                match result {
                    Ok(Outcome::Received(received)) if received.replay => tally.before += 1,
                    Ok(Outcome::Written(written)) if written.replay => tally.before += 1,
                    Ok(_) => tally.loaded += 1,
                    Err(refusal) if refusal.code == Code::ID_TOO_OLD => {
                        return Err(format!(
                            "lines {} to {} were sent so long ago that the cluster cannot tell whether \
                             they were loaded; look at their cells, then load the rest from a file of \
                             its own",
                            chunk.lines.first().unwrap_or(line),
                            chunk.lines.last().unwrap_or(line),
                        ));
                    }
                    Err(refusal) => bad.push((*line, refusal.to_string())),
                }
            }
            for (line, why) in &bad {
                tally.refused(*line, why.clone());
            }
            journal.done(chunk.number, &bad)?;
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
fn chunk_of(rows: &mut Rows<BufReader<File>>) -> Result<Vec<Line>, String> {
    let mut lines = Vec::with_capacity(CHUNK_ROWS);
    while lines.len() < CHUNK_ROWS
        && let Some(line) = rows.next()?
    {
        lines.push(line);
    }
    Ok(lines)
}

/// How many of the lines are rows; the others are noted.
fn count_good(lines: Vec<Line>, tally: &mut Tally) -> u64 {
    let mut good = 0;
    for line in lines {
        match line.row {
            Ok(_) => good += 1,
            Err(why) => tally.refused(line.number, why),
        }
    }
    good
}

/// Sends a batch until it is answered.
async fn send(
    client: &Client,
    batch: &Batch,
) -> Result<Vec<Result<Outcome, stockd_client::Refusal>>, String> {
    if batch.is_empty() {
        return Ok(Vec::new());
    }
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        // The same ids each time: what was executed before comes back as replay.
        match client.batch(batch.clone()).await {
            Ok(results) => return Ok(results),
            Err(error @ (Error::Invalid(_) | Error::Refused(_))) => return Err(error.to_string()),
            Err(error) if tokio::time::Instant::now() > until => {
                return Err(format!("{error}; run the same command again to go on"));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
        }
    }
}

impl Tally {
    fn refused(&mut self, line: u64, why: String) {
        self.bad += 1;
        if self.shown.len() < BAD_SHOWN {
            self.shown.push((line, why));
        }
    }

    fn report(mut self) -> Done {
        println!("loaded  {}", self.loaded);
        if self.before > 0 {
            println!("before  {} (in an earlier run)", self.before);
        }
        println!("bad     {}", self.bad);
        self.shown.sort_by_key(|(line, _)| *line);
        for (line, why) in &self.shown {
            eprintln!("line {line}: {why}");
        }
        match self.bad {
            0 => Ok(()),
            bad => Err(format!("{bad} rows were not loaded; all others were")),
        }
    }
}
