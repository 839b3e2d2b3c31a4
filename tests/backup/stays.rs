//! What stays in a backup, and what goes because no restore needs it.

use super::*;

fn back_up(shop: &Shop, snapshots: &str) -> Said {
    let (directory, node) = (shop.path("backup"), &shop.node().client);
    stockd(&["backup", &directory, "--node", node, "--snapshots", snapshots]).ok()
}

fn segments(shop: &Shop) -> Vec<String> {
    let names = shop.manifest("backup").files.into_keys();
    names.filter(|name| name.starts_with("segment-")).collect()
}

/// A snapshot behind more than a segment of the log.
async fn go_on(shop: &Shop, client: &Client) {
    trade(client, 1_000).await;
    shop.node().admin("snapshot").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_before_the_oldest_snapshot_goes() {
    let arguments = ["--segment-bytes", "2097152", "--keep-log-bytes", "4194304"];
    let shop = Shop::start_with(1, &arguments).await;
    let client = shop.client().await;
    trade(&client, 5_000).await;
    shop.node().admin("snapshot").await.unwrap();
    until("the first segment to go", async || {
        let names = fs::read_dir(&shop.node().data).unwrap();
        let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        !names.any(|name| name.contains("-0000000001"))
    })
    .await;
    back_up(&shop, "2");
    let first = segments(&shop);
    go_on(&shop, &client).await;
    back_up(&shop, "2");
    let oldest = shop.manifest("backup").head.next_event - 1;
    go_on(&shop, &client).await;
    let third = back_up(&shop, "2");
    assert!(third.line("removed").ends_with("no restore needs any more"), "{}", third.out);
    let left = segments(&shop);
    assert!(!left.contains(&first[0]), "{left:?} of {first:?}");
    let manifest = shop.manifest("backup").files;
    for entry in fs::read_dir(shop.path("backup")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(manifest.contains_key(&name) || name == "MANIFEST" || name == "lock", "{name}");
    }

    // The node still has what went, and it does not come again.
    let fourth = back_up(&shop, "2");
    assert!(fetched_bytes(&fourth) < 8_192 && !fourth.out.contains("removed"), "{}", fourth.out);
    assert_eq!(segments(&shop)[0], left[0]);

    let verified = stockd(&["backup", "--verify", &shop.path("backup")]).ok();
    assert!(!verified.out.contains("missing"), "{}", verified.out);
    let at_oldest = shop.restore("backup", "oldest", &["--to-seq", &oldest.to_string()]).ok();
    assert!(at_oldest.line("from").contains("snapshot-"), "{}", at_oldest.out);
    shop.restore("backup", "between", &["--to-seq", &(oldest + 5_000).to_string()]).ok();
    shop.restore("backup", "end", &[]).ok();
    shop.restore("backup", "before", &["--to-seq", &(oldest - 5_000).to_string()])
        .refused("before the beginning of the backup");
    stockd(&["audit", &shop.path("end")]).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_begins_with_the_first_entry_stays() {
    let shop = Shop::start(1).await;
    let client = shop.client().await;
    for _ in 0..3 {
        go_on(&shop, &client).await;
        back_up(&shop, "1");
    }
    assert_eq!(segments(&shop)[0], "segment-0000000001.log");
    let early = shop.restore("backup", "early", &["--to-seq", "3"]).ok();
    assert!(early.line("from").contains("first entry"), "{}", early.out);
}
