//! Backups: a node's files, listed and read piece by piece, on a thread of its own.
//!
//! ```text
//! session ──BACKUP_LIST, BACKUP_READ──▶ jobs ──▶ backup: list, read ──▶ outbox
//! ```
//!
//! What is read comes from a cold disk, so no session waits for it. Who asks sets the pace: it has one answer before
//! it asks for the next ones, and pauses as it likes.
//!
//! A file that is being read stays open for as long as it is, so that it can be read to its end although the node
//! removes it: a snapshot that takes an hour to be fetched is not replaced under its reader.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use tokio::sync::mpsc;

use super::limits::BUSY_RETRY_MS;
use super::outbox::Outbox;
use crate::log::File;
use crate::protocol::limits::{BACKUP_READ_BYTES_MAX, REPLY_BYTES_MAX};
use crate::protocol::{
    BackupFile, BackupHead, BackupRead, Code, Header, Kind, ShardId, begin_frame, finish_frame,
};
use crate::replication::{History, Refusal, Replica};
use crate::world::{Clock, World};

/// Requests of all connections that wait: two backups that each ask for four pieces ahead.
const REQUESTS_MAX: u32 = 8;
/// Files that are open: those of a few backups.
const OPEN_MAX: usize = 4;
/// A file of which nobody has read for so long is closed: its space may be wanted.
const OPEN_FOR: Duration = Duration::from_secs(60);

/// The way to the thread.
pub(super) struct Backups {
    jobs: mpsc::UnboundedSender<Job>,
    waiting: Arc<AtomicU32>,
}

/// A request, and who waits for its answer.
struct Job {
    outbox: Arc<Outbox>,
    request_id: u64,
    wish: Wish,
}

enum Wish {
    List,
    Read { name: String, offset: u64, bytes: u32 },
}

/// What a request comes to.
type Answer = Result<BytesMut, Refusal>;

impl Backups {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(replica: &Replica, world: &World) -> io::Result<Self> {
        let (jobs, incoming) = mpsc::unbounded_channel();
        let waiting = Arc::new(AtomicU32::new(0));
        let desk = Desk {
            replica: replica.clone(),
            clock: world.clock.clone(),
            waiting: waiting.clone(),
            open: Vec::new(),
        };
        world.threads.spawn("backup", Box::pin(desk.run(incoming)))?;
        Ok(Self { jobs, waiting })
    }

    /// Asks for the list of files.
    ///
    /// # Errors
    /// Too many requests wait.
    pub fn list(&self, outbox: &Arc<Outbox>, request_id: u64) -> Result<(), Refusal> {
        self.ask(outbox, request_id, Wish::List)
    }

    /// Asks for a piece of a file.
    ///
    /// # Errors
    /// It cannot be read, is too large, or too many requests wait.
    pub fn read(&self, outbox: &Arc<Outbox>, request_id: u64, body: &[u8]) -> Result<(), Refusal> {
        let bad = |message: &str| Refusal {
            message: message.to_owned(),
            ..Refusal::new(Code::BAD_OP, 0)
        };
        let read = BackupRead::decode(body).map_err(|_| bad("the BACKUP_READ is cut off"))?;
        let name = str::from_utf8(read.name).map_err(|_| bad("names of files are text"))?;
        if read.bytes > BACKUP_READ_BYTES_MAX {
            return Err(bad("a BACKUP_READ asks for at most 262144 bytes"));
        }
        let (name, offset, bytes) = (name.to_owned(), read.offset, read.bytes);
        self.ask(outbox, request_id, Wish::Read { name, offset, bytes })
    }

    fn ask(&self, outbox: &Arc<Outbox>, request_id: u64, wish: Wish) -> Result<(), Refusal> {
        // Relaxed: only a count. A few that come at once may go beyond it.
        if self.waiting.load(Ordering::Relaxed) >= REQUESTS_MAX {
            return Err(Refusal::busy(BUSY_RETRY_MS, "too many requests of backups wait"));
        }
        self.waiting.fetch_add(1, Ordering::Relaxed);
        // The thread lives as long as this does.
        let _ = self.jobs.send(Job { outbox: outbox.clone(), request_id, wish });
        Ok(())
    }
}

/// A file that is being read.
struct Open {
    name: String,
    file: Arc<dyn File>,
    used_at: Duration,
}

