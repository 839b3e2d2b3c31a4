//! Events as JSON objects, a line each.
//!
//! ```text
//! sequence, at_us, index, shard      numbers; time: at_us as RFC 3339 in UTC
//! kind                               as protocol.md names it
//! principal                          if somebody said who asked
//! id                                 of the reservation, transfer or write, if there is one
//! cell, warehouse, sku               if it is about a cell; the names, if they are known
//! reason, reference                  if there is a note
//! deadline, deadline_ms              if there is one: as RFC 3339, and in ms since 1970
//! delta, after                       if it is about a cell: counters that changed; on_hand, reserved, committed, and
//!                                    damaged, quality, safety, other, incoming, in_transit if the cell has any
//! owner                              RESERVED for somebody
//! before, rules                      POLICY_SET: the rules that were, and that are
//! sku, scale, title                  SKU_DESCRIBED
//! sku, naming, name                  SKU_NAMED
//! sku, point                         REORDER_SET; null: none
//! holds_max, units_max, cool_down_ms OWNER_LIMITS_SET; 0: no limit
//! position, point, sku               CROSSED_DOWN, CROSSED_UP; sku without warehouse and cell: over all warehouses
//! outage_ms                          OUTAGE_GIVEN_BACK
//! cells, active, confirmed, totals   CHECKPOINT; the sums of all counters
//! chain_before, chain                CHECKPOINT: the chain before an event, in hexadecimal digits, if the leader knew one
//! node, index, finding, cell         DIVERGED; node 0: nobody knows which
//! ```
//!
//! Names are bytes, and JSON has text. One that is not UTF-8 is told in hexadecimal digits, under a key that ends in
//! `_hex`: a stream cannot stop for it, and nothing is lost.

use std::io::Write;

use stockd_client::Policy;
use stockd_client::events::{CellName, Checkpoint, Counts, Divergence, Event, EventBody};

use super::moment::Moment;

/// Appends an event's line.
pub(super) fn put_line(out: &mut Vec<u8>, event: &Event<'_>, name: Option<CellName<'_>>) {
    let mut object = Object::begin(out);
    object.number("sequence", event.sequence);
    object.text("time", &Moment(event.at_us).to_string());
    object.number("at_us", event.at_us);
    object.number("index", event.index);
    object.number("shard", event.shard.0);
    object.text("kind", event.kind.name());
    if !event.principal.is_empty() {
        object.bytes("principal", event.principal);
    }
    if let Some(id) = event.id {
        object.text("id", &id.to_string());
    }
    if let Some(change) = &event.change {
        object.number("cell", change.cell.0);
    }
    if let Some(CellName { warehouse, sku }) = own_name(&event.body).or(name) {
        object.bytes("warehouse", warehouse);
        object.bytes("sku", sku);
    }
    if let Some(note) = &event.note {
        object.number("reason", note.reason);
        object.bytes("reference", note.reference);
    }
    if let Some(deadline) = event.deadline {
        object.text("deadline", &Moment(deadline.0.saturating_mul(1_000)).to_string());
        object.number("deadline_ms", deadline.0);
    }
    if let Some(change) = &event.change {
        object.object("delta", |delta| put_counts(delta, &change.delta, |_, units| units != 0));
        let has_details = event.has_details;
        object.object("after", |after| {
            put_counts(after, &change.after, |at, _| at < 3 || has_details)
        });
    }
    put_body(&mut object, &event.body);
    object.end();
    out.push(b'\n');
}

fn own_name<'a>(body: &EventBody<'a>) -> Option<CellName<'a>> {
    match *body {
        EventBody::Names { warehouse, sku } => Some(CellName { warehouse, sku }),
        _ => None,
    }
}

fn put_counts(object: &mut Object<'_>, counts: &Counts, is_told: impl Fn(usize, i64) -> bool) {
    for (at, (name, units)) in Counts::NAMES.iter().zip(counts.all()).enumerate() {
        if is_told(at, units) {
            object.number(name, units);
        }
    }
}

