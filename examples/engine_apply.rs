//! Measures the apply loop alone: ns per operation, and bytes per cell and per live reservation.
//!
//! ```text
//! cargo run --release --example engine_apply -- [cells] [live reservations] [seconds] [warehouses] [events]
//! ```
//!
//! With one warehouse every cell has a SKU name of its own, which its bytes include; with a thousand,
//! a thousand cells share one, and the bytes are nearly those of the cell alone.
//!
//! With a 1 as the last one, what it makes of events is kept and handed on, as on a node.
//!
//! The load: batches of 512 reserves of one unit on uniformly random cells, by handle, each followed by
//! a batch of 512 confirms and releases of random earlier ones and an EXPIRE. A ttl that keeps the
//! number of live reservations. Time is the log's, not the machine's.
#![expect(clippy::disallowed_methods, reason = "it runs for so many seconds")]

use std::time::Instant;

use bytes::BytesMut;
use stockd::engine::batch::{self, BatchBuilder};
use stockd::engine::{EngineConfig, StockState};
use stockd::protocol::{
    CellHandle, CellRef, Line, Op, OpFlags, OpId, Reader, ReservationId, ShardId, take_outcome,
};
use stockd::world::UnixMicros;

const BATCH_OPS: u32 = 512;
/// The events in memory at a time, as in a node whose disk keeps up.
const EVENTS_BYTES: usize = 512 << 10;
const START_MS: u64 = 1_700_000_000_000;

struct Load {
    state: StockState,
    dice: u64,
    now_micros: u64,
    entry: BytesMut,
    out: BytesMut,
    events: Vec<u8>,
}

impl Load {
    fn next(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.dice;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    fn id(&mut self) -> ReservationId {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&self.next().to_le_bytes());
        ReservationId::from_parts(self.now_micros / 1_000, random)
    }

    /// Builds a batch with `fill`, applies it, and returns the nanoseconds of applying alone.
    fn batch(&mut self, count: u32, mut fill: impl FnMut(&mut Self, &mut BytesMut)) -> u64 {
        let mut entry = std::mem::take(&mut self.entry);
        entry.clear();
        let batch = BatchBuilder::begin(&mut entry);
        fill(self, &mut entry);
        batch.finish(&mut entry, UnixMicros(self.now_micros), count);
        self.out.clear();
        let start = Instant::now();
        let index = self.state.applied_index() + 1;
        self.state.apply(index, &entry, Some(&mut self.out));
        let events = &mut self.events;
        self.state.pass_events_on(|record| {
            events.extend_from_slice(&record);
            Some(record)
        });
        let nanos = start.elapsed().as_nanos() as u64;
        self.entry = entry;
        if self.events.len() > EVENTS_BYTES {
            self.events.clear();
        }
        nanos
    }

    fn codes(&self) -> std::collections::BTreeMap<&'static str, u64> {
        let mut reader = Reader::new(&self.out);
        let mut codes = std::collections::BTreeMap::new();
        while let Ok(outcome) = take_outcome(&mut reader) {
            *codes.entry(outcome.code.name()).or_default() += 1;
        }
        codes
    }
}

/// The median: a batch during which another process had the processor does not count.
fn median(nanos: &mut [u64]) -> u64 {
    let middle = nanos.len() / 2;
    if nanos.is_empty() { 0 } else { *nanos.select_nth_unstable(middle).1 }
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = status.split_whitespace().nth(1).and_then(|text| text.parse::<u64>().ok());
    pages.unwrap_or(0) * 4_096
}

