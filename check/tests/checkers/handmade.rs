//! Small histories made by hand, each wrong in one way that systems have been wrong in, and which of the
//! two checkers says so.

use bytes::BytesMut;
use stockd::engine::StockState;
use stockd::engine::batch::{BatchBuilder, PrincipalRuns};
use stockd::world::UnixMicros;
use stockd_check::{
    Answer, Cell, Entry, Operation, Options, Report, Request, Rule, Verdict, blackbox, check,
};
use stockd_protocol::{
    CellHandle, Code, OpId, Reader, ReservationId, ReservationState, UnixMillis, take_outcome,
};

use crate::server::{CONFIG, client_name};

const START_MS: u64 = 1_700_000_000_000;

/// One cell with ten units, and calls one after the other. Tests change what comes out.
pub struct Script {
    state: StockState,
    now_ms: u64,
    /// Who asks, as the log has it.
    principal: String,
    pub log: Vec<Entry>,
    pub history: Vec<Operation>,
}

/// Who asks, as the history has it.
const CLIENT: u32 = 1;

pub fn id(number: u8) -> ReservationId {
    ReservationId::from_parts(START_MS, [number; 10])
}

pub fn cell() -> Cell {
    Cell::name("w", "s")
}

pub fn reserve(number: u8, quantity: u32) -> Request {
    Request::Reserve { id: id(number), ttl_ms: 1_000, lines: vec![(cell(), quantity)] }
}

fn read() -> Request {
    Request::ReadCells { cells: vec![cell()], stale: false }
}

impl Script {
    pub fn new() -> Self {
        let mut script = Self {
            state: StockState::new(CONFIG),
            now_ms: START_MS,
            principal: client_name(CLIENT),
            log: Vec::new(),
            history: Vec::new(),
        };
        script.call(Request::Define { cell: cell() });
        let op_id = OpId(id(0).0);
        script.call(Request::Receive { op_id, quantity: 10, cell: cell(), define: true });
        script
    }

    /// Executes a call and gives its place; each begins when the one before has returned.
    pub fn call(&mut self, request: Request) -> usize {
        let (mut ops, mut out) = (BytesMut::new(), BytesMut::new());
        request.encode(&mut ops, None);
        if request.is_write() {
            let (mut entry, mut principals) = (BytesMut::new(), PrincipalRuns::default());
            principals.add(self.principal.as_bytes(), 1);
            let batch = BatchBuilder::begin_named(&mut entry, &principals);
            entry.extend_from_slice(&ops);
            batch.finish(&mut entry, UnixMicros(self.now_ms * 1_000), 1);
            let (index, batch) = (self.state.applied_index() + 1, entry.freeze());
            self.state.apply(index, &batch, Some(&mut out));
            self.log.push(Entry { index, batch });
        } else {
            match &request {
                Request::ReadReservation { id, .. } => self.state.read_reservation(*id, &mut out),
                _ => {
                    let (op, ..) = stockd_protocol::take_op(&mut Reader::new(&ops)).unwrap();
                    let stockd_protocol::Op::ReadCells { cells } = op else { unreachable!() };
                    self.state.cells().read_cells(&cells, &mut out);
                }
            }
        }
        let outcome = take_outcome(&mut Reader::new(&out)).unwrap();
        let answer = Answer {
            code: outcome.code,
            detail: outcome.detail,
            body: outcome.body.to_vec(),
            index: self.state.applied_index(),
            server_now: UnixMillis(self.now_ms),
            age_ms: 0,
        };
        let invoked = self.history.len() as u64 * 10 + 1;
        let (completed, not_after) = (invoked + 5, None);
        let verdict = Verdict::Answered(answer);
        let client = CLIENT;
        self.history.push(Operation { client, invoked, completed, request, not_after, verdict });
        self.history.len() - 1
    }

    fn answer(&mut self, place: usize) -> &mut Answer {
        match &mut self.history[place].verdict {
            Verdict::Answered(answer) => answer,
            _ => unreachable!("a script's calls are answered"),
        }
    }

    /// Moves on by so many ms.
    pub fn wait(&mut self, ms: u64) {
        self.now_ms += ms;
    }

