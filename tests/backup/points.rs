//! Restoring to a moment: what is there is what the events up to it say.

use std::time::Duration;

use serde_json::Value;
use stockd::engine::StockState;
use stockd::replication::{load_checkpoint, newest_checkpoint, owner_of};
use stockd_client::Batch;

use super::*;

/// The state in a restored directory, before any node has run there.
fn state_in(data: &str) -> StockState {
    let storage = RealStorage::open_read_only(Path::new(data)).unwrap();
    let engine = owner_of(&storage).unwrap().unwrap().engine;
    let name = newest_checkpoint(&storage).unwrap().unwrap();
    load_checkpoint(&storage, &name, &engine, &mut |_, _| ()).unwrap().stock
}

/// Units of the first cell.
fn on_hand(state: &StockState) -> i64 {
    let cells = state.cells();
    cells.counters(stockd::protocol::CellHandle(0)).map_or(0, |counters| counters.on_hand)
}

/// What the live node says was in the cell then.
async fn asof(node: &Node, point: &str) -> i64 {
    let json: Value =
        serde_json::from_str(&node.admin(&format!("asof {point} BER mug")).await.unwrap()).unwrap();
    json["on_hand"].as_i64().unwrap_or_else(|| panic!("{json}"))
}

/// Number and moment of the events about the mug.
fn events(node: &Node) -> Vec<(u64, String)> {
    let said = stockd(&[
        "tail",
        "--node",
        &node.client,
        "--from",
        "oldest",
        "--count",
        "31",
        "--format",
        "ndjson",
    ])
    .ok();
    let event = |line: &str| {
        let event: Value = serde_json::from_str(line).unwrap();
        (event["sequence"].as_u64().unwrap(), event["time"].as_str().unwrap().to_owned())
    };
    said.out.lines().map(event).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_number_and_every_moment_is_what_it_was() {
    let shop = Shop::start(1).await;
    let client = shop.client().await;
    for quantity in 1..=15 {
        receive(&client, "BER", "mug", quantity).await;
    }
    shop.node().admin("snapshot").await.unwrap();
    shop.back_up(0, "backup").ok();
    for quantity in 16..=30 {
        receive(&client, "BER", "mug", quantity).await;
    }
    shop.node().admin("snapshot").await.unwrap();
    shop.back_up(0, "backup").ok();
    let events = events(shop.node());
    for at in [1, 2, 7, 15, 16, 17, 29, 30] {
        let (sequence, moment) = &events[at];
        let wanted = asof(shop.node(), &sequence.to_string()).await;
        for (way, target) in [("--to-seq", &sequence.to_string()), ("--to-time", moment)] {
            let data = format!("{way}-{at}");
            let said = shop.restore("backup", &data, &[way, target]).ok();
            let state = state_in(&shop.path(&data));
            assert_eq!(
                (on_hand(&state), state.next_event()),
                (wanted, sequence + 1),
                "{}",
                said.out
            );
            let digest = format!("{:016x}", state.digest());
            assert!(said.line("digest").starts_with(&digest), "{}", said.out);
            stockd(&["audit", &shop.path(&data)]).ok();
        }
    }
    // One is of the second half, and begins at the snapshot between; the others have none before them.
    let said = shop.restore("backup", "late", &["--to-seq", "20"]).ok();
    assert!(said.line("from").contains("snapshot-"), "{}", said.out);
    let said = shop.restore("backup", "early", &["--to-seq", "3"]).ok();
    assert!(said.line("from").contains("first entry"), "{}", said.out);
    for (target, why) in [
        (["--to-seq", "32"], "is not in the backup: its last one is 31"),
        (["--to-seq", "99999"], "is not in the backup"),
        (["--to-time", "2020-01-01T00:00:00Z"], "that is before the first entry of the log"),
        (["--to-time", "2099-01-01T00:00:00Z"], "that is behind the end of the backup"),
    ] {
        shop.restore("backup", "none", &target).refused(why);
        assert!(!Path::new(&shop.path("none")).exists());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_is_whole_or_not_there() {
    let shop = Shop::start(1).await;
    let client = shop.client().await;
    receive(&client, "BER", "mug", 5).await;
    let mut batch = Batch::new();
    for quantity in [10, 20, 30] {
        let op = client.new_op_id();
        batch.receive(op, CellRef::name("BER", "mug"), quantity).unwrap();
    }
    client.batch(batch).await.unwrap();
    receive(&client, "BER", "mug", 100).await;
    shop.back_up(0, "backup").ok();
    // The cell, the first receipt, three together, one more.
    for (sequence, reached, units) in [(2, 2, 5), (3, 2, 5), (4, 2, 5), (5, 5, 65), (6, 6, 165)] {
        let data = format!("at-{sequence}");
        let said = shop.restore("backup", &data, &["--to-seq", &sequence.to_string()]).ok();
        assert!(said.line("restored").contains(&format!("event {reached},")), "{}", said.out);
        assert_eq!(on_hand(&state_in(&shop.path(&data))), units);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hold_that_has_run_out_meanwhile_expires_and_an_order_stays() {
    let shop = Shop::start(1).await;
    let client = shop.client().await;
    receive(&client, "BER", "mug", 10).await;
    let (held, sold) = (client.new_id(), client.new_id());
    let reserve = |id, units| Reserve::new(id).line("BER", "mug", units);
    client.reserve(&reserve(held, 3).ttl(Duration::from_secs(600))).await.unwrap();
    client.reserve(&reserve(sold, 2)).await.unwrap();
    client.confirm(sold).await.unwrap();
    shop.back_up(0, "backup").ok();
    shop.restore("backup", "restored", &[]).ok();
    let node = shop.serve("restored", &Shop::ARGUMENTS).await;
    let there = client_of(vec![node.client.clone()]).await;
    // The hold goes on in the new cluster for what was left of it, whatever becomes of it in the old one.
    there.release(held).await.unwrap();
    let read = node.admin("cell BER mug").await.unwrap();
    assert!(read.contains("\"reserved\":0") && read.contains("\"committed\":2"), "{read}");
    client.confirm(held).await.unwrap();
}
