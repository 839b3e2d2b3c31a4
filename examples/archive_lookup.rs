//! Measures the archive of old ids: bytes per id, and what a look-up costs that finds one and that finds none.
//!
//! ```text
//! cargo run --release --example archive_lookup -- [ids] [directory]
//! ```
//!
//! Reservations of one line are made and given back, 65,536 in a round of a second of the log's time; seconds
//! later the engine forgets them, and the archive takes them in. The directory must be on a disk to mean
//! anything for the time of writing; it is made, and removed at the end.
#![expect(clippy::disallowed_methods, reason = "it measures time")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use stockd::archive::{Archive, ArchiveOptions};
use stockd::engine::batch::{self, BatchBuilder};
use stockd::engine::{EngineConfig, StockState};
use stockd::log::RealStorage;
use stockd::protocol::{
    CellHandle, CellRef, Line, Op, OpFlags, OpId, Reader, ReservationId, take_op,
};
use stockd::world::{UnixMicros, World};

const START_MS: u64 = 1_700_000_000_000;
const ROUND: u64 = 1 << 16;
const LOOK_UPS: u64 = 200_000;

/// The random part of an id is a function of its number, so that none need be kept.
fn id(number: u64, salt: u64) -> ReservationId {
    let mut z = (number ^ salt << 48).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    let mut random = [0; 10];
    random[2..].copy_from_slice(&(z ^ z >> 31).to_le_bytes());
    ReservationId::from_parts(START_MS + number * 1_000 / ROUND, random)
}

fn apply(state: &mut StockState, now_ms: u64, count: u32, fill: impl FnOnce(&mut BytesMut)) {
    let mut entry = BytesMut::new();
    let builder = BatchBuilder::begin(&mut entry);
    fill(&mut entry);
    builder.finish(&mut entry, UnixMicros(now_ms * 1_000), count);
    state.apply(state.applied_index() + 1, &entry, None);
}

fn nanos_each(count: u64, mut deed: impl FnMut(u64)) -> u128 {
    let start = Instant::now();
    (0..count).for_each(&mut deed);
    start.elapsed().as_nanos() / u128::from(count)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let ids: u64 = arguments.next().map_or(Ok(10_000_000), |text| text.replace('_', "").parse())?;
    let own = std::env::temp_dir().join(format!("stockd-archive-{}", std::process::id()));
    let directory = arguments.next().map_or(own, PathBuf::from);
    let storage = Arc::new(RealStorage::open(&directory)?);
    let archive =
        Archive::open(storage, &World::real(), ArchiveOptions::default(), Arc::new(|_| ()))?;
    let config = EngineConfig { retention_ms: 10_000, ..EngineConfig::default() };
    let mut state = StockState::new(config);
    state.keep_forgotten();
    let none = OpFlags::default();
    let line = Line { cell: CellRef::Handle(CellHandle(0)), quantity: 1 };
    apply(&mut state, START_MS, 2, |out| {
        let cell = CellRef::Name { warehouse: b"w", sku: b"s" };
        Op::encode_define(out, b"w", b"s");
        Op::encode_receive(out, none, None, OpId(id(0, 1).0), cell, 1_000_000);
    });

    let start = Instant::now();
    let rounds = ids.div_ceil(ROUND);
    for round in 0..rounds {
        let now_ms = START_MS + round * 1_000 + 1_000;
        let numbers = round * ROUND..(round + 1) * ROUND;
        for chunk in numbers.collect::<Vec<_>>().chunks(512) {
            apply(&mut state, now_ms, 1_024, |out| {
                for number in chunk {
                    Op::encode_reserve(out, none, None, id(*number, 0), 1_000, &[line]);
                    Op::encode_release(out, none, None, id(*number, 0));
                }
            });
        }
        let end_ms = now_ms + if round + 1 == rounds { 30_000 } else { 0 };
        apply(&mut state, end_ms, 1, |out| batch::encode_expire(out, u32::MAX));
        archive.take_in(state.take_forgotten());
        if round % 16 == 15 {
            // As if a snapshot were taken.
            archive.flush().await?;
            eprint!("\r{} of {ids} ids", (round + 1) * ROUND);
        }
    }
    archive.flush().await?;
    archive.flush().await?;
    let made = start.elapsed();
    let stats = archive.stats();
    eprintln!();
    println!(
        "{} ids in {} files, {:.1} bytes each; {:.1} s with making and forgetting them",
        stats.records,
        stats.runs,
        stats.bytes as f64 / stats.records as f64,
        made.as_secs_f64(),
    );

    let all = rounds * ROUND;
    let spread = |at: u64| at.wrapping_mul(0x9e37_79b9_7f4a_7c15) % all;
    let mut found = 0_u64;
    let hit = nanos_each(LOOK_UPS, |at| {
        found += u64::from(archive.find(&id(spread(at), 0)).is_some());
    });
    if found != LOOK_UPS {
        return Err(format!("{found} of {LOOK_UPS} ids were found").into());
    }
    let mut wrong = 0_u64;
    let miss = nanos_each(LOOK_UPS, |at| {
        wrong += u64::from(archive.find(&id(spread(at), 2)).is_some());
    });
    if wrong > 0 {
        return Err(format!("{wrong} ids were found that never were").into());
    }
    let mut out = BytesMut::new();
    let whole = nanos_each(LOOK_UPS / 10, |at| {
        let id = id(spread(at), 0);
        let mut asked = BytesMut::new();
        Op::encode_release(&mut asked, none, None, id);
        let (op, flags, end) = take_op(&mut Reader::new(&asked)).expect("it was encoded");
        let record = archive.find(&id).expect("it was found before");
        out.clear();
        state.answer_archived(&record, None, (&op, flags, end), &mut out);
    });
    println!("a look-up that finds its id   {hit} ns (the files are in the page cache)");
    println!("a look-up that finds nothing  {miss} ns");
    println!("a look-up and its answer      {whole} ns; the state is locked for the difference");
    drop(archive);
    std::fs::remove_dir_all(&directory)?;
    Ok(())
}
