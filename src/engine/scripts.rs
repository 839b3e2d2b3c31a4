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
//! reserve ID w/s=N … [ttl=] [by=handle]
//! confirm ID         release ID          extend ID [ttl=]
//! expire N           leader              tick
//! cell w/s           reservation ID      sku s [after=]     stats
//! short w/s=N …      what a session says without the log
//! any operation:     [not_after=ms]      relative to the start
//! ```

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};

use bytes::{BufMut, BytesMut};

use crate::protocol::{
    CellCounters, CellHandle, CellRef, Code, Line, Op, OpFlags, OpId, Outcome, Reader,
    ReservationId, ReservationState, ShortLine, SkuTotal, UnixMillis, take_op, take_outcome,
};
use crate::world::UnixMicros;

use super::batch::{self, BatchBuilder};
use super::{EngineConfig, StockState};

const START_MS: u64 = 1_700_000_000_000;

struct Script {
    state: StockState,
    now_ms: u64,
    ids: BTreeMap<String, ReservationId>,
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
}

impl Script {
    fn new() -> Self {
        let state = StockState::new(EngineConfig::default());
        Self { state, now_ms: START_MS, ids: BTreeMap::new() }
    }

    fn id(&mut self, words: &Words<'_>) -> ReservationId {
        let name = words.plain[1];
        let born = words.options.get("born").map(|born| born.parse::<i64>().unwrap());
        let born = born.map_or(self.now_ms, |born| START_MS.checked_add_signed(born).unwrap());
        let mut random = [0; 10];
        random[9] = name.parse().unwrap();
        let fresh = ReservationId::from_parts(born, random);
        *self.ids.entry(name.to_owned()).or_insert(fresh)
    }

    fn run(&mut self, line: &str) -> String {
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
            "stats" => return self.stats(),
            "short" => return self.short(&words),
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
        let (mut entry, mut out) = (BytesMut::new(), BytesMut::new());
        let batch = BatchBuilder::begin(&mut entry);
        entry.put_slice(ops);
        batch.finish(&mut entry, UnixMicros(self.now_ms * 1_000), 1);
        self.state.apply(self.state.applied_index() + 1, &entry, Some(&mut out));
        out
    }

    fn encode(&mut self, command: &str, words: &Words<'_>, out: &mut BytesMut) {
        let end = words.number("not_after").map(|ms| UnixMillis(START_MS + ms));
        let none = OpFlags::default();
        let ttl_ms = words.number("ttl").unwrap_or(0) as u32;
        match command {
            "define" => {
                let (warehouse, sku) = names(words.plain[1]);
                Op::encode_define(out, warehouse.as_bytes(), sku.as_bytes());
            }
            "receive" => {
                let id = OpId(self.id(words).0);
                let define = words.plain.get(4) == Some(&"define");
                let flags = if define { OpFlags::DEFINE } else { none };
                let quantity = words.plain[3].parse().unwrap();
                Op::encode_receive(out, flags, end, id, cell(words.plain[2]), quantity);
            }
            "reserve" => {
                let id = self.id(words);
                let lines = self.lines(&words.plain[2..], words.options.contains_key("by"));
                Op::encode_reserve(out, none, end, id, ttl_ms, &lines);
            }
            "confirm" => Op::encode_confirm(out, none, end, self.id(words)),
            "release" => Op::encode_release(out, none, end, self.id(words)),
            "extend" => Op::encode_extend(out, none, end, self.id(words), ttl_ms),
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
        words.iter().map(line).collect()
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
        Op::encode_reserve(&mut op, OpFlags::default(), None, id, 0, &lines);
        let Ok((Op::Reserve { lines, .. }, ..)) = take_op(&mut Reader::new(&op)) else {
            unreachable!("a reserve was encoded");
        };
        match self.state.cells().refuse_if_short(&lines, UnixMicros(self.now_ms * 1_000), &mut out)
        {
            true => self.show("reserve", &out),
            false => "the log decides".into(),
        }
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

fn show_body(command: &str, outcome: &Outcome<'_>, text: &mut String) {
    let mut body = Reader::new(outcome.body);
    let is_hold =
        matches!(command, "reserve" | "confirm" | "release" | "extend" | "reservation" | "sku");
    match ReservationState::from_detail(outcome.detail).filter(|_| is_hold) {
        Some(state) if outcome.code.is_ok() || outcome.body.is_empty() => {
            write!(text, " {}", state.name()).unwrap();
        }
        _ if outcome.detail > 0 => write!(text, " line {}", outcome.detail).unwrap(),
        _ => {}
    }
    let relative = |ms: u64| ms as i64 - START_MS as i64;
    let ok = outcome.code.is_ok();
    match (command, outcome.code) {
        ("define", _) if ok => write!(text, " handle={}", body.u32().unwrap()).unwrap(),
        ("receive", _) if ok => {
            let (cell, on_hand) = (body.u32().unwrap(), body.i64().unwrap());
            let available = body.i64().unwrap();
            write!(text, " handle={cell} on_hand={on_hand} available={available}").unwrap();
        }
        ("reserve" | "extend", _) if ok => {
            write!(text, " deadline={}", relative(body.u64().unwrap())).unwrap();
            while let Ok(handle) = body.u32() {
                write!(text, " handle={handle}").unwrap();
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
        (_, Code::NO_STOCK) => {
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
