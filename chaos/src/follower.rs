//! A subscriber that follows all events through everything, and writes down what it was told.
//!
//! ```text
//! nodes ──EventStream──▶ seen      the records, byte for byte
//!              ▲           └─▶ cursor: the next event, and how long the file was then
//!              └── resume ──────┘                 each life begins with what the cursor says
//! ```
//!
//! It does as a program does that must handle each event exactly once: what it has done and how far it has come are
//! saved together, and after a crash what was done since is undone. It crashes every few seconds, besides what is done
//! to the nodes. So the file must have every event once, whatever happened.
//!
//! It has a thread of its own, because saving a cursor waits for the disk, and the rest of this program has one thread.

use std::fs::{File, OpenOptions, create_dir_all};
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use stockd_client::Options;
use stockd_client::events::{Cursor, Error, EventStream, Subscription};
use tokio::time::{Instant, timeout};

use crate::dice::Dice;

/// How long it lives, in milliseconds.
const LIFE_MS: (u64, u64) = (1_000, 15_000);
/// How often it saves how far it has come.
const SAVE_INTERVAL: Duration = Duration::from_millis(300);
/// How often it looks whether it shall end.
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// The running subscriber.
pub struct Follower {
    shared: Arc<Shared>,
    seen: PathBuf,
    thread: Option<JoinHandle<()>>,
}

/// What it has to show.
pub struct Followed {
    /// The file of all records that it was told.
    pub seen: PathBuf,
    /// The number after the last event.
    pub next: u64,
    pub lives: u64,
    /// How often it went on with another node, or with the same one again.
    pub connections: u64,
}

struct Shared {
    /// It ends when it has come so far.
    end_at: AtomicU64,
    next: AtomicU64,
    lives: AtomicU64,
    connections: AtomicU64,
    wrong: Mutex<Option<String>>,
}

impl Follower {
    /// Starts it. Its files are in `work`.
    ///
    /// # Errors
    /// The machine gives it no thread, or no directory.
    pub fn start(work: &Path, addresses: &[String], seed: u64) -> Result<Self, String> {
        let directory = work.join("subscriber");
        create_dir_all(&directory).map_err(|error| error.to_string())?;
        let shared = Arc::new(Shared {
            end_at: AtomicU64::new(u64::MAX),
            next: AtomicU64::new(1),
            lives: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            wrong: Mutex::default(),
        });
        let seen = directory.join("seen");
        let program = Program {
            addresses: addresses.to_vec(),
            cursor: directory.join("cursor"),
            seen: seen.clone(),
            shared: Arc::clone(&shared),
        };
        let dice = Dice::new(seed, 4);
        let thread = std::thread::Builder::new().name("subscriber".to_owned());
        let thread = thread.spawn(move || program.run(dice)).map_err(|error| error.to_string())?;
        Ok(Self { shared, seen, thread: Some(thread) })
    }

    /// What is wrong with what it was told.
    pub fn wrong(&self) -> Option<String> {
        self.shared.wrong.lock().expect("no holder panics").clone()
    }

