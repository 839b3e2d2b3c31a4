//! Why a node does not start.

use std::{fmt, io};

/// A node does not start. Each says what to do; none is worth a retry without doing it.
#[derive(Debug)]
pub enum Error {
    /// The archive of old ids cannot be opened: which file, and why.
    Archive(io::Error),
    /// The event log cannot be opened: which file, and why.
    Events(io::Error),
    /// The identity file is damaged.
    DamagedIdentity {
        /// Its path.
        file: String,
    },
    /// The snapshot is damaged.
    DamagedSnapshot {
        /// Its path.
        file: String,
        /// Where.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// The operating system refused a file operation.
    Io {
        /// The file's path.
        file: String,
        /// What it said.
        source: io::Error,
    },
    /// The address for peers cannot be had.
    Listen {
        /// The address.
        address: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// The log cannot be opened.
    Log(crate::log::Error),
    /// The directory belongs to a cluster, but its log is gone.
    LostLog {
        /// The identity file's path.
        file: String,
    },
    /// The data directory belongs to another node.
    NodeId {
        /// The identity file's path.
        file: String,
        /// Whose it is.
        have: u64,
        /// Who wants it.
        want: u64,
    },
    /// Raft refused to start over this log.
    Raft(String),
    /// The data directory was made under other rules.
    Rules {
        /// The identity file's path.
        file: String,
        /// The rules it was made under.
        have: String,
        /// The rules asked for now.
        want: String,
    },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Archive(source) => write!(f, "the archive of old ids: {source}"),
            Self::Events(source) => write!(f, "the event log: {source}"),
            Self::DamagedIdentity { file } => {
                write!(f, "{file} is damaged; move the data directory away and let the node rejoin")
            }
            Self::DamagedSnapshot { file, offset, what } => write!(
                f,
                "{file}: offset {offset}: {what}; the node cannot be trusted: move the data \
                 directory away and let the node rejoin"
            ),
            Self::Io { file, source } => write!(f, "{file}: {source}"),
            Self::Listen { address, source } => write!(
                f,
                "cannot listen for peers on {address}: {source}; choose another with --peer"
            ),
            Self::Log(error) => error.fmt(f),
            Self::LostLog { file } => write!(
                f,
                "{file} says that this node belongs to a cluster, but its log is gone: start it with \
                 an empty --data directory and --join, and it is taken in anew"
            ),
            Self::NodeId { file, have, want } => write!(
                f,
                "{file} says that this directory belongs to node {have}, not to node {want}; start \
                 with --node-id {have} or with another --data"
            ),
            Self::Rules { file, have, want } => write!(
                f,
                "{file} was made with {have}, not {want}: these decide answers and stay as they are \
                 for the life of a cluster; start with the --grace-ms and --retention of then"
            ),
            Self::Raft(why) => write!(f, "replication does not start: {why}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<crate::log::Error> for Error {
    fn from(error: crate::log::Error) -> Self {
        Self::Log(error)
    }
}
