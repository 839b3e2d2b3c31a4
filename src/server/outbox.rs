//! A connection's outbox: frames that wait to be sent, and the count of those still owed.
//!
//! ```text
//! apply, reads, refusals ──append──▶ bytes ──swap──▶ session ──one write──▶ socket
//! events ──────────────────share──▶ pieces ──┘└── wakes the session
//! ```
//!
//! Invariants:
//! - Whoever appends a reply that was owed settles it under the same lock.
//! - `unsent` counts the bytes from their append until the socket took them, and the node's sum of
//!   it is in [`Metrics::bytes_unsent`].
//! - After [`Outbox::close`] nothing is appended.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::{BufMut, Bytes, BytesMut};

use super::feed::Subscriber;
use super::metrics::{self, Metrics};
use crate::protocol::{
    ErrorReply, Header, HelloReply, Kind, ReplyPrefix, ShardId, begin_frame, finish_frame,
};
use crate::replication::{Refusal, ReplyTo, RequestTag, Source};

/// What is owed and to be sent on one connection, and what it has done so far.
pub(super) struct Outbox {
    metrics: Arc<Metrics>,
    inner: Mutex<Inner>,
    /// Frames without a reply yet, and bytes of requests that somebody still holds.
    frames_owed: AtomicU64,
    request_bytes_owed: AtomicU64,
    source: Source,
    pub peer: String,
    /// Frames and operations taken from this connection.
    pub frames: AtomicU64,
    pub ops: AtomicU64,
}

/// What a session sends at once.
pub(super) enum Piece {
    /// Frames of this connection alone.
    Own(BytesMut),
    /// A large frame, which other connections may send, too: it is copied for none.
    Shared(Bytes),
}

impl Default for Piece {
    fn default() -> Self {
        Self::Own(BytesMut::new())
    }
}

impl std::ops::Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Shared(bytes) => bytes,
        }
    }
}

/// A frame of so many bytes is worth a write of its own.
const SHARED_BYTES_MIN: usize = 16 << 10;

#[derive(Default)]
struct Inner {
    /// Goes before `bytes`.
    pieces: VecDeque<Piece>,
    bytes: BytesMut,
    unsent: usize,
    closed: bool,
    /// The session is at work and looks at everything before it rests. Were it woken by its own
    /// answers, it would always be ready to run, and the runtime would hardly look at its sockets.
    in_turn: bool,
    /// Who follows the events on this connection.
    subscribers: Vec<Arc<Subscriber>>,
    waker: Option<Waker>,
}

/// What a connection has outstanding.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Owed {
    pub frames: u64,
    pub request_bytes: u64,
}

impl Owed {
    /// One more frame of so many bytes.
    pub fn add(&mut self, request_bytes: u64) {
        self.frames += 1;
        self.request_bytes += request_bytes;
    }
}

