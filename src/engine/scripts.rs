//! Runs the goldenscripts in `testscripts/`.
//!
//! ```text
//! # a comment
//! > command argument=value …       one operation, in a batch of its own
//! its outcome                      made by UPDATE_GOLDENFILES=1, then read by a person
//! ```
//!
//! Time starts at 1,700,000,000,000 ms and moves with `> at` and `> wait`. Ids are small numbers, each
//! with the milliseconds at which it is first named, or those given by `born=` (relative to the
//! start). Deadlines are shown relative to the start.
//!
//! ```text
//! at 1000            time is start + 1000 ms; `wait 64` moves it on
//! define w/s         receive ID w/s N [define]
//! adjust ID w/s ±N [truth]               set ID w/s N expected=N | feed=N
//! count ID w/s       counted ID TOKEN N  policy ID w/s [frozen= untracked= preorder= no_hold=
//!                                        oversell= buffer= reorder=N|none]
//! move ID w/s FROM TO N [truth]          announce ID w/s ±N
//! arrive ID w/s N [bucket=]              return ID w/s N [bucket=]
//! ship ID w/s w/s N [truth]              land ID TRANSFER GOOD DAMAGED
//! close TRANSFER     recall TRANSFER     transfer TRANSFER
//! reserve ID w/s=N … [ttl=] [by=handle] [commit]
//! from ID w/s|w/s=N[>LEAST] … [mode=lines|upto] [by=most|fewest] [splits=N] [for=OWNER] [ttl=] [commit]
//! describe ID SKU [title=] [scale=] · alias ID SKU NAME · rename ID SKU NAME · catalogue SKU
//! reorder ID SKU [point=N] · skus [low] [s=PREFIX] [from=] [count=] · crossings [from=] [count=]
//! limit-owners ID [holds=N] [units=N] [cool=MS] · owner NAME
//! confirm ID         release ID          cancel ID          fulfil ID [ship]
//!                    each: [LINE:N … step=N] [reacquire]
//! extend ID [ttl=]   pin ID [ttl=]       amend ID w/s=N … step=N
//! expire N           leader              tick
//! [ command ; command ; … ]              operations that are linked
//! cell w/s           reservation ID      sku s [after=]     stats
//! lines ID           details w/s         list [low] [w=PREFIX] [s=PREFIX] [from=N] [count=N]
//! short w/s=N … [commit]   what a session says without the log
//! events             what has changed since the last time
//! sample N           at the beginning: of one in so many refusals an event tells
//! any operation:     [not_after=ms]      relative to the start
//!                    [define]            with a stock write
//!                    [ref= reason=]      a note
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use bytes::{BufMut, BytesMut};

use crate::protocol::event::{self, Counts, Event, EventRecord, Ledger};
use crate::protocol::{
    Bucket, CellCounters, CellDetails, CellHandle, CellRef, Code, Crossing, CrossingsHead,
    Described, Filter, Guard, Line, LineMode, LineShares, ListHead, ListedCell, ListedSku, Listing,
    Naming, Note, Op, OpFlags, OpId, Opcode, Outcome, OwnerBound, OwnerLimits, OwnerUsage, Part,
    Parts, PolicyChange, Reader, ReservationId, ReservationState, Rules, ShardId, ShortLine,
    SkuTotal, Sourcing, TakenPart, Terms, Transfer, TransferState, UnixMillis, Wish, take_op,
    take_outcome,
};
use crate::world::UnixMicros;

use super::batch::{self, BatchBuilder};
use super::{EngineConfig, StockState};

const START_MS: u64 = 1_700_000_000_000;

struct Script {
    state: StockState,
    now_ms: u64,
    ids: BTreeMap<String, ReservationId>,
    /// What has changed, added up, and as text since it was last shown.
    ledger: Ledger,
    events: String,
}

