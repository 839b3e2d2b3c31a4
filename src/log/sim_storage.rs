//! A disk in memory that can lose power, fill up and fail, for tests and for simulations of whole
//! clusters. It has no threads and does not block; its latency is
//! [`sync_delay`](Storage::sync_delay), on tokio's clock.
//!
//! ```text
//!            write_at                    sync_data
//!  caller ─────────────▶ current (seen by reads) ─────────────▶ durable
//!                          └ unsynced writes, in 512-byte sectors
//!            create, rename, remove      sync_dir
//!  caller ─────────────▶ names ───────────────────────────────▶ durable names
//! ```
//!
//! A power cut leaves what is durable, and of the rest what [`Survival`] says. Every call that
//! changes something counts as one *operation*, and a [`Fault`] strikes at the n-th. After a failed
//! sync the unsynced writes are still read but no longer unsynced, as Linux does it: a second sync
//! succeeds and makes nothing durable.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;

use super::shared::lock;
use super::storage::{File, FileEntry, Storage};

const SECTOR_BYTES: u64 = 512;

/// What happens at an operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The power goes: a write is begun and not synced, a sync does not happen, and every later
    /// operation fails.
    PowerCut,
    /// A sync fails with EIO. Another operation is not struck.
    SyncFails,
    /// A write or a change of names fails with EIO. Another operation is not struck.
    WriteFails,
}

/// What of the unsynced bytes and names is there after a restart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Survival {
    /// Everything.
    Kept,
    /// The machine had no power cut, only the process died: everything is there and still unsynced.
    Killed,
    /// Nothing.
    Lost,
    /// Some sectors of each write, the first few new names, and some of the removals before them,
    /// drawn from this seed.
    Torn(u64),
}

/// The disk. Clones are the same disk.
#[derive(Clone)]
pub struct SimStorage {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Clone, Default)]
struct Disk {
    files: BTreeMap<u64, SimFileState>,
    files_made: u64,
    names: BTreeMap<String, u64>,
    names_durable: BTreeMap<String, u64>,
    names_unsynced: Vec<NameChange>,
    operations: u64,
    faults: BTreeMap<u64, Fault>,
    struck: u64,
    flipped: bool,
    off: bool,
    bytes_max: Option<u64>,
    sync_delay: Duration,
}

#[derive(Clone, Default)]
struct SimFileState {
    current: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    /// The file has no more than so many bytes.
    Truncate(u64),
    /// These bytes are at this offset.
    Write(u64, Vec<u8>),
}

#[derive(Clone)]
enum NameChange {
    Create(String, u64),
    Remove(String),
    Rename(String, String),
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<String, u64>) {
        match self {
            Self::Create(name, file) => {
                names.insert(name.clone(), *file);
            }
            Self::Remove(name) => {
                names.remove(name);
            }
            Self::Rename(from, to) => {
                if let Some(file) = names.remove(from) {
                    names.insert(to.clone(), file);
                }
            }
        }
    }
}

impl Default for SimStorage {
    fn default() -> Self {
        Self::new()
    }
}

impl SimStorage {
    /// An empty disk without faults, limits or latency.
    pub fn new() -> Self {
        Self { disk: Arc::default() }
    }

    /// The operations so far.
    pub fn operations(&self) -> u64 {
        lock(&self.disk).operations
    }

    /// Lets `fault` strike at the operation of this number; the first one is 1.
    pub fn fault_at(&self, operation: u64, fault: Fault) {
        lock(&self.disk).faults.insert(operation, fault);
    }

    /// Lets the next `count` syncs, writes and changes of names meet `fault`.
    pub fn fault_next(&self, count: u64, fault: Fault) {
        let mut disk = lock(&self.disk);
        let next = disk.operations + 1;
        disk.faults.extend((next..next + count).map(|operation| (operation, fault)));
    }

    /// Faults that have not struck yet will not.
    pub fn forget_faults(&self) {
        lock(&self.disk).faults.clear();
    }

    /// Takes the power away now.
    pub fn cut_power(&self) {
        lock(&self.disk).off = true;
    }

    /// How many faults have struck since the start or the last restart.
    pub fn struck(&self) -> u64 {
        lock(&self.disk).struck
    }

    /// Bits have ever been flipped on this disk.
    pub fn is_rotten(&self) -> bool {
        lock(&self.disk).flipped
    }

    /// The power is away: it was cut, or this disk has been restarted.
    pub fn is_off(&self) -> bool {
        lock(&self.disk).off
    }

