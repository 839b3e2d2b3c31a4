//! Admission: what becomes of the frames of one burst.
//!
//! ```text
//!                 ┌─ BAD_OP, TOO_LARGE            nothing of the frame is executed
//! frame ─▶ route ─┼─ Log       push to the ingress, under one guard for the whole burst
//!                 ├─ SoldOut   wait with the reads, then look again: NO_STOCK or Log
//!                 ├─ Fresh     wait for the read barrier
//!                 └─ Local     answer from this node's present state
//! ```
//!
//! Every operation is decoded here once, so that what the log gets is well-formed. Bytes are pushed
//! as they came: an operation has one encoding for the wire and for the log.
//!
//! Invariants:
//! - A frame is admitted whole or refused whole.
//! - A frame that is admitted is owed exactly one reply.

use std::fmt;
use std::sync::Arc;

use bytes::BytesMut;

use super::limits::{BUSY_RETRY_MS, FULL_RETRY_MS, LEAVING_RETRY_MS};
use super::metrics;
use super::outbox::{Outbox, Owed, Ticket};
use super::reads::{Reads, Want};
use super::shared::{Phase, Shared};
use crate::protocol::{
    CellHandle, CellRef, Code, Frame, Kind, Op, OpError, OpFlags, Reader, ReservationId, Subscribe,
    SubscribeError, UnixMillis, limits, take_op, take_outcome,
};
use crate::replication::{IngressGuard, Refusal, ReplyTo, RequestTag, Role};
use crate::world::UnixMicros;
use crate::world::net::TcpStream;

/// What a READ_SKU is taken to read until it is known: most have fewer warehouses.
const CELLS_OF_A_SKU: u32 = 32;

/// What a LIST_CELLS costs beside those it shows, unless it shows all: it looks at many more, each at a quarter
/// of the price.
const CELLS_OF_A_LIST: u32 = 4_096;

/// A READ_OWNER looks at all open reservations of the owner, and at their lines.
const CELLS_OF_AN_OWNER: u32 = limits::OWNER_LINES_MAX / 4;

/// Where a frame goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Route {
    Fresh,
    Local,
    Log,
    SoldOut,
}

/// Why a frame is not routed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum BadOps {
    Count(u32),
    Linked(u32),
    /// A list of cells that is not alone.
    List(u32),
    Mixed,
    Op {
        position: u32,
        error: OpError,
    },
    Trailing,
}

impl BadOps {
    const fn code(self) -> Code {
        match self {
            Self::Count(count) if count > limits::BATCH_OPS_MAX => Code::TOO_LARGE,
            _ => Code::BAD_OP,
        }
    }
}

impl fmt::Display for BadOps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => {
                write!(f, "a batch has 1 to {} operations, not {count}", limits::BATCH_OPS_MAX)
            }
            Self::Linked(position) => write!(
                f,
                "operation {position} is linked to nothing, or as more than {} in a row",
                limits::LINKED_MAX
            ),
            Self::List(position) => {
                write!(f, "operation {position}: a list goes into a frame of its own")
            }
            Self::Mixed => f.write_str("a batch has writes or reads, not both; send two"),
            Self::Op { position, error } => write!(f, "operation {position}: {error}"),
            Self::Trailing => f.write_str("bytes follow the last operation of the frame"),
        }
    }
}

