//! Bringing a backup up to date: what the node has and the directory has not.
//!
//! A file comes under the name `NAME.part`, is synced, and gets its name. The manifest follows when everything that the
//! node has listed is there; the first run begins with one that names the node and no files. A segment that has grown is
//! fetched from where it ended, and a little before: if that is not what is here, because a node has begun a segment of
//! events anew, all of it is fetched.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::manifest::{BackedUp, Manifest, sha256_of};
use super::point::Backup;
use super::{Error, MANIFEST, PIECE_BYTES, Progress};
use crate::log::{DurableFile, File, Storage};
use crate::protocol::BackupHead;

/// A file may go between the list and its turn; then the list is asked for again.
const ATTEMPTS: u32 = 8;
/// A node that has not applied all of its log yet is asked again after this, for a minute.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSES_MAX: u32 = 120;
/// What a file is called that is not whole.
const PART: &str = ".part";
/// So much before its end is compared when a file has grown.
const OVERLAP_BYTES: u64 = 4 << 10;
/// Written data is synced when there is so much of it, not all at the end.
const SYNC_BYTES: u64 = 64 << 20;

/// What a node has.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listing {
    /// Whose history it is, and how far it reaches.
    pub head: BackupHead,
    /// The files.
    pub files: Vec<DurableFile>,
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

    /// Lets so much time pass: the node may have more to list then.
    fn pause(&mut self, pause: Duration);

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
    /// Snapshots and segments that went.
    pub removed: u64,
}

/// Fetches what is missing. `snapshots`: so many of the newest stay, at least one, and the log since the oldest of them;
/// all of the log if it begins with the first entry.
///
/// # Errors
/// See [`Error`]. What was fetched is kept, and the same call goes on from there.
pub fn update(
    storage: &dyn Storage,
    node: &mut dyn Node,
    snapshots: usize,
    progress: Progress<'_>,
) -> Result<Updated, Error> {
    let before = match Manifest::read(storage)? {
        Some(before) => before,
        None => begin(storage, node)?,
    };
    remove_parts(storage)?;
    let needed = Backup::new(storage, before.clone()).first_needed_segment()?;
    let have = before.files.clone();
    let mut update = Update { storage, before, needed, have, files: 0, bytes: 0 };
    let mut attempt = 1;
    let head = loop {
        let listing = list(storage, node, &update.before)?;
        match update.fetch_all(node, &listing, progress)? {
            None => break listing.head,
            Some(name) if attempt == ATTEMPTS => return Err(Error::Gone { name }),
            Some(_) => attempt += 1,
        }
    };
    let Update { mut have, files, bytes, .. } = update;
    let mut superfluous = superfluous_snapshots(&have, snapshots);
    have.retain(|name, _| !superfluous.contains(name));
    let mut manifest = Manifest { head, files: have };
    let segments = Backup::new(storage, manifest.clone()).unneeded_segments()?;
    manifest.files.retain(|name, _| !segments.contains(name));
    superfluous.extend(segments);
    manifest.write(storage)?;
    for name in &superfluous {
        storage.remove(name).map_err(Error::io(storage.path(name)))?;
    }
    Ok(Updated { manifest, files, bytes, removed: superfluous.len() as u64 })
}

/// Notes whose backup this will be before anything comes, so that a first run that is cut off is gone on with by the
/// same node alone.
fn begin(storage: &dyn Storage, node: &mut dyn Node) -> Result<Manifest, Error> {
    let entries = storage.list().map_err(Error::io(storage.path("")))?;
    if let Some(entry) = entries.iter().find(|entry| is_safe(&entry.name)) {
        let what = format!("it is here, and no {MANIFEST} says of which node it is");
        return Err(Error::Other { file: storage.path(&entry.name), what });
    }
    let head = node.list().map_err(|error| told(error, MANIFEST, storage))?.head;
    let head = BackupHead { index: 0, now_us: 0, next_event: 0, chain: [0; 32], ..head };
    let manifest = Manifest { head, files: BTreeMap::new() };
    manifest.write(storage)?;
    Ok(manifest)
}

