//! The client's calls that change stock, transfers, and reservations in part, and that read them.

use std::time::Duration;

use stockd_protocol::{CellRef, Code, Op, OpId, Opcode, ReservationId};

use crate::client::Client;
use crate::error::{Error, Why};
use crate::outcome::{
    Changed, Details, Extended, Granted, Lines, Outcome, Read, Sourced, Transferred, Written,
};
use crate::prolong::Prolong;
use crate::request::{Consistency, Encoded, check_cells_read};
use crate::sourcing::ReserveFrom;
use crate::writes::{Amend, Change, Shipment, StockWrite, encode_checked};

impl Client {
    /// Writes stock, once per `op_id`. Also a receive, which [`receive`](Self::receive) sends in short.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn write(&self, write: &StockWrite<'_>) -> Result<Written, Error> {
        match self.one(Encoded::op(write.opcode(), |out| write.encode(out))?).await? {
            Outcome::Written(written) => Ok(written),
            Outcome::Received(received) => Ok(received.into()),
            _ => unreachable!("a stock write is decoded as one of these"),
        }
    }

    /// Ships, receives, closes or recalls a transfer.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn transfer(&self, shipment: &Shipment<'_>) -> Result<Transferred, Error> {
        match self.one(Encoded::op(shipment.opcode(), |out| shipment.encode(out))?).await? {
            Outcome::Transferred(transferred) => Ok(transferred),
            _ => unreachable!("a transfer is decoded as Transferred"),
        }
    }

    /// Confirms, releases, cancels or fulfils a reservation or a part of it.
    ///
    /// # Errors
    /// See [`Error`]; QTY_EXCEEDS names lines in [`Refusal::lines`](crate::Refusal::lines).
    pub async fn change(&self, change: &Change<'_>) -> Result<Changed, Error> {
        match self.one(Encoded::op(change.opcode(), |out| change.encode(out))?).await? {
            Outcome::Changed(changed) => Ok(changed),
            Outcome::Confirmed(confirmed) => Ok(confirmed.into()),
            Outcome::Released(released) => Ok(released.into()),
            _ => unreachable!("a change is decoded as one of these"),
        }
    }

    /// Gives a reservation other lines, or leaves it as it is.
    ///
    /// # Errors
    /// See [`Error`]; NO_STOCK lists every short line in [`Refusal::short`](crate::Refusal::short).
    pub async fn amend(&self, amend: &Amend<'_>) -> Result<Granted, Error> {
        match self.one(Encoded::op(Opcode::Amend, |out| amend.encode(out))?).await? {
            Outcome::Granted(granted) => Ok(granted),
            _ => unreachable!("an amend is decoded as Granted"),
        }
    }

    /// Takes units of lines that several cells may meet.
    ///
    /// # Errors
    /// See [`Error`]; NO_STOCK and MIN_QTY list lines in [`Refusal::short`](crate::Refusal::short), with
    /// what they could have got.
    pub async fn reserve_from(&self, reserve: &ReserveFrom<'_>) -> Result<Sourced, Error> {
        let encoded = Encoded::op(Opcode::ReserveFrom, |out| reserve.encode(out))?;
        match self.one(encoded).await? {
            Outcome::Sourced(sourced) => Ok(sourced),
            _ => unreachable!("a reserve from cells is decoded as Sourced"),
        }
    }

    /// Keeps a reservation from expiring for at least `ttl` from now, up to seven days: for payments
    /// that take long.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn pin(&self, id: ReservationId, ttl: Duration) -> Result<Extended, Error> {
        self.prolong(&Prolong::pin(id, ttl)).await
    }

    /// Reads all counters and the rules of up to 8,192 cells; `None` where there is no such cell.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_details(
        &self,
        cells: &[CellRef<'_>],
        consistency: Consistency,
    ) -> Result<Read<Vec<Option<Details>>>, Error> {
        let encode = |out: &mut _| {
            check_cells_read(cells)?;
            Op::encode_read_details(out, consistency.flags(), cells);
            Ok(())
        };
        match self.one(Encoded::op(Opcode::ReadDetails, encode)?).await? {
            Outcome::Details(read) if read.value.len() == cells.len() => Ok(read),
            Outcome::Details(_) => Err(Error::Retry(Why::BadReply)),
            _ => unreachable!("a read of details is decoded as Details"),
        }
    }

    /// Reads what has become of each line of a reservation; `None` if it is not known.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_lines(
        &self,
        id: ReservationId,
        consistency: Consistency,
    ) -> Result<Option<Read<Lines>>, Error> {
        match self.read_one(Op::ReadLines { id }, consistency).await? {
            Some(Outcome::Lines(read)) => Ok(Some(read)),
            None => Ok(None),
            _ => unreachable!("a read of lines is decoded as Lines"),
        }
    }

    /// Reads a transfer; `None` if it is not known.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_transfer(
        &self,
        transfer: OpId,
        consistency: Consistency,
    ) -> Result<Option<Transferred>, Error> {
        match self.read_one(Op::ReadTransfer { transfer }, consistency).await? {
            Some(Outcome::Transferred(found)) => Ok(Some(found)),
            None => Ok(None),
            _ => unreachable!("a read of a transfer is decoded as Transferred"),
        }
    }

    async fn read_one(
        &self,
        op: Op<'_>,
        consistency: Consistency,
    ) -> Result<Option<Outcome>, Error> {
        let encode = |out: &mut _| encode_checked(&op, &consistency.terms(), out);
        match self.one(Encoded::op(op.opcode(), encode)?).await {
            Ok(outcome) => Ok(Some(outcome)),
            Err(error) if error.code() == Some(Code::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }
}
