//! Each event that the log makes is there for a reason, and everything that was done has its events.
//!
//! ```text
//! entry: RESERVE a 3, CONFIRM b, EXPIRE        asked for       RESERVED a 3 │ CONFIRMED b
//!    └─▶ events: RESERVED a +3                 found           RESERVED a 3 │ CONFIRMED b │ EXPIRED c
//!                CONFIRMED b −2 +2                                               └─ has run out, says the model
//!                EXPIRED c −1
//! ```
//!
//! The operations of an entry are those of the history, which the witness sees to. For each that took effect the tables
//! here say which kinds of events it has, under which id, and how many units they move where the request says so. An
//! event must be one of these, by who asked, with the reference that was given; or be of those that happen by
//! themselves. After each entry
//!
//! - of each reservation that it was about, all its events added up are the units that the model has in it;
//! - of each cell that it was about, all its events added up are what is in it.

use std::collections::{BTreeMap, BTreeSet};

use stockd::engine::CellReader;
use stockd::engine::batch::Command;
use stockd_protocol::event::{
    Counts, Event, EventBody, EventKind, EventRecord, Ledger, RecordHeader,
};
use stockd_protocol::{
    CellHandle, CellRef, Code, LineMode, Op, Reader, ReservationState, Terms, take_op_and_terms,
};

use crate::model::{Entry as Known, Model};
use crate::replay::Logged;
use crate::report::{Report, Rule};

type Id = [u8; 16];

/// What has been told so far.
#[derive(Default)]
pub(crate) struct Causes {
    ledger: Ledger,
    /// Reserved and committed units of each reservation that has any, by cell.
    holds: BTreeMap<Id, BTreeMap<u32, [i64; 2]>>,
}

/// The server's own operations of an entry that have events.
#[derive(Clone, Copy, Default)]
pub(crate) struct Own {
    pub checkpoint: bool,
    pub diverged: bool,
    pub leader_start: bool,
}

impl Own {
    /// This is among them.
    pub fn note(&mut self, command: &Command<'_>) {
        match command {
            Command::Checkpoint(_) => self.checkpoint = true,
            Command::Diverged(_) => self.diverged = true,
            Command::LeaderStart => self.leader_start = true,
            _ => {}
        }
    }
}

/// An entry that was applied.
pub(crate) struct Occasion<'a> {
    pub index: u64,
    /// The clients' operations.
    pub logged: &'a [Logged],
    pub own: Own,
    /// As it is after the entry.
    pub model: &'a Model,
    /// As they are after it.
    pub cells: CellReader,
}

/// Who asked, and the reason and reference that was given.
type By<'a> = (&'a [u8], Option<(u16, &'a [u8])>);

/// What operations that took effect have asked for, under one id and of one kind.
#[derive(Default)]
struct Asked<'a> {
    /// At least so many events.
    events_min: u64,
    /// So many units; `None`: the requests do not say.
    units: Option<i64>,
    by: BTreeSet<By<'a>>,
}

/// What was told, under one id and of one kind.
#[derive(Default)]
struct Found {
    events: u64,
    units: i64,
}

type Groups<T> = BTreeMap<(Id, EventKind), T>;

impl Causes {
    /// Takes the records of an entry, each with its checksum.
    pub fn take(&mut self, records: &[Vec<u8>], occasion: &Occasion<'_>, report: &mut Report) {
        let mut wrong = Vec::new();
        let asked = asked_for(occasion.logged);
        let (mut found, mut cells) = (Groups::<Found>::new(), BTreeSet::new());
        let mut ids: BTreeSet<Id> = asked.keys().map(|(id, _)| *id).collect();
        for record in records {
            let Ok(record) = EventRecord::take(&mut Reader::new(record)) else {
                wrong.push("the log makes what is no record of events".to_owned());
                continue;
            };
            report.add("events made by the log", record.header().count.into());
            wrong.extend(check_header(record.header(), occasion).err());
            for event in record.events() {
                let event = match event {
                    Ok(event) => event,
                    Err(error) => {
                        wrong.push(error.to_string());
                        break;
                    }
                };
                wrong.extend(self.ledger.take(&event).err().map(|fault| fault.to_string()));
                wrong.extend(check_cause(&event, &asked, occasion).err());
                self.count(&event, &mut found);
                cells.extend(event.change.map(|change| change.cell));
                ids.extend(event.id.filter(|_| event.kind.is_of_hold()).map(|id| id.0));
            }
        }
        wrong.extend(asked.iter().filter_map(|(key, asked)| lacking(key, asked, &found)));
        wrong.extend(ids.iter().filter_map(|id| self.compare_hold(id, occasion.model)));
        wrong.extend(cells.iter().filter_map(|cell| self.compare_cell(*cell, &occasion.cells)));
        for text in wrong {
            report.break_rule(Rule::Stream, occasion.index, &[], text);
        }
    }

