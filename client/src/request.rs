//! Requests: checked here, encoded once, sent as often as it takes.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use stockd_protocol::{
    CellHandle, CellRef, Header, Kind, Line, Note, Op, OpError, OpFlags, OpId, Opcode,
    ReservationId, Terms, UnixMillis, limits,
};

use crate::catalogue::CatalogueWrite;
use crate::error::Invalid;
use crate::owner::LimitOwners;
use crate::prolong::Prolong;
use crate::sourcing::ReserveFrom;
use crate::writes::{Amend, Change, Shipment, StockWrite, check_lines, terms};

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// At least as new as everything acknowledged before the read was sent.
    #[default]
    Linearizable,
    /// Whatever the asked node has; the reply says how old it may be.
    Stale,
}

impl Consistency {
    pub(crate) const fn flags(self) -> OpFlags {
        match self {
            Self::Linearizable => OpFlags(0),
            Self::Stale => OpFlags::STALE,
        }
    }

    /// What stands around a read.
    pub(crate) const fn terms(self) -> Terms<'static> {
        Terms { flags: self.flags(), not_after: None, note: None }
    }
}

/// A cart to reserve: all lines or none. Cells are all given by name or all by handle.
#[derive(Clone, Debug)]
pub struct Reserve<'a> {
    id: ReservationId,
    ttl_ms: u32,
    terms: Terms<'a>,
    lines: Vec<Line<'a>>,
}

impl<'a> Reserve<'a> {
    terms!();

    /// An empty cart; `id` is the idempotency key, see [`Client::new_id`](crate::Client::new_id).
    pub const fn new(id: ReservationId) -> Self {
        let terms = Terms { flags: OpFlags(0), not_after: None, note: None };
        Self { id, ttl_ms: 0, terms, lines: Vec::new() }
    }

    /// Adds `quantity` (at least 1) of a cell by name. Names are bytes, compared as they are.
    #[must_use]
    pub fn line<W, S>(self, warehouse: &'a W, sku: &'a S, quantity: u32) -> Self
    where
        W: AsRef<[u8]> + ?Sized,
        S: AsRef<[u8]> + ?Sized,
    {
        self.cell(CellRef::name(warehouse, sku), quantity)
    }

    /// Adds `quantity` (at least 1) of a cell by the handle that an earlier reply gave.
    #[must_use]
    pub fn handle(self, handle: CellHandle, quantity: u32) -> Self {
        self.cell(CellRef::Handle(handle), quantity)
    }

    /// Adds `quantity` (at least 1) of a cell. The same cell may be on several lines.
    #[must_use]
    pub fn cell(mut self, cell: CellRef<'a>, quantity: u32) -> Self {
        self.lines.push(Line { cell, quantity });
        self
    }

    /// How long to hold: 1 s to 4 h, in whole milliseconds. Without it, the server's default of ten
    /// minutes.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl_ms = ttl_ms(ttl);
        self
    }

    /// Buys at once: the grant is confirmed and has no deadline.
    #[must_use]
    pub const fn commit(self) -> Self {
        self.flag(OpFlags::COMMIT)
    }

    /// The reservation's id.
    pub const fn id(&self) -> ReservationId {
        self.id
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), Invalid> {
        check_lines(&self.terms, &self.lines)?;
        Op::encode_reserve_on(out, &self.terms, self.id, self.ttl_ms, &self.lines);
        Ok(())
    }
}

