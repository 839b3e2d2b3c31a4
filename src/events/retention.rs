//! What goes: whole segments, the oldest first, by age and by bytes. So that not much stays for longer than it should,
//! a segment ends when it is long by time, however little is in it.

use std::io;
use std::sync::Arc;

use super::segment::Segment;
use super::{EventOptions, Inner};
use crate::log::Storage;

/// A segment is no longer than this part of the retention, nor than the least that is worth a file.
const SEGMENTS_KEPT: u64 = 16;
const SEGMENT_MS_MIN: u64 = 60_000;
/// Of the bytes that are kept, a segment has this part at most, if that is not too little.
const SEGMENT_SHARE: u64 = 4;
const SEGMENT_BYTES_MIN: u64 = 64 << 10;

impl EventOptions {
    /// Bytes at which a segment ends.
    pub(super) fn segment_bytes(&self) -> u64 {
        self.segment_bytes.min((self.bytes_max / SEGMENT_SHARE).max(SEGMENT_BYTES_MIN))
    }
}

impl Inner {
    /// Has a segment that began at that time had its share of the retention?
    pub fn is_long(&self, first_at_ms: u64) -> bool {
        let share = (self.options.retention_ms / SEGMENTS_KEPT).max(SEGMENT_MS_MIN);
        first_at_ms.saturating_add(share) <= self.now_ms()
    }

    /// Removes what is too old or too much; only what is sealed.
    pub fn remove_superfluous(&self) -> io::Result<()> {
        while let Some(oldest) = self.superfluous() {
            // In this order: what cannot be removed is tried again, and leaves no hole. Readers that have it go on
            // reading it.
            self.remove_file(&oldest)?;
            self.forget_segment(&oldest);
        }
        Ok(())
    }

    fn superfluous(&self) -> Option<Arc<Segment>> {
        let segments = self.segments();
        let oldest = segments.first().filter(|segment| segment.is_sealed())?;
        let bytes: u64 = segments.iter().map(|segment| segment.file_bytes()).sum();
        let last_ms = oldest.last_at_us() / 1_000;
        let is_over = last_ms.saturating_add(self.options.retention_ms) <= self.now_ms();
        (is_over || bytes > self.options.bytes_max).then(|| oldest.clone())
    }

    /// Removes its file, on disk as well before that of the next one.
    fn remove_file(&self, segment: &Segment) -> io::Result<()> {
        let storage: &dyn Storage = self.storage.as_ref();
        match storage.remove(&segment.name()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => storage.sync_dir(),
        }
    }
}
