//! RESERVE_FROM: lines that several cells may meet, and what becomes of those that are met in part.
//!
//! ```text
//! known id ─▶ REPLAY / ID_REUSED / HOLD_RELEASED
//! unknown  ─▶ not_after ─▶ id's age ─▶ ttl ─▶ owner ─▶ names ─▶ line by line: which cells, how many
//!                                                       └─▶ frozen ─▶ stock ─▶ least ─▶ range ─▶ grant
//! ```
//!
//! Lines are met in their order, each from what those before it have left. The parts of a line always sum
//! to what it gets, and become the lines of the reservation. What is due on a cell expires before anybody
//! looks, so that how far the sweep has come does not decide which warehouse ships.

use std::collections::{BTreeMap, BTreeSet};

use bytes::BufMut;

use crate::protocol::{
    CellHandle, Code, LineFault, LineMode, OwnerBound, ReservationId, ReservationState, Rules,
    ShortLine, Sourcing, TakenPart, Wishes,
};

use super::cell::Closed;
use super::cells::Missing;
use super::hash::{hash_bytes, mix2, to_32};
use super::holds::HeldLine;
use super::outcomes::{Outcomes, in_time, put_millis};
use super::record::Standing;
use super::reserve::{fit_together, refuse_bound, refuse_closed, refuse_stock, ttl_checked};
use super::state::StockState;

/// What a RESERVE_FROM asks for.
pub(super) struct AskedFrom<'a> {
    pub id: ReservationId,
    pub hash: u64,
    pub ttl_ms: u32,
    pub wishes: Wishes<'a>,
    pub commit: bool,
    pub late: bool,
}

/// Who asks, and how.
#[derive(Clone, Copy)]
struct Buyer {
    /// If somebody in particular who is known.
    owner: Option<u32>,
    commit: bool,
}

/// A line with the cells that there are.
struct Candidates {
    quantity: u32,
    min_quantity: u32,
    cells: Vec<u32>,
}

/// What the lines get.
#[derive(Default)]
struct Taken {
    parts: Vec<HeldLine>,
    /// By cell.
    units: BTreeMap<u32, i64>,
    /// Lines that get less than they ask for.
    shorts: Vec<ShortLine>,
    /// Lines that get less than their least.
    below_least: Vec<ShortLine>,
    /// Lines all of whose cells take no holds.
    closed: Vec<u16>,
    /// Lines all of whose cells that take holds take them from owners only.
    nameless: Vec<u16>,
    /// Some cell would give more to another owner.
    is_capped: bool,
}

/// Why nothing is taken.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Refusal {
    Closed,
    Nameless,
    BelowLeast,
    Short,
}

impl Taken {
    fn refusal(&self, mode: LineMode) -> Option<Refusal> {
        let whole = mode == LineMode::All;
        let nothing = self.parts.is_empty();
        let barred = !self.closed.is_empty() || !self.nameless.is_empty();
        match () {
            () if barred && (whole || nothing && self.shorts.is_empty()) => {
                let frozen = !self.closed.is_empty();
                Some(if frozen { Refusal::Closed } else { Refusal::Nameless })
            }
            () if !self.below_least.is_empty() => Some(Refusal::BelowLeast),
            () if nothing || whole && !self.shorts.is_empty() => Some(Refusal::Short),
            () => None,
        }
    }

    fn is_partial(&self) -> bool {
        !(self.shorts.is_empty() && self.closed.is_empty() && self.nameless.is_empty())
    }
}

