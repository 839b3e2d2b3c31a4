//! The checker that takes the server at its word: every answer names a log index, and must be what the
//! committed log says there.
//!
//! ```text
//! log      1 ── 2 ── 3 ── 4 ── 5 ── 6 ─▶      replayed once, through the engine and through the model
//!                    ▲         ▲
//!          write ────┘         │                an equal operation is in entry 3, with this very outcome
//!          read, unlogged refusal ──────┘       the state after entry 5 gives this very answer
//! ```
//!
//! What it asserts of each answered operation, with `r` the index of its answer and `known` the highest
//! index that anybody had been told before it was invoked:
//! - a write is in the log at `r` with this outcome, one place in the log for each such answer; and
//!   `r > known`: it was not even proposed before it was asked for;
//! - a NO_STOCK that is not in the log is what the state after `r` gives, also when all that is due by the
//!   clock of the reply has expired; `r ≥ known`;
//! - a read is what the state after `r` gives, and `r ≥ known` (a stale one: `r` is no older than its age).
//!
//! Of all others, and of the log: what is in it was sent by somebody, by whom it says, and not before it was sent; what
//! the client calls not executed is not in it; what is unknown is looked up and counted. The state itself
//! is checked at every prefix, see `replay.rs`; and each event that the log makes is there because somebody asked
//! for it, or because something has run out, see `stream/asked.rs`.
//!
//! Together this is linearizability with the log as the witness: the operations in the order of the log,
//! reads between the entries, give these answers, and the order agrees with real time. A server that
//! names a wrong index is caught by the answer or by real time. It all takes O(n log n).

use std::collections::BTreeMap;

use bytes::BytesMut;
use stockd::engine::EngineConfig;
use stockd_protocol::{Code, Op, Reader, take_outcome};

use crate::history::{Answer, Operation, Request, Verdict};
use crate::model::{Body, Expected, Model};
use crate::order::Order;
use crate::replay::{Entry, Logged, Replay, key_of};
use crate::report::{Report, Rule};
use crate::sku;
use crate::stream::Stream;

/// What a check must know besides log and history.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// The cluster's rules.
    pub engine: EngineConfig,
    /// Everything that any client sent is in the history, so that what else is in the log was invented.
    pub complete: bool,
    /// How many units of `invoked` and `completed` a millisecond has; then the age of stale reads is
    /// checked. `None` if they are event numbers, or clocks ran at different rates.
    pub ticks_per_ms: Option<u64>,
    /// The whole state is audited every so many entries; 0: only at the end.
    pub audit_entries: u64,
    /// What a client of the history calls itself in its hello, always; then what the log says of who asked
    /// is checked. `None` if it is not known.
    pub client_name: Option<fn(u32) -> String>,
}

impl Default for Options {
    fn default() -> Self {
        let engine = EngineConfig::default();
        let (ticks_per_ms, client_name) = (None, None);
        Self { engine, complete: true, ticks_per_ms, audit_entries: 4_096, client_name }
    }
}

/// Checks a history against the committed log, which must begin at the cluster's first entry.
pub fn check(log: &[Entry], history: &[Operation], options: &Options) -> Report {
    run(log, history, options, None).0
}

/// As [`check`]; gives the events that the log makes, to hold those against them that nodes tell. They are in memory.
pub fn check_with_stream(
    log: &[Entry],
    history: &[Operation],
    options: &Options,
) -> (Report, Stream) {
    let (report, stream) = run(log, history, options, Some(Stream::of_log()));
    (report, stream.unwrap_or_default())
}

fn run(
    log: &[Entry],
    history: &[Operation],
    options: &Options,
    stream: Option<Stream>,
) -> (Report, Option<Stream>) {
    let mut report = Report::default();
    report.count_history(history);
    if !check_form(log, history, &mut report) {
        return (report, stream);
    }
    let mut check = Check::new(history, options, report, stream);
    for entry in log {
        check.answers_before(entry.index);
        check.entry(entry);
    }
    check.finish(log)
}

/// Cheap things that everything else relies on.
fn check_form(log: &[Entry], history: &[Operation], report: &mut Report) -> bool {
    for pair in log.windows(2).filter(|pair| pair[0].index >= pair[1].index) {
        let text = format!("entry {} is followed by {}", pair[0].index, pair[1].index);
        report.break_rule(Rule::Form, pair[1].index, &[], text);
    }
    if log.first().is_some_and(|first| first.index == 0) {
        report.break_rule(Rule::Form, 0, &[], "index 0 holds no batch");
    }
    for (place, operation) in history.iter().enumerate() {
        if operation.invoked >= operation.completed {
            report.break_rule(Rule::Form, 0, &[place], "it returned before it was invoked");
        }
    }
    report.is_ok()
}

