//! The timing wheel: which lines fall due when, by tick and by cell.
//!
//! ```text
//! ring      tick ──▶ group ──▶ group ──▶ …            for the sweep: everything of a tick
//! index     (cell, tick) ──▶ group                    for reclaim: one cell's due lines, at once
//! group     head ──▶ line ──▶ line ──▶ …              links live in the lines
//! ```
//!
//! A group may be empty: reclaim pops its lines and leaves it to the sweep, so that nothing is walked
//! twice. Groups are freed in the order of their ticks, and only by the sweep.

use super::hash::mix2;
use super::index::Index;
use super::record::{Group, LineRef};
use super::ring::{NIL, Ring};
use super::slab::Slab;
use super::time::Tick;

/// 2¹⁸ ticks are 4.66 hours: the longest ttl and some.
pub(super) const SPAN_TICKS: usize = 1 << 18;

/// See the module.
pub(super) struct Wheel {
    pub groups: Slab<Group>,
    pub ring: Ring,
    index: Index,
    seed: u64,
}

impl Wheel {
    /// Nothing is due. The seed is this process's own.
    pub fn new(seed: u64) -> Self {
        Self::restore(Slab::new(), Ring::new(SPAN_TICKS), seed)
    }

    /// Puts the index to groups and ring.
    pub fn restore(groups: Slab<Group>, ring: Ring, seed: u64) -> Self {
        let mut index = Index::new();
        for (handle, group) in groups.iter().filter(|(_, group)| group.cell != NIL) {
            index.insert(mix2(seed, u64::from(group.cell), group.tick.0), handle);
        }
        Self { groups, ring, index, seed }
    }

    /// All earlier ticks are swept.
    #[inline]
    pub fn front(&self) -> Tick {
        Tick(self.ring.front())
    }

    /// The group of a cell in a tick.
    #[inline]
    pub fn find(&self, cell: u32, tick: Tick) -> Option<u32> {
        self.index.find(self.hash(cell, tick), |handle| {
            let group = self.groups.get(handle);
            group.cell == cell && group.tick == tick
        })
    }

    /// Starts fetching what [`Wheel::push`] will read.
    #[inline]
    pub fn prefetch(&self, cell: u32, tick: Tick) {
        self.index.prefetch(self.hash(cell, tick));
    }

    /// Puts a line at the head of its group, made if need be. Returns the head before, which the
    /// caller stores as the line's next.
    #[inline]
    pub fn push(&mut self, cell: u32, tick: Tick, line: LineRef) -> LineRef {
        assert!(tick >= self.front(), "a line falls due in a tick that is not swept yet");
        if let Some(handle) = self.find(cell, tick) {
            return std::mem::replace(&mut self.groups.get_mut(handle).head, line);
        }
        let next = self.ring.head(tick.0);
        let handle = self.groups.insert(Group { tick, cell, head: line, next });
        self.ring.replace(tick.0, handle);
        self.index.insert(self.hash(cell, tick), handle);
        LineRef::NONE
    }

    /// The first group of a tick.
    pub fn first(&self, tick: Tick) -> Option<u32> {
        Some(self.ring.head(tick.0)).filter(|group| *group != NIL)
    }

    /// Frees the first group of a tick, which must be empty.
    pub fn remove_first(&mut self, tick: Tick) {
        let handle = self.ring.head(tick.0);
        let group = *self.groups.get(handle);
        assert!(group.head == LineRef::NONE, "a group is freed when its lines are gone");
        self.ring.replace(tick.0, group.next);
        self.index.remove(self.hash(group.cell, tick), handle);
        self.groups.remove(handle);
    }

    /// Notes changes from now on, so that they can be undone.
    pub fn begin_journal(&mut self) {
        self.groups.begin_journal();
        self.ring.begin_journal();
        self.index.begin_journal();
    }

    /// Ends the journal: undoes what it has noted, or keeps it.
    pub fn end_journal(&mut self, undo: bool) {
        self.groups.end_journal(undo);
        self.ring.end_journal(undo);
        self.index.end_journal(undo);
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.groups.bytes() + self.ring.bytes() + self.index.bytes()
    }

    #[inline]
    fn hash(&self, cell: u32, tick: Tick) -> u64 {
        mix2(self.seed, u64::from(cell), tick.0)
    }
}
