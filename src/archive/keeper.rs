//! The keeper of an archive: the one who sorts, writes, merges and removes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::run::{Run, RunWriter, name_of};
use crate::engine::{ArchiveBatch, ArchiveEntry};

/// What is in memory is written when it has so many bytes: about 300,000 reservations of one line.
const TABLE_BYTES: u64 = 16 << 20;
/// So many neighbours of about one size become one run.
const MERGE_RUNS: usize = 4;
/// No run is merged beyond so many bytes: a merge takes two seconds, and what is too old goes by the run.
const RUN_BYTES_MAX: u64 = 256 << 20;
/// A merge looks after so many records of a run whether it shall stop.
const STOP_LOOK_RECORDS: u64 = 1 << 14;
/// How long a keeper whose disk is full waits.
const RETRY: Duration = Duration::from_secs(1);

/// Keeps the archive until it is stopped.
pub(super) async fn keep(archive: Arc<Inner>) {
    let mut failed = false;
    loop {
        tokio::select! {
            () = archive.wake.notified() => {}
            () = tokio::time::sleep(RETRY), if failed => {}
        }
        let (flushes, stopping) = {
            let mut tables = archive.lock();
            (std::mem::take(&mut tables.flushes), tables.stopping)
        };
        if stopping {
            return;
        }
        archive.sort_fresh();
        let full = archive.lock().bytes_waiting() >= TABLE_BYTES;
        let written = match full || !flushes.is_empty() {
            true => archive.write_table().await,
            false => Ok(()),
        };
        for flush in flushes {
            // Whoever asked may have given up.
            let _ = flush.send(match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
            });
        }
        // What could not be written stays in memory, and in the log. Whoever flushes hears of it.
        failed = written.is_err() || archive.tidy().await.is_err();
    }
}

impl Inner {
    /// Sorts what has come, and joins tables so that there are few.
    fn sort_fresh(&self) {
        let (fresh, mut sorted) = {
            let tables = self.lock();
            (tables.fresh.clone(), tables.sorted.clone())
        };
        if fresh.is_empty() {
            return;
        }
        sorted.push(joined(&fresh));
        while let [.., before, last] = &sorted[..]
            && before.len() < last.len() * 2
        {
            let both = joined(&sorted.split_off(sorted.len() - 2));
            sorted.push(both);
        }
        let mut tables = self.lock();
        tables.fresh.drain(..fresh.len());
        tables.sorted = sorted;
    }

    /// Writes what is sorted as a run.
    async fn write_table(&self) -> io::Result<()> {
        let sorted = self.lock().sorted.clone();
        if sorted.is_empty() {
            return Ok(());
        }
        let table = joined(&sorted);
        let mut writer = self.writer(table.len() as u64)?;
        for entry in table.entries() {
            self.add(&mut writer, *entry, table.tail_of(entry)).await?;
        }
        let run = writer.finish(self.next_number())?;
        let mut tables = self.lock();
        tables.sorted.clear();
        tables.add_run(run);
        Ok(())
    }

    /// Removes what is too old or too much, and merges what is small.
    async fn tidy(&self) -> io::Result<()> {
        while let Some(run) = self.superfluous() {
            self.remove(&[run])?;
        }
        while let Some(runs) = self.mergeable() {
            let count = runs.iter().map(|run| run.count).sum();
            let mut writer = self.writer(count)?;
            let mut at = vec![0; runs.len()];
            loop {
                let heads = runs.iter().zip(&at).enumerate();
                let heads = heads.filter(|(_, (run, at))| **at < run.count);
                let first = heads.map(|(which, (run, at))| (run.entry(*at).id(), which)).min();
                let Some((id, which)) = first else { break };
                let run = &runs[which];
                let entry = run.entry(at[which]);
                at[which] += 1;
                if !self.is_expired(id.millis()) {
                    self.add(&mut writer, entry, run.tail_of(&entry)).await?;
                }
                let looks_up = at[which].is_multiple_of(STOP_LOOK_RECORDS);
                if looks_up && self.lock().stopping {
                    return Ok(());
                }
            }
            let merged = writer.finish(self.next_number())?;
            self.lock().add_run(merged);
            self.remove(&runs)?;
        }
        Ok(())
    }

    fn writer(&self, count: u64) -> io::Result<RunWriter<'_>> {
        RunWriter::new(self.storage.as_ref(), count, self.world.random.next_u64())
    }

    async fn add(
        &self,
        writer: &mut RunWriter<'_>,
        entry: ArchiveEntry,
        tail: &[u8],
    ) -> io::Result<()> {
        if !writer.add(entry, tail).await? {
            self.note_damaged();
        }
        Ok(())
    }

    fn next_number(&self) -> u64 {
        let runs = &self.lock().runs;
        runs.iter().map(|run| run.number).max().map_or(1, |last| last + 1)
    }

    fn superfluous(&self) -> Option<Arc<Run>> {
        let runs = &self.lock().runs;
        let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        let oldest = runs.iter().min_by_key(|run| run.newest_ms)?;
        let is_over = self.is_expired(oldest.newest_ms) || bytes > self.options.bytes_max;
        is_over.then(|| oldest.clone())
    }

    fn remove(&self, gone: &[Arc<Run>]) -> io::Result<()> {
        let is_gone = |run: &Arc<Run>| gone.iter().any(|gone| gone.number == run.number);
        self.lock().runs.retain(|run| !is_gone(run));
        for run in gone {
            self.storage.remove(&name_of(run.number))?;
        }
        self.storage.sync_dir()
    }

    /// Neighbours of about one size, as many as are merged, that are small enough together.
    fn mergeable(&self) -> Option<Vec<Arc<Run>>> {
        let class = |run: &Arc<Run>| run.bytes.max(1).ilog(MERGE_RUNS as u64);
        let fits = |runs: &&[Arc<Run>]| {
            let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
            let (smallest, largest) = (runs.iter().map(class).min(), runs.iter().map(class).max());
            let is_alike = smallest.zip(largest).is_some_and(|(small, large)| large - small <= 1);
            bytes <= RUN_BYTES_MAX && is_alike
        };
        self.lock().runs.windows(MERGE_RUNS).rev().find(fits).map(<[_]>::to_vec)
    }
}

fn joined(batches: &[Arc<ArchiveBatch>]) -> Arc<ArchiveBatch> {
    Arc::new(ArchiveBatch::joined(batches.iter().map(Arc::as_ref)))
}
