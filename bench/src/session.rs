//! Frames before and after the load: a window of requests, sent again until each is answered.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use stockd_protocol::{
    ErrorReply, Frame, Header, Kind, Reader, ReplyPrefix, ShardId, begin_frame, finish_frame,
    take_outcome,
};
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep};

use crate::link::{Link, LinkError, Nodes, read_frame};

/// Talks to whichever node leads.
#[derive(Debug)]
pub struct Session {
    nodes: Nodes,
    link: Option<Link>,
}

/// How long a window of requests may take before the run is given up.
const PATIENCE: Duration = Duration::from_secs(60);
const RETRY_PAUSE: Duration = Duration::from_millis(20);

/// What became of sending a window once.
enum Sent {
    All,
    Again,
}

impl Session {
    /// Not connected yet.
    pub const fn new(nodes: Nodes) -> Self {
        Self { nodes, link: None }
    }

    /// Sends every body as a batch frame and returns the replies' bodies in the same order. A body
    /// is sent again until it is answered, so its operations must bear repetition.
    ///
    /// # Errors
    /// No node answered within a minute, or one refused a frame for good.
    pub async fn exchange(&mut self, bodies: &[Bytes]) -> Result<Vec<Bytes>, LinkError> {
        let end = Instant::now() + PATIENCE;
        let mut replies: Vec<Option<Bytes>> = vec![None; bodies.len()];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(LinkError("no answer within 60 s".into()));
            }
            if self.link.is_none() {
                self.link = Some(self.nodes.connect(left).await?);
            }
            let sent = tokio::time::timeout(left, self.send(bodies, &mut replies)).await;
            match sent {
                Ok(Ok(Sent::All)) => break,
                Ok(Ok(Sent::Again)) => sleep(RETRY_PAUSE).await,
                Ok(Err(error)) => return Err(error),
                Err(_) => {}
            }
        }
        Ok(replies.into_iter().flatten().collect())
    }

    /// Sends what is not answered yet.
    async fn send(
        &mut self,
        bodies: &[Bytes],
        replies: &mut [Option<Bytes>],
    ) -> Result<Sent, LinkError> {
        let Some(link) = &mut self.link else { return Ok(Sent::Again) };
        let mut out = BytesMut::new();
        let mut missing = 0;
        for (index, body) in bodies.iter().enumerate().filter(|(at, _)| replies[*at].is_none()) {
            let request_id = index as u64;
            let header = Header { request_id, kind: Kind::Batch, shard: ShardId(0) };
            let start = begin_frame(&mut out, header);
            out.put_slice(body);
            finish_frame(&mut out, start);
            missing += 1;
        }
        let Link { stream, input, .. } = link;
        let mut broken = stream.write_all(&out).await.is_err();
        let mut again = false;
        while missing > 0 && !broken {
            let Ok(frame) = read_frame(stream, input).await else {
                broken = true;
                break;
            };
            missing -= 1;
            match answer(&frame)? {
                Answer::Outcomes(body) => {
                    if let Some(reply) = replies.get_mut(frame.header.request_id as usize) {
                        *reply = Some(body);
                    }
                }
                Answer::Later => again = true,
                Answer::Elsewhere(leader) => {
                    self.nodes.leads(leader);
                    broken = true;
                }
            }
        }
        if broken {
            self.link = None;
        }
        Ok(if again || broken { Sent::Again } else { Sent::All })
    }
}

enum Answer {
    Outcomes(Bytes),
    Later,
    Elsewhere(Option<String>),
}

fn answer(frame: &Frame) -> Result<Answer, LinkError> {
    match frame.header.kind {
        Kind::BatchReply if has_later(&frame.body) => Ok(Answer::Later),
        Kind::BatchReply => Ok(Answer::Outcomes(frame.body.clone())),
        Kind::Error => {
            let error = ErrorReply::decode(&frame.body)
                .map_err(|_| LinkError("an error reply is cut short".into()))?;
            if error.code == stockd_protocol::Code::NOT_LEADER {
                let leader = String::from_utf8_lossy(error.leader).into_owned();
                Ok(Answer::Elsewhere(Some(leader).filter(|leader| !leader.is_empty())))
            } else if error.code.is_retry() {
                Ok(Answer::Later)
            } else {
                let message = String::from_utf8_lossy(error.message);
                Err(LinkError(format!("the server refused a frame: {}: {message}", error.code)))
            }
        }
        kind => Err(LinkError(format!("a frame of kind {kind:?} where a reply was due"))),
    }
}

/// One of the outcomes says "retry": the whole frame is sent again.
fn has_later(body: &[u8]) -> bool {
    let mut reader = Reader::new(body);
    let start = ReplyPrefix::take(&mut reader).and_then(|_| reader.u32());
    let Ok(count) = start else { return false };
    (0..count).map_while(|_| take_outcome(&mut reader).ok()).any(|outcome| outcome.code.is_retry())
}