/// A command's words: positional ones, and those with `=` that are options.
struct Words<'a> {
    plain: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn new(line: &'a str) -> Self {
        let (options, plain) = line.split_whitespace().partition::<Vec<_>, _>(|word| {
            word.split_once('=').is_some_and(|(key, _)| !key.contains('/'))
        });
        let options = options.into_iter().map(|word| word.split_once('=').unwrap());
        Self { plain, options: options.collect() }
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.options.get(key).map(|text| text.parse().unwrap())
    }

    fn flags(&self) -> OpFlags {
        let named = [
            ("define", OpFlags::DEFINE),
            ("truth", OpFlags::TRUTH),
            ("commit", OpFlags::COMMIT),
            ("ship", OpFlags::SHIP),
            ("reacquire", OpFlags::REACQUIRE),
        ];
        // The command itself may be called as a flag is.
        let has = |name: &&str| self.plain[1..].contains(name);
        let set = named.iter().filter(|(name, _)| has(name)).map(|(_, flag)| *flag);
        set.fold(OpFlags::default(), OpFlags::with)
    }

    /// The words `LINE:N`.
    fn parts(&self) -> Vec<Part> {
        let parts = self.plain.iter().filter_map(|word| word.split_once(':'));
        parts
            .map(|(line, quantity)| Part {
                line: line.parse().unwrap(),
                quantity: quantity.parse().unwrap(),
            })
            .collect()
    }

    fn policy(&self) -> PolicyChange {
        let flag = |key| self.options.get(key).map(|text| text.parse().unwrap());
        let number = |key| self.options.get(key).map(|text| text.parse().unwrap());
        PolicyChange {
            frozen: flag("frozen"),
            untracked: flag("untracked"),
            preorder: flag("preorder"),
            no_hold: flag("no_hold"),
            oversell_limit: number("oversell"),
            buffer: number("buffer"),
            reorder_point: self.options.get("reorder").map(|text| text.parse().ok()),
            owner_max: self.number("each").map(|units| units as u32),
        }
    }
}

impl Script {
    fn new() -> Self {
        let mut state = StockState::new(EngineConfig::default());
        state.keep_events(ShardId::default());
        let mut ledger = Ledger::new();
        ledger.expect(1);
        Self { state, now_ms: START_MS, ids: BTreeMap::new(), ledger, events: String::new() }
    }

    fn id(&mut self, words: &Words<'_>) -> ReservationId {
        let name = words.plain[1];
        if let Some(uuid) = words.options.get("uuid") {
            let id = uuid.parse().unwrap();
            return *self.ids.entry(name.to_owned()).or_insert(id);
        }
        if !words.options.contains_key("born") {
            return self.named_id(name);
        }
        let born = words.options.get("born").map(|born| born.parse::<i64>().unwrap());
        let born = born.map_or(self.now_ms, |born| START_MS.checked_add_signed(born).unwrap());
        let mut random = [0; 10];
        random[9] = name.parse().unwrap();
        let fresh = ReservationId::from_parts(born, random);
        *self.ids.entry(name.to_owned()).or_insert(fresh)
    }

    /// Operations that are linked, each outcome on a line of its own.
    fn run_linked(&mut self, commands: &str) -> String {
        let commands: Vec<_> = commands.split(" ; ").map(str::trim).collect();
        let mut ops = BytesMut::new();
        for (at, command) in commands.iter().enumerate() {
            let words = Words::new(command);
            let begin = ops.len();
            self.encode(words.plain[0], &words, &mut ops);
            if at + 1 < commands.len() {
                ops[begin + 1] |= OpFlags::LINKED.0;
            }
        }
        let out = self.apply_all(&ops, commands.len() as u32);
        self.state.audit().expect("every invariant holds after every step");
        let mut reader = Reader::new(&out);
        let shown: Vec<_> = commands
            .iter()
            .map(|command| {
                let before = reader.rest();
                take_outcome(&mut reader).unwrap();
                let one = &before[..before.len() - reader.rest().len()];
                self.show(command.split(' ').next().unwrap(), one)
            })
            .collect();
        shown.join("\n")
    }

    fn run(&mut self, line: &str) -> String {
        if let Some(commands) = line.strip_prefix("[ ").and_then(|line| line.strip_suffix(" ]")) {
            return self.run_linked(commands);
        }
        let words = Words::new(line);
        match words.plain[0] {
            "at" => self.now_ms = START_MS + words.plain[1].parse::<u64>().unwrap(),
            "wait" => self.now_ms += words.plain[1].parse::<u64>().unwrap(),
            "cell" => return self.cell(&words),
            "reservation" => {
                let id = self.id(&words);
                let mut out = BytesMut::new();
                self.state.read_reservation(id, &mut out);
                return self.show("reservation", &out);
            }
            "sku" => {
                let after = words.number("after").map(|after| CellHandle(after as u32));
                let mut out = BytesMut::new();
                self.state.read_sku(words.plain[1].as_bytes(), after, &mut out);
                return self.show("sku", &out);
            }
            "lines" => {
                let id = self.id(&words);
                let mut out = BytesMut::new();
                self.state.read_lines(id, &mut out);
                return self.show("lines", &out);
            }
            "transfer" => {
                let id = OpId(self.id(&words).0);
                let mut out = BytesMut::new();
                self.state.read_transfer(id, &mut out);
                return self.show("transfer", &out);
            }
            "owner" => {
                let mut out = BytesMut::new();
                self.state.read_owner(words.plain[1].as_bytes(), &mut out);
                return self.show("owner", &out);
            }
            "catalogue" => {
                let mut out = BytesMut::new();
                self.state.read_catalogue(words.plain[1].as_bytes(), &mut out);
                return self.show("catalogue", &out);
            }
            "skus" => return self.skus(&words),
            "crossings" => return self.crossings(&words),
            "details" => return self.details(&words),
            "list" => return self.list(&words),
            "stats" => return self.stats(),
            "short" => return self.short(&words),
            "sample" => {
                let sample_refusals = words.plain[1].parse().unwrap();
                let config = EngineConfig { sample_refusals, ..EngineConfig::default() };
                self.state = StockState::new(config);
                self.state.keep_events(ShardId::default());
            }
            "events" => return std::mem::take(&mut self.events).trim_end().to_owned(),
            command => {
                let mut ops = BytesMut::new();
                self.encode(command, &words, &mut ops);
                let out = self.apply(&ops);
                self.state.audit().expect("every invariant holds after every step");
                return self.show(command, &out);
            }
        }
        String::new()
    }

