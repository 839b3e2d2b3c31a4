//! What calls return: the wire's outcomes, typed and owned.

use std::time::Duration;

use stockd_protocol::{
    CellCounters, CellDetails, CellHandle, Code, LineFault, LineShares, Opcode,
    Outcome as WireOutcome, OwnerBound, OwnerUsage, Reader, ReplyPrefix, ReservationState,
    ShortLine, SkuTotal, TakenPart, Transfer, TransferState, Truncated, UnixMillis,
};

use crate::catalogue::{CatalogueEntry, take_entry};
use crate::error::Refusal;
use crate::listing::{CellPage, take_page};
use crate::reorder::{CrossingPage, SkuListPage, take_crossings, take_skus};

/// Units are held. With `replay`, look at `state`: a retry finds what has become of the grant.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Granted {
    /// When the hold ends, on the cluster's clock; a grace of seconds follows.
    pub deadline: UnixMillis,
    /// One per line if the request named its cells, else empty.
    pub handles: Vec<CellHandle>,
    /// The log index at which it was granted or found.
    pub index: u64,
    /// This id was granted before.
    pub replay: bool,
    /// The cluster's clock at the reply; `deadline − server_now` is what is left.
    pub server_now: UnixMillis,
    /// ACTIVE for a new grant.
    pub state: ReservationState,
}

/// Units are held, each part from the cell that it names. With `replay`, look at `state`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Sourced {
    /// When the hold ends, on the cluster's clock; a grace of seconds follows.
    pub deadline: UnixMillis,
    /// Which line gets how much from where, in the order of the lines. The parts of a line sum to what it
    /// gets.
    pub parts: Vec<TakenPart>,
    /// The log index at which it was granted or found.
    pub index: u64,
    /// Some lines get less than they asked for. A replay does not say.
    pub partial: bool,
    /// This id was granted before.
    pub replay: bool,
    /// The cluster's clock at the reply.
    pub server_now: UnixMillis,
    /// ACTIVE for a new grant.
    pub state: ReservationState,
}

/// It is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// The log index.
    pub index: u64,
    /// It was done under this id before, whatever is so now.
    pub replay: bool,
}

/// Units are promised to an order and have no deadline any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Confirmed {
    /// The log index.
    pub index: u64,
    /// After the deadline but inside the grace.
    pub late: bool,
    /// The units had expired and were taken again.
    pub reacquired: bool,
    /// It was confirmed before.
    pub replay: bool,
    /// CONFIRMED; or what has become of it since, or ACTIVE after a part of it was confirmed.
    pub state: ReservationState,
}

/// Units are given back, or were before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Released {
    /// The log index.
    pub index: u64,
    /// It was released before.
    pub replay: bool,
    /// RELEASED; EXPIRED if the deadline came first; FENCED if the id was unknown: it can never be
    /// granted now.
    pub state: ReservationState,
}

/// The deadline was moved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extended {
    /// The new deadline; never earlier than the old one.
    pub deadline: UnixMillis,
    /// The log index.
    pub index: u64,
}

/// A cell is there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Defined {
    /// Its compact name.
    pub handle: CellHandle,
    /// The log index.
    pub index: u64,
}

/// Units were added.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Received {
    /// What a reserve could take afterwards.
    pub available: i64,
    /// The cell's compact name.
    pub handle: CellHandle,
    /// The log index.
    pub index: u64,
    /// What is physically there afterwards.
    pub on_hand: i64,
    /// This id was executed before; the counters are the present ones.
    pub replay: bool,
}

/// Stock was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// What a reserve could take afterwards; negative if more is promised than is there.
    pub available: i64,
    /// The cell's compact name.
    pub handle: CellHandle,
    /// The log index.
    pub index: u64,
    /// What is physically there afterwards.
    pub on_hand: i64,
    /// This id was executed before; the counters are the present ones.
    pub replay: bool,
}

