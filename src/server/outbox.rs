//! A connection's outbox: frames that wait to be sent, and the count of those still owed.
//!
//! ```text
//! apply, reads, refusals ──append──▶ bytes ──swap──▶ session ──one write──▶ socket
//! events ──────────────────share──▶ pieces ──┘└── wakes the session           ▲
//!   └────────────── of large frames, what fits at once, if nothing waits ─────┘
//! ```
//!
//! What the feed sends of its own thread is not sent by the one that sells.
//!
//! Invariants:
//! - Whoever appends a reply that was owed settles it under the same lock.
//! - `unsent` counts the bytes from their append until the socket took them, and the node's sum of
//!   it is in [`Metrics::bytes_unsent`].
//! - After [`Outbox::close`] nothing is appended.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::feed::Subscriber;
use super::metrics::{self, Metrics};
use crate::protocol::{
    ErrorReply, Header, HelloReply, Kind, ReplyPrefix, ShardId, begin_frame, finish_frame,
};
use crate::replication::{Refusal, ReplyTo, RequestTag, Source};
use crate::world::net::{TcpStream, Writer};

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
#[derive(Default)]
pub(super) struct Piece {
    /// Frames of this connection alone.
    pub own: BytesMut,
    /// The end of the last one: bytes that other connections may send, too, and that are copied for none.
    pub shared: Bytes,
}

impl Piece {
    pub fn len(&self) -> usize {
        self.own.len() + self.shared.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What is left after `sent` bytes.
    pub fn rest(&self, sent: usize) -> [IoSlice<'_>; 2] {
        let of_own = sent.min(self.own.len());
        [IoSlice::new(&self.own[of_own..]), IoSlice::new(&self.shared[sent - of_own..])]
    }

    fn advance(&mut self, sent: usize) {
        let of_own = sent.min(self.own.len());
        self.own.advance(of_own);
        self.shared.advance(sent - of_own);
    }
}

/// Who may write to the socket.
#[derive(Default)]
enum Direct {
    /// The session alone.
    #[default]
    Never,
    /// Whoever has a large frame while nothing waits.
    Free(Writer),
    /// Somebody does at the moment: what comes meanwhile waits.
    Busy,
}

/// Fewer bytes are copied: a piece of its own costs a system call.
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
    direct: Direct,
    /// Somebody else has written since the session asked last.
    was_direct: bool,
    /// The session waits until less is unsent, and has to be woken for that alone.
    waits_for_less: bool,
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
        inner.has_nothing()
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

