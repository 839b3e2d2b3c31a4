//! Who a data directory belongs to: the file `identity`.
//!
//! ```text
//! offset size
//!      0    8  magic "STKDNODE"
//!      8    8  cluster_id    0: has not joined one
//!     16    8  node_id
//!     24    8  incarnation   drawn when the directory was made
//!     32   32  rules         grace, retention, longest life, in ms; refusals of which one is an event: u64 each
//!     64    4  crc32 of the bytes before
//! ```
//!
//! The rules decide answers together with the log, so all nodes must have the same for ever: a node
//! that starts with others would diverge. They are fixed when the directory is made, and a node with
//! others is not taken in.

use std::{fmt, io};

use bytes::BufMut;

use crate::engine::EngineConfig;
use crate::log::Storage;
use crate::protocol::{Reader, Truncated};
use crate::world::World;

use super::error::Error;

const FILE: &str = "identity";
const MAGIC: &[u8; 8] = b"STKDNODE";

/// The engine's settings that must be equal on all nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rules {
    pub grace_ms: u64,
    pub retention_ms: u64,
    pub max_life_ms: u64,
    pub sample_refusals: u32,
}

impl Rules {
    pub const fn of(config: &EngineConfig) -> Self {
        Self {
            grace_ms: config.grace_ms,
            retention_ms: config.retention_ms,
            max_life_ms: config.max_life_ms,
            sample_refusals: config.sample_refusals,
        }
    }

    /// All of them, in the order in which they are written wherever they are.
    pub const fn words(&self) -> [u64; 4] {
        [self.grace_ms, self.retention_ms, self.max_life_ms, self.sample_refusals as u64]
    }

    pub fn encode(&self, out: &mut impl BufMut) {
        self.words().iter().for_each(|word| out.put_u64_le(*word));
    }

    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self {
            grace_ms: reader.u64()?,
            retention_ms: reader.u64()?,
            max_life_ms: reader.u64()?,
            sample_refusals: u32::try_from(reader.u64()?).map_err(|_| Truncated)?,
        })
    }
}

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { grace_ms, retention_ms, max_life_ms, sample_refusals } = self;
        write!(
            f,
            "grace {grace_ms} ms, retention {retention_ms} ms, longest life {max_life_ms} ms"
        )?;
        match sample_refusals {
            0 => f.write_str(", no refusals told"),
            one_in => write!(f, ", one in {one_in} refusals told"),
        }
    }
}

/// Who this node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub cluster_id: u64,
    pub node_id: u64,
    pub incarnation: u64,
    pub rules: Rules,
}

impl Identity {
    /// Reads the directory's identity; `None`: it has none.
    ///
    /// # Errors
    /// The file is damaged, or cannot be read.
    pub fn read(storage: &dyn Storage) -> Result<Option<Self>, Error> {
        let io = |source| Error::Io { file: storage.path(FILE), source };
        let Some(content) = storage.read_small(FILE).map_err(io)? else { return Ok(None) };
        let identity = Self::decode(&content);
        identity.map(Some).ok_or_else(|| Error::DamagedIdentity { file: storage.path(FILE) })
    }

    /// Reads the directory's identity, or draws one.
    ///
    /// # Errors
    /// The file is damaged, belongs to another node, or was made under other rules.
    pub fn load_or_make(
        storage: &dyn Storage,
        world: &World,
        node_id: u64,
        rules: Rules,
    ) -> Result<Self, Error> {
        let Some(identity) = Self::read(storage)? else {
            let incarnation = world.random.next_u64().max(1);
            let identity = Self { cluster_id: 0, node_id, incarnation, rules };
            let io = |source| Error::Io { file: storage.path(FILE), source };
            identity.save(storage).map_err(io)?;
            return Ok(identity);
        };
        if identity.node_id != node_id {
            let (file, have) = (storage.path(FILE), identity.node_id);
            return Err(Error::NodeId { file, have, want: node_id });
        }
        if identity.rules != rules {
            let (file, have) = (storage.path(FILE), identity.rules);
            return Err(Error::Rules { file, have: have.to_string(), want: rules.to_string() });
        }
        Ok(identity)
    }

    /// Writes it durably.
    pub fn save(&self, storage: &dyn Storage) -> io::Result<()> {
        storage.replace_small(FILE, &self.encode())
    }

    /// The file's content.
    pub fn encode(&self) -> Vec<u8> {
        let mut content = Vec::with_capacity(68);
        content.extend_from_slice(MAGIC);
        content.extend_from_slice(&self.cluster_id.to_le_bytes());
        content.extend_from_slice(&self.node_id.to_le_bytes());
        content.extend_from_slice(&self.incarnation.to_le_bytes());
        self.rules.encode(&mut content);
        content.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
        content
    }

    /// Reads a file's content; `None` if it is damaged.
    pub fn decode(content: &[u8]) -> Option<Self> {
        let (body, crc) = content.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut reader = Reader::new(body);
        if reader.array::<8>().ok()? != *MAGIC {
            return None;
        }
        let (cluster_id, node_id) = (reader.u64().ok()?, reader.u64().ok()?);
        let incarnation = reader.u64().ok()?;
        Some(Self { cluster_id, node_id, incarnation, rules: Rules::take(&mut reader).ok()? })
    }
}
