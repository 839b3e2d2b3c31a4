//! What a workload asks for, as a pure function.
//!
//! ```text
//! (seed, stream, counter) ──▶ lines, ttl, fate          Plan
//! (seed, stream, counter, birth) ──▶ reservation id     IdStream
//! ```
//!
//! A *stream* is one connection in one phase of a run; its *counter* numbers its reservations from
//! 0. Because all of it can be drawn again at any time, the harness keeps one byte per reservation
//! (what was acknowledged, see [`crate::book`]) and nothing else, and a frame that must be sent
//! again is encoded again, byte by byte the same.

use stockd_protocol::ReservationId;

use crate::draw::{CartSizes, Draw, Zipf, mix};

/// What the harness does with a reservation once it is granted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fate {
    /// Confirm it.
    Confirm,
    /// Leave it to its deadline.
    Keep,
    /// Give it back.
    Release,
}

/// Which cell the next line is on.
#[derive(Clone, Debug)]
pub enum Choice {
    /// 1…50 lines, each on a cell drawn with equal chances; 13.5 % of the carts name one cell twice,
    /// as a public set of 20,728 invoices does.
    Cart(CartSizes),
    /// One cell after the other, so that every cell is asked for equally often.
    RoundRobin {
        /// Streams that share the cells.
        streams: u64,
    },
    /// Each cell with the same chance.
    Uniform,
    /// By Zipf's law.
    Zipf(Zipf),
}

/// How long a reservation lives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ttl {
    /// So many milliseconds; 0 is the server's default.
    Fixed(u32),
    /// Until this moment in milliseconds since 1970, whenever it was made.
    Until(u64),
}

/// What a workload does beside plain reservations.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Beside {
    /// Nothing.
    Nothing,
    /// One of ten is a SET: so many streams feed the cells, whose stock is stated as this or a little more.
    Feeds {
        /// Streams.
        streams: u64,
        /// What was received into a cell.
        stock: u32,
    },
    /// Everybody has a name; half of the reservations are those of 50 hoarders.
    Owners,
}

/// A SET, as it was drawn.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Feed {
    /// Cell index.
    pub cell: u32,
    /// Its place in the feed: later is larger, over all streams.
    pub sequence: u64,
    /// The units that it states.
    pub on_hand: i64,
}

/// A feed states up to so many units more than were received.
pub const FEED_UNITS_MORE: u64 = 8;
const HOARDERS: u64 = 50;

/// One workload's reservations.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Draws differ by seed.
    pub seed: u64,
    /// How the lines are chosen.
    pub choice: Choice,
    /// The handle of each cell, as the setup learned it.
    pub handles: Vec<u32>,
    /// Of 100 grants, how many are confirmed.
    pub confirm_percent: u32,
    /// Of 100 grants, how many are released.
    pub release_percent: u32,
    /// The ttl of those that are confirmed or released, and of those that are kept.
    pub ttl: Ttl,
    /// The ttl of those that are kept.
    pub ttl_kept: Ttl,
    /// What else is done.
    pub beside: Beside,
}

/// A line as it was drawn: cell index, units.
pub type Pick = (u32, u32);

const CART_REPEATS_PER_MILLE: u64 = 135;

impl Plan {
    fn draw(&self, stream: u32, counter: u64) -> Draw {
        Draw::new(mix(self.seed ^ mix(u64::from(stream) << 44 | counter)))
    }

    /// What becomes of a reservation if it is granted.
    #[inline]
    pub fn fate(&self, stream: u32, counter: u64) -> Fate {
        if self.beside == Beside::Owners {
            let hoards = self.hoarder(stream, counter).is_some();
            return if hoards { Fate::Keep } else { Fate::Confirm };
        }
        if self.confirm_percent + self.release_percent == 0 {
            return Fate::Keep;
        }
        let lot = self.draw(stream, counter).below(100) as u32;
        if lot < self.confirm_percent {
            Fate::Confirm
        } else if lot < self.confirm_percent + self.release_percent {
            Fate::Release
        } else {
            Fate::Keep
        }
    }

    fn hoarder(&self, stream: u32, counter: u64) -> Option<u64> {
        let mut draw = self.draw(stream, counter);
        (draw.below(2) == 0).then(|| draw.below(HOARDERS))
    }

    /// For whom a reservation is made, if that is said.
    pub fn owner(&self, stream: u32, counter: u64) -> Option<[u8; 16]> {
        if self.beside != Beside::Owners {
            return None;
        }
        let number = match self.hoarder(stream, counter) {
            Some(hoarder) => hoarder,
            None => HOARDERS + mix(u64::from(stream) << 44 | counter) / 2,
        };
        let mut name = *b"0000000000000000";
        for (at, digit) in name.iter_mut().rev().enumerate() {
            *digit = b"0123456789abcdef"[(number >> (4 * at) & 0xf) as usize];
        }
        Some(name)
    }

