//! Power cuts at every operation of the disk, with unsynced bytes kept, lost or torn: what was
//! acknowledged is there, and what is there is exactly the state after some prefix of the calls.

#![expect(clippy::unwrap_used, reason = "helpers of tests, not only tests, may stop the test")]

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use stockd::log::{
    Error, Fault, KeepOptions, Log, LogOptions, Record, RecordId, ShardState, SimStorage, Storage,
    Survival, View, inspect,
};
use stockd::protocol::ShardId;
use stockd::world::{EnoughMemory, Random, RealClock, TaskThreads, World};

/// The log's id is all that is drawn.
struct Seven;

impl Random for Seven {
    fn next_u64(&self) -> u64 {
        7
    }
}

fn world() -> World {
    World {
        clock: Arc::new(RealClock::new()),
        random: Arc::new(Seven),
        threads: Arc::new(TaskThreads),
        memory: Arc::new(EnoughMemory),
    }
}

fn open(storage: &SimStorage, keep: Option<KeepOptions>) -> Result<Log, Error> {
    // A cache of a few records, so that most reads come from the files.
    let options = LogOptions {
        segment_bytes: 64 << 10,
        cache_bytes_max: 8 << 10,
        keep,
        ..LogOptions::default()
    };
    Log::open(Arc::new(storage.clone()), &world(), options, &mut |_| {})
}

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(future)
}

/// SplitMix64.
struct Dice(u64);

impl Dice {
    fn below(&mut self, count: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % count
    }
}

/// A naive log: what a shard should look like.
#[derive(Clone, Default, PartialEq, Debug)]
struct Model {
    state: ShardState,
    records: Vec<Record>,
}

type Models = BTreeMap<u16, Model>;

impl Model {
    fn next(&self) -> u64 {
        self.state.last.map_or(0, |last| last.index + 1)
    }

    fn append(&mut self, record: Record) {
        self.state.last = Some(record.id());
        self.records.push(record);
    }

    fn truncate(&mut self, last: Option<RecordId>) {
        self.state.last = last;
        self.records.retain(|record| last.is_some_and(|last| record.index <= last.index));
    }

    fn purge(&mut self, upto: RecordId) {
        self.records.retain(|record| record.index > upto.index);
        self.state.purged = Some(upto);
        self.state.last = self.state.last.filter(|last| last.index > upto.index).or(Some(upto));
    }
}

/// What was asked of a log, and what it acknowledged.
#[derive(Default)]
struct History {
    /// The shards after each record or other call.
    moments: Vec<Models>,
    /// Everything up to this moment was acknowledged.
    acknowledged: Arc<AtomicUsize>,
    term: u64,
}

impl History {
    fn new() -> Self {
        Self { moments: vec![Models::new()], ..Self::default() }
    }

    fn now(&self) -> Models {
        self.moments.last().unwrap().clone()
    }

    fn change(&mut self, shard: ShardId, change: impl FnOnce(&mut Model)) {
        let mut models = self.now();
        change(models.entry(shard.0).or_default());
        self.moments.push(models);
    }

    /// A callback for all that was asked up to now.
    fn done(&self) -> Box<dyn FnOnce(io::Result<()>) + Send> {
        let (moment, acknowledged) = (self.moments.len() - 1, self.acknowledged.clone());
        Box::new(move |result| {
            if result.is_ok() {
                let before = acknowledged.swap(moment, Ordering::Relaxed);
                assert!(before < moment, "callbacks come in order");
            }
        })
    }

    /// Asks for something at random.
    fn step(&mut self, log: &Log, dice: &mut Dice) {
        let shard = log.shard(ShardId(dice.below(2) as u16));
        let model = self.now().remove(&shard.id().0).unwrap_or_default();
        match dice.below(20) {
            0..11 => {
                let mut records = Vec::new();
                for index in model.next()..model.next() + 1 + dice.below(4) {
                    let payload = vec![dice.below(256) as u8; dice.below(3000) as usize];
                    let kind = dice.below(3) as u8;
                    let record = Record { term: self.term, index, kind, payload: payload.into() };
                    self.change(shard.id(), |model| model.append(record.clone()));
                    records.push(record);
                }
                shard.append(records, self.done());
            }
            11..14 => {
                let vote = Bytes::from(format!("vote {}", dice.below(1000)));
                self.change(shard.id(), |model| model.state.vote = Some(vote.clone()));
                shard.save_vote(vote, self.done());
            }
            14..16 => {
                let Some(last) = model.state.last else { return };
                self.change(shard.id(), |model| model.state.committed = Some(last));
                shard.save_committed(last);
            }
            16..18 => {
                self.term += 1;
                let back = dice.below(6) as usize;
                let Some(keep) = model.records.len().checked_sub(back + 1) else { return };
                let last = model.records.get(keep).map(Record::id);
                self.change(shard.id(), |model| model.truncate(last));
                shard.truncate_after(last);
            }
            _ => {
                let upto = match model.records.get(model.records.len() / 2) {
                    Some(record) => record.id(),
                    None => RecordId { term: self.term, index: model.next() + 3 },
                };
                self.change(shard.id(), |model| model.purge(upto));
                shard.purge(upto);
            }
        }
    }