/// A transfer as it stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transferred {
    /// The log index.
    pub index: u64,
    /// It was done before.
    pub replay: bool,
    /// Where it stands; `None` with a replay of a receipt whose transfer is forgotten.
    pub state: Option<TransferState>,
    /// From where to where, and how much of it; `None` as `state`.
    pub transfer: Option<Transfer>,
}

/// Units of a reservation went another way.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Changed {
    /// The log index.
    pub index: u64,
    /// After the deadline but inside the grace.
    pub late: bool,
    /// The units had expired and were taken again.
    pub reacquired: bool,
    /// It was done before.
    pub replay: bool,
    /// Where the reservation stands now.
    pub state: ReservationState,
}

/// All about a cell.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Details {
    /// Its counters and rules.
    pub details: CellDetails,
    /// Its compact name.
    pub handle: CellHandle,
}

/// A reservation, and what has become of each of its lines.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lines {
    /// When it was granted.
    pub created: UnixMillis,
    /// When it ends, or would have.
    pub deadline: UnixMillis,
    /// Cells and shares, in the order of the lines.
    pub lines: Vec<(CellHandle, LineShares)>,
    /// It is pinned.
    pub pinned: bool,
    /// Where it stands.
    pub state: ReservationState,
}

impl From<Received> for Written {
    fn from(received: Received) -> Self {
        let Received { available, handle, index, on_hand, replay } = received;
        Self { available, handle, index, on_hand, replay }
    }
}

impl From<Confirmed> for Changed {
    fn from(confirmed: Confirmed) -> Self {
        let Confirmed { index, late, reacquired, replay, state } = confirmed;
        Self { index, late, reacquired, replay, state }
    }
}

impl From<Released> for Changed {
    fn from(Released { index, replay, state }: Released) -> Self {
        Self { index, late: false, reacquired: false, replay, state }
    }
}

/// The answer to a read, and when it was true.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Read<T> {
    /// How old the answer may be: zero for a linearizable read, `None` if a stale read's age is
    /// unknown.
    pub age: Option<Duration>,
    /// The log index at which it holds.
    pub index: u64,
    /// The cluster's clock.
    pub server_now: UnixMillis,
    /// The answer.
    pub value: T,
}

/// One cell's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cell {
    /// Its counters.
    pub counters: CellCounters,
    /// Its compact name.
    pub handle: CellHandle,
}

/// A reservation as it stands.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reservation {
    /// When it was granted.
    pub created: UnixMillis,
    /// When it ends, or would have.
    pub deadline: UnixMillis,
    /// Its lines in the order of the request.
    pub lines: Vec<ReservedLine>,
    /// Where it stands.
    pub state: ReservationState,
}

/// One line of a reservation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ReservedLine {
    /// Which cell.
    pub cell: CellHandle,
    /// How many units.
    pub quantity: u32,
}

/// Some of a SKU's cells, and the sum of all.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SkuPage {
    /// The cells of this page, in order of their handles.
    pub cells: Vec<SkuCell>,
    /// Where the next page starts ("after"), or `None` on the last page.
    pub next: Option<CellHandle>,
    /// The sum over all warehouses, not only over this page.
    pub total: CellCounters,
}

/// One warehouse's cell of a SKU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SkuCell {
    /// The cell.
    pub cell: Cell,
    /// The warehouse's name.
    pub warehouse: Vec<u8>,
}