    /// Waits until it has been told every event before `next`.
    ///
    /// # Errors
    /// It was not in time, or something is wrong with what it was told.
    pub async fn end(mut self, next: u64, limit: Duration) -> Result<Followed, String> {
        self.shared.end_at.store(next, Ordering::Relaxed);
        let end = Instant::now() + limit;
        while self.thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            if Instant::now() > end {
                let at = self.shared.next.load(Ordering::Relaxed);
                return Err(format!("the subscriber waits for event {at}; nodes are at {next}"));
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            return Err("the subscriber panicked".to_owned());
        }
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        match self.wrong() {
            Some(what) => Err(format!("the subscriber: {what}")),
            None => Ok(Followed {
                seen: self.seen.clone(),
                next: read(&self.shared.next),
                lives: read(&self.shared.lives),
                connections: read(&self.shared.connections),
            }),
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.shared.end_at.store(0, Ordering::Relaxed);
    }
}

/// What runs in its thread.
struct Program {
    addresses: Vec<String>,
    cursor: PathBuf,
    seen: PathBuf,
    shared: Arc<Shared>,
}

impl Program {
    fn run(&self, mut dice: Dice) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let done = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            while !self.is_over() {
                self.shared.lives.fetch_add(1, Ordering::Relaxed);
                runtime.block_on(self.live(dice.millis(LIFE_MS.0, LIFE_MS.1)))?;
            }
            Ok(())
        });
        *self.shared.wrong.lock().expect("no holder panics") = done.err();
    }

    fn is_over(&self) -> bool {
        let [next, end_at] =
            [&self.shared.next, &self.shared.end_at].map(|number| number.load(Ordering::Relaxed));
        next >= end_at
    }

    /// From a start to a crash.
    async fn live(&self, life: Duration) -> Result<(), String> {
        let mut cursor = Cursor::open(&self.cursor).map_err(|error| error.to_string())?;
        let mut seen = Seen::open(&self.seen, &cursor)?;
        let options = Options {
            client_name: "chaos-subscriber".to_owned(),
            connect_timeout: Duration::from_millis(500),
            reply_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            ..Options::new(self.addresses.clone())
        };
        let stream = Subscription::new(options).from_sequence(1).resume(&cursor).open().await;
        let mut stream = match stream {
            Ok(stream) => stream,
            // Later it may be otherwise.
            Err(Error::Unreachable { .. }) => return Ok(()),
            Err(error) => return Err(error.to_string()),
        };
        cursor.bind(&stream).map_err(|error| error.to_string())?;
        let (end, mut saved) = (Instant::now() + life, Instant::now());
        let mut node = None;
        while Instant::now() < end && !self.is_over() {
            if let Ok(batch) = timeout(LOOK_INTERVAL, stream.next()).await {
                let batch = batch.map_err(|error| error.to_string())?;
                for record in batch.records() {
                    seen.write(record.header().first, record.header().next(), record.bytes())?;
                }
                if batch.next() != seen.next {
                    return Err(format!("told to go on at {}, not {}", batch.next(), seen.next));
                }
            }
            self.count_connection(&mut node, &stream);
            if saved.elapsed() > SAVE_INTERVAL {
                seen.save(&mut cursor)?;
                saved = Instant::now();
            }
            self.shared.next.store(seen.next, Ordering::Relaxed);
        }
        // Else it crashes: the next life begins with what was saved.
        match self.is_over() {
            true => seen.save(&mut cursor),
            false => Ok(()),
        }
    }

    fn count_connection(&self, before: &mut Option<String>, stream: &EventStream) {
        let now = stream.connected_to();
        if now.is_some() && now != *before {
            self.shared.connections.fetch_add(1, Ordering::Relaxed);
        }
        *before = now;
    }
}

/// The file of all records that it was told, and how far they go.
struct Seen {
    file: File,
    bytes: u64,
    next: u64,
}

impl Seen {
    /// As it was when the cursor was saved.
    fn open(path: &Path, cursor: &Cursor) -> Result<Self, String> {
        let say = |error: std::io::Error| format!("{}: {error}", path.display());
        let bytes = cursor.data().try_into().map(u64::from_le_bytes).unwrap_or_default();
        let next = cursor.position().unwrap_or(1);
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(path);
        let mut file = file.map_err(say)?;
        file.set_len(bytes).map_err(say)?;
        file.seek(SeekFrom::End(0)).map_err(say)?;
        Ok(Self { file, bytes, next })
    }

    fn write(&mut self, first: u64, next: u64, record: &[u8]) -> Result<(), String> {
        if first != self.next {
            return Err(format!("event {first} came where {} should", self.next));
        }
        self.file.write_all(record).map_err(|error| error.to_string())?;
        (self.bytes, self.next) = (self.bytes + record.len() as u64, next);
        Ok(())
    }

    fn save(&mut self, cursor: &mut Cursor) -> Result<(), String> {
        let saved = cursor.save_with(self.next, &self.bytes.to_le_bytes());
        saved.map_err(|error| error.to_string())
    }
}
