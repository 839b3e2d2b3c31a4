//! The network door: the one place that says which sockets the daemon uses. Built for simulation
//! (`--cfg stockd_sim`, see `sim/`), they lead through a network in memory.

#[cfg(not(stockd_sim))]
pub use real::Writer;
#[cfg(stockd_sim)]
pub use stockd_simnet::{TcpListener, TcpStream, Writer};
#[cfg(not(stockd_sim))]
pub use tokio::net::{TcpListener, TcpStream};

#[cfg(not(stockd_sim))]
mod real {
    use std::io::{self, IoSlice, Write};
    use std::os::fd::AsFd;

    use tokio::net::TcpStream;

    /// Writes to a connection from whichever thread it is on, beside the task that has the stream. It blocks as little as
    /// the stream, whose mode it shares; a broken connection is an error, as Rust's runtime ignores SIGPIPE.
    #[derive(Debug)]
    pub struct Writer(std::net::TcpStream);

    impl Writer {
        /// A writer to the connection, which is not closed before that is dropped.
        ///
        /// # Errors
        /// The process has all the files open that it may.
        pub fn of(stream: &TcpStream) -> io::Result<Self> {
            Ok(Self(stream.as_fd().try_clone_to_owned()?.into()))
        }

        /// Writes what fits at once.
        ///
        /// # Errors
        /// `WouldBlock` when nothing does; the connection is broken.
        pub fn write(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
            self.0.write_vectored(parts)
        }
    }
}
