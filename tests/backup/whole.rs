//! A node under load, its backups one after the other, and the cluster that comes out of the last one.

use std::collections::BTreeMap;
use std::path::Path;

use stockd::audit::{Replay, Source, empty, load};
use stockd::backup::BackedUp;
use stockd::log::RealStorage;
use stockd::protocol::ShardId;
use stockd::replication::owner_of;

use super::*;

/// The digest of the state in a node's directory after an entry, and the number of the next event.
fn digest_at(data: &Path, index: u64) -> (String, u64) {
    let storage = RealStorage::open_read_only(data).unwrap();
    let engine = owner_of(&storage).unwrap().unwrap().engine;
    let Ok(Source { checkpoint, log }) = load(&storage, ShardId(0), &engine, &mut |_, _, _| ())
    else {
        panic!("the node's directory cannot be read");
    };
    let checkpoint = checkpoint.unwrap_or_else(|| empty(engine));
    assert!(checkpoint.index <= index, "no snapshot was taken since");
    let mut replay = Replay::until(checkpoint, log, ShardId(0), index).unwrap();
    while replay.apply_next() {}
    (format!("{:016x}", replay.stock().digest()), replay.stock().next_event())
}

/// Segments that a node has put aside.
fn kept(shop: &Shop) -> usize {
    let names = fs::read_dir(&shop.node().data).unwrap();
    names
        .filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with("kept-"))
        .count()
}

type FilesOf = BTreeMap<String, BackedUp>;

