//! The one place that maps files into memory.

use std::fs::File;
use std::io;

use bytes::Bytes;

/// Maps the whole file, read-only. Slices of the result keep the mapping alive, also when the file
/// is removed.
///
/// The log maps a segment only when it has stopped writing to it. A sector that can not be read
/// shows as SIGBUS, which stops the process: a stopped replica is safe.
///
/// # Errors
/// The operating system refuses.
#[expect(unsafe_code, reason = "a mapping is unsafe by nature; see SAFETY")]
pub(super) fn map(file: &File) -> io::Result<Bytes> {
    if file.metadata()?.len() == 0 {
        return Ok(Bytes::new());
    }
    // SAFETY: the bytes must not change while they are mapped. The data directory is locked by the
    // process that writes it, that process only maps segments which it has finished (or, while it
    // recovers, has not begun) to write, and the log's segments are never shortened. Those of events are
    // while they are opened, before this process maps them; who looks at their directory meanwhile reads
    // without a mapping. `stockd log` on a running
    // node may see the last segment change under it: every decision there is made on copied heads
    // and bounds-checked slices, so a change can give a wrong verdict but no wrong access.
    let map = unsafe { memmap2::Mmap::map(file)? };
    Ok(Bytes::from_owner(map))
}
