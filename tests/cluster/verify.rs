//! The count afterwards: is what was acknowledged there, and nothing else? And do the events say so?

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use stockd_check::Stream;
use stockd_client::events::{Event, EventKind};
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

    /// Reads the events of nodes that run, which are the same on all of them; returns how many that is.
    ///
    /// # Panics
    /// They differ, are not in order, do not tell of something acknowledged, or tell of what nobody asked for.
    pub async fn verify_events(&self, directories: &[PathBuf]) -> u64 {
        let deadline = Instant::now() + CATCH_UP;
        loop {
            let mut stream = Stream::new();
            for directory in directories {
                stream.read(directory).unwrap();
            }
            // What was applied just now may not be in the file yet.
            match self.is_told(&stream) {
                Ok(()) => return stream.told(),
                Err(message) => assert!(Instant::now() < deadline, "{message}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Compares the carts and what was received with the events. What later events may mend is an `Err`.
    fn is_told(&self, stream: &Stream) -> Result<(), String> {
        let (mut told, mut received) = (BTreeSet::new(), vec![0; self.handles.len()]);
        let mut next = 1;
        for record in stream.records() {
            if record.header().first != next {
                // Each of these nodes was given a snapshot at some time: what was before, none can tell.
                return Ok(());
            }
            next = record.header().next();
            for event in record.events().map(Result::unwrap) {
                let change = event.change.as_ref();
                let cell = change.and_then(|change| {
                    self.handles.iter().position(|handle| *handle == change.cell)
                });
                let Some((cell, id)) = cell.zip(event.id) else { continue };
                if event.kind == EventKind::Received {
                    received[cell] += change.map_or(0, |change| change.delta.on_hand);
                } else {
                    self.check_told(cell, id, &event);
                    told.insert((id, event.kind));
                }
            }
        }
        for (id, cart) in &self.carts {
            let last = match cart.may_be[..] {
                [Seen::Confirmed] => EventKind::Confirmed,
                [Seen::Released] => EventKind::Released,
                _ => EventKind::Reserved,
            };
            let is_granted =
                !cart.may_be.contains(&Seen::Absent) && !cart.may_be.contains(&Seen::Fenced);
            if is_granted
                && ![EventKind::Reserved, last].iter().all(|kind| told.contains(&(*id, *kind)))
            {
                return Err(format!("no event tells of {id}: {cart:?}"));
            }
        }
        for (cell, (told, received)) in received.iter().zip(&self.received).enumerate() {
            let most = received.acknowledged + received.in_doubt;
            assert!(*told <= most, "cell {cell}: events tell of {told} units, of {received:?}");
            if *told < received.acknowledged {
                return Err(format!("cell {cell}: events tell of {told} units, of {received:?}"));
            }
        }
        Ok(())
    }

    /// What is told of a cart was asked for.
    fn check_told(&self, cell: usize, id: ReservationId, event: &Event<'_>) {
        let cart = self.carts.get(&id);
        let moves = |cart: &Cart| {
            let delta = event.change.map(|change| change.delta);
            let units = delta.map(|delta| delta.reserved.abs().max(delta.committed.abs()));
            cart.cell == cell && units == Some(i64::from(cart.quantity))
        };
        assert!(cart.is_some_and(moves), "{event} tells of {cart:?}");
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
