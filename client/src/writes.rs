//! Requests that change stock, transfers, and reservations in part: built step by step, checked before
//! they are sent.
//!
//! ```
//! use stockd_client::{CellRef, Change, OpId, ReservationId, StockWrite};
//!
//! let cell = CellRef::name("BER", "mug");
//! let lost = StockWrite::adjust(OpId([1; 16]), cell, -2).truth().note(7, b"INC-12");
//! let shipped = Change::fulfil(ReservationId([2; 16])).part(0, 2).part(3, 1).step(1);
//! # let _ = (lost, shipped);
//! ```

use bytes::BytesMut;
use stockd_protocol::{
    Bucket, CellRef, Guard, Line, Note, Op, OpError, OpFlags, OpId, Opcode, Part, Parts,
    PolicyChange, Reader, ReservationId, Terms, UnixMillis, limits, take_op,
};

use crate::error::Invalid;
use crate::request::check_cells;

/// What may stand around any of these writes.
macro_rules! terms {
    () => {
        /// Why it is done, by a code of your own, and what it belongs to, in at most 64 bytes: for
        /// whoever reads the log.
        #[must_use]
        pub const fn note(mut self, reason: u16, reference: &'a [u8]) -> Self {
            self.terms.note = Some(Note { reason, reference });
            self
        }

        /// Once the cluster's clock has passed this, the request can never take effect any more.
        #[must_use]
        pub const fn not_after(mut self, not_after: UnixMillis) -> Self {
            self.terms.not_after = Some(not_after);
            self
        }

        /// Says that it was sent before, in an earlier call that ended in
        /// [`Error::Unknown`](crate::Error::Unknown) or in an earlier life of this process.
        #[must_use]
        pub const fn retry(self) -> Self {
            self.flag(OpFlags::RETRY)
        }

        const fn flag(mut self, flag: OpFlags) -> Self {
            self.terms.flags = self.terms.flags.with(flag);
            self
        }
    };
}

pub(crate) use terms;

/// A write of stock to one cell, done once per `op_id`. A cell that is named and not there is made.
#[derive(Clone, Copy, Debug)]
pub struct StockWrite<'a> {
    op: Op<'a>,
    terms: Terms<'a>,
}

impl<'a> StockWrite<'a> {
    terms!();

    const fn new(op: Op<'a>) -> Self {
        let none = Terms { flags: OpFlags(0), not_after: None, note: None };
        Self { op, terms: none }
    }

    /// Adds `quantity` units (at least 1): a delivery.
    pub const fn receive(op_id: OpId, cell: CellRef<'a>, quantity: u32) -> Self {
        Self::new(Op::Receive { op_id, quantity, cell })
    }

    /// So many units more, or fewer, than the cell was thought to have. Refused with WOULD_SHORT if
    /// they are promised, unless it is the [`truth`](Self::truth).
    pub const fn adjust(op_id: OpId, cell: CellRef<'a>, delta: i64) -> Self {
        Self::new(Op::Adjust { op_id, delta, cell })
    }

    /// The cell has `on_hand` units, if it has `expected` now.
    pub const fn set(op_id: OpId, cell: CellRef<'a>, on_hand: i64, expected: i64) -> Self {
        Self::new(Op::Set { op_id, on_hand, guard: Guard::Expected(expected), cell })
    }

    /// The cell has `on_hand` units, says a feed; older messages of it than `sequence` (from 1) are
    /// refused from now on.
    pub const fn feed(op_id: OpId, cell: CellRef<'a>, on_hand: i64, sequence: u64) -> Self {
        Self::new(Op::Set { op_id, on_hand, guard: Guard::Feed(sequence), cell })
    }

    /// Begins a count; `op_id` is its token.
    pub const fn begin_count(op_id: OpId, cell: CellRef<'a>) -> Self {
        Self::new(Op::CountBegin { op_id, cell })
    }

    /// There were so many units when the count began.
    pub const fn commit_count(op_id: OpId, token: OpId, counted: i64) -> Self {
        Self::new(Op::CountCommit { op_id, token, counted })
    }

    /// Moves units from one bucket of the cell to another.
    pub const fn shelve(
        op_id: OpId,
        cell: CellRef<'a>,
        from: Bucket,
        to: Bucket,
        quantity: u32,
    ) -> Self {
        Self::new(Op::Move { op_id, from, to, quantity, cell })
    }

    /// So many units more, or fewer, are on order.
    pub const fn announce(op_id: OpId, cell: CellRef<'a>, delta: i64) -> Self {
        Self::new(Op::Announce { op_id, delta, cell })
    }

    /// Units that were announced have arrived.
    pub const fn arrive(op_id: OpId, cell: CellRef<'a>, quantity: u32, bucket: Bucket) -> Self {
        Self::new(Op::Arrive { op_id, quantity, bucket, cell })
    }

