//! Looking at a log without opening it: what `stockd log dump` and `stockd log check` stand on.
//!
//! It is the loop that recovery uses, so what it says is what recovery would say; and it changes
//! nothing. On the directory of a running node (opened with
//! [`RealStorage::open_read_only`](super::RealStorage::open_read_only)) the end of the log moves
//! while it is read, so a torn tail there means nothing.

use bytes::Bytes;
use stockd_protocol::ShardId;

use super::replay::{Progress, Visit, replay};
use super::storage::Storage;
use super::{Error, FrameKind, RecordId, segment};

/// A frame of the log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entry {
    /// The segment's path.
    pub file: String,
    /// Where the frame begins in it.
    pub offset: u64,
    /// Its number in the log.
    pub seq: u64,
    /// What it tells.
    pub kind: FrameKind,
    /// The record's own kind; zero for other frames.
    pub record_kind: u8,
    /// Whose it is; means nothing for a mark.
    pub shard: ShardId,
    /// The record, or the id that was committed, purged or truncated to. `None` for votes and marks,
    /// and for a truncate of everything.
    pub id: Option<RecordId>,
    /// The record's payload, or the vote's bytes; empty for other frames.
    pub payload: Bytes,
}

/// What a look at the whole log gave.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// Segments with records.
    pub segments: u64,
    /// Segments made ahead, or left by a crash while rotating.
    pub segments_unused: u64,
    /// Bytes of all segment files.
    pub bytes: u64,
    /// All frames.
    pub frames: u64,
    /// Frames that hold a record.
    pub records: u64,
    /// Where writing would go on: the path of the last segment, and the offset in it.
    pub end: Option<(String, u64)>,
    /// Bytes behind the end that recovery would cut: a torn tail. Nobody was told of them.
    pub torn_bytes: u64,
}

/// Reads the whole log and tells `on_entry` of every frame. An empty directory has an empty log.
///
/// # Errors
/// What [`Log::open`](super::Log::open) would refuse, with file and offset; entries before it have
/// been told by then.
pub fn scan(
    storage: &dyn Storage,
    on_entry: &mut dyn FnMut(&Entry),
    progress: &mut dyn FnMut(Progress),
) -> Result<Summary, Error> {
    let mut summary = Summary::default();
    let mut file = String::new();
    let end = replay(
        storage,
        &mut |visit| {
            match visit {
                Visit::Header(header) => file = storage.path(&segment::name(header.number)),
                Visit::Frame { position, head, payload } => {
                    summary.frames += 1;
                    summary.records += u64::from(head.kind == FrameKind::Append);
                    let truncates_all =
                        head.kind == FrameKind::TruncateAfter && head.record_kind == 0;
                    let has_id = !matches!(head.kind, FrameKind::Mark | FrameKind::Vote);
                    let is_append = head.kind == FrameKind::Append;
                    on_entry(&Entry {
                        file: file.clone(),
                        offset: position.offset(),
                        seq: head.seq,
                        kind: head.kind,
                        record_kind: if is_append { head.record_kind } else { 0 },
                        shard: head.shard,
                        id: (has_id && !truncates_all).then_some(head.id),
                        payload,
                    });
                }
            }
            Ok(())
        },
        progress,
    )?;
    let Some(end) = end else { return Ok(summary) };
    let last = end.segments.last().expect("a log has a segment");
    summary.segments = end.segments.len() as u64;
    summary.segments_unused = end.leftovers.len() as u64;
    summary.bytes = end.segments.iter().map(|segment| segment.bytes).sum::<u64>()
        + end.leftovers.iter().map(|leftover| leftover.bytes).sum::<u64>();
    summary.torn_bytes = end.dirty_to - end.offset;
    summary.end = Some((storage.path(&segment::name(last.number)), end.offset));
    Ok(summary)
}
