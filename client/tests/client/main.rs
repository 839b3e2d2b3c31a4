//! The client against a server that misbehaves on cue.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

mod events;
mod events_kept;
mod fake;
mod writes;

use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use fake::{INDEX, NOW, Node, error, grant, is, op, ops, options, outcome, replies, reply};
use stockd_client::{
    Batch, CellHandle, CellRef, Client, Code, Consistency, Error, IdSource, Invalid, Options,
    Outcome, ReservationId, ReservationState, Reserve, ShortLine, WhenFull, Why,
};
use stockd_protocol::{CellCounters, Frame, Opcode, ReplyPrefix, SkuTotal};
use tokio::join;

const ACTIVE: u16 = ReservationState::Active as u16;
const CONFIRMED: u16 = ReservationState::Confirmed as u16;
const RELEASED: u16 = ReservationState::Released as u16;

fn id(n: u8) -> ReservationId {
    ReservationId([n; 16])
}

fn cart(n: u8) -> Reserve<'static> {
    Reserve::new(id(n)).handle(CellHandle(7), 1)
}

/// A client and the node it is connected to.
async fn connected() -> (Client, Node, fake::Peer) {
    let node = Node::start().await;
    let (client, peer) = join!(Client::connect(options(&[&node])), node.accept_as_leader());
    (client.unwrap(), node, peer)
}

/// Options under which a call gives up soon, against `node`.
fn impatient(node: &Node) -> Options {
    let reply_timeout = Duration::from_millis(20);
    let request_timeout = Duration::from_millis(100);
    Options { reply_timeout, request_timeout, ..options(&[node]) }
}

/// What `call` gives when the node answers everything with `answer`.
async fn against<T>(
    answer: impl Fn(&Frame) -> Option<BytesMut>,
    call: impl AsyncFnOnce(Client) -> T,
) -> T {
    let node = Node::start().await;
    let options = impatient(&node);
    let call = async { call(Client::connect(options).await.unwrap()).await };
    tokio::select! {
        result = call => result,
        _ = node.serve_all(answer) => unreachable!("serves for ever"),
    }
}

#[tokio::test]
async fn pipelined_replies_may_come_in_any_order() {
    let (client, _node, mut peer) = connected().await;
    let (a_cart, b_cart, c_cart) = (cart(1), cart(2), cart(3));
    let calls =
        async { join!(client.reserve(&a_cart), client.reserve(&b_cart), client.reserve(&c_cart)) };
    let script = async {
        let mut frames = vec![peer.expect().await, peer.expect().await, peer.expect().await];
        frames.reverse();
        let mut all = BytesMut::new();
        for frame in &frames {
            let deadline = u64::from(op(frame).2[0]) * 1000;
            all.extend_from_slice(&grant(frame, Code::OK, deadline));
        }
        peer.send(all).await;
    };
    let ((a, b, c), ()) = join!(calls, script);
    let deadlines = [a, b, c].map(|granted| granted.unwrap().deadline.0);
    assert_eq!(deadlines, [1000, 2000, 3000]);
}

#[tokio::test]
async fn not_leader_leads_to_the_leader_with_the_same_bytes() {
    let (client, _node, mut peer) = connected().await;
    let other = Node::start().await;
    let script = async {
        let first = peer.expect().await;
        peer.send(error(&first, Code::NOT_LEADER, 0, &other.address)).await;
        let mut leader = other.accept_as_leader().await;
        let second = leader.expect().await;
        leader.send(grant(&second, Code::OK, 5)).await;
        let (first, second) = (op(&first), op(&second));
        assert_eq!((first.0, first.1), (Opcode::Reserve as u8, false));
        assert_eq!((second.0, second.1), (Opcode::Reserve as u8, true), "marked as a retry");
        assert_eq!(first.2, second.2, "the same id and lines");
        assert!(peer.frame().await.is_none(), "the follower's connection is closed");
        leader
    };
    let reserve = cart(1);
    let (granted, mut leader) = join!(client.reserve(&reserve), script);
    assert_eq!(granted.unwrap().deadline.0, 5);
    assert_eq!(client.connected_to(), Some(other.address.clone()));
    let script = async {
        let ping = leader.expect().await;
        leader.send(reply(&ping, Code::OK, 0, |_| ())).await;
    };
    assert_eq!(join!(client.ping(), script).0, Ok(NOW), "and stays there");
}

