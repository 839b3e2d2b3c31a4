//! Following events from outside: the client crate and the command line against real nodes, which are killed.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod cli;
#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../cluster/node.rs"]
mod node;
#[path = "../cluster/outside.rs"]
mod outside;
mod replenish;
mod stream;

use node::Node;
use outside::{PATIENCE, until};
use stockd_client::{CellRef, Client, Options, Reserve};
use tempfile::TempDir;

/// Nodes and where their files are.
struct Cluster {
    nodes: Vec<Node>,
    directory: TempDir,
}

impl Cluster {
    /// Starts nodes and waits until all vote.
    async fn start(count: u64) -> Self {
        Self::start_with(count, &[]).await
    }

    /// With more arguments of `serve`.
    async fn start_with(count: u64, arguments: &[&str]) -> Self {
        let arguments = [&["--segment-bytes", "2097152"], arguments].concat();
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Self { nodes: Vec::new(), directory };
        for id in 1..=count {
            let join: Vec<String> = cluster.nodes.iter().map(|node| node.peer.clone()).collect();
            let mut node = Node::new(id, cluster.directory.path(), &join, &arguments);
            node.start().await;
            cluster.nodes.push(node);
        }
        until("all nodes to vote", async || {
            let first = cluster.nodes[0].status().await;
            first.is_some_and(|status| status.voters.len() as u64 == count)
        })
        .await;
        cluster
    }

    fn addresses(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    async fn client(&self) -> Client {
        let options = Options { request_timeout: PATIENCE, ..Options::new(self.addresses()) };
        Client::connect(Options { client_name: "shop".to_owned(), ..options }).await.unwrap()
    }

    /// A path in the cluster's directory.
    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }
}

async fn receive(client: &Client, warehouse: &str, sku: &str, quantity: u32) {
    let cell = CellRef::name(warehouse, sku);
    client.receive(client.new_op_id(), cell, quantity).await.unwrap();
}

/// Sells units at once; two events.
async fn sell(client: &Client, warehouse: &str, sku: &str, quantity: u32) {
    let id = client.new_id();
    client.reserve(&Reserve::new(id).line(warehouse, sku, quantity)).await.unwrap();
    client.confirm(id).await.unwrap();
}
