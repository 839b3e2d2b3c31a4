//! A session: one client connection, one task.
//!
//! ```text
//! Greeting ──hello──▶ Open ──end of input, fault, shutdown──▶ Closing ──all sent──▶ closed
//!     └── no hello in time, or a wrong one ───────────────────────┘
//!
//! one turn:  receive all there is ─▶ admit the burst ─▶ answer reads ─▶ send all there is
//! ```
//!
//! The task is one hand-written poll instead of a reader and a writer: it is woken by the socket, by
//! the outbox, by a read barrier or by its timer, and then does everything that can be done. Replies
//! to many frames leave in one write.
//!
//! Invariants:
//! - The receive buffer grows with the bytes that came, never with a length that was declared.
//! - Nothing is received while the client leaves too many reply bytes unread, or a large read of it
//!   waits for its turn.
//! - A closing session has answered what it had admitted, unless the client does not take it in time.
//!
//! Left out on purpose: encryption and authentication, which belong in front of the hello.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWrite};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep};

use super::admission::Burst;
use super::limits::{
    Limits, OPS_PER_TURN, RECEIVE_BYTES_MAX, RECEIVE_BYTES_MIN, ROUNDS_PER_TURN, TIDY_AFTER,
    emptied,
};
use super::metrics;
use super::outbox::{Outbox, Piece};
use super::reads::Reads;
use super::shared::{Phase, Registered, Shared};
use crate::protocol::limits::{
    BATCH_OPS_MAX, CLIENT_NAME_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX_BEFORE_HELLO,
};
use crate::protocol::{
    Code, Frame, FrameError, Hello, HelloReply, Kind, MAGIC, UnixMillis, VERSION, take_frame,
};
use crate::replication::Refusal;
use crate::world::net::TcpStream;

/// The connection is over.
struct Ended;

enum Stage {
    /// Waits for the hello; the permit bounds how many do.
    Greeting {
        since: Instant,
        permit: OwnedSemaphorePermit,
    },
    Open,
    /// Sends what is owed. `linger`: the client may still be sending, and closing on unread bytes
    /// would reset the connection and take our last words with it.
    Closing {
        since: Instant,
        linger: bool,
        shut: bool,
    },
}

/// See the module.
pub(super) struct Session {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    _registered: Registered,
    stream: TcpStream,
    stage: Stage,
    received: BytesMut,
    receive_bytes: usize,
    sending: Piece,
    sent: usize,
    reads: Reads,
    timer: Pin<Box<Sleep>>,
    /// When something last came or went; what others send counts when the timer asks.
    active_at: Instant,
    /// When the frame at the front of `received` began.
    frame_began_at: Option<Instant>,
    /// Since when the client takes nothing of what there is.
    stuck_since: Option<Instant>,
    tidy: bool,
}

impl Session {
    /// A session in its greeting. Await [`run`](Self::run).
    pub fn new(
        shared: Arc<Shared>,
        stream: TcpStream,
        peer: String,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        let outbox = Arc::new(Outbox::new(Arc::clone(&shared.metrics), peer));
        let now = Instant::now();
        Self {
            _registered: shared.register(Arc::clone(&outbox)),
            timer: Box::pin(tokio::time::sleep_until(now)),
            shared,
            outbox,
            stream,
            stage: Stage::Greeting { since: now, permit },
            received: BytesMut::new(),
            receive_bytes: RECEIVE_BYTES_MIN,
            sending: Piece::default(),
            sent: 0,
            reads: Reads::default(),
            active_at: now,
            frame_began_at: None,
            stuck_since: None,
            tidy: false,
        }
    }

