//! Everybody else: clients that buy, and note what they are told.

use std::path::Path;
use std::time::Duration;

use stockd_check::history::NEVER;
use stockd_check::{Cell, Operation, Options, Request, Verdict, check, committed};
use stockd_client::{Batch, CellRef, Client, Consistency, Reserve};

/// Warehouses of the SKU that attackers scan.
const WAREHOUSES: usize = 2_000;

/// Some clients, and the history of their calls.
pub struct Victims {
    clients: Vec<Client>,
    event: u64,
    history: Vec<Operation>,
}

impl Victims {
    pub const CLIENTS: usize = 4;

    /// Connects them, and puts something in stock.
    pub async fn connect(address: &str) -> Self {
        let mut clients = Vec::new();
        for _ in 0..Self::CLIENTS {
            clients.push(Client::connect(address).await.unwrap());
        }
        let mut victims = Self { clients, event: 0, history: Vec::new() };
        let (op_id, cell) = (victims.clients[0].new_op_id(), CellRef::name("W", "mug"));
        let request =
            Request::Receive { op_id, quantity: 100_000, cell: Cell::of(cell), define: true };
        let invoked = victims.tick();
        let received = victims.clients[0].receive(op_id, cell, 100_000).await;
        victims.note(0, invoked, request, received.into());
        // Nobody's: what the attackers scan.
        let mut batch = Batch::new();
        for warehouse in 0..WAREHOUSES {
            batch.define(format!("w{warehouse}"), "many").unwrap();
        }
        victims.clients[0].batch(batch).await.unwrap();
        victims
    }

    fn tick(&mut self) -> u64 {
        self.event += 1;
        self.event
    }

    fn note(&mut self, client: usize, invoked: u64, request: Request, verdict: Verdict) {
        let answered = matches!(verdict, Verdict::Answered(_));
        assert!(answered, "a bystander's call failed: {request:?} {verdict:?}");
        let (client, not_after) = (client as u32, None);
        let completed = if answered { self.tick() } else { NEVER };
        self.history.push(Operation { client, invoked, completed, request, not_after, verdict });
    }

    /// Every client buys so many times: reserve, confirm or release, look.
    pub async fn buy(&mut self, times: usize) {
        for round in 0..times {
            for client in 0..Self::CLIENTS {
                self.buy_once(client, round).await;
            }
        }
    }

    async fn buy_once(&mut self, client: usize, round: usize) {
        let id = self.clients[client].new_id();
        let cell = Cell::name("W", "mug");
        let request = Request::Reserve { id, ttl_ms: 60_000, lines: vec![(cell.clone(), 2)] };
        let invoked = self.tick();
        let cart = Reserve::new(id).line("W", "mug", 2).ttl(Duration::from_secs(60));
        let granted = self.clients[client].reserve(&cart).await;
        self.note(client, invoked, request, granted.into());
        let invoked = self.tick();
        if round.is_multiple_of(2) {
            let confirmed = self.clients[client].confirm(id).await;
            self.note(client, invoked, Request::Confirm { id }, confirmed.into());
        } else {
            let released = self.clients[client].release(id).await;
            self.note(client, invoked, Request::Release { id }, released.into());
        }
        let invoked = self.tick();
        let request = Request::ReadCells { cells: vec![cell], stale: false };
        let read = [CellRef::name("W", "mug")];
        let read = self.clients[client].read_cells(&read, Consistency::Linearizable).await;
        self.note(client, invoked, request, read.into());
    }

    /// Compares what was told with the log of the stopped node.
    pub fn account(&self, data: &Path) {
        let log = committed::read(&[data]).unwrap();
        let options = Options { complete: false, ..Options::default() };
        let report = check(&log, &self.history, &options);
        assert!(report.is_ok(), "{report}");
        assert_eq!(report.count("operations"), self.history.len() as u64);
    }
}
