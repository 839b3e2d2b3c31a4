//! Real time: what had been told to somebody before an operation began.

use crate::history::Operation;

/// The highest index that had been returned by each moment.
pub(crate) struct Order {
    /// When an operation returned, and the highest index returned by then.
    known: Vec<(u64, u64)>,
}

impl Order {
    /// Sorts the returns of a history. Stale reads count too: what any node has applied is committed,
    /// so everybody who asks for a fresh answer later must see it.
    pub fn of(history: &[Operation]) -> Self {
        let mut known: Vec<_> = history
            .iter()
            .filter_map(|operation| Some((operation.completed, operation.verdict.answer()?.index)))
            .collect();
        known.sort_unstable();
        let mut highest = 0;
        for (_, index) in &mut known {
            highest = highest.max(*index);
            *index = highest;
        }
        Self { known }
    }

    /// The highest index that was returned before `moment`; 0 if none was.
    pub fn known_before(&self, moment: u64) -> u64 {
        let count = self.known.partition_point(|(completed, _)| *completed < moment);
        count.checked_sub(1).map_or(0, |last| self.known[last].1)
    }
}
