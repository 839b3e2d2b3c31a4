//! How old a follower's state may be, which is what a stale read says.
//!
//! Having just heard the leader proves little: after a partition TCP delivers what was sent before it,
//! and a follower far behind hears ten heartbeats a second. What a follower does know is when *it* said
//! something. So each reply to an append carries a stamp of the follower's clock, and each append
//! carries the last stamp that came back, which makes it younger than that:
//!
//! ```text
//! follower ── reply, stamp s ──────────────────────────▶ leader
//! follower ◀── append: echo s, quorum age a, told t ──── leader
//! follower applies up to t: its state is as new as all that anybody was told at s − a
//! ```
//!
//! The commit index of the append itself will not do: openraft sends a follower that was away what was
//! committed when it went, until the next entry.
//!
//! The quorum age is there because a leader that is cut off goes on telling what it knows: at `s − a` a
//! majority said that it led, so nobody else had committed anything by then.
//!
//! It takes for granted that no clock runs slow: the age of what a node has is told by its own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::{BufMut, BytesMut};

use super::clock::KnownClock;
use crate::protocol::{Reader, Truncated};
use crate::world::{Clock, UnixMicros};

/// A moment on one process's monotonic clock.
///
/// ```text
/// offset size
///      0    8  boot     drawn by the process; 0: no stamp
///      8    8  micros   since that clock's beginning
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Stamp {
    boot: u64,
    micros: u64,
}

/// What a leader adds to an append.
///
/// ```text
/// offset size
///      0   16  echo         the receiver's last stamp that has come back
///     16    4  quorum age   ms since a majority said that the sender leads; u32::MAX: it never did
///     20    8  told         no answer that the sender gave until then names a higher log index
///     28    8  now          the cluster's clock, in microseconds; 0: the sender does not know it
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Word {
    echo: Stamp,
    quorum_age_ms: u32,
    told: u64,
    now: u64,
}

/// What a leader remembers so that it can give its word, and a follower so that it can be one.
/// Shared by a node's links.
#[derive(Clone, Default)]
pub struct Witness(Arc<Mutex<Seen>>);

#[derive(Default)]
struct Seen {
    /// By node.
    stamps: BTreeMap<u64, Stamp>,
    /// When the latest append was sent that a node has answered as this leader's follower.
    acked: BTreeMap<u64, Duration>,
    /// When a majority last said that this node leads, in whichever term, and what was applied then.
    quorum: Option<(Duration, u64)>,
    clock: KnownClock,
}

/// When this node's state was last as new as a leader's.
#[derive(Default)]
pub struct Freshness {
    fresh_at: Option<Duration>,
    /// A word that waits to be applied: what had been told, and the moment it speaks of.
    waits: Option<(u64, Duration)>,
}

impl Stamp {
    /// This moment of the process that drew `boot`, which is not zero.
    pub fn now(boot: u64, clock: &dyn Clock) -> Self {
        Self { boot, micros: clock.monotonic().as_micros() as u64 }
    }

    pub fn put(self, out: &mut BytesMut) {
        out.put_u64_le(self.boot);
        out.put_u64_le(self.micros);
    }

    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self { boot: reader.u64()?, micros: reader.u64()? })
    }
}

impl Word {
    pub fn put(self, out: &mut BytesMut) {
        self.echo.put(out);
        out.put_u32_le(self.quorum_age_ms);
        out.put_u64_le(self.told);
        out.put_u64_le(self.now);
    }

    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let echo = Stamp::take(reader)?;
        Ok(Self { echo, quorum_age_ms: reader.u32()?, told: reader.u64()?, now: reader.u64()? })
    }

    /// What had been applied, and so at most been told, at the moment of which it speaks.
    pub fn told(self) -> u64 {
        self.told
    }

    /// The cluster's clock, if the sender knows it.
    pub fn now(self) -> Option<UnixMicros> {
        (self.now != 0).then_some(UnixMicros(self.now))
    }

    /// The moment of which it speaks, on the clock of the process that drew `boot`; `None` if it
    /// speaks to another life of this node, of a moment before this life, or of nothing.
    pub fn speaks_of(self, boot: u64) -> Option<Duration> {
        if self.echo.boot != boot || self.quorum_age_ms == u32::MAX {
            return None;
        }
        let age = Duration::from_millis(self.quorum_age_ms.into());
        Duration::from_micros(self.echo.micros).checked_sub(age)
    }
}

