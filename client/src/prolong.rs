//! Giving a reservation more time.

use std::time::Duration;

use bytes::BytesMut;
use stockd_protocol::{Note, Op, OpFlags, Opcode, ReservationId, Terms, UnixMillis};

use crate::client::Client;
use crate::error::{Error, Invalid};
use crate::outcome::{Extended, Outcome};
use crate::request::{Encoded, ttl_ms};
use crate::writes::{encode_checked, terms};

/// More time for a reservation that is not confirmed.
#[derive(Clone, Copy, Debug)]
pub struct Prolong<'a> {
    op: Op<'a>,
    terms: Terms<'a>,
}

impl<'a> Prolong<'a> {
    terms!();

    fn new(op: Op<'a>) -> Self {
        Self { op, terms: Terms::default() }
    }

    /// Moves the deadline to at least `ttl` from now: 1 s to 4 h.
    pub fn extend(id: ReservationId, ttl: Duration) -> Self {
        Self::new(Op::Extend { id, ttl_ms: ttl_ms(ttl) })
    }

    /// Keeps it from expiring for at least `ttl` from now, up to seven days: for payments that take long.
    pub fn pin(id: ReservationId, ttl: Duration) -> Self {
        Self::new(Op::Pin { id, ttl_ms: ttl_ms(ttl) })
    }

    pub(crate) const fn opcode(&self) -> Opcode {
        self.op.opcode()
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), Invalid> {
        encode_checked(&self.op, &self.terms, out)
    }
}

impl Client {
    /// Gives a reservation more time.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn prolong(&self, prolong: &Prolong<'_>) -> Result<Extended, Error> {
        match self.one(Encoded::op(prolong.opcode(), |out| prolong.encode(out))?).await? {
            Outcome::Extended(extended) => Ok(extended),
            _ => unreachable!("an extend and a pin are decoded as Extended"),
        }
    }
}
