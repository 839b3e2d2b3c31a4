//! The cluster's clock: what the leader stamps on entries.
//!
//! The stamp is strictly monotone, and it is slewed, never stepped: while one node leads, it follows
//! that node's monotonic clock, at most 5 % faster or slower while it closes the distance to the
//! *reference*, so a wall clock that jumps moves it slowly or not at all.
//!
//! The reference is this node's wall clock plus the median of the nodes' clock offsets (its own, 0,
//! and its peers', learned from their replies); with an even number, the lower of the middle two,
//! because a late expiry is the smaller harm. A new leader starts from the last applied stamp, at
//! the reference if that is later. So one leader whose clock is an hour ahead expires nothing: two
//! other clocks outvote it. A cluster of one has only its own clock.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::world::{Clock, UnixMicros};

/// An offset that is older than this is forgotten: the peer may be gone for good.
const OFFSET_AGE_MAX: Duration = Duration::from_secs(60);
/// The clock runs at most this part faster or slower than the monotonic clock: 1/20.
const SLEW_DIVISOR: u64 = 20;
/// A reply that was on its way for longer says too little of its sender's clock.
const ROUND_TRIP_MAX: Duration = Duration::from_millis(500);
/// More disagreement than this is worth an alarm.
pub const SKEW_ALARM: Duration = Duration::from_secs(1);

/// What this node knows of its peers' clocks, in microseconds ahead of its own.
#[derive(Default)]
pub struct PeerOffsets {
    offsets: BTreeMap<u64, Observed>,
}

#[derive(Clone, Copy)]
struct Observed {
    /// The peer's wall clock less this node's monotonic one, which does not jump.
    offset: i64,
    /// Half of the round trip: the reply may have left at any moment of it.
    uncertain: Duration,
    at: Duration,
}

impl Observed {
    /// Which observation to go by: this one, until a later one is as good but for what clocks may
    /// drift meanwhile.
    fn gives_way_to(self, later: Self) -> bool {
        let age = later.at.saturating_sub(self.at);
        later.uncertain <= self.uncertain + age / SLEW_DIVISOR as u32
    }
}

impl PeerOffsets {
    /// A reply of `peer` that left at its wall time `theirs` came back after `round_trip`.
    pub fn observe(
        &mut self,
        clock: &dyn Clock,
        peer: u64,
        theirs: UnixMicros,
        round_trip: Duration,
    ) {
        if round_trip > ROUND_TRIP_MAX {
            return;
        }
        let (at, uncertain) = (clock.monotonic(), round_trip / 2);
        let here = at.saturating_sub(uncertain).as_micros() as i64;
        let observed = Observed { offset: theirs.0 as i64 - here, uncertain, at };
        let last = self.offsets.entry(peer).or_insert(observed);
        if last.gives_way_to(observed) {
            *last = observed;
        }
    }

    /// How far the peers' clocks are ahead of this node's as it is now, also if that has jumped since.
    fn fresh(&self, clock: &dyn Clock) -> impl Iterator<Item = i64> {
        let (now, wall) = (clock.monotonic(), clock.wall().0 as i64);
        let fresh = move |at: Duration| now.saturating_sub(at) < OFFSET_AGE_MAX;
        let ahead = move |offset: i64| offset + now.as_micros() as i64 - wall;
        self.offsets
            .values()
            .filter(move |observed| fresh(observed.at))
            .map(move |observed| ahead(observed.offset))
    }

    /// The median offset of all nodes, this one included.
    fn median(&self, clock: &dyn Clock) -> i64 {
        let mut all: Vec<i64> = self.fresh(clock).chain([0]).collect();
        all.sort_unstable();
        all[(all.len() - 1) / 2]
    }

    /// The largest distance between this clock and a peer's.
    pub fn skew(&self, clock: &dyn Clock) -> Duration {
        let most = self.fresh(clock).map(i64::unsigned_abs).max();
        Duration::from_micros(most.unwrap_or(0))
    }

    /// What a leader steers to.
    pub fn reference(&self, clock: &dyn Clock) -> UnixMicros {
        let wall = clock.wall().0;
        UnixMicros(wall.saturating_add_signed(self.median(clock)))
    }
}

