//! The wire protocol of stockd, version 1: what clients and servers say to each other, as types.
//!
//! ```text
//! frame    header (20 bytes) + body                      frame.rs
//! body     hello | one operation | a batch | reply       hello.rs, reply.rs
//! op       header (8 bytes) + body                       op.rs, encode.rs, lists.rs, stock.rs
//! outcome  header (8 bytes) + body                       outcome.rs
//! event    what a log entry has changed                  event/
//! ```
//!
//! Every integer is little-endian. `protocol.md` draws every byte and is enough to write a client
//! in another language; `tests/document.rs` decodes and encodes its hex examples.
//!
//! Invariants:
//! - Decoding never panics, never allocates from a declared length, and borrows from its input.
//! - What `encode` writes, `decode` reads back as the same value.
//! - An operation has one encoding for the wire and for the log: a server logs the bytes it got.
//!
//! Left out on purpose: sockets, retries, time. This crate moves bytes into types and back.
#![forbid(unsafe_code)]

mod backup;
mod catalogue;
mod code;
mod encode;
pub mod event;
mod frame;
mod hello;
mod id;
pub mod limits;
mod listing;
mod lists;
mod op;
mod opcode;
mod outcome;
mod owner;
mod reader;
mod reorder;
mod reply;
mod stock;
mod subscribe;
mod wishes;

pub use backup::{BackupFile, BackupHead, BackupRead};
pub use catalogue::{Described, Naming};
pub use code::Code;
pub use frame::{
    Frame, FrameError, Header, Kind, begin_frame, crc32, finish_frame, finish_frame_before,
    take_frame,
};
pub use hello::{Hello, HelloReply, MAGIC};
pub use id::{CellHandle, OpId, ReservationId, ShardId, UnixMillis};
pub use listing::{Filter, ListHead, ListedCell, Listing};
pub use lists::{CellRef, Line, Lines, Part, Parts, Refs};
pub use op::{Op, OpError, Terms, take_op, take_op_and_terms};
pub use opcode::{OpFlags, Opcode};
pub use outcome::{
    CellCounters, LineFault, Outcome, OutcomeHeader, ReservationState, ShortLine, SkuTotal,
    begin_outcome, finish_outcome, take_outcome,
};
pub use owner::{OwnerBound, OwnerLimits, OwnerUsage};
pub use reader::{Reader, Truncated};
pub use reorder::{Crossing, CrossingsHead, ListedSku};
pub use reply::{ErrorReply, ReplyPrefix};
pub use stock::{
    Bucket, CellDetails, Guard, LineShares, Note, Policy, PolicyChange, Transfer, TransferState,
};
pub use subscribe::{EventsHead, Selector, Start, Subscribe, SubscribeError};
pub use wishes::{DecodedWish, LineMode, Rules, Sourcing, TakenPart, Wish, Wishes};

/// The protocol version this crate speaks.
pub const VERSION: u16 = 1;