/// All operations that send the same bytes.
#[derive(Default)]
struct Senders {
    /// The earliest one that may have been executed.
    first: Option<usize>,
    /// One that cannot have been.
    excluded: Option<usize>,
    /// Their clients, each once.
    clients: Vec<u32>,
    /// How many there are.
    count: u64,
    /// How often they are in the log.
    seen: u64,
    effects: u64,
}

struct Check<'a> {
    history: &'a [Operation],
    options: &'a Options,
    order: Order,
    keys: Vec<Vec<u8>>,
    senders: BTreeMap<Vec<u8>, Senders>,
    /// Answered operations by the index that they name.
    answers: Vec<(u64, usize)>,
    /// How many of them were looked at.
    next: usize,
    replay: Replay,
    entries: u64,
    report: Report,
}

impl<'a> Check<'a> {
    fn new(
        history: &'a [Operation],
        options: &'a Options,
        report: Report,
        stream: Option<Stream>,
    ) -> Self {
        let mut answers: Vec<_> = history
            .iter()
            .enumerate()
            .filter_map(|(place, operation)| Some((operation.verdict.answer()?.index, place)))
            .collect();
        answers.sort_unstable();
        let keys: Vec<_> = history.iter().map(key).collect();
        let mut senders: BTreeMap<Vec<u8>, Senders> = BTreeMap::new();
        for (place, operation) in history.iter().enumerate() {
            if !operation.request.is_write() {
                continue;
            }
            let senders = senders.entry(keys[place].clone()).or_default();
            senders.count += 1;
            if !senders.clients.contains(&operation.client) {
                senders.clients.push(operation.client);
            }
            if operation.verdict == Verdict::NotExecuted {
                senders.excluded = Some(place);
            } else if senders.first.is_none_or(|at| operation.invoked < history[at].invoked) {
                senders.first = Some(place);
            }
        }
        Self {
            history,
            options,
            order: Order::of(history),
            keys,
            senders,
            answers,
            next: 0,
            replay: Replay::new(options.engine, stream),
            entries: 0,
            report,
        }
    }

    /// The answers that name an index before `index`: there is no batch there, so they must be true of
    /// the present state.
    fn answers_before(&mut self, index: u64) {
        while let Some((at, place)) = self.answers.get(self.next).copied() {
            if at >= index {
                return;
            }
            self.next += 1;
            self.unlogged(place, at);
        }
    }

    fn entry(&mut self, entry: &Entry) {
        let logged = self.replay.apply(entry, &mut self.report);
        for one in &logged {
            self.occurrence(one, entry.index);
        }
        self.entries += 1;
        self.report.add("log entries", 1);
        self.report.add("log operations", logged.len() as u64);
        let every = self.options.audit_entries;
        if every > 0 && self.entries.is_multiple_of(every) {
            self.replay.audit(entry.index, &mut self.report);
        }
        let first = self.next;
        while self.answers.get(self.next).is_some_and(|answer| answer.0 == entry.index) {
            self.next += 1;
        }
        if first == self.next {
            return;
        }
        let mut by_key: BTreeMap<&[u8], Vec<&Logged>> = BTreeMap::new();
        logged.iter().for_each(|one| by_key.entry(&one.key).or_default().push(one));
        for at in first..self.next {
            let place = self.answers[at].1;
            let same = by_key.get_mut(self.keys[place].as_slice());
            self.logged(place, entry.index, same);
        }
    }

    /// Somebody sent what is in the log: who it says, and before it got there.
    fn occurrence(&mut self, one: &Logged, index: u64) {
        let Some(senders) = self.senders.get_mut(&one.key) else {
            self.report.add("log operations of nobody in the history", 1);
            if self.options.complete {
                let text = format!("nobody sent {}", describe(&one.key));
                self.report.break_rule(Rule::Invention, index, &[], text);
            }
            return;
        };
        senders.seen += 1;
        senders.effects += u64::from(one.is_effect());
        if let Some(name) = self.options.client_name {
            let names = senders.clients.iter().map(|client| name(*client).into_bytes());
            if !names.clone().any(|name| name == one.principal) {
                let text = format!(
                    "{} is in the log as {:?}'s, it was sent by {:?}",
                    describe(&one.key),
                    String::from_utf8_lossy(&one.principal),
                    names
                        .map(|name| String::from_utf8_lossy(&name).into_owned())
                        .collect::<Vec<_>>()
                );
                self.report.break_rule(Rule::Principal, index, &[], text);
            }
            self.report
                .add("log operations of clients with a name", u64::from(!one.principal.is_empty()));
        }
        let in_time = |at: usize| self.order.known_before(self.history[at].invoked) < index;
        match (senders.first, senders.excluded) {
            (Some(first), _) if in_time(first) => (),
            (_, Some(excluded)) if in_time(excluded) => {
                let text = format!("{} is in the log: {}", describe(&one.key), one.code);
                self.report.break_rule(Rule::NotExecuted, index, &[excluded], text);
            }
            (first, excluded) => {
                let place = first.or(excluded).expect("a sender is one or the other");
                let known = self.order.known_before(self.history[place].invoked);
                let text = format!(
                    "{} is in the log before it was invoked, when index {known} had been told",
                    describe(&one.key)
                );
                self.report.break_rule(Rule::RealTime, index, &[place], text);
            }
        }
    }

