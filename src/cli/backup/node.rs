//! The node whose backup is taken, over a connection as clients have it.
//!
//! Pieces are asked for four ahead, so that a far node's disk is read while the last piece is on its way.

use std::collections::VecDeque;
use std::io;
use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use stockd_client::raw;
use tokio::runtime::Runtime;
use tokio::time::{sleep, timeout};

use crate::backup::{Listing, Node, NodeError};
use crate::log::DurableFile;
use crate::protocol::limits::BACKUP_READ_BYTES_MAX;
use crate::protocol::{
    BackupFile, BackupHead, BackupRead, Code, ErrorReply, Frame, Header, Kind, Reader, ShardId,
    Truncated, begin_frame, finish_frame,
};
use crate::world::{Clock, Pace, RealClock};

/// How long to wait for a connection.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a node may take for an answer: before it lists its files it brings all to its disk.
const PATIENCE: Duration = Duration::from_secs(60);
/// Pieces that are asked for and have not come: a node takes eight of all who take backups.
const AHEAD: usize = 4;
/// What is not used of a second's bytes is lost after this.
const SLACK: Duration = Duration::from_millis(100);

/// See the module.
pub(super) struct Connection {
    runtime: Runtime,
    link: Link,
}

struct Link {
    address: String,
    writer: raw::Writer,
    reader: raw::Reader,
    request_id: u64,
    pace: Option<Pace>,
    clock: RealClock,
}

impl Connection {
    /// The first node that answers and is the one of the backup; else whoever answers, to be told what is wrong.
    pub(super) fn open(
        addresses: &[String],
        of: Option<BackupHead>,
        rate: Option<u64>,
    ) -> Result<Self, String> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        let (mut other, mut troubles) = (None, Vec::new());
        for address in addresses {
            match runtime.block_on(connect(address)) {
                Ok(found) if is_it(&found, of) => {
                    other = Some((address, found));
                    break;
                }
                Ok(found) => drop(other.get_or_insert((address, found))),
                Err(trouble) => troubles.push(format!("{address}: {trouble}")),
            }
        }
        let (address, connection) = other.ok_or_else(|| {
            format!("no node answers ({}); is --node right?", troubles.join("; "))
        })?;
        let (writer, reader) = connection.split();
        let pace = rate.map(|rate| Pace::new(rate, SLACK));
        let (address, clock) = (address.clone(), RealClock::new());
        let link = Link { address, writer, reader, request_id: 0, pace, clock };
        Ok(Self { runtime, link })
    }
}

impl Link {
    fn lost(&self, error: impl std::fmt::Display) -> NodeError {
        NodeError::Refused { message: format!("the node at {}: {error}", self.address) }
    }

    fn next_id(&mut self) -> u64 {
        self.request_id += 1;
        self.request_id
    }

    /// Puts a request into the buffer.
    fn put(&mut self, request_id: u64, kind: Kind, body: impl FnOnce(&mut BytesMut)) {
        let out = self.writer.buffer();
        let start = begin_frame(out, Header { request_id, kind, shard: ShardId(0) });
        body(out);
        finish_frame(out, start);
    }

