//! The log on real files: what goes in comes out, also after a restart.

#![expect(clippy::unwrap_used, reason = "helpers of tests, not only tests, may stop the test")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use stockd::log::{Error, Log, LogOptions, RealStorage, Record, RecordId, ShardLog, Storage};
use stockd::protocol::ShardId;
use stockd::world::World;
use tokio::sync::oneshot;

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("stockd-log-{}-{count}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

const SHARD: ShardId = ShardId(3);

fn options() -> LogOptions {
    LogOptions { segment_bytes: 64 << 10, ..LogOptions::default() }
}

fn open(path: &Path) -> Result<Log, Error> {
    open_with(path, options())
}

fn open_with(path: &Path, options: LogOptions) -> Result<Log, Error> {
    let storage = Arc::new(RealStorage::open(path)?);
    Log::open(storage, &World::real(), options, &mut |_| {})
}

fn record(term: u64, index: u64, bytes: usize) -> Record {
    let kind = (index % 7) as u8;
    Record { term, index, kind, payload: Bytes::from(vec![(index % 251) as u8; bytes]) }
}

fn records(term: u64, range: std::ops::Range<u64>, bytes: usize) -> Vec<Record> {
    range.map(|index| record(term, index, bytes)).collect()
}

async fn append(shard: &ShardLog, records: Vec<Record>) {
    let (tx, rx) = oneshot::channel();
    shard.append(records, Box::new(|result| tx.send(result).unwrap()));
    rx.await.unwrap().unwrap();
}

async fn vote(shard: &ShardLog, vote: &'static str) {
    let (tx, rx) = oneshot::channel();
    shard.save_vote(vote.into(), Box::new(|result| tx.send(result).unwrap()));
    rx.await.unwrap().unwrap();
}

fn id(term: u64, index: u64) -> Option<RecordId> {
    Some(RecordId { term, index })
}

#[tokio::test]
async fn everything_is_there_after_a_restart() {
    let directory = Directory::new();
    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    assert_eq!(shard.state(), Default::default());
    append(&shard, records(1, 0..10, 100)).await;
    vote(&shard, "first").await;
    vote(&shard, "second").await;
    shard.save_committed(RecordId { term: 1, index: 7 });
    append(&shard, records(2, 10..12, 0)).await;
    let before = shard.state();
    log.close().await;
    drop((log, shard));

    let log = open(&directory.0).unwrap();
    assert_eq!(log.shards(), [SHARD]);
    let shard = log.shard(SHARD);
    assert_eq!(shard.state(), before);
    assert_eq!(before.vote.as_deref(), Some(&b"second"[..]));
    assert_eq!((before.committed, before.last), (id(1, 7), id(2, 11)));
    let mut expected = records(1, 0..10, 100);
    expected.extend(records(2, 10..12, 0));
    assert_eq!(shard.read(0, 100, usize::MAX).unwrap(), expected);
    assert_eq!(shard.read(3, 5, usize::MAX).unwrap(), expected[3..5]);
    assert_eq!(shard.read(0, 100, 250).unwrap(), expected[..2], "two fit");
    assert_eq!(shard.read(0, 100, 1).unwrap(), expected[..1], "one at least");
    assert_eq!(shard.read(12, 100, 1).unwrap(), []);
    log.close().await;
}

#[tokio::test]
async fn records_are_readable_before_they_are_written() {
    let directory = Directory::new();
    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    let (tx, rx) = oneshot::channel();
    shard.append(records(1, 0..3, 10), Box::new(|result| tx.send(result).unwrap()));
    assert_eq!(shard.read(0, 3, usize::MAX).unwrap(), records(1, 0..3, 10));
    rx.await.unwrap().unwrap();
    log.close().await;
}

#[tokio::test]
async fn rotates_purges_and_reads_old_records_from_the_files() {
    let directory = Directory::new();
    let log = open_with(&directory.0, LogOptions { cache_bytes_max: 0, ..options() }).unwrap();
    let shard = log.shard(SHARD);
    for start in (0..400).step_by(10) {
        append(&shard, records(1, start..start + 10, 1000)).await;
    }
    let stats = log.stats();
    assert!(stats.segments >= 7, "400 kB in segments of 64 KiB: {stats:?}");
    assert_eq!(shard.read(0, 400, usize::MAX).unwrap(), records(1, 0..400, 1000));
    shard.purge(RecordId { term: 1, index: 250 });
    assert_eq!(shard.read(0, 400, usize::MAX).unwrap(), records(1, 251..400, 1000));
    append(&shard, records(1, 400..401, 1000)).await;
    assert!(log.stats().segments < stats.segments);
    log.close().await;
    drop((log, shard));

    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    assert_eq!((shard.state().purged, shard.state().last), (id(1, 250), id(1, 400)));
    assert_eq!(shard.read(0, 999, usize::MAX).unwrap(), records(1, 251..401, 1000));
    append(&shard, records(2, 401..402, 5)).await;
    log.close().await;
}

#[tokio::test]
async fn a_truncated_tail_is_replaced_by_the_new_one() {
    let directory = Directory::new();
    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    append(&shard, records(1, 0..10, 50)).await;
    shard.truncate_after(id(1, 4));
    assert_eq!(shard.state().last, id(1, 4));
    assert_eq!(shard.read(0, 10, usize::MAX).unwrap(), records(1, 0..5, 50));
    append(&shard, records(2, 5..7, 60)).await;
    let mut expected = records(1, 0..5, 50);
    expected.extend(records(2, 5..7, 60));
    assert_eq!(shard.read(0, 10, usize::MAX).unwrap(), expected);
    log.close().await;
    drop((log, shard));

    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    assert_eq!(shard.read(0, 10, usize::MAX).unwrap(), expected);
    shard.truncate_after(None);
    assert_eq!(shard.state().last, None);
    vote(&shard, "so that the truncate is synced").await;
    log.close().await;
    drop((log, shard));

    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    assert_eq!(shard.state().last, None);
    assert_eq!(shard.read(0, 10, usize::MAX).unwrap(), []);
    append(&shard, records(3, 7..8, 1)).await;
    assert_eq!(shard.read(0, 10, usize::MAX).unwrap(), records(3, 7..8, 1));
    log.close().await;
}

#[tokio::test]
async fn a_purge_beyond_the_end_moves_the_end() {
    let directory = Directory::new();
    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    append(&shard, records(1, 0..5, 50)).await;
    shard.purge(RecordId { term: 4, index: 100 });
    assert_eq!((shard.state().purged, shard.state().last), (id(4, 100), id(4, 100)));
    append(&shard, records(4, 101..103, 50)).await;
    log.close().await;
    drop((log, shard));

    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    assert_eq!((shard.state().purged, shard.state().last), (id(4, 100), id(4, 102)));
    assert_eq!(shard.read(0, 999, usize::MAX).unwrap(), records(4, 101..103, 50));
    log.close().await;
}

#[tokio::test]
async fn shards_share_the_log_and_keep_apart() {
    let directory = Directory::new();
    let log = open(&directory.0).unwrap();
    let (one, two) = (log.shard(ShardId(1)), log.shard(ShardId(2)));
    for index in 0..100 {
        append(&one, records(1, index..index + 1, 900)).await;
        append(&two, records(2, index..index + 1, 700)).await;
    }
    // A segment stays while either shard needs it.
    let segments = log.stats().segments;
    one.purge(RecordId { term: 1, index: 99 });
    append(&one, records(1, 100..101, 1)).await;
    assert_eq!(log.stats().segments, segments);
    two.purge(RecordId { term: 2, index: 99 });
    append(&two, records(2, 100..101, 1)).await;
    assert!(log.stats().segments < segments);
    log.close().await;
    drop((log, one, two));

    let log = open(&directory.0).unwrap();
    let (one, two) = (log.shard(ShardId(1)), log.shard(ShardId(2)));
    assert_eq!(one.read(0, 999, usize::MAX).unwrap(), records(1, 100..101, 1));
    assert_eq!(two.read(0, 999, usize::MAX).unwrap(), records(2, 100..101, 1));
    log.close().await;
}

#[tokio::test]
async fn a_dropped_tail_keeps_no_segment() {
    let directory = Directory::new();
    let log = open(&directory.0).unwrap();
    let (idle, busy) = (log.shard(ShardId(1)), log.shard(ShardId(2)));
    append(&idle, records(1, 0..30, 900)).await;
    idle.truncate_after(id(1, 9));
    append(&busy, records(1, 0..100, 800)).await;
    idle.purge(RecordId { term: 1, index: 9 });
    log.close().await;
    drop((log, idle, busy));
    // What the restart counts and what the running log counts must agree.
    let log = open(&directory.0).unwrap();
    let (idle, busy) = (log.shard(ShardId(1)), log.shard(ShardId(2)));
    let segments = log.stats().segments;
    busy.purge(RecordId { term: 1, index: 60 });
    vote(&busy, "synced").await;
    let after = log.stats().segments;
    assert!(after < segments, "{after} of {segments}: the records 10 to 29 of shard 1 are gone");
    append(&idle, records(2, 10..60, 900)).await;
    idle.truncate_after(id(2, 19));
    append(&busy, records(1, 100..200, 900)).await;
    idle.purge(RecordId { term: 2, index: 19 });
    busy.purge(RecordId { term: 1, index: 199 });
    vote(&busy, "synced").await;
    assert_eq!(log.stats().segments, 1, "nobody needs any but the one in use");
    log.close().await;
}

#[tokio::test]
async fn a_second_process_is_refused() {
    let directory = Directory::new();
    let storage = RealStorage::open(&directory.0).unwrap();
    assert!(matches!(RealStorage::open(&directory.0), Err(Error::Locked { .. })));
    drop(storage);
    RealStorage::open(&directory.0).unwrap();
}

#[tokio::test]
async fn what_can_not_be_kept_is_refused() {
    let directory = Directory::new();
    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    let (tx, rx) = oneshot::channel();
    let long = record(1, 0, log.record_bytes_max() + 1);
    shard.append(vec![long], Box::new(|result| tx.send(result).unwrap()));
    assert_eq!(rx.await.unwrap().unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    assert_eq!(shard.state().last, None);
    append(&shard, records(1, 0..1, log.record_bytes_max())).await;
    log.close().await;
    let (tx, rx) = oneshot::channel();
    shard.append(records(1, 1..2, 1), Box::new(|result| tx.send(result).unwrap()));
    assert_eq!(rx.await.unwrap().unwrap_err().to_string(), Error::Closed.to_string());
}

#[test]
fn small_files_are_replaced_in_one_step() {
    let directory = Directory::new();
    let storage = RealStorage::open(&directory.0).unwrap();
    assert_eq!(storage.read_small("identity").unwrap(), None);
    storage.replace_small("identity", b"one").unwrap();
    storage.replace_small("identity", b"three").unwrap();
    assert_eq!(storage.read_small("identity").unwrap().as_deref(), Some(&b"three"[..]));
    let reader = RealStorage::open_read_only(&directory.0).unwrap();
    assert_eq!(reader.read_small("identity").unwrap().as_deref(), Some(&b"three"[..]));
    assert!(reader.replace_small("identity", b"four").is_err());
}

/// Recovery would refuse the hole, and with it all that was acknowledged behind it.
#[tokio::test]
#[should_panic(expected = "behind a snapshot neither")]
async fn a_hole_behind_a_purge_is_a_bug() {
    let directory = Directory::new();
    let log = open(&directory.0).unwrap();
    let shard = log.shard(SHARD);
    shard.purge(RecordId { term: 1, index: 10 });
    shard.append(vec![record(1, 15, 10)], Box::new(|_| ()));
}
