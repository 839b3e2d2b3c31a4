//! The catalogue in the model.

use std::collections::BTreeMap;

use stockd_protocol::limits::ALIASES_MAX;
use stockd_protocol::{CellHandle, Code, Crossing, CrossingsHead, Described, Naming, Op};

use super::{Body, Entry, Expected, Id, Model, plain};

/// A reorder point that was crossed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Crossed {
    at_ms: u64,
    subject: Subject,
    is_low: bool,
    position: i64,
    point: Option<i64>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Subject {
    Cell(u32),
    Sku(Vec<u8>),
}

/// What a SKU is, and what else it is called.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Item {
    scale: u8,
    title: Vec<u8>,
    /// In the order in which it got them.
    aliases: Vec<Vec<u8>>,
    /// Another name than its own.
    shown: Option<Vec<u8>>,
    point: Option<i64>,
}

impl Model {
    /// The own name of the SKU that has this one.
    pub(super) fn own_name(&self, name: &[u8]) -> Option<Vec<u8>> {
        let has = |item: &Item| item.aliases.iter().any(|alias| alias == name);
        match self.skus.contains_key(name) {
            true => Some(name.to_vec()),
            false => self.items.iter().find(|(_, item)| has(item)).map(|(own, _)| own.clone()),
        }
    }

    /// The name under which lists show a SKU.
    pub fn shown_name(&self, own: &[u8]) -> Vec<u8> {
        let shown = self.items.get(own).and_then(|item| item.shown.clone());
        shown.unwrap_or_else(|| own.to_vec())
    }

    fn sku_position(&self, own: &[u8]) -> i64 {
        let cells = self.skus.get(own).into_iter().flatten();
        cells.map(|cell| self.cells[*cell as usize].details().position()).sum()
    }

    /// Notes which reorder points were crossed by what has been done since the last time.
    pub(super) fn note_crossings(&mut self) {
        let moved = std::mem::take(&mut self.moved);
        let mut skus = BTreeMap::new();
        for cell in moved {
            let own = &self.names[cell as usize].1;
            // SKUs are numbered by their first cell.
            skus.insert(self.skus[own][0], own.clone());
            let details = self.cells[cell as usize].details();
            let is_low = details.is_low();
            if self.low_cells.contains(&cell) != is_low {
                self.crossed(
                    Subject::Cell(cell),
                    is_low,
                    details.position(),
                    details.policy.reorder_point,
                );
                let _ =
                    if is_low { self.low_cells.insert(cell) } else { self.low_cells.remove(&cell) };
            }
        }
        for own in skus.into_values() {
            let point = self.items.get(&own).and_then(|item| item.point);
            let position = self.sku_position(&own);
            let is_low = point.is_some_and(|point| position <= point);
            if self.low_skus.contains(&own) != is_low {
                self.crossed(Subject::Sku(own.clone()), is_low, position, point);
                let _ = if is_low { self.low_skus.insert(own) } else { self.low_skus.remove(&own) };
            }
        }
    }

    fn crossed(&mut self, subject: Subject, is_low: bool, position: i64, point: Option<i64>) {
        let at_ms = self.now_ms();
        self.crossings.push(Crossed { at_ms, subject, is_low, position, point });
    }

    /// The outcome of a READ_CROSSINGS, all of them.
    pub fn read_crossings(&self) -> Expected {
        let mut body = bytes::BytesMut::new();
        let count = self.crossings.len();
        CrossingsHead { first: 0, next: count as u64, count: count as u32 }.encode(&mut body);
        for crossed in &self.crossings {
            let (cell, warehouse, own) = match &crossed.subject {
                Subject::Cell(cell) => {
                    let (warehouse, sku) = &self.names[*cell as usize];
                    (Some(CellHandle(*cell)), warehouse.as_slice(), sku)
                }
                Subject::Sku(own) => (None, &b""[..], own),
            };
            let sku = &self.shown_name(own);
            let Crossed { at_ms, is_low, position, point, .. } = *crossed;
            Crossing { at_ms, position, point, is_low, cell, warehouse, sku }.encode(&mut body);
        }
        Expected { code: Code::OK, detail: 0, body: Body::Exact(body.to_vec()) }
    }

    /// DESCRIBE_SKU, NAME_SKU and SET_REORDER.
    pub(super) fn write_catalogue(
        &mut self,
        id: Id,
        op: &Op<'_>,
        said: Vec<u8>,
        late: bool,
    ) -> Expected {
        if let Err(answer) = self.check_unseen(&id, &said, late) {
            return answer;
        }
        let (Op::DescribeSku { sku, .. } | Op::NameSku { sku, .. } | Op::SetReorder { sku, .. }) =
            *op
        else {
            unreachable!("nothing else writes to the catalogue");
        };
        let Some(own) = self.own_name(sku) else { return unknown() };
        let taken = match *op {
            Op::NameSku { name, .. } => self.own_name(name),
            _ => None,
        };
        let item = self.items.entry(own.clone()).or_default();
        match *op {
            Op::DescribeSku { scale, title, .. } => {
                (item.scale, item.title) = (scale, title.to_vec());
            }
            Op::NameSku { naming, name, .. } => {
                match taken {
                    Some(other) if other != own => return plain(Code::CONFLICT, 0),
                    Some(_) => {}
                    None if item.aliases.len() == ALIASES_MAX => return plain(Code::OVERFLOW, 0),
                    None => item.aliases.push(name.to_vec()),
                }
                if naming == Naming::Rename {
                    item.shown = Some(name.to_vec()).filter(|name| *name != own);
                }
            }
            Op::SetReorder { point, .. } => {
                item.point = point;
                self.moved.extend(&self.skus[&own]);
            }
            _ => {}
        }
        let forget = self.forget_from_now(&id);
        self.store(id, Entry::Op { cell: u32::MAX, said, forget });
        plain(Code::OK, 0)
    }

    /// The outcome of a READ_CATALOGUE.
    pub fn read_catalogue(&self, sku: &[u8]) -> Expected {
        let Some(own) = self.own_name(sku) else { return unknown() };
        let item = self.items.get(&own).cloned().unwrap_or_default();
        let shown = self.shown_name(&own);
        let others = std::iter::once(&own).chain(&item.aliases).filter(|name| **name != shown);
        let names = std::iter::once(&shown).chain(others).map(Vec::as_slice).collect();
        let (point, position) = (item.point, self.sku_position(&own));
        let mut body = bytes::BytesMut::new();
        let title = &item.title;
        Described { scale: item.scale, title, point, position, names }.encode(&mut body);
        Expected { code: Code::OK, detail: 0, body: Body::Exact(body.to_vec()) }
    }
}

fn unknown() -> Expected {
    Expected { code: Code::UNKNOWN_SKU, detail: 0, body: Body::Exact(vec![0, 0]) }
}
