//! Newtypes for what must not be swapped.

use std::fmt;

use crate::limits;

macro_rules! id16 {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// Builds an id from the milliseconds of its birth and 80 random bits, laid out as
            /// UUIDv7 (RFC 9562 §5.7) does: version and variant bits replace six of the 80.
            pub const fn from_parts(millis: u64, random: [u8; 10]) -> Self {
                let m = millis.to_be_bytes();
                let r = random;
                Self([
                    m[2], m[3], m[4], m[5], m[6], m[7],
                    0x70 | (r[0] & 0x0f), r[1],
                    0x80 | (r[2] & 0x3f), r[3], r[4], r[5], r[6], r[7], r[8], r[9],
                ])
            }

            /// When it was made, in milliseconds since 1970, as UUIDv7 and ULID say it in their first 48
            /// bits; `None` for a UUIDv4, which does not say. The random bits of a ULID may look like the
            /// version of a UUIDv4, but its time is one of this age; one UUIDv4 of 450 looks so, too.
            pub const fn born(&self) -> Option<u64> {
                let is_v4 = self.0[6] >> 4 == 4 && self.0[8] >> 6 == 0b10;
                let millis = self.millis();
                let is_time = millis >= limits::ID_MS_MIN && millis < limits::ID_MS_MAX;
                if is_v4 && !is_time { None } else { Some(millis) }
            }

            /// The first 48 bits as they are.
            pub const fn millis(&self) -> u64 {
                let b = &self.0;
                u64::from_be_bytes([0, 0, b[0], b[1], b[2], b[3], b[4], b[5]])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (i, byte) in self.0.iter().enumerate() {
                    if matches!(i, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = ParseIdError;

            /// Reads 32 hex digits, with or without dashes.
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_hex16(text).map(Self)
            }
        }
    };
}

id16! {
    /// A reservation's id, made by the client: 48 bits of milliseconds and 80 random bits (UUIDv7
    /// or ULID). It is the idempotency key of the reservation. A UUIDv4 is taken, too, but promises less:
    /// once it is forgotten, nothing tells that it ever was.
    ReservationId
}

id16! {
    /// The idempotency key of a stock write, made like a [`ReservationId`].
    OpId
}

/// The text is not 32 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseIdError;

impl fmt::Display for ParseIdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id is 32 hex digits, dashes allowed")
    }
}

impl std::error::Error for ParseIdError {}

fn parse_hex16(text: &str) -> Result<[u8; 16], ParseIdError> {
    let mut id = [0; 16];
    let mut count = 0;
    for digit in text.bytes().filter(|b| *b != b'-') {
        let value = (digit as char).to_digit(16).ok_or(ParseIdError)? as u8;
        let byte = id.get_mut(count / 2).ok_or(ParseIdError)?;
        *byte = *byte << 4 | value;
        count += 1;
    }
    if count == 32 { Ok(id) } else { Err(ParseIdError) }
}

/// The compact name of a cell, handed out by replies. It never changes and is never reused.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CellHandle(pub u32);

impl CellHandle {
    /// After all cells: what READ_SKU shows from there is the total alone, at the cost of one cell.
    pub const END: Self = Self(u32::MAX - 1);
}

/// A slice of the cells with its own Raft group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct ShardId(pub u16);

/// Milliseconds since 1970-01-01 UTC, on the cluster's clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct UnixMillis(pub u64);
