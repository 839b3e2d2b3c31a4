//! Applications that go on through everything: buyers who take stock, roamers who ask any node.
//!
//! ```text
//! 12 buyers  ── stockd-client ─────▶ whoever leads    reserve, confirm, release, extend, receive, read
//!  4 roamers ── one connection ────▶ a certain node   linearizable and stale reads
//!       └─▶ Ledger: what was asked when, and what was answered when ◀── Padding: a log that must be long
//! ```

mod buyer;
mod ledger;
mod market;
mod padding;
mod roamer;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stockd_client::{Options, UnixMillis};
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use ledger::Ledger;
pub use market::{Market, check_sums};
pub use padding::Padding;

use crate::dice::Dice;

const BUYERS: u32 = 12;
const ROAMERS: u32 = 4;
/// Longest wait for the last answers of a load that is told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(30);

/// The running load.
pub struct Load {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What a caller of this number calls itself: every third says nothing, and some share a name.
pub fn client_name(number: u32) -> String {
    if number % 3 == 2 { String::new() } else { format!("chaos-{}", number / 4) }
}

/// What each of them has.
#[derive(Clone)]
struct Caller {
    number: u32,
    addresses: Vec<String>,
    ledger: Arc<Ledger>,
    market: Arc<Market>,
    stop: Arc<AtomicBool>,
    dice: Dice,
    /// The cluster's clock, as the last answer told it.
    cluster_now: UnixMillis,
}

impl Caller {
    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// How the client library tries: briefly, so that a fault shows as an unknown outcome now and then.
    fn options(&self) -> Options {
        Options {
            client_name: client_name(self.number),
            connect_timeout: Duration::from_millis(500),
            reply_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(5),
            ..Options::new(self.addresses.clone())
        }
    }
}

impl Load {
    /// Starts all of them.
    pub fn start(
        addresses: &[String],
        market: &Arc<Market>,
        ledger: &Arc<Ledger>,
        seed: u64,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let caller = |number: u32| Caller {
            number,
            addresses: addresses.to_vec(),
            ledger: Arc::clone(ledger),
            market: Arc::clone(market),
            stop: Arc::clone(&stop),
            dice: Dice::new(seed, 1_000 + u64::from(number)),
            cluster_now: UnixMillis(0),
        };
        let buyers = (0..BUYERS).map(|number| tokio::spawn(buyer::buy(caller(number))));
        let roamers = BUYERS..BUYERS + ROAMERS;
        let roamers = roamers.map(|number| tokio::spawn(roamer::roam(caller(number))));
        let tasks = buyers.chain(roamers).collect();
        Self { stop, tasks }
    }

    /// Waits until everybody has the last answer.
    ///
    /// # Errors
    /// A caller panicked, or a call did not end although it has a time-out.
    pub async fn stop(self) -> Result<(), String> {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            let ended = timeout(STOP_LIMIT, task).await;
            let ended = ended.map_err(|_| format!("a call did not end within {STOP_LIMIT:?}"))?;
            ended.map_err(|error| format!("a caller failed: {error}"))?;
        }
        Ok(())
    }
}
