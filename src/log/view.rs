//! Some files of a directory, under the names that a reader expects; nothing can be written.
//!
//! So everything that reads a log reads one together with the segments that were put aside, and everything that reads
//! a data directory reads a backup.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::replay::first_header;
use super::storage::{File, FileEntry, Storage};
use super::{Error, kept, segment};

/// See the module.
pub struct View<'a> {
    storage: &'a dyn Storage,
    /// Files of the directory, by the names that are shown.
    files: BTreeMap<String, FileEntry>,
}

impl<'a> View<'a> {
    /// The files for which `shown` gives a name, as they are now.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn new(
        storage: &'a dyn Storage,
        mut shown: impl FnMut(&FileEntry) -> Option<String>,
    ) -> io::Result<Self> {
        let entries = storage.list()?.into_iter();
        let files = entries.filter_map(|entry| Some((shown(&entry)?, entry))).collect();
        Ok(Self { storage, files })
    }

    /// Everything, and kept segments as if they had never been purged: those of the same log from which it goes on
    /// without a hole.
    ///
    /// # Errors
    /// The log does not begin with a sound header; what the operating system says.
    pub fn with_kept(storage: &'a dyn Storage) -> Result<Self, Error> {
        let io = |source| Error::Io { deed: "list", file: storage.path(""), source };
        let mut view = Self::new(storage, |entry| Some(entry.name.clone())).map_err(io)?;
        let Some(first) = first_header(storage)? else { return Ok(view) };
        for kept in kept::before(storage, first).map_err(io)? {
            let entry = FileEntry { name: kept.name(), bytes: kept.bytes };
            view.files.remove(&entry.name);
            view.files.insert(segment::name(kept.number), entry);
        }
        Ok(view)
    }

    fn name<'b>(&'b self, shown: &'b str) -> &'b str {
        self.files.get(shown).map_or(shown, |entry| &entry.name)
    }
}

impl Storage for View<'_> {
    fn create(&self, _: &str) -> io::Result<Arc<dyn File>> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        match self.files.get(name) {
            Some(entry) => self.storage.open(&entry.name),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn list(&self) -> io::Result<Vec<FileEntry>> {
        let entry = |(name, entry): (&String, &FileEntry)| FileEntry {
            name: name.clone(),
            bytes: entry.bytes,
        };
        Ok(self.files.iter().map(entry).collect())
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn sync_dir(&self) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn path(&self, name: &str) -> String {
        self.storage.path(self.name(name))
    }
}