    async fn flush(&mut self) -> Result<(), NodeError> {
        match timeout(PATIENCE, self.writer.flush()).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.lost(error)),
            Err(_) => Err(self.lost("it takes nothing")),
        }
    }

    async fn answer(&mut self) -> Result<Frame, NodeError> {
        let frame = match timeout(PATIENCE, self.reader.next_burst()).await {
            Ok(Ok(mut burst)) => burst.next().transpose().map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer came in a minute".to_owned()),
        };
        let frame = frame.and_then(|frame| frame.ok_or("an answer is cut off".to_owned()));
        frame.map_err(|error| self.lost(error))
    }

    /// What a refusal means; `Ok`: ask again after so long.
    fn refused(&self, body: &[u8]) -> Result<Duration, NodeError> {
        let reply = ErrorReply::decode(body).map_err(|_| self.lost("an answer is cut off"))?;
        match reply.code {
            Code::FILE_GONE => Err(NodeError::Gone),
            Code::BUSY => Ok(Duration::from_millis(u64::from(reply.retry_after_ms.max(1)))),
            code => {
                let message = String::from_utf8_lossy(reply.message);
                Err(self.lost(format_args!("{}: {message}", code.name())))
            }
        }
    }

    async fn list_files(&mut self) -> Result<Listing, NodeError> {
        loop {
            let request_id = self.next_id();
            self.put(request_id, Kind::BackupList, |_| ());
            self.flush().await?;
            let frame = self.answer().await?;
            if frame.header.request_id != request_id {
                continue;
            }
            match frame.header.kind {
                Kind::BackupFiles => {
                    return listing(&frame.body).map_err(|_| self.lost("an answer is cut off"));
                }
                Kind::Error => sleep(self.refused(&frame.body)?).await,
                kind => return Err(self.lost(format_args!("a {} is no list", kind.name()))),
            }
        }
    }

    /// Waits until so many bytes may be asked for.
    async fn wait_for(&mut self, bytes: u32) {
        let now = self.clock.monotonic();
        if let Some(pace) = &mut self.pace {
            let pause = pace.free_at().saturating_sub(now);
            pace.book(now, u64::from(bytes));
            sleep(pause).await;
        }
    }

    async fn ask(&mut self, name: &str, piece: &mut Piece) -> Result<(), NodeError> {
        piece.request_id = self.next_id();
        let (offset, bytes) = (piece.offset, piece.bytes);
        let read = BackupRead { name: name.as_bytes(), offset, bytes };
        self.put(piece.request_id, Kind::BackupRead, |out| read.encode(out));
        self.flush().await
    }

    async fn read_file(
        &mut self,
        name: &str,
        range: Range<u64>,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), NodeError> {
        let (mut next, mut pieces) = (range.start, VecDeque::<Piece>::new());
        loop {
            while next < range.end && pieces.len() < AHEAD {
                let bytes = (range.end - next).min(u64::from(BACKUP_READ_BYTES_MAX)) as u32;
                let mut piece = Piece { request_id: 0, offset: next, bytes, content: None };
                self.wait_for(bytes).await;
                self.ask(name, &mut piece).await?;
                pieces.push_back(piece);
                next += u64::from(bytes);
            }
            if pieces.is_empty() {
                return Ok(());
            }
            let frame = self.answer().await?;
            let id = frame.header.request_id;
            let Some(piece) = pieces.iter_mut().find(|piece| piece.request_id == id) else {
                continue;
            };
            match frame.header.kind {
                Kind::BackupBytes if frame.body.len() as u64 == u64::from(piece.bytes) => {
                    piece.content = Some(frame.body);
                }
                // The file has become shorter.
                Kind::BackupBytes => return Err(NodeError::Gone),
                Kind::Error => {
                    sleep(self.refused(&frame.body)?).await;
                    self.ask(name, piece).await?;
                }
                kind => return Err(self.lost(format_args!("a {} is no piece", kind.name()))),
            }
            while let Some(content) = pieces.front_mut().and_then(|piece| piece.content.take()) {
                sink(&content).map_err(NodeError::Sink)?;
                pieces.pop_front();
            }
        }
    }
}

/// A piece of a file that was asked for.
struct Piece {
    request_id: u64,
    offset: u64,
    bytes: u32,
    content: Option<Bytes>,
}

async fn connect(address: &str) -> Result<raw::Connection, String> {
    match timeout(CONNECT, raw::Connection::connect(address, "stockd-backup")).await {
        Ok(connected) => connected.map_err(|error| error.to_string()),
        Err(_) => Err("no answer came in time".to_owned()),
    }
}

fn is_it(connection: &raw::Connection, of: Option<BackupHead>) -> bool {
    let is = connection.greeting();
    of.is_none_or(|of| (of.cluster_id, of.node_id) == (is.cluster_id, is.node_id))
}

fn listing(body: &[u8]) -> Result<Listing, Truncated> {
    let mut reader = Reader::new(body);
    let (head, mut files) = (BackupHead::take(&mut reader)?, Vec::new());
    for _ in 0..reader.u32()? {
        let BackupFile { name, bytes, is_sealed } = BackupFile::take(&mut reader)?;
        files.push(DurableFile {
            name: String::from_utf8_lossy(name).into_owned(),
            bytes,
            is_sealed,
        });
    }
    Ok(Listing { head, files })
}

impl Node for Connection {
    fn list(&mut self) -> Result<Listing, NodeError> {
        self.runtime.block_on(self.link.list_files())
    }

    fn pause(&mut self, pause: Duration) {
        self.runtime.block_on(sleep(pause));
    }

    fn read(
        &mut self,
        name: &str,
        range: Range<u64>,
        sink: &mut dyn FnMut(&[u8]) -> io::Result<()>,
    ) -> Result<(), NodeError> {
        self.runtime.block_on(self.link.read_file(name, range, sink))
    }
}
