//! Moments as RFC 3339 writes them, in UTC.

use std::fmt;

use super::super::parse_duration;
use crate::world::{Clock, RealClock};

const DAY_US: u64 = 86_400_000_000;

/// A moment, in µs since 1970.
#[derive(Clone, Copy)]
pub(in crate::cli) struct Moment(pub u64);

impl fmt::Display for Moment {
    /// `2026-11-30T03:15:17.000123Z`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (year, month, day) = civil(self.0 / DAY_US);
        let of_day = self.0 % DAY_US;
        let (seconds, us) = (of_day / 1_000_000, of_day % 1_000_000);
        let (hour, minute, second) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}Z")
    }
}

/// Year, month and day of the day that is so many after 1970-01-01: `civil_from_days` of Howard Hinnant's
/// "chrono-Compatible Low-Level Date Algorithms". Years begin in March, so that leap days end them.
fn civil(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    (year, month, of_year - (153 * from_march + 2) / 5 + 1)
}

/// The inverse: `None` for a day before 1970, or one that no month has.
fn day_of(year: u64, month: u64, day: u64) -> Option<u64> {
    let years = if month <= 2 { year.checked_sub(1)? } else { year };
    let (era, of_era) = (years / 400, years % 400);
    let from_march = (month + 9) % 12;
    let of_year = (153 * from_march + 2) / 5 + day.checked_sub(1)?;
    let found = (era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year)
        .checked_sub(719_468)?;
    (civil(found) == (year, month, day)).then_some(found)
}

/// Reads `2026-11-30T03:15:17.5Z`, with `+01:00` in the place of `Z`, without seconds, or without a time; or `15m`:
/// so long ago by this machine's clock.
pub(in crate::cli) fn parse(text: &str) -> Result<Moment, String> {
    if let Ok(ago) = parse_duration(text)
        && !text.contains('-')
    {
        let now = RealClock::new().wall().0;
        return Ok(Moment(now.saturating_sub(ago.as_micros() as u64)));
    }
    let wrong =
        || "write a moment, as in 2026-11-30T03:15:17Z, or how long ago, as in 15m".to_owned();
    read(text).map(Moment).ok_or_else(wrong)
}

fn read(text: &str) -> Option<u64> {
    let number = |text: &str| {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { text.parse::<u64>().ok() } else { None }
    };
    let (date, time) = text.split_once(['T', 't', ' ']).unwrap_or((text, "00:00Z"));
    let mut parts = date.splitn(3, '-');
    let [year, month, day] = [(); 3].map(|()| parts.next().and_then(number));
    let day = day_of(year.filter(|year| *year < 10_000)?, month?, day?)?;
    let zone_at = time.find(['Z', 'z', '+', '-'])?;
    let (time, zone) = time.split_at(zone_at);
    let mut parts = time.splitn(3, ':');
    let (hour, minute) = (number(parts.next()?)?, number(parts.next()?)?);
    let (second, us) = match parts.next() {
        None => (0, 0),
        Some(second) => {
            let (second, fraction) = second.split_once('.').unwrap_or((second, "0"));
            let us = number(fraction).and_then(|_| number(&format!("{fraction:0<6}")[..6]))?;
            (number(second)?, us)
        }
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let at_us = day * DAY_US + (hour * 3_600 + minute * 60 + second) * 1_000_000 + us;
    if zone.eq_ignore_ascii_case("z") {
        return Some(at_us);
    }
    let (hours, minutes) = zone[1..].split_once(':')?;
    let ahead_us = (number(hours)? * 60 + number(minutes)?) * 60_000_000;
    match zone.starts_with('+') {
        true => at_us.checked_sub(ahead_us),
        false => Some(at_us + ahead_us),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_and_read() {
        let cases = [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_400_000_000, "2000-02-29T00:00:00.000000Z"),
            (1_700_000_000_500_123, "2023-11-14T22:13:20.500123Z"),
            (4_107_542_399_999_999, "2100-02-28T23:59:59.999999Z"),
            (4_107_542_400_000_000, "2100-03-01T00:00:00.000000Z"),
        ];
        for (at_us, text) in cases {
            assert_eq!(Moment(at_us).to_string(), text);
            assert_eq!(read(text), Some(at_us), "{text}");
        }
        for day in 0..200_000 {
            let (year, month, of_month) = civil(day);
            assert_eq!(day_of(year, month, of_month), Some(day));
        }
    }

    #[test]
    fn moments_may_be_written_in_other_ways() {
        let midnight = 1_700_006_400_000_000;
        for text in [
            "2023-11-15",
            "2023-11-15T00:00Z",
            "2023-11-15 00:00:00z",
            "2023-11-15T01:30:00+01:30",
            "2023-11-14T19:00:00.000-05:00",
        ] {
            assert_eq!(read(text), Some(midnight), "{text}");
        }
        assert_eq!(read("2023-11-15T00:00:00.5Z"), Some(midnight + 500_000));
        assert_eq!(read("2023-11-15T00:00:00.1234567Z"), Some(midnight + 123_456));
        for bad in [
            "",
            "yesterday",
            "2023-02-29",
            "2023-13-01",
            "1969-12-31",
            "2023-11-15T24:00Z",
            "2023-11-15T00:00",
            "2023-11-15T00:00:00+1",
            "2023-11-15T00:00:0é.Z",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
        let ago = |text| parse(text).map(|moment| moment.0);
        assert!(ago("2h").unwrap() < ago("1h").unwrap());
    }
}
