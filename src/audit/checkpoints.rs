//! What CHECKPOINTs say, against the events around them.
//!
//! ```text
//!   first event ─▶ … ─▶ … ─▶ CHECKPOINT ─▶ … ─▶ CHECKPOINT ─▶ …
//!   nothing is there     ▲   the same totals?    the same totals?
//!        └── + deltas ───┼──────▲  └── + deltas ────▲  └── …
//!                        └ the same chain? ─ anchor ┘
//! ```
//!
//! - **Totals.** A CHECKPOINT says how much there is of everything; an event, what it changes. So from the first event
//!   to a CHECKPOINT, and from one to the next, the deltas must add up. That needs no cell: it also holds what has
//!   happened to those of which older events are not here any more.
//! - **Anchor.** It says what the chain was before an earlier event, where the leader's own events ended when it
//!   proposed. Whoever changes an event on one node needs the leaders to have said another chain.
//!
//! Invariants:
//! - What is not known is not judged: the totals behind a gap or damage, up to the next CHECKPOINT; the chain where a
//!   leader keeps no events (it says 0), where events are not here, or where the chain began anew because a node
//!   without events gave the snapshot (its position has zeros).
//! - A CHECKPOINT that is wrong is believed from there on, so that each fault is told once.
//! - Nothing grows: totals are added up as the events pass, and only so many positions are kept as an anchor may be
//!   back.
//!
//! Left out on purpose: how many reservations there are. Events do not count them: a reservation has as many RESERVED
//! as it has lines, and which event is about its last unit only who keeps all of them can tell. Where the log still has
//! the entry, the engine makes the whole CHECKPOINT again, with these, and it is compared byte by byte (`derived.rs`).

use std::collections::VecDeque;

use super::walk::hex;
use crate::events::Position;
use crate::protocol::event::{
    Anchor, Checkpoint, Counts, Event, EventBody, EventKind, RecordHeader, Totals,
};

/// Positions that are kept: as many records may be between where a leader's events end and what it proposes, or the
/// anchor is not compared. A leader has a record to an entry, and writes every 4 ms: 13 seconds of 5,000 entries each.
const RECENT_MAX: usize = 1 << 16;

/// How many CHECKPOINTs there were, and how much of what they say could be compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    /// All of them.
    pub seen: u64,
    /// Those of which something was compared.
    pub compared: u64,
    /// Those of which the totals were.
    pub totals: u64,
    /// Those of which the chain was.
    pub chains: u64,
}

/// See the module.
pub(super) struct Checkpoints {
    /// After the events so far, but for the reservations; `None`: nobody knows.
    totals: Option<Totals>,
    /// The chain is the one that every node has.
    has_chain: bool,
    recent: Recent,
    /// The first event of the record.
    first: u64,
    pub checked: Checked,
}

impl Checkpoints {
    pub fn new() -> Self {
        Self {
            totals: None,
            has_chain: false,
            recent: Recent::default(),
            first: 0,
            checked: Checked::default(),
        }
    }

    /// How much there is of everything after the events so far; reservations are not counted.
    pub fn totals(&self) -> Option<&Totals> {
        self.totals.as_ref()
    }

    /// Events are missing, or cannot be read.
    pub fn forget(&mut self) {
        self.totals = None;
    }

    /// Events begin there, which follow nothing that is known.
    pub fn begin_at(&mut self, position: &Position) {
        self.totals = (*position == Position::START).then(Totals::default);
        self.has_chain = position.has_chain();
    }

    /// A record comes, at that position.
    #[inline]
    pub fn begin_record(&mut self, before: Position, header: &RecordHeader) {
        self.first = header.first;
        if self.has_chain {
            self.recent.push(before, header.next());
        }
    }

    /// Takes the next event of the record; gives everything that is wrong with it.
    #[inline]
    pub fn add(&mut self, event: &Event<'_>, wrong: &mut dyn FnMut(String)) {
        if event.kind == EventKind::Checkpoint {
            return self.check(event, wrong);
        }
        let (Some(totals), Some(change)) = (&mut self.totals, &event.change) else { return };
        if event.kind == EventKind::CellDefined {
            totals.cells = totals.cells.wrapping_add(1);
        }
        let units = change.delta.all();
        let count = if event.has_details { units.len() } else { MAIN_COUNTERS };
        for (sum, units) in totals.sums.iter_mut().zip(&units[..count]) {
            // A forged CHECKPOINT may have said any sum before.
            *sum = sum.wrapping_add(i128::from(*units));
        }
    }

