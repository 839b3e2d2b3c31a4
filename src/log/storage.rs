//! The door to the disk: every file of the data directory is opened here.
//!
//! [`RealStorage`] is a directory; [`SimStorage`](super::SimStorage) is one in memory that can lose
//! power. Names are flat: no separators, no sub-directories. What the callers can rely on, and the
//! power-cut tests do:
//!
//! - bytes are on disk when [`File::sync_data`] has returned, whatever the file's size was before;
//! - a name is on disk (or gone) when [`Storage::sync_dir`] has returned;
//! - bytes written and not synced may be there, be gone or be there in parts after a power cut, in
//!   any order.

use std::fs;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::fs::{Advice, fadvise};

use super::{Error, mmap};

/// A file's name and size.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct FileEntry {
    /// The name inside the directory.
    pub name: String,
    /// Its length.
    pub bytes: u64,
}

/// A directory of files.
pub trait Storage: Send + Sync {
    /// Makes an empty file, or empties the one that is there, for reading and writing.
    ///
    /// # Errors
    /// What the operating system says.
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// Opens a file that exists, for reading and (unless the storage is read-only) writing.
    ///
    /// # Errors
    /// `NotFound`, and what else the operating system says.
    fn open(&self, name: &str) -> io::Result<Arc<dyn File>>;

    /// All files, by name.
    ///
    /// # Errors
    /// What the operating system says.
    fn list(&self) -> io::Result<Vec<FileEntry>>;

    /// Removes a file; open handles and mappings of it go on working.
    ///
    /// # Errors
    /// `NotFound`, and what else the operating system says.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Gives a file another name, in one step; a file that had that name is gone.
    ///
    /// # Errors
    /// `NotFound`, and what else the operating system says.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Waits until the names are on disk.
    ///
    /// # Errors
    /// What the operating system says; the names are then in doubt.
    fn sync_dir(&self) -> io::Result<()>;

    /// The file's full path, for messages.
    fn path(&self, name: &str) -> String;

    /// How long the log's writer sleeps before each sync: the latency of a simulated disk. Zero on a
    /// real one, where the sync itself takes the time.
    fn sync_delay(&self) -> Duration {
        Duration::ZERO
    }

    /// The content of a small file, or `None` when there is none.
    ///
    /// # Errors
    /// What the operating system says.
    fn read_small(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        let file = match self.open(name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut content = vec![0; file.bytes()? as usize];
        file.read_at(0, &mut content)?;
        Ok(Some(content))
    }

    /// Replaces a small file in one step: after a power cut it has the old content or the new one,
    /// and once this has returned, the new one.
    ///
    /// # Errors
    /// What the operating system says; the file is then as before, or as after.
    fn replace_small(&self, name: &str, content: &[u8]) -> io::Result<()> {
        let temporary = format!("{name}.tmp");
        let file = self.create(&temporary)?;
        file.write_at(0, content)?;
        file.sync_data()?;
        self.rename(&temporary, name)?;
        self.sync_dir()
    }
}

/// An open file.
pub trait File: Send + Sync {
    /// Writes all of `bytes` at `offset`, growing the file if need be.
    ///
    /// # Errors
    /// What the operating system says; a part may have been written.
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()>;

    /// Fills `bytes` from `offset`.
    ///
    /// # Errors
    /// `UnexpectedEof` when the file ends before, and what the operating system says.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()>;

    /// Waits until everything written so far is on disk.
    ///
    /// # Errors
    /// What the operating system says. Nobody knows then what is on disk; a second call may say yes
    /// without any reason, so do not make one.
    fn sync_data(&self) -> io::Result<()>;

    /// Nobody will read these bytes soon, which are on disk: the system may have the memory in which it keeps them. A hint.
    fn uncache(&self, bytes: Range<u64>);

    /// Shortens the file to so many bytes. Only for files that nobody has mapped: whoever reads what is
    /// gone from a mapping dies of it. Without a sync, what was cut off may be back after a power cut.
    ///
    /// # Errors
    /// What the operating system says.
    fn truncate(&self, bytes: u64) -> io::Result<()>;

    /// The file's length.
    ///
    /// # Errors
    /// What the operating system says.
    fn bytes(&self) -> io::Result<u64>;

    /// The whole content, without reading it now. Only for files that are no longer written.
    ///
    /// # Errors
    /// What the operating system says.
    fn map(&self) -> io::Result<Bytes>;
}

/// True when the disk, the quota or the largest file size is the reason.
pub fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

/// A directory of the operating system.
pub struct RealStorage {
    directory: PathBuf,
    write: bool,
    /// Held for the lock on it.
    _lock: Option<fs::File>,
}

/// The file whose lock says that a process has the directory.
const LOCK: &str = "lock";

impl RealStorage {
    /// Makes the directory if there is none, and takes it for this process.
    ///
    /// # Errors
    /// [`Error::Locked`] when another process has it; [`Error::Io`].
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(LOCK).display().to_string();
        let io = |deed| {
            let file = path.clone();
            move |source| Error::Io { deed, file, source }
        };
        fs::create_dir_all(directory).map_err(io("make the directory of"))?;
        let lock = fs::File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(directory.join(LOCK))
            .map_err(io("open"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { directory: directory.to_owned(), write: true, _lock: Some(lock) }),
            Err(fs::TryLockError::WouldBlock) => Err(Error::Locked { file: path }),
            Err(fs::TryLockError::Error(source)) => Err(io("lock")(source)),
        }
    }

    /// Opens a directory to look at it, also while a node runs on it. Writing fails.
    ///
    /// # Errors
    /// [`Error::Io`] when it is no directory.
    pub fn open_read_only(directory: &Path) -> Result<Self, Error> {
        let path = directory.display().to_string();
        fs::read_dir(directory).map_err(|source| Error::Io { deed: "list", file: path, source })?;
        Ok(Self { directory: directory.to_owned(), write: false, _lock: None })
    }

    fn checked(&self) -> io::Result<()> {
        if self.write { Ok(()) } else { Err(io::ErrorKind::ReadOnlyFilesystem.into()) }
    }
}

impl Storage for RealStorage {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        self.checked()?;
        let mut options = fs::File::options();
        options.read(true).write(true).create(true).truncate(true);
        Ok(Arc::new(RealFile(options.open(self.directory.join(name))?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut options = fs::File::options();
        options.read(true).write(self.write);
        Ok(Arc::new(RealFile(options.open(self.directory.join(name))?)))
    }

    fn list(&self) -> io::Result<Vec<FileEntry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                entries.push(FileEntry { name, bytes: metadata.len() });
            }
        }
        entries.sort();
        Ok(entries)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.checked()?;
        fs::remove_file(self.directory.join(name))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.checked()?;
        fs::rename(self.directory.join(from), self.directory.join(to))
    }

    fn sync_dir(&self) -> io::Result<()> {
        fs::File::open(&self.directory)?.sync_all()
    }

    fn path(&self, name: &str) -> String {
        self.directory.join(name).display().to_string()
    }
}

struct RealFile(fs::File);

impl File for RealFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all_at(bytes, offset)
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        self.0.read_exact_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.sync_data()
    }

    fn uncache(&self, bytes: Range<u64>) {
        let len = NonZeroU64::new(bytes.end.saturating_sub(bytes.start));
        if len.is_some() {
            // A system that does not take hints keeps the bytes.
            let _ = fadvise(&self.0, bytes.start, len, Advice::DontNeed);
        }
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        self.0.set_len(bytes)
    }

    fn bytes(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn map(&self) -> io::Result<Bytes> {
        mmap::map(&self.0)
    }
}
