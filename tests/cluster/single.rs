//! One node, killed.

use crate::buyers::{Buyers, Market};
use crate::harness::Cluster;
use crate::until;

#[tokio::test]
async fn a_node_killed_in_the_middle_of_load_remembers_every_answer() {
    let mut cluster = Cluster::start(1, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    for _ in 0..2 {
        buyers.progress(300).await;
        cluster.node_mut(1).kill();
        cluster.node_mut(1).start().await;
    }
    buyers.progress(300).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_node_killed_while_it_recovers_recovers_all_the_same() {
    let mut cluster = Cluster::start(1, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(500).await;
    cluster.node_mut(1).kill();
    // At once, and from then on a little later each time, up to after it has begun to serve.
    for pauses in 0..8_u32 {
        cluster.node_mut(1).spawn();
        for _ in 0..pauses {
            cluster.node(1).status().await;
        }
        cluster.node_mut(1).kill();
    }
    cluster.node_mut(1).start().await;
    buyers.progress(300).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_node_killed_after_snapshots_starts_from_the_newest() {
    let mut cluster = Cluster::start(1, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    for _ in 0..2 {
        buyers.progress(300).await;
        let answer = cluster.node(1).admin("snapshot").await;
        assert!(answer.as_ref().is_some_and(|line| !line.contains("error")), "{answer:?}");
    }
    buyers.progress(100).await;
    let before = cluster.node(1).status().await.unwrap().snapshot_index;
    assert!(before > 0);
    cluster.node_mut(1).kill();
    cluster.node_mut(1).start().await;
    until("the snapshot to be there", async || {
        cluster.node(1).status().await.is_some_and(|status| status.snapshot_index >= before)
    })
    .await;
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}
