//! Owners: how much each may hold, and what one holds.

use bytes::BytesMut;
use stockd_protocol::{
    Note, Op, OpFlags, OpId, Opcode, OwnerLimits, OwnerUsage, Terms, UnixMillis,
};

use crate::client::Client;
use crate::error::{Error, Invalid};
use crate::outcome::{Done, Outcome, Read};
use crate::request::{Consistency, Encoded};
use crate::writes::{encode_checked, terms};

/// Says how much each owner may hold from now on; what is held already stays.
#[derive(Clone, Copy, Debug)]
pub struct LimitOwners<'a> {
    op_id: OpId,
    limits: OwnerLimits,
    terms: Terms<'a>,
}

impl<'a> LimitOwners<'a> {
    terms!();

    /// These limits, once per `op_id`.
    pub const fn new(op_id: OpId, limits: OwnerLimits) -> Self {
        let none = Terms { flags: OpFlags(0), not_after: None, note: None };
        Self { op_id, limits, terms: none }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), Invalid> {
        let op = Op::SetOwnerLimits { op_id: self.op_id, limits: self.limits };
        encode_checked(&op, &self.terms, out)
    }
}

impl Client {
    /// Says how much each owner may hold.
    ///
    /// # Errors
    /// See [`Error`]; TTL_RANGE: the cool-down is longer than ended reservations are remembered.
    pub async fn limit_owners(&self, limits: &LimitOwners<'_>) -> Result<Done, Error> {
        match self.one(Encoded::op(Opcode::SetOwnerLimits, |out| limits.encode(out))?).await? {
            Outcome::Done(done) => Ok(done),
            _ => unreachable!("a change of limits is decoded as Done"),
        }
    }

    /// Reads what an owner (1 to 32 bytes) holds. One that nobody knows holds nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_owner(
        &self,
        owner: impl AsRef<[u8]>,
        consistency: Consistency,
    ) -> Result<Read<OwnerUsage>, Error> {
        let op = Op::ReadOwner { owner: owner.as_ref() };
        let encode = |out: &mut BytesMut| encode_checked(&op, &consistency.terms(), out);
        match self.one(Encoded::op(Opcode::ReadOwner, encode)?).await? {
            Outcome::Owner(read) => Ok(read),
            _ => unreachable!("a read of an owner is decoded as Owner"),
        }
    }
}
