//! No fence does anything: a reader may see new values under an old number.

mod atomic {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{AtomicU32, Ordering};

    pub fn fence(_: Ordering) {}
}
#[path = "../../../src/engine/seqlock.rs"]
mod seqlock;
pub use seqlock::Sequence;
