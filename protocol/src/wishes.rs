//! What RESERVE_FROM asks for: lines that may be met by one of several cells, or by several together.
//!
//! ```text
//! mode u8 · sourcing u8 · splits_max u8 · owner: u8 len + bytes · count × wish
//! wish    quantity u32 · min_quantity u32 · cells u8 · 0 u8 · 0 u16 · cells × cell
//! ```

use bytes::{BufMut, BytesMut};

use crate::lists::CellRef;
use crate::op::OpError;
use crate::reader::{Reader, Truncated};
use crate::{CellHandle, limits};

/// What becomes of a reserve if there is too little for some of its lines.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum LineMode {
    /// All lines whole, or none.
    #[default]
    All = 0,
    /// Each line whole, or not at all; at least one.
    Lines = 1,
    /// As much of each line as there is, and no less than its least.
    UpTo = 2,
}

/// Which of its cells a line is taken from.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
#[repr(u8)]
pub enum Sourcing {
    /// The first ones in the order given.
    #[default]
    First = 0,
    /// Those that have most.
    MostStock = 1,
    /// As few as it takes; of equally few the first ones in the order given.
    FewestSplits = 2,
}

impl LineMode {
    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "ALL",
            Self::Lines => "LINES",
            Self::UpTo => "UPTO",
        }
    }

    const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::All,
            1 => Self::Lines,
            2 => Self::UpTo,
            _ => return None,
        })
    }
}

impl Sourcing {
    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "FIRST",
            Self::MostStock => "MOST_STOCK",
            Self::FewestSplits => "FEWEST_SPLITS",
        }
    }

    const fn from_u8(byte: u8) -> Option<Self> {
        Some(match byte {
            0 => Self::First,
            1 => Self::MostStock,
            2 => Self::FewestSplits,
            _ => return None,
        })
    }
}

/// How the lines of a RESERVE_FROM are met.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Rules<'a> {
    /// If there is too little.
    pub mode: LineMode,
    /// From which cells.
    pub sourcing: Sourcing,
    /// How often a line may be split over cells; 0: it comes from one.
    pub splits_max: u8,
    /// For whom, at most 32 bytes; empty: for nobody in particular.
    pub owner: &'a [u8],
}

/// One line, with the cells that may meet it, as it is sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wish<'a> {
    /// How many units, at least 1.
    pub quantity: u32,
    /// No fewer than this with [`LineMode::UpTo`], else 0.
    pub min_quantity: u32,
    /// 1…64 cells, in the order of preference.
    pub cells: &'a [CellRef<'a>],
}

/// The lines of a decoded RESERVE_FROM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wishes<'a> {
    bytes: &'a [u8],
    count: u16,
    named: bool,
    rules: Rules<'a>,
}

/// One of the lines of a decoded RESERVE_FROM.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct DecodedWish<'a> {
    /// How many units.
    pub quantity: u32,
    /// No fewer than this.
    pub min_quantity: u32,
    bytes: &'a [u8],
    count: u8,
    named: bool,
}

impl<'a> Wishes<'a> {
    pub(crate) fn take(body: &mut Reader<'a>, count: u16, named: bool) -> Result<Self, OpError> {
        if count == 0 || count > limits::LINES_MAX {
            return Err(OpError::Count(count));
        }
        let (mode, sourcing) = (body.u8()?, body.u8()?);
        let rules = Rules {
            mode: LineMode::from_u8(mode).ok_or(OpError::Choice(mode))?,
            sourcing: Sourcing::from_u8(sourcing).ok_or(OpError::Choice(sourcing))?,
            splits_max: body.u8()?,
            owner: body.short_bytes()?,
        };
        if rules.owner.len() > limits::OWNER_BYTES_MAX {
            return Err(OpError::OwnerLength(rules.owner.len()));
        }
        let bytes = body.rest();
        let (mut cells, mut parts) = (0, 0);
        for _ in 0..count {
            let wish = DecodedWish::take(body, named)?;
            let least_max = if rules.mode == LineMode::UpTo { wish.quantity } else { 0 };
            if wish.min_quantity > least_max {
                return Err(OpError::Range);
            }
            cells += usize::from(wish.count);
            parts += usize::from(wish.count).min(1 + usize::from(rules.splits_max));
        }
        check_sums(cells, parts)?;
        let bytes = &bytes[..bytes.len() - body.rest().len()];
        Ok(Self { bytes, count, named, rules })
    }

    pub(crate) fn put(&self, out: &mut BytesMut) {
        put_rules(out, self.rules);
        out.put_slice(self.bytes);
    }