    /// What is sent in the place of a reservation, if it is a SET.
    #[inline]
    pub fn feed(&self, stream: u32, counter: u64) -> Option<Feed> {
        let Beside::Feeds { streams, stock } = self.beside else { return None };
        let mut draw = self.draw(stream, counter);
        if draw.below(10) > 0 {
            return None;
        }
        let cell = draw.below(self.handles.len() as u64) as u32;
        let sequence = 1 + counter * streams + u64::from(stream & STREAM_CONNECTION_MASK);
        Some(Feed { cell, sequence, on_hand: stated(stock, sequence) })
    }

    /// The ttl a reservation asks for, given its birth.
    #[inline]
    pub fn ttl_ms(&self, fate: Fate, birth_ms: u64) -> u32 {
        let ttl = if fate == Fate::Keep { self.ttl_kept } else { self.ttl };
        match ttl {
            Ttl::Fixed(ttl_ms) => ttl_ms,
            Ttl::Until(moment_ms) => moment_ms.saturating_sub(birth_ms).max(1_000) as u32,
        }
    }

    /// Puts the lines of a reservation into `picks`.
    #[inline]
    pub fn lines(&self, stream: u32, counter: u64, picks: &mut Vec<Pick>) {
        picks.clear();
        let cells = self.handles.len() as u64;
        let mut draw = self.draw(stream, counter);
        // The first number decides the fate.
        draw.bits();
        match &self.choice {
            Choice::RoundRobin { streams } => {
                let slot = u64::from(stream & STREAM_CONNECTION_MASK);
                picks.push((((counter * streams + slot) % cells) as u32, 1));
            }
            Choice::Uniform => picks.push((draw.below(cells) as u32, 1)),
            Choice::Zipf(zipf) => picks.push((scatter(zipf.rank(&mut draw), cells), 1)),
            Choice::Cart(sizes) => {
                for _ in 0..sizes.lines(&mut draw) {
                    picks.push((draw.below(cells) as u32, 1));
                }
                if picks.len() > 1 && draw.below(1_000) < CART_REPEATS_PER_MILLE {
                    picks[1].0 = picks[0].0;
                }
            }
        }
    }

    /// Most lines a reservation of this plan has.
    pub const fn lines_max(&self) -> usize {
        match self.choice {
            Choice::Cart(_) => crate::draw::CART_LINES_MAX as usize,
            _ => 1,
        }
    }
}

/// What the message of a feed with this sequence states.
pub fn stated(stock: u32, sequence: u64) -> i64 {
    i64::from(stock) + (mix(sequence) % FEED_UNITS_MORE) as i64
}

/// A stream's number is `phase << 16 | connection`.
pub const STREAM_CONNECTION_MASK: u32 = 0xffff;

/// Puts neighbouring ranks on cells far apart: the popular cells must not share cache lines.
/// 1,000,003 is a prime above every cell count's common factors but its own multiples.
#[inline]
const fn scatter(rank: u64, cells: u64) -> u32 {
    const STRIDE: u64 = 1_000_003;
    if cells.is_multiple_of(STRIDE) { rank as u32 } else { (rank * STRIDE % cells) as u32 }
}

/// The ids of one stream. An id is its birth and a one-to-one mix of stream and counter, so that no
/// two ids of a run are equal; births are kept as the first counter of every ten milliseconds.
#[derive(Clone, Debug)]
pub struct IdStream {
    salt: u64,
    stream: u32,
    births: Vec<(u64, u64)>,
}

const BIRTH_STEP_MS: u64 = 10;

impl IdStream {
    /// `salt` differs from run to run.
    pub const fn new(salt: u64, stream: u32) -> Self {
        Self { salt, stream, births: Vec::new() }
    }

    /// Counters from here on are born now.
    #[inline]
    pub fn tick(&mut self, counter: u64, unix_ms: u64) {
        if self.births.last().is_none_or(|(_, born)| unix_ms >= born + BIRTH_STEP_MS) {
            self.births.push((counter, unix_ms));
        }
    }

    /// When `counter` was born, in milliseconds since 1970. Recent ones are found at once.
    ///
    /// # Panics
    /// No tick came before the counter.
    #[inline]
    pub fn birth_ms(&self, counter: u64) -> u64 {
        let recent = self.births.iter().rev().take(4).find(|(first, _)| *first <= counter);
        let old = || {
            let after = self.births.partition_point(|(first, _)| *first <= counter);
            &self.births[after.checked_sub(1).expect("a stream ticks before it counts")]
        };
        recent.unwrap_or_else(old).1
    }