    /// The entry that a call made is not in the log.
    fn forget(&mut self, place: usize) {
        let index = self.answer(place).index;
        self.log.retain(|entry| entry.index != index);
    }

    fn witness(&self) -> Report {
        let client_name: Option<fn(u32) -> String> = Some(client_name);
        let options = Options { engine: CONFIG, client_name, ..Options::default() };
        check(&self.log, &self.history, &options)
    }

    fn black_box(&self) -> Report {
        let (grace_ms, retention_ms) = (CONFIG.grace_ms, CONFIG.retention_ms);
        // Nothing is lost on the way.
        let late_attempts = false;
        let options = blackbox::Options {
            grace_ms,
            retention_ms,
            late_attempts,
            ..blackbox::Options::default()
        };
        blackbox::check(&self.history, &options)
    }

    /// Both checkers say it; the witness names one of these rules.
    fn assert_both(&self, rules: &[Rule]) {
        self.assert_witness(rules);
        let black_box = self.black_box();
        let broken = [Rule::Linearizable, Rule::AtMostOnce];
        assert!(broken.iter().any(|rule| black_box.breaks(*rule)), "{black_box}");
    }

    fn assert_witness(&self, rules: &[Rule]) {
        let witness = self.witness();
        assert!(rules.iter().any(|rule| witness.breaks(*rule)), "{rules:?}: {witness}");
    }
}

/// The counters of a read, so that they add up.
fn show(answer: &mut Answer, on_hand: i64, reserved: i64, committed: i64) {
    let available = on_hand - reserved - committed;
    let counters = [on_hand, reserved, committed, available];
    let bytes: Vec<u8> = counters.iter().flat_map(|count| count.to_le_bytes()).collect();
    answer.body[8..].copy_from_slice(&bytes);
}

#[test]
fn a_right_story_passes() {
    let mut script = Script::new();
    script.call(reserve(1, 4));
    script.call(reserve(2, 7));
    script.call(reserve(1, 4));
    script.call(Request::Confirm { id: id(1) });
    script.call(reserve(3, 6));
    script.wait(2_000);
    script.call(Request::Extend { id: id(3), ttl_ms: 1_000 });
    script.call(Request::Release { id: id(4) });
    script.call(reserve(4, 1));
    script.call(Request::ReadReservation { id: id(3), stale: false });
    script.call(read());
    for report in [script.witness(), script.black_box()] {
        assert!(report.is_ok(), "{report}");
    }
}

#[test]
fn a_stale_read() {
    let mut script = Script::new();
    let before = script.call(read());
    script.call(reserve(1, 4));
    let after = script.call(read());
    *script.answer(after) = script.answer(before).clone();
    script.assert_both(&[Rule::RealTime]);
    // The same state under a newer index is a lie instead.
    script.answer(after).index += 1;
    script.assert_both(&[Rule::Truth]);
}

#[test]
fn reads_that_go_backwards() {
    let mut script = Script::new();
    let first = script.call(reserve(1, 4));
    // Nobody knows when the reserve took effect: both readers ask while it is under way.
    script.history[first].completed = 1_000;
    let new = script.call(read());
    let old = script.call(read());
    show(script.answer(old), 10, 0, 0);
    script.answer(old).index -= 1;
    script.assert_both(&[Rule::RealTime]);
    // The other way round is right.
    show(script.answer(old), 10, 4, 0);
    script.answer(old).index += 1;
    show(script.answer(new), 10, 0, 0);
    script.answer(new).index -= 1;
    for report in [script.witness(), script.black_box()] {
        assert!(report.is_ok(), "{report}");
    }
}

#[test]
fn a_lost_acknowledged_write() {
    let mut script = Script::new();
    let lost = script.call(reserve(1, 4));
    script.forget(lost);
    script.assert_witness(&[Rule::Durability]);
    // Seen from outside: it was granted, and nobody finds it.
    let read = script.call(Request::ReadReservation { id: id(1), stale: false });
    let answer = script.answer(read);
    (answer.code, answer.detail, answer.body) = (Code::NOT_FOUND, 0, Vec::new());
    script.assert_both(&[Rule::Durability]);
}

