//! Reading and looking up, on a disk that does what it should.

use super::*;

#[tokio::test(start_paused = true)]
async fn what_is_appended_is_read_and_found_again() {
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    let mut readable = log.subscribe();
    assert_eq!((readable.borrow_and_update().next, log.oldest()), (1, 1));
    append(&log, 1..=500);
    readable.changed().await.unwrap();
    let position = log.mark().await.unwrap();
    assert_eq!(position.next, first_of(501));
    assert_eq!(readable.borrow_and_update().next, position.next);
    assert_eq!(read_all(&log, 1), (1..=500).collect::<Vec<_>>());
    let stats = log.stats();
    assert!(stats.segments > 5, "{stats:?}");
    assert_eq!((stats.events, stats.waiting_bytes, stats.gaps), (position.next - 1, 0, 0));
    assert_eq!((stats.oldest, stats.next, stats.is_failing), (1, position.next, false));
    assert_eq!(stats.bytes, disk.bytes_used());
    // Nobody asks for a sync, and it is read nevertheless.
    append(&log, 501..=600);
    settled().await;
    assert_eq!(read_all(&log, first_of(400)), (400..=600).collect::<Vec<_>>());
    drop(log);
    settled().await;
    let log = open(&disk, SMALL, position).unwrap();
    assert_eq!(read_all(&log, 1), (1..=500).collect::<Vec<_>>(), "what comes again is cut off");
    append(&log, 501..=700);
    let end = log.mark().await.unwrap();
    assert_eq!(read_all(&log, 1), (1..=700).collect::<Vec<_>>());
    assert_eq!(audit(&disk).unwrap(), ((1..=700).collect(), end, 0));
}

#[tokio::test(start_paused = true)]
async fn a_chunk_has_whole_records_from_the_one_with_the_event() {
    let log = open(&SimStorage::new(), SMALL, Position::START).unwrap();
    append(&log, 1..=100);
    log.mark().await.unwrap();
    for index in 1..=100 {
        for from in first_of(index)..first_of(index + 1) {
            let chunk = log.read(from, 0).unwrap();
            assert_eq!((chunk.first, chunk.next), (first_of(index), first_of(index + 1)));
            let bytes_max = 3 * chunk.bytes.len() + 1;
            let chunk = log.read(from, bytes_max).unwrap();
            assert_eq!(chunk.first, first_of(index));
            assert!((1..=bytes_max).contains(&chunk.bytes.len()));
        }
    }
    let whole = log.read(1, usize::MAX).unwrap();
    assert_eq!(whole.next, log.stats().next.min(whole.next));
    assert_eq!(whole.part(1, whole.bytes.len()), whole);
    for from in 1..whole.next {
        for bytes_max in [0, 100, 1_000] {
            assert_eq!(whole.part(from, bytes_max), log.read(from, bytes_max).unwrap(), "{from}");
        }
    }
    assert!(whole.bytes.len() > 1_500, "a segment at once");
    let next = first_of(101);
    for from in [next, next + 1, u64::MAX] {
        assert!(matches!(log.read(from, 1), Err(ReadError::Ahead { next: n }) if n == next));
    }
    assert!(matches!(log.read(0, 1), Err(ReadError::Gone { oldest: 1 })));
}

#[tokio::test(start_paused = true)]
async fn the_events_of_a_key_are_found_in_both_directions() {
    let log = open(&SimStorage::new(), SMALL, Position::START).unwrap();
    append(&log, 1..=700);
    settled().await;
    let next = first_of(701);
    for cell in 0..7 {
        let key = Key::Cell(CellHandle(cell));
        let is_it = |index: &u64| index % 7 == u64::from(cell);
        let mut expected: Vec<_> = (1..=700).filter(is_it).collect();
        assert_eq!(scanned(&log, key, 1..u64::MAX, Direction::Forward), expected);
        expected.reverse();
        assert_eq!(scanned(&log, key, 1..u64::MAX, Direction::Backward), expected);
        let (from, to) = (first_of(120), first_of(350));
        expected.retain(|index| (120..350).contains(index));
        assert_eq!(scanned(&log, key, from..to, Direction::Backward), expected);
    }
    // All events of an entry are about its id; a range may begin and end inside of a record.
    let key = Key::Id(id(303));
    assert_eq!(scanned(&log, key, 1..next, Direction::Backward), [303; 4]);
    let first = first_of(303);
    assert_eq!(scanned(&log, key, first + 1..first + 3, Direction::Forward), [303; 2]);
    assert_eq!(scanned(&log, Key::Id(id(701)), 1..next, Direction::Forward), NONE);
    assert_eq!(scanned(&log, Key::Cell(CellHandle(99)), 1..next, Direction::Backward), NONE);
    assert_eq!(scanned(&log, key, next..u64::MAX, Direction::Forward), NONE);
    // The newest event of several, and no more.
    let mut seen = Vec::new();
    let stopped = log.scan(Key::Id(id(303)), 1..next, Direction::Backward, &mut |event| {
        seen.push(event.sequence);
        ControlFlow::Break(())
    });
    assert_eq!((stopped.unwrap(), seen), (ControlFlow::Break(()), vec![first + 3]));
}

#[tokio::test(start_paused = true)]
async fn a_time_is_found() {
    let log = open(&SimStorage::new(), SMALL, Position::START).unwrap();
    append(&log, 1..=300);
    settled().await;
    for index in 1..=300 {
        assert_eq!(log.find(time_of(index) * 1_000).unwrap(), first_of(index));
        assert_eq!(log.find(time_of(index) * 1_000 + 1).unwrap(), first_of(index + 1));
    }
    assert_eq!((log.find(0).unwrap(), log.find(u64::MAX).unwrap()), (1, first_of(301)));
}
