//! Replays a committed log through the real engine and through the model, side by side.
//!
//! After every entry, on every cell (of many, on those that it touched):
//! - `0 ≤ reserved`, `0 ≤ committed`, `reserved + committed ≤ on_hand`: no oversell, but where somebody
//!   allowed it, or said that units are gone;
//! - `on_hand` and `committed` are the model's; `reserved` is too, but for units that are due and not
//!   swept yet, which the engine still holds. So are buckets, rules, and what is on its way.
//!
//! Every so many entries and at the end: on all cells, with the engine's own audit, and the model's
//! counters counted again from its reservations. At the very end everything is swept and must be equal.

use std::collections::BTreeSet;

use bytes::BytesMut;
use stockd::engine::batch::{self, Batch, BatchBuilder, Command};
use stockd::engine::{EngineConfig, StockState};
use stockd::world::UnixMicros;
use stockd_protocol::event::{RecordHeader, seal};
use stockd_protocol::{
    CellCounters, CellDetails, CellHandle, Code, Op, OpFlags, Reader, ShardId, UnixMillis, take_op,
    take_outcome,
};

use crate::history::{Answer, Request};
use crate::model::{Body, Expected, Model};
use crate::report::{Report, Rule};
use crate::stream::{Causes, Occasion, Own, Stream};

/// So many cells are all compared after each entry; of more, those that the model has changed.
const FEW_CELLS: u32 = 64;

/// One entry of the committed log. Indexes without a batch (Raft's own entries) are missing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// Its place in the log.
    pub index: u64,
    /// The engine's payload, see `stockd::engine::batch`.
    pub batch: bytes::Bytes,
}

/// One client's operation as the log has it.
pub(crate) struct Logged {
    /// Its bytes without the flag RETRY: what identifies it.
    pub key: Vec<u8>,
    /// Who asked for it, as the log says; empty: nobody who said a name.
    pub principal: Vec<u8>,
    pub code: Code,
    pub detail: u16,
    pub body: Vec<u8>,
    /// What an archive answers in the place of ID_TOO_OLD.
    pub archived: Option<Expected>,
}

impl Logged {
    /// A leader may have answered so: with what the log has, or, if that is that the id is too old, with what
    /// it finds in its archive. What that shows of cells and transfers is of a later moment.
    pub fn may_answer(&self, answer: &Answer) -> bool {
        let archived = self.archived.as_ref().is_some_and(|archived| {
            let same = (archived.code, archived.detail) == (answer.code, answer.detail);
            same && match &archived.body {
                Body::Exact(body) => *body == answer.body,
                Body::Received { cell, .. } => answer.body.get(..4) == Some(&cell.to_le_bytes()),
            }
        });
        archived
            || (self.code, self.detail, &self.body) == (answer.code, answer.detail, &answer.body)
    }

    /// It changed something, or would have if that had not been done already by an equal one.
    pub fn is_effect(&self) -> bool {
        self.code.is_ok() && self.code != Code::REPLAY
    }
}

/// See the module.
pub(crate) struct Replay {
    pub engine: StockState,
    pub model: Model,
    /// The events that the engine makes, if somebody wants them.
    pub stream: Option<Stream>,
    causes: Causes,
    out: BytesMut,
    effective: BTreeSet<[u8; 16]>,
}

impl Replay {
    pub fn new(config: EngineConfig, stream: Option<Stream>) -> Self {
        let mut engine = StockState::new(config);
        engine.keep_events(ShardId(0));
        Self {
            engine,
            model: Model::new(config),
            stream,
            causes: Causes::default(),
            out: BytesMut::new(),
            effective: BTreeSet::new(),
        }
    }

