//! The log: files with arbitrary content, and power cuts at arbitrary moments.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use stockd::log::{
    Error, Fault, Log, LogOptions, Record, RecordId, ShardLog, SimStorage, Storage, Survival,
    inspect,
};
use stockd::world::{EnoughMemory, Random, RealClock, TaskThreads, World};
use stockd_protocol::ShardId;

use crate::input::{Input, put_block, u32_at};

const SEGMENT_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 4096;
/// A segment's header without the zeros at its end, and a frame without its payload.
const HEADER_USED_BYTES: usize = 48;
const FRAME_HEAD_BYTES: usize = 40;

struct Seven;

impl Random for Seven {
    fn next_u64(&self) -> u64 {
        7
    }
}

fn world() -> World {
    World {
        clock: Arc::new(RealClock::new()),
        random: Arc::new(Seven),
        threads: Arc::new(TaskThreads),
        memory: Arc::new(EnoughMemory),
    }
}

fn open(storage: &SimStorage) -> Result<Log, Error> {
    // A cache of a few records, so that most reads come from the files.
    let options = LogOptions {
        segment_bytes: SEGMENT_BYTES as u64,
        cache_bytes_max: 1 << 10,
        ..LogOptions::default()
    };
    Log::open(Arc::new(storage.clone()), &world(), options, &mut |_| {})
}

fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
    runtime.expect("a runtime needs nothing but memory").block_on(future)
}

/// A directory of segments. Per segment: flags u8, its header (a block), its frames (a block). Bit 0
/// of the flags keeps wrong checksums, bit 1 leaves a number out before it, bit 2 makes it shorter.
pub fn files(data: &[u8]) {
    let mut input = Input(data);
    let storage = SimStorage::new();
    let mut number = 0_u64;
    while !input.is_empty() && number < 8 {
        let flags = input.u8();
        number += 1 + u64::from(flags >> 1 & 1);
        let (header, frames) = (input.block(), input.block());
        let mut content = segment(header, frames, flags & 1 == 0);
        if flags & 4 != 0 {
            content.truncate(HEADER_BYTES + frames.len());
        }
        let name = format!("segment-{number:010}.log");
        let file = storage.create(&name).expect("this disk has no faults");
        file.write_at(0, &content).expect("this disk has no faults");
        file.sync_data().expect("this disk has no faults");
    }
    storage.sync_dir().expect("this disk has no faults");
    let looked = inspect::scan(&storage, &mut |_| (), &mut |_| ());
    run(async {
        let Ok(log) = open(&storage) else { return };
        let looked = looked.expect("what opens passes the check");
        let mut found = contents(&log);
        let records: u64 = found.iter().map(|(_, records)| records.len() as u64).sum();
        assert!(records <= looked.records, "recovery finds what the check counts, or less");
        let shard = log.shard(ShardId(0));
        let next = shard.state().last.map_or(0, |last| last.index + 1);
        let record = Record { term: 9, index: next, kind: 1, payload: Bytes::from_static(b"new") };
        append(&shard, vec![record.clone()]).await.expect("a recovered log takes records");
        log.close().await;
        drop((log, shard));
        match found.iter_mut().find(|(id, _)| *id == 0) {
            Some((_, records)) => records.push(record),
            None => found.insert(0, (0, vec![record])),
        }
        found.retain(|(_, records)| !records.is_empty());
        let survived = storage.restart(Survival::Lost);
        let log = open(&survived).expect("a closed log opens");
        let mut again = contents(&log);
        again.retain(|(_, records)| !records.is_empty());
        assert_eq!(again, found, "what was recovered is durable, and so is what came after");
    });
}

/// All shards' records.
fn contents(log: &Log) -> Vec<(u16, Vec<Record>)> {
    let read = |id| {
        let records = log.shard(id).read(0, u64::MAX, usize::MAX);
        (id.0, records.expect("recovered records can be read"))
    };
    log.shards().into_iter().map(read).collect()
}

async fn append(shard: &ShardLog, records: Vec<Record>) -> io::Result<()> {
    let (done, acknowledged) = tokio::sync::oneshot::channel();
    // Whoever waits is still there.
    shard.append(records, Box::new(move |result| drop(done.send(result))));
    acknowledged.await.expect("the log answers every append")
}

