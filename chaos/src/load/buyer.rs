//! Buyers: applications that use the client library as its documents say.
//!
//! What a buyer does with a cart:
//!
//! ```text
//! reserve ─▶ granted ─▶ confirm │ release │ extend and confirm │ wait too long and confirm │ forget it
//!        └─▶ unknown ─▶ ask again under the same id │ release it │ walk away
//! ```
//!
//! Now and then a buyer hangs up before the answer, asks twice, uses an id again for other goods, sets
//! a moment after which the request is worthless, or sends many operations in one frame.

use std::time::Duration;

use stockd_check::history::{Answer, Cell, Request, Verdict};
use stockd_client::{
    Batch, CellHandle, CellRef, Client, Code, Consistency, Error, Invalid, OpId, Outcome, Refusal,
    ReservationId, Reserve, UnixMillis,
};
use tokio::time::{sleep, timeout};

use super::{Caller, Market};

/// Lives of holds in milliseconds: some end before the run does, by far.
const TTL_MS: [u32; 5] = [1_000, 1_000, 2_000, 4_000, 8_000];

/// Buys until told to stop.
pub async fn buy(mut caller: Caller) {
    let client = loop {
        match Client::connect(caller.options()).await {
            Ok(client) => break client,
            Err(_) if !caller.goes_on() => return,
            Err(_) => caller.ledger.aside("buyer: nobody to connect to"),
        }
    };
    while caller.goes_on() && !caller.ledger.is_full() {
        let mut visit = Visit { caller: &mut caller, client: &client };
        match visit.caller.dice.roll(100) {
            0..60 => visit.cart().await,
            60..70 => visit.receive().await,
            70..80 => visit.batch().await,
            80..98 => visit.read().await,
            _ => visit.define().await,
        }
        sleep(caller.dice.millis(1, 8)).await;
    }
}

/// One errand.
struct Visit<'a> {
    caller: &'a mut Caller,
    client: &'a Client,
}