/// Appends what an event says by its kind.
pub(super) fn put_body(object: &mut Object<'_>, body: &EventBody<'_>) {
    match *body {
        EventBody::None | EventBody::Names { .. } => {}
        EventBody::Policy { before, after } => {
            object.object("before", |rules| put_rules(rules, &before));
            object.object("rules", |rules| put_rules(rules, &after));
        }
        EventBody::Owner(owner) => object.bytes("owner", owner),
        EventBody::Described { sku, scale, title } => {
            object.bytes("sku", sku);
            object.number("scale", scale);
            object.bytes("title", title);
        }
        EventBody::Named { sku, naming, name } => {
            object.bytes("sku", sku);
            object.text("naming", naming.name());
            object.bytes("name", name);
        }
        EventBody::Reorder { sku, point } => {
            object.bytes("sku", sku);
            object.optional("point", point);
        }
        EventBody::OwnerLimits(limits) => {
            object.number("holds_max", limits.holds_max);
            object.number("units_max", limits.units_max);
            object.number("cool_down_ms", limits.cool_down_ms);
        }
        EventBody::Crossed { position, point, sku } => {
            object.number("position", position);
            object.optional("point", point);
            if !sku.is_empty() {
                object.bytes("sku", sku);
            }
        }
        EventBody::Outage(ms) => object.number("outage_ms", ms),
        EventBody::Checkpoint(checkpoint) => put_checkpoint(object, &checkpoint),
        EventBody::Diverged(Divergence { node, index, finding, cell }) => {
            object.number("node", node);
            object.number("index", index);
            object.text("finding", finding.name());
            object.optional("cell", cell.map(|cell| i64::from(cell.0)));
        }
    }
}

fn put_checkpoint(object: &mut Object<'_>, checkpoint: &Checkpoint<'_>) {
    let (totals, anchor) = (checkpoint.totals(), checkpoint.anchor());
    object.number("cells", totals.cells);
    object.number("active", totals.active);
    object.number("confirmed", totals.confirmed);
    object.object("totals", |sums| {
        for (name, sum) in Counts::NAMES.iter().zip(totals.sums) {
            sums.number(name, sum);
        }
    });
    if anchor.next > 0 {
        let chain: String = anchor.chain.iter().map(|byte| format!("{byte:02x}")).collect();
        object.number("chain_before", anchor.next);
        object.text("chain", &chain);
    }
}

fn put_rules(object: &mut Object<'_>, rules: &Policy) {
    object.number("oversell_limit", rules.oversell_limit);
    object.number("buffer", rules.buffer);
    object.optional("reorder_point", rules.reorder_point);
    object.number("owner_max", rules.owner_max);
    for (key, is_set) in [
        ("frozen", rules.frozen),
        ("untracked", rules.untracked),
        ("preorder", rules.preorder),
        ("no_hold", rules.no_hold),
    ] {
        object.flag(key, is_set);
    }
}

