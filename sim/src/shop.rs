//! The applications of a simulation: buyers, suppliers and readers that use the real client and
//! write down what they asked and what they were told.
//!
//! They behave as applications do when a network is bad: they send a request again under its id,
//! walk away from it, ask what has become of it, lose patience, press the button twice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::BytesMut;
use stockd_check::history::NEVER;
use stockd_check::{Cell, Operation, Request, Verdict, call};
use stockd_client::{Batch, Client, Consistency, Options, Reserve};
use stockd_protocol::{
    CellHandle, CellRef, Code, Op, OpFlags, Reader, ReservationId, ReservationState, UnixMillis,
};
use tokio::time::{sleep, timeout};

use crate::desk::{Ledger, OWNERS};
use crate::doors::{Dice, Ids};

/// A place in time: the millisecond in the upper bits, a running number in these.
pub const EVENT_BITS: u32 = 24;

/// All operations so far, and the order in which things happened.
#[derive(Clone, Default)]
pub struct History {
    operations: Arc<Mutex<Vec<Operation>>>,
    /// Which of them were marked as retries.
    retries: Arc<Mutex<Vec<usize>>>,
    events: Arc<AtomicU64>,
}

impl History {
    /// What was asked so far; what is still open has no end.
    ///
    /// # Panics
    /// Never: nobody panics while writing.
    pub fn operations(&self) -> MutexGuard<'_, Vec<Operation>> {
        self.operations.lock().expect("nobody panics while writing")
    }

    /// The places of those that were marked as retries, in order.
    ///
    /// # Panics
    /// Never: nobody panics while writing.
    pub fn retries(&self) -> Vec<usize> {
        self.retries.lock().expect("nobody panics while writing").clone()
    }

    /// The millisecond is that of the simulation, whatever the machines' clocks say.
    fn now(&self) -> u64 {
        let event = self.events.fetch_add(1, Ordering::Relaxed) & ((1 << EVENT_BITS) - 1);
        stockd_simnet::now_ms() << EVENT_BITS | event
    }

    fn invoke(&self, client: u32, request: Request, terms: Terms) -> usize {
        let (completed, verdict, not_after) = (NEVER, Verdict::Unknown, terms.not_after);
        let invoked = self.now();
        let operation = Operation { client, invoked, completed, request, not_after, verdict };
        let mut operations = self.operations();
        operations.push(operation);
        let at = operations.len() - 1;
        if terms.retry {
            self.retries.lock().expect("nobody panics while writing").push(at);
        }
        at
    }

    fn complete(&self, at: usize, verdict: Verdict) {
        let completed = if verdict == Verdict::Unknown { NEVER } else { self.now() };
        let mut operations = self.operations();
        (operations[at].completed, operations[at].verdict) = (completed, verdict);
    }
}

/// What a call says beside its request.
#[derive(Clone, Copy, Default)]
struct Terms {
    /// It must not take effect later.
    not_after: Option<UnixMillis>,
    /// The application sent it before and does not know what became of it.
    retry: bool,
}

const RETRY: Terms = Terms { not_after: None, retry: true };

/// What all applications share.
#[derive(Clone)]
pub struct Shop {
    /// Where they write.
    pub history: History,
    /// What is sold.
    pub cells: Vec<(String, String)>,
    /// The nodes' client addresses.
    pub addresses: Vec<String>,
    /// They end when it is set.
    pub closed: Arc<AtomicBool>,
    /// Reservations that somebody has made.
    pub known: Arc<Mutex<Vec<ReservationId>>>,
    /// What order desks and warehouses have begun.
    pub ledger: Arc<Mutex<Ledger>>,
    /// Handles that answers have told, by name.
    pub handles: Arc<Mutex<BTreeMap<Cell, CellHandle>>>,
    /// Most milliseconds between two steps of one application.
    pub think_ms: u64,
    /// Longest time to live.
    pub ttl_ms_max: u64,
}