/// Checks the syntax of `count` operations and says where they go, and about how many cells they
/// read. `sold_out` is asked about reserves as long as it says yes.
pub(super) fn route(
    ops: &[u8],
    count: u32,
    mut sold_out: impl FnMut(&Op<'_>, OpFlags, Option<UnixMillis>) -> bool,
) -> Result<(Route, u32), BadOps> {
    let mut reader = Reader::new(ops);
    let (mut route, mut cells_read, mut linked) = (None, 0, 0);
    for position in 0..count {
        let (op, flags, not_after) =
            take_op(&mut reader).map_err(|error| BadOps::Op { position, error })?;
        let is_list = matches!(op, Op::ListCells(_) | Op::ListSkus(_) | Op::ReadCrossings { .. });
        if is_list && count > 1 {
            return Err(BadOps::List(position));
        }
        cells_read += match &op {
            Op::ReadCells { cells } => cells.len() as u32,
            // Each is as long as two and a half cells.
            Op::ReadDetails { cells } => cells.len() as u32 * 5 / 2,
            Op::ReadSku { after: Some(CellHandle::END), .. } => 1,
            Op::ReadSku { .. } => CELLS_OF_A_SKU,
            Op::ReadOwner { .. } => CELLS_OF_AN_OWNER,
            Op::ReadCrossings { count, .. } => u32::from(*count) * 4,
            Op::ListCells(listing) | Op::ListSkus(listing) => {
                let searched = if listing.is_of_all() { 0 } else { CELLS_OF_A_LIST };
                u32::from(listing.count) * 4 + searched
            }
            _ => 0,
        };
        let is_write = op.opcode().is_write();
        let in_chain = linked > 0;
        linked = if is_write && flags.contains(OpFlags::LINKED) { linked + 1 } else { 0 };
        if linked >= limits::LINKED_MAX || linked > 0 && position + 1 == count {
            return Err(BadOps::Linked(position));
        }
        let own = match op {
            Op::Ping | Op::ClusterStatus => Route::Local,
            // What is linked is decided together.
            _ if is_write && (in_chain || linked > 0) => Route::Log,
            _ if is_write => {
                let ask = matches!(route, None | Some(Route::SoldOut));
                if ask && sold_out(&op, flags, not_after) { Route::SoldOut } else { Route::Log }
            }
            _ if flags.contains(OpFlags::STALE) => Route::Local,
            _ => Route::Fresh,
        };
        route = Some(match (route, own) {
            (None, own) => own,
            (Some(Route::SoldOut), Route::SoldOut) => Route::SoldOut,
            (Some(Route::Log | Route::SoldOut), Route::Log | Route::SoldOut) => Route::Log,
            (Some(Route::Local), Route::Local) => Route::Local,
            (Some(Route::Fresh | Route::Local), Route::Fresh | Route::Local) => Route::Fresh,
            _ => return Err(BadOps::Mixed),
        });
    }
    if !reader.is_empty() {
        return Err(BadOps::Trailing);
    }
    let route = route.ok_or(BadOps::Count(0))?;
    Ok((route, cells_read))
}

/// One of the checked operations makes the state remember one more id: a new reservation, a stock
/// write, or the fence that a release of an unknown id leaves; or it leaves old lines or a step behind. What
/// else an id in memory asks for goes on: a full shop can still ship. `Some(true)`: a stock write does.
fn remembers_more(ops: &[u8], known: impl Fn(ReservationId) -> bool) -> Option<bool> {
    let mut reader = Reader::new(ops);
    let remember =
        std::iter::from_fn(|| take_op(&mut reader).ok()).filter_map(|(op, ..)| match op {
            Op::Release { parts, .. }
            | Op::Confirm { parts, .. }
            | Op::Cancel { parts, .. }
            | Op::Fulfil { parts, .. }
                if !parts.is_whole() =>
            {
                Some(false)
            }
            Op::Reserve { id, .. } | Op::ReserveFrom { id, .. } | Op::Release { id, .. } => {
                (!known(id)).then_some(false)
            }
            Op::Amend { .. } => Some(false),
            Op::Confirm { .. }
            | Op::Extend { .. }
            | Op::Pin { .. }
            | Op::Cancel { .. }
            | Op::Fulfil { .. }
            | Op::TransferClose { .. }
            | Op::TransferCancel { .. } => None,
            _ => op.key().map(|_| true),
        });
    remember.reduce(|any, one| any || one)
}

/// One of the checked operations makes a cell that is not there yet.
fn makes_cells(ops: &[u8], known: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    let mut reader = Reader::new(ops);
    std::iter::from_fn(|| take_op(&mut reader).ok()).any(|(op, flags, _)| {
        let may_make = matches!(op, Op::Define { .. }) || flags.contains(OpFlags::DEFINE);
        may_make && op.written_cell().is_some_and(|cell| !is_known(cell, &known))
    })
}

fn is_known(cell: CellRef<'_>, known: impl Fn(&[u8], &[u8]) -> bool) -> bool {
    match cell {
        CellRef::Handle(_) => true,
        CellRef::Name { warehouse, sku } => known(warehouse, sku),
    }
}

/// Memory holds as many reservations as it may.
pub(super) fn records_full() -> Refusal {
    Refusal::busy(FULL_RETRY_MS, "the reservations in memory have reached --max-reservations")
}

/// Stock writes have as much of that memory as they may.
fn records_tight() -> Refusal {
    Refusal::busy(FULL_RETRY_MS, "stock writes have reached three quarters of --max-reservations")
}

/// The reads that wait have as many bytes as they may.
pub(super) fn reads_full() -> Refusal {
    Refusal::busy(BUSY_RETRY_MS, "too many reads wait for an answer")
}

/// The admission of one burst.
pub(super) struct Burst<'a> {
    shared: &'a Shared,
    outbox: &'a Arc<Outbox>,
    stream: &'a TcpStream,
    reads: &'a mut Reads,
    /// Taken by the first write; dropping it wakes the proposer.
    guard: Option<IngressGuard<'a>>,
    ticket: Option<(Arc<Ticket>, Arc<dyn ReplyTo>)>,
    owed: Owed,
    /// What of it are reads of this burst, which wait for its end to be answered: they are put on the
    /// outbox's books in one go.
    reads_owed: Owed,
    now: UnixMicros,
    scratch: BytesMut,
    frames: u64,
    write_ops: u64,
    read_ops: u64,
}