#[tokio::test]
async fn the_hello_leads_to_the_leader() {
    let (follower, leader) = (Node::start().await, Node::start().await);
    let script = async {
        let _follower = follower.accept(&leader.address).await;
        leader.accept_as_leader().await
    };
    let (client, _leader) = join!(Client::connect(options(&[&follower])), script);
    assert_eq!(client.unwrap().connected_to(), Some(leader.address));
}

#[tokio::test]
async fn a_leader_that_cannot_be_reached_leaves_the_follower_in_use() {
    let follower = Node::start().await;
    let dead = Node::start().await.address;
    let script = async { follower.accept(&dead).await };
    let (client, _peer) = join!(Client::connect(options(&[&follower])), script);
    assert_eq!(client.unwrap().connected_to(), Some(follower.address));
}

#[tokio::test]
async fn without_a_known_leader_the_other_nodes_are_asked() {
    let (a, b) = (Node::start().await, Node::start().await);
    let connect = Client::connect(options(&[&a, &b]));
    let script = async { (a.accept("").await, b.accept("").await) };
    let (client, (mut peer, _)) = join!(connect, script);
    let client = client.unwrap();
    let script = async {
        let first = peer.expect().await;
        peer.send(error(&first, Code::NOT_LEADER, 0, "")).await;
        let mut leader = b.accept_as_leader().await;
        let second = leader.expect().await;
        leader.send(grant(&second, Code::OK, 5)).await;
    };
    let reserve = cart(1);
    assert!(join!(client.reserve(&reserve), script).0.is_ok());
}

#[tokio::test]
async fn a_node_left_behind_still_delivers_its_replies() {
    let (client, _node, mut peer) = connected().await;
    let other = Node::start().await;
    let script = async {
        let first = peer.expect().await;
        let second = peer.expect().await;
        peer.send(error(&first, Code::NOT_LEADER, 0, &other.address)).await;
        let mut leader = other.accept_as_leader().await;
        let again = leader.expect().await;
        assert_eq!(op(&again).2[0], 1, "only the refused one moves");
        leader.send(grant(&again, Code::OK, 10)).await;
        peer.send(grant(&second, Code::OK, 20)).await;
        assert!(peer.frame().await.is_none(), "then it is closed");
    };
    let (a_cart, b_cart) = (cart(1), cart(2));
    let (a, b, ()) = join!(client.reserve(&a_cart), client.reserve(&b_cart), script);
    assert_eq!((a.unwrap().deadline.0, b.unwrap().deadline.0), (10, 20));
}

#[tokio::test]
async fn a_lost_reply_is_asked_for_again_under_the_same_id() {
    let (client, node, mut peer) = connected().await;
    let script = async {
        let first = peer.expect().await;
        drop(peer);
        let mut peer = node.accept_as_leader().await;
        let second = peer.expect().await;
        peer.send(grant(&second, Code::REPLAY, 9)).await;
        assert_eq!(op(&first).2, op(&second).2, "the same id and lines");
        assert_eq!((op(&first).1, op(&second).1), (false, true), "marked as a retry");
        peer
    };
    let reserve = cart(1);
    let (granted, mut peer) = join!(client.reserve(&reserve), script);
    let granted = granted.unwrap();
    assert!(granted.replay);
    assert_eq!((granted.deadline.0, granted.index), (9, INDEX));

    let script = async {
        let first = peer.expect().await;
        drop(peer);
        let mut peer = node.accept_as_leader().await;
        let second = peer.expect().await;
        assert_eq!(op(&first).2, op(&second).2);
        peer.send(reply(&second, Code::REPLAY, ReservationState::Confirmed as u16, |_| ())).await;
    };
    let confirmed = join!(client.confirm(id(1)), script).0.unwrap();
    assert!(confirmed.replay, "confirmed before is success");
}

