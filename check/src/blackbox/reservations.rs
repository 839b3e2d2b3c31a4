//! One reservation: the table of states of protocol.md, section 7, against what was told about it.

use std::collections::BTreeMap;

use stockd_protocol::{Code, Reader, ReservationId, ReservationState};

use super::beyond::Beyond;
use super::{Options, explain};
use crate::history::{Answer, Operation, Request, Verdict};
use crate::report::Report;
use crate::search::{Rank, Span, Spec};

/// What has become of an id.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    Unknown,
    /// With the latest deadline that was told, in ms; 0 if none was.
    Active(u64),
    Confirmed,
    Released,
    Expired,
    Fenced,
    /// A stock write uses the id.
    StockWrite,
}

impl State {
    /// As an answer's detail says it.
    const fn detail(self) -> u16 {
        match self {
            Self::Unknown | Self::StockWrite => 0,
            Self::Active(_) => ReservationState::Active as u16,
            Self::Confirmed => ReservationState::Confirmed as u16,
            Self::Released => ReservationState::Released as u16,
            Self::Expired => ReservationState::Expired as u16,
            Self::Fenced => ReservationState::Fenced as u16,
        }
    }

    const fn is_over(self) -> bool {
        matches!(self, Self::Released | Self::Expired | Self::Fenced | Self::StockWrite)
    }
}

enum Event<'a> {
    /// This was answered.
    Answered(&'a Request, &'a Answer),
    /// An attempt whose answer nobody saw.
    Attempt(&'a Request),
    /// The deadline and the grace have passed.
    Expire,
}

struct Reservation<'a> {
    id: ReservationId,
    options: &'a Options,
    events: Vec<Event<'a>>,
    /// More than one call reserves under this id, so that one may be taken for a first attempt and be
    /// refused without a look at the id (protocol.md, section 7).
    reserved_again: bool,
}

/// Checks every id.
pub(super) fn check(
    history: &[Operation],
    beyond: &Beyond,
    options: &Options,
    report: &mut Report,
) {
    let mut by_id: BTreeMap<[u8; 16], Vec<usize>> = BTreeMap::new();
    for (place, operation) in history.iter().enumerate() {
        let id = match &operation.request {
            Request::Receive { op_id, .. } => Some(op_id.0),
            request if request.is_stale() => None,
            // The witness compares it with the state.
            request @ Request::Other(_) if !request.is_write() => None,
            request => request.reservation().map(|id| id.0),
        };
        if let Some(id) = id {
            by_id.entry(id).or_default().push(place);
        }
    }
    let before = by_id.len();
    by_id.retain(|id, _| !beyond.ids.contains(id));
    report.add("ids left out", (before - by_id.len()) as u64);
    report.add("ids searched", by_id.len() as u64);
    for (id, places) in by_id {
        let id = ReservationId(id);
        let (spans, of, events) = events_of(history, &places, options);
        let reserves = |place: &&usize| matches!(history[**place].request, Request::Reserve { .. });
        let reserved_again = places.iter().filter(reserves).count() > 1;
        let reservation = Reservation { id, options, events, reserved_again };
        let spec = (&reservation, State::Unknown);
        explain(&format!("{id}"), (&spans, &of), spec, options, report);
    }
}

fn events_of<'a>(
    history: &'a [Operation],
    places: &[usize],
    options: &Options,
) -> (Vec<Span>, Vec<usize>, Vec<Event<'a>>) {
    let (mut spans, mut of, mut events) = (Vec::new(), Vec::new(), Vec::new());
    let mut due = None;
    for place in places {
        let Operation { invoked, completed, request, verdict, .. } = &history[*place];
        let span = Span {
            invoked: *invoked,
            completed: *completed,
            optional: false,
            now: None,
            not_before: 0,
            pure: false,
            rank: Rank::Unknown,
        };
        if let Verdict::Answered(answer) = verdict {
            let now = Some(answer.server_now.0).filter(|now| *now > 0);
            spans.push(Span { now, ..span });
            of.push(*place);
            events.push(Event::Answered(request, answer));
            if matches!(request, Request::Reserve { .. }) && answer.code == Code::OK {
                due = deadline(answer);
            }
        }
        let again = match verdict {
            Verdict::NotExecuted => false,
            Verdict::Unknown => request.is_write(),
            Verdict::Answered(answer) => {
                let first = answer.code.is_ok() && answer.code != Code::REPLAY;
                request.is_write()
                    && !first
                    && (answer.code == Code::REPLAY || options.late_attempts)
            }
        };
        if again {
            let rank = if *verdict == Verdict::Unknown { Rank::Unknown } else { Rank::Late };
            spans.push(Span { optional: true, rank, ..span });
            of.push(*place);
            events.push(Event::Attempt(request));
        }
    }
    // It may be due from the deadline that the grant told, but not if it was extended: the state knows.
    let not_before = due.map_or(0, |deadline| deadline + options.grace_rounded());
    let invoked = spans.iter().map(|span| span.invoked).min().unwrap_or(0);
    let completed = u64::MAX;
    let (now, rank) = (None, Rank::Expiry);
    spans.push(Span { invoked, completed, optional: true, now, not_before, pure: false, rank });
    of.push(places[0]);
    events.push(Event::Expire);
    (spans, of, events)
}

