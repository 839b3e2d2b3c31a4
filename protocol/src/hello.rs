//! The first exchange on a connection: versions, limits, who is there.
//!
//! ```text
//! Hello                              HelloReply
//! magic u32 = "STKD"                 version u16 · reserved u16
//! version_min u16                    frame_bytes_max u32 · batch_ops_max u32
//! version_max u16                    frames_in_flight_max u32
//! client name: u8 len + bytes        cluster_id u64 · node_id u64
//!                                    server_now u64 (ms)
//!                                    leader address: u16 len + bytes (empty: unknown)
//! ```

use bytes::{BufMut, BytesMut};

use crate::reader::{Reader, Truncated};
use crate::{UnixMillis, limits};

/// `STKD` in ASCII, as the first four bytes of a hello.
pub const MAGIC: u32 = u32::from_le_bytes(*b"STKD");

/// What a client says first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hello<'a> {
    /// Must be [`MAGIC`].
    pub magic: u32,
    /// Lowest version the client speaks.
    pub version_min: u16,
    /// Highest version the client speaks.
    pub version_max: u16,
    /// Who asks: the principal of what the connection writes, and for `top`. At most 64 bytes; empty: nobody
    /// in particular.
    pub client_name: &'a [u8],
}

impl<'a> Hello<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut BytesMut) {
        assert!(self.client_name.len() <= limits::CLIENT_NAME_BYTES_MAX, "client name too long");
        out.put_u32_le(self.magic);
        out.put_u16_le(self.version_min);
        out.put_u16_le(self.version_max);
        out.put_u8(self.client_name.len() as u8);
        out.put_slice(self.client_name);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// The body is too short. Bytes after the known fields are left for later versions.
    pub fn decode(body: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(body);
        Ok(Self {
            magic: reader.u32()?,
            version_min: reader.u16()?,
            version_max: reader.u16()?,
            client_name: reader.short_bytes()?,
        })
    }
}

/// What the server answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct HelloReply<'a> {
    /// The version both will speak.
    pub version: u16,
    /// Largest frame the server takes.
    pub frame_bytes_max: u32,
    /// Most operations in a batch.
    pub batch_ops_max: u32,
    /// Most frames of one connection without a reply yet; more are answered BUSY.
    pub frames_in_flight_max: u32,
    /// Which cluster this is; all its nodes say the same.
    pub cluster_id: u64,
    /// Which node this is.
    pub node_id: u64,
    /// The server's clock.
    pub server_now: UnixMillis,
    /// Where the leader serves clients, `host:port`; empty if unknown.
    pub leader: &'a [u8],
}

impl<'a> HelloReply<'a> {
    /// Appends the body.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.version);
        out.put_u16_le(0);
        out.put_u32_le(self.frame_bytes_max);
        out.put_u32_le(self.batch_ops_max);
        out.put_u32_le(self.frames_in_flight_max);
        out.put_u64_le(self.cluster_id);
        out.put_u64_le(self.node_id);
        out.put_u64_le(self.server_now.0);
        out.put_u16_le(self.leader.len() as u16);
        out.put_slice(self.leader);
    }

    /// Reads a body.
    ///
    /// # Errors
    /// The body is too short.
    pub fn decode(body: &'a [u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(body);
        let version = reader.u16()?;
        reader.u16()?;
        Ok(Self {
            version,
            frame_bytes_max: reader.u32()?,
            batch_ops_max: reader.u32()?,
            frames_in_flight_max: reader.u32()?,
            cluster_id: reader.u64()?,
            node_id: reader.u64()?,
            server_now: UnixMillis(reader.u64()?),
            leader: reader.long_bytes()?,
        })
    }
}
