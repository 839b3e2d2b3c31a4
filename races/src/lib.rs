//! Nothing but tests: the lock-free parts of the daemon, included as they are, with loom's atomics.