    /// The id of reservation `counter`.
    #[inline]
    pub fn id(&self, counter: u64) -> ReservationId {
        let m = mix(self.salt ^ (u64::from(self.stream) << 40 | counter)).to_be_bytes();
        let s = self.salt as u8;
        let random = [s, m[0], s, m[1], m[2], m[3], m[4], m[5], m[6], m[7]];
        ReservationId::from_parts(self.birth_ms(counter), random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(choice: Choice, cells: u32) -> Plan {
        Plan {
            seed: 7,
            choice,
            handles: (0..cells).collect(),
            confirm_percent: 85,
            release_percent: 5,
            ttl: Ttl::Fixed(0),
            ttl_kept: Ttl::Fixed(1_000),
            beside: Beside::Nothing,
        }
    }

    #[test]
    fn ids_never_repeat_and_can_be_made_again() {
        let mut seen = std::collections::BTreeSet::new();
        for stream in [0, 1, 1 << 16] {
            let mut ids = IdStream::new(99, stream);
            for counter in 0..2_000 {
                ids.tick(counter, 1_700_000_000_000 + counter / 7);
                assert!(seen.insert(ids.id(counter)), "stream {stream} counter {counter}");
            }
            assert!(seen.contains(&ids.id(3)), "an old id comes out as it was");
            assert!(seen.contains(&ids.id(1_999)));
        }
    }

    #[test]
    fn fates_come_in_the_stated_shares() {
        let plan = plan(Choice::Uniform, 1);
        let count = |fate| (0..100_000).filter(|c| plan.fate(3, *c) == fate).count();
        assert!((84_000..86_000).contains(&count(Fate::Confirm)));
        assert!((4_500..5_500).contains(&count(Fate::Release)));
        assert_eq!(plan.ttl_ms(Fate::Keep, 0), 1_000);
        assert_eq!(plan.ttl_ms(Fate::Confirm, 0), 0);
    }

    #[test]
    fn owners_are_as_many_as_stated() {
        let plan = Plan { beside: Beside::Owners, ..plan(Choice::Uniform, 1) };
        let kept = |counter: &u64| plan.fate(3, *counter) == Fate::Keep;
        let hoarders: Vec<_> = (0..10_000).filter(kept).map(|c| plan.owner(3, c)).collect();
        assert!((4_800..5_200).contains(&hoarders.len()), "{}", hoarders.len());
        let names = |owners: Vec<_>| owners.into_iter().collect::<std::collections::BTreeSet<_>>();
        assert_eq!(names(hoarders).len(), 50);
        let buyers: Vec<_> = (0..10_000).filter(|c| !kept(c)).map(|c| plan.owner(3, c)).collect();
        assert_eq!(names(buyers.clone()).len(), buyers.len());
    }

    #[test]
    fn the_messages_of_feeds_have_numbers_of_their_own() {
        let beside = Beside::Feeds { streams: 3, stock: 70 };
        let plan = Plan { beside, ..plan(Choice::Uniform, 9) };
        let mut sequences = std::collections::BTreeSet::new();
        for stream in 0..3 {
            for feed in (0..1_000).filter_map(|counter| plan.feed(stream, counter)) {
                assert!(sequences.insert(feed.sequence) && (70..78).contains(&feed.on_hand));
            }
        }
        assert!((250..350).contains(&sequences.len()), "{}", sequences.len());
    }

    #[test]
    fn round_robin_asks_every_cell_equally_often() {
        let plan = plan(Choice::RoundRobin { streams: 4 }, 10);
        let mut counts = [0; 10];
        let mut picks = Vec::new();
        for stream in 0..4 {
            for counter in 0..25 {
                plan.lines(stream | 1 << 16, counter, &mut picks);
                counts[picks[0].0 as usize] += 1;
            }
        }
        assert_eq!(counts, [10; 10]);
    }

    #[test]
    fn zipf_ranks_scatter_over_all_cells() {
        let mut cells: Vec<u32> = (0..1_000).map(|rank| scatter(rank, 1_000)).collect();
        cells.sort_unstable();
        cells.dedup();
        assert_eq!(cells.len(), 1_000);
    }

    #[test]
    fn carts_are_drawn_the_same_way_twice() {
        let plan = plan(Choice::Cart(CartSizes::new()), 1_000);
        let (mut first, mut second) = (Vec::new(), Vec::new());
        let mut repeats = 0;
        for counter in 0..1_000 {
            plan.lines(5, counter, &mut first);
            plan.lines(5, counter, &mut second);
            assert_eq!(first, second);
            assert!((1..=plan.lines_max()).contains(&first.len()));
            repeats += u32::from(first.len() > 1 && first[0].0 == first[1].0);
        }
        assert!((90..180).contains(&repeats), "{repeats} carts repeat a cell");
    }
}
