//! `engine/seqlock.rs` in every order that the memory model allows, with a writer and a reader, and
//! with bugs planted by atomics that are weaker than they say.
#![expect(dead_code, reason = "the whole file is included, also what `shared_index` uses of it")]
#![expect(clippy::duplicate_mod, reason = "the same file over different atomics is the point")]

mod sound;
mod without_fences;
mod without_odd;
mod without_release;

/// One writer moves units between two counters twice, `readers` see no moment in between.
macro_rules! race {
    ($sequence:path, $readers:expr) => {{
        use loom::sync::Arc;
        use loom::sync::atomic::{AtomicU64, Ordering::Relaxed};

        let mut model = loom::model::Builder::new();
        // Exhaustive up to this; the bugs planted below take one or two.
        model.preemption_bound = Some(if $readers == 1 { 3 } else { 1 });
        model.max_branches = 100_000;
        model.check(|| {
            type Sequence = $sequence;
            let cell = Arc::new((Sequence::default(), AtomicU64::new(2), AtomicU64::new(0)));
            let readers: Vec<_> = (0..$readers)
                .map(|_| {
                    let cell = cell.clone();
                    loom::thread::spawn(move || {
                        let (sequence, on_hand, reserved) = &*cell;
                        let read =
                            sequence.read(|| (on_hand.load(Relaxed), reserved.load(Relaxed)));
                        assert_eq!(read.0 + read.1, 2, "all counters are of one moment");
                    })
                })
                .collect();
            let (sequence, on_hand, reserved) = &*cell;
            sequence.write(|| {
                on_hand.store(1, Relaxed);
                reserved.store(1, Relaxed);
            });
            readers.into_iter().for_each(|reader| reader.join().expect("the reader is content"));
        });
    }};
}

#[test]
fn a_reader_sees_one_moment() {
    race!(sound::Sequence, 1);
}

#[test]
fn two_readers_see_one_moment_each() {
    race!(sound::Sequence, 2);
}

#[test]
#[should_panic(expected = "all counters are of one moment")]
fn an_odd_number_taken_for_even_is_found() {
    race!(without_odd::Sequence, 1);
}

#[test]
#[should_panic(expected = "all counters are of one moment")]
fn a_missing_fence_is_found() {
    race!(without_fences::Sequence, 1);
}

#[test]
#[should_panic(expected = "all counters are of one moment")]
fn a_relaxed_store_is_found() {
    race!(without_release::Sequence, 1);
}
