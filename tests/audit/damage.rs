//! What is not in order: each kind of damage, in its file and at its place.

use super::forge::{ID_AT, changed, richer, with_record};
use super::node::life;
use super::{
    HEAD_BYTES, TRAILER_BYTES, failed, first_of, found_in, records, records_in, segments, snapshot,
};

/// The files with one of them changed.
fn with(name: &str, change: impl FnOnce(&mut Vec<u8>)) -> super::Files {
    let mut files = life().files.clone();
    change(files.get_mut(name).unwrap());
    files
}

#[test]
fn a_flipped_byte_anywhere_is_found_where_it_is() {
    let names = segments(&life().files);
    for (number, name) in names.iter().enumerate() {
        let content = &life().files[name];
        let places = records_in(content);
        let is_sealed = number + 1 < names.len();
        let records_end = places.last().unwrap().1;
        let ends = [0..HEAD_BYTES, content.len() - TRAILER_BYTES..content.len()];
        let ends = ends.into_iter().flatten().filter(|at| number < 2 || at.is_multiple_of(11));
        let some = (HEAD_BYTES..content.len()).step_by(17);
        for at in ends.chain(some).chain(records_end..records_end + 1) {
            if at >= content.len() {
                continue;
            }
            let finding = failed(&with(name, |file| file[at] ^= 0x10), &format!("{name} at {at}"));
            found_in(&finding, name, "");
            let offset = finding.offset.unwrap() as usize;
            if at < HEAD_BYTES {
                assert_eq!(offset, 0, "{name} at {at}: {finding}");
            } else if let Some((begin, end)) = places.iter().find(|(_, end)| at < *end) {
                // Of the last record of all, the log tells which byte it is.
                let expected = if !is_sealed && *end == records_end { at } else { *begin };
                assert_eq!(offset, expected, "{name} at {at}: {finding}");
            } else {
                assert!(is_sealed && offset >= records_end, "{name} at {at}: {finding}");
            }
        }
    }
}

#[test]
fn cells_that_a_damaged_segment_has_made_are_no_fault_of_later_events() {
    let mut files = life().files.clone();
    files.retain(|name, _| name.starts_with("events-") || name == "identity");
    let first = segments(&files)[0].clone();
    files.get_mut(&first).unwrap()[8] ^= 1;
    let report = super::audited(&files);
    let found: Vec<_> = report.findings.kept().iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].contains("written by another version"), "{found:?}");
}

#[test]
fn a_dropped_record_is_found() {
    let names = segments(&life().files);
    for name in &names {
        let places = records_in(&life().files[name]);
        let (begin, end) = places[places.len() / 2];
        if places.len() < 3 {
            continue;
        }
        let files = with(name, |file| drop(file.drain(begin..end)));
        let finding = failed(&files, "a record is gone");
        found_in(&finding, name, "should be here");
        assert_eq!(finding.offset, Some(begin as u64));
    }
}

#[test]
fn swapped_and_removed_segments_are_found() {
    let names = segments(&life().files);
    let (one, other) = (&names[1], &names[3]);
    let mut files = life().files.clone();
    files.insert(one.clone(), life().files[other].clone());
    files.insert(other.clone(), life().files[one].clone());
    let report = super::audited(&files);
    let found: Vec<_> = report.findings.kept().iter().map(|finding| &*finding.file).collect();
    assert!(found.iter().any(|file| file.ends_with(one.as_str())), "{found:?}");
    assert!(found.iter().any(|file| file.ends_with(other.as_str())), "{found:?}");
    for (name, next) in names[1..].iter().zip(&names[2..]) {
        let mut files = life().files.clone();
        files.remove(name);
        let finding = failed(&files, "a segment is gone");
        found_in(&finding, next, "should be here");
    }
}

#[test]
fn a_record_with_a_mended_checksum_breaks_the_chain() {
    let names = segments(&life().files);
    for name in &names[..names.len() - 1] {
        let (begin, end) = records_in(&life().files[name])[1];
        let files = with(name, |file| {
            let record = changed(&file[begin..end], ID_AT);
            file[begin..end].copy_from_slice(&record);
        });
        let finding = failed(&files, "an id is another");
        found_in(&finding, name, "");
        // The index tells in which block the chain parts, and the log which record it does not make.
        let report = super::audited(&files);
        let found = report.findings.kept().iter().filter(|finding| finding.file.ends_with(name));
        let places: Vec<_> = found.filter_map(|finding| finding.offset).collect();
        assert!(places.contains(&(HEAD_BYTES as u64)), "{places:?}");
        let is_made = first_of(&life().files[name][begin..end]) >= life().next;
        assert!(!is_made || places.contains(&(begin as u64)), "{places:?}");
    }
}

