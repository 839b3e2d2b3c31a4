//! The wires: what was sent, when it is due, who waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::task::{Context, Poll, Waker};

use bytes::{Buf, Bytes};

/// A host's number; its address is `10.0.0.number`.
pub type Host = u8;

/// Most bytes that one direction of a connection holds before its writer must wait.
pub const WINDOW_BYTES: usize = 256 << 10;
/// How long after a loss a segment is sent again, at least; Linux's shortest.
const RETRANSMIT_MS: u64 = 200;
/// How long after a loss a connection request is sent again (RFC 6298, section 2).
const SYN_RETRANSMIT_MS: u64 = 1_000;

/// How segments travel from one host to another.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LinkState {
    /// Nothing arrives.
    pub cut: bool,
    /// The shortest and the longest way, in milliseconds, both at least one.
    pub latency_ms: (u64, u64),
    /// Of a thousand segments, so many are lost once.
    pub loss_per_mille: u64,
}

impl Default for LinkState {
    fn default() -> Self {
        Self { cut: false, latency_ms: (1, 2), loss_per_mille: 0 }
    }
}

/// Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stats {
    /// Connections made.
    pub connections: u64,
    /// Segments sent.
    pub segments: u64,
    /// Segments lost and sent again.
    pub lost: u64,
    /// Segments that met a cut link or a dead host.
    pub stalled: u64,
    /// Connections reset.
    pub resets: u64,
}

/// SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Between `low` and `high`, both included.
    fn between(&mut self, (low, high): (u64, u64)) -> u64 {
        low + self.next() % (high - low + 1)
    }
}

enum What {
    Data(Bytes),
    Fin,
    Reset,
}

struct Segment {
    /// `None`: lost for as long as the link is cut or the host is off.
    due: Option<u64>,
    what: What,
}

/// One direction of a connection.
struct Pipe {
    from: Host,
    to: Host,
    /// The other direction.
    reverse: u64,
    segments: VecDeque<Segment>,
    unread_bytes: usize,
    last_due: u64,
    reader: Option<Waker>,
    writer: Option<Waker>,
    reader_gone: bool,
    writer_gone: bool,
    /// A reset has been read, or answered what was written: both ends get errors.
    broken: bool,
}

struct Listener {
    host: Host,
    /// The pipes to read from and to write to, and who connects.
    backlog: VecDeque<(u64, u64, SocketAddr)>,
    acceptor: Option<Waker>,
}

struct Connecting {
    from: Host,
    to: SocketAddr,
    result: Option<io::Result<(u64, u64)>>,
    answered: bool,
    waker: Option<Waker>,
}

#[derive(Clone, Copy)]
enum Event {
    Deliver(u64),
    Request(u64),
    Answer(u64),
}

pub(crate) struct Net {
    pub current: Host,
    pub random: Random,
    pub stats: Stats,
    pub trace: u64,
    pub now_ms: u64,
    off: [bool; 256],
    links: BTreeMap<(Host, Host), LinkState>,
    pipes: BTreeMap<u64, Pipe>,
    listeners: BTreeMap<SocketAddr, Listener>,
    connecting: BTreeMap<u64, Connecting>,
    events: BTreeMap<(u64, u64), Event>,
    next_id: u64,
    wakers: Vec<Waker>,
}

fn host_of(address: &SocketAddr) -> Host {
    match address {
        SocketAddr::V4(address) => address.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    }
}

fn error(kind: io::ErrorKind) -> io::Error {
    kind.into()
}

impl Net {
    pub fn new(seed: u64) -> Self {
        Self {
            current: 0,
            random: Random(seed),
            stats: Stats::default(),
            trace: seed,
            now_ms: 0,
            off: [false; 256],
            links: BTreeMap::new(),
            pipes: BTreeMap::new(),
            listeners: BTreeMap::new(),
            connecting: BTreeMap::new(),
            events: BTreeMap::new(),
            next_id: 1,
            wakers: Vec::new(),
        }
    }

    pub fn take_wakers(&mut self) -> Vec<Waker> {
        std::mem::take(&mut self.wakers)
    }

    pub fn tick(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        while let Some(first) = self.events.first_entry() {
            if first.key().0 > now_ms {
                break;
            }
            match first.remove() {
                Event::Deliver(pipe) => self.deliver(pipe),
                Event::Request(id) => self.request(id),
                Event::Answer(id) => self.answer(id),
            }
        }
    }

    pub fn link(&self, from: Host, to: Host) -> LinkState {
        self.links.get(&(from, to)).copied().unwrap_or_default()
    }

