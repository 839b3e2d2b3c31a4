//! Where is a state not the one of the leader?
//!
//! ```text
//!  a node that a majority found wrong                          leader
//!  fingerprint after a CHECKPOINT ──────────────────────────▶ which blocks differ?
//!  keeps these at the next one    ◀────────────── places ──── keeps these at the next one, which it proposes
//!  fingerprint after that one     ──────────────────────────▶
//!  which entries differ?          ◀────── places, bytes ─────
//! ```
//!
//! Bytes can be compared only after the same entry, and a CHECKPOINT is where every node looks. The node's own log
//! cannot tell: its snapshot has the fault, too, or it makes another state of the same log.
//!
//! Invariants:
//! - What is kept for other nodes is a fingerprint and [`WANTED_MAX`] blocks, until the next look.
//! - The leader has [`ASKED_MAX`] answers for a node at most: then that is known to be wrong, and nobody knows where.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};

use super::Inner;
use super::round::{Blocks, DIFFERENCES_MAX};
use crate::engine::{Difference, Fingerprint, Place, differences};
use crate::protocol::event::Finding;
use crate::protocol::{Reader, Truncated};
use crate::replication::core::Core;
use crate::replication::link::Link;
use crate::replication::peer_frame::Kind;

/// Blocks of 64 KiB whose entries are compared; a wrong state may differ everywhere.
const PLACES_MAX: usize = 16;
/// Blocks that are kept for all who ask.
const WANTED_MAX: usize = 4 * PLACES_MAX;
/// Answers after which a node stops asking. Two of them are enough, if none of them asks too late.
const ASKED_MAX: u32 = 4;

/// What was in memory after a CHECKPOINT.
pub(super) struct Look {
    pub index: u64,
    pub next_event: u64,
    pub print: Fingerprint,
    /// Those that were wanted; empty, where the state has none.
    pub blocks: Blocks,
}

/// What is kept to find where states differ.
#[derive(Default)]
pub(super) struct Looks {
    last: Option<Look>,
    /// Blocks to be kept at the next look.
    wanted: BTreeSet<Place>,
    /// After the last look, the leader was asked.
    has_asked: bool,
    asked: u32,
}

impl Looks {
    pub fn take_wanted(&mut self) -> BTreeSet<Place> {
        std::mem::take(&mut self.wanted)
    }

    pub fn keep(&mut self, look: Look) {
        (self.last, self.has_asked) = (Some(look), false);
    }

    /// Where another node's state is another one after an entry. What is lacking is kept at the next look.
    fn answer(&mut self, index: u64, print: &Fingerprint) -> Answer {
        let Some(look) = self.last.as_ref().filter(|look| look.index >= index) else {
            return Answer::NotYet;
        };
        if look.index > index {
            return Answer::Gone;
        }
        let places = look.print.differing(print).into_iter().take(PLACES_MAX);
        let bytes_of = |place| (place, look.blocks.get(&place).cloned());
        let found: Found = places.map(bytes_of).collect();
        let lacking = found.iter().filter(|(_, bytes)| bytes.is_none()).map(|(place, _)| *place);
        let room = WANTED_MAX.saturating_sub(self.wanted.len());
        self.wanted.extend(lacking.take(room));
        Answer::Known(found)
    }
}

/// Blocks, and what is in them, if that was kept; empty, if the state has none there.
type Found = Vec<(Place, Option<Vec<u8>>)>;

/// What the leader says.
#[derive(PartialEq, Eq, Debug)]
enum Answer {
    /// It has not looked there yet.
    NotYet,
    /// It has looked again since.
    Gone,
    Known(Found),
}

impl Inner {
    /// The state is wrong, and not known where: it is looked at further.
    pub(super) fn is_searching(&self) -> bool {
        let is_unknown =
            self.status.alarm.as_ref().is_none_or(|alarm| {
                alarm.finding == Finding::Replica && alarm.differences.is_empty()
            });
        is_unknown && self.looks.asked < ASKED_MAX
    }

