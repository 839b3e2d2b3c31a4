//! How a leader leaves the cluster: it has handed over, and its successor removes it.
//!
//! It must not remove itself. The entry that names the new members would be in its log first; were it
//! lost then, the others would need its vote to elect anybody, because its log is the longest, would
//! not get it, and it may not stand itself, because by its own log it votes no more. (Raft lets such a
//! node stand; openraft does not. Found by simulation, seed 50002852 of 082f199.)

use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::api::AdminError;
use super::core::Core;
use super::link::Link;
use super::peer_frame::Kind;

/// Between two tries: a leader that was just elected needs a moment until it takes changes.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Asks `leader` to remove this node, and waits until it has.
///
/// # Errors
/// It did not, within the time for such things.
pub(super) async fn ask(core: &Core, leader: u64) -> Result<(), AdminError> {
    let node = core.members().get_node(&leader).cloned();
    let node = node.ok_or(AdminError::UnknownNode(leader))?;
    let mut link = Link::new(core.links(), leader, node.info.peer_address);
    let body = Bytes::copy_from_slice(&core.me().to_le_bytes());
    let deadline = Instant::now() + core.timing().admin_timeout;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match link.call_within(Kind::Leave, core.shard, body.clone(), left).await {
            Ok(_) => return Ok(()),
            Err(_) if left > RETRY_INTERVAL => sleep(RETRY_INTERVAL).await,
            Err(error) => {
                let why = format!(
                    "node {leader} leads now and has not removed this node: {error}; ask it to"
                );
                return Err(AdminError::Failed(why));
            }
        }
    }
}
