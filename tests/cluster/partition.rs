//! Nodes that run but cannot hear each other. Clients reach all of them all the time.

use crate::buyers::{Buyers, Market};
use crate::harness::Cluster;
use crate::proxy::Network;

async fn start() -> (Cluster, Network) {
    let mut cluster = Cluster::prepare(3, &[]);
    let network = Network::between(&mut cluster.nodes).await;
    cluster.form().await;
    (cluster, network)
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
