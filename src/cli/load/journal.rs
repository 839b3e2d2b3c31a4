//! How far a load has come, in a file beside the one that is loaded.
//!
//! ```text
//! stockd-load 2 cluster=00c0ffee crc=1a2b3c4d bytes=4096 as=receive rows=50 seed=0011223344
//! begin 0 1700000000000     chunks 0 to 127 are about to be sent, or soon; their ids are of that millisecond
//! bad 17 OVERFLOW (121)     this line was refused
//! done 5                    all rows of chunks 0 to 5 were answered
//! ```
//!
//! A chunk that was begun and is not done is sent again under the same ids, so that no row counts twice.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::super::lock_alone;
use super::CHUNK_ROWS;

/// Chunks of a block, which are written down as begun with one sync: the log of a server on the same disk
/// waits for each.
const BLOCK_CHUNKS: u64 = 128;

/// What a load is of: another file, another cluster, or another way to load it, is another load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct What {
    pub cluster: u64,
    pub crc: u32,
    pub bytes: u64,
    pub how: String,
}

impl What {
    /// A journal's first line, up to the seed.
    fn head(&self) -> String {
        let Self { cluster, crc, bytes, how } = self;
        format!(
            "stockd-load 2 cluster={cluster:08x} crc={crc:08x} bytes={bytes} as={how} rows={CHUNK_ROWS} seed="
        )
    }
}

/// See the module.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Distinguishes the ids of this load from those of all others.
    pub seed: [u8; 5],
    /// When the ids of each block that was begun were made.
    born_ms: Vec<u64>,
    /// Chunks that were answered: all below this.
    pub done: u64,
    /// Lines of chunks that are done that were refused, and why.
    pub bad: BTreeMap<u64, String>,
}

impl Journal {
    /// Goes on with the journal at `path`, or begins it.
    ///
    /// # Errors
    /// It cannot be written, is of another load, or another process is at it.
    pub(super) fn open(path: PathBuf, what: &What, seed: [u8; 5]) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(failed)?;
        lock_alone(&file, &path)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let (born_ms, bad) = (Vec::new(), BTreeMap::new());
        let mut journal = Self { file, path, seed, born_ms, done: 0, bad };
        // The last line may have been cut short by a crash: it says nothing.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        if whole.len() < text.len() {
            journal.file.set_len(whole.len() as u64).map_err(|error| journal.explain(&error))?;
        }
        if whole.is_empty() {
            let seed = crate::audit::hex(&seed);
            journal.write(&format!("{}{seed}", what.head()))?;
            return Ok(journal);
        }
        journal.read(whole, what)?;
        Ok(journal)
    }

    fn read(&mut self, text: &str, what: &What) -> Result<(), String> {
        let mut lines = text.lines();
        let head = lines.next().unwrap_or_default();
        let other = || {
            format!(
                "{} is of another file, another cluster, or another way to load it; if none of its rows may \
                 count twice, load those that are missing from a file of their own, else remove it to load \
                 this one from its first line",
                self.path.display()
            )
        };
        let seed = head.strip_prefix(&what.head()).ok_or_else(other)?;
        let byte = |at: usize| u8::from_str_radix(seed.get(at * 2..at * 2 + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..5).map(byte).collect();
        self.seed = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(other)?;
        // Lines of a round whose `done` did not follow: it is sent again, and they are told again.
        let mut told = Vec::new();
        for line in lines {
            let mut words = line.splitn(3, ' ');
            let (verb, number) = (words.next().unwrap_or_default(), words.next());
            let number = number.and_then(|number| number.parse::<u64>().ok());
            match (verb, number, words.next()) {
                ("begin", Some(block), Some(born)) if block == self.born_ms.len() as u64 => {
                    self.born_ms.push(born.parse().map_err(|_| self.damaged(line))?);
                }
                ("bad", Some(row), Some(why)) => told.push((row, why.to_owned())),
                ("done", Some(chunk), None) => {
                    self.done = chunk.saturating_add(1);
                    self.bad.extend(told.drain(..));
                }
                _ => return Err(self.damaged(line)),
            }
        }
        Ok(())
    }

    fn damaged(&self, line: &str) -> String {
        format!("{}: {line:?} is no line of a journal", self.path.display())
    }

    fn explain(&self, error: &std::io::Error) -> String {
        format!("{}: {error}", self.path.display())
    }

    /// When the chunk's ids were made: `now_ms`, unless its block was begun before. The chunks are asked for
    /// in their order. On disk when it returns.
    pub(super) fn begin(&mut self, chunk: u64, now_ms: u64) -> Result<u64, String> {
        let block = chunk / BLOCK_CHUNKS;
        while self.born_ms.len() as u64 <= block {
            self.write(&format!("begin {} {now_ms}", self.born_ms.len()))?;
            self.file.sync_data().map_err(|error| self.explain(&error))?;
            self.born_ms.push(now_ms);
        }
        Ok(self.born_ms[block as usize])
    }

    /// All chunks up to this one were answered, and these rows of those after the one before were refused.
    pub(super) fn done(&mut self, chunk: u64, bad: &[(u64, String)]) -> Result<(), String> {
        let mut text = String::new();
        for (line, why) in bad {
            text += &format!("bad {line} {why}\n");
        }
        self.write(&format!("{text}done {chunk}"))
    }

    fn write(&mut self, line: &str) -> Result<(), String> {
        let text = format!("{line}\n");
        self.file.write_all(text.as_bytes()).map_err(|error| self.explain(&error))
    }
}

/// A file beside the one that is loaded.
pub(super) fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
