//! One cell: its three counters, against everything that was told about them.
//!
//! What a reservation does to a cell is three events: granted, confirmed or released, expired. Which call
//! did it is known when a call was answered that it did; else it was done between the first call that may
//! have and the first answer that shows it done, or, if nothing shows it, perhaps.

use std::collections::{BTreeMap, BTreeSet};

use stockd_protocol::{CellCounters, CellHandle, Code, Reader, ReservationState, ShortLine};

use super::beyond::Beyond;
use super::{Options, explain};
use crate::history::{Answer, Cell, NEVER, Operation, Request, Verdict};
use crate::report::{Report, Rule};
use crate::search::{Rank, Span, Spec};

type Id = [u8; 16];

/// The counters of a cell.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
struct Counters {
    on_hand: i64,
    reserved: i64,
    committed: i64,
}

impl Counters {
    const fn available(&self) -> i64 {
        self.on_hand - self.reserved - self.committed
    }
}

/// A reservation's part in this cell.
#[derive(Clone, Copy, Default)]
struct Hold {
    quantity: i64,
    granted: Option<usize>,
    confirmed: Option<usize>,
    released: Option<usize>,
    expired: Option<usize>,
}

enum Event {
    /// Units were added; what the answer told.
    Receive(i64, Option<(i64, i64)>),
    /// Counters were told by a RECEIVE that had been executed before.
    Told(i64, i64),
    Grant(usize),
    Confirm(usize),
    Release(usize),
    Expire(usize),
    /// It was met when it was due: its units are given back by then.
    Ended(usize),
    /// Refused: so many were asked for, so many were available.
    Refused(i64, i64),
    /// Refused because of other cells: this one had as many.
    Enough(i64),
    Read(CellCounters),
}

#[derive(Default)]
struct CellHistory {
    holds: Vec<Hold>,
    by_id: BTreeMap<Id, usize>,
    events: Vec<Event>,
    spans: Vec<Span>,
    places: Vec<usize>,
}

/// What a history says about who did what to a reservation.
#[derive(Default)]
struct Traces {
    reserve: Trace,
    confirm: Trace,
    release: Trace,
    /// The call whose lines count: one that was granted, or else any that may have been.
    lines: Option<usize>,
    /// It is known that those are the lines.
    lines_told: bool,
    /// Calls with other lines, which may have been granted instead.
    others: Vec<usize>,
    /// It cannot have expired before this moment of the cluster's clock: every deadline that was told
    /// and the grace had passed, and every answer that shows it active was given.
    due: u64,
    /// It cannot have expired before this: an answer that shows it active was not asked for yet.
    active: u64,
    /// The answers that met it expired.
    ended: Vec<usize>,
}

/// One kind of effect on one id.
#[derive(Default)]
struct Trace {
    /// The call that was answered that it did it.
    did: Option<usize>,
    /// The earliest call that may have done it.
    from: Option<u64>,
    by: Option<usize>,
    /// The earliest answer that shows it done.
    shown: Option<u64>,
}

impl Trace {
    fn may(&mut self, place: usize, operation: &Operation) {
        if self.from.is_none_or(|from| operation.invoked < from) {
            (self.from, self.by) = (Some(operation.invoked), Some(place));
        }
    }

    fn shows(&mut self, operation: &Operation) {
        let shown = self.shown.unwrap_or(NEVER).min(operation.completed);
        self.shown = Some(shown);
    }

    /// The call and the span of the effect; `None` if there cannot be one.
    fn span(&self, history: &[Operation]) -> Option<(usize, Span)> {
        if let Some(place) = self.did {
            return Some((place, span(&history[place])));
        }
        let (invoked, place) = (self.from?, self.by?);
        let completed = self.shown.unwrap_or(NEVER);
        let optional = self.shown.is_none();
        let refused = history[place].verdict != Verdict::Unknown;
        let rank = if refused { Rank::Late } else { Rank::Unknown };
        let (now, not_before, pure) = (None, 0, false);
        Some((place, Span { invoked, completed, optional, now, not_before, pure, rank }))
    }
}

fn span(operation: &Operation) -> Span {
    let now = operation.verdict.answer().map(|answer| answer.server_now.0).filter(|now| *now > 0);
    let Operation { invoked, completed, .. } = *operation;
    let (optional, not_before, pure, rank) = (false, 0, false, Rank::Unknown);
    Span { invoked, completed, optional, now, not_before, pure, rank }
}

