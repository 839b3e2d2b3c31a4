//! What is told of an event, field by field, whoever writes it down.
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
//! cells, active, confirmed           CHECKPOINT: how many there are
//! totals                             CHECKPOINT: the sums of all counters
//! chain_before, chain                CHECKPOINT: the chain before an event, in hexadecimal digits, if the leader knew one
//! node, at_index, finding, cell      DIVERGED: whose state (0: nobody knows), after which log entry, what, where
//! op, code, refusal, asked           REFUSED: the operation, why by number and name, units asked for of the cell
//! ```

use std::fmt::Display;

use stockd_client::events::{CellName, Checkpoint, Counts, Divergence, Event, EventBody};
use stockd_client::{Policy, ReservationId};

/// Who writes it down. Numbers are at most 2⁶³ − 1.
pub(super) trait Fields {
    /// A number; `key` names the field, as for all.
    fn number<N: Copy + Display + TryInto<i64>>(&mut self, key: &'static str, number: N);
    /// A number that may be missing on purpose.
    fn optional(&mut self, key: &'static str, number: Option<i64>);
    /// Yes or no.
    fn flag(&mut self, key: &'static str, is_set: bool);
    /// A moment, in µs since 1970.
    fn moment(&mut self, key: &'static str, at_us: u64);
    /// An id.
    fn id(&mut self, key: &'static str, id: ReservationId);
    /// Text.
    fn text(&mut self, key: &'static str, text: &str);
    /// Bytes that are most likely text.
    fn bytes(&mut self, key: &'static str, bytes: &[u8]);
    /// Some fields that belong together.
    fn group(&mut self, key: &'static str, tell: impl FnOnce(&mut Self));
}

/// Tells all of an event.
pub(super) fn tell(fields: &mut impl Fields, event: &Event<'_>, name: Option<CellName<'_>>) {
    fields.number("sequence", event.sequence);
    fields.moment("time", event.at_us);
    fields.number("at_us", event.at_us);
    fields.number("index", event.index);
    fields.number("shard", event.shard.0);
    fields.text("kind", event.kind.name());
    if !event.principal.is_empty() {
        fields.bytes("principal", event.principal);
    }
    if let Some(id) = event.id {
        fields.id("id", id);
    }
    if let Some(change) = &event.change {
        fields.number("cell", change.cell.0);
    }
    if let Some(CellName { warehouse, sku }) = own_name(&event.body).or(name) {
        fields.bytes("warehouse", warehouse);
        fields.bytes("sku", sku);
    }
    if let Some(note) = &event.note {
        fields.number("reason", note.reason);
        fields.bytes("reference", note.reference);
    }
    if let Some(deadline) = event.deadline {
        fields.moment("deadline", deadline.0.saturating_mul(1_000));
        fields.number("deadline_ms", deadline.0);
    }
    if let Some(change) = &event.change {
        fields.group("delta", |delta| tell_counts(delta, &change.delta, |_, units| units != 0));
        let has_details = event.has_details;
        fields.group("after", |after| {
            tell_counts(after, &change.after, |at, _| at < 3 || has_details)
        });
    }
    tell_body(fields, &event.body);
}

fn own_name<'a>(body: &EventBody<'a>) -> Option<CellName<'a>> {
    match *body {
        EventBody::Names { warehouse, sku } => Some(CellName { warehouse, sku }),
        _ => None,
    }
}

fn tell_counts(fields: &mut impl Fields, counts: &Counts, is_told: impl Fn(usize, i64) -> bool) {
    for (at, (name, units)) in Counts::NAMES.iter().zip(counts.all()).enumerate() {
        if is_told(at, units) {
            fields.number(name, units);
        }
    }
}

/// What an event says by its kind.
fn tell_body(fields: &mut impl Fields, body: &EventBody<'_>) {
    match *body {
        EventBody::None | EventBody::Names { .. } => {}
        EventBody::Policy { before, after } => {
            fields.group("before", |rules| tell_rules(rules, &before));
            fields.group("rules", |rules| tell_rules(rules, &after));
        }
        EventBody::Owner(owner) => fields.bytes("owner", owner),
        EventBody::Described { sku, scale, title } => {
            fields.bytes("sku", sku);
            fields.number("scale", scale);
            fields.bytes("title", title);
        }
        EventBody::Named { sku, naming, name } => {
            fields.bytes("sku", sku);
            fields.text("naming", naming.name());
            fields.bytes("name", name);
        }
        EventBody::Reorder { sku, point } => {
            fields.bytes("sku", sku);
            fields.optional("point", point);
        }
        EventBody::OwnerLimits(limits) => {
            fields.number("holds_max", limits.holds_max);
            fields.number("units_max", limits.units_max);
            fields.number("cool_down_ms", limits.cool_down_ms);
        }
        EventBody::Crossed { position, point, sku } => {
            fields.number("position", position);
            fields.optional("point", point);
            if !sku.is_empty() {
                fields.bytes("sku", sku);
            }
        }
        EventBody::Outage(ms) => fields.number("outage_ms", ms),
        EventBody::Checkpoint(checkpoint) => tell_checkpoint(fields, &checkpoint),
        EventBody::Diverged(Divergence { node, index, finding, cell }) => {
            fields.number("node", node);
            fields.number("at_index", index);
            fields.text("finding", finding.name());
            if let Some(cell) = cell {
                fields.number("cell", cell.0);
            }
        }
        EventBody::Refused { opcode, code, asked } => {
            fields.text("op", opcode.name());
            fields.number("code", code.0);
            fields.text("refusal", code.name());
            fields.number("asked", asked);
        }
    }
}

fn tell_checkpoint(fields: &mut impl Fields, checkpoint: &Checkpoint<'_>) {
    let (totals, anchor) = (checkpoint.totals(), checkpoint.anchor());
    fields.number("cells", totals.cells);
    fields.number("active", totals.active);
    fields.number("confirmed", totals.confirmed);
    fields.group("totals", |sums| {
        for (name, sum) in Counts::NAMES.iter().zip(totals.sums) {
            sums.number(name, sum);
        }
    });
    if anchor.next > 0 {
        fields.number("chain_before", anchor.next);
        fields.text("chain", &crate::audit::hex(&anchor.chain));
    }
}

fn tell_rules(fields: &mut impl Fields, rules: &Policy) {
    fields.number("oversell_limit", rules.oversell_limit);
    fields.number("buffer", rules.buffer);
    fields.optional("reorder_point", rules.reorder_point);
    fields.number("owner_max", rules.owner_max);
    for (key, is_set) in [
        ("frozen", rules.frozen),
        ("untracked", rules.untracked),
        ("preorder", rules.preorder),
        ("no_hold", rules.no_hold),
    ] {
        fields.flag(key, is_set);
    }
}