    /// A customer has sent units back.
    pub const fn take_back(op_id: OpId, cell: CellRef<'a>, quantity: u32, bucket: Bucket) -> Self {
        Self::new(Op::Return { op_id, quantity, bucket, cell })
    }

    /// Changes the cell's rules.
    pub const fn policy(op_id: OpId, cell: CellRef<'a>, change: PolicyChange) -> Self {
        Self::new(Op::SetPolicy { op_id, change, cell })
    }

    /// It has happened: record it even if more is promised than is there then. It goes with adjust and
    /// shelve only.
    #[must_use]
    pub const fn truth(self) -> Self {
        self.flag(OpFlags::TRUTH)
    }

    pub(crate) const fn opcode(&self) -> Opcode {
        self.op.opcode()
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), Invalid> {
        check_truth(&self.op, &self.terms)?;
        encode_checked(&self.op, &self.terms, out)
    }
}

/// A transfer between two cells of one SKU.
#[derive(Clone, Copy, Debug)]
pub struct Shipment<'a> {
    op: Op<'a>,
    terms: Terms<'a>,
}

impl<'a> Shipment<'a> {
    terms!();

    const fn new(op: Op<'a>) -> Self {
        let none = Terms { flags: OpFlags(0), not_after: None, note: None };
        Self { op, terms: none }
    }

    /// Units leave `from`; `op_id` names the transfer. `to` is made if it is named and not there.
    pub const fn ship(op_id: OpId, from: CellRef<'a>, to: CellRef<'a>, quantity: u32) -> Self {
        Self::new(Op::TransferShip { op_id, quantity, from, to })
    }

    /// Units have arrived, in good order or damaged.
    pub const fn receive(op_id: OpId, transfer: OpId, good: u32, damaged: u32) -> Self {
        Self::new(Op::TransferReceive { op_id, transfer, good, damaged })
    }

    /// What has not arrived is lost.
    pub const fn close(transfer: OpId) -> Self {
        Self::new(Op::TransferClose { transfer })
    }

    /// What has not arrived is back where it came from.
    pub const fn recall(transfer: OpId) -> Self {
        Self::new(Op::TransferCancel { transfer })
    }

    /// They have left: record it even if they were promised. It goes with ship only.
    #[must_use]
    pub const fn truth(self) -> Self {
        self.flag(OpFlags::TRUTH)
    }

    pub(crate) const fn opcode(&self) -> Opcode {
        self.op.opcode()
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), Invalid> {
        check_truth(&self.op, &self.terms)?;
        encode_checked(&self.op, &self.terms, out)
    }
}

/// What is done with the units of a reservation: with all of them, or with some units of some lines.
#[derive(Clone, Debug)]
pub struct Change<'a> {
    opcode: Opcode,
    id: ReservationId,
    step: u32,
    parts: Vec<Part>,
    terms: Terms<'a>,
}

impl<'a> Change<'a> {
    terms!();

    fn new(opcode: Opcode, id: ReservationId) -> Self {
        Self { opcode, id, step: 0, parts: Vec::new(), terms: Terms::default() }
    }

    /// Promises units to an order.
    pub fn confirm(id: ReservationId) -> Self {
        Self::new(Opcode::Confirm, id)
    }

    /// Gives units back that are not confirmed.
    pub fn release(id: ReservationId) -> Self {
        Self::new(Opcode::Release, id)
    }

    /// Takes a promise back.
    pub fn cancel(id: ReservationId) -> Self {
        Self::new(Opcode::Cancel, id)
    }

    /// Hands over what was promised.
    pub fn fulfil(id: ReservationId) -> Self {
        Self::new(Opcode::Fulfil, id)
    }

    /// Some units of a line, counted from 0. Without any part it is the whole. With parts there must be
    /// a [`step`](Self::step).
    #[must_use]
    pub fn part(mut self, line: u16, quantity: u32) -> Self {
        self.parts.push(Part { line, quantity });
        self
    }

    /// Which step of this reservation it is, by your count from 1, for each kind of change: a retry of
    /// a step is recognised by it.
    #[must_use]
    pub fn step(mut self, step: u32) -> Self {
        self.step = step;
        self
    }

    /// What is not confirmed yet is confirmed on the way. It goes with fulfil only.
    #[must_use]
    pub const fn ship(self) -> Self {
        self.flag(OpFlags::SHIP)
    }

    /// What has expired is taken again if it is there. It goes with confirm, and with fulfil and
    /// [`ship`](Self::ship).
    #[must_use]
    pub const fn reacquire(self) -> Self {
        self.flag(OpFlags::REACQUIRE)
    }

