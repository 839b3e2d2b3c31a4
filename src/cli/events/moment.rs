//! Moments on the command line.

pub(in crate::cli) use crate::world::Moment;
use crate::world::{Clock, RealClock};

/// Reads a moment, or how long ago it was by this machine's clock.
pub(in crate::cli) fn parse(text: &str) -> Result<Moment, String> {
    Moment::parse(text, RealClock::new().wall())
}
