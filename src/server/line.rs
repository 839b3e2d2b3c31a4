//! The line in which connections wait to make large replies.
//!
//! ```text
//! read of many cells ──join──▶ waiting … ──first, and the pace permits──▶ Turn ──end──▶ the next
//!                        └── full: BUSY
//! ```
//!
//! The one thread makes replies for all. A reply with thousands of cells takes most of a millisecond,
//! and sixteen connections that asked for four of them at a time made everybody else wait for 54 ms. So
//! large replies are made one at a time, whoever has waited longest first, and not faster than leaves
//! most of the thread to others.
//!
//! Who leaves the line, because the connection is gone, holds up nobody.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use super::limits::{LARGE_READ_CELLS_PER_SECOND, LARGE_READ_SLACK, LARGE_READS_WAITING_MAX};
use crate::world::{Clock, Pace};

/// See the module.
pub(super) struct Line {
    clock: Arc<dyn Clock>,
    places: Arc<Semaphore>,
    turn: Arc<Semaphore>,
    pace: Mutex<Pace>,
}

/// Waits until it is the first and may begin. Dropping it leaves the line.
pub(super) type Waiting = Pin<Box<dyn Future<Output = Turn> + Send>>;

/// Nobody else has one.
pub(super) struct Turn {
    line: Arc<Line>,
    _place: OwnedSemaphorePermit,
    _turn: OwnedSemaphorePermit,
}

impl Line {
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        Arc::new(Self {
            clock,
            places: Arc::new(Semaphore::new(LARGE_READS_WAITING_MAX)),
            turn: Arc::new(Semaphore::new(1)),
            pace: Mutex::new(Pace::new(LARGE_READ_CELLS_PER_SECOND, LARGE_READ_SLACK)),
        })
    }

    /// Stands at the end of the line; `None`: it is full.
    pub fn join(self: &Arc<Self>) -> Option<Waiting> {
        let place = Arc::clone(&self.places).try_acquire_owned().ok()?;
        let line = Arc::clone(self);
        Some(Box::pin(async move {
            let turn = Arc::clone(&line.turn).acquire_owned().await;
            let turn = turn.expect("the semaphore is never closed");
            let free_at = line.pace().free_at();
            if let Some(early) = free_at.checked_sub(line.clock.monotonic()) {
                sleep(early).await;
            }
            Turn { line, _place: place, _turn: turn }
        }))
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn {
    /// The reply was made, and had so many cells.
    pub fn end(self, cells: usize) {
        let now = self.line.clock.monotonic();
        self.line.pace().book(now, cells as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    use super::*;
    use crate::world::UnixMicros;

    /// Time stands still.
    struct Still;

    impl Clock for Still {
        fn wall(&self) -> UnixMicros {
            UnixMicros(0)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_secs(9)
        }
    }

    fn poll(waiting: &mut Waiting) -> Option<Turn> {
        match waiting.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(turn) => Some(turn),
            Poll::Pending => None,
        }
    }

    #[test]
    fn one_at_a_time_and_in_order() {
        let line = Line::new(Arc::new(Still));
        let [mut first, mut second, mut third] = [(); 3].map(|()| line.join().unwrap());
        let turn = poll(&mut first).expect("the line was empty");
        assert!(poll(&mut second).is_none() && poll(&mut third).is_none());
        drop(second);
        turn.end(1);
        assert!(poll(&mut third).is_some(), "who left the line holds up nobody");
    }

    #[tokio::test]
    async fn a_turn_waits_for_the_pace() {
        let line = Line::new(Arc::new(Still));
        poll(&mut line.join().unwrap()).unwrap().end(8_192);
        assert!(poll(&mut line.join().unwrap()).is_none());
    }

    #[test]
    fn a_full_line_takes_nobody() {
        let line = Line::new(Arc::new(Still));
        let mut all: Vec<Waiting> = std::iter::from_fn(|| line.join()).collect();
        assert_eq!(all.len(), LARGE_READS_WAITING_MAX);
        all.pop();
        assert!(line.join().is_some());
    }
}