impl<'a> Burst<'a> {
    pub fn new(
        shared: &'a Shared,
        outbox: &'a Arc<Outbox>,
        stream: &'a TcpStream,
        reads: &'a mut Reads,
    ) -> Self {
        Self {
            shared,
            outbox,
            stream,
            owed: outbox.owed(),
            reads_owed: Owed::default(),
            scratch: reads.take_scratch(),
            reads,
            guard: None,
            ticket: None,
            now: shared.replica.now(),
            frames: 0,
            write_ops: 0,
            read_ops: 0,
        }
    }

    /// Admits or refuses a frame.
    ///
    /// # Errors
    /// It is not a request; the connection must close.
    pub fn frame(&mut self, frame: &Frame) -> Result<(), Refusal> {
        self.frames += 1;
        let request_id = frame.header.request_id;
        match frame.header.kind {
            Kind::Op => self.request(RequestTag { request_id, batch: false, ops: 1 }, &frame.body),
            Kind::Batch => match frame.body.split_first_chunk::<4>() {
                Some((count, ops)) => {
                    let ops_count = u32::from_le_bytes(*count);
                    self.request(RequestTag { request_id, batch: true, ops: ops_count }, ops);
                }
                None => self.refuse_bad(request_id, BadOps::Count(0)),
            },
            Kind::Subscribe => self.subscribe(frame),
            Kind::Credit => self.grant(frame),
            Kind::BackupList | Kind::BackupRead => self.backup(frame),
            kind => {
                let message = format!("a client does not send {kind:?} here");
                return Err(Refusal { message, ..Refusal::new(Code::BAD_FRAME, 0) });
            }
        }
        Ok(())
    }

    fn subscribe(&self, frame: &Frame) {
        let request_id = frame.header.request_id;
        let bad = |error: SubscribeError| Refusal {
            message: error.to_string(),
            ..Refusal::new(Code::BAD_OP, 0)
        };
        let wish = Subscribe::decode(&frame.body).map_err(bad);
        let taken = wish.and_then(|wish| match self.shared.phase() {
            Phase::Running => self.shared.feed.subscribe(self.outbox, request_id, &wish),
            _ => Err(Refusal::busy(LEAVING_RETRY_MS, "this node is leaving; ask another one")),
        });
        match taken {
            Ok(()) => self.outbox.allow_direct(self.stream),
            Err(refusal) => self.outbox.error(request_id, &refusal),
        }
    }

