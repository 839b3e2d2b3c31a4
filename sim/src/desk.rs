//! What warehouses and order desks do beside selling: they count, move, ship and write off; they split
//! orders, change them and take them back. It all goes on in some of the cells, so that others stay
//! simple enough to be explained without the log.

use stockd_check::{Cell, Request, Sent, Verdict};
use stockd_protocol::{
    Bucket, Guard, Line, LineMode, Naming, Note, Op, OpFlags, OpId, Opcode, OwnerLimits, Part,
    Parts, PolicyChange, ReservationId, Rules, Sourcing, Terms, Wish,
};

use crate::shop::App;

/// What desks have begun and not ended yet, for anybody to go on with.
#[derive(Clone, Default)]
pub struct Ledger {
    counts: Vec<OpId>,
    pub transfers: Vec<OpId>,
    orders: Vec<ReservationId>,
    /// All that was sent under an id of its own.
    sent: Vec<Request>,
}

impl Ledger {
    /// Something was sent.
    pub fn note(&mut self, request: &Request) {
        if request.once().is_some() {
            self.sent.push(request.clone());
        }
    }
}

impl App {
    /// A write of stock.
    pub(super) async fn manage(&self) {
        let request = Request::Other(self.stock_write());
        for _ in 0..3 {
            let verdict = self.call(request.clone()).await;
            if verdict != Verdict::Unknown && !self.dice.chance(8) {
                break;
            }
            self.think().await;
        }
    }

    /// Somebody comes back to what was long ago: a retry, or a look at an order.
    pub(super) async fn come_back(&self) {
        let old = self.ledger(|ledger| {
            let early = ledger.sent.len() / 2;
            (early > 0)
                .then(|| ledger.sent[self.dice.between(0, early as u64 - 1) as usize].clone())
        });
        let Some(request) = old else { return };
        match (&request, self.dice.chance(30)) {
            (Request::Reserve { id, .. }, true) => {
                let stale = self.dice.chance(30);
                self.call(Request::ReadReservation { id: *id, stale }).await;
            }
            _ => drop(self.call_again(request).await),
        }
    }

    fn managed_name(&self) -> (String, String) {
        self.dice.pick(self.shop.managed()).clone()
    }

    fn managed_cell(&self) -> Cell {
        let (warehouse, sku) = self.managed_name();
        Cell::name(warehouse, sku)
    }

    fn bucket(&self) -> Bucket {
        *self.dice.pick(&Bucket::ALL)
    }

    pub(super) fn ledger<T>(&self, look: impl FnOnce(&mut Ledger) -> T) -> T {
        look(&mut self.shop.ledger.lock().expect("nobody panics while looking"))
    }

    pub(super) fn some_of(&self, look: impl FnOnce(&Ledger) -> &[OpId]) -> OpId {
        let known = self.ledger(|ledger| {
            let some = look(ledger);
            (!some.is_empty()).then(|| *self.dice.pick(some))
        });
        known.unwrap_or_else(|| self.client.new_op_id())
    }

    fn stock_write(&self) -> Sent {
        let op_id = self.client.new_op_id();
        let mut cell = self.managed_cell();
        let units = self.dice.between(1, 9);
        let quantity = units as u32;
        let kind = self.dice.between(0, 17);
        let to = self.managed_name();
        let to = match &cell {
            // A transfer is between warehouses of one SKU, nearly always.
            Cell::Name(_, sku) if !self.dice.chance(10) => Cell::name(to.0, sku),
            _ => Cell::name(to.0, to.1),
        };
        if kind < 11 {
            self.by_handle(&mut [&mut cell]);
        }
        let named = matches!(cell, Cell::Name(..));
        let at = cell.as_ref();
        let less = self.dice.chance(40);
        let delta = if less { -(units as i64) } else { units as i64 };
        let op = match kind {
            0 | 1 => Op::Adjust { op_id, delta, cell: at },
            2 => {
                let expected = self.dice.between(0, 12) as i64;
                let on_hand = 10 + units as i64;
                Op::Set { op_id, on_hand, guard: Guard::Expected(expected), cell: at }
            }
            3 => {
                // Feeds number their messages; some come late.
                let sequence = self.options.ids.unix_millis() - self.dice.between(0, 2_000);
                let on_hand = 5 + units as i64;
                Op::Set { op_id, on_hand, guard: Guard::Feed(sequence.max(1)), cell: at }
            }
            4 => {
                self.ledger(|ledger| ledger.counts.push(op_id));
                Op::CountBegin { op_id, cell: at }
            }
            5 => {
                let token = self.some_of(|ledger| &ledger.counts);
                Op::CountCommit { op_id, token, counted: 10 + units as i64 }
            }
            6 => {
                let (from, to) = match self.dice.chance(50) {
                    true => (Bucket::Sellable, Bucket::Damaged),
                    false => (self.bucket(), Bucket::Sellable),
                };
                let to = if from == to { Bucket::Other } else { to };
                Op::Move { op_id, from, to, quantity: 1, cell: at }
            }
            7 => Op::Announce { op_id, delta, cell: at },
            8 => Op::Arrive { op_id, quantity, bucket: self.bucket(), cell: at },
            9 => Op::Return { op_id, quantity, bucket: self.bucket(), cell: at },
            10 => Op::SetPolicy { op_id, change: self.policy(), cell: at },
            11 | 16 => {
                self.ledger(|ledger| ledger.transfers.push(op_id));
                Op::TransferShip { op_id, quantity, from: at, to: to.as_ref() }
            }
            17 if named => {
                let Cell::Name(_, sku) = &cell else { unreachable!("it is named") };
                match self.dice.chance(50) {
                    true if less => Op::SetReorder { op_id, point: Some(units as i64 * 4), sku },
                    true => Op::DescribeSku { op_id, scale: 2, title: b"a thing", sku },
                    false => Op::NameSku {
                        op_id,
                        naming: if less { Naming::Alias } else { Naming::Rename },
                        sku,
                        name: self.dice.pick(&["ding", "thing", "chose"]).as_bytes(),
                    },
                }
            }
            12 | 17 => Op::SetOwnerLimits { op_id, limits: self.limits() },
            13 | 14 => {
                let transfer = self.some_of(|ledger| &ledger.transfers);
                let damaged = u32::from(self.dice.chance(20));
                Op::TransferReceive { op_id, transfer, good: quantity, damaged }
            }
            _ => {
                let transfer = self.some_of(|ledger| &ledger.transfers);
                match self.dice.chance(50) {
                    true => Op::TransferClose { transfer },
                    false => Op::TransferCancel { transfer },
                }
            }
        };
        // As the library sends it: a cell that is named is made.
        let define = if named && op.written_cell().is_some() { OpFlags::DEFINE } else { NONE };
        let may_be_true =
            matches!(op, Op::Adjust { .. } | Op::Move { .. } | Op::TransferShip { .. });
        let truth = if may_be_true && self.dice.chance(20) { OpFlags::TRUTH } else { NONE };
        let terms = Terms { flags: define.with(truth), ..self.noted() };
        Sent::new(&op, &terms).expect("a desk makes no invalid requests")
    }

