//! A disk that says no, is full, or is slow.

use super::power::{LIFE_ENTRIES, goes_on, reference};
use super::*;

/// Lives as [`live`], but asks again where the disk has said no.
async fn live_on(disk: &SimStorage, notice: Notice) -> EventLog {
    let mut last = Position::START;
    let mut log = None;
    for entries in [90, 170, LIFE_ENTRIES] {
        drop(log.take());
        settled().await;
        let opened = loop {
            let storage = Arc::new(disk.clone());
            match EventLog::open(storage, &world(), SMALL, SHARD, last, notice.clone()) {
                Ok(log) => break log,
                Err(error) => assert_eq!(error.raw_os_error(), Some(5), "{error}"),
            }
        };
        let mut from = index_at(last);
        while from <= entries {
            append(&opened, from..from + 10);
            from += 10;
            settled().await;
            if from % 30 == 1 && from < entries {
                last = marked(&opened).await;
            }
        }
        log = Some(opened);
    }
    log.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_says_no_once_harms_nothing() {
    let mut faults = 0;
    for operation in 1.. {
        let mut struck = false;
        for fault in [Fault::WriteFails, Fault::SyncFails] {
            let what = format!("{fault:?} at {operation}");
            let disk = SimStorage::new();
            disk.fault_at(operation, fault);
            let told: Arc<Mutex<Vec<String>>> = Arc::default();
            let notice = told.clone();
            let log =
                live_on(&disk, Arc::new(move |text| notice.lock().unwrap().push(text.into())));
            let log = log.await;
            struck |= disk.struck() > 0;
            // What a failed sync has made of the bytes shows when the power goes.
            let marked = marked(&log).await;
            let (_, end) = reference().await;
            assert_eq!(marked, end, "{what}");
            assert!(!log.stats().is_failing && !log.is_full(), "{what}");
            let told = told.lock().unwrap().clone();
            assert!(told.len() <= 2, "{what}: {told:?}");
            let disk = disk.restart(Survival::Lost);
            let log = open(&disk, SMALL, end).unwrap_or_else(|error| panic!("{what}: {error}"));
            goes_on(&disk, &log, LIFE_ENTRIES + 1, &what).await;
            faults += 1;
        }
        if !struck {
            break;
        }
    }
    assert!(faults > 100, "{faults}");
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_removed_is_removed_later_and_leaves_no_hole() {
    let few = EventOptions { bytes_max: 8_192, ..SMALL };
    for operation in 1.. {
        let disk = SimStorage::new();
        let log = open(&disk, few, Position::START).unwrap();
        append(&log, 1..=100);
        log.mark().await.unwrap();
        settled().await;
        disk.fault_at(disk.operations() + operation, Fault::WriteFails);
        for index in 101..=150 {
            append(&log, [index]);
            // Until it is tried again.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        let end = marked(&log).await;
        settled().await;
        let on_disk: u64 = content(&disk).values().map(|content| content.len() as u64).sum();
        assert!(on_disk <= 8_192 && on_disk == log.stats().bytes, "{operation}: {on_disk}");
        drop(log);
        settled().await;
        let log = open(&disk, few, end).unwrap_or_else(|error| panic!("{operation}: {error}"));
        assert_eq!(read_all(&log, log.oldest()).last(), Some(&150), "{operation}");
        if disk.struck() == 0 {
            assert!(operation > 50, "{operation}");
            break;
        }
    }
}

/// A record of one event that is as long as one may be, about: a name of 200 bytes, many times over.
fn long_record(index: u64, first: u64) -> Vec<u8> {
    let mut writer = RecordWriter::begin(Vec::new(), SHARD, first, index, time_of(index) * 1_000);
    while writer.len() < 250_000 {
        let mut cause = Cause::new(EventKind::SkuDescribed, id(index));
        cause.body = EventBody::Described { sku: b"s", scale: 0, title: &[b'x'; 200] };
        writer.event(&cause);
    }
    writer.finish()
}

/// Appends long records until so many bytes wait or were taken; the first and the next sequence number.
fn append_long(log: &EventLog, bytes: u64) -> (u64, u64) {
    let first = log.stats().next;
    let (mut next, mut index, mut taken) = (first, 1, 0);
    while taken < bytes {
        let record = long_record(index, next);
        taken += record.len() as u64;
        next = RecordHeader::peek(&record).unwrap().next();
        log.append(record);
        index += 1;
    }
    (first, next)
}

#[tokio::test(start_paused = true)]
async fn what_comes_shortly_after_another_is_written_with_it() {
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    settled().await;
    for index in 1..=3 {
        append(&log, [index]);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!((disk.operations(), log.stats().next), (0, 1));
    settled().await;
    assert_eq!(
        (disk.operations(), log.stats().next),
        (3, first_of(4)),
        "a file, its name, a write"
    );
}

#[tokio::test(start_paused = true)]
async fn what_nobody_waits_for_is_synced_soon_nevertheless() {
    let disk = SimStorage::new();
    let log = open(&disk, EventOptions::default(), Position::START).unwrap();
    append_long(&log, 20 << 20);
    settled().await;
    let bytes = disk.restart(Survival::Lost).bytes_used();
    assert!(bytes > 14 << 20, "{bytes} of 20 MiB are on disk");
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_drops_nothing_and_is_told() {
    let (expected, end) = reference().await;
    let all: u64 = expected.values().map(|content| content.len() as u64).sum();
    for bytes_max in (0..all + 500).step_by(97) {
        let disk = SimStorage::new();
        disk.set_bytes_max(Some(bytes_max));
        let told: Arc<Mutex<Vec<String>>> = Arc::default();
        let notices = told.clone();
        let notice: Notice = Arc::new(move |text| notices.lock().unwrap().push(text.to_owned()));
        let storage = Arc::new(disk.clone());
        let log = EventLog::open(storage, &world(), SMALL, SHARD, Position::START, notice).unwrap();
        append(&log, 1..=LIFE_ENTRIES);
        let result = log.mark().await;
        let is_small = result.is_err();
        if let Err(error) = &result {
            // A snapshot waits for space, and for nothing else.
            assert_eq!(error.kind(), ErrorKind::StorageFull, "{bytes_max}");
        }
        assert!(is_small || bytes_max >= all, "{bytes_max} of {all}");
        assert_eq!((log.is_full(), log.stats().is_failing), (is_small, is_small), "{bytes_max}");
        // What is written can be read, and more is taken in.
        let readable = log.stats().next;
        assert_eq!(
            read_all(&log, log.oldest()).len() as u64 + 1,
            index_of(readable),
            "{bytes_max}"
        );
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_eq!(told.lock().unwrap().len(), usize::from(is_small), "told once");
        disk.set_bytes_max(None);
        assert_eq!(marked(&log).await, end, "{bytes_max}");
        assert_eq!((log.is_full(), log.stats().is_failing), (false, false));
        assert_eq!(told.lock().unwrap().len(), 2 * usize::from(is_small), "told that it is over");
        assert!(content(&disk.restart(Survival::Lost)) == expected, "{bytes_max}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_appends_waits_when_too_much_waits_for_the_disk() {
    let disk = SimStorage::new();
    let log = open(&disk, EventOptions::default(), Position::START).unwrap();
    disk.set_bytes_max(Some(0));
    log.room().await;
    let (first, next) = append_long(&log, 60 << 20);
    let at_once = |log: EventLog| async move {
        let waited = tokio::time::timeout(Duration::from_secs(60), log.room()).await;
        (log, waited.is_ok())
    };
    let (log, has_room) = at_once(log).await;
    assert!(has_room, "60 MiB may wait");
    let mut next = next;
    for index in 1_000..1_020 {
        let record = long_record(index, next);
        next = RecordHeader::peek(&record).unwrap().next();
        log.append(record);
    }
    let (log, has_room) = at_once(log).await;
    assert!(!has_room, "65 MiB are too much");
    assert!(log.stats().waiting_bytes > 64 << 20);
    disk.set_bytes_max(None);
    let (log, has_room) = at_once(log).await;
    assert!(has_room);
    assert_eq!(marked(&log).await.next, next);
    assert_eq!(log.stats().waiting_bytes, 0);
    assert_eq!(log.read(first, 1).unwrap().first, first);
}
