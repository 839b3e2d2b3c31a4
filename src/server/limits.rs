//! The server's limits, each with its reason. `limits` on the admin port prints those in force.

use std::time::Duration;

use bytes::BytesMut;

use crate::protocol::limits::FRAME_BYTES_MAX;

/// Everything a client can make the server hold is bounded by one of these.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Most connections of clients; one more is answered BUSY and closed. Admin connections are
    /// counted apart, so that an operator always gets in.
    pub connections_max: u32,
    /// Most cells in memory; operations that make more are answered BUSY. A cell with a name of its
    /// own takes about 124 bytes and cells are never removed.
    pub cells_max: u32,
    /// Most connections that have not said hello. More wait in the listen queue of the operating
    /// system: strangers cost it, not us, and a storm of reconnecting clients loses nobody.
    pub connections_before_hello_max: u32,
    /// Most admin connections: a few people and their scripts.
    pub admin_connections_max: u32,
    /// Most frames of one connection without a reply; more are answered BUSY. A node is saturated
    /// long before: 16 connections with 100 each are enough.
    pub frames_in_flight_max: u32,
    /// Most request bytes of one connection without a reply: eight of the largest frames, so that
    /// one connection can keep the log busy and ten thousand cannot fill the memory with one frame
    /// each before the queue of writes says BUSY.
    pub request_bytes_in_flight_max: u64,
    /// A connection with this many reply bytes unsent is not read from until the client has taken
    /// them. One largest reply and a bit.
    pub unsent_bytes_pause: usize,
    /// While all connections together have this many reply bytes unsent, reads are answered BUSY, and
    /// writes, whose replies are small, at twice as many: it bounds the memory that clients who do not
    /// read can hold, and those who only ask for much do not keep others from buying.
    pub unsent_bytes_all_max: u64,
    /// While reads of all connections together that wait for an answer have this many bytes, more are
    /// answered BUSY.
    pub read_bytes_all_max: u64,
    /// The hello must be there within this time: a stranger holds a slot no longer.
    pub hello_timeout: Duration,
    /// … or no longer than this while as many say nothing as may: they are thrown out one after the
    /// other, so that a client that does speak soon gets in.
    pub hello_timeout_crowded: Duration,
    /// A frame that has begun must end within this time, which is 100 KiB/s for the largest.
    pub frame_timeout: Duration,
    /// A client that has sent and taken nothing for this long is gone.
    pub idle_timeout: Duration,
    /// A client that takes no byte of its replies for this long is gone.
    pub send_timeout: Duration,
    /// How long a closing connection may take to get its last replies.
    pub close_timeout: Duration,
    /// How long a shutdown waits for replies in flight.
    pub drain_timeout: Duration,
    /// An admin connection that says nothing for this long is closed.
    pub admin_idle_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            cells_max: 32_000_000,
            connections_before_hello_max: 256,
            admin_connections_max: 16,
            frames_in_flight_max: 4_096,
            request_bytes_in_flight_max: 8 * FRAME_BYTES_MAX as u64,
            unsent_bytes_pause: 4 << 20,
            unsent_bytes_all_max: 512 << 20,
            read_bytes_all_max: 256 << 20,
            hello_timeout: Duration::from_secs(2),
            hello_timeout_crowded: Duration::from_millis(200),
            frame_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(5 * 60),
            send_timeout: Duration::from_secs(10),
            close_timeout: Duration::from_secs(2),
            drain_timeout: Duration::from_secs(5),
            admin_idle_timeout: Duration::from_secs(60 * 60),
        }
    }
}

/// Smallest room for a read. An idle connection holds no more than this.
pub(super) const RECEIVE_BYTES_MIN: usize = 4 << 10;
/// Largest room for a read: beyond it a read costs its bytes, not its system call.
pub(super) const RECEIVE_BYTES_MAX: usize = 256 << 10;
/// An empty buffer that is larger is given back at once: one large reply must not cost memory for as
/// long as its connection says anything at all.
pub(super) const SPARE_BYTES_MAX: usize = 256 << 10;
/// Reads answer this many bytes in a row, and end the read that goes beyond, before the connection
/// looks at its socket again. The largest page of a SKU may be over it by itself.
pub(super) const ANSWER_BYTES_PER_ROUND: usize = 64 << 10;
/// A read of more cells is a large one, and waits in line for its turn ([`Line`](super::line::Line)):
/// about as much as answers of one round and one page of a SKU have.
pub(super) const LARGE_READ_CELLS: u32 = 1_024;
/// Cells in large reads of all connections together, in a second: about an eighth of what the one
/// thread could answer.
pub(super) const LARGE_READ_CELLS_PER_SECOND: u64 = 1_600_000;
/// A timer wakes up to a millisecond late; as much as that may be made up for.
pub(super) const LARGE_READ_SLACK: Duration = Duration::from_millis(2);
/// Most connections in that line: the last one waits for about a second, with reads of the largest
/// size before it. One more is answered BUSY.
pub(super) const LARGE_READS_WAITING_MAX: usize = 200;
/// Rounds of receive, answer and send in a row before other connections have their turn.
pub(super) const ROUNDS_PER_TURN: u32 = 4;
/// A turn ends after the round that brings it to so many operations: decoding them takes about a
/// tenth of a millisecond.
pub(super) const OPS_PER_TURN: u64 = 2_048;
/// A connection that was quiet for this long gives its buffers back.
pub(super) const TIDY_AFTER: Duration = Duration::from_secs(10);
/// Longest admin line: the longest names, every byte of them escaped, and a verb.
pub(super) const ADMIN_LINE_BYTES_MAX: usize = 1024;
/// How long a client should wait after BUSY: about one batch under load.
pub(super) const BUSY_RETRY_MS: u32 = 10;
/// How long a client should wait when memory is full of reservations: they end by the second.
pub(super) const FULL_RETRY_MS: u32 = 1_000;
/// How long a client should wait when the node is on its way out: an election takes about as long.
pub(super) const LEAVING_RETRY_MS: u32 = 200;
/// Pause after the operating system refused to accept, for example for want of file descriptors.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The buffer without its bytes, or a new one if it has become too large to be kept.
pub(super) fn emptied(mut buffer: BytesMut) -> BytesMut {
    buffer.clear();
    if buffer.capacity() > SPARE_BYTES_MAX { BytesMut::new() } else { buffer }
}

/// Subscribers of a node: each looks at every event that it filters.
pub(super) const SUBSCRIBERS_MAX: u32 = 64;
/// Subscribers of a connection.
pub(super) const SUBSCRIBERS_PER_CONNECTION: u32 = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_buffers_are_not_kept() {
        let used = |bytes: usize| BytesMut::from_iter(std::iter::repeat_n(7, bytes));
        let kept = emptied(used(SPARE_BYTES_MAX / 2));
        assert!(kept.is_empty() && kept.capacity() >= SPARE_BYTES_MAX / 2);
        assert_eq!(emptied(used(SPARE_BYTES_MAX + 1)).capacity(), 0);
    }
}
