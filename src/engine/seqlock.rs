//! The order of loads and stores that lets readers see several atomics of one moment.
//!
//! ```text
//! writer   odd ─ Release fence ─ stores ─ even, Release
//! reader   Acquire load ─ loads ─ Acquire fence ─ the same even number? else again
//! ```
//!
//! One writer, any number of readers; nobody waits for a lock, and the writer for nobody. The values
//! are atomics themselves, accessed with `Relaxed`. `races/` includes this very file with loom's
//! atomics and tries all orders.

use super::atomic::{AtomicU32, Ordering, fence, spin_loop};

/// Even while the values hold still; odd while the writer changes them.
pub struct Sequence(AtomicU32);

impl Default for Sequence {
    fn default() -> Self {
        Self(AtomicU32::new(0))
    }
}

impl Sequence {
    /// What `load` gives, all of one moment. `load` may run several times.
    #[inline(always)]
    pub fn read<T>(&self, load: impl Fn() -> T) -> T {
        loop {
            // Acquire: the loads below come after it.
            let before = self.0.load(Ordering::Acquire);
            let read = load();
            // Acquire fence: the loads above come before the load below; it pairs with the
            // writer's Release fence.
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.0.load(Ordering::Relaxed) == before {
                return read;
            }
            spin_loop();
        }
    }

    /// What `look` finds. That is right whenever it is found; only that there is nothing must be of one
    /// moment. `look` may run several times.
    #[inline]
    pub fn search<T>(&self, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        loop {
            let before = self.0.load(Ordering::Acquire);
            let found = look();
            if found.is_some() {
                return found;
            }
            fence(Ordering::Acquire);
            if before & 1 == 0 && self.0.load(Ordering::Relaxed) == before {
                return None;
            }
            spin_loop();
        }
    }

    /// Runs `store`, the one writer's changes.
    #[inline]
    pub fn write(&self, store: impl FnOnce()) {
        self.begin();
        store();
        self.end();
    }

    /// Begins the one writer's changes: readers wait from now on.
    #[inline]
    pub fn begin(&self) {
        let before = self.0.load(Ordering::Relaxed);
        self.0.store(before.wrapping_add(1), Ordering::Relaxed);
        // Release fence: a reader that sees any store that follows sees the odd number.
        fence(Ordering::Release);
    }

    /// Ends them.
    #[inline]
    pub fn end(&self) {
        let before = self.0.load(Ordering::Relaxed);
        // Release: a reader that sees the even number sees the stores before.
        self.0.store(before.wrapping_add(1), Ordering::Release);
    }
}
