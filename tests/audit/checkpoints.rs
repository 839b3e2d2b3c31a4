//! What CHECKPOINTs say is so, and where somebody made it otherwise is found at its place.

use std::ops::Range;

use sha2::{Digest, Sha256};
use stockd::audit::evidence::{Fault, Proof, verify, write};
use stockd::audit::{Checked, Finding};
use stockd::events::Position;
use stockd::protocol::Reader;
use stockd::protocol::event::{
    Anchor, CHECKPOINT_BYTES, Checkpoint, EventBody, EventRecord, Totals, seal,
};

use super::forge::{ID_AT, Part, changed, rewritten, richer, with_record};
use super::node::{Life, watched};
use super::{
    Files, audited, disk_of, failed, first_of, found_in, records, records_in, segments, snapshot,
    sound,
};

/// A CHECKPOINT that was found.
struct Told {
    /// Which record it is in.
    record: usize,
    /// Where in its bytes.
    body: Range<usize>,
    sequence: u64,
    totals: Totals,
    anchor: Anchor,
}

/// All of them.
fn told(records: &[Vec<u8>]) -> Vec<Told> {
    let mut all = Vec::new();
    for (record, bytes) in records.iter().enumerate() {
        let events = EventRecord::take(&mut Reader::new(bytes)).unwrap().events();
        for event in events.map(Result::unwrap) {
            let EventBody::Checkpoint(checkpoint) = event.body else { continue };
            let (totals, anchor) = (checkpoint.totals(), checkpoint.anchor());
            let body = Checkpoint::encode(&totals, &anchor);
            let begin = bytes.windows(CHECKPOINT_BYTES).position(|window| window == body).unwrap();
            let body = begin..begin + CHECKPOINT_BYTES;
            all.push(Told { record, body, sequence: event.sequence, totals, anchor });
        }
    }
    all
}

impl Told {
    /// Its record, if it said something else.
    fn saying(&self, records: &[Vec<u8>], totals: &Totals, anchor: &Anchor) -> Vec<u8> {
        let mut record = records[self.record].clone();
        record[self.body.clone()].copy_from_slice(&Checkpoint::encode(totals, anchor));
        seal(&mut record);
        record
    }
}

/// Events alone: neither a snapshot nor a log tells what they should be.
fn events_of(files: &Files) -> Files {
    let is_of = |name: &str| name.starts_with("events-") || name == "identity";
    files.clone().into_iter().filter(|(name, _)| is_of(name)).collect()
}

/// A record is found to be wrong, at its place; gives what is said of it.
fn found_at(files: &Files, record: &[u8]) -> Vec<Finding> {
    let is_it = |finding: &&Finding| {
        let file = &files[finding.file.rsplit('/').next().unwrap()];
        let offset = finding.offset.unwrap() as usize;
        file[offset..].starts_with(record)
    };
    let found: Vec<_> = audited(files).findings.kept().iter().filter(is_it).cloned().collect();
    assert!(!found.is_empty(), "nothing is found there");
    found
}

/// It is said of the record, and nothing is wrong with anything else.
fn only_found_at(files: &Files, record: &[u8], text: &str) {
    let found = found_at(files, record);
    assert_eq!(audited(files).findings.kept(), found);
    assert!(found.len() == 1 && found[0].what.contains(text), "not '{text}': {found:?}");
}

#[test]
fn what_a_leader_says_is_so_at_every_place() {
    let files = &watched().files;
    let all = records(files);
    let told = told(&all);
    assert!(told.len() > 100, "{}", told.len());
    let first = |at: &Told| first_of(&all[at.record]);
    assert!(told.iter().any(|at| at.sequence > first(at)), "some are behind events of their entry");
    assert!(told.iter().any(|at| at.anchor.next < first(at)), "some look back");
    let count = told.len() as u64;
    let checked = Checked { seen: count, compared: count, totals: count, chains: count };
    let report = sound(files, "as the node left it");
    assert_eq!(report.checkpoints, checked);
    assert!(
        report.verdict().contains(&format!(", {count} of {count} checkpoints compared, ")),
        "{}",
        report.verdict()
    );
    let report = sound(&events_of(files), "events alone");
    assert_eq!(report.checkpoints, checked);
    assert!(report.derived == 0, "nobody makes them");
}