    /// Bytes that all files together may have; writes that would take more fail as on a full disk.
    pub fn set_bytes_max(&self, bytes_max: Option<u64>) {
        lock(&self.disk).bytes_max = bytes_max;
    }

    /// Files may not have as many bytes as they like.
    pub fn is_limited(&self) -> bool {
        lock(&self.disk).bytes_max.is_some()
    }

    /// How long the log's writer waits before each sync.
    pub fn set_sync_delay(&self, delay: Duration) {
        lock(&self.disk).sync_delay = delay;
    }

    /// The bytes of all files.
    pub fn bytes_used(&self) -> u64 {
        lock(&self.disk).bytes_used()
    }

    /// Bit rot: flips the bits of `mask` in the byte at `offset`, on the disk and in memory.
    ///
    /// # Panics
    /// There is no such file or byte.
    pub fn flip(&self, name: &str, offset: u64, mask: u8) {
        let mut disk = lock(&self.disk);
        disk.flipped = true;
        let file = *disk.names.get(name).expect("the file exists");
        let file = disk.files.get_mut(&file).expect("a name has a file");
        file.current[offset as usize] ^= mask;
        if let Some(byte) = file.durable.get_mut(offset as usize) {
            *byte ^= mask;
        }
    }

    /// The disk as the next process finds it. This one is off from now on. Faults and the
    /// operation count are gone, the limits stay.
    pub fn restart(&self, survival: Survival) -> Self {
        let mut old = lock(&self.disk);
        old.off = true;
        let mut disk = old.clone();
        drop(old);
        (disk.off, disk.operations, disk.struck) = (false, 0, 0);
        disk.faults.clear();
        if survival != Survival::Killed {
            disk.power_up(survival);
        }
        Self { disk: Arc::new(Mutex::new(disk)) }
    }
}

impl Disk {
    fn bytes_used(&self) -> u64 {
        self.names.values().map(|file| self.files[file].current.len() as u64).sum()
    }

    /// Counts an operation; says what strikes it.
    fn operation(&mut self) -> io::Result<Option<Fault>> {
        self.alive()?;
        self.operations += 1;
        let fault = self.faults.remove(&self.operations);
        self.struck += u64::from(fault.is_some());
        self.off = fault == Some(Fault::PowerCut);
        Ok(fault)
    }

    fn alive(&self) -> io::Result<()> {
        if self.off { Err(io::Error::other("the power is off")) } else { Ok(()) }
    }

    fn change_names(&mut self, change: NameChange) -> io::Result<()> {
        if self.operation()? == Some(Fault::WriteFails) {
            return Err(eio());
        }
        change.apply(&mut self.names);
        self.names_unsynced.push(change);
        self.alive()
    }

    fn file(&self, name: &str) -> io::Result<u64> {
        self.alive()?;
        self.names.get(name).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn power_up(&mut self, survival: Survival) {
        let mut dice = Dice(match survival {
            Survival::Torn(seed) => seed,
            _ => 0,
        });
        let changes = std::mem::take(&mut self.names_unsynced);
        let kept = match survival {
            Survival::Kept | Survival::Killed => changes.len(),
            Survival::Lost => 0,
            Survival::Torn(_) => dice.below(changes.len() as u64 + 1) as usize,
        };
        for change in &changes[..kept] {
            // Removals reach the disk in any order, so any of them may be the one that did not.
            let torn = matches!(survival, Survival::Torn(_));
            if torn && matches!(change, NameChange::Remove(_)) && dice.below(2) == 0 {
                continue;
            }
            change.apply(&mut self.names_durable);
        }
        self.names = self.names_durable.clone();
        for file in self.files.values_mut() {
            let mut is_kept = || match survival {
                Survival::Kept | Survival::Killed => true,
                Survival::Lost => false,
                Survival::Torn(_) => dice.below(2) == 0,
            };
            for change in std::mem::take(&mut file.unsynced) {
                match change {
                    Change::Truncate(bytes) if is_kept() => file.durable.truncate(bytes as usize),
                    Change::Truncate(_) => {}
                    Change::Write(offset, bytes) => {
                        for (at, sector) in sectors(offset, &bytes).filter(|_| is_kept()) {
                            write(&mut file.durable, at, sector);
                        }
                    }
                }
            }
            file.current = file.durable.clone();
        }
        let named: Vec<u64> = self.names.values().copied().collect();
        self.files.retain(|file, _| named.contains(file));
    }
}

/// The parts of a write that lie in different sectors.
fn sectors(offset: u64, bytes: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut at = offset;
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let room = (SECTOR_BYTES - at % SECTOR_BYTES) as usize;
        let (sector, tail) = rest.split_at(room.min(rest.len()));
        let start = at;
        (at, rest) = (at + sector.len() as u64, tail);
        (!sector.is_empty()).then_some((start, sector))
    })
}

