//! Damage, full disks and failing disks: the log refuses, waits or stops, and says why.

#![expect(clippy::unwrap_used, reason = "helpers of tests, not only tests, may stop the test")]

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stockd::log::{
    Error, Fault, FrameKind, KeepOptions, Log, LogOptions, Record, RecordId, ShardLog, SimStorage,
    Space, Storage, Survival, View, inspect, yielding,
};
use stockd::protocol::ShardId;
use stockd::world::{EnoughMemory, RealClock, RealRandom, TaskThreads, World};
use tokio::sync::oneshot;

fn world() -> World {
    World {
        clock: Arc::new(RealClock::new()),
        random: Arc::new(RealRandom::new()),
        threads: Arc::new(TaskThreads),
        memory: Arc::new(EnoughMemory),
    }
}

const SEGMENT: u64 = 64 << 10;
const SHARD: ShardId = ShardId(0);

fn options() -> LogOptions {
    LogOptions { segment_bytes: SEGMENT, cache_bytes_max: 0, ..LogOptions::default() }
}

fn open(storage: &SimStorage) -> Result<Log, Error> {
    open_with(storage, options())
}

fn open_with(storage: &SimStorage, options: LogOptions) -> Result<Log, Error> {
    Log::open(Arc::new(storage.clone()), &world(), options, &mut |_| {})
}

fn record(index: u64, bytes: usize) -> Record {
    Record { term: 1, index, kind: 1, payload: Bytes::from(vec![(index % 251) as u8 + 1; bytes]) }
}

fn submit(shard: &ShardLog, records: Vec<Record>) -> oneshot::Receiver<io::Result<()>> {
    let (tx, rx) = oneshot::channel();
    shard.append(records, Box::new(|result| drop(tx.send(result))));
    rx
}

async fn append(shard: &ShardLog, index: u64, bytes: usize) {
    submit(shard, vec![record(index, bytes)]).await.unwrap().unwrap();
}

async fn vote(shard: &ShardLog) -> io::Result<()> {
    let (tx, rx) = oneshot::channel();
    shard.save_vote("vote".into(), Box::new(|result| drop(tx.send(result))));
    rx.await.unwrap()
}

/// Lets the tasks of the log run until a condition holds. Its timers are real, so this may take the
/// tenth of a second between two tries to find space.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::task::yield_now().await;
    }
}

/// A log of `count` records of 1,000 bytes, each a group of its own.
async fn filled(storage: &SimStorage, count: u64) {
    let log = open(storage).unwrap();
    let shard = log.shard(SHARD);
    for index in 0..count {
        append(&shard, index, 1000).await;
    }
    log.close().await;
}

struct Seen {
    entries: Vec<inspect::Entry>,
    result: Result<inspect::Summary, Error>,
}

fn scan(storage: &SimStorage) -> Seen {
    let mut entries = Vec::new();
    let on_entry = &mut |entry: &inspect::Entry| entries.push(entry.clone());
    let result = inspect::scan(storage, on_entry, &mut |_| {});
    Seen { entries, result }
}