/// What a run before has left behind.
fn remove_parts(storage: &dyn Storage) -> Result<(), Error> {
    let entries = storage.list().map_err(Error::io(storage.path("")))?;
    let is_part = |name: &str| name.strip_suffix(PART).is_some_and(is_safe);
    for entry in entries.iter().filter(|entry| is_part(&entry.name)) {
        storage.remove(&entry.name).map_err(Error::io(storage.path(&entry.name)))?;
    }
    Ok(())
}

/// What the node has, as soon as it is where it has been: one that was started again knows of a part of its log alone
/// that it is committed, until it has a leader.
fn list(storage: &dyn Storage, node: &mut dyn Node, before: &Manifest) -> Result<Listing, Error> {
    let mut pauses = 0;
    loop {
        let listing = node.list().map_err(|error| told(error, MANIFEST, storage))?;
        check(storage, before, &listing)?;
        let (is, was) = (listing.head.index, before.head.index);
        if is >= was {
            return Ok(listing);
        }
        if pauses == PAUSES_MAX {
            return Err(Error::Behind { is, was });
        }
        node.pause(PAUSE);
        pauses += 1;
    }
}

/// The listing is of the node whose backup this is, and names files alone.
fn check(storage: &dyn Storage, before: &Manifest, listing: &Listing) -> Result<(), Error> {
    let (file, was, is) = (storage.path(MANIFEST), before.head, listing.head);
    let other = |what| Err(Error::Other { file, what });
    if let Some(name) = listing.files.iter().map(|file| &file.name).find(|name| !is_safe(name)) {
        return Err(Error::Fault { what: format!("{name:?} is no name of a file") });
    }
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
    /// What is on disk.
    before: Manifest,
    /// The first segment that the oldest snapshot on disk needs.
    needed: Option<String>,
    /// What comes next.
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
                Ok(part) => {
                    self.publish(file, &part)?;
                    done += file.bytes;
                }
                Err(NodeError::Gone) => return Ok(Some(file.name.clone())),
                Err(error) => return Err(told(error, &file.name, self.storage)),
            }
        }
        Ok(None)
    }

    fn is_missing(&self, file: &DurableFile) -> bool {
        match self.have.get(&file.name) {
            None => !self.is_too_old(&file.name),
            // A node that has just been started makes its last events again: what is here is as good.
            Some(have) if !file.is_sealed => have.bytes < file.bytes,
            Some(have) => !have.is_sealed || have.bytes != file.bytes,
        }
    }

    /// A segment of the log that was removed as of no use any more, though the node still has it.
    fn is_too_old(&self, name: &str) -> bool {
        // By name they are in the order of their numbers.
        let is_before = |needed: &String| name < needed.as_str();
        name.starts_with("segment-") && self.needed.as_ref().is_some_and(is_before)
    }

    /// A sealed file that a run before has fetched, whose manifest was not written any more.
    fn adopt(&mut self, file: &DurableFile) -> Result<bool, Error> {
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

    fn note(&mut self, file: &DurableFile, sha256: [u8; 32]) {
        let have = BackedUp { bytes: file.bytes, is_sealed: file.is_sealed, sha256 };
        self.have.insert(file.name.clone(), have);
    }

    fn fetch(
        &mut self,
        node: &mut dyn Node,
        file: &DurableFile,
        told: &mut dyn FnMut(u64),
    ) -> Result<Part, NodeError> {
        let name = format!("{}{PART}", file.name);
        let mut sink = Sink::create(self.storage, &name).map_err(NodeError::Sink)?;
        let from = self.prefix(node, file)?;
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
        self.bytes += file.bytes - from;
        Ok(Part { name, goes_on: from > 0, sha256 })
    }

    /// Gives a file its name.
    fn publish(&mut self, file: &DurableFile, part: &Part) -> Result<(), Error> {
        if let Some(before) = self.before.files.get_mut(&file.name).filter(|_| !part.goes_on) {
            // Its beginning is another one: from now on the manifest would be wrong about it.
            *before = BackedUp::nothing();
            self.before.write(self.storage)?;
        }
        let published =
            self.storage.rename(&part.name, &file.name).and_then(|()| self.storage.sync_dir());
        published.map_err(Error::io(self.storage.path(&file.name)))?;
        self.note(file, part.sha256);
        self.files += 1;
        Ok(())
    }

    /// How much of it is here, and is what the node has there.
    fn prefix(&mut self, node: &mut dyn Node, file: &DurableFile) -> Result<u64, NodeError> {
        let have = self.have.get(&file.name).filter(|have| !have.is_sealed);
        let bytes = have.map_or(0, |have| have.bytes);
        if bytes == 0 || bytes > file.bytes {
            return Ok(0);
        }
        let from = bytes.saturating_sub(OVERLAP_BYTES);
        let (mut here, mut there) = (vec![0; (bytes - from) as usize], Vec::new());
        let open = self.storage.open(&file.name).map_err(NodeError::Sink)?;
        open.read_at(from, &mut here).map_err(NodeError::Sink)?;
        node.read(&file.name, from..bytes, &mut |piece| {
            there.extend_from_slice(piece);
            Ok(())
        })?;
        self.bytes += there.len() as u64;
        Ok(if here == there { bytes } else { 0 })
    }
}