    /// How they are met.
    pub const fn rules(&self) -> Rules<'a> {
        self.rules
    }

    /// The lines as they are sent: with the rules, what tells one request from another.
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// How many lines.
    pub const fn len(&self) -> usize {
        self.count as usize
    }

    /// Never: a decoded reserve has at least one line.
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Cells are given by name.
    pub const fn is_named(&self) -> bool {
        self.named
    }

    /// The lines, in order.
    pub fn iter(&self) -> impl Iterator<Item = DecodedWish<'a>> + use<'a> {
        let mut body = Reader::new(self.bytes);
        let named = self.named;
        (0..self.count)
            .map(move |_| DecodedWish::take(&mut body, named).expect("checked when decoded"))
    }
}

impl<'a> DecodedWish<'a> {
    fn take(body: &mut Reader<'a>, named: bool) -> Result<Self, OpError> {
        let (quantity, min_quantity) = (body.u32()?, body.u32()?);
        let count = body.u8()?;
        if (body.u8()?, body.u16()?) != (0, 0) {
            return Err(OpError::Choice(0));
        }
        if quantity == 0 {
            return Err(OpError::ZeroQuantity);
        }
        if count == 0 || count > limits::WISH_CELLS_MAX {
            return Err(OpError::Count(count.into()));
        }
        let bytes = body.rest();
        for _ in 0..count {
            CellRef::take(body, named)?;
        }
        let bytes = &bytes[..bytes.len() - body.rest().len()];
        Ok(Self { quantity, min_quantity, bytes, count, named })
    }

    /// The cells that may meet it, in the order of preference.
    pub fn cells(&self) -> impl Iterator<Item = CellRef<'a>> + use<'a> {
        let mut body = Reader::new(self.bytes);
        let named = self.named;
        (0..self.count).map(move |_| CellRef::take(&mut body, named).expect("checked when decoded"))
    }
}

/// Appends what [`Wishes`] reads.
///
/// # Errors
/// Too many cells, or too many parts that the lines may be split into.
///
/// # Panics
/// No wishes or more than 1,024; or a wish without cells, with more than 64, without units, or with
/// more at least than at most; an owner of more than 32 bytes.
pub(crate) fn put_wishes(
    out: &mut BytesMut,
    rules: Rules<'_>,
    wishes: &[Wish<'_>],
) -> Result<(), OpError> {
    let parts_max = 1 + usize::from(rules.splits_max);
    let cells = wishes.iter().map(|wish| wish.cells.len()).sum();
    let parts = wishes.iter().map(|wish| wish.cells.len().min(parts_max)).sum();
    check_sums(cells, parts)?;
    put_rules(out, rules);
    for wish in wishes {
        let count = wish.cells.len();
        assert!((1..=usize::from(limits::WISH_CELLS_MAX)).contains(&count), "1 to 64 cells");
        assert!(wish.quantity > 0, "a line has at least one unit");
        let least_max = if rules.mode == LineMode::UpTo { wish.quantity } else { 0 };
        assert!(wish.min_quantity <= least_max, "the least is no more than the line");
        out.put_u32_le(wish.quantity);
        out.put_u32_le(wish.min_quantity);
        out.put_u8(count as u8);
        out.put_u8(0);
        out.put_u16_le(0);
        wish.cells.iter().for_each(|cell| cell.put(out));
    }
    Ok(())
}

fn put_rules(out: &mut BytesMut, rules: Rules<'_>) {
    assert!(rules.owner.len() <= limits::OWNER_BYTES_MAX, "an owner has at most 32 bytes");
    out.put_u8(rules.mode as u8);
    out.put_u8(rules.sourcing as u8);
    out.put_u8(rules.splits_max);
    out.put_u8(rules.owner.len() as u8);
    out.put_slice(rules.owner);
}

fn check_sums(cells: usize, parts: usize) -> Result<(), OpError> {
    match () {
        () if cells > usize::from(limits::WISHES_CELLS_MAX) => Err(OpError::Candidates(cells)),
        () if parts > usize::from(limits::LINES_MAX) => Err(OpError::TooManyParts(parts)),
        () => Ok(()),
    }
}

/// Some units that a RESERVE_FROM has taken, as its reply names them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TakenPart {
    /// For which line of the request, from 0.
    pub line: u16,
    /// From which cell.
    pub cell: CellHandle,
    /// How many.
    pub quantity: u32,
}

impl TakenPart {
    /// Appends it: line u16, 0 u16, handle u32, quantity u32.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u16_le(self.line);
        out.put_u16_le(0);
        out.put_u32_le(self.cell.0);
        out.put_u32_le(self.quantity);
    }

    /// Takes it off the front.
    ///
    /// # Errors
    /// The input is too short.
    pub fn take(reader: &mut Reader<'_>) -> Result<Self, Truncated> {
        let line = reader.u16()?;
        reader.u16()?;
        Ok(Self { line, cell: CellHandle(reader.u32()?), quantity: reader.u32()? })
    }
}