/// An object that is written as it is told.
pub(super) struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl<'a> Object<'a> {
    pub(super) fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_first: true }
    }

    pub(super) fn end(self) {
        self.out.push(b'}');
    }

    fn key(&mut self, key: &str, suffix: &str) {
        if !std::mem::replace(&mut self.is_first, false) {
            self.out.push(b',');
        }
        self.put(format_args!("\"{key}{suffix}\":"));
    }

    fn put(&mut self, text: std::fmt::Arguments<'_>) {
        self.out.write_fmt(text).expect("memory takes all that is written");
    }

    fn number(&mut self, key: &str, number: impl std::fmt::Display) {
        self.key(key, "");
        self.put(format_args!("{number}"));
    }

    fn optional(&mut self, key: &str, number: Option<i64>) {
        match number {
            Some(number) => self.number(key, number),
            None => self.number(key, "null"),
        }
    }

    fn flag(&mut self, key: &str, is_set: bool) {
        self.number(key, is_set);
    }

    fn text(&mut self, key: &str, text: &str) {
        self.key(key, "");
        serde_json::to_writer(&mut *self.out, text).expect("text goes into memory");
    }

    fn bytes(&mut self, key: &str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(key, text),
            Err(_) => {
                self.key(key, "_hex");
                self.out.push(b'"');
                bytes.iter().for_each(|byte| self.put(format_args!("{byte:02x}")));
                self.out.push(b'"');
            }
        }
    }

    fn object(&mut self, key: &str, put: impl FnOnce(&mut Object<'_>)) {
        self.key(key, "");
        let mut inner = Object::begin(self.out);
        put(&mut inner);
        inner.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stockd_client::events::{CellChange, EventKind, Naming, Note};
    use stockd_client::{CellHandle, OwnerLimits, ReservationId, UnixMillis};
    use stockd_protocol::ShardId;

    fn event(kind: EventKind, body: EventBody<'static>) -> Event<'static> {
        Event {
            sequence: 17,
            index: 77,
            at_us: 1_700_000_000_400_000,
            shard: ShardId(0),
            principal: b"",
            kind,
            id: None,
            note: None,
            deadline: None,
            change: None,
            has_details: false,
            body,
        }
    }

    /// What a line says beyond what all say.
    fn said(event: &Event<'_>, name: Option<CellName<'_>>) -> String {
        let mut out = Vec::new();
        put_line(&mut out, event, name);
        let text = String::from_utf8(out).unwrap();
        serde_json::from_str::<serde_json::Value>(&text).unwrap();
        let head = format!(
            "{{\"sequence\":17,\"time\":\"2023-11-14T22:13:20.400000Z\",\"at_us\":1700000000400000,\
             \"index\":77,\"shard\":0,\"kind\":\"{}\"",
            event.kind.name()
        );
        let rest = text.strip_prefix(&head).unwrap_or_else(|| panic!("{text}"));
        rest.strip_suffix("}\n").unwrap().trim_start_matches(',').to_owned()
    }

    #[test]
    fn an_event_of_a_cell_tells_all_about_it() {
        let after = Counts { on_hand: 300, reserved: 5, committed: 1, ..Counts::default() };
        let delta = Counts { reserved: 2, ..Counts::default() };
        let reserved = Event {
            principal: b"shop",
            id: Some(ReservationId([1; 16])),
            note: Some(Note { reason: 3, reference: b"PO \"7\"" }),
            deadline: Some(UnixMillis(1_700_000_600_400)),
            change: Some(CellChange { cell: CellHandle(7), after, delta }),
            ..event(EventKind::Reserved, EventBody::Owner(b"ann"))
        };
        let name = CellName { warehouse: b"BER", sku: b"m\xff" };
        assert_eq!(
            said(&reserved, Some(name)),
            "\"principal\":\"shop\",\"id\":\"01010101-0101-0101-0101-010101010101\",\"cell\":7,\
             \"warehouse\":\"BER\",\"sku_hex\":\"6dff\",\"reason\":3,\"reference\":\"PO \\\"7\\\"\",\
             \"deadline\":\"2023-11-14T22:23:20.400000Z\",\"deadline_ms\":1700000600400,\
             \"delta\":{\"reserved\":2},\"after\":{\"on_hand\":300,\"reserved\":5,\"committed\":1},\
             \"owner\":\"ann\""
        );
        let after = Counts { incoming: 4, ..Counts::default() };
        let change = CellChange { cell: CellHandle(7), after, delta: after };
        let announced = event(EventKind::Announced, EventBody::None);
        let announced = Event { change: Some(change), has_details: true, ..announced };
        assert_eq!(
            said(&announced, None),
            "\"cell\":7,\"delta\":{\"incoming\":4},\"after\":{\"on_hand\":0,\"reserved\":0,\
             \"committed\":0,\"damaged\":0,\"quality\":0,\"safety\":0,\"other\":0,\"incoming\":4,\
             \"in_transit\":0}"
        );
    }

    #[test]
    fn every_body_has_its_fields() {
        let before = Policy::default();
        let after = Policy { frozen: true, reorder_point: Some(5), ..before };
        let rules = |point: &str, frozen: bool| {
            format!(
                "{{\"oversell_limit\":0,\"buffer\":0,\"reorder_point\":{point},\"owner_max\":0,\
                 \"frozen\":{frozen},\"untracked\":false,\"preorder\":false,\"no_hold\":false}}"
            )
        };
        let policy = format!("\"before\":{},\"rules\":{}", rules("null", false), rules("5", true));
        let (sku, name) = (&b"mug"[..], &b"cup"[..]);
        let naming = Naming::Rename;
        let limits = OwnerLimits { holds_max: 1, units_max: 2, cool_down_ms: 3 };
        let cases = [
            (
                event(EventKind::CellDefined, EventBody::Names { warehouse: b"BER", sku }),
                "\"warehouse\":\"BER\",\"sku\":\"mug\"",
            ),
            (event(EventKind::PolicySet, EventBody::Policy { before, after }), &policy),
            (
                event(EventKind::SkuDescribed, EventBody::Described { sku, scale: 3, title: name }),
                "\"sku\":\"mug\",\"scale\":3,\"title\":\"cup\"",
            ),
            (
                event(EventKind::SkuNamed, EventBody::Named { sku, naming, name }),
                "\"sku\":\"mug\",\"naming\":\"RENAME\",\"name\":\"cup\"",
            ),
            (
                event(EventKind::ReorderSet, EventBody::Reorder { sku, point: None }),
                "\"sku\":\"mug\",\"point\":null",
            ),
            (
                event(EventKind::OwnerLimitsSet, EventBody::OwnerLimits(limits)),
                "\"holds_max\":1,\"units_max\":2,\"cool_down_ms\":3",
            ),
            (
                event(
                    EventKind::CrossedDown,
                    EventBody::Crossed { position: -1, point: Some(5), sku },
                ),
                "\"position\":-1,\"point\":5,\"sku\":\"mug\"",
            ),
            (event(EventKind::OutageGivenBack, EventBody::Outage(9)), "\"outage_ms\":9"),
        ];
        for (event, fields) in cases {
            assert_eq!(said(&event, None), fields);
        }
    }
}
