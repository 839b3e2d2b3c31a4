//! Streams of events.

use std::time::Duration;

use stockd_client::events::{Counts, Cursor, EventKind, EventStream, Names, Subscription};
use stockd_client::{CatalogueWrite, CellHandle, CellRef, Consistency};
use stockd_protocol::event::Ledger;
use tokio::time::timeout;

use crate::{Cluster, PATIENCE, receive, sell};

/// What came, as text, until there are so many.
async fn take(stream: &mut EventStream, count: usize) -> Vec<String> {
    let mut all = Vec::new();
    while all.len() < count {
        let batch = timeout(PATIENCE, stream.next()).await.expect("events come").unwrap();
        all.extend(batch.events().map(|event| event.to_string()));
    }
    all
}

/// The events up to `end`: their numbers, and a ledger that has taken them all.
async fn take_until(stream: &mut EventStream, end: u64, ledger: &mut Ledger) -> Vec<u64> {
    let mut numbers = Vec::new();
    while stream.position() < end {
        let batch = timeout(PATIENCE, stream.next()).await.expect("events come").unwrap();
        for event in &batch {
            ledger.take(&event).unwrap();
            numbers.push(event.sequence);
        }
    }
    numbers
}

#[tokio::test]
async fn all_that_happened_adds_up_to_what_is_there() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    for sku in ["mug", "cup", "hat"] {
        receive(&client, "BER", sku, 100).await;
        receive(&client, "HAM", sku, 10).await;
        sell(&client, "BER", sku, 3).await;
    }
    let mut stream = Subscription::new(cluster.addresses()).from_sequence(1).open().await.unwrap();
    assert_eq!((stream.position(), stream.cluster_id()), (1, client.cluster_id().unwrap()));
    let end = 1 + 3 * (2 * 2 + 2);
    let mut ledger = Ledger::new();
    let numbers = take_until(&mut stream, end, &mut ledger).await;
    assert_eq!(numbers, (1..end).collect::<Vec<_>>());
    let cells = [CellRef::name("BER", "cup"), CellRef::name("HAM", "hat")];
    let read = client.read_details(&cells, Consistency::Linearizable).await.unwrap();
    for cell in read.value {
        let cell = cell.unwrap();
        assert_eq!(ledger.counts(cell.handle), Some(Counts::from(&cell.details)));
    }
    // And what happens from now on comes as it happens.
    sell(&client, "HAM", "hat", 1).await;
    let live = take(&mut stream, 2).await;
    assert!(live[0].contains(&format!("{end} RESERVED ")), "{live:?}");
    assert!(live[1].contains(&format!("{} CONFIRMED ", end + 1)), "{live:?}");
}

#[tokio::test]
async fn only_what_is_wanted_comes() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    for (warehouse, sku) in [("BER", "mug"), ("HAM", "mug"), ("BER", "cup"), ("HAM", "cup")] {
        receive(&client, warehouse, sku, 5).await;
    }
    let title = CatalogueWrite::describe(client.new_op_id(), "mug", "A mug", 0);
    client.write_catalogue(&title).await.unwrap();
    let all = || Subscription::new(cluster.addresses()).oldest();
    let seen = async |subscription: Subscription, count: usize| {
        let mut stream = subscription.open().await.unwrap();
        let mut numbers = Vec::new();
        while stream.position() < 10 {
            let batch = timeout(PATIENCE, stream.next()).await.expect("they come").unwrap();
            numbers.extend(batch.events().map(|event| event.sequence));
            // Frames without a wanted event come now and then only.
            if numbers.len() == count {
                break;
            }
        }
        numbers
    };
    assert_eq!(seen(all(), 9).await, (1..10).collect::<Vec<u64>>());
    assert_eq!(seen(all().kind(EventKind::Received), 4).await, [2, 4, 6, 8]);
    assert_eq!(seen(all().warehouse("BER"), 4).await, [1, 2, 5, 6]);
    assert_eq!(seen(all().sku("mug"), 5).await, [1, 2, 3, 4, 9]);
    assert_eq!(seen(all().cell("HAM", "cup"), 2).await, [7, 8]);
    let both = all().cell("HAM", "cup").cell("BER", "mug").kind(EventKind::Received);
    assert_eq!(seen(both, 2).await, [2, 8]);
    let late = all().from_sequence(7).warehouse("HAM");
    assert_eq!(seen(late, 2).await, [7, 8]);

    let mut stream = all().open().await.unwrap();
    let batch = stream.next().await.unwrap();
    let batch = if batch.is_empty() { stream.next().await.unwrap() } else { batch };
    let sixth = batch.events().find(|event| event.sequence == 6).expect("all nine came at once");
    let since = all().since(Duration::from_micros(sixth.at_us));
    let first = since.open().await.unwrap().position();
    assert!((5..=6).contains(&first), "a cell is made by the entry that fills it: {first}");
    let now = all().now().open().await.unwrap();
    assert_eq!((now.position(), now.lag()), (10, 0));
}

