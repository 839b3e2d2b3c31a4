//! What SKUs are, and what they are called.
//!
//! ```text
//! item (116 bytes)                       sku ──▶ item         only of SKUs that were described, renamed or
//!                                                             given a reorder point
//!   0  4 SKU
//!   4  4 the alias that is shown, ffffffff: its own name
//!   8  4 scale · bytes of the title · aliases · 0
//!  12 64 title
//!  76 32 aliases
//! 108  8 reorder point, −1: none
//! ```
//!
//! The item is what is so; `aliases.rs` says the same to readers, and is made anew from the items when a
//! snapshot is restored.

use bytes::BytesMut;

use crate::protocol::event::{Cause, EventBody, EventKind};
use crate::protocol::limits::{ALIASES_MAX, COUNTER_MAX, SCALE_MAX, TITLE_BYTES_MAX};
use crate::protocol::{
    Code, Described, Filter, LineFault, ListedSku, Listing, Naming, Op, OpId, ReservationId,
};

use super::cell_writer::CellWriter;
use super::cells::{CellTable, Missing};
use super::hash::{hash_bytes, mix2, to_32};
use super::index::Index;
use super::names::SkuId;
use super::outcomes::{Outcomes, body};
use super::reader::put_page;
use super::record::{put_words, u32_at, u64_at};
use super::ring::NIL;
use super::slab::{Entry, Slab};
use super::state::StockState;

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Item {
    pub sku: u32,
    pub shown: u32,
    pub scale: u8,
    title_len: u8,
    alias_count: u8,
    title: [u8; TITLE_BYTES_MAX],
    aliases: [u32; ALIASES_MAX],
    point: i64,
}

impl Item {
    fn new(sku: u32) -> Self {
        Self {
            sku,
            shown: NIL,
            scale: 0,
            title_len: 0,
            alias_count: 0,
            title: [0; TITLE_BYTES_MAX],
            aliases: [NIL; ALIASES_MAX],
            point: NO_POINT,
        }
    }

    /// Its reorder point, if it has one.
    fn point(&self) -> Option<i64> {
        Some(self.point).filter(|point| *point != NO_POINT)
    }

    fn title(&self) -> &[u8] {
        self.title.get(..usize::from(self.title_len)).unwrap_or_default()
    }

    /// Its aliases, in the order in which it got them.
    pub fn aliases(&self) -> &[u32] {
        self.aliases.get(..usize::from(self.alias_count)).unwrap_or_default()
    }
}

impl Entry for Item {
    const BYTES: usize = 12 + TITLE_BYTES_MAX + 4 * ALIASES_MAX + 8;

    fn free(next: u32) -> Self {
        Self { shown: next, ..Self::new(NIL) }
    }

    fn free_next(&self) -> Option<u32> {
        (self.sku == NIL).then_some(self.shown)
    }

    fn put(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.sku.to_le_bytes());
        out.extend_from_slice(&self.shown.to_le_bytes());
        out.extend_from_slice(&[self.scale, self.title_len, self.alias_count, 0]);
        out.extend_from_slice(&self.title);
        let mut aliases = [0; 4 * ALIASES_MAX];
        put_words(&mut aliases, self.aliases);
        out.extend_from_slice(&aliases);
        out.extend_from_slice(&self.point.to_le_bytes());
    }

    fn take(bytes: &[u8]) -> Self {
        let mut title = [0; TITLE_BYTES_MAX];
        title.copy_from_slice(&bytes[12..12 + TITLE_BYTES_MAX]);
        let mut aliases = [NIL; ALIASES_MAX];
        for (at, alias) in aliases.iter_mut().enumerate() {
            *alias = u32_at(bytes, 12 + TITLE_BYTES_MAX + 4 * at);
        }
        Self {
            sku: u32_at(bytes, 0),
            shown: u32_at(bytes, 4),
            scale: bytes[8],
            // Bytes from a disk: if they are out of range, the audit says so.
            title_len: bytes[9],
            alias_count: bytes[10],
            title,
            aliases,
            point: u64_at(bytes, Self::BYTES - 8) as i64,
        }
    }
}

/// Most SKUs that one LIST_SKUS looks at: nothing is applied meanwhile, for about a millisecond.
const LIST_LOOK_SKUS: u32 = 4_096;
/// Names of nobody, which chains have made that failed then.
const LOST_NAMES_MAX: u64 = 65_536;

/// The point of a SKU that has none.
const NO_POINT: i64 = -1;

/// What to put back if a chain fails.
enum Undo {
    Alias(u32),
    Shown(SkuId, Option<u32>),
    Point(SkuId, Option<i64>),
}

/// All items, by SKU.
pub(super) struct Catalogue {
    pub items: Slab<Item>,
    index: Index,
    journal: Option<Vec<Undo>>,
    seed: u64,
}

