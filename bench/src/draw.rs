//! What is drawn by lot: random numbers, Zipf ranks, cart sizes.
//!
//! Everything is a function of a seed, so that nothing which was drawn needs to be stored: the
//! verification draws it again.
//!
//! - [`Draw`] is SplitMix64 (Steele, Lea, Flood 2014): one addition and one mix per number.
//! - [`Zipf`] is rejection-inversion (Hörmann and Derflinger 1996): exact, without tables that would
//!   push the server's data out of the shared cache.
//! - [`CartSizes`] is a log-normal distribution with median 15 and 90 % quantile 53, rounded and
//!   capped to 1…50 lines: μ = ln 15, σ = ln(53 / 15) / 1.28155 = 0.985. About 11 % of the carts
//!   are at the cap.

/// A mix of 64 bits that is one-to-one: different inputs give different outputs.
#[inline]
pub const fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// A source of random numbers, made anew for each reservation.
#[derive(Clone, Copy, Debug)]
pub struct Draw(u64);

impl Draw {
    /// The numbers of one seed.
    #[inline]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// 64 random bits.
    #[inline]
    pub const fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// A number in `0..bound` (Lemire's multiplication; its bias of `bound / 2⁶⁴` does not matter
    /// here). `bound` must not be 0.
    #[inline]
    pub const fn below(&mut self, bound: u64) -> u64 {
        ((self.bits() as u128 * bound as u128) >> 64) as u64
    }

    /// A number in `[0, 1)`.
    #[inline]
    pub const fn unit(&mut self) -> f64 {
        (self.bits() >> 11) as f64 * (1.0 / (1_u64 << 53) as f64)
    }
}

/// Ranks from 0 whose frequency falls as `1 / (rank + 1)^exponent`.
#[derive(Clone, Copy, Debug)]
pub struct Zipf {
    count: f64,
    exponent: f64,
    h_first: f64,
    h_last: f64,
    near: f64,
}

impl Zipf {
    /// `count` ranks. The exponent is positive and not 1.
    pub fn new(count: u64, exponent: f64) -> Self {
        assert!(count > 0, "a Zipf distribution has at least one rank");
        assert!(exponent > 0.0 && exponent != 1.0, "the exponent is positive and not 1");
        let mut zipf = Self { count: count as f64, exponent, h_first: 0.0, h_last: 0.0, near: 0.0 };
        zipf.h_first = zipf.integral(1.5) - 1.0;
        zipf.h_last = zipf.integral(zipf.count + 0.5);
        zipf.near = 2.0 - zipf.inverse(zipf.integral(2.5) - zipf.density(2.0));
        zipf
    }

    /// One rank, 0 being the most frequent.
    #[inline]
    pub fn rank(&self, draw: &mut Draw) -> u64 {
        loop {
            let u = self.h_last + draw.unit() * (self.h_first - self.h_last);
            let x = self.inverse(u);
            let k = x.round().clamp(1.0, self.count);
            if k - x <= self.near || u >= self.integral(k + 0.5) - self.density(k) {
                return k as u64 - 1;
            }
        }
    }

    fn density(&self, x: f64) -> f64 {
        x.powf(-self.exponent)
    }

    fn integral(&self, x: f64) -> f64 {
        x.powf(1.0 - self.exponent) / (1.0 - self.exponent)
    }

    fn inverse(&self, u: f64) -> f64 {
        (u * (1.0 - self.exponent)).powf(1.0 / (1.0 - self.exponent))
    }
}

/// How many lines a cart has.
#[derive(Clone, Debug)]
pub struct CartSizes {
    quantiles: Vec<u8>,
}

/// Most lines in a cart.
pub const CART_LINES_MAX: u32 = 50;
const CART_MEDIAN: f64 = 15.0;
const CART_P90: f64 = 53.0;
const CART_STEPS: usize = 4096;

impl CartSizes {
    /// Tabulates the quantiles.
    pub fn new() -> Self {
        let sigma = (CART_P90 / CART_MEDIAN).ln() / probit(0.9);
        let size = |step: usize| {
            let q = (step as f64 + 0.5) / CART_STEPS as f64;
            let lines = (CART_MEDIAN.ln() + sigma * probit(q)).exp();
            lines.round().clamp(1.0, f64::from(CART_LINES_MAX)) as u8
        };
        Self { quantiles: (0..CART_STEPS).map(size).collect() }
    }

    /// 1…50.
    #[inline]
    pub fn lines(&self, draw: &mut Draw) -> u32 {
        u32::from(self.quantiles[draw.below(CART_STEPS as u64) as usize])
    }
}

impl Default for CartSizes {
    fn default() -> Self {
        Self::new()
    }
}

/// The quantile function of the normal distribution, by bisection of its distribution function:
/// slow and plain, it only fills a table.
fn probit(q: f64) -> f64 {
    let (mut low, mut high) = (-8.0, 8.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if normal(middle) < q { low = middle } else { high = middle }
    }
    low
}

/// The normal distribution function (Abramowitz and Stegun 26.2.17, error below 1e-7).
fn normal(x: f64) -> f64 {
    if x < 0.0 {
        return 1.0 - normal(-x);
    }
    let t = 1.0 / (1.0 + 0.231_641_9 * x);
    let series = [1.330_274_429, -1.821_255_978, 1.781_477_937, -0.356_563_782, 0.319_381_530];
    let tail = series.iter().fold(0.0, |sum, c| sum * t + c) * t;
    1.0 - (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt() * tail
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mixing_keeps_inputs_apart() {
        let outputs: std::collections::BTreeSet<u64> = (0..10_000).map(mix).collect();
        assert_eq!(outputs.len(), 10_000);
    }

    #[test]
    fn zipf_frequencies_follow_the_law() {
        let (cells, exponent, draws) = (1_000_000, 0.99, 400_000);
        let zipf = Zipf::new(cells, exponent);
        let mut counts = [0_u64; 100];
        for seed in 0..draws {
            let rank = zipf.rank(&mut Draw::new(mix(seed)));
            assert!(rank < cells);
            if let Some(count) = counts.get_mut(rank as usize) {
                *count += 1;
            }
        }
        let weight = |rank: u64| ((rank + 1) as f64).powf(-exponent);
        let sum: f64 = (0..cells).map(weight).sum();
        for rank in [0, 1, 2, 9] {
            let expected = weight(rank) / sum * draws as f64;
            let seen = counts[rank as usize] as f64;
            assert!((seen / expected - 1.0).abs() < 0.06, "rank {rank}: {seen} of {expected}");
        }
        let expected: f64 = (0..100).map(weight).sum::<f64>() / sum * draws as f64;
        let seen = counts.iter().sum::<u64>() as f64;
        assert!((seen / expected - 1.0).abs() < 0.01, "first hundred: {seen} of {expected}");
    }

    #[test]
    fn cart_quantiles_are_the_stated_ones() {
        let sizes = CartSizes::new();
        let mut lines: Vec<u32> =
            (0..200_000).map(|seed| sizes.lines(&mut Draw::new(mix(seed)))).collect();
        lines.sort_unstable();
        let quantile = |q: f64| lines[(q * lines.len() as f64) as usize];
        assert_eq!(quantile(0.5), 15);
        assert_eq!(quantile(0.9), 50, "53 before the cap");
        assert!((45..=46).contains(&quantile(0.87)), "below the cap: {}", quantile(0.87));
        assert_eq!((lines[0], lines[lines.len() - 1]), (1, 50));
    }
}
