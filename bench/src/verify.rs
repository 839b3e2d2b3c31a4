//! The verification after a run: is everything there that was acknowledged, and not more than that?
//!
//! 1. Every reservation that was acknowledged as granted, and every one that was never answered, is
//!    read by id. Lines, state and deadline must fit what was acknowledged:
//!
//!    ```text
//!    acknowledged as    must be now
//!    granted            ACTIVE, or EXPIRED if its deadline has passed
//!    confirming         ACTIVE, CONFIRMED, or EXPIRED if its deadline has passed
//!    releasing          ACTIVE, RELEASED, or EXPIRED if its deadline has passed
//!    confirmed          CONFIRMED
//!    released           RELEASED
//!    expired            EXPIRED
//!    never answered     anything; reported apart
//!    ```
//!
//! 2. Every cell is read. With `held` the sum of the units that the reservations read in step 1 hold
//!    (ACTIVE or CONFIRMED), on each cell:
//!    - `on_hand` is what the harness received into it, or what the last message of its feed states;
//!    - oversold by ids: `held ≤ on_hand`; oversold by counters: `reserved + committed ≤ on_hand`;
//!    - `committed` is at least what was acknowledged as confirmed, and at most that and what was
//!      never answered; `reserved` is at most what was granted and not known to have ended;
//!    - no counter is negative, and `available = on_hand − reserved − committed`.
//!
//! No request of the run is under way any more, so holdings can only shrink between the two steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use bytes::{BufMut, Bytes, BytesMut};
use stockd_protocol::{
    CellCounters, CellHandle, CellRef, Code, Op, OpFlags, Outcome, Reader, ReplyPrefix,
    ReservationState, Truncated, UnixMillis, take_outcome,
};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use crate::book::{Book, Mark};
use crate::link::{LinkError, Nodes};
use crate::plan::{FEED_UNITS_MORE, Feed, Pick, stated};
use crate::progress::Progress;
use crate::session::Session;

/// What the verification found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    /// Reservations read.
    pub ids_checked: u64,
    /// Cells read.
    pub cells_checked: u64,
    /// Acknowledged, and NOT_FOUND now.
    pub ids_not_found: u64,
    /// Acknowledged, and in a state that does not fit.
    pub ids_wrong_state: u64,
    /// Acknowledged, and with other lines or an earlier deadline than asked for.
    pub ids_wrong_body: u64,
    /// Units granted beyond the stock, by counters or by ids, over all cells.
    pub units_oversold: u64,
    /// Cells whose counters do not fit what was acknowledged.
    pub cells_wrong: u64,
    /// Never answered: reserves that took effect, and that did not.
    pub unknown_granted: u64,
    /// See `unknown_granted`.
    pub unknown_absent: u64,
    /// Confirms and releases that were never answered.
    pub unknown_steps: u64,
    /// The first few contradictions, in words.
    pub examples: Vec<String>,
}

impl Findings {
    /// Acknowledged reservations that are not there as they were acknowledged.
    pub const fn lost(&self) -> u64 {
        self.ids_not_found + self.ids_wrong_state + self.ids_wrong_body
    }

    /// Nothing contradicts the promises.
    pub const fn passed(&self) -> bool {
        self.lost() == 0 && self.units_oversold == 0 && self.cells_wrong == 0
    }

    fn example(&mut self, what: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(what);
        }
    }

    fn merge(&mut self, other: Self) {
        self.ids_checked += other.ids_checked;
        self.ids_not_found += other.ids_not_found;
        self.ids_wrong_state += other.ids_wrong_state;
        self.ids_wrong_body += other.ids_wrong_body;
        self.unknown_granted += other.unknown_granted;
        self.unknown_absent += other.unknown_absent;
        self.unknown_steps += other.unknown_steps;
        for example in other.examples {
            self.example(example);
        }
    }
}

/// What to verify.
#[derive(Debug)]
pub struct Verification {
    /// One per stream of the run.
    pub books: Vec<Book>,
    /// Units received into each cell.
    pub stock: u32,
    /// The cells' handles.
    pub handles: Vec<u32>,
    /// Read one in so many reservations; 1 reads all.
    pub sample: u64,
}

const EXAMPLES_MAX: usize = 10;
const SESSIONS_MAX: usize = 8;
const FRAMES_PER_WINDOW: usize = 4;
const CELLS_PER_FRAME: usize = 4_096;
/// Keeps replies well below the largest frame: 4,096 one-line reservations are 180 KiB.
const REPLY_BYTES_MAX: usize = 800 << 10;
const READS_PER_FRAME_MAX: usize = 4_096;

