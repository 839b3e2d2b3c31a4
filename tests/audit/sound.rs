//! What is in order, also after a crash.

use stockd::events::{Checks, EventDir};

use super::forge::{Part, rewritten};
use super::node::{life, live};
use super::{disk_of, first_of, records, segments, snapshot, sound};
use stockd::events::Position;

#[test]
fn a_life_is_in_order_and_the_verdict_says_what_it_was() {
    let life = life();
    let report = sound(&life.files, "as the node left it");
    let events = records(&life.files).len() as u64;
    assert!(report.events >= events && report.records == events);
    assert_eq!(report.first, 1);
    let end = report.end.unwrap();
    assert_eq!(report.derived, end.next - life.next, "all after the snapshot come from the log");
    assert_eq!((report.compared, report.cells), (3, 3));
    let verdict = report.verdict();
    let last = end.next - 1;
    assert!(verdict.starts_with(&format!("AUDIT OK: {last} events 1..{last}, ")), "{verdict}");
    // 24 receipts of 10, 24 sales of 2; what was not released of 3 in every second round.
    let units = "3 cells, on_hand 240 reserved 36 committed 48, log applied to index ";
    assert!(verdict.contains(units), "{verdict}");
    assert_eq!(report.notes, Vec::<String>::new());
}

#[test]
fn without_a_snapshot_the_log_is_applied_from_its_beginning() {
    let files = live(false, None);
    assert!(!files.keys().any(|name| name.starts_with("snapshot-")));
    let report = sound(&files, "no snapshot");
    assert_eq!(report.derived, report.events);
    assert_eq!(report.compared, 3);
}

#[test]
fn events_may_lag_behind_the_log_but_not_behind_the_snapshot() {
    let life = life();
    let mut files = life.files.clone();
    let mut removed = 0;
    for name in segments(&life.files).into_iter().rev() {
        let first = first_of(&files[&name][64..]);
        if first < life.next {
            break;
        }
        files.remove(&name);
        removed += 1;
        let report = sound(&files, "the newest events are not written yet");
        assert!(report.notes[0].contains("the log makes"), "{:?}", report.notes);
    }
    assert!(removed > 1);
}

#[test]
fn a_torn_end_is_no_damage() {
    let life = life();
    let last = segments(&life.files).pop().unwrap();
    let bytes = life.files[&last].len();
    for cut in 1..bytes - 64 {
        let mut files = life.files.clone();
        files.get_mut(&last).unwrap().truncate(bytes - cut);
        sound(&files, &format!("{cut} bytes less"));
    }
    // A sector that was never written, at the end of a file that has its length.
    let mut files = life.files.clone();
    let from = (bytes - 1) / 512 * 512;
    files.get_mut(&last).unwrap()[from..].fill(0);
    let report = sound(&files, "the last sector was not written");
    assert!(report.notes[0].contains("were being written"), "{:?}", report.notes);
}

#[test]
fn old_events_may_be_gone() {
    let life = life();
    let names = segments(&life.files);
    let mut files = life.files.clone();
    for name in &names[..names.len() - 1] {
        files.remove(name);
        let report = sound(&files, "older events are gone");
        assert!(report.first > 1);
    }
}

#[test]
fn a_gap_where_a_snapshot_was_installed_is_told() {
    let life = life();
    let disk = disk_of(&life.files);
    let directory = EventDir::open(&disk).unwrap();
    let mut found = directory.records(Checks::Chain);
    let mut at = None;
    while let Some(record) = found.next().unwrap() {
        if record.before.next == life.next {
            at = Some(record.before);
        }
    }
    let position = at.unwrap();
    let all = records(&life.files);
    let after = all.iter().position(|record| first_of(record) == life.next).unwrap();
    // The node was away for a while.
    let parts = [
        Part { start: Position::START, records: &all[..after / 2] },
        Part { start: position, records: &all[after..] },
    ];
    let files = rewritten(&life.files, &parts);
    let report = sound(&files, "a gap");
    assert!(report.notes[0].contains("are not here"), "{:?}", report.notes);
    // After the gap nothing is known until an event tells.
    assert_eq!(report.compared, 3);
    // Of the snapshot's own log nothing is here, so it may have come from another node.
    let mut lacking = rewritten(&life.files, &parts[..1]);
    let finding = super::failed(&lacking, "the node itself has made the snapshot");
    super::found_in(&finding, &snapshot(&lacking), "the newest are missing");
    lacking.retain(|name, _| !name.starts_with("segment-"));
    let report = sound(&lacking, "a snapshot of another node");
    assert!(report.notes[0].contains("a snapshot was installed"), "{:?}", report.notes);
}
