//! What can be wrong with events on a disk.

use std::{fmt, io};

use crate::protocol::ShardId;
use crate::protocol::event::EventError;

/// Why events cannot be read.
#[derive(Debug)]
pub enum ReadError {
    /// They have not happened yet, or cannot be read yet.
    Ahead {
        /// The sequence number after the last event that can be.
        next: u64,
    },
    /// What is on disk is not what was written: they cannot be had here, but maybe on another node.
    Damaged {
        /// The file.
        file: String,
        /// Where in it.
        offset: u64,
        /// What is wrong there.
        flaw: Flaw,
    },
    /// They are not here any more, or never were: this node was given a snapshot instead.
    Gone {
        /// The first one after it that is here, or that will be.
        oldest: u64,
    },
    /// The disk says no.
    Io(io::Error),
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ahead { next } => write!(f, "the next event will be {next}"),
            Self::Damaged { file, offset, flaw } => write!(f, "{file}: at byte {offset}: {flaw}"),
            Self::Gone { oldest } => {
                write!(f, "events before {oldest} are not here; it is the first after them")
            }
            Self::Io(error) => write!(f, "events cannot be read: {error}"),
        }
    }
}

impl std::error::Error for ReadError {}

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

/// What is wrong at a place where a record should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Flaw {
    /// The chain up to here is not the one that is known.
    Chain,
    /// A record without events.
    Empty,
    /// The head or the end of the segment: what is wrong with it.
    Frame(&'static str),
    /// The index of the segment.
    Index,
    /// Nothing, where records should be.
    Missing,
    /// There is none, or it cannot be read.
    Record(EventError),
    /// Another one.
    Sequence {
        /// The event that should come.
        expected: u64,
        /// The event that comes.
        found: u64,
    },
    /// A record of another shard.
    Shard(ShardId),
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => f.write_str("the chain is another: something before was changed"),
            Self::Empty => f.write_str("a record without events"),
            Self::Frame(what) => f.write_str(what),
            Self::Index => f.write_str("the index is damaged"),
            Self::Missing => f.write_str("records should be here, and nothing is"),
            Self::Record(error) => error.fmt(f),
            Self::Sequence { expected, found } => {
                write!(f, "event {expected} should be here, and {found} is")
            }
            Self::Shard(shard) => write!(f, "a record of shard {}", shard.0),
        }
    }
}
