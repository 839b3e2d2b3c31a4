//! Looking up the events of a key, in either direction.
//!
//! A block whose filter lacks the key is not read. So what was in a cell before some event, long ago, costs a line of
//! the cache for each block between, and reading one block in a hundred for nothing.

use std::ops::{ControlFlow, Range};

use super::Inner;
use super::error::{Flaw, ReadError};
use super::key::Key;
use super::view::View;
use crate::protocol::event::{Event, EventRecord};

/// Which events come first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Direction {
    /// The newest.
    Backward,
    /// The oldest.
    Forward,
}

/// What to look for, and whom to show it to.
struct Scan<'a> {
    key: Key,
    range: Range<u64>,
    direction: Direction,
    visit: &'a mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
}

impl Inner {
    /// See [`EventLog::scan`](super::EventLog::scan).
    pub fn scan(
        &self,
        key: Key,
        range: Range<u64>,
        direction: Direction,
        visit: &mut dyn FnMut(&Event<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ReadError> {
        let next = self.next();
        let range = range.start..range.end.min(next);
        let mut scan = Scan { key, range: range.clone(), direction, visit };
        let segments = self.segments();
        let mut views = segments.iter().map(|segment| segment.view());
        // What has been looked at: up to here, or from here on.
        let (mut up_to, mut from) = (range.start, range.end);
        while up_to < from {
            let view = match direction {
                Direction::Forward => views.find(|view| view.next > up_to),
                Direction::Backward => views.rfind(|view| view.first() < from.min(view.next)),
            };
            match (direction, view) {
                (Direction::Forward, Some(view)) if view.first() <= up_to => {
                    up_to = view.next;
                    if scan.segment(&view.checked()?)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                (Direction::Forward, view) => {
                    let oldest = view.map_or(next, |view| view.first());
                    return Err(ReadError::Gone { oldest });
                }
                (Direction::Backward, Some(view)) if view.next >= from => {
                    from = view.first();
                    if scan.segment(&view.checked()?)?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                (Direction::Backward, _) => return Err(ReadError::Gone { oldest: from }),
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

impl Scan<'_> {
    fn segment(&mut self, view: &View) -> Result<ControlFlow<()>, ReadError> {
        let begin = view.last_block(|block| block.first <= self.range.start);
        let mut blocks = begin..view.blocks();
        loop {
            let at = match self.direction {
                Direction::Forward => blocks.next(),
                Direction::Backward => blocks.next_back(),
            };
            let Some(at) = at else { return Ok(ControlFlow::Continue(())) };
            let is_inside = view.block(at).first < self.range.end;
            if is_inside && view.may_have(at, &self.key) && self.block(view, at)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }

    fn block(&mut self, view: &View, at: usize) -> Result<ControlFlow<()>, ReadError> {
        let begin = view.block(at).offset;
        let bytes = view.block_bytes(at)?;
        let mut records = view.records(at, &bytes);
        let mut found = Vec::new();
        while records.rest_bytes() > 0 {
            let offset = begin + (bytes.len() - records.rest_bytes()) as u64;
            let record = records.take().map_err(|flaw| view.damaged(offset, flaw))?;
            if record.header().next() <= self.range.start {
                continue;
            }
            if record.header().first >= self.range.end {
                break;
            }
            let forward = self.record(&record, &mut found);
            if forward.map_err(|flaw| view.damaged(offset, flaw))?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        // Forward, none was kept.
        let is_done = found.iter().rev().any(|event| (self.visit)(event).is_break());
        Ok(if is_done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    }

    /// Shows the events that match, or keeps them if the last one comes first.
    fn record<'a>(
        &mut self,
        record: &EventRecord<'a>,
        found: &mut Vec<Event<'a>>,
    ) -> Result<ControlFlow<()>, Flaw> {
        for event in record.events() {
            let event = event.map_err(Flaw::Record)?;
            if !self.range.contains(&event.sequence) || !self.key.is_of(&event) {
                continue;
            }
            match self.direction {
                Direction::Backward => found.push(event),
                Direction::Forward if (self.visit)(&event).is_break() => {
                    return Ok(ControlFlow::Break(()));
                }
                Direction::Forward => {}
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