/// Checks every cell.
pub(super) fn check(
    history: &[Operation],
    beyond: &Beyond,
    options: &Options,
    report: &mut Report,
) {
    let names = Names::of(history);
    let mut cells: BTreeMap<Cell, CellHistory> = BTreeMap::new();
    let mut unclear = BTreeSet::new();
    for (id, traces) in traces(history, options, report) {
        add_reservation(history, &names, id, &traces, &mut cells);
        if !traces.lines_told && !traces.others.is_empty() {
            let calls = traces.others.iter().chain(&traces.lines);
            unclear.extend(calls.flat_map(|place| names.cells(&history[*place].request)));
        }
    }
    add_receives(history, &names, &mut cells);
    for (place, operation) in history.iter().enumerate() {
        add_told(&names, place, operation, &mut cells);
    }
    cells.retain(|name, _| !unclear.contains(name));
    let before = cells.len();
    let left_out: BTreeSet<Cell> = beyond.cells.iter().map(|cell| names.key(cell)).collect();
    cells.retain(|name, _| !left_out.contains(name));
    report.add("cells left out, more happens there", (before - cells.len()) as u64);
    report.add("cells searched", cells.len() as u64);
    report.add("cells left out, one id with several bodies", unclear.len() as u64);
    for (name, cell) in cells {
        report.add("events searched", cell.events.len() as u64);
        let spans = (cell.spans.as_slice(), cell.places.as_slice());
        let spec = (&cell, Counters::default());
        explain(&format!("{name:?}"), spans, spec, options, report);
    }
}

/// The handles of names, as far as answers told them.
struct Names(BTreeMap<Cell, CellHandle>);

impl Names {
    fn of(history: &[Operation]) -> Self {
        let mut names = BTreeMap::new();
        for operation in history {
            let Some(answer) = operation.verdict.answer().filter(|answer| answer.code.is_ok())
            else {
                continue;
            };
            let mut body = Reader::new(&answer.body);
            let mut learn = |cell: &Cell, handle: Option<u32>| {
                if let (Cell::Name(..), Some(handle)) = (cell, handle) {
                    names.insert(cell.clone(), CellHandle(handle));
                }
            };
            match &operation.request {
                Request::Define { cell } | Request::Receive { cell, .. } => {
                    learn(cell, body.u32().ok());
                }
                Request::Reserve { lines, .. } => {
                    let _deadline = body.u64();
                    lines.iter().for_each(|line| learn(&line.0, body.u32().ok()));
                }
                Request::ReadCells { cells, .. } => {
                    for (cell, (handle, counters)) in cells.iter().zip(read_cells(answer)) {
                        learn(cell, counters.map(|_| handle));
                    }
                }
                _ => (),
            }
        }
        Self(names)
    }

    fn key(&self, cell: &Cell) -> Cell {
        self.0.get(cell).map_or_else(|| cell.clone(), |handle| Cell::Handle(*handle))
    }

    /// The cells of a reserve.
    fn cells(&self, request: &Request) -> Vec<Cell> {
        match request {
            Request::Reserve { lines, .. } => self.demands(lines).into_keys().collect(),
            _ => Vec::new(),
        }
    }

    /// What a reserve asks of each cell.
    fn demands(&self, lines: &[(Cell, u32)]) -> BTreeMap<Cell, i64> {
        let mut demands = BTreeMap::new();
        for (cell, quantity) in lines {
            *demands.entry(self.key(cell)).or_default() += i64::from(*quantity);
        }
        demands
    }
}

fn read_cells(answer: &Answer) -> impl Iterator<Item = (u32, Option<CellCounters>)> + '_ {
    let mut body = Reader::new(&answer.body);
    std::iter::from_fn(move || {
        let (handle, found) = (body.u32().ok()?, body.u32().ok()?);
        let counters = CellCounters::take(&mut body).ok()?;
        Some((handle, (found == 1).then_some(counters)))
    })
}

/// Collects what is known about each reservation.
fn traces(history: &[Operation], options: &Options, report: &mut Report) -> BTreeMap<Id, Traces> {
    let mut all: BTreeMap<Id, Traces> = BTreeMap::new();
    for (place, operation) in history.iter().enumerate() {
        let Some(id) = operation.request.reservation() else { continue };
        let traces = all.entry(id.0).or_default();
        let again = match &operation.verdict {
            Verdict::NotExecuted => false,
            Verdict::Unknown => true,
            Verdict::Answered(answer) => answer.code == Code::REPLAY || options.late_attempts,
        };
        let trace = match &operation.request {
            Request::Reserve { .. } => Some(&mut traces.reserve),
            Request::Confirm { .. } => Some(&mut traces.confirm),
            Request::Release { .. } => Some(&mut traces.release),
            _ => None,
        };
        if let Some(trace) = trace.filter(|_| again) {
            trace.may(place, operation);
        }
        if matches!(operation.request, Request::Reserve { .. })
            && operation.verdict != Verdict::NotExecuted
        {
            let lines = *traces.lines.get_or_insert(place);
            if history[lines].request != operation.request && again {
                traces.others.push(place);
            }
        }
        if let Some(answer) = operation.verdict.answer() {
            traces.learn(place, operation, answer, options, report);
        }
    }
    all
}