    pub fn set_link(&mut self, from: Host, to: Host, link: LinkState) {
        let was = self.link(from, to);
        self.links.insert((from, to), link);
        let pipes = self.pipes_where(|pipe| pipe.from == from && pipe.to == to);
        match (was.cut, link.cut) {
            (false, true) => pipes.into_iter().for_each(|pipe| self.stall(pipe)),
            (true, false) => pipes.into_iter().for_each(|pipe| self.send_again(pipe)),
            _ => (),
        }
    }

    pub fn power_off(&mut self, host: Host) {
        self.off[host as usize] = true;
        self.listeners.retain(|_, listener| listener.host != host);
        for pipe in self.pipes_where(|pipe| pipe.to == host) {
            self.stall(pipe);
        }
    }

    pub fn power_on(&mut self, host: Host) {
        self.off[host as usize] = false;
        for pipe in self.pipes_where(|pipe| pipe.to == host) {
            self.send_again(pipe);
        }
    }

    fn pipes_where(&self, wanted: impl Fn(&Pipe) -> bool) -> Vec<u64> {
        self.pipes.iter().filter(|(_, pipe)| wanted(pipe)).map(|(id, _)| *id).collect()
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    fn at(&mut self, due: u64, event: Event) {
        let id = self.id();
        self.events.insert((due, id), event);
    }

    fn passes(&self, from: Host, to: Host) -> bool {
        !self.link(from, to).cut && !self.off[to as usize]
    }

    /// Milliseconds on the way, with the wait of a segment that is lost once.
    fn latency(&mut self, from: Host, to: Host, retransmit_ms: u64) -> u64 {
        let link = self.link(from, to);
        let way = self.random.between(link.latency_ms).max(1);
        if self.random.next() % 1_000 < link.loss_per_mille {
            self.stats.lost += 1;
            return way + retransmit_ms + self.random.between((0, retransmit_ms));
        }
        way
    }

    fn stall(&mut self, id: u64) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        for segment in &mut pipe.segments {
            if segment.due.is_some_and(|due| due > self.now_ms) {
                segment.due = None;
                self.stats.stalled += 1;
            }
        }
    }

    fn send_again(&mut self, id: u64) {
        let Some(pipe) = self.pipes.get(&id) else { return };
        let (from, to) = (pipe.from, pipe.to);
        if !self.passes(from, to) || pipe.segments.iter().all(|segment| segment.due.is_some()) {
            return;
        }
        let wait = self.random.between((1, RETRANSMIT_MS));
        let due = self.now_ms + wait + self.latency(from, to, RETRANSMIT_MS);
        let pipe = self.pipes.get_mut(&id).expect("it was there");
        pipe.last_due = pipe.last_due.max(due);
        for segment in &mut pipe.segments {
            segment.due.get_or_insert(pipe.last_due);
        }
        let due = pipe.last_due;
        self.at(due, Event::Deliver(id));
    }

    fn send(&mut self, id: u64, what: What) {
        let Some(pipe) = self.pipes.get(&id) else { return };
        let (from, to) = (pipe.from, pipe.to);
        self.stats.segments += 1;
        let stuck = pipe.segments.back().is_some_and(|segment| segment.due.is_none());
        let due = if stuck || !self.passes(from, to) {
            self.stats.stalled += 1;
            None
        } else {
            Some(self.now_ms + self.latency(from, to, RETRANSMIT_MS))
        };
        let pipe = self.pipes.get_mut(&id).expect("it was there");
        let due = due.map(|due| due.max(pipe.last_due));
        pipe.last_due = due.unwrap_or(pipe.last_due);
        pipe.segments.push_back(Segment { due, what });
        if let Some(due) = due {
            self.at(due, Event::Deliver(id));
        }
    }

    fn deliver(&mut self, id: u64) {
        let now = self.now_ms;
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        if !pipe.reader_gone {
            self.wakers.extend(pipe.reader.take());
            return;
        }
        let arrived = |segment: &Segment| segment.due.is_some_and(|due| due <= now);
        let mut data = false;
        while pipe.segments.front().is_some_and(arrived) {
            let segment = pipe.segments.pop_front().expect("it was there");
            data |= matches!(segment.what, What::Data(_));
        }
        let reverse = pipe.reverse;
        if data {
            self.send(reverse, What::Reset);
        }
        self.tidy(id, reverse);
    }

