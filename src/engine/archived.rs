//! What is forgotten, in the form in which an archive keeps it, and the answers that it still gives.
//!
//! ```text
//! entry (56 bytes)                                tail, if it has more than one line or an annex
//!  0 16 id                                         0  4 bytes that follow
//! 16  8 created   ms, real clock                   4  4 the line that its first line belongs to
//! 24  8 deadline  ms, hold clock                   8  4 shares: one per line, or 0
//! 32  4 fingerprint                               12  4 steps
//! 36  4 meta: state 4 | lines 12 | 0 | annexed…   …     more lines: line, cell, quantity (12 bytes each)
//! 40  4 cell                                      …     shares: as in a snapshot, without links (24)
//! 44  4 quantity                                  …     steps: opcode, step, fingerprint (12)
//! 48  4 where its tail is, in the tails beside it; ffffffff: it has none
//! 52  4 crc32 of bytes 0..48 and of the tail
//! ```
//!
//! An id whose record is forgotten is too old to be executed again, for ever: all that is left is to say
//! what became of it. That is said by the code that said it while the record was in memory, with a ledger
//! that holds this record alone in the place of the real one; so the answers cannot differ. Nothing of it
//! is part of the replicated state.

use bytes::BytesMut;

use crate::protocol::{
    Code, LineShares, Op, OpFlags, OpId, Reader, ReservationId, UnixMillis, take_outcome,
};

use super::batch::Command;
use super::hash::hash_id;
use super::holds::{HeldLine, Holds};
use super::outcomes::Outcomes;
use super::reader::Age;
use super::record::{ExtraLine, Record, Standing, put_words, u32_at, u64_at};
use super::ring::NIL;
use super::slab::Entry as _;
use super::state::StockState;
use super::time::HoldMillis;

/// Bytes of an entry.
pub const ENTRY_BYTES: usize = 56;
/// Bytes of an entry that the checksum covers.
const CHECKED_BYTES: usize = 48;
/// No hold clock comes so far; far enough from the end for sums.
const NEVER: HoldMillis = HoldMillis(1 << 62);

/// A record without its tail. Entries are ordered by id, which for most is by time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct ArchiveEntry(pub [u8; ENTRY_BYTES]);

impl ArchiveEntry {
    /// Whose it is.
    pub fn id(&self) -> ReservationId {
        ReservationId(*self.0.first_chunk().expect("an entry has its size"))
    }

    /// Where its tail is; `None`: it has none.
    pub fn tail_at(&self) -> Option<u32> {
        Some(u32_at(&self.0, CHECKED_BYTES)).filter(|at| *at != NIL)
    }

    /// The hash under which the filter of an archive knows its id.
    pub fn hash(id: &ReservationId, seed: u64) -> u64 {
        hash_id(seed, &id.0)
    }

    fn set_tail_at(&mut self, at: Option<u32>) {
        self.0[CHECKED_BYTES..52].copy_from_slice(&at.unwrap_or(NIL).to_le_bytes());
    }
}

/// A record that is over, whole.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchivedRecord {
    entry: ArchiveEntry,
    tail: Vec<u8>,
}

impl ArchivedRecord {
    /// Puts an entry to the tail that begins at the start of `tail`, if it has one.
    ///
    /// `None`: the checksum is wrong, or the tail is not there.
    pub fn checked(mut entry: ArchiveEntry, tail: &[u8]) -> Option<Self> {
        let tail = match entry.tail_at() {
            None => &[],
            Some(_) => {
                entry.set_tail_at(Some(0));
                let more = tail.get(..4).map(|len| u32_at(len, 0))?;
                tail.get(..4_usize.checked_add(more as usize)?)?
            }
        };
        let same = crc(&entry, tail) == u32_at(&entry.0, 52);
        same.then(|| Self { entry, tail: tail.to_vec() })
    }

    /// Whose it is.
    pub fn id(&self) -> ReservationId {
        self.entry.id()
    }

    /// What belongs beside the entry.
    pub fn tail(&self) -> &[u8] {
        &self.tail
    }

    /// The entry, if its tail is put at this place; `None`: an entry cannot say one so far off.
    pub fn entry_with_tail_at(&self, at: u64) -> Option<ArchiveEntry> {
        let mut entry = self.entry;
        if !self.tail.is_empty() {
            entry.set_tail_at(Some(u32::try_from(at).ok().filter(|at| *at != NIL)?));
        }
        Some(entry)
    }

