//! Which ids a run surely does not have: a Bloom filter in blocks of one cache line
//! (Putze, Sanders, Singler, "Cache-, Hash- and Space-Efficient Bloom Filters", 2007), so that a miss costs one.
//!
//! Filters of libraries live in memory; this one is read in its file, where it takes none.

/// A cache line.
const BLOCK_BYTES: usize = 64;
/// With ten bits for each id, about one id in a hundred passes without being there.
const BITS_PER_ID: u64 = 10;
/// Bits that an id sets in its block: nine bits of the hash choose each.
const PROBES: u32 = 6;

/// Bytes of a filter for so many ids.
pub(super) fn bytes_for(ids: u64) -> u64 {
    let blocks = (ids * BITS_PER_ID).div_ceil(BLOCK_BYTES as u64 * 8).max(1);
    blocks * BLOCK_BYTES as u64
}

/// The first byte of the block of a hash.
fn block_of(bytes: usize, hash: u64) -> usize {
    let blocks = (bytes / BLOCK_BYTES) as u64;
    ((u128::from(hash) * u128::from(blocks)) >> 64) as usize * BLOCK_BYTES
}

/// The bits of a hash in its block. The block was chosen by the high bits; these are of all of them.
fn bits_of(hash: u64) -> impl Iterator<Item = (usize, u8)> {
    let bits = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(32);
    (0..PROBES).map(move |probe| {
        let bit = (bits >> (probe * 9) & 0x1ff) as usize;
        (bit / 8, 1 << (bit % 8))
    })
}

/// Adds an id to a filter.
pub(super) fn add(filter: &mut [u8], hash: u64) {
    let block = block_of(filter.len(), hash);
    bits_of(hash).for_each(|(byte, bit)| filter[block + byte] |= bit);
}

/// May the id be there? `false` is certain.
pub(super) fn may_have(filter: &[u8], hash: u64) -> bool {
    let block = block_of(filter.len(), hash);
    let block = filter.get(block..block + BLOCK_BYTES);
    block.is_none_or(|block| bits_of(hash).all(|(byte, bit)| block[byte] & bit != 0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::ArchiveEntry;
    use crate::protocol::ReservationId;

    #[test]
    fn what_was_added_passes_and_little_else() {
        let hash = |number: u64| {
            let mut random = [0; 10];
            random[2..].copy_from_slice(&number.to_be_bytes());
            ArchiveEntry::hash(&ReservationId::from_parts(1_700_000_000_000, random), 1)
        };
        let ids = 20_000;
        let mut filter = vec![0; bytes_for(ids) as usize];
        (0..ids).for_each(|id| add(&mut filter, hash(id)));
        assert!((0..ids).all(|id| may_have(&filter, hash(id))));
        let passed = (ids..ids * 11).filter(|id| may_have(&filter, hash(*id))).count();
        // One in a hundred of 200,000 is 2,000.
        assert!((1_500..2_500).contains(&passed), "{passed}");
    }
}