impl StockState {
    pub(super) fn reserve_from(&mut self, asked: &AskedFrom<'_>, out: &mut Outcomes<'_>) {
        let print = print(asked.wishes, asked.ttl_ms);
        if let Some(handle) = self.look_up(&asked.id, asked.hash) {
            return self.reserve_from_again(handle, print, asked.late, out);
        }
        if asked.late {
            return out.plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new_id(&asked.id) {
            return out.plain(code, 0);
        }
        let Some(ttl) = ttl_checked(asked.ttl_ms) else { return out.plain(Code::TTL_RANGE, 0) };
        let rules = asked.wishes.rules();
        let owner = self.holds.annexes.owners.find(rules.owner);
        if !rules.owner.is_empty() {
            let units = asked.wishes.iter().map(|wish| u64::from(wish.quantity)).sum();
            if let Err(reached) = self.check_owner(owner, units, asked.commit) {
                return self.refuse_owner(reached, out);
            }
        }
        let candidates = match self.candidates(asked.wishes) {
            Ok(candidates) => candidates,
            Err(faults) => return refuse_unknown(&faults, out),
        };
        // A cell that could meet all lines is never short, whatever else on it is due: a storm of due holds is
        // left to the sweep. What is fullest, and what an owner has, depends on all.
        let enough = match rules.sourcing {
            Sourcing::First | Sourcing::FewestSplits if rules.owner.is_empty() => {
                asked.wishes.iter().map(|wish| i64::from(wish.quantity)).sum()
            }
            _ => i64::MAX,
        };
        for cell in candidates.iter().flat_map(|line| &line.cells) {
            self.expire_due(*cell, enough);
        }
        let buyer = Buyer { owner, commit: asked.commit };
        let taken = self.take_units(&candidates, rules, buyer, true);
        if taken.refusal(rules.mode).is_some() {
            return self.refuse_from(&candidates, rules, buyer, taken, out);
        }
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.demands.sum(taken.parts.iter().copied());
        let fits = fit_together(&self.cells, &scratch.demands) || {
            scratch.demands.sums.iter().for_each(|demand| self.reclaim_sku(demand.cell));
            fit_together(&self.cells, &scratch.demands)
        };
        self.scratch = scratch;
        if !fits {
            return out.plain(Code::OVERFLOW, 0);
        }
        // From here on the grant succeeds.
        let code = if taken.is_partial() { Code::OK_PARTIAL } else { Code::OK };
        let (id, hash) = (asked.id, asked.hash);
        let end = (asked.commit, rules.owner);
        let handle = self.grant((id, hash), (ttl, print), end, &taken.parts);
        if !rules.owner.is_empty() {
            self.holds.set_owner(handle, rules.owner);
        }
        self.put_parts(code, handle, out);
    }

    /// Says why nothing is taken: the owner's limit of a cell, if there would be enough without it.
    #[cold]
    fn refuse_from(
        &self,
        candidates: &[Candidates],
        rules: Rules<'_>,
        buyer: Buyer,
        mut taken: Taken,
        out: &mut Outcomes<'_>,
    ) {
        if taken.is_capped {
            let free = self.take_units(candidates, rules, buyer, false);
            if free.refusal(rules.mode).is_none() {
                let shorts = taken.shorts.iter().chain(&taken.below_least);
                let lines: BTreeSet<u16> = shorts.map(|short| short.line).collect();
                let lines: Vec<u16> = lines.into_iter().collect();
                return refuse_bound(OwnerBound::Cell, &lines, out);
            }
            taken = free;
        }
        match taken.refusal(rules.mode) {
            Some(Refusal::Closed) => refuse_closed(&taken.closed, out),
            Some(Refusal::Nameless) => refuse_bound(OwnerBound::Nameless, &taken.nameless, out),
            Some(Refusal::BelowLeast) => out.body(Code::MIN_QTY, 0, |out| {
                taken.below_least.iter().for_each(|short| short.encode(out));
            }),
            Some(Refusal::Short) => refuse_stock(&taken.shorts, out),
            None => unreachable!("what is not refused is granted"),
        }
    }

    /// The id is known: the answer is what became of it, if it was asked for the same.
    #[cold]
    fn reserve_from_again(&mut self, handle: u32, print: u32, late: bool, out: &mut Outcomes<'_>) {
        let record = self.holds.records.get(handle);
        let Some(Standing::Reservation(state)) = record.standing() else {
            return out.plain(in_time(Code::ID_REUSED, late), 0);
        };
        match state {
            ReservationState::Fenced => out.state(in_time(Code::HOLD_RELEASED, late), state),
            _ if record.fingerprint != print => {
                out.state(in_time(Code::ID_REUSED, late), state);
            }
            _ => self.put_parts(Code::REPLAY, handle, out),
        }
    }

    /// Names the parts of a reservation.
    fn put_parts(&self, code: Code, handle: u32, out: &mut Outcomes<'_>) {
        let record = self.holds.records.get(handle);
        let deadline = self.clock.real(record.deadline);
        out.body(code, self.holds.state(handle) as u16, |out| {
            put_millis(out, deadline);
            out.put_u32_le(record.lines());
            for HeldLine { line, cell, quantity } in self.holds.lines_of(handle) {
                TakenPart { line, cell: CellHandle(cell), quantity }.encode(out);
            }
        });
    }

    /// The cells that may meet each line. Of those that a line names, some need not be there.
    ///
    /// # Errors
    /// The lines none of whose cells is there, with what is wrong with the first of each.
    fn candidates(&self, wishes: Wishes<'_>) -> Result<Vec<Candidates>, Vec<(u16, Missing)>> {
        let table = self.cells.table();
        let (mut lines, mut faults) = (Vec::with_capacity(wishes.len()), Vec::new());
        for (line, wish) in (0..).zip(wishes.iter()) {
            let (mut cells, mut fault) = (Vec::new(), None);
            for cell in wish.cells() {
                match table.resolve(cell) {
                    Ok(cell) if cells.contains(&cell) => {}
                    Ok(cell) => cells.push(cell),
                    Err(missing) => fault = fault.or(Some((line, missing))),
                }
            }
            if cells.is_empty() {
                faults.extend(fault);
            }
            let (quantity, min_quantity) = (wish.quantity, wish.min_quantity);
            lines.push(Candidates { quantity, min_quantity, cells });
        }
        if faults.is_empty() { Ok(lines) } else { Err(faults) }
    }

    /// Decides what every line gets, and from where; `capped`: of no cell more than its owner may have.
    fn take_units(
        &self,
        lines: &[Candidates],
        rules: Rules<'_>,
        buyer: Buyer,
        capped: bool,
    ) -> Taken {
        let mut taken = Taken::default();
        let asked_as = Closed::asked(buyer.commit, !rules.owner.is_empty());
        let parts_max = 1 + usize::from(rules.splits_max);
        let rooms = self.rooms(buyer.owner);
        for (line, wish) in (0..).zip(lines) {
            let mut left = Vec::with_capacity(wish.cells.len());
            let (mut is_open, mut is_nameless) = (false, false);
            for cell in &wish.cells {
                let value = self.cells.get(*cell);
                if !value.is_open(asked_as) {
                    is_nameless |= value.is_open(asked_as.but_nameless());
                    continue;
                }
                is_open = true;
                let before = taken.units.get(cell).copied().unwrap_or(0);
                let mut units = value.grantable() - before;
                if capped
                    && let Some(room) = rooms.of(*cell)
                    && room - before < units
                {
                    units = room - before;
                    taken.is_capped = true;
                }
                if units > 0 {
                    left.push((*cell, units));
                }
            }
            if !is_open {
                let barred = if is_nameless { &mut taken.nameless } else { &mut taken.closed };
                barred.push(line);
                if wish.min_quantity == 0 {
                    continue;
                }
            }
            let asked = i64::from(wish.quantity);
            let most = most_of(&left, parts_max).min(asked);
            let gets = if rules.mode == LineMode::UpTo || most == asked { most } else { 0 };
            let cell = CellHandle(wish.cells[0]);
            let short = ShortLine { line, cell, asked: asked as u64, available: most };
            if is_open && gets < asked {
                taken.shorts.push(short);
            }
            if gets < i64::from(wish.min_quantity) {
                let asked = u64::from(wish.min_quantity);
                taken.below_least.push(ShortLine { asked, ..short });
            }
            for (cell, quantity) in choose(left, gets, rules.sourcing, parts_max) {
                *taken.units.entry(cell).or_default() += i64::from(quantity);
                taken.parts.push(HeldLine { line, cell, quantity });
            }
        }
        taken
    }
}

/// What the fullest `count` cells have together.
fn most_of(left: &[(u32, i64)], count: usize) -> i64 {
    if count >= left.len() {
        return left.iter().map(|(_, units)| units).sum();
    }
    let mut units: Vec<i64> = left.iter().map(|(_, units)| *units).collect();
    units.sort_unstable_by_key(|units| std::cmp::Reverse(*units));
    units[..count].iter().sum()
}

/// Takes `want` units, which some `parts_max` cells have together, from no more than so many.
fn choose(
    mut left: Vec<(u32, i64)>,
    mut want: i64,
    sourcing: Sourcing,
    parts_max: usize,
) -> Vec<(u32, u32)> {
    let mut parts_left = match sourcing {
        Sourcing::First => parts_max,
        // The fullest ones first need the fewest parts anyhow.
        Sourcing::MostStock => {
            left.sort_by_key(|(_, units)| std::cmp::Reverse(*units));
            parts_max
        }
        Sourcing::FewestSplits => {
            let is_enough = |count: &usize| most_of(&left, *count) >= want;
            (0..=parts_max).find(is_enough).unwrap_or(parts_max)
        }
    };
    let mut parts = Vec::new();
    for (at, (cell, units)) in left.iter().enumerate() {
        let takes = want.min(*units);
        if takes == 0 {
            break;
        }
        // The next ones must be able to give the rest in the parts that are left then.
        if want - takes <= most_of(&left[at + 1..], parts_left - 1) {
            // It is no more than a line asks for, which is 32 bits.
            parts.push((*cell, takes as u32));
            (want, parts_left) = (want - takes, parts_left - 1);
        }
    }
    debug_assert!(want == 0, "the cells have what is taken from them");
    parts
}

/// Names every line that has the same fault as the first faulty one.
#[cold]
fn refuse_unknown(faults: &[(u16, Missing)], out: &mut Outcomes<'_>) {
    let (first, missing) = faults[0];
    out.body(missing.code(), first, |out| {
        let same = faults.iter().filter(|fault| fault.1 == missing);
        same.for_each(|(line, _)| LineFault { line: *line }.encode(out));
    });
}

/// 32 bits over what was asked for. Names are not looked up: a warehouse that gets the SKU later does not
/// make another request of a retry.
fn print(wishes: Wishes<'_>, ttl_ms: u32) -> u32 {
    let Rules { mode, sourcing, splits_max, owner } = wishes.rules();
    let rules =
        u64::from(mode as u8) << 16 | u64::from(sourcing as u8) << 8 | u64::from(splits_max);
    let hash = mix2(3, rules, u64::from(ttl_ms) << 1 | u64::from(wishes.is_named()));
    let hash = mix2(3, hash, hash_bytes(3, wishes.as_bytes()));
    let hash = if owner.is_empty() { hash } else { mix2(3, hash, hash_bytes(3, owner)) };
    to_32(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(left: &[i64], want: i64, sourcing: Sourcing, parts_max: usize) -> Vec<(u32, u32)> {
        choose((0..).zip(left.iter().copied()).collect(), want, sourcing, parts_max)
    }

    #[test]
    fn the_first_ones_give_as_long_as_the_others_can_give_the_rest() {
        assert_eq!(chosen(&[1, 4, 10], 7, Sourcing::First, 3), [(0, 1), (1, 4), (2, 2)]);
        assert_eq!(chosen(&[1, 4, 10], 7, Sourcing::First, 2), [(0, 1), (2, 6)]);
        assert_eq!(chosen(&[1, 4, 10], 7, Sourcing::First, 1), [(2, 7)]);
        assert_eq!(chosen(&[1, 4, 10], 12, Sourcing::First, 2), [(1, 4), (2, 8)]);
    }

    #[test]
    fn the_fullest_one_gives_first() {
        assert_eq!(chosen(&[4, 10, 4], 12, Sourcing::MostStock, 3), [(1, 10), (0, 2)]);
        assert_eq!(chosen(&[4, 4], 3, Sourcing::MostStock, 2), [(0, 3)]);
    }

    #[test]
    fn the_fewest_give_and_of_equally_few_the_first() {
        assert_eq!(chosen(&[3, 4, 9, 9], 7, Sourcing::FewestSplits, 4), [(2, 7)]);
        assert_eq!(chosen(&[3, 4, 5], 7, Sourcing::FewestSplits, 3), [(0, 3), (1, 4)]);
        assert_eq!(chosen(&[2, 4, 5], 8, Sourcing::FewestSplits, 3), [(1, 4), (2, 4)]);
    }

    /// Against trying everything.
    #[test]
    fn what_some_cells_have_is_found_and_sums_up() {
        for seed in 0..4_000_u64 {
            let number = |at: u64, below: u64| mix2(seed, at, 7) % below;
            let left: Vec<i64> =
                (0..1 + number(0, 5)).map(|at| 1 + number(9 + at, 6) as i64).collect();
            let parts_max = 1 + number(1, 4) as usize;
            let want = 1 + number(2, 14) as i64;
            let pairs: Vec<(u32, i64)> = (0..).zip(left.iter().copied()).collect();
            let subsets = 0..1_u32 << left.len();
            let sum = |set: u32| -> i64 {
                (0..).zip(&left).filter(|(at, _)| set >> at & 1 == 1).map(|(_, units)| units).sum()
            };
            let fits = |set: &u32| set.count_ones() as usize <= parts_max;
            let best = subsets.clone().filter(fits).map(sum).max().unwrap_or(0);
            assert_eq!(most_of(&pairs, parts_max), best, "{left:?} {parts_max}");
            if best < want {
                continue;
            }
            let enough = subsets.filter(fits).filter(|set| sum(*set) >= want);
            let fewest = enough.map(u32::count_ones).min().unwrap_or(0);
            for sourcing in [Sourcing::First, Sourcing::MostStock, Sourcing::FewestSplits] {
                let parts = choose(pairs.clone(), want, sourcing, parts_max);
                let total: i64 = parts.iter().map(|part| i64::from(part.1)).sum();
                assert_eq!(total, want, "{left:?} {sourcing:?} {parts:?}");
                assert!(parts.len() <= parts_max, "{left:?} {sourcing:?} {parts:?}");
                let has = |part: &(u32, u32)| i64::from(part.1) <= left[part.0 as usize];
                assert!(parts.iter().all(has), "{left:?} {sourcing:?} {parts:?}");
                if sourcing != Sourcing::First {
                    assert_eq!(parts.len() as u32, fewest, "{left:?} {sourcing:?} {parts:?}");
                }
            }
        }
    }
}