    /// Has the socket more than so many bytes to take yet? The session is woken when somebody else has sent some.
    pub fn is_unsent_over(&self, bytes: usize) -> bool {
        let mut inner = self.lock();
        inner.waits_for_less = inner.unsent > bytes;
        inner.waits_for_less
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
        if inner.has_nothing() {
            return Piece { own: spare, shared: Bytes::new() };
        }
        match inner.pieces.pop_front() {
            Some(piece) => piece,
            None => Piece { own: std::mem::replace(&mut inner.bytes, spare), shared: Bytes::new() },
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
        inner.direct = Direct::Never;
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
        let mut inner = self.lock();
        inner.subscribers.drain(..).for_each(|subscriber| subscriber.leave());
        inner.give_writer_back();
    }

    /// A subscription has ended.
    pub fn drop_subscriber(&self, request_id: u64) {
        let mut inner = self.lock();
        inner.subscribers.retain(|subscriber| subscriber.request_id != request_id);
        if inner.subscribers.is_empty() {
            inner.give_writer_back();
        }
    }

    /// Large frames that nobody is owed are written to this connection by whoever has them.
    pub fn allow_direct(&self, stream: &TcpStream) {
        let mut inner = self.lock();
        let is_wanted = !inner.closed && !inner.subscribers.is_empty();
        if is_wanted && matches!(inner.direct, Direct::Never) {
            // Without a file to spare, the session sends all.
            inner.direct = Writer::of(stream).map_or(Direct::Never, Direct::Free);
        }
    }

    /// Was something sent past the session since it asked last?
    pub fn take_was_direct(&self) -> bool {
        std::mem::take(&mut self.lock().was_direct)
    }

    /// Sends a whole frame that nobody is owed, in two parts: as much as fits at once, if nothing waits. On any thread.
    pub fn frame(&self, head: &[u8], tail: Bytes) {
        let bytes = head.len() + tail.len();
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        let waits = inner.unsent > 0;
        inner.unsent += bytes;
        metrics::add(&self.metrics.bytes_unsent, bytes as u64);
        inner.bytes.extend_from_slice(head);
        if tail.len() < SHARED_BYTES_MIN {
            inner.bytes.extend_from_slice(&tail);
        } else {
            let own = std::mem::take(&mut inner.bytes);
            let piece = Piece { own, shared: tail };
            if !waits && let Direct::Free(writer) = std::mem::take(&mut inner.direct) {
                inner.direct = Direct::Busy;
                drop(inner);
                return self.write_direct(writer, piece);
            }
            inner.pieces.push_back(piece);
        }
        if !waits {
            wake(&inner);
        }
    }

    /// Writes a piece before all that waits, and leaves to the session what does not fit.
    fn write_direct(&self, mut writer: Writer, mut piece: Piece) {
        // What is wrong with the connection, the session finds out by itself.
        let sent = writer.write(&piece.rest(0)).unwrap_or(0);
        let mut inner = self.lock();
        if inner.closed {
            return;
        }
        let has_subscribers = !inner.subscribers.is_empty();
        inner.direct = if has_subscribers { Direct::Free(writer) } else { Direct::Never };
        inner.was_direct = true;
        inner.unsent -= sent;
        self.metrics.bytes_unsent.fetch_sub(sent as u64, Ordering::Relaxed);
        metrics::add(&self.metrics.bytes_sent, sent as u64);
        piece.advance(sent);
        if !piece.is_empty() {
            inner.pieces.push_front(piece);
        }
        if inner.waits_for_less {
            // Also in its turn: it has looked already.
            inner.waker.iter().for_each(Waker::wake_by_ref);
        } else if !inner.has_nothing() {
            wake(&inner);
        }
    }

    /// Answers a hello.
    pub fn greet(&self, request_id: u64, reply: &HelloReply<'_>) {
        let header = Header { request_id, kind: Kind::HelloReply, shard: ShardId::default() };
        self.append(&mut self.lock(), header, |out| reply.encode(out));
    }

    /// Refuses a frame to which no reply is owed.
    pub fn error(&self, request_id: u64, refusal: &Refusal) {
        self.error_reply(request_id, &reply(refusal));
    }

    /// … that says more than other refusals.
    pub fn error_reply(&self, request_id: u64, reply: &ErrorReply<'_>) {
        self.append_error(&mut self.lock(), request_id, reply);
    }

    fn append_error(&self, inner: &mut Inner, request_id: u64, reply: &ErrorReply<'_>) {
        let header = Header { request_id, kind: Kind::Error, shard: ShardId::default() };
        self.metrics.count_code(reply.code);
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
    /// One file less. Who writes at the moment gives it back when that is done.
    fn give_writer_back(&mut self) {
        if matches!(self.direct, Direct::Free(_)) {
            self.direct = Direct::Never;
        }
    }

    /// There is nothing that the session could take.
    fn has_nothing(&self) -> bool {
        matches!(self.direct, Direct::Busy) || self.pieces.is_empty() && self.bytes.is_empty()
    }
}

fn reply(refusal: &Refusal) -> ErrorReply<'_> {
    ErrorReply {
        code: refusal.code,
        retry_after_ms: refusal.retry_after_ms,
        leader: refusal.leader.as_deref().unwrap_or_default().as_bytes(),
        message: refusal.message.as_bytes(),
        event: 0,
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
        self.append_error(&mut inner, tag.request_id, &reply(refusal));
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

#[cfg(all(test, not(stockd_sim)))]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::task::Wake;

    use super::*;
    use crate::world::{RealThreads, Threads};
    use tokio::io::AsyncReadExt;
    use tokio::net::TcpListener;

    const LARGE: usize = 200_000;

    /// A frame of a byte, its length, and as many of them.
    fn head(byte: u8, bytes: usize) -> Vec<u8> {
        [&[byte][..], &(bytes as u32).to_le_bytes()].concat()
    }

    fn tail(byte: u8, bytes: usize) -> Bytes {
        vec![byte; bytes].into()
    }

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it listens");
        let client = TcpStream::connect(address).await.expect("it listens");
        (listener.accept().await.expect("it has connected").0, client)
    }

    /// Of somebody who follows.
    fn outbox(stream: &TcpStream) -> Arc<Outbox> {
        let outbox = Arc::new(Outbox::new(Arc::new(Metrics::new()), String::new()));
        outbox.allow_direct(stream);
        assert!(matches!(outbox.lock().direct, Direct::Never), "nobody follows");
        outbox.add_subscriber(Subscriber::new(&outbox, 7, 1));
        outbox.allow_direct(stream);
        outbox
    }

    /// Counts how often the session is woken.
    #[derive(Default)]
    struct Woken(AtomicU64);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The feed begins to write a frame of so many bytes.
    fn begin_direct(outbox: &Outbox, bytes: usize) -> (Writer, Piece) {
        let mut inner = outbox.lock();
        let Direct::Free(writer) = std::mem::replace(&mut inner.direct, Direct::Busy) else {
            panic!("nobody writes")
        };
        inner.unsent += bytes;
        outbox.metrics.bytes_unsent.fetch_add(bytes as u64, Ordering::Relaxed);
        (writer, Piece { own: BytesMut::new(), shared: tail(1, bytes) })
    }

    #[tokio::test]
    async fn who_waits_for_what_another_writes_is_woken() {
        let (server, _client) = pair().await;
        let outbox = outbox(&server);
        let woken = Arc::new(Woken::default());
        let turn = |look: &dyn Fn()| {
            let (writer, piece) = begin_direct(&outbox, 1_000);
            outbox.begin_turn(&woken.clone().into());
            assert!(outbox.take(BytesMut::new()).is_empty(), "it is written by somebody else");
            look();
            assert!(outbox.end_turn(), "there is nothing to do");
            outbox.write_direct(writer, piece);
            woken.0.swap(0, Ordering::Relaxed)
        };
        assert_eq!(turn(&|| {}), 0, "all is sent, and nobody waits");
        assert_eq!(turn(&|| assert!(!outbox.is_unsent_over(1_000))), 0);
        assert_eq!(turn(&|| assert!(outbox.is_unsent_over(0))), 1, "a closing session waits");
        assert_eq!(turn(&|| assert!(!outbox.is_unsent_over(1_000))), 0, "it waits no more");
        assert_eq!(turn(&|| outbox.frame(&[1], Bytes::new())), 1, "there is something to send");
        assert_eq!(outbox.take(BytesMut::new()).len(), 1);
        outbox.sent(1);
        let (writer, piece) = begin_direct(&outbox, 1_000);
        outbox.drop_subscriber(7);
        outbox.write_direct(writer, piece);
        assert!(matches!(outbox.lock().direct, Direct::Never), "nobody follows any more");
    }

    /// What a session does, until nothing waits.
    async fn send_all(outbox: &Outbox, stream: &TcpStream) {
        loop {
            let piece = outbox.take(BytesMut::new());
            if piece.is_empty() {
                return;
            }
            let mut sent = 0;
            while sent < piece.len() {
                stream.writable().await.expect("it is open");
                if let Ok(count) = stream.try_write_vectored(&piece.rest(sent)) {
                    sent += count;
                    outbox.sent(count);
                }
            }
        }
    }

    /// The first bytes of the next frames.
    async fn frames(client: &mut TcpStream, count: usize) -> Vec<u8> {
        let mut firsts = Vec::new();
        for _ in 0..count {
            let byte = client.read_u8().await.expect("a frame");
            let bytes = client.read_u32_le().await.expect("a frame");
            let mut body = vec![0; bytes as usize];
            client.read_exact(&mut body).await.expect("a frame");
            assert!(body.iter().all(|other| *other == byte), "frames are whole");
            firsts.push(byte);
        }
        firsts
    }

    #[tokio::test]
    async fn a_large_frame_goes_past_the_session_if_nothing_waits() {
        let (server, mut client) = pair().await;
        let outbox = outbox(&server);
        outbox.frame(&head(1, 40_000), tail(1, 40_000));
        assert_eq!((outbox.unsent(), outbox.take_was_direct()), (0, true));
        assert_eq!(frames(&mut client, 1).await, [1]);
        outbox.frame(&head(2, 10), tail(2, 10));
        assert_eq!((outbox.unsent(), outbox.take_was_direct()), (15, false), "it is small");
        outbox.frame(&head(3, 40_000), tail(3, 40_000));
        assert_eq!((outbox.unsent(), outbox.take_was_direct()), (40_020, false), "one waits");
        send_all(&outbox, &server).await;
        assert_eq!(outbox.unsent(), 0);
        assert_eq!(frames(&mut client, 2).await, [2, 3]);
    }

    #[tokio::test]
    async fn what_does_not_fit_is_sent_before_what_comes_later() {
        let (server, mut client) = pair().await;
        let outbox = outbox(&server);
        let mut count = 0;
        while outbox.unsent() == 0 {
            count += 1;
            outbox.frame(&head(count, LARGE), tail(count, LARGE));
        }
        outbox.frame(&head(count + 1, 10), tail(count + 1, 10));
        outbox.frame(&head(count + 2, LARGE), tail(count + 2, LARGE));
        let sending = send_all(&outbox, &server);
        let ((), firsts) = tokio::join!(sending, frames(&mut client, usize::from(count) + 2));
        assert_eq!(firsts, (1..=count + 2).collect::<Vec<_>>());
        outbox.close();
        drop(server);
        assert_eq!(client.read(&mut [0]).await.expect("its end"), 0, "closed with the session");
    }

    #[tokio::test]
    async fn frames_of_two_threads_stay_whole_and_each_in_order() {
        let (server, mut client) = pair().await;
        let outbox = outbox(&server);
        let feed_ended = Arc::new(AtomicBool::new(false));
        let (feed, ended) = (outbox.clone(), feed_ended.clone());
        let body = async move {
            for byte in 0..100 {
                feed.frame(&head(byte, LARGE), tail(byte, LARGE));
                while feed.unsent() > 1 << 20 {
                    tokio::task::yield_now().await;
                }
            }
            ended.store(true, Ordering::Release);
        };
        RealThreads.spawn("feed", Box::pin(body)).expect("a thread");
        let session = async {
            for byte in 100..200 {
                outbox.frame(&head(byte, 100), tail(byte, 100));
                send_all(&outbox, &server).await;
                tokio::task::yield_now().await;
            }
            while !feed_ended.load(Ordering::Acquire) || outbox.unsent() > 0 {
                send_all(&outbox, &server).await;
                tokio::task::yield_now().await;
            }
        };
        let ((), firsts) = tokio::join!(session, frames(&mut client, 200));
        let (of_feed, own): (Vec<u8>, Vec<u8>) = firsts.iter().partition(|byte| **byte < 100);
        assert_eq!(of_feed, (0..100).collect::<Vec<_>>());
        assert_eq!(own, (100..200).collect::<Vec<_>>());
    }
}
