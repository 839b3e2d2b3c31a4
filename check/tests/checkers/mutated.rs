//! Histories of a server that is right pass both checkers; the same with one thing changed do not.

use std::collections::BTreeMap;

use stockd_check::blackbox;
use stockd_check::{Answer, Entry, Operation, Options, Verdict, check, file};
use stockd_protocol::Code;

use crate::server::{CONFIG, Dice, Plan, Server, client_name};

const OPTIONS: Options = Options {
    engine: CONFIG,
    complete: true,
    ticks_per_ms: None,
    audit_entries: 50,
    client_name: Some(client_name),
};

const SMALL: Plan = Plan { clients: 6, operations: 400, cells: 3, losses: 25 };

fn black_box() -> blackbox::Options {
    let (grace_ms, retention_ms) = (CONFIG.grace_ms, CONFIG.retention_ms);
    // The generator's late arrivals are all of calls that ended without an answer.
    let late_attempts = false;
    blackbox::Options { grace_ms, retention_ms, late_attempts, ..blackbox::Options::default() }
}

#[test]
fn what_a_right_server_answers_passes() {
    let mut sums = stockd_check::Report::default();
    for seed in 0..30 {
        let (log, history) = Server::run(seed, SMALL);
        let report = check(&log, &history, &OPTIONS);
        assert!(report.is_ok(), "seed {seed}: {report}");
        sums.merge(report);
        let report = blackbox::check(&history, &black_box());
        assert!(report.is_ok(), "seed {seed}, black box: {report}");
        sums.merge(report);
    }
    println!("{sums}");
    // A generator that never gets there proves nothing.
    for (what, least) in [
        ("answers found in the log", 4_000),
        ("reads compared", 1_000),
        ("refusals without the log", 100),
        ("reservations expired", 300),
        ("log operations sent again", 100),
        ("log operations of clients with a name", 3_000),
        ("unknown that took effect", 20),
        ("unknown that took no effect", 20),
        ("writes: not executed", 50),
        ("writes: OK_LATE", 5),
        ("writes: REPLAY", 100),
        ("writes: NO_STOCK", 200),
    ] {
        assert!(sums.count(what) >= least, "only {} {what}", sums.count(what));
    }
}

/// `STOCKD_OPERATIONS=1000000 cargo test --release` shows that a million takes seconds.
#[test]
fn a_long_history_is_checked_in_passing() {
    let wanted = std::env::var("STOCKD_OPERATIONS").ok().and_then(|text| text.parse().ok());
    let operations = wanted.unwrap_or(20_000);
    let (log, history) = Server::run(1, Plan { clients: 16, operations, cells: 200, losses: 200 });
    let report = check(&log, &history, &Options { audit_entries: 65_536, ..OPTIONS });
    println!("{report}");
    assert!(report.is_ok(), "{report}");
    assert_eq!(report.count("operations"), operations as u64);
}

#[test]
fn a_history_comes_back_from_its_file() {
    let (_, history) = Server::run(1, SMALL);
    let mut text = Vec::new();
    file::save(&history, &mut text).unwrap();
    assert_eq!(file::load(text.as_slice()).unwrap(), history);
    let broken = String::from_utf8(text).unwrap().replacen(" answered ", " answer ", 1);
    assert!(matches!(file::load(broken.as_bytes()), Err(file::Error::Line(_))));
    assert!(matches!(file::load(b"1 2 3".as_slice()), Err(file::Error::Title)));
}

/// What may be changed in a history.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum Change {
    /// A byte of an answer's body.
    Body,
    /// An answer's code.
    Code,
    /// An entry of the log that acknowledged something is gone.
    Entry,
    /// An answer's index, by one.
    Index,
    /// What was acknowledged is told not to have been executed.
    NotExecuted,
    /// A read of counters shows one unit more or less.
    Unit,
}

const CHANGES: [Change; 6] =
    [Change::Body, Change::Code, Change::Entry, Change::Index, Change::NotExecuted, Change::Unit];

