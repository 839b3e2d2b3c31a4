//! What a caller may choose.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::{IdSource, SystemIds};

/// What a call does when [`Options::frames_in_flight_max`] frames are unanswered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WhenFull {
    /// Fail at once with [`Error::Retry`](crate::Error::Retry): the caller sheds load.
    Fail,
    /// Wait for a reply, until the request's deadline.
    Wait,
}

/// How to connect and how long to try.
#[derive(Clone)]
pub struct Options {
    /// Nodes to start from, `host:port` each; one is enough, the others are learned from it as they
    /// become leader.
    pub addresses: Vec<String>,
    /// Who asks: operators see it beside the connection, and the log keeps it with each write. The same for all
    /// connections of an application; cut to 64 bytes. Empty: nobody in particular.
    pub client_name: String,
    /// How long one TCP connect and hello may take.
    pub connect_timeout: Duration,
    /// Most frames without a reply on the connection; the server's own limit applies too. At depth
    /// 1,024 a node is long saturated, and a lost connection leaves as many requests in doubt.
    pub frames_in_flight_max: u32,
    /// Where ids, and the jitter of retries, come from.
    pub ids: Arc<dyn IdSource>,
    /// How long one attempt waits for its reply before it is sent again under the same id. A
    /// connection that brought nothing at all in that time is given up.
    pub reply_timeout: Duration,
    /// How long a call goes on trying before it gives an error.
    pub request_timeout: Duration,
    /// Shortest pause before a retry that has no better advice; it doubles up to
    /// [`retry_pause_max`](Self::retry_pause_max), with jitter.
    pub retry_pause_min: Duration,
    /// Longest such pause. Short, because a new leader is elected within a second.
    pub retry_pause_max: Duration,
    /// Use the first node that answers instead of going on to the leader: for stale reads, which any
    /// node answers. What only the leader can do still finds its way there.
    pub stay: bool,
    /// What to do when too many frames are unanswered.
    pub when_full: WhenFull,
}

impl Options {
    /// The defaults, starting from `addresses`.
    pub fn new(addresses: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            addresses: addresses.into_iter().map(Into::into).collect(),
            client_name: "stockd-client".to_owned(),
            connect_timeout: Duration::from_secs(1),
            frames_in_flight_max: 1024,
            ids: Arc::new(SystemIds),
            reply_timeout: Duration::from_secs(2),
            request_timeout: Duration::from_secs(10),
            retry_pause_min: Duration::from_millis(5),
            retry_pause_max: Duration::from_millis(100),
            stay: false,
            when_full: WhenFull::Wait,
        }
    }
}

impl From<&str> for Options {
    fn from(address: &str) -> Self {
        Self::new([address])
    }
}

impl From<String> for Options {
    fn from(address: String) -> Self {
        Self::new([address])
    }
}

impl<S: Into<String>, const N: usize> From<[S; N]> for Options {
    fn from(addresses: [S; N]) -> Self {
        Self::new(addresses)
    }
}

impl<S: Into<String>> From<Vec<S>> for Options {
    fn from(addresses: Vec<S>) -> Self {
        Self::new(addresses)
    }
}

impl<S: Into<String> + Clone> From<&[S]> for Options {
    fn from(addresses: &[S]) -> Self {
        Self::new(addresses.iter().cloned())
    }
}
