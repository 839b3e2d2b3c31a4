//! The first exchange between peers: who are you, and is it you I mean?
//!
//! ```text
//! hello    magic u32 "STKP" · version u16 · 0 u16 · cluster_id u64 (0: not yet in one)
//!          node_id u64 · to_node_id u64 (0: whoever is there)
//! reply    cluster_id u64 · node_id u64 · incarnation u64      (after the clock)
//! ```

use bytes::{BufMut, BytesMut};

use super::types::Malformed;
use crate::protocol::Reader;

const MAGIC: u32 = u32::from_le_bytes(*b"STKP");
/// The peers' protocol version. Nodes of different versions refuse each other.
const VERSION: u16 = 4;

/// What a node says first to a peer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PeerHello {
    pub cluster_id: u64,
    pub node_id: u64,
    pub incarnation: u64,
}

impl PeerHello {
    pub fn encode(&self, out: &mut BytesMut, to: u64) {
        out.put_u32_le(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u64_le(self.cluster_id);
        out.put_u64_le(self.node_id);
        out.put_u64_le(to);
    }

    /// Checks a stranger's hello against this node and returns its node id; the error is for the
    /// stranger.
    pub fn check(&self, body: &[u8]) -> Result<u64, String> {
        let parse = || -> Result<_, Malformed> {
            let mut reader = Reader::new(body);
            let (magic, version) = (reader.u32()?, reader.u16()?);
            reader.u16()?;
            Ok((magic, version, reader.u64()?, reader.u64()?, reader.u64()?))
        };
        let Ok((magic, version, cluster, node, to)) = parse() else {
            return Err("the hello is cut short".into());
        };
        if magic != MAGIC {
            return Err("this is a port for stockd peers; clients use another".into());
        }
        if version != VERSION {
            return Err(format!(
                "peer protocol {version} is not {VERSION}; upgrade one of the nodes"
            ));
        }
        if cluster != 0 && self.cluster_id != 0 && cluster != self.cluster_id {
            return Err(format!(
                "node {} belongs to another cluster ({:016x}, not {cluster:016x})",
                self.node_id, self.cluster_id
            ));
        }
        if to != 0 && to != self.node_id {
            return Err(format!("this is node {}, not node {to}", self.node_id));
        }
        Ok(node)
    }
}

/// The answer to a hello.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HelloReply {
    pub cluster_id: u64,
    pub node_id: u64,
    pub incarnation: u64,
}

impl HelloReply {
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u64_le(self.cluster_id);
        out.put_u64_le(self.node_id);
        out.put_u64_le(self.incarnation);
    }

    pub fn decode(body: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new(body);
        let (cluster_id, node_id) = (reader.u64()?, reader.u64()?);
        Ok(Self { cluster_id, node_id, incarnation: reader.u64()? })
    }
}