    fn count(&mut self, event: &Event<'_>, found: &mut Groups<Found>) {
        let Some(id) = event.id else { return };
        let group = found.entry((id.0, event.kind)).or_default();
        group.events += 1;
        let Some(change) = event.change else { return };
        group.units += units_of(event.kind, &change.delta, &change.after);
        if event.kind.is_of_hold() {
            let lines = self.holds.entry(id.0).or_default();
            let units = lines.entry(change.cell.0).or_default();
            units[0] += change.delta.reserved;
            units[1] += change.delta.committed;
            if *units == [0, 0] {
                lines.remove(&change.cell.0);
            }
            if lines.is_empty() {
                self.holds.remove(&id.0);
            }
        }
    }

    /// A reservation has the units that its events have moved. What has run out may not have been noticed.
    fn compare_hold(&self, id: &Id, model: &Model) -> Option<String> {
        let mut wanted: BTreeMap<u32, [i64; 3]> = BTreeMap::new();
        if let Some(Known::Hold(hold)) = model.entries().get(id) {
            for ((cell, _), units) in hold.lines.iter().zip(&hold.units) {
                let sums = wanted.entry(*cell).or_default();
                let units = [units.reserved, units.committed, units.expired];
                sums.iter_mut().zip(units).for_each(|(sum, units)| *sum += i64::from(units));
            }
        }
        let none = BTreeMap::new();
        let told = self.holds.get(id).unwrap_or(&none);
        let mut cells = told.keys().chain(wanted.keys());
        let other = cells.find(|cell| {
            let [reserved, committed] = told.get(cell).copied().unwrap_or_default();
            let [held, promised, expired] = wanted.get(cell).copied().unwrap_or_default();
            committed != promised || !(held..=held + expired).contains(&reserved)
        })?;
        let (told, wanted) = (told.get(other), wanted.get(other));
        Some(format!(
            "reservation {}: in cell {other} its events make {told:?} reserved and committed, the model has {wanted:?}, \
             the last of which have run out",
            stockd_protocol::ReservationId(*id)
        ))
    }

    fn compare_cell(&self, cell: CellHandle, cells: &CellReader) -> Option<String> {
        let told = self.ledger.counts(cell);
        let found = cells.details(cell).map(|details| Counts::from(&details));
        (told != found).then(|| format!("cell {}: events make {told:?}, it is {found:?}", cell.0))
    }
}

fn check_header(header: &RecordHeader, occasion: &Occasion<'_>) -> Result<(), String> {
    let (index, now) = (occasion.index, occasion.model.now_micros());
    match (header.index, header.at_us) == (index, now) {
        true => Ok(()),
        false => Err(format!("its events are of entry {} at {} µs", header.index, header.at_us)),
    }
}

/// Somebody has asked for it, or it happens by itself.
fn check_cause(
    event: &Event<'_>,
    asked: &Groups<Asked<'_>>,
    occasion: &Occasion<'_>,
) -> Result<(), String> {
    let own = occasion.own;
    let is_known = match event.kind {
        EventKind::OutageGivenBack => own.leader_start,
        EventKind::Checkpoint => own.checkpoint,
        EventKind::Diverged => own.diverged,
        EventKind::CellDefined => is_defined(event, occasion),
        // It moves no units; READ_CROSSINGS is held against the model.
        EventKind::CrossedDown | EventKind::CrossedUp => true,
        // Whether it has, is seen in its reservation.
        EventKind::Expired | EventKind::Reclaimed => event.id.is_some() && event.note.is_none(),
        EventKind::Refused => is_refused(event, occasion.logged),
        _ => {
            let key = event.id.map(|id| (id.0, event.kind));
            let Some(asked) = key.and_then(|key| asked.get(&key)) else {
                return Err(format!("nobody has asked for event {event}"));
            };
            let note = event.note.map(|note| (note.reason, note.reference));
            if !asked.by.contains(&(event.principal, note)) {
                return Err(format!("event {event} was asked for by {:?}", asked.by));
            }
            true
        }
    };
    match is_known {
        true => Ok(()),
        false => Err(format!("nothing in the entry explains event {event}")),
    }
}

