//! `Release` is `Relaxed`: the even number may be seen before the values.

mod atomic {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::AtomicU32;

    /// The orders, one of them weaker than its name.
    #[expect(non_snake_case, reason = "stands for the type")]
    pub mod Ordering {
        use loom::sync::atomic::Ordering;

        pub use Ordering::{Acquire, Relaxed, Relaxed as Release};
    }

    pub fn fence(order: loom::sync::atomic::Ordering) {
        if order != loom::sync::atomic::Ordering::Relaxed {
            loom::sync::atomic::fence(order);
        }
    }
}
#[path = "../../../src/engine/seqlock.rs"]
mod seqlock;
pub use seqlock::Sequence;
