//! Whoever does not belong together stays apart; and what cannot be done says what to do.

use std::process::{Command, Stdio};

use stockd_client::events::{Cursor, Subscription};

use super::*;

/// A node with a cell.
async fn shop() -> Shop {
    let shop = Shop::start(1).await;
    receive(&shop.client().await, "BER", "mug", 10).await;
    shop
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_restored_cluster_and_the_old_one_do_not_mix() {
    let mut shop = shop().await;
    let mut cursor = Cursor::open(shop.path("cursor")).unwrap();
    let stream = Subscription::new(shop.node().client.clone()).oldest().open().await.unwrap();
    cursor.bind(&stream).unwrap();
    cursor.save(3).unwrap();
    drop(stream);
    shop.back_up(0, "backup").ok();
    // What comes now is not in the backup.
    let client = shop.client().await;
    sell(&client, "BER", "mug", 1).await;
    cursor.save(5).unwrap();
    shop.restore("backup", "restored", &[]).ok();
    let mut restored = shop.serve("restored", &Shop::ARGUMENTS).await;

    // Who has followed the old events is refused, though the new cluster will have an event 5, too.
    let resumed = Subscription::new(restored.client.clone()).resume(&cursor).open().await;
    let refused = resumed.err().unwrap().to_string();
    assert!(refused.contains("cluster"), "{refused}");

    // Each refuses the other as a peer, whoever asks.
    shop.nodes[0].kill();
    let old = &mut shop.nodes[0];
    old.join = vec![restored.peer.clone()];
    old.start().await;
    until("the restored node to refuse", async || old.output().contains("another cluster")).await;
    old.kill();
    old.join.clear();
    old.start().await;
    restored.kill();
    restored.join = vec![shop.nodes[0].peer.clone()];
    restored.start().await;
    until("the old node to refuse", async || restored.output().contains("another cluster")).await;
    leads(&shop.nodes[0]).await;
    leads(&restored).await;
    for node in [&shop.nodes[0], &restored] {
        assert_eq!(node.status().await.unwrap().members, [1]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_of_another_is_not_mixed_with_this_one() {
    let shop = Shop::start(2).await;
    receive(&shop.client().await, "BER", "mug", 10).await;
    shop.back_up(1, "backup").ok();
    shop.back_up(0, "backup").refused("this is a backup of node 2, and node 1 answers");
    let addresses = [&*shop.nodes[0].client, &*shop.nodes[1].client];
    let directory = shop.path("backup");
    let both = ["backup", &directory, "--node", addresses[0], "--node", addresses[1]];
    stockd(&both).ok();
    let other = Shop::start(1).await;
    receive(&other.client().await, "BER", "mug", 10).await;
    stockd(&["backup", &directory, "--node", &other.node().client])
        .refused("and the node belongs to");
    stockd(&["backup", "--verify", &directory]).ok();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_done_says_what_to_do() {
    let shop = shop().await;
    shop.back_up(0, "backup").ok();
    let (backup, data) = (shop.path("backup"), shop.node().data.to_str().unwrap());
    let nowhere = shop.path("nowhere");
    stockd(&["backup", &nowhere, "--node", "127.0.0.1:1"]).refused("is --node right?");
    stockd(&["backup", data, "--node", &shop.node().client])
        .refused("is the data directory of a node");
    stockd(&["backup", "--verify", &shop.path("not-there")]).refused("not-there");
    stockd(&["backup", "--verify", data]).refused("this is no backup");
    stockd(&["restore", &shop.path("not-there"), "--data", &nowhere]).refused("not-there");
    stockd(&["restore", &backup, "--data", data]).refused("is not empty");
    stockd(&["serve", "--data", &backup, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"])
        .refused("is a backup; make a data directory of it: stockd restore");
    for wrong in [
        &["backup"][..],
        &["restore", &backup],
        &["restore", &backup, "--data", &nowhere, "--to-seq", "1", "--to-time", "1h"],
        &["restore", &backup, "--data", &nowhere, "--to-time", "noon"],
        &["backup", &backup, "--verify", "--rate", "1000000"],
        &["backup", &backup, "--snapshots", "0"],
    ] {
        assert_eq!(stockd(wrong).code, Some(2), "{wrong:?}");
    }
    // The disk takes no more than so many bytes of a file.
    let script = format!(
        "trap '' XFSZ; ulimit -f 1; exec {STOCKD} restore {backup} --data {}",
        shop.path("full")
    );
    let said = ended(
        Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    said.refused("nothing was left in");
    shop.restore("backup", "full", &[]).ok();
}