    /// The log holds the state of some moment that is not before the last acknowledged one.
    fn check(&self, log: &Log, what: &str) {
        let mut found = Models::new();
        for id in log.shards() {
            let shard = log.shard(id);
            let records = shard.read(0, u64::MAX, usize::MAX).unwrap();
            found.insert(id.0, Model { state: shard.state(), records });
        }
        let from = self.acknowledged.load(Ordering::Relaxed);
        let at = self.moments[from..].iter().position(|moment| *moment == found);
        assert!(at.is_some(), "{what}: no moment since {from} looks like {found:#?}");
    }
}

const STEPS: u64 = 300;

/// Works until the end of the script or until the log stops.
async fn work(log: &Log, seed: u64, history: &mut History) {
    let mut dice = Dice(seed);
    for _ in 0..STEPS {
        history.step(log, &mut dice);
        // Sometimes the writer gets its turn, sometimes a group builds up.
        if dice.below(3) == 0 {
            for _ in 0..8 {
                tokio::task::yield_now().await;
            }
        }
        if log.failure().is_some() {
            return;
        }
    }
    log.close().await;
}

/// With what was put aside the log is whole, from its first frame on, and has all that the log alone has.
fn check_kept(disk: &SimStorage, what: &str) {
    let mut first = None;
    let mut count = |storage: &dyn Storage| {
        let mut frames = 0;
        let mut see = |entry: &inspect::Entry| {
            frames += 1;
            first.get_or_insert((entry.seq, entry.file.contains("kept-")));
        };
        inspect::scan(storage, &mut see, &mut |_| {})
            .unwrap_or_else(|error| panic!("{what}, with what is kept: {error}"));
        frames
    };
    let view = View::with_kept(disk).unwrap();
    let (whole, alone) = (count(&view), count(disk));
    assert!(whole >= alone, "{what}: {whole} frames with what is kept, {alone} without");
    // The header of the first segment has the first number of all.
    assert!(first.is_none_or(|(seq, _)| seq == 2), "{what}: it begins with {first:?}");
}

/// One life: work until the power goes at operation `n`, then recover, perhaps with more cuts on
/// the way. Gives the operations that the first life took.
fn life(seed: u64, n: u64, survival: Survival) -> u64 {
    let keep = seed.is_multiple_of(2).then(KeepOptions::default);
    let open = |disk: &SimStorage| open(disk, keep);
    let what = format!("seed {seed}, cut at {n}, {survival:?}");
    let storage = SimStorage::new();
    storage.fault_at(n, Fault::PowerCut);
    let mut history = History::new();
    run(async {
        if let Ok(log) = open(&storage) {
            work(&log, seed, &mut history).await;
        }
    });
    // Recovery is cut as well, at a few of its own operations.
    let mut disk = storage.restart(survival);
    for cut in 1..n % 4 {
        disk.fault_at(cut, Fault::PowerCut);
        run(async {
            if let Ok(log) = open(&disk) {
                history.check(&log, &what);
            }
        });
        disk = disk.restart(Survival::Torn(n + cut));
    }
    // Killed first and cut right after recovery: what recovery has shown must stay.
    run(async {
        let log = open(&disk).unwrap_or_else(|error| panic!("{what}: {error}"));
        history.check(&log, &what);
        log.close().await;
    });
    let disk = disk.restart(Survival::Lost);
    if keep.is_some() {
        check_kept(&disk, &what);
    }
    run(async {
        let log = open(&disk).unwrap_or_else(|error| panic!("{what}, again: {error}"));
        history.check(&log, &what);
        let shard = log.shard(ShardId(0));
        let index = shard.state().last.map_or(0, |last| last.index + 1);
        let record = Record { term: 99, index, kind: 1, payload: "goes on".into() };
        let written = Arc::new(Mutex::new(None));
        let result = written.clone();
        shard.append(
            vec![record.clone()],
            Box::new(move |done| *result.lock().unwrap() = Some(done.is_ok())),
        );
        log.close().await;
        assert_eq!(*written.lock().unwrap(), Some(true), "{what}");
        assert_eq!(shard.read(index, index + 1, 1).unwrap(), [record], "{what}");
    });
    let kept = disk.list().unwrap().into_iter().filter(|entry| entry.name.starts_with("kept-"));
    assert!(keep.is_some() || kept.count() == 0, "{what}: nothing is kept unless it is wanted");
    storage.operations()
}

fn every_cut(seed: u64, survival: fn(u64) -> Survival) {
    let mut n = 1;
    while life(seed, n, survival(n)) == n {
        n += 1;
    }
    assert!(n > 200, "the script has rotations, purges and many syncs: {n} operations");
}

/// How many scripts to play: so many, or as many as `STOCKD_SEEDS` says.
fn seeds(usual: u64) -> u64 {
    std::env::var("STOCKD_SEEDS").ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

#[test]
fn a_power_cut_that_loses_all_unsynced_bytes() {
    every_cut(1, |_| Survival::Lost);
    every_cut(2, |_| Survival::Lost);
}

#[test]
fn a_power_cut_that_keeps_all_unsynced_bytes() {
    every_cut(2, |_| Survival::Kept);
}

#[test]
fn a_power_cut_that_tears_writes() {
    for seed in 3..3 + seeds(3) {
        every_cut(seed, Survival::Torn);
    }
}

#[test]
fn a_killed_process_and_then_a_power_cut() {
    for seed in 6..6 + seeds(1) {
        every_cut(seed, |_| Survival::Killed);
    }
}
