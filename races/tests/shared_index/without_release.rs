//! The number's `Release` is `Relaxed`: the even number may be seen before the slots.

mod atomic {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}
#[path = "../seqlock/without_release.rs"]
mod sequence;
mod seqlock {
    pub use super::sequence::Sequence;
}
#[path = "../../../src/engine/shared_index.rs"]
pub mod shared_index;
