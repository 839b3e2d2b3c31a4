//! Load: buyers who go on through every fault and remember each answer they got.
//!
//! What an id may be found as is written down *before* a request is sent and narrowed by its answer:
//!
//! ```text
//! reserve ▶ {absent, active, expired} ── granted ▶ {active, expired}   refused, not sent ▶ {absent}
//! confirm ▶ {active, expired, confirmed} ── ok ▶ {confirmed}           too late ▶ {expired}
//! release ▶ {active, expired, released} ── ok ▶ {released} or as the answer says
//! ```
//!
//! An unknown outcome leaves the wide set. An "expired" must be after the deadline that was last
//! acknowledged.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stockd_client::{
    CellHandle, CellRef, Client, Code, Error, Options, ReservationId, ReservationState, Reserve,
    UnixMillis,
};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::until;

/// A buyer pauses as long between two carts, so that the load is steady and a run stays small.
const PACE: Duration = Duration::from_millis(4);
/// Most carts of one run; buyers rest after that.
const CARTS_MAX: usize = 40_000;

/// What is sold.
#[derive(Clone, Copy)]
pub struct Market {
    /// Cells.
    pub cells: usize,
    /// Units in each at first. Buyers bring more when one is sold out.
    pub stock: u32,
    /// Buyers.
    pub buyers: u64,
}

impl Default for Market {
    fn default() -> Self {
        Self { cells: 5, stock: 60, buyers: 6 }
    }
}

/// What an id was found as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Seen {
    Absent,
    Active,
    Cancelled,
    Confirmed,
    Expired,
    Fenced,
    Fulfilled,
    Released,
}

impl From<ReservationState> for Seen {
    fn from(state: ReservationState) -> Self {
        match state {
            ReservationState::Active => Self::Active,
            ReservationState::Cancelled => Self::Cancelled,
            ReservationState::Confirmed => Self::Confirmed,
            ReservationState::Expired => Self::Expired,
            ReservationState::Fenced => Self::Fenced,
            ReservationState::Fulfilled => Self::Fulfilled,
            ReservationState::Released => Self::Released,
        }
    }
}

/// One reservation as its buyer knows it.
#[derive(Clone, Debug)]
pub struct Cart {
    pub cell: usize,
    pub quantity: u32,
    pub may_be: Vec<Seen>,
    /// The deadline that was last acknowledged.
    pub deadline: Option<UnixMillis>,
}

/// Units brought to a cell.
#[derive(Clone, Copy, Default, Debug)]
pub struct Received {
    pub acknowledged: i64,
    pub in_doubt: i64,
}

/// What all buyers know.
#[derive(Default)]
pub struct Book {
    pub handles: Vec<CellHandle>,
    pub received: Vec<Received>,
    pub carts: BTreeMap<ReservationId, Cart>,
    /// Answers by kind.
    pub answers: BTreeMap<String, u64>,
    /// Answers that no fault excuses.
    pub wrong: Vec<String>,
    acknowledged: u64,
    last: Option<Instant>,
    longest_pause: Duration,
}

/// The name of the n-th cell's SKU.
pub fn sku(cell: usize) -> String {
    format!("S{cell}")
}

impl Book {
    pub fn skus(&self) -> Vec<String> {
        (0..self.handles.len()).map(sku).collect()
    }

    pub fn summary(&self) -> String {
        let pause = self.longest_pause.as_millis();
        format!("{} carts, longest pause {pause} ms, {:?}", self.carts.len(), self.answers)
    }

    fn count(&mut self, kind: &str) {
        *self.answers.entry(kind.to_owned()).or_default() += 1;
    }

    /// A success was answered.
    fn acknowledge(&mut self, kind: &str) {
        self.count(kind);
        self.acknowledged += 1;
        let now = Instant::now();
        let pause = self.last.map_or(Duration::ZERO, |last| now - last);
        self.longest_pause = self.longest_pause.max(pause);
        self.last = Some(now);
    }

    /// Counts an error that says nothing or little; returns whether the request has had no effect.
    fn trouble(&mut self, what: &str, error: &Error) -> bool {
        match error {
            Error::Retry(_) => self.count(&format!("{what}: not done")),
            Error::Unknown(_) => self.count(&format!("{what}: unknown")),
            error => self.wrong.push(format!("{what}: {error}")),
        }
        matches!(error, Error::Retry(_))
    }

