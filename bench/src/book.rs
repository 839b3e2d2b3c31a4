//! What the harness remembers of a stream: one byte per reservation.
//!
//! ```text
//! UNANSWERED ──▶ REFUSED
//!      │
//!      └──▶ GRANTED ──▶ CONFIRMING ──▶ CONFIRMED
//!              │             └────────▶ EXPIRED      the server said HOLD_EXPIRED
//!              └──────▶ RELEASING ───▶ RELEASED | EXPIRED
//! ```
//!
//! A mark moves right only when the server has answered, but for `…ING`, which says that a request
//! is on its way whose outcome is not known. `ODD` marks an answer that no correct server gives.

use std::sync::Arc;

use crate::plan::{IdStream, Plan};

/// What was acknowledged about one reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Mark {
    /// Sent, and never answered.
    Unanswered,
    /// Too little stock.
    Refused,
    /// Granted and left alone.
    Granted,
    /// Granted; a confirm was sent and not answered.
    Confirming,
    /// Granted; a release was sent and not answered.
    Releasing,
    /// Confirmed.
    Confirmed,
    /// Released.
    Released,
    /// The server said that it had expired.
    Expired,
    /// Not a reservation but a SET, and it took effect.
    Fed,
    /// An answer that no correct server gives.
    Odd,
}

/// Everything needed to check one stream.
#[derive(Debug)]
pub struct Book {
    /// Draws the lines again.
    pub plan: Arc<Plan>,
    /// Which stream.
    pub stream: u32,
    /// Makes the ids again.
    pub ids: IdStream,
    /// By counter.
    pub marks: Vec<Mark>,
}
