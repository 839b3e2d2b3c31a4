//! Snapshot files: a state and its place in the log.
//!
//! ```text
//! snapshot-{index}-{term}
//! offset size
//!      0    8  magic "STKDSNAP"
//!      8    4  format = 2
//!     12    4  len of meta · then meta · crc32 of meta u32
//!               meta: log ids · membership · next event u64 · chain of the events before it 32 bytes (events/position.rs)
//!      …       chunks: len u32 · crc32 u32 · bytes     the engine's own format inside
//!      …       end: len u32 = 0 · crc32 u32 = ffffffff
//! ```
//!
//! A file is written under a temporary name, synced, compared with what the log makes (`reconcile`), renamed, and the
//! directory synced, before Raft hears of it: the log below it is purged after that. The bytes sent to a peer are the file's.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::{mpsc, oneshot};

use super::error::Error;
use super::types::{RaftLogId, SnapshotMeta, put_snapshot_meta, take_snapshot_meta};
use crate::engine::{EngineConfig, SnapshotLoader, StockState};
use crate::events::Position;
use crate::log::{File, Storage};
use crate::protocol::{Reader, Truncated};
use crate::world::World;

const MAGIC: &[u8; 8] = b"STKDSNAP";
const FORMAT: u32 = 2;
/// Bytes of state that one chunk holds, and that one short lock copies.
pub const CHUNK_BYTES_MAX: usize = 1 << 20;
/// No chunk is larger, whatever a file says.
const CHUNK_BYTES_LIMIT: u32 = 16 << 20;
const END_CRC: u32 = u32::MAX;
/// Chunks that wait for the disk while a snapshot is written.
const CHUNKS_QUEUED_MAX: usize = 4;
/// A snapshot is written at most this fast, a chunk at a time and each synced: the log's syncs share
/// the disk, and a gigabyte of dirty pages would hold them up for tenths of a second.
const CHUNK_PAUSE: Duration = Duration::from_millis(8);
const PREFIX: &str = "snapshot-";
/// The name under which a snapshot is written.
const BUILDING: &str = "snapshot.building.tmp";
const INCOMING_PREFIX: &str = "snapshot.incoming-";

/// The name under which a node's `number`th incoming snapshot arrives. Each has its own: one that a
/// broken connection left behind must not write into its successor, nor into one being installed.
pub fn incoming_name(number: u64) -> String {
    format!("{INCOMING_PREFIX}{number}.tmp")
}

/// What is in a snapshot file.
pub struct Loaded {
    pub meta: SnapshotMeta,
    /// Where the events of later entries begin.
    pub events: Position,
    pub stock: StockState,
}

/// A whole snapshot file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotHandle {
    pub name: String,
    pub bytes: u64,
}

fn name_of(id: Option<RaftLogId>) -> String {
    let (index, term) = id.map_or((0, 0), |id| (id.index, id.leader_id.term));
    format!("{PREFIX}{index:020}-{term:020}")
}

/// It is the name of a snapshot that was published.
pub fn is_whole(name: &str) -> bool {
    name.starts_with(PREFIX) && !name.ends_with(".tmp")
}

/// The newest whole snapshot. Temporary files of earlier runs are removed.
pub fn newest(storage: &dyn Storage) -> io::Result<Option<SnapshotHandle>> {
    for entry in storage.list()? {
        if entry.name == BUILDING || entry.name.starts_with(INCOMING_PREFIX) {
            storage.remove(&entry.name)?;
        }
    }
    find_newest(storage)
}

/// The newest whole snapshot. Nothing is removed: the directory may be another process's.
pub fn find_newest(storage: &dyn Storage) -> io::Result<Option<SnapshotHandle>> {
    let entries = storage.list()?.into_iter();
    let whole = entries.filter(|entry| is_whole(&entry.name));
    let newest = whole.max_by(|one, other| one.name.cmp(&other.name));
    Ok(newest.map(|entry| SnapshotHandle { name: entry.name, bytes: entry.bytes }))
}

