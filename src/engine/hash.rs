//! 64-bit mixing: for the indexes (seeded, so that a client cannot aim at collisions), for
//! fingerprints and for digests (unseeded, the same on every node).

const K0: u64 = 0x9e37_79b9_7f4a_7c15;
const K1: u64 = 0xd6e8_feb8_6659_fd93;
const K2: u64 = 0xa076_1d64_78bd_642f;

/// Multiplies to 128 bits and folds the halves together.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let wide = u128::from(a) * u128::from(b);
    wide as u64 ^ (wide >> 64) as u64
}

/// Mixes two words under a seed.
#[inline]
pub(super) fn mix2(seed: u64, a: u64, b: u64) -> u64 {
    let first = fold(a ^ seed ^ K0, b ^ seed.rotate_left(32) ^ K1);
    fold(first ^ a.rotate_left(17) ^ K2, K0 ^ seed ^ b)
}

/// Mixes a 16-byte id under a seed.
#[inline]
pub(super) fn hash_id(seed: u64, id: &[u8; 16]) -> u64 {
    let words = u128::from_le_bytes(*id);
    mix2(seed, words as u64, (words >> 64) as u64)
}

/// Mixes a short byte string under a seed.
pub(super) fn hash_bytes(seed: u64, bytes: &[u8]) -> u64 {
    let mut hash = mix2(seed, bytes.len() as u64, K2);
    for part in bytes.chunks(8) {
        let mut word = [0; 8];
        word[..part.len()].copy_from_slice(part);
        hash = mix2(seed, hash, u64::from_le_bytes(word));
    }
    hash
}

/// 32 bits of a hash: a fingerprint, so that an id used with another request is caught.
#[inline]
pub(super) const fn to_32(hash: u64) -> u32 {
    (hash ^ hash >> 32) as u32
}

/// A running hash over words: order matters.
#[derive(Clone, Copy)]
pub(super) struct Digest(u64);

impl Digest {
    pub fn new() -> Self {
        Self(K1)
    }

    #[inline]
    pub fn word(&mut self, word: u64) {
        self.0 = mix2(0, self.0, word);
    }

    pub fn bytes(&mut self, bytes: &[u8]) {
        self.word(bytes.len() as u64);
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.word(u64::from_le_bytes(word));
        }
    }

    pub fn finish(self) -> u64 {
        self.0
    }
}
