//! As it is.

mod atomic {
    pub use loom::sync::atomic::{AtomicU32, AtomicU64, Ordering};
}
#[path = "../seqlock/sound.rs"]
mod sequence;
mod seqlock {
    pub use super::sequence::Sequence;
}
#[path = "../../../src/engine/shared_index.rs"]
pub mod shared_index;