    fn apply(&mut self, ops: &[u8]) -> BytesMut {
        self.apply_all(ops, 1)
    }

    fn apply_all(&mut self, ops: &[u8], count: u32) -> BytesMut {
        let (mut entry, mut out) = (BytesMut::new(), BytesMut::new());
        let batch = BatchBuilder::begin(&mut entry);
        entry.put_slice(ops);
        batch.finish(&mut entry, UnixMicros(self.now_ms * 1_000), count);
        self.state.apply(self.state.applied_index() + 1, &entry, Some(&mut out));
        self.read_events();
        out
    }

    /// Adds up what the entry has changed: it must be what is in the cells.
    fn read_events(&mut self) {
        for mut record in self.state.take_events() {
            event::seal(&mut record);
            let record = EventRecord::take(&mut Reader::new(&record)).unwrap();
            for event in record.events() {
                let event = event.unwrap();
                self.ledger.take(&event).unwrap();
                writeln!(self.events, "{}", self.shown(&event)).unwrap();
            }
        }
        assert_eq!(self.ledger.next(), Some(self.state.next_event()));
        for (cell, counts) in self.ledger.known() {
            let details = self.state.cells().details(cell).unwrap();
            assert_eq!(Counts::from(&details), counts, "cell {cell:?}");
        }
    }

    /// With the numbers by which the script calls ids, and deadlines from the start on.
    fn shown(&self, event: &Event<'_>) -> String {
        let mut text = event.to_string();
        for (name, id) in &self.ids {
            text = text.replace(&format!("id={id}"), &format!("id={name}"));
        }
        if let Some(deadline) = event.deadline {
            let shown = format!("deadline={}", deadline.0 - START_MS);
            text = text.replace(&format!("deadline={}", deadline.0), &shown);
        }
        text
    }