#[tokio::test]
async fn busy_is_retried_without_the_retry_flag() {
    let (client, _node, mut peer) = connected().await;
    let script = async {
        let first = peer.expect().await;
        peer.send(error(&first, Code::BUSY, 1, "")).await;
        let second = peer.expect().await;
        assert_eq!(op(&first), op(&second), "the server looked at nothing, so no flag");
        peer.send(grant(&second, Code::OK, 5)).await;
    };
    let reserve = cart(1);
    assert!(join!(client.reserve(&reserve), script).0.is_ok());
}

#[tokio::test]
async fn advice_to_come_back_too_late_is_given_to_the_caller_at_once() {
    let (client, _node, mut peer) = connected().await;
    let script = async {
        let first = peer.expect().await;
        peer.send(error(&first, Code::BUSY, 3_600_000, "")).await;
    };
    let reserve = cart(1);
    let retry_after = Duration::from_secs(3600);
    assert_eq!(
        join!(client.reserve(&reserve), script).0,
        Err(Error::Retry(Why::Code { code: Code::BUSY, retry_after }))
    );
}

#[tokio::test]
async fn time_up_says_which_of_three_it_is() {
    let code = |code| Why::Code { code, retry_after: Duration::ZERO };

    let silence = |_: &Frame| None;
    let write = against(silence, async |client| client.reserve(&cart(1)).await).await;
    assert!(matches!(write, Err(Error::Unknown(_))), "{write:?}");
    let read = against(silence, async |client| client.ping().await).await;
    assert!(matches!(read, Err(Error::Retry(_))), "a read changes nothing: {read:?}");

    for certain in [Code::NO_QUORUM, Code::NOT_LEADER, Code::DISK_FULL, Code::BUSY] {
        let refuse = move |frame: &Frame| Some(error(frame, certain, 0, ""));
        let result = against(refuse, async |client| client.reserve(&cart(1)).await).await;
        assert!(matches!(result, Err(Error::Retry(_))), "{certain}: {result:?}");
        let result = against(refuse, async |client| client.reserve(&cart(1).retry()).await).await;
        assert!(matches!(result, Err(Error::Unknown(_))), "sent before: {certain}: {result:?}");
    }
    let doubt = |frame: &Frame| Some(error(frame, Code::OUTCOME_UNKNOWN, 0, ""));
    let result = against(doubt, async |client| client.confirm(id(1)).await).await;
    assert_eq!(result, Err(Error::Unknown(code(Code::OUTCOME_UNKNOWN))));
}

#[tokio::test]
async fn a_doubt_outlives_later_certainty() {
    // The first attempt is lost; what is said of the second says nothing about the first.
    let doubtful = |frame: &Frame| {
        Some(match op(frame).1 {
            false => error(frame, Code::OUTCOME_UNKNOWN, 0, ""),
            true => error(frame, Code::NO_QUORUM, 0, ""),
        })
    };
    let result = against(doubtful, async |client| client.reserve(&cart(1)).await).await;
    let why = |code| Why::Code { code, retry_after: Duration::ZERO };
    assert_eq!(result, Err(Error::Unknown(why(Code::NO_QUORUM))));

    for code in [Code::ID_TOO_OLD, Code::TOO_LARGE] {
        let answer = move |frame: &Frame| match code {
            Code::TOO_LARGE => error(frame, code, 0, ""),
            _ => reply(frame, code, 0, |_| ()),
        };
        let doubtful = |frame: &Frame| {
            Some(match op(frame).1 {
                false => error(frame, Code::OUTCOME_UNKNOWN, 0, ""),
                true => answer(frame),
            })
        };
        let result = against(doubtful, async |client| client.reserve(&cart(1)).await).await;
        assert_eq!(result, Err(Error::Unknown(why(code))));
        let plain = |frame: &Frame| Some(answer(frame));
        let result = against(plain, async |client| client.reserve(&cart(1)).await).await;
        assert_eq!(result.unwrap_err().code(), Some(code), "without a doubt it is a refusal");
    }
}

