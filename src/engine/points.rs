//! The reorder points of SKUs, for readers and for the writer of cells.

use std::sync::atomic::{AtomicI64, Ordering};

use super::chunked::Chunked;
use super::names::SkuId;

/// By SKU: the point plus one; 0: none. Relaxed: a number that stands for itself.
pub(super) struct Points(Chunked<AtomicI64>);

impl Points {
    pub fn new() -> Self {
        Self(Chunked::new())
    }

    /// The point of a SKU that has one.
    pub fn of(&self, sku: SkuId) -> Option<i64> {
        let point = self.0.get(sku.0)?.load(Ordering::Relaxed) - 1;
        (point >= 0).then_some(point)
    }

    /// Changes it.
    pub fn set(&self, sku: SkuId, point: Option<i64>) {
        self.0.make(sku.0).store(point.map_or(0, |point| point + 1), Ordering::Relaxed);
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        self.0.bytes()
    }
}