    fn encode(&mut self, command: &str, words: &Words<'_>, out: &mut BytesMut) {
        let not_after = words.number("not_after").map(|ms| UnixMillis(START_MS + ms));
        let flags = words.flags();
        let note = words.options.get("ref").map(|reference| Note {
            reason: words.number("reason").unwrap_or(0) as u16,
            reference: reference.as_bytes(),
        });
        let terms = Terms { flags, not_after, note };
        let ttl_ms = words.number("ttl").unwrap_or(0) as u32;
        let step = words.number("step").unwrap_or(0) as u32;
        if let Some(write) = self.stock_write(command, words) {
            return write.encode(out, &terms);
        }
        match command {
            "define" => {
                let (warehouse, sku) = names(words.plain[1]);
                Op::encode_define(out, warehouse.as_bytes(), sku.as_bytes());
            }
            "reserve" => {
                let id = self.id(words);
                let lines = self.lines(&words.plain[2..], words.options.contains_key("by"));
                Op::encode_reserve(out, flags, not_after, id, ttl_ms, &lines);
            }
            "from" => {
                let id = self.id(words);
                let mode = match words.options.get("mode") {
                    None => LineMode::All,
                    Some(&"lines") => LineMode::Lines,
                    _ => LineMode::UpTo,
                };
                let sourcing = match words.options.get("by") {
                    None => Sourcing::First,
                    Some(&"most") => Sourcing::MostStock,
                    _ => Sourcing::FewestSplits,
                };
                let splits_max = words.number("splits").unwrap_or(0) as u8;
                let lines = words.plain[2..].iter().filter_map(|word| word.split_once('='));
                let lines: Vec<_> = lines
                    .map(|(cells, units)| {
                        let cells = cells.split('|').map(|cell| {
                            let (warehouse, sku) = names(cell);
                            CellRef::name(warehouse, sku)
                        });
                        let (units, least) = units.split_once('>').unwrap_or((units, "0"));
                        (cells.collect::<Vec<_>>(), units, least)
                    })
                    .collect();
                let wishes: Vec<_> = lines
                    .iter()
                    .map(|(cells, units, least)| Wish {
                        quantity: units.parse().unwrap(),
                        min_quantity: least.parse().unwrap(),
                        cells,
                    })
                    .collect();
                let owner = words.options.get("for").unwrap_or(&"").as_bytes();
                let rules = Rules { mode, sourcing, splits_max, owner };
                Op::encode_reserve_from(out, &terms, id, ttl_ms, rules, &wishes).unwrap();
            }
            "amend" => {
                let id = self.id(words);
                let lines = self.lines(&words.plain[2..], words.options.contains_key("by"));
                Op::encode_amend(out, &terms, id, step, &lines);
            }
            "confirm" | "release" | "cancel" | "fulfil" => {
                let (id, parts) = (self.id(words), words.parts());
                let opcode = match command {
                    "confirm" => Opcode::Confirm,
                    "release" => Opcode::Release,
                    "cancel" => Opcode::Cancel,
                    _ => Opcode::Fulfil,
                };
                let whole = Parts::WHOLE;
                match opcode {
                    _ if !parts.is_empty() => {
                        Op::encode_parts(out, opcode, &terms, id, step, &parts);
                    }
                    Opcode::Confirm => Op::Confirm { id, parts: whole }.encode(out, &terms),
                    Opcode::Release => Op::Release { id, parts: whole }.encode(out, &terms),
                    Opcode::Cancel => Op::Cancel { id, parts: whole }.encode(out, &terms),
                    _ => Op::Fulfil { id, parts: whole }.encode(out, &terms),
                }
            }
            "extend" => Op::Extend { id: self.id(words), ttl_ms }.encode(out, &terms),
            "pin" => Op::Pin { id: self.id(words), ttl_ms }.encode(out, &terms),
            "expire" => batch::encode_expire(out, words.plain[1].parse().unwrap()),
            "leader" => batch::encode_leader_start(out),
            "tick" => batch::encode_tick(out),
            // An opcode nobody knows, an operation that changes nothing, a body of another size.
            "unknown" => out.put_slice(&[0x7f, 0, 0, 0, 0, 0, 0, 0]),
            "ping" => Op::encode_ping(out),
            "stub" => out.put_slice(&[0x11, 0, 0, 0, 2, 0, 0, 0, 1, 2]),
            other => panic!("no such command: {other}"),
        }
    }

