//! Deterministic simulation of whole clusters.
//!
//! The real engine, log, replication (with the real openraft), server and client run in one thread,
//! on simulated time, network and disks. Everything that may differ from run to run comes from one
//! seed, so a seed that fails, fails again.
//!
//! ```text
//!  run     a seed from beginning to end, and the verdict
//!   ├ plan      what the seed stands for
//!   ├ cluster   the machines, stepped one after the other
//!   │  ├ machine   clock, runtime, process      ├ node   what `stockd serve` does
//!   │  └ doors     clock, randomness, threads   └ oracle sees every state of every engine
//!   ├ faults    what goes wrong, when
//!   └ shop      the applications, which write down what they were told
//!  sweep   many seeds, one process each
//! ```
//!
//! What it cannot show: races between threads (it has one), the real disk and the real kernel, and
//! whatever happens within a millisecond. `scripts/chaos.sh` is for those.
//!
//! It is built with `--cfg stockd_sim`, which puts a network in memory behind the sockets:
//! `scripts/sim.sh` does that.

#![forbid(unsafe_code)]

#[cfg(stockd_sim)]
mod cluster;
#[cfg(stockd_sim)]
mod desk;
#[cfg(stockd_sim)]
mod doors;
#[cfg(stockd_sim)]
mod faults;
#[cfg(stockd_sim)]
mod machine;
#[cfg(stockd_sim)]
mod node;
#[cfg(stockd_sim)]
mod oracle;
#[cfg(stockd_sim)]
mod plan;
#[cfg(stockd_sim)]
mod run;
#[cfg(stockd_sim)]
mod shop;
#[cfg(stockd_sim)]
mod stream;
#[cfg(stockd_sim)]
mod sweep;

#[cfg(stockd_sim)]
fn main() -> std::process::ExitCode {
    sweep::main()
}

#[cfg(not(stockd_sim))]
fn main() -> std::process::ExitCode {
    eprintln!("this build has no simulation in it: run scripts/sim.sh");
    std::process::ExitCode::FAILURE
}