impl Outbox {
    pub fn new(metrics: Arc<Metrics>, peer: String) -> Self {
        Self {
            metrics,
            inner: Mutex::default(),
            frames_owed: AtomicU64::new(0),
            request_bytes_owed: AtomicU64::new(0),
            source: Source::default(),
            peer,
            frames: AtomicU64::new(0),
            ops: AtomicU64::new(0),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Appending cannot panic half-way, so the bytes are whole frames in any case.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session has its turn and needs no waking; `waker` wakes it afterwards.
    pub fn begin_turn(&self, waker: &Waker) {
        let mut inner = self.lock();
        inner.in_turn = true;
        match &mut inner.waker {
            Some(present) => present.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// The session's turn ends. True: there is nothing that it could take.
    pub fn end_turn(&self) -> bool {
        let mut inner = self.lock();
        inner.in_turn = false;
        inner.is_empty()
    }

    /// Makes the session look around.
    pub fn wake(&self) {
        wake(&self.lock());
    }

    /// The client's name, which is the principal of its operations.
    pub fn set_client_name(&self, name: &[u8]) {
        self.source.set_principal(name);
    }

    pub fn client_name(&self) -> &[u8] {
        self.source.principal()
    }

    /// What is outstanding now.
    pub fn owed(&self) -> Owed {
        Owed {
            frames: metrics::read(&self.frames_owed),
            request_bytes: metrics::read(&self.request_bytes_owed),
        }
    }

    /// A reply to one more frame is owed. To be called before the frame is handed on.
    pub fn owe(&self, request_bytes: u64) {
        metrics::add(&self.frames_owed, 1);
        metrics::add(&self.request_bytes_owed, request_bytes);
    }

    /// Reads are owed their replies: their bytes wait here and count for the whole node.
    pub fn owe_reads(&self, reads: Owed) {
        metrics::add(&self.frames_owed, reads.frames);
        metrics::add(&self.request_bytes_owed, reads.request_bytes);
        metrics::add(&self.metrics.read_bytes_waiting, reads.request_bytes);
    }

    /// Somebody else holds request bytes.
    pub fn hold_bytes(&self, request_bytes: usize) {
        metrics::add(&self.request_bytes_owed, request_bytes as u64);
    }

    /// Request bytes that nobody holds any more.
    pub fn release_bytes(&self, request_bytes: u64) {
        self.request_bytes_owed.fetch_sub(request_bytes, Ordering::Relaxed);
    }

    /// Bytes of a read are held elsewhere.
    pub fn hold_reads(self: &Arc<Self>, bytes: usize) -> HeldReads {
        let bytes = bytes as u64;
        self.owe_reads(Owed { frames: 0, request_bytes: bytes });
        HeldReads { outbox: Arc::clone(self), bytes }
    }

    /// Bytes of reads that are answered.
    pub fn release_read_bytes(&self, request_bytes: u64) {
        self.release_bytes(request_bytes);
        self.metrics.read_bytes_waiting.fetch_sub(request_bytes, Ordering::Relaxed);
    }

    /// Reply bytes that the socket has not taken.
    pub fn unsent(&self) -> usize {
        self.lock().unsent
    }

    /// One owed reply is there; says whether it was the last.
    fn settle(&self) -> bool {
        // Relaxed: only a count, the reply itself travels under the lock.
        self.frames_owed.fetch_sub(1, Ordering::Relaxed) == 1
    }

    /// What is to be sent next, for an empty buffer to gather more.
    pub fn take(&self, spare: BytesMut) -> Piece {
        assert!(spare.is_empty(), "what was taken is sent before more is");
        let mut inner = self.lock();
        match inner.pieces.pop_front() {
            Some(piece) => piece,
            None => Piece::Own(std::mem::replace(&mut inner.bytes, spare)),
        }
    }

    /// The socket took `bytes`.
    pub fn sent(&self, bytes: usize) {
        self.lock().unsent -= bytes;
        self.metrics.bytes_unsent.fetch_sub(bytes as u64, Ordering::Relaxed);
        metrics::add(&self.metrics.bytes_sent, bytes as u64);
    }

    /// Gives memory back while nothing is waiting.
    pub fn tidy(&self) {
        let mut inner = self.lock();
        if inner.bytes.is_empty() {
            inner.bytes = BytesMut::new();
        }
    }

    /// Nothing will be sent any more, and nothing that waits for the log need be done.
    pub fn close(&self) {
        self.source.leave();
        let mut inner = self.lock();
        inner.closed = true;
        inner.subscribers.drain(..).for_each(|subscriber| subscriber.leave());
        inner.pieces.clear();
        inner.bytes = BytesMut::new();
        inner.waker = None;
        let unsent = std::mem::take(&mut inner.unsent);
        self.metrics.bytes_unsent.fetch_sub(unsent as u64, Ordering::Relaxed);
    }

    /// How many follow the events on this connection.
    pub fn subscriber_count(&self) -> usize {
        self.lock().subscribers.len()
    }

    /// Somebody on this connection follows the events, until it closes.
    pub fn add_subscriber(&self, subscriber: Arc<Subscriber>) {
        let mut inner = self.lock();
        match inner.closed {
            true => subscriber.leave(),
            false => inner.subscribers.push(subscriber),
        }
    }

    /// The subscriber that came with this request id.
    pub fn subscriber(&self, request_id: u64) -> Option<Arc<Subscriber>> {
        let inner = self.lock();
        inner.subscribers.iter().find(|subscriber| subscriber.request_id == request_id).cloned()
    }

    /// Nobody on this connection follows the events any more.
    pub fn leave_subscribers(&self) {
        self.lock().subscribers.drain(..).for_each(|subscriber| subscriber.leave());
    }

    /// A subscription has ended.
    pub fn drop_subscriber(&self, request_id: u64) {
        self.lock().subscribers.retain(|subscriber| subscriber.request_id != request_id);
    }

    /// Sends a whole frame that nobody is owed.
    pub fn frame(&self, frame: Bytes) {
        let mut inner = self.lock();
        if !inner.closed {
            let is_first = inner.is_empty();
            inner.unsent += frame.len();
            metrics::add(&self.metrics.bytes_unsent, frame.len() as u64);
            if frame.len() < SHARED_BYTES_MIN {
                inner.bytes.extend_from_slice(&frame);
            } else {
                if !inner.bytes.is_empty() {
                    let before = Piece::Own(std::mem::take(&mut inner.bytes));
                    inner.pieces.push_back(before);
                }
                inner.pieces.push_back(Piece::Shared(frame));
            }
            if is_first {
                wake(&inner);
            }
        }
    }

    /// Answers a hello.
    pub fn greet(&self, request_id: u64, reply: &HelloReply<'_>) {
        let header = Header { request_id, kind: Kind::HelloReply, shard: ShardId::default() };
        self.append(&mut self.lock(), header, |out| reply.encode(out));
    }

    /// Refuses a frame to which no reply is owed.
    pub fn error(&self, request_id: u64, refusal: &Refusal) {
        self.append_error(&mut self.lock(), request_id, refusal);
    }

    fn append_error(&self, inner: &mut Inner, request_id: u64, refusal: &Refusal) {
        let header = Header { request_id, kind: Kind::Error, shard: ShardId::default() };
        let leader = refusal.leader.as_deref().unwrap_or_default();
        let reply = ErrorReply {
            code: refusal.code,
            retry_after_ms: refusal.retry_after_ms,
            leader: leader.as_bytes(),
            message: refusal.message.as_bytes(),
        };
        self.metrics.count_code(refusal.code);
        self.append(inner, header, |out| reply.encode(out));
    }

    #[inline]
    fn append(&self, inner: &mut Inner, header: Header, body: impl FnOnce(&mut BytesMut)) {
        if inner.closed {
            return;
        }
        let start = begin_frame(&mut inner.bytes, header);
        body(&mut inner.bytes);
        finish_frame(&mut inner.bytes, start);
        let bytes = inner.bytes.len() - start;
        inner.unsent += bytes;
        metrics::add(&self.metrics.bytes_unsent, bytes as u64);
        // The first frame of a batch wakes the session, the others find it woken.
        if start == 0 {
            wake(inner);
        }
    }
}

impl Inner {
    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.bytes.is_empty()
    }
}

fn wake(inner: &Inner) {
    if let Some(waker) = inner.waker.as_ref().filter(|_| !inner.in_turn) {
        waker.wake_by_ref();
    }
}

impl ReplyTo for Outbox {
    fn reply(&self, tag: RequestTag, shard: ShardId, prefix: ReplyPrefix, outcomes: &[u8]) {
        self.metrics.count_outcomes(outcomes);
        let kind = if tag.batch { Kind::BatchReply } else { Kind::OpReply };
        let header = Header { request_id: tag.request_id, kind, shard };
        let last = self.settle();
        let mut inner = self.lock();
        self.append(&mut inner, header, |out| {
            prefix.encode(out);
            if tag.batch {
                out.put_u32_le(tag.ops);
            }
            out.put_slice(outcomes);
        });
        // A closing connection waits for the last reply even when it is not to be sent.
        if last {
            wake(&inner);
        }
    }

    fn refuse(&self, tag: RequestTag, refusal: &Refusal) {
        self.settle();
        let mut inner = self.lock();
        self.append_error(&mut inner, tag.request_id, refusal);
        wake(&inner);
    }

    fn source(&self) -> &Source {
        &self.source
    }
}

/// Bytes of reads that somebody holds. They count until this is dropped.
pub(super) struct HeldReads {
    outbox: Arc<Outbox>,
    bytes: u64,
}

impl HeldReads {
    pub const fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }
}

impl Drop for HeldReads {
    fn drop(&mut self) {
        self.outbox.release_read_bytes(self.bytes);
    }
}

/// Where the answers to one burst of writes go. It lives as long as one of them is owed, and then
/// gives the burst's request bytes back.
pub(super) struct Ticket {
    outbox: Arc<Outbox>,
    request_bytes: AtomicU64,
}

impl Ticket {
    /// A ticket, as its two users want it.
    pub fn new(outbox: &Arc<Outbox>) -> (Arc<Self>, Arc<dyn ReplyTo>) {
        let outbox = Arc::clone(outbox);
        let ticket = Arc::new(Self { outbox, request_bytes: AtomicU64::new(0) });
        (Arc::clone(&ticket), ticket)
    }

    /// The burst holds more request bytes.
    pub fn hold(&self, request_bytes: usize) {
        metrics::add(&self.request_bytes, request_bytes as u64);
    }
}

impl ReplyTo for Ticket {
    fn reply(&self, tag: RequestTag, shard: ShardId, prefix: ReplyPrefix, outcomes: &[u8]) {
        self.outbox.reply(tag, shard, prefix, outcomes);
    }

    fn refuse(&self, tag: RequestTag, refusal: &Refusal) {
        self.outbox.refuse(tag, refusal);
    }

    fn source(&self) -> &Source {
        &self.outbox.source
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.outbox.release_bytes(metrics::read(&self.request_bytes));
    }
}
