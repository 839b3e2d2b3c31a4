//! Real processes: the built binary, real sockets, real disks, and everything that goes wrong with
//! them while buyers buy.
//!
//! ```text
//! buyers ──stockd-client──▶ node 1 ═ node 2 ═ node 3      killed, stopped, cut off, wiped, …
//!    └─▶ Book: id ─▶ what was acknowledged     └─ each a child process of this test
//!                        │
//!            afterwards  └─▶ verify: every id as acknowledged, every cell adds up, on each replica; and in its events
//! ```
//!
//! One binary of many tests, so that as many run at a time as there are cores. Waits are for
//! conditions, bounded by [`PATIENCE`]; a test fails by what was answered, never by how long it took.
//! A failing test prints what its nodes said.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod archive;
mod behind;
mod buyers;
mod clock;
mod complaints;
mod disk_full;
mod followers;
mod harness;
mod leader;
mod membership;
mod node;
mod owners;
mod partition;
mod proxy;
mod single;
mod verify;

use std::time::Duration;

/// Longest wait for anything. Far more than it takes, because test machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Longest wait for a node that has healed to have caught up.
pub const CATCH_UP: Duration = Duration::from_secs(30);

/// Waits until `condition` holds, at most `limit`.
pub async fn within(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(limit, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited {limit:?} in vain for {what}");
}

/// Waits until `condition` holds.
pub async fn until(what: &str, condition: impl AsyncFnMut() -> bool) {
    within(PATIENCE, what, condition).await;
}
