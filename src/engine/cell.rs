//! A cell at one moment, as values: its counters, its details, and what follows from them.
//!
//! ```text
//! withheld   = Σ blocked + buffer
//! available  = on_hand − reserved − committed − withheld
//! allowance  = all, if untracked; else oversell_limit, and with preorder incoming + in_transit
//! grantable  = available + allowance            a grant of q needs grantable ≥ q
//! ```
//!
//! Most cells have no details: nothing is withheld, nothing allowed beyond what is there.

use crate::protocol::limits::COUNTER_MAX;
use crate::protocol::{Bucket, CellCounters, CellDetails, Policy};

use super::time::Tick;

/// One cell at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Cell {
    pub earliest_due: Tick,
    pub on_hand: i64,
    pub reserved: i64,
    pub committed: i64,
    /// From here on what follows from the details.
    pub withheld: i64,
    pub allowance: i64,
    pub closed: Closed,
}

/// What a cell refuses, and what a request is, as bits: it is refused if they share one.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Closed(u8);

impl Closed {
    /// Everything: the cell is frozen.
    pub const TO_ALL: Self = Self(1);
    /// What is not confirmed at once.
    pub const TO_HOLDS: Self = Self(2);
    /// What names no owner.
    pub const TO_NAMELESS: Self = Self(4);

    /// What a request is that is confirmed at once, or is not, and names an owner, or does not.
    #[inline]
    pub const fn asked(commit: bool, is_owned: bool) -> Self {
        let hold = if commit { 0 } else { Self::TO_HOLDS.0 };
        let nameless = if is_owned { 0 } else { Self::TO_NAMELESS.0 };
        Self(Self::TO_ALL.0 | hold | nameless)
    }

    /// Without what is refused for the lack of a name.
    pub const fn but_nameless(self) -> Self {
        Self(self.0 & !Self::TO_NAMELESS.0)
    }
}

/// The counters and rules that most cells do not have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Details {
    /// By [`Bucket`], without the first.
    pub blocked: [i64; 4],
    pub incoming: i64,
    pub in_transit: i64,
    /// The last message of the cell's feed; 0: none.
    pub feed_sequence: u64,
    /// How often somebody said how many units there are. A count that began in another epoch is void.
    pub epoch: u32,
    pub policy: Policy,
}

impl Cell {
    /// What a reserve could take without going below zero.
    #[inline]
    pub fn available(&self) -> i64 {
        self.on_hand - self.reserved - self.committed - self.withheld
    }

    /// What a reserve could take.
    #[inline]
    pub fn grantable(&self) -> i64 {
        self.available() + self.allowance
    }

    /// It takes such a request, as far as its rules go.
    #[inline]
    pub fn is_open(&self, asked: Closed) -> bool {
        self.closed.0 & asked.0 == 0
    }

    /// Takes over what follows from the details.
    #[must_use]
    pub fn with(self, details: &Details) -> Self {
        Self {
            withheld: details.withheld(),
            allowance: details.allowance(),
            closed: details.closed(),
            ..self
        }
    }

    /// As replies show it.
    pub fn counters(&self) -> CellCounters {
        CellCounters {
            on_hand: self.on_hand,
            reserved: self.reserved,
            committed: self.committed,
            available: self.available(),
        }
    }

    /// As READ_DETAILS shows it.
    pub fn shown_with(&self, details: &Details) -> CellDetails {
        CellDetails {
            counters: self.counters(),
            blocked: details.blocked,
            incoming: details.incoming,
            in_transit: details.in_transit,
            feed_sequence: details.feed_sequence,
            policy: details.policy,
            short: self.grantable() < 0,
        }
    }
}

impl Details {
    /// Units that are there and never granted.
    pub fn withheld(&self) -> i64 {
        self.blocked.iter().sum::<i64>() + self.policy.buffer
    }

    /// How far below zero `available` may go by a grant.
    pub fn allowance(&self) -> i64 {
        let coming = if self.policy.preorder { self.incoming + self.in_transit } else { 0 };
        match self.policy.untracked {
            true => COUNTER_MAX,
            false => (self.policy.oversell_limit + coming).min(COUNTER_MAX),
        }
    }

    /// Every number is one that operations can make.
    pub fn are_sound(&self) -> bool {
        let limits = 0..=COUNTER_MAX;
        let policy = &self.policy;
        let point = policy.reorder_point.unwrap_or_default();
        let own = [self.incoming, self.in_transit, policy.oversell_limit, policy.buffer, point];
        own.iter().chain(&self.blocked).all(|number| limits.contains(number))
    }