#[test]
fn one_id_granted_twice() {
    let mut script = Script::new();
    let first = script.call(reserve(1, 4));
    let second = script.call(reserve(1, 4));
    let granted = script.answer(first).clone();
    let answer = script.answer(second);
    (answer.code, answer.detail) = (granted.code, granted.detail);
    script.assert_both(&[Rule::Truth]);
}

#[test]
fn an_id_replayed_to_another_body() {
    let mut script = Script::new();
    let first = script.call(reserve(1, 4));
    let second = script.call(reserve(1, 5));
    assert_eq!(script.answer(second).code, Code::ID_REUSED);
    let granted = script.answer(first).clone();
    let answer = script.answer(second);
    (answer.code, answer.body) = (Code::REPLAY, granted.body);
    script.assert_witness(&[Rule::Truth]);
}

#[test]
fn more_sold_than_there_is() {
    let mut script = Script::new();
    let first = script.call(reserve(1, 8));
    let second = script.call(reserve(2, 8));
    assert_eq!(script.answer(second).code, Code::NO_STOCK);
    let granted = script.answer(first).clone();
    let answer = script.answer(second);
    (answer.code, answer.detail, answer.body) = (granted.code, granted.detail, granted.body);
    script.assert_both(&[Rule::Truth]);
}

#[test]
fn refused_although_there_is_enough() {
    let mut script = Script::new();
    script.call(reserve(1, 8));
    let second = script.call(reserve(2, 8));
    let release = script.call(Request::Release { id: id(1) });
    script.forget(second);
    // It says so after the release had been answered, at that index, and not from the log.
    let index = script.answer(release).index;
    let later = script.history.remove(second);
    script.history.push(Operation { invoked: 100, completed: 105, ..later });
    let last = script.history.len() - 1;
    script.answer(last).index = index;
    script.assert_both(&[Rule::Truth]);
}

#[test]
fn an_effect_before_it_was_asked_for() {
    let mut script = Script::new();
    let early = script.call(reserve(1, 4));
    let seen = script.call(read());
    let operation = &mut script.history[early];
    (operation.invoked, operation.completed) = (100, 105);
    script.assert_both(&[Rule::RealTime]);
    // Not if the two overlap.
    let completed = script.history[seen].completed;
    script.history[early].invoked = completed - 1;
    for report in [script.witness(), script.black_box()] {
        assert!(report.is_ok(), "{report}");
    }
}

#[test]
fn what_was_not_executed_took_effect() {
    let mut script = Script::new();
    let refused = script.call(reserve(1, 4));
    script.history[refused].verdict = Verdict::NotExecuted;
    script.assert_witness(&[Rule::NotExecuted]);
    script.call(read());
    script.assert_both(&[Rule::NotExecuted]);
    script.history[refused].verdict = Verdict::Unknown;
    for report in [script.witness(), script.black_box()] {
        assert!(report.is_ok(), "{report}");
    }
}

#[test]
fn what_nobody_sent_is_in_the_log() {
    let mut script = Script::new();
    let sent = script.call(reserve(1, 4));
    script.history.remove(sent);
    script.assert_witness(&[Rule::Invention]);
    script.call(read());
    script.assert_both(&[Rule::Invention]);
}

#[test]
fn units_that_come_back_twice() {
    let mut script = Script::new();
    script.call(reserve(1, 4));
    script.wait(2_000);
    script.call(Request::Confirm { id: id(1) });
    let after = script.call(read());
    // Four units of ten were held, and eight came back.
    show(script.answer(after), 10, -4, 0);
    script.assert_both(&[Rule::Truth]);
    show(script.answer(after), 14, 0, 0);
    script.assert_both(&[Rule::Truth]);
}

#[test]
fn a_hold_that_expires_before_its_deadline() {
    let mut script = Script::new();
    script.call(reserve(1, 4));
    script.wait(1_000);
    let early = script.call(Request::ReadReservation { id: id(1), stale: false });
    assert_eq!(script.answer(early).detail, ReservationState::Active as u16);
    script.answer(early).detail = ReservationState::Expired as u16;
    script.assert_both(&[Rule::Truth]);
}

