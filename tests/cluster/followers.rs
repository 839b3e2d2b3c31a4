//! Followers go: one, all, and the leader with them.

use crate::buyers::{Buyers, Market};
use crate::harness::Cluster;
use crate::until;

#[tokio::test]
async fn a_killed_follower_is_not_missed_and_catches_up() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let follower = cluster.follower().await;
    cluster.node_mut(follower).kill();
    buyers.progress(300).await;
    cluster.node_mut(follower).start().await;
    cluster.caught_up(follower).await;
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn without_a_majority_nothing_is_acknowledged_and_nothing_lost() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let leader = cluster.leader().await;
    let followers = [1, 2, 3].into_iter().filter(|id| *id != leader);
    for id in followers.clone() {
        cluster.node_mut(id).kill();
    }
    // Answers that were on their way may still arrive; then each buyer learns that it does not know.
    until("buyers to be left without an answer", async || {
        let doubts = ["reserve", "confirm", "release", "extend", "receive"];
        doubts.iter().any(|what| {
            let unknown = buyers.answers(&format!("{what}: unknown"));
            unknown + buyers.answers(&format!("{what}: not done")) > 0
        })
    })
    .await;
    let alone = buyers.acknowledged();
    until("all buyers to have been refused", async || {
        buyers.answers("reserve: not done") + buyers.answers("reserve: unknown") >= 6
    })
    .await;
    assert_eq!(buyers.acknowledged(), alone, "one of three nodes acknowledged a write");
    for id in followers {
        cluster.node_mut(id).start().await;
    }
    buyers.progress(200).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn all_three_killed_at_once_remember_every_answer() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    for _ in 0..2 {
        buyers.progress(300).await;
        cluster.nodes.iter_mut().for_each(|node| node.kill());
        for node in &mut cluster.nodes {
            node.spawn();
        }
        buyers.progress(100).await;
    }
    cluster.verify(buyers).await;
}
