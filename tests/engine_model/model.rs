//! The naive model: ordered maps and full scans. Before every operation, whatever is due expires.
//! It knows nothing of groups, slabs, sweeps or indexes.

use std::collections::BTreeMap;

use stockd::engine::EngineConfig;
use stockd::protocol::{Code, ReservationState};

/// A cell in a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ref {
    Handle(u32),
    Name(String, String),
}

/// One operation, as the test makes it up.
#[derive(Clone, Debug)]
pub enum Command {
    Define { cell: Ref },
    Receive { id: [u8; 16], quantity: u32, cell: Ref, define: bool },
    Reserve { id: [u8; 16], ttl_ms: u32, lines: Vec<(Ref, u32)> },
    Confirm { id: [u8; 16] },
    Release { id: [u8; 16] },
    Extend { id: [u8; 16], ttl_ms: u32 },
    Expire { budget: u32 },
    LeaderStart,
    Tick,
}

/// What the engine should answer.
#[derive(PartialEq, Eq, Debug)]
pub struct Expected {
    pub code: Code,
    pub detail: u16,
    pub body: Body,
}

#[derive(PartialEq, Eq, Debug)]
pub enum Body {
    Exact(Vec<u8>),
    /// The available units may be fewer: due ones that nobody has met are still held.
    Received {
        cell: u32,
        on_hand: i64,
        available_max: i64,
    },
}

#[derive(Clone)]
pub enum Entry {
    Op { cell: u32, quantity: u32, forget: u64 },
    Hold(Hold),
}

#[derive(Clone)]
pub struct Hold {
    pub state: ReservationState,
    pub lines: Vec<(u32, u32)>,
    pub ttl_ms: u32,
    pub created: u64,
    pub deadline: u64,
    pub forget: u64,
}

#[derive(Clone)]
pub struct Model {
    config: EngineConfig,
    pub now_micros: u64,
    pub shift_ms: u64,
    pub names: Vec<(String, String)>,
    pub on_hand: Vec<i64>,
    pub entries: BTreeMap<[u8; 16], Entry>,
}

fn round_up(ms: u64) -> u64 {
    ms.div_ceil(64) * 64
}

pub fn millis(id: &[u8; 16]) -> u64 {
    id[..6].iter().fold(0, |ms, byte| ms << 8 | u64::from(*byte))
}

fn plain(code: Code, detail: u16) -> Expected {
    Expected { code, detail, body: Body::Exact(Vec::new()) }
}