#[tokio::test]
async fn nobody_there_is_safe_to_drop() {
    let gone = Node::start().await.address;
    let options = Options { request_timeout: Duration::from_millis(50), ..Options::new([gone]) };
    assert_eq!(Client::connect(options).await.unwrap_err(), Error::Retry(Why::Unreachable));
}

#[tokio::test]
async fn a_refusal_is_not_retried_and_lists_short_lines() {
    let (client, _node, mut peer) = connected().await;
    let short = ShortLine { line: 0, cell: CellHandle(7), asked: 3, available: 2 };
    let reserve = cart(1);
    let calls = async {
        let refused = client.reserve(&reserve).await;
        let unknown = client.reserve(&reserve).await;
        let gone = client.confirm(id(1)).await;
        let none = client.read_reservation(id(1), Consistency::Linearizable).await;
        (refused, unknown, gone, none, client.ping().await)
    };
    let script = async {
        let frame = peer.expect().await;
        peer.send(reply(&frame, Code::NO_STOCK, 0, |out| short.encode(out))).await;
        let frame = peer.expect().await;
        peer.send(reply(&frame, Code::UNKNOWN_SKU, 0, |out| out.put_u16_le(3))).await;
        let frame = peer.expect().await;
        assert!(is(&frame, Opcode::Confirm), "the refused reserve was not sent again");
        peer.send(reply(&frame, Code::HOLD_RELEASED, RELEASED, |_| ())).await;
        let frame = peer.expect().await;
        peer.send(reply(&frame, Code::NOT_FOUND, 0, |_| ())).await;
        let frame = peer.expect().await;
        assert!(is(&frame, Opcode::Ping));
        peer.send(reply(&frame, Code::OK, 0, |_| ())).await;
    };
    let ((refused, unknown, gone, none, pong), ()) = join!(calls, script);
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), Some(Code::NO_STOCK));
    assert_eq!(refused.refusal().unwrap().short, [short]);
    assert_eq!(unknown.unwrap_err().refusal().unwrap().lines, [3]);
    let gone = gone.unwrap_err();
    assert_eq!(gone.code(), Some(Code::HOLD_RELEASED));
    assert_eq!(gone.refusal().unwrap().state, Some(ReservationState::Released));
    assert_eq!(none, Ok(None));
    assert_eq!(pong, Ok(NOW));
}

#[tokio::test]
async fn a_refused_frame_and_a_refused_hello_are_refusals() {
    let refuse = |frame: &Frame| Some(error(frame, Code::TOO_LARGE, 0, ""));
    let result = against(refuse, async |client| client.confirm(id(1)).await).await;
    let refused = result.unwrap_err();
    assert_eq!(refused.code(), Some(Code::TOO_LARGE));
    assert_eq!(refused.refusal().unwrap().message, "no");

    let node = Node::start().await;
    let script = async {
        let mut peer = node.accept_silent().await;
        let hello = peer.expect().await;
        peer.send(error(&hello, Code::VERSION, 0, "")).await;
    };
    let (client, ()) = join!(Client::connect(options(&[&node])), script);
    assert_eq!(client.unwrap_err().code(), Some(Code::VERSION));
}

