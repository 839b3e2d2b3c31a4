//! The socket types, as tokio has them.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::with;

/// What names a socket: `10.0.0.host:port`.
pub trait ToAddress {
    /// The address.
    ///
    /// # Errors
    /// The text is none.
    fn to_address(&self) -> io::Result<SocketAddr>;
}

impl ToAddress for SocketAddr {
    fn to_address(&self) -> io::Result<SocketAddr> {
        Ok(*self)
    }
}

impl ToAddress for &str {
    fn to_address(&self) -> io::Result<SocketAddr> {
        self.parse().map_err(|_| io::ErrorKind::InvalidInput.into())
    }
}

impl ToAddress for &String {
    fn to_address(&self) -> io::Result<SocketAddr> {
        self.as_str().to_address()
    }
}

/// A listening socket.
#[derive(Debug)]
pub struct TcpListener {
    address: SocketAddr,
}

impl TcpListener {
    /// Listens.
    ///
    /// # Errors
    /// Somebody listens there, or the address is another host's.
    #[expect(clippy::unused_async, reason = "tokio's is async")]
    pub async fn bind(address: impl ToAddress) -> io::Result<Self> {
        let address = address.to_address()?;
        with(|net| net.bind(address)).map(|address| Self { address })
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The host has lost its power.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        let (read, write, peer) = poll_fn(|cx| with(|net| net.accept(&self.address, cx))).await?;
        Ok((TcpStream { ends: Arc::new(Ends { read, write }) }, peer))
    }

    /// Where it listens.
    ///
    /// # Errors
    /// Never; tokio's may.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        Ok(self.address)
    }
}

impl Drop for TcpListener {
    fn drop(&mut self) {
        with(|net| net.unbind(&self.address));
    }
}

/// The two pipes of one end of a connection.
#[derive(Debug)]
struct Ends {
    read: u64,
    write: u64,
}

impl Drop for Ends {
    fn drop(&mut self) {
        with(|net| net.close(self.read, self.write));
    }
}

impl Ends {
    fn poll_read(&self, cx: &Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let room = buf.remaining();
        let mut put = |bytes: &[u8]| buf.put_slice(bytes);
        ready!(with(|net| net.read(self.read, room, cx, &mut put)))?;
        Poll::Ready(Ok(()))
    }

    fn poll_write(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        with(|net| net.write(self.write, bytes, Some(cx)))
    }

    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        match with(|net| net.write(self.write, bytes, None)) {
            Poll::Ready(result) => result,
            Poll::Pending => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    fn shutdown(&self) -> Poll<io::Result<()>> {
        with(|net| net.shutdown(self.write));
        Poll::Ready(Ok(()))
    }
}

/// A connection that is being made; dropping it gives up.
struct Connecting(Option<u64>);

impl Drop for Connecting {
    fn drop(&mut self) {
        if let Some(id) = self.0 {
            with(|net| net.give_up_connecting(id));
        }
    }
}

/// One end of a connection.
#[derive(Debug)]
pub struct TcpStream {
    ends: Arc<Ends>,
}

impl TcpStream {
    /// Connects, however long it takes.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn connect(address: impl ToAddress) -> io::Result<Self> {
        let address = address.to_address()?;
        let id = with(|net| net.connect(address));
        let mut connecting = Connecting(Some(id));
        let result = poll_fn(|cx| with(|net| net.connected(id, cx))).await;
        connecting.0 = None;
        let (read, write) = result?;
        Ok(Self { ends: Arc::new(Ends { read, write }) })
    }

    /// Segments are never held back here.
    ///
    /// # Errors
    /// Never; tokio's may.
    pub fn set_nodelay(&self, _: bool) -> io::Result<()> {
        Ok(())
    }

    /// Writes what fits at once.
    ///
    /// # Errors
    /// `WouldBlock` when nothing does; the connection is broken.
    pub fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        self.ends.try_write(bytes)
    }

    /// Two halves, to be used by two tasks.
    pub fn into_split(self) -> (OwnedReadHalf, OwnedWriteHalf) {
        (OwnedReadHalf(self.ends.clone()), OwnedWriteHalf(self.ends))
    }
}

/// Writes beside the task that has the stream.
#[derive(Debug)]
pub struct Writer(Arc<Ends>);

impl Writer {
    /// A writer to the connection, which is not closed before that is dropped.
    ///
    /// # Errors
    /// Never; a real one may.
    pub fn of(stream: &TcpStream) -> io::Result<Self> {
        Ok(Self(stream.ends.clone()))
    }

    /// Writes what fits at once.
    ///
    /// # Errors
    /// `WouldBlock` when nothing does; the connection is broken.
    pub fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        let Some(part) = parts.iter().find(|part| !part.is_empty()) else { return Ok(0) };
        self.0.try_write(part)
    }
}

/// The reading half.
#[derive(Debug)]
pub struct OwnedReadHalf(Arc<Ends>);

/// The writing half; dropping it says that nothing more comes.
#[derive(Debug)]
pub struct OwnedWriteHalf(Arc<Ends>);

impl Drop for OwnedWriteHalf {
    fn drop(&mut self) {
        // Always ready, and never an error.
        let _ = self.0.shutdown();
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.ends.poll_read(cx, buf)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.ends.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.ends.shutdown()
    }
}

impl AsyncRead for OwnedReadHalf {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.0.poll_read(cx, buf)
    }
}

impl AsyncWrite for OwnedWriteHalf {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.0.poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.shutdown()
    }
}
