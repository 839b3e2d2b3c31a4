//! The caller's side of a stream, and what it shares with the task that fills it.
//!
//! ```text
//! task ──push──▶ waiting: one batch that grows ──next──▶ caller
//!      ◀──────────────── room for more ────────────────┘
//! ```
//!
//! Invariants:
//! - `waiting` has at most a window of bytes, and a record more (credit.rs): the task grants no more.
//! - What came before the end is handed out before it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use stockd_protocol::{EventsHead, Start};
use tokio::sync::Notify;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use super::batch::Batch;
use super::error::{Error, Trouble};
use super::follow::Follower;
use super::nodes::Nodes;
use super::subscription::Subscription;

/// Events as they come, from whichever node is there. Dropping it ends the subscription.
pub struct EventStream {
    shared: Arc<Shared>,
    cluster_id: u64,
    position: u64,
    task: AbortHandle,
}

/// What the task and the caller share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// For the caller: there is something.
    ready: Notify,
    /// For the task: there is room.
    pub(super) room: Notify,
}

pub(super) struct State {
    pub(super) nodes: Nodes,
    pub(super) cluster_id: Option<u64>,
    pub(super) connected_to: Option<String>,
    waiting: Option<Batch>,
    reached: u64,
    end: Option<Error>,
}

impl EventStream {
    pub(super) async fn open(subscription: Subscription) -> Result<Self, Error> {
        let patience = subscription.options.request_timeout;
        let shared = Arc::new(Shared::new(&subscription));
        let follower = Follower::new(subscription, shared.clone());
        let task = tokio::spawn(follower.run()).abort_handle();
        let mut stream = Self { shared, cluster_id: 0, position: 0, task };
        match timeout(patience, stream.shared.ready.notified()).await {
            Ok(()) => {
                (stream.cluster_id, stream.position) = stream.shared.begun()?;
                Ok(stream)
            }
            Err(_) => Err(Error::Unreachable { troubles: stream.troubles() }),
        }
    }

    /// The next events, as soon as there are any: all that have come meanwhile. Also without an event, every ten
    /// seconds or so: then it says how far the node has come. Waits for as long as it takes while no node is there;
    /// put a timeout around it to learn of that, and see [`troubles`](Self::troubles). Cancelling it loses nothing.
    ///
    /// # Errors
    /// The stream has ended: see [`Error`].
    pub async fn next(&mut self) -> Result<Batch, Error> {
        loop {
            if let Some(batch) = self.shared.take()? {
                self.position = batch.next();
                return Ok(batch);
            }
            self.shared.ready.notified().await;
        }
    }

    /// The number after the last event that was handed out: where to go on, once that is handled.
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// The number that the node's next event will have, as far as is known: behind [`position`](Self::position) if that is
    /// yet to come.
    pub fn reached(&self) -> u64 {
        self.shared.lock().reached
    }

    /// How many events the node has, as far as is known, that were not handed out. Also those that are not wanted.
    pub fn lag(&self) -> u64 {
        self.shared.lock().reached.saturating_sub(self.position)
    }

    /// The cluster that is followed.
    pub const fn cluster_id(&self) -> u64 {
        self.cluster_id
    }

    /// The node that is followed; `None`: none at the moment.
    pub fn connected_to(&self) -> Option<String> {
        self.shared.lock().connected_to.clone()
    }

    /// Each node that was left since events last came, and why.
    pub fn troubles(&self) -> Vec<(String, Trouble)> {
        let state = self.shared.lock();
        let troubles = state.nodes.troubles();
        troubles.map(|(address, trouble)| (address.to_owned(), trouble.clone())).collect()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for EventStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (position, connected_to) = (self.position, self.connected_to());
        f.debug_struct("EventStream")
            .field("position", &position)
            .field("connected_to", &connected_to)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(subscription: &Subscription) -> Self {
        let state = State {
            nodes: Nodes::new(&subscription.options.addresses),
            cluster_id: subscription.cluster_id,
            connected_to: None,
            waiting: None,
            reached: 0,
            end: None,
        };
        Self { state: Mutex::new(state), ready: Notify::new(), room: Notify::new() }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is whole before anything could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes that wait for the caller.
    pub(super) fn waiting_bytes(&self) -> usize {
        self.lock().waiting.as_ref().map_or(0, Batch::bytes)
    }

    /// Adds what comes next.
    pub(super) fn push(&self, head: EventsHead, records: Bytes) {
        let mut state = self.lock();
        state.reached = head.reached;
        match &mut state.waiting {
            Some(waiting) => waiting.extend(head, records),
            none => *none = Some(Batch::new(head, records)),
        }
        drop(state);
        self.ready.notify_one();
    }

    /// Nothing will come any more.
    pub(super) fn end(&self, error: Error) {
        self.lock().end = Some(error);
        self.ready.notify_one();
    }

    fn take(&self) -> Result<Option<Batch>, Error> {
        let mut state = self.lock();
        match (state.waiting.take(), &state.end) {
            (Some(batch), _) => {
                drop(state);
                if !batch.is_empty() {
                    self.room.notify_one();
                }
                Ok(Some(batch))
            }
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Ok(None),
        }
    }

    /// The cluster, and where the stream begins.
    fn begun(&self) -> Result<(u64, u64), Error> {
        let state = self.lock();
        match (&state.waiting, &state.end) {
            (Some(batch), _) => Ok((state.cluster_id.unwrap_or_default(), batch.first())),
            (None, Some(error)) => Err(error.clone()),
            (None, None) => Err(Error::Unreachable { troubles: Vec::new() }),
        }
    }
}

impl State {
    /// Why all is over, if every node has said that asking it again is of no use.
    pub(super) fn verdict(&self, start: Start) -> Option<Error> {
        if !self.nodes.all_final() {
            return None;
        }
        let mut verdict = None;
        for (_, trouble) in self.nodes.troubles() {
            match trouble {
                Trouble::Gone { .. } => {
                    return Some(Error::Gone { start, next: self.nodes.next_there() });
                }
                Trouble::Refused { code, message } => {
                    verdict = Some(Error::Refused { code: *code, message: message.clone() });
                }
                _ => {
                    verdict.get_or_insert(Error::NoEvents);
                }
            }
        }
        verdict
    }
}