    /// Serves the connection until it is over.
    pub async fn run(mut self) {
        std::future::poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.outbox.begin_turn(cx.waker());
        let ops_before = metrics::read(&self.outbox.ops);
        for _ in 0..ROUNDS_PER_TURN {
            match self.round(cx) {
                Err(Ended) => return Poll::Ready(()),
                Ok(true) if metrics::read(&self.outbox.ops) - ops_before >= OPS_PER_TURN => break,
                Ok(true) => {}
                Ok(false) if self.rests() => return Poll::Pending,
                Ok(false) => self.outbox.begin_turn(cx.waker()),
            }
        }
        self.outbox.end_turn();
        // Not just woken again: a runtime with something to run looks at its sockets and timers only
        // now and then, and this goes behind the next look.
        let _ = pin!(tokio::task::yield_now()).poll(cx);
        Poll::Pending
    }

    /// Ends the turn, unless somebody has left something to send since the last look. What does not
    /// fit the socket waits for the socket.
    fn rests(&self) -> bool {
        self.outbox.end_turn() || self.sent < self.sending.len()
    }

    /// Does what can be done. True: something was done, look again.
    fn round(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        if self.shared.phase() == Phase::Closing {
            self.close(false);
        }
        let mut progress = self.receive(cx)?;
        progress |= self.reads.poll(cx, &self.shared, &self.outbox);
        progress |= self.send(cx)?;
        self.finish(cx)?;
        self.check_time(cx)?;
        Ok(progress)
    }

    /// Stops taking requests. Only the first call counts.
    fn close(&mut self, linger: bool) {
        if !matches!(self.stage, Stage::Closing { .. }) {
            self.stage = Stage::Closing { since: Instant::now(), linger, shut: false };
            self.received = BytesMut::new();
            self.frame_began_at = None;
            self.outbox.leave_subscribers();
        }
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        if matches!(self.stage, Stage::Closing { .. }) {
            return Ok(false);
        }
        let unsent_max = self.shared.limits.unsent_bytes_pause;
        if self.outbox.is_unsent_over(unsent_max) || self.reads.stands_in_line() {
            // We keep the client from finishing its frame, so its time does not run.
            self.frame_began_at = None;
            return Ok(false);
        }
        self.received.reserve(self.receive_bytes);
        let read = pin!(self.stream.read_buf(&mut self.received)).poll(cx);
        let count = match read {
            Poll::Pending => return Ok(false),
            Poll::Ready(Err(_)) => return Err(Ended),
            Poll::Ready(Ok(count)) => count,
        };
        if count == 0 {
            self.close(false);
            return Ok(true);
        }
        metrics::add(&self.shared.metrics.bytes_received, count as u64);
        if count >= self.receive_bytes && !matches!(self.stage, Stage::Greeting { .. }) {
            self.receive_bytes = (self.receive_bytes * 2).min(RECEIVE_BYTES_MAX);
        }
        self.active_at = Instant::now();
        self.tidy = false;
        if let Err(refusal) = self.take_frames() {
            self.outbox.error(0, &refusal);
            self.close(true);
        }
        Ok(true)
    }

    /// Takes all whole frames that were received.
    fn take_frames(&mut self) -> Result<(), Refusal> {
        let before = self.received.len();
        if matches!(self.stage, Stage::Greeting { .. }) {
            match take_frame(&mut self.received, FRAME_BYTES_MAX_BEFORE_HELLO).map_err(bad_frame)? {
                Some(frame) => self.greet(&frame)?,
                None => {
                    self.frame_began_at.get_or_insert(self.active_at);
                    return Ok(());
                }
            }
        }
        self.admit()?;
        if self.received.is_empty() {
            // The capacity tells nothing: frames were split off, and the allocation is theirs too.
            if before > 2 * RECEIVE_BYTES_MAX {
                self.received = BytesMut::new();
            }
            self.frame_began_at = None;
        } else if self.received.len() < before {
            self.frame_began_at = Some(self.active_at);
        } else {
            self.frame_began_at.get_or_insert(self.active_at);
        }
        Ok(())
    }

