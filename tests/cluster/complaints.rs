//! What people complain about in the systems that they use today, one test for each, end to end: the
//! real binary, the real client.

use std::sync::Arc;
use std::time::Duration;

use stockd_client::{
    Amend, Batch, CellCounters, CellRef, Change, Client, Code, Consistency, Error, Outcome,
    ReservationId, ReservationState, Reserve, ReserveFrom, Sourced, StockWrite,
};

use crate::harness::Cluster;
use crate::until;

const SHIRT: CellRef<'static> = CellRef::Name { warehouse: b"BER", sku: b"shirt" };

/// A node with so many shirts, and a client.
async fn shop(shirts: u32) -> (Cluster, Arc<Client>) {
    let cluster = Cluster::start(1, &[]).await;
    let client = Client::connect(cluster.clients()).await.unwrap();
    client.receive(client.new_op_id(), SHIRT, shirts).await.unwrap();
    (cluster, Arc::new(client))
}

async fn counters(client: &Client) -> CellCounters {
    let read = client.read_cell(SHIRT, Consistency::Linearizable).await.unwrap();
    read.value.expect("the cell was made").counters
}

fn cart(client: &Client, quantity: u32) -> Reserve<'static> {
    Reserve::new(client.new_id()).cell(SHIRT, quantity)
}

fn code<T>(result: Result<T, Error>) -> Option<Code> {
    result.err().and_then(|error| error.code())
}

/// A hold that has run out: it was made for a second, and a grace of two follows.
async fn run_out(client: &Client, quantity: u32) -> Reserve<'static> {
    let cart = cart(client, quantity).ttl(Duration::from_secs(1));
    let deadline = client.reserve(&cart).await.unwrap().deadline;
    // The cluster's clock says when, not this test's.
    while client.ping().await.unwrap().0 < deadline.0 + 2_100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    cart
}

#[tokio::test]
async fn two_buyers_and_the_last_unit() {
    let (_cluster, client) = shop(1).await;
    for _ in 0..50 {
        let (one, other) = (cart(&client, 1), cart(&client, 1));
        let (first, second) = tokio::join!(client.reserve(&one), client.reserve(&other));
        assert_eq!(u8::from(first.is_ok()) + u8::from(second.is_ok()), 1, "one of the two has it");
        let (won, lost) = if first.is_ok() { (one, second) } else { (other, first) };
        assert_eq!(code(lost), Some(Code::NO_STOCK));
        client.release(won.id()).await.unwrap();
    }
}

#[tokio::test]
async fn the_same_sku_on_two_lines() {
    let (_cluster, client) = shop(3).await;
    let twice = cart(&client, 2).cell(SHIRT, 2);
    let Err(Error::Refused(refusal)) = client.reserve(&twice).await else {
        panic!("four of three were granted");
    };
    let short = &refusal.short[..];
    assert_eq!((short.len(), short[0].asked, short[0].available), (1, 4, 3));
    let fits = cart(&client, 2).cell(SHIRT, 1);
    client.reserve(&fits).await.unwrap();
    assert_eq!(counters(&client).await.available, 0);
}

#[tokio::test]
async fn a_retry_that_doubles() {
    let (mut cluster, client) = shop(5).await;
    let cart = cart(&client, 2);
    let op_id = client.new_op_id();
    let write = StockWrite::adjust(op_id, SHIRT, 3);
    for again in 0..3 {
        assert_eq!(client.reserve(&cart).await.unwrap().replay, again > 0);
        assert_eq!(client.write(&write).await.unwrap().replay, again > 0);
        let part = Change::confirm(cart.id()).part(0, 1).step(1);
        assert_eq!(client.change(&part).await.unwrap().replay, again > 0);
        // Not even a node that has forgotten who asked forgets what was asked.
        cluster.node_mut(1).kill();
        cluster.node_mut(1).start().await;
    }
    let found = counters(&client).await;
    assert_eq!((found.on_hand, found.reserved, found.committed), (8, 1, 1));
}

/// What the reservations say that they hold and have promised, line by line.
async fn sums(client: &Client, carts: &[ReservationId]) -> (i64, i64) {
    let (mut reserved, mut committed) = (0, 0);
    for id in carts {
        let read = client.read_lines(*id, Consistency::Linearizable).await.unwrap();
        for (_, shares) in read.expect("it is remembered").value.lines {
            reserved += i64::from(shares.reserved);
            committed += i64::from(shares.committed);
        }
    }
    (reserved, committed)
}

