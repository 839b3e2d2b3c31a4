//! What is on disk is not what was written.

use super::*;

const ENTRIES: u64 = 60;

/// Three segments, of which the last is not sealed, and the position at the end of them.
async fn written() -> (SimStorage, Position) {
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    append(&log, 1..=ENTRIES);
    let end = log.mark().await.unwrap();
    assert_eq!(log.stats().segments, 3);
    drop(log);
    settled().await;
    (disk.restart(Survival::Kept), end)
}

/// The same, in another history.
async fn written_otherwise() -> SimStorage {
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    for index in 1..=ENTRIES {
        let mut record = record(index, first_of(index));
        // The last byte is a part of a counter.
        *record.last_mut().unwrap() ^= u8::from(index == 7);
        log.append(record);
    }
    log.mark().await.unwrap();
    disk
}

fn names(disk: &SimStorage) -> Vec<String> {
    disk.list().unwrap().into_iter().map(|entry| entry.name).collect()
}

fn replace(disk: &SimStorage, name: &str, content: &[u8]) {
    let file = disk.create(name).unwrap();
    file.write_at(0, content).unwrap();
    file.sync_data().unwrap();
    disk.sync_dir().unwrap();
}

/// Where a read from outside finds something wrong.
fn found(disk: &SimStorage) -> (String, u64, Flaw) {
    match audit(disk) {
        Err(ReadError::Damaged { file, offset, flaw }) => (file, offset, flaw),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_byte_that_was_changed_is_found_from_outside() {
    let (disk, end) = written().await;
    assert_eq!(audit(&disk).unwrap().1, end);
    let names = names(&disk);
    for (number, name) in names.iter().enumerate() {
        let bytes = content(&disk)[name].len() as u64;
        let is_last = number + 1 == names.len();
        for offset in (0..bytes).filter(|offset| offset % 5 == 0 || *offset < 64) {
            disk.flip(name, offset, 0x10);
            match audit(&disk) {
                // Of the last record, nobody can say that it was ever whole.
                Ok((.., ignored)) => {
                    assert!(is_last && ignored > bytes - offset, "{name} {offset}")
                }
                Err(ReadError::Damaged { file, offset: found, .. }) => {
                    assert!(file.ends_with(name), "{name} {offset}: {file}");
                    // An index that does not fit is told where it begins.
                    assert!(found <= offset || found > bytes - 96, "{name} {offset}: {found}");
                }
                Err(error) => panic!("{name} {offset}: {error}"),
            }
            disk.flip(name, offset, 0x10);
        }
    }
    assert_eq!(audit(&disk).unwrap().1, end);
}

#[tokio::test(start_paused = true)]
async fn damage_before_the_position_stops_the_start_and_says_where() {
    let (disk, end) = written().await;
    let names = names(&disk);
    let name = &names[2];
    let bytes = content(&disk)[name].len() as u64;
    let at = positions(ENTRIES + 1).await;
    assert_eq!(at[ENTRIES as usize], end);
    let last = bytes - record(ENTRIES, 1).len() as u64;
    let mut lost = 0;
    for offset in 0..bytes {
        let damaged = disk.restart(Survival::Kept);
        damaged.flip(name, offset, 0x10);
        match open(&damaged, SMALL, end) {
            Err(error) => {
                let text = error.to_string();
                assert_eq!(error.kind(), ErrorKind::InvalidData, "{offset}");
                for part in
                    [&format!("sim/{name}: at byte "), "start the node on an empty", "sim/events-*"]
                {
                    assert!(text.contains(part), "{offset}: {text}");
                }
            }
            // How many events the last record has is the one thing that cannot be told from a torn write of an
            // older history.
            Ok(log) => {
                settled().await;
                assert!((last + 36..last + 40).contains(&offset), "{offset} of {last}");
                assert_eq!(log.stats().gaps, 1);
                lost += 1;
            }
        }
    }
    assert_eq!(lost, 4);
    let disk = disk.restart(Survival::Kept);
    // The head and the end of a sealed one. What is between is found when it is read.
    for name in &names[..2] {
        let bytes = content(&disk)[name].len() as u64;
        for offset in (0..64).chain(bytes - 96..bytes) {
            disk.flip(name, offset, 0x10);
            let error = open(&disk, SMALL, end).err().expect("it is damaged").to_string();
            assert!(error.contains(name), "{offset}: {error}");
            disk.flip(name, offset, 0x10);
        }
        for offset in (64..bytes - 96).step_by(31) {
            disk.flip(name, offset, 0x10);
            let log = open(&disk, SMALL, end).unwrap();
            assert!(reads_wrong(&log), "{name} {offset}");
            drop(log);
            settled().await;
            disk.flip(name, offset, 0x10);
        }
    }
    assert!(!reads_wrong(&open(&disk, SMALL, end).unwrap()));
}

/// Does a read of all events find damage?
fn reads_wrong(log: &EventLog) -> bool {
    let mut from = 1;
    loop {
        match log.read(from, 300) {
            Ok(chunk) => from = chunk.next,
            Err(ReadError::Ahead { .. }) => return false,
            Err(ReadError::Damaged { file, .. }) => {
                assert!(file.contains("events-"), "{file}");
                return true;
            }
            Err(error) => panic!("{from}: {error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn another_history_is_refused() {
    let (disk, end) = written().await;
    let at = positions(ENTRIES + 1).await;
    for (index, position) in at.iter().enumerate().skip(1) {
        let other = Position { chain: at[index - 1].chain, ..*position };
        let error = open(&disk, SMALL, other).err().expect("it is of another history");
        assert!(error.to_string().contains("the chain is another"), "{index}: {error}");
    }
    // In the middle of a record.
    let inside = Position { next: first_of(47) + 1, ..at[46] };
    assert!(open(&disk, SMALL, inside).is_err());
    let other = Position::told(end.next, [7; 32]);
    let error = open(&disk, SMALL, other).err().expect("it is of another history");
    assert!(error.to_string().contains("the chain is another"), "{error}");
    // Nothing was cut off: with the right one, all is there.
    let log = open(&disk, SMALL, end).unwrap();
    assert_eq!(read_all(&log, 1).len() as u64, ENTRIES);
}

#[tokio::test(start_paused = true)]
async fn segments_that_were_swapped_or_lost_are_found() {
    let (disk, end) = written().await;
    let (names, whole) = (names(&disk), content(&disk));
    // Two changed places.
    let swapped = disk.restart(Survival::Kept);
    replace(&swapped, &names[0], &whole[&names[1]]);
    replace(&swapped, &names[1], &whole[&names[0]]);
    let (file, offset, flaw) = found(&swapped);
    assert!(file.ends_with(&names[0]) && offset == 0, "{file} {offset}");
    assert!(matches!(flaw, Flaw::Sequence { expected: 1, .. }), "{flaw}");
    assert!(open(&swapped, SMALL, end).is_err());
    // One comes from another history, of the same length.
    let other = written_otherwise().await;
    let other = content(&other);
    assert_ne!(other[&names[0]], whole[&names[0]]);
    for (number, name) in names.iter().enumerate() {
        let mixed = disk.restart(Survival::Kept);
        replace(&mixed, name, &other[name]);
        let (file, offset, flaw) = found(&mixed);
        // The one after the first has another chain before it.
        let wrong = &names[number.max(1)];
        assert!(file.ends_with(wrong) && offset == 0 && flaw == Flaw::Chain, "{file} {flaw}");
        let error = open(&mixed, SMALL, end).err().expect("it is of another history").to_string();
        assert!(error.contains(wrong.as_str()), "{error}");
    }
    // One is gone, and no snapshot was installed.
    let lost = disk.restart(Survival::Kept);
    lost.remove(&names[1]).unwrap();
    let (file, _, flaw) = found(&lost);
    assert!(file.ends_with(&names[2]) && matches!(flaw, Flaw::Sequence { .. }), "{file} {flaw}");
    assert!(open(&lost, SMALL, end).is_err());
    // The oldest ones may be gone.
    let old = disk.restart(Survival::Kept);
    old.remove(&names[0]).unwrap();
    assert!(audit(&old).is_ok() && open(&old, SMALL, end).is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_record_that_was_dropped_or_replaced_is_found() {
    let (disk, _) = written().await;
    let (names, whole) = (names(&disk), content(&disk));
    let (dropped, from) = (3, 64 + record(1, 1).len() + record(2, 1).len());
    let content = &whole[&names[0]];
    let record_bytes = record(dropped, 1).len();
    let mut without = content.clone();
    without.drain(from..from + record_bytes);
    let disk_without = disk.restart(Survival::Kept);
    replace(&disk_without, &names[0], &without);
    let (file, offset, flaw) = found(&disk_without);
    assert!(file.ends_with(&names[0]), "{file}");
    // The end of the segment tells where its records end, which is not there any more.
    assert!(offset >= from as u64 && !matches!(flaw, Flaw::Chain), "{offset}: {flaw}");
    // One that is as good as the right one, but for the chain.
    let mut forged = content.clone();
    let end = from + record_bytes;
    forged[end - 1] ^= 1;
    seal(&mut forged[from..end]);
    let disk_forged = disk.restart(Survival::Kept);
    replace(&disk_forged, &names[0], &forged);
    let (file, _, flaw) = found(&disk_forged);
    assert!(file.ends_with(&names[0]) && flaw == Flaw::Chain, "{file} {flaw}");
    let directory = EventDir::open(&disk_forged).unwrap();
    let mut records = directory.records(Checks::Records);
    let mut count = 0;
    while records.next().unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, ENTRIES, "who does not look at the chain is content");
}

#[tokio::test(start_paused = true)]
async fn an_audit_goes_on_behind_what_is_wrong() {
    let (disk, end) = written().await;
    let names = names(&disk);
    disk.flip(&names[0], 200, 1);
    disk.flip(&names[1], 300, 1);
    let directory = EventDir::open(&disk).unwrap();
    let mut records = directory.records(Checks::Index);
    let (mut wrong, mut last) = (Vec::new(), 0);
    loop {
        match records.next() {
            Ok(Some(found)) => last = found.record.header().index,
            Ok(None) => break,
            Err(error) => wrong.push(error.to_string()),
        }
    }
    assert_eq!(wrong.len(), 2, "{wrong:?}");
    assert!(wrong[0].contains(&names[0]) && wrong[1].contains(&names[1]), "{wrong:?}");
    assert_eq!((last, records.position()), (ENTRIES, Some(end)));
}

#[tokio::test(start_paused = true)]
async fn a_directory_is_read_while_it_is_written() {
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    let mut seen = Vec::new();
    for index in 1..=150 {
        append(&log, [index]);
        settled().await;
        let (indices, position, ignored) = audit(&disk).unwrap();
        assert_eq!((position.next, ignored), (first_of(index + 1), 0));
        seen.push(indices.len() as u64);
    }
    assert_eq!(seen, (1..=150).collect::<Vec<_>>());
    // What was there when it was opened is read to its end, though it is removed, shortened and written again.
    let directory = EventDir::open(&disk).unwrap();
    let mut records = directory.records(Checks::Chain);
    assert!(records.next().unwrap().is_some());
    let middle = positions(100).await[99];
    drop(log);
    settled().await;
    let log = open(&disk, SMALL, middle).unwrap();
    let mut last = 0;
    while let Some(found) = records.next().unwrap() {
        last = found.record.header().index;
    }
    assert!((99..=150).contains(&last), "{last}");
    append(&log, 100..=150);
    log.mark().await.unwrap();
    assert_eq!(audit(&disk).unwrap().0.len(), 150);
}
