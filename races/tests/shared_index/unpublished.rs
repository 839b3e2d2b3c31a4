//! A slot's `Release` is `Relaxed`: it may be seen before what it leads to.

mod atomic {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64};

    /// The orders, one of them weaker than its name.
    #[expect(non_snake_case, reason = "stands for the type")]
    pub mod Ordering {
        use loom::sync::atomic::Ordering;

        pub use Ordering::{Acquire, Relaxed, Relaxed as Release};
    }
}
#[path = "../seqlock/sound.rs"]
mod sequence;
mod seqlock {
    pub use super::sequence::Sequence;
}
#[path = "../../../src/engine/shared_index.rs"]
pub mod shared_index;