/// Removes every snapshot older than `newest`. A later one may have been installed while this one
/// was written, and the log below that one is gone.
fn remove_older(storage: &dyn Storage, newest: &str) -> io::Result<()> {
    for entry in storage.list()? {
        if is_whole(&entry.name) && entry.name.as_str() < newest {
            storage.remove(&entry.name)?;
        }
    }
    Ok(())
}

/// Gives the file `temporary` its final name, durably, and removes older snapshots.
pub fn publish(
    storage: &dyn Storage,
    temporary: &str,
    id: Option<RaftLogId>,
) -> io::Result<String> {
    let name = name_of(id);
    storage.rename(temporary, &name)?;
    storage.sync_dir()?;
    remove_older(storage, &name)?;
    Ok(name)
}

/// Writes a snapshot on a thread of its own: send it chunks and an empty one after the last, await its size, and
/// [`publish_built`] it.
pub fn write(
    world: &World,
    storage: Arc<dyn Storage>,
    meta: &SnapshotMeta,
    events: Position,
) -> io::Result<(mpsc::Sender<Bytes>, oneshot::Receiver<io::Result<u64>>)> {
    let (chunks, mut incoming) = mpsc::channel::<Bytes>(CHUNKS_QUEUED_MAX);
    let (done, bytes) = oneshot::channel();
    let meta = meta.clone();
    let body = async move {
        let result = write_all(storage.as_ref(), &meta, events, &mut incoming).await;
        if result.is_err() {
            discard(storage.as_ref());
        }
        // The builder may have been cancelled with its node.
        let _ = done.send(result);
    };
    world.threads.spawn("snapshot-write", Box::pin(body))?;
    Ok((chunks, bytes))
}

async fn write_all(
    storage: &dyn Storage,
    meta: &SnapshotMeta,
    events: Position,
    incoming: &mut mpsc::Receiver<Bytes>,
) -> io::Result<u64> {
    let file = storage.create(BUILDING)?;
    let mut out = BytesMut::new();
    put_header(&mut out, meta, events);
    let mut offset = 0;
    let mut flush = |out: &mut BytesMut| {
        file.write_at(offset, out)?;
        offset += out.len() as u64;
        out.clear();
        io::Result::Ok(offset)
    };
    let mut aborted = true;
    while let Some(chunk) = incoming.recv().await {
        if chunk.is_empty() {
            aborted = false;
            break;
        }
        put_chunk(&mut out, &chunk);
        flush(&mut out)?;
        file.sync_data()?;
        tokio::time::sleep(CHUNK_PAUSE).await;
    }
    if aborted {
        return Err(io::ErrorKind::Interrupted.into());
    }
    put_end(&mut out);
    let bytes = flush(&mut out)?;
    file.sync_data()?;
    Ok(bytes)
}

/// Publishes what [`write`] has written, on a thread of its own.
pub async fn publish_built(
    world: &World,
    storage: Arc<dyn Storage>,
    id: Option<RaftLogId>,
    bytes: u64,
) -> io::Result<SnapshotHandle> {
    let deed = move || publish(storage.as_ref(), BUILDING, id);
    let name = aside(world, "snapshot-publish", deed).await?;
    Ok(SnapshotHandle { name, bytes })
}

/// Gives the space of what [`write`] has written back. What cannot be removed now is removed by the next start.
fn discard(storage: &dyn Storage) {
    let _ = storage.remove(BUILDING);
}

/// [`discard`] on a thread of its own: a large file takes a while.
pub async fn discard_aside(world: &World, storage: Arc<dyn Storage>) -> io::Result<()> {
    let deed = move || {
        discard(storage.as_ref());
        Ok(())
    };
    aside(world, "snapshot-discard", deed).await
}

fn put_header(out: &mut BytesMut, meta: &SnapshotMeta, events: Position) {
    let mut body = BytesMut::new();
    put_snapshot_meta(&mut body, meta);
    body.put_u64_le(events.next);
    body.put_slice(&events.told_chain());
    out.put_slice(MAGIC);
    out.put_u32_le(FORMAT);
    out.put_u32_le(body.len() as u32);
    out.put_slice(&body);
    out.put_u32_le(crc32fast::hash(&body));
}