impl Visit<'_> {
    async fn cart(&mut self) {
        let id = self.client.new_id();
        let reserve = self.draw_reserve(id);
        // Sometimes it must take effect at once or never.
        let not_after = self.caller.dice.chance(6).then(|| {
            let soon = self.caller.dice.roll(1_500);
            UnixMillis(self.caller.cluster_now.0 + soon)
        });
        let verdict = self.ask(&reserve, not_after, false).await;
        let granted = match &verdict {
            Verdict::Answered(answer) => answer.code.is_ok(),
            Verdict::NotExecuted => false,
            Verdict::Unknown => self.settle(id, &reserve, not_after).await,
        };
        if granted {
            self.decide(id, &reserve).await;
        }
    }

    /// After an unknown outcome; returns whether the units are held.
    async fn settle(
        &mut self,
        id: ReservationId,
        reserve: &Request,
        not_after: Option<UnixMillis>,
    ) -> bool {
        match self.caller.dice.roll(10) {
            0..6 => {
                let again = self.ask(reserve, not_after, true).await;
                again.answer().is_some_and(|answer| answer.code.is_ok())
            }
            6..8 => {
                self.ask(&Request::Release { id }, None, false).await;
                false
            }
            8 => {
                self.ask(&Request::ReadReservation { id, stale: false }, None, false).await;
                false
            }
            _ => false,
        }
    }

    async fn decide(&mut self, id: ReservationId, reserve: &Request) {
        let Request::Reserve { ttl_ms, .. } = *reserve else { return };
        match self.caller.dice.roll(100) {
            0..30 => self.twice(&Request::Confirm { id }).await,
            30..55 => self.twice(&Request::Release { id }).await,
            55..65 => {
                let ttl_ms = *self.caller.dice.pick(&TTL_MS);
                self.ask(&Request::Extend { id, ttl_ms }, None, false).await;
                self.twice(&Request::Confirm { id }).await;
            }
            65..72 => {
                // Just before, inside or after the grace.
                sleep(Duration::from_millis(u64::from(ttl_ms)) + self.caller.dice.millis(0, 3_000))
                    .await;
                self.twice(&Request::Confirm { id }).await;
            }
            72..76 => {
                // The same id for other goods.
                let other = self.draw_reserve(id);
                self.ask(&other, None, false).await;
            }
            76..84 => {
                let stale = self.caller.dice.chance(30);
                self.ask(&Request::ReadReservation { id, stale }, None, false).await;
            }
            _ => {}
        }
    }

    /// Asks, and asks again after an unknown outcome or just so.
    async fn twice(&mut self, request: &Request) {
        let verdict = self.ask(request, None, false).await;
        if verdict == Verdict::Unknown || self.caller.dice.chance(5) {
            self.ask(request, None, false).await;
        }
    }

    async fn receive(&mut self) {
        let cell = Market::draw(&mut self.caller.dice);
        let request = self.draw_receive(cell);
        let verdict = self.ask(&request, None, false).await;
        if let Verdict::Answered(Answer { code, body, .. }) = &verdict
            && code.is_ok()
            && let Some(handle) = body.first_chunk()
        {
            self.caller.market.learn(cell, CellHandle(u32::from_le_bytes(*handle)));
        }
        if verdict == Verdict::Unknown {
            self.ask(&request, None, false).await;
        }
    }

    async fn define(&mut self) {
        let cell = Market::name(Market::draw(&mut self.caller.dice));
        self.ask(&Request::Define { cell }, None, false).await;
    }

    async fn read(&mut self) {
        let dice = &mut self.caller.dice;
        let stale = dice.chance(15);
        let request = match dice.chance(10) {
            true => {
                let sku = Market::sku(Market::draw(dice)).into_bytes();
                Request::ReadSku { sku, after: None, stale }
            }
            false => {
                let cells: Vec<usize> = (0..1 + dice.roll(4)).map(|_| Market::draw(dice)).collect();
                Request::ReadCells { cells: self.caller.market.refer(&cells, dice), stale }
            }
        };
        self.ask(&request, None, false).await;
    }

    /// Many reserves in one frame, then confirms and releases of what was granted in another.
    async fn batch(&mut self) {
        let count = 2 + self.caller.dice.roll(14);
        let reserves: Vec<Request> = (0..count)
            .map(|_| match self.caller.dice.chance(15) {
                true => {
                    let cell = Market::draw(&mut self.caller.dice);
                    self.draw_receive(cell)
                }
                false => self.draw_reserve(self.client.new_id()),
            })
            .collect();
        let granted = self.ask_all(reserves).await;
        let mut ends = Vec::new();
        for id in granted {
            match self.caller.dice.roll(3) {
                0 => ends.push(Request::Confirm { id }),
                1 => ends.push(Request::Release { id }),
                _ => {}
            }
        }
        if !ends.is_empty() {
            self.ask_all(ends).await;
        }
    }

    fn draw_reserve(&mut self, id: ReservationId) -> Request {
        let dice = &mut self.caller.dice;
        let count = if dice.chance(70) { 1 } else { 2 + dice.roll(4) };
        let cells: Vec<usize> = (0..count).map(|_| Market::draw(dice)).collect();
        let cells = self.caller.market.refer(&cells, dice);
        let lines = cells.into_iter().map(|cell| (cell, 1 + dice.roll(3) as u32)).collect();
        Request::Reserve { id, ttl_ms: *dice.pick(&TTL_MS), lines }
    }

    /// Little, so that hot cells are sold out most of the time.
    fn draw_receive(&mut self, cell: usize) -> Request {
        let quantity = 1 + self.caller.dice.roll(12) as u32;
        let op_id = self.client.new_op_id();
        Request::Receive { op_id, quantity, cell: Market::name(cell), define: true }
    }

    /// One call, as it happens; written down when it is over. Some callers do not wait for that.
    async fn ask(
        &mut self,
        request: &Request,
        not_after: Option<UnixMillis>,
        retry: bool,
    ) -> Verdict {
        let hang_up = self.caller.dice.chance(4).then(|| self.caller.dice.millis(0, 8));
        let invoked = self.caller.ledger.now();
        let call = call(self.client, request, not_after, retry);
        let verdict = match hang_up {
            None => call.await,
            Some(limit) => timeout(limit, call).await.unwrap_or(Verdict::Unknown),
        };
        if let Some(answer) = verdict.answer().filter(|answer| answer.server_now.0 > 0) {
            self.caller.cluster_now = answer.server_now;
        }
        let record = (request.clone(), not_after, verdict.clone());
        self.caller.ledger.record(self.caller.number, invoked, [record]);
        verdict
    }

    /// Several writes in one frame; returns the reservations that were granted.
    async fn ask_all(&mut self, requests: Vec<Request>) -> Vec<ReservationId> {
        let invoked = self.caller.ledger.now();
        let verdicts: Vec<Verdict> = match fill(&requests) {
            Ok(batch) => match self.client.batch(batch).await {
                Ok(results) => results.into_iter().map(Verdict::from).collect(),
                Err(error) => {
                    let verdict = Verdict::from(Err::<Answer, Error>(error));
                    vec![verdict; requests.len()]
                }
            },
            Err(_) => vec![Verdict::NotExecuted; requests.len()],
        };
        let granted = requests.iter().zip(&verdicts).filter_map(|(request, verdict)| {
            let Request::Reserve { id, .. } = request else { return None };
            verdict.answer().is_some_and(|answer| answer.code == Code::OK).then_some(*id)
        });
        let granted = granted.collect();
        let calls = requests.into_iter().zip(verdicts);
        let calls = calls.map(|(request, verdict)| (request, None, verdict));
        self.caller.ledger.record(self.caller.number, invoked, calls);
        granted
    }
}