impl Witness {
    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.0.lock().expect("no holder panics")
    }

    /// `node` has answered an append that was sent at this moment, and knows no other leader.
    pub fn acked(&self, node: u64, sent: Duration) {
        let mut seen = self.lock();
        let last = seen.acked.entry(node).or_default();
        *last = sent.max(*last);
    }

    /// The latest moment at which a majority of each set of voters still had `me` for their leader;
    /// `None`: too few have ever answered.
    ///
    /// openraft's own figure is no bound: it takes an answer for one to everything that was sent since
    /// up to the same log index, also to what was sent after a pause of this process.
    pub fn quorum_at(&self, me: u64, voters: &[BTreeSet<u64>], now: Duration) -> Option<Duration> {
        let seen = self.lock();
        let majority = |voters: &BTreeSet<u64>| {
            let acked = |id: &u64| if *id == me { Some(now) } else { seen.acked.get(id).copied() };
            let mut acked: Vec<_> = voters.iter().map(acked).collect();
            acked.sort_unstable_by(|a, b| b.cmp(a));
            acked.get(voters.len() / 2).copied().flatten()
        };
        let moments: Option<Vec<_>> = voters.iter().map(majority).collect();
        moments?.into_iter().min()
    }

    /// A majority said at this moment, or later, that this node leads; it is in office and has now
    /// applied everything up to `applied`.
    pub fn led_at(&self, at: Duration, applied: u64) {
        let mut seen = self.lock();
        seen.quorum = seen.quorum.max(Some((at, applied)));
    }

    /// This node stamped the cluster's clock, or heard it from who did.
    pub fn told_clock(&self, now: UnixMicros, clock: &dyn Clock) {
        self.lock().clock.told(now, clock);
    }

    /// The cluster's clock, by what was last told.
    pub fn now(&self, clock: &dyn Clock) -> Option<UnixMicros> {
        self.lock().clock.now(clock)
    }

    /// A reply of `node` came back. Replies come by several links and overtake each other.
    pub fn heard(&self, node: u64, stamp: Stamp) {
        let mut seen = self.lock();
        let last = seen.stamps.entry(node).or_default();
        if last.boot != stamp.boot || last.micros < stamp.micros {
            *last = stamp;
        }
    }

    /// What to say to `node` at this moment.
    pub fn word(&self, node: u64, clock: &dyn Clock) -> Word {
        let mut seen = self.lock();
        let now = seen.clock.now(clock).map_or(0, |now| now.0);
        let age = |at| clock.monotonic().saturating_sub(at).as_millis() + 1;
        let age = seen.quorum.map(|(at, _)| age(at)).and_then(|age| u32::try_from(age).ok());
        let told = seen.quorum.map_or(0, |(_, applied)| applied);
        let echo = seen.stamps.get(&node).copied().unwrap_or_default();
        Word { echo, quorum_age_ms: age.unwrap_or(u32::MAX), told, now }
    }
}

impl Freshness {
    /// A leader's word that at `at` nobody had been told of anything beyond `told`.
    pub fn hear(&mut self, told: u64, at: Duration, applied: u64) {
        self.at(applied);
        // The older word is kept: under load the newest is never quite applied.
        self.waits.get_or_insert((told, at));
        self.at(applied);
    }