#[tokio::test]
async fn a_stream_goes_on_over_the_restart_of_its_node() {
    let mut cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    let path = cluster.path("orders.cursor");
    let subscription = Subscription::new(cluster.addresses()).oldest();
    let mut stream = subscription.clone().open().await.unwrap();
    let mut ledger = Ledger::new();
    let mut end = 1;
    for round in 1..=3 {
        receive(&client, "BER", "mug", 10).await;
        for _ in 0..5 {
            sell(&client, "BER", "mug", 1).await;
        }
        end += if round == 1 { 12 } else { 11 };
        take_until(&mut stream, end, &mut ledger).await;
        cluster.nodes[0].kill();
        cluster.nodes[0].start().await;
    }
    let cell = CellRef::name("BER", "mug");
    let read = client.read_cell(cell, Consistency::Linearizable).await.unwrap().value.unwrap();
    let counts = ledger.counts(read.handle).unwrap();
    assert_eq!((counts.on_hand, counts.committed), (30, 15));
    assert_eq!(
        (counts.on_hand, counts.committed),
        (read.counters.on_hand, read.counters.committed)
    );

    // Another process goes on where this one was.
    let mut cursor = Cursor::open(&path).unwrap();
    cursor.bind(&stream).unwrap();
    assert_eq!(cursor.position(), Some(end));
    drop((cursor, stream));
    sell(&client, "BER", "mug", 1).await;
    let mut cursor = Cursor::open(&path).unwrap();
    let mut stream = subscription.resume(&cursor).open().await.unwrap();
    cursor.bind(&stream).unwrap();
    assert_eq!(take_until(&mut stream, end + 2, &mut ledger).await, [end, end + 1]);
}

#[tokio::test]
async fn any_node_serves_and_another_goes_on() {
    let mut cluster = Cluster::start(3).await;
    let client = cluster.client().await;
    receive(&client, "BER", "mug", 100).await;
    // Node 1 has started it, and leads: node 3 comes first.
    let addresses: Vec<String> = cluster.addresses().into_iter().rev().collect();
    let mut stream = Subscription::new(addresses.clone()).from_sequence(1).open().await.unwrap();
    assert_eq!(stream.connected_to().as_ref(), Some(&addresses[0]), "a follower serves");
    let mut ledger = Ledger::new();
    take_until(&mut stream, 3, &mut ledger).await;
    let mut end = 3;
    for victim in [2, 1] {
        let lost = &mut cluster.nodes[victim];
        assert_eq!(stream.connected_to().as_ref(), Some(&lost.client));
        lost.kill();
        // Two of three go on.
        for _ in 0..5 {
            sell(&client, "BER", "mug", 1).await;
        }
        end += 10;
        let position = stream.position();
        let numbers = take_until(&mut stream, end, &mut ledger).await;
        assert_eq!(numbers, (position..end).collect::<Vec<_>>());
        assert_ne!(stream.connected_to().as_ref(), Some(&cluster.nodes[victim].client));
        cluster.nodes[victim].start().await;
    }
    let counts = ledger.counts(CellHandle(0)).unwrap();
    assert_eq!((counts.on_hand, counts.committed), (100, 10));
}

#[tokio::test]
async fn a_slow_reader_gets_all_the_same() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    receive(&client, "BER", "mug", 100_000).await;
    let mut stream = Subscription::new(cluster.addresses()).from_sequence(1).open().await.unwrap();
    // Far more than a window, while nobody takes anything.
    let mut batch = stockd_client::Batch::new();
    for _ in 0..4_000 {
        batch.reserve(&stockd_client::Reserve::new(client.new_id()).line("BER", "mug", 1)).unwrap();
    }
    for _ in 0..10 {
        client.batch(batch.clone()).await.unwrap();
        let mut fresh = stockd_client::Batch::new();
        for _ in 0..4_000 {
            let id = client.new_id();
            fresh.reserve(&stockd_client::Reserve::new(id).line("BER", "mug", 1)).unwrap();
        }
        batch = fresh;
    }
    let mut ledger = Ledger::new();
    let numbers = take_until(&mut stream, 40_003, &mut ledger).await;
    assert_eq!(numbers.len(), 40_002);
    assert_eq!(ledger.counts(CellHandle(0)).unwrap().reserved, 40_000);
}

#[tokio::test]
async fn cells_have_names() {
    let cluster = Cluster::start(1).await;
    let client = cluster.client().await;
    for sku in ["mug", "cup", "hat"] {
        receive(&client, "BER", sku, 1).await;
    }
    // From behind those that made the cells.
    let all = Subscription::new(cluster.addresses()).oldest().kind(EventKind::Received);
    let mut stream = all.open().await.unwrap();
    let mut names = Names::new();
    let mut seen = Vec::new();
    while seen.len() < 3 {
        let batch = timeout(PATIENCE, stream.next()).await.expect("they come").unwrap();
        names.resolve(&client, &batch).await.unwrap();
        for event in &batch {
            let name = names.get(event.change.unwrap().cell).unwrap();
            seen.push(
                [name.warehouse, name.sku].map(|name| String::from_utf8(name.into()).unwrap()),
            );
        }
    }
    assert_eq!(seen, ["mug", "cup", "hat"].map(|sku| ["BER".to_owned(), sku.to_owned()]));
}
