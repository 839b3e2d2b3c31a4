//! The count afterwards: is what was acknowledged there, and nothing else?

use std::collections::BTreeMap;
use std::time::Duration;

use stockd_client::{
    Batch, Cell, CellRef, Client, Code, Consistency, Options, Outcome, Read, ReservationId,
};
use tokio::time::Instant;

use crate::buyers::{Book, Cart, Seen, options};
use crate::{CATCH_UP, PATIENCE};

/// Reservations read in one request.
const PAGE: usize = 512;

impl Book {
    /// Looks up every id and every cell, through whichever node leads.
    ///
    /// # Panics
    /// Something acknowledged is lost, or a cell does not add up.
    pub async fn verify(&self, addresses: &[String]) {
        assert!(self.wrong.is_empty(), "{:#?}", self.wrong);
        let options = Options {
            request_timeout: PATIENCE,
            reply_timeout: Duration::from_secs(10),
            ..options(addresses)
        };
        let client = Client::connect(options).await.unwrap();
        let deadline = Instant::now() + CATCH_UP;
        loop {
            let seen = self.look_up(&client).await;
            let cells = self.cells(&client).await;
            // What expires between the two reads is still in the first.
            match self.add_up(&seen, &cells) {
                Ok(()) => return,
                Err(message) => assert!(Instant::now() < deadline, "{message}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What has become of each cart; all of it must be something that may be.
    async fn look_up(&self, client: &Client) -> BTreeMap<ReservationId, Seen> {
        let ids: Vec<ReservationId> = self.carts.keys().copied().collect();
        let mut seen = BTreeMap::new();
        let mut lost = Vec::new();
        for page in ids.chunks(PAGE) {
            let mut batch = Batch::new();
            for id in page {
                batch.read_reservation(*id, Consistency::Linearizable).unwrap();
            }
            for (id, result) in page.iter().zip(client.batch(batch).await.unwrap()) {
                let cart = &self.carts[id];
                let found = match result {
                    Ok(Outcome::Reservation(read)) => self.found(*id, cart, &read, &mut lost),
                    Err(refusal) if refusal.code == Code::NOT_FOUND => Seen::Absent,
                    other => panic!("{id}: {other:?}"),
                };
                if !cart.may_be.contains(&found) {
                    lost.push(format!("{id} is {found:?}: {cart:?}"));
                }
                seen.insert(*id, found);
            }
        }
        assert!(lost.is_empty(), "{} answers were lost: {lost:#?}", lost.len());
        seen
    }

    fn found(
        &self,
        id: ReservationId,
        cart: &Cart,
        read: &Read<stockd_client::Reservation>,
        lost: &mut Vec<String>,
    ) -> Seen {
        let found = Seen::from(read.value.state);
        let lines: Vec<_> = read.value.lines.iter().map(|l| (l.cell, l.quantity)).collect();
        if found != Seen::Fenced && lines != [(self.handles[cart.cell], cart.quantity)] {
            lost.push(format!("{id} has other lines {lines:?}: {cart:?}"));
        }
        if found == Seen::Expired
            && cart.deadline.is_some_and(|deadline| deadline > read.server_now)
        {
            lost.push(format!(
                "{id} expired before its deadline: {cart:?}, now {:?}",
                read.server_now
            ));
        }
        found
    }

    async fn cells(&self, client: &Client) -> Vec<Cell> {
        let refs: Vec<_> = self.handles.iter().map(|handle| CellRef::Handle(*handle)).collect();
        let read = client.read_cells(&refs, Consistency::Linearizable).await.unwrap();
        read.value.into_iter().map(|cell| cell.expect("a cell never goes away")).collect()
    }

    /// Compares the carts with the counters. What can only be wrong panics; what an expiry between
    /// two reads may explain is an `Err`.
    fn add_up(&self, seen: &BTreeMap<ReservationId, Seen>, cells: &[Cell]) -> Result<(), String> {
        for (number, cell) in cells.iter().enumerate() {
            let sum = |state: Seen| -> i64 {
                let of_cell = self.carts.iter().filter(|(_, cart)| cart.cell == number);
                let in_state = of_cell.filter(|(id, _)| seen[id] == state);
                in_state.map(|(_, cart)| i64::from(cart.quantity)).sum()
            };
            let counters = cell.counters;
            let taken = counters.reserved + counters.committed;
            assert!(taken <= counters.on_hand, "cell {number} is oversold: {counters:?}");
            assert_eq!(counters.available, counters.on_hand - taken, "cell {number}");
            let received = self.received[number];
            let most = received.acknowledged + received.in_doubt;
            assert!(
                (received.acknowledged..=most).contains(&counters.on_hand),
                "cell {number} has {} of {received:?}",
                counters.on_hand
            );
            let confirmed = sum(Seen::Confirmed);
            assert_eq!(counters.committed, confirmed, "cell {number}: committed and confirmed");
            let active = sum(Seen::Active);
            assert!(counters.reserved <= active, "cell {number} holds units of nobody");
            if counters.reserved != active {
                return Err(format!("cell {number}: {active} held, {} counted", counters.reserved));
            }
        }
        Ok(())
    }
}
