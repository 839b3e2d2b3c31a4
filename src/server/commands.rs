//! The commands of the admin port.

use std::sync::Arc;

use bytes::BytesMut;

use super::answer::Value;
use super::past;
use super::reconcile;
use super::shared::Shared;
use super::status::{self, Before};
use super::words::escape;
use crate::protocol::{
    CellCounters, CellHandle, Code, Described, LineShares, OpId, OwnerUsage, Reader, ReservationId,
    SkuTotal, Transfer, TransferState, Truncated, limits, take_outcome,
};
use crate::replication::{AdminError, NodeInfo};

/// What a command gives.
pub(super) enum Outcome {
    Answer(Value),
    Error(String),
    Quit,
}

const HELP: &[(&str, &str)] = &[
    ("help [code N]", "this list; what a result code means and what to do"),
    ("status", "this node: role, log, stock, members"),
    ("members", "all nodes of the cluster, and how far each log is"),
    ("digest", "the whole state in 16 hex digits, and its index; the node stands still meanwhile"),
    ("top", "rates since the last top on this connection, queues, codes, busiest connections"),
    ("cell WAREHOUSE SKU", "the counters of a cell, as this node has them"),
    ("details WAREHOUSE SKU", "all counters of a cell and its rules, as this node has them"),
    ("sku SKU", "all cells of a SKU and their sum, as this node has them"),
    ("catalogue SKU", "what a SKU is, and all its names, as this node has them"),
    ("hold ID", "a reservation and what has become of its lines, as this node has it"),
    ("owner NAME", "what an owner holds, and what owners may hold, as this node has it"),
    ("shipment ID", "a transfer between warehouses, as this node has it"),
    ("why WAREHOUSE SKU [N]", "what is in a cell, and the last N events that made it so"),
    ("asof SEQ|TIME WAREHOUSE SKU", "a cell after event SEQ, or at a moment: 2026-11-30T12:00:00Z"),
    ("asof SEQ|TIME ID", "what a reservation held then"),
    (
        "reconcile",
        "is this node's state what its log makes? Where not: both values and the events since it was",
    ),
    (
        "reconcile now",
        "compare the states of all nodes at once, not only every --reconcile (on the leader)",
    ),
    ("history ID", "all events about a reservation, a transfer or a stock write"),
    ("add ID CLIENT_ADDR PEER_ADDR", "take a node into the cluster (on the leader)"),
    ("remove ID", "take a node out of the cluster (on the leader)"),
    ("transfer [ID]", "hand leadership over, to node ID or to the best follower"),
    ("snapshot", "write a snapshot now and drop the log before it"),
    ("drain", "take no more writes here and hand leadership over, for maintenance"),
    ("undrain", "take writes again"),
    ("limits", "the limits in force"),
    ("version", "the version of this server and of its protocol"),
    ("quit", "close this connection"),
    ("json COMMAND…", "the same as one line of JSON"),
];

/// Runs the command that `words` say.
pub(super) async fn run(shared: &Arc<Shared>, words: &[Vec<u8>], before: &mut Before) -> Outcome {
    let Some((verb, rest)) = words.split_first() else {
        return Outcome::Error("nothing to do; type help".to_owned());
    };
    let rest: Vec<&[u8]> = rest.iter().map(Vec::as_slice).collect();
    let result = match (verb.as_slice(), rest.as_slice()) {
        (b"quit" | b"exit", []) => return Outcome::Quit,
        (b"help", []) => Ok(help()),
        (b"help", [b"code", number]) => help_code(number),
        (b"status", []) => Ok(status::status(shared)),
        (b"members", []) => Ok(status::members(&shared.replica.status())),
        (b"digest", []) => Ok(digest(shared)),
        (b"top", []) => Ok(status::top(shared, before)),
        (b"limits", []) => Ok(status::limits(shared)),
        (b"version", []) => Ok(version()),
        (b"cell", [warehouse, sku]) => cell(shared, warehouse, sku),
        (b"details", [warehouse, sku]) => details(shared, warehouse, sku),
        (b"sku", [sku]) => sku_cells(shared, sku),
        (b"catalogue", [sku]) => catalogue(shared, sku),
        (b"hold", [id]) => hold(shared, id),
        (b"owner", [name]) => owner(shared, name),
        (b"shipment", [id]) => shipment(shared, id),
        (b"why", [warehouse, sku]) => past::why(shared, warehouse, sku, None).await,
        (b"why", [warehouse, sku, shown]) => match number(shown) {
            Ok(shown) => past::why(shared, warehouse, sku, Some(shown)).await,
            Err(message) => Err(message),
        },
        (b"asof", [point, warehouse, sku]) => past::cell_as_of(shared, point, warehouse, sku).await,
        (b"asof", [point, id]) => past::hold_as_of(shared, point, id).await,
        (b"reconcile", []) => reconcile::found(shared).await,
        (b"reconcile", [b"now"]) => reconcile::begin(shared),
        (b"history", [id]) => past::history(shared, id).await,
        (b"add", [id, client, peer]) => add(shared, id, client, peer).await,
        (b"remove", [id]) => remove(shared, id).await,
        (b"transfer", []) => transfer(shared, None).await,
        (b"transfer", [id]) => match number(id) {
            Ok(id) => transfer(shared, Some(id)).await,
            Err(message) => Err(message),
        },
        (b"snapshot", []) => snapshot(shared).await,
        (b"drain", []) => Ok(drain(shared).await),
        (b"undrain", []) => undrain(shared).await,
        (verb, _) => Err(usage(verb)),
    };
    match result {
        Ok(value) => Outcome::Answer(value),
        Err(message) => Outcome::Error(message),
    }
}