    /// A stock write, if the command is one.
    fn stock_write<'a>(&mut self, command: &str, words: &Words<'a>) -> Option<Op<'a>> {
        let known = [
            "receive",
            "adjust",
            "set",
            "count",
            "counted",
            "move",
            "announce",
            "arrive",
            "return",
            "ship",
            "land",
            "close",
            "recall",
            "policy",
            "limit-owners",
            "describe",
            "alias",
            "rename",
            "reorder",
        ];
        if !known.contains(&command) {
            return None;
        }
        let op_id = OpId(self.id(words).0);
        let at = |place: usize| cell(words.plain[place]);
        let number = |place: usize| words.plain[place].parse::<i64>().unwrap();
        let into = bucket(words.options.get("bucket").unwrap_or(&"sellable"));
        Some(match command {
            "receive" => Op::Receive { op_id, quantity: number(3) as u32, cell: at(2) },
            "adjust" => Op::Adjust { op_id, delta: number(3), cell: at(2) },
            "set" => {
                let feed = words.number("feed").map(Guard::Feed);
                let expected = || Guard::Expected(words.number("expected").unwrap() as i64);
                let guard = feed.unwrap_or_else(expected);
                Op::Set { op_id, on_hand: number(3), guard, cell: at(2) }
            }
            "count" => Op::CountBegin { op_id, cell: at(2) },
            "counted" => {
                let token = OpId(self.named_id(words.plain[2]).0);
                Op::CountCommit { op_id, token, counted: number(3) }
            }
            "move" => {
                let (from, to) = (bucket(words.plain[3]), bucket(words.plain[4]));
                Op::Move { op_id, from, to, quantity: number(5) as u32, cell: at(2) }
            }
            "announce" => Op::Announce { op_id, delta: number(3), cell: at(2) },
            "arrive" => Op::Arrive { op_id, quantity: number(3) as u32, bucket: into, cell: at(2) },
            "return" => Op::Return { op_id, quantity: number(3) as u32, bucket: into, cell: at(2) },
            "ship" => {
                let quantity = number(4) as u32;
                Op::TransferShip { op_id, quantity, from: at(2), to: at(3) }
            }
            "land" => {
                let transfer = OpId(self.named_id(words.plain[2]).0);
                let (good, damaged) = (number(3) as u32, number(4) as u32);
                Op::TransferReceive { op_id, transfer, good, damaged }
            }
            "close" => Op::TransferClose { transfer: op_id },
            "recall" => Op::TransferCancel { transfer: op_id },
            "describe" => {
                let title = words.options.get("title").copied().unwrap_or_default().as_bytes();
                let scale = words.number("scale").unwrap_or(0) as u8;
                Op::DescribeSku { op_id, scale, title, sku: words.plain[2].as_bytes() }
            }
            "reorder" => {
                let point = words.number("point").map(|point| point as i64);
                Op::SetReorder { op_id, point, sku: words.plain[2].as_bytes() }
            }
            "alias" | "rename" => {
                let naming = if command == "alias" { Naming::Alias } else { Naming::Rename };
                let (sku, name) = (words.plain[2].as_bytes(), words.plain[3].as_bytes());
                Op::NameSku { op_id, naming, sku, name }
            }
            "limit-owners" => {
                let limit = |key| words.number(key).unwrap_or(0) as u32;
                let (holds_max, units_max) = (limit("holds"), limit("units"));
                let limits = OwnerLimits { holds_max, units_max, cool_down_ms: limit("cool") };
                Op::SetOwnerLimits { op_id, limits }
            }
            _ => Op::SetPolicy { op_id, change: words.policy(), cell: at(2) },
        })
    }

    fn lines<'a>(&self, words: &[&'a str], by_handle: bool) -> Vec<Line<'a>> {
        let line = |word: &&'a str| {
            let (name, quantity) = word.split_once('=').unwrap();
            let (warehouse, sku) = names(name);
            let handle = || self.state.cells().handle(warehouse.as_bytes(), sku.as_bytes());
            let cell = match by_handle {
                true => CellRef::Handle(handle().unwrap_or(CellHandle(1_000_000))),
                false => cell(name),
            };
            Line { cell, quantity: quantity.parse().unwrap() }
        };
        words.iter().filter(|word| word.contains('=')).map(line).collect()
    }

    /// The id of that name, new or not.
    fn named_id(&mut self, name: &str) -> ReservationId {
        let mut random = [0; 10];
        random[9] = name.parse().unwrap();
        let fresh = ReservationId::from_parts(self.now_ms, random);
        *self.ids.entry(name.to_owned()).or_insert(fresh)
    }

    fn cell(&self, words: &Words<'_>) -> String {
        let (warehouse, sku) = names(words.plain[1]);
        let cells = self.state.cells();
        match cells.handle(warehouse.as_bytes(), sku.as_bytes()) {
            Some(cell) => counters(&cells.counters(cell).unwrap()),
            None => "not found".into(),
        }
    }

    fn short(&self, words: &Words<'_>) -> String {
        let (mut op, mut out) = (BytesMut::new(), BytesMut::new());
        let id = ReservationId([0; 16]);
        let lines = self.lines(&words.plain[1..], false);
        let commit = words.flags().contains(OpFlags::COMMIT);
        Op::encode_reserve(&mut op, OpFlags::default(), None, id, 0, &lines);
        let Ok((Op::Reserve { lines, .. }, ..)) = take_op(&mut Reader::new(&op)) else {
            unreachable!("a reserve was encoded");
        };
        let now = UnixMicros(self.now_ms * 1_000);
        match self.state.cells().refuse_if_short(&lines, commit, now, &mut out) {
            true => self.show("reserve", &out),
            false => "the log decides".into(),
        }
    }

    fn details(&self, words: &Words<'_>) -> String {
        let (warehouse, sku) = names(words.plain[1]);
        let (mut op, mut out) = (BytesMut::new(), BytesMut::new());
        let cells = [CellRef::name(warehouse, sku)];
        Op::encode_read_details(&mut op, OpFlags::default(), &cells);
        let Ok((Op::ReadDetails { cells }, ..)) = take_op(&mut Reader::new(&op)) else {
            unreachable!("a read was encoded");
        };
        self.state.cells().read_details(&cells, &mut out);
        self.show("details", &out)
    }

    fn list(&self, words: &Words<'_>) -> String {
        let prefix = |key| words.options.get(key).copied().unwrap_or_default().as_bytes();
        let listing = Listing {
            from: words.number("from").unwrap_or(0) as u32,
            count: words.number("count").unwrap_or(100) as u16,
            filter: if words.plain.contains(&"low") { Filter::Low } else { Filter::All },
            warehouse: prefix("w"),
            sku: prefix("s"),
        };
        let mut out = BytesMut::new();
        self.state.cells().list_cells(&listing, &mut out);
        let outcome = take_outcome(&mut Reader::new(&out)).unwrap();
        let mut body = Reader::new(outcome.body);
        let head = ListHead::take(&mut body).unwrap();
        let mut text = format!("next={:?}", head.next);
        for _ in 0..head.cells {
            let cell = ListedCell::take(&mut body).unwrap();
            let names = [cell.warehouse, cell.sku].map(|name| String::from_utf8_lossy(name));
            let (handle, position) = (cell.handle.0, cell.details.position());
            text += &format!("\n  #{handle} {}/{} position={position}", names[0], names[1]);
        }
        assert!(body.is_empty(), "a list has as many cells as it says");
        text
    }

    fn skus(&self, words: &Words<'_>) -> String {
        let listing = Listing {
            from: words.number("from").unwrap_or(0) as u32,
            count: words.number("count").unwrap_or(100) as u16,
            filter: if words.plain.contains(&"low") { Filter::Low } else { Filter::All },
            warehouse: b"",
            sku: words.options.get("s").copied().unwrap_or_default().as_bytes(),
        };
        let mut out = BytesMut::new();
        self.state.list_skus(&listing, &mut out);
        let outcome = take_outcome(&mut Reader::new(&out)).unwrap();
        let mut body = Reader::new(outcome.body);
        let head = ListHead::take(&mut body).unwrap();
        let mut text = format!("next={:?}", head.next);
        for _ in 0..head.cells {
            let ListedSku { scale, title, point, position, name } =
                ListedSku::take(&mut body).unwrap();
            let [name, title] = [name, title].map(|name| String::from_utf8_lossy(name));
            write!(text, "\n  {name} title={title} scale={scale} ").unwrap();
            write!(text, "reorder={point:?} position={position}").unwrap();
        }
        assert!(body.is_empty(), "a list has as many SKUs as it says");
        text
    }

    fn crossings(&self, words: &Words<'_>) -> String {
        let from = words.number("from").unwrap_or(0);
        let count = words.number("count").unwrap_or(100) as u16;
        let mut out = BytesMut::new();
        self.state.read_crossings(from, count, &mut out);
        let outcome = take_outcome(&mut Reader::new(&out)).unwrap();
        let mut body = Reader::new(outcome.body);
        let head = CrossingsHead::take(&mut body).unwrap();
        let mut text = format!("first={} next={}", head.first, head.next);
        for _ in 0..head.count {
            let crossing = Crossing::take(&mut body).unwrap();
            let Crossing { at_ms, position, point, is_low, cell, .. } = crossing;
            let names = [crossing.warehouse, crossing.sku].map(String::from_utf8_lossy);
            let at = at_ms as i64 - START_MS as i64;
            let what = if is_low { "low" } else { "enough" };
            let cell = cell.map(|cell| cell.0);
            write!(text, "\n  at={at} {}/{} {cell:?} {what}", names[0], names[1]).unwrap();
            write!(text, " position={position} point={point:?}").unwrap();
        }
        assert!(body.is_empty(), "there are as many crossings as it says");
        text
    }

    fn stats(&self) -> String {
        let stats = self.state.stats();
        let due = self.state.due(UnixMicros(self.now_ms * 1_000));
        format!(
            "active={} confirmed={} ended={} groups={} outage_ms={} due={due}",
            stats.active, stats.confirmed, stats.ended, stats.groups, stats.outage_ms
        )
    }

    fn show(&self, command: &str, out: &[u8]) -> String {
        let mut reader = Reader::new(out);
        let outcome = take_outcome(&mut reader).unwrap();
        assert!(reader.is_empty(), "one operation has one outcome");
        let mut text = outcome.code.name().to_owned();
        show_body(command, &outcome, &mut text);
        text
    }
}

