//! Reorder points that were crossed: the latest ones, for whoever orders more.
//!
//! ```text
//! a change of a watched cell ─▶ crossed, of this operation ─▶ ring of the latest 65,536
//!                               twice is not at all            numbered from 0, as long as the log lives
//! ```
//!
//! A cell is watched if it has a reorder point or its SKU has one. What an operation, or a chain of them,
//! takes back by its end has not happened: a transfer between two warehouses does not send their SKU below
//! its point and back.

use std::collections::{BTreeMap, VecDeque};

use bytes::{BufMut, BytesMut};

use crate::protocol::event::{EventBody, EventKind};
use crate::protocol::limits::CROSSINGS_MAX;
use crate::protocol::{CellHandle, Code, Crossing, CrossingsHead, Reader, Truncated};

use super::cells::CellTable;
use super::events;
use super::names::SkuId;
use super::outcomes::body;
use super::state::StockState;

/// What has a reorder point.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Subject {
    Cell(u32),
    Sku(SkuId),
}

/// The reorder points that an operation crosses, in the order of cells and then of SKUs, and whether they are
/// low after it. A chain may cross a million.
pub(super) type Crossed = BTreeMap<Subject, bool>;

/// Notes that a position went from `before` to `after`, each with the point at that time.
pub(super) fn note(
    crossed: &mut Crossed,
    subject: Subject,
    before: (Option<i64>, i64),
    after: (Option<i64>, i64),
) {
    let is_low = |(point, position): (Option<i64>, i64)| point.is_some_and(|p| position <= p);
    if is_low(before) == is_low(after) {
        return;
    }
    // Crossed twice is not at all.
    if crossed.remove(&subject).is_none() {
        crossed.insert(subject, is_low(after));
    }
}

/// One of the latest, as it is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Kept {
    at_ms: u64,
    position: i64,
    /// −1: it was taken away.
    point: i64,
    subject: Subject,
    is_low: bool,
}

/// Bytes of one in a snapshot: time, position and point, number, kind (1 of a SKU, 2 low).
pub(super) const KEPT_BYTES: usize = 32;

/// See the module.
#[derive(Default)]
pub(super) struct Crossings {
    kept: VecDeque<Kept>,
    /// The number of the next one.
    next: u64,
}

impl Crossings {
    /// The number of the next one.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many are kept.
    pub fn count(&self) -> u32 {
        self.kept.len() as u32
    }

    fn push(&mut self, kept: Kept) {
        if self.kept.len() == CROSSINGS_MAX {
            self.kept.pop_front();
        }
        self.kept.push_back(kept);
        self.next += 1;
    }

    /// Appends all as a snapshot has them.
    pub fn put(&self, out: &mut Vec<u8>) {
        for kept in &self.kept {
            let (number, kind) = match kept.subject {
                Subject::Cell(cell) => (cell, 0),
                Subject::Sku(sku) => (sku.0, 1),
            };
            out.put_u64_le(kept.at_ms);
            out.put_i64_le(kept.position);
            out.put_i64_le(kept.point);
            out.put_u32_le(number);
            out.put_u32_le(kind | if kept.is_low { 2 } else { 0 });
        }
    }

    /// Takes one as a snapshot has it; `None`: it is none.
    pub fn take(&mut self, reader: &mut Reader<'_>) -> Result<Option<()>, Truncated> {
        let (at_ms, position, point) = (reader.u64()?, reader.i64()?, reader.i64()?);
        let (number, kind) = (reader.u32()?, reader.u32()?);
        if kind > 3 || self.kept.len() == CROSSINGS_MAX {
            return Ok(None);
        }
        let is_sku = kind & 1 == 1;
        let subject = if is_sku { Subject::Sku(SkuId(number)) } else { Subject::Cell(number) };
        self.kept.push_back(Kept { at_ms, position, point, subject, is_low: kind & 2 == 2 });
        Ok(Some(()))
    }

    /// Says what the next one's number is. `false`: more are kept than there were.
    pub fn set_next(&mut self, next: u64) -> bool {
        self.next = next;
        next >= self.kept.len() as u64
    }

    /// Each is about something that is there.
    pub fn are_sound(&self, table: &CellTable) -> bool {
        self.kept.iter().all(|kept| match kept.subject {
            Subject::Cell(cell) => cell < table.count(),
            Subject::Sku(sku) => sku.0 < table.skus.count(),
        })
    }
}

