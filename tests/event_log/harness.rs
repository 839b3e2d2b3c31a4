//! Events that are made by the index of their entry, and what all tests do with them.

use super::*;

pub const START_MS: u64 = 1_700_000_000_000;
pub const SHARD: ShardId = ShardId(0);

pub fn world() -> World {
    World { threads: Arc::new(TaskThreads), ..World::real() }
}

pub fn id(number: u64) -> ReservationId {
    let mut random = [0; 10];
    random[2..].copy_from_slice(&number.to_be_bytes());
    ReservationId::from_parts(START_MS, random)
}

/// The record of the log entry of this index: one to four events, the first of them about the cell `index % 7`.
pub fn record(index: u64, first: u64) -> Vec<u8> {
    let at_us = (START_MS + index * 10) * 1_000;
    let mut writer = RecordWriter::begin(Vec::new(), SHARD, first, index, at_us);
    for event in 0..=index % 4 {
        let cell = CellHandle((index % 7 + event * 100) as u32);
        let after = Counts { on_hand: index as i64, ..Counts::default() };
        let change = CellChange { cell, after, delta: Counts { on_hand: 1, ..Counts::default() } };
        writer.cell_event(&Cause::new(EventKind::Received, id(index)), &change, false);
    }
    writer.finish()
}

/// The sequence number of the first event of an entry.
pub fn first_of(index: u64) -> u64 {
    1 + (1..index).map(|index| 1 + index % 4).sum::<u64>()
}

pub fn append(log: &EventLog, indices: impl IntoIterator<Item = u64>) {
    indices.into_iter().for_each(|index| drop(log.append(record(index, first_of(index)))));
}

pub fn open(
    disk: &SimStorage,
    options: EventOptions,
    position: Position,
) -> std::io::Result<EventLog> {
    EventLog::open(Arc::new(disk.clone()), &world(), options, SHARD, position, Arc::new(|_| ()))
}

/// All records from an event on, by the index of their entries.
pub fn read_all(log: &EventLog, mut from: u64) -> Vec<u64> {
    let mut indices = Vec::new();
    loop {
        let chunk = match log.read(from, 100) {
            Ok(chunk) => chunk,
            Err(ReadError::Ahead { next }) if next == from => return indices,
            Err(error) => panic!("{from}: {error}"),
        };
        let mut reader = Reader::new(&chunk.bytes);
        while !reader.is_empty() {
            let record = EventRecord::take(&mut reader).unwrap();
            assert_eq!(record.header().first, from);
            from = record.header().next();
            indices.push(record.header().index);
        }
        assert_eq!(chunk.next, from);
    }
}

pub const NONE: [u64; 0] = [];
pub const SMALL: EventOptions =
    EventOptions { retention_ms: u64::MAX, bytes_max: u64::MAX, segment_bytes: 2_048 };

/// The writer has done what it does by itself.
pub async fn settled() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

/// The log's time after an entry, in ms.
pub fn time_of(index: u64) -> u64 {
    START_MS + index * 10
}

/// The index of the entry whose events begin at a position.
pub fn index_at(position: Position) -> u64 {
    (1..).find(|index| first_of(*index) >= position.next).unwrap()
}

/// What is in the files of a disk, by name.
pub fn content(disk: &SimStorage) -> BTreeMap<String, Vec<u8>> {
    let read = |entry: FileEntry| {
        let content = disk.read_small(&entry.name).unwrap().unwrap();
        (entry.name, content)
    };
    disk.list().unwrap().into_iter().map(read).collect()
}

/// Reads a directory from outside with all checks: the index of each entry, and what is behind the records.
pub fn audit(disk: &SimStorage) -> Result<(Vec<u64>, Position, u64), ReadError> {
    let directory = EventDir::open(disk)?;
    let mut records = directory.records(Checks::Index);
    let mut indices = Vec::new();
    while let Some(found) = records.next()? {
        indices.push(found.record.header().index);
    }
    Ok((indices, records.position().unwrap(), records.ignored_bytes()))
}

/// The entries of all events about a key, in the order in which they are shown.
pub fn scanned(log: &EventLog, key: Key, range: Range<u64>, direction: Direction) -> Vec<u64> {
    let mut indices = Vec::new();
    let result = log.scan(key, range, direction, &mut |event| {
        indices.push(event.index);
        ControlFlow::Continue(())
    });
    assert_eq!(result.unwrap(), ControlFlow::Continue(()));
    indices
}

/// The index of the entry that begins with an event.
pub fn index_of(first: u64) -> u64 {
    index_at(Position::unknown(first))
}

/// The positions before each entry from the first on.
pub async fn positions(count: u64) -> Vec<Position> {
    let log = open(&SimStorage::new(), SMALL, Position::START).unwrap();
    let mut all = vec![Position::START];
    for index in 1..count {
        append(&log, [index]);
        all.push(log.mark().await.unwrap());
    }
    all
}

/// Asks until it is so.
pub async fn marked(log: &EventLog) -> Position {
    loop {
        if let Ok(position) = log.mark().await {
            return position;
        }
    }
}
