//! Bringing a backup up to date: what the node has and the directory has not.
//!
//! A file comes under the name `NAME.part`, is synced, and gets its name. The manifest follows when everything that the
//! node has listed is there. A segment of the log that has grown is fetched from where it ended, because what was on
//! disk stays; a segment of events is fetched again, because a node may have begun it anew.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use sha2::{Digest, Sha256};

use super::manifest::{BackedUp, Manifest, sha256_of};
use super::{Error, MANIFEST, PIECE_BYTES, Progress};
use crate::log::{File, Storage};
use crate::protocol::BackupHead;

/// A file may go between the list and its turn; then the list is asked for again.
const ATTEMPTS: u32 = 8;
/// What a file is called that is not whole.
const PART: &str = ".part";
/// Written data is synced when there is so much of it, not all at the end.
const SYNC_BYTES: u64 = 64 << 20;

/// What a node has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Whose history it is, and how far it reaches.
    pub head: BackupHead,
    /// The files.
    pub files: Vec<Listed>,
}

/// A file that a node has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed {
    /// Its name.
    pub name: String,
    /// So much of it may be fetched.
    pub bytes: u64,
    /// It never grows.
    pub is_sealed: bool,
}

/// Why a node does not give what it was asked for.
#[derive(Debug)]
pub enum NodeError {
    /// It does not have the file any more, or not so much of it.
    Gone,
    /// It refuses, or is not there.
    Refused {
        /// What to tell people.
        message: String,
    },
    /// What it gave could not be taken.
    Sink(io::Error),
}

/// A node that is asked for its files.
pub trait Node {
    /// What it has now.
    ///
    /// # Errors
    /// See [`NodeError`].
    fn list(&mut self) -> Result<Listing, NodeError>;

    /// Gives bytes of a file to `sink`, in order.
    ///
    /// # Errors
    /// See [`NodeError`].
    fn read(
        &mut self,
        name: &str,
        range: Range<u64>,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), NodeError>;
}

/// What was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Updated {
    /// The backup as it is now.
    pub manifest: Manifest,
    /// Files that came, whole or in part.
    pub files: u64,
    /// Bytes that came.
    pub bytes: u64,
    /// Snapshots that went.
    pub removed: u64,
}

/// Fetches what is missing. `snapshots`: so many of the newest stay, at least one.
///
/// # Errors
/// See [`Error`]. What was fetched is kept, and the same call goes on from there.
pub fn update(
    storage: &dyn Storage,
    node: &mut dyn Node,
    snapshots: usize,
    progress: Progress<'_>,
) -> Result<Updated, Error> {
    let before = Manifest::read(storage)?;
    let have = before.as_ref().map(|before| before.files.clone()).unwrap_or_default();
    remove_parts(storage)?;
    let mut update = Update { storage, have, files: 0, bytes: 0 };
    let mut attempt = 1;
    let head = loop {
        let listing = node.list().map_err(|error| told(error, MANIFEST, storage))?;
        check(storage, before.as_ref(), &listing)?;
        match update.fetch_all(node, &listing, progress)? {
            None => break listing.head,
            Some(name) if attempt == ATTEMPTS => return Err(Error::Gone { name }),
            Some(_) => attempt += 1,
        }
    };
    let Update { mut have, files, bytes, .. } = update;
    let superfluous = superfluous_snapshots(&have, snapshots);
    superfluous.iter().for_each(|name| drop(have.remove(name)));
    let manifest = Manifest { head, files: have };
    manifest.write(storage)?;
    for name in &superfluous {
        storage.remove(name).map_err(Error::io(storage.path(name)))?;
    }
    Ok(Updated { manifest, files, bytes, removed: superfluous.len() as u64 })
}

/// What a run before has left behind.
fn remove_parts(storage: &dyn Storage) -> Result<(), Error> {
    let entries = storage.list().map_err(Error::io(storage.path("")))?;
    for entry in entries.iter().filter(|entry| entry.name.ends_with(PART)) {
        storage.remove(&entry.name).map_err(Error::io(storage.path(&entry.name)))?;
    }
    Ok(())
}

/// The listing is of the node whose backup this is, and names files alone.
fn check(storage: &dyn Storage, before: Option<&Manifest>, listing: &Listing) -> Result<(), Error> {
    let (file, is) = (storage.path(MANIFEST), listing.head);
    let other = |what| Err(Error::Other { file, what });
    if let Some(name) = listing.files.iter().map(|file| &file.name).find(|name| !is_safe(name)) {
        return Err(Error::Fault { what: format!("{name:?} is no name of a file") });
    }
    let Some(was) = before.map(|before| before.head) else { return Ok(()) };
    if was.cluster_id != is.cluster_id {
        return other(format!(
            "this is a backup of cluster {:016x}, and the node belongs to {:016x}",
            was.cluster_id, is.cluster_id
        ));
    }
    if was.node_id != is.node_id {
        return other(format!(
            "this is a backup of node {}, and node {} answers: each has a log of its own",
            was.node_id, is.node_id
        ));
    }
    if was.incarnation != is.incarnation {
        return other(format!(
            "node {} has lost its disk since, and begun another log",
            is.node_id
        ));
    }
    if was.index > is.index {
        let what = format!("the node is at entry {}, and has been at {}", is.index, was.index);
        return Err(Error::Fault { what });
    }
    Ok(())
}

/// A name that a node's file can have: nothing that leads elsewhere, and none of a backup's own files.
fn is_safe(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let stem = name.strip_suffix(".log").unwrap_or(name);
    let known = ["snapshot-", "segment-", "events-"];
    known.iter().any(|prefix| stem.starts_with(prefix)) && stem.bytes().all(is_plain)
}