    fn backup(&self, frame: &Frame) {
        let (request_id, backups) = (frame.header.request_id, &self.shared.backups);
        let unsent_bytes = metrics::read(&self.shared.metrics.bytes_unsent);
        let taken = if self.shared.phase() != Phase::Running {
            Err(Refusal::busy(LEAVING_RETRY_MS, "this node is leaving; ask another one"))
        } else if unsent_bytes > self.shared.limits.unsent_bytes_all_max {
            Err(Refusal::busy(BUSY_RETRY_MS, "too many replies wait for clients to read them"))
        } else if frame.header.kind == Kind::BackupList {
            backups.list(self.outbox, request_id)
        } else {
            backups.read(self.outbox, request_id, &frame.body)
        };
        if let Err(refusal) = taken {
            self.outbox.error(request_id, &refusal);
        }
    }

    fn grant(&self, frame: &Frame) {
        let request_id = frame.header.request_id;
        match frame.body.first_chunk::<4>() {
            Some(bytes) if frame.body.len() == 4 => {
                self.shared.feed.grant(self.outbox, request_id, u32::from_le_bytes(*bytes));
            }
            _ => {
                let message = "a CREDIT has four bytes".to_owned();
                let refusal = Refusal { message, ..Refusal::new(Code::BAD_OP, 0) };
                self.outbox.error(request_id, &refusal);
            }
        }
    }

    fn request(&mut self, tag: RequestTag, ops: &[u8]) {
        if tag.ops > limits::BATCH_OPS_MAX {
            return self.refuse_bad(tag.request_id, BadOps::Count(tag.ops));
        }
        let (shared, now, scratch) = (self.shared, self.now, &mut self.scratch);
        let routed = route(ops, tag.ops, |op, flags, not_after| {
            shared.looks_sold_out(op, flags, not_after, now, scratch)
        });
        let (route, cells) = match routed {
            Ok(routed) => routed,
            Err(bad) => return self.refuse_bad(tag.request_id, bad),
        };
        if let Some(refusal) = self.gate(route, ops) {
            return self.outbox.error(tag.request_id, &refusal);
        }
        // From here on the frame is owed a reply.
        let request_bytes = ops.len() as u64;
        self.owed.add(request_bytes);
        if route == Route::Log {
            self.outbox.owe(request_bytes);
        } else {
            self.reads_owed.add(request_bytes);
        }
        let counter = match route {
            Route::Log | Route::SoldOut => &mut self.write_ops,
            Route::Fresh | Route::Local => &mut self.read_ops,
        };
        *counter += u64::from(tag.ops);
        match route {
            Route::Log => self.push(tag, ops),
            Route::SoldOut => self.reads.add(Want::SoldOut, tag, cells, ops),
            Route::Fresh => self.reads.add(Want::Fresh, tag, cells, ops),
            Route::Local => self.reads.add(Want::Local, tag, cells, ops),
        }
    }

    fn push(&mut self, tag: RequestTag, ops: &[u8]) {
        let (shared, outbox) = (self.shared, self.outbox);
        let (ticket, to) = self.ticket.get_or_insert_with(|| Ticket::new(outbox));
        ticket.hold(ops.len());
        let guard = self.guard.get_or_insert_with(|| shared.replica.ingress());
        if let Err(refusal) = guard.push(to, tag, ops) {
            outbox.refuse(tag, &refusal);
        }
    }

