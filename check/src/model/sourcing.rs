//! RESERVE_FROM in the model: every way to split a line is tried, and the best one taken.

use std::collections::{BTreeMap, BTreeSet};

use stockd_protocol::{
    CellHandle, Code, LineMode, OwnerBound, ReservationState, ShortLine, Sourcing, TakenPart,
    Wishes,
};

use super::cell::Counters;
use super::holds::{Asked, Hold};
use super::owners::bound;
use super::{Body, Entry, Expected, Id, Model, bad_ttl, cell_of, in_time, le, plain};

/// What the lines of a RESERVE_FROM get.
struct Met {
    /// Each with the number of its line.
    parts: Vec<(u16, (u32, u32))>,
    /// The cells, once it is taken.
    after: Vec<Counters>,
    /// Some lines get less than they asked for.
    partial: bool,
}

impl Model {
    pub(super) fn reserve_from(
        &mut self,
        id: Id,
        ttl_ms: u32,
        wishes: Wishes<'_>,
        (commit, late): (bool, bool),
    ) -> Expected {
        let rules = wishes.rules();
        let mut sent = wishes.as_bytes().to_vec();
        sent.extend([rules.mode as u8, rules.sourcing as u8, rules.splits_max]);
        sent.push(u8::from(wishes.is_named()));
        sent.extend(rules.owner);
        let asked = Asked::From(sent);
        match self.entries.get(&id) {
            Some(Entry::Hold(known)) => {
                let detail = known.state() as u16;
                return match known.state() {
                    ReservationState::Fenced => plain(in_time(Code::HOLD_RELEASED, late), detail),
                    _ if known.asked == asked && known.ttl_ms == ttl_ms => {
                        self.sourced(Code::REPLAY, known)
                    }
                    _ => plain(in_time(Code::ID_REUSED, late), detail),
                };
            }
            Some(_) => return plain(in_time(Code::ID_REUSED, late), 0),
            None if late => return plain(Code::DEADLINE_PASSED, 0),
            None => {}
        }
        if let Err(code) = self.check_new(&id) {
            return plain(code, 0);
        }
        if bad_ttl(ttl_ms) {
            return plain(Code::TTL_RANGE, 0);
        }
        if !rules.owner.is_empty() {
            let units = wishes.iter().map(|wish| u64::from(wish.quantity)).sum();
            if let Err(refused) = self.check_owner(rules.owner, units, commit) {
                return refused;
            }
        }
        let named: Vec<Vec<Result<u32, Code>>> = wishes
            .iter()
            .map(|wish| wish.cells().map(|cell| self.resolve(&cell_of(cell))).collect())
            .collect();
        if let Some(refused) = unknown_lines(&named) {
            return refused;
        }
        let Met { parts, after, partial } = match self.meet(wishes, &named, commit, true) {
            Ok(met) => met,
            Err((_, capped)) => {
                return match self.meet(wishes, &named, commit, false) {
                    // There would be enough for somebody else.
                    Ok(_) => {
                        let lines = capped.iter().flat_map(|line| line.to_le_bytes()).collect();
                        bound(OwnerBound::Cell, lines)
                    }
                    Err((refused, _)) => refused,
                };
            }
        };
        let cells: Vec<u32> = parts.iter().map(|part| part.1.0).collect();
        if !self.stay_in_range(&cells, &after) {
            return plain(Code::OVERFLOW, 0);
        }
        let mut hold = self.grant(id, ttl_ms, asked, parts, commit);
        if !rules.owner.is_empty() {
            hold.owner = rules.owner.to_vec();
            self.store(id, Entry::Hold(hold.clone()));
        }
        self.sourced(if partial { Code::OK_PARTIAL } else { Code::OK }, &hold)
    }

