//! What was: `why`, `asof`, `history`. They read the event log, which may wait for the disk, on a thread of their own.
//!
//! ```text
//! why W SKU [N]           what is in the cell, and the last events that made it so
//! asof SEQ|TIME W SKU     what was in the cell after an event, or at a moment
//! asof SEQ|TIME ID        what a reservation held then
//! history ID              all that has become of a reservation, a transfer or a stock write
//! ```
//!
//! How it is found: `events/past.rs`.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use super::answer::Value;
use super::commands::{check_name, no_cell, take_id};
use super::shared::Shared;
use super::words::escape;
use crate::events::{Past, ReadError, Was};
use crate::protocol::event::{Counts, Event, EventKind};
use crate::protocol::{CellHandle, ReservationId, limits};
use crate::world::Moment;

/// Events that `why` shows unless it is asked for others, and the most that it or `history` shows.
const SHOWN: usize = 20;
const SHOWN_MAX: usize = 1_000;
/// How long to wait until what is applied can be read.
const CATCH_UP: Duration = Duration::from_secs(10);

type Fields = Vec<(&'static str, Value)>;

/// What was, and how to say it.
pub(super) struct Told {
    shared: Arc<Shared>,
    past: Past,
}

impl Told {
    /// Waits until all that is applied can be read.
    pub async fn open(shared: &Arc<Shared>, cell: Option<CellHandle>) -> Result<Self, String> {
        let events = shared.replica.events().cloned();
        let events = events.ok_or("this node keeps no events (--events 0s); ask another one")?;
        let (next, live) = shared.replica.with_state(|state| {
            let details = cell.and_then(|cell| state.cells().details(cell));
            (state.next_event(), details.map(|details| (Counts::from(&details), details.policy)))
        });
        let mut reached = events.subscribe();
        let caught_up = timeout(CATCH_UP, reached.wait_for(|reached| reached.next >= next)).await;
        match caught_up {
            Ok(Ok(_)) => Ok(Self { shared: shared.clone(), past: Past::new(events, next, live) }),
            _ => Err("the disk does not take the events; see status".to_owned()),
        }
    }

    /// Does what may wait for the disk.
    pub async fn aside<T: Send + 'static>(
        self,
        deed: impl FnOnce(&Self) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let (done, answer) = oneshot::channel();
        let world = self.shared.world.clone();
        let body = async move {
            // The operator may be gone.
            let _ = done.send(deed(&self));
        };
        let spawned = world.threads.spawn("past", Box::pin(body));
        spawned.map_err(|error: io::Error| format!("no thread to look it up: {error}"))?;
        answer.await.unwrap_or_else(|_| Err("the node is stopping".to_owned()))
    }

    /// The number after the last event up to a point that an operator names: an event's number, or a moment.
    fn point(&self, text: &[u8]) -> Result<u64, String> {
        let text = std::str::from_utf8(text).unwrap_or_default();
        if let Ok(sequence) = text.parse::<u64>() {
            let next = self.past.next();
            return match sequence < next {
                true => Ok(sequence + 1),
                false => Err(format!("event {sequence} has not happened; the next is {next}")),
            };
        }
        let now = self.shared.replica.now();
        let at = Moment::parse(text, now).map_err(|_| {
            format!(
                "'{text}' is neither an event's number nor a moment: write one as in 2026-11-30T03:15:17Z, or how long ago \
                 it is, as in 15m"
            )
        })?;
        if at.0 > now.0 {
            return Err(format!("{text} has not come; the cluster's clock says {}", Moment(now.0)));
        }
        self.past.after_moment(at.0).map_err(said)
    }

    /// An event as an operator reads it, with names instead of handles.
    fn line(&self, event: &Event<'_>) -> String {
        let mut text = format!("{} {event}", Moment(event.at_us));
        let cells = self.shared.replica.cells();
        if let Some(change) = &event.change
            && let Some((warehouse, sku)) = cells.names(change.cell)
        {
            let names = format!("{} {}", escape(warehouse), escape(sku));
            // The first: what clients wrote comes behind it.
            text = text.replacen(&format!(" cell={}", change.cell.0), &format!(" {names}"), 1);
        }
        text
    }
}