/// The thread.
struct Desk {
    replica: Replica,
    clock: Arc<dyn Clock>,
    waiting: Arc<AtomicU32>,
    /// The one that was read last comes last.
    open: Vec<Open>,
}

impl Desk {
    async fn run(mut self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        loop {
            let job = match self.open.is_empty() {
                true => jobs.recv().await,
                false => match tokio::time::timeout(OPEN_FOR, jobs.recv()).await {
                    Ok(job) => job,
                    Err(_) => {
                        self.close_unused();
                        continue;
                    }
                },
            };
            let Some(job) = job else { return };
            let answer = match &job.wish {
                Wish::List => self.list(job.request_id).await,
                Wish::Read { name, offset, bytes } => {
                    self.read(job.request_id, name, (*offset, *bytes))
                }
            };
            self.close_unused();
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            match answer {
                Ok(frame) => job.outbox.frame(&[], frame.freeze()),
                Err(refusal) => job.outbox.error(job.request_id, &refusal),
            }
        }
    }

    async fn list(&mut self, request_id: u64) -> Answer {
        let history = self.replica.history().await.map_err(|error| no_disk(&error))?;
        if history.cluster_id == 0 {
            return Err(Refusal::busy(BUSY_RETRY_MS, "this node is in no cluster yet"));
        }
        let bytes = BackupFile::BYTES_MAX * history.files.len();
        if bytes + 1024 > REPLY_BYTES_MAX as usize {
            let message = format!("{} files do not fit into a reply", history.files.len());
            return Err(Refusal { message, ..Refusal::new(Code::TOO_LARGE, 0) });
        }
        Ok(frame(request_id, Kind::BackupFiles, |out| put_files(out, &history)))
    }

    fn read(&mut self, request_id: u64, name: &str, (offset, bytes): (u64, u32)) -> Answer {
        let piece = self.file(name).and_then(|file| {
            let rest = file.bytes()?.saturating_sub(offset);
            let mut piece = vec![0; rest.min(u64::from(bytes)) as usize];
            file.read_at(offset, &mut piece)?;
            Ok(piece)
        });
        match piece {
            Ok(piece) => Ok(frame(request_id, Kind::BackupBytes, |out| out.put_slice(&piece))),
            Err(error) => {
                let message = format!("{name}: {error}");
                Err(Refusal { message, ..Refusal::new(Code::FILE_GONE, 0) })
            }
        }
    }

    fn file(&mut self, name: &str) -> io::Result<Arc<dyn File>> {
        let open = match self.open.iter().position(|open| open.name == name) {
            Some(at) => self.open.remove(at).file,
            None => self.replica.open_history(name)?,
        };
        if self.open.len() >= OPEN_MAX {
            self.open.remove(0);
        }
        let used_at = self.clock.monotonic();
        self.open.push(Open { name: name.to_owned(), file: open.clone(), used_at });
        Ok(open)
    }

    fn close_unused(&mut self) {
        let now = self.clock.monotonic();
        self.open.retain(|open| now.saturating_sub(open.used_at) < OPEN_FOR);
    }
}

fn no_disk(error: &io::Error) -> Refusal {
    let message = match error.kind() {
        io::ErrorKind::Interrupted => error.to_string(),
        _ => format!("the disk does not take what is applied: {error}"),
    };
    Refusal::busy(BUSY_RETRY_MS, message)
}

fn put_files(out: &mut BytesMut, history: &History) {
    let events = history.events;
    let head = BackupHead {
        cluster_id: history.cluster_id,
        node_id: history.node_id,
        incarnation: history.incarnation,
        rules: history.rules,
        index: history.index,
        now_us: history.now.0,
        next_event: events.map_or(0, |position| position.next),
        chain: events.map_or([0; 32], |position| position.told_chain()),
    };
    head.encode(out);
    out.put_u32_le(history.files.len() as u32);
    for file in &history.files {
        let (name, bytes, is_sealed) = (file.name.as_bytes(), file.bytes, file.is_sealed);
        BackupFile { name, bytes, is_sealed }.encode(out);
    }
}

fn frame(request_id: u64, kind: Kind, body: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut frame = BytesMut::new();
    let start = begin_frame(&mut frame, Header { request_id, kind, shard: ShardId::default() });
    body(&mut frame);
    finish_frame(&mut frame, start);
    frame
}
