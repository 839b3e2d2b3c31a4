//! What tests share that look at real nodes from outside: patience, and the program as a person runs it.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::node::STOCKD;

/// Longest wait for anything. Far more than it takes, because test machines are busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Waits until `condition` holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(PATIENCE, async {
        while !condition().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    assert!(waited.await.is_ok(), "waited in vain for {what}");
}

/// A command and all that it says until it ends.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

pub fn spawn(arguments: &[&str]) -> Child {
    let mut command = Command::new(STOCKD);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

pub fn ended(child: Child) -> Said {
    let output = child.wait_with_output().unwrap();
    let [out, err] = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
    Said { code: output.status.code(), out, err }
}

pub fn stockd(arguments: &[&str]) -> Said {
    ended(spawn(arguments))
}