    /// An answer that names an index with a batch.
    fn logged(&mut self, place: usize, index: u64, same: Option<&mut Vec<&Logged>>) {
        let operation = &self.history[place];
        if !operation.request.is_write() {
            return self.unlogged(place, index);
        }
        let answer = operation.verdict.answer().expect("only answers are looked at");
        let Some(same) = same else { return self.unlogged(place, index) };
        let found = same.iter().position(|one| one.may_answer(answer));
        let now = self.replay.model.now_micros() / 1_000;
        let is_then = answer.server_now.0 == 0 || answer.server_now.0 == now;
        let Some(found) = found.filter(|_| is_then) else {
            // The same request may have been refused in the log once, and another time without it.
            if answer.code == Code::NO_STOCK {
                return self.unlogged(place, index);
            }
            let have: Vec<_> = same.iter().map(|one| (one.code, one.detail, &one.body)).collect();
            let text = format!("answered {answer:?}, the log has {have:?} at {now}");
            return self.report.break_rule(Rule::Truth, index, &[place], text);
        };
        let one = same.swap_remove(found);
        let what = match one.code == answer.code {
            true => "answers found in the log",
            false => "answers from an archive",
        };
        self.report.add(what, 1);
        let known = self.order.known_before(operation.invoked);
        if index <= known {
            let text = format!("index {known} had been told before it was invoked");
            self.report.break_rule(Rule::RealTime, index, &[place], text);
        }
    }

    /// An answer that must be true of the present state.
    fn unlogged(&mut self, place: usize, index: u64) {
        let operation = &self.history[place];
        let answer = operation.verdict.answer().expect("only answers are looked at");
        if operation.request.is_write() {
            match operation.request.lines() {
                Some((lines, commit)) if answer.code == Code::NO_STOCK => {
                    self.report.add("refusals without the log", 1);
                    let short = self.is_short(&lines, commit, answer);
                    let truth = short.and(self.is_not_granted(place));
                    if let Err(text) = truth {
                        self.report.break_rule(Rule::Truth, index, &[place], text);
                    }
                }
                _ => {
                    let request = &operation.request;
                    let text = format!("answered {answer:?}, the log has no {request:?} there");
                    self.report.break_rule(Rule::Durability, index, &[place], text);
                    return;
                }
            }
        } else {
            self.report.add("reads compared", 1);
            let read = self.replay.read(&operation.request);
            let truth = read.as_deref().and_then(|out| take_outcome(&mut Reader::new(out)).ok());
            let mut is_true = truth.is_some_and(|truth| {
                (truth.code, truth.detail) == (answer.code, answer.detail)
                    && same_body(&operation.request, truth.body, &answer.body)
            });
            let model = &mut self.replay.model;
            let body = Body::Exact(answer.body.clone());
            let answered = Expected { code: answer.code, detail: answer.detail, body };
            if let Some(expected) = read_model(model, &operation.request) {
                is_true &= expected == answered;
            }
            if !is_true && let Some(id) = id_read(&operation.request) {
                let archived = model.read_archived(&id, |model| {
                    read_model(model, &operation.request).expect("reads of ids are in the model")
                });
                is_true = archived == Some(answered);
                self.report.add("reads from an archive", u64::from(is_true));
            }
            if let Request::ReadSku { sku, after, .. } = &operation.request
                && let Err(text) =
                    sku::check(&self.replay.model, sku, after.map(|cell| cell.0), answer)
            {
                self.report.break_rule(Rule::Truth, index, &[place], text);
            }
            if !is_true {
                let text =
                    format!("{:?} answered {answer:?}, true is {truth:?}", operation.request);
                self.report.break_rule(Rule::Truth, index, &[place], text);
            }
        }
        self.check_fresh(place, index);
    }