/// The result of one operation of a [`Batch`](crate::Batch).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Of a read of cells; `None` where there is no such cell.
    Cells(Read<Vec<Option<Cell>>>),
    /// Of a cancel or a fulfil.
    Changed(Changed),
    /// Of a confirm.
    Confirmed(Confirmed),
    /// Of a read of the catalogue.
    Catalogue(Read<CatalogueEntry>),
    /// Of a read of crossings.
    Crossings(Read<CrossingPage>),
    /// Of a define.
    Defined(Defined),
    /// Of a write to the catalogue, and of a change of the limits of owners.
    Done(Done),
    /// Of a read of details; `None` where there is no such cell.
    Details(Read<Vec<Option<Details>>>),
    /// Of an extend or a pin.
    Extended(Extended),
    /// Of a reserve or an amend.
    Granted(Granted),
    /// Of a read of lines.
    Lines(Read<Lines>),
    /// Of a read of an owner.
    Owner(Read<OwnerUsage>),
    /// Of a ping.
    Pong(Read<()>),
    /// Of a receive.
    Received(Received),
    /// Of a release.
    Released(Released),
    /// Of a read of a reservation.
    Reservation(Read<Reservation>),
    /// Of a read of a SKU.
    Sku(Read<SkuPage>),
    /// A page of a list of SKUs.
    Skus(Read<SkuListPage>),
    /// A page of a list of cells.
    List(Read<CellPage>),
    /// Of a reserve from several cells.
    Sourced(Sourced),
    /// Of a cluster status: JSON.
    Status(Read<String>),
    /// Of a step of a transfer, or of a read of one.
    Transferred(Transferred),
    /// Of a stock write.
    Written(Written),
}

/// A reply that does not fit its request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BadReply;

impl From<Truncated> for BadReply {
    fn from(_: Truncated) -> Self {
        Self
    }
}

/// Turns one outcome into what the caller gets.
pub(crate) fn decode(
    opcode: Opcode,
    prefix: &ReplyPrefix,
    outcome: &WireOutcome<'_>,
) -> Result<Result<Outcome, Refusal>, BadReply> {
    if outcome.code.is_ok() {
        decode_ok(opcode, prefix, outcome).map(Ok)
    } else {
        decode_refusal(opcode, prefix, outcome).map(Err)
    }
}

fn decode_ok(
    opcode: Opcode,
    prefix: &ReplyPrefix,
    outcome: &WireOutcome<'_>,
) -> Result<Outcome, BadReply> {
    let mut body = Reader::new(outcome.body);
    let index = prefix.index;
    let replay = outcome.code == Code::REPLAY;
    let state = || outcome.state().ok_or(BadReply);
    Ok(match opcode {
        Opcode::Define => Outcome::Defined(Defined { handle: take_handle(&mut body)?, index }),
        Opcode::Receive => Outcome::Received(Received {
            handle: take_handle(&mut body)?,
            on_hand: body.i64()?,
            available: body.i64()?,
            index,
            replay,
        }),
        Opcode::Adjust
        | Opcode::Set
        | Opcode::CountBegin
        | Opcode::CountCommit
        | Opcode::Move
        | Opcode::Announce
        | Opcode::Arrive
        | Opcode::Return
        | Opcode::SetPolicy => Outcome::Written(Written {
            handle: take_handle(&mut body)?,
            on_hand: body.i64()?,
            available: body.i64()?,
            index,
            replay,
        }),
        Opcode::TransferShip
        | Opcode::TransferReceive
        | Opcode::TransferClose
        | Opcode::TransferCancel
        | Opcode::ReadTransfer => {
            let state = TransferState::from_detail(outcome.detail);
            let transfer = match state {
                Some(_) => Some(Transfer::take(&mut body)?),
                None if replay && opcode == Opcode::TransferReceive => None,
                None => return Err(BadReply),
            };
            Outcome::Transferred(Transferred { index, replay, state, transfer })
        }
        Opcode::Cancel | Opcode::Fulfil => Outcome::Changed(Changed {
            index,
            late: outcome.code == Code::OK_LATE,
            reacquired: outcome.code == Code::OK_REACQUIRED,
            replay,
            state: state()?,
        }),
        Opcode::ReadDetails => Outcome::Details(read(prefix, take_details(&mut body)?)),
        Opcode::ReadLines => Outcome::Lines(read(prefix, take_lines(&mut body, state()?)?)),
        Opcode::Reserve | Opcode::Amend => Outcome::Granted(Granted {
            deadline: UnixMillis(body.u64()?),
            handles: take_handles(&mut body)?,
            index,
            replay,
            server_now: prefix.server_now,
            state: state()?,
        }),
        Opcode::ReserveFrom => Outcome::Sourced(Sourced {
            deadline: UnixMillis(body.u64()?),
            parts: take_parts(&mut body)?,
            index,
            partial: outcome.code == Code::OK_PARTIAL,
            replay,
            server_now: prefix.server_now,
            state: state()?,
        }),
        Opcode::Confirm => Outcome::Confirmed(Confirmed {
            index,
            late: outcome.code == Code::OK_LATE,
            reacquired: outcome.code == Code::OK_REACQUIRED,
            replay,
            state: state()?,
        }),
        Opcode::Release => Outcome::Released(Released { index, replay, state: state()? }),
        Opcode::Extend | Opcode::Pin => {
            Outcome::Extended(Extended { deadline: UnixMillis(body.u64()?), index })
        }
        Opcode::ReadCells => Outcome::Cells(read(prefix, take_cells(&mut body)?)),
        Opcode::ReadReservation => {
            Outcome::Reservation(read(prefix, take_reservation(&mut body, state()?)?))
        }
        Opcode::ListCells => Outcome::List(read(prefix, take_page(&mut body)?)),
        Opcode::ReadSku => Outcome::Sku(read(prefix, take_sku_page(&mut body)?)),
        Opcode::SetOwnerLimits | Opcode::DescribeSku | Opcode::NameSku | Opcode::SetReorder => {
            Outcome::Done(Done { index, replay })
        }
        Opcode::ListSkus => Outcome::Skus(read(prefix, take_skus(&mut body)?)),
        Opcode::ReadCrossings => Outcome::Crossings(read(prefix, take_crossings(&mut body)?)),
        Opcode::ReadCatalogue => Outcome::Catalogue(read(prefix, take_entry(&mut body)?)),
        Opcode::ReadOwner => Outcome::Owner(read(prefix, OwnerUsage::take(&mut body)?)),
        Opcode::Ping => Outcome::Pong(read(prefix, ())),
        Opcode::ClusterStatus => {
            let json = String::from_utf8(outcome.body.to_vec()).map_err(|_| BadReply)?;
            Outcome::Status(read(prefix, json))
        }
    })
}