fn superfluous_snapshots(have: &BTreeMap<String, BackedUp>, keep: usize) -> Vec<String> {
    // By name they are in the order of their entries.
    let all: Vec<_> = have.keys().filter(|name| name.starts_with("snapshot-")).collect();
    let count = all.len().saturating_sub(keep.max(1));
    all.into_iter().take(count).cloned().collect()
}

fn told(error: NodeError, name: &str, storage: &dyn Storage) -> Error {
    match error {
        NodeError::Gone => Error::Gone { name: name.to_owned() },
        NodeError::Refused { message } => Error::Node { message },
        NodeError::Sink(source) => Error::Io { file: storage.path(name), source },
    }
}

struct Update<'a> {
    storage: &'a dyn Storage,
    have: BTreeMap<String, BackedUp>,
    files: u64,
    bytes: u64,
}

impl Update<'_> {
    /// Fetches what is missing of a listing; gives a file that was gone, if there was one.
    fn fetch_all(
        &mut self,
        node: &mut dyn Node,
        listing: &Listing,
        progress: Progress<'_>,
    ) -> Result<Option<String>, Error> {
        let missing: Vec<_> = listing.files.iter().filter(|file| self.is_missing(file)).collect();
        let total: u64 = missing.iter().map(|file| file.bytes).sum();
        let mut done = 0;
        for file in missing {
            if self.adopt(file)? {
                done += file.bytes;
                continue;
            }
            let fetched = self.fetch(node, file, &mut |bytes| {
                progress("fetching", done + bytes, total);
            });
            match fetched {
                Ok(()) => done += file.bytes,
                Err(NodeError::Gone) => return Ok(Some(file.name.clone())),
                Err(error) => return Err(told(error, &file.name, self.storage)),
            }
        }
        Ok(None)
    }

    fn is_missing(&self, file: &Listed) -> bool {
        match self.have.get(&file.name) {
            None => true,
            // A node that has just been started makes its last events again: what is here is as good.
            Some(have) if !file.is_sealed => have.bytes < file.bytes,
            Some(have) => !have.is_sealed || have.bytes != file.bytes,
        }
    }

    /// A sealed file that a run before has fetched, whose manifest was not written any more.
    fn adopt(&mut self, file: &Listed) -> Result<bool, Error> {
        if !file.is_sealed || self.have.contains_key(&file.name) {
            return Ok(false);
        }
        let io = || Error::io(self.storage.path(&file.name));
        match self.storage.open(&file.name).and_then(|file| file.bytes()) {
            Ok(bytes) if bytes == file.bytes => {}
            Ok(_) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(io()(error)),
        }
        let sha256 = sha256_of(self.storage, &file.name, file.bytes, &mut |_| ()).map_err(io())?;
        self.note(file, sha256);
        Ok(true)
    }

    fn note(&mut self, file: &Listed, sha256: [u8; 32]) {
        let have = BackedUp { bytes: file.bytes, is_sealed: file.is_sealed, sha256 };
        self.have.insert(file.name.clone(), have);
    }

    fn fetch(
        &mut self,
        node: &mut dyn Node,
        file: &Listed,
        told: &mut dyn FnMut(u64),
    ) -> Result<(), NodeError> {
        let part = format!("{}{PART}", file.name);
        let mut sink = Sink::create(self.storage, &part).map_err(NodeError::Sink)?;
        let from = self.prefix(file);
        sink.copy(self.storage, &file.name, from).map_err(NodeError::Sink)?;
        node.read(&file.name, from..file.bytes, &mut |bytes| {
            sink.put(bytes)?;
            told(sink.at);
            Ok(())
        })?;
        if sink.at != file.bytes {
            return Err(NodeError::Gone);
        }
        let sha256 = sink.finish().map_err(NodeError::Sink)?;
        let published =
            self.storage.rename(&part, &file.name).and_then(|()| self.storage.sync_dir());
        published.map_err(NodeError::Sink)?;
        self.note(file, sha256);
        self.files += 1;
        self.bytes += file.bytes - from;
        Ok(())
    }

    /// How much of it is here and stays.
    fn prefix(&self, file: &Listed) -> u64 {
        let have = self.have.get(&file.name).filter(|have| !have.is_sealed);
        let have = have.filter(|_| file.name.starts_with("segment-"));
        have.map_or(0, |have| have.bytes).min(file.bytes)
    }
}

/// A file that is being written.
struct Sink {
    file: std::sync::Arc<dyn File>,
    hash: Sha256,
    at: u64,
    synced: u64,
}

impl Sink {
    fn create(storage: &dyn Storage, name: &str) -> io::Result<Self> {
        Ok(Self { file: storage.create(name)?, hash: Sha256::new(), at: 0, synced: 0 })
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_at(self.at, bytes)?;
        self.hash.update(bytes);
        self.at += bytes.len() as u64;
        if self.at - self.synced >= SYNC_BYTES {
            self.file.sync_data()?;
            self.synced = self.at;
        }
        Ok(())
    }

    /// The beginning of another file.
    fn copy(&mut self, storage: &dyn Storage, name: &str, bytes: u64) -> io::Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let file = storage.open(name)?;
        let mut piece = Vec::new();
        while self.at < bytes {
            piece.resize((bytes - self.at).min(PIECE_BYTES) as usize, 0);
            file.read_at(self.at, &mut piece)?;
            self.put(&piece)?;
        }
        Ok(())
    }

    fn finish(self) -> io::Result<[u8; 32]> {
        self.file.sync_data()?;
        Ok(self.hash.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        for name in ["segment-0000000007.log", "events-00000000000000000001", "snapshot-1-2"] {
            assert!(is_safe(name), "{name}");
        }
        for name in ["MANIFEST", "lock", "identity", "../events-1", "events-1/x", "segment-1.part"]
        {
            assert!(!is_safe(name), "{name}");
        }
    }
}
