//! Doors for the fuzz targets `events_frame` and `cursor`: see [`crate::fuzzing`].

use bytes::Bytes;
use stockd_protocol::EventsHead;

use super::batch::Batch;
use super::check::Place;
use super::cursor::State;

/// What a subscriber makes of the body of an EVENTS frame: its head, and the numbers of its events; `None` if it is not
/// what must come. `from`: the event that comes next, if that is known.
pub fn read_events(
    wants_all: bool,
    from: Option<u64>,
    body: &[u8],
) -> Option<(EventsHead, Vec<u64>)> {
    let mut place = Place { next: from, wants_all };
    let (head, records) = place.take(body).ok()?;
    let events = Batch::new(head, Bytes::copy_from_slice(records))
        .events()
        .map(|event| event.sequence)
        .collect();
    Some((head, events))
}

/// The file of a cursor as it would be written again; `None` if it is damaged.
pub fn read_cursor(content: &[u8]) -> Option<Vec<u8>> {
    State::decode(content).ok()?.encode()
}

/// The file of a cursor with some data.
pub fn sample_cursor(data: &[u8]) -> Vec<u8> {
    let state = State { cluster_id: Some(7), next: Some(99), data: data.to_vec() };
    state.encode().expect("it is bound")
}