const fn is_transfer(opcode: Opcode) -> bool {
    use Opcode::{TransferCancel, TransferClose, TransferReceive, TransferShip};
    matches!(opcode, TransferCancel | TransferClose | TransferReceive | TransferShip)
}

fn decode_refusal(
    opcode: Opcode,
    prefix: &ReplyPrefix,
    outcome: &WireOutcome<'_>,
) -> Result<Refusal, BadReply> {
    // Only whole frames are answered "retry": an outcome is a decision.
    if outcome.code.is_retry() {
        return Err(BadReply);
    }
    let mut body = Reader::new(outcome.body);
    let mut refusal = Refusal {
        age: age(prefix),
        code: outcome.code,
        index: prefix.index,
        lines: Vec::new(),
        message: String::new(),
        owner: None,
        server_now: prefix.server_now,
        short: Vec::new(),
        state: None,
        transfer: None,
        value: None,
    };
    match outcome.code {
        Code::NO_STOCK | Code::WOULD_SHORT | Code::MIN_QTY => {
            while !body.is_empty() {
                refusal.short.push(ShortLine::take(&mut body)?);
            }
        }
        Code::STALE_EXPECTED => refusal.value = Some(body.i64()?),
        Code::STALE_FEED => refusal.value = Some(body.u64()? as i64),
        Code::OWNER_LIMIT => {
            let bound = OwnerBound::from_detail(outcome.detail).ok_or(BadReply)?;
            refusal.owner = Some(bound);
            match bound {
                OwnerBound::Holds => {}
                OwnerBound::Units | OwnerBound::CoolDown => {
                    refusal.value = Some(body.u64()? as i64);
                }
                OwnerBound::Cell | OwnerBound::Nameless => {
                    refusal.lines = take_faults(&mut body)?;
                }
            }
        }
        Code::CONFLICT if is_transfer(opcode) => {
            refusal.transfer = TransferState::from_detail(outcome.detail);
        }
        Code::UNKNOWN_SKU
        | Code::UNKNOWN_WAREHOUSE
        | Code::NOT_STOCKED
        | Code::FROZEN
        | Code::QTY_EXCEEDS => refusal.lines = take_faults(&mut body)?,
        _ => refusal.state = outcome.state(),
    }
    Ok(refusal)
}

