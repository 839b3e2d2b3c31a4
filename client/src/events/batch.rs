//! Events that come together.

use bytes::Bytes;
use stockd_protocol::event::{Event, EventRecord, Events};
use stockd_protocol::{EventsHead, Reader, UnixMillis};

/// Some events, or none: then it says how far the node has come. All of it was checked before it is handed out.
#[derive(Clone, Debug)]
pub struct Batch {
    head: EventsHead,
    /// The records of a large frame each, in the memory that they were received to: whole ones.
    frames: Vec<Bytes>,
    /// After them, those of small frames.
    small: Vec<u8>,
}

/// Fewer bytes are copied: they would hold a whole buffer, which is a few times as large.
const LARGE_BYTES_MIN: usize = 32 << 10;

impl Batch {
    pub(super) fn new(head: EventsHead, records: Bytes) -> Self {
        let mut batch = Self { head, frames: Vec::new(), small: Vec::new() };
        batch.put(records);
        batch
    }

    /// Adds what comes next.
    pub(super) fn extend(&mut self, head: EventsHead, records: Bytes) {
        debug_assert!(head.first == self.head.next, "frames follow each other");
        self.head = EventsHead { first: self.head.first, ..head };
        self.put(records);
    }

    fn put(&mut self, records: Bytes) {
        if records.len() < LARGE_BYTES_MIN {
            return self.small.extend_from_slice(&records);
        }
        if !self.small.is_empty() {
            self.frames.push(std::mem::take(&mut self.small).into());
        }
        self.frames.push(records);
    }

    fn all(&self) -> Records<'_> {
        Records { frames: self.frames.iter(), small: &self.small, frame: Reader::new(&[]) }
    }

    /// The events, decoded in place.
    pub fn events(&self) -> BatchEvents<'_> {
        BatchEvents { records: self.all(), current: None, next: self.head.first }
    }

    /// The records that the events are in, as nodes have them on disk if nothing was left out. The first one may
    /// begin with events before [`first`](Self::first).
    pub fn records(&self) -> impl Iterator<Item = EventRecord<'_>> {
        self.all()
    }

    /// The number of the first event that the batch speaks for.
    pub const fn first(&self) -> u64 {
        self.head.first
    }

    /// The number after the last one: whoever has handled the batch goes on from there. Also without an event in it,
    /// for then none before was wanted.
    pub const fn next(&self) -> u64 {
        self.head.next
    }

    /// The number that the node's next event will have.
    pub const fn reached(&self) -> u64 {
        self.head.reached
    }

    /// How many events the node had after this batch when it sent it; 0: this is the end, for now.
    pub const fn lag(&self) -> u64 {
        self.head.reached.saturating_sub(self.head.next)
    }

    /// The cluster's clock when the node sent it.
    pub const fn server_now(&self) -> UnixMillis {
        self.head.server_now
    }

    /// There is no event in it.
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty() && self.small.is_empty()
    }

    /// Bytes of its records.
    pub(super) fn bytes(&self) -> usize {
        self.frames.iter().map(Bytes::len).sum::<usize>() + self.small.len()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = Event<'a>;
    type IntoIter = BatchEvents<'a>;

    fn into_iter(self) -> BatchEvents<'a> {
        self.events()
    }
}

/// The records of a batch, which were checked when they came: what ends one of them is its end.
#[derive(Clone, Debug)]
struct Records<'a> {
    frames: std::slice::Iter<'a, Bytes>,
    small: &'a [u8],
    frame: Reader<'a>,
}

impl<'a> Iterator for Records<'a> {
    type Item = EventRecord<'a>;

    fn next(&mut self) -> Option<EventRecord<'a>> {
        if self.frame.is_empty() {
            let next = self.frames.next().map(|frame| &frame[..]);
            self.frame = Reader::new(next.unwrap_or_else(|| std::mem::take(&mut self.small)));
        }
        EventRecord::take_checked(&mut self.frame).ok()
    }
}

/// The events of a [`Batch`], in their order.
#[derive(Clone, Debug)]
pub struct BatchEvents<'a> {
    records: Records<'a>,
    current: Option<Events<'a>>,
    /// Those before it were handed out.
    next: u64,
}

impl<'a> Iterator for BatchEvents<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            while let Some(Ok(event)) = self.current.as_mut().and_then(Iterator::next) {
                if event.sequence >= self.next {
                    self.next = event.sequence.saturating_add(1);
                    return Some(event);
                }
            }
            self.current = Some(self.records.next()?.events());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stockd_protocol::event::{Cause, EventKind, RecordWriter, seal};
    use stockd_protocol::{ReservationId, ShardId};

    /// A record of so many events, about twenty bytes each.
    fn record(first: u64, count: u64) -> Bytes {
        let mut writer = RecordWriter::begin(Vec::new(), ShardId(0), first, 1, 1_000);
        for n in 0..count {
            writer.event(&Cause::new(EventKind::Released, ReservationId([n as u8; 16])));
        }
        let mut bytes = writer.finish();
        seal(&mut bytes);
        bytes.into()
    }

    #[test]
    fn small_and_large_frames_come_in_their_order() {
        let head = |first, next| EventsHead { first, next, reached: 0, server_now: UnixMillis(0) };
        let mut batch = Batch::new(head(5, 5), Bytes::new());
        assert!(batch.is_empty() && batch.events().next().is_none());
        let (mut next, mut bytes, mut records) = (5, 0, 0);
        for count in [1, 2, 5_000, 5_000, 3, 4, 5_000, 1] {
            let record = record(next, count);
            assert_eq!(record.len() >= LARGE_BYTES_MIN, count == 5_000);
            (bytes, records) = (bytes + record.len(), records + 1);
            batch.extend(head(next, next + count), record);
            next += count;
        }
        assert_eq!((batch.first(), batch.next(), batch.bytes()), (5, next, bytes));
        assert!(batch.events().map(|event| event.sequence).eq(5..next));
        assert_eq!(batch.records().count(), records);
    }
}