/// A whole segment: header and frames in their places, zeros between and behind.
fn segment(header: &[u8], frames: &[u8], mend: bool) -> Vec<u8> {
    let mut content = vec![0; SEGMENT_BYTES];
    let header = &header[..header.len().min(HEADER_BYTES)];
    let frames = &frames[..frames.len().min(SEGMENT_BYTES - HEADER_BYTES)];
    content[..header.len()].copy_from_slice(header);
    content[HEADER_BYTES..HEADER_BYTES + frames.len()].copy_from_slice(frames);
    if mend {
        mend_segment(&mut content, frames.len());
    }
    content
}

fn mend_segment(content: &mut [u8], frames: usize) {
    if let Some(bytes) = u32_at(content, 12).map(|bytes| bytes as usize)
        && (20..=content.len()).contains(&bytes)
    {
        content[16..20].fill(0);
        let crc = crc32fast::hash(&content[..bytes]);
        content[16..20].copy_from_slice(&crc.to_le_bytes());
    }
    let salt = u32_at(content, 24).unwrap_or(0) ^ u32_at(content, 28).unwrap_or(0);
    let mut at = HEADER_BYTES;
    while at < HEADER_BYTES + frames {
        let Some(payload) = u32_at(content, at + 4) else { return };
        let len = (FRAME_HEAD_BYTES + payload as usize).next_multiple_of(8);
        let Some(frame) = content.get_mut(at..at + len) else { return };
        let mut crc = crc32fast::Hasher::new_with_initial(salt);
        crc.update(&frame[4..]);
        frame[..4].copy_from_slice(&crc.finalize().to_le_bytes());
        at += len;
    }
}

/// Lives of a log, each ended by a power cut: calls, some of them awaited, then the cut at some
/// operation of the disk. What was acknowledged must be there, and nothing that was never asked for.
pub fn power(data: &[u8]) {
    let mut input = Input(data);
    let mut storage = SimStorage::new();
    let mut book = Book::default();
    for _ in 0..6 {
        if input.is_empty() {
            return;
        }
        run(live(&storage, &mut input, &mut book));
        let survival = match input.below(8) {
            0 => Survival::Kept,
            1 => Survival::Killed,
            2 => Survival::Lost,
            _ => Survival::Torn(u64::from(input.u16())),
        };
        storage = storage.restart(survival);
    }
}

/// What one shard was asked for, as a list of states: the log must be in one of them, not before the
/// last that was acknowledged.
struct Book {
    states: Vec<State>,
    acknowledged: Arc<AtomicUsize>,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct State {
    purged: u64,
    records: Vec<Record>,
    vote: Option<Bytes>,
}

impl Default for Book {
    fn default() -> Self {
        Self { states: vec![State::default()], acknowledged: Arc::default() }
    }
}

impl Book {
    fn last(&self) -> &State {
        self.states.last().expect("there is always a state")
    }

    fn change(&mut self, change: impl FnOnce(&mut State)) {
        let mut state = self.last().clone();
        change(&mut state);
        self.states.push(state);
    }

    /// A callback for all that was asked so far.
    fn done(&self) -> Box<dyn FnOnce(io::Result<()>) + Send> {
        let (at, acknowledged) = (self.states.len() - 1, self.acknowledged.clone());
        Box::new(move |result| {
            if result.is_ok() {
                acknowledged.fetch_max(at, Ordering::Relaxed);
            }
        })
    }

