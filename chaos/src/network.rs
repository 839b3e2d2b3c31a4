//! A network of hosts on one machine, with a switch in the middle that can be told what to do to
//! packets.
//!
//! ```text
//!   node 1's namespace      node 2's             clients
//!   ┌──────────────┐    ┌──────────────┐    ┌──────────────┐
//!   │ tun 10.77.0.1│    │ tun 10.77.0.2│    │tun 10.77.0.254     10.77.0.x  attacked
//!   │     10.78.0.1│    │     10.78.0.2│    │    10.78.0.254     10.78.0.x  never: the operator's way in
//!   └──────┬───────┘    └──────┬───────┘    └──────┬───────┘
//!          └───────── switch thread ───────────────┘
//!             packet ─▶ from, to ─▶ rules: cut? lose? delay? ─▶ write, now or later
//! ```
//!
//! A TUN device hands the switch whole IP packets, so one mechanism does what bridge, `nft` and
//! `tc netem` would do together (and netem is in few small kernels). Rules are directed: a partition
//! one way is a rule for one direction. Several rules may hold at once; the worst of each kind wins.

use std::collections::{BTreeMap, BinaryHeap};
use std::fs::File;
use std::io::{Read, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::time::Instant;

use crate::dice::Dice;

/// The clients' place among the hosts; nodes have their ids.
pub const CLIENTS: usize = 0;
/// Nodes are numbered from 1 to this.
pub const NODES_MAX: usize = 4;
/// The clients' last address byte.
const CLIENTS_BYTE: u8 = 254;
/// The third address byte of packets that no rule touches.
const MANAGEMENT: u8 = 78;

/// Most packets on their way at once: 64 MB at the MTU. What comes above is lost, as in a router.
const DELAYED_MAX: usize = 8_192;
/// Packets read from one host before the next has its turn.
const BURST: usize = 64;
/// The MTU of every host: large, because each packet costs two system calls.
pub const MTU: usize = 8_000;

/// A set of hosts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Hosts(u8);

impl Hosts {
    /// Nodes and clients.
    pub const ALL: Self = Self(0xff);

    /// One host.
    pub const fn one(host: usize) -> Self {
        Self(1 << host)
    }

    /// All others.
    #[must_use]
    pub const fn others(self) -> Self {
        Self(!self.0)
    }

    /// Without the clients.
    #[must_use]
    pub const fn nodes(self) -> Self {
        Self(self.0 & !(1 << CLIENTS))
    }

    const fn has(self, host: usize) -> bool {
        self.0 & (1 << host) != 0
    }
}

/// What happens to packets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Effect {
    /// None arrives.
    Cut,
    /// Each arrives later, by `base` and up to `jitter` more: they overtake each other.
    Delay {
        /// At least.
        base: Duration,
        /// At most so much more.
        jitter: Duration,
    },
    /// So many of a hundred do not arrive.
    Lose(u64),
}

/// What happens to packets from some hosts to some others.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// Senders.
    pub from: Hosts,
    /// Receivers.
    pub to: Hosts,
    /// What happens.
    pub effect: Effect,
}

impl Rule {
    /// Cuts the ways between `some` and `others`, both ways.
    pub const fn part(some: Hosts, others: Hosts) -> [Self; 2] {
        let effect = Effect::Cut;
        [Self { from: some, to: others, effect }, Self { from: others, to: some, effect }]
    }
}

/// The rules in force, to be changed from anywhere.
#[derive(Clone, Default)]
pub struct Rules {
    rules: Arc<Mutex<BTreeMap<u64, Vec<Rule>>>>,
    next: Arc<AtomicU64>,
}

/// Rules are in force as long as this lives.
#[must_use = "the rules end with it"]
pub struct InForce {
    rules: Rules,
    number: u64,
}

impl Drop for InForce {
    fn drop(&mut self) {
        self.rules.lock().remove(&self.number);
    }
}

/// What becomes of one packet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fate {
    Lost,
    Sent(Duration),
}