impl StockState {
    /// Keeps what an operation has crossed, in the order of cells and then of SKUs.
    #[cold]
    pub(super) fn keep_crossings(&mut self) {
        let crossed = self.cells.take_crossed();
        let table = self.cells.table().clone();
        for (subject, is_low) in crossed {
            let (position, point) = match subject {
                Subject::Cell(cell) => {
                    let shown = table.read_details(cell).unwrap_or_default();
                    (shown.position(), shown.policy.reorder_point)
                }
                Subject::Sku(sku) => (table.sku_position(sku), table.points.of(sku)),
            };
            let kind = if is_low { EventKind::CrossedDown } else { EventKind::CrossedUp };
            match subject {
                Subject::Cell(cell) => {
                    let body = EventBody::Crossed { position, point, sku: &[] };
                    let (cause, cells) = (events::unnamed(kind, body), &mut self.cells);
                    let (value, details) = (cells.get(cell), cells.details(cell));
                    cells.events.tell_of_cell(&cause, cell, &value, &details);
                }
                Subject::Sku(sku) => {
                    let sku = table.skus.name(sku.0).unwrap_or_default();
                    let body = EventBody::Crossed { position, point, sku };
                    self.cells.events.tell(&events::unnamed(kind, body));
                }
            }
            let (at_ms, point) = (self.clock.now.as_millis(), point.unwrap_or(-1));
            self.crossings.push(Kept { at_ms, position, point, subject, is_low });
        }
    }

    /// Appends the outcome of READ_CROSSINGS: at most `count` of them, from the number `from` on or from the
    /// first that is kept.
    pub fn read_crossings(&self, from: u64, count: u16, out: &mut BytesMut) {
        let oldest = self.crossings.next - self.crossings.kept.len() as u64;
        let first = from.clamp(oldest, self.crossings.next);
        let kept = self.crossings.kept.iter().skip((first - oldest) as usize);
        let page: Vec<&Kept> = kept.take(count.into()).collect();
        let table = self.cells.table();
        body(out, Code::OK, 0, |out| {
            CrossingsHead { first, next: self.crossings.next, count: page.len() as u32 }
                .encode(out);
            for kept in page {
                let (cell, warehouse, sku) = match kept.subject {
                    Subject::Cell(cell) => {
                        let (warehouse, sku) = table.key(cell).expect("a kept cell is there");
                        let warehouse = table.warehouses.name(warehouse.0).unwrap_or_default();
                        (Some(CellHandle(cell)), warehouse, sku)
                    }
                    Subject::Sku(sku) => (None, &[][..], sku),
                };
                let sku = table.shown_name(sku).unwrap_or_default();
                let point = Some(kept.point).filter(|point| *point >= 0);
                let (at_ms, position, is_low) = (kept.at_ms, kept.position, kept.is_low);
                let crossing = Crossing { at_ms, position, point, is_low, cell, warehouse, sku };
                crossing.encode(out);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_ones_are_forgotten_and_the_numbers_go_on() {
        let mut crossings = Crossings::default();
        let kept = |position| {
            let subject = Subject::Sku(SkuId(7));
            Kept { at_ms: 1, position, point: 2, subject, is_low: position % 2 == 0 }
        };
        let count = CROSSINGS_MAX as i64 + 3;
        (0..count).for_each(|position| crossings.push(kept(position)));
        assert_eq!((crossings.count() as usize, crossings.next()), (CROSSINGS_MAX, count as u64));
        assert_eq!(crossings.kept.front(), Some(&kept(3)));
        // As a snapshot brings them.
        let mut bytes = Vec::new();
        crossings.put(&mut bytes);
        assert_eq!(bytes.len(), CROSSINGS_MAX * KEPT_BYTES);
        let (mut restored, mut reader) = (Crossings::default(), Reader::new(&bytes));
        while !reader.is_empty() {
            assert_eq!(restored.take(&mut reader), Ok(Some(())));
        }
        assert!(restored.kept == crossings.kept);
        assert!(restored.set_next(count as u64));
        assert!(!restored.set_next(1), "more are kept than there were");
        let one_more = Reader::new(&bytes[..KEPT_BYTES]);
        assert_eq!(restored.take(&mut { one_more }), Ok(None), "too many");
    }
}