fn show_written(body: &mut Reader<'_>, text: &mut String) {
    let (cell, on_hand) = (body.u32().unwrap(), body.i64().unwrap());
    let available = body.i64().unwrap();
    write!(text, " handle={cell} on_hand={on_hand} available={available}").unwrap();
}

fn show_details(body: &mut Reader<'_>, text: &mut String) {
    let (_, found) = (body.u32().unwrap(), body.u32().unwrap());
    let details = CellDetails::take(body).unwrap();
    if found == 0 {
        return text.push_str(" not found");
    }
    write!(text, " {}", counters(&details.counters)).unwrap();
    let mut show = |name: &str, number: i64| {
        if number != 0 {
            write!(text, " {name}={number}").unwrap();
        }
    };
    for (bucket, units) in Bucket::ALL[1..].iter().zip(details.blocked) {
        show(&bucket.name().to_lowercase(), units);
    }
    let policy = details.policy;
    show("incoming", details.incoming);
    show("in_transit", details.in_transit);
    show("feed", details.feed_sequence as i64);
    show("oversell", policy.oversell_limit);
    show("buffer", policy.buffer);
    if let Some(point) = policy.reorder_point {
        write!(text, " reorder={point}").unwrap();
    }
    if policy.owner_max > 0 {
        write!(text, " each={}", policy.owner_max).unwrap();
    }
    for (name, is_set) in [
        ("frozen", policy.frozen),
        ("untracked", policy.untracked),
        ("preorder", policy.preorder),
        ("no_hold", policy.no_hold),
        ("SHORT", details.short),
    ] {
        if is_set {
            write!(text, " {name}").unwrap();
        }
    }
}