    /// Applies an entry to both and compares them.
    pub fn apply(&mut self, entry: &Entry, report: &mut Report) -> Vec<Logged> {
        let held = self.engine.active_reservations() > 0;
        self.out.clear();
        let mut out = std::mem::take(&mut self.out);
        self.engine.apply(entry.index, &entry.batch, Some(&mut out));
        let mut logged = Vec::new();
        let mut outcomes = Reader::new(&out);
        let mut batch = Batch::decode(&entry.batch);
        let mut principals = batch.principals;
        let outage_ms = self.model.advance(batch.now.0);
        let (mut chain, mut own) = (Vec::new(), Own::default());
        for position in 0..batch.op_count {
            let bytes = batch.ops.rest();
            let command = batch.take();
            let bytes = &bytes[..bytes.len() - batch.ops.rest().len()];
            let principal = principals.of(position);
            if !matches!(command, Command::Client(..)) && !principal.is_empty() {
                let text = "somebody is said to have asked for what is the server's own";
                report.break_rule(Rule::Principal, entry.index, &[], text);
            }
            let Ok(outcome) = take_outcome(&mut outcomes) else {
                report.break_rule(Rule::Form, entry.index, &[], "an operation has no outcome");
                break;
            };
            own.note(&command);
            match command {
                Command::LeaderStart if position == 0 => self.model.give_back(outage_ms, held),
                Command::Client(..) => {
                    let decoded = Request::decode(bytes).ok();
                    let Some((request, end)) = decoded.filter(|decoded| decoded.0.is_write())
                    else {
                        let text = "what no client may write is in the log";
                        report.break_rule(Rule::Form, entry.index, &[], text);
                        continue;
                    };
                    let one = Logged {
                        key: key_of(bytes),
                        principal: principal.to_vec(),
                        code: outcome.code,
                        detail: outcome.detail,
                        body: outcome.body.to_vec(),
                        archived: None,
                    };
                    let goes_on = request.is_linked() && position + 1 < batch.op_count;
                    chain.push(((request, end), one));
                    if !goes_on {
                        let chain = std::mem::take(&mut chain);
                        self.judge(chain, entry.index, &mut logged, report);
                    }
                }
                Command::Bad
                | Command::Expire(_)
                | Command::LeaderStart
                | Command::Tick
                | Command::Checkpoint(_)
                | Command::Diverged(_) => (),
            }
        }
        self.judge(chain, entry.index, &mut logged, report);
        self.model.settle();
        self.tell(entry.index, &logged, own, report);
        self.out = out;
        let touched = self.model.take_touched();
        match self.model.names().len() as u32 {
            // What the engine changes and should not is seen where all is looked at.
            count @ 0..=FEW_CELLS => self.compare(0..count, entry.index, report),
            _ => self.compare(touched, entry.index, report),
        }
        logged
    }

    /// Looks at the events of an entry.
    fn tell(&mut self, index: u64, logged: &[Logged], own: Own, report: &mut Report) {
        let mut records = self.engine.take_events();
        records.iter_mut().for_each(|record| seal(record));
        let (model, cells) = (&self.model, self.engine.cells());
        let occasion = Occasion { index, logged, own, model, cells };
        self.causes.take(&records, &occasion, report);
        let Some(stream) = &mut self.stream else { return };
        for record in &records {
            if let Ok(header) = RecordHeader::peek(record) {
                stream.make(&header, record);
            }
        }
    }

    /// What the model says of operations that are linked, or of one.
    fn judge(
        &mut self,
        chain: Vec<((Request, Option<UnixMillis>), Logged)>,
        index: u64,
        logged: &mut Vec<Logged>,
        report: &mut Report,
    ) {
        let (requests, outcomes): (Vec<_>, Vec<_>) = chain.into_iter().unzip();
        let all = match &requests[..] {
            [(request, end)] => vec![self.model.execute(request, *end)],
            _ => self.model.chain(&requests),
        };
        let is_alone = requests.len() == 1;
        for (((request, end), mut one), expected) in requests.iter().zip(outcomes).zip(all) {
            if is_alone && one.code == Code::ID_TOO_OLD {
                one.archived = self.model.answer_archived(request, *end);
            }
            if !agrees(&expected, &one) {
                let text = format!(
                    "{request:?}: the engine says {} {} {:?}, the model {expected:?}",
                    one.code, one.detail, one.body
                );
                report.break_rule(Rule::Agreement, index, &[], text);
            }
            if let Some(id) = request.once()
                && one.is_effect()
                && !self.effective.insert(id)
            {
                let text = format!("{request:?} takes effect a second time");
                report.break_rule(Rule::AtMostOnce, index, &[], text);
            }
            logged.push(one);
        }
    }

    /// Compares the counters of some cells.
    fn compare(&mut self, cells: impl IntoIterator<Item = u32>, index: u64, report: &mut Report) {
        let all_swept = !self.engine.due(UnixMicros(self.model.now_micros()));
        let reader = self.engine.cells();
        for cell in cells {
            let want = self.model.counters(cell);
            let Some(have) = reader.counters(CellHandle(cell)) else {
                let text = format!("the engine has no cell #{cell}");
                report.break_rule(Rule::Agreement, index, &[], text);
                continue;
            };
            let text = || format!("cell #{cell}: the engine has {have:?}, the model {want:?}");
            let promised = have.reserved + have.committed;
            let oversold = promised > have.on_hand && !want.may_be_short;
            if have.reserved < 0 || have.committed < 0 || oversold {
                report.break_rule(Rule::Oversell, index, &[], text());
            }
            let unswept = have.reserved - want.reserved;
            if have.on_hand != want.on_hand
                || have.committed != want.committed
                || unswept < 0
                || (all_swept && unswept > 0)
                || have.available != have.on_hand - promised - want.withheld()
            {
                report.break_rule(Rule::Conservation, index, &[], text());
            }
            let details = reader.details(CellHandle(cell));
            if details.is_none_or(|details| !same_but_reserved(details, want.details())) {
                let text = format!("cell #{cell}: the engine has {details:?}, the model {want:?}");
                report.break_rule(Rule::Conservation, index, &[], text);
            }
        }
    }