    #[cold]
    fn check(&mut self, event: &Event<'_>, wrong: &mut dyn FnMut(String)) {
        self.checked.seen += 1;
        let sequence = event.sequence;
        let EventBody::Checkpoint(checkpoint) = event.body else {
            self.totals = None;
            return wrong(format!("event {sequence} is a CHECKPOINT, and says nothing"));
        };
        let has_totals = self.check_totals(sequence, &checkpoint, wrong);
        let has_chain = self.check_anchor(sequence, &checkpoint.anchor(), wrong);
        self.checked.totals += u64::from(has_totals);
        self.checked.chains += u64::from(has_chain);
        self.checked.compared += u64::from(has_totals || has_chain);
    }

    /// `false`: there is nothing to compare them with.
    fn check_totals(
        &mut self,
        sequence: u64,
        checkpoint: &Checkpoint<'_>,
        wrong: &mut dyn FnMut(String),
    ) -> bool {
        let said = checkpoint.totals();
        let Some(found) = self.totals.replace(said) else { return false };
        if let Some((name, said, found)) = difference(&said, &found) {
            wrong(format!(
                "event {sequence} says that {name} is {said} in all; the events up to it add up to {found}"
            ));
        }
        true
    }

    /// `false`: there is nothing to compare it with.
    fn check_anchor(
        &self,
        sequence: u64,
        anchor: &Anchor,
        wrong: &mut dyn FnMut(String),
    ) -> bool {
        let said = Position { next: anchor.next, chain: anchor.chain };
        if said.next == 0 || !said.has_chain() {
            return false;
        }
        if said.next > self.first {
            let next = said.next;
            wrong(format!("event {sequence} says what the chain is before event {next}, a later one"));
            return true;
        }
        match self.recent.before(said.next) {
            Some(Ok(found)) if found == said => {}
            Some(Ok(found)) => wrong(format!(
                "event {sequence} says that before event {} the chain was {}, and here it is {}: the events before \
                 that were changed, or are not those of the leader",
                said.next,
                hex(&said.chain),
                hex(&found.chain)
            )),
            Some(Err(first)) => wrong(format!(
                "event {sequence} says what the chain was before event {}, which is inside the record of event {first}",
                said.next
            )),
            None => return false,
        }
        true
    }
}

/// Counters that every cell has: the first ones.
const MAIN_COUNTERS: usize = 3;

/// The first thing of which two say that there is another number of it: what, and both numbers. Events do not count
/// reservations.
pub(super) fn difference(one: &Totals, other: &Totals) -> Option<(&'static str, i128, i128)> {
    let cells = ("the number of cells", i128::from(one.cells), i128::from(other.cells));
    let sums = Counts::NAMES.iter().zip(one.sums.iter().zip(other.sums));
    let sums = sums.map(|(name, (one, other))| (*name, *one, other));
    std::iter::once(cells).chain(sums).find(|(_, one, other)| one != other)
}

/// Where the last records began, the oldest first.
#[derive(Default)]
struct Recent {
    /// Before each, and the event after it.
    records: VecDeque<(Position, u64)>,
}

impl Recent {
    #[inline]
    fn push(&mut self, before: Position, next: u64) {
        if self.records.len() == RECENT_MAX {
            self.records.pop_front();
        }
        self.records.push_back((before, next));
    }

    /// Before an event. `Err`: it is not the first one of its record, which begins with this one. `None`: the event is
    /// not here, or too far back.
    fn before(&self, next: u64) -> Option<Result<Position, u64>> {
        let after = self.records.partition_point(|(before, _)| before.next <= next);
        let (before, end) = self.records.get(after.checked_sub(1)?)?;
        match before.next == next {
            true => Some(Ok(*before)),
            false => (next < *end).then_some(Err(before.next)),
        }
    }
}
