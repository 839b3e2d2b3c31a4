//! What a backup is: the file `MANIFEST`, a line of text for each fact.
//!
//! ```text
//! stockd backup 1
//! cluster 00c3f2a91b77e015
//! node 2
//! incarnation 8d1f20aa33bc0417
//! rules 2048 3600000 86400000 0                   grace, retention, longest life, in ms; refusals of which one is told
//! index 81233                                     the last log entry
//! now 1764482356123456                            the log's time after it, in µs since 1970
//! next_event 912034                               the number after the last event up to there
//! chain 5b1c…                                     over all records of events before it; zeros: there are none
//! file segment-0000000007.log 67108864 sealed 3fa9…       name, bytes, sealed or open, SHA-256
//! crc 8f0317ab                                    crc32 of all lines before
//! ```
//!
//! It is written last, so that what it names is on disk. Only a first run begins with one, too, so that no other node
//! goes on with it: with no files, and `index 0`, which no node with an entry is at.

use std::collections::BTreeMap;
use std::fmt::Write;

use sha2::{Digest, Sha256};

use super::{Error, PIECE_BYTES, Progress};
use crate::audit::hex;
use crate::engine::EngineConfig;
use crate::log::Storage;
use crate::protocol::BackupHead;

/// The name of the file.
pub const MANIFEST: &str = "MANIFEST";

const TITLE: &str = "stockd backup 1";

/// A file of a backup.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BackedUp {
    /// How long it is.
    pub bytes: u64,
    /// It never grows.
    pub is_sealed: bool,
    /// SHA-256 of its bytes.
    pub sha256: [u8; 32],
}

impl BackedUp {
    /// Of a file of which nothing counts, whatever is in it.
    pub(super) fn nothing() -> Self {
        Self { bytes: 0, is_sealed: false, sha256: Sha256::digest([]).into() }
    }

    /// Compares it with the SHA-256 of as many bytes of a file.
    ///
    /// # Errors
    /// It is another one.
    pub(super) fn compare(&self, found: [u8; 32], path: String) -> Result<(), Error> {
        match found == self.sha256 {
            true => Ok(()),
            false => Err(Error::damaged(path, "its SHA-256 is not that of the manifest")),
        }
    }
}

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Manifest {
    /// Whose history it is, and how far it reaches.
    pub head: BackupHead,
    /// The files, by name.
    pub files: BTreeMap<String, BackedUp>,
}

impl Manifest {
    /// Reads it; `None`: there is none.
    ///
    /// # Errors
    /// It is damaged or cannot be read.
    pub fn read(storage: &dyn Storage) -> Result<Option<Self>, Error> {
        let path = storage.path(MANIFEST);
        let content = storage.read_small(MANIFEST).map_err(Error::io(path.clone()))?;
        let bad = |what| Error::BadManifest { file: path, what };
        content.map(|content| Self::decode(&content)).transpose().map_err(bad)
    }

    /// Puts it in the place of the one before, in one step.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn write(&self, storage: &dyn Storage) -> Result<(), Error> {
        let written = storage.replace_small(MANIFEST, self.encode().as_bytes());
        written.map_err(Error::io(storage.path(MANIFEST)))
    }

    /// A run has ended: there is something to restore.
    pub const fn is_finished(&self) -> bool {
        self.head.index > 0
    }

    /// The rules under which everything was decided.
    pub fn engine(&self) -> EngineConfig {
        let [grace_ms, retention_ms, max_life_ms, one_in] = self.head.rules;
        // What is more than a node can have, the snapshot refuses.
        let sample_refusals = u32::try_from(one_in).unwrap_or(u32::MAX);
        let usual = EngineConfig::default();
        EngineConfig { grace_ms, retention_ms, max_life_ms, sample_refusals, ..usual }
    }

    fn encode(&self) -> String {
        let BackupHead { cluster_id, node_id, incarnation, rules, .. } = self.head;
        let BackupHead { index, now_us, next_event, chain, .. } = self.head;
        let mut text = format!(
            "{TITLE}\ncluster {cluster_id:016x}\nnode {node_id}\nincarnation {incarnation:016x}\n\
             rules {}\nindex {index}\nnow {now_us}\nnext_event {next_event}\n\
             chain {}\n",
            rules.map(|rule| rule.to_string()).join(" "),
            hex(&chain)
        );
        for (name, file) in &self.files {
            let (bytes, sealed) = (file.bytes, if file.is_sealed { "sealed" } else { "open" });
            writeln!(text, "file {name} {bytes} {sealed} {}", hex(&file.sha256))
                .expect("a string takes all that is written to it");
        }
        let crc = crc32fast::hash(text.as_bytes());
        writeln!(text, "crc {crc:08x}").expect("a string takes all that is written to it");
        text
    }

    fn decode(content: &[u8]) -> Result<Self, &'static str> {
        const CUT: &str = "it is damaged";
        let text = str::from_utf8(content).map_err(|_| CUT)?;
        if text.lines().next() != Some(TITLE) {
            return Err("it is no manifest of this version of stockd");
        }
        let at = text.rfind("crc ").ok_or(CUT)?;
        let (facts, crc) = text.split_at(at);
        if crc.trim_end() != format!("crc {:08x}", crc32fast::hash(facts.as_bytes())) {
            return Err("its checksum is wrong");
        }
        Self::parse(facts).ok_or(CUT)
    }

    fn parse(facts: &str) -> Option<Self> {
        let mut lines = facts.lines().skip(1);
        let mut fact = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        let head = BackupHead {
            cluster_id: u64::from_str_radix(fact("cluster")?, 16).ok()?,
            node_id: fact("node")?.parse().ok()?,
            incarnation: u64::from_str_radix(fact("incarnation")?, 16).ok()?,
            rules: {
                let rules =
                    fact("rules")?.split(' ').map(str::parse).collect::<Result<Vec<_>, _>>();
                rules.ok()?.try_into().ok()?
            },
            index: fact("index")?.parse().ok()?,
            now_us: fact("now")?.parse().ok()?,
            next_event: fact("next_event")?.parse().ok()?,
            chain: from_hex(fact("chain")?)?,
        };
        let mut files = BTreeMap::new();
        for line in lines {
            let mut words = line.strip_prefix("file ")?.split(' ');
            let (name, bytes) = (words.next()?, words.next()?.parse().ok()?);
            let is_sealed = words.next()? == "sealed";
            let sha256 = from_hex(words.next()?)?;
            files.insert(name.to_owned(), BackedUp { bytes, is_sealed, sha256 });
        }
        Some(Self { head, files })
    }
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

