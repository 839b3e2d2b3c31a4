//! No fence does anything: a search may see new slots under an old number.

mod atomic {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}
#[path = "../seqlock/without_fences.rs"]
mod sequence;
mod seqlock {
    pub use super::sequence::Sequence;
}
#[path = "../../../src/engine/shared_index.rs"]
pub mod shared_index;
