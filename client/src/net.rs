//! The sockets that this crate uses; built for stockd's simulation, those of a network in memory.

#[cfg(stockd_sim)]
pub(crate) use stockd_simnet::{OwnedReadHalf, OwnedWriteHalf, TcpStream};
#[cfg(not(stockd_sim))]
pub(crate) use tokio::net::{
    TcpStream,
    tcp::{OwnedReadHalf, OwnedWriteHalf},
};
