//! Sends what a history holds, by the client library's own methods.

use std::time::Duration;

use stockd_client::{
    Amend, Batch, CatalogueWrite, Change, Client, Consistency, Error, Invalid, LimitOwners,
    ListCells, ListSkus, Reserve, ReserveFrom, Shipment, StockWrite,
};
use stockd_protocol::{
    CellRef, Filter, Guard, LineMode, Listing, Naming, Op, OpFlags, OpId, Opcode, Parts,
    ReservationId, Rules, Terms, UnixMillis, limits,
};

use crate::history::{Answer, Sent, Verdict};

/// The first page of all cells, or of all SKUs.
pub const ALL: Listing<'static> = Listing {
    from: 0,
    count: limits::LIST_CELLS_MAX,
    filter: Filter::All,
    warehouse: b"",
    sku: b"",
};

/// What the library makes of an operation.
enum Built<'a> {
    Amend(Amend<'a>),
    Catalogue(CatalogueWrite<'a>),
    Change(Change<'a>),
    Extend(ReservationId, Duration),
    Limits(LimitOwners<'a>),
    Pin(ReservationId, Duration),
    ReserveFrom(ReserveFrom<'a>),
    Receive(OpId, CellRef<'a>, u32),
    Reserve(Reserve<'a>),
    Transfer(Shipment<'a>),
    Write(StockWrite<'a>),
}

/// Sends an operation that is linked to none, or a read. `retry` says that it was sent before.
///
/// # Panics
/// The library has another method for it.
pub async fn call(
    client: &Client,
    sent: &Sent,
    not_after: Option<UnixMillis>,
    retry: bool,
) -> Verdict {
    if !sent.op().0.opcode().is_write() {
        return read(client, sent).await;
    }
    match build(sent, not_after, retry) {
        Built::Amend(amend) => client.amend(&amend).await.into(),
        Built::Catalogue(write) => client.write_catalogue(&write).await.into(),
        Built::Change(change) => client.change(&change).await.into(),
        Built::Extend(id, ttl) => client.extend(id, ttl).await.into(),
        Built::Limits(limits) => client.limit_owners(&limits).await.into(),
        Built::ReserveFrom(cart) => client.reserve_from(&cart).await.into(),
        Built::Pin(id, ttl) => client.pin(id, ttl).await.into(),
        Built::Receive(op_id, cell, quantity) => client.receive(op_id, cell, quantity).await.into(),
        Built::Reserve(reserve) => client.reserve(&reserve).await.into(),
        Built::Transfer(shipment) => client.transfer(&shipment).await.into(),
        Built::Write(write) => client.write(&write).await.into(),
    }
}

/// Sends a read. What is not found is found at no index, so that there is nothing to check.
async fn read(client: &Client, sent: &Sent) -> Verdict {
    let (op, terms) = sent.op();
    let stale = terms.flags.contains(OpFlags::STALE);
    let consistency = if stale { Consistency::Stale } else { Consistency::Linearizable };
    match op {
        Op::ReadDetails { cells } => {
            let cells: Vec<CellRef<'_>> = cells.iter().collect();
            client.read_details(&cells, consistency).await.into()
        }
        Op::ReadLines { id } => found(client.read_lines(id, consistency).await),
        Op::ReadOwner { owner } => client.read_owner(owner, consistency).await.into(),
        Op::ReadTransfer { transfer } => found(client.read_transfer(transfer, consistency).await),
        Op::ReadCatalogue { sku } => found(client.read_catalogue(sku, consistency).await),
        Op::ReadCrossings { from, count } => {
            client.read_crossings(from, count, consistency).await.into()
        }
        Op::ListCells(listing) if listing == ALL => {
            client.list_cells(&ListCells::new(), consistency).await.into()
        }
        Op::ListSkus(listing) if listing == ALL => {
            client.list_skus(&ListSkus::new(), consistency).await.into()
        }
        ref other => panic!("the library has another method for {other:?}"),
    }
}

fn found<T: Into<Answer>>(result: Result<Option<T>, Error>) -> Verdict {
    match result {
        Ok(None) => Verdict::NotExecuted,
        Ok(Some(value)) => Verdict::Answered(value.into()),
        Err(error) => Err::<T, _>(error).into(),
    }
}

/// Adds an operation to a batch. Whether it is linked, is the batch's to say.
///
/// # Errors
/// The batch cannot hold it.
///
/// # Panics
/// The library has another method for it.
pub fn add(batch: &mut Batch, sent: &Sent) -> Result<(), Invalid> {
    match build(sent, None, false) {
        Built::Amend(amend) => batch.amend(&amend),
        Built::Catalogue(write) => batch.write_catalogue(&write),
        Built::Change(change) => batch.change(&change),
        Built::Extend(id, ttl) => batch.extend(id, ttl),
        Built::Limits(limits) => batch.limit_owners(&limits),
        Built::ReserveFrom(cart) => batch.reserve_from(&cart),
        Built::Pin(id, ttl) => batch.pin(id, ttl),
        Built::Receive(op_id, cell, quantity) => batch.receive(op_id, cell, quantity),
        Built::Reserve(reserve) => batch.reserve(&reserve),
        Built::Transfer(shipment) => batch.transfer(&shipment),
        Built::Write(write) => batch.write(&write),
    }
}

/// What stands around an operation, by the methods that all builders share.
macro_rules! with_terms {
    ($built:expr, $terms:expr, $retry:expr) => {{
        let (mut built, terms) = ($built, $terms);
        if let Some(note) = terms.note {
            built = built.note(note.reason, note.reference);
        }
        if let Some(end) = terms.not_after {
            built = built.not_after(end);
        }
        if $retry { built.retry() } else { built }
    }};
}

fn build(sent: &Sent, not_after: Option<UnixMillis>, retry: bool) -> Built<'_> {
    let (op, terms) = sent.op();
    let terms = Terms { not_after, ..terms };
    match op {
        Op::Reserve { id, ttl_ms, lines } => {
            let cart = Reserve::new(id).ttl(millis(ttl_ms));
            let mut cart =
                lines.iter().fold(cart, |cart, line| cart.cell(line.cell, line.quantity));
            if terms.flags.contains(OpFlags::COMMIT) {
                cart = cart.commit();
            }
            if let Some(end) = terms.not_after {
                cart = cart.not_after(end);
            }
            Built::Reserve(if retry { cart.retry() } else { cart })
        }
        Op::ReserveFrom { id, ttl_ms, wishes } => {
            let Rules { mode, sourcing, splits_max, owner } = wishes.rules();
            let mut cart = ReserveFrom::new(id).ttl(millis(ttl_ms));
            for wish in wishes.iter() {
                cart = match mode {
                    LineMode::UpTo => cart.up_to(wish.quantity, wish.min_quantity, wish.cells()),
                    _ => cart.line(wish.quantity, wish.cells()),
                };
            }
            let cart = if mode == LineMode::Lines { cart.some_lines() } else { cart };
            let cart = cart.sourcing(sourcing).splits_max(splits_max).owner(owner);
            let commit = terms.flags.contains(OpFlags::COMMIT);
            let cart = if commit { cart.commit() } else { cart };
            Built::ReserveFrom(with_terms!(cart, terms, retry))
        }
        Op::Extend { id, ttl_ms } => Built::Extend(id, millis(ttl_ms)),
        Op::DescribeSku { op_id, scale, title, sku } => {
            let title = std::str::from_utf8(title).expect("a title is text");
            let write = CatalogueWrite::describe(op_id, sku, title, scale);
            Built::Catalogue(with_terms!(write, terms, retry))
        }
        Op::SetReorder { op_id, point, sku } => {
            Built::Catalogue(with_terms!(CatalogueWrite::reorder(op_id, sku, point), terms, retry))
        }
        Op::NameSku { op_id, naming, sku, name } => {
            let write = match naming {
                Naming::Alias => CatalogueWrite::alias(op_id, sku, name),
                Naming::Rename => CatalogueWrite::rename(op_id, sku, name),
            };
            Built::Catalogue(with_terms!(write, terms, retry))
        }
        Op::SetOwnerLimits { op_id, limits } => {
            Built::Limits(with_terms!(LimitOwners::new(op_id, limits), terms, retry))
        }
        Op::Pin { id, ttl_ms } => Built::Pin(id, millis(ttl_ms)),
        Op::Receive { op_id, quantity, cell } => Built::Receive(op_id, cell, quantity),
        Op::Amend { id, step, lines } => {
            let mut amend = Amend::new(id, step);
            for line in lines.iter() {
                amend = amend.cell(line.cell, line.quantity);
            }
            Built::Amend(with_terms!(amend, terms, retry))
        }
        Op::Confirm { id, parts }
        | Op::Release { id, parts }
        | Op::Cancel { id, parts }
        | Op::Fulfil { id, parts } => {
            let change = change(op.opcode(), id, &parts, terms.flags);
            Built::Change(with_terms!(change, terms, retry))
        }
        Op::TransferShip { op_id, quantity, from, to } => {
            let ship = Shipment::ship(op_id, from, to, quantity);
            let truth = terms.flags.contains(OpFlags::TRUTH);
            let ship = if truth { ship.truth() } else { ship };
            Built::Transfer(with_terms!(ship, terms, retry))
        }
        Op::TransferReceive { op_id, transfer, good, damaged } => {
            let receive = Shipment::receive(op_id, transfer, good, damaged);
            Built::Transfer(with_terms!(receive, terms, retry))
        }
        Op::TransferClose { transfer } => {
            Built::Transfer(with_terms!(Shipment::close(transfer), terms, retry))
        }
        Op::TransferCancel { transfer } => {
            Built::Transfer(with_terms!(Shipment::recall(transfer), terms, retry))
        }
        _ => {
            let write = write(&op);
            let truth = terms.flags.contains(OpFlags::TRUTH);
            let write = if truth { write.truth() } else { write };
            Built::Write(with_terms!(write, terms, retry))
        }
    }
}

fn millis(ttl_ms: u32) -> Duration {
    Duration::from_millis(u64::from(ttl_ms))
}

fn change(opcode: Opcode, id: ReservationId, parts: &Parts<'_>, flags: OpFlags) -> Change<'static> {
    let mut change = match opcode {
        Opcode::Confirm => Change::confirm(id),
        Opcode::Release => Change::release(id),
        Opcode::Cancel => Change::cancel(id),
        _ => Change::fulfil(id),
    };
    for part in parts.iter() {
        change = change.part(part.line, part.quantity);
    }
    if !parts.is_whole() {
        change = change.step(parts.step());
    }
    if flags.contains(OpFlags::REACQUIRE) {
        change = change.reacquire();
    }
    if opcode == Opcode::Fulfil && flags.contains(OpFlags::SHIP) {
        change = change.ship();
    }
    change
}

fn write<'a>(op: &Op<'a>) -> StockWrite<'a> {
    match *op {
        Op::Adjust { op_id, delta, cell } => StockWrite::adjust(op_id, cell, delta),
        Op::Set { op_id, on_hand, guard: Guard::Expected(expected), cell } => {
            StockWrite::set(op_id, cell, on_hand, expected)
        }
        Op::Set { op_id, on_hand, guard: Guard::Feed(sequence), cell } => {
            StockWrite::feed(op_id, cell, on_hand, sequence)
        }
        Op::CountBegin { op_id, cell } => StockWrite::begin_count(op_id, cell),
        Op::CountCommit { op_id, token, counted } => {
            StockWrite::commit_count(op_id, token, counted)
        }
        Op::Move { op_id, from, to, quantity, cell } => {
            StockWrite::shelve(op_id, cell, from, to, quantity)
        }
        Op::Announce { op_id, delta, cell } => StockWrite::announce(op_id, cell, delta),
        Op::Arrive { op_id, quantity, bucket, cell } => {
            StockWrite::arrive(op_id, cell, quantity, bucket)
        }
        Op::Return { op_id, quantity, bucket, cell } => {
            StockWrite::take_back(op_id, cell, quantity, bucket)
        }
        Op::SetPolicy { op_id, change, cell } => StockWrite::policy(op_id, cell, change),
        ref other => panic!("the library has another method for {other:?}"),
    }
}