/// Units per cell, added up by all sessions. Relaxed: they are read after the sessions are joined.
#[derive(Debug)]
struct Sums {
    /// Held by reservations as they were read.
    held: Vec<AtomicU32>,
    /// Acknowledged as confirmed.
    confirmed: Vec<AtomicU32>,
    /// Confirmed perhaps: a confirm or reserve was never answered.
    confirmed_perhaps: Vec<AtomicU32>,
    /// Granted and not known to have ended.
    reserved_perhaps: Vec<AtomicU32>,
    /// The last message of the feed that was acknowledged.
    fed: Vec<AtomicU64>,
    /// The last one that was sent, perhaps in vain.
    fed_perhaps: Vec<AtomicU64>,
}

impl Sums {
    fn new(cells: usize) -> Self {
        let zeros = || (0..cells).map(|_| AtomicU32::new(0)).collect();
        Self {
            held: zeros(),
            confirmed: zeros(),
            confirmed_perhaps: zeros(),
            reserved_perhaps: zeros(),
            fed: (0..cells).map(|_| AtomicU64::new(0)).collect(),
            fed_perhaps: (0..cells).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    fn add(sums: &[AtomicU32], picks: &[Pick]) {
        for (cell, quantity) in picks {
            sums[*cell as usize].fetch_add(*quantity, Ordering::Relaxed);
        }
    }

    /// A message of a feed.
    fn fed(&self, mark: Mark, feed: Feed) {
        let sums = if mark == Mark::Fed { &self.fed } else { &self.fed_perhaps };
        sums[feed.cell as usize].fetch_max(feed.sequence, Ordering::Relaxed);
    }

    fn acknowledged(&self, mark: Mark, picks: &[Pick]) {
        match mark {
            Mark::Confirmed => Self::add(&self.confirmed, picks),
            Mark::Confirming => {
                Self::add(&self.confirmed_perhaps, picks);
                Self::add(&self.reserved_perhaps, picks);
            }
            Mark::Granted | Mark::Releasing | Mark::Unanswered => {
                Self::add(&self.reserved_perhaps, picks);
            }
            Mark::Refused | Mark::Released | Mark::Expired | Mark::Fed | Mark::Odd => {}
        }
    }
}

impl Verification {
    /// Reads everything and compares.
    ///
    /// # Errors
    /// No node answered; nothing is known then.
    pub async fn run(self, nodes: &Nodes, quiet: bool) -> Result<Findings, LinkError> {
        let sums = Arc::new(Sums::new(self.handles.len()));
        let reads = self.books.iter().map(|book| book.marks.len() as u64).sum();
        let progress = Arc::new(Progress::new("verify", reads, quiet));
        let done = Arc::new(AtomicU64::new(0));
        let permits = Arc::new(Semaphore::new(SESSIONS_MAX));
        let mut checks = JoinSet::new();
        for book in self.books {
            let check = Check {
                book,
                sums: sums.clone(),
                sample: self.sample,
                progress: progress.clone(),
                done: done.clone(),
                findings: Findings::default(),
            };
            let (permits, session) = (permits.clone(), Session::new(nodes.clone()));
            checks.spawn(async move {
                let _permit = permits.acquire_owned().await.expect("it is never closed");
                check.run(session).await
            });
        }
        let mut findings = Findings::default();
        while let Some(check) = checks.join_next().await {
            findings.merge(check.expect("a check does not panic")?);
        }
        let cells = Cells { handles: &self.handles, stock: self.stock, sums: &sums };
        cells.check(&mut Session::new(nodes.clone()), &mut findings).await?;
        Ok(findings)
    }
}

/// The check of one stream's reservations.
struct Check {
    book: Book,
    sums: Arc<Sums>,
    sample: u64,
    progress: Arc<Progress>,
    done: Arc<AtomicU64>,
    findings: Findings,
}

/// The answer to one READ_RESERVATION.
struct Seen<'a> {
    outcome: Outcome<'a>,
    server_now: UnixMillis,
}

impl Check {
    async fn run(mut self, mut session: Session) -> Result<Findings, LinkError> {
        let lines_max = self.book.plan.lines_max();
        let reads = (REPLY_BYTES_MAX / (28 + 8 * lines_max)).min(READS_PER_FRAME_MAX);
        let mut picks = Vec::new();
        let mut counter = 0;
        while counter < self.book.marks.len() as u64 {
            let mut frames: Vec<Vec<u64>> = Vec::new();
            while frames.len() < FRAMES_PER_WINDOW && counter < self.book.marks.len() as u64 {
                frames.push(self.gather(&mut counter, reads, &mut picks));
            }
            frames.retain(|counters| !counters.is_empty());
            let bodies: Vec<Bytes> = frames.iter().map(|counters| self.encode(counters)).collect();
            let replies = session.exchange(&bodies).await?;
            for (counters, reply) in frames.iter().zip(&replies) {
                self.compare_all(counters, reply, &mut picks)
                    .map_err(|_| LinkError("a reply to a read is cut short".into()))?;
            }
        }
        Ok(self.findings)
    }

