//! A cluster of nodes in one temporary directory.

use std::time::Duration;

use tempfile::TempDir;

use crate::buyers::Buyers;
use crate::node::{Node, Status};
use crate::{CATCH_UP, until, within};

/// Small, so that a node starts quickly.
const SEGMENT_BYTES: u64 = 8 << 20;

/// Nodes and the directory they live in. Dropping it ends them all.
pub struct Cluster {
    /// In order of their ids, from 1.
    pub nodes: Vec<Node>,
    pub directory: TempDir,
    arguments: Vec<String>,
}

impl Cluster {
    /// Nodes that are not started yet.
    pub fn prepare(count: u64, arguments: &[&str]) -> Self {
        let mut arguments: Vec<String> = arguments.iter().map(|&one| one.to_owned()).collect();
        if !arguments.iter().any(|argument| argument == "--segment-bytes") {
            arguments.extend(["--segment-bytes".to_owned(), SEGMENT_BYTES.to_string()]);
        }
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Self { nodes: Vec::new(), directory, arguments };
        for _ in 0..count {
            cluster.add();
        }
        cluster
    }

    /// Adds a node that is not started yet; returns its id.
    pub fn add(&mut self) -> u64 {
        let id = self.nodes.len() as u64 + 1;
        let join: Vec<String> = self.nodes.iter().map(|node| node.peer.clone()).collect();
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        self.nodes.push(Node::new(id, self.directory.path(), &join, &arguments));
        id
    }

    /// Starts all nodes and waits until all vote.
    pub async fn start(count: u64, arguments: &[&str]) -> Self {
        let mut cluster = Self::prepare(count, arguments);
        cluster.form().await;
        cluster
    }

    /// Starts all nodes and waits until all vote.
    pub async fn form(&mut self) {
        for node in &mut self.nodes {
            node.start().await;
        }
        let all: Vec<u64> = self.nodes.iter().map(|node| node.id).collect();
        until("all nodes to vote", async || {
            self.leads().await.is_some_and(|(_, status)| status.voters == all)
        })
        .await;
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    pub fn node_mut(&mut self, id: u64) -> &mut Node {
        &mut self.nodes[id as usize - 1]
    }

    /// The client addresses of all nodes.
    pub fn clients(&self) -> Vec<String> {
        self.nodes.iter().map(|node| node.client.clone()).collect()
    }

    /// The node that leads in the newest term, if one says that it does.
    pub async fn leads(&self) -> Option<(u64, Status)> {
        let mut newest: Option<(u64, Status)> = None;
        for node in &self.nodes {
            let Some(status) = node.status().await.filter(|status| status.role == "leader") else {
                continue;
            };
            if newest.as_ref().is_none_or(|(_, newest)| newest.term < status.term) {
                newest = Some((node.id, status));
            }
        }
        newest
    }

    /// Waits for a leader; returns its id.
    pub async fn leader(&self) -> u64 {
        let mut leader = None;
        until("a leader", async || {
            leader = self.leads().await;
            leader.is_some()
        })
        .await;
        leader.unwrap().0
    }

    /// Some node that does not lead.
    pub async fn follower(&self) -> u64 {
        let leader = self.leader().await;
        self.nodes.iter().map(|node| node.id).find(|id| *id != leader).unwrap()
    }

    /// Waits until `id` has applied all that is in the leader's log at this moment.
    pub async fn caught_up(&self, id: u64) {
        let mut target = None;
        within(CATCH_UP, &format!("node {id} to catch up"), async || {
            if target.is_none() {
                target = self.leads().await.map(|(_, status)| status.last_index);
            }
            let status = self.node(id).status().await;
            matches!((target, status), (Some(target), Some(status)) if status.applied_index >= target)
        })
        .await;
    }

    /// Ends the load, and checks everything there is to check, on each running replica in turn.
    pub async fn verify(&self, buyers: Buyers) {
        let book = buyers.stop().await;
        let running: Vec<&Node> = self.nodes.iter().filter(|node| node.is_running()).collect();
        for node in &running {
            self.caught_up(node.id).await;
        }
        self.replicas_agree(&book.skus()).await;
        let voters = self.node(self.leader().await).status().await.unwrap().voters;
        for node in running.iter().filter(|node| voters.contains(&node.id)) {
            self.make_leader(node.id).await;
            book.verify(&self.clients()).await;
        }
        for node in &self.nodes {
            node.assert_sound();
        }
        let running: Vec<_> = running.iter().map(|node| node.data_here.clone()).collect();
        let told = book.verify_events(&running).await;
        println!("{}, {told} events told", book.summary());
    }

    /// Hands leadership to `id`, however often that takes.
    pub async fn make_leader(&self, id: u64) {
        until(&format!("node {id} to lead"), async || {
            let leader = self.leader().await;
            if leader != id {
                self.node(leader).admin(&format!("transfer {id}")).await;
            }
            leader == id
        })
        .await;
    }

    /// Waits until all running nodes show the same counters of all cells and of reservations.
    async fn replicas_agree(&self, skus: &[String]) {
        let mut views = Vec::new();
        let agreed = tokio::time::timeout(CATCH_UP, async {
            loop {
                views = Vec::new();
                for node in self.nodes.iter().filter(|node| node.is_running()) {
                    views.push(view(node, skus).await);
                }
                if views.iter().all(|view| view.is_some() && *view == views[0]) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        assert!(agreed.await.is_ok(), "the replicas differ: {views:#?}");
    }
}

/// What a node has: the counters of reservations, then those of each cell. `None` if it is silent.
async fn view(node: &Node, skus: &[String]) -> Option<Vec<String>> {
    let mut view = vec![format!("{:?}", node.status().await?.reservations)];
    for sku in skus {
        let cell = node.admin(&format!("cell W {sku}")).await?;
        let counters = cell.split("\"as_of_index\"").next().unwrap_or_default();
        view.push(counters.to_owned());
    }
    Some(view)
}
