//! The load harness of stockd.
#![forbid(unsafe_code)]
fn main() {}
