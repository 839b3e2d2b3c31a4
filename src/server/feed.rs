//! The feed: sends events to whoever follows them, on a thread of its own.
//!
//! ```text
//! session ──SUBSCRIBE──▶ arrivals ──▶ feed: read, filter, frame ──▶ outbox, or the socket
//!         ──CREDIT─────▶ credit of the subscriber ─┘    ▲
//!                                      the event log has more
//! ```
//!
//! What is read may have to come from the disk, and a filter looks at every event: neither apply nor a session
//! waits for that. The feed is always behind what is applied, and never ahead of what is committed.
//!
//! Invariants:
//! - A subscriber is sent no more than it has granted, but for one record: what nobody takes waits on disk.
//! - `next` of a frame is `first` of the one after: nothing wanted lies between two frames that was not sent.
//! - Each has its turn: a subscriber that reads a year of events holds up nobody who follows.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::filter::Filter;
use super::limits::{FULL_RETRY_MS, SUBSCRIBERS_MAX, SUBSCRIBERS_PER_CONNECTION};
use super::outbox::Outbox;
use super::recent::{CHUNK_BYTES, Recent};
use crate::engine::CellReader;
use crate::events::{EventLog, ReadError};
use crate::protocol::limits::CREDIT_BYTES_MAX;
use crate::protocol::{
    Code, ErrorReply, EventsHead, Header, Kind, ShardId, Start, Subscribe, UnixMillis, begin_frame,
    crc32, finish_frame_before,
};
use crate::replication::{Refusal, Replica};
use crate::world::World;

/// Those who are at the end get what has come since, so often at most: a frame for each entry of the log would cost
/// more than what is in it.
const STEP: Duration = Duration::from_millis(5);
/// A subscriber to whom nothing was sent for so long is told how far it is.
const IDLE_NOTE: Duration = Duration::from_secs(10);
/// … or for so long, if events that it does not want have come by meanwhile: it may be waiting for the last of them.
const PASSED_NOTE: Duration = Duration::from_secs(1);
/// A node that has not heard for so long that it is up to date, or was removed, is none to wait at.
const OUT_OF_TOUCH_MS: u32 = 8_000;
/// A subscriber of whose filter nothing comes through is told so after so many chunks.
const CHUNKS_UNTOLD_MAX: u32 = 32;

/// Of a frame, without its records.
const HEAD_BYTES: usize = Header::BYTES + EventsHead::BYTES;

/// Somebody who follows.
pub(super) struct Subscriber {
    outbox: Arc<Outbox>,
    pub request_id: u64,
    /// Bytes that it takes before it grants more.
    credit: AtomicU32,
    gone: AtomicBool,
}

impl Subscriber {
    pub fn new(outbox: &Arc<Outbox>, request_id: u64, credit: u32) -> Arc<Self> {
        let credit = AtomicU32::new(credit.min(CREDIT_BYTES_MAX));
        Arc::new(Self { outbox: outbox.clone(), request_id, credit, gone: AtomicBool::new(false) })
    }

    /// It wants nothing any more.
    pub fn leave(&self) {
        self.gone.store(true, Ordering::Relaxed);
    }

    fn grant(&self, bytes: u32) {
        let add = |credit: u32| Some(credit.saturating_add(bytes).min(CREDIT_BYTES_MAX));
        // Relaxed: only a count; the feed is woken after it.
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    fn spend(&self, bytes: usize) {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let take = |credit: u32| Some(credit.saturating_sub(bytes));
        let _ = self.credit.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
    }

    fn header(&self, kind: Kind) -> Header {
        Header { request_id: self.request_id, kind, shard: ShardId::default() }
    }
}

/// The way to the thread.
pub(super) struct Feed {
    inner: Arc<Inner>,
}

struct Inner {
    arrivals: Mutex<Vec<Arrival>>,
    wake: Notify,
    stop: AtomicBool,
    count: AtomicU32,
    /// This node keeps events.
    is_there: bool,
}

struct Arrival {
    subscriber: Arc<Subscriber>,
    start: Start,
    filter: Filter,
}

impl Inner {
    fn arrivals(&self) -> MutexGuard<'_, Vec<Arrival>> {
        self.arrivals.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Feed {
    /// Starts the thread.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn start(replica: &Replica, world: &World) -> io::Result<Self> {
        let inner = Arc::new(Inner {
            arrivals: Mutex::default(),
            wake: Notify::new(),
            stop: AtomicBool::new(false),
            count: AtomicU32::new(0),
            is_there: replica.events().is_some(),
        });
        if let Some(events) = replica.events() {
            let reader = Reader {
                events: events.clone(),
                cells: replica.cells().clone(),
                replica: replica.clone(),
                inner: inner.clone(),
                active: Vec::new(),
                recent: Recent::new(events.clone()),
                told: None,
            };
            world.threads.spawn("feed", Box::pin(reader.run()))?;
        }
        Ok(Self { inner })
    }

