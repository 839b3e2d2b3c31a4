//! Ids whose reservations were forgotten: they are answered for from disk, and never executed again.

use stockd_client::{
    CellRef, Change, Client, Code, Consistency, Error, OpId, ReservationState, Reserve, StockWrite,
};

use crate::harness::Cluster;
use crate::node::number;
use crate::until;

const SHIRT: CellRef<'static> = CellRef::Name { warehouse: b"BER", sku: b"shirt" };

/// What was done before, with its ids.
struct Done {
    shipped: Reserve<'static>,
    released: Reserve<'static>,
    received: OpId,
    lost: OpId,
}

impl Done {
    async fn begin(client: &Client) -> Self {
        let received = client.new_op_id();
        client.receive(received, SHIRT, 10).await.unwrap();
        let shipped = Reserve::new(client.new_id()).cell(SHIRT, 2).cell(SHIRT, 1);
        client.reserve(&shipped).await.unwrap();
        client.confirm(shipped.id()).await.unwrap();
        client.change(&Change::fulfil(shipped.id())).await.unwrap();
        let released = Reserve::new(client.new_id()).cell(SHIRT, 4);
        client.reserve(&released).await.unwrap();
        client.release(released.id()).await.unwrap();
        let lost = client.new_op_id();
        client.write(&StockWrite::adjust(lost, SHIRT, -1)).await.unwrap();
        Self { shipped, released, received, lost }
    }

    /// Everything again: the answers are the old ones, and nothing changes.
    async fn again(&self, client: &Client) {
        let state = async |cart: &Reserve<'_>| {
            let grant = client.reserve(cart).await.unwrap();
            assert!(grant.replay, "{grant:?}");
            grant.state
        };
        assert_eq!(state(&self.shipped).await, ReservationState::Fulfilled);
        assert_eq!(state(&self.released).await, ReservationState::Released);
        assert!(client.change(&Change::fulfil(self.shipped.id())).await.is_ok());
        assert_eq!(code(client.confirm(self.released.id()).await), Some(Code::HOLD_RELEASED));
        assert_eq!(code(client.release(self.shipped.id()).await), Some(Code::HOLD_CONFIRMED));
        assert!(client.receive(self.received, SHIRT, 10).await.is_ok());
        assert_eq!(code(client.receive(self.received, SHIRT, 11).await), Some(Code::ID_REUSED));
        assert!(client.write(&StockWrite::adjust(self.lost, SHIRT, -1)).await.is_ok());
        self.look(client, Consistency::Linearizable).await;
        assert_eq!(on_hand(client).await, 10 - 3 - 1);
    }

    async fn look(&self, client: &Client, consistency: Consistency) {
        let read = client.read_reservation(self.shipped.id(), consistency).await.unwrap();
        let read = read.expect("it is answered for").value;
        assert_eq!(read.state, ReservationState::Fulfilled);
        assert_eq!(read.lines.iter().map(|line| line.quantity).collect::<Vec<_>>(), [2, 1]);
    }
}

async fn on_hand(client: &Client) -> i64 {
    let read = client.read_cell(SHIRT, Consistency::Linearizable).await.unwrap();
    read.value.expect("the cell was made").counters.on_hand
}

fn code<T>(result: Result<T, Error>) -> Option<Code> {
    result.err().and_then(|error| error.code())
}

async fn archived(cluster: &Cluster, id: u64) -> Option<u64> {
    number(&cluster.node(id).admin("status").await?, "archived")
}

/// All four ids are on the disk of each of these nodes.
async fn all_archived(cluster: &Cluster, client: &Client, done: &Done, nodes: &[u64]) {
    until("the archive to have four records", async || {
        done.again(client).await;
        for id in nodes {
            cluster.node(*id).admin("snapshot").await;
            if archived(cluster, *id).await.unwrap_or(0) < 4 {
                return false;
            }
        }
        true
    })
    .await;
}

#[tokio::test]
async fn an_old_id_gets_its_answer_from_disk_and_no_second_effect() {
    let mut cluster = Cluster::start(1, &["--retention", "1s"]).await;
    let client = Client::connect(cluster.clients()).await.unwrap();
    let done = Done::begin(&client).await;
    done.again(&client).await;
    all_archived(&cluster, &client, &done, &[1]).await;
    cluster.node_mut(1).kill();
    cluster.node_mut(1).start().await;
    done.again(&client).await;
    done.look(&client, Consistency::Stale).await;
    assert!(archived(&cluster, 1).await.unwrap() >= 4);
    let status = cluster.node(1).admin("status").await.unwrap();
    assert_eq!(number(&status, "archive_damaged"), Some(0), "{status}");
}

#[tokio::test]
async fn a_read_finds_what_is_forgotten_before_it_is_swept() {
    let cluster = Cluster::start(1, &["--retention", "1s"]).await;
    let client = Client::connect(cluster.clients()).await.unwrap();
    let done = Done::begin(&client).await;
    // Nobody asks for it by a write, which would sweep it; its time runs out meanwhile, as other writes show.
    let other = CellRef::Name { warehouse: b"BER", sku: b"hat" };
    let end = client.ping().await.unwrap().0 + 3_000;
    while client.ping().await.unwrap().0 < end {
        client.receive(client.new_op_id(), other, 1).await.unwrap();
        done.look(&client, Consistency::Linearizable).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn an_old_id_gets_its_answer_from_whoever_leads() {
    let cluster = Cluster::start(3, &["--retention", "1s"]).await;
    let client = Client::connect(cluster.clients()).await.unwrap();
    let done = Done::begin(&client).await;
    all_archived(&cluster, &client, &done, &[1, 2, 3]).await;
    for id in 1..=3 {
        cluster.make_leader(id).await;
        done.again(&client).await;
    }
}

#[tokio::test]
async fn without_an_archive_an_old_id_is_refused() {
    let cluster = Cluster::start(1, &["--retention", "1s", "--archive", "0s"]).await;
    let client = Client::connect(cluster.clients()).await.unwrap();
    let done = Done::begin(&client).await;
    until("the reservation to be forgotten", async || {
        code(client.reserve(&done.shipped).await) == Some(Code::ID_TOO_OLD)
    })
    .await;
    let read = client.read_reservation(done.shipped.id(), Consistency::Linearizable).await.unwrap();
    assert!(read.is_none());
    assert_eq!(on_hand(&client).await, 6);
}
