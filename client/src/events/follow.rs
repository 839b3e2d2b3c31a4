//! The task behind a stream: one connection, and another when that ends.
//!
//! ```text
//! the node                                   then
//! sends what comes next                      it waits for the caller; more is granted as that takes it
//! is lost, silent, leaving, full             the next node, from the same event
//! sends what does not come next              the next node, from the same event
//! has not these events, or none at all       the next node; the end, once each has said so
//! is of another cluster                      the end
//! ```
//!
//! After all nodes have had their turn for nothing, there is a pause.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use stockd_protocol::{ErrorReply, Frame, Header, Kind, ShardId, Start, begin_frame, finish_frame};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::check::Place;
use super::credit::Credit;
use super::error::{Error, Trouble};
use super::stream::Shared;
use super::subscription::{Subscription, Wish};
use crate::link::race;
use crate::options::Options;
use crate::raw;

/// A node sends something every ten seconds. One that has not for so long is gone, whatever its connection says.
const SILENCE: Duration = Duration::from_secs(30);

/// Longest pause after a round of all nodes that came to nothing, unless a node asks for more.
const PAUSE_MAX: Duration = Duration::from_secs(2);

/// The only request on its connection.
const REQUEST_ID: u64 = 1;

pub(super) struct Follower {
    options: Options,
    wish: Wish,
    start: Start,
    place: Place,
    shared: Arc<Shared>,
}

/// A node has gone, or all is over.
enum Ended {
    Left(Trouble),
    Over(Error),
}

impl From<Trouble> for Ended {
    fn from(trouble: Trouble) -> Self {
        Self::Left(trouble)
    }
}

/// A connection to a node that is followed.
struct Visit<'a> {
    address: &'a str,
    credit: Credit,
    /// Its first frame has come.
    has_begun: bool,
}

/// What there is to do on a connection.
enum Woken<'a> {
    Frames(Result<raw::Burst<'a>, raw::Error>),
    Room,
    Silence,
}

impl Follower {
    pub(super) fn new(subscription: Subscription, shared: Arc<Shared>) -> Self {
        let Subscription { options, start, wish, .. } = subscription;
        let place = Place { next: None, wants_all: wish.wants_all() };
        Self { options, wish, start, place, shared }
    }

    pub(super) async fn run(mut self) {
        let error = self.follow_all().await;
        self.shared.end(error);
    }

    /// Goes from node to node until all is over.
    async fn follow_all(&mut self) -> Error {
        let mut pause = self.options.retry_pause_min;
        loop {
            let Some(address) = self.shared.lock().nodes.next() else {
                return Error::Unreachable { troubles: Vec::new() };
            };
            let ended = self.follow(&address).await;
            let trouble = match ended {
                Ok(never) => match never {},
                Err(Ended::Over(error)) => return error,
                Err(Ended::Left(trouble)) => trouble,
            };
            let (is_round, verdict, retry_after) = {
                let mut state = self.shared.lock();
                state.connected_to = None;
                if !state.nodes.has_failed() {
                    pause = self.options.retry_pause_min;
                }
                let is_round = state.nodes.fail(&address, trouble);
                (is_round, state.verdict(self.start()), state.nodes.retry_after())
            };
            match verdict {
                Some(error) => return error,
                None if is_round => {
                    sleep(self.jittered(pause).max(retry_after)).await;
                    pause = (pause * 2).min(PAUSE_MAX);
                }
                None => {}
            }
        }
    }

    /// Where to go on.
    fn start(&self) -> Start {
        self.place.next.map_or(self.start, Start::Sequence)
    }

    /// Give or take a quarter: not all who follow shall come back at once.
    fn jittered(&self, pause: Duration) -> Duration {
        let jitter = 768 + (self.options.ids.next_u64() % 512) as u32;
        pause * jitter / 1024
    }

