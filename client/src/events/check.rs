//! Is a frame what must come next? Decisions only, no sockets.
//!
//! ```text
//! frame before      … next │
//! frame                    │ first … next │        the same number, or something was lost
//! its records        … ─────────── … ─────┘        whole, in order; may begin before `first`, not end behind `next`
//! ```
//!
//! Without a filter, every number between `first` and `next` must be there.

use std::fmt;

use stockd_protocol::event::{EventError, EventRecord};
use stockd_protocol::{EventsHead, Reader};

/// Why a frame of events is not what must come next. The connection is left, and they are asked for again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// It says that it ends before it begins.
    Backwards {
        /// Where it begins.
        first: u64,
        /// Where it ends.
        next: u64,
    },
    /// It begins elsewhere.
    First {
        /// Where it should.
        expected: u64,
        /// Where it does.
        found: u64,
    },
    /// It is no frame of events.
    Head,
    /// Events are missing, are there twice, or are not those that it says.
    Order {
        /// The least number that may come.
        expected: u64,
        /// The number that comes.
        found: u64,
    },
    /// A record cannot be read.
    Record(EventError),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Backwards { first, next } => {
                write!(f, "a frame of events from {first} to {next}: it ends before it begins")
            }
            Self::First { expected, found } => {
                write!(f, "a frame of events begins with {found}, and {expected} comes next")
            }
            Self::Head => f.write_str("a frame of events is cut off"),
            Self::Order { expected, found } => {
                write!(f, "event {found} came where {expected} should")
            }
            Self::Record(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Fault {}

impl From<EventError> for Fault {
    fn from(error: EventError) -> Self {
        Self::Record(error)
    }
}

/// How far a subscription has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    /// What comes next; `None`: where the first frame says.
    pub(super) next: Option<u64>,
    /// Every event is wanted.
    pub(super) wants_all: bool,
}

impl Place {
    /// Takes the body of a frame apart: where it is, and its records.
    ///
    /// # Errors
    /// It is not what comes next. The place is as before.
    pub(super) fn take<'a>(&mut self, body: &'a [u8]) -> Result<(EventsHead, &'a [u8]), Fault> {
        let mut reader = Reader::new(body);
        let head = EventsHead::take(&mut reader).map_err(|_| Fault::Head)?;
        let EventsHead { first, next, .. } = head;
        match self.next {
            Some(expected) if expected != first => {
                return Err(Fault::First { expected, found: first });
            }
            _ if next < first => return Err(Fault::Backwards { first, next }),
            _ => {}
        }
        let records = reader.rest();
        self.check(&head, reader)?;
        self.next = Some(next);
        Ok((head, records))
    }

    fn check(&self, head: &EventsHead, mut records: Reader<'_>) -> Result<(), Fault> {
        let mut expected = head.first;
        let mut record_first = 0;
        while !records.is_empty() {
            let record = EventRecord::take(&mut records)?;
            let found = record.header().first;
            if found < record_first {
                return Err(Fault::Order { expected: record_first, found });
            }
            record_first = record.header().next();
            for event in record.events() {
                let found = event?.sequence;
                if found < head.first {
                    continue;
                }
                if found < expected || found >= head.next || self.wants_all && found > expected {
                    return Err(Fault::Order { expected, found });
                }
                expected = found.saturating_add(1);
            }
        }
        match self.wants_all && expected != head.next {
            true => Err(Fault::Order { expected, found: head.next }),
            false => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::BytesMut;
    use stockd_protocol::event::{Cause, EventKind, RecordWriter, seal};
    use stockd_protocol::{ReservationId, ShardId, UnixMillis};

    /// A record of events from `first` on; `None` are left out.
    fn record(first: u64, wanted: &[Option<EventKind>]) -> Vec<u8> {
        let mut writer = RecordWriter::begin(Vec::new(), ShardId(0), first, 1, 1_000);
        for kind in wanted {
            match kind {
                Some(kind) => writer.event(&Cause::new(*kind, ReservationId([7; 16]))),
                None => writer.skip(1),
            }
        }
        let mut bytes = writer.finish();
        seal(&mut bytes);
        bytes
    }

    fn frame(first: u64, next: u64, records: &[Vec<u8>]) -> Vec<u8> {
        let mut out = BytesMut::new();
        let server_now = UnixMillis(0);
        EventsHead { first, next, reached: next, server_now }.encode(&mut out);
        [&out[..], &records.concat()].concat()
    }

    const SOME: Option<EventKind> = Some(EventKind::Released);

    #[test]
    fn frames_follow_each_other_and_bring_every_event() {
        let mut place = Place { next: None, wants_all: true };
        place.take(&frame(5, 5, &[])).expect("the first frame says where it begins");
        place
            .take(&frame(5, 7, &[record(3, &[SOME; 4])]))
            .expect("events before 5 are passed over");
        place.take(&frame(7, 10, &[record(7, &[SOME]), record(8, &[SOME; 2])])).expect("two");
        assert_eq!(place.next, Some(10));
        let cases = [
            (frame(11, 12, &[record(11, &[SOME])]), Fault::First { expected: 10, found: 11 }),
            (frame(9, 12, &[record(9, &[SOME; 3])]), Fault::First { expected: 10, found: 9 }),
            (frame(10, 9, &[]), Fault::Backwards { first: 10, next: 9 }),
            (frame(10, 12, &[record(11, &[SOME])]), Fault::Order { expected: 10, found: 11 }),
            (frame(10, 12, &[record(10, &[SOME])]), Fault::Order { expected: 11, found: 12 }),
            (frame(10, 11, &[record(10, &[SOME; 2])]), Fault::Order { expected: 11, found: 11 }),
            (
                frame(10, 12, &[record(10, &[SOME; 2]), record(10, &[SOME; 2])]),
                Fault::Order { expected: 12, found: 10 },
            ),
            (frame(10, 12, &[record(10, &[SOME, None])]), Fault::Order { expected: 11, found: 12 }),
            (frame(10, 11, &[]), Fault::Order { expected: 10, found: 11 }),
            (vec![0; 31], Fault::Head),
        ];
        for (body, fault) in cases {
            assert_eq!(place.take(&body).unwrap_err(), fault);
            assert_eq!(place.next, Some(10), "a fault moves nothing");
        }
    }

    #[test]
    fn a_filter_may_leave_events_out_but_not_turn_them_round() {
        let mut place = Place { next: Some(10), wants_all: false };
        place.take(&frame(10, 40, &[])).expect("nothing was wanted");
        let records = [record(40, &[None, SOME, None]), record(50, &[SOME])];
        place.take(&frame(40, 60, &records)).expect("two were wanted");
        let turned = [record(70, &[SOME]), record(60, &[SOME])];
        let fault = place.take(&frame(60, 80, &turned)).unwrap_err();
        assert_eq!(fault, Fault::Order { expected: 71, found: 60 });
        let behind = [record(79, &[SOME; 2])];
        let fault = place.take(&frame(60, 80, &behind)).unwrap_err();
        assert_eq!(fault, Fault::Order { expected: 80, found: 80 });
    }

    #[test]
    fn a_damaged_record_is_a_fault() {
        let mut place = Place { next: Some(1), wants_all: true };
        let mut body = frame(1, 2, &[record(1, &[SOME])]);
        let end = body.len() - 1;
        body[end] ^= 1;
        assert_eq!(place.take(&body), Err(Fault::Record(EventError::Crc)));
        body.truncate(end);
        assert_eq!(place.take(&body), Err(Fault::Record(EventError::Truncated)));
    }
}