    fn of(holds: &Holds, handle: u32) -> Self {
        let mut record = *holds.records.get(handle);
        // Groups may still hold its lines.
        record.set_lines(record.lines());
        let mut entry = ArchiveEntry([0; ENTRY_BYTES]);
        entry.0[..16].copy_from_slice(&record.id.0);
        entry.0[16..24].copy_from_slice(&record.created_ms.to_le_bytes());
        entry.0[24..32].copy_from_slice(&record.deadline.0.to_le_bytes());
        let words = [record.fingerprint, record.meta, record.cell, record.quantity];
        put_words(&mut entry.0[32..CHECKED_BYTES], words);
        let tail = match record.lines() <= 1 && !record.is_annexed() {
            true => Vec::new(),
            false => tail_of(holds, handle),
        };
        entry.set_tail_at((!tail.is_empty()).then_some(0));
        let crc = crc(&entry, &tail);
        entry.0[52..].copy_from_slice(&crc.to_le_bytes());
        Self { entry, tail }
    }

    /// Puts it into a ledger; its handle. `None`: it is of no state that a shard with so many cells could have
    /// had.
    fn load_into(&self, ledger: &mut Holds, cells: u32) -> Option<u32> {
        let bytes = &self.entry.0;
        let mut record = Record {
            id: self.id(),
            created_ms: u64_at(bytes, 16),
            deadline: HoldMillis(u64_at(bytes, 24)),
            forget: NEVER,
            fingerprint: u32_at(bytes, 32),
            meta: u32_at(bytes, 36),
            cell: u32_at(bytes, 40),
            quantity: u32_at(bytes, 44),
            ..Record::free(NIL)
        };
        let standing = record.standing()?;
        let could_be = match standing {
            Standing::Ghost => false,
            // Its lines are looked at below.
            Standing::Reservation(_) => standing.is_terminal(),
            Standing::Transfer(_) => record.transfer().from.0 < cells && record.cell < cells,
            Standing::Count | Standing::Op => record.cell == NIL || record.cell < cells,
        };
        if !could_be {
            return None;
        }
        let mut words = self.tail.get(4..).unwrap_or_default().chunks_exact(4);
        let mut word = || words.next().map(|word| u32_at(word, 0));
        let has_tail = !self.tail.is_empty();
        let (first_line, shares, steps) =
            if has_tail { (word()?, word()?, word()?) } else { (0, 0, 0) };
        let mut lines = Vec::new();
        for number in 0..record.lines() {
            let (line, cell, quantity) = match number {
                0 => (first_line, record.cell, record.quantity),
                _ => (word()?, word()?, word()?),
            };
            if cell >= cells {
                return None;
            }
            lines.push(HeldLine { line: line as u16, cell, quantity });
        }
        if shares != 0 && shares != record.lines() {
            return None;
        }
        let mut units = Vec::new();
        for _ in 0..shares {
            units.push(LineShares {
                reserved: word()?,
                committed: word()?,
                fulfilled: word()?,
                released: word()?,
                expired: word()?,
                cancelled: word()?,
            });
        }
        let mut done = Vec::new();
        for _ in 0..steps {
            done.push((word()?, word()?, word()?));
        }
        let annexed = record.is_annexed();
        record.set_annexed(false);
        let handle = ledger.lend(record, &lines);
        if annexed {
            let annex = ledger.make_annex(handle);
            ledger.annexes.annexes.get_mut(annex).first_line = first_line as u16;
            ledger.annexes.set_shares(annex, units.into_iter());
            done.into_iter().rev().for_each(|step| ledger.annexes.put_step(annex, step));
        }
        Some(handle)
    }
}

fn tail_of(holds: &Holds, handle: u32) -> Vec<u8> {
    let annex = holds.annex(handle);
    let shares: Vec<LineShares> = annex.map_or_else(Vec::new, |annex| {
        holds.annexes.shares_of(annex).map(|(_, units)| units).collect()
    });
    let steps: Vec<_> =
        annex.map_or_else(Vec::new, |annex| holds.annexes.steps_of(annex).collect());
    let mut words = Vec::new();
    for (number, line) in holds.lines_of(handle).enumerate() {
        match number {
            0 => words.extend([u32::from(line.line), shares.len() as u32, steps.len() as u32]),
            _ => words.extend([u32::from(line.line), line.cell, line.quantity]),
        }
    }
    for units in &shares {
        let LineShares { reserved, committed, fulfilled, released, expired, cancelled } = *units;
        words.extend([reserved, committed, fulfilled, released, expired, cancelled]);
    }
    for step in &steps {
        words.extend([step.opcode, step.step, step.fingerprint]);
    }
    let mut tail = Vec::with_capacity(4 + words.len() * 4);
    tail.extend_from_slice(&(words.len() as u32 * 4).to_le_bytes());
    words.iter().for_each(|word| tail.extend_from_slice(&word.to_le_bytes()));
    tail
}

