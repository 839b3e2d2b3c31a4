//! How far a program has come with the events, on disk, and what it must know to go on.
//!
//! ```text
//! offset size  field
//!      0    8  magic = "STKDCUR1"
//!      8    4  crc32       over everything after this field
//!     12    8  cluster_id  little-endian, as all numbers
//!     20    8  next        the number of the first event that is not handled
//!     28    4  len         of data
//!     32    …  data        the program's own
//! ```
//!
//! A file is written whole under another name, synced, and renamed, and then its directory is synced: after a crash at
//! any moment the old state is there or the new one.
//!
//! # At least once, and exactly once
//!
//! Whoever handles a batch and then saves its [`next`](super::Batch::next) handles every event **at least once**: after
//! a crash between the two it comes again. Whoever saves first handles it at most once.
//!
//! For effects that must happen **exactly once**, make repeating them harmless:
//!
//! - *Effects in a database of your own*: write them and `next` in one transaction, and begin there with
//!   [`from_sequence`](super::Subscription::from_sequence). No cursor is needed.
//! - *Effects in stockd*: a write with an op_id happens once. Make the id, save it with what it is for in
//!   [`save_with`](Cursor::save_with), and only then send it; after a crash, send what is in [`data`](Cursor::data)
//!   again, under the same ids: what was done is answered as a replay. Ids are remembered for a week, unless servers
//!   are told otherwise; after that the answer is ID_TOO_OLD, the write is never done any more, and an event with the id
//!   tells whether it was. `examples/replenish.rs` does all this.
//! - *Effects elsewhere*: send the event's number along, and let the other side keep the largest that it has seen.
//!
//! ```no_run
//! # async fn follow() -> Result<(), Box<dyn std::error::Error>> {
//! use stockd_client::events::{Cursor, Subscription};
//!
//! let mut cursor = Cursor::open("orders.cursor")?;
//! let mut stream = Subscription::new("127.0.0.1:7400").oldest().resume(&cursor).open().await?;
//! cursor.bind(&stream)?;
//! loop {
//!     let batch = stream.next().await?;
//!     for event in batch.events() {
//!         println!("{event}");
//!     }
//!     cursor.save(batch.next())?;
//! }
//! # }
//! ```

use std::ffi::OsString;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use stockd_protocol::{Reader, Truncated, crc32};

use super::stream::EventStream;

const MAGIC: &[u8; 8] = b"STKDCUR1";
/// Magic and checksum, which the checksum does not cover.
const UNCHECKED_BYTES: usize = 12;
/// Most bytes of a program's own: all of it is written at each save.
const DATA_BYTES_MAX: usize = 1 << 20;

/// A place in the events of a cluster, in a file. One process at a time has it open.
#[derive(Debug)]
pub struct Cursor {
    path: PathBuf,
    state: State,
    /// Held for as long as it is open; the file itself is another one after each save.
    _lock: File,
}

#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct State {
    pub(super) cluster_id: Option<u64>,
    pub(super) next: Option<u64>,
    pub(super) data: Vec<u8>,
}

/// Why a cursor cannot be used.
#[derive(Debug)]
pub enum CursorError {
    /// The file is none, or is damaged: restore it, or remove it and say where to begin.
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        flaw: &'static str,
    },
    /// Another process has it open.
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The disk says no. What was saved before is still there, unless the disk lost it.
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// More than a mebibyte of data. Nothing was saved.
    TooLarge {
        /// Bytes of data.
        bytes: usize,
    },
    /// It was saved before [`Cursor::bind`] has said for which cluster. Nothing was saved.
    Unbound,
    /// It is of another cluster, whose numbers mean nothing here.
    WrongCluster {
        /// The cursor's cluster.
        expected: u64,
        /// The stream's.
        found: u64,
    },
}

