//! What goes, what is missing, and what comes again.

use super::*;

#[tokio::test(start_paused = true)]
async fn the_oldest_segments_go_by_bytes_and_by_age() {
    let disk = SimStorage::new();
    let options = EventOptions { bytes_max: 10_000, ..SMALL };
    let log = open(&disk, options, Position::START).unwrap();
    append(&log, 1..=400);
    log.mark().await.unwrap();
    settled().await;
    let stats = log.stats();
    assert!((7_000..=10_000).contains(&stats.bytes), "{stats:?}");
    assert_eq!(stats.bytes, disk.bytes_used());
    let oldest = log.oldest();
    let last = (1..=400).collect::<Vec<_>>().split_off(index_of(oldest) as usize - 1);
    assert_eq!(read_all(&log, oldest), last);
    for gone in [1, oldest - 1] {
        assert!(matches!(log.read(gone, 1), Err(ReadError::Gone { oldest: o }) if o == oldest));
    }
    let key = Key::Cell(CellHandle(3));
    let expected: Vec<_> = last.iter().rev().copied().filter(|index| index % 7 == 3).collect();
    let mut seen = Vec::new();
    let result = log.scan(key, 1..u64::MAX, Direction::Backward, &mut |event| {
        seen.push(event.index);
        ControlFlow::Continue(())
    });
    assert!(matches!(result, Err(ReadError::Gone { oldest: o }) if o == oldest));
    assert_eq!(seen, expected, "what is here was shown before");
    let result = log.scan(key, 1..u64::MAX, Direction::Forward, &mut |_| panic!("there is a gap"));
    assert!(matches!(result, Err(ReadError::Gone { oldest: o }) if o == oldest));

    let disk = SimStorage::new();
    let options = EventOptions { retention_ms: 1_000, ..SMALL };
    let log = open(&disk, options, Position::START).unwrap();
    append(&log, 1..=300);
    log.mark().await.unwrap();
    assert_eq!(log.oldest(), 1, "nobody has told the time");
    log.tell_time(time_of(200));
    append(&log, [301]);
    settled().await;
    let oldest = index_of(log.oldest());
    // The last event of what is there is not older, and that of the segment before is.
    assert!((70..=100).contains(&oldest), "{oldest}");
    // Nothing comes, and time goes on: what is not full goes, too.
    let end = log.position();
    log.tell_time(time_of(301) + 59_000);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!(log.stats().segments, 1, "it is not long enough to end");
    assert_eq!(read_all(&log, log.oldest()).last(), Some(&301));
    log.tell_time(time_of(301) + 61_000);
    tokio::time::sleep(Duration::from_secs(70)).await;
    assert_eq!((log.stats().segments, disk.list().unwrap().len()), (0, 0));
    assert_eq!((log.oldest(), log.position()), (end.next, end));
    append(&log, [302]);
    assert_eq!(log.mark().await.unwrap().next, first_of(303));
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_ahead_leaves_a_gap() {
    let at = positions(200).await;
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    append(&log, 1..=50);
    let base = at[99];
    assert_eq!(log.rebase(base).await.unwrap(), base);
    let gone = |from: u64| match log.read(from, 1) {
        Err(ReadError::Gone { oldest }) => oldest,
        other => panic!("{from}: {other:?}"),
    };
    let end = first_of(51);
    assert_eq!((gone(end), gone(base.next - 1)), (base.next, base.next), "nothing is behind it");
    assert!(matches!(log.read(base.next, 1), Err(ReadError::Ahead { next }) if next == base.next));
    assert_eq!((log.stats().gaps, log.oldest()), (1, 1));
    append(&log, 100..=150);
    let marked = log.mark().await.unwrap();
    assert_eq!(marked, at[150]);
    assert_eq!((gone(end), gone(base.next - 1)), (base.next, base.next));
    assert_eq!(read_all(&log, base.next), (100..=150).collect::<Vec<_>>());
    assert_eq!(log.read(end - 1, 9_999).unwrap().next, end);
    assert_eq!(audit(&disk).unwrap().0, (1..=50).chain(100..=150).collect::<Vec<_>>());
    // A look-up says where it cannot go on, and shows what is before.
    let key = Key::Cell(CellHandle(2));
    let range = |direction, range: Range<u64>| {
        let mut seen = Vec::new();
        let result = log.scan(key, range, direction, &mut |event| {
            seen.push(event.index);
            ControlFlow::Continue(())
        });
        (seen, matches!(result, Err(ReadError::Gone { oldest }) if oldest == base.next))
    };
    let (before, after) = ([2, 9, 16, 23, 30, 37, 44], [100, 107, 114, 121, 128, 135, 142, 149]);
    let (seen, is_gone) = range(Direction::Forward, 1..u64::MAX);
    assert_eq!((&seen[..], is_gone), (&before[..], true));
    let (mut seen, is_gone) = range(Direction::Backward, 1..u64::MAX);
    seen.reverse();
    assert_eq!((&seen[..], is_gone), (&after[..], true));
    // In the gap, and on either side of it.
    assert_eq!(range(Direction::Backward, base.next - 2..base.next), (vec![], true));
    assert_eq!(range(Direction::Forward, base.next..u64::MAX), (after.to_vec(), false));
    assert_eq!(range(Direction::Backward, 1..end).0.len(), before.len());
    drop(log);
    settled().await;
    let log = open(&disk, SMALL, marked).unwrap();
    assert_eq!(log.stats().gaps, 1);
    assert_eq!(read_all(&log, base.next), (100..=150).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_that_is_not_ahead_must_be_of_this_history() {
    let at = positions(200).await;
    let log = open(&SimStorage::new(), SMALL, Position::START).unwrap();
    append(&log, 1..=120);
    assert_eq!(log.rebase(at[120]).await.unwrap(), at[120]);
    let [end, before] = [120, 70].map(|index: usize| at[index].next);
    for other in [Position { next: end, ..at[119] }, at[70], Position { next: before, ..at[119] }] {
        let refused = log.rebase(other).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidData, "{other:?}");
    }
    let ahead = Position { next: end + 1, ..at[119] };
    assert_eq!(log.rebase(ahead).await.unwrap(), ahead, "nobody knows what is ahead");
}

#[tokio::test(start_paused = true)]
async fn nothing_is_concluded_from_events_that_are_missing() {
    let at = positions(200).await;
    let gap = first_of(51)..at[99].next;
    let log = Arc::new(open(&SimStorage::new(), SMALL, Position::START).unwrap());
    append(&log, 1..=50);
    log.rebase(at[99]).await.unwrap();
    append(&log, 100..=103);
    log.mark().await.unwrap();
    // Cells 6 and 2 were last moved by entries 48 and 44 before the gap; behind it comes 100 of cell 2, and none of 6.
    let (live, next) = (Counts { on_hand: 777, ..Counts::default() }, log.next());
    let past = Past::new(log.clone(), next, Some((live, Policy::default())));
    let was = |cell: u32, end| match past.cell_before(CellHandle(cell), end) {
        Ok(was) => Ok(was.map(|was| was.counts.on_hand)),
        Err(ReadError::Gone { oldest }) => Err(oldest),
        Err(error) => panic!("{error}"),
    };
    assert_eq!(was(6, next), Ok(Some(777)), "no event since the gap: what is there now");
    assert_eq!(was(6, gap.end), Ok(Some(777)));
    for end in [gap.start + 1, gap.end - 1] {
        assert_eq!((was(6, end), was(2, end)), (Err(gap.end), Err(gap.end)), "{end}");
    }
    let known = |cell: u32, index: u64| was(cell, first_of(index + 1)).unwrap();
    assert!(known(6, 48).is_some() && known(6, 48) != Some(777));
    assert!(known(2, 44).is_some() && known(2, 100) == known(2, 103));
    assert_eq!(was(999, first_of(10)), Ok(None), "all that came before is here");
    let latest = |cell: u32, from| {
        let mut seen = Vec::new();
        let show = |event: &Event<'_>| seen.push(event.index);
        let is_all = past.latest(CellHandle(cell), from..next, 100, show).unwrap();
        (is_all, seen)
    };
    assert_eq!(latest(6, 1), (false, vec![]));
    assert_eq!(latest(2, gap.end), (true, vec![100]));
    let life = |index| {
        let mut seen = Vec::new();
        let is_all = past.life(id(index), next, |event| seen.push(event.index)).unwrap();
        (is_all, seen)
    };
    assert_eq!((life(2), life(100)), ((false, vec![2; 3]), (false, vec![100])), "on either side");
    let in_gap = past.after_moment(time_of(70) * 1_000);
    assert!(matches!(in_gap, Err(ReadError::Gone { oldest }) if oldest == gap.end), "{in_gap:?}");
    assert_eq!(past.after_moment(time_of(101) * 1_000).unwrap(), first_of(102));
}

#[tokio::test(start_paused = true)]
async fn events_that_are_here_are_believed_where_a_snapshot_does_not_know_them() {
    let at = positions(150).await;
    let unknown = |entries: usize| Position::unknown(at[entries].next);
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    append(&log, 1..=100);
    assert_eq!(log.rebase(unknown(100)).await.unwrap(), at[100]);
    append(&log, 101..=110);
    assert_eq!(log.mark().await.unwrap(), at[110]);
    for entries in [110, 60] {
        let log = open(&disk, SMALL, unknown(entries)).unwrap();
        assert_eq!((log.position(), log.stats().gaps), (at[entries], 0));
        append(&log, [entries as u64 + 1]);
        assert_eq!(log.mark().await.unwrap(), at[entries + 1]);
    }
}

#[tokio::test(start_paused = true)]
async fn behind_events_that_nobody_knows_the_chain_is_not_whole_until_a_snapshot_has_one() {
    let at = positions(300).await;
    let disk = SimStorage::new();
    let log = open(&disk, SMALL, Position::START).unwrap();
    append(&log, 1..=50);
    let base = Position::unknown(at[100].next);
    assert_eq!(log.rebase(base).await.unwrap(), base);
    append(&log, 101..=200);
    let end = log.mark().await.unwrap();
    assert!(!end.is_whole && !end.fits(&at[150]) && end.fits(&at[200]));
    let is_whole =
        |log: &EventLog, entries: usize| log.position_at(at[entries].next).unwrap().is_whole;
    assert_eq!([49, 100, 150].map(|entries| is_whole(&log, entries)), [true, false, false]);
    // Neither the seal of a segment nor a start nor retention changes that.
    let few = EventOptions { bytes_max: 4_000, ..SMALL };
    for told in [end, Position::unknown(end.next)] {
        drop(log_of(&disk, few, told).await);
        let log = log_of(&disk, few, told).await;
        assert!(index_of(log.oldest()) > 110 && log.position() == end);
        assert!(!is_whole(&log, 190));
    }
    let log = log_of(&disk, few, end).await;
    append(&log, 201..=210);
    assert_eq!(log.rebase(at[250]).await.unwrap(), at[250]);
    append(&log, 251..=260);
    assert_eq!(log.mark().await.unwrap(), at[260]);
    assert!(is_whole(&log, 255));
    assert_eq!(audit(&disk).unwrap().1, at[260]);
}

/// … after the writer has removed what is superfluous.
async fn log_of(disk: &SimStorage, options: EventOptions, position: Position) -> EventLog {
    let log = open(disk, options, position).unwrap();
    log.mark().await.unwrap();
    settled().await;
    log
}
