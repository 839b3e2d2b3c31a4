//! Clients that mean no good against a real process, while others buy.
//!
//! Each test asserts three things: the process takes no more memory than the named limits allow; every
//! call of everybody else succeeds and is, afterwards, in the log as it was answered; and an operator
//! still gets through.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod attacks;
mod connections;
#[path = "../cluster/node.rs"]
#[allow(dead_code, reason = "other tests use the rest")]
mod node;
mod victims;

use std::time::Duration;

use attacks::Attack;
use node::Node;
use stockd::protocol::limits;
use victims::Victims;

/// What a server allocates for its own: tables that grow, the allocator's slack.
const OWN_KIB: u64 = 96 << 10;
/// The log's newest entries are kept for followers: what floods it fills this, and no more.
const LOG_CACHE_KIB: u64 = 256 << 10;

/// Waits until `condition` holds.
async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(60), async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}

/// A node with its directory.
struct Server {
    node: Node,
    _directory: tempfile::TempDir,
}

impl Server {
    async fn start(arguments: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let arguments = [&["--segment-bytes", "8388608"], arguments].concat();
        let mut node = Node::new(1, directory.path(), &[], &arguments);
        node.start().await;
        Self { node, _directory: directory }
    }

    /// The most memory that the process ever had, in KiB.
    fn peak_kib(&self) -> u64 {
        let pid = self.node.pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

/// What the limits let the connections of an attack hold.
fn bound_kib(attack: Attack) -> u64 {
    let each = match attack {
        // Replies up to the pause, one more of the largest, and a buffer that has doubled.
        Attack::NeverRead => 4 * u64::from(limits::REPLY_BYTES_MAX),
        // Requests in flight, and their replies.
        Attack::Giant | Attack::PipelineFlood | Attack::Reset => {
            8 * u64::from(limits::FRAME_BYTES_MAX) + 4 * u64::from(limits::REPLY_BYTES_MAX)
        }
        Attack::SkuScan => 4 * u64::from(limits::REPLY_BYTES_MAX),
        // A few small buffers and a task; nothing for what is only announced.
        Attack::ConnectionFlood | Attack::Drip | Attack::HalfOpen | Attack::HeaderOnly => 64 << 10,
    };
    let logs = matches!(attack, Attack::Giant | Attack::PipelineFlood | Attack::Reset);
    let cache_kib = if logs { LOG_CACHE_KIB } else { 0 };
    OWN_KIB + cache_kib + attack.connections() as u64 * each / 1024
}

/// Others buy under the attack, and all is accounted for.
async fn survive(attack: Attack) {
    let mut server = Server::start(&[]).await;
    let mut victims = Victims::connect(&server.node.client).await;
    let before = server.peak_kib();
    let running = attack.start(&server.node.client);
    until("the attack to begin", async || running.done() >= 20).await;
    victims.buy(8).await;
    assert!(server.node.status().await.is_some(), "an operator gets no answer");
    let (at_start, done) = (running.done(), running.done() + 20);
    until("the attack to go on", async || running.done() >= done || at_start >= 1_000).await;
    let done = running.stop().await;
    let grown = server.peak_kib().saturating_sub(before);
    println!("{attack:?}: {done} times, {grown} KiB of {}", bound_kib(attack));
    assert!(grown <= bound_kib(attack), "{attack:?} took {grown} KiB of {}", bound_kib(attack));
    victims.buy(4).await;
    server.node.signal("TERM");
    assert!(server.node.ended().await.success());
    server.node.assert_sound();
    victims.account(&server.node.data);
}

#[tokio::test]
async fn floods_of_connections() {
    survive(Attack::ConnectionFlood).await;
}

#[tokio::test]
async fn frames_byte_by_byte() {
    survive(Attack::Drip).await;
}

#[tokio::test]
async fn giant_frames_and_nonsense() {
    survive(Attack::Giant).await;
}

#[tokio::test]
async fn half_open_connections() {
    survive(Attack::HalfOpen).await;
}

#[tokio::test]
async fn frames_that_never_come() {
    survive(Attack::HeaderOnly).await;
}

#[tokio::test]
async fn clients_that_never_read() {
    survive(Attack::NeverRead).await;
}

#[tokio::test]
async fn floods_of_requests() {
    survive(Attack::PipelineFlood).await;
}

#[tokio::test]
async fn resets_in_the_middle() {
    survive(Attack::Reset).await;
}

#[tokio::test]
async fn scans_of_a_large_sku() {
    survive(Attack::SkuScan).await;
}