    /// There is something to ask the leader.
    pub(super) fn has_question(&self) -> bool {
        let is_wrong = self.status.alarm.is_some() && self.is_searching();
        is_wrong && self.looks.last.is_some() && !self.looks.has_asked
    }

    /// The entry, and the question.
    fn question(&self) -> Option<(u64, Bytes)> {
        let look = self.looks.last.as_ref().filter(|_| self.has_question())?;
        let mut out = BytesMut::new();
        out.put_u64_le(look.index);
        look.print.encode(&mut out);
        Some((look.index, out.freeze()))
    }

    /// Compares what the leader has after an entry; gives how many entries are others.
    fn compare_with(&mut self, index: u64, found: Found) -> usize {
        let Some(look) = self.looks.last.as_ref().filter(|look| look.index == index) else {
            return 0;
        };
        let next_event = look.next_event;
        let both = found.iter().filter_map(|(place, theirs)| {
            Some((*place, look.blocks.get(place)?, theirs.as_ref()?))
        });
        let all = both.flat_map(|(place, ours, theirs)| differences(place, ours, theirs));
        let all: Vec<Difference> = all.take(DIFFERENCES_MAX).collect();
        let count = all.len();
        self.looks.wanted = found.into_iter().map(|(place, _)| place).take(PLACES_MAX).collect();
        if let Some(alarm) = self.status.alarm.as_mut().filter(|_| count > 0) {
            (alarm.index, alarm.differences, alarm.events.end) = (index, all, next_event);
        }
        count
    }
}

/// Asks the leader where this node's state is another one, if that is what is not known. Without an answer it is asked
/// again.
pub(super) async fn search(core: &Core) {
    let reconciler = &core.shared.reconciler;
    let Some(leader) = core.leadership().leader.clone().filter(|leader| leader.id != core.me())
    else {
        return;
    };
    let Some((index, question)) = reconciler.lock().question() else { return };
    let mut link = Link::new(core.links(), leader.id, leader.peer_address);
    let limit = core.timing().admin_timeout;
    let answer = link.call_within(Kind::Differing, core.shard, question, limit).await;
    let Ok(Ok(answer)) = answer.map(|answer| Answer::take(&answer)) else { return };
    let mut inner = reconciler.lock();
    if answer == Answer::NotYet {
        return;
    }
    inner.looks.asked += 1;
    if inner.looks.last.as_ref().is_some_and(|look| look.index == index) {
        inner.looks.has_asked = true;
    }
    let Answer::Known(found) = answer else { return };
    let count = inner.compare_with(index, found);
    drop(inner);
    if count > 0 {
        core.note(format_args!(
            "after entry {index} this node's state and that of node {} differ in {count} entries: see reconcile",
            leader.id
        ));
    }
}

/// Tells a node where its state is not the one of this node, which leads.
///
/// ```text
/// question: index u64 · fingerprint                   what it has after an entry
/// answer:   0                                         this node has not looked there yet
///           1                                         … has looked again since
///           2 · places                                … has another state there
/// place:    kind u8 · at u32 · 0                      its bytes are kept at the next look
///           kind u8 · at u32 · 1 · len u32 · bytes
/// ```
///
/// # Errors
/// The question ends inside.
pub(in crate::replication) fn differing(core: &Core, body: &[u8]) -> Result<BytesMut, Truncated> {
    let mut reader = Reader::new(body);
    let (index, print) = (reader.u64()?, Fingerprint::take(&mut reader)?);
    let answer = core.shared.reconciler.lock().looks.answer(index, &print);
    let is_lacking = match &answer {
        Answer::NotYet => false,
        Answer::Gone => true,
        Answer::Known(found) => found.iter().any(|(_, bytes)| bytes.is_none()),
    };
    if is_lacking {
        core.ask_checkpoint();
    }
    let mut out = BytesMut::new();
    answer.encode(&mut out);
    Ok(out)
}

