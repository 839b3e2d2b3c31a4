//! Backups: a node's history, file by file in a directory; and what was at any moment of it.
//!
//! ```text
//!   node ──list, read──▶ update ──▶ DIR: snapshots │ segments of the log │ events │ MANIFEST     (update.rs, manifest.rs)
//!                                    │
//!                                    ▼
//!   snapshot at or before the target ─▶ the log, entry by entry ─▶ the state at the target       (point.rs)
//!                                              └ events: the same bytes as in the backup?
//!                                    ▼
//!   a new directory: snapshot │ events up to there │ identity of a new cluster                   (restore.rs)
//! ```
//!
//! The files are what the node has, byte by byte and under the same names, so whatever reads a data directory reads a
//! backup. There is no `identity` among them: a directory that was copied back by hand must not answer for a node
//! that has voted since.
//!
//! Invariants:
//! - A file gets its name when all of it is on disk, and the manifest names it after that. A backup that was cut off is
//!   the one before, and goes on where it was. A file that a node has begun anew is the exception: the manifest counts
//!   nothing of it from the moment on that the new one takes the place of the old one.
//! - What is sealed is never fetched twice.
//! - What is restored was derived again: the log's events are the bytes of the backup's events, whose chain is that of
//!   the manifest.
//! - A restored directory belongs to a cluster of its own, whose number nobody has yet.
//!
//! Left out on purpose: the archive of old ids, which a restored cluster begins empty; compression and encryption,
//! which other programs do to a directory.

mod error;
mod manifest;
mod point;
mod restore;
mod update;
mod verify;

pub use error::Error;
pub use manifest::{BackedUp, MANIFEST, Manifest};
pub use point::{Backup, Reached, Target};
pub use restore::{Restored, restore};
pub use update::{Listing, Node, NodeError, Updated, update};
pub use verify::{Verdict, verify};

use crate::protocol::ShardId;

/// The only one so far.
const SHARD: ShardId = ShardId(0);

/// So much of a file is read, hashed and written at once.
const PIECE_BYTES: u64 = 1 << 20;

/// Told what is done, how many bytes of it, and of how many.
pub type Progress<'a> = &'a mut dyn FnMut(&str, u64, u64);