fn show_lines(body: &mut Reader<'_>, relative: impl Fn(u64) -> i64, text: &mut String) {
    let (created, deadline) = (body.u64().unwrap(), body.u64().unwrap());
    write!(text, " created={} deadline={}", relative(created), relative(deadline)).unwrap();
    if body.u32().unwrap() == 1 {
        text.push_str(" pinned");
    }
    for _ in 0..body.u32().unwrap() {
        write!(text, "\n  handle={}", body.u32().unwrap()).unwrap();
        let LineShares { reserved, committed, fulfilled, released, expired, cancelled } =
            LineShares::take(body).unwrap();
        for (name, units) in [
            ("reserved", reserved),
            ("committed", committed),
            ("fulfilled", fulfilled),
            ("released", released),
            ("expired", expired),
            ("cancelled", cancelled),
        ] {
            if units > 0 {
                write!(text, " {name}={units}").unwrap();
            }
        }
    }
}

fn show_body(command: &str, outcome: &Outcome<'_>, text: &mut String) {
    let mut body = Reader::new(outcome.body);
    let is_hold = [
        "reserve",
        "confirm",
        "release",
        "extend",
        "reservation",
        "sku",
        "cancel",
        "fulfil",
        "pin",
        "amend",
        "lines",
        "from",
    ]
    .contains(&command);
    let is_transfer = ["ship", "land", "close", "recall", "transfer"].contains(&command);
    if outcome.code == Code::OWNER_LIMIT {
        let bound = OwnerBound::from_detail(outcome.detail).unwrap();
        write!(text, " {}", bound.name()).unwrap();
    } else if let Some(state) = TransferState::from_detail(outcome.detail).filter(|_| is_transfer)
        && (outcome.code.is_ok() || outcome.code == Code::CONFLICT)
    {
        write!(text, " {}", state.name()).unwrap();
    } else {
        match ReservationState::from_detail(outcome.detail).filter(|_| is_hold) {
            Some(state) if outcome.code.is_ok() || outcome.body.is_empty() => {
                write!(text, " {}", state.name()).unwrap();
            }
            _ if outcome.detail > 0 => write!(text, " line {}", outcome.detail).unwrap(),
            _ => {}
        }
    }
    let relative = |ms: u64| ms as i64 - START_MS as i64;
    let ok = outcome.code.is_ok();
    match (command, outcome.code) {
        ("define", _) if ok => write!(text, " handle={}", body.u32().unwrap()).unwrap(),
        (
            "receive" | "adjust" | "set" | "count" | "counted" | "move" | "announce" | "arrive"
            | "return" | "policy",
            _,
        ) if ok => show_written(&mut body, text),
        _ if is_transfer && ok && !body.is_empty() => {
            let Transfer { from, to, shipped, received, damaged } =
                Transfer::take(&mut body).unwrap();
            write!(text, " {} to {} shipped={shipped}", from.0, to.0).unwrap();
            write!(text, " received={received} damaged={damaged}").unwrap();
        }
        ("details", _) => show_details(&mut body, text),
        ("catalogue", Code::OK) => {
            let found = Described::take(&mut body).unwrap();
            let Described { scale, title, point, position, names } = found;
            write!(text, " scale={scale} title={}", String::from_utf8_lossy(title)).unwrap();
            if let Some(point) = point {
                write!(text, " reorder={point} position={position}").unwrap();
            }
            names.iter().for_each(|name| {
                write!(text, " {}", String::from_utf8_lossy(name)).unwrap();
            });
        }
        ("owner", _) => {
            let OwnerUsage { holds, open, units, free_at, limits } =
                OwnerUsage::take(&mut body).unwrap();
            write!(text, " holds={holds} open={open} units={units}").unwrap();
            if let Some(at) = free_at {
                write!(text, " free_at={}", relative(at.0)).unwrap();
            }
            let OwnerLimits { holds_max, units_max, cool_down_ms } = limits;
            write!(text, " of {holds_max} {units_max} {cool_down_ms}").unwrap();
        }
        (_, Code::OWNER_LIMIT) if outcome.detail == OwnerBound::Units as u16 => {
            write!(text, " left={}", body.u64().unwrap()).unwrap();
        }
        (_, Code::OWNER_LIMIT) if outcome.detail == OwnerBound::CoolDown as u16 => {
            write!(text, " until={}", relative(body.u64().unwrap())).unwrap();
        }
        ("lines", Code::OK) => show_lines(&mut body, relative, text),
        (_, Code::STALE_EXPECTED) => {
            write!(text, " on_hand={}", body.i64().unwrap()).unwrap();
        }
        (_, Code::STALE_FEED) => write!(text, " feed={}", body.u64().unwrap()).unwrap(),
        ("reserve" | "extend" | "pin" | "amend", _) if ok => {
            write!(text, " deadline={}", relative(body.u64().unwrap())).unwrap();
            while let Ok(handle) = body.u32() {
                write!(text, " handle={handle}").unwrap();
            }
        }
        ("from", _) if ok => {
            write!(text, " deadline={}", relative(body.u64().unwrap())).unwrap();
            for _ in 0..body.u32().unwrap() {
                let TakenPart { line, cell, quantity } = TakenPart::take(&mut body).unwrap();
                write!(text, "\n  line {line} handle={} quantity={quantity}", cell.0).unwrap();
            }
        }
        ("reservation", Code::OK) => {
            let (created, deadline) = (body.u64().unwrap(), body.u64().unwrap());
            let (created, deadline) = (relative(created), relative(deadline));
            write!(text, " created={created} deadline={deadline} lines=").unwrap();
            let lines = body.u32().unwrap();
            let line = |_| (body.u32().unwrap(), body.u32().unwrap());
            write!(text, "{:?}", (0..lines).map(line).collect::<Vec<_>>()).unwrap();
        }
        ("sku", Code::OK) => {
            let total = SkuTotal::take(&mut body).unwrap();
            write!(text, " more={} total {}", total.more, counters(&total.total)).unwrap();
            for _ in 0..total.cells {
                let name = String::from_utf8_lossy(body.short_bytes().unwrap());
                let (cell, _) = (body.u32().unwrap(), body.u32().unwrap());
                let value = CellCounters::take(&mut body).unwrap();
                write!(text, "\n  {name} handle={cell} {}", counters(&value)).unwrap();
            }
        }
        (_, Code::NO_STOCK | Code::WOULD_SHORT | Code::MIN_QTY) => {
            while let Ok(short) = ShortLine::take(&mut body) {
                let ShortLine { line, cell, asked, available } = short;
                write!(text, "\n  line {line} handle={} ", cell.0).unwrap();
                write!(text, "asked={asked} available={available}").unwrap();
            }
        }
        _ => {
            while let Ok(line) = body.u16() {
                write!(text, " [{line}]").unwrap();
            }
        }
    }
    assert!(body.is_empty(), "the whole body is shown");
}