impl Traces {
    fn learn(
        &mut self,
        place: usize,
        operation: &Operation,
        answer: &Answer,
        options: &Options,
        report: &mut Report,
    ) {
        let did = |trace: &mut Trace, report: &mut Report| {
            if let Some(before) = trace.did.replace(place) {
                let text = "two calls were answered that they did the same thing";
                report.break_rule(Rule::AtMostOnce, 0, &[before, place], text);
            }
            trace.shows(operation);
        };
        let first = matches!(answer.code, Code::OK | Code::OK_LATE);
        match &operation.request {
            Request::Reserve { .. } if first => {
                did(&mut self.reserve, report);
                (self.lines, self.lines_told) = (Some(place), true);
            }
            Request::Confirm { .. } if first => did(&mut self.confirm, report),
            Request::Release { .. } if first && answer.detail == 3 => {
                did(&mut self.release, report);
            }
            _ => (),
        }
        if operation.request.is_stale() {
            return;
        }
        let says_state = answer.code.is_ok()
            || matches!(
                answer.code,
                Code::HOLD_CONFIRMED
                    | Code::HOLD_EXPIRED
                    | Code::HOLD_RELEASED
                    | Code::ID_REUSED
                    | Code::MAX_LIFE
            );
        let Some(state) = ReservationState::from_detail(answer.detail).filter(|_| says_state)
        else {
            return;
        };
        if state != ReservationState::Fenced {
            self.reserve.shows(operation);
            if matches!(operation.request, Request::Reserve { .. }) && answer.code.is_ok() {
                (self.lines, self.lines_told) = (Some(place), true);
            }
        }
        match state {
            ReservationState::Active => {
                self.active = self.active.max(operation.invoked);
                self.due = self.due.max(answer.server_now.0);
                if matches!(operation.request, Request::Reserve { .. } | Request::Extend { .. }) {
                    let deadline = Reader::new(&answer.body).u64().unwrap_or(0);
                    self.due = self.due.max(deadline + options.grace_rounded());
                }
            }
            ReservationState::Confirmed => self.confirm.shows(operation),
            ReservationState::Released => self.release.shows(operation),
            ReservationState::Expired
                if !matches!(operation.request, Request::ReadReservation { .. }) =>
            {
                self.ended.push(place);
            }
            _ => (),
        }
    }
}

impl CellHistory {
    fn add(&mut self, place: usize, span: Span, event: Event) -> usize {
        self.events.push(event);
        self.spans.push(span);
        self.places.push(place);
        self.events.len() - 1
    }
}

/// Adds the events of a reservation to its cells.
fn add_reservation(
    history: &[Operation],
    names: &Names,
    id: Id,
    traces: &Traces,
    cells: &mut BTreeMap<Cell, CellHistory>,
) {
    let Some(asked) = traces.lines else { return };
    let Request::Reserve { lines, .. } = &history[asked].request else { return };
    let Some((by, granted)) = traces.reserve.span(history) else { return };
    for (key, quantity) in names.demands(lines) {
        let cell = cells.entry(key).or_default();
        let hold = cell.holds.len();
        cell.by_id.insert(id, hold);
        let mut new = Hold { quantity, ..Hold::default() };
        new.granted = Some(cell.add(by, granted, Event::Grant(hold)));
        new.confirmed = traces
            .confirm
            .span(history)
            .map(|(place, span)| cell.add(place, span, Event::Confirm(hold)));
        new.released = traces
            .release
            .span(history)
            .map(|(place, span)| cell.add(place, span, Event::Release(hold)));
        let is_over = traces.confirm.shown.is_some() || traces.release.shown.is_some();
        if !is_over {
            let expiry = Span {
                optional: true,
                completed: NEVER,
                now: None,
                not_before: traces.due,
                invoked: granted.invoked.max(traces.active),
                rank: Rank::Expiry,
                ..granted
            };
            new.expired = Some(cell.add(by, expiry, Event::Expire(hold)));
        }
        cell.holds.push(new);
        for place in &traces.ended {
            let met = Span { pure: true, ..span(&history[*place]) };
            cell.add(*place, met, Event::Ended(hold));
        }
    }
}

/// Adds the stock writes, each once.
fn add_receives(history: &[Operation], names: &Names, cells: &mut BTreeMap<Cell, CellHistory>) {
    let mut by_id: BTreeMap<Id, (Trace, usize)> = BTreeMap::new();
    for (place, operation) in history.iter().enumerate() {
        let Request::Receive { op_id, .. } = &operation.request else { continue };
        let (trace, asked) = by_id.entry(op_id.0).or_insert_with(|| (Trace::default(), place));
        match &operation.verdict {
            Verdict::NotExecuted => (),
            Verdict::Unknown => trace.may(place, operation),
            Verdict::Answered(answer) => match answer.code {
                Code::OK => (trace.did, *asked) = (Some(place), place),
                Code::REPLAY => {
                    trace.may(place, operation);
                    trace.shows(operation);
                    *asked = place;
                }
                _ => (),
            },
        }
    }
    for (trace, asked) in by_id.into_values() {
        let Request::Receive { quantity, cell, .. } = &history[asked].request else { continue };
        let Some((place, span)) = trace.span(history) else { continue };
        let told = trace.did.and_then(|place| told(history[place].verdict.answer()?));
        let event = Event::Receive(i64::from(*quantity), told);
        cells.entry(names.key(cell)).or_default().add(place, span, event);
    }
}