/// A write names it, be it refused for another reason: a cell that was made stays.
fn is_defined(event: &Event<'_>, occasion: &Occasion<'_>) -> bool {
    let (EventBody::Names { warehouse, sku }, Some(change)) = (event.body, &event.change) else {
        return false;
    };
    let names = occasion.model.names().get(change.cell.0 as usize);
    let is_named = names.is_some_and(|names| (&names.0[..], &names.1[..]) == (warehouse, sku));
    // The SKU may be called by another name there.
    let names_it = |one: &Logged| match op_of(one).0.written_cell() {
        Some(CellRef::Name { warehouse: named, .. }) => named == warehouse,
        _ => false,
    };
    is_named && occasion.logged.iter().any(names_it)
}

fn is_refused(event: &Event<'_>, logged: &[Logged]) -> bool {
    let EventBody::Refused { opcode, code, .. } = event.body else { return false };
    logged.iter().any(|one| {
        let (op, _) = op_of(one);
        (op.opcode(), one.code) == (opcode, code)
            && op.key() == event.id.map(|id| id.0)
            && !code.is_ok()
    })
}

/// What was asked for is told, in full.
fn lacking(
    (id, kind): &(Id, EventKind),
    asked: &Asked<'_>,
    found: &Groups<Found>,
) -> Option<String> {
    let none = Found::default();
    let found = found.get(&(*id, *kind)).unwrap_or(&none);
    let is_whole =
        found.events >= asked.events_min && asked.units.is_none_or(|units| units == found.units);
    let (id, kind) = (stockd_protocol::ReservationId(*id), kind.name());
    (!is_whole).then(|| {
        let wanted = asked.units.map_or("some".to_owned(), |units| units.to_string());
        let Found { events, units } = found;
        format!(
            "{kind} {id} of {wanted} units was asked for; {events} events tell of {units} units"
        )
    })
}

/// By the tables.
fn asked_for(logged: &[Logged]) -> Groups<Asked<'_>> {
    let mut groups = Groups::<Asked<'_>>::new();
    for one in logged.iter().filter(|one| one.is_effect()) {
        let (op, terms) = op_of(one);
        let Some((id, kind, events_min, units)) = events_of(&op, one) else { continue };
        let is_new = !groups.contains_key(&(id, kind));
        let group = groups.entry((id, kind)).or_default();
        group.events_min += events_min;
        group.units = match is_new {
            true => units,
            false => group.units.zip(units).map(|(sum, units)| sum + units),
        };
        let note = terms.note.map(|note| (note.reason, note.reference));
        group.by.insert((&one.principal, note));
    }
    groups
}

