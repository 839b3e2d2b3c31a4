//! How far a load has come, in a file beside the one that is loaded.
//!
//! ```text
//! stockd-load 1 crc=1a2b3c4d bytes=4096 as=receive rows=50 seed=0011223344
//! begin 0 1700000000000     chunk 0 is about to be sent, or soon; its ids are of that millisecond
//! bad 17 OVERFLOW (121)     a row of it was refused
//! done 0                    all of it was answered
//! end                       all chunks are done
//! ```
//!
//! A chunk that was begun and is not done is sent again under the same ids, so that no row counts twice.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::CHUNK_ROWS;

/// Chunks that are written down as begun with one sync: the log of a server on the same disk waits for
/// each.
const BEGUN_TOGETHER: u64 = 128;

/// What a load is of: another file, or another way to load it, is another load.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct What {
    pub crc: u32,
    pub bytes: u64,
    pub how: String,
}

impl What {
    /// A journal's first line, up to the seed.
    fn head(&self) -> String {
        let Self { crc, bytes, how } = self;
        format!("stockd-load 1 crc={crc:08x} bytes={bytes} as={how} rows={CHUNK_ROWS} seed=")
    }
}

/// See the module.
pub(super) struct Journal {
    file: File,
    path: PathBuf,
    /// Distinguishes the ids of this load from those of all others.
    pub seed: [u8; 5],
    born_ms: BTreeMap<u64, u64>,
    /// Chunks that were answered.
    done: Vec<u64>,
    /// Refused rows: line and reason.
    pub bad: Vec<(u64, String)>,
    /// All was loaded before.
    pub ended: bool,
}

impl Journal {
    /// Goes on with the journal at `path`, or begins it.
    ///
    /// # Errors
    /// It cannot be written, or is of another load.
    pub(super) fn open(path: PathBuf, what: &What, seed: [u8; 5]) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{}: {error}", path.display());
        let mut file =
            OpenOptions::new().create(true).read(true).append(true).open(&path).map_err(failed)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(failed)?;
        let (born_ms, done, bad) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut journal = Self { file, path, seed, born_ms, done, bad, ended: false };
        // The last line may have been cut short by a crash: it says nothing.
        let whole = text.rfind('\n').map_or("", |end| &text[..=end]);
        if whole.is_empty() {
            journal.file.set_len(0).map_err(|error| journal.explain(&error))?;
            let seed: String = seed.iter().map(|byte| format!("{byte:02x}")).collect();
            journal.write(&format!("{}{seed}", what.head()))?;
            return Ok(journal);
        }
        if whole.len() < text.len() {
            journal.file.set_len(whole.len() as u64).map_err(|error| journal.explain(&error))?;
        }
        journal.read(whole, what)?;
        Ok(journal)
    }

    fn read(&mut self, text: &str, what: &What) -> Result<(), String> {
        let mut lines = text.lines();
        let head = lines.next().unwrap_or_default();
        let other = || {
            format!(
                "{} is of another file, or of another way to load it; remove it to load this one from \
                 its first line",
                self.path.display()
            )
        };
        let seed = head.strip_prefix(&what.head()).ok_or_else(other)?;
        let byte = |at: usize| u8::from_str_radix(seed.get(at * 2..at * 2 + 2)?, 16).ok();
        let bytes: Option<Vec<u8>> = (0..5).map(byte).collect();
        self.seed = bytes.and_then(|bytes| bytes.try_into().ok()).ok_or_else(other)?;
        for line in lines {
            let mut words = line.splitn(3, ' ');
            let (verb, number) = (words.next().unwrap_or_default(), words.next());
            let number = number.and_then(|number| number.parse::<u64>().ok());
            match (verb, number, words.next()) {
                ("begin", Some(chunk), Some(born)) => {
                    let born = born.parse().map_err(|_| self.damaged(line))?;
                    self.born_ms.insert(chunk, born);
                }
                ("bad", Some(row), Some(why)) => self.bad.push((row, why.to_owned())),
                ("done", Some(chunk), None) => self.done.push(chunk),
                ("end", None, None) => self.ended = true,
                _ => return Err(self.damaged(line)),
            }
        }
        self.done.sort_unstable();
        Ok(())
    }

    fn damaged(&self, line: &str) -> String {
        format!("{}: {line:?} is no line of a journal", self.path.display())
    }

    fn explain(&self, error: &std::io::Error) -> String {
        format!("{}: {error}", self.path.display())
    }

    /// When the chunk's ids were made, if it was begun.
    pub(super) fn born_ms(&self, chunk: u64) -> Option<u64> {
        self.born_ms.get(&chunk).copied()
    }

    /// The chunk was answered in an earlier run.
    pub(super) fn is_done(&self, chunk: u64) -> bool {
        self.done.binary_search(&chunk).is_ok()
    }

    /// The chunk is about to be sent with ids of this millisecond, and so may be those after it. On disk
    /// when it returns.
    pub(super) fn begin(&mut self, chunk: u64, born_ms: u64) -> Result<(), String> {
        let chunks = chunk..chunk + BEGUN_TOGETHER;
        let fresh = chunks.filter(|chunk| !self.born_ms.contains_key(chunk));
        let fresh: Vec<u64> = fresh.collect();
        let lines = fresh.iter().map(|chunk| format!("begin {chunk} {born_ms}"));
        self.write(&lines.collect::<Vec<_>>().join("\n"))?;
        self.born_ms.extend(fresh.into_iter().map(|chunk| (chunk, born_ms)));
        self.file.sync_data().map_err(|error| self.explain(&error))
    }

    /// The chunk was answered, and these rows of it were refused.
    pub(super) fn done(&mut self, chunk: u64, bad: &[(u64, String)]) -> Result<(), String> {
        let mut text = String::new();
        for (line, why) in bad {
            text += &format!("bad {line} {why}\n");
        }
        self.write(&format!("{text}done {chunk}"))
    }

    /// All chunks are done.
    pub(super) fn end(&mut self) -> Result<(), String> {
        self.write("end")?;
        self.file.sync_data().map_err(|error| self.explain(&error))
    }

    fn write(&mut self, line: &str) -> Result<(), String> {
        let text = format!("{line}\n");
        self.file.write_all(text.as_bytes()).map_err(|error| self.explain(&error))
    }
}

/// Where the journal of a file is.
pub(super) fn path_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".load");
    name.into()
}