/// One application.
pub struct App {
    pub(super) shop: Shop,
    number: u32,
    pub(super) dice: Dice,
    pub(super) client: Client,
    pub(super) options: Options,
    /// Does it give cells by handle, where it knows them?
    handles: bool,
}

/// What application `number` calls itself: two thirds have a name, and some of them share one.
pub fn client_name(number: u32) -> String {
    match number % 12 {
        2 | 5 | 8 | 11 => String::new(),
        0 | 1 | 10 => "shop-front".to_owned(),
        _ => format!("app-{number}"),
    }
}

impl Shop {
    /// The cells in which more happens than buying.
    pub(super) fn managed(&self) -> &[(String, String)] {
        &self.cells[self.cells.len() / 2..]
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Runs an application of some kind until the shop closes.
    pub async fn run(self, number: u32, dice: Dice, ids: Ids) {
        let mut options = Options::new(self.addresses.clone());
        options.ids = Arc::new(ids);
        options.client_name = client_name(number);
        options.connect_timeout = Duration::from_millis(dice.between(200, 1_000));
        options.reply_timeout = Duration::from_millis(dice.between(150, 1_000));
        options.request_timeout = Duration::from_millis(dice.between(400, 4_000));
        // Two of ten read where they happen to be, whoever leads.
        let part = number % 10;
        options.stay = part == 8;
        let len = options.addresses.len();
        options.addresses.rotate_left((dice.roll() as usize) % len);
        while !self.is_closed() {
            if let Ok(client) = Client::connect(options.clone()).await {
                let (shop, dice) = (self.clone(), dice.clone());
                let (options, handles) = (options.clone(), number.is_multiple_of(3));
                let app = App { shop, number, dice, client, options, handles };
                return app.work(part).await;
            }
            sleep(Duration::from_millis(dice.between(20, 200))).await;
        }
    }
}

impl App {
    async fn work(mut self, part: u32) {
        while !self.shop.is_closed() {
            match part {
                0 | 5 | 6 if self.dice.chance(10) => self.come_back().await,
                0 if self.dice.chance(60) => self.manage().await,
                5 | 6 if self.dice.chance(70) => self.order().await,
                0 => self.supply().await,
                7 | 8 => self.read().await,
                9 => self.batch().await,
                _ => self.buy().await,
            }
            self.think().await;
            // An app server is restarted now and then, or its pool makes a new connection.
            if self.dice.chance(2)
                && let Ok(client) = Client::connect(self.options.clone()).await
            {
                self.client = client;
            }
        }
    }

    pub(super) async fn think(&self) {
        sleep(Duration::from_millis(self.dice.between(1, self.shop.think_ms))).await;
    }

    fn cell(&self) -> Cell {
        // The first cell is hot.
        let (warehouse, sku) = match self.dice.chance(40) {
            true => &self.shop.cells[0],
            false => self.dice.pick(&self.shop.cells),
        };
        Cell::name(warehouse, sku)
    }

    /// The handle, if it is known and this application uses handles. A request has only names or only
    /// handles, so all or none.
    pub(super) fn by_handle(&self, cells: &mut [&mut Cell]) {
        let handles = self.shop.handles.lock().expect("nobody panics while looking");
        if self.handles && cells.iter().all(|cell| handles.contains_key(cell)) {
            for cell in cells {
                **cell = Cell::Handle(handles[cell]);
            }
        }
    }

    fn learn_handle(&self, cell: &Cell, verdict: &Verdict) {
        if let (Cell::Name(..), Some(answer)) = (cell, verdict.answer())
            && let (true, Ok(handle)) = (answer.code.is_ok(), Reader::new(&answer.body).u32())
        {
            let mut handles = self.shop.handles.lock().expect("nobody panics while looking");
            handles.insert(cell.clone(), CellHandle(handle));
        }
    }

    /// Sometimes a request is worth nothing if it takes too long.
    fn terms(&self) -> Terms {
        let soon = self.options.ids.unix_millis() + self.dice.between(1, 800);
        let not_after = self.dice.chance(8).then_some(UnixMillis(soon));
        Terms { not_after, retry: false }
    }

