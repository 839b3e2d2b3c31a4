//! Requests that make the log long and change nothing: carts of a thousand lines with cells that
//! nobody has. Each is refused, in the log, which keeps about a hundred kilobytes of it.
//!
//! A cart rather than many small operations, so that the history does not consist of padding: a few
//! dozen fill two segments.

use std::sync::Arc;
use std::time::Duration;

use stockd_check::history::{Cell, Request, Verdict};
use stockd_client::{Client, Options, Reserve};

use super::{BUYERS, Ledger, ROAMERS, client_name};

/// Lines of a cart; a name of the longest kind in each.
const LINES: usize = 1_000;
/// What the history calls who does it.
const NUMBER: u32 = BUYERS + ROAMERS;

/// Whoever makes the log long.
pub struct Padding {
    client: Client,
    ledger: Arc<Ledger>,
    lines: Vec<(Cell, u32)>,
}

impl Padding {
    /// Finds the cluster; `None` if nobody answers.
    pub async fn connect(addresses: &[String], ledger: &Arc<Ledger>) -> Option<Self> {
        let options = Options {
            client_name: client_name(NUMBER),
            connect_timeout: Duration::from_millis(500),
            reply_timeout: Duration::from_secs(1),
            request_timeout: Duration::from_secs(1),
            ..Options::new(addresses)
        };
        let client = Client::connect(options).await.ok()?;
        let nobodys = Cell::name("nobody's warehouse, of 32 bytes.", "nobody's SKU ".repeat(4));
        let lines = vec![(nobodys, 1); LINES];
        Some(Self { client, ledger: Arc::clone(ledger), lines })
    }

    /// Asks for one cart and writes down the answer. Whether the log has it is the nodes' to say.
    pub async fn add(&self) {
        let id = self.client.new_id();
        let cart = self
            .lines
            .iter()
            .fold(Reserve::new(id), |cart, (cell, quantity)| cart.cell(cell.as_ref(), *quantity));
        let invoked = self.ledger.now();
        let verdict = Verdict::from(self.client.reserve(&cart).await);
        let request = Request::Reserve { id, ttl_ms: 0, lines: self.lines.clone() };
        self.ledger.record(NUMBER, invoked, [(request, None, verdict)]);
    }
}
