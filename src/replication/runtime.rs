//! The runtime that openraft's tasks run on: tokio's, with sharper short sleeps.
//!
//! openraft's forwarder of finished log writes sleeps one microsecond whenever the next write has
//! finished before it looks, to batch its notifications. Tokio's timer has a granularity of a
//! millisecond, so under load every commit waited one to two of them: at 64 clients that was most of
//! their latency. A sleep of at most [`SHORT`] therefore ends at once here. Not of more: openraft's
//! tick counts on not being woken before its time, and asks again until it has come.

use std::future::Future;
use std::time::Duration;

use openraft::impls::TokioRuntime;
use openraft::type_config::AsyncRuntime;
use openraft::{Instant as _, OptionalSend};

/// Sleeps up to this, the forwarder's, are not worth a timer. In a simulation no time passes while the
/// tick asks again, so there they are.
const SHORT: Duration = Duration::from_micros(if cfg!(stockd_sim) { 0 } else { 1 });
/// How far in the past a timer must lie to fire when it is first polled, whatever the rounding.
const PAST: Duration = Duration::from_millis(10);

type Tokio = TokioRuntime;
type Instant = <Tokio as AsyncRuntime>::Instant;

/// Tokio with sharper short sleeps.
#[derive(Debug)]
pub struct SharpRuntime(Tokio);

impl AsyncRuntime for SharpRuntime {
    type JoinError = <Tokio as AsyncRuntime>::JoinError;
    type JoinHandle<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::JoinHandle<T>;
    type Sleep = <Tokio as AsyncRuntime>::Sleep;
    type Instant = Instant;
    type TimeoutError = <Tokio as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + OptionalSend> = <Tokio as AsyncRuntime>::Timeout<R, T>;
    #[cfg(not(stockd_sim))]
    type ThreadLocalRng = <Tokio as AsyncRuntime>::ThreadLocalRng;
    #[cfg(stockd_sim)]
    type ThreadLocalRng = rand::rngs::SmallRng;
    type Mpsc = <Tokio as AsyncRuntime>::Mpsc;
    type Watch = <Tokio as AsyncRuntime>::Watch;
    type Oneshot = <Tokio as AsyncRuntime>::Oneshot;
    type Mutex<T: OptionalSend + 'static> = <Tokio as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + OptionalSend + 'static,
        T::Output: OptionalSend + 'static,
    {
        Tokio::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Tokio::sleep(duration)
    }

    fn sleep_until(deadline: Instant) -> Self::Sleep {
        let short = deadline <= Instant::now() + SHORT;
        Tokio::sleep_until(if short { deadline - PAST } else { deadline })
    }

    fn timeout<R, F: Future<Output = R> + OptionalSend>(
        duration: Duration,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + OptionalSend>(
        deadline: Instant,
        future: F,
    ) -> Self::Timeout<R, F> {
        Tokio::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        Tokio::is_panic(join_error)
    }

    #[cfg(not(stockd_sim))]
    fn thread_rng() -> Self::ThreadLocalRng {
        Tokio::thread_rng()
    }

    /// openraft's jitter has no door of its own: in a simulation it comes from the network's seed.
    #[cfg(stockd_sim)]
    fn thread_rng() -> Self::ThreadLocalRng {
        rand::SeedableRng::seed_from_u64(stockd_simnet::random())
    }

    fn new(threads: usize) -> Self {
        Self(Tokio::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_shortest_sleeps_end_at_once() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        runtime.expect("a runtime needs nothing").block_on(async {
            let ends_at_once = async |sleep: Duration| {
                let sleep = SharpRuntime::sleep_until(Instant::now() + sleep);
                tokio::select! { biased; () = sleep => true, () = std::future::ready(()) => false }
            };
            assert!(ends_at_once(Duration::from_micros(1)).await, "the forwarder's");
            // openraft's tick, woken before its time, would ask again and again.
            assert!(!ends_at_once(Duration::from_millis(1)).await, "the tick's");
        });
    }
}
