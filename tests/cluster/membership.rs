//! Who belongs to the cluster: nodes come, go, lose their disk, hand over.

use crate::buyers::{Buyers, Market};
use crate::harness::Cluster;
use crate::node::stockd;
use crate::until;

/// Waits until exactly `ids` vote.
async fn voters(cluster: &Cluster, ids: &[u64]) {
    until(&format!("{ids:?} to vote"), async || {
        cluster.leads().await.is_some_and(|(_, status)| status.voters == ids)
    })
    .await;
}

/// A node that has lost its disk comes back under its old id, joining through the others.
async fn wipe_and_rejoin(cluster: &mut Cluster, buyers: &Buyers, wiped: u64) {
    let others: Vec<u64> = (1..=3).filter(|id| *id != wiped).collect();
    cluster.node_mut(wiped).wipe();
    buyers.progress(200).await;
    let peers = others.iter().map(|id| cluster.node(*id).peer.clone()).collect();
    cluster.node_mut(wiped).join = peers;
    cluster.node_mut(wiped).start().await;
    // On its way through the log it meets the membership of old. It votes anew when it says so at
    // the log's end: it gets nothing at all before the others have removed what it was.
    until("the wiped node to vote again", async || {
        let Some((_, leader)) = cluster.leads().await else { return false };
        let Some(status) = cluster.node(wiped).status().await else { return false };
        status.applied_index >= leader.last_index && status.voters == [1, 2, 3]
    })
    .await;
    // Without its vote there is no majority now.
    let leader = cluster.leader().await;
    let spare = others.into_iter().find(|id| *id != leader).unwrap();
    cluster.node_mut(spare).kill();
    buyers.progress(200).await;
    cluster.node_mut(spare).start().await;
    cluster.caught_up(spare).await;
}

#[tokio::test]
async fn a_follower_with_a_wiped_disk_is_taken_in_anew() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let follower = cluster.follower().await;
    wipe_and_rejoin(&mut cluster, &buyers, follower).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_leader_with_a_wiped_disk_is_taken_in_anew() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let leader = cluster.leader().await;
    wipe_and_rejoin(&mut cluster, &buyers, leader).await;
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn nodes_join_hand_over_and_leave_under_load_by_command() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;

    let fourth = cluster.add();
    cluster.node_mut(fourth).start().await;
    voters(&cluster, &[1, 2, 3, 4]).await;
    cluster.caught_up(fourth).await;
    buyers.progress(200).await;

    let leader = cluster.leader().await;
    let admin = cluster.node(leader).admin.clone();
    let (done, said) = stockd(&["cluster", "transfer", "4", "--admin", &admin]).await;
    assert!(done, "{said}");
    until("node 4 to lead", async || cluster.leader().await == fourth).await;
    buyers.progress(200).await;

    let leader = cluster.leader().await;
    let admin = cluster.node(leader).admin.clone();
    let removed = if leader == 2 { 3 } else { 2 };
    let (done, said) =
        stockd(&["cluster", "remove", &removed.to_string(), "--admin", &admin]).await;
    assert!(done, "{said}");
    let left: Vec<u64> = (1..=4).filter(|id| *id != removed).collect();
    voters(&cluster, &left).await;
    cluster.node_mut(removed).kill();
    buyers.progress(200).await;

    let leader = cluster.leader().await;
    let admin = cluster.node(leader).admin.clone();
    let (done, said) = stockd(&["cluster", "status", "--json", "--admin", &admin]).await;
    assert!(done && said.contains("\"role\":\"leader\""), "{said}");
    let (done, said) = stockd(&["cluster", "remove", "9", "--admin", &admin]).await;
    assert!(!done && said.contains("no node has id 9"), "{said}");
    let follower = left.iter().copied().find(|id| *id != leader).unwrap();
    let admin = cluster.node(follower).admin.clone();
    let (done, said) = stockd(&["cluster", "remove", "1", "--admin", &admin]).await;
    assert!(!done && said.contains("does not lead"), "{said}");
    cluster.verify(buyers).await;
}

#[tokio::test]
async fn a_leader_that_is_removed_hands_over_first() {
    let mut cluster = Cluster::start(3, &[]).await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(200).await;
    let leader = cluster.leader().await;
    let admin = cluster.node(leader).admin.clone();
    let id = leader.to_string();
    let (done, said) = stockd(&["cluster", "remove", &id, "--admin", &admin]).await;
    assert!(done, "{said}");
    until("another leader", async || {
        cluster
            .leads()
            .await
            .is_some_and(|(id, status)| id != leader && !status.members.contains(&leader))
    })
    .await;
    cluster.node_mut(leader).kill();
    buyers.progress(200).await;
    cluster.verify(buyers).await;
}

/// A change of the members is two entries, and who began it proposes the second.
#[tokio::test]
async fn a_change_of_the_members_is_finished_by_the_next_leader() {
    let mut cluster = Cluster::start(3, &[]).await;
    let leader = cluster.leader().await;
    let others: Vec<u64> = (1..=3).filter(|id| *id != leader).collect();
    let [removed, stopped] = others[..] else { panic!("there are three nodes") };
    let left: Vec<u64> = (1..=3).filter(|id| *id != removed).collect();
    // Who stays must agree, and half of them stands still: the first entry is not committed.
    cluster.node(stopped).signal("STOP");
    // It is refused for as long as the last node's becoming a voter is not finished, and not answered after that.
    until("the change to be taken", async || {
        cluster.node(leader).admin(&format!("remove {removed}")).await.is_none()
    })
    .await;
    until("the change to begin", async || {
        cluster.node(removed).status().await.is_some_and(|status| status.voters == left)
    })
    .await;
    cluster.node_mut(leader).kill();
    cluster.node(stopped).signal("CONT");
    cluster.node_mut(leader).start().await;
    until("the change to be finished", async || {
        cluster.leads().await.is_some_and(|(_, status)| status.members == left)
    })
    .await;
}

#[tokio::test]
async fn a_single_node_grows_to_three_by_snapshot_under_load() {
    let mut cluster = Cluster::prepare(3, &[]);
    cluster.node_mut(1).start().await;
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    until("the log to outgrow what is kept", async || {
        cluster.node(1).status().await.is_some_and(|status| status.applied_index > 1500)
    })
    .await;
    let admin = cluster.node(1).admin.clone();
    let (done, said) = stockd(&["cluster", "snapshot", "--admin", &admin]).await;
    assert!(done, "{said}");
    until("the log to be purged", async || {
        cluster.node(1).status().await.is_some_and(|status| status.purged_index > 100)
    })
    .await;
    for id in [2, 3] {
        cluster.node_mut(id).start().await;
    }
    voters(&cluster, &[1, 2, 3]).await;
    for id in [2, 3] {
        cluster.caught_up(id).await;
        let status = cluster.node(id).status().await.unwrap();
        assert!(status.snapshot_index > 0, "{status:?}");
    }
    cluster.node_mut(1).kill();
    buyers.progress(200).await;
    cluster.node_mut(1).start().await;
    cluster.verify(buyers).await;
}
