//! What is said when all of a state is looked at.
//!
//! ```text
//! CHECKPOINT   cells u32 · active u64 · confirmed u64 · sums 9 × i128, in the order of Counts::NAMES
//!              next u64 · chain 32      the chain before an earlier event, as the leader's events have it; 0 and zeros:
//!                                       it keeps none
//! DIVERGED     node u64 (0: nobody knows which) · index u64 · finding u8 · cell u32 (ffffffff: none)
//! ```

use bytes::BufMut;

use super::Counts;
use crate::id::CellHandle;
use crate::reader::{Reader, Truncated};

/// Bytes of what a CHECKPOINT says.
pub const CHECKPOINT_BYTES: usize = 4 + 8 + 8 + 9 * 16 + ANCHOR_BYTES;
/// Bytes of an [`Anchor`].
pub const ANCHOR_BYTES: usize = 8 + 32;
/// In the place of a cell.
const NO_CELL: u32 = u32::MAX;

/// How much there is of everything, over all cells.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    /// Cells.
    pub cells: u32,
    /// Reservations that hold units under a deadline.
    pub active: u64,
    /// Reservations whose units are promised.
    pub confirmed: u64,
    /// The sums of all counters, in the order of [`Counts::NAMES`].
    pub sums: [i128; 9],
}

impl Totals {
    /// Adds what is in a cell, or what has changed in it.
    pub fn add(&mut self, counts: &Counts) {
        for (sum, units) in self.sums.iter_mut().zip(counts.all()) {
            *sum += i128::from(units);
        }
    }
}

/// The chain of the events before one of them: who knows it can tell whether the events are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Anchor {
    /// The sequence number of the event after it; 0: nobody knows.
    pub next: u64,
    /// SHA-256, record by record.
    pub chain: [u8; 32],
}

impl Anchor {
    /// Appends it.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.next);
        out.put_slice(&self.chain);
    }

    /// Reads it.
    ///
    /// # Errors
    /// The bytes end inside it.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        Ok(Self { next: reader.u64()?, chain: reader.array()? })
    }
}

/// What a CHECKPOINT says, in the bytes of its event.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint<'a>(pub(super) &'a [u8; CHECKPOINT_BYTES]);

impl<'a> Checkpoint<'a> {
    /// Writes it down.
    pub fn encode(totals: &Totals, anchor: &Anchor) -> [u8; CHECKPOINT_BYTES] {
        let mut bytes = [0; CHECKPOINT_BYTES];
        let mut out = &mut bytes[..];
        out.put_u32_le(totals.cells);
        out.put_u64_le(totals.active);
        out.put_u64_le(totals.confirmed);
        totals.sums.iter().for_each(|sum| out.put_i128_le(*sum));
        anchor.encode(&mut out);
        bytes
    }

    /// In bytes that [`Checkpoint::encode`] made.
    pub const fn of(bytes: &'a [u8; CHECKPOINT_BYTES]) -> Self {
        Self(bytes)
    }

    fn read(&self) -> Result<(Totals, Anchor), Truncated> {
        let mut reader = Reader::new(self.0);
        let mut totals = Totals {
            cells: reader.u32()?,
            active: reader.u64()?,
            confirmed: reader.u64()?,
            ..Totals::default()
        };
        for sum in &mut totals.sums {
            *sum = i128::from_le_bytes(reader.array()?);
        }
        Ok((totals, Anchor::take(&mut reader)?))
    }

    /// How much there is of everything.
    pub fn totals(&self) -> Totals {
        self.read().expect("the bytes are as many as it takes").0
    }

    /// The chain of the events some way back.
    pub fn anchor(&self) -> Anchor {
        self.read().expect("the bytes are as many as it takes").1
    }
}

/// What was found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[repr(u8)]
pub enum Finding {
    /// The node's state is not what its log makes of it.
    Replay = 0,
    /// The node's state is not what those of the others are.
    Replica = 1,
    /// The node's events are not those of the leader.
    Chain = 2,
}

impl Finding {
    /// The inverse of `as u8`.
    pub const fn from_u8(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Replay),
            1 => Some(Self::Replica),
            2 => Some(Self::Chain),
            _ => None,
        }
    }

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Replay => "REPLAY",
            Self::Replica => "REPLICA",
            Self::Chain => "CHAIN",
        }
    }
}

/// What a DIVERGED says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// Whose state is wrong; 0: nobody knows.
    pub node: u64,
    /// The log entry after which it was looked at.
    pub index: u64,
    /// What was found.
    pub finding: Finding,
    /// The first cell that differs, if one is known.
    pub cell: Option<CellHandle>,
}

impl Divergence {
    /// Bytes of it.
    pub const BYTES: usize = 8 + 8 + 1 + 4;

    /// Appends it.
    pub fn encode(&self, out: &mut impl BufMut) {
        out.put_u64_le(self.node);
        out.put_u64_le(self.index);
        out.put_u8(self.finding as u8);
        out.put_u32_le(self.cell.map_or(NO_CELL, |cell| cell.0));
    }

    /// Reads it; `None`: it tells of what this version does not know.
    ///
    /// # Errors
    /// The bytes end inside it.
    pub fn take(reader: &mut Reader<'_>) -> Result<Option<Self>, Truncated> {
        let (node, index, finding, cell) =
            (reader.u64()?, reader.u64()?, reader.u8()?, reader.u32()?);
        let cell = Some(cell).filter(|cell| *cell != NO_CELL).map(CellHandle);
        Ok(Finding::from_u8(finding).map(|finding| Self { node, index, finding, cell }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut sums = [0; 9];
        (sums[0], sums[8]) = (i128::from(i64::MAX) * 9, -1);
        let totals = Totals { cells: 7, active: 8, confirmed: 9, sums };
        let anchor = Anchor { next: 70_000, chain: [3; 32] };
        let bytes = Checkpoint::encode(&totals, &anchor);
        let checkpoint = Checkpoint::of(&bytes);
        assert_eq!((checkpoint.totals(), checkpoint.anchor()), (totals, anchor));
        for cell in [None, Some(CellHandle(3))] {
            let divergence = Divergence { node: 2, index: 3, finding: Finding::Replica, cell };
            let mut bytes = Vec::new();
            divergence.encode(&mut bytes);
            assert_eq!(bytes.len(), Divergence::BYTES);
            assert_eq!(Divergence::take(&mut Reader::new(&bytes)), Ok(Some(divergence)));
            assert!(Divergence::take(&mut Reader::new(&bytes[1..])).is_err());
            bytes[16] = 9;
            assert_eq!(Divergence::take(&mut Reader::new(&bytes)), Ok(None));
        }
    }
}