/// The stamp that a leader continues.
pub struct LeaderClock {
    last: UnixMicros,
    last_monotonic: Duration,
    /// Time that has passed, but is too short to be slewed by a microsecond.
    unslewed: u64,
}

/// The cluster's clock where it is not stamped: as the leader told it, kept against this node's
/// monotonic clock.
#[derive(Default)]
pub struct KnownClock {
    told: Option<(UnixMicros, Duration)>,
    said: UnixMicros,
}

impl KnownClock {
    /// The leader's clock is at `now`.
    pub fn told(&mut self, now: UnixMicros, clock: &dyn Clock) {
        self.told = Some((now, clock.monotonic()));
    }

    /// Where it is by now, never earlier than it was before; `None`: nobody has said.
    pub fn now(&mut self, clock: &dyn Clock) -> Option<UnixMicros> {
        let (told, at) = self.told?;
        let since = clock.monotonic().saturating_sub(at).as_micros() as u64;
        self.said = self.said.max(UnixMicros(told.0.saturating_add(since)));
        Some(self.said)
    }
}

impl LeaderClock {
    /// Starts a leader's clock after `applied`, the last stamp it applied.
    pub fn start(applied: UnixMicros, peers: &PeerOffsets, clock: &dyn Clock) -> Self {
        let last = applied.max(peers.reference(clock));
        Self { last, last_monotonic: clock.monotonic(), unslewed: 0 }
    }

