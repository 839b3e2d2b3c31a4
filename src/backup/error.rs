//! Why a backup is not made, or not restored.

use std::{fmt, io};

use crate::audit::Finding;

/// See the module. Each says what to do.
#[derive(Debug)]
pub enum Error {
    /// The manifest is damaged, or of another version.
    BadManifest {
        /// Its path.
        file: String,
        /// What is wrong.
        what: &'static str,
    },
    /// The node has not applied what it once had, and was waited for.
    Behind {
        /// The last log entry that it has applied.
        is: u64,
        /// The one that the backup reaches.
        was: u64,
    },
    /// A file of the backup is not what it was, or does not fit the others.
    Damaged(Finding),
    /// The node has said something that cannot be.
    Fault {
        /// What.
        what: String,
    },
    /// Entries of the log are in no segment of the backup.
    Gap {
        /// What is missing, and where.
        what: String,
    },
    /// Files went faster than they could be fetched.
    Gone {
        /// One of them.
        name: String,
    },
    /// The operating system refused a file operation.
    Io {
        /// The file's path.
        file: String,
        /// What it said.
        source: io::Error,
    },
    /// The directory has no backup.
    NoBackup {
        /// The manifest's path.
        file: String,
    },
    /// The node did not answer, or refused.
    Node {
        /// What it said.
        message: String,
    },
    /// The directory has the backup of another cluster or node.
    Other {
        /// The manifest's path.
        file: String,
        /// Whose backup it is, and who was asked.
        what: String,
    },
    /// No run has ended yet, so there is nothing to restore.
    Unfinished {
        /// The manifest's path.
        file: String,
    },
    /// The target is before the beginning of the backup, or behind its end.
    Unreachable {
        /// Why.
        what: String,
    },
}

impl Error {
    /// With the file that it is about.
    pub(super) fn io(file: String) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { file, source }
    }

    /// A file of the backup is wrong.
    pub(super) fn damaged(file: String, what: impl Into<String>) -> Self {
        Self::Damaged(Finding { file, offset: None, what: what.into() })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BadManifest { file, what } => write!(
                f,
                "{file}: {what}; take the backup anew, into another directory, and keep this one for who finds out why"
            ),
            Self::Behind { is, was } => write!(
                f,
                "the node is at entry {is}, and the backup reaches entry {was}: a node that was started again gets there \
                 when it has a leader and has applied its log, so try later; one that stays behind has lost what was on \
                 its disk, and needs a backup in another directory"
            ),
            Self::Damaged(finding) => write!(
                f,
                "{finding}; another copy of the file may be whole, and `stockd backup --verify` looks at all files"
            ),
            Self::Fault { what } => write!(f, "the node's answer cannot be: {what}"),
            Self::Gap { what } => write!(f, "{what}"),
            Self::Gone { name } => write!(
                f,
                "the node removes files faster than they are fetched ({name}): raise --rate, or the node's --keep-log"
            ),
            Self::Io { file, source } => write!(f, "{file}: {source}"),
            Self::NoBackup { file } => {
                write!(f, "{file} is not there: this is no backup")
            }
            Self::Node { message } => f.write_str(message),
            Self::Other { file, what } => write!(f, "{file}: {what}; take another directory"),
            Self::Unfinished { file } => {
                write!(f, "{file}: this backup was never finished: run `stockd backup` again")
            }
            Self::Unreachable { what } => f.write_str(what),
        }
    }
}

impl std::error::Error for Error {}
