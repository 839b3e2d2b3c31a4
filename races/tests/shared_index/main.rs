//! `engine/shared_index.rs` in many orders that the memory model allows: a partition grows in place
//! while a reader searches it; and with bugs planted by atomics that are weaker than they say.
#![expect(dead_code, reason = "whole files are included, and only a part of each is raced")]
#![expect(clippy::duplicate_mod, reason = "the same file over different atomics is the point")]

mod sound;
mod unpublished;
mod without_fences;
mod without_odd;
mod without_release;

/// As many as a partition takes before it grows.
const FULL: u32 = 12;

/// Hashes of which some begin at the same slot, before and after.
const fn low(handle: u32) -> u32 {
    (handle / 2) << 29
}

/// The writer adds an entry to so many; a reader looks for one of those, and for the
/// new one, which it must find once it was told of it.
macro_rules! race {
    ($partition:path, $entries:expr, $preemptions:expr) => {{
        use loom::sync::Arc;
        use loom::sync::atomic::{AtomicBool, AtomicU32, Ordering};

        let mut model = loom::model::Builder::new();
        model.preemption_bound = Some($preemptions);
        model.max_branches = 100_000;
        model.check(|| {
            type Partition = $partition;
            let partition = Partition::default();
            (0..$entries).for_each(|handle| partition.insert(low(handle), handle));
            let shared = Arc::new((partition, AtomicU32::new(0), AtomicBool::new(false)));
            let reader = loom::thread::spawn({
                let shared = shared.clone();
                move || {
                    let (partition, of_new, is_told) = &*shared;
                    let told = is_told.load(Ordering::Acquire);
                    let new = partition.find(low($entries), |handle| {
                        let is_it = handle == $entries;
                        assert!(
                            !is_it || of_new.load(Ordering::Relaxed) == 7,
                            "a name comes first"
                        );
                        is_it
                    });
                    assert!(new.is_some() || !told, "what was told of is found");
                    let old = partition.find(low(7), |handle| handle == 7);
                    assert_eq!(old, Some(7), "what was there is found");
                }
            });
            let (partition, of_new, is_told) = &*shared;
            of_new.store(7, Ordering::Relaxed);
            partition.insert(low($entries), $entries);
            is_told.store(true, Ordering::Release);
            reader.join().expect("the reader is content");
        });
    }};
}

#[test]
fn a_reader_finds_what_there_is_while_the_index_grows() {
    race!(sound::shared_index::Partition, FULL, 3);
}

#[test]
fn a_reader_finds_what_there_is_while_the_index_has_room() {
    race!(sound::shared_index::Partition, FULL - 1, 3);
}

#[test]
#[should_panic(expected = "is found")]
fn an_odd_number_taken_for_even_is_found() {
    race!(without_odd::shared_index::Partition, FULL, 2);
}

#[test]
#[should_panic(expected = "is found")]
fn a_missing_fence_is_found() {
    race!(without_fences::shared_index::Partition, FULL, 2);
}

#[test]
#[should_panic(expected = "is found")]
fn a_relaxed_number_is_found() {
    race!(without_release::shared_index::Partition, FULL, 2);
}

#[test]
#[should_panic(expected = "a name comes first")]
fn a_slot_before_its_name_is_found() {
    race!(unpublished::shared_index::Partition, FULL - 1, 2);
}
