//! `stockd tail`: events as they come.

use std::io::{ErrorKind, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use stockd_client::events::{Batch, Error, Event, EventStream, Start};
use tokio::time::{sleep, timeout};

use super::super::Done;
use super::super::serve::Signals;
use super::moment::{self, Moment};
use super::names::{Namer, RETRY};
use super::select::Select;
use super::{block_on, json, text};

/// After so long without a node, standard error says so.
const PATIENCE: Duration = Duration::from_secs(4);

/// Between two looks at whether somebody reads.
const LOOK: Duration = Duration::from_millis(250);

/// `stockd tail`.
#[derive(Args)]
#[command(after_help = "\
It ends when it is interrupted, when nobody reads its output any more, or after --count events, and then says on \
standard error where to go on. A node that is lost is no end: the next one goes on with the same event.

Examples:
  stockd tail                                    what happens from now on
  stockd tail --from oldest --sku mug | less     all that is kept about mugs
  stockd tail --since 15m --kind CROSSED_DOWN    what has become low lately
  stockd tail --from 1234 --format ndjson        for programs: an object a line")]
pub(in crate::cli) struct Tail {
    /// The number of the first event, now, or oldest.
    #[arg(long, value_name = "SEQ", value_parser = parse_from, default_value = "now")]
    from: Start,
    /// From this moment on: 2026-11-30T03:15:17Z, or 15m for so long ago.
    #[arg(long, value_name = "TIME", value_parser = moment::parse, conflicts_with = "from")]
    since: Option<Moment>,
    /// End after so many events.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// How they are written.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
    #[command(flatten)]
    select: Select,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Ndjson,
}

pub(super) fn parse_from(text: &str) -> Result<Start, String> {
    match text {
        "now" => Ok(Start::Now),
        "oldest" => Ok(Start::Oldest),
        number => match number.parse() {
            Ok(sequence) => Ok(Start::Sequence(sequence)),
            Err(_) => Err("write the number of an event, now, or oldest".to_owned()),
        },
    }
}

impl Tail {
    pub(in crate::cli) fn run(self) -> Done {
        block_on(self.tail())
    }

    async fn tail(self) -> Done {
        let mut signals = Signals::new()?;
        let start = self.since.map_or(self.from, |since| Start::Time(since.0));
        let (stream, namer) = tokio::select! {
            opened = self.select.open("stockd-tail", PATIENCE, start) => opened?,
            () = signals.next() => return Ok(()),
        };
        let (position, next) = (stream.position(), stream.reached());
        if position > next {
            let node = stream.connected_to().unwrap_or_default();
            crate::cli::say!(
                "stockd: waiting: event {position} has not happened; the next on {node} is {next}"
            );
        }
        let mut printer = Printer {
            position,
            left: self.count.unwrap_or(u64::MAX),
            format: self.format,
            namer,
            text: Vec::new(),
        };
        let done = tokio::select! {
            done = printer.follow(stream) => done,
            () = signals.next() => Ok(()),
            () = unread() => Ok(()),
        };
        crate::cli::say!("stockd: go on with --from {}", printer.position);
        done
    }
}

/// Ends when nobody can read standard output any more, which a write would tell only when something comes.
async fn unread() {
    while is_read() {
        sleep(LOOK).await;
    }
}

fn is_read() -> bool {
    let out = std::io::stdout();
    // That nobody reads a pipe or a socket is told without being asked for.
    let mut fds = [PollFd::new(&out, PollFlags::empty())];
    let found = poll(&mut fds, Some(&Timespec::default()));
    found.is_err() || fds[0].revents().is_empty()
}

/// Prints what comes.
struct Printer {
    /// The number after the last event that was printed.
    position: u64,
    left: u64,
    format: Format,
    namer: Namer,
    text: Vec<u8>,
}

impl Printer {
    async fn follow(&mut self, mut stream: EventStream) -> Done {
        let mut is_told = false;
        while self.left > 0 {
            match timeout(PATIENCE, stream.next()).await {
                Ok(batch) => {
                    let batch = batch.map_err(|error| self.end(&error))?;
                    if std::mem::take(&mut is_told) {
                        let node = stream.connected_to().unwrap_or_default();
                        crate::cli::say!("stockd: it goes on at {node}");
                    }
                    self.resolve(&batch).await;
                    if !self.print(&batch)? {
                        return Ok(());
                    }
                }
                Err(_) if stream.connected_to().is_none() && !is_told => {
                    is_told = true;
                    for (address, trouble) in stream.troubles() {
                        crate::cli::say!("stockd: waiting: {address}: {trouble}");
                    }
                }
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// What to say when nothing comes any more, and where one could go on.
    fn end(&mut self, error: &Error) -> String {
        if let Error::Gone { next: Some(next), .. } = error {
            self.position = *next;
        }
        error.to_string()
    }

    /// Asks for names until they are told: events without them would be others to whoever reads them.
    async fn resolve(&mut self, batch: &Batch) {
        let mut is_told = false;
        while let Err(error) = self.namer.resolve(batch).await {
            if !is_told {
                crate::cli::say!("stockd: waiting for the names of cells: {error}");
            }
            is_told = true;
            sleep(RETRY).await;
        }
    }

    /// Prints the events of a batch; false: nobody reads them.
    fn print(&mut self, batch: &Batch) -> Result<bool, String> {
        let mut position = batch.next();
        for event in batch {
            if self.left == 0 {
                position = event.sequence;
                break;
            }
            self.left -= 1;
            self.put(&event);
        }
        let mut out = std::io::stdout().lock();
        let written = out.write_all(&self.text).and_then(|()| out.flush());
        self.text.clear();
        match written {
            Ok(()) => self.position = position,
            Err(error) if error.kind() == ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(format!("standard output: {error}")),
        }
        Ok(true)
    }

    fn put(&mut self, event: &Event<'_>) {
        let name = self.namer.of(event);
        match self.format {
            Format::Text => text::put_line(&mut self.text, event, name),
            Format::Ndjson => json::put_line(&mut self.text, event, name),
        }
    }
}