#[tokio::test]
async fn a_client_that_stays_goes_to_the_leader_only_when_it_must() {
    let (follower, leader) = (Node::start().await, Node::start().await);
    let options = Options { stay: true, ..options(&[&follower]) };
    let (client, mut peer) = join!(Client::connect(options), follower.accept(&leader.address));
    let client = client.unwrap();
    assert_eq!(client.connected_to().as_deref(), Some(&*follower.address));
    let script = async {
        let frame = peer.expect().await;
        peer.send(error(&frame, Code::NOT_LEADER, 0, &leader.address)).await;
        let mut peer = leader.accept_as_leader().await;
        let frame = peer.expect().await;
        peer.send(grant(&frame, Code::OK, 6)).await;
    };
    let reserve = cart(1);
    assert_eq!(join!(client.reserve(&reserve), script).0.unwrap().deadline.0, 6);
}

#[tokio::test]
async fn a_leader_without_a_quorum_is_left_for_another_node() {
    let (cut_off, elected) = (Node::start().await, Node::start().await);
    let connect = Client::connect(options(&[&cut_off, &elected]));
    let (client, mut peer) = join!(connect, cut_off.accept_as_leader());
    let client = client.unwrap();
    let script = async {
        let frame = peer.expect().await;
        peer.send(error(&frame, Code::NO_QUORUM, 1, "")).await;
        assert!(peer.frame().await.is_none(), "it is asked no more");
        let mut peer = elected.accept_as_leader().await;
        let frame = peer.expect().await;
        assert!(op(&frame).1, "marked as a retry");
        peer.send(grant(&frame, Code::OK, 6)).await;
    };
    let reserve = cart(1);
    assert_eq!(join!(client.reserve(&reserve), script).0.unwrap().deadline.0, 6);
}

#[tokio::test]
async fn a_silent_connection_is_left_though_every_caller_gave_up_early() {
    let node = Node::start().await;
    let (client, mut peer) = join!(Client::connect(impatient(&node)), node.accept_as_leader());
    let client = client.unwrap();
    let impatience = async {
        let reserve = cart(1);
        let call = client.reserve(&reserve);
        // Sent, and dropped before its own timeout could tell that the peer is gone.
        tokio::select! {
            biased;
            _ = call => unreachable!("nobody answers"),
            _ = peer.expect() => {}
        }
    };
    impatience.await;
    assert!(peer.frame().await.is_none(), "the client has closed it");
}

#[tokio::test]
async fn a_bad_frame_closes_the_connection_and_leaves_a_doubt() {
    let (client, node, mut peer) = connected().await;
    let script = async {
        let first = peer.expect().await;
        let mut bad = grant(&first, Code::OK, 5);
        *bad.last_mut().unwrap() ^= 1;
        peer.send(bad).await;
        assert!(peer.frame().await.is_none(), "the client has closed it");
        let mut peer = node.accept_as_leader().await;
        let second = peer.expect().await;
        assert!(op(&second).1, "marked as a retry");
        peer.send(grant(&second, Code::REPLAY, 6)).await;
    };
    let reserve = cart(1);
    assert_eq!(join!(client.reserve(&reserve), script).0.unwrap().deadline.0, 6);
}

#[tokio::test]
async fn a_reply_that_does_not_fit_leaves_a_doubt_for_writes_only() {
    // A grant without a deadline, a batch reply to one operation, and a decision that is none.
    let answers: [fn(&Frame) -> Option<BytesMut>; 3] = [
        |frame| Some(reply(frame, Code::OK, ACTIVE, |_| ())),
        |frame| Some(replies(frame, Some(1), |out| outcome(out, Code::OK, 0, |_| ()))),
        |frame| Some(reply(frame, Code::BUSY, 0, |_| ())),
    ];
    for answer in answers {
        let result = against(answer, async |client| client.reserve(&cart(1)).await).await;
        assert_eq!(result, Err(Error::Unknown(Why::BadReply)));
        let cells = [CellRef::Handle(CellHandle(7))];
        let read = async |client: Client| client.read_cells(&cells, Consistency::Stale).await;
        assert_eq!(against(answer, read).await, Err(Error::Retry(Why::BadReply)));
    }
}