fn counters(cell: &CellCounters) -> String {
    let CellCounters { on_hand, reserved, committed, available } = cell;
    format!("on_hand={on_hand} reserved={reserved} committed={committed} available={available}")
}

fn names(name: &str) -> (&str, &str) {
    name.split_once('/').expect("a cell is warehouse/sku")
}

fn cell(name: &str) -> CellRef<'_> {
    let (warehouse, sku) = names(name);
    CellRef::Name { warehouse: warehouse.as_bytes(), sku: sku.as_bytes() }
}

fn bucket(name: &str) -> Bucket {
    let is_it = |bucket: &&Bucket| bucket.name().eq_ignore_ascii_case(name);
    *Bucket::ALL.iter().find(is_it).expect("a bucket's name")
}

/// The script with its outputs replaced by what the engine says now.
fn play(source: &str) -> String {
    let mut script = Script::new();
    let mut played = String::new();
    for line in source.lines() {
        if let Some(command) = line.strip_prefix("> ") {
            let output = script.run(command);
            writeln!(played, "{line}").unwrap();
            if !output.is_empty() {
                writeln!(played, "{output}").unwrap();
            }
        } else if line.starts_with('#') || line.is_empty() {
            writeln!(played, "{line}").unwrap();
        }
    }
    played
}

fn scripts() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/engine/testscripts");
    let mut paths: Vec<_> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

#[test]
fn scripts_play_as_written() {
    let update = std::env::var_os("UPDATE_GOLDENFILES").is_some();
    let mut wrong = Vec::new();
    for path in scripts() {
        let written = std::fs::read_to_string(&path).unwrap();
        let played = play(&written);
        if played != written && update {
            std::fs::write(&path, played).unwrap();
        } else if played != written {
            let pair = played.lines().zip(written.lines()).find(|(new, old)| new != old);
            wrong.push(format!("{}: {pair:?}", path.display()));
        }
    }
    assert!(scripts().len() > 10, "the scripts are found");
    assert!(wrong.is_empty(), "played differently (now, written):\n{}", wrong.join("\n"));
}