/// Many operations in one frame: one log entry, applied in order, each with a result of its own.
/// Unless [`link_all`](Self::link_all) links them, one may be refused and the next granted.
///
/// All writes or all reads, at most 8,192 operations or a mebibyte; an `add` that would break this
/// gives an error and leaves the batch as it was.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    body: BytesMut,
    opcodes: Vec<Opcode>,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// How many operations it holds.
    pub fn len(&self) -> usize {
        self.opcodes.len()
    }

    /// It holds no operation, and cannot be sent.
    pub fn is_empty(&self) -> bool {
        self.opcodes.is_empty()
    }

    /// Adds a reserve.
    ///
    /// # Errors
    /// See the type; or the cart is out of range.
    pub fn reserve(&mut self, reserve: &Reserve<'_>) -> Result<(), Invalid> {
        self.add(Opcode::Reserve, |out| reserve.encode(out))
    }

    /// Adds a confirm.
    ///
    /// # Errors
    /// See the type.
    pub fn confirm(&mut self, id: ReservationId) -> Result<(), Invalid> {
        self.add(Opcode::Confirm, |out| confirm(out, id, None))
    }

    /// Adds a release.
    ///
    /// # Errors
    /// See the type.
    pub fn release(&mut self, id: ReservationId) -> Result<(), Invalid> {
        self.add(Opcode::Release, |out| release(out, id))
    }

    /// Adds an extend.
    ///
    /// # Errors
    /// See the type.
    pub fn extend(&mut self, id: ReservationId, ttl: Duration) -> Result<(), Invalid> {
        self.prolong(&Prolong::extend(id, ttl))
    }

    /// Adds a pin.
    ///
    /// # Errors
    /// See the type.
    pub fn pin(&mut self, id: ReservationId, ttl: Duration) -> Result<(), Invalid> {
        self.prolong(&Prolong::pin(id, ttl))
    }

    /// Adds an extend or a pin.
    ///
    /// # Errors
    /// See the type; or it is out of range.
    pub fn prolong(&mut self, prolong: &Prolong<'_>) -> Result<(), Invalid> {
        self.add(prolong.opcode(), |out| prolong.encode(out))
    }

    /// Adds a define.
    ///
    /// # Errors
    /// See the type; or a name is empty or too long.
    pub fn define(
        &mut self,
        warehouse: impl AsRef<[u8]>,
        sku: impl AsRef<[u8]>,
    ) -> Result<(), Invalid> {
        self.add(Opcode::Define, |out| define(out, warehouse.as_ref(), sku.as_ref()))
    }

    /// Adds a receive, which makes the cell if it is named and not there.
    ///
    /// # Errors
    /// See the type; or a name or the quantity is out of range.
    pub fn receive(
        &mut self,
        op_id: OpId,
        cell: CellRef<'_>,
        quantity: u32,
    ) -> Result<(), Invalid> {
        self.write(&StockWrite::receive(op_id, cell, quantity))
    }

    /// Adds a read of cells.
    ///
    /// # Errors
    /// See the type; or the cells are out of range.
    pub fn read_cells(
        &mut self,
        cells: &[CellRef<'_>],
        consistency: Consistency,
    ) -> Result<(), Invalid> {
        self.add(Opcode::ReadCells, |out| read_cells(out, cells, consistency))
    }

    /// Adds a read of a reservation.
    ///
    /// # Errors
    /// See the type.
    pub fn read_reservation(
        &mut self,
        id: ReservationId,
        consistency: Consistency,
    ) -> Result<(), Invalid> {
        self.add(Opcode::ReadReservation, |out| read_reservation(out, id, consistency))
    }

    /// Adds a stock write. A receive has [`Outcome::Received`](crate::Outcome::Received), all others
    /// [`Outcome::Written`](crate::Outcome::Written).
    ///
    /// # Errors
    /// See the type; or the write is out of range.
    pub fn write(&mut self, write: &StockWrite<'_>) -> Result<(), Invalid> {
        self.add(write.opcode(), |out| write.encode(out))
    }

    /// Adds a step of a transfer.
    ///
    /// # Errors
    /// See the type; or it is out of range.
    pub fn transfer(&mut self, shipment: &Shipment<'_>) -> Result<(), Invalid> {
        self.add(shipment.opcode(), |out| shipment.encode(out))
    }

    /// Adds a write to the catalogue.
    ///
    /// # Errors
    /// See the type; or it is out of range.
    pub fn write_catalogue(&mut self, write: &CatalogueWrite<'_>) -> Result<(), Invalid> {
        self.add(write.opcode(), |out| write.encode(out))
    }

    /// Adds a change of the limits of owners.
    ///
    /// # Errors
    /// See the type; or it is out of range.
    pub fn limit_owners(&mut self, limits: &LimitOwners<'_>) -> Result<(), Invalid> {
        self.add(Opcode::SetOwnerLimits, |out| limits.encode(out))
    }

    /// Adds a change of a reservation.
    ///
    /// # Errors
    /// See the type; or it is out of range.
    pub fn change(&mut self, change: &Change<'_>) -> Result<(), Invalid> {
        self.add(change.opcode(), |out| change.encode(out))
    }

    /// Adds a reserve from several cells.
    ///
    /// # Errors
    /// See the type; or the lines are out of range.
    pub fn reserve_from(&mut self, reserve: &ReserveFrom<'_>) -> Result<(), Invalid> {
        self.add(Opcode::ReserveFrom, |out| reserve.encode(out))
    }

    /// Adds an amend.
    ///
    /// # Errors
    /// See the type; or the lines are out of range.
    pub fn amend(&mut self, amend: &Amend<'_>) -> Result<(), Invalid> {
        self.add(Opcode::Amend, |out| amend.encode(out))
    }

    /// Links all writes of the batch: all are done, or none. The first that is refused gives its
    /// reason, the others LINKED_FAILED.
    ///
    /// # Errors
    /// It holds reads, or more than 1,024 operations.
    pub fn link_all(&mut self) -> Result<(), Invalid> {
        if self.opcodes.first().is_some_and(|first| !first.is_write()) {
            return Err(Invalid::MixedBatch);
        }
        if self.opcodes.len() > limits::LINKED_MAX as usize {
            return Err(Invalid::FullBatch);
        }
        let offsets: Vec<usize> = offsets(&self.body, 4, self.opcodes.len()).collect();
        for (at, offset) in offsets.iter().enumerate() {
            let linked = if at + 1 < offsets.len() { OpFlags::LINKED.0 } else { 0 };
            self.body[offset + 1] = self.body[offset + 1] & !OpFlags::LINKED.0 | linked;
        }
        Ok(())
    }

    fn add(
        &mut self,
        opcode: Opcode,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), Invalid>,
    ) -> Result<(), Invalid> {
        if self.opcodes.first().is_some_and(|first| first.is_write() != opcode.is_write()) {
            return Err(Invalid::MixedBatch);
        }
        if self.body.is_empty() {
            self.body.put_u32_le(0);
        }
        let before = self.body.len();
        encode(&mut self.body)?;
        if self.opcodes.len() == limits::BATCH_OPS_MAX as usize
            || Header::BYTES + self.body.len() > limits::FRAME_BYTES_MAX as usize
        {
            self.body.truncate(before);
            return Err(Invalid::FullBatch);
        }
        self.opcodes.push(opcode);
        let count = self.opcodes.len() as u32;
        self.body[..4].copy_from_slice(&count.to_le_bytes());
        Ok(())
    }
}