    /// What the lines get, and from where; `capped`: of no cell more than its owner may have.
    ///
    /// # Errors
    /// Nothing: the refusal, and the lines that get less than they ask for.
    fn meet(
        &self,
        wishes: Wishes<'_>,
        named: &[Vec<Result<u32, Code>>],
        commit: bool,
        capped: bool,
    ) -> Result<Met, (Expected, BTreeSet<u16>)> {
        let rules = wishes.rules();
        let owned = !rules.owner.is_empty();
        let mut after = self.cells.clone();
        let mut taken: BTreeMap<u32, i64> = BTreeMap::new();
        let (mut parts, mut shorts, mut below) = (vec![], vec![], vec![]);
        let (mut closed, mut nameless): (Vec<u16>, Vec<u16>) = (vec![], vec![]);
        for ((line, wish), cells) in (0..).zip(wishes.iter()).zip(named) {
            let mut there: Vec<u32> = Vec::new();
            for cell in cells.iter().flatten() {
                if !there.contains(cell) {
                    there.push(*cell);
                }
            }
            let first = CellHandle(there[0]);
            let is_nameless = there.iter().any(|cell| !after[*cell as usize].is_closed(commit));
            there.retain(|cell| after[*cell as usize].is_open(commit, owned));
            let is_open = !there.is_empty();
            let left_in = |cell: u32, after: &[Counters]| {
                let there = after[cell as usize].grantable();
                let room = self.room(rules.owner, cell).filter(|_| capped);
                let taken = taken.get(&cell).copied().unwrap_or(0);
                room.map_or(there, |room| there.min(room - taken))
            };
            there.retain(|cell| left_in(*cell, &after) > 0);
            let left: Vec<i64> = there.iter().map(|cell| left_in(*cell, &after)).collect();
            let most = 1 + usize::from(rules.splits_max);
            let asked = i64::from(wish.quantity);
            let could = best(&left, most).min(asked);
            let gets = match rules.mode {
                LineMode::UpTo => could,
                _ if could < asked => 0,
                _ => asked,
            };
            let short = |asked: u32| ShortLine {
                line,
                cell: first,
                asked: u64::from(asked),
                available: could,
            };
            match is_open {
                false if is_nameless => nameless.push(line),
                false => closed.push(line),
                true if gets < asked => shorts.push(short(wish.quantity)),
                true => {}
            }
            if gets < i64::from(wish.min_quantity) {
                below.push(short(wish.min_quantity));
            }
            for (at, quantity) in split(&left, gets, rules.sourcing, most) {
                let cell = &mut after[there[at] as usize];
                *(if commit { &mut cell.committed } else { &mut cell.reserved }) += quantity;
                *taken.entry(there[at]).or_default() += quantity;
                parts.push((line, (there[at], quantity as u32)));
            }
        }
        let whole = rules.mode == LineMode::All;
        let short = shorts.iter().chain(&below).map(|short| short.line).collect();
        let bytes = |lines: &[u16]| lines.iter().flat_map(|line| line.to_le_bytes()).collect();
        let barred = whole || parts.is_empty() && shorts.is_empty();
        let refused = match () {
            () if barred && !closed.is_empty() => {
                let body = Body::Exact(bytes(&closed));
                Expected { code: Code::FROZEN, detail: closed[0], body }
            }
            () if barred && !nameless.is_empty() => bound(OwnerBound::Nameless, bytes(&nameless)),
            () if !below.is_empty() => listed(Code::MIN_QTY, &below),
            () if parts.is_empty() || whole && !shorts.is_empty() => {
                listed(Code::NO_STOCK, &shorts)
            }
            () => {
                let partial = !(shorts.is_empty() && closed.is_empty() && nameless.is_empty());
                return Ok(Met { parts, after, partial });
            }
        };
        Err((refused, short))
    }

    fn sourced(&self, code: Code, hold: &Hold) -> Expected {
        let mut body = le(&[hold.deadline + self.shift_ms]);
        body.extend((hold.lines.len() as u32).to_le_bytes());
        for (line, (cell, quantity)) in hold.numbers.iter().zip(&hold.lines) {
            let mut part = bytes::BytesMut::new();
            let (line, cell, quantity) = (*line, CellHandle(*cell), *quantity);
            TakenPart { line, cell, quantity }.encode(&mut part);
            body.extend_from_slice(&part);
        }
        Expected { code, detail: hold.state() as u16, body: Body::Exact(body) }
    }
}

/// Refuses lines none of whose cells is there.
fn unknown_lines(named: &[Vec<Result<u32, Code>>]) -> Option<Expected> {
    let fault = |line: &Vec<Result<u32, Code>>| match line.iter().any(Result::is_ok) {
        true => None,
        false => line[0].err(),
    };
    let mut faults = (0_u16..).zip(named).filter_map(|(at, line)| Some((at, fault(line)?)));
    let (first, code) = faults.clone().next()?;
    let mut body = Vec::new();
    faults
        .by_ref()
        .filter(|fault| fault.1 == code)
        .for_each(|(at, _)| body.extend(at.to_le_bytes()));
    Some(Expected { code, detail: first, body: Body::Exact(body) })
}

fn listed(code: Code, shorts: &[ShortLine]) -> Expected {
    let mut body = bytes::BytesMut::new();
    shorts.iter().for_each(|short| short.encode(&mut body));
    Expected { code, detail: 0, body: Body::Exact(body.to_vec()) }
}

/// All sets of 1 to `most` of so many places, each in ascending order.
fn sets(places: usize, most: usize) -> Vec<Vec<usize>> {
    let sets =
        (1..1_u64 << places).map(|bits| (0..places).filter(|at| bits >> at & 1 == 1).collect());
    sets.filter(|set: &Vec<usize>| set.len() <= most).collect()
}

fn best(left: &[i64], most: usize) -> i64 {
    let sum = |set: &Vec<usize>| set.iter().map(|place| left[*place]).sum();
    sets(left.len(), most).iter().map(sum).max().unwrap_or(0)
}

/// The places that give, and how much each.
fn split(left: &[i64], want: i64, sourcing: Sourcing, most: usize) -> Vec<(usize, i64)> {
    let mut order: Vec<usize> = (0..left.len()).collect();
    if sourcing == Sourcing::MostStock {
        order.sort_by_key(|place| std::cmp::Reverse(left[*place]));
    }
    // What a set gives, each place as much as it can; none gives nothing.
    let gives = |set: &Vec<usize>| {
        let mut rest = want;
        let mut parts = Vec::new();
        for at in set {
            let part = rest.min(left[order[*at]]);
            rest -= part;
            parts.push((*at, part));
        }
        (rest == 0 && parts.iter().all(|part| part.1 > 0)).then_some(parts)
    };
    let all: Vec<_> = sets(left.len(), most).iter().filter_map(gives).collect();
    let fewest = all.iter().map(Vec::len).min().unwrap_or(0);
    let fits =
        |parts: &&Vec<(usize, i64)>| sourcing != Sourcing::FewestSplits || parts.len() == fewest;
    // Of the sets that suffice, the one that begins with the earliest places wins.
    let first = all.iter().filter(fits).min();
    first.map_or(Vec::new(), |parts| parts.iter().map(|(at, part)| (order[*at], *part)).collect())
}