impl Answer {
    fn encode(&self, out: &mut BytesMut) {
        match self {
            Self::NotYet => out.put_u8(0),
            Self::Gone => out.put_u8(1),
            Self::Known(found) => {
                out.put_u8(2);
                for (place, bytes) in found {
                    place.encode(out);
                    out.put_u8(u8::from(bytes.is_some()));
                    if let Some(bytes) = bytes {
                        out.put_u32_le(bytes.len() as u32);
                        out.put_slice(bytes);
                    }
                }
            }
        }
    }

    fn take(body: &[u8]) -> Result<Self, Truncated> {
        let mut reader = Reader::new(body);
        match reader.u8()? {
            0 => return Ok(Self::NotYet),
            1 => return Ok(Self::Gone),
            _ => {}
        }
        let mut found = Found::new();
        while !reader.is_empty() {
            let place = Place::take(&mut reader)?;
            let bytes = match reader.u8()? {
                0 => None,
                _ => {
                    let len = reader.u32()? as usize;
                    Some(reader.bytes(len)?.to_vec())
                }
            };
            found.push((place, bytes));
        }
        Ok(Self::Known(found))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{EngineConfig, StockState};
    use crate::protocol::CellHandle;
    use crate::replication::tests::a_state;

    /// What a node keeps after an entry, and what is wanted of it.
    fn look(stock: &mut StockState, index: u64, wanted: &BTreeSet<Place>) -> Look {
        let (mut print, mut blocks) = (Fingerprint::default(), Blocks::new());
        let mut cut = stock.begin_snapshot();
        while let Some(chunk) = stock.snapshot_chunk(&mut cut, 1 << 20) {
            print.add(&chunk, |place, body| {
                if wanted.contains(&place) {
                    blocks.insert(place, body.to_vec());
                }
            });
        }
        stock.end_snapshot(cut);
        Look { index, next_event: index, print, blocks }
    }

    #[test]
    fn two_looks_after_the_same_entries_tell_where_states_differ() {
        let (mut right, mut wrong) = (a_state(), a_state());
        wrong.plant_fault(CellHandle(0), 1);
        let mut leader = Looks::default();
        let told = look(&mut wrong, 10, &BTreeSet::new());
        assert_eq!(leader.answer(10, &told.print), Answer::NotYet);
        leader.keep(look(&mut right, 10, &BTreeSet::new()));
        assert_eq!(leader.answer(9, &told.print), Answer::Gone);
        let Answer::Known(found) = leader.answer(10, &told.print) else { panic!("it has looked") };
        let places: BTreeSet<_> = found.iter().map(|(place, _)| *place).collect();
        assert!(!places.is_empty() && found.iter().all(|(_, bytes)| bytes.is_none()));

        let wanted = leader.take_wanted();
        assert_eq!(wanted, places);
        leader.keep(look(&mut right, 20, &wanted));
        let told = look(&mut wrong, 20, &places);
        let answer = leader.answer(20, &told.print);
        assert!(leader.take_wanted().is_empty(), "all is there");
        let mut out = BytesMut::new();
        answer.encode(&mut out);
        assert_eq!(Answer::take(&out), Ok(answer));
        (1..out.len()).for_each(|len| drop(Answer::take(&out[..len])));
        let Ok(Answer::Known(found)) = Answer::take(&out) else { panic!("it was taken before") };

        let mut inner = Inner::default();
        inner.looks.keep(told);
        assert_eq!(inner.compare_with(10, found.clone()), 0, "of another entry");
        assert_eq!(inner.compare_with(20, found), 1);
    }

    #[test]
    fn a_place_that_cannot_be_harms_nobody() {
        let mut stock = StockState::new(EngineConfig::default());
        let mut inner = Inner::default();
        let mut reader = Reader::new(&[1, 0xff, 0xff, 0xff, 0xff]);
        let place = Place::take(&mut reader).unwrap();
        let mut look = look(&mut stock, 1, &BTreeSet::new());
        look.blocks.insert(place, Vec::new());
        inner.looks.keep(look);
        for bytes in [vec![7; 1], vec![0xff; 70_000]] {
            inner.compare_with(1, vec![(place, Some(bytes))]);
        }
    }
}
