//! What a record has no room for: quantities of its lines once they have gone different ways, the steps
//! that were done, and whose it is.
//!
//! ```text
//! annex (32 bytes)     share (32), one per line, in order     step (24), the last one first
//!  0 4 record           0 4 annex                              0 4 annex
//!  4 4 first share      4 4 more: the next line's              4 4 more: the step before
//!  8 4 last step        8 4 reserved     ┐                     8 4 step
//! 12 4 steps           12 4 committed    │ sum to what the    12 4 opcode
//! 16 4 first line      16 4 fulfilled    │ line asked for     16 4 fingerprint of what was asked
//!                      20 4 released     │                    20 4 0
//! 20 4 owner           24 4 expired      │
//! 24 4 next open one   28 4 cancelled    ┘
//! 28 4 the one before      of the same owner
//! ```
//!
//! A reservation whose lines always moved as one needs none: its state says where all units are. So
//! most records have no annex, and no bytes for one.
//!
//! Invariants:
//! - A record that says that it is annexed has one annex, and the annex has it.
//! - An annex has a share for each line of its record, or none while all lines are as the state says.
//! - See owners.rs for the lists of owners.

use crate::protocol::{LineShares, Opcode};

use super::hash::mix2;
use super::index::Index;
use super::owners::Owners;
use super::record::{put_words, u32_at};
use super::ring::NIL;
use super::slab::{Entry, Slab};

/// See the module.
#[derive(Clone, Copy)]
pub(super) struct Annex {
    pub record: u32,
    pub shares: u32,
    pub steps: u32,
    pub step_count: u32,
    /// The line of the request that the record's first line belongs to.
    pub first_line: u16,
    /// `NIL`: nobody's.
    pub owner: u32,
    /// Its neighbours in the list of its owner.
    pub next: u32,
    pub before: u32,
}

impl Annex {
    fn new(record: u32) -> Self {
        Self {
            record,
            shares: NIL,
            steps: NIL,
            step_count: 0,
            first_line: 0,
            owner: NIL,
            next: NIL,
            before: NIL,
        }
    }
}

impl Entry for Annex {
    const BYTES: usize = 32;

    fn free(next: u32) -> Self {
        Self { shares: next, ..Self::new(NIL) }
    }

    fn free_next(&self) -> Option<u32> {
        (self.record == NIL).then_some(self.shares)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 32];
        let Self { record, shares, steps, step_count, owner, next, before, .. } = *self;
        let first_line = u32::from(self.first_line);
        put_words(&mut bytes, [record, shares, steps, step_count, first_line, owner, next, before]);
        out.extend_from_slice(&bytes);
    }

    fn take(bytes: &[u8]) -> Self {
        Self {
            record: u32_at(bytes, 0),
            shares: u32_at(bytes, 4),
            steps: u32_at(bytes, 8),
            step_count: u32_at(bytes, 12),
            first_line: u32_at(bytes, 16) as u16,
            owner: u32_at(bytes, 20),
            next: u32_at(bytes, 24),
            before: u32_at(bytes, 28),
        }
    }
}

/// What has become of one line.
#[derive(Clone, Copy)]
pub(super) struct Share {
    pub annex: u32,
    pub more: u32,
    pub units: LineShares,
}

impl Entry for Share {
    const BYTES: usize = 32;

    fn free(next: u32) -> Self {
        Self { annex: NIL, more: next, units: LineShares::default() }
    }

    fn free_next(&self) -> Option<u32> {
        (self.annex == NIL).then_some(self.more)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 32];
        let LineShares { reserved, committed, fulfilled, released, expired, cancelled } =
            self.units;
        let words =
            [self.annex, self.more, reserved, committed, fulfilled, released, expired, cancelled];
        put_words(&mut bytes, words);
        out.extend_from_slice(&bytes);
    }

    fn take(bytes: &[u8]) -> Self {
        let units = LineShares {
            reserved: u32_at(bytes, 8),
            committed: u32_at(bytes, 12),
            fulfilled: u32_at(bytes, 16),
            released: u32_at(bytes, 20),
            expired: u32_at(bytes, 24),
            cancelled: u32_at(bytes, 28),
        };
        Self { annex: u32_at(bytes, 0), more: u32_at(bytes, 4), units }
    }
}

/// An operation that was done, as its idempotency needs it.
#[derive(Clone, Copy)]
pub(super) struct Step {
    pub annex: u32,
    pub more: u32,
    pub step: u32,
    pub opcode: u32,
    pub fingerprint: u32,
}

