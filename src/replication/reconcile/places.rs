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
//! - What is kept for another node is a fingerprint and [`PLACES_MAX`] blocks, until the next look.
//! - A node asks [`ASKED_MAX`] times at most: then it is told to be wrong and nobody knows where.

use std::collections::BTreeSet;

use bytes::{BufMut, Bytes, BytesMut};

use super::round::{Blocks, DIFFERENCES_MAX};
use super::{Inner, Reconciler};
use crate::engine::{Difference, Fingerprint, Place, differences};
use crate::protocol::event::Finding;
use crate::protocol::{Reader, Truncated};
use crate::replication::core::Core;
use crate::replication::link::Link;
use crate::replication::peer_frame::Kind;

/// Blocks of 64 KiB whose entries are compared; a wrong state may differ everywhere.
const PLACES_MAX: usize = 16;
/// Looks after which the leader is asked. It takes two of them, and a leader may be gone, or be behind.
const ASKED_MAX: u32 = 8;

/// What was in memory after a CHECKPOINT.
pub(super) struct Look {
    pub index: u64,
    pub next_event: u64,
    pub print: Fingerprint,
    /// Those that were wanted.
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

    /// Where another node's state is another one after an entry, with the bytes that this one has there, if they were
    /// kept. `None`: this node has not looked there last. What is lacking is kept at the next look.
    fn answer(&mut self, index: u64, print: &Fingerprint) -> Option<Blocks> {
        let look = self.last.as_ref().filter(|look| look.index == index)?;
        let places = look.print.differing(print).into_iter().take(PLACES_MAX);
        let bytes_of = |place| (place, look.blocks.get(&place).cloned().unwrap_or_default());
        let found: Blocks = places.map(bytes_of).collect();
        self.wanted =
            found.iter().filter(|(_, bytes)| bytes.is_empty()).map(|(place, _)| *place).collect();
        Some(found)
    }
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
}

/// Asks the leader where this node's state is another one, if that is what is not known.
pub(super) async fn search(core: &Core) {
    let reconciler = &core.shared.reconciler;
    let Some((index, question)) = question(reconciler) else { return };
    let Some(leader) = core.leadership().leader.clone().filter(|leader| leader.id != core.me())
    else {
        return;
    };
    let mut link = Link::new(core.links(), leader.id, leader.peer_address);
    let limit = core.timing().admin_timeout;
    let answer = link.call_within(Kind::Differing, core.shard, question, limit).await;
    // Without one, the leader is asked again after the next look.
    let Ok(answer) = answer else { return };
    let Ok(Some(found)) = take_answer(&answer) else { return };
    let mut inner = reconciler.lock();
    let Some(look) = inner.looks.last.as_ref().filter(|look| look.index == index) else { return };
    let next_event = look.next_event;
    let both = found.iter().filter(|(_, theirs)| !theirs.is_empty());
    let both = both.filter_map(|(place, theirs)| Some((*place, look.blocks.get(place)?, theirs)));
    let all = both.flat_map(|(place, ours, theirs)| differences(place, ours, theirs));
    let all: Vec<Difference> = all.take(DIFFERENCES_MAX).collect();
    inner.looks.wanted = found.into_keys().take(PLACES_MAX).collect();
    let count = all.len();
    let Some(alarm) = inner.status.alarm.as_mut().filter(|_| count > 0) else { return };
    (alarm.index, alarm.differences, alarm.events.end) = (index, all, next_event);
    drop(inner);
    core.note(format_args!(
        "after entry {index} this node's state and that of node {} differ in {count} entries: see reconcile",
        leader.id
    ));
}

/// What to ask, if there is something new to be asked, and after which entry that is.
fn question(reconciler: &Reconciler) -> Option<(u64, Bytes)> {
    let mut inner = reconciler.lock();
    let is_wrong = inner.status.alarm.is_some() && inner.is_searching();
    let looks = &mut inner.looks;
    let look = looks.last.as_ref().filter(|_| is_wrong && !looks.has_asked)?;
    let mut out = BytesMut::new();
    out.put_u64_le(look.index);
    look.print.encode(&mut out);
    (looks.has_asked, looks.asked) = (true, looks.asked + 1);
    Some((look.index, out.freeze()))
}

/// Tells a node where its state is not the one of this node, which leads.
///
/// ```text
/// question: index u64 · fingerprint                          what it has after an entry
/// answer:   known u8 · places                                0: this node has not looked there, or again since
/// place:    kind u8 · at u32 · len u32 · bytes               no bytes: they are kept at the next look
/// ```
///
/// # Errors
/// The question ends inside.
pub(in crate::replication) fn differing(core: &Core, body: &[u8]) -> Result<BytesMut, Truncated> {
    let mut reader = Reader::new(body);
    let (index, print) = (reader.u64()?, Fingerprint::take(&mut reader)?);
    let found = core.shared.reconciler.lock().looks.answer(index, &print);
    let is_all = found.as_ref().is_some_and(|found| found.values().all(|bytes| !bytes.is_empty()));
    if !is_all {
        core.ask_checkpoint();
    }
    let mut out = BytesMut::new();
    out.put_u8(u8::from(found.is_some()));
    for (place, bytes) in found.unwrap_or_default() {
        place.encode(&mut out);
        out.put_u32_le(bytes.len() as u32);
        out.put_slice(&bytes);
    }
    Ok(out)
}

/// `None`: the leader has not looked after that entry, or has looked again.
fn take_answer(body: &[u8]) -> Result<Option<Blocks>, Truncated> {
    let mut reader = Reader::new(body);
    if reader.u8()? == 0 {
        return Ok(None);
    }
    let mut found = Blocks::new();
    while !reader.is_empty() {
        let place = Place::take(&mut reader)?;
        let len = reader.u32()? as usize;
        found.insert(place, reader.bytes(len)?.to_vec());
    }
    Ok(Some(found))
}
