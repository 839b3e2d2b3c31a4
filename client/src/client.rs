//! The client: one method per operation, and the loop that retries them.
//!
//! ```text
//! attempt ends with          doubt   then
//! reply                              done
//! refusal of the frame               done
//! NOT_LEADER                         next node, at once if it is named; RETRY flag
//! NO_QUORUM                          pause; RETRY flag; next node, for this one may be cut off
//! DISK_FULL                          pause; RETRY flag
//! BUSY                               pause for as long as the server says
//! OUTCOME_UNKNOWN             yes    pause; RETRY flag
//! connection lost             yes    next node; RETRY flag
//! timeout                     yes    RETRY flag; next node if this one brought nothing meanwhile
//! not sent                           next node
//! ```
//!
//! A doubt stays until a reply settles it. ID_TOO_OLD and the refusal of a whole frame settle nothing
//! about an earlier attempt. BUSY sets no flag: the server looked at nothing yet, and
//! a retry that says it may have been executed must go through the log even when all is sold.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use stockd_protocol::{
    CellCounters, CellHandle, CellRef, Code, ErrorReply, Frame, Kind, Op, OpId, Opcode, Reader,
    ReplyPrefix, ReservationId, UnixMillis, take_outcome,
};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::error::{Error, Refusal, Why};
use crate::ids::id_parts;
use crate::link::{Fate, Link};
use crate::listing::{CellPage, ListCells};
use crate::options::Options;
use crate::outcome::{
    BadReply, Cell, Confirmed, Defined, Extended, Granted, Outcome, Read, Received, Released,
    Reservation, SkuPage, decode,
};
use crate::prolong::Prolong;
use crate::raw;
use crate::request::{self, Batch, Consistency, Encoded, Reserve};
use crate::route::Route;
use crate::writes::{StockWrite, encode_checked};

/// Most retries in a row without a pause, after which the nodes' advice is going in circles.
const HOPS_MAX: u32 = 3;

/// A connection to a cluster, whichever node leads. Share it by reference or in an [`Arc`]: all
/// calls of all tasks travel on one connection.
pub struct Client {
    options: Options,
    current: Mutex<Current>,
    /// Held while connecting, so that a thousand waiting calls make one connection.
    connecting: tokio::sync::Mutex<()>,
    /// Rounds of connecting that have failed.
    rounds_failed: AtomicU64,
}

struct Current {
    route: Route,
    link: Option<Arc<Link>>,
}

/// What to do after an attempt without a result.
struct Again {
    why: Why,
    /// The attempt may have been executed.
    doubt: bool,
    /// The next one must say that it is a retry.
    mark: bool,
    /// Waiting would gain nothing.
    at_once: bool,
}

enum Attempt {
    Answered(Frame),
    Failed(Error),
    Again(Again),
}

impl Client {
    /// Connects to the first node that answers and on to the leader. `options` may be one address,
    /// several, or [`Options`].
    ///
    /// # Errors
    /// [`Error::Retry`] if no node answers within the request timeout; [`Error::Refused`] if one does
    /// not want this client, for example with VERSION.
    pub async fn connect(options: impl Into<Options>) -> Result<Self, Error> {
        let options = options.into();
        let route = Route::new(&options.addresses);
        let client = Self {
            options,
            current: Mutex::new(Current { route, link: None }),
            connecting: tokio::sync::Mutex::new(()),
            rounds_failed: AtomicU64::new(0),
        };
        let deadline = Instant::now() + client.options.request_timeout;
        let mut pause = client.options.retry_pause_min;
        loop {
            let why = match timeout_at(deadline, client.link()).await {
                Ok(Ok(_)) => return Ok(client),
                Ok(Err(Error::Retry(why))) => why,
                Ok(Err(error)) => return Err(error),
                Err(_) => Why::Unreachable,
            };
            client
                .pause(&mut pause, Duration::ZERO, deadline)
                .await
                .map_err(|()| Error::Retry(why))?;
        }
    }

