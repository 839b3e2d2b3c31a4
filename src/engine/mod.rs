//! The stock state machine: sans-IO and deterministic.
//!
//! ```text
//!        log entry (batch.rs)                      any thread
//!             │ one thread                             │
//!             ▼                                        ▼
//!   state.rs  apply ─▶ reserve.rs               reader.rs  CellReader: counters, sold-out refusals
//!             │        lifecycle.rs                    │
//!             │        stock.rs                        │ lock-free
//!             ▼                                        ▼
//!   holds.rs  records by id, by due tick ──────▶ cells.rs   counters in atomics, names.rs
//!             slab.rs index.rs wheel.rs ring.rs  chunked.rs shared_index.rs
//!             │
//!             ▼
//!   snapshot.rs, restore.rs, audit.rs            the whole state as bytes, and back, and checked
//!   compare.rs                                   are two states the same, and where are they not
//! ```
//!
//! `apply(now, operation) -> outcome`: everything is a function of the log, so that all replicas
//! agree to the byte ([`StockState::digest`]). A refusal is an outcome.
//!
//! Promises, asserted while applying and checked in full after a restore (`audit.rs`):
//! - A cell's `reserved` is the sum of its lines in active reservations, `committed` the sum of those
//!   in confirmed ones; both ≥ 0. After a grant, `available = on_hand − reserved − committed ≥ 0`.
//! - How far the sweep has come changes no answer about a reservation: one that is due is expired by
//!   whoever meets it, and a reserve that finds too little first expires the cell's due ones. Only
//!   the counters that a RECEIVE or a read shows may still hold units that are due.
//! - An id takes effect once: it is remembered while it is young enough to be accepted.
//!
//! Left out on purpose: clocks and timers (the caller stamps batches and proposes EXPIRE), admission
//! control (the caller bounds [`Stats::records`]), threads.

mod aliases;
mod amend;
mod annex;
mod archived;
mod audit;
pub mod batch;
mod catalogue;
mod cell;
mod cell_writer;
mod cells;
mod chain;
mod chunked;
mod compare;
mod crossings;
mod cut;
mod details;
mod events;
mod hash;
mod holds;
mod index;
mod lifecycle;
mod names;
mod outcomes;
mod owner_limits;
mod owners;
mod parts;
mod points;
mod prefetch;
mod principals;
mod reader;
mod record;
mod refusals;
mod reserve;
mod restore;
mod ring;
mod seqlock;
mod shared_index;
mod shares;
mod slab;
mod snapshot;
mod sourcing;
mod state;
mod stock;
mod sweep;
mod time;
mod totals;
mod transfer;
mod wheel;

/// What `seqlock` and `shared_index` are made of; `races/` puts loom's in its place.
mod atomic {
    pub use std::hint::spin_loop;
    pub use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
}

#[cfg(test)]
mod scripts;
#[cfg(test)]
mod shared_index_tests;

pub use archived::{
    ArchiveBatch, ArchiveEntry, ArchivedRecord, ENTRY_BYTES as ARCHIVE_ENTRY_BYTES,
};
pub use compare::{Difference, Fingerprint, Place, differences};
pub use reader::CellReader;
pub use restore::{SnapshotError, SnapshotFault, SnapshotLoader};
pub use snapshot::SnapshotCut;
pub use state::{Applied, Stats, StockState};

/// What the answers depend on besides the log. All but `hash_seed` must be equal on all nodes of a
/// cluster and for the life of its data.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EngineConfig {
    /// How long after its deadline a reservation can still be confirmed or extended, in ms, rounded
    /// up to whole ticks of 64 ms. Default 2,000 (so 2,048).
    pub grace_ms: u64,
    /// How long what is over is remembered, in ms; also how old an unknown id may be. Default one
    /// hour.
    pub retention_ms: u64,
    /// How long after its creation a reservation's deadline may be extended to, in ms. Default 24
    /// hours.
    pub max_life_ms: u64,
    /// Of about one in so many refused requests an event tells; 0, the default: of none. See `refusals.rs`.
    pub sample_refusals: u32,
    /// Seed of the hash indexes. May differ from node to node; should be secret, since clients make
    /// the ids that are hashed.
    pub hash_seed: u64,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            grace_ms: 2_000,
            retention_ms: 60 * 60 * 1_000,
            max_life_ms: 24 * 60 * 60 * 1_000,
            sample_refusals: 0,
            hash_seed: 0x5eed,
        }
    }
}

impl EngineConfig {
    const fn grace_rounded(&self) -> u64 {
        self.grace_ms.div_ceil(time::TICK_MS) * time::TICK_MS
    }
}
