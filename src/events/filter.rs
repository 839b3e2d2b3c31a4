//! Which keys a block of events surely does not have: a Bloom filter that is blocked by registers (Putze, Sanders,
//! Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007). A key sets four bits of one word, so that adding it
//! costs one write to the cache; every event adds two.
//!
//! ```text
//! words of 64 bits, little-endian, a power of two of them
//! hash: low bits choose the word · 4 × 6 bits from bit 40 on choose the bits
//! ```
//!
//! How many keys come is not known before. So a filter begins large, and at its end is folded, one half upon the other,
//! as long as it does not get too full.

/// Bytes of a block for which there is a word: about four keys, which makes one in a hundred pass without being there.
const BYTES_PER_WORD: usize = 64;
/// A filter has at least so many words, which is a cache line.
const WORDS_MIN: usize = 8;
/// A filter is folded if not more than one bit in so many is set then.
const FULLNESS: u32 = 4;

/// A filter that is being made.
pub(super) struct Filter(Vec<u64>);

impl Filter {
    /// For a block of so many bytes.
    pub fn for_bytes(bytes: usize) -> Self {
        let words = (bytes / BYTES_PER_WORD).next_power_of_two();
        Self(vec![0; words.max(WORDS_MIN)])
    }

    /// Adds a key.
    #[inline]
    pub fn add(&mut self, hash: u64) {
        let at = hash as usize & (self.0.len() - 1);
        self.0[at] |= bits_of(hash);
    }

    /// Its bytes, as few as it takes.
    pub fn finish(mut self) -> Vec<u8> {
        while self.0.len() > WORDS_MIN {
            let (low, high) = self.0.split_at(self.0.len() / 2);
            let folded: Vec<u64> = low.iter().zip(high).map(|(low, high)| low | high).collect();
            let set: u32 = folded.iter().map(|word| word.count_ones()).sum();
            if set > folded.len() as u32 * u64::BITS / FULLNESS {
                break;
            }
            self.0 = folded;
        }
        self.0.iter().flat_map(|word| word.to_le_bytes()).collect()
    }
}

#[inline]
fn bits_of(hash: u64) -> u64 {
    (0..4).fold(0, |bits, probe| bits | 1 << (hash >> (40 + 6 * probe) & 63))
}

/// May the key be there? `false` is certain.
pub(super) fn may_have(filter: &[u8], hash: u64) -> bool {
    let words = filter.len() / size_of::<u64>();
    if !words.is_power_of_two() {
        return true;
    }
    let at = (hash as usize & (words - 1)) * size_of::<u64>();
    let word = filter.get(at..).and_then(|rest| rest.first_chunk());
    word.is_none_or(|word| u64::from_le_bytes(*word) & bits_of(hash) == bits_of(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::Key;
    use crate::protocol::ReservationId;

    fn hash(number: u64) -> u64 {
        let mut random = [0; 10];
        random[2..].copy_from_slice(&number.to_be_bytes());
        Key::Id(ReservationId::from_parts(1_700_000_000_000, random)).hash(1)
    }

    #[test]
    fn what_was_added_passes_and_little_else() {
        for (keys, bytes) in [(4_200, 8 << 10), (2_000, 4 << 10), (500, 1 << 10), (1, 64), (0, 64)]
        {
            let mut filter = Filter::for_bytes(64 << 10);
            (0..keys).for_each(|key| filter.add(hash(key)));
            let filter = filter.finish();
            assert_eq!(filter.len(), bytes, "{keys}");
            assert!((0..keys).all(|key| may_have(&filter, hash(key))), "{keys}");
            let passed = (0..100_000).filter(|key| may_have(&filter, hash(keys + key))).count();
            assert!(passed < 1_500, "{passed} of 100,000 pass a filter of {keys}");
        }
    }

    #[test]
    fn a_filter_that_is_none_lets_everything_pass() {
        assert!(may_have(&[], 7));
        assert!(may_have(&[0; 24], 7), "three words are no power of two");
    }
}
