//! The leader goes: killed, or asked to leave.

use crate::buyers::{Buyers, Market};
use crate::harness::Cluster;
use crate::until;

#[tokio::test]
async fn a_killed_leader_costs_no_answer_and_comes_back_as_a_follower() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    for _ in 0..2 {
        buyers.progress(300).await;
        let leader = cluster.leader().await;
        cluster.node_mut(leader).kill();
        // Two of three go on.
        buyers.progress(300).await;
        cluster.node_mut(leader).start().await;
        cluster.caught_up(leader).await;
    }
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_leader_that_is_asked_to_leave_hands_over_first() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(300).await;
    let leader = cluster.leader().await;
    let before = cluster.node(leader).status().await.unwrap().term;
    cluster.node(leader).signal("TERM");
    let ended = cluster.node_mut(leader).ended().await;
    assert_eq!(ended.code(), Some(0), "{ended:?}");
    let output = cluster.node(leader).output();
    assert!(!output.contains("was not handed over"), "leadership must be handed over");
    let mut successor = None;
    until("a successor", async || {
        successor = cluster.leads().await;
        successor.is_some()
    })
    .await;
    assert!(successor.unwrap().1.term > before);
    buyers.progress(300).await;
    cluster.node_mut(leader).start().await;
    cluster.caught_up(leader).await;
    cluster.verify(buyers).await;
}
