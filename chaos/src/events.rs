//! The verdict on the events: of each node as it lies on its disk, and of what the subscriber was told.

use std::path::{Path, PathBuf};

use stockd::audit::audit;
use stockd::log::RealStorage;
use stockd::world::RealClock;
use stockd_check::{Operation, Report, Stream};
use stockd_protocol::event::EventKind;

use crate::cluster::{Cluster, VOTERS};
use crate::follower::Followed;

/// Holds the directories of stopped nodes, and what the subscriber was told, against what the log makes; reports what is
/// wrong, and returns what was looked at, for people. `known` is the last log entry of which somebody was told.
pub fn judge(
    cluster: &Cluster,
    directories: &[PathBuf],
    followed: Option<&Followed>,
    (stream, report): (&mut Stream, &mut Report),
    known: u64,
) -> Vec<String> {
    let mut lines = Vec::new();
    stream.judge(directories, report);
    if report.count("nodes that tell events") < VOTERS.len() as u64 {
        cluster.report("a node has left no events that could be looked at");
    }
    // They have left in order, so what they applied is on their disks.
    match stream.untold_until(known) {
        0 => {}
        untold => cluster.report(format!("no node tells of {untold} events that the log makes")),
    }
    if let Some(event) = diverged(stream) {
        cluster.report(format!("a node has found that a state is not its log's: {event}"));
    }
    for directory in directories {
        match verdict(directory) {
            Ok(line) => lines.push(line),
            Err(line) => cluster.report(line),
        }
    }
    if let Some(followed) = followed {
        match told(followed, stream) {
            Ok(line) => lines.push(line),
            Err(line) => cluster.report(line),
        }
    }
    lines
}

fn diverged(stream: &Stream) -> Option<String> {
    let mut events = stream.records().flat_map(|record| record.events().filter_map(Result::ok));
    events.find(|event| event.kind == EventKind::Diverged).map(|event| event.to_string())
}

/// The last log entry of which somebody was told.
pub fn known(history: &[Operation]) -> u64 {
    let answers = history.iter().filter_map(|operation| operation.verdict.answer());
    answers.map(|answer| answer.index).max().unwrap_or(0)
}

fn verdict(directory: &Path) -> Result<String, String> {
    let name = directory.display();
    let storage = RealStorage::open_read_only(directory);
    let storage = storage.map_err(|error| format!("{name}: {error}"))?;
    let report = audit(&storage, &RealClock::new(), &mut |_, _, _| {});
    let line = format!("{name}: {}", report.verdict());
    let notes = report.notes.iter().map(|note| format!("; {note}")).collect::<String>();
    match report.is_ok() {
        true => Ok(line + &notes),
        false => Err(line + &notes),
    }
}

/// What the subscriber has written down, from the first event on, is what the log makes.
fn told(followed: &Followed, stream: &mut Stream) -> Result<String, String> {
    let bytes = std::fs::read(&followed.seen).map_err(|error| error.to_string())?;
    let mut teller = stream.teller("the subscriber");
    teller.take_all(&bytes)?;
    let (events, next) = (teller.events(), teller.next().unwrap_or(1));
    if (events + 1, next) != (followed.next, followed.next) {
        let wanted = followed.next - 1;
        return Err(format!("the subscriber has {events} events up to {next}, of {wanted}"));
    }
    let Followed { lives, connections, .. } = followed;
    Ok(format!(
        "the subscriber was told all {events} events, each once, in {lives} lives and {connections} connections"
    ))
}
