//! What all connections of a server share.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::BytesMut;

use super::backup::Backups;
use super::feed::Feed;
use super::limits::Limits;
use super::line::Line;
use super::metrics::Metrics;
use super::outbox::Outbox;
use crate::protocol::limits::{TTL_MS_MAX, TTL_MS_MIN};
use crate::protocol::{Op, OpFlags, UnixMillis};
use crate::replication::Replica;
use crate::world::{UnixMicros, World};

/// How far a server is from its end.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub(super) enum Phase {
    /// Takes requests.
    Running = 0,
    /// Answers what it has taken and refuses the rest.
    Leaving = 1,
    /// Connections send what they have and close.
    Closing = 2,
}

/// See the module.
pub(super) struct Shared {
    pub replica: Replica,
    pub world: World,
    pub limits: Limits,
    pub metrics: Arc<Metrics>,
    pub started: Duration,
    phase: AtomicU8,
    draining: AtomicBool,
    pub large_reads: Arc<Line>,
    pub feed: Feed,
    pub backups: Backups,
    sessions: Mutex<BTreeMap<u64, Arc<Outbox>>>,
    sessions_next: AtomicU64,
    /// Told when a session ends.
    pub session_ended: tokio::sync::Notify,
}

impl Shared {
    /// # Errors
    /// There is no thread to be had.
    pub fn new(replica: Replica, world: World, limits: Limits) -> io::Result<Self> {
        Ok(Self {
            feed: Feed::start(&replica, &world)?,
            backups: Backups::start(&replica, &world)?,
            replica,
            started: world.clock.monotonic(),
            large_reads: Line::new(Arc::clone(&world.clock)),
            world,
            limits,
            metrics: Arc::new(Metrics::new()),
            phase: AtomicU8::new(Phase::Running as u8),
            draining: AtomicBool::new(false),
            sessions: Mutex::default(),
            sessions_next: AtomicU64::new(0),
            session_ended: tokio::sync::Notify::new(),
        })
    }

    pub fn phase(&self) -> Phase {
        // Relaxed: sessions are woken after a change and look again.
        match self.phase.load(Ordering::Relaxed) {
            0 => Phase::Running,
            1 => Phase::Leaving,
            _ => Phase::Closing,
        }
    }

    /// Moves on and makes every session look.
    pub fn set_phase(&self, phase: Phase) {
        self.phase.store(phase as u8, Ordering::Relaxed);
        self.sessions().values().for_each(|outbox| outbox.wake());
    }

    /// The operator wants no writes here.
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub fn set_draining(&self, draining: bool) {
        self.draining.store(draining, Ordering::Relaxed);
    }

    /// How many sessions there are. Not `sessions().len()`, whose lock would live to the end of the
    /// caller's statement.
    pub fn session_count(&self) -> usize {
        self.sessions().len()
    }

    /// All sessions, by the order of their arrival.
    pub fn sessions(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Outbox>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a session known until the returned guard is dropped.
    pub fn register(self: &Arc<Self>, outbox: Arc<Outbox>) -> Registered {
        let number = self.sessions_next.fetch_add(1, Ordering::Relaxed);
        self.sessions().insert(number, outbox);
        Registered { shared: Arc::clone(self), number }
    }

    /// Frames of all sessions that wait for a reply.
    pub fn frames_owed(&self) -> u64 {
        self.sessions().values().map(|outbox| outbox.owed().frames).sum()
    }

    /// A reserve that could not be granted now, whatever is reclaimed: NO_STOCK is appended to `out`.
    /// False for everything that the log must decide: a retry may have been granted before, other
    /// refusals come before that for want of stock, and of some an event must tell.
    pub fn looks_sold_out(
        &self,
        op: &Op<'_>,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        now: UnixMicros,
        out: &mut BytesMut,
    ) -> bool {
        let Op::Reserve { id, ttl_ms, lines } = op else { return false };
        let plain = !flags.contains(OpFlags::RETRY)
            && (*ttl_ms == 0 || (TTL_MS_MIN..=TTL_MS_MAX).contains(ttl_ms))
            && not_after.is_none_or(|not_after| now.as_millis() < not_after.0)
            && self.replica.cells().accepts_id(id, now)
            && !self.replica.cells().samples(id);
        let commit = flags.contains(OpFlags::COMMIT);
        plain && self.replica.cells().refuse_if_short(lines, commit, now, out)
    }
}

/// A session that is known; see [`Shared::register`].
pub(super) struct Registered {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let outbox = self.shared.sessions().remove(&self.number);
        if let Some(outbox) = outbox {
            outbox.close();
        }
        self.shared.session_ended.notify_waiters();
    }
}