impl Entry for Step {
    const BYTES: usize = 24;

    fn free(next: u32) -> Self {
        Self { annex: NIL, more: next, step: 0, opcode: 0, fingerprint: 0 }
    }

    fn free_next(&self) -> Option<u32> {
        (self.annex == NIL).then_some(self.more)
    }

    fn put(&self, out: &mut Vec<u8>) {
        let mut bytes = [0; 24];
        let words = [self.annex, self.more, self.step, self.opcode, self.fingerprint];
        put_words(&mut bytes, words);
        out.extend_from_slice(&bytes);
    }

    fn take(bytes: &[u8]) -> Self {
        Self {
            annex: u32_at(bytes, 0),
            more: u32_at(bytes, 4),
            step: u32_at(bytes, 8),
            opcode: u32_at(bytes, 12),
            fingerprint: u32_at(bytes, 16),
        }
    }
}

/// All annexes, by record.
pub(super) struct Annexes {
    pub annexes: Slab<Annex>,
    pub shares: Slab<Share>,
    pub steps: Slab<Step>,
    pub owners: Owners,
    index: Index,
    seed: u64,
}

impl Annexes {
    /// Puts the index to the slabs. The seed is this process's own.
    pub fn restore(
        annexes: Slab<Annex>,
        shares: Slab<Share>,
        steps: Slab<Step>,
        owners: Owners,
        seed: u64,
    ) -> Self {
        let mut index = Index::new();
        for (handle, annex) in annexes.iter().filter(|(_, annex)| annex.record != NIL) {
            index.insert(hash(seed, annex.record), handle);
        }
        Self { annexes, shares, steps, owners, index, seed }
    }

    /// The annex of a record, which says that it has one.
    pub fn find(&self, record: u32) -> Option<u32> {
        let is_it = |annex| self.annexes.get(annex).record == record;
        self.index.find(hash(self.seed, record), is_it)
    }

    /// Makes the annex of a record that has none.
    pub fn make(&mut self, record: u32) -> u32 {
        let annex = self.annexes.insert(Annex::new(record));
        self.index.insert(hash(self.seed, record), annex);
        annex
    }

    /// Hands the annex on to another record.
    pub fn hand_on(&mut self, annex: u32, record: u32) {
        let before = self.annexes.get(annex).record;
        self.index.remove(hash(self.seed, before), annex);
        self.annexes.get_mut(annex).record = record;
        self.index.insert(hash(self.seed, record), annex);
    }

    /// Gives an annex its shares, one per line, in order.
    pub fn set_shares(&mut self, annex: u32, units: impl DoubleEndedIterator<Item = LineShares>) {
        self.drop_shares(annex);
        let insert = |more, units| self.shares.insert(Share { annex, more, units });
        self.annexes.get_mut(annex).shares = units.rev().fold(NIL, insert);
    }

    /// All lines are as the state says.
    pub fn drop_shares(&mut self, annex: u32) {
        let mut at = std::mem::replace(&mut self.annexes.get_mut(annex).shares, NIL);
        while at != NIL {
            let more = self.shares.get(at).more;
            self.shares.remove(at);
            at = more;
        }
    }

