//! Odd numbers look even: a search may take an index that grows for a whole one.

mod atomic {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}
#[path = "../seqlock/without_odd.rs"]
mod sequence;
mod seqlock {
    pub use super::sequence::Sequence;
}
#[path = "../../../src/engine/shared_index.rs"]
pub mod shared_index;
