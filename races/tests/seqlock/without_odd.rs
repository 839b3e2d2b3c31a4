//! Odd numbers look even: a reader may look while the writer is at work.

mod atomic {
    pub use loom::hint::spin_loop;
    pub use loom::sync::atomic::{Ordering, fence};

    /// Never odd.
    pub struct AtomicU32(loom::sync::atomic::AtomicU32);

    impl AtomicU32 {
        pub fn new(value: u32) -> Self {
            Self(loom::sync::atomic::AtomicU32::new(value))
        }

        pub fn load(&self, order: Ordering) -> u32 {
            self.0.load(order) & !1
        }

        pub fn store(&self, value: u32, order: Ordering) {
            self.0.store(value, order);
        }
    }
}
#[path = "../../../src/engine/seqlock.rs"]
mod seqlock;
pub use seqlock::Sequence;
