//! What decides in a run: numbers from a seed, or from bytes that a fuzzer thinks up.

/// Draws numbers.
pub struct Dice {
    /// Gives a number of so many bytes, or `None` when there are no more.
    source: Box<dyn FnMut(usize) -> Option<u64>>,
    spent: bool,
}

impl Dice {
    pub fn new(source: impl FnMut(usize) -> Option<u64> + 'static) -> Self {
        Self { source: Box::new(source), spent: false }
    }

    /// The source has run out: all further numbers are zero.
    pub fn is_spent(&self) -> bool {
        self.spent
    }

    pub fn next(&mut self) -> u64 {
        self.draw(8)
    }

    /// A number below `limit`, from as few bytes as it takes.
    pub fn below(&mut self, limit: u64) -> u64 {
        let bits = 64 - (limit - 1).leading_zeros();
        self.draw(bits.div_ceil(8) as usize) % limit
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Clone>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize].clone()
    }

    fn draw(&mut self, bytes: usize) -> u64 {
        let number = (self.source)(bytes);
        self.spent |= number.is_none();
        number.unwrap_or(0)
    }
}