impl Catalogue {
    /// Puts the index to the slab. The seed is this process's own.
    pub fn restore(items: Slab<Item>, seed: u64) -> Self {
        let mut index = Index::new();
        for (handle, item) in items.iter().filter(|(_, item)| item.sku != NIL) {
            index.insert(mix2(seed, u64::from(item.sku), 2), handle);
        }
        Self { items, index, journal: None, seed }
    }

    /// Says to the cells and their readers what the items say.
    pub fn publish(&self, cells: &mut CellWriter) {
        let table = cells.table().clone();
        // What is out of range, the audit says of a snapshot; here it must do no harm.
        let there = |item: &Item| item.sku < table.skus.count();
        for (_, item) in self.items.iter().filter(|(_, item)| there(item)) {
            let sku = SkuId(item.sku);
            let aliases = item.aliases().iter();
            let aliases = aliases.filter(|alias| **alias < table.aliases.names.count());
            aliases.for_each(|alias| table.aliases.set_sku(*alias, Some(sku)));
            table.aliases.set_shown(sku, Some(item.shown).filter(|shown| *shown != NIL));
            if item.point().is_some() {
                cells.set_point(sku, item.point());
            }
        }
        cells.take_crossed();
    }

    /// The item of a SKU that has one.
    pub fn find(&self, sku: SkuId) -> Option<u32> {
        let hash = mix2(self.seed, u64::from(sku.0), 2);
        self.index.find(hash, |item| self.items.get(item).sku == sku.0)
    }

    fn make(&mut self, sku: SkuId) -> u32 {
        self.find(sku).unwrap_or_else(|| {
            let item = self.items.insert(Item::new(sku.0));
            self.index.insert(mix2(self.seed, u64::from(sku.0), 2), item);
            item
        })
    }

    /// Gives a SKU a name that nobody has.
    fn add_alias(&mut self, table: &CellTable, sku: SkuId, name: &[u8]) -> u32 {
        let alias = table.aliases.names.add(name);
        let item = self.make(sku);
        let item = self.items.get_mut(item);
        item.aliases[usize::from(item.alias_count)] = alias;
        item.alias_count += 1;
        table.aliases.set_sku(alias, Some(sku));
        self.note(Undo::Alias(alias));
        alias
    }

    /// Shows a SKU under an alias, or under its own name.
    fn show(&mut self, table: &CellTable, sku: SkuId, alias: Option<u32>) {
        let before = table.aliases.shown(sku);
        if before == alias {
            return;
        }
        let item = self.make(sku);
        self.items.get_mut(item).shown = alias.unwrap_or(NIL);
        table.aliases.set_shown(sku, alias);
        self.note(Undo::Shown(sku, before));
    }

    fn note(&mut self, undo: Undo) {
        if let Some(journal) = &mut self.journal {
            journal.push(undo);
        }
    }

    /// Notes changes from now on, so that they can be undone.
    pub fn begin_journal(&mut self) {
        self.items.begin_journal();
        self.index.begin_journal();
        self.journal = Some(Vec::new());
    }

    /// Ends the journal: undoes what it has noted, or keeps it. Names that were made stay, as nobody's.
    pub fn end_journal(&mut self, cells: &mut CellWriter, undo: bool) {
        let table = cells.table().clone();
        self.items.end_journal(undo);
        self.index.end_journal(undo);
        let journal = self.journal.take().unwrap_or_default();
        for change in journal.into_iter().rev().filter(|_| undo) {
            match change {
                Undo::Alias(alias) => table.aliases.set_sku(alias, None),
                Undo::Shown(sku, before) => table.aliases.set_shown(sku, before),
                Undo::Point(sku, before) => cells.set_point(sku, before),
            }
        }
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.items.bytes() + self.index.bytes()
    }
}

