//! Events as JSON objects, a line each.
//!
//! What is in them: [`fields`](super::fields).
//!
//! Names are bytes, and JSON has text. One that is not UTF-8 is told in hexadecimal digits, under a key that ends in
//! `_hex`: a stream cannot stop for it, and nothing is lost.

use std::fmt::Display;
use std::io::Write;

use stockd_client::ReservationId;
use stockd_client::events::{CellName, Event};

use super::fields::{Fields, tell};
use super::moment::Moment;

/// Appends an event's line.
pub(super) fn put_line(out: &mut Vec<u8>, event: &Event<'_>, name: Option<CellName<'_>>) {
    let mut object = Object::begin(out);
    tell(&mut object, event, name);
    object.end();
    out.push(b'\n');
}

/// An object that is written as it is told.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    is_first: bool,
}

impl<'a> Object<'a> {
    fn begin(out: &'a mut Vec<u8>) -> Self {
        out.push(b'{');
        Self { out, is_first: true }
    }

    fn end(self) {
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

    fn value(&mut self, key: &str, value: impl Display) {
        self.key(key, "");
        self.put(format_args!("{value}"));
    }
}

impl Fields for Object<'_> {
    fn number<N: Copy + Display + TryInto<i64>>(&mut self, key: &'static str, number: N) {
        self.value(key, number);
    }

    fn optional(&mut self, key: &'static str, number: Option<i64>) {
        match number {
            Some(number) => self.value(key, number),
            None => self.value(key, "null"),
        }
    }

    fn flag(&mut self, key: &'static str, is_set: bool) {
        self.value(key, is_set);
    }

    fn moment(&mut self, key: &'static str, at_us: u64) {
        self.value(key, format_args!("\"{}\"", Moment(at_us)));
    }

    fn id(&mut self, key: &'static str, id: ReservationId) {
        self.value(key, format_args!("\"{id}\""));
    }

    fn text(&mut self, key: &'static str, text: &str) {
        self.key(key, "");
        serde_json::to_writer(&mut *self.out, text).expect("text goes into memory");
    }

    fn bytes(&mut self, key: &'static str, bytes: &[u8]) {
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

    fn group(&mut self, key: &'static str, tell: impl FnOnce(&mut Self)) {
        self.key(key, "");
        self.out.push(b'{');
        self.is_first = true;
        tell(self);
        self.out.push(b'}');
        self.is_first = false;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stockd_client::events::{
        CellChange, Counts, Divergence, EventBody, EventKind, Finding, Naming, Note,
    };
    use stockd_client::{CellHandle, Code, OwnerLimits, Policy, UnixMillis};
    use stockd_protocol::{Opcode, ShardId};

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
        let diverged = Divergence { node: 2, index: 70, finding: Finding::Chain, cell: None };
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
            (
                event(EventKind::Diverged, EventBody::Diverged(diverged)),
                "\"node\":2,\"at_index\":70,\"finding\":\"CHAIN\"",
            ),
            (
                event(
                    EventKind::Refused,
                    EventBody::Refused { opcode: Opcode::Reserve, code: Code::NO_STOCK, asked: 4 },
                ),
                "\"op\":\"RESERVE\",\"code\":100,\"refusal\":\"NO_STOCK\",\"asked\":4",
            ),
        ];
        for (event, fields) in cases {
            assert_eq!(said(&event, None), fields);
        }
    }
}