/// The counters that the answer to a RECEIVE tells.
fn told(answer: &Answer) -> Option<(i64, i64)> {
    let mut body = Reader::new(&answer.body);
    let _handle = body.u32().ok()?;
    Some((body.i64().ok()?, body.i64().ok()?))
}

/// Adds what an answer tells about cells without changing them.
fn add_told(
    names: &Names,
    place: usize,
    operation: &Operation,
    cells: &mut BTreeMap<Cell, CellHistory>,
) {
    let Some(answer) = operation.verdict.answer() else { return };
    let span = Span { pure: true, ..span(operation) };
    match &operation.request {
        Request::Receive { cell, .. } if answer.code == Code::REPLAY => {
            let Some((on_hand, available)) = told(answer) else { return };
            let cell = cells.entry(names.key(cell)).or_default();
            cell.add(place, span, Event::Told(on_hand, available));
        }
        Request::Reserve { lines, .. } if answer.code == Code::NO_STOCK => {
            let mut demands = names.demands(lines);
            let mut body = Reader::new(&answer.body);
            while let Ok(short) = ShortLine::take(&mut body) {
                let key = lines.get(usize::from(short.line)).map(|line| names.key(&line.0));
                let key = key.filter(|key| demands.remove(key).is_some());
                let key = key.unwrap_or(Cell::Handle(short.cell));
                let event = Event::Refused(short.asked as i64, short.available);
                cells.entry(key).or_default().add(place, span, event);
            }
            for (key, asked) in demands {
                cells.entry(key).or_default().add(place, span, Event::Enough(asked));
            }
        }
        Request::ReadCells { cells: asked, stale: false } if answer.code.is_ok() => {
            for (cell, (_, counters)) in asked.iter().zip(read_cells(answer)) {
                let counters = counters.unwrap_or_default();
                let cell = cells.entry(names.key(cell)).or_default();
                cell.add(place, span, Event::Read(counters));
            }
        }
        _ => (),
    }
}

impl CellHistory {
    /// Its units are held.
    fn is_active(&self, hold: usize, done: &[bool]) -> bool {
        let hold = &self.holds[hold];
        let is_done = |event: Option<usize>| event.is_some_and(|event| done[event]);
        is_done(hold.granted)
            && !is_done(hold.confirmed)
            && !is_done(hold.released)
            && !is_done(hold.expired)
    }
}

impl Spec for CellHistory {
    type State = Counters;

    fn step(&self, state: Counters, event: usize, done: &[bool]) -> Option<Counters> {
        let available = state.available();
        let is_active = |hold: usize| self.is_active(hold, done);
        match self.events[event] {
            Event::Receive(quantity, told) => {
                let after = Counters { on_hand: state.on_hand + quantity, ..state };
                let said = (after.on_hand, after.available());
                told.is_none_or(|told| told == said).then_some(after)
            }
            Event::Told(on_hand, shown) => {
                ((on_hand, shown) == (state.on_hand, available)).then_some(state)
            }
            Event::Grant(hold) => {
                let quantity = self.holds[hold].quantity;
                let after = Counters { reserved: state.reserved + quantity, ..state };
                (available >= quantity).then_some(after)
            }
            Event::Confirm(hold) => {
                let quantity = self.holds[hold].quantity;
                let reserved = state.reserved - quantity;
                let after = Counters { reserved, committed: state.committed + quantity, ..state };
                is_active(hold).then_some(after)
            }
            Event::Release(hold) | Event::Expire(hold) => {
                let reserved = state.reserved - self.holds[hold].quantity;
                is_active(hold).then_some(Counters { reserved, ..state })
            }
            Event::Ended(hold) => {
                let expired = self.holds[hold].expired;
                expired.is_some_and(|event| done[event]).then_some(state)
            }
            Event::Refused(asked, shown) => {
                (shown == available && available < asked).then_some(state)
            }
            Event::Enough(asked) => (available >= asked).then_some(state),
            Event::Read(counters) => {
                let shown = (counters.on_hand, counters.reserved, counters.committed);
                let same = shown == (state.on_hand, state.reserved, state.committed)
                    && counters.available == available;
                same.then_some(state)
            }
        }
    }
}