    /// A new reservation id: a UUIDv7 of this machine's time and 74 random bits. Make one for each
    /// cart and keep it for every retry.
    pub fn new_id(&self) -> ReservationId {
        let (millis, random) = id_parts(&*self.options.ids);
        ReservationId::from_parts(millis, random)
    }

    /// A new id for a stock write, like [`new_id`](Self::new_id).
    pub fn new_op_id(&self) -> OpId {
        let (millis, random) = id_parts(&*self.options.ids);
        OpId::from_parts(millis, random)
    }

    /// Where this client is connected, if it is.
    pub fn connected_to(&self) -> Option<String> {
        self.lock()
            .link
            .as_ref()
            .filter(|link| link.is_open())
            .map(|link| link.address().to_owned())
    }

    /// The cluster's id as the node said that this client is connected to; 0 if that node has joined none yet.
    pub fn cluster_id(&self) -> Option<u64> {
        self.lock().link.as_ref().map(|link| link.cluster_id())
    }

    /// Makes a cell, or learns the handle of one that is there.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn define(
        &self,
        warehouse: impl AsRef<[u8]>,
        sku: impl AsRef<[u8]>,
    ) -> Result<Defined, Error> {
        let encode = |out: &mut _| request::define(out, warehouse.as_ref(), sku.as_ref());
        match self.one(Encoded::op(Opcode::Define, encode)?).await? {
            Outcome::Defined(defined) => Ok(defined),
            _ => unreachable!("a define is decoded as Defined"),
        }
    }

    /// Adds `quantity` units, once per `op_id`; makes the cell if it is named and not there. With a note
    /// or a `not_after` it is [`write`](Self::write) of a [`StockWrite::receive`].
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn receive(
        &self,
        op_id: OpId,
        cell: CellRef<'_>,
        quantity: u32,
    ) -> Result<Received, Error> {
        let write = StockWrite::receive(op_id, cell, quantity);
        match self.one(Encoded::op(write.opcode(), |out| write.encode(out))?).await? {
            Outcome::Received(received) => Ok(received),
            _ => unreachable!("a receive is decoded as Received"),
        }
    }

    /// Takes all units of a cart, or none.
    ///
    /// # Errors
    /// See [`Error`]; NO_STOCK lists every short line in [`Refusal::short`].
    pub async fn reserve(&self, reserve: &Reserve<'_>) -> Result<Granted, Error> {
        match self.one(Encoded::op(Opcode::Reserve, |out| reserve.encode(out))?).await? {
            Outcome::Granted(granted) => Ok(granted),
            _ => unreachable!("a reserve is decoded as Granted"),
        }
    }

    /// Promises a reservation's units to an order. Having been confirmed before is success.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn confirm(&self, id: ReservationId) -> Result<Confirmed, Error> {
        self.confirm_by(id, None).await
    }

    /// Like [`confirm`](Self::confirm), and once the cluster's clock has passed `not_after`, the
    /// request can never take effect any more.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn confirm_not_after(
        &self,
        id: ReservationId,
        not_after: UnixMillis,
    ) -> Result<Confirmed, Error> {
        self.confirm_by(id, Some(not_after)).await
    }

    async fn confirm_by(
        &self,
        id: ReservationId,
        not_after: Option<UnixMillis>,
    ) -> Result<Confirmed, Error> {
        let encode = |out: &mut _| request::confirm(out, id, not_after);
        match self.one(Encoded::op(Opcode::Confirm, encode)?).await? {
            Outcome::Confirmed(confirmed) => Ok(confirmed),
            _ => unreachable!("a confirm is decoded as Confirmed"),
        }
    }

    /// Gives a reservation's units back. An id that the cluster does not know is fenced: a reserve
    /// under it that is still on its way will be refused.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn release(&self, id: ReservationId) -> Result<Released, Error> {
        let encode = |out: &mut _| request::release(out, id);
        match self.one(Encoded::op(Opcode::Release, encode)?).await? {
            Outcome::Released(released) => Ok(released),
            _ => unreachable!("a release is decoded as Released"),
        }
    }

    /// Moves a reservation's deadline to at least `ttl` from now.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn extend(&self, id: ReservationId, ttl: Duration) -> Result<Extended, Error> {
        self.prolong(&Prolong::extend(id, ttl)).await
    }

    /// Reads up to 8,192 cells, each at one moment, not all at the same; `None` where there is no
    /// such cell.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_cells(
        &self,
        cells: &[CellRef<'_>],
        consistency: Consistency,
    ) -> Result<Read<Vec<Option<Cell>>>, Error> {
        let encode = |out: &mut _| request::read_cells(out, cells, consistency);
        match self.one(Encoded::op(Opcode::ReadCells, encode)?).await? {
            Outcome::Cells(read) if read.value.len() == cells.len() => Ok(read),
            Outcome::Cells(_) => Err(Error::Retry(Why::BadReply)),
            _ => unreachable!("a read of cells is decoded as Cells"),
        }
    }

    /// Reads one cell; `None` if there is no such cell.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_cell(
        &self,
        cell: CellRef<'_>,
        consistency: Consistency,
    ) -> Result<Read<Option<Cell>>, Error> {
        let Read { age, index, server_now, value } = self.read_cells(&[cell], consistency).await?;
        Ok(Read { age, index, server_now, value: value[0] })
    }

    /// Reads a reservation; `None` if no reservation has this id, or none that is still remembered.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_reservation(
        &self,
        id: ReservationId,
        consistency: Consistency,
    ) -> Result<Option<Read<Reservation>>, Error> {
        let encode = |out: &mut _| request::read_reservation(out, id, consistency);
        match self.one(Encoded::op(Opcode::ReadReservation, encode)?).await {
            Ok(Outcome::Reservation(read)) => Ok(Some(read)),
            Ok(_) => unreachable!("a read of a reservation is decoded as Reservation"),
            Err(error) if error.code() == Some(Code::NOT_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Reads a page of a SKU's cells, after the cell `after`, and the sum over all its warehouses.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_sku(
        &self,
        sku: impl AsRef<[u8]>,
        after: Option<CellHandle>,
        consistency: Consistency,
    ) -> Result<Read<SkuPage>, Error> {
        let encode = |out: &mut _| request::read_sku(out, sku.as_ref(), after, consistency);
        match self.one(Encoded::op(Opcode::ReadSku, encode)?).await? {
            Outcome::Sku(read) => Ok(read),
            _ => unreachable!("a read of a SKU is decoded as Sku"),
        }
    }

    /// Reads the sum of a SKU over all its warehouses, at the cost of one cell.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_sku_total(
        &self,
        sku: impl AsRef<[u8]>,
        consistency: Consistency,
    ) -> Result<Read<CellCounters>, Error> {
        let page = self.read_sku(sku, Some(CellHandle::END), consistency).await?;
        let Read { age, index, server_now, value } = page;
        Ok(Read { age, index, server_now, value: value.total })
    }

    /// Lists cells by the beginning of their names: one page.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn list_cells(
        &self,
        list: &ListCells,
        consistency: Consistency,
    ) -> Result<Read<CellPage>, Error> {
        let op = Op::ListCells(list.listing());
        let encode = |out: &mut _| encode_checked(&op, &consistency.terms(), out);
        match self.one(Encoded::op(Opcode::ListCells, encode)?).await? {
            Outcome::List(read) => Ok(read),
            _ => unreachable!("a list of cells is decoded as List"),
        }
    }

    /// Asks the node whether it is there, and gives its clock.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn ping(&self) -> Result<UnixMillis, Error> {
        let encode = |out: &mut _| {
            Op::encode_ping(out);
            Ok(())
        };
        match self.one(Encoded::op(Opcode::Ping, encode)?).await? {
            Outcome::Pong(read) => Ok(read.server_now),
            _ => unreachable!("a ping is decoded as Pong"),
        }
    }

    /// Nodes, roles and progress as the asked node sees them: JSON.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn cluster_status(&self) -> Result<String, Error> {
        let encode = |out: &mut _| {
            Op::encode_cluster_status(out);
            Ok(())
        };
        match self.one(Encoded::op(Opcode::ClusterStatus, encode)?).await? {
            Outcome::Status(read) => Ok(read.value),
            _ => unreachable!("a status is decoded as Status"),
        }
    }

    /// Sends a batch. The results are in the order of its operations; a refusal of one says nothing
    /// about the others. A batch that is retried is retried whole: what was executed before comes
    /// back as replay.
    ///
    /// # Errors
    /// See [`Error`]: it then concerns the whole batch.
    pub async fn batch(&self, batch: Batch) -> Result<Vec<Result<Outcome, Refusal>>, Error> {
        self.call(Encoded::batch(batch)?).await
    }

    pub(crate) async fn one(&self, request: Encoded) -> Result<Outcome, Error> {
        let mut results = self.call(request).await?;
        let result = results.pop().expect("decoding gives one result per operation");
        Ok(result?)
    }

    async fn call(&self, mut request: Encoded) -> Result<Vec<Result<Outcome, Refusal>>, Error> {
        let deadline = Instant::now() + self.options.request_timeout;
        let mut pause = self.options.retry_pause_min;
        let (mut doubt, mut hops) = (request.is_marked_retry(), 0);
        loop {
            let again = match self.attempt(&request, deadline).await {
                Attempt::Answered(frame) => match decode_reply(&request, &frame) {
                    Ok(results) if doubt => return settle(results),
                    Ok(results) => return Ok(results),
                    Err(BadReply) if request.is_write() => {
                        return Err(Error::Unknown(Why::BadReply));
                    }
                    Err(BadReply) => return Err(Error::Retry(Why::BadReply)),
                },
                Attempt::Failed(Error::Refused(refusal)) if doubt => {
                    return Err(Error::Unknown(Why::refused(refusal.code)));
                }
                Attempt::Failed(error) => return Err(error),
                Attempt::Again(again) => again,
            };
            doubt |= again.doubt && request.is_write();
            if again.mark {
                request.mark_retry();
            }
            let give_up = |why| if doubt { Error::Unknown(why) } else { Error::Retry(why) };
            if again.why == Why::Full {
                return Err(give_up(again.why));
            }
            hops += 1;
            if again.at_once && hops <= HOPS_MAX && Instant::now() < deadline {
                continue;
            }
            hops = 0;
            let at_least = again.why.retry_after();
            if self.pause(&mut pause, at_least, deadline).await.is_err() {
                return Err(give_up(again.why));
            }
        }
    }

    /// Sends the request once.
    async fn attempt(&self, request: &Encoded, deadline: Instant) -> Attempt {
        let link = match timeout_at(deadline, self.link()).await {
            Ok(Ok(link)) => link,
            Ok(Err(Error::Retry(why))) => return Again::unsent(why, false),
            Ok(Err(error)) => return Attempt::Failed(error),
            Err(_) => return Again::unsent(Why::Unreachable, false),
        };
        match link.call(request, deadline).await {
            Ok(frame) if frame.header.kind == Kind::Error => self.refused(&link, &frame),
            Ok(frame) => Attempt::Answered(frame),
            Err(Fate::Full) => Again::unsent(Why::Full, false),
            Err(Fate::TooLarge) => Attempt::Failed(bare_refusal(Code::TOO_LARGE).into()),
            Err(Fate::Unsent) => Again::unsent(Why::Lost, true),
            Err(Fate::Lost) => {
                Attempt::Again(Again { why: Why::Lost, doubt: true, mark: true, at_once: true })
            }
            Err(Fate::TimedOut) => {
                Attempt::Again(Again { why: Why::Timeout, doubt: true, mark: true, at_once: true })
            }
        }
    }

    /// The server refused the whole frame.
    fn refused(&self, link: &Arc<Link>, frame: &Frame) -> Attempt {
        let Ok(reply) = ErrorReply::decode(&frame.body) else {
            link.close();
            return Attempt::Again(Again {
                why: Why::BadReply,
                doubt: true,
                mark: true,
                at_once: false,
            });
        };
        let code = reply.code;
        if !code.is_retry() {
            return Attempt::Failed(frame_refusal(&reply).into());
        }
        let mut at_once = false;
        if code == Code::NOT_LEADER {
            let leader = raw::leader_address(reply.leader);
            at_once = leader.as_deref().is_some_and(|leader| leader != link.address());
            self.leave(link, leader.as_deref());
        } else if code == Code::NO_QUORUM && self.lock().route.knows_several() {
            // A leader that is cut off from the others does not know that they have a new one.
            self.leave(link, None);
        }
        let retry_after = Duration::from_millis(u64::from(reply.retry_after_ms));
        Attempt::Again(Again {
            why: Why::Code { code, retry_after },
            doubt: code == Code::OUTCOME_UNKNOWN,
            mark: code != Code::BUSY,
            at_once,
        })
    }

    /// Turns away from a node that does not lead, or cannot. Of many calls that learn it, the first acts.
    fn leave(&self, link: &Arc<Link>, leader: Option<&str>) {
        let mut current = self.lock();
        if current.link.as_ref().is_some_and(|current| Arc::ptr_eq(current, link)) {
            current.link = None;
            current.route.set_leader(leader);
            link.retire();
        }
    }

    /// The connection in use, or a new one.
    async fn link(&self) -> Result<Arc<Link>, Error> {
        if let Some(link) = self.open_link() {
            return Ok(link);
        }
        let failed_before = self.rounds_failed.load(Ordering::Acquire);
        let _connecting = self.connecting.lock().await;
        if let Some(link) = self.open_link() {
            return Ok(link);
        }
        // A whole round failed while this call waited for its turn: that answers it as well.
        if self.rounds_failed.load(Ordering::Acquire) != failed_before {
            return Err(Error::Retry(Why::Unreachable));
        }
        let result = self.connect_round().await;
        match &result {
            Ok(link) => self.lock().link = Some(link.clone()),
            Err(_) => drop(self.rounds_failed.fetch_add(1, Ordering::Release)),
        }
        result
    }

    fn open_link(&self) -> Option<Arc<Link>> {
        let mut current = self.lock();
        let link = current.link.clone()?;
        if link.is_open() {
            return Some(link);
        }
        current.link = None;
        current.route.doubt(link.address());
        None
    }

    /// Tries each known node once and follows its word on who leads. A node that is reached without
    /// a way on to the leader is better than none: it answers stale reads, and says NOT_LEADER or
    /// NO_QUORUM to the rest.
    async fn connect_round(&self) -> Result<Arc<Link>, Error> {
        let mut fallback = None;
        let mut refusal = None;
        let mut tried: Vec<String> = Vec::new();
        let mut queue = self.lock().route.candidates();
        queue.reverse();
        while let Some(address) = queue.pop() {
            if tried.contains(&address) {
                continue;
            }
            tried.push(address.clone());
            let connection = match self.connect_one(&address).await {
                Ok(connection) => connection,
                Err(raw::Error::Refused { code, message }) => {
                    refusal = Some(Refusal { message, ..bare_refusal(code) });
                    continue;
                }
                Err(_) => continue,
            };
            if self.options.stay {
                return Ok(Link::start(connection, address, &self.options));
            }
            let leader = connection.greeting().leader.clone();
            self.lock().route.set_leader(leader.as_deref());
            match leader {
                Some(leader) if leader != address && !tried.contains(&leader) => {
                    fallback.get_or_insert((connection, address));
                    queue.push(leader);
                }
                Some(leader) if leader == address => {
                    return Ok(Link::start(connection, address, &self.options));
                }
                _ => drop(fallback.get_or_insert((connection, address))),
            }
        }
        match (fallback, refusal) {
            (Some((connection, address)), _) => Ok(Link::start(connection, address, &self.options)),
            (None, Some(refusal)) if refusal.code.is_retry() => {
                Err(Error::Retry(Why::refused(refusal.code)))
            }
            (None, Some(refusal)) => Err(refusal.into()),
            (None, None) => Err(Error::Retry(Why::Unreachable)),
        }
    }

    async fn connect_one(&self, address: &str) -> Result<raw::Connection, raw::Error> {
        let connect = raw::Connection::connect(address, &self.options.client_name);
        match timeout(self.options.connect_timeout, connect).await {
            Ok(result) => result,
            Err(_) => Err(raw::Error::Closed),
        }
    }

    /// Sleeps for the present pause, give or take a quarter, or for `at_least` if that is longer,
    /// and doubles the pause. Err, at once, if `deadline` would pass meanwhile.
    async fn pause(
        &self,
        pause: &mut Duration,
        at_least: Duration,
        deadline: Instant,
    ) -> Result<(), ()> {
        let jitter = 768 + (self.options.ids.next_u64() % 512) as u32;
        let length = (*pause * jitter / 1024).max(at_least);
        *pause = (*pause * 2).min(self.options.retry_pause_max);
        if Instant::now() + length >= deadline {
            return Err(());
        }
        sleep(length).await;
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Current> {
        self.current.lock().expect("nothing panics while it holds this lock")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        if let Some(link) = self.lock().link.take() {
            link.retire();
        }
    }
}

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Client").field("connected_to", &self.connected_to()).finish_non_exhaustive()
    }
}