    pub(crate) const fn opcode(&self) -> Opcode {
        self.opcode
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), Invalid> {
        self.check_modifiers()?;
        let id = self.id;
        if self.parts.is_empty() {
            let parts = Parts::WHOLE;
            let op = match self.opcode {
                Opcode::Confirm => Op::Confirm { id, parts },
                Opcode::Release => Op::Release { id, parts },
                Opcode::Cancel => Op::Cancel { id, parts },
                _ => Op::Fulfil { id, parts },
            };
            return encode_checked(&op, &self.terms, out);
        }
        check_note(&self.terms)?;
        let mut parts = self.parts.clone();
        parts.sort_unstable_by_key(|part| part.line);
        let count = parts.len();
        if count > usize::from(limits::LINES_MAX) {
            return Err(OpError::Count(count.min(usize::from(u16::MAX)) as u16).into());
        }
        if self.step == 0 {
            return Err(OpError::Step.into());
        }
        if parts.iter().any(|part| part.quantity == 0) {
            return Err(OpError::ZeroQuantity.into());
        }
        if parts.windows(2).any(|pair| pair[0].line == pair[1].line) {
            return Err(OpError::Parts.into());
        }
        Op::encode_parts(out, self.opcode, &self.terms, id, self.step, &parts);
        Ok(())
    }

    fn check_modifiers(&self) -> Result<(), Invalid> {
        use Opcode::{Confirm, Fulfil};
        let ship = self.terms.flags.contains(OpFlags::SHIP);
        let reacquire = self.terms.flags.contains(OpFlags::REACQUIRE);
        let (modifier, with) = match self.opcode {
            _ if self.step > 0 && self.parts.is_empty() => ("step", "a change of the whole"),
            opcode if ship && opcode != Fulfil => ("ship", opcode.name()),
            Fulfil if reacquire && !ship => ("reacquire", "FULFIL without ship"),
            opcode if reacquire && !matches!(opcode, Confirm | Fulfil) => {
                ("reacquire", opcode.name())
            }
            _ => return Ok(()),
        };
        Err(Invalid::Modifier { modifier, with })
    }
}

/// Other lines for a reservation; its own units count as available to it.
#[derive(Clone, Debug)]
pub struct Amend<'a> {
    id: ReservationId,
    step: u32,
    lines: Vec<Line<'a>>,
    terms: Terms<'a>,
}

impl<'a> Amend<'a> {
    terms!();

    /// No lines yet; `step` is your count from 1 of the amendments of this reservation.
    pub fn new(id: ReservationId, step: u32) -> Self {
        Self { id, step, lines: Vec::new(), terms: Terms::default() }
    }

    /// Adds `quantity` (at least 1) of a cell.
    #[must_use]
    pub fn cell(mut self, cell: CellRef<'a>, quantity: u32) -> Self {
        self.lines.push(Line { cell, quantity });
        self
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), Invalid> {
        check_lines(&self.terms, &self.lines)?;
        if self.step == 0 {
            return Err(OpError::Step.into());
        }
        Op::encode_amend(out, &self.terms, self.id, self.step, &self.lines);
        Ok(())
    }
}

fn check_truth(op: &Op<'_>, terms: &Terms<'_>) -> Result<(), Invalid> {
    let may_be_true = matches!(op, Op::Adjust { .. } | Op::Move { .. } | Op::TransferShip { .. });
    match terms.flags.contains(OpFlags::TRUTH) && !may_be_true {
        true => Err(Invalid::Modifier { modifier: "truth", with: op.opcode().name() }),
        false => Ok(()),
    }
}

/// What RESERVE and AMEND have in common.
pub(crate) fn check_lines(terms: &Terms<'_>, lines: &[Line<'_>]) -> Result<(), Invalid> {
    check_note(terms)?;
    let count = lines.len();
    if count == 0 || count > usize::from(limits::LINES_MAX) {
        return Err(OpError::Count(count.min(usize::from(u16::MAX)) as u16).into());
    }
    check_cells(lines.iter().map(|line| line.cell))?;
    match lines.iter().any(|line| line.quantity == 0) {
        true => Err(OpError::ZeroQuantity.into()),
        false => Ok(()),
    }
}

pub(crate) fn check_note(terms: &Terms<'_>) -> Result<(), Invalid> {
    match terms.note {
        Some(note) if note.reference.len() > limits::REFERENCE_BYTES_MAX => {
            Err(OpError::ReferenceLength(note.reference.len()).into())
        }
        _ => Ok(()),
    }
}

/// Appends an operation if a server would take it.
pub(crate) fn encode_checked(
    op: &Op<'_>,
    terms: &Terms<'_>,
    out: &mut BytesMut,
) -> Result<(), Invalid> {
    check_note(terms)?;
    op.check()?;
    let from = match op {
        Op::TransferShip { from, .. } => Some(*from),
        _ => None,
    };
    check_cells(op.written_cell().into_iter().chain(from))?;
    let named = matches!(op.written_cell(), Some(CellRef::Name { .. }));
    let define = if named { OpFlags::DEFINE } else { OpFlags(0) };
    let start = out.len();
    op.encode(out, &Terms { flags: terms.flags.with(define), ..*terms });
    match take_op(&mut Reader::new(&out[start..])) {
        Ok(_) => Ok(()),
        Err(error) => {
            out.truncate(start);
            Err(error.into())
        }
    }
}
