//! A network between peers that can be cut, one way or both.
//!
//! ```text
//! node 1 ──▶ proxy of node 2 ──▶ node 2        (1, 2) cut: what 1 says does not reach 2
//!        ◀──                 ◀──               (2, 1) cut: what 2 says does not reach 1
//! ```
//!
//! Each node tells the others its proxy's address. A proxy learns who calls from the first message.
//! What is said into a cut is held back, and arrives when the cut has healed, as on a real network
//! that repeats what was lost; nobody can open a connection meanwhile, because that takes both ways.

use std::collections::BTreeSet;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::node::{Node, free_address};

type Cuts = BTreeSet<(u64, u64)>;

/// Opens a peer's first message; its own id comes 16 bytes later.
const MAGIC: &[u8] = b"STKP";

/// All links between some nodes. Dropping it cuts everything for good.
pub struct Network {
    cuts: watch::Sender<Cuts>,
    ids: Vec<u64>,
    _proxies: JoinSet<()>,
}

impl Network {
    /// Puts a proxy before each node, which must not have started yet.
    pub async fn between(nodes: &mut [Node]) -> Self {
        let cuts = watch::Sender::new(Cuts::new());
        let mut proxies = JoinSet::new();
        let mut addresses: Vec<String> = Vec::new();
        for node in nodes.iter_mut() {
            let address = free_address();
            let listener = TcpListener::bind(&address).await.unwrap();
            proxies.spawn(serve(listener, node.id, node.peer.clone(), cuts.subscribe()));
            node.arguments.extend(["--advertise-peer".to_owned(), address.clone()]);
            node.join = addresses.clone();
            addresses.push(address);
        }
        let ids = nodes.iter().map(|node| node.id).collect();
        Self { cuts, ids, _proxies: proxies }
    }

    /// What `from` says does not reach `to` any more.
    pub fn cut(&self, from: u64, to: u64) {
        self.cuts.send_modify(|cuts| {
            cuts.insert((from, to));
        });
    }

    /// Nobody hears `id`, and it hears nobody.
    pub fn isolate(&self, id: u64) {
        for &other in self.ids.iter().filter(|other| **other != id) {
            self.cut(id, other);
            self.cut(other, id);
        }
    }

    /// All cuts are gone.
    pub fn heal(&self) {
        self.cuts.send_modify(BTreeSet::clear);
    }
}

async fn serve(listener: TcpListener, to: u64, address: String, cuts: watch::Receiver<Cuts>) {
    let mut links = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (address, cuts) = (address.clone(), cuts.clone());
        links.spawn(async move {
            // A link that breaks is the peers' business.
            let _ = relay(stream, to, &address, cuts).await;
        });
        while links.try_join_next().is_some() {}
    }
}

async fn relay(
    mut caller: TcpStream,
    to: u64,
    address: &str,
    cuts: watch::Receiver<Cuts>,
) -> io::Result<()> {
    let mut first = Vec::new();
    let from = loop {
        if caller.read_buf(&mut first).await? == 0 {
            return Ok(());
        }
        if let Some(from) = caller_id(&first) {
            break from;
        }
    };
    let open = |cuts: &Cuts| !cuts.contains(&(from, to)) && !cuts.contains(&(to, from));
    cuts.clone().wait_for(open).await.map_err(io::Error::other)?;
    let mut callee = TcpStream::connect(address).await?;
    caller.set_nodelay(true)?;
    callee.set_nodelay(true)?;
    callee.write_all(&first).await?;
    let (caller_in, caller_out) = caller.into_split();
    let (callee_in, callee_out) = callee.into_split();
    tokio::select! {
        ended = pump(caller_in, callee_out, (from, to), cuts.clone()) => ended,
        ended = pump(callee_in, caller_out, (to, from), cuts) => ended,
    }
}

fn caller_id(message: &[u8]) -> Option<u64> {
    let magic = message.windows(MAGIC.len()).position(|window| window == MAGIC)?;
    let id = message.get(magic + 16..magic + 24)?;
    Some(u64::from_le_bytes(id.try_into().ok()?))
}

/// Carries bytes one way, but not through a cut.
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    way: (u64, u64),
    mut cuts: watch::Receiver<Cuts>,
) -> io::Result<()> {
    let mut bytes = vec![0; 64 << 10];
    loop {
        let count = from.read(&mut bytes).await?;
        if count == 0 {
            return Ok(());
        }
        cuts.wait_for(|cuts| !cuts.contains(&way)).await.map_err(io::Error::other)?;
        to.write_all(&bytes[..count]).await?;
    }
}
