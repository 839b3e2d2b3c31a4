//! The harness from end to end, against a small server in this process.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod cli;
mod fake;
mod verification;
