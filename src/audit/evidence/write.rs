//! Taking evidence from a directory.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{self, Write};
use std::ops::RangeInclusive;

use sha2::{Digest, Sha256};

use super::Head;
use crate::audit::findings::Finding;
use crate::audit::{Progress, SHARD};
use crate::engine::CellReader;
use crate::events::{Checks, EventDir, Found, Position};
use crate::log::Storage;
use crate::protocol::CellHandle;
use crate::protocol::event::{EventBody, EventKind};
use crate::replication::{Owner, load_checkpoint, newest_checkpoint, owner_of};

/// Warehouse and SKU.
type Names = (Vec<u8>, Vec<u8>);

/// Writes the events of a range, and what belongs to them; gives what it says of itself. What is read is checked on
/// the way, and nothing is written before the whole range was in order.
///
/// # Errors
/// The events are not all there, or not in order. What the operating system says.
pub fn write(
    storage: &dyn Storage,
    range: RangeInclusive<u64>,
    out: &mut dyn Write,
    progress: Progress<'_>,
) -> Result<Head, Finding> {
    let directory = storage.path("events-*");
    let about = |what: String| Finding { file: directory.clone(), offset: None, what };
    let owner = owner_of(storage).map_err(|error| about(error.to_string()))?;
    let owner = owner.ok_or_else(|| about("no node has ever started here".to_owned()))?;
    let known = Known::load(storage, &owner, progress).map_err(about)?;
    let files = EventDir::survey(storage).map_err(|error| about(error.to_string()))?;
    progress("reading the events", 0, 0);
    let found = Range::read(&files, &range, &known, &about)?;
    let head = found.head(&owner, &range);
    progress("writing the evidence", 0, 0);
    let mut out = Hashed { out, hash: Sha256::new() };
    let written = copy(&files, &head, &found.names, &mut out, &about)?;
    if written != head.after {
        return Err(about("the events have changed meanwhile".to_owned()));
    }
    Ok(head)
}

/// What a snapshot knows.
struct Known {
    cells: Option<CellReader>,
    /// Cells that are defined from here on are not in it.
    next: u64,
}

impl Known {
    fn load(storage: &dyn Storage, owner: &Owner, progress: Progress<'_>) -> Result<Self, String> {
        let name = newest_checkpoint(storage).map_err(|error| error.to_string())?;
        let Some(name) = name else { return Ok(Self { cells: None, next: 1 }) };
        let mut told = |done, all| progress("loading the snapshot", done, all);
        let loaded = load_checkpoint(storage, &name, &owner.engine, &mut told);
        let loaded = loaded.map_err(|error| error.to_string())?;
        Ok(Self { cells: Some(loaded.stock.cells()), next: loaded.events.next })
    }

    fn names(&self, cell: CellHandle) -> Option<Names> {
        let (warehouse, sku) = self.cells.as_ref()?.names(cell)?;
        Some((warehouse.to_vec(), sku.to_vec()))
    }
}

/// What is in the range.
struct Range {
    before: Position,
    after: Position,
    records_bytes: u64,
    names: BTreeMap<u32, Names>,
}

impl Range {
    /// Reads what is in the range, and before it what defines cells that no snapshot has.
    fn read(
        files: &EventDir,
        range: &RangeInclusive<u64>,
        known: &Known,
        about: &dyn Fn(String) -> Finding,
    ) -> Result<Self, Finding> {
        let (from, to) = (*range.start(), *range.end());
        let mut records = files.records_from(Checks::Chain, from.min(known.next));
        let mut defined = BTreeMap::new();
        let mut range: Option<Self> = None;
        while let Some(found) = records.next().map_err(|error| of(error, about))? {
            let header = found.record.header();
            if header.first > to {
                break;
            }
            if header.next() <= from {
                look_for_cells(&found, &mut defined, None, known, about)?;
                continue;
            }
            let range = range.get_or_insert_with(|| Self {
                before: found.before,
                after: found.before,
                records_bytes: 0,
                names: BTreeMap::new(),
            });
            if found.before != range.after {
                let missing = (range.after.next, found.before.next - 1);
                return Err(about(format!("events {}..{} are not here", missing.0, missing.1)));
            }
            look_for_cells(&found, &mut defined, Some(&mut range.names), known, about)?;
            range.after.pass(found.record.bytes(), header.next());
            range.records_bytes += found.record.bytes().len() as u64;
        }
        match range {
            Some(range) if range.before.next <= from && range.after.next > to => Ok(range),
            Some(range) => Err(about(format!(
                "of events {from}..{to} only {}..{} are here",
                range.before.next.max(from),
                range.after.next.saturating_sub(1).min(to)
            ))),
            None => Err(about(format!("events {from}..{to} are not here"))),
        }
    }

