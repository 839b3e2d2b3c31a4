//! A log as files: which there are, and how much of each is on disk and will stay as it is.
//!
//! For backups of a log that is being written. Segments that were put aside are listed under the names that they had.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use stockd_protocol::ShardId;

use super::replay::first_header;
use super::segment::{self, HeaderFault, Position};
use super::storage::{File, Storage};
use super::{Error, Log, RecordId, kept};

/// A segment that is renamed while the directory is read may be missed; it is looked for again.
const ATTEMPTS: u32 = 4;

/// A file, as far as it is on disk: what a backup can copy while a node goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DurableFile {
    /// Its name.
    pub name: String,
    /// So many bytes of it are on disk and will stay as they are.
    pub bytes: u64,
    /// It will never have more.
    pub is_sealed: bool,
}

/// How a segment in a directory begins, as its header says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SegmentStart {
    /// The segment's name.
    pub name: String,
    /// Its number in the log.
    pub number: u64,
    /// The last record of the shard before it.
    pub last: Option<RecordId>,
}

/// How the segments of a directory begin, by their numbers: those that have a header.
///
/// # Errors
/// One belongs to another log than the first, or is of another version. What the operating system says.
pub fn segment_starts(storage: &dyn Storage, shard: ShardId) -> Result<Vec<SegmentStart>, Error> {
    let io = |name: &str| {
        let file = storage.path(name);
        |source| Error::Io { deed: "read", file, source }
    };
    let (mut starts, mut log_id) = (Vec::new(), None);
    for entry in storage.list().map_err(io(""))? {
        let Some(number) = segment::number_of(&entry.name) else { continue };
        let header = storage.open(&entry.name).and_then(|file| segment::read_header(&*file));
        let header = match header.map_err(io(&entry.name))? {
            Ok(header) => header,
            Err(HeaderFault::Bad) => continue,
            Err(HeaderFault::Version(have)) => {
                let file = storage.path(&entry.name);
                return Err(Error::Version { file, have, want: segment::FORMAT_VERSION });
            }
        };
        if *log_id.get_or_insert(header.log_id) != header.log_id || header.number != number {
            return Err(Error::Foreign { file: storage.path(&entry.name) });
        }
        let last = header.states.get(&shard).and_then(|state| state.last);
        starts.push(SegmentStart { name: entry.name, number, last });
    }
    Ok(starts)
}

impl Log {
    /// The segments with records, the oldest first: those that are kept, as far as they go on without a hole, and
    /// those of the log, up to what is on disk. Reads the disk.
    ///
    /// # Errors
    /// What the operating system says, and what the first segment's header has become.
    pub fn files(&self) -> Result<Vec<DurableFile>, Error> {
        let mut attempt = 1;
        loop {
            match self.try_files() {
                Ok(files) if is_gapless(&files) || attempt == ATTEMPTS => return Ok(files),
                Err(error) if !is_gone(&error) || attempt == ATTEMPTS => return Err(error),
                _ => attempt += 1,
            }
        }
    }

    fn try_files(&self) -> Result<Vec<DurableFile>, Error> {
        let storage = &*self.shared.storage;
        let io = |source| Error::Io { deed: "list", file: storage.path(""), source };
        let end = Position::from_word(self.shared.synced.load(Ordering::Acquire));
        let Some(first) = first_header(storage)? else { return Ok(Vec::new()) };
        let aside = kept::before(storage, first).map_err(io)?.into_iter();
        let aside = aside.map(|kept| (kept.number, kept.bytes));
        let entries = storage.list().map_err(io)?;
        let mut live: Vec<_> = entries
            .iter()
            .filter_map(|entry| Some((segment::number_of(&entry.name)?, entry.bytes)))
            .filter(|(number, _)| (first.1..=end.number()).contains(number))
            .collect();
        live.sort_unstable();
        let file = |(number, bytes)| {
            let is_sealed = number < end.number();
            let bytes = if is_sealed { bytes } else { end.offset() };
            DurableFile { name: segment::name(number), bytes, is_sealed }
        };
        Ok(aside.chain(live).map(file).collect())
    }

    /// Opens a segment for reading, by the name that it has or had; `None`: this is no name of a segment.
    ///
    /// # Errors
    /// `NotFound`: it is gone. What else the operating system says.
    pub fn open_file(&self, name: &str) -> io::Result<Option<Arc<dyn File>>> {
        let storage = &*self.shared.storage;
        let Some(number) = segment::number_of(name) else { return Ok(None) };
        match storage.open(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened.map(Some),
        }
        let first = first_header(storage).map_err(io::Error::other)?;
        let aside =
            first.map(|first| kept::before(storage, first)).transpose()?.unwrap_or_default();
        match aside.iter().find(|kept| kept.number == number) {
            Some(kept) => storage.open(&kept.name()).map(Some),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }
}

fn is_gapless(files: &[DurableFile]) -> bool {
    let number = |file: &DurableFile| segment::number_of(&file.name);
    files.windows(2).all(|pair| number(&pair[0]).map(|number| number + 1) == number(&pair[1]))
}

/// It was put aside or removed between two looks.
fn is_gone(error: &Error) -> bool {
    match error {
        Error::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        Error::MissingSegment { .. } => true,
        _ => false,
    }
}
