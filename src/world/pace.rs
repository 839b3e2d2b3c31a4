//! A pace: so much in a second, whoever asks.

use std::time::Duration;

/// Something that is given out at a pace, such as bytes of a disk. Who wants some waits until
/// [`free_at`](Self::free_at), and books what was taken.
///
/// Times are monotonic ([`Clock::monotonic`](super::Clock::monotonic)).
#[derive(Debug)]
pub struct Pace {
    per_second: u64,
    slack: Duration,
    free_at: Duration,
}

impl Pace {
    /// `per_second` units in a second. What is not used is lost after `slack`, so that much may come
    /// at once.
    pub const fn new(per_second: u64, slack: Duration) -> Self {
        Self { per_second, slack, free_at: Duration::ZERO }
    }

    /// When what has been booked is used up.
    pub const fn free_at(&self) -> Duration {
        self.free_at
    }

    /// Units that have come due and are not booked, as many as come in the slack at most.
    pub fn due(&self, now: Duration) -> u64 {
        let idle = now.saturating_sub(self.free_at).min(self.slack);
        let units = idle.as_nanos() * u128::from(self.per_second) / 1_000_000_000;
        units.min(u64::MAX.into()) as u64
    }

    /// Books `units` behind what has been booked.
    pub fn book(&mut self, now: Duration, units: u64) {
        let begin = self.free_at.max(now.saturating_sub(self.slack));
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.per_second);
        self.free_at = begin + Duration::from_nanos(nanos.min(u64::MAX.into()) as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn booked(pace: &mut Pace, now: Duration, units: u64) -> Duration {
        pace.book(now, units);
        pace.free_at()
    }

    #[test]
    fn what_is_booked_comes_one_after_the_other() {
        let mut pace = Pace::new(1_000, Duration::ZERO);
        assert_eq!(booked(&mut pace, ms(50), 10), ms(60));
        assert_eq!(booked(&mut pace, ms(50), 5), ms(65));
        assert_eq!(booked(&mut pace, ms(64), 1), ms(66));
        assert_eq!(booked(&mut pace, ms(90), 1), ms(91));
    }

    #[test]
    fn what_is_due_is_what_may_be_booked_now() {
        let mut pace = Pace::new(1_000, ms(8));
        assert_eq!(booked(&mut pace, ms(50), 10), ms(52));
        let due = [40, 52, 53, 60, 61].map(|now| pace.due(ms(now)));
        assert_eq!(due, [0, 0, 1, 8, 8]);
        assert_eq!(booked(&mut pace, ms(61), 8), ms(61));
    }

    #[test]
    fn what_is_not_used_is_lost_after_the_slack() {
        let mut pace = Pace::new(1_000, ms(8));
        assert_eq!(booked(&mut pace, ms(100), 8), ms(100));
        assert_eq!(booked(&mut pace, ms(100), 1), ms(101));
        assert_eq!(booked(&mut pace, ms(200), 1), ms(193));
    }
}
