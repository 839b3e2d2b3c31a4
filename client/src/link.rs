//! One connection with many requests on it.
//!
//! ```text
//! caller: permit ─▶ [outgoing ⧺ frame, waiting ∪ id] ─▶ wake ┐        ┌▶ oneshot ─▶ caller
//! task:                        write everything at once ◀─────┘  read ─┘
//! ```
//!
//! One task per connection, which writes whatever has gathered and hands replies to whom they belong.
//!
//! Invariants:
//! - An id is in `waiting` from the moment its frame is in `outgoing` until its reply came or the
//!   link closed, and holds one permit as long: the server's bound on unanswered frames is kept even
//!   for callers that have given up.
//! - `taken_up_to` is the highest id whose frame may have reached the socket; on closing, ids above
//!   it were certainly not sent.
//! - A closed link stays closed. A retired one takes no requests but waits for its replies.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};
use std::task::Poll;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use stockd_protocol::{Frame, Header, ShardId, begin_frame, finish_frame};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, oneshot};
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::options::{Options, WhenFull};
use crate::raw;
use crate::request::Encoded;

/// A buffer that a burst has blown up beyond this is not kept.
const SPARE_BYTES_MAX: usize = 256 * 1024;

/// Why a request on a link has no reply.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fate {
    /// The link's bound on unanswered frames was reached. Not sent.
    Full,
    /// The link closed after the frame may have been written.
    Lost,
    /// No reply came in time; it may still come.
    TimedOut,
    /// Larger than this server takes; it would close the connection. Not sent.
    TooLarge,
    /// The link closed or was retired before the frame was written. Not sent.
    Unsent,
}

pub(crate) struct Link {
    address: String,
    cluster_id: u64,
    frame_bytes_max: u32,
    when_full: WhenFull,
    reply_timeout: Duration,
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    wake: Notify,
    task: OnceLock<AbortHandle>,
}

struct State {
    life: Life,
    outgoing: BytesMut,
    waiting: BTreeMap<u64, Waiter>,
    next_id: u64,
    taken_up_to: u64,
    frames_received: u64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Life {
    Open,
    Retired,
    Closed,
}

struct Waiter {
    reply: oneshot::Sender<Result<Frame, Fate>>,
    _permit: OwnedSemaphorePermit,
}

impl Link {
    /// Starts the task that serves `connection`, which leads to `address`.
    pub(crate) fn start(
        connection: raw::Connection,
        address: String,
        options: &Options,
    ) -> Arc<Self> {
        let server_max = connection.greeting().frames_in_flight_max;
        let in_flight_max = options.frames_in_flight_max.min(server_max).max(1);
        let link = Arc::new(Self {
            address,
            cluster_id: connection.greeting().cluster_id,
            frame_bytes_max: connection.greeting().frame_bytes_max,
            when_full: options.when_full,
            reply_timeout: options.reply_timeout,
            permits: Arc::new(Semaphore::new(in_flight_max as usize)),
            state: Mutex::new(State::new()),
            wake: Notify::new(),
            task: OnceLock::new(),
        });
        let task = tokio::spawn(link.clone().serve(connection));
        link.task.set(task.abort_handle()).expect("set once, here");
        link
    }

    /// The id of the cluster that it leads to.
    pub(crate) fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// Where it leads.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Requests may be sent on it.
    pub(crate) fn is_open(&self) -> bool {
        self.lock().life == Life::Open
    }

    /// Sends one request and waits for its reply, until `deadline` or the reply timeout.
    pub(crate) async fn call(&self, request: &Encoded, deadline: Instant) -> Result<Frame, Fate> {
        if Header::BYTES + request.body.len() > self.frame_bytes_max as usize {
            return Err(Fate::TooLarge);
        }
        let permit = self.permit(deadline).await?;
        let (tx, rx) = oneshot::channel();
        let received_before = {
            let mut state = self.lock();
            if state.life != Life::Open {
                return Err(Fate::Unsent);
            }
            state.push(request, Waiter { reply: tx, _permit: permit });
            state.frames_received
        };
        self.wake.notify_one();
        match timeout_at(deadline.min(Instant::now() + self.reply_timeout), rx).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => Err(Fate::Lost),
            Err(_) => {
                // Other replies came: this one is slow. None came: the peer is gone or hung, and
                // without this a half-open connection would never be left.
                if self.lock().frames_received == received_before {
                    self.close();
                }
                Err(Fate::TimedOut)
            }
        }
    }

    /// Takes no more requests; ends once the outstanding replies are there.
    pub(crate) fn retire(&self) {
        let mut state = self.lock();
        if state.life == Life::Open {
            state.life = Life::Retired;
        }
        drop(state);
        self.permits.close();
        self.wake.notify_one();
    }