#[test]
fn a_history_that_was_written_anew_is_not_the_one_of_the_snapshot() {
    let all = records(&life().files);
    let files = with_record(&life().files, &all, 20, changed(&all[20], ID_AT));
    let finding = failed(&files, "the chain was mended to the end");
    let text = format!("before event {} the chain is", life().next);
    found_in(&finding, "", &text);
    assert!(finding.what.contains(&snapshot(&files)), "{finding}");
    let place = records_in(&files[finding.file.rsplit('/').next().unwrap()]);
    let offset = finding.offset.unwrap() as usize;
    assert!(offset == HEAD_BYTES || place.iter().any(|(_, end)| *end == offset), "{finding}");
}

#[test]
fn an_event_that_the_log_does_not_make_is_found() {
    let all = records(&life().files);
    let after = all.iter().position(|record| first_of(record) == life().next).unwrap();
    for at in [after, after + 7, all.len() - 1] {
        let files = with_record(&life().files, &all, at, changed(&all[at], ID_AT));
        let finding = failed(&files, "forged consistently");
        let name = finding.file.rsplit('/').next().unwrap();
        let offset = finding.offset.unwrap() as usize;
        let place = records_in(&files[name]).into_iter().find(|(begin, _)| *begin == offset);
        let (begin, end) = place.unwrap();
        assert_eq!(first_of(&files[name][begin..end]), first_of(&all[at]), "{finding}");
        found_in(&finding, name, "; the log makes ");
    }
    // One more, of an entry that makes another one.
    let mut more = all.clone();
    let mut extra = all[all.len() - 1].clone();
    let next = first_of(&extra) + u64::from(extra[36]);
    extra[8..16].copy_from_slice(&next.to_le_bytes());
    stockd::protocol::event::seal(&mut extra);
    more.push(extra);
    let start = stockd::events::Position::START;
    let parts = [super::forge::Part { start, records: &more }];
    let files = super::forge::rewritten(&life().files, &parts);
    let report = super::audited(&files);
    let is_found = |finding: &stockd::audit::Finding| finding.what.contains("makes no such event");
    assert!(report.findings.kept().iter().any(is_found), "{}", report.verdict());
}

#[test]
fn units_from_nowhere_are_found_wherever_they_are() {
    let all = records(&life().files);
    let is_receipt = |record: &Vec<u8>| record[40] == 2;
    let at = 10 + all[10..].iter().position(is_receipt).unwrap();
    // kind, shape, id, cell, flags, on_hand after: one byte each of numbers below 128
    let on_hand_at = ID_AT + 16 + 4 + 1;
    let files = with_record(&life().files, &all, at, changed(&all[at], on_hand_at));
    let report = super::audited(&files);
    let first = first_of(&all[at]);
    let text = format!("event {first} finds on_hand");
    let found = report.findings.kept().iter().any(|finding| finding.what.contains(&text));
    assert!(found, "{:?}", report.findings.kept());
}

#[test]
fn a_snapshot_with_another_counter_is_found() {
    let name = snapshot(&life().files);
    let files = with(&name, |file| *file = richer(file));
    let finding = failed(&files, "a unit more");
    found_in(&finding, &name, "cell 0 (BER mug): on_hand ");
    let at = life().files[&name].len() / 2;
    let finding = failed(&with(&name, |file| file[at] ^= 1), "a damaged snapshot");
    found_in(&finding, &name, "checksum");
    assert!(finding.offset.is_some());
}

#[test]
fn a_log_that_is_damaged_or_does_not_reach_back_is_found() {
    let mut files = life().files.clone();
    files.remove(&snapshot(&life().files));
    // The log of this life was never purged, so that it still begins at 1.
    assert!(super::audited(&files).is_ok());
    let log = files.keys().find(|name| name.starts_with("segment-")).unwrap().clone();
    let finding = failed(&with(&log, |file| file[9_000] ^= 1), "the log");
    found_in(&finding, &log, "");
    assert!(finding.offset.is_some(), "{finding}");
}

#[test]
fn what_is_no_directory_of_a_node_is_said() {
    let finding = failed(&super::Files::new(), "nothing");
    found_in(&finding, "identity", "is it a data directory?");
}