/// Bytes of what is in a backup and was not in the one before.
fn new_bytes(before: &FilesOf, after: &FilesOf) -> u64 {
    let of = |(name, file): (&String, &BackedUp)| match before.get(name) {
        Some(had) if had == file => 0,
        // What comes last in the file before is compared.
        Some(had) if !name.starts_with("snapshot-") => {
            file.bytes - had.bytes + had.bytes.min(4_096)
        }
        _ => file.bytes,
    };
    after.iter().map(of).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_that_were_told_are_told_again() {
    let arguments = ["--sample-refusals", "1"];
    let shop = Shop::start_with(1, &arguments).await;
    let client = shop.client().await;
    receive(&client, "BER", "mug", 1).await;
    // What becomes of it is told by the events: the cell, its unit, and why there were not two.
    let _ = client.reserve(&Reserve::new(client.new_id()).line("BER", "mug", 2)).await;
    shop.back_up(0, "backup").ok();
    let restored = shop.restore("backup", "restored", &[]).ok();
    assert!(restored.line("as logged").starts_with("3 events"), "{}", restored.out);
    assert!(restored.line("start it").ends_with("--sample-refusals 1"), "{}", restored.out);
    shop.serve("restored", &arguments).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_busy_node_had_comes_back_and_is_fetched_once() {
    let mut shop = Shop::start(1).await;
    let client = shop.client().await;
    trade(&client, 2_000).await;
    shop.node().admin("snapshot").await.unwrap();
    until("a segment to be kept", async || kept(&shop) > 0).await;

    // While others go on.
    let trading = tokio::spawn({
        let client = shop.client().await;
        async move { trade(&client, 1_000).await }
    });
    let first = shop.back_up(0, "backup").ok();
    trading.await.unwrap();
    let had = shop.manifest("backup").files;
    assert_eq!(fetched_bytes(&first), had.values().map(|file| file.bytes).sum::<u64>());
    stockd(&["backup", "--verify", &shop.path("backup")]).ok();

    for sku in ["mug", "cup"] {
        receive(&client, "HAM", sku, 100).await;
        sell(&client, "HAM", sku, 3).await;
    }
    shop.node().admin("snapshot").await.unwrap();
    let second = shop.back_up(0, "backup").ok();
    let manifest = shop.manifest("backup");
    let sealed = had.iter().filter(|(_, file)| file.is_sealed);
    assert!(sealed.clone().any(|(name, _)| name.starts_with("segment-")), "{had:?}");
    for (name, file) in sealed {
        assert!(manifest.files.get(name) == Some(file), "{name} stays");
    }
    assert_eq!(fetched_bytes(&second), new_bytes(&had, &manifest.files), "what is new, once");
    assert!(manifest.files.keys().filter(|name| name.starts_with("snapshot-")).count() > 1);
    let verified = stockd(&["backup", "--verify", &shop.path("backup")]).ok();
    assert!(verified.out.contains("BACKUP OK"), "{}", verified.out);

    // Nothing but the vote that a backup writes to bring all to disk.
    let third = fetched_bytes(&shop.back_up(0, "backup").ok());
    assert!(third < 8_192, "{third} bytes of an idle node");
    let head = shop.manifest("backup").head;
    assert_eq!(head.index, manifest.head.index);

    let node = shop.nodes.first_mut().unwrap();
    node.signal("TERM");
    node.ended().await;
    let restored = shop.restore("backup", "restored", &[]).ok();
    let (digest, next) = digest_at(&shop.nodes[0].data, head.index);
    assert!(restored.line("digest").starts_with(&digest), "{}", restored.out);
    assert_eq!(head.next_event, next);
    let audited = stockd(&["audit", &shop.path("restored")]).ok();
    assert!(audited.out.contains("AUDIT OK"), "{}", audited.out);

    goes_on(&shop, next).await;
    stockd(&["audit", &shop.path("restored")]).ok();
}

/// The restored cluster serves, its events begin with the old ones, and others can join it.
async fn goes_on(shop: &Shop, next: u64) {
    let mut node = shop.serve("restored", &Shop::ARGUMENTS).await;
    let client = client_of(vec![node.client.clone()]).await;
    let events = |from: u64, count: u64| {
        let (from, count) = (from.to_string(), count.to_string());
        stockd(&["tail", "--node", &node.client, "--from", &from, "--count", &count]).ok().out
    };
    assert_eq!(events(1, 3).lines().count(), 3);
    sell(&client, "HAM", "mug", 7).await;
    let said = events(next - 1, 3);
    assert!(said.contains(&format!(" {next}  RESERVED")), "{said}");
    let why = node.admin("why HAM mug").await.unwrap();
    assert!(why.contains("\"committed\":10"), "{why}");
    // It knows and tells where it is.
    until("the members to know the address", async || {
        node.admin("members").await.is_some_and(|members| members.contains(&node.peer))
    })
    .await;
    let mut other = Node::new(2, shop.directory.path(), &[node.peer.clone()], &Shop::ARGUMENTS);
    other.data = shop.path("second").into();
    other.start().await;
    until("a second node to vote", async || {
        node.status().await.is_some_and(|status| status.voters == [1, 2])
    })
    .await;
    for ends in [&mut other, &mut node] {
        ends.signal("TERM");
        ends.ended().await;
        ends.assert_sound();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_that_is_killed_goes_on() {
    let shop = Shop::start(1).await;
    let address = shop.node().client.clone();
    trade(&shop.client().await, 2_000).await;
    let directory = shop.path("backup");
    let slowly = ["backup", &directory, "--node", &address, "--rate", "4000000"];
    let mut child = spawn(&slowly);
    let whole = || {
        let names = fs::read_dir(&directory)
            .into_iter()
            .flatten()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.ends_with(".log")).count()
    };
    until("a segment to be there", async || whole() > 0).await;
    child.kill().unwrap();
    child.wait().unwrap();
    let unfinished = "this backup was never finished: run `stockd backup` again";
    stockd(&["backup", "--verify", &directory]).refused(unfinished);
    shop.restore("backup", "restored", &[]).refused(unfinished);
    let other = Shop::start(1).await;
    stockd(&["backup", &directory, "--node", &other.node().client])
        .refused("and the node belongs to");

    let said = shop.back_up(0, "backup").ok();
    let all: u64 = shop.manifest("backup").files.values().map(|file| file.bytes).sum();
    assert!(fetched_bytes(&said) <= all - (2 << 20), "a segment was there: {}", said.out);
    stockd(&["backup", "--verify", &directory]).ok();
    let parts = fs::read_dir(&directory).unwrap().filter(|entry| {
        entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "part")
    });
    assert_eq!(parts.count(), 0);
}