/// What is wrong with a command that nothing matches.
fn usage(verb: &[u8]) -> String {
    let verb = escape(verb);
    let known = HELP.iter().find(|(form, _)| form.split(' ').next() == Some(&verb));
    match known {
        Some((form, _)) => format!("write: {form}"),
        None => format!("unknown command '{verb}'; type help"),
    }
}

fn help() -> Value {
    let width = HELP.iter().map(|(form, _)| form.chars().count()).max().unwrap_or(0);
    let mut lines: Vec<_> =
        HELP.iter().map(|(form, what)| format!("{form:width$}  {what}")).collect();
    lines.push(
        r#"Names with blanks go in quotes; \xNN is one byte: cell "old town" a\x00b"#.to_owned(),
    );
    lines.push("An answer ends with an empty line; with json it is exactly one line.".to_owned());
    Value::Lines(lines)
}

fn help_code(text: &[u8]) -> Result<Value, String> {
    let number = number(text)?;
    let code = Code::ALL.iter().find(|code| u64::from(code.0) == number);
    let code = code.ok_or_else(|| format!("no code has the number {number}; see protocol.md"))?;
    Ok(Value::Object(vec![
        ("code", code.0.into()),
        ("name", code.name().into()),
        ("meaning", code.advice().into()),
    ]))
}

fn version() -> Value {
    Value::Object(vec![
        ("stockd", env!("CARGO_PKG_VERSION").into()),
        ("protocol", crate::protocol::VERSION.into()),
    ])
}

pub(super) fn done(what: &str) -> Value {
    Value::Object(vec![("done", what.into())])
}

fn number(text: &[u8]) -> Result<u64, String> {
    let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("'{}' is not a number", escape(text)))
}

pub(super) fn check_name(what: &str, name: &[u8], max: usize) -> Result<(), String> {
    match name.len() {
        0 => Err(format!("the {what} is empty")),
        len if len > max => Err(format!("the {what} has {len} bytes, at most {max} are possible")),
        _ => Ok(()),
    }
}