#[tokio::test]
async fn a_server_that_takes_less_is_not_sent_more() {
    let mut node = Node::start().await;
    node.frame_bytes_max = 100;
    let (client, mut peer) = join!(Client::connect(options(&[&node])), node.accept_as_leader());
    let client = client.unwrap();
    let large = (0..10).fold(cart(1), |cart, _| cart.handle(CellHandle(7), 1));
    let calls = async { (client.reserve(&large).await, client.ping().await) };
    let script = async {
        let frame = peer.expect().await;
        assert!(is(&frame, Opcode::Ping), "nothing was sent before it");
        peer.send(reply(&frame, Code::OK, 0, |_| ())).await;
    };
    let ((refused, pong), ()) = join!(calls, script);
    assert_eq!(refused.unwrap_err().code(), Some(Code::TOO_LARGE));
    assert!(pong.is_ok());
}

#[tokio::test]
async fn a_node_that_is_full_at_the_door_is_busy() {
    let node = Node::start().await;
    let script = async {
        loop {
            let mut peer = node.accept_silent().await;
            let hello = peer.expect().await;
            peer.send(error(&hello, Code::BUSY, 0, "")).await;
        }
    };
    let refused = tokio::select! {
        result = Client::connect(impatient(&node)) => result.unwrap_err(),
        () = script => unreachable!("refuses for ever"),
    };
    let busy = Why::Code { code: Code::BUSY, retry_after: Duration::ZERO };
    assert_eq!(refused, Error::Retry(busy));
}

#[tokio::test]
async fn unanswered_frames_are_bounded_by_the_server_and_the_caller_may_fail() {
    let mut node = Node::start().await;
    node.frames_in_flight_max = 2;
    let options = Options { when_full: WhenFull::Fail, ..options(&[&node]) };
    let (client, mut peer) = join!(Client::connect(options), node.accept_as_leader());
    let client = client.unwrap();
    let script = async {
        let (a, b) = (peer.expect().await, peer.expect().await);
        let third = client.confirm(id(3)).await;
        assert_eq!(third, Err(Error::Retry(Why::Full)));
        peer.send(reply(&a, Code::OK, CONFIRMED, |_| ())).await;
        peer.send(reply(&b, Code::OK, CONFIRMED, |_| ())).await;
    };
    let (a, b, ()) = join!(client.confirm(id(1)), client.confirm(id(2)), script);
    assert!(a.is_ok() && b.is_ok());
}

#[tokio::test]
async fn a_full_connection_lets_the_next_wait_its_turn() {
    let mut node = Node::start().await;
    node.frames_in_flight_max = 1;
    let (client, mut peer) = join!(Client::connect(options(&[&node])), node.accept_as_leader());
    let client = client.unwrap();
    let script = async {
        for _ in 0..3 {
            let frame = peer.expect().await;
            peer.send(reply(&frame, Code::OK, CONFIRMED, |_| ())).await;
        }
    };
    let (a, b, c, ()) =
        join!(client.confirm(id(1)), client.confirm(id(2)), client.confirm(id(3)), script);
    assert!(a.is_ok() && b.is_ok() && c.is_ok());
}