impl StockState {
    /// DESCRIBE_SKU, NAME_SKU and SET_REORDER.
    pub(super) fn write_catalogue(
        &mut self,
        op: &Op<'_>,
        hash: u64,
        late: bool,
        out: &mut Outcomes<'_>,
    ) {
        let (op_id, sku, print) = match *op {
            Op::DescribeSku { op_id, scale, title, sku } => {
                let print = mix2(6, u64::from(scale), hash_bytes(6, title));
                (op_id, sku, mix2(6, print, hash_bytes(6, sku)))
            }
            Op::NameSku { op_id, naming, sku, name } => {
                let print = mix2(7, naming as u64, hash_bytes(7, name));
                (op_id, sku, mix2(7, print, hash_bytes(7, sku)))
            }
            Op::SetReorder { op_id, point, sku } => {
                let point = point.unwrap_or(NO_POINT) as u64;
                (op_id, sku, mix2(8, point, hash_bytes(8, sku)))
            }
            _ => return out.plain(Code::BAD_OP, 0),
        };
        let print = to_32(print);
        if let Err(code) = self.check_unseen(op_id, hash, print, late) {
            return out.plain(code, 0);
        }
        let Some(sku) = self.cells.table().sku(sku) else {
            return out.body(Missing::Sku.code(), 0, |out| LineFault { line: 0 }.encode(out));
        };
        match *op {
            Op::DescribeSku { scale, title, .. } => {
                let item = self.catalogue.make(sku);
                let item = self.catalogue.items.get_mut(item);
                item.title = [0; TITLE_BYTES_MAX];
                item.title[..title.len()].copy_from_slice(title);
                (item.scale, item.title_len) = (scale, title.len() as u8);
            }
            Op::NameSku { naming, name, .. } => {
                if let Err(code) = self.name_sku(sku, naming, name) {
                    return out.plain(code, 0);
                }
            }
            Op::SetReorder { point, .. } => {
                let item = self.catalogue.make(sku);
                let item = self.catalogue.items.get_mut(item);
                let before = item.point();
                item.point = point.unwrap_or(NO_POINT);
                self.catalogue.note(Undo::Point(sku, before));
                self.cells.set_point(sku, point);
            }
            _ => unreachable!("refused above"),
        }
        self.tell_of_sku(op, op_id, sku);
        self.remember_plain(op_id, hash, print);
        out.plain(Code::OK, 0);
    }

    fn tell_of_sku(&mut self, op: &Op<'_>, op_id: OpId, sku: SkuId) {
        let table = self.cells.table().clone();
        let sku = table.skus.name(sku.0).unwrap_or_default();
        let (kind, body) = match *op {
            Op::DescribeSku { scale, title, .. } => {
                (EventKind::SkuDescribed, EventBody::Described { sku, scale, title })
            }
            Op::NameSku { naming, name, .. } => {
                (EventKind::SkuNamed, EventBody::Named { sku, naming, name })
            }
            Op::SetReorder { point, .. } => {
                (EventKind::ReorderSet, EventBody::Reorder { sku, point })
            }
            _ => unreachable!("refused before"),
        };
        let cause = Cause::new(kind, ReservationId(op_id.0));
        self.cells.events.tell(&Cause { body, ..cause });
    }

    fn name_sku(&mut self, sku: SkuId, naming: Naming, name: &[u8]) -> Result<(), Code> {
        let Self { catalogue, cells, .. } = self;
        let table = cells.table().clone();
        let is_own = table.skus.name(sku.0) == Some(name);
        let alias = match table.sku(name) {
            Some(other) if other != sku => return Err(Code::CONFLICT),
            Some(_) => table.aliases.names.find(name).filter(|_| !is_own),
            None => {
                let item = catalogue.find(sku).map(|item| catalogue.items.get(item));
                let has_all = item.is_some_and(|item| item.aliases().len() == ALIASES_MAX);
                // Names that failed chains have made stay, and must not pile up.
                let names = &table.aliases.names;
                let names_max = u64::from(table.skus.count()) * ALIASES_MAX as u64 + LOST_NAMES_MAX;
                let is_full = u64::from(names.count()) >= names_max && names.find(name).is_none();
                if has_all || is_full {
                    return Err(Code::OVERFLOW);
                }
                Some(catalogue.add_alias(&table, sku, name))
            }
        };
        if naming == Naming::Rename {
            catalogue.show(&table, sku, alias);
        }
        Ok(())
    }

    /// Appends the outcome of READ_CATALOGUE.
    pub fn read_catalogue(&self, sku: &[u8], out: &mut BytesMut) {
        let table = self.cells.table();
        let Some(sku) = table.sku(sku) else {
            return body(out, Missing::Sku.code(), 0, |out| LineFault { line: 0 }.encode(out));
        };
        let item = self.catalogue.find(sku).map(|item| self.catalogue.items.get(item));
        let aliases = item.map_or(&[][..], |item| item.aliases());
        let shown = table.shown_name(sku);
        let others = aliases.iter().filter_map(|alias| table.aliases.names.name(*alias));
        let others = table.skus.name(sku.0).into_iter().chain(others);
        let names = shown.into_iter().chain(others.filter(|name| Some(*name) != shown)).collect();
        let (scale, title) = item.map_or((0, &[][..]), |item| (item.scale, item.title()));
        let (point, position) = (table.points.of(sku), table.sku_position(sku));
        let described = Described { scale, title, point, position, names };
        body(out, Code::OK, 0, |out| described.encode(out));
    }