    /// How many follow.
    pub fn count(&self) -> u32 {
        self.inner.count.load(Ordering::Relaxed)
    }

    /// Takes a subscriber on.
    ///
    /// # Errors
    /// This node keeps no events; it has, or the connection has, as many subscribers as it takes.
    pub fn subscribe(
        &self,
        outbox: &Arc<Outbox>,
        request_id: u64,
        wish: &Subscribe<'_>,
    ) -> Result<(), Refusal> {
        if !self.inner.is_there {
            let message = "this node keeps no events (--events 0s); ask another one".to_owned();
            return Err(Refusal { message, ..Refusal::new(Code::NO_EVENTS, 0) });
        }
        let most = u64::from(SUBSCRIBERS_PER_CONNECTION);
        if outbox.subscriber_count() as u64 >= most || self.count() >= SUBSCRIBERS_MAX {
            let message = "this node has all the subscribers it takes: ask another one, or later";
            return Err(Refusal::busy(FULL_RETRY_MS, message));
        }
        let subscriber = Subscriber::new(outbox, request_id, wish.credit);
        outbox.add_subscriber(subscriber.clone());
        self.inner.count.fetch_add(1, Ordering::Relaxed);
        let filter = Filter::new(wish);
        self.inner.arrivals().push(Arrival { subscriber, start: wish.start, filter });
        self.wake();
        Ok(())
    }

    /// A subscriber takes more. One that is not there has just ended.
    pub fn grant(&self, outbox: &Outbox, request_id: u64, bytes: u32) {
        if let Some(subscriber) = outbox.subscriber(request_id) {
            subscriber.grant(bytes);
            self.wake();
        }
    }

    /// Makes the thread look around.
    pub fn wake(&self) {
        self.inner.wake.notify_one();
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.inner.stop.store(true, Ordering::Relaxed);
        self.inner.wake.notify_one();
    }
}

/// A subscriber that has begun.
struct Active {
    subscriber: Arc<Subscriber>,
    filter: Filter,
    next: u64,
    told: u64,
    told_at: Instant,
    chunks_untold: u32,
}

impl Active {
    /// When it is told how far it is, if nothing else comes; `None`: not before it grants something.
    fn note_at(&self) -> Option<Instant> {
        let pause = if self.next > self.told { PASSED_NOTE } else { IDLE_NOTE };
        // Relaxed: only a count; whoever grants something wakes the thread.
        let may_be_told = self.subscriber.credit.load(Ordering::Relaxed) > 0;
        may_be_told.then(|| self.told_at + pause)
    }
}

/// What a turn of a subscriber came to.
#[derive(PartialEq, Eq)]
enum Turn {
    Rests,
    GoesOn,
    Ends,
}

/// The thread.
struct Reader {
    events: Arc<EventLog>,
    cells: CellReader,
    replica: Replica,
    inner: Arc<Inner>,
    active: Vec<Active>,
    /// What was read last: who follows is mostly at the same place.
    recent: Recent,
    /// The number that the next event will have, and the cluster's clock after that, as it was asked last in this turn
    /// of all: the locks that they are behind are those of appending and of stamping.
    told: Option<(u64, UnixMillis)>,
}

impl Reader {
    async fn run(mut self) {
        let mut reached = self.events.subscribe();
        let mut step_at = Instant::now();
        while !self.inner.stop.load(Ordering::Relaxed) {
            self.told = None;
            self.welcome();
            reached.mark_unchanged();
            if self.recent.has_more() && step_at <= Instant::now() {
                self.recent.advance();
                step_at = Instant::now() + STEP;
            }
            if self.turn() {
                tokio::task::yield_now().await;
                continue;
            }
            if self.active.is_empty() {
                self.recent.clear();
            }
            let may_step = !self.active.is_empty() && self.recent.has_more();
            let may_wait = !self.active.is_empty() && !may_step;
            let idle = self.active.iter().filter_map(Active::note_at).min();
            tokio::select! {
                () = self.inner.wake.notified() => {}
                () = sleep_until(step_at), if may_step => {}
                changed = reached.changed(), if may_wait => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = sleep_until(idle.unwrap_or_else(Instant::now)), if idle.is_some() => {}
            }
        }
    }

    /// Lets those begin who have come.
    fn welcome(&mut self) {
        let arrivals = std::mem::take(&mut *self.inner.arrivals());
        for Arrival { subscriber, start, filter } in arrivals {
            let begun = match start {
                Start::Sequence(sequence) => Ok(sequence.max(1)),
                // What was answered before has happened before, also if it cannot be read yet.
                Start::Now => Ok(self.events.next()),
                Start::Oldest => Ok(self.events.oldest()),
                Start::Time(at_us) => self.events.find_known(at_us),
            };
            match begun {
                Ok(next) => {
                    let (told, told_at, chunks_untold) = (next, Instant::now(), 0);
                    let active = Active { subscriber, filter, next, told, told_at, chunks_untold };
                    self.active.push(active);
                    let at = self.active.len() - 1;
                    self.tell(at, Bytes::new(), None);
                }
                Err(error) => self.end(&subscriber, &error),
            }
        }
    }

