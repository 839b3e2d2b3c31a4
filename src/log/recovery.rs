//! From files to a log that can go on: replay, then make the end clean.
//!
//! 1. [`replay`](super::replay) finds every record and the end, or refuses.
//! 2. What a torn write left behind the end is overwritten with zeros, so that it can never line up
//!    with frames that are written later.
//! 3. The frames at the end that nothing proves to be on disk are written once more, and synced.
//!    They may be only in the page cache: after `kill -9`, where a reader sees them and a power cut
//!    would still take them; and after a failed sync, where the kernel has marked the pages clean
//!    and would not write them at a second sync. Recovery reports them as durable, so they must be.
//! 4. Segments in the making are removed; a zeroed spare is kept.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use stockd_protocol::ShardId;

use super::record::{FrameHead, FrameKind};
use super::replay::{End, Progress, Visit, replay};
use super::segment::{self, Header, Position, Segment, ShardStates};
use super::storage::Storage;
use super::writer::SegmentUse;
use super::{Error, LogOptions, RecordId, ShardState};

/// A log as it was found.
pub(super) struct Recovered {
    pub(super) log_id: u64,
    /// The segments with records, oldest first, with the highest index each holds per shard.
    pub(super) segments: Vec<(Arc<Segment>, SegmentUse)>,
    pub(super) spare: Option<Arc<Segment>>,
    pub(super) offset: u64,
    pub(super) seq: u64,
    pub(super) shards: BTreeMap<ShardId, ShardFound>,
}

/// What the files say of a shard.
#[derive(Default)]
pub(super) struct ShardFound {
    pub(super) state: ShardState,
    /// The index of `positions[0]`.
    pub(super) first: u64,
    pub(super) positions: VecDeque<Position>,
    /// Records up to this index were in segments that are gone; a purge must cover them.
    gone_to: Option<u64>,
}

/// Recovers the log in `storage`, or begins one.
///
/// # Errors
/// See [`replay`]; and the operating system may refuse.
pub(super) fn recover(
    storage: &dyn Storage,
    new_log_id: u64,
    options: &LogOptions,
    progress: &mut dyn FnMut(Progress),
) -> Result<Recovered, Error> {
    let mut found = Found { storage, shards: BTreeMap::new(), uses: Vec::new() };
    let end = replay(storage, &mut |visit| found.visit(visit), progress)?;
    let Some(end) = end else { return begin(storage, new_log_id, options) };
    let Found { shards, uses, .. } = found;
    let oldest = storage.path(&segment::name(end.segments[0].number));
    check_heads(&shards, &oldest)?;
    remove_temporaries(storage)?;
    let spare = clear_leftovers(storage, &end, options)?;
    mend_tail(storage, &end)?;
    for segment in end.segments.iter().rev().skip(1) {
        segment.seal();
    }
    let End { log_id, segments, offset, seq, .. } = end;
    let segments = segments.into_iter().zip(uses).collect();
    Ok(Recovered { log_id, segments, spare, offset, seq, shards })
}

fn begin(storage: &dyn Storage, log_id: u64, options: &LogOptions) -> Result<Recovered, Error> {
    remove_temporaries(storage)?;
    let number = 1;
    let bytes = options.segment_bytes;
    let file = segment::create_first(storage, number, bytes, log_id).map_err(io(
        storage,
        "create",
        &segment::name(number),
    ))?;
    let segment = Arc::new(Segment::new(number, bytes, file));
    Ok(Recovered {
        log_id,
        segments: vec![(segment, SegmentUse::default())],
        spare: None,
        offset: Header::bytes_for(&ShardStates::new()) as u64,
        seq: segment::FIRST_SEQ + 1,
        shards: BTreeMap::new(),
    })
}

struct Found<'a> {
    storage: &'a dyn Storage,
    shards: BTreeMap<ShardId, ShardFound>,
    uses: Vec<SegmentUse>,
}

