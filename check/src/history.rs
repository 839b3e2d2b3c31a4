//! What applications asked and what they were told.
//!
//! ```text
//! client 1   ├──── reserve ────┤            invoked and completed are places in one real-time order
//! client 2        ├─ read ─┤                that all clients share: event numbers, or nanoseconds
//! client 1                     ├─ confirm … completed = u64::MAX: nobody heard how it ended
//! ```
//!
//! An operation is one call of an application, with all the retries that its client made inside. An
//! answer is kept as the wire has it (code, detail, body), because that is what can be compared byte
//! by byte with what the log says; the client's own types turn into it.

use bytes::{BufMut, BytesMut};
use stockd_client as client;
use stockd_protocol::{
    CellHandle, CellRef, Code, Crossing, CrossingsHead, Described, Line, ListHead, ListedCell,
    ListedSku, Op, OpError, OpFlags, OpId, Reader, ReservationId, ReservationState, Terms,
    UnixMillis, take_op, take_op_and_terms,
};

/// `completed` of an operation whose end nobody saw.
pub const NEVER: u64 = u64::MAX;

/// One call of an application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Operation {
    /// Who called. One client's calls may overlap.
    pub client: u32,
    /// When the call began.
    pub invoked: u64,
    /// When it returned, later than `invoked`; [`NEVER`] if it is unknown how it ended.
    pub completed: u64,
    /// What was asked.
    pub request: Request,
    /// The moment of the cluster's clock after which it may not take effect any more.
    pub not_after: Option<UnixMillis>,
    /// What came back.
    pub verdict: Verdict,
}

/// A cell as a request names it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Cell {
    /// By the handle that an earlier answer gave.
    Handle(CellHandle),
    /// By warehouse and SKU.
    Name(Vec<u8>, Vec<u8>),
}

/// What an application asks for.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Request {
    /// Make a cell; by name.
    Define {
        /// Which.
        cell: Cell,
    },
    /// Add units.
    Receive {
        /// The idempotency key.
        op_id: OpId,
        /// How many.
        quantity: u32,
        /// Where.
        cell: Cell,
        /// Make the cell if it is not there. The client library sets it whenever the cell is named.
        define: bool,
    },
    /// Take all lines or none. All cells by name, or all by handle.
    Reserve {
        /// The idempotency key.
        id: ReservationId,
        /// As sent; 0 is the default.
        ttl_ms: u32,
        /// Cells and quantities.
        lines: Vec<(Cell, u32)>,
    },
    /// Promise a reservation's units.
    Confirm {
        /// Which.
        id: ReservationId,
    },
    /// Give a reservation's units back.
    Release {
        /// Which.
        id: ReservationId,
    },
    /// Move a deadline.
    Extend {
        /// Which.
        id: ReservationId,
        /// As sent; 0 is the default.
        ttl_ms: u32,
    },
    /// Read counters. All cells by name, or all by handle.
    ReadCells {
        /// Which.
        cells: Vec<Cell>,
        /// Any node may answer.
        stale: bool,
    },
    /// Read a reservation.
    ReadReservation {
        /// Which.
        id: ReservationId,
        /// Any node may answer.
        stale: bool,
    },
    /// Read a page of a SKU.
    ReadSku {
        /// Its name.
        sku: Vec<u8>,
        /// Where the page before ended.
        after: Option<CellHandle>,
        /// Any node may answer.
        stale: bool,
    },
    /// Any other operation.
    Other(Sent),
}

/// An operation as it is sent for the first time.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sent(Vec<u8>);

impl Sent {
    /// Any operation that a server takes, and what stands around it.
    ///
    /// # Errors
    /// A server would not take it.
    ///
    /// # Panics
    /// A name, a reference or a number is out of the protocol's range.
    pub fn new(op: &Op<'_>, terms: &Terms<'_>) -> Result<Self, OpError> {
        let mut bytes = BytesMut::new();
        let flags = terms.flags.without(OpFlags::RETRY);
        op.encode(&mut bytes, &Terms { flags, ..*terms });
        take_op(&mut Reader::new(&bytes))?;
        Ok(Self(bytes.to_vec()))
    }

