//! The load harness of stockd: offers load, measures, verifies.
//!
//! ```text
//! args ──▶ run ──▶ setup ──▶ phases ──▶ verify ──▶ report
//!                    │          │          │
//!                  session   connection  session        sockets
//!                               │
//!                             driver                    frames in, frames out; no I/O
//!                               │
//!                          plan · book · stats          what is asked, acknowledged, measured
//! ```
//!
//! - The driver shares its cores with the server, so it is frugal: one task per connection, one read
//!   and one write per burst, nothing allocated per operation.
//! - Every reservation is a function of `(seed, stream, counter)`; one byte remembers what was
//!   acknowledged about it. That is what makes it cheap to verify *all* of them after *every* run.
//! - What was acknowledged is never forgotten: after a lost connection, unanswered frames are sent
//!   again with the same ids until they are answered, and what was never answered is looked up.
#![forbid(unsafe_code)]

pub mod args;
pub mod book;
pub mod clock;
pub mod connection;
pub mod draw;
pub mod driver;
pub mod link;
pub mod pacer;
pub mod plan;
pub mod process;
pub mod progress;
pub mod report;
pub mod run;
pub mod session;
pub mod setup;
pub mod stats;
pub mod verify;
