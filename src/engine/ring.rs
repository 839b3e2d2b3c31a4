//! Chains by time: from a slot number (a tick, a retention bucket) to the head of a chain.
//!
//! ```text
//!  front                       front + span
//!    ├──────── near ────────────────┤ ─ ─ far ─ ─ ▶      NIL: no chain
//! ```
//!
//! Near slots are a ring addressed by the number's low bits. The front only moves forward, over empty
//! slots. The span covers every number that is in use while the sweep keeps up; what is farther away,
//! because the sweep lags by hours or the cluster was down for a month, waits in an ordered map.

use std::collections::BTreeMap;

/// The end of every chain, and the head of an empty one.
pub(super) const NIL: u32 = u32::MAX;

/// See the module.
#[derive(Clone)]
pub(super) struct Ring {
    front: u64,
    near_count: u64,
    near: Vec<u32>,
    far: BTreeMap<u64, u32>,
    /// Heads before each change, in order, if somebody may want to undo them.
    journal: Option<Vec<(u64, u32)>>,
}

impl Ring {
    /// An empty ring with a near span of so many slots, a power of two.
    pub fn new(span: usize) -> Self {
        assert!(span.is_power_of_two(), "a ring is addressed by low bits");
        Self { front: 0, near_count: 0, near: vec![NIL; span], far: BTreeMap::new(), journal: None }
    }

    /// Every slot before this one is empty for good.
    #[inline]
    pub fn front(&self) -> u64 {
        self.front
    }

    /// The head of the chain at `number`.
    #[inline]
    pub fn head(&self, number: u64) -> u32 {
        match number.checked_sub(self.front) {
            Some(ahead) if ahead < self.near.len() as u64 => self.near[self.at(number)],
            Some(_) => self.far.get(&number).copied().unwrap_or(NIL),
            None => NIL,
        }
    }

    /// Replaces the head of the chain at `number` and returns the one before.
    ///
    /// # Panics
    /// `number` is before the front.
    #[inline]
    pub fn replace(&mut self, number: u64, head: u32) -> u32 {
        let before = self.put(number, head);
        if let Some(journal) = &mut self.journal {
            journal.push((number, before));
        }
        before
    }

    /// Notes changes from now on. The front must not move until they are undone or kept.
    pub fn begin_journal(&mut self) {
        self.journal = Some(Vec::new());
    }

    /// Ends the journal: undoes what it has noted, or keeps it.
    pub fn end_journal(&mut self, undo: bool) {
        let journal = self.journal.take().filter(|_| undo).unwrap_or_default();
        for (number, head) in journal.into_iter().rev() {
            self.put(number, head);
        }
    }

    #[inline]
    fn put(&mut self, number: u64, head: u32) -> u32 {
        assert!(number >= self.front, "a chain begins at or after the front");
        if number - self.front >= self.near.len() as u64 {
            let before = match head {
                NIL => self.far.remove(&number),
                head => self.far.insert(number, head),
            };
            return before.unwrap_or(NIL);
        }
        let at = self.at(number);
        let before = std::mem::replace(&mut self.near[at], head);
        self.near_count = self.near_count + u64::from(head != NIL) - u64::from(before != NIL);
        before
    }

    /// Moves the front forward over empty slots, at most to `limit`.
    #[inline]
    pub fn skip_empty(&mut self, limit: u64) {
        while self.front < limit {
            if self.near_count == 0 {
                let stop = self.far.first_key_value().map_or(limit, |(number, _)| *number);
                self.front = self.front.max(stop.min(limit));
            } else if self.near[self.at(self.front)] == NIL {
                self.front += 1;
            } else {
                return;
            }
            self.draw_near();
        }
    }

    /// There is a chain before `limit`.
    pub fn any_before(&self, limit: u64) -> bool {
        let end = limit.min(self.front + self.near.len() as u64);
        let near = || (self.front..end).any(|number| self.near[self.at(number)] != NIL);
        let far = || self.far.first_key_value().is_some_and(|(number, _)| *number < limit);
        (self.near_count > 0 && near()) || far()
    }

    /// The first number from `from` on that has a chain, or `limit` if none before it has.
    pub fn first_from(&self, from: u64, limit: u64) -> u64 {
        let from = from.max(self.front);
        let end = limit.min(self.front + self.near.len() as u64);
        let near = (from..end).find(|number| self.near[self.at(*number)] != NIL);
        let far = || self.far.range(from..limit.max(from)).next().map(|(number, _)| *number);
        near.or_else(far).unwrap_or(limit)
    }

    /// The chains in order of time.
    pub fn iter(&self) -> impl Iterator<Item = (u64, u32)> + '_ {
        let end = self.front + self.near.len() as u64;
        let near = (self.front..end).map(|number| (number, self.near[self.at(number)]));
        let near = near.filter(|(_, head)| *head != NIL);
        near.chain(self.far.iter().map(|(number, head)| (*number, *head)))
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.near.len() as u64 * 4 + self.far.len() as u64 * 16
    }

    #[inline]
    fn at(&self, number: u64) -> usize {
        number as usize & (self.near.len() - 1)
    }

    fn draw_near(&mut self) {
        while let Some(first) = self.far.first_entry() {
            let number = *first.key();
            if number - self.front >= self.near.len() as u64 {
                return;
            }
            let head = first.remove();
            let at = self.at(number);
            self.near[at] = head;
            self.near_count += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn far_chains_come_near_as_the_front_moves() {
        let mut ring = Ring::new(16);
        ring.skip_empty(1_000);
        for (number, head) in [(1_001, 1), (1_015, 2), (1_016, 3), (9_000, 4)] {
            assert_eq!(ring.replace(number, head), NIL);
        }
        let chains: Vec<_> = ring.iter().collect();
        assert_eq!(chains, [(1_001, 1), (1_015, 2), (1_016, 3), (9_000, 4)]);
        ring.skip_empty(20_000);
        assert_eq!(ring.front(), 1_001, "the front stops at a chain");
        for (from, limit, first) in [
            (0, 9_000, 1_001),
            (1_002, 1_010, 1_010),
            (1_002, 9_000, 1_015),
            (1_017, 8_999, 8_999),
            (1_017, 9_001, 9_000),
            (1_017, u64::MAX, 9_000),
            (9_001, u64::MAX, u64::MAX),
            (20, 10, 10),
        ] {
            assert_eq!(ring.first_from(from, limit), first, "{from}..{limit}");
        }
        assert!(ring.any_before(1_002) && !ring.any_before(1_001));
        for (number, head, next_front) in [(1_001, 1, 1_015), (1_015, 2, 1_016), (1_016, 3, 9_000)]
        {
            assert_eq!(ring.head(9_000), 4);
            assert_eq!(ring.replace(number, NIL), head);
            ring.skip_empty(20_000);
            assert_eq!(ring.front(), next_front);
        }
        assert!(ring.any_before(9_001) && !ring.any_before(9_000));
        assert_eq!(ring.replace(9_000, NIL), 4);
        ring.skip_empty(20_000);
        assert_eq!((ring.front(), ring.any_before(u64::MAX)), (20_000, false));
    }
}