fn put_chunk(out: &mut BytesMut, chunk: &[u8]) {
    out.put_u32_le(chunk.len() as u32);
    out.put_u32_le(crc32fast::hash(chunk));
    out.put_slice(chunk);
}

fn put_end(out: &mut BytesMut) {
    out.put_u32_le(0);
    out.put_u32_le(END_CRC);
}

/// A snapshot file being read from front to back.
struct FileReader<'a> {
    file: Arc<dyn File>,
    path: String,
    offset: u64,
    bytes: u64,
    progress: &'a mut dyn FnMut(u64, u64),
}

impl<'a> FileReader<'a> {
    fn open(
        storage: &dyn Storage,
        name: &str,
        progress: &'a mut dyn FnMut(u64, u64),
    ) -> Result<Self, Error> {
        let path = storage.path(name);
        let io = |source| Error::Io { file: path.clone(), source };
        let file = storage.open(name).map_err(io)?;
        let bytes = file.bytes().map_err(io)?;
        Ok(Self { file, path, offset: 0, bytes, progress })
    }

    fn damaged(&self, what: impl Into<String>) -> Error {
        Error::DamagedSnapshot { file: self.path.clone(), offset: self.offset, what: what.into() }
    }

    fn take(&mut self, len: usize) -> Result<Bytes, Error> {
        if len as u64 > self.bytes - self.offset {
            return Err(self.damaged("the file ends inside a record"));
        }
        let mut content = vec![0; len];
        let read = self.file.read_at(self.offset, &mut content);
        read.map_err(|source| Error::Io { file: self.path.clone(), source })?;
        self.offset += len as u64;
        (self.progress)(self.offset, self.bytes);
        Ok(content.into())
    }

    fn take_u32(&mut self) -> Result<u32, Error> {
        let bytes = self.take(4)?;
        Ok(Reader::new(&bytes).u32().expect("four bytes"))
    }

    fn take_meta(&mut self) -> Result<(SnapshotMeta, Position), Error> {
        if self.take(8)?[..] != *MAGIC {
            return Err(self.damaged("this is no snapshot"));
        }
        let format = self.take_u32()?;
        if format != FORMAT {
            return Err(self.damaged(format!("format {format} is of another version")));
        }
        let len = self.take_u32()?.min(CHUNK_BYTES_LIMIT);
        let body = self.take(len as usize)?;
        if self.take_u32()? != crc32fast::hash(&body) {
            return Err(self.damaged("the header's checksum is wrong"));
        }
        let mut reader = Reader::new(&body);
        let meta = take_snapshot_meta(&mut reader);
        let meta = meta.map_err(|error| self.damaged(error.to_string()))?;
        let mut events = || Ok(Position::told(reader.u64()?, reader.array()?));
        let events = events().map_err(|_: Truncated| self.damaged("the header is cut off"))?;
        Ok((meta, events))
    }

    /// The next chunk, or `None` at the end mark.
    fn take_chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let len = self.take_u32()?;
        let crc = self.take_u32()?;
        if len == 0 && crc == END_CRC {
            return Ok(None);
        }
        if len == 0 || len > CHUNK_BYTES_LIMIT {
            return Err(self.damaged(format!("a chunk of {len} bytes cannot be")));
        }
        let chunk = self.take(len as usize)?;
        if crc32fast::hash(&chunk) != crc {
            return Err(self.damaged("a chunk's checksum is wrong"));
        }
        Ok(Some(chunk))
    }
}