    pub(super) fn ttl_ms(&self) -> u32 {
        self.dice.between(1_000, self.shop.ttl_ms_max) as u32
    }

    fn known(&self) -> Option<ReservationId> {
        let known = self.shop.known.lock().expect("nobody panics while looking");
        (!known.is_empty()).then(|| *self.dice.pick(&known))
    }

    /// Writes a call down, with patience or without.
    pub(super) async fn call(&self, request: Request) -> Verdict {
        self.call_on(request, Terms::default()).await
    }

    /// A call that was made before.
    pub(super) async fn call_again(&self, request: Request) -> Verdict {
        self.call_on(request, RETRY).await
    }

    async fn call_on(&self, request: Request, terms: Terms) -> Verdict {
        let at = self.shop.history.invoke(self.number, request.clone(), terms);
        self.ledger(|ledger| ledger.note(&request));
        let verdict = if self.dice.chance(3) {
            // Somebody closes the page.
            let patience = Duration::from_millis(self.dice.between(1, 400));
            let called = timeout(patience, self.send(&request, terms)).await;
            called.unwrap_or(Verdict::Unknown)
        } else {
            self.send(&request, terms).await
        };
        self.shop.history.complete(at, verdict.clone());
        verdict
    }

    async fn send(&self, request: &Request, terms: Terms) -> Verdict {
        let client = &self.client;
        match request {
            Request::Define { cell: Cell::Name(warehouse, sku) } => {
                client.define(warehouse, sku).await.into()
            }
            Request::Receive { op_id, quantity, cell, .. } => {
                client.receive(*op_id, cell.as_ref(), *quantity).await.into()
            }
            Request::Reserve { id, ttl_ms, lines } => {
                let mut reserve = reserve(*id, *ttl_ms, lines);
                if let Some(not_after) = terms.not_after {
                    reserve = reserve.not_after(not_after);
                }
                if terms.retry {
                    reserve = reserve.retry();
                }
                client.reserve(&reserve).await.into()
            }
            Request::Confirm { id } => match terms.not_after {
                Some(not_after) => client.confirm_not_after(*id, not_after).await.into(),
                None => client.confirm(*id).await.into(),
            },
            Request::Release { id } => client.release(*id).await.into(),
            Request::Extend { id, ttl_ms } => {
                client.extend(*id, Duration::from_millis((*ttl_ms).into())).await.into()
            }
            Request::ReadSku { sku, after, stale } => {
                client.read_sku(sku, *after, consistency(*stale)).await.into()
            }
            Request::Other(sent) => call::call(client, sent, terms.not_after, terms.retry).await,
            Request::Define { .. }
            | Request::ReadCells { .. }
            | Request::ReadReservation { .. } => {
                self.send_all(std::slice::from_ref(request)).await.remove(0)
            }
        }
    }

    /// All requests in one batch.
    async fn send_all(&self, requests: &[Request]) -> Vec<Verdict> {
        let mut batch = Batch::new();
        for request in requests {
            add(&mut batch, request);
        }
        if requests.iter().any(Request::is_linked) {
            batch.link_all().expect("the shop links writes");
        }
        match self.client.batch(batch).await {
            Ok(results) => results.into_iter().map(Verdict::from).collect(),
            Err(error) => {
                let verdict = Verdict::from(Err::<stockd_client::Outcome, _>(error));
                vec![verdict; requests.len()]
            }
        }
    }

    async fn supply(&self) {
        let op_id = self.client.new_op_id();
        let quantity = self.dice.between(1, 12) as u32;
        let mut cell = self.cell();
        self.by_handle(&mut [&mut cell]);
        let define = matches!(cell, Cell::Name(..));
        let receive = Request::Receive { op_id, quantity, cell: cell.clone(), define };
        let verdict = self.call(receive.clone()).await;
        self.learn_handle(&cell, &verdict);
        if verdict == Verdict::Unknown || self.dice.chance(10) {
            self.think().await;
            self.call(receive).await;
        }
    }

