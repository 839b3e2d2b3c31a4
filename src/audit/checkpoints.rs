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
//!   leader keeps no events (it says 0), where events are not here, or where the chain is not whole
//!   (`events/position.rs`).
//! - A CHECKPOINT that is wrong is believed from there on, so that each fault is told once.
//! - Nothing grows: totals are added up as the events pass, and only so many positions are kept as an anchor may be
//!   back.
//!
//! Left out on purpose: how many reservations there are. Events do not count them: a reservation has as many RESERVED
//! as it has lines, and which event is about its last unit only who keeps all of them can tell. Where the log still has
//! the entry, the engine makes the whole CHECKPOINT again, with these, and it is compared byte by byte (`derived.rs`).

use std::collections::VecDeque;
use std::fmt;

use super::report::{grouped, hex};
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

impl Checked {
    /// In a few words.
    pub fn verdict(&self) -> String {
        let [seen, compared] = [self.seen, self.compared].map(|count| grouped(count.into()));
        format!("{compared} of {seen} checkpoints compared")
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [seen, totals, chains] =
            [self.seen, self.totals, self.chains].map(|count| grouped(count.into()));
        write!(f, "{seen} CHECKPOINTs; compared: of {totals} the totals, of {chains} the chain")
    }
}

/// See the module.
pub(super) struct Checkpoints {
    /// After the events so far, but for the reservations; `None`: nobody knows.
    totals: Option<Totals>,
    recent: Recent,
    /// The first event of the record.
    first: u64,
    pub checked: Checked,
}

impl Checkpoints {
    pub fn new() -> Self {
        Self { totals: None, recent: Recent::default(), first: 0, checked: Checked::default() }
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
    }

    /// A record comes, at that position.
    #[inline]
    pub fn begin_record(&mut self, before: Position, header: &RecordHeader) {
        self.first = header.first;
        if before.is_whole {
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
    fn check_anchor(&self, sequence: u64, anchor: &Anchor, wrong: &mut dyn FnMut(String)) -> bool {
        let said = Position::told(anchor.next, anchor.chain);
        if said.next == 0 || !said.is_whole {
            return false;
        }
        if said.next > self.first {
            let next = said.next;
            wrong(format!(
                "event {sequence} says what the chain is before event {next}, a later one"
            ));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::event::{Cause, CellChange, EventRecord, RecordWriter};
    use crate::protocol::{CellHandle, Reader, ReservationId, ShardId};

    const ID: ReservationId = ReservationId([7; 16]);

    /// A cell with two units more, two of them damaged; and a CHECKPOINT that says it.
    fn record(first: u64, totals: &Totals, anchor: &Anchor) -> Vec<u8> {
        let mut writer = RecordWriter::begin(Vec::new(), ShardId(0), first, first, first);
        let cell = CellHandle(3);
        let delta = Counts { on_hand: 2, blocked: [2, 0, 0, 0], ..Counts::default() };
        let nothing = Counts::default();
        let made = CellChange { cell, after: nothing, delta: nothing };
        writer.cell_event(&Cause::new(EventKind::CellDefined, ID), &made, false);
        let returned = CellChange { cell, after: delta, delta };
        writer.cell_event(&Cause::new(EventKind::Returned, ID), &returned, true);
        let bytes = Checkpoint::encode(totals, anchor);
        let body = EventBody::Checkpoint(Checkpoint::of(&bytes));
        writer.event(&Cause { id: None, body, ..Cause::new(EventKind::Checkpoint, ID) });
        writer.finish()
    }

    fn wrong_with(checkpoints: &mut Checkpoints, before: Position, record: &[u8]) -> Vec<String> {
        let mut bytes = record.to_vec();
        crate::protocol::event::seal(&mut bytes);
        let record = EventRecord::take(&mut Reader::new(&bytes)).unwrap();
        checkpoints.begin_record(before, record.header());
        let mut wrong = Vec::new();
        for event in record.events() {
            checkpoints.add(&event.unwrap(), &mut |what| wrong.push(what));
        }
        wrong
    }

    #[test]
    fn totals_are_what_the_deltas_add_up_to_right_where_it_stands() {
        let mut totals = Totals { cells: 1, active: 9, ..Totals::default() };
        (totals.sums[0], totals.sums[3]) = (2, 2);
        let mut checkpoints = Checkpoints::new();
        checkpoints.begin_at(&Position::START);
        let nobody = Anchor::default();
        let right = record(1, &totals, &nobody);
        assert_eq!(wrong_with(&mut checkpoints, Position::START, &right), Vec::<String>::new());
        // It is said again, though there is more by now. Then it is believed.
        let text =
            ["event 6 says that the number of cells is 1 in all; the events up to it add up to 2"];
        let behind = Position::told(4, [4; 32]);
        assert_eq!(wrong_with(&mut checkpoints, behind, &record(4, &totals, &nobody)), text);
        let mut more = Totals { cells: 2, ..totals };
        (more.sums[0], more.sums[3]) = (4, 3);
        let text = ["event 9 says that damaged is 3 in all; the events up to it add up to 4"];
        let behind = Position::told(7, [7; 32]);
        assert_eq!(wrong_with(&mut checkpoints, behind, &record(7, &more, &nobody)), text);
        assert_eq!(checkpoints.checked, Checked { seen: 3, compared: 3, totals: 3, chains: 0 });
        checkpoints.forget();
        let behind = Position::told(10, [9; 32]);
        let unknown = record(10, &totals, &nobody);
        assert_eq!(wrong_with(&mut checkpoints, behind, &unknown), Vec::<String>::new());
        assert_eq!(checkpoints.checked, Checked { seen: 4, compared: 3, totals: 3, chains: 0 });
    }

    #[test]
    fn a_position_is_known_as_long_as_an_anchor_may_be_back() {
        let at = |next: u64| Position::told(next, [next as u8; 32]);
        let mut recent = Recent::default();
        assert_eq!(recent.before(1), None);
        // Records of two events, and 100 that are missing.
        let firsts = |from: u64, count: usize| (from..).step_by(2).take(count);
        let (first, last) = (101, 99 + 2 * RECENT_MAX as u64);
        firsts(first, RECENT_MAX).for_each(|first| recent.push(at(first), first + 2));
        assert_eq!(recent.before(first - 1), None);
        assert_eq!(recent.before(first), Some(Ok(at(first))));
        assert_eq!(recent.before(last), Some(Ok(at(last))));
        assert_eq!(recent.before(last + 1), Some(Err(last)), "inside it");
        firsts(last + 102, 2).for_each(|first| recent.push(at(first), first + 2));
        assert_eq!(recent.records.len(), RECENT_MAX);
        assert_eq!(recent.before(first + 2), None, "too far back");
        assert_eq!(recent.before(first + 4), Some(Ok(at(first + 4))));
        for missing in [last + 2, last + 50, last + 101] {
            assert_eq!(recent.before(missing), None, "{missing}");
        }
        assert_eq!(recent.before(last + 102), Some(Ok(at(last + 102))));
    }
}
