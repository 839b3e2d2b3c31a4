//! Clients that mean no good, or are broken. Each goes on, bounded in connections and in what it keeps in
//! memory, until it is stopped, and counts what it did, so that an idle attack is noticed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use stockd::protocol::{
    CellHandle, CellRef, Header, Hello, Kind, Line, MAGIC, Op, OpFlags, ReservationId, ShardId,
    begin_frame, finish_frame, limits,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// How to attack.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attack {
    /// Connect, and close at once, as fast as it goes.
    ConnectionFlood,
    /// A frame byte by byte.
    Drip,
    /// Frames of the largest size, full of operations, and of nonsense.
    Giant,
    /// Connect and say nothing, or half a hello.
    HalfOpen,
    /// Announce the largest frame and send nothing of it.
    HeaderOnly,
    /// Ask for the largest replies and never read one; begin anew when the server takes no more.
    NeverRead,
    /// As many small frames as the server takes, read as fast as they come.
    PipelineFlood,
    /// Reset the connection in the middle of a frame.
    Reset,
    /// Ask for a SKU of many warehouses, page by page, all the time.
    SkuScan,
}

/// A connection that the server takes nothing from for so long has had all that it will get.
const NOT_READ_FROM: Duration = Duration::from_millis(500);

impl Attack {
    /// Connections that it has open at a time.
    pub const fn connections(self) -> usize {
        match self {
            Self::ConnectionFlood | Self::Giant | Self::PipelineFlood | Self::SkuScan => 4,
            Self::NeverRead => 16,
            Self::Reset => 8,
            Self::Drip => 64,
            Self::HalfOpen | Self::HeaderOnly => 200,
        }
    }