    /// The next stamp: later than every one before.
    pub fn stamp(&mut self, peers: &PeerOffsets, clock: &dyn Clock) -> UnixMicros {
        let monotonic = clock.monotonic();
        let elapsed = monotonic.saturating_sub(self.last_monotonic).as_micros() as u64;
        let reference = peers.reference(clock).0;
        let slew = (self.unslewed + elapsed) / SLEW_DIVISOR;
        self.unslewed = (self.unslewed + elapsed) % SLEW_DIVISOR;
        let straight = self.last.0 + elapsed;
        let next = reference.clamp(straight - slew, straight + slew);
        self.last = UnixMicros(next.max(self.last.0 + 1));
        // What is less than a microsecond counts the next time.
        self.last_monotonic += Duration::from_micros(elapsed);
        self.last
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::*;

    /// Wall and monotonic time as the test sets them, in microseconds.
    struct Fake(Mutex<(u64, u64)>);

    impl Fake {
        fn at(wall: u64) -> Self {
            Self(Mutex::new((wall, 0)))
        }

        fn pass(&self, micros: u64) {
            let mut times = self.0.lock().unwrap();
            times.0 += micros;
            times.1 += micros;
        }

        fn jump(&self, micros: i64) {
            let mut times = self.0.lock().unwrap();
            times.0 = times.0.saturating_add_signed(micros);
        }
    }

    impl Clock for Fake {
        fn wall(&self) -> UnixMicros {
            UnixMicros(self.0.lock().unwrap().0)
        }

        fn monotonic(&self) -> Duration {
            Duration::from_micros(self.0.lock().unwrap().1)
        }
    }

    const HOUR: u64 = 3_600_000_000;

    #[test]
    fn stamps_are_strictly_monotone_while_no_time_passes() {
        let clock = Fake::at(HOUR);
        let peers = PeerOffsets::default();
        let mut leader = LeaderClock::start(UnixMicros(0), &peers, &clock);
        let stamps: Vec<_> = (0..5).map(|_| leader.stamp(&peers, &clock).0).collect();
        assert_eq!(stamps, [HOUR + 1, HOUR + 2, HOUR + 3, HOUR + 4, HOUR + 5]);
    }

    #[test]
    fn a_jump_of_the_wall_clock_is_slewed() {
        let clock = Fake::at(HOUR);
        let peers = PeerOffsets::default();
        let mut leader = LeaderClock::start(UnixMicros(0), &peers, &clock);
        clock.jump(HOUR as i64);
        clock.pass(1_000_000);
        assert_eq!(leader.stamp(&peers, &clock).0, HOUR + 1_050_000, "5 % ahead, no more");
        clock.jump(-2 * HOUR as i64);
        clock.pass(1_000_000);
        assert_eq!(leader.stamp(&peers, &clock).0, HOUR + 2_000_000, "5 % behind, no less");
    }

    #[test]
    fn stamps_in_quick_succession_are_slewed_as_well() {
        let clock = Fake::at(HOUR);
        let peers = PeerOffsets::default();
        let mut leader = LeaderClock::start(UnixMicros(0), &peers, &clock);
        clock.jump(-(HOUR as i64) / 2);
        for _ in 0..100_000 {
            clock.pass(10);
            leader.stamp(&peers, &clock);
        }
        clock.pass(1);
        assert_eq!(leader.stamp(&peers, &clock).0, HOUR + 950_001);
    }

    #[test]
    fn a_reply_that_was_long_on_its_way_says_less_than_an_earlier_one() {
        let clock = Fake::at(HOUR);
        clock.pass(1_000_000);
        let mut peers = PeerOffsets::default();
        let ahead = |peers: &PeerOffsets| peers.fresh(&clock).collect::<Vec<_>>();
        peers.observe(&clock, 2, UnixMicros(HOUR), Duration::from_secs(3));
        assert!(ahead(&peers).is_empty());
        peers.observe(&clock, 2, UnixMicros(HOUR + 1_000_500), Duration::from_millis(1));
        assert_eq!(ahead(&peers), [1_000]);
        clock.pass(100_000);
        peers.observe(&clock, 2, UnixMicros(HOUR + 1_100_000), Duration::from_millis(400));
        assert_eq!(ahead(&peers), [1_000], "it is wrong by up to a fifth of a second");
        peers.observe(&clock, 2, UnixMicros(HOUR + 1_100_000), Duration::from_millis(4));
        assert_eq!(ahead(&peers), [2_000], "clocks drift");
    }

    #[test]
    fn what_a_leader_told_goes_on_and_never_back() {
        let clock = Fake::at(HOUR);
        let mut known = KnownClock::default();
        assert_eq!(known.now(&clock), None);
        known.told(UnixMicros(2 * HOUR), &clock);
        clock.jump(HOUR as i64);
        clock.pass(1_000);
        assert_eq!(known.now(&clock), Some(UnixMicros(2 * HOUR + 1_000)));
        known.told(UnixMicros(2 * HOUR + 400), &clock);
        clock.pass(500);
        assert_eq!(known.now(&clock), Some(UnixMicros(2 * HOUR + 1_000)), "it was late");
        clock.pass(500);
        assert_eq!(known.now(&clock), Some(UnixMicros(2 * HOUR + 1_400)));
    }

    #[test]
    fn two_peers_outvote_a_leader_an_hour_ahead() {
        let clock = Fake::at(2 * HOUR);
        let mut peers = PeerOffsets::default();
        peers.observe(&clock, 2, UnixMicros(HOUR), Duration::ZERO);
        peers.observe(&clock, 3, UnixMicros(HOUR + 5), Duration::ZERO);
        let mut leader = LeaderClock::start(UnixMicros(HOUR - 7), &peers, &clock);
        assert_eq!(leader.stamp(&peers, &clock).0, HOUR + 6);
        assert!(peers.skew(&clock) > SKEW_ALARM);
    }

    #[test]
    fn a_node_whose_clock_jumps_before_it_leads_does_not_take_the_others_along() {
        let clock = Fake::at(HOUR);
        let mut peers = PeerOffsets::default();
        peers.observe(&clock, 2, UnixMicros(HOUR), Duration::ZERO);
        peers.observe(&clock, 3, UnixMicros(HOUR), Duration::ZERO);
        clock.jump(HOUR as i64);
        clock.pass(1_000_000);
        let mut leader = LeaderClock::start(UnixMicros(HOUR), &peers, &clock);
        assert_eq!(leader.stamp(&peers, &clock).0, HOUR + 1_000_001);
    }

    #[test]
    fn a_new_leader_never_goes_back() {
        let clock = Fake::at(HOUR);
        let peers = PeerOffsets::default();
        let mut leader = LeaderClock::start(UnixMicros(2 * HOUR), &peers, &clock);
        assert_eq!(leader.stamp(&peers, &clock).0, 2 * HOUR + 1);
    }
}
