//! Moments as people write and read them.

use std::fmt;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Utc};

use super::UnixMicros;

/// A moment, in µs since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Moment(pub u64);

impl fmt::Display for Moment {
    /// `2026-11-30T03:15:17.000123Z`
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = i64::try_from(self.0).ok().and_then(DateTime::from_timestamp_micros);
        // No later one has a date.
        let at = at.unwrap_or(DateTime::<Utc>::MAX_UTC);
        f.write_str(&at.to_rfc3339_opts(SecondsFormat::Micros, true))
    }
}

impl Moment {
    /// Reads what RFC 3339 says, `2026-11-30T03:15:17.5+01:00`; also without a zone, which is UTC then, without seconds,
    /// or without a time; or how long before `now` it is, `1h30m`.
    ///
    /// # Errors
    /// It is none of these, or before 1970; the text says what to write.
    pub fn parse(text: &str, now: UnixMicros) -> Result<Self, String> {
        let ago = read_length_us(text).map(|ago_us| now.0.saturating_sub(ago_us));
        ago.or_else(|| read(text)).map(Self).ok_or_else(|| {
            format!(
                "'{text}' is no moment: write one as in 2026-11-30T03:15:17Z, or how long ago it is, as in 15m"
            )
        })
    }
}

fn read(text: &str) -> Option<u64> {
    let zoned = || DateTime::parse_from_str(text, "%FT%R%#z");
    let local = || {
        let forms = ["%FT%T%.f", "%F %T%.f", "%FT%R", "%F %R"];
        let times = forms.iter().find_map(|form| NaiveDateTime::parse_from_str(text, form).ok());
        let midnight =
            || Some(NaiveDate::parse_from_str(text, "%F").ok()?.and_time(NaiveTime::MIN));
        Some(times.or_else(midnight)?.and_utc().timestamp_micros())
    };
    let at_us = match DateTime::parse_from_rfc3339(text).or_else(|_| zoned()) {
        Ok(at) => at.timestamp_micros(),
        Err(_) => local()?,
    };
    u64::try_from(at_us).ok()
}

/// Reads numbers with their units: `15m`, `1h30m`.
fn read_length_us(text: &str) -> Option<u64> {
    let (mut length_us, mut rest) = (0_u64, text);
    while !rest.is_empty() {
        let (number, after) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let unit_end = after.find(|c: char| c.is_ascii_digit()).unwrap_or(after.len());
        let (unit, after) = after.split_at(unit_end);
        let unit_us = match unit {
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60 * 1_000_000,
            "h" => 3_600 * 1_000_000,
            "d" => 86_400 * 1_000_000,
            _ => return None,
        };
        length_us = number.parse::<u64>().ok()?.checked_mul(unit_us)?.checked_add(length_us)?;
        rest = after;
    }
    (!text.is_empty()).then_some(length_us)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Option<u64> {
        Moment::parse(text, UnixMicros(1_700_000_000_000_000)).ok().map(|moment| moment.0)
    }

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
            assert_eq!(parse(text), Some(at_us), "{text}");
        }
        assert_eq!(Moment(u64::MAX).to_string(), "+262142-12-31T23:59:59.999999Z");
    }

    #[test]
    fn moments_may_be_written_in_other_ways() {
        for text in [
            "2023-11-15",
            "2023-11-15T00:00",
            "2023-11-15 00:00",
            "2023-11-15T00:00Z",
            "2023-11-15T00:00:00",
            "2023-11-15 00:00:00.000",
            "2023-11-15 00:00:00z",
            "2023-11-15T01:30:00+01:30",
            "2023-11-15T01:30+01:30",
            "2023-11-14T19:00:00.000-05:00",
        ] {
            assert_eq!(parse(text), Some(1_700_006_400_000_000), "{text}");
        }
        assert_eq!(parse("2023-11-15T00:00:00.1234567Z"), Some(1_700_006_400_123_456));
        for bad in [
            "",
            "yesterday",
            "17",
            "2023-02-29",
            "2023-13-01",
            "1969-12-31",
            "2023-11-15T24:00Z",
            "2023-11-15T00:00:00+1",
            "2023-11-15T00:00:0é.Z",
            "m",
            "15",
            "5 minutes",
            "15m30",
            "99999999999999999999s",
            "18446744073709551615d",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn moments_may_be_some_time_ago() {
        for (text, ago_us) in [
            ("0s", 0),
            ("500ms", 500_000),
            ("15m", 900_000_000),
            ("1h30m", 5_400_000_000),
            ("2d", 172_800_000_000),
        ] {
            assert_eq!(parse(text), Some(1_700_000_000_000_000 - ago_us), "{text}");
        }
        assert_eq!(parse("99999d"), Some(0));
    }
}