    /// What is asked for, and what stands around it.
    pub fn op(&self) -> (Op<'_>, Terms<'_>) {
        take_op_and_terms(&mut Reader::new(&self.0)).expect("checked when it was made")
    }
}

impl std::fmt::Debug for Sent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (op, terms) = self.op();
        write!(f, "{op:?} {:#04x}", terms.flags.0)?;
        terms.not_after.map_or(Ok(()), |end| write!(f, " until {}", end.0))
    }
}

/// How a call ended.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The cluster decided, for or against.
    Answered(Answer),
    /// The client says that it can never take effect.
    NotExecuted,
    /// It may have taken effect, or may still.
    Unknown,
}

/// An answer, as the wire has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Answer {
    /// What became of it.
    pub code: Code,
    /// The reservation's state, or the first line at fault, or 0.
    pub detail: u16,
    /// By operation and code; see protocol.md, section 5.
    pub body: Vec<u8>,
    /// Writes: the log index that decided it; reads: everything up to it is seen.
    pub index: u64,
    /// The cluster's clock.
    pub server_now: UnixMillis,
    /// 0 unless it is a stale read; [`u32::MAX`] if its age is unknown.
    pub age_ms: u32,
}

impl Cell {
    /// Owns what a request names.
    pub fn of(cell: CellRef<'_>) -> Self {
        match cell {
            CellRef::Handle(handle) => Self::Handle(handle),
            CellRef::Name { warehouse, sku } => Self::Name(warehouse.to_vec(), sku.to_vec()),
        }
    }

    /// By name.
    pub fn name(warehouse: impl AsRef<[u8]>, sku: impl AsRef<[u8]>) -> Self {
        Self::Name(warehouse.as_ref().to_vec(), sku.as_ref().to_vec())
    }

    /// As a request names it.
    pub fn as_ref(&self) -> CellRef<'_> {
        match self {
            Self::Handle(handle) => CellRef::Handle(*handle),
            Self::Name(warehouse, sku) => CellRef::Name { warehouse, sku },
        }
    }
}

impl Request {
    /// Owns a decoded operation; `None` for PING and CLUSTER_STATUS, about which there is nothing to
    /// check.
    pub fn of(op: &Op<'_>, terms: &Terms<'_>) -> Option<Self> {
        let flags = terms.flags;
        let stale = flags.contains(OpFlags::STALE);
        let plain = !flags.contains(OpFlags::LINKED) && terms.note.is_none();
        Some(match *op {
            Op::Ping | Op::ClusterStatus => return None,
            Op::Define { cell } if plain => Self::Define { cell: Cell::of(cell) },
            Op::Receive { op_id, quantity, cell } if plain => {
                let define = flags.contains(OpFlags::DEFINE);
                Self::Receive { op_id, quantity, cell: Cell::of(cell), define }
            }
            Op::Reserve { id, ttl_ms, lines } if plain && !flags.contains(OpFlags::COMMIT) => {
                let lines = lines.iter().map(|line| (Cell::of(line.cell), line.quantity));
                Self::Reserve { id, ttl_ms, lines: lines.collect() }
            }
            Op::Confirm { id, parts }
                if plain && parts.is_whole() && !flags.contains(OpFlags::REACQUIRE) =>
            {
                Self::Confirm { id }
            }
            Op::Release { id, parts } if plain && parts.is_whole() => Self::Release { id },
            Op::Extend { id, ttl_ms } if plain => Self::Extend { id, ttl_ms },
            Op::ReadCells { cells } => {
                Self::ReadCells { cells: cells.iter().map(Cell::of).collect(), stale }
            }
            Op::ReadReservation { id } => Self::ReadReservation { id, stale },
            Op::ReadSku { after, sku } => Self::ReadSku { sku: sku.to_vec(), after, stale },
            _ => {
                // The moment is kept beside the request.
                let terms = Terms { not_after: None, ..*terms };
                Self::Other(Sent::new(op, &terms).ok()?)
            }
        })
    }

