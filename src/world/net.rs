//! The network door: the one place that says which sockets the daemon uses. Built for simulation
//! (`--cfg stockd_sim`, see `sim/`), they lead through a network in memory.

#[cfg(stockd_sim)]
pub use stockd_simnet::{TcpListener, TcpStream};
#[cfg(not(stockd_sim))]
pub use tokio::net::{TcpListener, TcpStream};
