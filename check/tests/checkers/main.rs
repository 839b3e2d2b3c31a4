//! The checkers, checked: right histories pass, wrong ones are caught by each checker that should.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod handmade;
mod mutated;
mod server;
mod stream;
