//! A new directory that begins where a backup has been.

use std::io;

use sha2::{Digest, Sha256};

use super::manifest::BackedUp;
use super::point::{Backup, Reached};
use super::{Error, PIECE_BYTES, Progress, SHARD};
use crate::audit::hex;
use crate::events::{self, first_of};
use crate::log::Storage;
use crate::replication::{Founder, found};
use crate::world::World;

/// What became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// The new cluster.
    pub cluster_id: u64,
    /// The state's digest.
    pub digest: u64,
    /// The chain over all events before the next one, as people compare it.
    pub chain: String,
}

/// Puts what was reached into an empty directory: events up to there, the state as a snapshot, and at last the
/// identity of a cluster that has never been.
///
/// # Errors
/// What the operating system says; then all that was put there is removed again. The events are not those that lead to
/// the state, or not those that were fetched.
pub fn restore(
    backup: &Backup<'_>,
    mut reached: Reached,
    (to, world): (&dyn Storage, &World),
    node_id: u64,
    progress: Progress<'_>,
) -> Result<Restored, Error> {
    let done = put(backup, &mut reached, (to, world), node_id, progress);
    if done.is_err() {
        // Half of it is worth nothing. That it cannot be removed is not worth hiding the reason.
        let _ = clear(to);
    }
    let cluster_id = done?;
    let (digest, chain) = (reached.stock.digest(), hex(&reached.position.told_chain()));
    Ok(Restored { cluster_id, digest, chain })
}

fn put(
    backup: &Backup<'_>,
    reached: &mut Reached,
    (to, world): (&dyn Storage, &World),
    node_id: u64,
    progress: Progress<'_>,
) -> Result<u64, Error> {
    let position = reached.position;
    copy_events(backup, to, position.next, progress)?;
    events::cut(to, SHARD, position)
        .map_err(|error| Error::damaged(to.path("events-*"), error.to_string()))?;
    let founder = Founder { node_id, engine: backup.manifest().engine() };
    let told = &mut |done| progress("writing the snapshot", done, 0);
    let place = (reached.index, position);
    found(to, world, founder, place, &mut reached.stock, told).map_err(Error::io(to.path("")))
}

/// Everything that begins before an event.
fn copy_events(
    backup: &Backup<'_>,
    to: &dyn Storage,
    next: u64,
    progress: Progress<'_>,
) -> Result<(), Error> {
    let files = backup.manifest().files.iter();
    let is_before = |name: &str| first_of(name).is_some_and(|first| first < next);
    let wanted: Vec<_> = files.filter(|(name, file)| is_before(name) && file.bytes > 0).collect();
    let total = wanted.iter().map(|(_, file)| file.bytes).sum();
    let mut done = 0;
    for (name, file) in wanted {
        copy(backup.storage(), to, (name, file), &mut |more| {
            done += more;
            progress("copying the events", done, total);
        })?;
    }
    Ok(())
}

/// Copies a file of the backup, if it is what was fetched: most of it lies before the snapshot, where no log says what
/// it should be.
fn copy(
    from: &dyn Storage,
    to: &dyn Storage,
    (name, wanted): (&str, &BackedUp),
    told: &mut dyn FnMut(u64),
) -> Result<(), Error> {
    let source = from.open(name).map_err(Error::io(from.path(name)))?;
    let target = to.create(name).map_err(Error::io(to.path(name)))?;
    let (mut hash, mut at, mut piece) = (Sha256::new(), 0, Vec::new());
    while at < wanted.bytes {
        piece.resize((wanted.bytes - at).min(PIECE_BYTES) as usize, 0);
        source.read_at(at, &mut piece).map_err(Error::io(from.path(name)))?;
        hash.update(&piece);
        target.write_at(at, &piece).map_err(Error::io(to.path(name)))?;
        at += piece.len() as u64;
        told(piece.len() as u64);
    }
    wanted.compare(hash.finalize().into(), from.path(name))?;
    target.sync_data().map_err(Error::io(to.path(name)))
}

fn clear(to: &dyn Storage) -> io::Result<()> {
    for entry in to.list()?.iter().filter(|entry| entry.name != "lock") {
        to.remove(&entry.name)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::SimStorage;

    #[test]
    fn what_has_rotted_is_not_copied() {
        let (from, to) = (SimStorage::new(), SimStorage::new());
        let (name, mut bytes) = ("events-1", [7; 900]);
        let sha256 = Sha256::digest(&bytes[..800]).into();
        let wanted = BackedUp { bytes: 800, is_sealed: false, sha256 };
        let copied = |bytes: &[u8]| {
            from.replace_small(name, bytes).unwrap();
            copy(&from, &to, (name, &wanted), &mut |_| ())
        };
        // What a run that was cut off has added does not count.
        bytes[800] = 1;
        copied(&bytes).unwrap();
        assert_eq!(to.read_small(name).unwrap().unwrap(), bytes[..800]);
        for at in [0, 799] {
            let mut rotten = bytes;
            rotten[at] ^= 1;
            let refused = copied(&rotten).unwrap_err().to_string();
            assert!(refused.contains("its SHA-256 is not that of the manifest"), "{at}: {refused}");
        }
    }
}
