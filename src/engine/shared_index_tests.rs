//! Tests of `shared_index`, which `races/` includes without them.

use std::sync::atomic::{AtomicU32, Ordering};

use super::hash::mix2;
use super::shared_index::{PIECES, SharedIndex, piece_of};

#[test]
fn pieces_follow_each_other() {
    let mut before = (0, 0);
    for at in 1..100_000 {
        let (piece, offset) = piece_of(at);
        let follows = (piece, offset) == (before.0, before.1 + 1)
            || (piece == before.0 + 1 && offset == 0 && at % 8 == 0);
        assert!(follows, "{at}: {before:?} {piece} {offset}");
        before = (piece, offset);
    }
    assert!(piece_of(1 << 28).0 < PIECES);
}

/// Entries go on being added and laid out anew while readers look for those that are there.
#[test]
fn readers_find_every_entry_while_the_index_grows() {
    let index = SharedIndex::new();
    let published = AtomicU32::new(0);
    // All in one partition, and far more than it begins with.
    let hash = |handle: u32| mix2(3, u64::from(handle), 1) >> 6;
    const ENTRIES: u32 = if cfg!(miri) { 1_000 } else { 60_000 };
    std::thread::scope(|scope| {
        for reader in 0..2 {
            let (index, published) = (&index, &published);
            scope.spawn(move || {
                let mut at = 0_u64;
                loop {
                    let count = published.load(Ordering::Acquire);
                    if count > 0 {
                        let handle = (mix2(reader, at, 2) % u64::from(count)) as u32;
                        let found = index.find(hash(handle), |found| found == handle);
                        assert_eq!(found, Some(handle), "of {count}");
                    }
                    at += 1;
                    if count == ENTRIES {
                        return;
                    }
                }
            });
        }
        for handle in 0..ENTRIES {
            index.insert(hash(handle), handle);
            published.store(handle + 1, Ordering::Release);
        }
    });
    let grown = (index.bytes() - SharedIndex::new().bytes()) / size_of::<u64>() as u64;
    let slots = 16 + grown as u32;
    assert!((ENTRIES * 4 / 3..=ENTRIES * 2).contains(&slots), "{slots} slots");
}

#[test]
fn the_shared_index_finds_what_was_inserted() {
    const COUNT: u32 = if cfg!(miri) { 300 } else { 10_000 };
    let index = SharedIndex::new();
    for handle in 0..COUNT {
        let hash = mix2(7, u64::from(handle), 0);
        assert_eq!(index.find(hash, |found| found == handle), None);
        index.insert(hash, handle);
        assert_eq!(index.find(hash, |found| found == handle), Some(handle));
    }
    for handle in 0..COUNT {
        let hash = mix2(7, u64::from(handle), 0);
        assert_eq!(index.find(hash, |found| found == handle), Some(handle));
    }
}

/// Those whose home is the last slot go on at the first, in every layout, in the way of those whose home it is.
#[test]
fn entries_go_round_the_end() {
    let index = SharedIndex::new();
    let hash = |handle: u32| if handle.is_multiple_of(2) { u64::from(u32::MAX) } else { 0 };
    for count in 0..300 {
        index.insert(hash(count), count);
        for handle in 0..=count {
            let found = index.find(hash(handle), |found| found == handle);
            assert_eq!(found, Some(handle), "of {count}");
        }
        assert_eq!(index.find(hash(count), |found| found > count), None);
    }
}

#[test]
fn partitions_grow_one_after_the_other() {
    const COUNT: u32 = if cfg!(miri) { 0 } else { 1 << 20 };
    let index = SharedIndex::new();
    let (mut looked_at, mut bytes) = (0, index.bytes());
    for handle in 0..COUNT {
        index.insert(mix2(7, u64::from(handle), 0), handle);
        if handle > looked_at + looked_at / 100 {
            let grown = index.bytes() as f64 / bytes as f64;
            assert!(handle < COUNT / 4 || grown < 1.04, "{grown} with {handle} entries");
            (looked_at, bytes) = (handle, index.bytes());
        }
    }
}