/// Which events an operation that took effect has: under which id, of which kind, at least how many, and how many
/// units they move.
fn events_of(op: &Op<'_>, done: &Logged) -> Option<(Id, EventKind, u64, Option<i64>)> {
    use EventKind as K;
    let some = |units: u32| Some(i64::from(units));
    let again = done.code == Code::OK_REACQUIRED;
    let (kind, events_min, units) = match *op {
        Op::Receive { quantity, .. } => (K::Received, 1, some(quantity)),
        Op::Adjust { delta, .. } => (K::Adjusted, 1, Some(delta)),
        Op::Set { on_hand, .. } => (K::Set, 1, Some(on_hand)),
        Op::CountBegin { .. } => (K::CountBegun, 1, Some(0)),
        Op::CountCommit { .. } => (K::Counted, 1, None),
        Op::Move { quantity, .. } => (K::Moved, 1, some(quantity)),
        Op::Announce { delta, .. } => (K::Announced, 1, Some(delta)),
        Op::Arrive { quantity, .. } => (K::Arrived, 1, some(quantity)),
        Op::Return { quantity, .. } => (K::Returned, 1, some(quantity)),
        Op::SetPolicy { .. } => (K::PolicySet, 1, Some(0)),
        // Of the cell that they leave, and of the one that they are for.
        Op::TransferShip { quantity, .. } => (K::TransferShipped, 2, some(quantity)),
        Op::TransferReceive { transfer, good, damaged, .. } => {
            let units = i64::from(good) + i64::from(damaged);
            return Some((transfer.0, K::TransferReceived, 1, Some(units)));
        }
        Op::TransferClose { .. } => (K::TransferClosed, 1, None),
        Op::TransferCancel { .. } => (K::TransferCancelled, 2, None),
        Op::Reserve { lines, .. } => {
            (K::Reserved, 1, Some(lines.iter().map(|line| i64::from(line.quantity)).sum()))
        }
        Op::ReserveFrom { wishes, .. } => {
            let is_whole = wishes.rules().mode == LineMode::All;
            let units = wishes.iter().map(|wish| i64::from(wish.quantity)).sum();
            (K::Reserved, 1, is_whole.then_some(units))
        }
        Op::Confirm { .. } if again => (K::Reacquired, 1, None),
        Op::Fulfil { .. } if again => (K::Reacquired, 1, None),
        Op::Confirm { .. } => (K::Confirmed, 1, None),
        Op::Fulfil { .. } => (K::Fulfilled, 1, None),
        Op::Cancel { .. } => (K::Cancelled, 1, None),
        Op::Release { .. } if done.detail == ReservationState::Fenced as u16 => {
            (K::Fenced, 1, None)
        }
        // What has run out is released without a word.
        Op::Release { .. } => (K::Released, 0, None),
        // A deadline that is later already stays.
        Op::Extend { .. } => (K::Extended, 0, None),
        Op::Pin { .. } => (K::Pinned, 1, None),
        Op::Amend { .. } => (K::Amended, 1, None),
        Op::SetOwnerLimits { .. } => (K::OwnerLimitsSet, 1, None),
        Op::DescribeSku { .. } => (K::SkuDescribed, 1, None),
        Op::NameSku { .. } => (K::SkuNamed, 1, None),
        Op::SetReorder { .. } => (K::ReorderSet, 1, None),
        // It says what a cell is called, if it is new.
        Op::Define { .. } => return None,
        _ => return None,
    };
    Some((op.key()?, kind, events_min, units))
}

/// The units that an event moves, as a request for it counts them.
fn units_of(kind: EventKind, delta: &Counts, after: &Counts) -> i64 {
    match kind {
        EventKind::Announced => delta.incoming,
        EventKind::Moved => delta.blocked.iter().map(|units| units.abs()).max().unwrap_or(0),
        EventKind::Reserved => delta.reserved + delta.committed,
        EventKind::Set => after.on_hand,
        EventKind::TransferShipped => delta.in_transit,
        _ => delta.on_hand,
    }
}

