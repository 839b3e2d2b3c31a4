//! Other names of SKUs, readable without locks.
//!
//! ```text
//! name ──▶ alias ──▶ SKU                 found like a SKU's own name, after it
//! SKU ──▶ the alias that is shown        or none: its own name
//! ```
//!
//! A name is never removed. One that a failed chain left behind is nobody's, and may be given again.

use std::sync::atomic::{AtomicU32, Ordering};

use super::chunked::Chunked;
use super::names::{Names, SkuId};

/// A number plus one; 0: none.
#[derive(Default)]
struct Maybe(AtomicU32);

impl Maybe {
    fn load(&self) -> Option<u32> {
        self.0.load(Ordering::Acquire).checked_sub(1)
    }

    fn store(&self, number: Option<u32>) {
        // Release: whoever sees the number sees the name behind it.
        self.0.store(number.map_or(0, |number| number + 1), Ordering::Release);
    }
}

/// See the module. One writer.
pub(super) struct Aliases {
    pub names: Names,
    skus: Chunked<Maybe>,
    shown: Chunked<Maybe>,
}

impl Aliases {
    pub fn new(seed: u64) -> Self {
        Self { names: Names::new(seed), skus: Chunked::new(), shown: Chunked::new() }
    }

    /// The SKU that has this name beside its own.
    pub fn find(&self, name: &[u8]) -> Option<SkuId> {
        if self.names.count() == 0 {
            return None;
        }
        self.sku(self.names.find(name)?)
    }

    /// Whose an alias is.
    pub fn sku(&self, alias: u32) -> Option<SkuId> {
        self.skus.get(alias)?.load().map(SkuId)
    }

    /// The alias that is shown for a SKU.
    pub fn shown(&self, sku: SkuId) -> Option<u32> {
        self.shown.get(sku.0)?.load()
    }

    /// Says whose an alias is.
    pub fn set_sku(&self, alias: u32, sku: Option<SkuId>) {
        self.skus.make(alias).store(sku.map(|sku| sku.0));
    }

    /// Says which alias is shown for a SKU.
    pub fn set_shown(&self, sku: SkuId, alias: Option<u32>) {
        self.shown.make(sku.0).store(alias);
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.names.bytes() + self.skus.bytes() + self.shown.bytes()
    }
}
