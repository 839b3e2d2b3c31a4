//! What can go wrong with the log on this machine.

use std::{fmt, io};

use stockd_protocol::ShardId;

/// Why the log can not be opened, or why it stopped. Each names the file, and where there is one the
/// byte offset, and says what to do. None of them is worth a retry in the same process: after a
/// failed sync nobody knows which bytes are on disk.
#[derive(Debug)]
pub enum Error {
    /// The log was closed; the write did not happen.
    Closed,
    /// A record that had been on disk for certain is damaged: sound bytes after it say so.
    Corrupt {
        /// The file's path.
        file: String,
        /// Where the damaged record begins.
        offset: u64,
        /// The sequence number the damaged record should have.
        seq: u64,
    },
    /// A segment of another log lies in the directory.
    Foreign {
        /// The file's path.
        file: String,
    },
    /// A record does not follow its predecessor, or lies before what was purged, though the files are
    /// sound: a bug, or files mixed by hand.
    Gap {
        /// The file's path.
        file: String,
        /// Where the record begins.
        offset: u64,
        /// Whose record.
        shard: ShardId,
        /// The index it has.
        index: u64,
        /// The index next to it that it may have.
        expected: u64,
    },
    /// The operating system refused a file operation other than a write or a sync of the log.
    Io {
        /// The deed, as a verb: "open", "list".
        deed: &'static str,
        /// The file's path.
        file: String,
        /// What it said.
        source: io::Error,
    },
    /// Another process has the data directory.
    Locked {
        /// The lock file's path.
        file: String,
    },
    /// Records that no snapshot covers are gone with the segments that held them.
    MissingRecords {
        /// Whose records.
        shard: ShardId,
        /// The first that is missing.
        from: u64,
        /// The last that is missing.
        to: u64,
        /// The oldest segment that is left.
        file: String,
    },
    /// A segment between two others is gone.
    MissingSegment {
        /// The path it should have.
        file: String,
    },
    /// An option is outside its range.
    Options {
        /// The option.
        name: &'static str,
        /// What was asked for.
        have: u64,
        /// The least that works.
        min: u64,
        /// The most that works.
        max: u64,
    },
    /// A sync failed: what was written since the last one may or may not be on disk, and asking
    /// again would lie.
    SyncFailed {
        /// The file's path.
        file: String,
        /// Everything before this offset had been synced before.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
    /// A record that was sound when it was written is damaged now that it is read again.
    Unreadable {
        /// The file's path.
        file: String,
        /// Where the record begins.
        offset: u64,
        /// Whose record.
        shard: ShardId,
        /// Its index.
        index: u64,
    },
    /// The segment was written by a version with another format.
    Version {
        /// The file's path.
        file: String,
        /// The format in the file.
        have: u32,
        /// The format this version reads.
        want: u32,
    },
    /// A write failed for another reason than a full disk.
    WriteFailed {
        /// The file's path.
        file: String,
        /// Where the write began.
        offset: u64,
        /// What the operating system said.
        source: io::Error,
    },
}

/// What an operator does about a damaged data directory. Said by every such error, because the
/// message is all there is to read at that moment.
const REJOIN: &str = "this node's log can not be trusted: do not delete or edit single files; \
     `stockd log check` shows the extent; move the whole data directory away and let the node \
     rejoin the cluster as a new node";

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the log is closed; the write did not happen"),
            Self::Corrupt { file, offset, seq } => write!(
                f,
                "{file}: offset {offset}: record {seq} is damaged, and later records show that it \
                 had been on disk; {REJOIN}"
            ),
            Self::Foreign { file } => {
                write!(f, "{file}: this segment belongs to another log; {REJOIN}")
            }
            Self::Gap { file, offset, shard, index, expected } => write!(
                f,
                "{file}: offset {offset}: shard {} goes on with index {index}, but {expected} is \
                 the highest that can follow; {REJOIN}",
                shard.0
            ),
            Self::Io { deed, file, source } => {
                write!(f, "{file}: can not {deed}: {source}; check the disk and the permissions")
            }
            Self::Locked { file } => write!(
                f,
                "{file}: another stockd runs on this data directory; stop it, or give this one a \
                 directory of its own"
            ),
            Self::MissingRecords { shard, from, to, file } => write!(
                f,
                "{file}: shard {}: the records {from} to {to} are gone, and no snapshot covers \
                 them: older segments were deleted; put them back, or: {REJOIN}",
                shard.0
            ),
            Self::MissingSegment { file } => {
                write!(f, "{file}: this segment is missing; put it back, or: {REJOIN}")
            }
            Self::Options { name, have, min, max } => {
                write!(f, "option {name} is {have}; it must be within {min} and {max}")
            }
            Self::SyncFailed { file, offset, source } => write!(
                f,
                "{file}: offset {offset}: sync failed: {source}; nothing since then was \
                 acknowledged; check the disk (dmesg, SMART), then start again: recovery finds out \
                 what is there"
            ),
            Self::Unreadable { file, offset, shard, index } => write!(
                f,
                "{file}: offset {offset}: record {index} of shard {} has been damaged since it was \
                 written; {REJOIN}",
                shard.0
            ),
            Self::Version { file, have, want } => write!(
                f,
                "{file}: format {have}, but this version of stockd reads format {want}; start the \
                 version that wrote it"
            ),
            Self::WriteFailed { file, offset, source } => write!(
                f,
                "{file}: offset {offset}: write failed: {source}; check the disk (dmesg, SMART), \
                 then start again"
            ),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. }
            | Self::SyncFailed { source, .. }
            | Self::WriteFailed { source, .. } => Some(source),
            _ => None,
        }
    }
}