fn le(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

impl Model {
    pub fn new(config: EngineConfig) -> Self {
        let (names, on_hand, entries) = (Vec::new(), Vec::new(), BTreeMap::new());
        Self { config, now_micros: 0, shift_ms: 0, names, on_hand, entries }
    }

    fn now_ms(&self) -> u64 {
        self.now_micros / 1_000
    }

    fn hold_micros(&self) -> u64 {
        self.now_micros - self.shift_ms * 1_000
    }

    fn grace(&self) -> u64 {
        round_up(self.config.grace_ms)
    }

    /// Moves time.
    pub fn advance(&mut self, now_micros: u64) {
        self.now_micros = self.now_micros.max(now_micros);
    }

    /// Gives back an outage.
    pub fn give_back(&mut self, outage_ms: u64) {
        self.shift_ms += outage_ms.min(60_000);
    }

    /// Expires what is due and forgets what is over long enough.
    fn settle(&mut self) {
        let (hold, grace) = (self.hold_micros() / 1_000, self.grace());
        let retention = self.config.retention_ms;
        self.entries.retain(|_, entry| match entry {
            Entry::Op { forget, .. } => hold < *forget,
            Entry::Hold(held) => {
                if held.state == ReservationState::Active && hold >= held.deadline + grace {
                    held.state = ReservationState::Expired;
                    held.forget = held.forget.max(held.deadline + grace + retention);
                }
                let stays =
                    matches!(held.state, ReservationState::Active | ReservationState::Confirmed);
                stays || hold < held.forget
            }
        });
    }

    fn units(&self, cell: u32, state: ReservationState) -> i64 {
        let holds = self.entries.values().filter_map(|entry| match entry {
            Entry::Hold(held) if held.state == state => Some(&held.lines),
            _ => None,
        });
        holds.flatten().filter(|line| line.0 == cell).map(|line| i64::from(line.1)).sum()
    }

    pub fn counters(&self, cell: u32) -> (i64, i64, i64) {
        let reserved = self.units(cell, ReservationState::Active);
        (self.on_hand[cell as usize], reserved, self.units(cell, ReservationState::Confirmed))
    }

    fn available(&self, cell: u32) -> i64 {
        let (on_hand, reserved, committed) = self.counters(cell);
        on_hand - reserved - committed
    }

    pub fn resolve(&self, cell: &Ref) -> Result<u32, Code> {
        match cell {
            Ref::Handle(handle) if (*handle as usize) < self.names.len() => Ok(*handle),
            Ref::Handle(_) => Err(Code::NOT_STOCKED),
            Ref::Name(warehouse, sku) => {
                if !self.names.iter().any(|names| names.0 == *warehouse) {
                    return Err(Code::UNKNOWN_WAREHOUSE);
                }
                if !self.names.iter().any(|names| names.1 == *sku) {
                    return Err(Code::UNKNOWN_SKU);
                }
                let is_it = |names: &(String, String)| names.0 == *warehouse && names.1 == *sku;
                self.names.iter().position(is_it).map(|at| at as u32).ok_or(Code::NOT_STOCKED)
            }
        }
    }

    fn define(&mut self, cell: &Ref) -> Result<u32, Code> {
        match (self.resolve(cell), cell) {
            (Err(_), Ref::Name(warehouse, sku)) => {
                self.names.push((warehouse.clone(), sku.clone()));
                self.on_hand.push(0);
                Ok(self.names.len() as u32 - 1)
            }
            (found, _) => found,
        }
    }

    fn check_new(&self, id: &[u8; 16]) -> Option<Code> {
        if millis(id) + self.config.retention_ms <= self.now_ms() {
            return Some(Code::ID_TOO_OLD);
        }
        (millis(id) > self.now_ms() + 300_000).then_some(Code::CLOCK_SKEW)
    }

    fn forget_at_least(&self, id: &[u8; 16]) -> u64 {
        millis(id).saturating_sub(self.shift_ms) + self.config.retention_ms
    }

    fn forget_from_now(&self, id: &[u8; 16]) -> u64 {
        (self.hold_micros() / 1_000 + self.config.retention_ms).max(self.forget_at_least(id))
    }

    /// Executes one operation.
    pub fn execute(&mut self, command: &Command, not_after: Option<u64>) -> Expected {
        self.settle();
        let late = not_after.is_some_and(|end| self.now_micros > end * 1_000);
        match command {
            Command::Define { cell } => match self.resolve(cell) {
                Err(_) if late => plain(Code::DEADLINE_PASSED, 0),
                _ => {
                    let handle = self.define(cell).unwrap();
                    let body = Body::Exact(handle.to_le_bytes().to_vec());
                    Expected { code: Code::OK, detail: 0, body }
                }
            },
            Command::Receive { id, quantity, cell, define } => {
                self.receive(*id, *quantity, cell, *define, late)
            }
            Command::Reserve { id, ttl_ms, lines } => self.reserve(*id, *ttl_ms, lines, late),
            Command::Confirm { id } | Command::Release { id } | Command::Extend { id, .. } => {
                match self.entries.get(id).cloned() {
                    Some(Entry::Op { .. }) if late => plain(Code::DEADLINE_PASSED, 0),
                    Some(Entry::Op { .. }) => match command {
                        Command::Extend { ttl_ms, .. } if bad_ttl(*ttl_ms) => {
                            plain(Code::TTL_RANGE, 0)
                        }
                        _ => plain(Code::ID_REUSED, 0),
                    },
                    Some(Entry::Hold(held)) => self.change(*id, held, command, late),
                    None => self.change_unknown(*id, command, late),
                }
            }
            Command::Expire { .. } | Command::LeaderStart | Command::Tick => plain(Code::OK, 0),
        }
    }

    fn receive(
        &mut self,
        id: [u8; 16],
        quantity: u32,
        cell: &Ref,
        define: bool,
        late: bool,
    ) -> Expected {
        let body = |model: &Self, code, cell: u32| {
            let (on_hand, available_max) = (model.on_hand[cell as usize], model.available(cell));
            Expected { code, detail: 0, body: Body::Received { cell, on_hand, available_max } }
        };
        if let Some(entry) = self.entries.get(&id) {
            let found = self.resolve(cell).ok();
            return match entry {
                Entry::Op { cell, quantity: same, .. }
                    if Some(*cell) == found && *same == quantity =>
                {
                    body(self, Code::REPLAY, *cell)
                }
                _ => plain(Code::ID_REUSED, 0),
            };
        }
        if late {
            return plain(Code::DEADLINE_PASSED, 0);
        }
        if let Some(code) = self.check_new(&id) {
            return plain(code, 0);
        }
        let found = if define { self.define(cell) } else { self.resolve(cell) };
        let cell = match found {
            Ok(cell) => cell,
            Err(code) => return Expected { code, detail: 0, body: Body::Exact(vec![0, 0]) },
        };
        self.on_hand[cell as usize] += i64::from(quantity);
        let forget = self.forget_from_now(&id);
        self.entries.insert(id, Entry::Op { cell, quantity, forget });
        body(self, Code::OK, cell)
    }

    fn reserve(&mut self, id: [u8; 16], ttl_ms: u32, lines: &[(Ref, u32)], late: bool) -> Expected {
        let resolved: Vec<_> = lines.iter().map(|line| self.resolve(&line.0)).collect();
        let held: Option<Vec<(u32, u32)>> = resolved
            .iter()
            .zip(lines)
            .map(|(cell, line)| Some((cell.as_ref().ok().copied()?, line.1)))
            .collect();
        let named = matches!(lines[0].0, Ref::Name(..));
        let grant = |code, state: ReservationState, deadline: u64, held: &[(u32, u32)]| {
            let mut body = le(&[deadline + self.shift_ms]);
            if named {
                body.extend(held.iter().flat_map(|line| line.0.to_le_bytes()));
            }
            Expected { code, detail: state as u16, body: Body::Exact(body) }
        };
        match self.entries.get(&id) {
            Some(Entry::Op { .. }) => return plain(Code::ID_REUSED, 0),
            Some(Entry::Hold(known)) if known.state == ReservationState::Fenced => {
                return plain(Code::HOLD_RELEASED, known.state as u16);
            }
            Some(Entry::Hold(known)) => {
                if held.as_ref() != Some(&known.lines) || known.ttl_ms != ttl_ms {
                    return plain(Code::ID_REUSED, known.state as u16);
                }
                return grant(Code::REPLAY, known.state, known.deadline, &known.lines);
            }
            None => {}
        }
        if late {
            return plain(Code::DEADLINE_PASSED, 0);
        }
        if let Some(code) = self.check_new(&id) {
            return plain(code, 0);
        }
        if bad_ttl(ttl_ms) {
            return plain(Code::TTL_RANGE, 0);
        }
        let Some(held) = held else {
            let first = resolved.iter().position(Result::is_err).unwrap();
            let fault = |at: &usize| resolved[*at] == resolved[first];
            let lines = (0..lines.len()).filter(fault);
            let body = lines.flat_map(|at| (at as u16).to_le_bytes()).collect();
            let code = *resolved[first].as_ref().unwrap_err();
            return Expected { code, detail: first as u16, body: Body::Exact(body) };
        };
        let mut shorts = Vec::new();
        for (at, line) in held.iter().enumerate() {
            if held[..at].iter().any(|before| before.0 == line.0) {
                continue;
            }
            let same = held.iter().filter(|other| other.0 == line.0);
            let asked: u64 = same.map(|other| u64::from(other.1)).sum();
            let available = self.available(line.0);
            if available < asked as i64 {
                shorts.extend((at as u32).to_le_bytes());
                shorts.extend(line.0.to_le_bytes());
                shorts.extend(le(&[asked, available as u64]));
            }
        }
        if !shorts.is_empty() {
            return Expected { code: Code::NO_STOCK, detail: 0, body: Body::Exact(shorts) };
        }
        let deadline = round_up(self.hold_micros().div_ceil(1_000) + ttl(ttl_ms));
        let answer = grant(Code::OK, ReservationState::Active, deadline, &held);
        let hold = Hold {
            state: ReservationState::Active,
            lines: held,
            ttl_ms,
            created: self.now_ms(),
            deadline,
            forget: self.forget_at_least(&id),
        };
        self.entries.insert(id, Entry::Hold(hold));
        answer
    }

    fn change_unknown(&mut self, id: [u8; 16], command: &Command, late: bool) -> Expected {
        let too_old = self.check_new(&id) == Some(Code::ID_TOO_OLD);
        let code = match command {
            _ if late => Code::DEADLINE_PASSED,
            _ if too_old => Code::ID_TOO_OLD,
            Command::Extend { ttl_ms, .. } if bad_ttl(*ttl_ms) => Code::TTL_RANGE,
            Command::Release { .. } => match self.check_new(&id) {
                Some(code) => code,
                None => {
                    let state = ReservationState::Fenced;
                    let (created, forget) = (self.now_ms(), self.forget_from_now(&id));
                    let lines = Vec::new();
                    let fence = Hold { state, lines, ttl_ms: 0, created, deadline: 0, forget };
                    self.entries.insert(id, Entry::Hold(fence));
                    return plain(Code::OK, state as u16);
                }
            },
            _ => Code::NOT_FOUND,
        };
        plain(code, 0)
    }

    fn change(&mut self, id: [u8; 16], mut held: Hold, command: &Command, late: bool) -> Expected {
        use ReservationState::{Active, Confirmed, Expired, Fenced, Released};
        let detail = held.state as u16;
        let hold_ms = self.hold_micros() / 1_000;
        let answer = match (command, held.state) {
            (Command::Extend { ttl_ms, .. }, _) if !late && bad_ttl(*ttl_ms) => {
                return plain(Code::TTL_RANGE, 0);
            }
            (Command::Confirm { .. }, Confirmed) => plain(Code::REPLAY, detail),
            (Command::Release { .. }, Released | Fenced) => plain(Code::REPLAY, detail),
            _ if late => plain(Code::DEADLINE_PASSED, detail),
            (Command::Release { .. }, Expired) => plain(Code::OK, detail),
            (_, Expired) => plain(Code::HOLD_EXPIRED, detail),
            (_, Released | Fenced) => plain(Code::HOLD_RELEASED, detail),
            (_, Confirmed) => plain(Code::HOLD_CONFIRMED, detail),
            (Command::Confirm { .. }, Active) => {
                held.state = Confirmed;
                let in_grace = hold_ms >= held.deadline;
                plain(if in_grace { Code::OK_LATE } else { Code::OK }, Confirmed as u16)
            }
            (Command::Release { .. }, Active) => {
                held.state = Released;
                held.forget = held.forget.max(hold_ms + self.config.retention_ms);
                plain(Code::OK, Released as u16)
            }
            (Command::Extend { ttl_ms, .. }, Active) => {
                let wanted = round_up(self.hold_micros().div_ceil(1_000) + ttl(*ttl_ms));
                let life_end = held.created + self.config.max_life_ms;
                let life_end = round_up(life_end.saturating_sub(self.shift_ms));
                let deadline = held.deadline.max(wanted.min(life_end));
                if wanted > life_end && deadline == held.deadline {
                    return plain(Code::MAX_LIFE, detail);
                }
                held.deadline = deadline;
                let body = Body::Exact(le(&[deadline + self.shift_ms]));
                Expected { code: Code::OK, detail, body }
            }
            _ => unreachable!("only changes of reservations come here"),
        };
        self.entries.insert(id, Entry::Hold(held));
        answer
    }
}

fn ttl(ttl_ms: u32) -> u64 {
    if ttl_ms == 0 { 600_000 } else { u64::from(ttl_ms) }
}

fn bad_ttl(ttl_ms: u32) -> bool {
    ttl_ms != 0 && !(1_000..=14_400_000).contains(&ttl_ms)
}
