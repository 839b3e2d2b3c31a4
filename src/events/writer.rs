//! The writer: the one who seals, chains, writes, syncs and removes.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::current::{Current, SYNC_BYTES};
use super::position::Position;
use super::segment::{Header, name_of};
use super::{Answer, Inner, Item, SPARE_BYTES_MAX, SPARE_BYTES_MIN};
use crate::log::is_full;
use crate::protocol::Reader;
use crate::protocol::event::{EventRecord, seal};

/// After something has come, others are waited for: a wake-up for each entry of the log would cost more than all
/// the rest here.
const LINGER: Duration = Duration::from_millis(4);
/// So much is written at once.
const WRITE_BYTES: usize = 1 << 20;
/// How long the writer waits whose disk did not do what it should.
const RETRY: Duration = Duration::from_millis(250);
/// What is too old goes at the latest so long after.
const LOOK: Duration = Duration::from_secs(60);

pub(super) struct Writer {
    log: Arc<Inner>,
    /// What was taken from the queue, and is not in a segment yet.
    taken: VecDeque<Item>,
    /// Buffers of records that are in the segment.
    spares: Vec<Vec<u8>>,
    spare_bytes: usize,
    /// After the last record that is in a segment, be it written or not.
    position: Position,
    /// Events before `position` are missing.
    is_after_gap: bool,
    current: Option<Current>,
    /// Bytes of records that are in the segment and were never written.
    unwritten: usize,
    marks: Vec<(Position, Answer)>,
    failure: Option<String>,
}

impl Writer {
    /// `current`: the segment that is written, and the position after what is in it.
    pub fn new(log: Arc<Inner>, current: Option<Current>, position: Position) -> Self {
        Self {
            log,
            taken: VecDeque::new(),
            spares: Vec::new(),
            spare_bytes: 0,
            position,
            is_after_gap: false,
            current,
            unwritten: 0,
            marks: Vec::new(),
            failure: None,
        }
    }

    /// Writes until it is stopped.
    pub async fn run(mut self) {
        let mut found = true;
        while self.wait(found).await {
            found = self.take();
            let result = self.work().await;
            // Also while the disk takes nothing: that may be what makes room.
            let removed = self.log.remove_superfluous();
            self.note(result.and(removed));
        }
    }