    /// Starts it.
    pub fn start(self, address: &str) -> Running {
        let shared = Arc::new(Shared::default());
        let tasks = (0..self.connections()).map(|number| {
            let (shared, address) = (Arc::clone(&shared), address.to_owned());
            tokio::spawn(async move {
                while !shared.stopped.load(Ordering::Relaxed) {
                    // Being thrown out is what an attacker expects.
                    if self.once(&address, number as u64, &shared).await.is_err() {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
            })
        });
        let tasks = tasks.collect();
        Running { shared, tasks }
    }

    /// One connection, from its beginning to its end.
    async fn once(self, address: &str, number: u64, shared: &Shared) -> std::io::Result<()> {
        let mut stream = TcpStream::connect(address).await?;
        match self {
            Self::ConnectionFlood => shared.did(),
            Self::Drip => {
                greet(&mut stream).await?;
                for byte in batch(8).iter() {
                    stream.write_all(&[*byte]).await?;
                    shared.did();
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
            Self::Giant => {
                greet(&mut stream).await?;
                stream.write_all(&batch(limits::BATCH_OPS_MAX as usize)).await?;
                read_some(&mut stream).await?;
                shared.did();
                let mut nonsense = vec![0xa5; 512 << 10];
                nonsense[..4].copy_from_slice(&(1_u32 << 30).to_le_bytes());
                stream.write_all(&nonsense).await?;
                read_some(&mut stream).await?;
                shared.did();
            }
            Self::HalfOpen => {
                shared.did();
                if number.is_multiple_of(2) {
                    stream.write_all(&hello()[..10]).await?;
                }
                read_to_end(&mut stream).await?;
            }
            Self::HeaderOnly => {
                greet(&mut stream).await?;
                stream.write_all(&(limits::FRAME_BYTES_MAX - 4).to_le_bytes()).await?;
                stream.write_all(&[0; Header::BYTES - 4]).await?;
                shared.did();
                read_to_end(&mut stream).await?;
            }
            Self::NeverRead => {
                greet(&mut stream).await?;
                let cells = vec![CellRef::Handle(CellHandle(0)); limits::READ_CELLS_MAX.into()];
                let ask = frame(|out| Op::encode_read_cells(out, OpFlags::STALE, &cells));
                while !shared.stopped.load(Ordering::Relaxed) {
                    let write = stream.write_all(&ask);
                    tokio::time::timeout(NOT_READ_FROM, write).await??;
                    shared.did();
                }
            }
            Self::PipelineFlood => {
                greet(&mut stream).await?;
                self.flood(stream, shared).await?;
            }
            Self::Reset => {
                greet(&mut stream).await?;
                let bytes = batch(100);
                stream.write_all(&bytes).await?;
                stream.write_all(&bytes[..bytes.len() / 2]).await?;
                stream.set_zero_linger()?;
                shared.did();
            }
            Self::SkuScan => {
                greet(&mut stream).await?;
                let ask = frame(|out| Op::encode_read_sku(out, OpFlags::STALE, None, b"many"));
                while !shared.stopped.load(Ordering::Relaxed) {
                    stream.write_all(&ask).await?;
                    read_frame(&mut stream).await?;
                    shared.did();
                }
            }
        }
        Ok(())
    }

    /// Writes and reads at the same time.
    async fn flood(self, stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
        let (mut from, mut to) = stream.into_split();
        let mut burst = BytesMut::new();
        for _ in 0..256 {
            burst.extend_from_slice(&frame(|out| reserve(out, 1)));
        }
        let reader = tokio::spawn(async move {
            let mut taken = vec![0; 64 << 10];
            while from.read(&mut taken).await.is_ok_and(|count| count > 0) {}
        });
        while !shared.stopped.load(Ordering::Relaxed) {
            to.write_all(&burst).await?;
            shared.did();
            // A quarter of a million a second each, far more than any limit; without a pause the
            // test measures its own thread.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        drop(to);
        let _ = reader.await;
        Ok(())
    }
}

#[derive(Default)]
struct Shared {
    stopped: AtomicBool,
    done: AtomicU64,
}

impl Shared {
    fn did(&self) {
        self.done.fetch_add(1, Ordering::Relaxed);
    }
}

/// An attack that goes on.
pub struct Running {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

impl Running {
    /// How often it did what it does.
    pub fn done(&self) -> u64 {
        self.shared.done.load(Ordering::Relaxed)
    }

    /// Ends it and says how often it did what it does.
    pub async fn stop(self) -> u64 {
        self.shared.stopped.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.abort();
            let _ = task.await;
        }
        self.shared.done.load(Ordering::Relaxed)
    }
}

/// A hello frame.
pub fn hello() -> BytesMut {
    let mut out = BytesMut::new();
    let header = Header { request_id: 0, kind: Kind::Hello, shard: ShardId(0) };
    let start = begin_frame(&mut out, header);
    Hello { magic: MAGIC, version_min: 1, version_max: 1, client_name: b"abuse" }.encode(&mut out);
    finish_frame(&mut out, start);
    out
}

/// Says hello and waits for the answer.
pub async fn greet(stream: &mut TcpStream) -> std::io::Result<()> {
    stream.write_all(&hello()).await?;
    read_frame(stream).await
}

async fn read_frame(stream: &mut TcpStream) -> std::io::Result<()> {
    let mut head = [0; 4];
    stream.read_exact(&mut head).await?;
    let mut left = u64::from(u32::from_le_bytes(head));
    let mut taken = [0; 16 << 10];
    while left > 0 {
        let count = left.min(taken.len() as u64) as usize;
        left -= stream.read_exact(&mut taken[..count]).await? as u64;
    }
    Ok(())
}

async fn read_some(stream: &mut TcpStream) -> std::io::Result<()> {
    match stream.read(&mut [0; 4096]).await? {
        0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

async fn read_to_end(stream: &mut TcpStream) -> std::io::Result<()> {
    while stream.read(&mut [0; 64]).await? > 0 {}
    Ok(())
}

/// One operation in a frame. All have the same request id: nobody looks at the replies.
fn frame(put: impl FnOnce(&mut BytesMut)) -> BytesMut {
    let mut out = BytesMut::new();
    let header = Header { request_id: 1, kind: Kind::Op, shard: ShardId(0) };
    let start = begin_frame(&mut out, header);
    put(&mut out);
    finish_frame(&mut out, start);
    out
}

/// A batch frame of reserves that are refused because of their ids, so that they fill no memory for
/// long.
fn batch(count: usize) -> BytesMut {
    let mut out = BytesMut::new();
    let header = Header { request_id: 1, kind: Kind::Batch, shard: ShardId(0) };
    let start = begin_frame(&mut out, header);
    out.put_u32_le(count as u32);
    (0..count).for_each(|number| reserve(&mut out, number as u64));
    finish_frame(&mut out, start);
    out
}

fn reserve(out: &mut BytesMut, number: u64) {
    let lines = [Line { cell: CellRef::Handle(CellHandle(0)), quantity: 1 }];
    let id = ReservationId::from_parts(number, [7; 10]);
    Op::encode_reserve(out, OpFlags::default(), None, id, 1_000, &lines);
}