fn write(content: &mut Vec<u8>, offset: u64, bytes: &[u8]) {
    let (start, end) = (offset as usize, offset as usize + bytes.len());
    if content.len() < end {
        content.resize(end, 0);
    }
    content[start..end].copy_from_slice(bytes);
}

/// SplitMix64 (Steele, Lea, Flood 2014).
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

impl Storage for SimStorage {
    fn create(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let mut disk = lock(&self.disk);
        disk.files_made += 1;
        let file = disk.files_made;
        disk.files.insert(file, SimFileState::default());
        disk.change_names(NameChange::Create(name.to_owned(), file))?;
        Ok(Arc::new(SimFile { disk: self.disk.clone(), file }))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn File>> {
        let file = lock(&self.disk).file(name)?;
        Ok(Arc::new(SimFile { disk: self.disk.clone(), file }))
    }

    fn list(&self) -> io::Result<Vec<FileEntry>> {
        let disk = lock(&self.disk);
        disk.alive()?;
        let entry = |(name, file): (&String, &u64)| FileEntry {
            name: name.clone(),
            bytes: disk.files[file].current.len() as u64,
        };
        Ok(disk.names.iter().map(entry).collect())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.file(name)?;
        disk.change_names(NameChange::Remove(name.to_owned()))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        disk.file(from)?;
        disk.change_names(NameChange::Rename(from.to_owned(), to.to_owned()))
    }

    fn sync_dir(&self) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        match disk.operation()? {
            Some(Fault::PowerCut) => disk.alive(),
            Some(Fault::SyncFails) => Err(eio()),
            Some(Fault::WriteFails) | None => {
                disk.names_durable = disk.names.clone();
                disk.names_unsynced.clear();
                Ok(())
            }
        }
    }

    fn path(&self, name: &str) -> String {
        format!("sim/{name}")
    }

    fn sync_delay(&self) -> Duration {
        lock(&self.disk).sync_delay
    }
}

struct SimFile {
    disk: Arc<Mutex<Disk>>,
    file: u64,
}

impl File for SimFile {
    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        let used = disk.bytes_used();
        let bytes_max = disk.bytes_max;
        if disk.operation()? == Some(Fault::WriteFails) {
            return Err(eio());
        }
        let file = disk.files.get_mut(&self.file).expect("an open file exists");
        let growth = (offset + bytes.len() as u64).saturating_sub(file.current.len() as u64);
        if growth > 0 && bytes_max.is_some_and(|max| used + growth > max) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        write(&mut file.current, offset, bytes);
        file.unsynced.push(Change::Write(offset, bytes.to_vec()));
        disk.alive()
    }

    fn truncate(&self, bytes: u64) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        if disk.operation()? == Some(Fault::WriteFails) {
            return Err(eio());
        }
        let file = disk.files.get_mut(&self.file).expect("an open file exists");
        file.current.truncate(bytes as usize);
        file.unsynced.push(Change::Truncate(bytes));
        disk.alive()
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> io::Result<()> {
        let disk = lock(&self.disk);
        disk.alive()?;
        let content = &disk.files[&self.file].current;
        let start = offset as usize;
        let source = content.get(start..start + bytes.len());
        bytes.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut disk = lock(&self.disk);
        let fault = disk.operation()?;
        let file = disk.files.get_mut(&self.file).expect("an open file exists");
        match fault {
            Some(Fault::PowerCut) => disk.alive(),
            Some(Fault::SyncFails) => {
                file.unsynced.clear();
                Err(eio())
            }
            Some(Fault::WriteFails) | None => {
                for change in std::mem::take(&mut file.unsynced) {
                    match change {
                        Change::Truncate(bytes) => file.durable.truncate(bytes as usize),
                        Change::Write(offset, bytes) => write(&mut file.durable, offset, &bytes),
                    }
                }
                Ok(())
            }
        }
    }

    fn uncache(&self, _: Range<u64>) {}

    fn bytes(&self) -> io::Result<u64> {
        let disk = lock(&self.disk);
        disk.alive()?;
        Ok(disk.files[&self.file].current.len() as u64)
    }

    fn map(&self) -> io::Result<Bytes> {
        let disk = lock(&self.disk);
        disk.alive()?;
        Ok(Bytes::copy_from_slice(&disk.files[&self.file].current))
    }
}

fn eio() -> io::Error {
    const EIO: i32 = 5;
    io::Error::from_raw_os_error(EIO)
}
