//! What goes: whole segments, the oldest first, by age and by bytes.

use std::io;
use std::sync::Arc;

use super::Inner;
use super::segment::Segment;
use crate::log::Storage;

impl Inner {
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