fn counters(counters: &CellCounters) -> [(&'static str, Value); 4] {
    [
        ("on_hand", counters.on_hand.into()),
        ("reserved", counters.reserved.into()),
        ("committed", counters.committed.into()),
        ("available", counters.available.into()),
    ]
}

/// Two nodes that show the same index show the same digest, or they have diverged. It walks the whole
/// state under the lock that apply takes, so the node does nothing else meanwhile: about as long as
/// encoding a snapshot, which for millions of reservations is longer than the election time-out.
fn digest(shared: &Shared) -> Value {
    let (index, digest) =
        shared.replica.with_state(|state| (state.applied_index(), state.digest()));
    Value::Object(vec![
        ("applied_index", index.into()),
        ("digest", format!("{digest:016x}").into()),
    ])
}

/// How old what follows may be: an admin line asks this node, leader or not.
fn as_of(shared: &Shared) -> [(&'static str, Value); 2] {
    let point = shared.replica.stale_point();
    let age_ms = Some(point.age_ms).filter(|age| *age != u32::MAX);
    [("as_of_index", point.index.into()), ("age_ms", age_ms.into())]
}

fn cell(shared: &Shared, warehouse: &[u8], sku: &[u8]) -> Result<Value, String> {
    check_name("warehouse", warehouse, limits::WAREHOUSE_BYTES_MAX)?;
    check_name("SKU", sku, limits::SKU_BYTES_MAX)?;
    let cells = shared.replica.cells();
    let found = cells.handle(warehouse, sku).and_then(|h| Some((h, cells.counters(h)?)));
    let (handle, found) = found.ok_or_else(|| no_cell(warehouse, sku))?;
    let mut fields = cell_head(warehouse, sku, handle);
    fields.extend(counters(&found));
    fields.extend(as_of(shared));
    Ok(Value::Object(fields))
}

pub(super) fn no_cell(warehouse: &[u8], sku: &[u8]) -> String {
    let (warehouse, sku) = (escape(warehouse), escape(sku));
    format!("no cell '{warehouse}' '{sku}' on this node; receive stock into it to make it")
}

fn cell_head(warehouse: &[u8], sku: &[u8], handle: CellHandle) -> Vec<(&'static str, Value)> {
    vec![
        ("warehouse", escape(warehouse).into()),
        ("sku", escape(sku).into()),
        ("handle", handle.0.into()),
    ]
}

fn details(shared: &Shared, warehouse: &[u8], sku: &[u8]) -> Result<Value, String> {
    check_name("warehouse", warehouse, limits::WAREHOUSE_BYTES_MAX)?;
    check_name("SKU", sku, limits::SKU_BYTES_MAX)?;
    let cells = shared.replica.cells();
    let found = cells.handle(warehouse, sku).and_then(|h| Some((h, cells.details(h)?)));
    let (handle, found) = found.ok_or_else(|| no_cell(warehouse, sku))?;
    let [damaged, quality, safety, other] = found.blocked;
    let policy = found.policy;
    let mut fields = cell_head(warehouse, sku, handle);
    fields.extend(counters(&found.counters));
    fields.extend([
        ("damaged", damaged.into()),
        ("quality", quality.into()),
        ("safety", safety.into()),
        ("other", other.into()),
        ("incoming", found.incoming.into()),
        ("in_transit", found.in_transit.into()),
        ("feed_sequence", found.feed_sequence.into()),
        ("short", found.short.into()),
        ("oversell_limit", policy.oversell_limit.into()),
        ("buffer", policy.buffer.into()),
        ("reorder_point", policy.reorder_point.into()),
        ("owner_max", policy.owner_max.into()),
        ("frozen", policy.frozen.into()),
        ("untracked", policy.untracked.into()),
        ("preorder", policy.preorder.into()),
        ("no_hold", policy.no_hold.into()),
    ]);
    fields.extend(as_of(shared));
    Ok(Value::Object(fields))
}

/// Most cells that `sku` lists; the sum is over all of them in any case.
const SKU_CELLS_MAX: usize = 1_000;

fn sku_cells(shared: &Shared, sku: &[u8]) -> Result<Value, String> {
    check_name("SKU", sku, limits::SKU_BYTES_MAX)?;
    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let mut out = BytesMut::new();
        shared.replica.with_state(|state| state.read_sku(sku, after, &mut out));
        let page = take_ok(&out).map_err(|code| refused(code, "SKU", sku))?;
        let total = take_sku_page(page, &mut rows, &mut after)
            .map_err(|Truncated| "the node's own answer is malformed".to_owned())?;
        if total.more && rows.len() < SKU_CELLS_MAX {
            continue;
        }
        let mut fields = vec![("sku", escape(sku).into()), ("listed", rows.len().into())];
        fields.push(("more", total.more.into()));
        fields.extend(counters(&total.total));
        fields.extend(as_of(shared));
        fields.push(("cells", Value::Table(rows)));
        return Ok(Value::Object(fields));
    }
}

fn take_sku_page(
    page: &[u8],
    rows: &mut Vec<Vec<(&'static str, Value)>>,
    after: &mut Option<CellHandle>,
) -> Result<SkuTotal, Truncated> {
    let mut reader = Reader::new(page);
    let total = SkuTotal::take(&mut reader)?;
    for _ in 0..total.cells {
        let warehouse = reader.short_bytes()?;
        let handle = CellHandle(reader.u32()?);
        let _found = reader.u32()?;
        let cell = CellCounters::take(&mut reader)?;
        *after = Some(handle);
        let mut row = vec![("warehouse", escape(warehouse).into()), ("handle", handle.0.into())];
        row.extend(counters(&cell));
        rows.push(row);
    }
    Ok(total)
}

/// The body of an outcome that went well.
fn take_ok(out: &[u8]) -> Result<&[u8], Code> {
    match take_outcome(&mut Reader::new(out)) {
        Ok(outcome) if outcome.code.is_ok() => Ok(outcome.body),
        Ok(outcome) => Err(outcome.code),
        Err(Truncated) => Err(Code::BAD_OP),
    }
}

fn refused(code: Code, what: &str, name: &[u8]) -> String {
    format!("{what} '{}': {code}: {}", escape(name), code.advice())
}

pub(super) fn take_id(text: &[u8]) -> Result<ReservationId, String> {
    let id = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    id.ok_or_else(|| format!("'{}' is no id: it has 32 hex digits, dashes allowed", escape(text)))
}

fn malformed(_: Truncated) -> String {
    "the node's own answer is malformed".to_owned()
}

fn hold(shared: &Shared, text: &[u8]) -> Result<Value, String> {
    let id = take_id(text)?;
    let mut out = BytesMut::new();
    shared.replica.with_state(|state| state.read_lines(id, &mut out));
    take_ok(&out).map_err(|code| refused(code, "reservation", text))?;
    let outcome = take_outcome(&mut Reader::new(&out)).map_err(malformed)?;
    take_hold(shared, id, &outcome).map_err(malformed)
}

fn take_hold(
    shared: &Shared,
    id: ReservationId,
    outcome: &crate::protocol::Outcome<'_>,
) -> Result<Value, Truncated> {
    let mut reader = Reader::new(outcome.body);
    let (created, deadline) = (reader.u64()?, reader.u64()?);
    let pinned = reader.u32()? == 1;
    let now = shared.replica.now().as_millis();
    let mut rows = Vec::new();
    for _ in 0..reader.u32()? {
        let handle = reader.u32()?;
        let units = LineShares::take(&mut reader)?;
        rows.push(vec![
            ("handle", handle.into()),
            ("quantity", units.requested().into()),
            ("reserved", units.reserved.into()),
            ("committed", units.committed.into()),
            ("fulfilled", units.fulfilled.into()),
            ("released", units.released.into()),
            ("expired", units.expired.into()),
            ("cancelled", units.cancelled.into()),
        ]);
    }
    let state = outcome.state();
    let mut fields = vec![
        ("id", id.to_string().into()),
        ("state", state.map_or("unknown", |state| state.name()).into()),
        ("created_ms", created.into()),
        ("deadline_ms", deadline.into()),
        ("left_ms", (deadline as i64 - now as i64).into()),
        ("pinned", pinned.into()),
        ("lines", rows.len().into()),
    ];
    fields.extend(as_of(shared));
    fields.push(("cells", Value::Table(rows)));
    Ok(Value::Object(fields))
}

fn catalogue(shared: &Shared, sku: &[u8]) -> Result<Value, String> {
    let mut out = BytesMut::new();
    shared.replica.with_state(|state| state.read_catalogue(sku, &mut out));
    let body = take_ok(&out).map_err(|code| refused(code, "SKU", sku))?;
    let found = Described::take(&mut Reader::new(body)).map_err(malformed)?;
    let name = |name: &[u8]| vec![("name", escape(name).into())];
    let mut fields =
        vec![("title", escape(found.title).into()), ("scale", u64::from(found.scale).into())];
    fields.extend(as_of(shared));
    fields.push(("names", Value::Table(found.names.into_iter().map(name).collect())));
    Ok(Value::Object(fields))
}

fn owner(shared: &Shared, name: &[u8]) -> Result<Value, String> {
    if name.is_empty() || name.len() > limits::OWNER_BYTES_MAX {
        return Err("the name of an owner has 1 to 32 bytes".to_owned());
    }
    let mut out = BytesMut::new();
    shared.replica.with_state(|state| state.read_owner(name, &mut out));
    let body = take_ok(&out).map_err(|code| refused(code, "owner", name))?;
    let usage = OwnerUsage::take(&mut Reader::new(body)).map_err(malformed)?;
    let mut fields = vec![
        ("holds", usage.holds.into()),
        ("units", usage.units.into()),
        ("open", usage.open.into()),
        ("free_at_ms", usage.free_at.map(|at| at.0 as i64).into()),
        ("holds_max", usage.limits.holds_max.into()),
        ("units_max", usage.limits.units_max.into()),
        ("cool_down_ms", usage.limits.cool_down_ms.into()),
    ];
    fields.extend(as_of(shared));
    Ok(Value::Object(fields))
}

fn shipment(shared: &Shared, text: &[u8]) -> Result<Value, String> {
    let id = take_id(text)?;
    let mut out = BytesMut::new();
    shared.replica.with_state(|state| state.read_transfer(OpId(id.0), &mut out));
    let body = take_ok(&out).map_err(|code| refused(code, "transfer", text))?;
    let transfer = Transfer::take(&mut Reader::new(body)).map_err(malformed)?;
    let outcome = take_outcome(&mut Reader::new(&out)).map_err(malformed)?;
    let state = TransferState::from_detail(outcome.detail);
    let mut fields = vec![
        ("id", id.to_string().into()),
        ("state", state.map_or("unknown", TransferState::name).into()),
        ("from_handle", transfer.from.0.into()),
        ("to_handle", transfer.to.0.into()),
        ("shipped", transfer.shipped.into()),
        ("received", transfer.received.into()),
        ("damaged", transfer.damaged.into()),
        ("rest", transfer.rest().into()),
    ];
    fields.extend(as_of(shared));
    Ok(Value::Object(fields))
}

fn address(what: &str, text: &[u8]) -> Result<String, String> {
    let text = String::from_utf8_lossy(text).into_owned();
    let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty());
    match port.and_then(|(_, port)| port.parse::<u16>().ok()) {
        Some(_) => Ok(text),
        None => Err(format!("the {what} address '{text}' is not host:port")),
    }
}

/// As it is, but for the leader: operators ask its admin port, which only its own machine knows.
fn explain(error: AdminError) -> String {
    match error {
        AdminError::NotLeader { leader: Some(node) } => {
            let leader = status::describe(&node);
            format!("this node does not lead; ask the admin port of {leader}")
        }
        other => other.to_string(),
    }
}

async fn add(shared: &Shared, id: &[u8], client: &[u8], peer: &[u8]) -> Result<Value, String> {
    let client_address = address("client", client)?;
    let peer_address = address("peer", peer)?;
    let node = NodeInfo { id: number(id)?, client_address, peer_address };
    let what = format!("{} is in the cluster", status::describe(&node));
    shared.replica.add_node(node).await.map_err(explain)?;
    Ok(done(&what))
}

async fn remove(shared: &Shared, id: &[u8]) -> Result<Value, String> {
    let id = number(id)?;
    shared.replica.remove_node(id).await.map_err(explain)?;
    Ok(done(&format!("node {id} is out of the cluster; it can be stopped")))
}

async fn transfer(shared: &Shared, to: Option<u64>) -> Result<Value, String> {
    let leader = shared.replica.transfer_leader(to).await.map_err(explain)?;
    Ok(done(&format!("node {leader} leads")))
}

async fn snapshot(shared: &Shared) -> Result<Value, String> {
    let index = shared.replica.snapshot().await.map_err(explain)?;
    Ok(Value::Object(vec![("snapshot_index", index.into())]))
}

/// Refuses writes first, so that the next leader is not asked to take over a queue.
async fn drain(shared: &Shared) -> Value {
    shared.set_draining(true);
    let leadership = match shared.replica.set_draining(true).await {
        Ok(()) => match &shared.replica.leadership().leader {
            Some(node) => format!("{} leads", status::describe(node)),
            None => "nobody leads yet".to_owned(),
        },
        Err(error) => format!("it was not handed over: {error}"),
    };
    Value::Object(vec![
        ("done", "this node takes no writes; undrain ends that".into()),
        ("leadership", leadership.into()),
        ("frames_in_flight", shared.frames_owed().into()),
    ])
}

async fn undrain(shared: &Shared) -> Result<Value, String> {
    shared.set_draining(false);
    shared.replica.set_draining(false).await.map_err(explain)?;
    Ok(done("this node takes writes again"))
}