    /// Ends it now; every caller learns whether its frame may have been sent.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        let waiting = state.close();
        drop(state);
        self.permits.close();
        for (waiter, fate) in waiting {
            // A caller that has given up does not listen.
            let _ = waiter.reply.send(Err(fate));
        }
        if let Some(task) = self.task.get() {
            task.abort();
        }
    }

    async fn permit(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Fate> {
        if let Ok(permit) = self.permits.clone().try_acquire_owned() {
            return Ok(permit);
        }
        if self.permits.is_closed() {
            return Err(Fate::Unsent);
        }
        if self.when_full == WhenFull::Fail {
            return Err(Fate::Full);
        }
        match timeout_at(deadline, self.permits.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_closed)) => Err(Fate::Unsent),
            Err(_) => Err(Fate::Full),
        }
    }

    async fn serve(self: Arc<Self>, connection: raw::Connection) {
        let (writer, reader) = connection.split();
        // Why it ended is the same to every caller: the connection is gone.
        let _ = race(race(self.write(writer), self.read(reader)), self.watch()).await;
        self.close();
    }

    async fn write(&self, mut writer: raw::Writer) -> Result<(), raw::Error> {
        loop {
            self.wake.notified().await;
            // Whoever is ready to run may have a request too: one write for all of them.
            tokio::task::yield_now().await;
            while self.take_outgoing(writer.buffer()) {
                writer.flush().await?;
                if writer.buffer().capacity() > SPARE_BYTES_MAX {
                    *writer.buffer() = BytesMut::new();
                }
            }
            if self.lock().is_done() {
                return Ok(());
            }
        }
    }

    fn take_outgoing(&self, empty: &mut BytesMut) -> bool {
        self.lock().take_outgoing(empty)
    }

    async fn read(&self, mut reader: raw::Reader) -> Result<(), raw::Error> {
        loop {
            let burst = reader.next_burst().await?;
            let mut state = self.lock();
            for frame in burst {
                let frame = frame?;
                state.frames_received += 1;
                if let Some(waiter) = state.waiting.remove(&frame.header.request_id) {
                    // A caller that has given up does not listen.
                    let _ = waiter.reply.send(Ok(frame));
                }
            }
            if state.is_done() {
                return Ok(());
            }
        }
    }

    /// Ends when somebody has waited for a whole reply timeout or two and nothing came at all. The
    /// callers cannot be relied on to notice: they may drop their calls before.
    async fn watch(&self) -> Result<(), raw::Error> {
        let mut before = None;
        loop {
            sleep(self.reply_timeout).await;
            let now = self.lock().oldest_waiting();
            if now.is_some() && now == before {
                return Err(raw::Error::Closed);
            }
            before = now;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

impl State {
    fn new() -> Self {
        Self {
            life: Life::Open,
            outgoing: BytesMut::new(),
            waiting: BTreeMap::new(),
            next_id: 1,
            taken_up_to: 0,
            frames_received: 0,
        }
    }

    fn push(&mut self, request: &Encoded, waiter: Waiter) {
        let request_id = self.next_id;
        self.next_id += 1;
        let header = Header { request_id, kind: request.kind, shard: ShardId(0) };
        let start = begin_frame(&mut self.outgoing, header);
        self.outgoing.put_slice(&request.body);
        finish_frame(&mut self.outgoing, start);
        self.waiting.insert(request_id, waiter);
    }

    /// Swaps what has gathered with an empty buffer; false if nothing has.
    fn take_outgoing(&mut self, empty: &mut BytesMut) -> bool {
        self.taken_up_to = self.next_id - 1;
        std::mem::swap(&mut self.outgoing, empty);
        !empty.is_empty()
    }

    /// Takes everybody who waits, with what became of each frame. What was not taken yet is dropped:
    /// the writing task may be at work on another thread, and must not send what is called unsent.
    fn close(&mut self) -> impl Iterator<Item = (Waiter, Fate)> + use<> {
        self.life = Life::Closed;
        self.outgoing = BytesMut::new();
        let taken_up_to = self.taken_up_to;
        std::mem::take(&mut self.waiting).into_iter().map(move |(id, waiter)| {
            (waiter, if id > taken_up_to { Fate::Unsent } else { Fate::Lost })
        })
    }

    /// Who has waited longest, and how many frames have come.
    fn oldest_waiting(&self) -> Option<(u64, u64)> {
        self.waiting.first_key_value().map(|(id, _)| (*id, self.frames_received))
    }

    fn is_done(&self) -> bool {
        self.life != Life::Open && self.waiting.is_empty()
    }
}

/// Runs both until one is done. (`tokio::select!` would bring four crates for this.)
pub(crate) async fn race<T>(a: impl Future<Output = T>, b: impl Future<Output = T>) -> T {
    let (mut a, mut b) = (pin!(a), pin!(b));
    poll_fn(|context| match a.as_mut().poll(context) {
        Poll::Ready(value) => Poll::Ready(value),
        Poll::Pending => b.as_mut().poll(context),
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use stockd_protocol::{Op, Opcode};

    fn push(state: &mut State) {
        let ping = Encoded::op(Opcode::Ping, |out| {
            Op::encode_ping(out);
            Ok(())
        });
        let permits = Arc::new(Semaphore::new(1));
        let permit = permits.try_acquire_owned().expect("a permit is free");
        let waiter = Waiter { reply: oneshot::channel().0, _permit: permit };
        state.push(&ping.expect("a ping is valid"), waiter);
    }

    #[test]
    fn what_is_called_unsent_is_never_sent() {
        let mut state = State::new();
        let mut buffer = BytesMut::new();
        push(&mut state);
        assert!(state.take_outgoing(&mut buffer));
        push(&mut state);
        let fates: Vec<Fate> = state.close().map(|(_, fate)| fate).collect();
        assert_eq!(fates, [Fate::Lost, Fate::Unsent]);
        buffer.clear();
        assert!(!state.take_outgoing(&mut buffer), "the writer comes too late");
    }
}
