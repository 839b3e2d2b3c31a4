//! Answers for ids that are too old: what apply has forgotten, the archive knows.
//!
//! ```text
//! apply, reads ─▶ an old id that is not known among the outcomes? ─ no ─▶ reply
//!                        └─ yes ─▶ this thread: look each up, put its answer in the place ─▶ reply
//! ```
//!
//! A look-up may wait for the disk, so it has a thread of its own: neither apply nor a session waits
//! for it, nor does whoever else is in the same log entry. Writes that find too many here are answered without,
//! reads are bounded where they are held.
//!
//! An operation that is linked is left as it is: what is asked for together is refused together.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;

use super::ingress::Unanswered;
use super::state_machine::Shared;
use crate::archive::Archive;
use crate::engine::ArchivedRecord;
use crate::engine::batch::Command;
use crate::protocol::limits::REPLY_BYTES_MAX;
use crate::protocol::{Code, Op, Reader, ReservationId, take_outcome};
use crate::world::World;

/// Writes whose answers wait, with their outcomes; a frame of small ones has a tenth of it.
const LATE_BYTES_MAX: usize = 8 << 20;

type Done = Box<dyn FnOnce(&[u8]) + Send>;

/// Operations whose answers wait for a look at the archive.
struct Job {
    ops: Bytes,
    count: u32,
    outcomes: Bytes,
    done: Done,
}

/// The way to the thread that looks up old ids.
pub struct OldIds {
    jobs: Option<mpsc::UnboundedSender<Job>>,
    /// Bytes of writes that wait.
    waiting: Arc<AtomicUsize>,
}

impl OldIds {
    /// Starts the thread, if there is an archive, and the task that hands its answers on: replies are given
    /// by tasks of the node.
    pub fn start(world: &World, shared: &Arc<Shared>) -> io::Result<Self> {
        let waiting = Arc::default();
        let Some(archive) = shared.archive.clone() else { return Ok(Self { jobs: None, waiting }) };
        let (jobs, mut incoming) = mpsc::unbounded_channel::<Job>();
        let (finished, mut answers) = mpsc::unbounded_channel::<(BytesMut, Done)>();
        let shared = shared.clone();
        let body = async move {
            while let Some(Job { ops, count, outcomes, done }) = incoming.recv().await {
                let answer = shared.answer_old(&archive, &ops, count, &outcomes);
                if finished.send((answer, done)).is_err() {
                    // The node is gone.
                    return;
                }
            }
        };
        world.threads.spawn("old-ids", Box::pin(body))?;
        tokio::spawn(async move {
            while let Some((answer, done)) = answers.recv().await {
                done(&answer);
            }
        });
        Ok(Self { jobs: Some(jobs), waiting })
    }

    /// Answers requests of one log entry that know no old id with what the archive says of it. `ops`: the
    /// entry's operations.
    pub fn answer_late(&self, ops: &[u8], late: Vec<Unanswered>) {
        for request in late {
            let own = &ops[request.ops_at.clone()];
            let bytes = own.len() + request.outcomes.len();
            if self.waiting.fetch_add(bytes, Ordering::Relaxed) > LATE_BYTES_MAX {
                // What it has is not wrong.
                self.waiting.fetch_sub(bytes, Ordering::Relaxed);
                let outcomes = request.outcomes.clone();
                request.answer(&outcomes);
                continue;
            }
            let waiting = self.waiting.clone();
            let (count, outcomes) = (request.op_count(), request.outcomes.clone());
            self.fill_in(Bytes::copy_from_slice(own), count, outcomes, move |all| {
                waiting.fetch_sub(bytes, Ordering::Relaxed);
                request.answer(all);
            });
        }
    }

    /// Gives `done` the outcomes of `count` operations with what the archive says of old ids.
    pub fn fill_in(
        &self,
        ops: Bytes,
        count: u32,
        outcomes: Bytes,
        done: impl FnOnce(&[u8]) + Send + 'static,
    ) {
        let job = Job { ops, count, outcomes, done: Box::new(done) };
        let unsent = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|unsent| unsent.0),
            None => Some(job),
        };
        if let Some(job) = unsent {
            // There is no archive, or the node stops.
            (job.done)(&job.outcomes);
        }
    }
}

impl Shared {
    /// The record that an id had, if the engine has forgotten it.
    fn find_old(&self, archive: &Archive, id: &ReservationId) -> Option<ArchivedRecord> {
        // In the order in which it travels.
        let found = self.lock().stock.find_forgotten(id);
        found.or_else(|| archive.find(id))
    }

    /// The outcomes with the archive's answers in the places of those that know no old id. When they are more
    /// than a reply may have, no more are looked up.
    fn answer_old(&self, archive: &Archive, ops: &[u8], count: u32, outcomes: &[u8]) -> BytesMut {
        let (mut ops, mut rest) = (Reader::new(ops), Reader::new(outcomes));
        let mut out = BytesMut::with_capacity(outcomes.len());
        let mut in_chain = false;
        for _ in 0..count {
            let command = Command::take(&mut ops);
            let before = rest.rest();
            let outcome = take_outcome(&mut rest).expect("there is one outcome per operation");
            let linked = in_chain || command.is_linked();
            in_chain = command.is_linked();
            let full = out.len() > REPLY_BYTES_MAX as usize;
            if full || linked || !self.put_old(archive, &command, outcome.code, &mut out) {
                out.extend_from_slice(&before[..before.len() - rest.rest().len()]);
            }
        }
        out
    }

    /// Appends the archive's answer; `false`: it has none.
    fn put_old(
        &self,
        archive: &Archive,
        command: &Command<'_>,
        code: Code,
        out: &mut BytesMut,
    ) -> bool {
        let Command::Client(op, flags, not_after) = command else { return false };
        let is_read = !op.opcode().is_write();
        let id = match code {
            Code::ID_TOO_OLD if !is_read => op.key().map(ReservationId),
            Code::NOT_FOUND if is_read => id_read(op),
            _ => None,
        };
        // What is forgotten stays in memory until it is swept; a write that meets it sweeps it.
        if is_read && id.is_some() && self.lock().stock.read_unswept(op, out) {
            return true;
        }
        let Some(record) = id.and_then(|id| self.find_old(archive, &id)) else { return false };
        let transfer = match op {
            Op::TransferReceive { transfer, .. } => {
                self.find_old(archive, &ReservationId(transfer.0))
            }
            _ => None,
        };
        let asked = (op, *flags, *not_after);
        let stock = &mut self.lock().stock;
        let answered = match is_read {
            true => stock.read_archived(&record, op, out),
            false => stock.answer_archived(&record, transfer.as_ref(), asked, out),
        };
        if !answered {
            archive.note_damaged();
        }
        answered
    }
}

/// Which reservation or transfer an operation reads.
pub fn id_read(op: &Op<'_>) -> Option<ReservationId> {
    match op {
        Op::ReadReservation { id } | Op::ReadLines { id } => Some(*id),
        Op::ReadTransfer { transfer } => Some(ReservationId(transfer.0)),
        _ => None,
    }
}