    fn noted(&self) -> Terms<'static> {
        let note = Note { reason: 4, reference: b"delivery 17" };
        Terms { note: self.dice.chance(30).then_some(note), ..Terms::default() }
    }

    fn policy(&self) -> PolicyChange {
        let rare = self.dice.chance(20);
        let mut change = PolicyChange { frozen: Some(false), ..PolicyChange::default() };
        match self.dice.between(0, 7) {
            7 => change.reorder_point = Some(rare.then_some(6)),
            0 => change.frozen = Some(rare),
            1 => change.no_hold = Some(rare),
            2 => change.preorder = Some(rare),
            3 => change.oversell_limit = Some(if rare { 4 } else { 0 }),
            6 => change.owner_max = Some(if rare { 5 } else { 0 }),
            4 => change.buffer = Some(self.dice.between(0, 3) as i64),
            _ => change.untracked = Some(self.dice.chance(5)),
        }
        change
    }

    /// Most limits are given up soon, or nothing would be granted any more.
    fn limits(&self) -> OwnerLimits {
        match self.dice.chance(40) {
            true => OwnerLimits {
                holds_max: self.dice.between(1, 4) as u32,
                units_max: self.dice.between(4, 30) as u32,
                cool_down_ms: self.dice.between(0, 2_000) as u32,
            },
            false => OwnerLimits::default(),
        }
    }

    /// For whom somebody reserves, if it is somebody in particular.
    fn owner(&self) -> &'static [u8] {
        match self.dice.between(0, 4) {
            at @ 0..=2 => OWNERS[at as usize],
            _ => b"",
        }
    }

    /// An order that does not go the straight way.
    pub(super) async fn order(&self) {
        let id = self.client.new_id();
        let reserve = self.cart(id);
        self.ledger(|ledger| ledger.orders.push(id));
        let mut verdict = self.call(reserve.clone()).await;
        if verdict == Verdict::Unknown {
            self.think().await;
            verdict = self.call_again(reserve).await;
        }
        if !verdict.answer().is_some_and(|answer| answer.code.is_ok()) {
            return;
        }
        for _ in 0..self.dice.between(1, 6) {
            self.think().await;
            let id = if self.dice.chance(15) { self.some_order().unwrap_or(id) } else { id };
            let request = self.step(id);
            let verdict = self.call(request.clone()).await;
            if verdict == Verdict::Unknown || self.dice.chance(10) {
                self.think().await;
                self.call(request).await;
            }
        }
    }

    fn some_order(&self) -> Option<ReservationId> {
        self.ledger(|ledger| (!ledger.orders.is_empty()).then(|| *self.dice.pick(&ledger.orders)))
    }

    /// A cart in managed cells.
    fn lines(&self) -> Vec<(Cell, u32)> {
        let mut lines: Vec<(Cell, u32)> = (0..self.dice.between(1, 3))
            .map(|_| (self.managed_cell(), self.dice.between(1, 4) as u32))
            .collect();
        self.by_handle(&mut lines.iter_mut().map(|(cell, _)| cell).collect::<Vec<_>>());
        lines
    }

    fn cart(&self, id: ReservationId) -> Request {
        let (ttl_ms, lines) = (self.ttl_ms(), self.lines());
        if self.dice.chance(25) {
            return self.cart_from(id, ttl_ms);
        }
        if !self.dice.chance(20) {
            return Request::Reserve { id, ttl_ms, lines };
        }
        let mut bytes = bytes::BytesMut::new();
        let lines = borrowed(&lines);
        Op::encode_reserve(&mut bytes, OpFlags::COMMIT, None, id, ttl_ms, &lines);
        decoded(&bytes)
    }

    /// A cart that any warehouse may ship.
    fn cart_from(&self, id: ReservationId, ttl_ms: u32) -> Request {
        let mode = *self.dice.pick(&[LineMode::All, LineMode::Lines, LineMode::UpTo]);
        let sourcing =
            *self.dice.pick(&[Sourcing::First, Sourcing::MostStock, Sourcing::FewestSplits]);
        let lines: Vec<(u32, Vec<Cell>)> = (0..self.dice.between(1, 3))
            .map(|_| {
                let cells = (0..self.dice.between(1, 4)).map(|_| self.managed_cell());
                (self.dice.between(1, 6) as u32, cells.collect())
            })
            .collect();
        let refs: Vec<Vec<_>> =
            lines.iter().map(|line| line.1.iter().map(Cell::as_ref).collect()).collect();
        let min_quantity = u32::from(mode == LineMode::UpTo);
        let wishes = lines.iter().zip(&refs);
        let wishes: Vec<_> =
            wishes.map(|(line, cells)| Wish { quantity: line.0, min_quantity, cells }).collect();
        let rules = Rules {
            mode,
            sourcing,
            splits_max: self.dice.between(0, 3) as u8,
            owner: self.owner(),
        };
        let mut bytes = bytes::BytesMut::new();
        Op::encode_reserve_from(&mut bytes, &self.noted(), id, ttl_ms, rules, &wishes)
            .expect("a few lines of a few cells");
        decoded(&bytes)
    }

    /// What may become of an order next.
    fn step(&self, id: ReservationId) -> Request {
        let step = self.dice.between(1, 3) as u32;
        let mut bytes = bytes::BytesMut::new();
        match self.dice.between(0, 10) {
            10 => {
                let pin = Op::Pin { id, ttl_ms: self.ttl_ms() };
                pin.encode(&mut bytes, &Terms::default());
            }
            0 => return Request::Confirm { id },
            1 => return Request::Release { id },
            2 => return Request::Extend { id, ttl_ms: self.ttl_ms() },
            3 => {
                let lines = self.lines();
                Op::encode_amend(&mut bytes, &self.noted(), id, step, &borrowed(&lines));
            }
            kind => {
                let (opcode, flags) = match kind {
                    4 => (Opcode::Confirm, OpFlags::REACQUIRE),
                    5 => (Opcode::Confirm, NONE),
                    6 => (Opcode::Release, NONE),
                    7 => (Opcode::Cancel, NONE),
                    8 => (Opcode::Fulfil, OpFlags::SHIP),
                    _ => (Opcode::Fulfil, NONE),
                };
                let terms = Terms { flags, ..self.noted() };
                if self.dice.chance(40) {
                    let parts = Parts::WHOLE;
                    let op = match opcode {
                        Opcode::Confirm => Op::Confirm { id, parts },
                        Opcode::Release => Op::Release { id, parts },
                        Opcode::Cancel => Op::Cancel { id, parts },
                        _ => Op::Fulfil { id, parts },
                    };
                    op.encode(&mut bytes, &terms);
                } else {
                    let line = self.dice.between(0, 1) as u16;
                    let quantity = self.dice.between(1, 2) as u32;
                    let parts = [Part { line, quantity }];
                    Op::encode_parts(&mut bytes, opcode, &terms, id, step, &parts);
                }
            }
        }
        decoded(&bytes)
    }

    /// Writes that are all done, or none: the requests in the order of the batch.
    pub(super) fn linked(&self) -> Vec<Request> {
        let count = self.dice.between(2, 4);
        let mut requests: Vec<Request> = (0..count)
            .map(|_| match (self.dice.between(0, 2), self.some_order()) {
                (0, Some(id)) => self.step(id),
                (1, _) => {
                    let id = self.client.new_id();
                    self.ledger(|ledger| ledger.orders.push(id));
                    self.cart(id)
                }
                _ => Request::Other(self.stock_write()),
            })
            .collect();
        let last = requests.len() - 1;
        for request in &mut requests[..last] {
            *request = request.linked();
        }
        requests
    }
}

const NONE: OpFlags = OpFlags(0);

/// For whom somebody reserves.
pub const OWNERS: [&[u8]; 3] = [b"ann", b"bob", b"cyd"];

fn borrowed(lines: &[(Cell, u32)]) -> Vec<Line<'_>> {
    lines.iter().map(|(cell, quantity)| Line { cell: cell.as_ref(), quantity: *quantity }).collect()
}

/// What was just encoded.
fn decoded(bytes: &[u8]) -> Request {
    Request::decode(bytes).expect("a desk makes no invalid requests").0
}
