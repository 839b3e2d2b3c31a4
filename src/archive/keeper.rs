//! The keeper of an archive: the one who sorts, writes, merges and removes.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Inner;
use super::run::{Run, RunWriter, name_of, remove_if_there};
use crate::engine::{ArchiveBatch, ArchivedRecord};
use crate::log::is_full;

/// What is in memory is written when it has so many bytes: about 300,000 reservations of one line.
const TABLE_BYTES: u64 = 16 << 20;
/// So many runs of about one size become one.
const MERGE_RUNS: usize = 4;
/// No run is merged beyond so many bytes: a merge takes two seconds, and what is too old goes by the run.
const RUN_BYTES_MAX: u64 = 256 << 20;
/// A merge looks after so many records what else there is to do.
const LOOK_RECORDS: u64 = 1 << 14;
/// How long a keeper waits whose disk did not do what it should.
const RETRY: Duration = Duration::from_secs(1);
/// What is too old goes at the latest so long after.
const LOOK: Duration = Duration::from_secs(60);

/// Keeps the archive until it is stopped.
pub(super) async fn keep(archive: Arc<Inner>) {
    let mut failed = false;
    loop {
        if failed {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = archive.stop.notified() => {}
            }
        } else {
            tokio::select! {
                () = archive.wake.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        if archive.lock().stopping {
            return;
        }
        failed = archive.has_failed(archive.work().await);
    }
}

impl Inner {
    async fn work(&self) -> io::Result<()> {
        self.sort_fresh();
        // This makes room for the others.
        let removed = self.remove_superfluous();
        let (flushes, due) = {
            let mut tables = self.lock();
            let flushes = std::mem::take(&mut tables.flushes);
            let asked = std::mem::take(&mut tables.write_soon) || !flushes.is_empty();
            let full = tables.bytes_waiting() >= TABLE_BYTES;
            (flushes, asked || full || tables.failure.is_some())
        };
        let written = match due {
            true => self.write_table_somehow().await,
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
        written.and(removed)?;
        self.merge().await
    }

    /// Says so when things go wrong in another way than before, and when they go well again.
    fn has_failed(&self, result: io::Result<()>) -> bool {
        let failure = result.err().map(|error| error.to_string());
        let before = std::mem::replace(&mut self.lock().failure, failure.clone());
        if failure != before {
            (self.notice)(&match &failure {
                Some(error) => format!("archive: {error}; trying again"),
                None => "archive: all is written again".to_owned(),
            });
        }
        failure.is_some()
    }

    /// Writes what is sorted. The log comes first: where the disk has no room, the oldest answers make it.
    async fn write_table_somehow(&self) -> io::Result<()> {
        loop {
            let result = self.write_table().await;
            if !matches!(&result, Err(error) if is_full(error)) || !self.give_way()? {
                return result;
            }
        }
    }

    /// Removes the oldest run, if there is one.
    fn give_way(&self) -> io::Result<bool> {
        let Some(oldest) = self.lock().runs.first().cloned() else { return Ok(false) };
        let count = oldest.count;
        (self.notice)(&format!("archive: the disk is full; removing the {count} oldest answers"));
        self.remove(&[oldest])?;
        Ok(true)
    }

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
        let table = match &sorted[..] {
            [] => return Ok(()),
            [table] => table.clone(),
            several => joined(several),
        };
        drop(sorted);
        self.lock().sorted = vec![table.clone()];
        let mut writer = self.writer(table.len() as u64, self.now_ms())?;
        for at in 0..table.len() {
            match table.get(at) {
                Some(record) => writer.add(&record).await?,
                None => self.note_damaged(),
            }
        }
        let run = writer.finish(self.next_number())?;
        let mut tables = self.lock();
        tables.sorted.clear();
        tables.add_run(run);
        Ok(())
    }

    /// Removes what is too old or too much, or in the way of others.
    fn remove_superfluous(&self) -> io::Result<()> {
        let now = self.world.clock.monotonic();
        let makes_room = {
            let mut tables = self.lock();
            let is_time = tables.made_room.is_none_or(|last| now >= last + RETRY);
            let makes_room = std::mem::take(&mut tables.room_wanted) && is_time;
            if makes_room {
                tables.made_room = Some(now);
            }
            makes_room
        };
        if makes_room {
            self.give_way()?;
        }
        while let Some(run) = self.superfluous() {
            self.remove(&[run])?;
        }
        Ok(())
    }

    /// Merges what is small. What the disk has no room for can wait.
    async fn merge(&self) -> io::Result<()> {
        let now = self.world.clock.monotonic();
        if now < self.lock().merge_after {
            return Ok(());
        }
        match self.merge_all().await {
            Err(error) if is_full(&error) => {
                self.lock().merge_after = now + LOOK;
                Ok(())
            }
            result => result,
        }
    }

    async fn merge_all(&self) -> io::Result<()> {
        while let Some(runs) = self.mergeable() {
            let count = runs.iter().map(|run| run.count).sum();
            let written_ms = runs.iter().map(|run| run.written_ms).max().unwrap_or_default();
            let mut writer = self.writer(count, written_ms)?;
            let mut walks: Vec<Walk> = runs.iter().map(|run| Walk::new(run, self)).collect();
            let mut records = 0_u64;
            loop {
                let first = walks.iter_mut().filter(|walk| walk.head.is_some());
                let first = first.min_by_key(|walk| walk.head.as_ref().map(ArchivedRecord::id));
                let Some(record) = first.and_then(|walk| walk.next(self)) else { break };
                writer.add(&record).await?;
                records += 1;
                if records.is_multiple_of(LOOK_RECORDS) {
                    self.sort_fresh();
                    if self.lock().stopping {
                        return Ok(());
                    }
                }
            }
            let merged = writer.finish(self.next_number())?;
            self.lock().add_run(merged);
            self.remove(&runs)?;
        }
        Ok(())
    }

    fn writer(&self, count: u64, written_ms: u64) -> io::Result<RunWriter<'_>> {
        RunWriter::new(self.storage.as_ref(), count, self.world.random.next_u64(), written_ms)
    }

    fn next_number(&self) -> u64 {
        let runs = &self.lock().runs;
        runs.iter().map(|run| run.number).max().map_or(1, |last| last + 1)
    }

    fn superfluous(&self) -> Option<Arc<Run>> {
        let runs = self.lock().runs.clone();
        let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
        let oldest = runs.first()?;
        let is_over = oldest.written_ms.saturating_add(self.options.retention_ms) <= self.now_ms();
        (is_over || bytes > self.options.bytes_max).then(|| oldest.clone())
    }

    fn remove(&self, gone: &[Arc<Run>]) -> io::Result<()> {
        for run in gone {
            remove_if_there(self.storage.as_ref(), &name_of(run.number))?;
            Arc::make_mut(&mut self.lock().runs).retain(|other| other.number != run.number);
        }
        self.storage.sync_dir()
    }

    /// The oldest of about one size, as many as are merged, if they are small enough together.
    fn mergeable(&self) -> Option<Vec<Arc<Run>>> {
        let mut alike: BTreeMap<u32, Vec<Arc<Run>>> = BTreeMap::new();
        for run in self.lock().runs.iter() {
            let size = alike.entry(run.bytes.max(1).ilog(MERGE_RUNS as u64)).or_default();
            if size.len() < MERGE_RUNS {
                size.push(run.clone());
            }
        }
        let fits = |runs: &Vec<Arc<Run>>| {
            let bytes: u64 = runs.iter().map(|run| run.bytes).sum();
            runs.len() == MERGE_RUNS && bytes <= RUN_BYTES_MAX
        };
        alike.into_values().find(fits)
    }
}

/// Goes over the records of a run that is merged.
struct Walk<'a> {
    run: &'a Run,
    at: u64,
    head: Option<ArchivedRecord>,
}

impl<'a> Walk<'a> {
    fn new(run: &'a Run, archive: &Inner) -> Self {
        let mut walk = Self { run, at: 0, head: None };
        walk.next(archive);
        walk
    }

    /// The next record. One that is damaged counts as not there: where its id stands, so far from its place, it
    /// would hide the others.
    fn next(&mut self, archive: &Inner) -> Option<ArchivedRecord> {
        let before = self.head.take();
        let last = before.as_ref().map(ArchivedRecord::id);
        while self.head.is_none() && self.at < self.run.count {
            self.head = self.run.record(self.at).filter(|record| last < Some(record.id()));
            self.at += 1;
            if self.head.is_none() {
                archive.note_damaged();
            }
        }
        before
    }
}

fn joined(batches: &[Arc<ArchiveBatch>]) -> Arc<ArchiveBatch> {
    Arc::new(ArchiveBatch::joined(batches.iter().map(Arc::as_ref)))
}