    /// When the state at `applied` was fresh; `None`: unknown.
    pub fn at(&mut self, applied: u64) -> Option<Duration> {
        if let Some((_, at)) = self.waits.take_if(|(told, _)| *told <= applied) {
            self.fresh_at = self.fresh_at.max(Some(at));
        }
        self.fresh_at
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(Duration);

    impl Clock for Fixed {
        fn monotonic(&self) -> Duration {
            self.0
        }

        fn wall(&self) -> UnixMicros {
            UnixMicros(0)
        }
    }

    const SECOND: fn(u64) -> Duration = Duration::from_secs;

    #[test]
    fn a_follower_that_is_behind_is_not_fresh_however_often_it_hears_a_leader() {
        let mut freshness = Freshness::default();
        assert_eq!(freshness.at(100), None);
        freshness.hear(10, SECOND(1), 10);
        assert_eq!(freshness.at(10), Some(SECOND(1)));
        freshness.hear(1_000, SECOND(2), 11);
        freshness.hear(1_001, SECOND(3), 12);
        assert_eq!(freshness.at(999), Some(SECOND(1)));
        assert_eq!(freshness.at(1_000), Some(SECOND(2)));
    }

    #[test]
    fn a_majority_of_each_set_of_voters_must_have_answered() {
        let leader = Witness::default();
        let sets = |sets: &[&[u64]]| -> Vec<BTreeSet<u64>> {
            sets.iter().map(|set| set.iter().copied().collect()).collect()
        };
        let quorum_at = |voters: &[&[u64]]| leader.quorum_at(1, &sets(voters), SECOND(100));
        assert_eq!(quorum_at(&[&[1]]), Some(SECOND(100)), "alone it is the majority");
        assert_eq!(quorum_at(&[&[1, 2, 3]]), None, "nobody has answered");
        leader.acked(2, SECOND(50));
        leader.acked(2, SECOND(40));
        assert_eq!(quorum_at(&[&[1, 2, 3]]), Some(SECOND(50)), "an older answer came later");
        assert_eq!(quorum_at(&[&[1, 2]]), Some(SECOND(50)));
        assert_eq!(quorum_at(&[&[1, 2, 3], &[1, 3, 4]]), None, "of the new set only this node");
        leader.acked(4, SECOND(30));
        assert_eq!(quorum_at(&[&[1, 2, 3], &[1, 3, 4]]), Some(SECOND(30)));
        assert_eq!(quorum_at(&[&[2, 3, 4]]), Some(SECOND(30)), "a leader that is being removed");
        assert_eq!(quorum_at(&[&[1, 2, 3, 4, 5]]), Some(SECOND(30)));
    }

    #[test]
    fn an_old_word_that_comes_late_makes_nothing_fresh() {
        let mut freshness = Freshness::default();
        freshness.hear(10, SECOND(5), 10);
        freshness.hear(10, SECOND(2), 10);
        assert_eq!(freshness.at(10), Some(SECOND(5)));
    }

    #[test]
    fn a_word_speaks_of_the_stamp_less_the_quorums_age() {
        let leader = Witness::default();
        let clock = Fixed(SECOND(100));
        assert_eq!(leader.word(2, &clock).speaks_of(7), None, "nothing has come back");
        leader.heard(2, Stamp::now(7, &Fixed(SECOND(20))));
        assert_eq!(leader.word(2, &clock).speaks_of(7), None, "it has never led");
        leader.led_at(SECOND(90), 70);
        leader.led_at(SECOND(80), 60);
        assert_eq!(leader.word(2, &clock).now(), None);
        leader.told_clock(UnixMicros(77), &clock);
        assert_eq!(leader.word(2, &clock).now(), Some(UnixMicros(77)));
        let word = leader.word(2, &clock);
        assert_eq!(word.told(), 70);
        assert_eq!(word.speaks_of(7), Some(SECOND(10) - Duration::from_millis(1)));
        assert_eq!(word.speaks_of(8), None, "the node has been started again");
        leader.heard(4, Stamp::now(7, &Fixed(SECOND(9))));
        let word_of_a_life_before = leader.word(4, &clock);
        assert_eq!(
            word_of_a_life_before.speaks_of(7),
            None,
            "the quorum is older than the process"
        );
        assert_eq!(leader.word(3, &clock).speaks_of(7), None, "another node's stamp");
        leader.heard(2, Stamp::now(7, &Fixed(SECOND(19))));
        assert_eq!(leader.word(2, &clock), word, "an older reply came later");
        let mut out = BytesMut::new();
        word.put(&mut out);
        assert_eq!(Word::take(&mut Reader::new(&out)), Ok(word));
    }
}
