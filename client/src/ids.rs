//! Where ids come from: the one place of this crate that reads a clock's date and rolls dice.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::SystemTime;

/// The door to wall time and randomness. A simulation puts its own into
/// [`Options::ids`](crate::Options::ids).
pub trait IdSource: Send + Sync {
    /// Milliseconds since 1970-01-01 UTC. The cluster refuses ids that lie too far in the future
    /// (`CLOCK_SKEW`) or behind its retention (`ID_TOO_OLD`).
    fn unix_millis(&self) -> u64;

    /// 64 random bits; also used to spread retries in time.
    fn next_u64(&self) -> u64;
}

/// The operating system's clock and randomness.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemIds;

impl IdSource for SystemIds {
    #[expect(clippy::disallowed_methods, reason = "this is the client's clock door")]
    fn unix_millis(&self) -> u64 {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(0, |duration| duration.as_millis() as u64)
    }

    fn next_u64(&self) -> u64 {
        // Each RandomState has keys of its own, derived from the system's entropy: SipHash of
        // nothing under a fresh key is as random as the key.
        RandomState::new().build_hasher().finish()
    }
}

/// The milliseconds and the 80 random bits of a new id.
pub(crate) fn id_parts(source: &dyn IdSource) -> (u64, [u8; 10]) {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&source.next_u64().to_le_bytes());
    random[8..].copy_from_slice(&source.next_u64().to_le_bytes()[..2]);
    (source.unix_millis(), random)
}
