//! A machine: a clock, a runtime on simulated time, and the process that runs there, if any.
//!
//! The runtime is tokio's current-thread one with its clock stopped: inside a step of one
//! millisecond it runs whatever can run, and time goes from timer to timer. A machine whose clock
//! is slow is stepped less often than the simulation's time goes on; a paused process (SIGSTOP, a
//! long pause of its hypervisor) is not stepped at all, and finds afterwards that time has jumped.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, RngSeed, Runtime};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::doors::{Dice, MachineClock};

/// A clock that runs true, in millionths.
pub const TRUE_RATE: u64 = 1_000_000;

/// See the module. `T` is what its process ends with.
pub struct Machine<T> {
    /// Its number on the network.
    pub host: stockd_simnet::Host,
    /// Its clock.
    pub clock: Arc<MachineClock>,
    /// How fast its clock runs, in millionths of true time.
    pub rate: u64,
    /// Its process does not run.
    pub paused: bool,
    dice: Dice,
    process: Option<Process<T>>,
}

struct Process<T> {
    runtime: Runtime,
    main: JoinHandle<T>,
    began: Instant,
    /// When it was started, and how far it has been run, by the machine's clock in milliseconds.
    ran_from_ms: u64,
    ran_ms: u64,
}

impl<T: Send + 'static> Machine<T> {
    /// A machine without a process.
    pub fn new(host: stockd_simnet::Host, dice: Dice) -> Self {
        let clock = Arc::default();
        Self { host, clock, rate: TRUE_RATE, paused: false, dice, process: None }
    }

    /// A process runs, or is paused.
    pub fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// Starts a process. It does nothing until the next step.
    ///
    /// # Panics
    /// There is one already.
    pub fn start(&mut self, main: impl Future<Output = T> + Send + 'static) {
        assert!(self.process.is_none(), "a machine runs one process");
        let seed = RngSeed::from_bytes(&self.dice.roll().to_le_bytes());
        let runtime = Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .rng_seed(seed)
            .build()
            .expect("a runtime without I/O needs nothing");
        let guard = runtime.enter();
        let began = Instant::now();
        drop(guard);
        let main = runtime.spawn(main);
        let ran_from_ms = self.clock.micros() / 1_000;
        self.process = Some(Process { runtime, main, began, ran_from_ms, ran_ms: ran_from_ms });
    }

    /// Runs something beside the process's main task, if there is one.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        if let Some(process) = &self.process {
            drop(process.runtime.spawn(task));
        }
    }

    /// Looks at something inside the process, where its time is.
    pub fn inside<R>(&self, look: impl FnOnce() -> R) -> Option<R> {
        let process = self.process.as_ref()?;
        let _guard = process.runtime.enter();
        Some(look())
    }

    /// Ends the process as kill -9 does: its sockets are closed by the kernel. With the network's
    /// power off, nobody hears of it.
    pub fn kill(&mut self) {
        stockd_simnet::enter(self.host);
        self.paused = false;
        drop(self.process.take());
    }

    /// Lets a millisecond of true time pass. Returns what the process ended with, if it did.
    ///
    /// # Panics
    /// The process panicked in its main task.
    pub fn step(&mut self) -> Option<T> {
        self.clock.advance(self.rate / 1_000);
        let process = self.process.as_mut().filter(|_| !self.paused)?;
        stockd_simnet::enter(self.host);
        process.run_until(self.clock.micros() / 1_000);
        if !process.main.is_finished() {
            return None;
        }
        let process = self.process.take().expect("it was there");
        let ended = process.runtime.block_on(process.main);
        Some(ended.expect("a main task is not cancelled, and its panics end the simulation"))
    }
}

impl<T> Process<T> {
    fn run_until(&mut self, now_ms: u64) {
        let behind = now_ms.saturating_sub(self.ran_ms);
        if behind > 2 {
            // It was paused: all that time passes in one moment.
            let jump = Duration::from_millis(behind - 1);
            self.runtime.block_on(tokio::time::advance(jump));
            self.ran_ms += behind - 1;
        }
        while self.ran_ms < now_ms {
            self.ran_ms += 1;
            let until = self.began + Duration::from_millis(self.ran_ms - self.ran_from_ms);
            self.runtime.block_on(async { tokio::time::sleep_until(until).await });
        }
    }
}