/// Reads a snapshot file into a state.
///
/// # Errors
/// The file cannot be read or is damaged; nothing was changed.
pub fn load(
    storage: &dyn Storage,
    name: &str,
    config: &EngineConfig,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Loaded, Error> {
    let mut reader = FileReader::open(storage, name, progress)?;
    let (meta, events) = reader.take_meta()?;
    let mut loader = SnapshotLoader::new(*config);
    while let Some(chunk) = reader.take_chunk()? {
        loader.feed(&chunk).map_err(|error| reader.damaged(error.to_string()))?;
    }
    let stock = loader.finish().map_err(|error| reader.damaged(error.to_string()))?;
    match events.next == stock.next_event() {
        true => Ok(Loaded { meta, events, stock }),
        false => Err(reader.damaged("the header and the state count events differently")),
    }
}

/// Reads a snapshot's place in the log and among the events.
///
/// # Errors
/// The file cannot be read, or its head is damaged.
pub fn peek(storage: &dyn Storage, name: &str) -> Result<(SnapshotMeta, Position), Error> {
    FileReader::open(storage, name, &mut |_, _| ())?.take_meta()
}

/// Writes a snapshot of a state to which nothing happens meanwhile, in a directory that no node uses.
///
/// # Errors
/// What the operating system says.
pub fn write_still(
    storage: &dyn Storage,
    (meta, events): (&SnapshotMeta, Position),
    stock: &mut StockState,
    progress: &mut dyn FnMut(u64),
) -> io::Result<()> {
    let file = storage.create(BUILDING)?;
    let mut out = BytesMut::new();
    put_header(&mut out, meta, events);
    let mut cut = stock.begin_snapshot();
    let mut offset = 0;
    while let Some(chunk) = stock.snapshot_chunk(&mut cut, CHUNK_BYTES_MAX) {
        put_chunk(&mut out, &chunk);
        file.write_at(offset, &out)?;
        offset += out.len() as u64;
        out.clear();
        progress(offset);
    }
    stock.end_snapshot(cut);
    put_end(&mut out);
    file.write_at(offset, &out)?;
    file.sync_data()?;
    publish(storage, BUILDING, meta.last_log_id).map(drop)
}

/// Reads a snapshot file for its checksums alone: a damaged one must not reach the state machine,
/// where it would stop the node.
///
/// # Errors
/// The file cannot be read or is damaged.
pub fn verify(storage: &dyn Storage, name: &str) -> Result<(), Error> {
    let progress = &mut |_, _| ();
    let mut reader = FileReader::open(storage, name, progress)?;
    reader.take_meta()?;
    while reader.take_chunk()?.is_some() {}
    Ok(())
}

/// Runs a blocking deed on a thread of its own, so that a node goes on answering meanwhile.
pub async fn aside<T: Send + 'static>(
    world: &World,
    name: &str,
    deed: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    let (done, result) = oneshot::channel();
    let body = async move {
        // The node may be stopping and no longer wait.
        let _ = done.send(deed());
    };
    world.threads.spawn(name, Box::pin(body))?;
    result.await.unwrap_or_else(|_| Err(io::ErrorKind::Interrupted.into()))
}

/// [`load`] on a thread of its own.
pub async fn load_aside(
    world: &World,
    storage: Arc<dyn Storage>,
    name: String,
    config: EngineConfig,
) -> Result<Loaded, Error> {
    let path = storage.path(&name);
    let deed = move || Ok(load(storage.as_ref(), &name, &config, &mut |_, _| ()));
    let loaded = aside(world, "snapshot-load", deed).await;
    loaded.map_err(|source| Error::Io { file: path, source })?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::RealStorage;

    #[test]
    fn an_older_snapshot_does_not_displace_one_installed_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let storage = RealStorage::open(directory.path()).unwrap();
        let publish_at = |term, index| {
            storage.create(BUILDING).unwrap();
            publish(&storage, BUILDING, Some(RaftLogId::new_term_index(term, index))).unwrap()
        };
        let installed = publish_at(2, 1_000);
        publish_at(1, 999);
        assert_eq!(newest(&storage).unwrap().map(|newest| newest.name), Some(installed));
        publish_at(2, 1_001);
        assert_eq!(
            storage.list().unwrap().iter().filter(|e| e.name.starts_with(PREFIX)).count(),
            1
        );
    }
}