    /// Follows a node for as long as it goes.
    async fn follow(&mut self, address: &str) -> Result<Infallible, Ended> {
        let connection = self.connect(address).await?;
        let (mut writer, mut reader) = connection.split();
        let credit = Credit::begin(self.shared.waiting_bytes());
        let mut visit = Visit { address, credit, has_begun: false };
        let subscribe = self.wish.subscribe(self.start(), visit.credit.left());
        put_frame(writer.buffer(), Kind::Subscribe, |out| subscribe.encode(out));
        flush(&mut writer, self.options.reply_timeout).await?;
        let mut heard_at = Instant::now();
        loop {
            let limit = if visit.has_begun { SILENCE } else { self.options.reply_timeout };
            // A server that may send nothing is silent.
            let may_speak = !visit.has_begun || visit.credit.left() > 0;
            match woken(&mut reader, &self.shared, may_speak.then_some(heard_at + limit)).await {
                Woken::Silence => return Err(Trouble::Silent.into()),
                Woken::Room => {}
                Woken::Frames(burst) => {
                    for frame in burst.map_err(lost)? {
                        let frame = frame.map_err(|error| lost(error.into()))?;
                        self.take(&frame, &mut visit)?;
                    }
                    heard_at = Instant::now();
                }
            }
            if let Some(bytes) = visit.credit.top_up(self.shared.waiting_bytes()) {
                if !may_speak {
                    heard_at = Instant::now();
                }
                put_frame(writer.buffer(), Kind::Credit, |out| out.put_u32_le(bytes));
                flush(&mut writer, SILENCE).await?;
            }
        }
    }

    /// Connects to a node and looks whose it is.
    async fn connect(&self, address: &str) -> Result<raw::Connection, Ended> {
        let connection = connect(&self.options, address).await?;
        let greeting = connection.greeting();
        let found = greeting.cluster_id;
        if found == 0 {
            return Err(Trouble::NotJoined.into());
        }
        let mut state = self.shared.lock();
        let expected = *state.cluster_id.get_or_insert(found);
        if expected != found {
            let address = address.to_owned();
            return Err(Ended::Over(Error::WrongCluster { address, expected, found }));
        }
        if let Some(leader) = &greeting.leader {
            state.nodes.learn(leader);
        }
        drop(state);
        Ok(connection)
    }

    fn take(&mut self, frame: &Frame, visit: &mut Visit<'_>) -> Result<(), Trouble> {
        match frame.header.kind {
            Kind::Events if frame.header.request_id == REQUEST_ID => {
                let (head, records) = self.place.take(&frame.body).map_err(Trouble::Fault)?;
                if !records.is_empty() {
                    visit.credit.spend(Header::BYTES + frame.body.len());
                }
                // The first frame comes before the node has looked whether it has the events.
                match std::mem::replace(&mut visit.has_begun, true) {
                    true => self.shared.lock().nodes.succeed(),
                    false => self.shared.lock().connected_to = Some(visit.address.to_owned()),
                }
                self.shared.push(head, frame.body.slice_ref(records));
                Ok(())
            }
            Kind::Error => Err(refusal(&frame.body)),
            // Of a later version: not asked for, and nothing to us.
            _ => Ok(()),
        }
    }
}

async fn connect(options: &Options, address: &str) -> Result<raw::Connection, Trouble> {
    let connect = raw::Connection::connect(address, &options.client_name);
    match timeout(options.connect_timeout, connect).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(raw::Error::Refused { code, message })) => {
            let (leader, message) = (&b""[..], message.as_bytes());
            Err(Trouble::of(&ErrorReply { code, retry_after_ms: 0, leader, message, event: 0 }))
        }
        Ok(Err(error)) => Err(Trouble::Unreachable { message: error.to_string() }),
        Err(_) => Err(Trouble::Unreachable { message: "no answer came in time".to_owned() }),
    }
}

/// Waits for frames, for room, or until `silent_at`.
async fn woken<'a>(
    reader: &'a mut raw::Reader,
    shared: &Shared,
    silent_at: Option<Instant>,
) -> Woken<'a> {
    let frames = async { Woken::Frames(reader.next_burst().await) };
    let room = async {
        shared.room.notified().await;
        Woken::Room
    };
    let silence = async {
        match silent_at {
            Some(silent_at) => sleep_until(silent_at).await,
            None => std::future::pending().await,
        }
        Woken::Silence
    };
    race(frames, race(room, silence)).await
}

async fn flush(writer: &mut raw::Writer, limit: Duration) -> Result<(), Trouble> {
    match timeout(limit, writer.flush()).await {
        Ok(flushed) => flushed.map_err(lost),
        Err(_) => Err(Trouble::Silent),
    }
}

fn put_frame(out: &mut BytesMut, kind: Kind, body: impl FnOnce(&mut BytesMut)) {
    let header = Header { request_id: REQUEST_ID, kind, shard: ShardId(0) };
    let start = begin_frame(out, header);
    body(out);
    finish_frame(out, start);
}

fn lost(error: raw::Error) -> Trouble {
    Trouble::Lost { message: error.to_string() }
}

fn refusal(body: &[u8]) -> Trouble {
    match ErrorReply::decode(body) {
        Ok(reply) => Trouble::of(&reply),
        Err(_) => Trouble::Lost { message: "an error that cannot be read".to_owned() },
    }
}