fn take_faults(body: &mut Reader<'_>) -> Result<Vec<u16>, BadReply> {
    let mut lines = Vec::new();
    while !body.is_empty() {
        lines.push(LineFault::take(body)?.line);
    }
    Ok(lines)
}

fn age(prefix: &ReplyPrefix) -> Option<Duration> {
    (prefix.age_ms != u32::MAX).then(|| Duration::from_millis(u64::from(prefix.age_ms)))
}

fn read<T>(prefix: &ReplyPrefix, value: T) -> Read<T> {
    Read { age: age(prefix), index: prefix.index, server_now: prefix.server_now, value }
}

fn take_handle(body: &mut Reader<'_>) -> Result<CellHandle, BadReply> {
    Ok(CellHandle(body.u32()?))
}

fn take_handles(body: &mut Reader<'_>) -> Result<Vec<CellHandle>, BadReply> {
    let mut handles = Vec::new();
    while !body.is_empty() {
        handles.push(take_handle(body)?);
    }
    Ok(handles)
}

fn take_parts(body: &mut Reader<'_>) -> Result<Vec<TakenPart>, BadReply> {
    let mut parts = Vec::new();
    for _ in 0..body.u32()? {
        parts.push(TakenPart::take(body)?);
    }
    Ok(parts)
}

fn take_cell(body: &mut Reader<'_>) -> Result<Option<Cell>, BadReply> {
    let handle = take_handle(body)?;
    let found = body.u32()? != 0;
    let counters = CellCounters::take(body)?;
    Ok(found.then_some(Cell { counters, handle }))
}

fn take_cells(body: &mut Reader<'_>) -> Result<Vec<Option<Cell>>, BadReply> {
    let mut cells = Vec::new();
    while !body.is_empty() {
        cells.push(take_cell(body)?);
    }
    Ok(cells)
}

fn take_details(body: &mut Reader<'_>) -> Result<Vec<Option<Details>>, BadReply> {
    let mut cells = Vec::new();
    while !body.is_empty() {
        let handle = take_handle(body)?;
        let found = body.u32()? != 0;
        let details = CellDetails::take(body)?;
        cells.push(found.then_some(Details { details, handle }));
    }
    Ok(cells)
}

fn take_lines(body: &mut Reader<'_>, state: ReservationState) -> Result<Lines, BadReply> {
    let created = UnixMillis(body.u64()?);
    let deadline = UnixMillis(body.u64()?);
    let (pinned, count) = (body.u32()? != 0, body.u32()?);
    let mut lines = Vec::new();
    for _ in 0..count {
        lines.push((take_handle(body)?, LineShares::take(body)?));
    }
    Ok(Lines { created, deadline, lines, pinned, state })
}

fn take_reservation(
    body: &mut Reader<'_>,
    state: ReservationState,
) -> Result<Reservation, BadReply> {
    let created = UnixMillis(body.u64()?);
    let deadline = UnixMillis(body.u64()?);
    let count = body.u32()?;
    let mut lines = Vec::new();
    for _ in 0..count {
        lines.push(ReservedLine { cell: take_handle(body)?, quantity: body.u32()? });
    }
    Ok(Reservation { created, deadline, lines, state })
}

fn take_sku_page(body: &mut Reader<'_>) -> Result<SkuPage, BadReply> {
    let head = SkuTotal::take(body)?;
    let mut cells = Vec::new();
    for _ in 0..head.cells {
        let warehouse = body.short_bytes()?.to_vec();
        let cell = take_cell(body)?.ok_or(BadReply)?;
        cells.push(SkuCell { cell, warehouse });
    }
    let last = cells.last().map(|last| last.cell.handle);
    Ok(SkuPage { cells, next: last.filter(|_| head.more), total: head.total })
}
