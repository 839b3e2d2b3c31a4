//! Taking an input apart. Whatever is missing is zero or empty, so that every input means something.

use bytes::BytesMut;

/// A cursor over an input.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// At most `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }

    pub fn u8(&mut self) -> u8 {
        self.number(1) as u8
    }

    pub fn u16(&mut self) -> u16 {
        self.number(2) as u16
    }

    pub fn u32(&mut self) -> u32 {
        self.number(4) as u32
    }

    /// A number below `limit`, from one or two bytes.
    pub fn below(&mut self, limit: u16) -> u16 {
        self.number(if limit <= 256 { 1 } else { 2 }) as u16 % limit
    }

    /// A block behind its length, a u16.
    pub fn block(&mut self) -> &'a [u8] {
        let len = self.u16();
        self.bytes(usize::from(len))
    }

    fn number(&mut self, bytes: usize) -> u64 {
        let mut word = [0; 8];
        let taken = self.bytes(bytes);
        word[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(word)
    }
}

/// What [`Input::block`] takes.
///
/// # Panics
/// The block is longer than a u16 can say.
pub fn put_block(out: &mut Vec<u8>, block: &[u8]) {
    let len = u16::try_from(block.len()).expect("a seed's blocks are short");
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(block);
}

/// The number at `at`, if it is all there.
pub fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_le_bytes(*word))
}

/// A connection's bytes and the length of the pieces in which they arrive, from byte 0. Bit 0 of byte 1
/// keeps wrong checksums.
pub fn connection(data: &[u8]) -> (usize, Vec<u8>) {
    let mut input = Input(data);
    let piece = usize::from(input.u8()) + 1;
    let keep = input.u8() & 1 == 1;
    let mut bytes = input.0.to_vec();
    if !keep {
        mend_frames(&mut bytes);
    }
    (piece, bytes)
}

/// The frames that arrive, and the error that closes the connection.
pub fn frames<F, E>(
    bytes: &[u8],
    piece: usize,
    take: impl Fn(&mut BytesMut) -> Result<Option<F>, E>,
) -> (Vec<F>, Option<E>) {
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for piece in bytes.chunks(piece) {
        buffer.extend_from_slice(piece);
        loop {
            match take(&mut buffer) {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    (frames, None)
}

/// Sets the checksums of all whole frames right, clients' or peers': `len`, crc32, the rest.
pub fn mend_frames(bytes: &mut [u8]) {
    let mut at = 0;
    while let Some(len) = u32_at(bytes, at) {
        let end = at + 4 + len as usize;
        if len < 4 || end > bytes.len() {
            return;
        }
        let crc = crc32fast::hash(&bytes[at + 8..end]);
        bytes[at + 4..at + 8].copy_from_slice(&crc.to_le_bytes());
        at = end;
    }
}