    /// Appends it as a client sends it for the first time.
    ///
    /// # Panics
    /// It is out of the protocol's ranges, so no client can have sent it.
    pub fn encode(&self, out: &mut BytesMut, not_after: Option<UnixMillis>) {
        let none = OpFlags::default();
        let flag = |set, flag| if set { flag } else { none };
        match self {
            Self::Define { cell: Cell::Name(warehouse, sku) } => {
                Op::encode_define(out, warehouse, sku);
            }
            Self::Define { cell: Cell::Handle(_) } => panic!("a define names its cell"),
            Self::Receive { op_id, quantity, cell, define } => {
                let flags = flag(*define, OpFlags::DEFINE);
                Op::encode_receive(out, flags, not_after, *op_id, cell.as_ref(), *quantity);
            }
            Self::Reserve { id, ttl_ms, lines } => {
                let lines: Vec<_> = lines
                    .iter()
                    .map(|line| Line { cell: line.0.as_ref(), quantity: line.1 })
                    .collect();
                Op::encode_reserve(out, none, not_after, *id, *ttl_ms, &lines);
            }
            Self::Confirm { id } => Op::encode_confirm(out, none, not_after, *id),
            Self::Release { id } => Op::encode_release(out, none, not_after, *id),
            Self::Extend { id, ttl_ms } => Op::encode_extend(out, none, not_after, *id, *ttl_ms),
            Self::ReadCells { cells, stale } => {
                let cells: Vec<_> = cells.iter().map(Cell::as_ref).collect();
                Op::encode_read_cells(out, flag(*stale, OpFlags::STALE), &cells);
            }
            Self::ReadReservation { id, stale } => {
                Op::encode_read_reservation(out, flag(*stale, OpFlags::STALE), *id);
            }
            Self::ReadSku { sku, after, stale } => {
                Op::encode_read_sku(out, flag(*stale, OpFlags::STALE), *after, sku);
            }
            Self::Other(sent) => {
                let (op, terms) = sent.op();
                op.encode(out, &Terms { not_after, ..terms });
            }
        }
    }

    /// Reads back what [`encode`](Self::encode) wrote.
    ///
    /// # Errors
    /// The bytes are no operation, or one about which there is nothing to check.
    pub fn decode(bytes: &[u8]) -> Result<(Self, Option<UnixMillis>), OpError> {
        let (op, terms) = take_op_and_terms(&mut Reader::new(bytes))?;
        let opcode = op.opcode() as u8;
        let request = Self::of(&op, &terms).ok_or(OpError::UnknownOpcode(opcode))?;
        Ok((request, terms.not_after))
    }

    /// It changes state, so the log has it.
    pub fn is_write(&self) -> bool {
        match self {
            Self::ReadCells { .. } | Self::ReadReservation { .. } | Self::ReadSku { .. } => false,
            Self::Other(sent) => sent.op().0.opcode().is_write(),
            _ => true,
        }
    }

