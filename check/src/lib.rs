//! Judges what stockd told its clients.
//!
//! ```text
//! applications ──▶ history ───┐
//!                  │          ├──▶ witness    every answer against the log entry that it names
//! nodes ──▶ committed log ────┘    replay     engine and model at every prefix of the log
//!                  │
//!                  └─────────────▶ blackbox   an order that explains every answer; reads no index
//!
//! committed log ──▶ the events it makes ──┐
//! nodes ──────────▶ the events they tell ─┴─▶ stream      the same, for everything that was asked for, and nothing else
//! ```
//!
//! A history is what applications asked and were told; the committed log is what the cluster did. The
//! simulation and the runs on real processes record both and come here.
#![forbid(unsafe_code)]

pub mod blackbox;
pub mod call;
pub mod committed;
pub mod file;
pub mod history;
pub mod model;
mod order;
mod replay;
mod report;
mod search;
mod sku;
pub mod stream;
pub mod witness;

pub use history::{Answer, Cell, Operation, Request, Sent, Verdict};
pub use replay::Entry;
pub use report::{Report, Rule, Violation};
pub use stream::Stream;
pub use witness::{Options, check, check_with_stream};