    /// A limit or the operator keeps the frame out.
    fn gate(&self, route: Route, ops: &[u8]) -> Option<Refusal> {
        let limits = &self.shared.limits;
        let request_bytes = ops.len() as u64;
        let write = matches!(route, Route::Log | Route::SoldOut);
        let unsent_bytes_max = limits.unsent_bytes_all_max * if write { 2 } else { 1 };
        let read_bytes =
            metrics::read(&self.shared.metrics.read_bytes_waiting) + self.reads_owed.request_bytes;
        let (retry_ms, message) = if self.shared.phase() != Phase::Running {
            (LEAVING_RETRY_MS, "this node is shutting down; connect to another one")
        } else if write && self.shared.is_draining() && self.leads() {
            (LEAVING_RETRY_MS, "this node is drained by its operator and takes no writes")
        } else if self.owed.frames >= u64::from(limits.frames_in_flight_max) {
            (BUSY_RETRY_MS, "too many frames of this connection wait for a reply")
        } else if self.owed.request_bytes + request_bytes > limits.request_bytes_in_flight_max {
            (BUSY_RETRY_MS, "too many bytes of this connection wait for a reply")
        } else if metrics::read(&self.shared.metrics.bytes_unsent) > unsent_bytes_max {
            (BUSY_RETRY_MS, "too many replies wait for clients to read them")
        } else if route != Route::Log && read_bytes + request_bytes > limits.read_bytes_all_max {
            return Some(reads_full());
        } else if let Some(refusal) = self.no_record(route, ops) {
            return Some(refusal);
        } else if route == Route::Log && self.makes_cells_over_limit(ops) {
            (FULL_RETRY_MS, "the cells in memory have reached --max-cells")
        } else {
            return None;
        };
        Some(Refusal::busy(retry_ms, message))
    }

    /// There is no room for what the operations make the state remember.
    fn no_record(&self, route: Route, ops: &[u8]) -> Option<Refusal> {
        let replica = &self.shared.replica;
        if route != Route::Log || !replica.records_tight() {
            return None;
        }
        let is_stock_write = replica.with_state(|state| {
            remembers_more(ops, |id| {
                let mut out = BytesMut::new();
                state.read_reservation(id, &mut out);
                take_outcome(&mut Reader::new(&out)).is_ok_and(|found| found.code.is_ok())
            })
        })?;
        match (replica.records_full(), is_stock_write) {
            (true, _) => Some(records_full()),
            (false, true) => Some(records_tight()),
            (false, false) => None,
        }
    }

    fn makes_cells_over_limit(&self, ops: &[u8]) -> bool {
        let cells = self.shared.replica.cells();
        cells.count() >= self.shared.limits.cells_max
            && makes_cells(ops, |warehouse, sku| cells.handle(warehouse, sku).is_some())
    }

    /// Once leadership is handed over, a drained node says NOT_LEADER like any other, which is what
    /// makes clients move on.
    fn leads(&self) -> bool {
        self.shared.replica.leadership().role == Role::Leader
    }

    fn refuse_bad(&self, request_id: u64, bad: BadOps) {
        let refusal = Refusal { message: bad.to_string(), ..Refusal::new(bad.code(), 0) };
        self.outbox.error(request_id, &refusal);
    }
}

