//! stockd: a replicated, in-memory daemon for inventory stock.
//!
//! ```text
//! cli           commands a person types
//! server        sessions, admission, reads, admin lines
//! backup        a node's history in another directory, and what was at any moment of it
//! audit         whether what is in a directory is what has happened; evidence of it
//! replication   Raft: one log of batches on a majority of nodes (the only place that names openraft)
//! events        what has changed, chained, in segments of its own
//! archive       what is forgotten, for retries days later
//! log           the write-ahead log: segments, group commit, recovery
//! engine        the stock state machine: sans-IO, deterministic
//! world         the doors to clock, randomness, network and threads
//! protocol      frames, operations, outcomes (the crate stockd-protocol)
//! ```
//!
//! A floor imports only from floors below it; `tests/floors.rs` checks it. `ARCHITECTURE.md` tells
//! the life of a reservation through all of them.

pub use stockd_protocol as protocol;

pub mod archive;
pub mod audit;
pub mod backup;
pub mod cli;
pub mod engine;
pub mod events;
pub mod log;
pub mod replication;
pub mod server;
pub mod world;
