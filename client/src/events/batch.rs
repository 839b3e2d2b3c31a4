//! Events that come together.

use stockd_protocol::event::{Event, EventRecord, Events};
use stockd_protocol::{EventsHead, Reader, UnixMillis};

/// Some events, or none: then it says how far the node has come. All of it was checked before it is handed out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Batch {
    head: EventsHead,
    /// Whole records.
    records: Vec<u8>,
}

impl Batch {
    pub(super) fn new(head: EventsHead, records: &[u8]) -> Self {
        Self { head, records: records.to_vec() }
    }

    /// Adds what comes next.
    pub(super) fn extend(&mut self, head: EventsHead, records: &[u8]) {
        debug_assert!(head.first == self.head.next, "frames follow each other");
        self.head = EventsHead { first: self.head.first, ..head };
        self.records.extend_from_slice(records);
    }

    /// The events, decoded in place.
    pub fn events(&self) -> BatchEvents<'_> {
        BatchEvents { records: Reader::new(&self.records), current: None, next: self.head.first }
    }

    /// The records that the events are in, as nodes have them on disk if nothing was left out. The first one may
    /// begin with events before [`first`](Self::first).
    pub fn records(&self) -> impl Iterator<Item = EventRecord<'_>> {
        let mut reader = Reader::new(&self.records);
        std::iter::from_fn(move || EventRecord::take(&mut reader).ok())
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
    pub const fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of its records.
    pub(super) const fn bytes(&self) -> usize {
        self.records.len()
    }
}

impl<'a> IntoIterator for &'a Batch {
    type Item = Event<'a>;
    type IntoIter = BatchEvents<'a>;

    fn into_iter(self) -> BatchEvents<'a> {
        self.events()
    }
}

/// The events of a [`Batch`], in their order.
#[derive(Clone, Debug)]
pub struct BatchEvents<'a> {
    records: Reader<'a>,
    current: Option<Events<'a>>,
    /// Those before it were handed out.
    next: u64,
}

impl<'a> Iterator for BatchEvents<'a> {
    type Item = Event<'a>;

    fn next(&mut self) -> Option<Event<'a>> {
        loop {
            // Records were checked when they came: what ends one of them is its end.
            while let Some(Ok(event)) = self.current.as_mut().and_then(Iterator::next) {
                if event.sequence >= self.next {
                    self.next = event.sequence.saturating_add(1);
                    return Some(event);
                }
            }
            self.current = Some(EventRecord::take(&mut self.records).ok()?.events());
        }
    }
}