/// A file that has come, and has not got its name.
struct Part {
    name: String,
    /// It begins with what is here.
    goes_on: bool,
    sha256: [u8; 32],
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

    use crate::log::{Fault, SimStorage, Survival};

    /// A node in memory.
    #[derive(Default)]
    struct Fake {
        files: BTreeMap<String, (Vec<u8>, bool)>,
        head: Option<BackupHead>,
        /// Bytes that were read.
        read: u64,
        /// Removed when it is asked for.
        goes: Option<String>,
        /// How often it was waited for.
        pauses: u32,
    }

    fn head(index: u64) -> BackupHead {
        BackupHead {
            cluster_id: 1,
            node_id: 1,
            incarnation: 1,
            rules: [1, 2, 3, 0],
            index,
            now_us: index,
            next_event: 0,
            chain: [0; 32],
        }
    }

    impl Fake {
        fn put(&mut self, name: &str, bytes: usize, is_sealed: bool) {
            let content = (0..bytes).map(|at| (at % 251) as u8).collect();
            self.files.insert(name.to_owned(), (content, is_sealed));
        }

        fn update(&mut self, storage: &SimStorage, index: u64) -> Result<Updated, Error> {
            self.head.get_or_insert_with(|| head(index)).index = index;
            self.read = 0;
            let updated = update(storage, self, 2, &mut |_, _, _| ())?;
            for (name, file) in &updated.manifest.files {
                let content = storage.read_small(name).unwrap().unwrap();
                assert_eq!(content.len() as u64, file.bytes, "{name}");
                updated.manifest.check(storage, name, 0, &mut |_, _, _| ()).unwrap();
            }
            assert_eq!(updated.bytes, self.read);
            Ok(updated)
        }
    }

    impl Node for Fake {
        fn list(&mut self) -> Result<Listing, NodeError> {
            let file = |(name, (content, is_sealed)): (&String, &(Vec<u8>, bool))| DurableFile {
                name: name.clone(),
                bytes: content.len() as u64,
                is_sealed: *is_sealed,
            };
            let head = self.head.expect("it was set");
            Ok(Listing { head, files: self.files.iter().map(file).collect() })
        }

        /// An entry is applied meanwhile, up to the 99th.
        fn pause(&mut self, _: Duration) {
            self.pauses += 1;
            let head = self.head.as_mut().unwrap();
            head.index = (head.index + 1).min(99);
        }

        fn read(
            &mut self,
            name: &str,
            range: Range<u64>,
            sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
        ) -> Result<(), NodeError> {
            if self.goes.as_deref() == Some(name) {
                self.goes = None;
                self.files.remove(name);
            }
            let (content, _) = self.files.get(name).ok_or(NodeError::Gone)?;
            let content = &content[range.start as usize..range.end as usize];
            self.read += content.len() as u64;
            content.chunks(100).try_for_each(sink).map_err(NodeError::Sink)
        }
    }

