//! A thin client for stockd: takes stock, once, from whichever node leads.
//!
//! ```text
//! your tasks ──▶ Client ──▶ Encoded ──▶ Link ═══ one TCP connection ═══▶ leader
//!                  │ retries   one op     │ coalesces writes,
//!                  │ by id     or batch   │ matches replies by request id
//!                  └──▶ Route: known nodes, who leads
//! ```
//!
//! ```no_run
//! # async fn buy() -> Result<(), stockd_client::Error> {
//! use std::time::Duration;
//! use stockd_client::{Client, Error, Reserve};
//!
//! let client = Client::connect(["127.0.0.1:7400", "127.0.0.1:7410"]).await?;
//! let id = client.new_id();
//! let cart = Reserve::new(id).line("BER", "shirt-m", 2).ttl(Duration::from_secs(300));
//! match client.reserve(&cart).await {
//!     Ok(granted) => println!("yours until {} ms", granted.deadline.0),
//!     Err(Error::Refused(refusal)) => println!("no: {refusal}"),
//!     Err(Error::Retry(why)) => println!("nothing happened ({why}), try later"),
//!     // It may be held. Ask again under the same id, or walk away for certain:
//!     Err(Error::Unknown(_)) => drop(client.release(id).await?),
//!     Err(Error::Invalid(fault)) => println!("fix the request: {fault}"),
//! }
//! # Ok(()) }
//! ```
//!
//! Invariants:
//! - A request is sent again only with the id it had, so it takes effect at most once.
//! - [`Error::Retry`] is given only when no attempt can have taken effect; one doubtful attempt makes
//!   it [`Error::Unknown`], unless a later attempt gets a definite answer.
//! - Everything waits under a deadline ([`Options::request_timeout`]) and in a bounded queue
//!   ([`Options::frames_in_flight_max`]).
//! - Dropping a call's future abandons the reply, not the request: treat it as [`Error::Unknown`].
//!
//! Left out on purpose: a cache of cell handles (replies hand them out, callers keep them), a pool of
//! connections (one pipelined connection carries what a node can do), and encryption.
//! [`raw`] is the floor below, for load generators that count system calls.
#![forbid(unsafe_code)]

mod calls;
mod catalogue;
mod client;
mod error;
pub mod events;
#[doc(hidden)]
pub mod fuzzing;
mod ids;
mod link;
mod listing;
mod net;
mod options;
mod outcome;
mod owner;
mod prolong;
pub mod raw;
mod reorder;
mod request;
mod route;
mod sourcing;
mod writes;

pub use catalogue::{CatalogueEntry, CatalogueWrite};
pub use client::Client;
pub use error::{Error, Invalid, Refusal, Why};
pub use ids::{IdSource, SystemIds};
pub use listing::{CellPage, ListCells, NamedCell};
pub use options::{Options, WhenFull};
pub use outcome::{
    Cell, Changed, Confirmed, Defined, Details, Done, Extended, Granted, Lines, Outcome, Read,
    Received, Released, Reservation, ReservedLine, SkuCell, SkuPage, Sourced, Transferred, Written,
};
pub use owner::LimitOwners;
pub use prolong::Prolong;
pub use reorder::{CrossingPage, ListSkus, NamedSku, PointCrossed, SkuListPage};
pub use request::{Batch, Consistency, Reserve};
pub use sourcing::ReserveFrom;
pub use stockd_protocol::{
    Bucket, CellCounters, CellDetails, CellHandle, CellRef, Code, LineMode, LineShares, OpError,
    OpId, OwnerBound, OwnerLimits, OwnerUsage, Policy, PolicyChange, ReservationId,
    ReservationState, ShortLine, Sourcing, TakenPart, Transfer, TransferState, UnixMillis,
};
pub use writes::{Amend, Change, Shipment, StockWrite};
