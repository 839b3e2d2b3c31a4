//! The catalogue in the model.

use stockd_protocol::limits::ALIASES_MAX;
use stockd_protocol::{Code, Described, Naming, Op};

use super::{Body, Entry, Expected, Id, Model, plain};

/// What a SKU is, and what else it is called.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Item {
    scale: u8,
    title: Vec<u8>,
    /// In the order in which it got them.
    aliases: Vec<Vec<u8>>,
    /// Another name than its own.
    shown: Option<Vec<u8>>,
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

    /// DESCRIBE_SKU and NAME_SKU.
    pub(super) fn write_catalogue(
        &mut self,
        id: Id,
        op: &Op<'_>,
        said: Vec<u8>,
        late: bool,
    ) -> Expected {
        if let Some(known) = self.entries.get(&id) {
            let same =
                matches!(known, Entry::Op { cell: u32::MAX, said: before, .. } if *before == said);
            return plain(if same { Code::REPLAY } else { Code::ID_REUSED }, 0);
        }
        if late {
            return plain(Code::DEADLINE_PASSED, 0);
        }
        if let Err(code) = self.check_new(&id) {
            return plain(code, 0);
        }
        let (Op::DescribeSku { sku, .. } | Op::NameSku { sku, .. }) = *op else {
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
        let mut body = bytes::BytesMut::new();
        Described { scale: item.scale, title: &item.title, names }.encode(&mut body);
        Expected { code: Code::OK, detail: 0, body: Body::Exact(body.to_vec()) }
    }
}

fn unknown() -> Expected {
    Expected { code: Code::UNKNOWN_SKU, detail: 0, body: Body::Exact(vec![0, 0]) }
}
