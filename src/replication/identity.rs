//! Who a data directory belongs to: the file `identity`.
//!
//! ```text
//! offset size
//!      0    8  magic "STKDNODE"
//!      8    8  cluster_id    0: has not joined one
//!     16    8  node_id
//!     24    8  incarnation   drawn when the directory was made
//!     32    4  crc32 of the bytes before
//! ```

use std::io;

use crate::log::Storage;
use crate::protocol::Reader;
use crate::world::World;

use super::error::Error;

const FILE: &str = "identity";
const MAGIC: &[u8; 8] = b"STKDNODE";

/// Who this node is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Identity {
    pub cluster_id: u64,
    pub node_id: u64,
    pub incarnation: u64,
}

impl Identity {
    /// Reads the directory's identity, or draws one.
    ///
    /// # Errors
    /// The file is damaged, or belongs to another node.
    pub fn load_or_make(
        storage: &dyn Storage,
        world: &World,
        node_id: u64,
    ) -> Result<(Self, bool), Error> {
        let io = |source| Error::Io { file: storage.path(FILE), source };
        let Some(content) = storage.read_small(FILE).map_err(io)? else {
            let incarnation = world.random.next_u64().max(1);
            let identity = Self { cluster_id: 0, node_id, incarnation };
            identity.save(storage).map_err(io)?;
            return Ok((identity, true));
        };
        let identity = Self::decode(&content)
            .ok_or_else(|| Error::DamagedIdentity { file: storage.path(FILE) })?;
        if identity.node_id != node_id {
            let (file, have) = (storage.path(FILE), identity.node_id);
            return Err(Error::NodeId { file, have, want: node_id });
        }
        Ok((identity, false))
    }

    /// Writes it durably.
    pub fn save(&self, storage: &dyn Storage) -> io::Result<()> {
        let mut content = Vec::with_capacity(36);
        content.extend_from_slice(MAGIC);
        content.extend_from_slice(&self.cluster_id.to_le_bytes());
        content.extend_from_slice(&self.node_id.to_le_bytes());
        content.extend_from_slice(&self.incarnation.to_le_bytes());
        content.extend_from_slice(&crc32fast::hash(&content).to_le_bytes());
        storage.replace_small(FILE, &content)
    }

    fn decode(content: &[u8]) -> Option<Self> {
        let (body, crc) = content.split_last_chunk::<4>()?;
        if crc32fast::hash(body) != u32::from_le_bytes(*crc) {
            return None;
        }
        let mut reader = Reader::new(body);
        if reader.array::<8>().ok()? != *MAGIC {
            return None;
        }
        let (cluster_id, node_id) = (reader.u64().ok()?, reader.u64().ok()?);
        Some(Self { cluster_id, node_id, incarnation: reader.u64().ok()? })
    }
}