impl Cursor {
    /// Opens the cursor in the file `path`, or a new one if there is none. A file beside it, `path.lock`, keeps other
    /// processes out.
    ///
    /// # Errors
    /// It is damaged or in use, or the disk says no.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, CursorError> {
        let path = path.into();
        let lock = lock(&path)?;
        let state = match fs::read(&path) {
            Ok(bytes) => State::decode(&bytes)
                .map_err(|flaw| CursorError::Damaged { path: path.clone(), flaw })?,
            Err(error) if error.kind() == ErrorKind::NotFound => State::default(),
            Err(error) => return Err(CursorError::Io { path, error }),
        };
        Ok(Self { path, state, _lock: lock })
    }

    /// The number of the first event that is not handled; `None`: nothing was saved yet.
    pub const fn position(&self) -> Option<u64> {
        self.state.next
    }

    /// The cluster that the number is of; `None`: not known yet.
    pub const fn cluster_id(&self) -> Option<u64> {
        self.state.cluster_id
    }

    /// What the program has saved with the position.
    pub fn data(&self) -> &[u8] {
        &self.state.data
    }

    /// Says which stream it is of. A new cursor is saved with the position of the stream: whatever happens from there
    /// on is not missed, though the program stops before it has handled anything.
    ///
    /// # Errors
    /// It is of another cluster, or the disk says no.
    pub fn bind(&mut self, stream: &EventStream) -> Result<(), CursorError> {
        let found = stream.cluster_id();
        match self.state.cluster_id {
            Some(expected) if expected != found => {
                Err(CursorError::WrongCluster { expected, found })
            }
            Some(_) => Ok(()),
            None => self.replace(State {
                cluster_id: Some(found),
                next: Some(stream.position()),
                data: Vec::new(),
            }),
        }
    }

    /// Saves the position: on disk when it returns. Blocks for as long as that takes, milliseconds mostly.
    ///
    /// # Errors
    /// It was not bound, or the disk says no; what was saved before is still so.
    pub fn save(&mut self, next: u64) -> Result<(), CursorError> {
        let state = State { next: Some(next), ..self.state.clone() };
        self.replace(state)
    }

    /// Saves the position and what belongs to it, both or neither.
    ///
    /// # Errors
    /// As [`save`](Self::save), and if `data` is larger than a mebibyte.
    pub fn save_with(&mut self, next: u64, data: &[u8]) -> Result<(), CursorError> {
        if data.len() > DATA_BYTES_MAX {
            return Err(CursorError::TooLarge { bytes: data.len() });
        }
        let (cluster_id, data) = (self.state.cluster_id, data.to_vec());
        self.replace(State { cluster_id, next: Some(next), data })
    }

    fn replace(&mut self, state: State) -> Result<(), CursorError> {
        let bytes = state.encode().ok_or(CursorError::Unbound)?;
        write_whole(&self.path, &bytes)
            .map_err(|error| CursorError::Io { path: self.path.clone(), error })?;
        self.state = state;
        Ok(())
    }
}

impl State {
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let mut out = [&MAGIC[..], &[0; 4]].concat();
        out.extend_from_slice(&self.cluster_id?.to_le_bytes());
        out.extend_from_slice(&self.next?.to_le_bytes());
        out.extend_from_slice(&(self.data.len() as u32).to_le_bytes());
        out.extend_from_slice(&self.data);
        let crc = crc32(&out[UNCHECKED_BYTES..]);
        out[MAGIC.len()..UNCHECKED_BYTES].copy_from_slice(&crc.to_le_bytes());
        Some(out)
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, &'static str> {
        let mut reader = Reader::new(bytes);
        let cut_off = |_: Truncated| "it is cut off";
        if reader.array::<8>().map_err(cut_off)? != *MAGIC {
            return Err("it is no cursor");
        }
        if reader.u32().map_err(cut_off)? != crc32(reader.rest()) {
            return Err("its checksum is wrong");
        }
        let cluster_id = Some(reader.u64().map_err(cut_off)?);
        let next = Some(reader.u64().map_err(cut_off)?);
        let len = reader.u32().map_err(cut_off)?;
        let data = reader.bytes(len as usize).map_err(cut_off)?.to_vec();
        match reader.is_empty() {
            true => Ok(Self { cluster_id, next, data }),
            false => Err("it goes on after its end"),
        }
    }
}

fn lock(path: &Path) -> Result<File, CursorError> {
    let path = beside(path, ".lock");
    let failed = |error| CursorError::Io { path: path.clone(), error };
    let file = OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(CursorError::InUse { path }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Puts a file in the place of another: the old one or the new one is there whatever happens.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let fresh = beside(path, ".new");
    let mut file = File::create(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&fresh, path)?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(directory.unwrap_or(Path::new(".")))?.sync_all()
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name: OsString = path.into();
    name.push(end);
    name.into()
}

impl fmt::Display for CursorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Damaged { path, flaw } => {
                let path = path.display();
                write!(f, "{path}: {flaw}; restore it, or remove it and say where to begin")
            }
            Self::InUse { path } => write!(f, "{}: another process is at it", path.display()),
            Self::Io { path, error } => write!(f, "{}: {error}", path.display()),
            Self::TooLarge { bytes } => {
                write!(f, "{bytes} bytes do not go into a cursor; {DATA_BYTES_MAX} do")
            }
            Self::Unbound => f.write_str("the cursor was not bound to a stream"),
            Self::WrongCluster { expected, found } => {
                write!(f, "the cursor is of cluster {expected:016x}, the events of {found:016x}")
            }
        }
    }
}

impl std::error::Error for CursorError {}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        State { cluster_id: Some(7), next: Some(99), data: b"two orders".to_vec() }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let whole = state().encode().expect("it is bound");
        assert_eq!(State::decode(&whole), Ok(state()));
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(State::decode(&bytes).is_err(), "bit {bit}");
        }
        for len in 0..whole.len() {
            assert!(State::decode(&whole[..len]).is_err(), "{len} bytes");
        }
        assert!(State::decode(&[&whole[..], b"x"].concat()).is_err());
    }

    #[test]
    fn nothing_is_saved_for_no_cluster() {
        assert_eq!(State { cluster_id: None, ..state() }.encode(), None);
    }
}