/// A request as it travels, without the frame's header.
#[derive(Clone, Debug)]
pub(crate) struct Encoded {
    pub(crate) kind: Kind,
    pub(crate) body: BytesMut,
    pub(crate) opcodes: Vec<Opcode>,
}

impl Encoded {
    pub(crate) fn op(
        opcode: Opcode,
        encode: impl FnOnce(&mut BytesMut) -> Result<(), Invalid>,
    ) -> Result<Self, Invalid> {
        let mut body = BytesMut::new();
        encode(&mut body)?;
        Ok(Self { kind: Kind::Op, body, opcodes: vec![opcode] })
    }

    pub(crate) fn batch(batch: Batch) -> Result<Self, Invalid> {
        match batch.is_empty() {
            true => Err(Invalid::EmptyBatch),
            false => Ok(Self { kind: Kind::Batch, body: batch.body, opcodes: batch.opcodes }),
        }
    }

    /// It changes state, so a lost reply leaves a doubt.
    pub(crate) fn is_write(&self) -> bool {
        self.opcodes.iter().any(|opcode| opcode.is_write())
    }

    /// The caller says of one of its operations that it was sent before.
    pub(crate) fn is_marked_retry(&self) -> bool {
        self.offsets().any(|at| self.body[at + 1] & OpFlags::RETRY.0 != 0)
    }

