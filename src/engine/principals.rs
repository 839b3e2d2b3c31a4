//! Who asked for the operations of a log entry: a table of runs, between its header and them.
//!
//! ```text
//! offset size
//!      0    4  op_count    at least 1: so many operations, behind those of the run before
//!      4    1  length      at most 64; 0: nobody said who asked
//!      5    …  name        the principal of these operations
//!
//! operations   a a a b b · · b EXPIRE
//! runs         3 a, 2 b, 2 ·, 1 b          what is behind the last run has no principal
//! ```
//!
//! There is no authentication: the principal is the name that a connection gave in its hello. A client
//! sends many operations in a row, so that a run costs a name for all of them, and apply one comparison for
//! each. A table of the distinct names with runs that count in it would be shorter where clients of long
//! names alternate; it would have to be looked up for every request, and is not what fills a log.
//!
//! Invariants:
//! - Two runs next to each other have different names, and the last one has a name: equal principals give
//!   equal tables, and if nobody has a name, there is none.
//! - All integers are little-endian, as everywhere.

use bytes::{BufMut, BytesMut};

use crate::protocol::Reader;
use crate::protocol::limits::CLIENT_NAME_BYTES_MAX;

/// Bytes of a run before its name.
const RUN_BYTES: usize = 5;
/// What [`PrincipalRuns::add`] adds at most: a run, and one of nameless operations before it.
const ADDED_BYTES_MAX: usize = RUN_BYTES + RUN_BYTES + CLIENT_NAME_BYTES_MAX;

/// The table of an entry that is being made.
///
/// ```
/// use stockd::engine::batch::PrincipalRuns;
///
/// let mut runs = PrincipalRuns::default();
/// runs.add(b"", 2);
/// assert!(runs.is_empty());
/// runs.add(b"web", 1);
/// runs.add(b"web", 4);
/// assert_eq!(runs.bytes(), *b"\x02\0\0\0\x00\x05\0\0\0\x03web");
/// ```
#[derive(Default, Debug)]
pub struct PrincipalRuns {
    bytes: BytesMut,
    /// Where the last run begins, if there are any.
    last: usize,
    /// Operations behind the last run: they are a run of their own only if a name comes after them.
    nameless: u32,
}

impl PrincipalRuns {
    /// The next `op_count` operations of the entry are `name`'s; empty: nobody said.
    ///
    /// # Panics
    /// The name is longer than a hello may have, or there is no operation.
    pub fn add(&mut self, name: &[u8], op_count: u32) {
        assert!(name.len() <= CLIENT_NAME_BYTES_MAX, "a hello with a longer name is refused");
        assert!(op_count > 0, "a request has an operation");
        if name.is_empty() {
            self.nameless += op_count;
            return;
        }
        if self.nameless > 0 {
            let op_count = std::mem::take(&mut self.nameless);
            self.put(&[], op_count);
        }
        match self.bytes[self.last..].split_first_chunk_mut::<4>() {
            Some((count, [_, last @ ..])) if last == name => {
                *count = (u32::from_le_bytes(*count) + op_count).to_le_bytes();
            }
            _ => self.put(name, op_count),
        }
    }

    fn put(&mut self, name: &[u8], op_count: u32) {
        self.last = self.bytes.len();
        self.bytes.put_u32_le(op_count);
        self.bytes.put_u8(name.len() as u8);
        self.bytes.put_slice(name);
    }

    /// No operation has a principal.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The table.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Whatever is added next, the table has at most `bytes_max` bytes.
    pub fn has_room(&self, bytes_max: usize) -> bool {
        self.bytes.len() + ADDED_BYTES_MAX <= bytes_max
    }
}

/// Who asked for which operation of an entry, for someone who goes through them in order.
#[derive(Clone, Copy, Debug)]
pub struct Principals<'a> {
    /// Of the operations from `begin` on.
    name: &'a [u8],
    begin: u32,
    op_count: u32,
    /// The runs behind them.
    runs: Reader<'a>,
}