    fn expect(&mut self, id: ReservationId, may_be: &[Seen]) {
        self.carts.get_mut(&id).expect("a cart is booked first").may_be = may_be.to_vec();
    }
}

/// A small generator: the same dice in each run, though the answers fall as they may.
struct Dice(u64);

impl Dice {
    /// A number below `sides` (splitmix64).
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        (mixed ^ (mixed >> 27)) % sides
    }
}

/// The running load.
pub struct Buyers {
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    buyers: Vec<JoinHandle<()>>,
}

/// How the buyers' clients try: short, so that a fault shows as an unknown outcome now and then.
pub fn options(addresses: &[String]) -> Options {
    Options {
        connect_timeout: Duration::from_millis(500),
        reply_timeout: Duration::from_secs(1),
        request_timeout: Duration::from_secs(8),
        ..Options::new(addresses)
    }
}

impl Buyers {
    /// Fills the shelves and lets the buyers in.
    pub async fn start(addresses: &[String], market: Market) -> Self {
        let client =
            Client::connect(Options { request_timeout: crate::PATIENCE, ..options(addresses) });
        let client = client.await.unwrap();
        let mut book = Book::default();
        for cell in 0..market.cells {
            let name = sku(cell);
            let cell = CellRef::name("W", &name);
            let received = client.receive(client.new_op_id(), cell, market.stock).await.unwrap();
            book.handles.push(received.handle);
            let acknowledged = i64::from(market.stock);
            book.received.push(Received { acknowledged, in_doubt: 0 });
        }
        let book = Arc::new(Mutex::new(book));
        let stop = Arc::new(AtomicBool::new(false));
        let buyers = (0..market.buyers).map(|number| {
            let buyer = Buyer {
                options: options(addresses),
                book: Arc::clone(&book),
                stop: Arc::clone(&stop),
                dice: Dice(number),
                cells: market.cells,
            };
            tokio::spawn(buyer.buy())
        });
        Self { buyers: buyers.collect(), book, stop }
    }

    /// How many successes were answered.
    pub fn acknowledged(&self) -> u64 {
        self.book.lock().unwrap().acknowledged
    }

    /// How many answers there were of a kind.
    pub fn answers(&self, kind: &str) -> u64 {
        self.book.lock().unwrap().answers.get(kind).copied().unwrap_or(0)
    }

    /// Waits for `more` successes from now on.
    pub async fn progress(&self, more: u64) {
        let target = self.acknowledged() + more;
        until("the buyers to buy", async || self.acknowledged() >= target).await;
    }

    /// Waits until every buyer has its last answer, and hands over what they know.
    pub async fn stop(self) -> Book {
        self.stop.store(true, Ordering::Relaxed);
        for buyer in self.buyers {
            let ended = tokio::time::timeout(crate::PATIENCE, buyer).await;
            ended.expect("a call ends in time").unwrap();
        }
        std::mem::take(&mut *self.book.lock().unwrap())
    }
}

struct Buyer {
    options: Options,
    book: Arc<Mutex<Book>>,
    stop: Arc<AtomicBool>,
    dice: Dice,
    cells: usize,
}

impl Buyer {
    async fn buy(mut self) {
        // The cluster may be down when a buyer comes.
        let client = loop {
            match Client::connect(self.options.clone()).await {
                Ok(client) => break client,
                Err(_) if self.stop.load(Ordering::Relaxed) => return,
                Err(_) => (),
            }
        };
        while !self.stop.load(Ordering::Relaxed) {
            if self.book.lock().unwrap().carts.len() < CARTS_MAX {
                self.cart(&client).await;
            }
            tokio::time::sleep(PACE).await;
        }
    }

    fn book(&self, change: impl FnOnce(&mut Book)) {
        change(&mut self.book.lock().unwrap());
    }

