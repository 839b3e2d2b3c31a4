//! A hoarder meets the limits of owners, whoever leads and whatever was killed.

use std::time::Duration;

use stockd_client::{
    CellRef, Client, Code, Consistency, LimitOwners, OwnerBound, OwnerLimits, ReserveFrom, Sourced,
};

use crate::harness::Cluster;
use crate::until;

const TICKET: CellRef<'static> = CellRef::Name { warehouse: b"BER", sku: b"ticket" };

/// A reservation of one ticket; or the limit that stands against it.
async fn take(client: &Client, owner: &str) -> Result<Sourced, OwnerBound> {
    let reserve = ReserveFrom::new(client.new_id()).line(1, [TICKET]).owner(owner);
    let result = client.reserve_from(&reserve.ttl(Duration::from_secs(1))).await;
    result.map_err(|error| {
        assert_eq!(error.code(), Some(Code::OWNER_LIMIT), "{error}");
        error.refusal().and_then(|refusal| refusal.owner).expect("the refusal says which limit")
    })
}

#[tokio::test]
async fn a_hoarder_meets_the_limits_of_owners() {
    let mut cluster = Cluster::start(3, &[]).await;
    let client = Client::connect(cluster.clients()).await.unwrap();
    client.receive(client.new_op_id(), TICKET, 100).await.unwrap();
    let limits = OwnerLimits { holds_max: 2, units_max: 0, cool_down_ms: 600_000 };
    client.limit_owners(&LimitOwners::new(client.new_op_id(), limits)).await.unwrap();
    take(&client, "bot").await.unwrap();
    take(&client, "bot").await.unwrap();
    assert_eq!(take(&client, "bot").await.err(), Some(OwnerBound::Holds));
    take(&client, "ann").await.unwrap();

    // The limits, and what is held, are known to whoever leads next.
    let leader = cluster.leader().await;
    cluster.node_mut(leader).kill();
    cluster.leader().await;
    let held = client.read_owner("bot", Consistency::Linearizable).await.unwrap().value;
    assert_eq!(held.holds, 2);
    assert_eq!(take(&client, "bot").await.err(), Some(OwnerBound::Holds));

    // Its holds run out unpaid: it waits, and others do not.
    until("the hoarder's holds to run out", async || {
        take(&client, "bot").await.err() != Some(OwnerBound::Holds)
    })
    .await;
    assert_eq!(take(&client, "bot").await.err(), Some(OwnerBound::CoolDown));
    take(&client, "cyd").await.unwrap();
}