fn said(error: ReadError) -> String {
    match error {
        ReadError::Gone { oldest } => format!(
            "this cannot be told without events before {oldest}, which are not on this node: they are older than events are \
             kept, or it was given a snapshot in their place; ask another node"
        ),
        error => error.to_string(),
    }
}

fn handle_of(shared: &Shared, warehouse: &[u8], sku: &[u8]) -> Result<CellHandle, String> {
    check_name("warehouse", warehouse, limits::WAREHOUSE_BYTES_MAX)?;
    check_name("SKU", sku, limits::SKU_BYTES_MAX)?;
    let found = shared.replica.cells().handle(warehouse, sku);
    found.ok_or_else(|| no_cell(warehouse, sku))
}

fn names(warehouse: &[u8], sku: &[u8]) -> Fields {
    vec![("warehouse", escape(warehouse).into()), ("sku", escape(sku).into())]
}

/// A cell's counters; those that are 0 with most cells only if they are not.
fn counted(was: &Was) -> Fields {
    let Counts { on_hand, reserved, committed, blocked, .. } = was.counts;
    let withheld = blocked.iter().sum::<i64>() + was.policy.buffer;
    let mut fields: Fields = vec![
        ("on_hand", on_hand.into()),
        ("reserved", reserved.into()),
        ("committed", committed.into()),
        ("available", (on_hand - reserved - committed - withheld).into()),
    ];
    let rest = Counts::NAMES.iter().zip(was.counts.all()).skip(3);
    let rest = rest.filter(|(_, units)| *units != 0);
    fields.extend(rest.map(|(name, units)| (*name, units.into())));
    fields
}

/// `why`.
pub(super) async fn why(
    shared: &Arc<Shared>,
    warehouse: &[u8],
    sku: &[u8],
    shown: Option<u64>,
) -> Result<Value, String> {
    let cell = handle_of(shared, warehouse, sku)?;
    let shown = shown.map_or(SHOWN, |shown| shown.clamp(1, SHOWN_MAX as u64) as usize);
    let head = names(warehouse, sku);
    let told = Told::open(shared, Some(cell)).await?;
    told.aside(move |told| told.why(cell, shown, head)).await
}

impl Told {
    fn why(&self, cell: CellHandle, shown: usize, mut fields: Fields) -> Result<Value, String> {
        let (past, mut first) = (&self.past, None::<Option<Counts>>);
        let told = self.latest(cell, 1..past.next(), shown, |event| {
            first = Some(event.change.and_then(|change| change.before()));
        });
        let (is_whole, mut lines) = told?;
        let was = past.cell_before(cell, past.next()).map_err(said)?;
        fields.extend(was.iter().flat_map(counted));
        fields.push(("as_of_event", (past.next() - 1).into()));
        fields.push(("is_whole_story", is_whole.into()));
        let before = first.map(Option::unwrap_or_default);
        lines.insert(
            0,
            match before {
                Some(Counts { on_hand, reserved, committed, .. }) => {
                    format!(
                        "before these: on_hand={on_hand} reserved={reserved} committed={committed}"
                    )
                }
                None => "no event about it is on this node".to_owned(),
            },
        );
        fields.push(("events", Value::Lines(lines)));
        Ok(Value::Object(fields))
    }

