//! Readers who ask a certain node, whoever leads.
//!
//! A node that was cut off and does not know that it leads no more is found out only by those who go
//! on asking it. The client library would go where the leader is; these take whichever node they drew.

use std::time::Duration;

use stockd_check::history::{Answer, Cell, Request, Verdict};
use stockd_client::raw::{Connection, Error};
use stockd_protocol::{
    Code, ErrorReply, Frame, Header, Kind, Reader, ReplyPrefix, ShardId, Truncated, begin_frame,
    finish_frame, take_outcome,
};
use tokio::time::{sleep, timeout};

use super::{Caller, Market};

const CONNECT_LIMIT: Duration = Duration::from_millis(400);
const REPLY_LIMIT: Duration = Duration::from_millis(1_500);
/// Reads on one connection before another node is drawn.
const READS: u64 = 60;

/// Asks one node after the other until told to stop.
pub async fn roam(mut caller: Caller) {
    while caller.goes_on() && !caller.ledger.is_full() {
        let address = caller.dice.pick(&caller.addresses).clone();
        match timeout(CONNECT_LIMIT, Connection::connect(&address, "chaos-roamer")).await {
            Ok(Ok(connection)) => {
                if let Err(why) = visit(&mut caller, connection).await {
                    caller.ledger.aside(&format!("roamer: {why}"));
                }
            }
            Ok(Err(_)) => caller.ledger.aside("roamer: no connection"),
            Err(_) => caller.ledger.aside("roamer: connecting took too long"),
        }
        sleep(Duration::from_millis(2)).await;
    }
}

/// Reads for a while; says why it went away early.
async fn visit(caller: &mut Caller, connection: Connection) -> Result<(), &'static str> {
    let (mut writer, mut reader) = connection.split();
    for number in 1..=READS {
        if !caller.goes_on() {
            break;
        }
        let request = draw(caller);
        let header = Header { request_id: number, kind: Kind::Op, shard: ShardId(0) };
        let start = begin_frame(writer.buffer(), header);
        request.encode(writer.buffer(), None);
        finish_frame(writer.buffer(), start);
        let invoked = caller.ledger.now();
        let asked = async {
            writer.flush().await?;
            let mut burst = reader.next_burst().await?;
            burst.next().expect("a burst has a frame").map_err(Error::from)
        };
        let frame = match timeout(REPLY_LIMIT, asked).await {
            Ok(Ok(frame)) => frame,
            Ok(Err(_)) => return Err("the connection broke"),
            Err(_) => return Err("no reply in time"),
        };
        match decode(&frame).map_err(|Truncated| "a reply that cannot be understood")? {
            Ok(answer) => {
                let verdict = Verdict::Answered(answer);
                caller.ledger.record(caller.number, invoked, [(request, None, verdict)]);
            }
            Err(Code::NOT_LEADER) => {
                caller.ledger.aside("roamer: not the leader");
                // Ask for what it can answer; and a little later it may lead.
                sleep(caller.dice.millis(1, 20)).await;
            }
            Err(code) => caller.ledger.aside(&format!("roamer: {}", code.name())),
        }
        sleep(caller.dice.millis(1, 6)).await;
    }
    Ok(())
}

fn draw(caller: &mut Caller) -> Request {
    let dice = &mut caller.dice;
    let stale = dice.chance(30);
    if dice.chance(15) {
        let sku = Market::sku(Market::draw(dice)).into_bytes();
        return Request::ReadSku { sku, after: None, stale };
    }
    let cells: Vec<usize> = (0..1 + dice.roll(3)).map(|_| Market::draw(dice)).collect();
    let cells: Vec<Cell> = caller.market.refer(&cells, dice);
    Request::ReadCells { cells, stale }
}

/// The answer, or the code that refuses the frame.
fn decode(frame: &Frame) -> Result<Result<Answer, Code>, Truncated> {
    if frame.header.kind == Kind::Error {
        return Ok(Err(ErrorReply::decode(&frame.body).map_err(|_| Truncated)?.code));
    }
    let mut body = Reader::new(&frame.body);
    let prefix = ReplyPrefix::take(&mut body)?;
    let outcome = take_outcome(&mut body)?;
    Ok(Ok(Answer {
        code: outcome.code,
        detail: outcome.detail,
        body: outcome.body.to_vec(),
        index: prefix.index,
        server_now: prefix.server_now,
        age_ms: prefix.age_ms,
    }))
}
