//! A search for an order: Wing and Gong (1993), with Lowe's memo of what was tried (2017).
//!
//! An event that must have happened lies somewhere between its invocation and its completion; an
//! optional one happened after its invocation, or never. The search puts events in line one by one, each
//! one that no event still open must come before, as long as the specification allows; where it cannot go
//! on it takes the last one back. What was tried is remembered by the set of events in line and the state
//! they led to, so nothing is tried twice.
//!
//! Three things keep it short:
//! - **definite first, optional last**, and among the definite the one that returned first: that is
//!   nearly always how it was;
//! - an event that changes nothing and is true now is put in line at once, without an alternative: where
//!   it fits now, leaving it for later never helps;
//! - time on the cluster's clock: an expiry is only tried when every answer that is still open was given at
//!   or after the moment at which it was due.

use std::collections::BTreeSet;

/// When an event may have happened.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub invoked: u64,
    /// Means nothing for an optional event.
    pub completed: u64,
    pub optional: bool,
    /// The cluster's clock in the answer, in ms; `None` if it is not known.
    pub now: Option<u64>,
    /// Nothing that was answered before this moment of the cluster's clock comes after it.
    pub not_before: u64,
    /// Changes no state.
    pub pure: bool,
    /// Optional ones are tried in this order: the likely first.
    pub rank: Rank,
}

/// How likely an optional event is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Rank {
    /// It is due.
    Expiry,
    /// The call ended without an answer.
    Unknown,
    /// The call was refused; an earlier attempt of it would have to come late.
    Late,
}

/// What events do.
pub(crate) trait Spec {
    /// What the events in line led to.
    type State: Copy + Ord;

    /// The state after the event, or `None` if it cannot happen now. `done` are the events in line.
    fn step(&self, state: Self::State, event: usize, done: &[bool]) -> Option<Self::State>;
}

/// How a search ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Found {
    /// Too many steps: nothing is known. The events that were open where it went furthest.
    GaveUp(Vec<usize>),
    /// No order explains all; the events that were open where it went furthest.
    Impossible(Vec<usize>),
    /// There is an order.
    Order,
}

struct Frame<State> {
    state: State,
    taken: Option<usize>,
    /// What else may come next, the best last.
    choices: Vec<usize>,
}

struct Search<'a, S: Spec> {
    spans: &'a [Span],
    spec: &'a S,
    done: Vec<bool>,
    set: u128,
    definite_left: usize,
    by_invoked: Vec<usize>,
    by_completed: Vec<usize>,
    by_now: Vec<usize>,
    optional: Vec<usize>,
}

/// Looks for an order, for at most so many steps. Also says how many were made.
pub(crate) fn search<S: Spec>(
    spans: &[Span],
    spec: &S,
    first: S::State,
    steps_max: u64,
) -> (Found, u64) {
    let mut search = Search::new(spans, spec);
    let mut tried = BTreeSet::new();
    let mut furthest = (usize::MAX, Vec::new());
    let choices = search.choices(first);
    let mut stack = vec![Frame { state: first, taken: None, choices }];
    let mut steps = 0;
    loop {
        if search.definite_left == 0 {
            return (Found::Order, steps);
        }
        let top = stack.last_mut().expect("the first frame ends the loop when it is empty");
        let Some(event) = top.choices.pop() else {
            let frame = stack.pop().expect("it was there a moment ago");
            let Some(event) = frame.taken else {
                return (Found::Impossible(furthest.1), steps);
            };
            search.put(event, false);
            continue;
        };
        let Some(state) = spec.step(top.state, event, &search.done) else { continue };
        steps += 1;
        if steps > steps_max {
            return (Found::GaveUp(furthest.1), steps);
        }
        if spans[event].pure {
            top.choices.clear();
        }
        search.put(event, true);
        if !tried.insert((search.set, state)) {
            search.put(event, false);
            continue;
        }
        let choices = search.choices(state);
        if search.definite_left < furthest.0 {
            furthest = (search.definite_left, search.open());
        }
        stack.push(Frame { state, taken: Some(event), choices });
    }
}

impl<'a, S: Spec> Search<'a, S> {
    fn new(spans: &'a [Span], spec: &'a S) -> Self {
        let sorted = |optional: bool, key: &dyn Fn(&Span) -> (Rank, u64)| {
            let mut events: Vec<usize> =
                (0..spans.len()).filter(|event| spans[*event].optional == optional).collect();
            events.sort_by_key(|event| key(&spans[*event]));
            events
        };
        let first = Rank::Expiry;
        let by_invoked = sorted(false, &|span| (first, span.invoked));
        Self {
            spans,
            spec,
            done: vec![false; spans.len()],
            set: 0,
            definite_left: by_invoked.len(),
            by_completed: sorted(false, &|span| (first, span.completed)),
            by_now: sorted(false, &|span| (first, span.now.unwrap_or(u64::MAX))),
            by_invoked,
            optional: sorted(true, &|span| (span.rank, span.not_before)),
        }
    }

    fn put(&mut self, event: usize, done: bool) {
        self.done[event] = done;
        self.set ^= zobrist(event as u64);
        if !self.spans[event].optional {
            match done {
                true => self.definite_left -= 1,
                false => self.definite_left += 1,
            }
        }
    }

    /// The events that must come next, one of them first.
    fn open(&self) -> Vec<usize> {
        let open = || self.by_invoked.iter().copied().filter(|event| !self.done[*event]);
        let end = open().map(|event| self.spans[event].completed).min().unwrap_or(0);
        open().take_while(|event| self.spans[*event].invoked <= end).collect()
    }

    fn first_open(&self, events: &[usize]) -> Option<&'a Span> {
        events.iter().find(|event| !self.done[**event]).map(|event| &self.spans[*event])
    }

    /// What may come next: nothing that is open returned before it was invoked. The best last.
    fn choices(&self, state: S::State) -> Vec<usize> {
        let Some(first) = self.first_open(&self.by_completed) else { return Vec::new() };
        let end = first.completed;
        let clock = self.first_open(&self.by_now).and_then(|span| span.now).unwrap_or(u64::MAX);
        let open = |event: &usize| !self.done[*event];
        let may = |span: &Span| span.invoked <= end && span.not_before <= clock;
        let by_invoked = self.by_invoked.iter().copied();
        let mut definite: Vec<usize> =
            by_invoked.take_while(|event| self.spans[*event].invoked <= end).filter(open).collect();
        let fits = |event: &usize| self.spec.step(state, *event, &self.done).is_some();
        definite.retain(fits);
        if let Some(pure) = definite.iter().find(|event| self.spans[**event].pure) {
            return vec![*pure];
        }
        definite.sort_by_key(|event| std::cmp::Reverse(self.spans[*event].completed));
        let optional = self.optional.iter().rev().copied().filter(open);
        let optional = optional.filter(|event| may(&self.spans[*event])).filter(fits);
        optional.chain(definite).collect()
    }
}

/// 128 bits for an event, so that the xor of a set's events stands for the set: two sets among the
/// millions of a search agree by accident once in 10²⁵ searches.
fn zobrist(event: u64) -> u128 {
    u128::from(mix(event ^ 0x5eed)) << 64 | u128::from(mix(event.wrapping_add(0x1234_5678_9abc)))
}

/// SplitMix64's finalizer (Steele, Lea, Flood 2014).
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}