fn main() {
    let mut args = std::env::args().skip(1).map(|text| text.replace('_', "").parse::<u64>());
    let mut arg = |default| args.next().and_then(Result::ok).unwrap_or(default);
    let (cells, live, seconds) = (arg(1_000_000), arg(1_000_000), arg(5));
    let warehouses = arg(1).max(1);
    // Half of the reserves end early, so their records stay for the retention, chosen to be the ttl.
    let config = EngineConfig { retention_ms: 10_000, ..EngineConfig::default() };
    let mut load = Load {
        state: StockState::new(config),
        dice: 1,
        now_micros: START_MS * 1_000,
        entry: BytesMut::new(),
        out: BytesMut::new(),
        events: Vec::new(),
    };
    if arg(0) > 0 {
        load.state.keep_events(ShardId(0));
    }
    let before = resident_bytes();
    let mut nanos = 0;
    let mut defined = 0;
    while defined < cells {
        let count = (cells - defined).min(u64::from(BATCH_OPS));
        nanos += load.batch(count as u32, |_, entry| {
            for number in defined..defined + count {
                let warehouse = format!("warehouse-{}", number % warehouses);
                let sku = format!("sku-{:09}", number / warehouses);
                Op::encode_define(entry, warehouse.as_bytes(), sku.as_bytes());
            }
        });
        defined += count;
    }
    println!("define: {} ns/op", nanos / cells);
    let with_cells = resident_bytes();
    for cell in 0..cells as u32 {
        load.now_micros += 1;
        load.batch(1, |load, entry| {
            let id = OpId(load.id().0);
            let cell = CellRef::Handle(CellHandle(cell));
            Op::encode_receive(entry, OpFlags::default(), None, id, cell, 1 << 20);
        });
        if cell % 8_192 == 0 {
            load.now_micros += 20_000_000;
            load.batch(1, |_, entry| batch::encode_expire(entry, u32::MAX));
        }
    }
    load.now_micros += 400_000_000;
    load.batch(1, |_, entry| batch::encode_expire(entry, u32::MAX));

    // `live` reservations within a ttl of 10 s, of which half are ended early: reserve at
    // `live / 10` a second of log time, and as many confirms and releases.
    const TTL_MS: u32 = 10_000;
    let step_micros = u64::from(BATCH_OPS) * u64::from(TTL_MS) * 1_000 / live.max(1);
    let mut recent: Vec<ReservationId> = Vec::new();
    let recent_max = (live as usize).max(1);
    let mut cursor = 0;
    let mut spent: [[Vec<u64>; 3]; 2] = Default::default();
    let wall = Instant::now();
    let fill = live / u64::from(BATCH_OPS);
    let warm = 2 * fill + 100;
    let mut batches = 0;
    while batches < warm || wall.elapsed().as_secs() < seconds {
        let phase = usize::from(batches >= warm);
        load.now_micros += step_micros;
        let reserves = load.batch(BATCH_OPS, |load, entry| {
            for _ in 0..BATCH_OPS {
                let cell = CellHandle((load.next() % cells) as u32);
                let lines = [Line { cell: CellRef::Handle(cell), quantity: 1 }];
                let id = load.id();
                Op::encode_reserve(entry, OpFlags::default(), None, id, TTL_MS, &lines);
                if recent.len() < recent_max {
                    recent.push(id);
                } else {
                    recent[cursor] = id;
                    cursor = (cursor + 1) % recent_max;
                }
            }
        });
        // At first nothing ends, so that memory holds live reservations and nothing else.
        let ends = if batches < fill {
            0
        } else {
            load.batch(BATCH_OPS, |load, entry| {
                for _ in 0..BATCH_OPS {
                    let old = recent[(load.next() % recent.len() as u64) as usize];
                    if load.next().is_multiple_of(16) {
                        Op::encode_confirm(entry, OpFlags::default(), None, old);
                    } else {
                        Op::encode_release(entry, OpFlags::default(), None, old);
                    }
                }
            })
        };
        let sweep = load.batch(1, |_, entry| batch::encode_expire(entry, BATCH_OPS * 4));
        for (all, nanos) in spent[phase].iter_mut().zip([reserves, ends, sweep]) {
            all.push(nanos);
        }
        batches += 1;
        if batches == fill {
            let ids = recent.len() as u64 * 16;
            let live_bytes = resident_bytes().saturating_sub(with_cells + ids);
            let active = load.state.active_reservations();
            println!("bytes: {} per live reservation, of {active}", live_bytes / active.max(1));
        }
    }
    let after = resident_bytes();
    let stats = load.state.stats();
    for (mut spent, name) in spent.into_iter().zip(["warm-up", "steady"]) {
        let [reserve, end, sweep] =
            spent.each_mut().map(|nanos| median(nanos) / u64::from(BATCH_OPS));
        println!(
            "{name}: reserve {reserve} ns, confirm or release {end} ns, sweep {sweep} ns per reservation \
             (medians of batches)"
        );
    }
    println!("{stats:?}");
    println!(
        "bytes: {} per cell, {} per record",
        (with_cells - before) / cells.max(1),
        after.saturating_sub(with_cells + recent.len() as u64 * 16) / stats.records.max(1)
    );
    println!("last outcomes: {:?}", load.codes());
}