impl Again {
    fn unsent(why: Why, at_once: bool) -> Attempt {
        Attempt::Again(Self { why, doubt: false, mark: false, at_once })
    }
}

impl Why {
    const fn refused(code: Code) -> Self {
        Self::Code { code, retry_after: Duration::ZERO }
    }

    fn retry_after(&self) -> Duration {
        match self {
            Self::Code { retry_after, .. } => *retry_after,
            _ => Duration::ZERO,
        }
    }
}

/// The results of a request of which an earlier attempt may have been executed: a single operation
/// whose id is so old that it may have been forgotten stays in doubt. In a batch the caller sees the
/// code.
fn settle(results: Vec<Result<Outcome, Refusal>>) -> Result<Vec<Result<Outcome, Refusal>>, Error> {
    match results.as_slice() {
        [Err(refusal)] if refusal.code == Code::ID_TOO_OLD => {
            Err(Error::Unknown(Why::refused(refusal.code)))
        }
        _ => Ok(results),
    }
}

pub(crate) fn decode_reply(
    request: &Encoded,
    frame: &Frame,
) -> Result<Vec<Result<Outcome, Refusal>>, BadReply> {
    let mut body = Reader::new(&frame.body);
    let prefix = ReplyPrefix::take(&mut body)?;
    let count = match (request.kind, frame.header.kind) {
        (Kind::Op, Kind::OpReply) => 1,
        (Kind::Batch, Kind::BatchReply) => body.u32()? as usize,
        _ => return Err(BadReply),
    };
    if count != request.opcodes.len() {
        return Err(BadReply);
    }
    let opcodes = request.opcodes.iter();
    opcodes.map(|opcode| decode(*opcode, &prefix, &take_outcome(&mut body)?)).collect()
}

pub(crate) fn frame_refusal(reply: &ErrorReply<'_>) -> Refusal {
    let message = String::from_utf8_lossy(reply.message).into_owned();
    Refusal { message, ..bare_refusal(reply.code) }
}

const fn bare_refusal(code: Code) -> Refusal {
    Refusal {
        age: Some(Duration::ZERO),
        code,
        index: 0,
        lines: Vec::new(),
        message: String::new(),
        owner: None,
        server_now: UnixMillis(0),
        short: Vec::new(),
        state: None,
        transfer: None,
        value: None,
    }
}