    async fn cart(&mut self, client: &Client) {
        let cell = self.dice.roll(self.cells as u64) as usize;
        let quantity = 1 + self.dice.roll(3) as u32;
        let ttl = Duration::from_secs(if self.dice.roll(8) == 0 { 1 } else { 600 });
        let id = client.new_id();
        let may_be = vec![Seen::Absent, Seen::Active, Seen::Expired];
        self.book(|book| {
            book.carts.insert(id, Cart { cell, quantity, may_be, deadline: None });
        });
        let name = sku(cell);
        let reserve = Reserve::new(id).line("W", &name, quantity).ttl(ttl);
        match client.reserve(&reserve).await {
            Ok(granted) => {
                self.book(|book| {
                    book.acknowledge("granted");
                    book.expect(id, &[Seen::Active, Seen::Expired]);
                    book.carts.get_mut(&id).unwrap().deadline = Some(granted.deadline);
                    if !granted.state.eq(&ReservationState::Active) && !granted.replay {
                        book.wrong.push(format!("{id}: granted as {}", granted.state.name()));
                    }
                });
                self.decide(client, id).await;
            }
            Err(error) if error.code() == Some(Code::NO_STOCK) => {
                self.book(|book| {
                    book.count("sold out");
                    book.expect(id, &[Seen::Absent]);
                });
                if self.dice.roll(8) == 0 {
                    self.restock(client, cell).await;
                }
            }
            Err(error) => {
                self.book(|book| {
                    if book.trouble("reserve", &error) {
                        book.expect(id, &[Seen::Absent]);
                    }
                });
                // Some of those who do not know walk away for certain.
                if matches!(error, Error::Unknown(_)) && self.dice.roll(2) == 0 {
                    self.release(client, id, &[Seen::Absent, Seen::Active, Seen::Expired]).await;
                }
            }
        }
    }

    async fn decide(&mut self, client: &Client, id: ReservationId) {
        match self.dice.roll(16) {
            0..8 => self.confirm(client, id).await,
            8..12 => self.release(client, id, &[Seen::Active, Seen::Expired]).await,
            12 => self.extend(client, id).await,
            _ => {}
        }
    }

    async fn confirm(&self, client: &Client, id: ReservationId) {
        use Seen::{Active, Confirmed, Expired};
        self.book(|book| book.expect(id, &[Active, Expired, Confirmed]));
        let result = client.confirm(id).await;
        self.book(|book| match result {
            Ok(_) => {
                book.acknowledge("confirmed");
                book.expect(id, &[Confirmed]);
            }
            Err(Error::Refused(refusal)) if refusal.code == Code::HOLD_EXPIRED => {
                book.count("confirm: expired");
                book.expect(id, &[Expired]);
            }
            Err(error) => {
                if book.trouble("confirm", &error) {
                    book.expect(id, &[Active, Expired]);
                }
            }
        });
    }

    async fn release(&self, client: &Client, id: ReservationId, before: &[Seen]) {
        let wide = [before, &[Seen::Released, Seen::Fenced]].concat();
        self.book(|book| book.expect(id, &wide));
        let result = client.release(id).await;
        self.book(|book| match result {
            Ok(released) => {
                book.acknowledge("released");
                book.expect(id, &[released.state.into()]);
            }
            Err(error) => {
                if book.trouble("release", &error) {
                    book.expect(id, before);
                }
            }
        });
    }

    async fn extend(&self, client: &Client, id: ReservationId) {
        let result = client.extend(id, Duration::from_secs(900)).await;
        self.book(|book| match result {
            Ok(extended) => {
                book.acknowledge("extended");
                book.carts.get_mut(&id).unwrap().deadline = Some(extended.deadline);
            }
            Err(Error::Refused(refusal)) if refusal.code == Code::HOLD_EXPIRED => {
                book.count("extend: expired");
                book.expect(id, &[Seen::Expired]);
            }
            Err(error) => drop(book.trouble("extend", &error)),
        });
    }

    async fn restock(&self, client: &Client, cell: usize) {
        const UNITS: u32 = 10;
        let name = sku(cell);
        let units = i64::from(UNITS);
        self.book(|book| book.received[cell].in_doubt += units);
        let result = client.receive(client.new_op_id(), CellRef::name("W", &name), UNITS).await;
        self.book(|book| {
            let received = match &result {
                Ok(_) => (units, true),
                Err(Error::Unknown(_)) => (0, false),
                Err(_) => (0, true),
            };
            book.received[cell].acknowledged += received.0;
            if received.1 {
                book.received[cell].in_doubt -= units;
            }
            match result {
                Ok(_) => book.acknowledge("received"),
                Err(error) => drop(book.trouble("receive", &error)),
            }
        });
    }
}