impl<'a> Principals<'a> {
    /// Those that a table names. What it holds is looked at when it is asked about.
    pub(super) const fn of_table(table: &'a [u8]) -> Self {
        Self { name: &[], begin: 0, op_count: 0, runs: Reader::new(table) }
    }

    /// The principal of the operation at `position`, counted from 0; empty: nobody said who asked, or it is
    /// the server's own.
    ///
    /// # Panics
    /// An earlier position was asked about before in another run, or the table is malformed: the log gave
    /// back what nobody proposed.
    #[inline]
    pub fn of(&mut self, position: u32) -> &'a [u8] {
        // What is before its beginning wraps round to behind its end.
        if position.wrapping_sub(self.begin) >= self.op_count {
            self.go_to(position);
        }
        self.name
    }

    fn go_to(&mut self, position: u32) {
        assert!(position >= self.begin, "operations are asked about in their order");
        while position - self.begin >= self.op_count {
            self.begin += self.op_count;
            (self.name, self.op_count) = match self.runs.is_empty() {
                true => (b"".as_slice(), u32::MAX - self.begin),
                false => self.take_run(),
            };
        }
    }

    fn take_run(&mut self) -> (&'a [u8], u32) {
        let run = self.runs.u32().and_then(|op_count| Ok((self.runs.short_bytes()?, op_count)));
        let (name, op_count) = run.expect("a log entry's principals are whole runs");
        assert!(op_count > 0, "a run of principals has an operation");
        assert!(name.len() <= CLIENT_NAME_BYTES_MAX, "a principal is as short as a client's name");
        assert!(!name.is_empty() || !self.runs.is_empty(), "the last run of principals has a name");
        (name, op_count)
    }

    /// The table names nobody behind the first `op_count` operations, the last of which was asked about.
    pub fn end_within(&self, op_count: u32) -> bool {
        self.runs.is_empty() && (self.name.is_empty() || op_count - self.begin >= self.op_count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: [u8; CLIENT_NAME_BYTES_MAX] = [b'x'; CLIENT_NAME_BYTES_MAX];

    fn table(runs: &[(&[u8], u32)]) -> PrincipalRuns {
        let mut table = PrincipalRuns::default();
        runs.iter().for_each(|(name, op_count)| table.add(name, *op_count));
        table
    }

    /// Asks about every operation.
    fn all(table: &[u8], op_count: u32) -> Vec<&[u8]> {
        let mut principals = Principals::of_table(table);
        let all = (0..op_count).map(|position| principals.of(position)).collect();
        assert!(principals.end_within(op_count), "all of the table is used");
        all
    }

    #[test]
    fn every_operation_has_the_name_that_it_was_added_with() {
        let runs: [(&[u8], u32); 6] =
            [(b"", 2), (b"a", 1), (b"bb", 3), (b"", 1), (&LONGEST, 1), (b"\0\xff", 2)];
        let expected: Vec<&[u8]> =
            runs.iter().flat_map(|(name, op_count)| vec![*name; *op_count as usize]).collect();
        assert_eq!(all(table(&runs).bytes(), 10), expected);
    }

    #[test]
    fn runs_of_one_name_are_one() {
        let one = table(&[(b"a", 1), (b"a", 4), (b"a", 1)]);
        assert_eq!(one.bytes(), b"\x06\0\0\0\x01a");
        let apart = table(&[(b"a", 1), (b"", 1), (b"", 2), (b"a", 1)]);
        assert_eq!(apart.bytes(), b"\x01\0\0\0\x01a\x03\0\0\0\x00\x01\0\0\0\x01a");
        // The end of a name, and a name that begins like another one, are other names.
        let alike = table(&[(b"ab", 1), (b"a", 1), (b"b", 1), (b"ab", 1)]);
        assert_eq!(all(alike.bytes(), 4), [&b"ab"[..], b"a", b"b", b"ab"]);
    }

    #[test]
    fn nobody_costs_nothing() {
        assert!(table(&[(b"", 5), (b"", 9)]).is_empty());
        assert_eq!(table(&[(b"a", 2), (b"", 9)]).bytes(), table(&[(b"a", 2)]).bytes());
        assert_eq!(all(&[], 3), [b""; 3]);
        assert_eq!(all(table(&[(b"a", 1)]).bytes(), 3), [&b"a"[..], b"", b""]);
    }

    #[test]
    fn operations_may_be_passed_over_and_asked_about_again() {
        let names: Vec<String> = (0..1_000).map(|run| format!("client-{run}")).collect();
        let mut runs = PrincipalRuns::default();
        (0..).zip(&names).for_each(|(run, name)| runs.add(name.as_bytes(), 1 + run % 7));
        let expected: Vec<&str> = (0..)
            .zip(&names)
            .flat_map(|(run, name)| vec![name.as_str(); 1 + run as usize % 7])
            .collect();
        for step in [1, 2, 13, 400] {
            let mut principals = Principals::of_table(runs.bytes());
            for (position, name) in (0..).zip(&expected).step_by(step) {
                assert_eq!(principals.of(position), name.as_bytes(), "{position} by {step}");
                assert_eq!(principals.of(position), name.as_bytes(), "{position} again");
            }
            assert_eq!(principals.of(expected.len() as u32), b"");
            assert_eq!(principals.of(u32::MAX - 1), b"");
        }
    }

    #[test]
    fn room_is_for_whatever_comes() {
        let mut runs = PrincipalRuns::default();
        let bytes_max = 1_000;
        while runs.has_room(bytes_max) {
            runs.add(b"", 1);
            runs.add(&LONGEST, 1);
        }
        assert!((bytes_max - ADDED_BYTES_MAX..=bytes_max).contains(&runs.bytes().len()));
    }

    #[test]
    fn a_table_ends_with_the_operations() {
        let runs = table(&[(b"a", 2), (b"b", 2)]);
        let end_within = |op_count: u32| {
            let mut principals = Principals::of_table(runs.bytes());
            let asked: usize = (0..op_count).map(|position| principals.of(position).len()).sum();
            assert_eq!(asked, op_count.min(4) as usize);
            principals.end_within(op_count)
        };
        assert_eq!([0, 1, 2, 3, 4, 5].map(end_within), [false, false, false, false, true, true]);
    }

    #[test]
    #[should_panic(expected = "in their order")]
    fn going_back_is_noticed() {
        let runs = table(&[(b"a", 2), (b"b", 2)]);
        let mut principals = Principals::of_table(runs.bytes());
        principals.of(2);
        principals.of(1);
    }

    #[test]
    fn what_is_no_table_is_noticed() {
        let run = |op_count: u32, name: &[u8]| {
            let mut bytes = op_count.to_le_bytes().to_vec();
            bytes.push(name.len() as u8);
            bytes.extend_from_slice(name);
            bytes
        };
        let cut = run(1, b"abc");
        let tables = [
            (cut[..3].to_vec(), "are whole runs"),
            (cut[..7].to_vec(), "are whole runs"),
            (run(0, b"a"), "has an operation"),
            (run(1, &[b'x'; CLIENT_NAME_BYTES_MAX + 1]), "as short as a client's name"),
            (run(1, b""), "has a name"),
        ];
        for (table, rule) in tables {
            let asked = std::panic::catch_unwind(|| Principals::of_table(&table).of(0).len());
            let panic = asked.unwrap_err();
            let message = match panic.downcast_ref::<String>() {
                Some(message) => message.as_str(),
                None => panic.downcast_ref::<&str>().unwrap(),
            };
            assert!(message.contains(rule), "{table:?}: {message}");
        }
    }
}