    #[test]
    fn only_what_is_new_is_fetched() {
        let (storage, mut node) = (SimStorage::new(), Fake::default());
        node.put("snapshot-1", 300, true);
        node.put("segment-1.log", 1_000, true);
        node.put("segment-2.log", 400, false);
        node.put("events-1", 500, false);
        assert_eq!(node.update(&storage, 10).unwrap().bytes, 2_200);
        assert_eq!(node.update(&storage, 10).unwrap().bytes, 0);
        node.put("segment-2.log", 1_000, true);
        node.put("segment-3.log", 40, false);
        node.put("events-1", 600, false);
        let updated = node.update(&storage, 11).unwrap();
        // 600 are new, 400 before them are compared; 40 are new; 100 are new, 500 before them are compared.
        assert_eq!(updated.bytes, 1_000 + 40 + 600);
        // A node that has begun the segment anew has other bytes where it ended.
        let other = vec![7; 800];
        node.files.insert("events-1".to_owned(), (other, false));
        assert_eq!(node.update(&storage, 11).unwrap().bytes, 600 + 800);
        // A node that was started again has fewer events for a moment, and its files get fewer.
        node.put("events-1", 200, false);
        node.files.remove("segment-1.log");
        let updated = node.update(&storage, 12).unwrap();
        assert_eq!((updated.bytes, updated.manifest.files["events-1"].bytes), (0, 800));
        assert!(updated.manifest.files.contains_key("segment-1.log"));
    }

    #[test]
    fn the_newest_snapshots_stay() {
        let (storage, mut node) = (SimStorage::new(), Fake::default());
        for number in 1..=4 {
            node.files.clear();
            node.put(&format!("snapshot-{number}"), 100, true);
            node.update(&storage, number).unwrap();
        }
        let names = storage.list().unwrap().into_iter().map(|entry| entry.name);
        let names: Vec<_> = names.filter(|name| name.starts_with("snapshot-")).collect();
        assert_eq!(names, ["snapshot-3", "snapshot-4"]);
    }

    #[test]
    fn a_file_that_goes_is_replaced_by_what_came_for_it() {
        let (storage, mut node) = (SimStorage::new(), Fake::default());
        node.put("segment-1.log", 100, true);
        node.put("snapshot-1", 300, true);
        node.goes = Some("snapshot-1".to_owned());
        node.put("snapshot-2", 300, true);
        let updated = node.update(&storage, 10).unwrap();
        let names: Vec<_> = updated.manifest.files.keys().collect();
        assert_eq!(names, ["segment-1.log", "snapshot-2"]);
        let parts = storage.list().unwrap().into_iter().filter(|entry| entry.name.ends_with(PART));
        assert_eq!(parts.count(), 1, "it is removed by the next run");
        storage.create("a-film.part").unwrap();
        node.update(&storage, 10).unwrap();
        let parts = storage.list().unwrap().into_iter().filter(|entry| entry.name.ends_with(PART));
        assert_eq!(parts.map(|entry| entry.name).collect::<Vec<_>>(), ["a-film.part"]);
    }

    #[test]
    fn another_history_is_refused_and_changes_nothing() {
        let (storage, mut node) = (SimStorage::new(), Fake::default());
        node.put("segment-1.log", 100, false);
        node.update(&storage, 10).unwrap();
        let before = storage.read_small(MANIFEST).unwrap();
        node.put("segment-1.log", 200, false);
        for other in [
            BackupHead { cluster_id: 2, ..head(11) },
            BackupHead { node_id: 2, ..head(11) },
            BackupHead { incarnation: 2, ..head(11) },
        ] {
            node.head = Some(other);
            let refused = update(&storage, &mut node, 2, &mut |_, _, _| ());
            assert!(matches!(refused, Err(Error::Other { .. })), "{other:?}");
        }
        assert_eq!(storage.read_small(MANIFEST).unwrap(), before);
        assert_eq!(storage.read_small("segment-1.log").unwrap().unwrap().len(), 100);
    }

