//! What to follow, and from where on.

use std::time::Duration;

use stockd_protocol::event::EventKind;
use stockd_protocol::limits::{SELECTORS_MAX, SKU_BYTES_MAX, WAREHOUSE_BYTES_MAX};
use stockd_protocol::{Selector, Start, Subscribe, SubscribeError};

use super::cursor::Cursor;
use super::error::Error;
use super::stream::EventStream;
use crate::options::Options;

/// Which events, and from where on. Without anything said, all events from now on.
///
/// ```
/// # use stockd_client::events::{EventKind, Subscription};
/// let low_in_berlin = Subscription::new("127.0.0.1:7400")
///     .from_sequence(1)
///     .kinds([EventKind::CrossedDown, EventKind::CrossedUp])
///     .warehouse("BER");
/// ```
#[derive(Clone)]
pub struct Subscription {
    pub(super) options: Options,
    pub(super) start: Start,
    pub(super) wish: Wish,
    /// `None`: that of the first node that is reached.
    pub(super) cluster_id: Option<u64>,
}

/// Which events.
#[derive(Clone, Default)]
pub(super) struct Wish {
    kinds: u64,
    selectors: Vec<Wanted>,
}

/// As [`Selector`], for longer.
#[derive(Clone)]
enum Wanted {
    Warehouse(Vec<u8>),
    Sku(Vec<u8>),
    Cell { warehouse: Vec<u8>, sku: Vec<u8> },
}

impl Subscription {
    /// All events from now on. `options` may be one address, several, or [`Options`]: of these, the addresses, the
    /// client's name and the timeouts count. Any node serves; they have their turns in the order given.
    pub fn new(options: impl Into<Options>) -> Self {
        let (start, wish) = (Start::Now, Wish::default());
        Self { options: options.into(), start, wish, cluster_id: None }
    }

    /// From `start` on.
    #[must_use]
    pub const fn from(mut self, start: Start) -> Self {
        self.start = start;
        self
    }

    /// From the event with this number on: the [`next`](super::Batch::next) of the last batch that was handled.
    #[must_use]
    pub const fn from_sequence(self, sequence: u64) -> Self {
        self.from(Start::Sequence(sequence))
    }

    /// From the oldest event on that the first node has. Others may have older ones.
    #[must_use]
    pub const fn oldest(self) -> Self {
        self.from(Start::Oldest)
    }

    /// From the next event on that happens.
    #[must_use]
    pub const fn now(self) -> Self {
        self.from(Start::Now)
    }

    /// From the first event on at this moment of the cluster's clock or after it, given since 1970.
    #[must_use]
    pub const fn since(self, since_1970: Duration) -> Self {
        self.from(Start::Time(since_1970.as_micros() as u64))
    }

    /// From where the cursor is, and only its cluster; from where was said before, if nothing is saved in it.
    #[must_use]
    pub const fn resume(mut self, cursor: &Cursor) -> Self {
        if let (Some(next), Some(cluster_id)) = (cursor.position(), cursor.cluster_id()) {
            self.start = Start::Sequence(next);
            self.cluster_id = Some(cluster_id);
        }
        self
    }

    /// Only nodes of this cluster, as [`EventStream::cluster_id`] gave it.
    #[must_use]
    pub const fn of_cluster(mut self, cluster_id: u64) -> Self {
        self.cluster_id = Some(cluster_id);
        self
    }

    /// Events of this kind; with no kind given, of all.
    #[must_use]
    pub const fn kind(mut self, kind: EventKind) -> Self {
        self.wish.kinds |= 1 << kind as u8;
        self
    }

    /// Events of these kinds.
    #[must_use]
    pub fn kinds(self, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        kinds.into_iter().fold(self, Self::kind)
    }

    /// Events of the cells of this warehouse. With several of these three, events that one of them names; with none,
    /// all, also those that are about no cell.
    #[must_use]
    pub fn warehouse(mut self, warehouse: impl Into<Vec<u8>>) -> Self {
        self.wish.selectors.push(Wanted::Warehouse(warehouse.into()));
        self
    }

    /// Events of this SKU, by its own name, and of its cells.
    #[must_use]
    pub fn sku(mut self, sku: impl Into<Vec<u8>>) -> Self {
        self.wish.selectors.push(Wanted::Sku(sku.into()));
        self
    }

    /// Events of this cell.
    #[must_use]
    pub fn cell(mut self, warehouse: impl Into<Vec<u8>>, sku: impl Into<Vec<u8>>) -> Self {
        let (warehouse, sku) = (warehouse.into(), sku.into());
        self.wish.selectors.push(Wanted::Cell { warehouse, sku });
        self
    }

    /// Begins: finds a node that sends, and says where the stream begins.
    ///
    /// # Errors
    /// Any of [`Error`]; [`Error::Unreachable`] after the request timeout.
    pub async fn open(self) -> Result<EventStream, Error> {
        self.wish.check().map_err(Error::Invalid)?;
        EventStream::open(self).await
    }
}

impl Wish {
    pub(super) const fn wants_all(&self) -> bool {
        self.kinds == 0 && self.selectors.is_empty()
    }

    pub(super) fn subscribe(&self, start: Start, credit: u32) -> Subscribe<'_> {
        let selectors = self.selectors.iter().map(Wanted::as_selector).collect();
        Subscribe { start, credit, kinds: self.kinds, selectors }
    }

    fn check(&self) -> Result<(), SubscribeError> {
        if self.selectors.len() > SELECTORS_MAX {
            let count = u8::try_from(self.selectors.len()).unwrap_or(u8::MAX);
            return Err(SubscribeError::Selectors(count));
        }
        let check = |name: &[u8], bytes_max: usize| match (1..=bytes_max).contains(&name.len()) {
            true => Ok(()),
            false => Err(SubscribeError::Name(name.len())),
        };
        self.selectors.iter().try_for_each(|wanted| match wanted {
            Wanted::Warehouse(warehouse) => check(warehouse, WAREHOUSE_BYTES_MAX),
            Wanted::Sku(sku) => check(sku, SKU_BYTES_MAX),
            Wanted::Cell { warehouse, sku } => {
                check(warehouse, WAREHOUSE_BYTES_MAX)?;
                check(sku, SKU_BYTES_MAX)
            }
        })
    }
}

impl Wanted {
    fn as_selector(&self) -> Selector<'_> {
        match self {
            Self::Warehouse(warehouse) => Selector::Warehouse(warehouse),
            Self::Sku(sku) => Selector::Sku(sku),
            Self::Cell { warehouse, sku } => Selector::Cell { warehouse, sku },
        }
    }
}
