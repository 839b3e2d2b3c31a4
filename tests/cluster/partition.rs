//! Nodes that run but cannot hear each other. Clients reach all of them all the time.

use std::sync::Arc;
use std::time::Duration;

use stockd_client::{CellRef, Client, Consistency, Error, Options};

use crate::buyers::{Buyers, Market, options, sku};
use crate::harness::Cluster;
use crate::proxy::Network;
use crate::{PATIENCE, until};

async fn start() -> (Cluster, Network) {
    let mut cluster = Cluster::prepare(3, &[]);
    let network = Network::between(&mut cluster.nodes).await;
    cluster.form().await;
    (cluster, network)
}

/// Waits until somebody else than `old` leads in a newer term.
async fn succeeded(cluster: &Cluster, old: u64) {
    until("a successor", async || cluster.leads().await.is_some_and(|(id, _)| id != old)).await;
}

#[tokio::test]
async fn a_follower_that_was_cut_off_catches_up() {
    let (cluster, network) = start().await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let follower = cluster.follower().await;
    network.isolate(follower);
    buyers.progress(1000).await;
    let left_at = cluster.node(follower).status().await.unwrap().applied_index;
    let (_, leader) = cluster.leads().await.unwrap();
    assert!(left_at < leader.applied_index, "the cut must cut");
    network.heal();
    cluster.caught_up(follower).await;
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_leader_that_was_cut_off_neither_acknowledges_nor_answers_what_is_old() {
    let (cluster, network) = start().await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let old = cluster.leader().await;
    network.isolate(old);
    succeeded(&cluster, old).await;
    buyers.progress(300).await;
    let (_, newest) = cluster.leads().await.unwrap();
    // Whoever asks the old leader gets no answer, or the new leader's.
    let asked = Options {
        request_timeout: Duration::from_secs(3),
        ..options(&[cluster.node(old).client.clone()])
    };
    let client = Client::connect(asked).await.unwrap();
    let cell = sku(0);
    match client.read_cell(CellRef::name("W", &cell), Consistency::Linearizable).await {
        Ok(read) => assert!(read.index >= newest.applied_index, "a stale read: {read:?}"),
        Err(Error::Retry(_)) => {}
        Err(error) => panic!("{error}"),
    }
    let stale = client.read_cell(CellRef::name("W", &cell), Consistency::Stale).await;
    assert!(stale.unwrap().value.is_some(), "who asks for an old answer gets one");
    network.heal();
    cluster.caught_up(old).await;
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_leader_that_was_cut_off_says_what_it_cannot_know() {
    let (cluster, network) = start().await;
    let old = cluster.leader().await;
    let addresses = [cluster.node(old).client.clone()];
    let (cell, reads) = (CellRef::name("W", "shirt"), Client::connect(options(&addresses)));
    let patient = Options { reply_timeout: PATIENCE, ..options(&addresses) };
    let patient = Client::connect(Options { request_timeout: PATIENCE, ..patient }).await;
    let patient = Arc::new(patient.unwrap());
    patient.define("W", "shirt").await.unwrap();
    let reads = reads.await.unwrap();
    let said = async |name: &str| {
        cluster.node(old).admin("top").await.is_some_and(|top| top.contains(name))
    };
    network.isolate(old);
    // Its log takes this before it has noticed.
    let (id, writes) = (patient.new_op_id(), patient.clone());
    let begun = tokio::spawn(async move { writes.receive(id, cell, 5).await });
    until("it has no quorum", async || {
        let read = reads.read_cell(cell, Consistency::Linearizable).await;
        read.is_err() && said("NO_QUORUM").await
    })
    .await;
    succeeded(&cluster, old).await;
    assert!(!said("OUTCOME_UNKNOWN").await, "it may yet come to be");
    network.heal();
    until("nobody knows", async || said("OUTCOME_UNKNOWN").await).await;
    begun.await.unwrap().unwrap();
    let read = patient.read_cell(cell, Consistency::Linearizable).await.unwrap();
    assert_eq!(read.value.unwrap().counters.on_hand, 5, "once");
}

#[tokio::test]
async fn a_follower_that_hears_nothing_does_not_stop_the_others() {
    let (cluster, network) = start().await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let leader = cluster.leader().await;
    let follower = cluster.follower().await;
    network.cut(leader, follower);
    buyers.progress(500).await;
    network.heal();
    cluster.caught_up(follower).await;
    network.cut(follower, leader);
    buyers.progress(500).await;
    network.heal();
    cluster.caught_up(follower).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_leader_that_cannot_hear_gives_way_to_one_that_can() {
    let (cluster, network) = start().await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let deaf = cluster.leader().await;
    for id in [1, 2, 3].into_iter().filter(|id| *id != deaf) {
        network.cut(id, deaf);
    }
    succeeded(&cluster, deaf).await;
    buyers.progress(300).await;
    network.heal();
    cluster.caught_up(deaf).await;
    buyers.progress(100).await;
    cluster.verify(buyers).await;
}
