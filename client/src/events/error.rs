//! What ends a stream, and what only makes it go elsewhere.

use std::fmt;
use std::time::Duration;

use stockd_protocol::{Code, ErrorReply, Start, SubscribeError};

use super::Fault;

/// Why there are no events, or none any more. A stream that has given one goes on giving it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// Every node has said that it does not have these events (any more). Open another stream from `next` on, and
    /// read the stock for what came before.
    Gone {
        /// What was asked for.
        start: Start,
        /// The first event after them that any node has; `None`: none has said.
        next: Option<u64>,
    },
    /// The subscription cannot be sent as it is.
    Invalid(SubscribeError),
    /// Every node has said that it keeps no events.
    NoEvents,
    /// Every node has refused this client, and would again: the last one, so.
    Refused {
        /// Why.
        code: Code,
        /// For people.
        message: String,
    },
    /// No node has begun to send within the request timeout. Later it may be otherwise.
    Unreachable {
        /// Each node and what was wrong there.
        troubles: Vec<(String, Trouble)>,
    },
    /// A node is of another cluster than those before, or than the cursor.
    WrongCluster {
        /// The node.
        address: String,
        /// The cluster that was followed.
        expected: u64,
        /// The node's.
        found: u64,
    },
}

/// Why a node was left. The stream goes on elsewhere, from the same event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// It has all the subscribers it takes, or is leaving.
    Busy {
        /// When it would be asked again.
        retry_after: Duration,
    },
    /// It sent what cannot be what comes next.
    Fault(Fault),
    /// It does not have these events (any more).
    Gone {
        /// For people.
        message: String,
        /// The first event after them that it has; `None`: it has not said.
        next: Option<u64>,
    },
    /// The connection broke.
    Lost {
        /// For people.
        message: String,
    },
    /// It keeps no events.
    NoEvents,
    /// It has not joined its cluster yet.
    NotJoined,
    /// It refuses this client.
    Refused {
        /// Why.
        code: Code,
        /// For people.
        message: String,
    },
    /// Nothing came for so long that nothing will.
    Silent,
    /// It could not be reached.
    Unreachable {
        /// For people.
        message: String,
    },
}

impl Trouble {
    /// What a server said by an error frame.
    pub(super) fn of(reply: &ErrorReply<'_>) -> Self {
        let message = String::from_utf8_lossy(reply.message).into_owned();
        match reply.code {
            Code::EVENTS_GONE => Self::Gone { message, next: Some(reply.event).filter(|n| *n > 0) },
            Code::NO_EVENTS => Self::NoEvents,
            code if code.is_retry() => {
                Self::Busy { retry_after: Duration::from_millis(reply.retry_after_ms.into()) }
            }
            code => Self::Refused { code, message },
        }
    }

    /// Asking the same node again would change nothing.
    pub(super) const fn is_final(&self) -> bool {
        matches!(self, Self::Gone { .. } | Self::NoEvents | Self::Refused { .. })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gone { start: Start::Sequence(from), next: Some(next) } => {
                let last = next.saturating_sub(1);
                write!(f, "events {from}..{last} are nowhere any more; go on with {next}")
            }
            Self::Gone { next: Some(next), .. } => {
                write!(f, "events before {next} are nowhere any more; go on with that one")
            }
            Self::Gone { start: Start::Sequence(from), next: None } => {
                write!(f, "event {from} is nowhere any more, and no node says which comes after it")
            }
            Self::Gone { .. } => f.write_str("these events are nowhere any more"),
            Self::Invalid(error) => write!(f, "not sent: {error}"),
            Self::NoEvents => f.write_str("no node keeps events (stockd serve --events 0s)"),
            Self::Refused { code, message } => write!(f, "refused: {code}: {message}"),
            Self::Unreachable { troubles } => {
                f.write_str("no node sends events")?;
                for (at, (address, trouble)) in troubles.iter().enumerate() {
                    let separator = if at == 0 { ": " } else { "; " };
                    write!(f, "{separator}{address}: {trouble}")?;
                }
                Ok(())
            }
            Self::WrongCluster { address, expected, found } => {
                write!(f, "{address} is of cluster {found:016x}, not of {expected:016x}")
            }
        }
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { .. } => f.write_str("it has all the subscribers it takes, or is leaving"),
            Self::Fault(fault) => fault.fmt(f),
            Self::Gone { message, .. } | Self::Lost { message } | Self::Unreachable { message } => {
                f.write_str(message)
            }
            Self::NoEvents => f.write_str("it keeps no events"),
            Self::NotJoined => f.write_str("it has not joined its cluster yet"),
            Self::Refused { code, message } => write!(f, "it refuses: {code}: {message}"),
            Self::Silent => f.write_str("nothing came for too long"),
        }
    }
}

impl std::error::Error for Error {}
impl std::error::Error for Trouble {}