    /// Admits all whole frames as one burst.
    fn admit(&mut self) -> Result<(), Refusal> {
        let Some(mut frame) = take_frame(&mut self.received, FRAME_BYTES_MAX).map_err(bad_frame)?
        else {
            return Ok(());
        };
        let mut burst = Burst::new(&self.shared, &self.outbox, &self.stream, &mut self.reads);
        loop {
            burst.frame(&frame)?;
            match take_frame(&mut self.received, FRAME_BYTES_MAX).map_err(bad_frame)? {
                Some(next) => frame = next,
                None => return Ok(()),
            }
        }
    }

    fn greet(&mut self, frame: &Frame) -> Result<(), Refusal> {
        let name = check_hello(frame)?;
        let leadership = self.shared.replica.leadership();
        let (cluster_id, node_id) = self.shared.replica.identity();
        let leader = leadership.leader.as_ref().map_or("", |node| &node.client_address);
        let reply = HelloReply {
            version: VERSION,
            frame_bytes_max: FRAME_BYTES_MAX,
            batch_ops_max: BATCH_OPS_MAX,
            frames_in_flight_max: self.shared.limits.frames_in_flight_max,
            cluster_id,
            node_id,
            server_now: UnixMillis(self.shared.replica.now().as_millis()),
            leader: leader.as_bytes(),
        };
        self.outbox.greet(frame.header.request_id, &reply);
        self.outbox.set_client_name(name);
        self.stage = Stage::Open;
        Ok(())
    }

    /// Sends until nothing is left or the socket is full.
    fn send(&mut self, cx: &mut Context<'_>) -> Result<bool, Ended> {
        let mut progress = false;
        loop {
            if self.sent == self.sending.len() {
                let spare = emptied(std::mem::take(&mut self.sending).own);
                self.sent = 0;
                self.sending = self.outbox.take(spare);
                if self.sending.is_empty() {
                    self.stuck_since = None;
                    return Ok(progress);
                }
            }
            let rest = self.sending.rest(self.sent);
            let stream = Pin::new(&mut self.stream);
            let written = match &rest {
                [own, shared] if shared.is_empty() => stream.poll_write(cx, own),
                both => stream.poll_write_vectored(cx, both),
            };
            match written {
                Poll::Ready(Ok(count)) if count > 0 => {
                    self.sent += count;
                    self.outbox.sent(count);
                    self.stuck_since = None;
                    self.active_at = Instant::now();
                    progress = true;
                }
                Poll::Ready(_) => return Err(Ended),
                Poll::Pending => {
                    self.stuck_since.get_or_insert_with(Instant::now);
                    return Ok(progress);
                }
            }
        }
    }

    /// Brings a closing session to its end.
    fn finish(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        let Stage::Closing { linger, shut, .. } = &mut self.stage else { return Ok(()) };
        let owes = self.outbox.owed().frames > 0 || !self.reads.is_empty();
        if owes || self.outbox.is_unsent_over(0) {
            return Ok(());
        }
        if !*shut {
            match Pin::new(&mut self.stream).poll_shutdown(cx) {
                Poll::Pending => return Ok(()),
                Poll::Ready(Err(_)) => return Err(Ended),
                Poll::Ready(Ok(())) => *shut = true,
            }
        }
        if !*linger {
            return Err(Ended);
        }
        match discard(&mut self.stream, cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(_) => Err(Ended),
        }
    }

    /// The first moment at which something is overdue, and whether that ends the session.
    fn next_deadline(&self) -> (Instant, bool) {
        let limits = &self.shared.limits;
        let mut next = match &self.stage {
            Stage::Greeting { since, permit } => greeting_deadline(*since, permit, limits),
            Stage::Closing { since, .. } => (*since + limits.close_timeout, true),
            Stage::Open if self.tidy => (self.active_at + limits.idle_timeout, true),
            Stage::Open => (self.active_at + TIDY_AFTER.min(limits.idle_timeout), false),
        };
        let overdue = [
            self.frame_began_at.map(|since| since + limits.frame_timeout),
            self.stuck_since.map(|since| since + limits.send_timeout),
        ];
        for deadline in overdue.into_iter().flatten() {
            if deadline <= next.0 {
                next = (deadline, true);
            }
        }
        next
    }