#[test]
fn other_totals_are_found_at_their_place_and_once() {
    let files = events_of(&watched().files);
    let all = records(&files);
    let told = told(&all);
    // The last one, so that no later one tells of the chain.
    let last = told.last().unwrap();
    let mut forged = vec![Totals { cells: last.totals.cells + 1, ..last.totals }];
    forged.extend((0..9).map(|counter| {
        let mut totals = last.totals;
        totals.sums[counter] += 1;
        totals
    }));
    for (totals, name) in
        forged.iter().zip(["the number of cells", "on_hand", "reserved", "committed", "damaged"])
    {
        let record = last.saying(&all, totals, &last.anchor);
        let forged = with_record(&files, &all, last.record, record.clone());
        only_found_at(&forged, &record, &format!("event {} says that {name} is ", last.sequence));
    }
    // Events do not say how many reservations there are; the log does, where it is.
    let totals = Totals { active: 99, ..last.totals };
    let record = last.saying(&all, &totals, &last.anchor);
    sound(&with_record(&files, &all, last.record, record.clone()), "events alone");
    let forged = with_record(&watched().files, &all, last.record, record.clone());
    assert!(found_at(&forged, &record)[0].what.contains("the log makes"));
    // Sums that nothing can be added to.
    let early = &told[told.len() / 2];
    let totals = Totals { cells: u32::MAX, sums: [i128::MAX; 9], ..early.totals };
    let record = early.saying(&all, &totals, &early.anchor);
    let forged = with_record(&files, &all, early.record, record.clone());
    assert!(found_at(&forged, &record)[0].what.contains("add up to"));
}

#[test]
fn without_the_first_events_the_next_one_must_fit() {
    let mut files = events_of(&watched().files);
    let names = segments(&files);
    names[..names.len() / 2].iter().for_each(|name| drop(files.remove(name)));
    let all = records(&files);
    let told = told(&all);
    let checked = sound(&files, "older events are gone").checkpoints;
    assert_eq!((checked.seen, checked.totals), (told.len() as u64, told.len() as u64 - 1));
    let oldest = first_of(&all[0]);
    let looks_back = told.iter().filter(|told| told.anchor.next >= oldest).count();
    assert_eq!(checked.chains, looks_back as u64);
    // In place: what comes before is not here to be written anew.
    let name = segments(&files).pop().unwrap();
    let last = told.last().unwrap();
    let mut totals = last.totals;
    totals.sums[0] += 1;
    let record = last.saying(&all, &totals, &last.anchor);
    let (begin, end) = *records_in(&files[&name])
        .iter()
        .find(|(begin, _)| files[&name][*begin..].starts_with(&all[last.record]))
        .unwrap();
    files.get_mut(&name).unwrap()[begin..end].copy_from_slice(&record);
    only_found_at(&files, &record, "says that on_hand is ");
}

#[test]
fn another_chain_is_found_at_the_checkpoint_that_tells_it() {
    let files = events_of(&watched().files);
    let all = records(&files);
    let told = told(&all);
    let last = told.last().unwrap();
    let mut chain = last.anchor.chain;
    chain[31] ^= 1;
    let inside = all.iter().find(|record| record[36] > 1).map(|record| first_of(record) + 1);
    let forged = [
        (Anchor { chain, ..last.anchor }, "were changed, or are not those of the leader"),
        (Anchor { next: 1, ..last.anchor }, "before event 1 the chain was"),
        (Anchor { next: last.sequence + 1, ..last.anchor }, "a later one"),
        (Anchor { next: inside.unwrap(), ..last.anchor }, "inside the record of event "),
    ];
    for (anchor, text) in forged {
        let record = last.saying(&all, &last.totals, &anchor);
        only_found_at(&with_record(&files, &all, last.record, record.clone()), &record, text);
    }
    // A leader without events, and one whose events have just begun anew.
    for anchor in [Anchor::default(), Anchor { chain: [0; 32], ..last.anchor }] {
        let record = last.saying(&all, &last.totals, &anchor);
        let checked = sound(&with_record(&files, &all, last.record, record), "it says nothing");
        assert_eq!(checked.checkpoints.chains, told.len() as u64 - 1);
    }
}

#[test]
fn a_history_that_was_written_anew_is_not_the_one_of_the_leaders() {
    let files = events_of(&watched().files);
    let all = records(&files);
    let is_receipt = |record: &Vec<u8>| record[40] == 2;
    let at = 20 + all[20..].iter().position(is_receipt).unwrap();
    let forged = with_record(&files, &all, at, changed(&all[at], ID_AT));
    // The first of those that look back on it, and all after it.
    let after = first_of(&all[at]);
    let witnesses: Vec<_> =
        told(&all).into_iter().filter(|told| told.anchor.next > after).collect();
    let report = audited(&forged);
    assert_eq!(report.findings.count(), witnesses.len() as u64);
    let text = format!("event {} says that before event ", witnesses[0].sequence);
    assert!(report.findings.kept()[0].what.starts_with(&text), "{}", report.verdict());
    found_at(&forged, &all[witnesses[0].record]);
}