fn crc(entry: &ArchiveEntry, tail: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&entry.0[..CHECKED_BYTES]);
    hasher.update(tail);
    hasher.finalize()
}

/// Records that are over, on their way to an archive.
#[derive(Clone, Default)]
pub struct ArchiveBatch {
    entries: Vec<ArchiveEntry>,
    tails: Vec<u8>,
}

impl ArchiveBatch {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of memory in use.
    pub fn bytes(&self) -> usize {
        self.entries.len() * ENTRY_BYTES + self.tails.len()
    }

    /// The entries, in the order in which they came or were sorted.
    pub fn entries(&self) -> &[ArchiveEntry] {
        &self.entries
    }

    /// The bytes from the entry's tail on; none if it has none.
    fn tail_of(&self, entry: &ArchiveEntry) -> &[u8] {
        entry.tail_at().map_or(&[][..], |at| &self.tails[at as usize..])
    }

    /// All of several, sorted by id. What is sorted in parts takes little. Whoever joins keeps them so small
    /// that their tails are under 4 GiB.
    pub fn joined<'a>(batches: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut all = Self::default();
        for batch in batches {
            let tails = all.tails.len() as u32;
            all.tails.extend_from_slice(&batch.tails);
            all.entries.extend(batch.entries.iter().map(|entry| {
                let mut entry = *entry;
                entry.set_tail_at(entry.tail_at().map(|at| tails + at));
                entry
            }));
        }
        all.entries.sort_by_key(ArchiveEntry::id);
        all
    }

    /// The record at a place, if its checksum is right.
    pub fn get(&self, at: usize) -> Option<ArchivedRecord> {
        let entry = *self.entries.get(at)?;
        ArchivedRecord::checked(entry, self.tail_of(&entry))
    }

    fn push(&mut self, record: &ArchivedRecord) {
        let entry = record.entry_with_tail_at(self.tails.len() as u64);
        self.entries.push(entry.expect("a batch is taken away long before its tails are 4 GiB"));
        self.tails.extend_from_slice(&record.tail);
    }
}

impl Holds {
    /// Puts a record that no group and no bucket holds.
    fn lend(&mut self, record: Record, lines: &[HeldLine]) -> u32 {
        let handle = self.records.insert(record);
        self.ids.insert(self.hash(&record.id.0), handle);
        let rest = lines.get(1..).unwrap_or_default().iter().rev();
        self.records.get_mut(handle).more = rest.fold(NIL, |more, line| {
            let HeldLine { line, cell, quantity } = *line;
            self.lines.insert(ExtraLine { record: handle, cell, quantity, more, next: NIL, line })
        });
        handle
    }

    /// Takes it away again.
    fn end_loan(&mut self, handle: u32) {
        // One that is open must not be freed elsewhere.
        self.records.get_mut(handle).set_standing(Standing::Op);
        self.free(handle);
    }

    /// Notes a record that gives up its id, if there is an archive. Of an id that does not tell its age
    /// nobody asks there.
    pub(super) fn archive(&mut self, handle: u32) {
        if let Some(mut batch) = self.forgotten.take() {
            let record = self.records.get(handle);
            if record.id.born().is_some() {
                batch.push(&ArchivedRecord::of(self, handle));
            }
            self.forgotten = Some(batch);
        }
    }
}

impl StockState {
    /// From now on what is forgotten is kept until it is taken away by [`StockState::take_forgotten`].
    pub fn keep_forgotten(&mut self) {
        self.holds.forgotten.get_or_insert_default();
    }

    /// How many bytes of records wait to be taken away.
    pub fn forgotten_bytes(&self) -> usize {
        self.holds.forgotten.as_ref().map_or(0, ArchiveBatch::bytes)
    }

