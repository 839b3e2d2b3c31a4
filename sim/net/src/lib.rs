//! A network in memory: the socket types that stockd and its client use, between hosts that a
//! simulation steps one after the other in one thread.
//!
//! ```text
//!  host 1                         wire                              host 2
//!  TcpStream ── write ──▶ pipe [ segment due 17 │ due 19 │ lost ] ──▶ read ── TcpStream
//!            ◀── read ─── pipe [ …                               ] ◀── write ──
//! ```
//!
//! It behaves as TCP does towards an application, also where that hurts:
//! - bytes arrive in order or not at all; a lost segment holds up those behind it until it is sent
//!   again, and other connections overtake;
//! - a cut link loses nothing by itself: what was sent stays unacknowledged and arrives after it is
//!   healed, however late; a link may be cut in one direction;
//! - a process that dies closes its sockets; a host that loses power does not, and its peers learn
//!   of it only when they send something after it is back;
//! - a window of [`WINDOW_BYTES`] makes writers wait for readers.
//!
//! Time is whole milliseconds and moves only by [`tick`]. A segment takes at least one, so hosts may
//! be stepped in any order within a millisecond. One process has one network, because sockets are
//! made by functions without context: [`start`] a new one for each run.
//!
//! Left out on purpose: host names, IPv6, back-off of retransmissions, half-closed reading.

mod state;
mod stream;

use std::cell::RefCell;

pub use state::{Host, LinkState, Stats, WINDOW_BYTES};
pub use stream::{OwnedReadHalf, OwnedWriteHalf, TcpListener, TcpStream, ToAddress, Writer};

use state::Net;

thread_local! {
    static NET: RefCell<Net> = RefCell::new(Net::new(0));
}

/// Runs `call` on the network, then wakes whoever it wants woken. Wakers run code of their owners,
/// so nobody may be woken while the network is borrowed.
fn with<R>(call: impl FnOnce(&mut Net) -> R) -> R {
    let (result, wakers) = NET.with_borrow_mut(|net| {
        let result = call(net);
        (result, net.take_wakers())
    });
    for waker in wakers {
        waker.wake();
    }
    result
}

/// Forgets the network and starts an empty one, at time zero, whose chances are drawn from `seed`.
/// Sockets of the old one must be gone.
pub fn start(seed: u64) {
    let old = NET.replace(Net::new(seed));
    drop(old);
}

/// Sockets made from now on belong to `host`.
pub fn enter(host: Host) {
    with(|net| net.current = host);
}

/// Time is `now_ms`: delivers what is due.
pub fn tick(now_ms: u64) {
    with(|net| net.tick(now_ms));
}

/// The time of the last tick.
pub fn now_ms() -> u64 {
    with(|net| net.now_ms)
}

/// Changes how segments from one host to another travel from now on. Healing a cut link sends again
/// what was lost on it.
pub fn set_link(from: Host, to: Host, link: LinkState) {
    with(|net| net.set_link(from, to, link));
}

/// How segments travel from one host to another.
pub fn link(from: Host, to: Host) -> LinkState {
    with(|net| net.link(from, to))
}

/// The host's power goes: its sockets are gone and nobody is told. Call it before dropping them.
pub fn power_off(host: Host) {
    with(|net| net.power_off(host));
}

/// The power is back: what still arrives for its old sockets is answered with a reset.
pub fn power_on(host: Host) {
    with(|net| net.power_on(host));
}

/// What has happened so far.
pub fn stats() -> Stats {
    with(|net| net.stats)
}

/// A hash over everything that was read, and when: equal for equal runs.
pub fn trace() -> u64 {
    with(|net| net.trace)
}

/// A random number for those who have no door to randomness, see `stockd::replication::runtime`.
pub fn random() -> u64 {
    with(|net| net.random.next())
}