    /// The latest events about a cell in a range, the oldest first, and whether these are all that there were. Each is
    /// shown to `visit`, the newest first.
    pub fn latest(
        &self,
        cell: CellHandle,
        range: Range<u64>,
        shown: usize,
        mut visit: impl FnMut(&Event<'_>),
    ) -> Result<(bool, Vec<String>), String> {
        let mut lines = Vec::new();
        let is_all = self.past.latest(cell, range, shown, |event| {
            lines.push(self.line(event));
            visit(event);
        });
        lines.reverse();
        Ok((is_all.map_err(said)?, lines))
    }
}

/// `asof` of a cell.
pub(super) async fn cell_as_of(
    shared: &Arc<Shared>,
    point: &[u8],
    warehouse: &[u8],
    sku: &[u8],
) -> Result<Value, String> {
    let cell = handle_of(shared, warehouse, sku)?;
    let (point, mut fields) = (point.to_vec(), names(warehouse, sku));
    let told = Told::open(shared, Some(cell)).await?;
    told.aside(move |told| {
        let end = told.point(&point)?;
        fields.push(("as_of_event", (end - 1).into()));
        match told.past.cell_before(cell, end).map_err(said)? {
            Some(was) => {
                fields.extend(counted(&was));
                fields.push(("since_event", was.by.into()));
            }
            None => fields.push(("there", false.into())),
        }
        Ok(Value::Object(fields))
    })
    .await
}

/// What events say of a reservation, a transfer or a write.
#[derive(Default)]
struct Life {
    lines: Vec<String>,
    /// By cell: reserved, committed, fulfilled.
    units: BTreeMap<u32, [i64; 3]>,
    last: Option<EventKind>,
    deadline: Option<u64>,
    is_cut: bool,
    /// No event of it is missing on this node.
    is_whole: bool,
}

impl Life {
    fn take(&mut self, event: &Event<'_>) {
        // A refusal has changed nothing.
        if event.kind != EventKind::Refused || self.last.is_none() {
            self.last = Some(event.kind);
        }
        self.deadline = event.deadline.map(|deadline| deadline.0).or(self.deadline);
        if let Some(change) = event.change.filter(|_| event.kind.is_of_hold()) {
            let units = self.units.entry(change.cell.0).or_default();
            units[0] += change.delta.reserved;
            units[1] += change.delta.committed;
            units[2] -= change.delta.on_hand;
        }
    }
}

impl Told {
    /// The life of an id before the event `end`.
    fn life(&self, id: ReservationId, end: u64) -> Result<Life, String> {
        let mut life = Life::default();
        let told = self.past.life(id, end, |event| {
            life.take(event);
            match life.lines.len() < SHOWN_MAX {
                true => life.lines.push(self.line(event)),
                false => life.is_cut = true,
            }
        });
        life.is_whole = told.map_err(said)?;
        Ok(life)
    }

    /// `None`: the beginning is missing, and with it what the rest is added to.
    fn units(&self, life: &Life) -> Option<Value> {
        if !life.is_whole {
            return None;
        }
        let cells = self.shared.replica.cells();
        let row = |(cell, [reserved, committed, fulfilled]): (&u32, &[i64; 3])| {
            let names = cells.names(CellHandle(*cell)).unwrap_or_default();
            vec![
                ("warehouse", escape(names.0).into()),
                ("sku", escape(names.1).into()),
                ("reserved", (*reserved).into()),
                ("committed", (*committed).into()),
                ("fulfilled", (*fulfilled).into()),
            ]
        };
        Some(Value::Table(life.units.iter().map(row).collect()))
    }
}

impl Life {
    /// What became of it last.
    fn last(&self, id: &ReservationId) -> Result<&'static str, String> {
        let last = self.last.map(EventKind::name);
        last.ok_or_else(|| match self.is_whole {
            true => format!("no event about {id} up to there: it was not there"),
            false => format!(
                "no event about {id} is on this node, which lacks some of those since its time; ask another node"
            ),
        })
    }
}

/// `asof` of a reservation.
pub(super) async fn hold_as_of(
    shared: &Arc<Shared>,
    point: &[u8],
    id: &[u8],
) -> Result<Value, String> {
    let (id, point) = (take_id(id)?, point.to_vec());
    let told = Told::open(shared, None).await?;
    told.aside(move |told| {
        let end = told.point(&point)?;
        let life = told.life(id, end)?;
        let last = life.last(&id)?;
        Ok(Value::Object(vec![
            ("id", id.to_string().into()),
            ("as_of_event", (end - 1).into()),
            ("is_whole_story", life.is_whole.into()),
            ("last", last.into()),
            ("deadline", life.deadline.into()),
            ("units", told.units(&life).into()),
        ]))
    })
    .await
}

/// `history`.
pub(super) async fn history(shared: &Arc<Shared>, id: &[u8]) -> Result<Value, String> {
    let id = take_id(id)?;
    let told = Told::open(shared, None).await?;
    told.aside(move |told| {
        let life = told.life(id, told.past.next())?;
        let last = life.last(&id)?;
        Ok(Value::Object(vec![
            ("id", id.to_string().into()),
            ("last", last.into()),
            ("deadline", life.deadline.into()),
            ("is_whole_story", life.is_whole.into()),
            ("more", life.is_cut.into()),
            ("units", told.units(&life).into()),
            ("events", Value::Lines(life.lines)),
        ]))
    })
    .await
}
