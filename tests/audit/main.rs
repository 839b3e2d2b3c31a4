//! `stockd audit` on directories of a real node, and on what somebody may have made of them: each kind of damage is
//! found, in its file and at its place, and what a crash may leave is not taken for damage.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod checkpoints;
mod damage;
mod evidence;
mod forge;
mod node;
mod sound;

use std::collections::BTreeMap;

use stockd::audit::{Finding, Report, audit};
use stockd::log::{SimStorage, Storage};
use stockd::protocol::Reader;
use stockd::protocol::event::EventRecord;
use stockd::world::RealClock;

/// Bytes of a segment's head.
const HEAD_BYTES: usize = 64;
/// Bytes of the trailer of a segment that is sealed.
const TRAILER_BYTES: usize = 96;

/// A data directory: content by name.
type Files = BTreeMap<String, Vec<u8>>;

/// The files on a disk.
fn disk_of(files: &Files) -> SimStorage {
    let disk = SimStorage::new();
    for (name, content) in files {
        disk.create(name).unwrap().write_at(0, content).unwrap();
    }
    disk
}

/// What an audit of the files says. It changes nothing.
fn audited(files: &Files) -> Report {
    let disk = disk_of(files);
    let report = audit(&disk, &RealClock::new(), &mut |_, _, _| ());
    for entry in disk.list().unwrap() {
        let content = disk.read_small(&entry.name).unwrap().unwrap();
        assert!(files[&entry.name] == content, "{} was changed", entry.name);
    }
    assert_eq!(disk.list().unwrap().len(), files.len());
    report
}

/// It fails; gives what is found first.
fn failed(files: &Files, what: &str) -> Finding {
    let report = audited(files);
    assert!(!report.is_ok(), "{what}: {}", report.verdict());
    assert!(report.verdict().starts_with("AUDIT FAILED: "), "{what}");
    report.findings.kept()[0].clone()
}

/// It is found in a file, and a text is about it.
fn found_in(finding: &Finding, name: &str, text: &str) {
    let is_there = finding.file.ends_with(name) && finding.what.contains(text);
    assert!(is_there, "not in {name} with '{text}': {finding}");
}

/// All is right.
fn sound(files: &Files, what: &str) -> Report {
    let report = audited(files);
    assert!(report.is_ok(), "{what}: {}", report.verdict());
    report
}

/// The names of the files of events, the oldest first.
fn segments(files: &Files) -> Vec<String> {
    files.keys().filter(|name| name.starts_with("events-")).cloned().collect()
}

/// The name of the snapshot.
fn snapshot(files: &Files) -> String {
    files.keys().find(|name| name.starts_with("snapshot-")).unwrap().clone()
}

/// Where the records of a segment are: begin and end of each.
fn records_in(segment: &[u8]) -> Vec<(usize, usize)> {
    let mut places = Vec::new();
    let mut reader = Reader::new(&segment[HEAD_BYTES..]);
    while EventRecord::take(&mut reader).is_ok() {
        let end = segment.len() - reader.rest().len();
        let begin = places.last().map_or(HEAD_BYTES, |(_, end)| *end);
        places.push((begin, end));
    }
    places
}

/// All records, in order.
fn records(files: &Files) -> Vec<Vec<u8>> {
    let of_segment = |name: &String| {
        let segment = &files[name];
        records_in(segment).into_iter().map(|(begin, end)| segment[begin..end].to_vec())
    };
    segments(files).iter().flat_map(of_segment).collect()
}

/// The first event of a record.
fn first_of(record: &[u8]) -> u64 {
    EventRecord::take(&mut Reader::new(record)).unwrap().header().first
}