    fn new_reserve(&self) -> (ReservationId, Request) {
        let id = self.client.new_id();
        let lines = match self.dice.chance(75) {
            true => 1,
            false => self.dice.between(2, 4),
        };
        // A SKU now and then repeats in a cart.
        let line = |_| (self.cell(), self.dice.between(1, 3) as u32);
        let mut lines: Vec<(Cell, u32)> = (0..lines).map(line).collect();
        self.by_handle(&mut lines.iter_mut().map(|(cell, _)| cell).collect::<Vec<_>>());
        self.shop.known.lock().expect("nobody panics while looking").push(id);
        (id, Request::Reserve { id, ttl_ms: self.ttl_ms(), lines })
    }

    async fn buy(&self) {
        let (id, reserve) = self.new_reserve();
        let mut verdict = if self.dice.chance(10) {
            // The button is pressed twice: both requests are on their way at once.
            tokio::join!(self.call(reserve.clone()), self.call(reserve.clone())).0
        } else {
            self.call_on(reserve.clone(), self.terms()).await
        };
        for _ in 0..3 {
            if verdict != Verdict::Unknown {
                break;
            }
            self.think().await;
            verdict = match self.dice.between(0, 2) {
                0 => self.call(Request::Release { id }).await,
                1 => self.call(Request::ReadReservation { id, stale: false }).await,
                _ => self.call_on(reserve.clone(), RETRY).await,
            };
        }
        let held = verdict.answer().is_some_and(|answer| {
            answer.code.is_ok() && answer.detail == ReservationState::Active as u16
        });
        if held {
            self.check_out(id, reserve).await;
        } else if verdict.answer().is_some_and(|answer| answer.code == Code::NO_STOCK) {
            self.think().await;
        }
    }

    /// A buyer with units in the cart makes up their mind.
    async fn check_out(&self, id: ReservationId, reserve: Request) {
        let ttl_ms = self.ttl_ms();
        // Some come back too late.
        let wait_ms = self.dice.between(1, if self.dice.chance(15) { 5_000 } else { 600 });
        sleep(Duration::from_millis(wait_ms)).await;
        if self.dice.chance(25) {
            self.call(Request::Extend { id, ttl_ms }).await;
        }
        if self.dice.chance(10) {
            self.call_on(reserve.clone(), RETRY).await;
        }
        if self.dice.chance(5)
            && let Request::Reserve { mut lines, .. } = reserve
        {
            // A bug of the shop's: the same id for another cart.
            lines[0].1 += 1;
            self.call(Request::Reserve { id, ttl_ms, lines }).await;
        }
        let last = match self.dice.between(0, 9) {
            0..=3 => Request::Confirm { id },
            4..=7 => Request::Release { id },
            _ => return,
        };
        for _ in 0..3 {
            let confirms = matches!(last, Request::Confirm { .. });
            let terms = if confirms { self.terms() } else { Terms::default() };
            let called = self.call_on(last.clone(), terms).await;
            if called != Verdict::Unknown && !self.dice.chance(10) {
                break;
            }
            self.think().await;
        }
    }