    /// The next counters to read; every one passed over is added to the sums as acknowledged.
    fn gather(&mut self, counter: &mut u64, reads: usize, picks: &mut Vec<Pick>) -> Vec<u64> {
        let mut counters = Vec::with_capacity(reads);
        let first = *counter;
        while counters.len() < reads && *counter < self.book.marks.len() as u64 {
            let mark = self.book.marks[*counter as usize];
            if let Some(feed) = self.book.plan.feed(self.book.stream, *counter) {
                self.sums.fed(mark, feed);
            } else if mark != Mark::Refused && mark != Mark::Odd {
                self.book.plan.lines(self.book.stream, *counter, picks);
                self.sums.acknowledged(mark, picks);
                if counter.is_multiple_of(self.sample) || mark == Mark::Unanswered {
                    counters.push(*counter);
                }
            }
            *counter += 1;
        }
        let done = self.done.fetch_add(*counter - first, Ordering::Relaxed);
        self.progress.at(done + *counter - first, "reservations");
        counters
    }

    fn encode(&self, counters: &[u64]) -> Bytes {
        let mut out = BytesMut::new();
        out.put_u32_le(counters.len() as u32);
        for counter in counters {
            let id = self.book.ids.id(*counter);
            Op::encode_read_reservation(&mut out, OpFlags::default(), id);
        }
        out.freeze()
    }

    fn compare_all(
        &mut self,
        counters: &[u64],
        reply: &[u8],
        picks: &mut Vec<Pick>,
    ) -> Result<(), Truncated> {
        let mut reader = Reader::new(reply);
        let server_now = ReplyPrefix::take(&mut reader)?.server_now;
        if reader.u32()? as usize != counters.len() {
            return Err(Truncated);
        }
        for counter in counters {
            let outcome = take_outcome(&mut reader)?;
            self.book.plan.lines(self.book.stream, *counter, picks);
            self.compare(*counter, &Seen { outcome, server_now }, picks)?;
        }
        Ok(())
    }

    fn compare(
        &mut self,
        counter: u64,
        seen: &Seen<'_>,
        picks: &mut [Pick],
    ) -> Result<(), Truncated> {
        let mark = self.book.marks[counter as usize];
        let id = self.book.ids.id(counter);
        self.findings.ids_checked += 1;
        if matches!(mark, Mark::Confirming | Mark::Releasing) {
            self.findings.unknown_steps += 1;
        }
        if seen.outcome.code == Code::NOT_FOUND {
            if mark == Mark::Unanswered {
                self.findings.unknown_absent += 1;
            } else {
                self.findings.ids_not_found += 1;
                self.findings.example(format!("{id}: acknowledged as {mark:?}, now NOT_FOUND"));
            }
            return Ok(());
        }
        let Some(state) = seen.outcome.state().filter(|_| seen.outcome.code.is_ok()) else {
            self.findings.ids_wrong_state += 1;
            self.findings.example(format!("{id}: the read was answered {}", seen.outcome.code));
            return Ok(());
        };
        if mark == Mark::Unanswered {
            self.findings.unknown_granted += 1;
        }
        let mut body = Reader::new(seen.outcome.body);
        let (created, deadline) = (body.u64()?, body.u64()?);
        if matches!(state, ReservationState::Active | ReservationState::Confirmed) {
            Sums::add(&self.sums.held, picks);
        }
        if !fits(mark, state, deadline <= seen.server_now.0) {
            self.findings.ids_wrong_state += 1;
            let state = state.name();
            self.findings.example(format!("{id}: acknowledged as {mark:?}, now {state}"));
        }
        let fate = self.book.plan.fate(self.book.stream, counter);
        let ttl_ms = u64::from(self.book.plan.ttl_ms(fate, id.millis()));
        if deadline < created + ttl_ms || !self.same_lines(&mut body, picks)? {
            self.findings.ids_wrong_body += 1;
            self.findings.example(format!("{id}: other lines or an earlier deadline"));
        }
        Ok(())
    }