/// The SHA-256 of the first bytes of a file, piece by piece.
///
/// # Errors
/// What the operating system says; `UnexpectedEof`: it is shorter.
pub(super) fn sha256_of(
    storage: &dyn Storage,
    name: &str,
    bytes: u64,
    progress: &mut dyn FnMut(u64),
) -> std::io::Result<[u8; 32]> {
    let file = storage.open(name)?;
    let (mut hash, mut at, mut piece) = (Sha256::new(), 0, Vec::new());
    while at < bytes {
        piece.resize((bytes - at).min(PIECE_BYTES) as usize, 0);
        file.read_at(at, &mut piece)?;
        hash.update(&piece);
        at += piece.len() as u64;
        progress(piece.len() as u64);
    }
    Ok(hash.finalize().into())
}

impl Manifest {
    /// Looks whether a file is what it was when it was fetched.
    ///
    /// # Errors
    /// It is not, or cannot be read.
    pub(super) fn check(
        &self,
        storage: &dyn Storage,
        name: &str,
        mut done: u64,
        progress: Progress<'_>,
    ) -> Result<(), Error> {
        let Some(wanted) = self.files.get(name) else {
            return Err(Error::damaged(storage.path(name), "the manifest does not know it"));
        };
        let total: u64 = self.files.values().map(|file| file.bytes).sum();
        let file = storage.open(name).and_then(|file| file.bytes());
        let bytes = file.map_err(Error::io(storage.path(name)))?;
        // What is open may have grown in a run that was cut off before it wrote its manifest.
        let is_as_long = match wanted.is_sealed {
            true => bytes == wanted.bytes,
            false => bytes >= wanted.bytes,
        };
        if !is_as_long {
            let what = format!("it has {bytes} bytes; the manifest says {}", wanted.bytes);
            return Err(Error::damaged(storage.path(name), what));
        }
        let found = sha256_of(storage, name, wanted.bytes, &mut |more| {
            done += more;
            progress("checking", done, total);
        });
        wanted.compare(found.map_err(Error::io(storage.path(name)))?, storage.path(name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_comes_back_and_notices_every_changed_byte() {
        let head = BackupHead {
            cluster_id: 7,
            node_id: 2,
            incarnation: 9,
            rules: [1, 2, 3, 4],
            index: 81_233,
            now_us: 1_764_482_356_123_456,
            next_event: 912_034,
            chain: [0xab; 32],
        };
        let file = |bytes, is_sealed| BackedUp { bytes, is_sealed, sha256: [bytes as u8; 32] };
        let files = [("events-1", file(5, false)), ("segment-1", file(6, true))];
        let files = files.map(|(name, file)| (name.to_owned(), file)).into();
        let manifest = Manifest { head, files };
        let text = manifest.encode();
        assert_eq!(Manifest::decode(text.as_bytes()), Ok(manifest));
        for at in 0..text.len() - 1 {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            assert!(Manifest::decode(&bytes).is_err(), "{at}");
            assert!(Manifest::decode(&bytes[..at]).is_err(), "cut at {at}");
        }
    }
}