/// The deadline in the answer to a reserve or an extend.
fn deadline(answer: &Answer) -> Option<u64> {
    Reader::new(&answer.body).u64().ok()
}

impl Spec for Reservation<'_> {
    type State = State;

    fn step(&self, state: State, event: usize, _done: &[bool]) -> Option<State> {
        match self.events[event] {
            Event::Answered(request, answer) => self.answered(state, request, answer),
            Event::Attempt(request) => attempted(state, request),
            Event::Expire => matches!(state, State::Active(_)).then_some(State::Expired),
        }
    }
}

/// What an attempt does whose answer nobody saw; `None`: nothing.
fn attempted(state: State, request: &Request) -> Option<State> {
    match (request, state) {
        (Request::Reserve { .. }, State::Unknown) => Some(State::Active(0)),
        (Request::Receive { .. }, State::Unknown) => Some(State::StockWrite),
        (Request::Confirm { .. }, State::Active(_)) => Some(State::Confirmed),
        (Request::Release { .. }, State::Active(_)) => Some(State::Released),
        (Request::Release { .. }, State::Unknown) => Some(State::Fenced),
        _ => None,
    }
}

impl Reservation<'_> {
    /// The state after this answer, if it can be given in this state.
    fn answered(&self, state: State, request: &Request, answer: &Answer) -> Option<State> {
        let (code, detail) = (answer.code, answer.detail);
        let same = (detail == state.detail()).then_some(state);
        // What is over is forgotten, at the earliest a retention after the id was made.
        let forgotten = || {
            let known_till = self.id.millis() + self.options.retention_ms;
            let over = state.is_over() || matches!(state, State::Active(_));
            over && answer.server_now.0 >= known_till
        };
        let absent = || (state == State::Unknown || forgotten()).then_some(state);
        match code {
            Code::OK | Code::OK_LATE => self.done(state, request, answer),
            Code::REPLAY => match (request, state) {
                (Request::Receive { .. }, State::StockWrite) => Some(state),
                (Request::Receive { .. }, _) | (_, State::Unknown | State::StockWrite) => None,
                (Request::Confirm { .. }, State::Confirmed) => same,
                (Request::Confirm { .. }, _) => None,
                (Request::Release { .. }, State::Released | State::Fenced) => same,
                (Request::Release { .. }, _) => None,
                (Request::Reserve { .. }, State::Active(_)) => same.filter(|_| self.lives(answer)),
                _ => same,
            },
            Code::HOLD_EXPIRED => same.filter(|_| state == State::Expired),
            Code::HOLD_RELEASED => {
                same.filter(|_| matches!(state, State::Released | State::Fenced))
            }
            Code::HOLD_CONFIRMED => same.filter(|_| state == State::Confirmed),
            Code::MAX_LIFE => same.filter(|_| matches!(state, State::Active(_))),
            Code::ID_REUSED => same.filter(|_| state != State::Unknown),
            Code::NO_STOCK if self.reserved_again => Some(state),
            Code::NOT_FOUND
            | Code::NO_STOCK
            | Code::CLOCK_SKEW
            | Code::UNKNOWN_SKU
            | Code::UNKNOWN_WAREHOUSE
            | Code::NOT_STOCKED
            | Code::OVERFLOW => absent(),
            // Of an id that is too old, and of a request that is too late, this says nothing.
            _ => Some(state),
        }
    }

    fn done(&self, state: State, request: &Request, answer: &Answer) -> Option<State> {
        let told = || deadline(answer);
        let detail = answer.detail;
        let over = |wanted: State| (state == wanted).then_some(state);
        match (request, state) {
            (Request::Receive { .. }, State::Unknown) => Some(State::StockWrite),
            (Request::Reserve { .. }, State::Unknown) => Some(State::Active(told()?)),
            (Request::Confirm { .. }, State::Active(_)) => Some(State::Confirmed),
            (Request::Release { .. }, State::Active(_)) if detail == 3 => Some(State::Released),
            (Request::Release { .. }, State::Unknown) if detail == 5 => Some(State::Fenced),
            (Request::Release { .. }, State::Expired) if detail == 4 => over(State::Expired),
            // A deadline never moves back.
            (Request::Extend { .. }, State::Active(before)) => {
                told().filter(|deadline| *deadline >= before).map(State::Active)
            }
            (Request::ReadReservation { .. }, State::Unknown | State::StockWrite) => None,
            (Request::ReadReservation { .. }, _) => (state.detail() == detail).then_some(state),
            _ => None,
        }
    }

    /// What is told to be active is not due.
    fn lives(&self, answer: &Answer) -> bool {
        let due = deadline(answer).map(|deadline| deadline + self.options.grace_rounded());
        answer.server_now.0 == 0 || due.is_some_and(|due| answer.server_now.0 < due)
    }
}
