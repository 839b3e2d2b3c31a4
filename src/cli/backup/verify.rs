//! `stockd backup --verify`: is every byte of a backup what it was, and can it be restored?

use std::path::Path;

use super::{open_backup, print_reach, progress};
use crate::audit::grouped;
use crate::backup::{Backup, Verdict, verify};
use crate::cli::Done;
use crate::world::RealClock;

pub(super) fn run(directory: &Path) -> Done {
    let storage = open_backup(directory)?;
    let backup = Backup::open(&storage).map_err(|error| error.to_string())?;
    let mut progress = progress();
    let told = &mut |what: &str, done, total| progress.update(what, done, total);
    let verdict = verify(&backup, &RealClock::new(), told);
    progress.finish();
    let verdict = verdict.map_err(|error| error.to_string())?;
    print_reach(backup.manifest());
    print(&verdict);
    match verdict.wrong.is_empty() {
        true => {
            let files = backup.manifest().files.len();
            println!("BACKUP OK: {files} files, every byte as it was fetched");
            Ok(())
        }
        false => {
            println!("BACKUP DAMAGED: {} findings", verdict.wrong.len());
            Err("restore from another copy, or take a new one into another directory".to_owned())
        }
    }
}

fn print(verdict: &Verdict) {
    let count = |number: u64| grouped(number.into());
    for span in &verdict.spans {
        println!("entries    {}..{}", count(*span.start()), count(*span.end()));
    }
    println!(
        "as logged  {} events since the newest snapshot are what the log makes",
        count(verdict.derived)
    );
    if let Some(report) = &verdict.audit {
        println!("counters   {} cells have what the events add up to", count(report.compared));
        println!("told       {}", report.checkpoints);
        report.notes.iter().for_each(|note| println!("note       {note}"));
    }
    verdict.notes.iter().for_each(|note| println!("note       {note}"));
    verdict.wrong.iter().for_each(|wrong| println!("WRONG      {wrong}"));
}