    /// Forgets a connection that has no ends any more.
    fn tidy(&mut self, a: u64, b: u64) {
        let gone = |id| {
            let pipe: Option<&Pipe> = self.pipes.get(id);
            pipe.is_none_or(|pipe| pipe.reader_gone && pipe.writer_gone)
        };
        if gone(&a) && gone(&b) {
            self.pipes.remove(&a);
            self.pipes.remove(&b);
        }
    }

    // ---- what sockets call ----

    pub fn bind(&mut self, address: SocketAddr) -> io::Result<SocketAddr> {
        if self.listeners.contains_key(&address) {
            return Err(error(io::ErrorKind::AddrInUse));
        }
        if host_of(&address) != self.current {
            return Err(error(io::ErrorKind::AddrNotAvailable));
        }
        let listener = Listener { host: self.current, backlog: VecDeque::new(), acceptor: None };
        self.listeners.insert(address, listener);
        Ok(address)
    }

    pub fn unbind(&mut self, address: &SocketAddr) {
        let Some(listener) = self.listeners.remove(address) else { return };
        for (read, write, _) in listener.backlog {
            self.close(read, write);
        }
    }

    pub fn accept(
        &mut self,
        address: &SocketAddr,
        cx: &Context<'_>,
    ) -> Poll<io::Result<(u64, u64, SocketAddr)>> {
        let Some(listener) = self.listeners.get_mut(address) else {
            return Poll::Ready(Err(error(io::ErrorKind::NotConnected)));
        };
        match listener.backlog.pop_front() {
            Some(connection) => Poll::Ready(Ok(connection)),
            None => {
                listener.acceptor = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    /// Begins to connect; poll the id with [`connected`](Self::connected).
    pub fn connect(&mut self, to: SocketAddr) -> u64 {
        let (id, from) = (self.id(), self.current);
        let connecting = Connecting { from, to, result: None, answered: false, waker: None };
        self.connecting.insert(id, connecting);
        let due = self.now_ms + self.latency(from, host_of(&to), SYN_RETRANSMIT_MS);
        self.at(due, Event::Request(id));
        id
    }

    pub fn connected(&mut self, id: u64, cx: &Context<'_>) -> Poll<io::Result<(u64, u64)>> {
        let connecting = self.connecting.get_mut(&id).expect("polled until it is ready");
        if !connecting.answered {
            connecting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let connecting = self.connecting.remove(&id).expect("it was there");
        Poll::Ready(connecting.result.expect("an answer has a result"))
    }

    pub fn give_up_connecting(&mut self, id: u64) {
        let Some(connecting) = self.connecting.remove(&id) else { return };
        if let Some(Ok((read, write))) = connecting.result {
            self.close(read, write);
        }
    }

    fn request(&mut self, id: u64) {
        let Some(connecting) = self.connecting.get(&id) else { return };
        let (from, address) = (connecting.from, connecting.to);
        let to = host_of(&address);
        if !self.passes(from, to) {
            return self.at(self.now_ms + SYN_RETRANSMIT_MS, Event::Request(id));
        }
        let result = match self.listeners.contains_key(&address) {
            true => Ok(self.establish(from, address, id)),
            false => Err(error(io::ErrorKind::ConnectionRefused)),
        };
        self.connecting.get_mut(&id).expect("it was there").result = Some(result);
        let due = self.now_ms + self.latency(to, from, SYN_RETRANSMIT_MS);
        self.at(due, Event::Answer(id));
    }

    fn answer(&mut self, id: u64) {
        let Some(connecting) = self.connecting.get(&id) else { return };
        let (from, to) = (host_of(&connecting.to), connecting.from);
        if !self.passes(from, to) {
            return self.at(self.now_ms + SYN_RETRANSMIT_MS, Event::Answer(id));
        }
        let connecting = self.connecting.get_mut(&id).expect("it was there");
        connecting.answered = true;
        self.wakers.extend(connecting.waker.take());
    }

    /// Makes both pipes and puts the listener's end into its backlog; returns the other end.
    fn establish(&mut self, from: Host, address: SocketAddr, id: u64) -> (u64, u64) {
        let (there, back) = (self.id(), self.id());
        let pipe = |from, to, reverse| Pipe {
            from,
            to,
            reverse,
            segments: VecDeque::new(),
            unread_bytes: 0,
            last_due: 0,
            reader: None,
            writer: None,
            reader_gone: false,
            writer_gone: false,
            broken: false,
        };
        let to = host_of(&address);
        self.pipes.insert(there, pipe(from, to, back));
        self.pipes.insert(back, pipe(to, from, there));
        self.stats.connections += 1;
        let port = 32_768 + (id % 28_000) as u16;
        let peer = SocketAddr::from((Ipv4Addr::new(10, 0, 0, from), port));
        let listener = self.listeners.get_mut(&address).expect("it was there");
        listener.backlog.push_back((there, back, peer));
        self.wakers.extend(listener.acceptor.take());
        (back, there)
    }

    /// Moves bytes that have arrived to `put`, at most `room`; 0 is the end.
    pub fn read(
        &mut self,
        id: u64,
        room: usize,
        cx: &Context<'_>,
        put: &mut dyn FnMut(&[u8]),
    ) -> Poll<io::Result<usize>> {
        let now = self.now_ms;
        let pipe = self.pipes.get_mut(&id).expect("an end has its pipes");
        let mut count = 0;
        while count < room && !pipe.broken {
            let Some(segment) = pipe.segments.front_mut() else { break };
            if segment.due.is_none_or(|due| due > now) {
                break;
            }
            match &mut segment.what {
                What::Data(bytes) => {
                    let part = bytes.split_to(bytes.len().min(room - count));
                    self.trace = fold(self.trace, &[id, now], &part);
                    put(&part);
                    count += part.len();
                    if !bytes.has_remaining() {
                        pipe.segments.pop_front();
                    }
                }
                What::Fin if count == 0 => return Poll::Ready(Ok(0)),
                What::Fin => break,
                What::Reset if count == 0 => {
                    self.stats.resets += 1;
                    let reverse = pipe.reverse;
                    self.break_pipe(id);
                    self.break_pipe(reverse);
                    return Poll::Ready(Err(error(io::ErrorKind::ConnectionReset)));
                }
                What::Reset => break,
            }
        }
        if count > 0 {
            pipe.unread_bytes -= count;
            self.wakers.extend(pipe.writer.take());
            return Poll::Ready(Ok(count));
        }
        if pipe.broken {
            return Poll::Ready(Err(error(io::ErrorKind::ConnectionReset)));
        }
        pipe.reader = Some(cx.waker().clone());
        Poll::Pending
    }

    fn break_pipe(&mut self, id: u64) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        pipe.broken = true;
        self.wakers.extend(pipe.reader.take());
        self.wakers.extend(pipe.writer.take());
    }

    /// Sends as much of `bytes` as the window takes.
    pub fn write(
        &mut self,
        id: u64,
        bytes: &[u8],
        cx: Option<&Context<'_>>,
    ) -> Poll<io::Result<usize>> {
        let pipe = self.pipes.get_mut(&id).expect("an end has its pipes");
        if pipe.broken || pipe.writer_gone {
            return Poll::Ready(Err(error(io::ErrorKind::BrokenPipe)));
        }
        let count = bytes.len().min(WINDOW_BYTES - pipe.unread_bytes);
        if count == 0 && !bytes.is_empty() {
            pipe.writer = cx.map(|cx| cx.waker().clone());
            return Poll::Pending;
        }
        pipe.unread_bytes += count;
        self.send(id, What::Data(Bytes::copy_from_slice(&bytes[..count])));
        Poll::Ready(Ok(count))
    }

    /// Says that nothing more will be written.
    pub fn shutdown(&mut self, id: u64) {
        let Some(pipe) = self.pipes.get_mut(&id) else { return };
        if !pipe.writer_gone {
            pipe.writer_gone = true;
            let from = pipe.from;
            if !self.off[from as usize] {
                self.send(id, What::Fin);
            }
        }
    }

    /// An end is dropped. As Linux does it: with unread bytes it is a reset, otherwise a Fin.
    pub fn close(&mut self, read: u64, write: u64) {
        let now = self.now_ms;
        let Some(pipe) = self.pipes.get_mut(&read) else { return };
        pipe.reader_gone = true;
        let unread = pipe.segments.front().is_some_and(|segment| {
            matches!(segment.what, What::Data(_)) && segment.due.is_some_and(|due| due <= now)
        });
        let host = pipe.to;
        if unread && !self.off[host as usize] {
            if let Some(pipe) = self.pipes.get_mut(&write) {
                pipe.writer_gone = true;
            }
            self.send(write, What::Reset);
        }
        self.shutdown(write);
        self.tidy(read, write);
    }
}

/// FNV-1a over words and bytes.
fn fold(hash: u64, words: &[u64], bytes: &[u8]) -> u64 {
    let words = words.iter().flat_map(|word| word.to_le_bytes());
    let bytes = words.chain(bytes.iter().copied());
    bytes.fold(hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3))
}
