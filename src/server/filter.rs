//! Which events a subscriber wants.

use bytes::Bytes;

use crate::engine::CellReader;
use crate::protocol::event::{Event, EventBody, EventRecord, RecordWriter, seal};
use crate::protocol::{CellHandle, Reader, Selector, Subscribe};

/// As [`Selector`], for longer than the request.
enum Wanted {
    Warehouse(Vec<u8>),
    Sku(Vec<u8>),
    Cell { warehouse: Vec<u8>, sku: Vec<u8> },
}

/// See [`Subscribe`].
pub(super) struct Filter {
    kinds: u64,
    wanted: Vec<Wanted>,
}

impl Filter {
    pub fn new(wish: &Subscribe<'_>) -> Self {
        let own = |selector: &Selector<'_>| match *selector {
            Selector::Warehouse(warehouse) => Wanted::Warehouse(warehouse.to_vec()),
            Selector::Sku(sku) => Wanted::Sku(sku.to_vec()),
            Selector::Cell { warehouse, sku } => {
                Wanted::Cell { warehouse: warehouse.to_vec(), sku: sku.to_vec() }
            }
        };
        Self { kinds: wish.kinds, wanted: wish.selectors.iter().map(own).collect() }
    }

    pub fn wants_all(&self) -> bool {
        self.kinds == 0 && self.wanted.is_empty()
    }

    fn wants(&self, event: &Event<'_>, cells: &CellReader) -> bool {
        let is_kind = self.kinds == 0 || self.kinds & 1 << event.kind as u8 != 0;
        is_kind && (self.wanted.is_empty() || self.selects(event, cells))
    }

    fn selects(&self, event: &Event<'_>, cells: &CellReader) -> bool {
        let (warehouse, sku) = match (&event.change, &event.body) {
            (Some(change), _) => match cells.names(CellHandle(change.cell.0)) {
                Some((warehouse, sku)) => (Some(warehouse), sku),
                None => return false,
            },
            (
                None,
                EventBody::Described { sku, .. }
                | EventBody::Named { sku, .. }
                | EventBody::Reorder { sku, .. }
                | EventBody::Crossed { sku, .. },
            ) => (None, *sku),
            _ => return false,
        };
        self.wanted.iter().any(|wanted| match wanted {
            Wanted::Warehouse(name) => warehouse == Some(name),
            Wanted::Sku(name) => sku == name,
            Wanted::Cell { warehouse: place, sku: name } => warehouse == Some(place) && sku == name,
        })
    }

    /// What is wanted of whole records, which have been checked: records that lack the rest.
    pub fn pick(&self, records: &[u8], cells: &CellReader) -> Bytes {
        let mut picked = Vec::new();
        let mut reader = Reader::new(records);
        while let Ok(record) = EventRecord::take_checked(&mut reader) {
            self.pick_from(&record, cells, &mut picked);
        }
        picked.into()
    }

    fn pick_from(&self, record: &EventRecord<'_>, cells: &CellReader, picked: &mut Vec<u8>) {
        let header = record.header();
        let (first, index, at_us) = (header.first, header.index, header.at_us);
        let mut writer = None;
        let mut next = first;
        let wanted = record.events().map_while(Result::ok).filter(|event| self.wants(event, cells));
        for event in wanted {
            let writer = writer.get_or_insert_with(|| {
                RecordWriter::begin(Vec::new(), header.shard, first, index, at_us)
            });
            if event.sequence > next {
                writer.skip((event.sequence - next) as u32);
            }
            writer.copy(&event);
            next = event.sequence + 1;
        }
        if let Some(mut writer) = writer {
            if next < header.next() {
                writer.skip((header.next() - next) as u32);
            }
            let mut bytes = writer.finish();
            seal(&mut bytes);
            picked.extend_from_slice(&bytes);
        }
    }
}