impl Found<'_> {
    fn visit(&mut self, visit: Visit<'_>) -> Result<(), Error> {
        match visit {
            Visit::Header(header) => self.header(header),
            Visit::Frame { position, head, payload } => self.frame(position, head, payload)?,
        }
        Ok(())
    }

    fn header(&mut self, header: &Header) {
        if self.uses.is_empty() {
            for (shard, state) in &header.states {
                let gone_to = state.last.map(|last| last.index);
                let found = ShardFound { state: state.clone(), gone_to, ..ShardFound::default() };
                self.shards.insert(*shard, found);
            }
        }
        self.uses.push(SegmentUse::default());
    }

    fn frame(&mut self, at: Position, head: &FrameHead, payload: Bytes) -> Result<(), Error> {
        if head.kind == FrameKind::Mark {
            return Ok(()); // of no shard
        }
        self.check_place(at, head)?;
        let found = self.shards.entry(head.shard).or_default();
        match head.kind {
            FrameKind::Append => {
                let index = head.id.index;
                if found.state.last.is_some_and(|last| index <= last.index) {
                    self.truncate(head.shard, index);
                }
                let found = self.shards.entry(head.shard).or_default();
                found.push(head.id, at);
                let used = self.uses.last_mut().expect("a frame lies behind a header");
                used.appended(head.shard, index);
            }
            FrameKind::Committed => found.state.committed = Some(head.id),
            FrameKind::Mark => {}
            FrameKind::Purged => found.purge(head.id),
            FrameKind::TruncateAfter => {
                let end = if head.record_kind == 0 { 0 } else { head.id.index + 1 };
                self.truncate(head.shard, end);
                let found = self.shards.entry(head.shard).or_default();
                found.state.last = (head.record_kind != 0).then_some(head.id);
            }
            // A copy, so that a few bytes do not keep a whole segment mapped.
            FrameKind::Vote => found.state.vote = Some(Bytes::copy_from_slice(&payload)),
        }
        Ok(())
    }

    /// A record comes right behind the last one or takes the place of one that is there, and a
    /// truncation leaves one that is there as the last. Neither touches what was purged.
    fn check_place(&self, at: Position, head: &FrameHead) -> Result<(), Error> {
        let Some(ShardState { purged, last, .. }) = self.shards.get(&head.shard).map(|f| &f.state)
        else {
            return Ok(());
        };
        let (index, first) = match head.kind {
            FrameKind::Append => (head.id.index, purged.map_or(0, |purged| purged.index + 1)),
            FrameKind::TruncateAfter if head.record_kind == 0 && purged.is_none() => return Ok(()),
            FrameKind::TruncateAfter if head.record_kind == 0 => (0, 1),
            FrameKind::TruncateAfter => (head.id.index, purged.map_or(0, |purged| purged.index)),
            _ => return Ok(()),
        };
        let next = match (head.kind, last) {
            (FrameKind::Append, None) => index,
            (FrameKind::Append, Some(last)) => last.index + 1,
            (_, last) => last.map_or(0, |last| last.index),
        };
        if (first..=next).contains(&index) {
            return Ok(());
        }
        let file = self.storage.path(&segment::name(at.number()));
        let expected = if index < first { first } else { next };
        Err(Error::Gap { file, offset: at.offset(), shard: head.shard, index, expected })
    }

    fn truncate(&mut self, shard: ShardId, end: u64) {
        let found = self.shards.entry(shard).or_default();
        found.positions.truncate(end.saturating_sub(found.first) as usize);
        found.gone_to = found.gone_to.filter(|_| end > 0).map(|to| to.min(end - 1));
        for used in &mut self.uses {
            used.truncated(shard, end);
        }
    }
}

impl ShardFound {
    fn push(&mut self, id: RecordId, at: Position) {
        if self.positions.is_empty() {
            self.first = id.index;
        }
        self.state.last = Some(id);
        self.positions.push_back(at);
    }

    fn purge(&mut self, upto: RecordId) {
        self.state.purged = self.state.purged.max(Some(upto));
        self.state.last = self.state.last.filter(|last| last.index > upto.index).or(Some(upto));
        while self.first <= upto.index && self.positions.pop_front().is_some() {
            self.first += 1;
        }
    }

    /// The first index of the log.
    pub(super) fn start(&self) -> u64 {
        let after = |id: RecordId| id.index + 1;
        if self.positions.is_empty() { self.state.last.map_or(0, after) } else { self.first }
    }
}

