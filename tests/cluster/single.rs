//! One node, killed.

use stockd_client::{IdSource, ReservationId, SystemIds};

use crate::buyers::{Book, Buyers, Cart, Market, Seen};
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

/// The count must be able to say no: it is given a book that claims more than was acknowledged.
async fn is_refuted(cluster: &Cluster, claim: impl FnOnce(&mut Book)) {
    let buyers = Buyers::start(&cluster.clients(), Market::default()).await;
    buyers.progress(50).await;
    let mut book = buyers.stop().await;
    claim(&mut book);
    let clients = cluster.clients();
    let verified = tokio::spawn(async move { book.verify(&clients).await }).await;
    assert!(verified.is_err_and(|error| error.is_panic()), "a false book was believed");
}

#[tokio::test]
async fn the_count_notices_what_is_missing() {
    let reservation = Cluster::start(1, &[]).await;
    is_refuted(&reservation, |book| {
        let id = ReservationId::from_parts(SystemIds.unix_millis(), [7; 10]);
        let may_be = vec![Seen::Confirmed];
        book.carts.insert(id, Cart { cell: 0, quantity: 1, may_be, deadline: None });
    })
    .await;
    let units = Cluster::start(1, &[]).await;
    is_refuted(&units, |book| book.received[0].acknowledged += 1).await;
    let confirmed = Cluster::start(1, &[]).await;
    is_refuted(&confirmed, |book| {
        let of_confirmed = |cart: &&mut Cart| cart.may_be == [Seen::Confirmed];
        let cart = book.carts.values_mut().find(of_confirmed).expect("some are confirmed");
        cart.may_be = vec![Seen::Released];
    })
    .await;
}
