//! Random numbers.

use std::hash::{BuildHasher, Hasher, RandomState};

/// The randomness door. For ids and jitter, not for secrets.
pub trait Random: Send + Sync {
    /// 64 random bits.
    fn next_u64(&self) -> u64;
}

/// Keys that the standard library draws from the operating system.
pub struct RealRandom(());

impl RealRandom {
    /// Draws keys on every call, none here.
    #[expect(clippy::new_without_default, reason = "a door is opened on purpose")]
    pub fn new() -> Self {
        Self(())
    }
}

impl Random for RealRandom {
    fn next_u64(&self) -> u64 {
        RandomState::new().build_hasher().finish()
    }
}