    /// Ends the session when it is overdue; moves the timer only when it has fired or would fire too
    /// late, because moving it costs more than firing in vain.
    fn check_time(&mut self, cx: &mut Context<'_>) -> Result<(), Ended> {
        loop {
            let (deadline, fatal) = self.next_deadline();
            if deadline < self.timer.deadline() {
                self.timer.as_mut().reset(deadline);
            }
            if self.timer.as_mut().poll(cx).is_pending() {
                return Ok(());
            }
            if self.outbox.take_was_direct() {
                self.active_at = Instant::now();
                continue;
            }
            if Instant::now() < deadline {
                self.timer.as_mut().reset(deadline);
            } else if fatal {
                return Err(Ended);
            } else {
                self.give_memory_back();
            }
        }
    }

    fn give_memory_back(&mut self) {
        self.tidy = true;
        if self.received.is_empty() {
            self.received = BytesMut::new();
            self.receive_bytes = RECEIVE_BYTES_MIN;
        }
        if self.sending.is_empty() {
            self.sending = Piece::default();
            self.outbox.tidy();
        }
        self.reads.tidy();
    }
}

/// Until when the hello must be there, or until when to look again whether others wait for the place.
fn greeting_deadline(
    since: Instant,
    permit: &OwnedSemaphorePermit,
    limits: &Limits,
) -> (Instant, bool) {
    let (end, hurried) = (since + limits.hello_timeout, since + limits.hello_timeout_crowded);
    if permit.semaphore().available_permits() == 0 {
        return (end.min(hurried), true);
    }
    let look = Instant::now() + limits.hello_timeout_crowded;
    (end.min(look), end <= look)
}

impl Drop for Session {
    fn drop(&mut self) {
        self.reads.clear(&self.outbox);
    }
}

/// Reads and forgets. Ready: the client has closed, or is not worth waiting for.
fn discard(stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
    let mut scratch = [0; RECEIVE_BYTES_MIN];
    // The closing session's timer bounds this.
    while ready!(pin!(stream.read(&mut scratch)).poll(cx))? > 0 {}
    Poll::Ready(Ok(()))
}

/// The client's name, if its hello is one we can talk to.
fn check_hello(frame: &Frame) -> Result<&[u8], Refusal> {
    let refuse = |code, message: String| Refusal { message, ..Refusal::new(code, 0) };
    if frame.header.kind != Kind::Hello {
        let message = "the first frame of a connection must be a hello".to_owned();
        return Err(refuse(Code::BAD_FRAME, message));
    }
    let hello = Hello::decode(&frame.body)
        .map_err(|_| refuse(Code::BAD_FRAME, "the hello is cut short".to_owned()))?;
    if hello.magic != MAGIC {
        return Err(refuse(Code::BAD_FRAME, "the hello does not begin with STKD".to_owned()));
    }
    if hello.client_name.len() > CLIENT_NAME_BYTES_MAX {
        let message = format!("the client name is over {CLIENT_NAME_BYTES_MAX} bytes");
        return Err(refuse(Code::BAD_FRAME, message));
    }
    if !(hello.version_min..=hello.version_max).contains(&VERSION) {
        let (min, max) = (hello.version_min, hello.version_max);
        let message = format!("this server speaks version {VERSION}, the client {min} to {max}");
        return Err(refuse(Code::VERSION, message));
    }
    Ok(hello.client_name)
}

fn bad_frame(error: FrameError) -> Refusal {
    let code = match error {
        FrameError::TooLarge { .. } => Code::TOO_LARGE,
        _ => Code::BAD_FRAME,
    };
    Refusal { message: format!("{error}; the connection closes"), ..Refusal::new(code, 0) }
}