    /// What was forgotten since the last time.
    pub fn take_forgotten(&mut self) -> ArchiveBatch {
        self.holds.forgotten.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// One of those that wait to be taken away.
    pub fn find_forgotten(&self, id: &ReservationId) -> Option<ArchivedRecord> {
        let batch = self.holds.forgotten.as_ref()?;
        let at = batch.entries.iter().position(|entry| entry.id() == *id)?;
        batch.get(at)
    }

    /// Appends the answer to an operation whose id is that of an archived record: what it would have been
    /// while the record was in memory, only that nothing is taken again that has expired. Changes nothing.
    /// `transfer`: the archived transfer that the operation names beside its own id, if it is archived, too.
    ///
    /// `false`: the records are of another shard, and nothing was appended.
    pub fn answer_archived(
        &mut self,
        record: &ArchivedRecord,
        transfer: Option<&ArchivedRecord>,
        (op, flags, not_after): (&Op<'_>, OpFlags, Option<UnixMillis>),
        out: &mut BytesMut,
    ) -> bool {
        let open = match op {
            Op::TransferReceive { transfer, .. } => self.transfer_in_memory(transfer),
            _ => None,
        };
        let hash = self.holds.hash(&record.id().0);
        self.with_ledger(&[Some(record), open.as_ref().or(transfer)], |state| {
            let flags = flags.without(OpFlags::REACQUIRE);
            let command = Command::Client(*op, flags, not_after);
            state.execute(&command, hash, 0, &mut Outcomes::new(Some(out)));
        })
        .is_some()
    }

    fn transfer_in_memory(&self, id: &OpId) -> Option<ArchivedRecord> {
        let handle = self.holds.find(&ReservationId(id.0), self.holds.hash(&id.0))?;
        let standing = self.holds.records.get(handle).standing();
        let is_transfer = matches!(standing, Some(Standing::Transfer(_)));
        is_transfer.then(|| ArchivedRecord::of(&self.holds, handle))
    }

    /// Appends what a read shows of what is forgotten, and has not been swept yet; `false`: there is none.
    pub fn read_unswept(&self, op: &Op<'_>, out: &mut BytesMut) -> bool {
        let start = out.len();
        match op {
            Op::ReadReservation { id } => self.show_reservation(*id, Age::Any, out),
            Op::ReadLines { id } => self.show_lines(*id, Age::Any, out),
            Op::ReadTransfer { transfer } => self.show_transfer(*transfer, Age::Any, out),
            _ => {}
        }
        let outcome = take_outcome(&mut Reader::new(&out[start..]));
        let found = outcome.is_ok_and(|outcome| outcome.code != Code::NOT_FOUND);
        if !found {
            out.truncate(start);
        }
        found
    }

    /// Appends what a READ_RESERVATION, READ_LINES or READ_TRANSFER shows of an archived record. `false`: it
    /// is another read, or the record is of another shard, and nothing was appended.
    pub fn read_archived(
        &mut self,
        record: &ArchivedRecord,
        op: &Op<'_>,
        out: &mut BytesMut,
    ) -> bool {
        let start = out.len();
        self.with_ledger(&[Some(record)], |state| match op {
            Op::ReadReservation { id } => state.read_reservation(*id, out),
            Op::ReadLines { id } => state.read_lines(*id, out),
            Op::ReadTransfer { transfer } => state.read_transfer(*transfer, out),
            _ => {}
        });
        out.len() > start
    }

    /// Does something with a ledger of these records in the place of the real one.
    fn with_ledger(
        &mut self,
        records: &[Option<&ArchivedRecord>],
        deed: impl FnOnce(&mut Self),
    ) -> Option<()> {
        // An empty ledger takes long to make.
        let new = || Box::new(Holds::new(self.config.hash_seed));
        let mut ledger = self.ledger.take().unwrap_or_else(new);
        let cells = self.cells.table().count();
        let records = records.iter().flatten();
        let loans: Vec<_> = records.map(|record| record.load_into(&mut ledger, cells)).collect();
        let all = loans.iter().all(Option::is_some);
        if all {
            let next_event = self.next_event();
            std::mem::swap(&mut self.holds, &mut *ledger);
            deed(self);
            assert!(self.next_event() == next_event, "what is archived changes nothing");
            std::mem::swap(&mut self.holds, &mut *ledger);
        }
        loans.into_iter().flatten().for_each(|loan| ledger.end_loan(loan));
        self.ledger = Some(ledger);
        all.then_some(())
    }
}