impl Drop for Burst<'_> {
    fn drop(&mut self) {
        self.reads.return_scratch(std::mem::take(&mut self.scratch));
        if self.reads_owed.frames > 0 {
            self.outbox.owe_reads(self.reads_owed);
        }
        let metrics = &self.shared.metrics;
        metrics::add(&metrics.frames, self.frames);
        metrics::add(&metrics.write_ops, self.write_ops);
        metrics::add(&metrics.read_ops, self.read_ops);
        metrics::add(&self.outbox.frames, self.frames);
        metrics::add(&self.outbox.ops, self.write_ops + self.read_ops);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::{CellHandle, Line, OpId};

    fn reserve(out: &mut BytesMut, flags: OpFlags) {
        let lines = [Line { cell: CellRef::Handle(CellHandle(1)), quantity: 1 }];
        Op::encode_reserve(out, flags, None, ReservationId([1; 16]), 0, &lines);
    }

    fn routed(build: impl FnOnce(&mut BytesMut), count: u32) -> Result<Route, BadOps> {
        let mut ops = BytesMut::new();
        build(&mut ops);
        let routed = route(&ops, count, |op, flags, _| {
            matches!(op, Op::Reserve { .. }) && !flags.contains(OpFlags::RETRY)
        });
        routed.map(|(route, _)| route)
    }

    #[test]
    fn one_operation_decides_for_itself() {
        assert_eq!(routed(|out| reserve(out, OpFlags::default()), 1), Ok(Route::SoldOut));
        assert_eq!(routed(|out| reserve(out, OpFlags::RETRY), 1), Ok(Route::Log));
        assert_eq!(routed(Op::encode_ping, 1), Ok(Route::Local));
        let read = |flags| move |out: &mut _| Op::encode_read_sku(out, flags, None, b"sku");
        assert_eq!(routed(read(OpFlags::default()), 1), Ok(Route::Fresh));
        assert_eq!(routed(read(OpFlags::STALE), 1), Ok(Route::Local));
    }

    #[test]
    fn a_batch_goes_where_its_strictest_operation_must() {
        let both = |a: OpFlags, b: OpFlags| {
            routed(
                |out| {
                    reserve(out, a);
                    reserve(out, b);
                },
                2,
            )
        };
        let plain = OpFlags::default();
        assert_eq!(both(plain, plain), Ok(Route::SoldOut));
        assert_eq!(both(plain, OpFlags::RETRY), Ok(Route::Log));
        assert_eq!(both(OpFlags::RETRY, plain), Ok(Route::Log));
        let reads = routed(
            |out| {
                Op::encode_ping(out);
                Op::encode_read_sku(out, plain, None, b"sku");
            },
            2,
        );
        assert_eq!(reads, Ok(Route::Fresh));
    }

    #[test]
    fn what_is_linked_goes_to_the_log_and_ends() {
        let linked = |count: u32, last: OpFlags| {
            let build = |out: &mut BytesMut| {
                (1..count).for_each(|_| reserve(out, OpFlags::LINKED));
                reserve(out, last);
            };
            routed(build, count)
        };
        let plain = OpFlags::default();
        assert_eq!(linked(2, plain), Ok(Route::Log));
        assert_eq!(linked(2, OpFlags::LINKED), Err(BadOps::Linked(1)));
        assert_eq!(linked(1, OpFlags::LINKED), Err(BadOps::Linked(0)));
        assert_eq!(linked(limits::LINKED_MAX, plain), Ok(Route::Log));
        let over = Err(BadOps::Linked(limits::LINKED_MAX - 1));
        assert_eq!(linked(limits::LINKED_MAX + 1, plain), over);
    }

    #[test]
    fn only_a_new_cell_counts_as_one() {
        let known = |_: &[u8], sku: &[u8]| sku == b"old";
        let mut ops = BytesMut::new();
        Op::encode_define(&mut ops, b"W", b"old");
        let receive = |ops: &mut BytesMut, flags, sku| {
            let cell = CellRef::Name { warehouse: b"W", sku };
            Op::encode_receive(ops, flags, None, OpId([1; 16]), cell, 1);
        };
        receive(&mut ops, OpFlags::default(), b"new");
        receive(&mut ops, OpFlags::DEFINE, b"old");
        reserve(&mut ops, OpFlags::default());
        assert!(!makes_cells(&ops, known));
        receive(&mut ops, OpFlags::DEFINE, b"new");
        assert!(makes_cells(&ops, known));
        let mut ops = BytesMut::new();
        Op::encode_define(&mut ops, b"W", b"new");
        assert!(makes_cells(&ops, known));
    }

    #[test]
    fn malformed_and_mixed_frames_are_refused() {
        let mixed = routed(
            |out| {
                Op::encode_ping(out);
                reserve(out, OpFlags::default());
            },
            2,
        );
        assert_eq!(mixed, Err(BadOps::Mixed));
        assert_eq!(routed(|_| (), 0), Err(BadOps::Count(0)));
        let twice = |out: &mut BytesMut| {
            Op::encode_ping(out);
            Op::encode_ping(out);
        };
        assert_eq!(routed(twice, 1), Err(BadOps::Trailing));
        let error = OpError::Truncated;
        assert_eq!(routed(twice, 3), Err(BadOps::Op { position: 2, error }));
        assert_eq!(BadOps::Count(limits::BATCH_OPS_MAX + 1).code(), Code::TOO_LARGE);
        assert_eq!(BadOps::Mixed.code(), Code::BAD_OP);
    }
}