    /// Appends the outcome of LIST_SKUS: one page. SKUs and items are only ever added at the end, so that
    /// whoever pages sees each once.
    pub fn list_skus(&self, listing: &Listing<'_>, out: &mut BytesMut) {
        let filter = listing.filter;
        let table = self.cells.table();
        let end = match filter {
            Filter::All => table.skus.count(),
            Filter::Low => self.catalogue.items.len(),
        };
        put_page(listing, end, LIST_LOOK_SKUS, out, |at, out| {
            let sku = match filter {
                Filter::All => at,
                Filter::Low => self.catalogue.items.get(at).sku,
            };
            let listed = self.listed_sku(listing, SkuId(sku));
            listed.map(|sku| sku.encode(out)).is_some()
        });
    }

    fn listed_sku(&self, listing: &Listing<'_>, sku: SkuId) -> Option<ListedSku<'_>> {
        let table = self.cells.table();
        let name = table.shown_name(sku)?;
        if !name.starts_with(listing.sku) {
            return None;
        }
        let (point, position) = (table.points.of(sku), table.sku_position(sku));
        let is_low = point.is_some_and(|point| position <= point);
        let item = self.catalogue.find(sku).map(|item| self.catalogue.items.get(item));
        let (scale, title) = item.map_or((0, &[][..]), |item| (item.scale, item.title()));
        let wanted = listing.filter == Filter::All || is_low;
        wanted.then_some(ListedSku { scale, title, point, position, name })
    }

    /// Every item is of one SKU, and each alias of one item; readers see the same.
    pub(super) fn audit_catalogue(&self) -> Result<(), &'static str> {
        let check = |holds: bool, rule| if holds { Ok(()) } else { Err(rule) };
        let table = self.cells.table();
        let mut owners = vec![None; table.aliases.names.count() as usize];
        for (handle, item) in self.catalogue.items.iter().filter(|(_, item)| item.sku != NIL) {
            let sku = SkuId(item.sku);
            check(item.sku < table.skus.count(), "a described SKU exists")?;
            check(self.catalogue.find(sku) == Some(handle), "a SKU is described once")?;
            check(item.scale <= SCALE_MAX, "a scale is within range")?;
            let rest = item.title.get(usize::from(item.title_len)..).ok_or("a title fits")?;
            let own = item.aliases.split_at_checked(usize::from(item.alias_count));
            let (own, none) = own.ok_or("the aliases of a SKU fit")?;
            let is_empty = none.iter().all(|alias| *alias == NIL);
            check(rest.iter().all(|byte| *byte == 0) && is_empty, "an item has one form")?;
            check(item.shown == NIL || own.contains(&item.shown), "a SKU is shown under its name")?;
            for alias in own {
                let owner = owners.get_mut(*alias as usize).ok_or("an alias has a name")?;
                check(owner.replace(sku).is_none(), "an alias is of one SKU")?;
                let name = table.aliases.names.name(*alias);
                let is_free = name.is_some_and(|name| table.skus.find(name).is_none());
                check(is_free, "no two SKUs share a name")?;
            }
            let shown = Some(item.shown).filter(|shown| *shown != NIL);
            check(table.aliases.shown(sku) == shown, "readers see what is shown")?;
            let in_range = (NO_POINT..=COUNTER_MAX).contains(&item.point);
            check(in_range && table.points.of(sku) == item.point(), "a SKU has one point")?;
        }
        for (alias, owner) in (0..).zip(owners) {
            check(table.aliases.sku(alias) == owner, "readers see whose an alias is")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::super::EngineConfig;
    use super::super::batch::BatchBuilder;
    use super::*;
    use crate::protocol::{OpId, Reader, ReservationId, Terms, take_outcome};
    use crate::world::UnixMicros;

    #[test]
    fn names_that_nobody_has_do_not_pile_up() {
        let mut state = StockState::new(EngineConfig::default());
        state.cells.define(b"w", b"s");
        let mut number = 0;
        let mut alias = |state: &mut StockState, name: &[u8]| {
            number += 1;
            let mut random = [0; 10];
            random[9] = number;
            let op_id = OpId(ReservationId::from_parts(0, random).0);
            let (mut entry, mut out) = (BytesMut::new(), BytesMut::new());
            let batch = BatchBuilder::begin(&mut entry);
            let naming = Naming::Alias;
            Op::NameSku { op_id, naming, sku: b"s", name }.encode(&mut entry, &Terms::default());
            batch.finish(&mut entry, UnixMicros(0), 1);
            state.apply(state.applied_index() + 1, &entry, Some(&mut out));
            take_outcome(&mut Reader::new(&out)).unwrap().code
        };
        // As chains do that fail.
        let names = LOST_NAMES_MAX as usize + ALIASES_MAX;
        for lost in 1..names {
            state.cells.table().aliases.names.add(format!("lost {lost}").as_bytes());
        }
        assert_eq!(alias(&mut state, b"the last"), Code::OK);
        assert_eq!(alias(&mut state, b"one more"), Code::OVERFLOW);
        assert_eq!(alias(&mut state, b"lost 7"), Code::OK, "it is there already");
        state.audit().unwrap();
    }
}
