//! A node falls behind, in every way but a cut network (see `partition`), and catches up under load.

use std::time::Duration;

use tokio::time::Instant;

use crate::buyers::{Buyers, Market};
use crate::harness::Cluster;
use crate::until;

/// Several times the longest election timeout.
const LONG: Duration = Duration::from_secs(3);

/// Here time itself is the condition: how long a process stands still.
async fn for_as_long_as(duration: Duration) {
    let end = Instant::now() + duration;
    until("time to pass", async || Instant::now() >= end).await;
}

#[tokio::test]
async fn a_stopped_follower_catches_up_when_it_goes_on() {
    let cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let follower = cluster.follower().await;
    cluster.node(follower).signal("STOP");
    for_as_long_as(LONG).await;
    buyers.progress(200).await;
    cluster.node(follower).signal("CONT");
    cluster.caught_up(follower).await;
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_stopped_leader_finds_that_it_leads_no_more() {
    let cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let old = cluster.leader().await;
    cluster.node(old).signal("STOP");
    until("a successor", async || cluster.leads().await.is_some()).await;
    buyers.progress(300).await;
    cluster.node(old).signal("CONT");
    cluster.caught_up(old).await;
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_slow_follower_holds_nobody_up_and_catches_up() {
    let cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let follower = cluster.follower().await;
    // It runs a quarter of the time, in pieces shorter and longer than the election timeout.
    for round in 0..24_u64 {
        cluster.node(follower).signal("STOP");
        for_as_long_as(Duration::from_millis(if round % 8 == 7 { 900 } else { 150 })).await;
        cluster.node(follower).signal("CONT");
        for_as_long_as(Duration::from_millis(50)).await;
    }
    buyers.progress(200).await;
    cluster.caught_up(follower).await;
    cluster.verify(buyers).await;
}

/// Brings `behind`, which does not run, below what the next leader's log still holds: another
/// follower takes a snapshot, which purges its log without regard to others, and becomes leader.
async fn purge_past(cluster: &Cluster, buyers: &Buyers, behind: u64, has: u64) {
    let leader = cluster.leader().await;
    let other = (1..=3).find(|id| ![behind, leader].contains(id)).unwrap();
    until("the log to outgrow what is kept for followers", async || {
        let status = cluster.node(other).status().await;
        status.is_some_and(|status| status.applied_index > has + 1100)
    })
    .await;
    let answer = cluster.node(other).admin("snapshot").await;
    assert!(answer.as_ref().is_some_and(|line| !line.contains("error")), "{answer:?}");
    until("the log to be purged", async || {
        cluster.node(other).status().await.is_some_and(|status| status.purged_index > has)
    })
    .await;
    until("the purged node to lead", async || {
        let leader = cluster.leader().await;
        if leader != other {
            cluster.node(leader).admin(&format!("transfer {other}")).await;
        }
        leader == other
    })
    .await;
    buyers.progress(100).await;
}

/// The node has got a snapshot: its log starts after what it had.
async fn got_snapshot(cluster: &Cluster, id: u64, had: u64) {
    let status = cluster.node(id).status().await.unwrap();
    assert!(status.snapshot_index > had, "it caught up without a snapshot: {status:?}");
}

#[tokio::test]
async fn a_follower_that_was_away_too_long_gets_a_snapshot() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let follower = cluster.follower().await;
    let had = cluster.node(follower).status().await.unwrap().last_index;
    cluster.node_mut(follower).kill();
    purge_past(&cluster, &buyers, follower, had + 100).await;
    cluster.node_mut(follower).start().await;
    cluster.caught_up(follower).await;
    got_snapshot(&cluster, follower, had).await;
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_follower_that_stood_still_too_long_gets_a_snapshot_while_it_serves() {
    let cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let follower = cluster.follower().await;
    let had = cluster.node(follower).status().await.unwrap().last_index;
    cluster.node(follower).signal("STOP");
    // What was sent to it before waits in its sockets.
    purge_past(&cluster, &buyers, follower, had + 500).await;
    cluster.node(follower).signal("CONT");
    cluster.caught_up(follower).await;
    got_snapshot(&cluster, follower, had).await;
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}
