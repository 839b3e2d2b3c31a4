//! A pace: so much in a second, whoever asks.

use std::time::Duration;

/// Something that is given out at a pace, such as bytes of a disk. Who wants some books them, waits
/// until their turn begins, and nobody else's begins before theirs has ended.
///
/// Times are monotonic ([`Clock::monotonic`](super::Clock::monotonic)).
#[derive(Debug)]
pub struct Pace {
    per_second: u64,
    slack: Duration,
    free_at: Duration,
}

/// When somebody may begin, and when what they booked is used up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Turn {
    /// Not before.
    pub begin: Duration,
    /// From then on the next may begin.
    pub end: Duration,
}

impl Pace {
    /// `per_second` units in a second. What is not used is lost after `slack`, so that much may come
    /// at once.
    pub const fn new(per_second: u64, slack: Duration) -> Self {
        Self { per_second, slack, free_at: Duration::ZERO }
    }

    /// When somebody who books now may begin.
    pub const fn free_at(&self) -> Duration {
        self.free_at
    }

    /// Books `units` behind everybody who has booked before.
    pub fn book(&mut self, now: Duration, units: u64) -> Turn {
        let begin = self.free_at.max(now.saturating_sub(self.slack));
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.per_second);
        self.free_at = begin + Duration::from_nanos(nanos.min(u64::MAX.into()) as u64);
        Turn { begin, end: self.free_at }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn turns_follow_each_other_at_the_pace() {
        let mut pace = Pace::new(1_000, Duration::ZERO);
        assert_eq!(pace.book(ms(50), 10), Turn { begin: ms(50), end: ms(60) });
        assert_eq!(pace.book(ms(50), 5), Turn { begin: ms(60), end: ms(65) });
        assert_eq!(pace.book(ms(64), 1), Turn { begin: ms(65), end: ms(66) });
        assert_eq!(pace.book(ms(90), 1), Turn { begin: ms(90), end: ms(91) });
    }

    #[test]
    fn what_is_not_used_is_lost_after_the_slack() {
        let mut pace = Pace::new(1_000, ms(8));
        assert_eq!(pace.book(ms(100), 8), Turn { begin: ms(92), end: ms(100) });
        assert_eq!(pace.book(ms(100), 1).begin, ms(100));
        assert_eq!(pace.book(ms(200), 1).begin, ms(192));
    }
}
