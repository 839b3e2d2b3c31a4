//! The network door: the one place that says which sockets the daemon uses. A simulation swaps
//! these two lines.

pub use tokio::net::{TcpListener, TcpStream};
