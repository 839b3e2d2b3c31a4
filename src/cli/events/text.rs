//! Events for people: a line each.

use std::io::Write;

use stockd_client::events::{CellName, Event, EventBody};

use super::moment::Moment;
use crate::protocol::event::Text;

/// Appends a line: when, its number, what, where, and then whatever else it says.
pub(super) fn put_line(out: &mut Vec<u8>, event: &Event<'_>, name: Option<CellName<'_>>) {
    write_line(out, event, name).expect("memory takes all that is written");
    while out.last() == Some(&b' ') {
        out.pop();
    }
    out.push(b'\n');
}

fn write_line(
    out: &mut Vec<u8>,
    event: &Event<'_>,
    name: Option<CellName<'_>>,
) -> std::io::Result<()> {
    let (at, place) = (Moment(event.at_us), place(event, name));
    write!(out, "{at} {:>9}  {:<17}  {place:<20}", event.sequence, event.kind.name())?;
    if let Some(change) = &event.change {
        write!(out, "  {change}")?;
    }
    match &event.body {
        // They are in their place already.
        EventBody::None | EventBody::Names { .. } => {}
        body => write!(out, " {body}")?,
    }
    if let Some(id) = event.id {
        write!(out, "  id={id}")?;
    }
    if let Some(deadline) = event.deadline {
        write!(out, "  deadline={}", Moment(deadline.0.saturating_mul(1_000)))?;
    }
    if let Some(note) = &event.note {
        write!(out, "  reason={} reference={}", note.reason, Text(note.reference))?;
    }
    match event.principal {
        [] => Ok(()),
        principal => write!(out, "  by={}", Text(principal)),
    }
}

fn place(event: &Event<'_>, name: Option<CellName<'_>>) -> String {
    match (name, &event.body) {
        (_, EventBody::Names { warehouse, sku }) => names(warehouse, sku),
        (Some(CellName { warehouse, sku }), _) => names(warehouse, sku),
        (None, EventBody::Crossed { sku, .. }) if event.change.is_none() => {
            format!("(all) {}", Text(sku))
        }
        _ => "-".to_owned(),
    }
}

fn names(warehouse: &[u8], sku: &[u8]) -> String {
    format!("{} {}", Text(warehouse), Text(sku))
}