/// Refuses when records are neither here nor covered by a purge.
fn check_heads(shards: &BTreeMap<ShardId, ShardFound>, oldest: &str) -> Result<(), Error> {
    for (shard, found) in shards {
        let from = found.state.purged.map_or(0, |purged| purged.index + 1);
        if let Some(to) = found.gone_to.filter(|to| *to >= from) {
            return Err(Error::MissingRecords { shard: *shard, from, to, file: oldest.to_owned() });
        }
    }
    Ok(())
}

/// Segments whose making was cut short.
fn remove_temporaries(storage: &dyn Storage) -> Result<(), Error> {
    for entry in storage.list().map_err(io(storage, "list", ""))? {
        if segment::is_temporary(&entry.name) {
            storage.remove(&entry.name).map_err(io(storage, "remove", &entry.name))?;
        }
    }
    Ok(())
}

/// Keeps the first segment behind the end when it is a good spare; removes the others, the last one
/// first, so that a power cut leaves no gap.
fn clear_leftovers(
    storage: &dyn Storage,
    end: &End,
    options: &LogOptions,
) -> Result<Option<Arc<Segment>>, Error> {
    for (place, leftover) in end.leftovers.iter().enumerate().rev() {
        let name = segment::name(leftover.number);
        if place == 0 && leftover.zeroed && leftover.bytes == options.segment_bytes {
            let file = storage.open(&name).map_err(io(storage, "open", &name))?;
            return Ok(Some(Arc::new(Segment::new(leftover.number, leftover.bytes, file))));
        }
        storage.remove(&name).map_err(io(storage, "remove", &name))?;
        storage.sync_dir().map_err(io(storage, "sync the directory of", &name))?;
    }
    Ok(None)
}

/// Steps 2 and 3 of the module's list.
fn mend_tail(storage: &dyn Storage, end: &End) -> Result<(), Error> {
    let segment = end.segments.last().expect("a log has a segment");
    let path = || storage.path(&segment::name(segment.number));
    let (from, to) = (end.unproven_from, end.offset);
    let mut tail = vec![0; (end.dirty_to - from) as usize];
    segment.file.read_at(from, &mut tail[..(to - from) as usize]).map_err(|source| Error::Io {
        deed: "read",
        file: path(),
        source,
    })?;
    if !tail.is_empty() {
        segment.file.write_at(from, &tail).map_err(|source| Error::WriteFailed {
            file: path(),
            offset: from,
            source,
        })?;
    }
    segment.file.sync_data().map_err(|source| Error::SyncFailed {
        file: path(),
        offset: from,
        source,
    })
}

fn io(
    storage: &dyn Storage,
    deed: &'static str,
    name: &str,
) -> impl FnOnce(std::io::Error) -> Error + use<> {
    let file = storage.path(name);
    move |source| Error::Io { deed, file, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::SimStorage;

    #[test]
    fn a_frame_out_of_its_place_is_refused() {
        use FrameKind::{Append, Purged, TruncateAfter};
        let storage = SimStorage::new();
        let uses = vec![SegmentUse::default()];
        let mut found = Found { storage: &storage, shards: BTreeMap::new(), uses };
        let mut seq = 1;
        let mut frame = |kind, record_kind, index| {
            seq += 1;
            let (shard, id) = (ShardId(0), RecordId { term: 1, index });
            let head = FrameHead { seq, synced: 1, shard, kind, record_kind, id, payload_bytes: 0 };
            found.frame(Position::new(1, 4096), &head, Bytes::new()).is_ok()
        };
        for index in 5..9 {
            assert!(frame(Append, 0, index), "the first may have any index, others follow");
        }
        assert!(!frame(Append, 0, 10), "no hole");
        assert!(!frame(TruncateAfter, 1, 9), "nothing is cut behind the end");
        assert!(frame(Purged, 0, 6));
        assert!(!frame(Append, 0, 6), "what was purged does not come back");
        assert!(!frame(TruncateAfter, 1, 5) && !frame(TruncateAfter, 0, 0));
        assert!(frame(TruncateAfter, 1, 6) && frame(Append, 0, 7));
    }
}