/// Sends a request by the library's own method for it.
async fn call(
    client: &Client,
    request: &Request,
    not_after: Option<UnixMillis>,
    retry: bool,
) -> Verdict {
    match request {
        Request::Define { cell } => match cell {
            Cell::Name(warehouse, sku) => client.define(warehouse, sku).await.into(),
            Cell::Handle(_) => Verdict::NotExecuted,
        },
        Request::Receive { op_id, quantity, cell, .. } => {
            client.receive(OpId(op_id.0), cell.as_ref(), *quantity).await.into()
        }
        Request::Reserve { .. } => client.reserve(&reserve(request, not_after, retry)).await.into(),
        Request::Confirm { id } => match not_after {
            Some(not_after) => client.confirm_not_after(*id, not_after).await.into(),
            None => client.confirm(*id).await.into(),
        },
        Request::Release { id } => client.release(*id).await.into(),
        Request::Extend { id, ttl_ms } => {
            client.extend(*id, Duration::from_millis(u64::from(*ttl_ms))).await.into()
        }
        Request::ReadCells { cells, stale } => {
            let cells: Vec<CellRef<'_>> = cells.iter().map(Cell::as_ref).collect();
            client.read_cells(&cells, consistency(*stale)).await.into()
        }
        // Alone in a batch: the method for one loses the index of NOT_FOUND.
        Request::ReadReservation { id, stale } => {
            let mut batch = Batch::new();
            match batch.read_reservation(*id, consistency(*stale)) {
                Ok(()) => one_of(client.batch(batch).await),
                Err(_) => Verdict::NotExecuted,
            }
        }
        Request::ReadSku { sku, after, stale } => {
            client.read_sku(sku, *after, consistency(*stale)).await.into()
        }
        Request::Other(sent) => stockd_check::call::call(client, sent, not_after, retry).await,
    }
}

fn one_of(results: Result<Vec<Result<Outcome, Refusal>>, Error>) -> Verdict {
    match results {
        Ok(mut results) => results.pop().map_or(Verdict::Unknown, Verdict::from),
        Err(error) => Verdict::from(Err::<Answer, Error>(error)),
    }
}

const fn consistency(stale: bool) -> Consistency {
    if stale { Consistency::Stale } else { Consistency::Linearizable }
}

/// The cart of a reserve.
fn reserve(request: &Request, not_after: Option<UnixMillis>, retry: bool) -> Reserve<'_> {
    let Request::Reserve { id, ttl_ms, lines } = request else {
        panic!("only a reserve has a cart")
    };
    let cart = Reserve::new(*id).ttl(Duration::from_millis(u64::from(*ttl_ms)));
    let cart =
        lines.iter().fold(cart, |cart, (cell, quantity)| cart.cell(cell.as_ref(), *quantity));
    let cart = not_after.into_iter().fold(cart, Reserve::not_after);
    if retry { cart.retry() } else { cart }
}

fn fill(requests: &[Request]) -> Result<Batch, Invalid> {
    let mut batch = Batch::new();
    for request in requests {
        match request {
            Request::Confirm { id } => batch.confirm(*id)?,
            Request::Receive { op_id, quantity, cell, .. } => {
                batch.receive(OpId(op_id.0), cell.as_ref(), *quantity)?;
            }
            Request::Release { id } => batch.release(*id)?,
            Request::Reserve { .. } => batch.reserve(&reserve(request, None, false))?,
            _ => panic!("a batch here is of these writes"),
        }
    }
    Ok(batch)
}
