//! A cell as the model has it: everything in one place, nothing derived is stored.

use stockd_protocol::limits::COUNTER_MAX;
use stockd_protocol::{Bucket, CellCounters, CellDetails, Policy};

/// A cell. What is due is not in `reserved`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Units physically there.
    pub on_hand: i64,
    /// Units of active reservations.
    pub reserved: i64,
    /// Units of confirmed ones.
    pub committed: i64,
    /// Units not for sale: damaged, quality, safety, other.
    pub blocked: [i64; 4],
    /// Announced units.
    pub incoming: i64,
    /// Units sent here that have not arrived.
    pub in_transit: i64,
    /// The last message of its feed.
    pub feed_sequence: u64,
    /// How often its units were stated.
    pub epoch: u64,
    /// Its rules.
    pub policy: Policy,
    /// Somebody once said what the units are, whatever was promised, or allowed to promise more.
    pub may_be_short: bool,
}

impl Counters {
    /// Units that are never sold.
    pub fn withheld(&self) -> i64 {
        self.blocked.iter().sum::<i64>() + self.policy.buffer
    }

    /// What a reserve could take of what is there.
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved - self.committed - self.withheld()
    }

    /// What a reserve could take by the cell's rules.
    pub fn grantable(&self) -> i64 {
        let coming = if self.policy.preorder { self.incoming + self.in_transit } else { 0 };
        let allowed = self.policy.oversell_limit + coming;
        let allowed = if self.policy.untracked { COUNTER_MAX } else { allowed.min(COUNTER_MAX) };
        self.available() + allowed
    }

    /// Its rules let a reserve take units, or one that is confirmed at once, or one of an owner's.
    pub const fn is_open(&self, commit: bool, owned: bool) -> bool {
        !self.is_closed(commit) && (owned || self.policy.owner_max == 0)
    }

    /// Its rules let nobody take units, or only at once.
    pub const fn is_closed(&self, commit: bool) -> bool {
        self.policy.frozen || !commit && self.policy.no_hold
    }

    /// The units of a bucket of blocked ones.
    pub fn bucket(&mut self, bucket: Bucket) -> Option<&mut i64> {
        self.blocked.get_mut((bucket as usize).checked_sub(1)?)
    }

    /// Every counter, of a cell or summed over cells, is within its range.
    pub fn is_in_range(&self) -> bool {
        let promised = self.reserved + self.committed;
        self.on_hand.abs() <= COUNTER_MAX
            && self.on_hand - promised >= -COUNTER_MAX
            && [promised, self.withheld(), self.incoming, self.in_transit]
                .iter()
                .all(|number| (0..=COUNTER_MAX).contains(number))
    }

    /// The sums of two cells, as far as they are counters.
    #[must_use]
    pub fn plus(mut self, other: &Self) -> Self {
        self.on_hand += other.on_hand;
        self.reserved += other.reserved;
        self.committed += other.committed;
        self.blocked.iter_mut().zip(other.blocked).for_each(|(sum, units)| *sum += units);
        self.incoming += other.incoming;
        self.in_transit += other.in_transit;
        self.policy.buffer += other.policy.buffer;
        self
    }

    /// As READ_DETAILS shows it.
    pub fn details(&self) -> CellDetails {
        CellDetails {
            counters: CellCounters {
                on_hand: self.on_hand,
                reserved: self.reserved,
                committed: self.committed,
                available: self.available(),
            },
            blocked: self.blocked,
            incoming: self.incoming,
            in_transit: self.in_transit,
            feed_sequence: self.feed_sequence,
            policy: self.policy,
            short: self.grantable() < 0,
        }
    }
}
