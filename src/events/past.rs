//! What was: questions about a cell or an id, answered from the events about it.
//!
//! An event tells the whole cell after it. So what was in a cell after event S is what the last event about it up to S
//! tells; if there is none any more, what the first one after S found there; and if there is none either, what is there
//! now. No checkpoint has to be loaded, and nothing is added up. The rules of a cell are only in the events that set
//! them, which have a key of their own: a cell that sells all day is not searched for them.
//!
//! Where events are missing, because they were too old or a snapshot was installed in their place, nothing is concluded
//! from there being none.
//!
//! All of it may read the disk.

use std::ops::{ControlFlow, Range};
use std::sync::Arc;

use super::{Direction, EventLog, Key, ReadError};
use crate::protocol::event::{Counts, Event, EventBody, EventKind};
use crate::protocol::{CellHandle, Policy, ReservationId};

/// Clients' clocks may be ahead of the cluster's by so much: an id may be older than its own time says.
const SKEW_US: u64 = 5 * 60 * 1_000_000;

/// A cell as it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Was {
    /// What was in it.
    pub counts: Counts,
    /// Its rules.
    pub policy: Policy,
    /// The event that made it so; `None`: none that is still there.
    pub by: Option<u64>,
}

/// The events that can be read, and what the state is after them.
pub struct Past {
    events: Arc<EventLog>,
    next: u64,
    live: Option<(Counts, Policy)>,
}

impl Past {
    /// `next`: the number of the next event, before which all can be read. `live`: what is in the cell then that the
    /// questions are about, if they are about one.
    pub fn new(events: Arc<EventLog>, next: u64, live: Option<(Counts, Policy)>) -> Self {
        Self { events, next, live }
    }

    /// The number of the next event, when the question was asked.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// The number of the first event that is still there.
    pub fn oldest(&self) -> u64 {
        self.events.oldest()
    }

    /// The number after the last event up to a moment, in µs of the cluster's clock.
    ///
    /// # Errors
    /// See [`EventLog::find_known`].
    pub fn after_moment(&self, at_us: u64) -> Result<u64, ReadError> {
        self.events.find_known(at_us.saturating_add(1))
    }

    /// What was in a cell before the event `end`; `None`: it was not there.
    ///
    /// # Errors
    /// [`ReadError::Gone`]: it cannot be told without events that are missing. What is on disk is not in order.
    pub fn cell_before(&self, cell: CellHandle, end: u64) -> Result<Option<Was>, ReadError> {
        let key = Key::Cell(cell);
        let oldest = self.oldest();
        let (before, after) = (oldest..end.max(oldest), end..self.next);
        let told = |event: &Event<'_>| {
            let change = event.change?;
            Some((change.after, event.has_details, event.sequence))
        };
        let (last, is_all) = match self.find(key, before.clone(), Direction::Backward, told) {
            Err(ReadError::Gone { .. }) => (None, false),
            last => (last?, oldest == 1),
        };
        let (counts, has_details, by) = match last {
            Some((counts, has_details, by)) => (counts, has_details, Some(by)),
            // It was not there yet.
            None if is_all => return Ok(None),
            None => {
                let found = |event: &Event<'_>| {
                    // The event that makes a cell finds none.
                    let before = event.change?.before()?;
                    Some((event.kind != EventKind::CellDefined).then_some(before))
                };
                match self.find(key, after.clone(), Direction::Forward, found)? {
                    Some(None) => return Ok(None),
                    Some(Some(counts)) => (counts, true, None),
                    None => match self.live {
                        Some((counts, _)) => (counts, true, None),
                        None => return Ok(None),
                    },
                }
            }
        };
        let policy = match has_details {
            false => Policy::default(),
            true => self.policy_before(cell, before, after)?,
        };
        Ok(Some(Was { counts, policy, by }))
    }

    fn policy_before(
        &self,
        cell: CellHandle,
        before: Range<u64>,
        after: Range<u64>,
    ) -> Result<Policy, ReadError> {
        let key = Key::Rules(cell);
        let set = |event: &Event<'_>| match event.body {
            EventBody::Policy { before, after } => Some((before, after)),
            _ => None,
        };
        match self.find(key, before, Direction::Backward, set) {
            Ok(Some((_, policy))) => return Ok(policy),
            Ok(None) | Err(ReadError::Gone { .. }) => {}
            Err(error) => return Err(error),
        }
        if let Some((policy, _)) = self.find(key, after, Direction::Forward, set)? {
            return Ok(policy);
        }
        Ok(self.live.map(|(_, policy)| policy).unwrap_or_default())
    }

    /// Shows the latest events about a cell in a range, at most `count_max` of them and the newest first, until events
    /// are missing. `true`: these are all that there were.
    ///
    /// # Errors
    /// What is on disk is not in order.
    pub fn latest(
        &self,
        cell: CellHandle,
        range: Range<u64>,
        count_max: usize,
        mut visit: impl FnMut(&Event<'_>),
    ) -> Result<bool, ReadError> {
        let mut shown = 0;
        let range = range.start..range.end.min(self.next);
        let scan = self.events.scan(Key::Cell(cell), range, Direction::Backward, &mut |event| {
            if shown == count_max {
                return ControlFlow::Break(());
            }
            visit(event);
            shown += 1;
            ControlFlow::Continue(())
        });
        match scan {
            Ok(flow) => Ok(flow.is_continue()),
            Err(ReadError::Gone { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Shows all events about an id that are there and come before the event `end`, the oldest first. `true`: these are
    /// all that there were.
    ///
    /// # Errors
    /// What is on disk is not in order.
    pub fn life(
        &self,
        id: ReservationId,
        end: u64,
        mut visit: impl FnMut(&Event<'_>),
    ) -> Result<bool, ReadError> {
        let mut from = self.birth(&id)?;
        let mut is_all = self.events.is_known_before(from)?;
        loop {
            let scan = self.events.scan(Key::Id(id), from..end, Direction::Forward, &mut |event| {
                visit(event);
                ControlFlow::Continue(())
            });
            match scan {
                // What comes behind the gap is shown, too.
                Err(ReadError::Gone { oldest }) => (from, is_all) = (oldest, false),
                done => return done.map(|_| is_all),
            }
        }
    }

    /// Where events about an id can begin.
    fn birth(&self, id: &ReservationId) -> Result<u64, ReadError> {
        let oldest = self.oldest();
        let Some(born_ms) = id.born() else { return Ok(oldest) };
        let at_us = born_ms.saturating_mul(1_000).saturating_sub(SKEW_US);
        Ok(self.events.find(at_us)?.max(oldest))
    }

    /// The first or last event in a range that `pick` finds something in.
    fn find<T>(
        &self,
        key: Key,
        range: Range<u64>,
        direction: Direction,
        mut pick: impl FnMut(&Event<'_>) -> Option<T>,
    ) -> Result<Option<T>, ReadError> {
        let mut found = None;
        let _ = self.events.scan(key, range, direction, &mut |event| {
            found = pick(event);
            if found.is_some() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        })?;
        Ok(found)
    }
}