#[tokio::test]
async fn a_batch_is_positional_and_retried_whole() {
    let (client, node, mut peer) = connected().await;
    let mut batch = Batch::new();
    batch.define("BER", "mug").unwrap();
    batch.receive(client.new_op_id(), CellRef::name("BER", "mug"), 5).unwrap();
    batch.reserve(&Reserve::new(id(3)).line("BER", "mug", 2)).unwrap();
    batch.confirm(id(4)).unwrap();
    batch.extend(id(5), Duration::from_secs(60)).unwrap();
    batch.release(id(6)).unwrap();
    assert_eq!(
        batch.read_reservation(id(1), Consistency::Linearizable),
        Err(Invalid::MixedBatch),
        "and the batch stays as it was"
    );
    let script = async {
        let first = peer.expect().await;
        drop(peer);
        let mut peer = node.accept_as_leader().await;
        let second = peer.expect().await;
        assert!(ops(&first).iter().all(|op| !op.1) && ops(&second).iter().all(|op| op.1));
        let bodies = |frame: &Frame| ops(frame).into_iter().map(|op| op.2).collect::<Vec<_>>();
        assert_eq!(bodies(&first), bodies(&second));
        let answer = replies(&second, Some(6), |out| {
            outcome(out, Code::OK, 0, |out| out.put_u32_le(9));
            outcome(out, Code::REPLAY, 0, |out| {
                out.put_u32_le(9);
                out.put_i64_le(5);
                out.put_i64_le(3);
            });
            outcome(out, Code::REPLAY, ACTIVE, |out| {
                out.put_u64_le(1234);
                out.put_u32_le(9);
            });
            outcome(out, Code::NOT_FOUND, 0, |_| ());
            outcome(out, Code::OK, ACTIVE, |out| out.put_u64_le(4321));
            outcome(out, Code::OK, ReservationState::Fenced as u16, |_| ());
        });
        peer.send(answer).await;
    };
    let results = join!(client.batch(batch), script).0.unwrap();
    let [defined, received, granted, confirmed, extended, released] = results.as_slice() else {
        panic!("six results, not {}", results.len());
    };
    assert!(matches!(defined, Ok(Outcome::Defined(d)) if d.handle == CellHandle(9)));
    assert!(matches!(received, Ok(Outcome::Received(r)) if r.on_hand == 5 && r.available == 3));
    assert!(matches!(granted, Ok(Outcome::Granted(g)) if g.replay && g.handles == [CellHandle(9)]));
    assert!(matches!(confirmed, Err(refusal) if refusal.code == Code::NOT_FOUND));
    assert!(matches!(extended, Ok(Outcome::Extended(e)) if e.deadline.0 == 4321));
    assert!(matches!(released, Ok(Outcome::Released(r)) if r.state == ReservationState::Fenced));
}

#[tokio::test]
async fn what_cannot_be_sent_is_not_sent() {
    let (client, _node, mut peer) = connected().await;
    let long = "x".repeat(65);
    let calls = async {
        let empty = Reserve::new(id(1));
        assert!(matches!(client.reserve(&empty).await, Err(Error::Invalid(_))));
        let mixed = cart(1).line("BER", "mug", 1);
        assert_eq!(client.reserve(&mixed).await, Err(Error::Invalid(Invalid::MixedCells)));
        assert!(matches!(
            client.reserve(&cart(1).handle(CellHandle(1), 0)).await,
            Err(Error::Invalid(_))
        ));
        assert!(matches!(client.define("BER", &long).await, Err(Error::Invalid(_))));
        assert!(matches!(client.define("", "mug").await, Err(Error::Invalid(_))));
        assert!(matches!(client.read_cells(&[], Consistency::Stale).await, Err(Error::Invalid(_))));
        assert_eq!(client.batch(Batch::new()).await, Err(Error::Invalid(Invalid::EmptyBatch)));
        client.ping().await
    };
    let script = async {
        let frame = peer.expect().await;
        assert!(is(&frame, Opcode::Ping), "nothing was sent before it");
        peer.send(reply(&frame, Code::OK, 0, |_| ())).await;
    };
    assert!(join!(calls, script).0.is_ok());

    let mut batch = Batch::new();
    for _ in 0..8192 {
        batch.confirm(id(1)).unwrap();
    }
    assert_eq!(batch.confirm(id(1)), Err(Invalid::FullBatch));
    let mut batch = Batch::new();
    let names = vec![CellRef::name("warehouse", &long[..64]); 8192];
    batch.read_cells(&names, Consistency::Stale).unwrap();
    assert_eq!(batch.read_cells(&names, Consistency::Stale), Err(Invalid::FullBatch));
    assert_eq!(batch.len(), 1);
}

