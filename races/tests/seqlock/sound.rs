//! As it is.

mod atomic {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicU32, Ordering, fence};
}
#[path = "../../../src/engine/seqlock.rs"]
mod seqlock;
pub use seqlock::Sequence;