fn op_of(one: &Logged) -> (Op<'_>, Terms<'_>) {
    take_op_and_terms(&mut Reader::new(&one.key)).expect("it was decoded when it was applied")
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use stockd::engine::EngineConfig;
    use stockd::engine::batch::{self, BatchBuilder, PrincipalRuns};
    use stockd::world::UnixMicros;
    use stockd_protocol::event::{RecordWriter, seal};
    use stockd_protocol::{Line, Note, OpFlags, OpId, ReservationId, ShardId};

    use super::super::Stream;
    use super::*;
    use crate::replay::{Entry, Replay};

    const START_MS: u64 = 1_700_000_000_000;
    const CELL: CellRef<'_> = CellRef::Name { warehouse: b"w", sku: b"s" };

    fn id(number: u8) -> ReservationId {
        ReservationId::from_parts(START_MS, [number; 10])
    }

    fn entry(index: u64, after_ms: u64, principal: &[u8], ops: &[u8], count: u32) -> Entry {
        let (mut entry, mut principals) = (BytesMut::new(), PrincipalRuns::default());
        if !principal.is_empty() {
            principals.add(principal, count);
        }
        let batch = BatchBuilder::begin_named(&mut entry, &principals);
        entry.extend_from_slice(ops);
        batch.finish(&mut entry, UnixMicros((START_MS + after_ms) * 1_000), count);
        Entry { index, batch: entry.freeze() }
    }

    /// Units come in; two holds, of which one is confirmed and one runs out; units are written off for a reason.
    fn log() -> Vec<Entry> {
        let (mut stock, mut holds, mut rest) = (BytesMut::new(), BytesMut::new(), BytesMut::new());
        let none = OpFlags::default();
        Op::encode_receive(&mut stock, OpFlags::DEFINE, None, OpId(id(1).0), CELL, 10);
        let line = |quantity| [Line { cell: CELL, quantity }];
        Op::encode_reserve(&mut holds, none, None, id(2), 1_000, &line(3));
        Op::encode_reserve(&mut holds, none, None, id(3), 1_000, &line(2));
        Op::encode_confirm(&mut holds, none, None, id(2));
        let adjust = Op::Adjust { op_id: OpId(id(4).0), delta: -1, cell: CELL };
        let note = Some(Note { reason: 7, reference: b"broken" });
        adjust.encode(&mut rest, &Terms { note, ..Terms::default() });
        let mut sweep = BytesMut::new();
        batch::encode_expire(&mut sweep, 10);
        vec![
            entry(1, 0, b"", &stock, 1),
            entry(2, 1, b"shop", &holds, 3),
            entry(3, 2, b"floor", &rest, 1),
            entry(4, 60_000, b"", &sweep, 1),
        ]
    }

    /// What is told in the place of an event; `None`: nothing.
    type Change<'a> = &'a dyn Fn(Event<'_>) -> Option<Event<'_>>;

    /// What is said when the engine makes other events than it does.
    fn said(spoil: &dyn Fn(Event<'_>, &mut RecordWriter)) -> Option<String> {
        let config = EngineConfig::default();
        let mut replay = Replay::new(config, Some(Stream::of_log()));
        let (mut causes, mut report) = (Causes::default(), Report::default());
        for entry in log() {
            let logged = replay.apply(&entry, &mut report);
            assert!(report.is_ok(), "what the engine makes is right: {report}");
            let kept = replay.stream.as_ref().expect("it was given one").records.iter();
            let made = kept.filter(|(_, kept)| kept.index == entry.index);
            let made = made.map(|(_, kept)| {
                let record = EventRecord::take(&mut Reader::new(&kept.bytes)).expect("it is one");
                let &RecordHeader { first, index, at_us, .. } = record.header();
                let mut writer = RecordWriter::begin(Vec::new(), ShardId(0), first, index, at_us);
                record.events().for_each(|event| spoil(event.expect("it is one"), &mut writer));
                let mut record = writer.finish();
                seal(&mut record);
                record
            });
            let (model, cells) = (&replay.model, replay.engine.cells());
            let (index, own) = (entry.index, Own::default());
            let occasion = Occasion { index, logged: &logged, own, model, cells };
            let mut said = Report::default();
            causes.take(&made.collect::<Vec<_>>(), &occasion, &mut said);
            if !said.is_ok() {
                return Some(said.to_string());
            }
        }
        None
    }

    #[test]
    fn what_the_engine_makes_is_right() {
        assert_eq!(said(&|event, writer| writer.copy(&event)), None);
    }

    #[test]
    fn each_kind_of_wrong_event_is_noticed() {
        let cases: [(&str, EventKind, Change<'_>); 8] = [
            ("of 10 units was asked for", EventKind::Received, &|_| None),
            ("of 3 units was asked for", EventKind::Reserved, &|event| less(event)),
            ("in cell 0 its events make", EventKind::Confirmed, &|_| None),
            ("in cell 0 its events make", EventKind::Confirmed, &|event| less(event)),
            ("nobody has asked for", EventKind::Confirmed, &|event| {
                Some(Event { id: Some(id(9)), ..event })
            }),
            ("was asked for by", EventKind::Confirmed, &|event| {
                Some(Event { principal: b"thief", ..event })
            }),
            ("was asked for by", EventKind::Adjusted, &|event| Some(Event { note: None, ..event })),
            ("in cell 0 its events make", EventKind::Expired, &|event| {
                Some(Event { id: Some(id(2)), ..event })
            }),
        ];
        for (words, kind, change) in cases {
            let spoil = |event: Event<'_>, writer: &mut RecordWriter| {
                let told = if event.kind == kind { change(event) } else { Some(event) };
                if let Some(event) = told {
                    writer.copy(&event);
                }
            };
            let said = said(&spoil).unwrap_or_default();
            assert!(said.contains(words), "{kind:?}, {words}: {said:?}");
        }
    }

    /// The same of one unit less, and the cell as it would be then.
    fn less(event: Event<'_>) -> Option<Event<'_>> {
        let mut change = event.change?;
        let by = change.delta.reserved.signum();
        change.delta.reserved -= by;
        change.after.reserved -= by;
        if change.delta.committed != 0 {
            change.delta.committed -= 1;
            change.after.committed -= 1;
        }
        Some(Event { change: Some(change), ..event })
    }
}