    #[test]
    fn a_node_that_was_started_again_is_waited_for_but_not_for_ever() {
        let (storage, mut node) = (SimStorage::new(), Fake::default());
        node.put("segment-1.log", 100, false);
        node.update(&storage, 90).unwrap();
        let updated = node.update(&storage, 87).unwrap();
        assert_eq!((updated.manifest.head.index, node.pauses), (90, 3));
        let mut manifest = updated.manifest;
        manifest.head.index = 100;
        manifest.write(&storage).unwrap();
        node.pauses = 0;
        let refused = node.update(&storage, 90).unwrap_err().to_string();
        assert!(refused.contains("is at entry 99, and the backup reaches entry 100"), "{refused}");
        assert_eq!(node.pauses, PAUSES_MAX);
        assert_eq!(Manifest::read(&storage).unwrap().unwrap(), manifest);
    }

    #[test]
    fn a_power_cut_at_any_moment_leaves_the_backup_before_or_the_new_one() {
        for n in 1.. {
            let (storage, mut node) = (SimStorage::new(), Fake::default());
            node.put("segment-1.log", 700, false);
            node.put("events-1", 300, false);
            node.put("events-2", 300, false);
            node.update(&storage, 10).unwrap();
            let before = Manifest::read(&storage).unwrap().unwrap();
            node.put("segment-1.log", 900, true);
            node.put("segment-2.log", 100, false);
            // Two that the node has begun anew.
            node.files.insert("events-1".to_owned(), (vec![7; 200], true));
            node.files.insert("events-2".to_owned(), (vec![7; 400], false));
            node.head = Some(head(11));
            storage.fault_at(storage.operations() + n, Fault::PowerCut);
            let done = update(&storage, &mut node, 2, &mut |_, _, _| ());
            let disk = storage.restart(Survival::Torn(n));
            let found = Manifest::read(&disk).unwrap().unwrap();
            match done {
                Ok(updated) => {
                    return assert_eq!(found, updated.manifest, "all was done before {n}");
                }
                Err(_) => assert!(found.head == before.head || found.head.index == 11, "{n}"),
            }
            for (name, file) in &found.files {
                assert!(file.bytes > 0 || name.starts_with("events-"), "{name} counts, at {n}");
                found.check(&disk, name, 0, &mut |_, _, _| ()).unwrap();
            }
            let mut again = Fake { head: node.head, files: node.files, ..Fake::default() };
            again.update(&disk, 11).unwrap();
        }
    }

    #[test]
    fn a_first_run_that_was_cut_off_is_gone_on_with_by_its_node_alone() {
        for n in 1.. {
            let (storage, mut node) = (SimStorage::new(), Fake::default());
            node.put("segment-1.log", 700, true);
            node.put("segment-2.log", 100, false);
            node.head = Some(head(10));
            storage.fault_at(n, Fault::PowerCut);
            let done = update(&storage, &mut node, 2, &mut |_, _, _| ());
            let disk = storage.restart(Survival::Torn(n));
            for who in [
                BackupHead { node_id: 2, ..head(11) },
                BackupHead { incarnation: 2, ..head(11) },
                BackupHead { cluster_id: 2, ..head(11) },
            ] {
                let mut other = Fake { head: Some(who), ..Fake::default() };
                let files = node.files.keys().map(|name| (name.clone(), (vec![7; 700], true)));
                other.files = files.collect();
                match update(&disk, &mut other, 2, &mut |_, _, _| ()) {
                    Err(Error::Other { .. }) => {}
                    // Nothing had come, not even the name of the node.
                    came => assert_eq!(came.unwrap().bytes, 1_400, "{n}"),
                }
            }
            if done.is_ok() {
                return;
            }
        }
    }

    #[test]
    fn files_of_nobody_knows_whom_are_not_believed() {
        let (storage, mut node) = (SimStorage::new(), Fake::default());
        node.put("segment-1.log", 100, true);
        node.update(&storage, 10).unwrap();
        storage.remove(MANIFEST).unwrap();
        let refused = node.update(&storage, 11).unwrap_err().to_string();
        assert!(refused.contains("no MANIFEST says of which node it is"), "{refused}");
    }

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