    /// The shares of an annex with their handles, line by line.
    pub fn shares_of(&self, annex: u32) -> impl Iterator<Item = (u32, LineShares)> + '_ {
        let share = |at: u32| (at != NIL).then_some(at);
        let first = share(self.annexes.get(annex).shares);
        std::iter::successors(first, move |at| share(self.shares.get(*at).more))
            .map(|at| (at, self.shares.get(at).units))
    }

    /// What was asked for in a step that was done.
    pub fn step(&self, annex: u32, opcode: Opcode, step: u32) -> Option<u32> {
        self.steps_of(annex)
            .find(|done| done.opcode == opcode as u32 && done.step == step)
            .map(|done| done.fingerprint)
    }

    /// The steps that were done, the latest one first.
    pub fn steps_of(&self, annex: u32) -> impl Iterator<Item = &Step> + '_ {
        let at = |at: u32| (at != NIL).then(|| self.steps.get(at));
        std::iter::successors(at(self.annexes.get(annex).steps), move |step| at(step.more))
    }

    /// How many steps were done.
    pub fn step_count(&self, annex: u32) -> u32 {
        self.annexes.get(annex).step_count
    }

    /// A step was done.
    pub fn add_step(&mut self, annex: u32, opcode: Opcode, step: u32, fingerprint: u32) {
        self.put_step(annex, (opcode as u32, step, fingerprint));
    }

    /// A step was done: the number of its opcode, its own, and its fingerprint.
    pub fn put_step(&mut self, annex: u32, (opcode, step, fingerprint): (u32, u32, u32)) {
        let more = self.annexes.get(annex).steps;
        let at = self.steps.insert(Step { annex, more, step, opcode, fingerprint });
        let annex = self.annexes.get_mut(annex);
        annex.steps = at;
        annex.step_count += 1;
    }

    /// Something was done in part, so every step is remembered from now on.
    pub fn is_in_steps(&self, annex: u32) -> bool {
        let Annex { shares, step_count, .. } = *self.annexes.get(annex);
        shares != NIL || step_count > 0
    }

    /// Gives an annex an owner, who has one open reservation more, of so many lines.
    pub fn set_owner(&mut self, annex: u32, name: &[u8], lines: u32) {
        let owner = self.owners.add_record(name);
        self.annexes.get_mut(annex).owner = owner;
        self.open(annex, lines);
    }

    /// Its reservation is open: puts it at the head of the list of its owner, if it has one.
    pub fn open(&mut self, annex: u32, lines: u32) {
        let own = self.annexes.get_mut(annex);
        if own.owner == NIL {
            return;
        }
        let owner = self.owners.owners.get_mut(own.owner);
        let next = std::mem::replace(&mut owner.first, annex);
        (owner.open, owner.lines) = (owner.open + 1, owner.lines + lines);
        (own.next, own.before) = (next, NIL);
        if next != NIL {
            self.annexes.get_mut(next).before = annex;
        }
    }

    /// Its reservation was open and is over: takes it out of the list of its owner, if it has one.
    pub fn close(&mut self, annex: u32, lines: u32) {
        let Annex { owner, next, before, .. } = *self.annexes.get(annex);
        if owner == NIL {
            return;
        }
        let owner = self.owners.owners.get_mut(owner);
        (owner.open, owner.lines) = (owner.open - 1, owner.lines - lines);
        match before {
            NIL => owner.first = next,
            before => self.annexes.get_mut(before).next = next,
        }
        if next != NIL {
            self.annexes.get_mut(next).before = before;
        }
        let own = self.annexes.get_mut(annex);
        (own.next, own.before) = (NIL, NIL);
    }

    /// The open annexes of an owner, the latest one first.
    pub fn open_of(&self, owner: u32) -> impl Iterator<Item = u32> + '_ {
        let some = |at: u32| (at != NIL).then_some(at);
        let first = some(self.owners.owners.get(owner).first);
        std::iter::successors(first, move |at| some(self.annexes.get(*at).next))
    }

    /// Frees an annex, whose reservation is over, and what is in it.
    pub fn remove(&mut self, annex: u32) {
        self.drop_shares(annex);
        let Annex { record, steps: mut at, owner, .. } = *self.annexes.get(annex);
        if owner != NIL {
            self.owners.remove_record(owner);
        }
        while at != NIL {
            let more = self.steps.get(at).more;
            self.steps.remove(at);
            at = more;
        }
        self.index.remove(hash(self.seed, record), annex);
        self.annexes.remove(annex);
    }

    /// Notes changes from now on, so that they can be undone.
    pub fn begin_journal(&mut self) {
        self.annexes.begin_journal();
        self.shares.begin_journal();
        self.steps.begin_journal();
        self.owners.begin_journal();
        self.index.begin_journal();
    }

    /// Ends the journal: undoes what it has noted, or keeps it.
    pub fn end_journal(&mut self, undo: bool) {
        self.annexes.end_journal(undo);
        self.shares.end_journal(undo);
        self.steps.end_journal(undo);
        self.owners.end_journal(undo);
        self.index.end_journal(undo);
    }

    /// Shares, steps and owners in memory.
    pub fn load(&self) -> u64 {
        let slabs = [self.shares.in_use(), self.steps.in_use(), self.owners.owners.in_use()];
        slabs.into_iter().map(u64::from).sum()
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> u64 {
        let slabs = self.annexes.bytes() + self.shares.bytes() + self.steps.bytes();
        slabs + self.owners.bytes() + self.index.bytes()
    }
}

fn hash(seed: u64, record: u32) -> u64 {
    mix2(seed, u64::from(record), 1)
}
