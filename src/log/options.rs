//! What may be set.

use std::sync::Arc;

use super::{Error, KeepOptions};

/// Called once, on a thread of the log, with the error that stopped it. Must not block for long.
pub type FatalHook = Arc<dyn Fn(&Error) + Send + Sync>;

/// Smallest segment: room for a header and some records. For tests; see [`SEGMENT_BYTES_MIN_REAL`].
pub const SEGMENT_BYTES_MIN: u64 = 64 << 10;

/// Smallest segment a configuration should allow: the largest batch of a client fits, whose frame has
/// a mebibyte, and the names of those who asked with it.
pub const SEGMENT_BYTES_MIN_REAL: u64 = 2 << 20;

/// Largest segment. Positions keep 32 bits for the offset in the file.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;

/// How a log is laid out and bounded.
#[derive(Clone)]
pub struct LogOptions {
    /// Bytes of one segment file; a multiple of 4,096. Segments that exist keep theirs.
    pub segment_bytes: u64,
    /// Most payload bytes of records kept in memory, shared evenly by the shards. What is not yet
    /// written stays in memory beyond it.
    pub cache_bytes_max: u64,
    /// [`Space::Full`](super::Space::Full) begins when no further segment can be had and fewer bytes
    /// than this are left in the current one, so that votes and what is in flight still fit. At most
    /// half a segment counts.
    pub headroom_bytes: u64,
    /// For how long purged segments are kept for backups; `None`: they are removed at once. They give
    /// way to others only on a [`yielding`](super::yielding) storage.
    pub keep: Option<KeepOptions>,
    /// Told when the log stops for good.
    pub on_fatal: FatalHook,
}

impl Default for LogOptions {
    /// Segments of 64 MiB, a cache of 256 MiB, a headroom of 16 MiB, nothing kept, and a hook that does nothing.
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            cache_bytes_max: 256 << 20,
            headroom_bytes: 16 << 20,
            keep: None,
            on_fatal: Arc::new(|_| {}),
        }
    }
}

impl LogOptions {
    pub(super) fn check(&self) -> Result<(), Error> {
        let have = self.segment_bytes;
        if (SEGMENT_BYTES_MIN..=SEGMENT_BYTES_MAX).contains(&have) && have.is_multiple_of(4096) {
            return Ok(());
        }
        let (min, max) = (SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX);
        Err(Error::Options { name: "segment_bytes", have, min, max })
    }

    pub(super) const fn record_bytes_max(&self) -> usize {
        record_bytes_max(self.segment_bytes)
    }

    pub(super) fn headroom(&self) -> u64 {
        self.headroom_bytes.min(self.segment_bytes / 2)
    }
}

/// The longest payload of a record in segments of that size: it must leave room for the header.
pub const fn record_bytes_max(segment_bytes: u64) -> usize {
    let most = segment_bytes as usize / 4 * 3;
    if most < super::PAYLOAD_BYTES_MAX { most } else { super::PAYLOAD_BYTES_MAX }
}