    /// The lines are those asked for; the same cell on two lines may come as one or as two.
    fn same_lines(&self, body: &mut Reader<'_>, picks: &mut [Pick]) -> Result<bool, Truncated> {
        let count = body.u32()? as usize;
        if let [(cell, quantity)] = picks {
            let handle = self.book.plan.handles[*cell as usize];
            return Ok(count == 1 && body.u32()? == handle && body.u32()? == *quantity);
        }
        let mut lines = Vec::with_capacity(picks.len());
        for _ in 0..count {
            lines.push((body.u32()?, body.u32()?));
        }
        for pick in &mut *picks {
            pick.0 = self.book.plan.handles[pick.0 as usize];
        }
        Ok(summed(&mut lines) == summed(picks))
    }
}

fn summed(lines: &mut [Pick]) -> Vec<Pick> {
    lines.sort_unstable();
    let cells = lines.chunk_by(|a, b| a.0 == b.0);
    cells.map(|same| (same[0].0, same.iter().map(|line| line.1).sum())).collect()
}

/// The table at the top of this module.
fn fits(mark: Mark, state: ReservationState, past_deadline: bool) -> bool {
    use ReservationState::{Active, Confirmed, Expired, Released};
    match (mark, state) {
        (Mark::Unanswered, _)
        | (Mark::Granted | Mark::Confirming | Mark::Releasing, Active)
        | (Mark::Confirming | Mark::Confirmed, Confirmed)
        | (Mark::Releasing | Mark::Released, Released) => true,
        (Mark::Granted | Mark::Confirming | Mark::Releasing | Mark::Expired, Expired) => {
            past_deadline
        }
        _ => false,
    }
}

/// The check of the cells.
struct Cells<'a> {
    handles: &'a [u32],
    stock: u32,
    sums: &'a Sums,
}

impl Cells<'_> {
    async fn check(&self, session: &mut Session, findings: &mut Findings) -> Result<(), LinkError> {
        let frames: Vec<&[u32]> = self.handles.chunks(CELLS_PER_FRAME).collect();
        let mut cell = 0;
        for window in frames.chunks(FRAMES_PER_WINDOW) {
            let bodies: Vec<Bytes> = window.iter().map(|handles| encode_cells(handles)).collect();
            for reply in session.exchange(&bodies).await? {
                self.compare_all(&mut cell, &reply, findings)
                    .map_err(|_| LinkError("a reply to a read is cut short".into()))?;
            }
        }
        if cell != self.handles.len() {
            return Err(LinkError("a read of cells left some out".into()));
        }
        Ok(())
    }

    fn compare_all(
        &self,
        cell: &mut usize,
        reply: &[u8],
        findings: &mut Findings,
    ) -> Result<(), Truncated> {
        let mut reader = Reader::new(reply);
        ReplyPrefix::take(&mut reader)?;
        reader.u32()?;
        let outcome = take_outcome(&mut reader)?;
        let mut body = Reader::new(outcome.body);
        while !body.is_empty() {
            let (handle, found) = (body.u32()?, body.u32()?);
            let counters = CellCounters::take(&mut body)?;
            if self.handles.get(*cell) != Some(&handle) {
                return Err(Truncated);
            }
            if found == 1 {
                self.compare(*cell, &counters, findings);
            } else {
                findings.cells_wrong += 1;
                findings.example(format!("cell {handle}: it is gone"));
            }
            *cell += 1;
        }
        Ok(())
    }

    fn compare(&self, cell: usize, counters: &CellCounters, findings: &mut Findings) {
        let sum = |sums: &[AtomicU32]| i64::from(sums[cell].load(Ordering::Relaxed));
        let stock = i64::from(self.stock);
        let confirmed = sum(&self.sums.confirmed);
        let confirmed_max = confirmed + sum(&self.sums.confirmed_perhaps);
        let reserved_max = sum(&self.sums.reserved_perhaps);
        let taken = counters.reserved + counters.committed;
        let fed = self.sums.fed[cell].load(Ordering::Relaxed);
        let fed_perhaps = self.sums.fed_perhaps[cell].load(Ordering::Relaxed);
        let said = |sequence| if sequence == 0 { stock } else { stated(self.stock, sequence) };
        // Of two that compete, the later one counts, if it came.
        let is_stated = counters.on_hand == said(fed)
            || fed_perhaps > fed && counters.on_hand == said(fed_perhaps);
        let is_fed = fed.max(fed_perhaps) > 0;
        let most = if is_fed { stock + FEED_UNITS_MORE as i64 } else { stock };
        let oversold = (taken.max(sum(&self.sums.held)) - most).max(0);
        findings.cells_checked += 1;
        findings.units_oversold += oversold as u64;
        let fits = is_stated
            && (confirmed..=confirmed_max).contains(&counters.committed)
            && (0..=reserved_max).contains(&counters.reserved)
            && counters.available == counters.on_hand - taken;
        if !fits {
            findings.cells_wrong += 1;
        }
        if !fits || oversold > 0 {
            findings.example(format!(
                "cell {}: {counters:?}; received {stock}, acknowledged as confirmed {confirmed}, \
                 at most {reserved_max} reserved, oversold {oversold}",
                self.handles[cell]
            ));
        }
    }
}

fn encode_cells(handles: &[u32]) -> Bytes {
    let cells: Vec<CellRef<'_>> =
        handles.iter().map(|handle| CellRef::Handle(CellHandle(*handle))).collect();
    let mut out = BytesMut::new();
    out.put_u32_le(1);
    Op::encode_read_cells(&mut out, OpFlags::default(), &cells);
    out.freeze()
}