    /// Sets the RETRY flag of every write.
    pub(crate) fn mark_retry(&mut self) {
        if self.is_write() {
            let offsets: Vec<usize> = self.offsets().collect();
            for at in offsets {
                self.body[at + 1] |= OpFlags::RETRY.0;
            }
        }
    }

    /// Where each operation starts.
    fn offsets(&self) -> impl Iterator<Item = usize> {
        let first = if self.kind == Kind::Batch { 4 } else { 0 };
        offsets(&self.body, first, self.opcodes.len())
    }
}

/// Where each of `count` operations starts, the first of them at `first`.
fn offsets(body: &[u8], first: usize, count: usize) -> impl Iterator<Item = usize> {
    let mut next = first;
    (0..count).map(move |_| {
        let at = next;
        let len = body[at + 4..].first_chunk().expect("an operation has 8 header bytes");
        next += Op::HEADER_BYTES + u32::from_le_bytes(*len) as usize;
        at
    })
}

pub(crate) fn define(out: &mut BytesMut, warehouse: &[u8], sku: &[u8]) -> Result<(), Invalid> {
    check_cells([CellRef::Name { warehouse, sku }].into_iter())?;
    Op::encode_define(out, warehouse, sku);
    Ok(())
}

pub(crate) fn confirm(
    out: &mut BytesMut,
    id: ReservationId,
    not_after: Option<UnixMillis>,
) -> Result<(), Invalid> {
    Op::encode_confirm(out, OpFlags(0), not_after, id);
    Ok(())
}

pub(crate) fn release(out: &mut BytesMut, id: ReservationId) -> Result<(), Invalid> {
    Op::encode_release(out, OpFlags(0), None, id);
    Ok(())
}

pub(crate) fn read_cells(
    out: &mut BytesMut,
    cells: &[CellRef<'_>],
    consistency: Consistency,
) -> Result<(), Invalid> {
    check_cells_read(cells)?;
    Op::encode_read_cells(out, consistency.flags(), cells);
    Ok(())
}

pub(crate) fn check_cells_read(cells: &[CellRef<'_>]) -> Result<(), Invalid> {
    if cells.is_empty() || cells.len() > usize::from(limits::READ_CELLS_MAX) {
        return Err(OpError::Count(cells.len().min(usize::from(u16::MAX)) as u16).into());
    }
    check_cells(cells.iter().copied())
}

pub(crate) fn read_reservation(
    out: &mut BytesMut,
    id: ReservationId,
    consistency: Consistency,
) -> Result<(), Invalid> {
    Op::encode_read_reservation(out, consistency.flags(), id);
    Ok(())
}

pub(crate) fn read_sku(
    out: &mut BytesMut,
    sku: &[u8],
    after: Option<CellHandle>,
    consistency: Consistency,
) -> Result<(), Invalid> {
    check_name(sku, limits::SKU_BYTES_MAX)?;
    Op::encode_read_sku(out, consistency.flags(), after, sku);
    Ok(())
}

/// Out of range becomes what the server refuses: a zero duration, which would mean its default, one
/// millisecond.
pub(crate) fn ttl_ms(ttl: Duration) -> u32 {
    ttl.as_millis().clamp(1, u128::from(u32::MAX)) as u32
}

pub(crate) fn check_cells<'a>(cells: impl Iterator<Item = CellRef<'a>>) -> Result<(), Invalid> {
    let mut named = None;
    for cell in cells {
        let is_named = match cell {
            CellRef::Handle(_) => false,
            CellRef::Name { warehouse, sku } => {
                check_name(warehouse, limits::WAREHOUSE_BYTES_MAX)?;
                check_name(sku, limits::SKU_BYTES_MAX)?;
                true
            }
        };
        if *named.get_or_insert(is_named) != is_named {
            return Err(Invalid::MixedCells);
        }
    }
    Ok(())
}

fn check_name(name: &[u8], max: usize) -> Result<(), Invalid> {
    match (1..=max).contains(&name.len()) {
        true => Ok(()),
        false => Err(OpError::NameLength(name.len()).into()),
    }
}