    async fn read(&self) {
        let kind = self.dice.between(0, 9);
        // The library does not say how old a transfer is that it has read.
        let stale = self.dice.chance(30) && kind != 9;
        let other = |encode: &dyn Fn(&mut BytesMut, OpFlags)| {
            let mut bytes = BytesMut::new();
            encode(&mut bytes, if stale { OpFlags::STALE } else { OpFlags::default() });
            Request::decode(&bytes).expect("it was encoded").0
        };
        let plain = |op: Op<'_>| {
            other(&|out, flags| {
                op.encode(out, &stockd_protocol::Terms { flags, ..Default::default() })
            })
        };
        let request = match (kind, self.known()) {
            (0, Some(id)) => Request::ReadReservation { id, stale },
            (3, Some(id)) => plain(Op::ReadLines { id }),
            (4, _) => {
                let cell = self.cell();
                other(&|out, flags| Op::encode_read_details(out, flags, &[cell.as_ref()]))
            }
            (5, _) => plain(Op::ReadOwner { owner: OWNERS[self.dice.between(0, 2) as usize] }),
            (6, _) => {
                let (_, sku) = self.dice.pick(&self.shop.cells);
                plain(Op::ReadCatalogue { sku: sku.as_bytes() })
            }
            (7, _) => plain(Op::ReadCrossings { from: 0, count: 1_000 }),
            (9, _) => {
                let transfer = self.some_of(|ledger| &ledger.transfers);
                plain(Op::ReadTransfer { transfer })
            }
            (8, _) if self.dice.chance(50) => plain(Op::ListCells(call::ALL)),
            (8, _) => plain(Op::ListSkus(call::ALL)),
            (1, _) => {
                let (_, sku) = self.dice.pick(&self.shop.cells);
                Request::ReadSku { sku: sku.clone().into_bytes(), after: None, stale }
            }
            (2, _) => {
                let mut cells = [self.cell(), self.cell()];
                let [one, other] = &mut cells;
                self.by_handle(&mut [one, other]);
                Request::ReadCells { cells: cells.into(), stale }
            }
            _ => Request::ReadCells { cells: vec![self.cell()], stale },
        };
        self.call(request).await;
    }

    /// Another system that works in batches: writes of all kinds, or reads.
    async fn batch(&self) {
        let mut requests = Vec::new();
        let count = if self.dice.chance(30) { 0 } else { self.dice.between(2, 12) };
        if count == 0 {
            requests = self.linked();
        }
        for _ in 0..count {
            let known = self.known().filter(|_| self.dice.chance(60));
            requests.push(match (self.dice.between(0, 4), known) {
                (0, Some(id)) => Request::Confirm { id },
                (1, Some(id)) => Request::Release { id },
                (2, Some(id)) => Request::Extend { id, ttl_ms: self.ttl_ms() },
                _ => self.new_reserve().1,
            });
        }
        let history = &self.shop.history;
        let places: Vec<usize> = requests
            .iter()
            .map(|request| history.invoke(self.number, request.clone(), Terms::default()))
            .collect();
        for (at, verdict) in places.into_iter().zip(self.send_all(&requests).await) {
            history.complete(at, verdict);
        }
    }
}

fn consistency(stale: bool) -> Consistency {
    if stale { Consistency::Stale } else { Consistency::Linearizable }
}

fn reserve(id: ReservationId, ttl_ms: u32, lines: &[(Cell, u32)]) -> Reserve<'_> {
    let reserve = Reserve::new(id).ttl(Duration::from_millis(ttl_ms.into()));
    lines.iter().fold(reserve, |reserve, (cell, quantity)| reserve.cell(cell.as_ref(), *quantity))
}

/// # Panics
/// The request is out of the protocol's ranges, or a batch cannot hold it.
fn add(batch: &mut Batch, request: &Request) {
    let added = match request {
        Request::Confirm { id } => batch.confirm(*id),
        Request::Define { cell: Cell::Name(warehouse, sku) } => batch.define(warehouse, sku),
        Request::Extend { id, ttl_ms } => {
            batch.extend(*id, Duration::from_millis((*ttl_ms).into()))
        }
        Request::ReadCells { cells, stale } => {
            let cells: Vec<CellRef<'_>> = cells.iter().map(Cell::as_ref).collect();
            batch.read_cells(&cells, consistency(*stale))
        }
        Request::ReadReservation { id, stale } => batch.read_reservation(*id, consistency(*stale)),
        Request::Receive { op_id, quantity, cell, .. } => {
            batch.receive(*op_id, cell.as_ref(), *quantity)
        }
        Request::Release { id } => batch.release(*id),
        Request::Reserve { id, ttl_ms, lines } => batch.reserve(&reserve(*id, *ttl_ms, lines)),
        Request::Other(sent) => call::add(batch, sent),
        Request::Define { .. } | Request::ReadSku { .. } => panic!("never put into a batch"),
    };
    added.expect("the shop makes no invalid requests");
}