    /// Everything there is to check at this moment, which takes as long as the state is large.
    pub fn audit(&mut self, index: u64, report: &mut Report) {
        report.add("audits", 1);
        if let Err(rule) = self.engine.audit() {
            let text = format!("the engine's audit fails: {rule}");
            report.break_rule(Rule::Conservation, index, &[], text);
        }
        if let Err(text) = self.model.recount() {
            report.break_rule(Rule::Conservation, index, &[], text);
        }
        let count = self.model.names().len() as u32;
        if self.engine.cells().count() != count {
            let text = format!("{} cells, the model has {count}", self.engine.cells().count());
            report.break_rule(Rule::Agreement, index, &[], text);
        }
        self.compare(0..count, index, report);
    }

    /// Sweeps the engine, so that nothing may differ any more. Nothing can be applied afterwards.
    pub fn finish(&mut self, index: u64, report: &mut Report) {
        let now = UnixMicros(self.model.now_micros());
        let (mut entry, mut ops) = (BytesMut::new(), BytesMut::new());
        batch::encode_expire(&mut ops, u32::MAX);
        let sweep = BatchBuilder::begin(&mut entry);
        entry.extend_from_slice(&ops);
        sweep.finish(&mut entry, now, 1);
        self.engine.apply(self.engine.applied_index() + 1, &entry, None);
        if self.engine.due(now) {
            report.break_rule(Rule::Conservation, index, &[], "a sweep leaves what is due");
        }
        self.audit(index, report);
    }

    /// The outcome of a read at this moment, from the engine; `None` for writes.
    pub fn read(&self, request: &Request) -> Option<BytesMut> {
        let (mut bytes, mut out) = (BytesMut::new(), BytesMut::new());
        request.encode(&mut bytes, None);
        let (op, ..) = take_op(&mut Reader::new(&bytes)).ok()?;
        match op {
            Op::ReadCells { cells } => self.engine.cells().read_cells(&cells, &mut out),
            Op::ReadReservation { id } => self.engine.read_reservation(id, &mut out),
            Op::ReadSku { after, sku } => self.engine.read_sku(sku, after, &mut out),
            Op::ReadDetails { cells } => self.engine.cells().read_details(&cells, &mut out),
            Op::ListCells(listing) => self.engine.cells().list_cells(&listing, &mut out),
            Op::ReadLines { id } => self.engine.read_lines(id, &mut out),
            Op::ListSkus(listing) => self.engine.list_skus(&listing, &mut out),
            Op::ReadCatalogue { sku } => self.engine.read_catalogue(sku, &mut out),
            Op::ReadOwner { owner } => self.engine.read_owner(owner, &mut out),
            Op::ReadCrossings { from, count } => self.engine.read_crossings(from, count, &mut out),
            Op::ReadTransfer { transfer } => self.engine.read_transfer(transfer, &mut out),
            _ => return None,
        }
        Some(out)
    }
}

/// An operation's bytes without what a client changes when it sends it again.
pub(crate) fn key_of(op: &[u8]) -> Vec<u8> {
    let mut key = op.to_vec();
    key[1] &= !OpFlags::RETRY.0;
    key
}

/// The engine may still hold units that are due; then it may also seem short.
fn same_but_reserved(have: CellDetails, want: CellDetails) -> bool {
    let (counters, short) = (CellCounters::default(), false);
    CellDetails { counters, short, ..have } == CellDetails { counters, short, ..want }
        && (have.short || !want.short)
}

fn agrees(expected: &Expected, one: &Logged) -> bool {
    if (expected.code, expected.detail) != (one.code, one.detail) {
        return false;
    }
    match &expected.body {
        Body::Exact(body) => *body == one.body,
        Body::Received { cell, on_hand, available_max } => {
            let mut body = Reader::new(&one.body);
            body.u32() == Ok(*cell)
                && body.i64() == Ok(*on_hand)
                && body.i64().is_ok_and(|available| available <= *available_max)
                && body.is_empty()
        }
    }
}