#[tokio::test]
async fn reads_come_with_their_age() {
    let (client, _node, mut peer) = connected().await;
    let counters = CellCounters { on_hand: 9, reserved: 2, committed: 3, available: 4 };
    let cells = [CellRef::name("BER", "mug"), CellRef::name("BER", "none")];
    let calls = async {
        let cells = client.read_cells(&cells, Consistency::Stale).await.unwrap();
        let page = client.read_sku("mug", None, Consistency::Linearizable).await.unwrap();
        let held = client.read_reservation(id(1), Consistency::Linearizable).await.unwrap();
        (cells, page, held.unwrap(), client.cluster_status().await.unwrap())
    };
    let script = async {
        let frame = peer.expect().await;
        assert_eq!(frame.body[1] & 16, 16, "the STALE flag");
        let header =
            stockd_protocol::Header { kind: stockd_protocol::Kind::OpReply, ..frame.header };
        let stale = fake::frame(header, |out| {
            ReplyPrefix { index: 5, server_now: NOW, age_ms: 250 }.encode(out);
            outcome(out, Code::OK, 0, |out| {
                out.put_u32_le(7);
                out.put_u32_le(1);
                counters.encode(out);
                out.put_u32_le(0);
                out.put_u32_le(0);
                CellCounters::default().encode(out);
            });
        });
        peer.send(stale).await;
        let frame = peer.expect().await;
        let page = reply(&frame, Code::OK, 0, |out| {
            SkuTotal { more: true, cells: 1, total: counters }.encode(out);
            out.put_u8(3);
            out.put_slice(b"BER");
            out.put_u32_le(7);
            out.put_u32_le(1);
            counters.encode(out);
        });
        peer.send(page).await;
        let frame = peer.expect().await;
        let held = reply(&frame, Code::OK, ACTIVE, |out| {
            out.put_u64_le(100);
            out.put_u64_le(200);
            out.put_u32_le(1);
            out.put_u32_le(7);
            out.put_u32_le(2);
        });
        peer.send(held).await;
        let frame = peer.expect().await;
        peer.send(reply(&frame, Code::OK, 0, |out| out.put_slice(b"{}"))).await;
    };
    let ((cells, page, held, status), ()) = join!(calls, script);
    assert_eq!((cells.age, cells.index), (Some(Duration::from_millis(250)), 5));
    assert_eq!(cells.value[0].unwrap().counters, counters);
    assert_eq!(cells.value[1], None);
    assert_eq!(page.age, Some(Duration::ZERO));
    assert_eq!((page.value.total, page.value.next), (counters, Some(CellHandle(7))));
    assert_eq!(page.value.cells[0].warehouse, b"BER");
    assert_eq!((held.value.created.0, held.value.deadline.0), (100, 200));
    assert_eq!((held.value.lines[0].cell, held.value.lines[0].quantity), (CellHandle(7), 2));
    assert_eq!(status, "{}");
}

#[tokio::test]
async fn ids_come_from_the_door() {
    struct Fixed;
    impl IdSource for Fixed {
        fn unix_millis(&self) -> u64 {
            1_700_000_000_123
        }
        fn next_u64(&self) -> u64 {
            u64::MAX
        }
    }
    let node = Node::start().await;
    let fixed = Options { ids: Arc::new(Fixed), ..options(&[&node]) };
    let (client, _peer) = join!(Client::connect(fixed), node.accept_as_leader());
    let new_id = client.unwrap().new_id();
    assert_eq!(new_id.to_string(), "018bcfe5-687b-7fff-bfff-ffffffffffff");
    assert_eq!(new_id.millis(), 1_700_000_000_123);

    let (client, _node, _peer) = connected().await;
    assert_ne!(client.new_id(), client.new_id());
    assert_ne!(client.new_op_id(), client.new_op_id());
}
