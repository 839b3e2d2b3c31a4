//! Following what happens: every change of the stock, in order, from whichever node is there.
//!
//! ```text
//! Subscription ──open──▶ EventStream ──next──▶ Batch ──events──▶ Event, borrowed
//!                           ▲ resumes                │
//!                    a task, one connection      Cursor: how far, on disk
//! ```
//!
//! ```no_run
//! # async fn follow() -> Result<(), Box<dyn std::error::Error>> {
//! use stockd_client::events::{EventKind, Subscription};
//!
//! let nodes = ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"];
//! let mut stream = Subscription::new(nodes).oldest().kind(EventKind::Expired).open().await?;
//! loop {
//!     let batch = stream.next().await?;
//!     for event in batch.events() {
//!         println!("{event}");
//!     }
//!     println!("{} behind", batch.lag());
//! }
//! # }
//! ```
//!
//! Invariants:
//! - Events come in the order of their numbers, each once, and none that is wanted is left out: not when a
//!   connection breaks, and not when another node goes on with them. Where that cannot be, there is an [`Error`], and
//!   never a jump.
//! - A [`Batch`] is whole: what cannot be read, or is not what comes next, breaks the connection and is asked for again.
//! - All nodes are of one cluster.
//! - What waits for the caller is bounded: a slow one holds the server back, which leaves the events on its disk.
//!
//! Left out on purpose: threads of its own, and several consumers of one stream. Whoever wants to share the work
//! hands batches on.

mod batch;
mod check;
mod credit;
mod cursor;
mod error;
mod follow;
pub(crate) mod fuzzing;
mod names;
mod nodes;
mod stream;
mod subscription;

pub use batch::{Batch, BatchEvents};
pub use check::Fault;
pub use cursor::{Cursor, CursorError};
pub use error::{Error, Trouble};
pub use names::{CellName, Names};
pub use stream::EventStream;
pub use subscription::Subscription;

pub use stockd_protocol::event::{
    Anchor, CellChange, Checkpoint, Counts, Divergence, Event, EventBody, EventKind, EventRecord,
    Finding, Totals,
};
pub use stockd_protocol::{Naming, Note, Start};
