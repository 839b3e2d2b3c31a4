//! The server: connections of clients and of operators, in front of a replica.
//!
//! ```text
//! client ══ session ─▶ admission ─▶ ingress of the replica ─▶ … ─▶ outbox ─▶ session ══ client
//!              │            └─▶ reads ── read barrier ──────────────┘
//!              └ limits, metrics, shared
//! operator ══ admin ─▶ commands ─▶ answer (text or JSON)
//! ```
//!
//! Everything runs on one current-thread runtime, together with the replica: a burst is handed over
//! by a function call, and replies come back by one. The only other threads are the log's.
//!
//! Invariants:
//! - Everything is bounded ([`Limits`]); what is over a bound is answered BUSY, or not read.
//! - The server decides nothing about stock: it checks syntax, asks the replica, and answers reads and
//!   certain refusals from the replica's own counters.
//! - Nothing that a client or an operator sends can panic: it is parsed into types first.
//!
//! Left out on purpose: encryption and authentication. That is why only loopback addresses are
//! listened on unless told otherwise.

mod admin;
mod admission;
mod answer;
mod backup;
mod commands;
mod feed;
mod filter;
mod limits;
mod line;
mod metrics;
mod outbox;
mod past;
mod reads;
mod recent;
mod reconcile;
mod session;
mod shared;
mod status;
mod words;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

pub use limits::Limits;
pub use words::{escape, split_words};

use self::limits::{ACCEPT_PAUSE, BUSY_RETRY_MS};
use self::outbox::Outbox;
use self::session::Session;
use self::shared::{Phase, Shared};
use crate::replication::{Refusal, Replica};
use crate::world::World;
use crate::world::net::{TcpListener, TcpStream};

/// An address cannot be listened on.
#[derive(Debug)]
pub struct BindError {
    /// Which.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

impl std::fmt::Display for BindError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { address, source } = self;
        match source.kind() {
            io::ErrorKind::AddrInUse => {
                write!(f, "{address} is in use: stop what listens there, or choose another address")
            }
            _ => write!(f, "cannot listen on {address}: {source}"),
        }
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.source)
    }
}

/// The listening sockets, opened before anything costly is started, so that an address in use is
/// noticed at once. Who connects early waits until [`serve`](Self::serve).
pub struct Listeners {
    client: TcpListener,
    admin: TcpListener,
}

impl Listeners {
    /// Listens for clients and for operators. Port 0 picks a free port.
    ///
    /// # Errors
    /// One of the addresses cannot be had.
    pub async fn bind(client: SocketAddr, admin: SocketAddr) -> Result<Self, BindError> {
        Ok(Self { client: bind(client).await?, admin: bind(admin).await? })
    }

    /// Where clients connect.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn client_address(&self) -> io::Result<SocketAddr> {
        self.client.local_addr()
    }

    /// Where operators connect.
    ///
    /// # Errors
    /// The operating system does not say.
    pub fn admin_address(&self) -> io::Result<SocketAddr> {
        self.admin.local_addr()
    }

    /// Starts to serve, on the runtime that this is called on.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub fn serve(self, replica: Replica, world: World, limits: Limits) -> io::Result<Server> {
        let shared = Arc::new(Shared::new(replica, world, limits)?);
        let clients = tokio::spawn(accept_clients(Arc::clone(&shared), self.client));
        let operators = tokio::spawn(admin::accept(Arc::clone(&shared), self.admin));
        Ok(Server { shared, clients, operators })
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(address).await.map_err(|source| BindError { address, source })
}

/// A running server.
pub struct Server {
    shared: Arc<Shared>,
    clients: JoinHandle<()>,
    operators: JoinHandle<()>,
}

impl Server {
    /// Leaves in order: accepts no more, refuses new requests, waits for the replies that are owed
    /// (at most [`Limits::drain_timeout`]), hands leadership over and stops the replica, sends what
    /// there is, closes.
    pub async fn shutdown(self) {
        let limits = &self.shared.limits;
        self.clients.abort();
        self.shared.set_phase(Phase::Leaving);
        let _ = timeout(limits.drain_timeout, until(|| self.shared.frames_owed() == 0)).await;
        self.shared.replica.shutdown().await;
        self.shared.set_phase(Phase::Closing);
        let _ = timeout(limits.close_timeout, async {
            loop {
                let ended = self.shared.session_ended.notified();
                if self.shared.session_count() == 0 {
                    return;
                }
                ended.await;
            }
        })
        .await;
        self.operators.abort();
    }
}

/// Waits for a condition that nobody announces.
async fn until(condition: impl Fn() -> bool) {
    while !condition() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Accepts clients as long as the node runs.
async fn accept_clients(shared: Arc<Shared>, listener: TcpListener) {
    let strangers = Arc::new(Semaphore::new(shared.limits.connections_before_hello_max as usize));
    loop {
        // Beyond the bound, strangers wait in the operating system's queue.
        let permit = Arc::clone(&strangers).acquire_owned().await;
        let permit = permit.expect("the semaphore is never closed");
        let Some((stream, peer)) = accept(&listener).await else { continue };
        metrics::add(&shared.metrics.connections, 1);
        if shared.session_count() >= shared.limits.connections_max as usize {
            metrics::add(&shared.metrics.connections_refused, 1);
            refuse_connection(&shared, &stream);
            continue;
        }
        let session = Session::new(Arc::clone(&shared), stream, peer.to_string(), permit);
        tokio::spawn(session.run());
        // One, and then everybody else's turn: a flood of connections is not let in at one go.
        tokio::task::yield_now().await;
    }
}

/// The next connection, or `None` after a pause when the operating system has none to give.
async fn accept(listener: &TcpListener) -> Option<(TcpStream, SocketAddr)> {
    match listener.accept().await {
        Ok((stream, peer)) => {
            // Replies leave in whole batches; waiting to fill a packet would only delay them.
            let _ = stream.set_nodelay(true);
            Some((stream, peer))
        }
        Err(_) => {
            tokio::time::sleep(ACCEPT_PAUSE).await;
            None
        }
    }
}

/// Says BUSY to a connection too many. If even that does not fit its socket, it is just closed.
fn refuse_connection(shared: &Shared, stream: &TcpStream) {
    let outbox = Outbox::new(Arc::clone(&shared.metrics), String::new());
    let message = "this node has all the connections it takes; connect to another one, or later";
    outbox.error(0, &Refusal::busy(BUSY_RETRY_MS, message));
    let _ = stream.try_write(&outbox.take(BytesMut::new()).own);
    outbox.close();
}