    /// Waits until there is something to do. `false`: the end.
    async fn wait(&mut self, found: bool) -> bool {
        let log = &self.log;
        if self.failure.is_some() {
            tokio::select! {
                () = tokio::time::sleep(RETRY) => {}
                () = log.stop.notified() => {}
            }
            return !log.lock().stopping;
        }
        if !found && log.lock().park() {
            tokio::select! {
                () = log.wake.notified() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
        if !log.lock().urgent {
            tokio::select! {
                () = log.wake.notified() => {}
                () = tokio::time::sleep(LINGER) => {}
            }
        }
        !log.lock().stopping
    }

    /// Takes what has queued up. `true`: there was something.
    fn take(&mut self) -> bool {
        let mut queue = self.log.lock();
        queue.urgent = false;
        let found = !queue.items.is_empty();
        queue.bytes = 0;
        self.taken.extend(queue.items.drain(..));
        queue.spares.append(&mut self.spares);
        self.spare_bytes = queue.spares.iter().map(Vec::capacity).sum();
        found
    }

    /// Writes what was taken.
    async fn work(&mut self) -> io::Result<()> {
        loop {
            self.fill().await?;
            self.write()?;
            let unsynced = self.current.as_ref().map_or(0, Current::unsynced_bytes);
            if unsynced >= SYNC_BYTES || !self.marks.is_empty() {
                self.sync().await?;
            }
            if self.current.as_ref().is_some_and(|current| self.log.is_long(current.first_at_ms()))
            {
                self.seal().await?;
            }
            if self.taken.is_empty() {
                return Ok(());
            }
        }
    }

    /// Puts what was taken into the segment, as much as is written at once.
    async fn fill(&mut self) -> io::Result<()> {
        while let Some(item) = self.taken.front() {
            match item {
                Item::Record(record) => {
                    let bytes = record.len();
                    if self.unwritten > 0 && self.unwritten + bytes > WRITE_BYTES {
                        return Ok(());
                    }
                    self.make_room(bytes as u64).await?;
                    if let Some(Item::Record(record)) = self.taken.pop_front() {
                        self.put(record);
                    }
                }
                Item::Mark(_) => {
                    if let Some(Item::Mark(answer)) = self.taken.pop_front() {
                        self.marks.push((self.position, answer));
                    }
                }
                Item::Rebase(base, _) => {
                    let base = *base;
                    let result = self.rebase(base).await?;
                    if let Some(Item::Rebase(_, Some(answer))) = self.taken.pop_front() {
                        match result {
                            Ok(()) => self.marks.push((self.position, answer)),
                            Err(error) => drop(answer.send(Err(error))),
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Sees to it that there is a segment with room for a record.
    async fn make_room(&mut self, bytes: u64) -> io::Result<()> {
        let bytes_max = self.log.options.segment_bytes();
        if self.current.as_ref().is_some_and(|current| !current.has_room(bytes, bytes_max)) {
            self.seal().await?;
        }
        if self.current.is_none() {
            let storage = self.log.storage.as_ref();
            let (shard, start) = (self.log.shard, self.position);
            let header = Header { shard, start, is_after_gap: self.is_after_gap };
            let file = storage.create(&name_of(self.position.next))?;
            storage.sync_dir()?;
            let path = storage.path(&name_of(self.position.next));
            let mut current = Current::begin(header, path, file);
            current.follow(self.log.segments().last().cloned());
            self.log.add_segment(current.segment.clone());
            (self.current, self.is_after_gap) = (Some(current), false);
        }
        Ok(())
    }

    /// Puts a record into the segment, for which there is room.
    fn put(&mut self, mut bytes: Vec<u8>) {
        seal(&mut bytes);
        let record = EventRecord::take(&mut Reader::new(&bytes)).expect("it was just sealed");
        let is_next = record.header().first == self.position.next;
        assert!(is_next, "nothing is appended to a history that was refused");
        if let Some(current) = &mut self.current {
            current.put(&record, &mut self.position);
            self.unwritten += bytes.len();
        }
        let room = bytes.capacity();
        if room >= SPARE_BYTES_MIN && self.spare_bytes + room <= SPARE_BYTES_MAX {
            self.spare_bytes += room;
            self.spares.push(bytes);
        }
    }

    /// Writes what is not, and lets others read it.
    fn write(&mut self) -> io::Result<()> {
        if let Some(current) = &mut self.current {
            current.write()?;
        }
        if self.unwritten > 0 {
            self.log.written(std::mem::take(&mut self.unwritten));
            self.log.publish(self.position);
        }
        Ok(())
    }

    /// Syncs what is written, and says so to whoever waits for it.
    async fn sync(&mut self) -> io::Result<()> {
        if let Some(current) = self.current.as_mut().filter(|current| current.unsynced_bytes() > 0)
        {
            self.log.pause_before_sync().await;
            current.sync()?;
        }
        for (position, answer) in self.marks.drain(..) {
            // Whoever asked may have given up.
            let _ = answer.send(Ok(position));
        }
        Ok(())
    }

    /// Ends the segment.
    async fn seal(&mut self) -> io::Result<()> {
        self.write()?;
        if let Some(current) = &mut self.current {
            self.log.pause_before_sync().await;
            current.seal(self.position)?;
            self.current = None;
        }
        self.sync().await
    }

    /// What comes next begins at `base`. `Err`: it is not of this history.
    async fn rebase(&mut self, base: Position) -> io::Result<io::Result<()>> {
        if base.next > self.position.next {
            if self.current.is_some() {
                self.seal().await?;
            }
            let (from, to) = (self.position.next, base.next - 1);
            (self.log.notice)(&format!(
                "events: {from} to {to} are not here and will not be: this node was given a snapshot in their place, \
                 or kept no events then"
            ));
            (self.position, self.is_after_gap) = (base, true);
            self.log.publish(base);
        } else if !base.fits(&self.position) {
            return Ok(Err(other_history(base)));
        }
        Ok(Ok(()))
    }

    /// Says so when things go wrong in another way than before, and when they go well again.
    fn note(&mut self, result: io::Result<()>) {
        let full = matches!(&result, Err(error) if is_full(error));
        let error = result.err();
        self.log.set_failing(error.is_some(), full);
        if let Some(error) = &error {
            self.refuse_marks(error);
        }
        let failure = error.map(|error| error.to_string());
        if failure != self.failure {
            (self.log.notice)(&match &failure {
                Some(error) => format!("events: {error}; trying again"),
                None => "events: all is written again".to_owned(),
            });
        }
        self.failure = failure;
    }

    /// Whoever waits hears what goes wrong, and may ask again, as on a full disk; nothing is lost.
    fn refuse_marks(&mut self, error: &io::Error) {
        let mut answers: Vec<Answer> = self.marks.drain(..).map(|(_, answer)| answer).collect();
        for mut item in std::mem::take(&mut self.taken) {
            match item {
                Item::Mark(answer) => {
                    answers.push(answer);
                    continue;
                }
                Item::Rebase(_, ref mut answer) => answers.extend(answer.take()),
                Item::Record(_) => {}
            }
            self.taken.push_back(item);
        }
        for answer in answers {
            let _ = answer.send(Err(io::Error::new(error.kind(), error.to_string())));
        }
    }
}

/// A position is not of this history.
fn other_history(base: Position) -> io::Error {
    let text = format!("the events before {} are not those of the snapshot", base.next);
    io::Error::new(io::ErrorKind::InvalidData, text)
}