#[tokio::test]
async fn counters_drifting_from_reservations() {
    let (mut cluster, client) = shop(40).await;
    let (mut held, mut promised, mut gone) = (0, 0, 0);
    let mut carts = Vec::new();
    for round in 0..8_u32 {
        let cart = cart(&client, 4);
        client.reserve(&cart).await.unwrap();
        let (id, step) = (cart.id(), 1);
        carts.push(id);
        match round % 4 {
            0 => held += 4,
            1 => {
                let part = Change::confirm(id).part(0, 1).step(step);
                client.change(&part).await.unwrap();
                (held, promised) = (held + 3, promised + 1);
            }
            2 => {
                client.amend(&Amend::new(id, step).cell(SHIRT, 2)).await.unwrap();
                client.change(&Change::fulfil(id).ship()).await.unwrap();
                gone += 2;
            }
            _ => {
                client.confirm(id).await.unwrap();
                client.change(&Change::cancel(id)).await.unwrap();
            }
        }
    }
    let found = counters(&client).await;
    assert_eq!((found.on_hand, found.reserved, found.committed), (40 - gone, held, promised));
    assert_eq!(found.available, 40 - gone - held - promised);
    assert_eq!(sums(&client, &carts).await, (held, promised));

    // Two run out, one of them but for a unit that was paid; meanwhile the node is killed.
    for paid in [0, 1] {
        let cart = cart(&client, 3).ttl(Duration::from_secs(1));
        client.reserve(&cart).await.unwrap();
        if paid > 0 {
            // However long the machine takes over it.
            let part = Change::confirm(cart.id()).part(0, paid).step(1).reacquire();
            client.change(&part).await.unwrap();
        }
        carts.push(cart.id());
        promised += i64::from(paid);
    }
    for _ in 0..2 {
        cluster.node_mut(1).kill();
        cluster.node_mut(1).start().await;
        let swept = async || counters(&client).await.reserved == held;
        until("the holds that ran out to be swept", swept).await;
        let found = counters(&client).await;
        assert_eq!(sums(&client, &carts).await, (found.reserved, found.committed));
        assert_eq!((found.on_hand, found.committed), (40 - gone, promised));
        assert_eq!(found.available, 40 - gone - held - promised);
    }
}

#[tokio::test]
async fn stock_given_back_late() {
    let (_cluster, client) = shop(2).await;
    run_out(&client, 2).await;
    // Whether or not anybody has swept yet: the next buyer has them.
    client.reserve(&cart(&client, 2)).await.unwrap();
}

#[tokio::test]
async fn blocked_by_ones_own_hold_or_losing_it_on_a_failed_edit() {
    let (_cluster, client) = shop(5).await;
    let cart = cart(&client, 4);
    client.reserve(&cart).await.unwrap();
    let amend = |step, quantity| Amend::new(cart.id(), step).cell(SHIRT, quantity);
    client.amend(&amend(1, 5)).await.unwrap();
    assert_eq!(code(client.amend(&amend(2, 6)).await), Some(Code::NO_STOCK));
    assert_eq!(counters(&client).await.reserved, 5, "the failed edit changed nothing");
}

#[tokio::test]
async fn paid_after_expiry() {
    let (_cluster, client) = shop(2).await;
    let cart = run_out(&client, 2).await;
    assert_eq!(code(client.confirm(cart.id()).await), Some(Code::HOLD_EXPIRED));
    let paid = Change::confirm(cart.id()).reacquire();
    let changed = client.change(&paid).await.unwrap();
    assert!(changed.reacquired && changed.state == ReservationState::Confirmed);
    assert_eq!(counters(&client).await.committed, 2);
    let again = client.change(&paid).await.unwrap();
    assert!(again.replay && !again.reacquired, "the units are taken once");
}