    /// Gives each subscriber a turn; `false`: there is nothing to do.
    fn turn(&mut self) -> bool {
        let (mut at, mut goes_on) = (0, false);
        while at < self.active.len() {
            match self.serve(at) {
                Turn::Rests => at += 1,
                Turn::GoesOn => (at, goes_on) = (at + 1, true),
                Turn::Ends => {
                    self.active.swap_remove(at);
                    self.inner.count.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
        goes_on
    }

    fn serve(&mut self, at: usize) -> Turn {
        let active = &self.active[at];
        if active.subscriber.gone.load(Ordering::Relaxed) {
            return Turn::Ends;
        }
        let credit = active.subscriber.credit.load(Ordering::Relaxed) as usize;
        if credit == 0 {
            return Turn::Rests;
        }
        let part = match self.recent.read(active.next, credit.min(CHUNK_BYTES)) {
            Ok(part) => part,
            Err(ReadError::Ahead { .. }) => {
                if self.active[at].note_at().is_none_or(|note_at| note_at > Instant::now()) {
                    return Turn::Rests;
                }
                if self.replica.stale_point().age_ms >= OUT_OF_TOUCH_MS {
                    let subscriber = self.active[at].subscriber.clone();
                    self.dismiss(&subscriber);
                    return Turn::Ends;
                }
                self.tell(at, Bytes::new(), None);
                return Turn::Rests;
            }
            Err(error) => {
                let subscriber = self.active[at].subscriber.clone();
                self.refuse(&subscriber, &error);
                return Turn::Ends;
            }
        };
        let active = &mut self.active[at];
        active.next = part.next;
        if active.filter.wants_all() {
            self.tell(at, part.records, part.crc);
            return Turn::GoesOn;
        }
        let wanted = active.filter.pick(&part.records, &self.cells);
        active.chunks_untold += 1;
        if !wanted.is_empty() || active.chunks_untold >= CHUNKS_UNTOLD_MAX {
            self.tell(at, wanted, None);
        }
        Turn::GoesOn
    }

    /// Sends records that a subscriber wants, and how far they are. `crc`: of the records, if it is known.
    fn tell(&mut self, at: usize, records: Bytes, crc: Option<u32>) {
        let active = &mut self.active[at];
        let (first, next) = (active.told, active.next);
        let (reached, server_now) = match self.told {
            Some(told) if told.0 >= next => told,
            // In this order: no event is told that is later than the clock.
            _ => (self.events.next(), UnixMillis(self.replica.now().as_millis())),
        };
        self.told = Some((reached, server_now));
        let head = EventsHead { first, next, reached, server_now };
        let mut frame = BytesMut::with_capacity(HEAD_BYTES);
        let start = begin_frame(&mut frame, active.subscriber.header(Kind::Events));
        head.encode(&mut frame);
        let crc = crc.unwrap_or_else(|| crc32(&records));
        finish_frame_before(&mut frame, start, records.len(), crc);
        if !records.is_empty() {
            active.subscriber.spend(frame.len() + records.len());
        }
        (active.told, active.told_at, active.chunks_untold) = (active.next, Instant::now(), 0);
        active.subscriber.outbox.frame(&frame, records);
    }

    /// Refuses one that has not begun.
    fn end(&self, subscriber: &Arc<Subscriber>, error: &ReadError) {
        self.inner.count.fetch_sub(1, Ordering::Relaxed);
        self.refuse(subscriber, error);
    }

    /// Sends one away who waits for what comes next.
    fn dismiss(&self, subscriber: &Arc<Subscriber>) {
        let message =
            "this node hears nothing of the cluster, or was removed from it: follow another one"
                .to_owned();
        let refusal = Refusal { message, ..Refusal::new(Code::NO_QUORUM, FULL_RETRY_MS) };
        subscriber.outbox.drop_subscriber(subscriber.request_id);
        subscriber.outbox.error(subscriber.request_id, &refusal);
    }

    fn refuse(&self, subscriber: &Arc<Subscriber>, error: &ReadError) {
        let message = error.to_string();
        let reply = ErrorReply {
            code: Code::EVENTS_GONE,
            retry_after_ms: 0,
            leader: b"",
            message: message.as_bytes(),
            event: if let ReadError::Gone { oldest } = error { *oldest } else { 0 },
        };
        subscriber.outbox.drop_subscriber(subscriber.request_id);
        subscriber.outbox.error_reply(subscriber.request_id, &reply);
    }
}
