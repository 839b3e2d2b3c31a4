//! `stockd tail` and `stockd events`: what has happened, for people and for files.
//!
//! ```text
//! stockd tail           as it happens, to standard output      tail.rs, text.rs, json.rs
//! stockd events export  a range of it, into a file             export.rs, json.rs, columns.rs
//! stockd events evidence  a range of a data directory, for auditors     evidence.rs
//! ```
//!
//! The first two follow with the client crate's stream, which goes on at the next node when one is lost, also at one that
//! nobody has named (members.rs), and put the names of cells in the place of handles (names.rs).

mod columns;
mod evidence;
mod export;
mod fields;
mod json;
mod members;
pub(super) mod moment;
mod names;
mod select;
mod tail;
mod text;

use clap::{Args, Subcommand};

pub(super) use tail::Tail;

use super::Done;

/// `stockd events`.
#[derive(Args)]
pub(super) struct Events {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Write a range of the events of a cluster to a file.
    Export(export::Export),
    /// Write some events of a data directory to a file that verifies on its own: see `stockd audit`.
    Evidence(evidence::Evidence),
}

impl Events {
    pub(super) fn run(self) -> Done {
        match self.command {
            Command::Export(export) => export.run(),
            Command::Evidence(evidence) => evidence.run(),
        }
    }
}

/// Runs a command that waits for a cluster.
fn block_on(done: impl Future<Output = Done>) -> Done {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    runtime.block_on(done)
}