#[test]
fn what_is_behind_a_gap_is_judged_as_far_as_it_is_known() {
    let files = events_of(&watched().files);
    let all = records(&files);
    let mut positions = vec![Position::START];
    for record in &all {
        let mut position = positions[positions.len() - 1];
        let header = *EventRecord::take(&mut Reader::new(record)).unwrap().header();
        position.pass(record, header.next());
        positions.push(position);
    }
    let (from, to) = (all.len() / 3, all.len() / 2);
    let before = Part { start: Position::START, records: &all[..from] };
    let gap = [before, Part { start: positions[to], records: &all[to..] }];
    let checked = sound(&rewritten(&files, &gap), "a snapshot was installed").checkpoints;
    assert_eq!(checked.totals, checked.seen - 1);
    let lacking = positions[from].next..positions[to].next;
    let (early, late) = (told(&all[..from]), told(&all[to..]));
    let known = early.iter().chain(&late).filter(|told| !lacking.contains(&told.anchor.next));
    assert_eq!(checked.chains, known.count() as u64);
    // The snapshot was of a node without events: the chain behind it is no other node's.
    let unknown = Position::unknown(positions[to].next);
    let before = Part { start: Position::START, records: &all[..from] };
    let anew = [before, Part { start: unknown, records: &all[to..] }];
    let known = late.iter().filter(|told| told.anchor.next < lacking.start).chain(&early).count();
    let checked = sound(&rewritten(&files, &anew), "of a node without events").checkpoints;
    assert_eq!((checked.totals, checked.chains), (checked.seen - 1, known as u64));
}

#[test]
fn a_cell_of_the_snapshot_that_no_event_is_about_is_counted() {
    let Life { files, next } = watched();
    let mut files = files.clone();
    // What is left before the snapshot is of another cell.
    let begins = |name: &String| stockd::events::first_of(name).unwrap() < *next;
    let mut older: Vec<_> = segments(&files).into_iter().filter(begins).collect();
    older.pop().unwrap();
    older.iter().for_each(|name| drop(files.remove(name)));
    sound(&files, "older events are gone");
    let name = snapshot(&files);
    files.insert(name.clone(), richer(&files[&name]));
    found_in(&failed(&files, "a unit more"), &name, "on_hand is ");
}

/// Evidence of the whole life, in which the record is another one and everything after it fits.
fn evidence(all: &[Vec<u8>], at: usize, record: &[u8]) -> Result<Proof, Fault> {
    let last = first_of(&all[all.len() - 1]);
    let mut bytes = Vec::new();
    write(&disk_of(&watched().files), 1..=last, &mut bytes, &mut |_, _, _| ()).unwrap();
    bytes.truncate(bytes.len() - 32);
    let place = bytes.windows(record.len()).position(|window| window == all[at]).unwrap();
    bytes[place..place + record.len()].copy_from_slice(record);
    let mut after = Position::START;
    for (number, bytes) in all.iter().enumerate() {
        let record = if number == at { record } else { bytes };
        after.pass(record, after.next + u64::from(record[36]));
    }
    bytes[120..152].copy_from_slice(&after.chain);
    let digest = Sha256::digest(&bytes);
    bytes.extend_from_slice(&digest);
    let proof = verify(&mut &*bytes, &mut |_| ());
    if let Err(fault) = &proof {
        assert_eq!(fault.offset, place as u64, "{fault}");
    }
    proof
}

#[test]
fn evidence_with_checkpoints_must_fit_them() {
    let all = records(&watched().files);
    let told = told(&all);
    let (count, last) = (told.len() as u64, told.last().unwrap());
    let checked = Checked { seen: count, compared: count, totals: count, chains: count };
    let proof = evidence(&all, last.record, &all[last.record]).unwrap();
    assert_eq!(proof.checkpoints, checked);
    let mut totals = last.totals;
    totals.sums[1] += 1;
    let record = last.saying(&all, &totals, &last.anchor);
    let refused = evidence(&all, last.record, &record).unwrap_err();
    assert!(refused.what.contains("says that reserved is "), "{refused}");
    let anchor = Anchor { chain: [1; 32], ..last.anchor };
    let record = last.saying(&all, &last.totals, &anchor);
    let refused = evidence(&all, last.record, &record).unwrap_err();
    assert!(refused.what.contains("are not those of the leader"), "{refused}");
    // Of a part of it, what is said between two of them.
    let from = first_of(&all[told[9].record]);
    let mut bytes = Vec::new();
    write(&disk_of(&watched().files), from..=last.sequence, &mut bytes, &mut |_, _, _| ()).unwrap();
    let checked = verify(&mut &*bytes, &mut |_| ()).unwrap().checkpoints;
    assert_eq!((checked.seen, checked.totals), (count - 9, count - 10));
}