impl Rules {
    /// Puts `rules` in force, beside those that are.
    pub fn enforce(&self, rules: &[Rule]) -> InForce {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        self.lock().insert(number, rules.to_vec());
        InForce { rules: self.clone(), number }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Vec<Rule>>> {
        self.rules.lock().expect("no holder panics")
    }

    fn fate(&self, from: usize, to: usize, dice: &mut Dice) -> Fate {
        let mut later = Duration::ZERO;
        let rules = self.lock();
        for rule in rules.values().flatten().filter(|rule| rule.from.has(from) && rule.to.has(to)) {
            match rule.effect {
                Effect::Cut => return Fate::Lost,
                Effect::Lose(percent) if dice.chance(percent) => return Fate::Lost,
                Effect::Lose(_) => (),
                Effect::Delay { base, jitter } => {
                    let jitter = Duration::from_micros(dice.roll(1 + jitter.as_micros() as u64));
                    later = later.max(base + jitter);
                }
            }
        }
        Fate::Sent(later)
    }
}

/// Packets by what became of them.
#[derive(Default)]
pub struct Counts {
    /// Handed on at once.
    pub passed: AtomicU64,
    /// Handed on later.
    pub delayed: AtomicU64,
    /// By a rule.
    pub dropped: AtomicU64,
    /// Because too many were on their way.
    pub overflowed: AtomicU64,
}

/// A packet on its way; the heap gives the earliest first.
struct Late {
    due: Instant,
    number: u64,
    to: usize,
    packet: Vec<u8>,
}

impl PartialEq for Late {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl Eq for Late {}

impl PartialOrd for Late {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Late {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.due, other.number).cmp(&(self.due, self.number))
    }
}

/// The switch. It runs as long as the process.
struct Switch {
    /// By host.
    ports: Vec<File>,
    rules: Rules,
    dice: Dice,
    late: BinaryHeap<Late>,
    number: u64,
    counts: Arc<Counts>,
}

/// Connects the hosts whose devices `ports` are, by host, and returns what happens to packets.
///
/// # Errors
/// No thread can be made.
pub fn connect(ports: Vec<File>, rules: Rules, dice: Dice) -> std::io::Result<Arc<Counts>> {
    let counts = Arc::new(Counts::default());
    let late = BinaryHeap::new();
    let switch = Switch { ports, rules, dice, late, number: 0, counts: Arc::clone(&counts) };
    std::thread::Builder::new().name("switch".to_owned()).spawn(move || switch.run())?;
    Ok(counts)
}

impl Switch {
    fn run(mut self) {
        let mut packet = vec![0; MTU + 1];
        loop {
            self.wait();
            self.deliver_due();
            for from in 0..self.ports.len() {
                for _ in 0..BURST {
                    // A device without a packet says so, and so does one whose namespace is gone.
                    let Ok(bytes) = self.ports[from].read(&mut packet) else { break };
                    self.forward(from, &packet[..bytes]);
                }
            }
        }
    }

    /// Until a packet comes or one is due.
    fn wait(&self) {
        let now = Instant::now();
        let until = self.late.peek().map(|late| late.due.saturating_duration_since(now));
        let timeout = until.map(|until| Timespec {
            tv_sec: until.as_secs() as i64,
            tv_nsec: i64::from(until.subsec_nanos()),
        });
        let mut ports: Vec<_> =
            self.ports.iter().map(|port| PollFd::new(port, PollFlags::IN)).collect();
        // Interrupted or not, the loop looks for itself.
        let _ = poll(&mut ports, timeout.as_ref());
    }

    fn deliver_due(&mut self) {
        let now = Instant::now();
        while self.late.peek().is_some_and(|late| late.due <= now) {
            let late = self.late.pop().expect("it was just seen");
            self.send(late.to, &late.packet);
        }
    }