/// File name and offset of each record.
fn places(storage: &SimStorage) -> Vec<(String, u64)> {
    let entries = scan(storage).entries.into_iter();
    let appends = entries.filter(|entry| entry.kind == FrameKind::Append);
    appends.map(|entry| (entry.file.replace("sim/", ""), entry.offset)).collect()
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_acknowledged_bytes_stops_the_node() {
    let storage = SimStorage::new();
    filled(&storage, 130).await;
    let places = places(&storage);
    assert_eq!(places.len(), 130);
    assert!(places.last().unwrap().0.as_str() >= "segment-0000000003.log");
    // In each part of frames in the first, in a middle and in the last segment: crc, length, seq,
    // mark, shard, kind, term, index, payload, padding; the last record is protected by the mark
    // of the clean close.
    for place in [0, 1, 60, 61, 62, 63, 64, 100, 129] {
        for byte in [0, 4, 7, 8, 16, 20, 22, 23, 24, 32, 40, 1039] {
            let (file, offset) = &places[place];
            storage.flip(file, offset + byte, 0x10);
            let error = open(&storage).map(drop).unwrap_err();
            let message = error.to_string();
            assert!(
                matches!(&error, Error::Corrupt { file: f, offset: o, .. } if f.ends_with(file) && o == offset),
                "record {place}, byte {byte}: {message}"
            );
            assert!(message.contains(&format!("{file}: offset {offset}")), "{message}");
            assert!(message.contains("do not delete"), "{message}");
            assert_eq!(scan(&storage).result.unwrap_err().to_string(), message);
            storage.flip(file, offset + byte, 0x10);
        }
    }
    open(&storage).unwrap().close().await;
}

#[tokio::test]
async fn a_damaged_segment_header_stops_the_node() {
    let storage = SimStorage::new();
    filled(&storage, 130).await;
    for number in 1..=3 {
        for byte in [0, 8, 12, 16, 20, 24, 32, 40, 60, 4000] {
            let file = format!("segment-{number:010}.log");
            storage.flip(&file, byte, 1);
            let error = open(&storage).map(drop).unwrap_err();
            assert!(
                matches!(&error, Error::Corrupt { file: f, offset: 0, .. } if f.ends_with(&file)),
                "segment {number}, byte {byte}: {error}"
            );
            storage.flip(&file, byte, 1);
        }
    }
    open(&storage).unwrap().close().await;
}

#[tokio::test]
async fn a_missing_segment_stops_the_node() {
    let storage = SimStorage::new();
    filled(&storage, 130).await;
    let middle = storage.restart(Survival::Kept);
    middle.remove("segment-0000000002.log").unwrap();
    let error = open(&middle).map(drop).unwrap_err();
    assert!(
        matches!(&error, Error::MissingSegment { file } if file == "sim/segment-0000000002.log")
    );
    let oldest = storage.restart(Survival::Kept);
    oldest.remove("segment-0000000001.log").unwrap();
    let error = open(&oldest).map(drop).unwrap_err();
    assert!(matches!(error, Error::MissingRecords { from: 0, .. }), "{error}");
    let newest = storage.restart(Survival::Kept);
    for entry in newest.list().unwrap().iter().skip(2) {
        newest.remove(&entry.name).unwrap();
    }
    // Without the last ones the log is a shorter log, and nothing in it can tell.
    open(&newest).unwrap().close().await;
}

#[tokio::test]
async fn a_segment_of_another_log_stops_the_node() {
    let (storage, other) = (SimStorage::new(), SimStorage::new());
    filled(&storage, 130).await;
    filled(&other, 130).await;
    let file = other.open("segment-0000000002.log").unwrap();
    let mut content = vec![0; SEGMENT as usize];
    file.read_at(0, &mut content).unwrap();
    storage.open("segment-0000000002.log").unwrap().write_at(0, &content).unwrap();
    let error = open(&storage).map(drop).unwrap_err();
    assert!(matches!(error, Error::Foreign { .. }), "{error}");
}

/// A log whose last write, of several records, was cut by the power; the disk kept some sectors.
async fn torn(seed: u64) -> SimStorage {
    let storage = SimStorage::new();
    let log = open(&storage).unwrap();
    let shard = log.shard(SHARD);
    append(&shard, 0, 1000).await;
    until(|| log.stats().bytes_on_disk == 2 * SEGMENT).await;
    storage.fault_at(storage.operations() + 2, Fault::PowerCut); // a write, then the sync
    let waits = submit(&shard, (1..9).map(|index| record(index, 1000)).collect());
    assert!(waits.await.unwrap().is_err());
    storage.restart(Survival::Torn(seed))
}

#[tokio::test]
async fn a_torn_group_is_cut_although_sound_records_lie_behind_the_tear() {
    let mut sound_behind_tear = 0;
    for seed in 0..40 {
        let storage = torn(seed).await;
        let summary = scan(&storage).result.unwrap();
        assert!((1..9).contains(&summary.records), "seed {seed}: {summary:?}");
        let log = open(&storage).unwrap();
        let shard = log.shard(SHARD);
        let found = shard.read(0, 99, usize::MAX).unwrap();
        assert_eq!(
            found,
            (0..summary.records).map(|index| record(index, 1000)).collect::<Vec<_>>()
        );
        log.close().await;
        let mended = scan(&storage).result.unwrap();
        assert_eq!((mended.records, mended.torn_bytes), (summary.records, 0), "seed {seed}");
        // The file of the torn disk, once more: is there a whole record behind the tear?
        let file = torn(seed).await.open("segment-0000000001.log").unwrap().map().unwrap();
        let tear = summary.end.unwrap().1 as usize;
        let stride = 1040;
        let behind = (tear + stride..4096 + 9 * stride).step_by(stride);
        sound_behind_tear += u32::from(behind.into_iter().any(|at| {
            let payload = &file[at + 40..at + stride];
            file[at..at + 40].iter().any(|byte| *byte != 0)
                && payload.iter().all(|byte| *byte == payload[0])
                && payload[0] != 0
        }));
    }
    assert!(sound_behind_tear > 0, "the seeds have the case that this is about");
}

#[tokio::test]
async fn damage_behind_a_torn_tail_is_told_from_damage_before_it() {
    // The tear is where it was before, and one acknowledged record is damaged as well.
    let storage = torn(3).await;
    let log = open(&storage).unwrap();
    let shard = log.shard(SHARD);
    let next = shard.state().last.unwrap().index + 1;
    append(&shard, next, 1000).await;
    append(&shard, next + 1, 1000).await;
    log.close().await;
    let (file, offset) = places(&storage)[next as usize].clone();
    storage.flip(&file, offset + 50, 1);
    assert!(matches!(open(&storage), Err(Error::Corrupt { offset: o, .. }) if o == offset));
}

#[tokio::test]
async fn a_full_disk_is_said_early_and_the_log_goes_on_when_there_is_space() {
    let storage = SimStorage::new();
    storage.set_bytes_max(Some(2 * SEGMENT));
    let log = open(&storage).unwrap();
    let shard = log.shard(SHARD);
    assert_eq!(log.space(), Space::Ok);
    let mut index = 0;
    while log.space() == Space::Ok {
        append(&shard, index, 1000).await;
        index += 1;
        assert!(index < 200, "two segments can not hold 200 kB");
    }
    let Space::Full { free_bytes } = log.space() else { unreachable!() };
    assert!(free_bytes > SEGMENT / 4, "said with headroom left: {free_bytes}");
    let names: Vec<_> = storage.list().unwrap().into_iter().map(|entry| entry.name).collect();
    assert_eq!(names, ["segment-0000000001.log", "segment-0000000002.log"], "no half-made file");

    // What is in flight, and votes, still fit; reads go on.
    append(&shard, index, 1000).await;
    vote(&shard).await.unwrap();
    assert_eq!(
        shard.read(0, 3, usize::MAX).unwrap(),
        (0..3).map(|i| record(i, 1000)).collect::<Vec<_>>()
    );

    // Far more than fits is kept waiting, not failed.
    let mut waits: Vec<_> =
        (index + 1..index + 80).map(|index| submit(&shard, vec![record(index, 1000)])).collect();
    let last = waits.pop().unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(log.failure().is_none());
    assert!(matches!(log.space(), Space::Full { .. }));
    assert_eq!(shard.read(0, 999, usize::MAX).unwrap().len() as u64, index + 80);

    storage.set_bytes_max(None);
    last.await.unwrap().unwrap();
    for wait in waits {
        wait.await.unwrap().unwrap();
    }
    until(|| log.space() == Space::Ok).await;
    log.close().await;
    drop((log, shard));

    let log = open(&storage).unwrap();
    let records = log.shard(SHARD).read(0, 999, usize::MAX).unwrap();
    assert_eq!(records, (0..index + 80).map(|i| record(i, 1000)).collect::<Vec<_>>());
    log.close().await;
}

#[tokio::test]
async fn purging_gives_a_full_disk_its_space_back() {
    let storage = SimStorage::new();
    storage.set_bytes_max(Some(2 * SEGMENT));
    let log = open(&storage).unwrap();
    let shard = log.shard(SHARD);
    let mut index = 0;
    while log.space() == Space::Ok {
        append(&shard, index, 1000).await;
        index += 1;
    }
    shard.purge(RecordId { term: 1, index: index - 1 });
    vote(&shard).await.unwrap();
    until(|| log.space() == Space::Ok).await;
    log.close().await;
}

fn kept(storage: &SimStorage) -> Vec<String> {
    let names = storage.list().unwrap().into_iter().map(|entry| entry.name);
    names.filter(|name| name.starts_with("kept-")).collect()
}

/// A log that keeps what is purged, on a storage where that gives way.
fn open_keeping(storage: &SimStorage, bytes_max: u64) -> Log {
    let keep = Some(KeepOptions { bytes_max, ..KeepOptions::default() });
    let storage = yielding(Arc::new(storage.clone()));
    Log::open(storage, &world(), LogOptions { keep, ..options() }, &mut |_| {}).unwrap()
}

/// Appends records of 1,000 bytes up to an index, and purges them but for the last.
async fn append_and_purge(log: &Log, range: std::ops::Range<u64>) {
    let shard = log.shard(SHARD);
    for index in range.clone() {
        append(&shard, index, 1000).await;
    }
    shard.purge(RecordId { term: 1, index: range.end - 2 });
    vote(&shard).await.unwrap();
}

#[tokio::test]
async fn what_is_kept_gives_way_before_anybody_has_to_wait() {
    let storage = SimStorage::new();
    storage.set_bytes_max(Some(6 * SEGMENT));
    let log = open_keeping(&storage, u64::MAX);
    for turn in 0..10 {
        append_and_purge(&log, turn * 100..turn * 100 + 100).await;
        assert_eq!(log.space(), Space::Ok, "turn {turn}");
    }
    until(|| log.stats().kept.0 > 0).await;
    assert!(kept(&storage).len() <= 4, "{:?}", kept(&storage));
    // Others write, too.
    let others = yielding(Arc::new(storage.clone()));
    let file = others.create("other").unwrap();
    file.write_at(0, &vec![1; 4 * SEGMENT as usize]).unwrap();
    assert_eq!(kept(&storage), [""; 0], "all of it was needed");
    let full = file.write_at(4 * SEGMENT, &vec![1; 4 * SEGMENT as usize]).unwrap_err();
    assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    log.close().await;
}

#[tokio::test]
async fn what_is_kept_is_read_with_the_log_and_is_never_a_part_of_it() {
    let storage = SimStorage::new();
    let log = open_keeping(&storage, u64::MAX);
    append_and_purge(&log, 0..300).await;
    until(|| log.stats().kept.0 >= 4).await;
    log.close().await;
    drop(log);

    // Of another log, and behind the log: neither is taken.
    let stranger = SimStorage::new();
    filled(&stranger, 80).await;
    let foreign = stranger.read_small("segment-0000000001.log").unwrap().unwrap();
    for name in ["kept-0000000001-9999999999999.log", "kept-0000000099-9999999999999.log"] {
        storage.replace_small(name, &foreign).unwrap();
    }
    let whole = View::with_kept(&storage).unwrap();
    let mut appends = Vec::new();
    let see = &mut |entry: &inspect::Entry| {
        appends.extend(entry.id.filter(|_| entry.kind == FrameKind::Append));
    };
    inspect::scan(&whole, see, &mut |_| {}).unwrap();
    let indices: Vec<_> = appends.iter().map(|id| id.index).collect();
    assert_eq!(indices, (0..300).collect::<Vec<_>>());
    assert!(whole.open("identity").is_err() && whole.create("x").is_err());

    // Without one of them, it begins behind the hole.
    let names = kept(&storage);
    storage.remove(&names[names.len() - 3]).unwrap();
    let begins = View::with_kept(&storage).unwrap();
    let numbers = begins.list().unwrap().into_iter().map(|entry| entry.name);
    let first = numbers.filter(|name| name.starts_with("segment-")).min().unwrap();
    assert!(names.last().unwrap().starts_with("kept-0000000099"));
    assert!(first > names[names.len() - 3].replace("kept-", "segment-"), "{first}: {names:?}");

    let log = open_keeping(&storage, 0);
    assert_eq!(log.shard(SHARD).read(0, 999, usize::MAX).unwrap(), [record(299, 1000)]);
    until(|| kept(&storage).is_empty()).await;
    log.close().await;
}

#[tokio::test]
async fn a_close_on_a_full_disk_refuses_what_does_not_fit() {
    let storage = SimStorage::new();
    storage.set_bytes_max(Some(SEGMENT));
    let log = open(&storage).unwrap();
    let shard = log.shard(SHARD);
    let waits: Vec<_> = (0..80).map(|index| submit(&shard, vec![record(index, 1000)])).collect();
    log.close().await;
    let mut done = 0;
    for wait in waits {
        done += u64::from(wait.await.unwrap().is_ok());
    }
    assert!((1..80).contains(&done), "{done}");
    drop((log, shard));
    let log = open(&storage).unwrap();
    let last = log.shard(SHARD).state().last.unwrap().index;
    assert!(last + 1 >= done, "{done} were acknowledged, {last} is the last");
    log.close().await;
}

/// A log that meets a fault at its next write or sync; gives the messages of the hook and of the
/// callback that waited.
async fn struck(fault: Fault) -> (SimStorage, Error) {
    let storage = SimStorage::new();
    let told = Arc::new(Mutex::new(Vec::new()));
    let hook = told.clone();
    let on_fatal = Arc::new(move |error: &Error| hook.lock().unwrap().push(error.to_string()));
    let log = open_with(&storage, LogOptions { on_fatal, ..options() }).unwrap();
    let shard = log.shard(SHARD);
    append(&shard, 0, 1000).await;
    until(|| log.stats().bytes_on_disk == 2 * SEGMENT).await;
    storage.fault_next(4, fault);
    let (first, second) = (submit(&shard, vec![record(1, 9)]), submit(&shard, vec![record(2, 9)]));
    let refused = first.await.unwrap().unwrap_err().to_string();
    assert_eq!(second.await.unwrap().unwrap_err().to_string(), refused);
    let operations = storage.operations();
    // Nothing is tried again, whoever asks.
    assert_eq!(vote(&shard).await.unwrap_err().to_string(), refused);
    assert_eq!(storage.operations(), operations);
    assert_eq!(*told.lock().unwrap(), [refused], "the hook is told once");
    assert_eq!(shard.read(0, 1, 1).unwrap(), [record(0, 1000)], "reads go on");
    log.close().await;
    assert_eq!(storage.operations(), operations);
    let error = log.failure().unwrap();
    drop((log, shard));
    (storage, Arc::into_inner(error).unwrap())
}

#[tokio::test]
async fn a_failed_sync_stops_the_log_and_is_not_repeated() {
    let (storage, error) = struck(Fault::SyncFails).await;
    let Error::SyncFailed { file, offset, .. } = error else { panic!("{error}") };
    assert_eq!((file.as_str(), offset > 4096), ("sim/segment-0000000001.log", true));
    // The next process reads the bytes from the page cache. What it then shows must survive a power
    // cut, although the kernel believes that the pages are clean.
    let storage = storage.restart(Survival::Killed);
    let log = open(&storage).unwrap();
    let seen = log.shard(SHARD).read(0, 99, usize::MAX).unwrap();
    assert_eq!(seen.len(), 3, "they were written before the sync failed");
    let storage = storage.restart(Survival::Lost);
    drop(log);
    let log = open(&storage).unwrap();
    assert_eq!(log.shard(SHARD).read(0, 99, usize::MAX).unwrap(), seen);
    log.close().await;
}

#[tokio::test]
async fn a_failed_write_stops_the_log() {
    let (storage, error) = struck(Fault::WriteFails).await;
    assert!(matches!(error, Error::WriteFailed { .. }), "{error}");
    let log = open(&storage.restart(Survival::Kept)).unwrap();
    assert_eq!(log.shard(SHARD).read(0, 99, usize::MAX).unwrap(), [record(0, 1000)]);
    log.close().await;
}

#[tokio::test]
async fn a_record_that_rots_while_the_node_runs_stops_it_when_read() {
    let storage = SimStorage::new();
    let count = Arc::new(AtomicU64::new(0));
    let hook = count.clone();
    let on_fatal = Arc::new(move |_: &Error| {
        hook.fetch_add(1, Ordering::Relaxed);
    });
    let log = open_with(&storage, LogOptions { on_fatal, ..options() }).unwrap();
    let shard = log.shard(SHARD);
    for index in 0..100 {
        append(&shard, index, 1000).await;
    }
    let places = places(&storage);
    for index in [5, 95] {
        let (file, offset) = &places[index as usize];
        storage.flip(file, offset + 100, 1);
        let error = shard.read(index, index + 1, 1).unwrap_err();
        assert!(error.to_string().contains(&format!("{file}: offset {offset}")), "{error}");
    }
    assert_eq!(count.load(Ordering::Relaxed), 1, "the hook is told once");
    assert!(log.failure().is_some());
    log.close().await;
}

#[tokio::test]
async fn a_dump_has_every_frame_and_a_check_the_sums() {
    let storage = SimStorage::new();
    assert_eq!(scan(&storage).result.unwrap(), inspect::Summary::default());
    let log = open(&storage).unwrap();
    let shard = log.shard(ShardId(4));
    append(&shard, 0, 10).await;
    vote(&shard).await.unwrap();
    let id = RecordId { term: 1, index: 0 };
    shard.save_committed(id);
    append(&shard, 1, 10).await;
    shard.truncate_after(Some(id));
    shard.truncate_after(None);
    shard.purge(id);
    log.close().await;
    let seen = scan(&storage);
    let told: Vec<_> =
        seen.entries.iter().map(|entry| (entry.kind.name(), entry.id.map(|id| id.index))).collect();
    let expected = [
        ("append", Some(0)),
        ("vote", None),
        ("committed", Some(0)),
        ("append", Some(1)),
        ("truncate", Some(0)),
        ("truncate", None),
        ("purged", Some(0)),
        ("mark", None),
    ];
    assert_eq!(told, expected);
    let seqs: Vec<_> = seen.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, (2..10).collect::<Vec<_>>(), "the header has number 1");
    let summary = seen.result.unwrap();
    assert_eq!((summary.frames, summary.records, summary.torn_bytes), (8, 2, 0));
    assert_eq!(summary.bytes, storage.bytes_used());
}