    /// Compares with what a log recovered, and forgets all other states.
    fn settle(&mut self, found: State) {
        let acknowledged = self.acknowledged.load(Ordering::Relaxed);
        let known = self.states[acknowledged..].contains(&found);
        assert!(known, "{found:?} is none of {:?}", &self.states[acknowledged..]);
        self.states = vec![found];
        self.acknowledged.store(0, Ordering::Relaxed);
    }
}

async fn live(storage: &SimStorage, input: &mut Input<'_>, book: &mut Book) {
    let cut = u64::from(input.u8()) + 1;
    let early = input.u8() & 3 == 0;
    if early {
        storage.fault_at(cut, Fault::PowerCut);
    }
    let log = match open(storage) {
        Ok(log) => log,
        // The power went while it recovered; the next life sees to it.
        Err(_) if early => return,
        Err(error) => panic!("a log that lost power opens: {error}"),
    };
    let shard = log.shard(ShardId(0));
    let records = shard.read(0, u64::MAX, usize::MAX);
    let Ok(records) = records else {
        assert!(early, "recovered records can be read");
        return;
    };
    let state = shard.state();
    let purged = state.purged.map_or(0, |purged| purged.index + 1);
    book.settle(State { purged, records, vote: state.vote });
    if !early {
        storage.fault_at(storage.operations() + cut, Fault::PowerCut);
    }
    let calls = input.u8() % 40;
    for _ in 0..calls {
        call(&shard, input, book);
        if input.below(3) == 0 {
            // Let the writer run, perhaps to the end of a group.
            for _ in 0..input.below(12) {
                tokio::task::yield_now().await;
            }
        }
    }
}

fn call(shard: &ShardLog, input: &mut Input<'_>, book: &mut Book) {
    let state = book.last().clone();
    let next = state.records.last().map_or(state.purged, |last| last.index + 1);
    match input.below(10) {
        0 => {
            let vote = Bytes::from(vec![input.u8(); 3]);
            book.change(|state| state.vote = Some(vote.clone()));
            shard.save_vote(vote, book.done());
        }
        1 if !state.records.is_empty() => {
            let keep = usize::from(input.below(state.records.len() as u16 + 1));
            let last = match keep {
                0 => state.purged.checked_sub(1).map(|index| RecordId { term: 1, index }),
                keep => Some(state.records[keep - 1].id()),
            };
            book.change(|state| state.records.truncate(keep));
            shard.truncate_after(last);
        }
        2 if !state.records.is_empty() => {
            let upto = usize::from(input.below(state.records.len() as u16));
            let id = state.records[upto].id();
            book.change(|state| {
                state.purged = id.index + 1;
                state.records.drain(..=upto);
            });
            // The purged record's term is told apart no more.
            shard.purge(RecordId { term: 1, ..id });
        }
        _ => {
            let count = u64::from(input.below(4)) + 1;
            let len = usize::from(input.below(6_000));
            let fill = input.u8();
            let record = |index| {
                let payload = Bytes::from(vec![fill; len]);
                Record { term: 1 + u64::from(fill & 1), index, kind: fill & 3, payload }
            };
            let records: Vec<_> = (next..next + count).map(record).collect();
            for record in &records {
                book.change(|state| state.records.push(record.clone()));
            }
            shard.append(records, book.done());
        }
    }
}

/// Directories that real logs left: an empty one, one with some of everything, two segments.
pub fn directories() -> Vec<Vec<u8>> {
    [(0, 0), (12, 60), (26, 3_000)].map(|(records, len)| directory(records, len)).to_vec()
}

fn directory(records: u64, len: usize) -> Vec<u8> {
    let storage = SimStorage::new();
    run(async {
        let log = open(&storage).expect("an empty disk gets a log");
        let shard = log.shard(ShardId(0));
        shard.save_vote(Bytes::from_static(b"vote"), Box::new(|_| ()));
        for index in 0..records {
            let payload = Bytes::from(vec![index as u8; len]);
            let record = Record { term: 1, index, kind: 1, payload };
            append(&shard, vec![record]).await.expect("this disk has no faults");
        }
        if records > 4 {
            shard.save_committed(RecordId { term: 1, index: records - 2 });
            shard.truncate_after(Some(RecordId { term: 1, index: records - 2 }));
            shard.purge(RecordId { term: 1, index: 2 });
        }
        log.close().await;
    });
    let mut seed = Vec::new();
    for entry in storage.list().expect("this disk has no faults") {
        let file = storage.open(&entry.name).expect("this disk has no faults");
        let content = file.map().expect("this disk has no faults");
        let (header, frames) = content.split_at(HEADER_BYTES);
        if header.iter().all(|byte| *byte == 0) {
            continue; // a spare
        }
        seed.push(0);
        put_block(&mut seed, &header[..used(header).max(HEADER_USED_BYTES)]);
        put_block(&mut seed, &frames[..used(frames)]);
    }
    seed
}

/// Bytes before the zeros at the end.
fn used(bytes: &[u8]) -> usize {
    bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0).count()
}

/// Lives that were written down by hand: a quiet one, a cut in a large group, cuts while recovering.
pub fn lives() -> Vec<Vec<u8>> {
    let append = [9, 3, 0x70, 0x17, 5, 0, 8];
    let quiet = [&[255, 1, 10][..], &append.repeat(4), &[0, 7, 1, 0, 2]].concat();
    let busy = [&[40, 1, 30][..], &append.repeat(20), &[1, 2, 3, 2, 1, 0, 4, 9, 9]].concat();
    let early = [4, 0, 5, 0, 2].repeat(3);
    vec![quiet.repeat(2), busy.repeat(2), [busy, early, quiet].concat()]
}