#[test]
fn an_expired_hold_that_is_confirmed() {
    let mut script = Script::new();
    script.call(reserve(1, 4));
    script.wait(2_000);
    script.call(Request::Extend { id: id(1), ttl_ms: 1_000 });
    let late = script.call(Request::Confirm { id: id(1) });
    let answer = script.answer(late);
    assert_eq!(answer.code, Code::HOLD_EXPIRED);
    (answer.code, answer.detail) = (Code::OK_LATE, ReservationState::Confirmed as u16);
    script.assert_both(&[Rule::Truth]);
}

#[test]
fn a_fence_that_is_lost() {
    let mut script = Script::new();
    script.call(Request::Release { id: id(1) });
    let fenced = script.call(reserve(1, 4));
    assert_eq!(script.answer(fenced).code, Code::HOLD_RELEASED);
    let granted = script.call(reserve(2, 4));
    let granted = script.answer(granted).clone();
    let answer = script.answer(fenced);
    (answer.code, answer.detail, answer.body) = (granted.code, granted.detail, granted.body);
    script.assert_both(&[Rule::Truth]);
}

#[test]
fn a_change_that_the_log_says_another_asked_for() {
    for other in ["", "somebody else"] {
        let mut script = Script::new();
        script.call(reserve(1, 4));
        assert!(script.witness().is_ok());
        script.principal = other.to_owned();
        script.call(Request::Confirm { id: id(1) });
        script.assert_witness(&[Rule::Principal]);
    }
}

#[test]
fn a_sweep_that_somebody_is_said_to_have_asked_for() {
    let mut script = Script::new();
    let (mut entry, mut principals) = (BytesMut::new(), PrincipalRuns::default());
    principals.add(client_name(CLIENT).as_bytes(), 1);
    let batch = BatchBuilder::begin_named(&mut entry, &principals);
    stockd::engine::batch::encode_tick(&mut entry);
    batch.finish(&mut entry, UnixMicros(script.now_ms * 1_000), 1);
    let index = script.state.applied_index() + 1;
    script.log.push(Entry { index, batch: entry.freeze() });
    script.assert_witness(&[Rule::Principal]);
}

#[test]
fn a_stale_read_older_than_it_says() {
    let mut script = Script::new();
    let before = script.call(read());
    script.call(reserve(1, 4));
    let after = script.call(read());
    let old = script.answer(before).clone();
    *script.answer(after) = Answer { age_ms: 1, ..old };
    let Request::ReadCells { stale, .. } = &mut script.history[after].request else { panic!() };
    *stale = true;
    let check = |script: &Script, ticks| {
        let options = Options { engine: CONFIG, ticks_per_ms: ticks, ..Options::default() };
        check(&script.log, &script.history, &options)
    };
    // One tick is a ms: what was told four ticks before must be seen. A thousandth of it: not.
    assert!(check(&script, Some(1)).breaks(Rule::StaleAge));
    assert!(check(&script, Some(1_000)).is_ok());
    assert!(check(&script, None).is_ok());
}

#[test]
fn an_answer_under_an_index_that_is_not_there() {
    let mut script = Script::new();
    let write = script.call(reserve(1, 4));
    script.answer(write).index += 7;
    script.assert_witness(&[Rule::Durability]);
    let mut script = Script::new();
    script.log[0].index = 2;
    script.assert_witness(&[Rule::Form]);
}

#[test]
fn handles_and_names_are_one_cell() {
    let mut script = Script::new();
    let lines = vec![(Cell::Handle(CellHandle(0)), 8)];
    script.call(Request::Reserve { id: id(1), ttl_ms: 1_000, lines });
    let second = script.call(reserve(2, 8));
    assert_eq!(script.answer(second).code, Code::NO_STOCK);
    for report in [script.witness(), script.black_box()] {
        assert!(report.is_ok(), "{report}");
    }
    script.answer(second).body[16..].copy_from_slice(&1_i64.to_le_bytes());
    script.assert_both(&[Rule::Truth]);
}