    fn forward(&mut self, from: usize, packet: &[u8]) {
        let Some((to, attacked)) = receiver(packet).filter(|(to, _)| *to < self.ports.len()) else {
            return;
        };
        let fate = match attacked {
            true => self.rules.fate(from, to, &mut self.dice),
            false => Fate::Sent(Duration::ZERO),
        };
        match fate {
            Fate::Lost => count(&self.counts.dropped),
            Fate::Sent(Duration::ZERO) => {
                count(&self.counts.passed);
                self.send(to, packet);
            }
            Fate::Sent(_) if self.late.len() >= DELAYED_MAX => count(&self.counts.overflowed),
            Fate::Sent(later) => {
                count(&self.counts.delayed);
                self.number += 1;
                let due = Instant::now() + later;
                self.late.push(Late { due, number: self.number, to, packet: packet.to_vec() });
            }
        }
    }

    fn send(&mut self, to: usize, packet: &[u8]) {
        // What a device does not take is lost, and TCP sends it again.
        let _ = self.ports[to].write(packet);
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The receiving host of an IPv4 packet, and whether rules apply to it.
fn receiver(packet: &[u8]) -> Option<(usize, bool)> {
    if packet.first()? >> 4 != 4 {
        return None;
    }
    match *packet.get(16..20)? {
        [10, net, 0, CLIENTS_BYTE] => Some((CLIENTS, net != MANAGEMENT)),
        [10, net, 0, node] if (1..=NODES_MAX as u8).contains(&node) => {
            Some((usize::from(node), net != MANAGEMENT))
        }
        _ => None,
    }
}

/// The addresses of a host: the one that is attacked, and the operator's.
pub fn addresses(host: usize) -> [String; 2] {
    let byte = if host == CLIENTS { CLIENTS_BYTE } else { host as u8 };
    [format!("10.77.0.{byte}"), format!("10.{MANAGEMENT}.0.{byte}")]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(to: [u8; 4]) -> Vec<u8> {
        let mut packet = vec![0x45; 20];
        packet[16..20].copy_from_slice(&to);
        packet
    }

    #[test]
    fn the_receiver_is_in_the_address() {
        assert_eq!(receiver(&packet([10, 77, 0, 2])), Some((2, true)));
        assert_eq!(receiver(&packet([10, 77, 0, 254])), Some((CLIENTS, true)));
        assert_eq!(receiver(&packet([10, 78, 0, 1])), Some((1, false)));
        assert_eq!(receiver(&packet([10, 77, 0, 99])), None);
        assert_eq!(receiver(&[0x60; 40]), None, "not IPv4");
        assert_eq!(receiver(&[0x45; 19]), None, "too short");
    }

    #[test]
    fn rules_are_directed_and_end() {
        let (rules, mut dice) = (Rules::default(), Dice::new(1, 1));
        let mut fate = |from, to| rules.fate(from, to, &mut dice);
        let one_way = rules.enforce(&[Rule {
            from: Hosts::one(1),
            to: Hosts::one(1).others().nodes(),
            effect: Effect::Cut,
        }]);
        assert_eq!(fate(1, 2), Fate::Lost);
        assert_eq!(fate(2, 1), Fate::Sent(Duration::ZERO), "the other way is open");
        assert_eq!(fate(1, CLIENTS), Fate::Sent(Duration::ZERO), "clients are no nodes");
        let isolated = rules.enforce(&Rule::part(Hosts::one(1), Hosts::ALL));
        assert_eq!((fate(2, 1), fate(1, CLIENTS)), (Fate::Lost, Fate::Lost));
        drop((one_way, isolated));
        assert_eq!(fate(1, 2), Fate::Sent(Duration::ZERO));
    }

    #[test]
    fn the_earliest_packet_is_due_first() {
        let now = Instant::now();
        let late = |number, millis| Late {
            due: now + Duration::from_millis(millis),
            number,
            to: 1,
            packet: Vec::new(),
        };
        let mut heap = BinaryHeap::from([late(1, 30), late(2, 10), late(3, 10)]);
        let order: Vec<_> = std::iter::from_fn(|| heap.pop()).map(|late| late.number).collect();
        assert_eq!(order, [2, 3, 1]);
    }
}