    fn head(&self, owner: &Owner, range: &RangeInclusive<u64>) -> Head {
        let engine = &owner.engine;
        Head {
            shard: SHARD,
            cluster_id: owner.cluster_id,
            node_id: owner.node_id,
            rules_ms: [engine.grace_ms, engine.retention_ms, engine.max_life_ms],
            from: *range.start(),
            to: *range.end(),
            before: self.before,
            after: self.after,
            records_bytes: self.records_bytes,
            named: self.names.len() as u32,
        }
    }
}

fn of(error: crate::events::ReadError, about: &dyn Fn(String) -> Finding) -> Finding {
    let directory = about(String::new()).file;
    Finding::of_events(error, &directory)
}

/// Notes cells that are defined, and, with `occurring`, those that events are about.
fn look_for_cells(
    found: &Found<'_>,
    defined: &mut BTreeMap<u32, Names>,
    mut occurring: Option<&mut BTreeMap<u32, Names>>,
    known: &Known,
    about: &dyn Fn(String) -> Finding,
) -> Result<(), Finding> {
    let place =
        |what: String| Finding { file: found.file.to_owned(), offset: Some(found.offset), what };
    for event in found.record.events() {
        let event = event.map_err(|error| place(error.to_string()))?;
        let Some(change) = &event.change else { continue };
        if let (EventKind::CellDefined, EventBody::Names { warehouse, sku }) =
            (event.kind, event.body)
        {
            defined.insert(change.cell.0, (warehouse.to_vec(), sku.to_vec()));
        }
        let Some(occurring) = &mut occurring else { continue };
        if let Entry::Vacant(vacant) = occurring.entry(change.cell.0) {
            let own = defined.get(&change.cell.0).cloned();
            let names = own.or_else(|| known.names(change.cell)).ok_or_else(|| {
                about(format!("nothing here says what cell {} is called", change.cell.0))
            })?;
            vacant.insert(names);
        }
    }
    Ok(())
}

/// Writes the file; gives the position after the last record.
fn copy(
    files: &EventDir,
    head: &Head,
    names: &BTreeMap<u32, Names>,
    out: &mut Hashed<'_>,
    about: &dyn Fn(String) -> Finding,
) -> Result<Position, Finding> {
    let failed = |error: io::Error| Finding {
        file: "the evidence".to_owned(),
        offset: None,
        what: error.to_string(),
    };
    out.write(&head.encode()).map_err(failed)?;
    for (cell, (warehouse, sku)) in names {
        out.write(&cell.to_le_bytes()).map_err(failed)?;
        for name in [warehouse, sku] {
            out.write(&[name.len() as u8]).map_err(failed)?;
            out.write(name).map_err(failed)?;
        }
    }
    let mut position = head.before;
    let mut records = files.records_from(Checks::Chain, head.before.next);
    while position.next < head.after.next {
        let found = records.next().map_err(|error| of(error, about))?;
        let Some(found) = found else { break };
        if found.before.next >= head.before.next {
            position.pass(found.record.bytes(), found.record.header().next());
            out.write(found.record.bytes()).map_err(failed)?;
        }
    }
    let digest = out.hash.clone().finalize();
    out.out.write_all(&digest).map_err(failed)?;
    Ok(position)
}

/// What goes through it is part of the digest.
struct Hashed<'a> {
    out: &'a mut dyn Write,
    hash: Sha256,
}

impl Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.hash.update(bytes);
        self.out.write_all(bytes)
    }
}