#[tokio::test]
async fn a_split_over_warehouses_that_does_not_sum() {
    let (_cluster, client) = shop(3).await;
    for (warehouse, units) in [("HAM", 4), ("MUC", 2)] {
        let cell = CellRef::name(warehouse, "shirt");
        client.receive(client.new_op_id(), cell, units).await.unwrap();
    }
    // Buyers who all want five from anywhere: nine units are there, one buyer can have them whole.
    let warehouses = ["BER", "HAM", "MUC"].map(|warehouse| CellRef::name(warehouse, "shirt"));
    let mut buyers = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let client = client.clone();
        buyers.spawn(async move {
            let cart = ReserveFrom::new(client.new_id()).line(5, warehouses).splits_max(2);
            client.reserve_from(&cart).await
        });
    }
    let granted: Vec<Sourced> =
        buyers.join_all().await.into_iter().filter_map(Result::ok).collect();
    let [granted] = &granted[..] else { panic!("one buyer has five: {granted:?}") };
    let sum: u32 = granted.parts.iter().map(|part| part.quantity).sum();
    assert_eq!((sum, granted.partial), (5, false), "{granted:?}");
    // What the parts say is what each warehouse holds.
    let read = client.read_cells(&warehouses, Consistency::Linearizable).await.unwrap();
    for cell in read.value.into_iter().flatten() {
        let parts = granted.parts.iter().filter(|part| part.cell == cell.handle);
        let held: u32 = parts.map(|part| part.quantity).sum();
        assert_eq!(cell.counters.reserved, i64::from(held), "{granted:?}");
    }
    // Whoever takes what is left gets exactly that.
    let rest = ReserveFrom::new(client.new_id()).up_to(9, 1, warehouses).splits_max(2);
    let rest = client.reserve_from(&rest).await.unwrap();
    let sum: u32 = rest.parts.iter().map(|part| part.quantity).sum();
    assert_eq!((sum, rest.partial), (4, true), "{rest:?}");
}

#[tokio::test]
async fn a_blind_absolute_write_over_sales() {
    let (_cluster, client) = shop(10).await;
    let cart = cart(&client, 4);
    client.reserve(&cart).await.unwrap();
    client.confirm(cart.id()).await.unwrap();
    let write = |on_hand, sequence| StockWrite::feed(client.new_op_id(), SHIRT, on_hand, sequence);
    client.write(&write(8, 2)).await.unwrap();
    assert_eq!(code(client.write(&write(99, 1)).await), Some(Code::STALE_FEED));
    let found = counters(&client).await;
    assert_eq!((found.on_hand, found.committed, found.available), (8, 4, 4));
    let expected = StockWrite::set(client.new_op_id(), SHIRT, 20, 10);
    let Err(Error::Refused(refusal)) = client.write(&expected).await else {
        panic!("it was written over what somebody else wrote");
    };
    assert_eq!((refusal.code, refusal.value), (Code::STALE_EXPECTED, Some(8)));
}

#[tokio::test]
async fn deadlock_or_slowdown_on_a_hot_row() {
    let (_cluster, client) = shop(1_000).await;
    let other = CellRef::name("BER", "mug");
    client.receive(client.new_op_id(), other, 1_000).await.unwrap();
    // Carts that take the same two rows in either order, all at once: row locks would deadlock.
    let mut buyers = tokio::task::JoinSet::new();
    for number in 0..200 {
        let client = client.clone();
        buyers.spawn(async move {
            let lines = if number % 2 == 0 { [SHIRT, other] } else { [other, SHIRT] };
            let cart = Reserve::new(client.new_id()).cell(lines[0], 1).cell(lines[1], 1);
            client.reserve(&cart).await.map(|_| ())
        });
    }
    for result in buyers.join_all().await {
        result.unwrap();
    }
    assert_eq!(counters(&client).await.reserved, 200);
}

#[tokio::test]
async fn a_change_of_many_things_that_stops_half_way() {
    let (_cluster, client) = shop(1).await;
    let mut batch = Batch::new();
    batch.reserve(&cart(&client, 1)).unwrap();
    batch.write(&StockWrite::adjust(client.new_op_id(), SHIRT, 4)).unwrap();
    batch.reserve(&cart(&client, 9)).unwrap();
    batch.link_all().unwrap();
    let results = client.batch(batch).await.unwrap();
    let codes = results.iter().map(|result: &Result<Outcome, _>| {
        result.as_ref().err().map(|refusal: &stockd_client::Refusal| refusal.code)
    });
    let codes: Vec<_> = codes.collect();
    let failed = Some(Code::LINKED_FAILED);
    assert_eq!(codes, [failed, failed, Some(Code::NO_STOCK)]);
    let found = counters(&client).await;
    assert_eq!((found.on_hand, found.reserved), (1, 0));
}