    pub fn closed(&self) -> Closed {
        let bit = |is_set: bool, bit: Closed| if is_set { bit.0 } else { 0 };
        let Policy { frozen, no_hold, owner_max, .. } = self.policy;
        let owned = bit(owner_max > 0, Closed::TO_NAMELESS);
        Closed(bit(frozen, Closed::TO_ALL) | bit(no_hold, Closed::TO_HOLDS) | owned)
    }

    /// The units in a bucket of blocked ones; `None` for those that are for sale.
    pub fn bucket(&self, bucket: Bucket) -> Option<i64> {
        self.blocked.get((bucket as usize).checked_sub(1)?).copied()
    }
}

/// What a stock write does to a cell. By default nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Change {
    pub on_hand: i64,
    pub blocked: [i64; 4],
    pub incoming: i64,
    pub in_transit: i64,
    /// The message of the feed that is applied.
    pub feed_sequence: Option<u64>,
    /// Somebody says how many units there are: counts that have begun are void.
    pub is_stated: bool,
    /// The rules from now on.
    pub policy: Option<Policy>,
}

impl Change {
    /// Units more, or fewer.
    pub fn on_hand(on_hand: i64) -> Self {
        Self { on_hand, ..Self::default() }
    }

    /// And units more, or fewer, in a bucket. Units that are for sale are in none.
    #[must_use]
    pub fn bucket(mut self, bucket: Bucket, units: i64) -> Self {
        if let Some(blocked) = blocked_in(&mut self.blocked, bucket) {
            *blocked += units;
        }
        self
    }

    fn apply(&self, cell: &Cell, details: &Details) -> (Cell, Details) {
        let mut blocked = details.blocked;
        blocked.iter_mut().zip(self.blocked).for_each(|(units, more)| *units += more);
        let details = Details {
            blocked,
            incoming: details.incoming + self.incoming,
            in_transit: details.in_transit + self.in_transit,
            feed_sequence: self.feed_sequence.unwrap_or(details.feed_sequence),
            epoch: details.epoch.wrapping_add(u32::from(self.is_stated)),
            policy: self.policy.unwrap_or(details.policy),
        };
        let cell = Cell { on_hand: cell.on_hand + self.on_hand, ..*cell };
        (cell.with(&details), details)
    }

    /// The cell and its details after the change, if all is within its range then.
    pub fn checked(&self, cell: &Cell, details: &Details, sku: Sums) -> Option<(Cell, Details)> {
        let (after, after_details) = self.apply(cell, details);
        let before = Sums::of(cell, details);
        let sums = Sums::of(&after, &after_details);
        let in_range = sums.are_in_range() && sku.moved(&before, &sums).are_in_range();
        in_range.then_some((after, after_details))
    }
}

fn blocked_in(blocked: &mut [i64; 4], bucket: Bucket) -> Option<&mut i64> {
    blocked.get_mut((bucket as usize).checked_sub(1)?)
}

/// What is bounded, of a cell or over a SKU.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sums {
    pub on_hand: i64,
    /// Reserved and committed.
    pub promised: i64,
    pub withheld: i64,
    pub incoming: i64,
    pub in_transit: i64,
}

impl Sums {
    /// Of one cell.
    pub fn of(cell: &Cell, details: &Details) -> Self {
        Self {
            on_hand: cell.on_hand,
            promised: cell.reserved + cell.committed,
            withheld: details.withheld(),
            incoming: details.incoming,
            in_transit: details.in_transit,
        }
    }

    /// These sums after one of their cells went from `before` to `after`.
    #[must_use]
    pub fn moved(self, before: &Self, after: &Self) -> Self {
        // Wrapping: while a whole table is overwritten, sums may pass their range and be right in the
        // end.
        let moved = |sum: i64, before: i64, after: i64| sum.wrapping_add(after - before);
        Self {
            on_hand: moved(self.on_hand, before.on_hand, after.on_hand),
            promised: moved(self.promised, before.promised, after.promised),
            withheld: moved(self.withheld, before.withheld, after.withheld),
            incoming: moved(self.incoming, before.incoming, after.incoming),
            in_transit: moved(self.in_transit, before.in_transit, after.in_transit),
        }
    }

    /// Every one is within its range. What is promised can be handed over without `on_hand` leaving
    /// its own.
    pub fn are_in_range(&self) -> bool {
        let limits = 0..=COUNTER_MAX;
        self.on_hand.abs() <= COUNTER_MAX
            && self.on_hand - self.promised >= -COUNTER_MAX
            && [self.promised, self.withheld, self.incoming, self.in_transit]
                .iter()
                .all(|sum| limits.contains(sum))
    }
}