/// Changes one thing; says whether there was something to change.
fn mutate(
    change: Change,
    dice: &mut Dice,
    log: &mut Vec<Entry>,
    history: &mut [Operation],
) -> bool {
    let place = dice.below(history.len() as u64) as usize;
    let operation = &mut history[place];
    let is_write = operation.request.is_write();
    let Verdict::Answered(answer) = &mut operation.verdict else { return false };
    match change {
        Change::Body if answer.body.is_empty() => return false,
        Change::Body => {
            let at = dice.below(answer.body.len() as u64) as usize;
            answer.body[at] ^= 1 << dice.below(8);
        }
        Change::Code => {
            let codes = [Code::OK, Code::REPLAY, Code::NO_STOCK, Code::HOLD_EXPIRED];
            let code = dice.pick(&codes);
            if code == answer.code {
                return false;
            }
            answer.code = code;
        }
        Change::Entry => {
            let Some(at) = log.iter().position(|entry| entry.index == answer.index) else {
                return false;
            };
            // A NO_STOCK may be true without the log.
            if !is_write || !answer.code.is_ok() {
                return false;
            }
            log.remove(at);
        }
        Change::Index if dice.one_in(2) => answer.index += 1,
        Change::Index => answer.index -= 1,
        Change::NotExecuted if is_write && answer.code == Code::OK => {
            operation.verdict = Verdict::NotExecuted;
        }
        Change::NotExecuted => return false,
        Change::Unit => return change_unit(dice, is_write, answer),
    }
    true
}

/// The counters of a cell are four i64 behind handle and found: on_hand, and what a reserve could take,
/// which goes with it so that they still add up.
fn change_unit(dice: &mut Dice, is_write: bool, answer: &mut Answer) -> bool {
    if is_write || answer.body.len() != 80 {
        return false;
    }
    let more = if dice.one_in(2) { 1_i64 } else { -1 };
    for at in [8, 32] {
        let value = i64::from_le_bytes(answer.body[at..at + 8].try_into().unwrap());
        answer.body[at..at + 8].copy_from_slice(&(value + more).to_le_bytes());
    }
    true
}

#[test]
fn one_changed_answer_is_noticed() {
    let mut made: BTreeMap<Change, u64> = BTreeMap::new();
    let mut caught: BTreeMap<(Change, &str), u64> = BTreeMap::new();
    for seed in 0..40 {
        let (log, history) = Server::run(1_000 + seed, Plan { operations: 150, ..SMALL });
        let mut dice = Dice(seed);
        for change in CHANGES {
            let (mut log, mut history) = (log.clone(), history.clone());
            while !mutate(change, &mut dice, &mut log, &mut history) {}
            *made.entry(change).or_default() += 1;
            if !check(&log, &history, &OPTIONS).is_ok() {
                *caught.entry((change, "witness")).or_default() += 1;
            }
            if !blackbox::check(&history, &black_box()).is_ok() {
                *caught.entry((change, "black box")).or_default() += 1;
            }
        }
    }
    println!("made {made:?}\ncaught {caught:?}");
    let count = |change, by| caught.get(&(change, by)).copied().unwrap_or(0);
    for change in [Change::Body, Change::Code, Change::Entry, Change::NotExecuted, Change::Unit] {
        assert_eq!(count(change, "witness"), made[&change], "{change:?}, witness");
    }
    // A read between two entries that change nothing of it may name either.
    assert!(count(Change::Index, "witness") * 2 >= made[&Change::Index]);
    // It reads neither log nor index, and many a changed answer might have been given.
    assert_eq!(count(Change::Entry, "black box"), 0);
    assert_eq!(count(Change::Index, "black box"), 0);
    for change in [Change::Body, Change::Code, Change::NotExecuted, Change::Unit] {
        assert!(count(change, "black box") * 4 >= made[&change], "{change:?}, black box");
    }
}