    /// It may be answered from any node's present state.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::ReadCells { stale, .. }
            | Self::ReadReservation { stale, .. }
            | Self::ReadSku { stale, .. } => *stale,
            Self::Other(sent) => {
                let (op, terms) = sent.op();
                !op.opcode().is_write() && terms.flags.contains(OpFlags::STALE)
            }
            _ => false,
        }
    }

    /// It is linked to the next of its batch.
    pub fn is_linked(&self) -> bool {
        match self {
            Self::Other(sent) => sent.op().1.flags.contains(OpFlags::LINKED),
            _ => false,
        }
    }

    /// The same, linked to the next of its batch.
    ///
    /// # Panics
    /// It is a read.
    #[must_use]
    pub fn linked(&self) -> Self {
        let mut bytes = BytesMut::new();
        self.encode(&mut bytes, None);
        let (op, terms) = take_op_and_terms(&mut Reader::new(&bytes)).expect("it was encoded");
        assert!(op.opcode().is_write(), "reads are not linked");
        let flags = terms.flags.with(OpFlags::LINKED);
        Self::Other(Sent::new(&op, &Terms { flags, ..terms }).expect("it was encoded"))
    }

    /// A reserve's lines, and whether it is to be confirmed at once.
    pub fn lines(&self) -> Option<(Vec<(Cell, u32)>, bool)> {
        match self {
            Self::Reserve { lines, .. } => Some((lines.clone(), false)),
            Self::Other(sent) => match sent.op() {
                (Op::Reserve { lines, .. }, terms) => {
                    let lines = lines.iter().map(|line| (Cell::of(line.cell), line.quantity));
                    Some((lines.collect(), terms.flags.contains(OpFlags::COMMIT)))
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The id under which a write is done once, whatever is done with it later.
    pub fn once(&self) -> Option<[u8; 16]> {
        match self {
            Self::Receive { op_id, .. } => Some(op_id.0),
            Self::Reserve { id, .. } => Some(id.0),
            Self::Other(sent) => match sent.op().0 {
                Op::Reserve { id, .. } | Op::ReserveFrom { id, .. } => Some(id.0),
                Op::TransferClose { .. } | Op::TransferCancel { .. } => None,
                op if op.written_cell().is_some()
                    || matches!(
                        op,
                        Op::CountCommit { .. }
                            | Op::TransferReceive { .. }
                            | Op::SetOwnerLimits { .. }
                            | Op::DescribeSku { .. }
                            | Op::NameSku { .. }
                            | Op::SetReorder { .. }
                    ) =>
                {
                    op.key()
                }
                _ => None,
            },
            _ => None,
        }
    }

    /// The reservation that it is about.
    pub fn reservation(&self) -> Option<ReservationId> {
        match self {
            Self::Reserve { id, .. }
            | Self::Confirm { id }
            | Self::Release { id }
            | Self::Extend { id, .. }
            | Self::ReadReservation { id, .. } => Some(*id),
            Self::Other(sent) => match sent.op().0 {
                Op::Reserve { id, .. }
                | Op::ReserveFrom { id, .. }
                | Op::Confirm { id, .. }
                | Op::Release { id, .. }
                | Op::Extend { id, .. }
                | Op::Pin { id, .. }
                | Op::Amend { id, .. }
                | Op::Cancel { id, .. }
                | Op::Fulfil { id, .. }
                | Op::ReadLines { id } => Some(id),
                _ => None,
            },
            _ => None,
        }
    }
}

impl Verdict {
    /// The answer, if there is one.
    pub const fn answer(&self) -> Option<&Answer> {
        match self {
            Self::Answered(answer) => Some(answer),
            Self::NotExecuted | Self::Unknown => None,
        }
    }
}

/// What a call of the client library returned. A `read_reservation` loses the index of its
/// NOT_FOUND: send it in a [`Batch`](client::Batch), whose results carry all there is.
impl<T: Into<Answer>> From<Result<T, client::Error>> for Verdict {
    fn from(result: Result<T, client::Error>) -> Self {
        match result {
            Ok(outcome) => Self::Answered(outcome.into()),
            Err(client::Error::Refused(refusal)) => Self::of_refusal(&refusal),
            Err(client::Error::Retry(_) | client::Error::Invalid(_)) => Self::NotExecuted,
            Err(client::Error::Unknown(_)) => Self::Unknown,
        }
    }
}

/// One result of a batch.
impl From<Result<client::Outcome, client::Refusal>> for Verdict {
    fn from(result: Result<client::Outcome, client::Refusal>) -> Self {
        match result {
            Ok(outcome) => Self::Answered(outcome.into()),
            Err(refusal) => Self::of_refusal(&refusal),
        }
    }
}

impl Verdict {
    /// A refusal of the whole frame is no decision of the log, and nothing was executed.
    fn of_refusal(refusal: &client::Refusal) -> Self {
        match refusal.index {
            0 => Self::NotExecuted,
            _ => Self::Answered(refusal.into()),
        }
    }
}

fn write(code: Code, detail: u16, index: u64, put: impl FnOnce(&mut Vec<u8>)) -> Answer {
    let mut body = Vec::new();
    put(&mut body);
    Answer { code, detail, body, index, server_now: UnixMillis(0), age_ms: 0 }
}

const fn replayed(replay: bool) -> Code {
    if replay { Code::REPLAY } else { Code::OK }
}

impl From<client::Granted> for Answer {
    fn from(granted: client::Granted) -> Self {
        let client::Granted { deadline, handles, index, replay, server_now, state } = granted;
        let answer = write(replayed(replay), state as u16, index, |body| {
            body.put_u64_le(deadline.0);
            handles.iter().for_each(|handle| body.put_u32_le(handle.0));
        });
        Self { server_now, ..answer }
    }
}

impl From<client::Sourced> for Answer {
    fn from(sourced: client::Sourced) -> Self {
        let client::Sourced { deadline, parts, index, partial, replay, server_now, state } =
            sourced;
        let code = if partial { Code::OK_PARTIAL } else { replayed(replay) };
        let answer = write(code, state as u16, index, |body| {
            body.put_u64_le(deadline.0);
            body.put_u32_le(parts.len() as u32);
            let mut bytes = BytesMut::new();
            parts.iter().for_each(|part| part.encode(&mut bytes));
            body.put_slice(&bytes);
        });
        Self { server_now, ..answer }
    }
}

impl From<client::Confirmed> for Answer {
    fn from(confirmed: client::Confirmed) -> Self {
        client::Changed::from(confirmed).into()
    }
}

impl From<client::Changed> for Answer {
    fn from(changed: client::Changed) -> Self {
        let code = match changed {
            client::Changed { late: true, .. } => Code::OK_LATE,
            client::Changed { reacquired: true, .. } => Code::OK_REACQUIRED,
            _ => replayed(changed.replay),
        };
        write(code, changed.state as u16, changed.index, |_| ())
    }
}

impl From<client::Written> for Answer {
    fn from(written: client::Written) -> Self {
        let client::Written { available, handle, index, on_hand, replay } = written;
        client::Received { available, handle, index, on_hand, replay }.into()
    }
}

/// The prefix of a read is not kept by the client, so it reads as a write at its index.
impl From<client::Transferred> for Answer {
    fn from(transferred: client::Transferred) -> Self {
        let detail = transferred.state.map_or(0, |state| state as u16);
        write(replayed(transferred.replay), detail, transferred.index, |body| {
            let mut bytes = BytesMut::new();
            transferred.transfer.iter().for_each(|transfer| transfer.encode(&mut bytes));
            body.put_slice(&bytes);
        })
    }
}

/// As for cells that are not found, the handle is forgotten.
impl From<client::Read<Vec<Option<client::Details>>>> for Answer {
    fn from(cells: client::Read<Vec<Option<client::Details>>>) -> Self {
        read(&cells, 0, |body, cells| {
            let mut bytes = BytesMut::new();
            for cell in cells {
                bytes.put_u32_le(cell.map_or(u32::MAX, |cell| cell.handle.0));
                bytes.put_u32_le(u32::from(cell.is_some()));
                cell.map(|cell| cell.details).unwrap_or_default().encode(&mut bytes);
            }
            body.put_slice(&bytes);
        })
    }
}

impl From<client::Read<client::Lines>> for Answer {
    fn from(lines: client::Read<client::Lines>) -> Self {
        read(&lines, lines.value.state as u16, |body, found| {
            body.put_u64_le(found.created.0);
            body.put_u64_le(found.deadline.0);
            body.put_u32_le(u32::from(found.pinned));
            body.put_u32_le(found.lines.len() as u32);
            let mut bytes = BytesMut::new();
            for (cell, units) in &found.lines {
                bytes.put_u32_le(cell.0);
                units.encode(&mut bytes);
            }
            body.put_slice(&bytes);
        })
    }
}

impl From<client::Released> for Answer {
    fn from(released: client::Released) -> Self {
        write(replayed(released.replay), released.state as u16, released.index, |_| ())
    }
}

impl From<client::Extended> for Answer {
    fn from(extended: client::Extended) -> Self {
        write(Code::OK, ReservationState::Active as u16, extended.index, |body| {
            body.put_u64_le(extended.deadline.0);
        })
    }
}

impl From<client::Defined> for Answer {
    fn from(defined: client::Defined) -> Self {
        write(Code::OK, 0, defined.index, |body| body.put_u32_le(defined.handle.0))
    }
}

impl From<client::Received> for Answer {
    fn from(received: client::Received) -> Self {
        write(replayed(received.replay), 0, received.index, |body| {
            body.put_u32_le(received.handle.0);
            body.put_i64_le(received.on_hand);
            body.put_i64_le(received.available);
        })
    }
}

fn read<T>(read: &client::Read<T>, detail: u16, put: impl FnOnce(&mut Vec<u8>, &T)) -> Answer {
    let age_ms = read.age.map_or(u32::MAX, |age| age.as_millis() as u32);
    let answer = write(Code::OK, detail, read.index, |body| put(body, &read.value));
    Answer { server_now: read.server_now, age_ms, ..answer }
}

fn put_cell(body: &mut Vec<u8>, cell: Option<&client::Cell>) {
    let handle = cell.map_or(u32::MAX, |cell| cell.handle.0);
    body.put_u32_le(handle);
    body.put_u32_le(u32::from(cell.is_some()));
    let mut counters = BytesMut::new();
    cell.map(|cell| cell.counters).unwrap_or_default().encode(&mut counters);
    body.put_slice(&counters);
}

/// The client forgets which handle was not found, so that all of them read as not known by name.
impl From<client::Read<Vec<Option<client::Cell>>>> for Answer {
    fn from(cells: client::Read<Vec<Option<client::Cell>>>) -> Self {
        read(&cells, 0, |body, cells| cells.iter().for_each(|cell| put_cell(body, cell.as_ref())))
    }
}

impl From<client::Read<client::Reservation>> for Answer {
    fn from(reservation: client::Read<client::Reservation>) -> Self {
        read(&reservation, reservation.value.state as u16, |body, found| {
            body.put_u64_le(found.created.0);
            body.put_u64_le(found.deadline.0);
            body.put_u32_le(found.lines.len() as u32);
            for line in &found.lines {
                body.put_u32_le(line.cell.0);
                body.put_u32_le(line.quantity);
            }
        })
    }
}

impl From<client::Read<client::SkuPage>> for Answer {
    fn from(page: client::Read<client::SkuPage>) -> Self {
        read(&page, 0, |body, page| {
            body.put_u32_le(u32::from(page.next.is_some()));
            body.put_u32_le(page.cells.len() as u32);
            let mut total = BytesMut::new();
            page.total.encode(&mut total);
            body.put_slice(&total);
            for cell in &page.cells {
                body.put_u8(cell.warehouse.len() as u8);
                body.put_slice(&cell.warehouse);
                put_cell(body, Some(&cell.cell));
            }
        })
    }
}

impl From<client::Read<client::CellPage>> for Answer {
    fn from(page: client::Read<client::CellPage>) -> Self {
        read(&page, 0, |body, page| {
            let mut bytes = BytesMut::new();
            let head = ListHead { next: page.next, cells: page.cells.len() as u32 };
            bytes.put_slice(&head.to_bytes());
            for cell in &page.cells {
                let client::NamedCell { handle, warehouse, sku, details } = cell;
                let (handle, details) = (*handle, *details);
                ListedCell { handle, warehouse, sku, details }.encode(&mut bytes);
            }
            body.put_slice(&bytes);
        })
    }
}

impl From<client::Read<client::CatalogueEntry>> for Answer {
    fn from(entry: client::Read<client::CatalogueEntry>) -> Self {
        read(&entry, 0, |body, entry| {
            let mut bytes = BytesMut::new();
            let names = entry.names.iter().map(Vec::as_slice).collect();
            let title = entry.title.as_bytes();
            let client::CatalogueEntry { scale, point, position, .. } = *entry;
            Described { scale, title, point, position, names }.encode(&mut bytes);
            body.put_slice(&bytes);
        })
    }
}

impl From<client::Read<client::SkuListPage>> for Answer {
    fn from(page: client::Read<client::SkuListPage>) -> Self {
        read(&page, 0, |body, page| {
            let mut bytes = BytesMut::new();
            let head = ListHead { next: page.next, cells: page.skus.len() as u32 };
            bytes.put_slice(&head.to_bytes());
            for sku in &page.skus {
                let client::NamedSku { name, title, scale, point, position } = sku;
                let (title, scale, point, position) = (title.as_bytes(), *scale, *point, *position);
                ListedSku { scale, title, point, position, name }.encode(&mut bytes);
            }
            body.put_slice(&bytes);
        })
    }
}

impl From<client::Read<client::CrossingPage>> for Answer {
    /// How many there are beyond the page, the client does not tell.
    fn from(page: client::Read<client::CrossingPage>) -> Self {
        read(&page, 0, |body, page| {
            let mut bytes = BytesMut::new();
            let count = page.crossings.len() as u32;
            CrossingsHead { first: page.first, next: page.next, count }.encode(&mut bytes);
            for crossed in &page.crossings {
                let client::PointCrossed { warehouse, sku, .. } = crossed;
                let client::PointCrossed { at_ms, is_low, position, point, cell, .. } = *crossed;
                let crossing = Crossing { at_ms, position, point, is_low, cell, warehouse, sku };
                crossing.encode(&mut bytes);
            }
            body.put_slice(&bytes);
        })
    }
}

impl From<client::Done> for Answer {
    fn from(done: client::Done) -> Self {
        let code = if done.replay { Code::REPLAY } else { Code::OK };
        write(code, 0, done.index, |_| ())
    }
}

impl From<client::Read<client::OwnerUsage>> for Answer {
    fn from(owner: client::Read<client::OwnerUsage>) -> Self {
        read(&owner, 0, |body, owner| {
            let mut bytes = BytesMut::new();
            owner.encode(&mut bytes);
            body.put_slice(&bytes);
        })
    }
}

impl From<client::Outcome> for Answer {
    /// PING and CLUSTER_STATUS become answers without a body: there is nothing to check in them.
    fn from(outcome: client::Outcome) -> Self {
        match outcome {
            client::Outcome::Cells(cells) => cells.into(),
            client::Outcome::Changed(changed) => changed.into(),
            client::Outcome::Details(details) => details.into(),
            client::Outcome::Lines(lines) => lines.into(),
            client::Outcome::List(page) => page.into(),
            client::Outcome::Done(done) => done.into(),
            client::Outcome::Catalogue(entry) => entry.into(),
            client::Outcome::Crossings(page) => page.into(),
            client::Outcome::Skus(page) => page.into(),
            client::Outcome::Owner(owner) => owner.into(),
            client::Outcome::Transferred(transferred) => transferred.into(),
            client::Outcome::Written(written) => written.into(),
            client::Outcome::Confirmed(confirmed) => confirmed.into(),
            client::Outcome::Defined(defined) => defined.into(),
            client::Outcome::Extended(extended) => extended.into(),
            client::Outcome::Granted(granted) => granted.into(),
            client::Outcome::Pong(pong) => read(&pong, 0, |_, ()| ()),
            client::Outcome::Received(received) => received.into(),
            client::Outcome::Released(released) => released.into(),
            client::Outcome::Reservation(reservation) => reservation.into(),
            client::Outcome::Sourced(sourced) => sourced.into(),
            client::Outcome::Sku(page) => page.into(),
            client::Outcome::Status(status) => read(&status, 0, |_, _| ()),
        }
    }
}

impl From<&client::Refusal> for Answer {
    fn from(refusal: &client::Refusal) -> Self {
        let state = refusal.state.map(|state| state as u16);
        let transfer = refusal.transfer.map(|state| state as u16);
        let bound = refusal.owner.map(|bound| bound as u16);
        let names_first = bound.is_none() && refusal.code != Code::QTY_EXCEEDS;
        let first = refusal.lines.first().copied().filter(|_| names_first);
        let detail = state.or(transfer).or(bound).or(first).unwrap_or(0);
        let answer = write(refusal.code, detail, refusal.index, |body| {
            refusal.value.iter().for_each(|value| body.put_i64_le(*value));
            refusal.lines.iter().for_each(|line| body.put_u16_le(*line));
            let mut shorts = BytesMut::new();
            refusal.short.iter().for_each(|short| short.encode(&mut shorts));
            body.put_slice(&shorts);
        });
        let age_ms = refusal.age.map_or(u32::MAX, |age| age.as_millis() as u32);
        Self { server_now: refusal.server_now, age_ms, ..answer }
    }
}
