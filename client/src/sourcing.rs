//! Reserving lines that several cells may meet.

use std::time::Duration;

use bytes::BytesMut;
use stockd_protocol::{
    CellRef, LineMode, Note, Op, OpError, OpFlags, ReservationId, Rules, Sourcing, Terms,
    UnixMillis, Wish, limits,
};

use crate::error::Invalid;
use crate::request::{check_cells, ttl_ms};
use crate::writes::{check_note, terms};

/// A cart each of whose lines may come from one of several cells, or from several of them. By default all
/// lines whole or none, each from the first of its cells that has it.
///
/// ```
/// use stockd_client::{CellRef, ReservationId, ReserveFrom, Sourcing};
///
/// let warehouses = ["BER", "HAM", "MUC"].map(|name| CellRef::name(name, "mug"));
/// let cart = ReserveFrom::new(ReservationId([1; 16]))
///     .line(3, warehouses)
///     .sourcing(Sourcing::FewestSplits)
///     .splits_max(2);
/// # let _ = cart;
/// ```
#[derive(Clone, Debug)]
pub struct ReserveFrom<'a> {
    id: ReservationId,
    ttl_ms: u32,
    rules: Rules<'a>,
    lines: Vec<Wanted<'a>>,
    terms: Terms<'a>,
}

#[derive(Clone, Debug)]
struct Wanted<'a> {
    quantity: u32,
    /// `None`: the whole, unless the mode takes less.
    least: Option<u32>,
    cells: Vec<CellRef<'a>>,
}

impl<'a> ReserveFrom<'a> {
    terms!();

    /// An empty cart; `id` is the idempotency key, see [`Client::new_id`](crate::Client::new_id).
    pub fn new(id: ReservationId) -> Self {
        let (rules, terms) = (Rules::default(), Terms::default());
        Self { id, ttl_ms: 0, rules, lines: Vec::new(), terms }
    }

    /// Adds `quantity` (at least 1) of any of up to 64 cells, in the order of preference.
    #[must_use]
    pub fn line(mut self, quantity: u32, cells: impl IntoIterator<Item = CellRef<'a>>) -> Self {
        let cells = cells.into_iter().collect();
        self.lines.push(Wanted { quantity, least: None, cells });
        self
    }

    /// Each line whole or not at all, instead of all or none; at least one. Does not go with
    /// [`up_to`](Self::up_to).
    #[must_use]
    pub const fn some_lines(mut self) -> Self {
        self.rules.mode = LineMode::Lines;
        self
    }

    /// Adds as much as there is of `quantity`, but no less than `least` (0: perhaps nothing). The other
    /// lines are then met as far as possible, too.
    #[must_use]
    pub fn up_to(
        mut self,
        quantity: u32,
        least: u32,
        cells: impl IntoIterator<Item = CellRef<'a>>,
    ) -> Self {
        let cells = cells.into_iter().collect();
        self.lines.push(Wanted { quantity, least: Some(least), cells });
        self
    }

    /// For whom: at most 32 bytes, an account, a device, or a hash of what tells one buyer from another. What
    /// it holds counts against the limits of owners. Empty: for nobody in particular.
    #[must_use]
    pub fn owner<N: AsRef<[u8]> + ?Sized>(mut self, owner: &'a N) -> Self {
        self.rules.owner = owner.as_ref();
        self
    }

    /// Which of the cells give. Without it, the first ones.
    #[must_use]
    pub const fn sourcing(mut self, sourcing: Sourcing) -> Self {
        self.rules.sourcing = sourcing;
        self
    }

    /// How often a line may be split over cells. Without it, it is not.
    #[must_use]
    pub const fn splits_max(mut self, splits: u8) -> Self {
        self.rules.splits_max = splits;
        self
    }

    /// How long to hold: 1 s to 4 h, in whole milliseconds. Without it, the server's default of ten
    /// minutes.
    #[must_use]
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl_ms = ttl_ms(ttl);
        self
    }

    /// Buys at once: the grant is confirmed and has no deadline.
    #[must_use]
    pub const fn commit(self) -> Self {
        self.flag(OpFlags::COMMIT)
    }

    /// The reservation's id.
    pub const fn id(&self) -> ReservationId {
        self.id
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), Invalid> {
        check_note(&self.terms)?;
        let rules = self.rules()?;
        if self.rules.owner.len() > limits::OWNER_BYTES_MAX {
            return Err(OpError::OwnerLength(self.rules.owner.len()).into());
        }
        let count = |count: usize| OpError::Count(count.min(usize::from(u16::MAX)) as u16);
        if self.lines.is_empty() || self.lines.len() > usize::from(limits::LINES_MAX) {
            return Err(count(self.lines.len()).into());
        }
        for line in &self.lines {
            if line.cells.is_empty() || line.cells.len() > usize::from(limits::WISH_CELLS_MAX) {
                return Err(count(line.cells.len()).into());
            }
            if line.quantity == 0 {
                return Err(OpError::ZeroQuantity.into());
            }
            if line.least.is_some_and(|least| least > line.quantity) {
                return Err(OpError::Range.into());
            }
        }
        check_cells(self.lines.iter().flat_map(|line| line.cells.iter().copied()))?;
        let wishes = self.lines.iter().map(|line| Wish {
            quantity: line.quantity,
            min_quantity: line.least.unwrap_or(0),
            cells: &line.cells,
        });
        let wishes: Vec<Wish<'_>> = wishes.collect();
        Op::encode_reserve_from(out, &self.terms, self.id, self.ttl_ms, rules, &wishes)?;
        Ok(())
    }

    /// One line that is [`up_to`](Self::up_to) makes all of them be.
    fn rules(&self) -> Result<Rules<'a>, Invalid> {
        let up_to = self.lines.iter().any(|line| line.least.is_some());
        match (self.rules.mode, up_to) {
            (_, false) => Ok(self.rules),
            (LineMode::Lines, true) => {
                Err(Invalid::Modifier { modifier: "some_lines", with: "up_to" })
            }
            (_, true) => Ok(Rules { mode: LineMode::UpTo, ..self.rules }),
        }
    }
}
