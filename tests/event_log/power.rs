//! The power goes, at every operation of the storage.

use super::*;

/// What became of a life.
struct Life {
    /// The last position that a mark said is on disk.
    marked: Position,
    /// The log at its end, if it came so far.
    log: Option<EventLog>,
}

pub const LIFE_ENTRIES: u64 = 260;

/// Appends, marks, is opened anew at its last mark twice, and lets old segments go. Ends where the power goes.
async fn live(disk: &SimStorage) -> Life {
    let options = EventOptions { retention_ms: 1_500, ..SMALL };
    let mut life = Life { marked: Position::START, log: None };
    for entries in [90, 170, LIFE_ENTRIES] {
        drop(life.log.take());
        settled().await;
        let mut from = index_at(life.marked);
        let Ok(log) = open(disk, options, life.marked) else { return life };
        while from <= entries {
            append(&log, from..from + 10);
            from += 10;
            log.tell_time(time_of(from));
            settled().await;
            // What comes after the last mark comes again.
            if from % 30 == 1 && from < entries {
                match log.mark().await {
                    Ok(position) => life.marked = position,
                    Err(_) => return life,
                }
            }
        }
        life.log = Some(log);
    }
    life
}

/// The files after a life of the same entries without restarts, faults or retention, and the position at its end.
pub async fn reference() -> (BTreeMap<String, Vec<u8>>, Position) {
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    append(&log, 1..=LIFE_ENTRIES);
    let end = log.mark().await.unwrap();
    (content(&disk), end)
}

/// Appends what is missing of the entries of a life, and looks at all there is.
pub async fn goes_on(disk: &SimStorage, log: &EventLog, from: u64, what: &str) {
    let (expected, end) = reference().await;
    append(log, from..=LIFE_ENTRIES);
    assert_eq!(log.mark().await.unwrap(), end, "{what}");
    let oldest = log.oldest();
    let first = (1..=LIFE_ENTRIES).find(|index| first_of(*index) == oldest).unwrap();
    let all: Vec<u64> = (first..=LIFE_ENTRIES).collect();
    assert_eq!(read_all(log, oldest), all, "{what}");
    assert_eq!(audit(disk).unwrap(), (all, end, 0), "{what}");
    for (name, content) in content(disk) {
        assert!(content == expected[&name], "{what}: {name} is another");
    }
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_at_every_operation_loses_nothing_that_was_marked() {
    let mut cuts = 0;
    for operation in 1.. {
        let disk = SimStorage::new();
        disk.fault_at(operation, Fault::PowerCut);
        let marked = live(&disk).await.marked;
        if !disk.is_off() {
            let life = live(&SimStorage::new()).await;
            let removed = life.log.unwrap().oldest();
            assert!(removed > 100, "old segments go: {removed}");
            break;
        }
        cuts += 1;
        for survival in [Survival::Lost, Survival::Kept, Survival::Torn(operation)] {
            let what = format!("cut at {operation}, {survival:?}");
            let disk = disk.restart(survival);
            let log = open(&disk, SMALL, marked).unwrap_or_else(|error| panic!("{what}: {error}"));
            goes_on(&disk, &log, index_at(marked), &what).await;
        }
    }
    assert!(cuts > 100, "{cuts}");
}

#[tokio::test(start_paused = true)]
async fn a_power_cut_around_an_installed_snapshot_leaves_a_gap_and_no_damage() {
    let at = positions(200).await;
    let mut cuts = 0;
    for operation in 1.. {
        let before = cuts;
        // The snapshot is kept before the mark, as by a node that does not wait.
        for (is_awaited, survival) in [
            (false, Survival::Torn(operation)),
            (false, Survival::Lost),
            (true, Survival::Torn(operation)),
        ] {
            let disk = SimStorage::new();
            disk.fault_at(operation, Fault::PowerCut);
            let log = open(&disk, SMALL, Position::START).unwrap();
            append(&log, 1..=35);
            settled().await;
            append(&log, 36..=50);
            let based = log.rebase(at[99]);
            let is_based = !is_awaited || based.await.is_ok();
            append(&log, 100..=120);
            let marked = log.mark().await.unwrap_or(at[99]);
            cuts += u64::from(disk.is_off());
            if !is_based {
                continue;
            }
            let what = format!("{operation}, {survival:?}, awaited {is_awaited}, {marked:?}");
            let disk = disk.restart(survival);
            let log = open(&disk, SMALL, marked).unwrap_or_else(|error| panic!("{what}: {error}"));
            append(&log, index_at(marked)..=140);
            assert_eq!(log.mark().await.unwrap(), at[140], "{what}");
            assert_eq!(read_all(&log, at[99].next), (100..=140).collect::<Vec<_>>(), "{what}");
            let (indices, end, ignored) = audit(&disk).unwrap();
            let split = indices.iter().position(|index| *index == 100).unwrap();
            assert!(indices[..split].iter().copied().eq(1..=split as u64), "{what}: {indices:?}");
            assert!(!is_awaited || split == 50, "{what}: {split}");
            assert_eq!((end, ignored), (at[140], 0), "{what}");
        }
        if cuts == before {
            break;
        }
    }
    assert!(cuts > 60, "{cuts}");
}
