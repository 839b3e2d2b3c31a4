//! Judges what stockd told its clients.
//!
//! A history is what applications asked and were told; the committed log is what the cluster did. The
//! checkers compare the two.
#![forbid(unsafe_code)]

pub mod history;

pub use history::{Answer, Cell, Operation, Request, Verdict};
