//! A cursor over borrowed bytes.

/// The input ended before the value did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Truncated;

/// Takes values off the front of a byte slice; never reads past its end.
///
/// Each method that takes fails with [`Truncated`] if too few bytes are left, and then takes nothing
/// but, for bytes behind a length, the length.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the front of `bytes`.
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been taken yet.
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Nothing is left.
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes `count` bytes.
    #[inline]
    pub fn bytes(&mut self, count: usize) -> Result<&'a [u8], Truncated> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes `N` bytes. By reference: a result with an id in it is not aligned, and moved in pieces.
    #[inline]
    pub fn chunk<const N: usize>(&mut self) -> Result<&'a [u8; N], Truncated> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes `N` bytes as an array.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Truncated> {
        self.chunk().copied()
    }

    /// Takes one byte.
    #[inline]
    pub fn u8(&mut self) -> Result<u8, Truncated> {
        self.array::<1>().map(|b| b[0])
    }

    /// Takes a little-endian `u16`.
    #[inline]
    pub fn u16(&mut self) -> Result<u16, Truncated> {
        self.array().map(u16::from_le_bytes)
    }

    /// Takes a little-endian `u32`.
    #[inline]
    pub fn u32(&mut self) -> Result<u32, Truncated> {
        self.array().map(u32::from_le_bytes)
    }

    /// Takes a little-endian `u64`.
    #[inline]
    pub fn u64(&mut self) -> Result<u64, Truncated> {
        self.array().map(u64::from_le_bytes)
    }

    /// Takes a little-endian `i64`.
    #[inline]
    pub fn i64(&mut self) -> Result<i64, Truncated> {
        self.array().map(i64::from_le_bytes)
    }

    /// Takes a `u8` length and that many bytes.
    #[inline]
    pub fn short_bytes(&mut self) -> Result<&'a [u8], Truncated> {
        let len = self.u8()?;
        self.bytes(usize::from(len))
    }

    /// Takes a `u16` length and that many bytes.
    #[inline]
    pub fn long_bytes(&mut self) -> Result<&'a [u8], Truncated> {
        let len = self.u16()?;
        self.bytes(usize::from(len))
    }
}
