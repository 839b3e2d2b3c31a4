//! Is a backup whole, and can be restored what it says?

use std::ops::RangeInclusive;

use super::point::{Backup, Target};
use super::{Error, MANIFEST, Progress};
use crate::audit::{Report, audit_under};
use crate::log::View;
use crate::world::Clock;

/// What was found.
#[derive(Debug)]
pub struct Verdict {
    /// What is wrong, and with which file.
    pub wrong: Vec<String>,
    /// What is no fault, and should be known.
    pub notes: Vec<String>,
    /// Entries that the backup has, in pieces without a hole.
    pub spans: Vec<RangeInclusive<u64>>,
    /// Events from the newest snapshot on that are what the log makes.
    pub derived: u64,
    /// What an audit of the newest part says, events, snapshot and log against each other; `None`: files are damaged,
    /// so that there was none.
    pub audit: Option<Report>,
}

/// Looks at every byte of a backup: at the SHA-256 of each file; at the newest snapshot, the log and the events
/// against each other, as an audit of a node does; and at the state at the end, which must be where the manifest says.
///
/// # Errors
/// It cannot be read.
pub fn verify(
    backup: &Backup<'_>,
    clock: &dyn Clock,
    progress: Progress<'_>,
) -> Result<Verdict, Error> {
    let mut verdict = Verdict {
        wrong: Vec::new(),
        notes: Vec::new(),
        spans: Vec::new(),
        derived: 0,
        audit: None,
    };
    check_files(backup, &mut verdict, progress)?;
    if !verdict.wrong.is_empty() {
        return Ok(verdict);
    }
    let runs = backup.runs()?;
    for pair in runs.windows(2) {
        let (before, after) = (pair[0].names().1, pair[1].names().0);
        verdict.notes.push(format!(
            "between {before} and {after} segments are missing: what was in between cannot be restored"
        ));
    }
    for run in &runs {
        verdict.spans.extend(backup.spans_of(run, progress)?);
    }
    match backup.at(Target::End, progress) {
        Ok(reached) => verdict.derived = reached.compared,
        Err(error) => verdict.wrong.push(error.to_string()),
    }
    let report = audit_newest(backup, clock, progress)?;
    verdict.wrong.extend(report.findings.kept().iter().map(ToString::to_string));
    verdict.audit = Some(report);
    Ok(verdict)
}

fn check_files(
    backup: &Backup<'_>,
    verdict: &mut Verdict,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let (storage, manifest) = (backup.storage(), backup.manifest());
    let mut done = 0;
    for (name, file) in &manifest.files {
        if let Err(error) = manifest.check(storage, name, done, progress) {
            verdict.wrong.push(error.to_string());
        }
        done += file.bytes;
    }
    for entry in storage.list().map_err(Error::io(storage.path("")))? {
        let is_known = manifest.files.contains_key(&entry.name);
        if !is_known && ![MANIFEST, "lock"].contains(&&*entry.name) {
            verdict.notes.push(format!("{}: the manifest does not know it", entry.name));
        }
    }
    Ok(())
}

/// An audit of the newest snapshot, the segments that go on from it, and all events.
fn audit_newest(
    backup: &Backup<'_>,
    clock: &dyn Clock,
    progress: Progress<'_>,
) -> Result<Report, Error> {
    let (storage, run) = (backup.storage(), backup.newest_run()?);
    let newest = run.as_ref().map_or("", |run| run.names().0);
    let view = View::new(storage, |entry| {
        let is_old = entry.name.starts_with("segment-") && *entry.name < *newest;
        (!is_old && entry.name != MANIFEST).then(|| entry.name.clone())
    });
    let view = view.map_err(Error::io(storage.path("")))?;
    Ok(audit_under(backup.manifest().engine(), &view, clock, progress))
}
