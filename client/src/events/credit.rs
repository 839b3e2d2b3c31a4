//! How many bytes the server may send: decisions only.
//!
//! Invariant: what was granted and has not come, and what waits for the caller, are at most [`WINDOW_BYTES`] together.
//! A server goes beyond it by one record.

use stockd_protocol::limits::CREDIT_BYTES_MAX;

/// As much as a server takes: a busy one needs about ten milliseconds from a grant to what is sent for it, and half a
/// mebibyte of events may happen in these. As much waits for the caller at most, and as much is with it.
pub(super) const WINDOW_BYTES: u32 = CREDIT_BYTES_MAX;

/// Smaller grants would be more frames than they are worth.
const GRANT_BYTES_MIN: u32 = WINDOW_BYTES / 4;

/// What is left of the grants on one connection.
#[derive(Debug)]
pub(super) struct Credit {
    left: u32,
}

impl Credit {
    /// What to grant at first, while `waiting` bytes wait for the caller.
    pub(super) fn begin(waiting: usize) -> Self {
        Self { left: room(waiting) }
    }

    /// What the server may send.
    pub(super) const fn left(&self) -> u32 {
        self.left
    }

    /// A frame with events came.
    pub(super) fn spend(&mut self, frame_bytes: usize) {
        self.left = self.left.saturating_sub(u32::try_from(frame_bytes).unwrap_or(u32::MAX));
    }

    /// What to grant now; `None`: nothing yet.
    pub(super) fn top_up(&mut self, waiting: usize) -> Option<u32> {
        let bytes = room(waiting).saturating_sub(self.left);
        if bytes < GRANT_BYTES_MIN {
            return None;
        }
        self.left += bytes;
        Some(bytes)
    }
}

fn room(waiting: usize) -> u32 {
    WINDOW_BYTES.saturating_sub(u32::try_from(waiting).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_granted_and_what_waits_are_one_window() {
        let mut credit = Credit::begin(0);
        assert_eq!(credit.left(), WINDOW_BYTES);
        credit.spend(WINDOW_BYTES as usize - 10);
        assert_eq!(credit.top_up(WINDOW_BYTES as usize - 10), None, "the caller has it all");
        assert_eq!(credit.top_up(0), Some(WINDOW_BYTES - 10), "the caller has taken it");
        assert_eq!(credit.top_up(0), None);
        credit.spend(GRANT_BYTES_MIN as usize - 1);
        assert_eq!(credit.top_up(0), None, "too little to be worth a frame");
        credit.spend(1);
        assert_eq!(credit.top_up(0), Some(GRANT_BYTES_MIN));
        credit.spend(WINDOW_BYTES as usize);
        assert_eq!(credit.left(), 0, "one record more than was granted is no debt");
        assert_eq!(Credit::begin(WINDOW_BYTES as usize).left(), 0);
    }
}