    /// Real time for what is not in the log.
    fn check_fresh(&mut self, place: usize, index: u64) {
        let operation = &self.history[place];
        let age_ms = operation.verdict.answer().map_or(0, |answer| answer.age_ms);
        let (rule, since) = match (operation.request.is_stale(), self.options.ticks_per_ms) {
            (false, _) => (Rule::RealTime, operation.invoked),
            (true, Some(ticks)) if age_ms != u32::MAX => {
                let age = u64::from(age_ms) * ticks;
                (Rule::StaleAge, operation.invoked.saturating_sub(age))
            }
            (true, _) => return,
        };
        let known = self.order.known_before(since);
        if index < known {
            let text = format!("it must see index {known}, which had been told");
            self.report.break_rule(rule, index, &[place], text);
        }
    }

    /// A reserve of these lines is refused now, whatever is reclaimed.
    fn is_short(
        &self,
        lines: &[(crate::history::Cell, u32)],
        commit: bool,
        answer: &Answer,
    ) -> Result<(), String> {
        let now = answer.server_now.0.saturating_mul(1_000);
        let truth = self.replay.model.shorts_at(lines, commit, now);
        match truth {
            Some(shorts) if shorts == answer.body && !shorts.is_empty() => Ok(()),
            truth => Err(format!("refused with {:?}, true is {truth:?}", answer.body)),
        }
    }

    /// A call that was granted is not refused without the log: what it sends again, it marks.
    fn is_not_granted(&self, place: usize) -> Result<(), String> {
        let senders = self.senders.get(&self.keys[place]);
        match senders.filter(|senders| senders.count == 1 && senders.effects > 0) {
            Some(_) => Err("refused, but an earlier attempt was granted".to_owned()),
            None => Ok(()),
        }
    }

    fn finish(mut self, log: &[Entry]) -> (Report, Option<Stream>) {
        self.answers_before(u64::MAX);
        let last = log.last().map_or(0, |last| last.index);
        let Self { mut replay, mut report, history, senders, keys, .. } = self;
        replay.finish(last, &mut report);
        for (operation, key) in history.iter().zip(&keys) {
            if operation.verdict == Verdict::Unknown && operation.request.is_write() {
                let effects = senders.get(key).map_or(0, |senders| senders.effects);
                let what = match effects {
                    0 => "unknown that took no effect",
                    _ => "unknown that took effect",
                };
                report.add(what, 1);
            }
        }
        let again = senders.values().map(|senders| senders.seen.saturating_sub(1)).sum();
        report.add("log operations sent again", again);
        report.add("cells", replay.model.names().len() as u64);
        report.add("reservations expired", replay.model.expired());
        let stats = replay.engine.stats();
        report.add("reservations active at the end", stats.active);
        report.add("reservations confirmed", stats.confirmed);
        (report, replay.stream)
    }
}

fn key(operation: &Operation) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    operation.request.encode(&mut bytes, operation.not_after);
    key_of(&bytes)
}

fn describe(key: &[u8]) -> String {
    format!("{:?}", Request::decode(key).map(|decoded| decoded.0))
}

/// The reservation or the transfer that is read.
fn id_read(request: &Request) -> Option<[u8; 16]> {
    match request {
        Request::Other(sent) if let Op::ReadTransfer { transfer } = sent.op().0 => Some(transfer.0),
        _ => request.reservation().map(|id| id.0),
    }
}

/// What the naive model says, of what it knows.
fn read_model(model: &mut Model, request: &Request) -> Option<Expected> {
    match request {
        Request::ReadReservation { id, .. } => Some(model.read_reservation(id.0)),
        Request::Other(sent) => match sent.op().0 {
            Op::ReadLines { id } => Some(model.read_lines(id.0)),
            Op::ReadOwner { owner } => Some(model.read_owner(owner)),
            Op::ReadTransfer { transfer } => Some(model.read_transfer(transfer)),
            Op::ReadCatalogue { sku } => Some(model.read_catalogue(sku)),
            _ => None,
        },
        _ => None,
    }
}

/// The client forgets which handle was asked for where there is no cell.
fn same_body(request: &Request, truth: &[u8], answer: &[u8]) -> bool {
    const CELL_BYTES: usize = 40;
    if !matches!(request, Request::ReadCells { .. }) || truth.len() != answer.len() {
        return truth == answer;
    }
    truth.chunks(CELL_BYTES).zip(answer.chunks(CELL_BYTES)).all(|(truth, answer)| {
        let missing = truth.get(4..8) == Some(&[0; 4]);
        if missing { truth[4..] == answer[4..] } else { truth == answer }
    })
}
