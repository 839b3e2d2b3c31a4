//! `stockd backup` and `stockd restore` with real nodes: what was backed up is restored, to the byte and to any moment.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod damage;
#[expect(dead_code, reason = "other tests need more of it")]
#[path = "../cluster/node.rs"]
mod node;
mod other;
#[path = "../cluster/outside.rs"]
mod outside;
mod points;
mod stays;
mod whole;

use std::fs;
use std::path::{Path, PathBuf};

use node::{Node, STOCKD};
use outside::{PATIENCE, Said, ended, spawn, stockd, until};
use stockd::backup::Manifest;
use stockd::log::RealStorage;
use stockd_client::{Batch, CellRef, Client, Options, Reserve};
use tempfile::TempDir;

impl Said {
    /// It is done.
    fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}{}", self.out, self.err);
        self
    }

    /// It was refused, and says so.
    fn refused(&self, why: &str) {
        assert_eq!(self.code, Some(1), "{}{}", self.out, self.err);
        assert!(self.err.contains(why), "{}", self.err);
    }

    /// What stands in the line that begins with a word.
    fn line(&self, word: &str) -> &str {
        let line = self.out.lines().find_map(|line| line.strip_prefix(word));
        line.unwrap_or_else(|| panic!("no line {word} in:\n{}", self.out)).trim()
    }
}

/// Nodes, and a place for their backups.
struct Shop {
    nodes: Vec<Node>,
    directory: TempDir,
}

impl Shop {
    /// Segments are as small as they may be, and a snapshot comes with every few of them.
    const ARGUMENTS: [&str; 4] = ["--segment-bytes", "2097152", "--snapshot-log-bytes", "3000000"];

    async fn start(count: u64) -> Self {
        Self::start_with(count, &Self::ARGUMENTS).await
    }

    async fn start_with(count: u64, arguments: &[&str]) -> Self {
        let mut shop = Self { nodes: Vec::new(), directory: tempfile::tempdir().unwrap() };
        for id in 1..=count {
            let join: Vec<String> = shop.nodes.iter().map(|node| node.peer.clone()).collect();
            let mut node = Node::new(id, shop.directory.path(), &join, arguments);
            node.start().await;
            shop.nodes.push(node);
        }
        until("all nodes to vote", async || {
            let first = shop.nodes[0].status().await;
            first.is_some_and(|status| status.voters.len() as u64 == count)
        })
        .await;
        shop
    }

    /// The only node.
    fn node(&self) -> &Node {
        &self.nodes[0]
    }

    async fn client(&self) -> Client {
        client_of(self.nodes.iter().map(|node| node.client.clone()).collect()).await
    }

    /// A path beside the nodes' directories.
    fn path(&self, name: &str) -> String {
        self.directory.path().join(name).to_str().unwrap().to_owned()
    }

    /// Takes a backup of a node into a directory of this name.
    fn back_up(&self, node: usize, name: &str) -> Said {
        stockd(&["backup", &self.path(name), "--node", &self.nodes[node].client])
    }

    fn manifest(&self, name: &str) -> Manifest {
        let storage = RealStorage::open_read_only(Path::new(&self.path(name))).unwrap();
        Manifest::read(&storage).unwrap().unwrap()
    }

    /// Restores a backup into a directory of another name.
    fn restore(&self, backup: &str, data: &str, more: &[&str]) -> Said {
        stockd(&[&["restore", &self.path(backup), "--data", &self.path(data)], more].concat())
    }

    /// A node that runs on a restored directory.
    async fn serve(&self, data: &str, arguments: &[&str]) -> Node {
        let mut node = Node::new(1, self.directory.path(), &[], arguments);
        node.data = PathBuf::from(self.path(data));
        node.start().await;
        leads(&node).await;
        node
    }
}

fn fetched_bytes(said: &Said) -> u64 {
    let (_, bytes) = said.line("fetched").split_once(", ").unwrap();
    bytes.trim_end_matches(" bytes").replace(',', "").parse().unwrap()
}

/// Receipts in so many log entries of about 2.5 KB: a node keeps the latest 1,024 entries whatever happens, so it
/// takes more of them until a segment goes.
async fn trade(client: &Client, entries: u32) {
    for _ in 0..entries {
        let mut batch = Batch::new();
        for sku in 0..25 {
            let sku = format!("a-rather-long-name-of-an-article-{sku:020}");
            batch.receive(client.new_op_id(), CellRef::name("BER", &sku), 1).unwrap();
        }
        client.batch(batch).await.unwrap();
    }
}

async fn client_of(addresses: Vec<String>) -> Client {
    let options = Options { request_timeout: PATIENCE, ..Options::new(addresses) };
    Client::connect(Options { client_name: "shop".to_owned(), ..options }).await.unwrap()
}

async fn leads(node: &Node) {
    until("a node to lead", async || {
        node.status().await.is_some_and(|status| status.role == "leader")
    })
    .await;
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
