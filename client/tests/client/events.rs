//! Streams of events from nodes that come and go.

use std::time::Duration;

use bytes::BytesMut;
use stockd_client::Code;
use stockd_client::events::{Error, EventKind, EventStream, Fault, Start, Subscription, Trouble};
use stockd_protocol::event::{Cause, RecordWriter, seal};
use stockd_protocol::{
    ErrorReply, EventsHead, Frame, Header, Kind, ReservationId, Selector, ShardId, Subscribe,
};
use tokio::join;

use crate::fake::{NOW, Node, Peer, error, frame, options, refusal};

/// A record of `count` events from `first` on, each with a reference of `bytes` bytes.
fn record(first: u64, count: u64, bytes: usize) -> Vec<u8> {
    let mut writer = RecordWriter::begin(Vec::new(), ShardId(0), first, 7, 1_000_000);
    for sequence in first..first + count {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&sequence.to_be_bytes());
        let mut cause = Cause::new(EventKind::Released, ReservationId(id));
        let reference = vec![b'x'; bytes];
        cause.note = Some(stockd_protocol::Note { reason: 1, reference: &reference });
        writer.event(&cause);
    }
    let mut bytes = writer.finish();
    seal(&mut bytes);
    bytes
}

/// A frame of events.
pub fn events(to: &Frame, first: u64, next: u64, records: &[Vec<u8>]) -> BytesMut {
    let header = Header { kind: Kind::Events, ..to.header };
    let head = EventsHead { first, next, reached: 100, server_now: NOW };
    frame(header, |out| {
        head.encode(out);
        records.iter().for_each(|record| out.extend_from_slice(record));
    })
}

/// The next frame, which subscribes, and where from.
pub async fn subscribed(peer: &mut Peer) -> (Frame, Start) {
    let frame = peer.expect().await;
    assert_eq!(frame.header.kind, Kind::Subscribe);
    let start = Subscribe::decode(&frame.body).unwrap().start;
    (frame, start)
}

/// A subscriber that begins with event `from` at a node, which has said so.
pub async fn following(
    subscription: Subscription,
    node: &Node,
    from: u64,
) -> (EventStream, Peer, Frame) {
    let script = async {
        let mut peer = node.accept_as_leader().await;
        let (subscribe, _) = subscribed(&mut peer).await;
        peer.send(events(&subscribe, from, from, &[])).await;
        (peer, subscribe)
    };
    let (stream, (peer, subscribe)) = join!(subscription.open(), script);
    (stream.unwrap(), peer, subscribe)
}

/// Takes batches until `count` events have come.
async fn take(stream: &mut EventStream, count: usize) -> Vec<u64> {
    let mut all = Vec::new();
    while all.len() < count {
        all.extend(stream.next().await.unwrap().events().map(|event| event.sequence));
    }
    all
}

#[tokio::test]
async fn a_subscription_says_what_it_wants_and_gets_it() {
    let node = Node::start().await;
    let subscription = Subscription::new(options(&[&node]))
        .oldest()
        .kinds([EventKind::Released, EventKind::Expired])
        .warehouse("BER")
        .sku("mug")
        .cell("HAM", "cup");
    let (mut stream, mut peer, subscribe) = following(subscription, &node, 7).await;
    let wish = Subscribe::decode(&subscribe.body).unwrap();
    assert_eq!((wish.start, wish.kinds), (Start::Oldest, 1 << 18 | 1 << 24));
    let cell = Selector::Cell { warehouse: b"HAM", sku: b"cup" };
    assert_eq!(wish.selectors, [Selector::Warehouse(b"BER"), Selector::Sku(b"mug"), cell]);
    assert_eq!((stream.position(), stream.lag(), stream.cluster_id()), (7, 93, 1));
    assert_eq!(stream.connected_to().as_deref(), Some(&*node.address));

    peer.send(events(&subscribe, 7, 20, &[record(8, 2, 0), record(15, 1, 0)])).await;
    assert_eq!(take(&mut stream, 3).await, [8, 9, 15]);
    assert_eq!((stream.position(), stream.lag()), (20, 80));
    peer.send(events(&subscribe, 20, 90, &[])).await;
    let batch = stream.next().await.unwrap();
    assert!(batch.is_empty(), "nothing was wanted");
    assert_eq!((batch.first(), batch.next(), batch.lag()), (20, 90, 10));
    assert_eq!((batch.reached(), batch.server_now()), (100, NOW));

    drop(stream);
    assert!(peer.frame().await.is_none(), "a stream that is dropped closes its connection");
}

#[tokio::test]
async fn a_subscription_that_no_server_takes_is_not_sent() {
    let many = (0..65).fold(Subscription::new("127.0.0.1:1"), |all, n| all.sku(format!("{n}")));
    assert!(matches!(many.open().await, Err(Error::Invalid(_))));
    let nameless = Subscription::new("127.0.0.1:1").cell("BER", "");
    assert!(matches!(nameless.open().await, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn a_lost_connection_goes_on_at_the_next_node_from_the_same_event() {
    let (a, b) = (Node::start().await, Node::start().await);
    let subscription = Subscription::new(options(&[&a, &b])).oldest();
    let (mut stream, mut peer, subscribe) = following(subscription, &a, 1).await;
    peer.send(events(&subscribe, 1, 4, &[record(1, 3, 0)])).await;
    assert_eq!(take(&mut stream, 3).await, [1, 2, 3]);
    // What has come is not asked for again, whether or not the caller has taken it.
    peer.send(events(&subscribe, 4, 6, &[record(4, 2, 0)])).await;
    let script = async {
        drop(peer);
        let mut peer = b.accept_as_leader().await;
        let (subscribe, start) = subscribed(&mut peer).await;
        assert_eq!(start, Start::Sequence(6));
        peer.send(events(&subscribe, 6, 6, &[])).await;
        // A record begins with what was had: it is the same on all nodes.
        peer.send(events(&subscribe, 6, 8, &[record(5, 3, 0)])).await;
        peer
    };
    let (rest, _peer) = join!(take(&mut stream, 4), script);
    assert_eq!(rest, [4, 5, 6, 7]);
    assert_eq!(stream.connected_to().as_deref(), Some(&*b.address));
}

#[tokio::test]
async fn what_cannot_come_next_is_asked_for_again() {
    let bad = |subscribe: &Frame| {
        let mut damaged = record(4, 2, 0);
        *damaged.last_mut().unwrap() ^= 1;
        [
            (events(subscribe, 5, 6, &[record(5, 1, 0)]), "begins with 5, and 4 comes next"),
            (events(subscribe, 4, 6, &[record(5, 1, 0)]), "event 5 came where 4 should"),
            (events(subscribe, 4, 6, &[record(4, 1, 0)]), "event 6 came where 5 should"),
            (events(subscribe, 4, 6, &[damaged]), "checksum"),
        ]
    };
    for case in 0..4 {
        let (a, b) = (Node::start().await, Node::start().await);
        let subscription = Subscription::new(options(&[&a, &b])).from_sequence(1);
        let (mut stream, mut peer, subscribe) = following(subscription, &a, 1).await;
        peer.send(events(&subscribe, 1, 4, &[record(1, 3, 0)])).await;
        let (frame, why) = bad(&subscribe)[case].clone();
        peer.send(frame).await;
        assert_eq!(take(&mut stream, 3).await, [1, 2, 3]);
        let mut peer = b.accept_as_leader().await;
        let (subscribe, start) = subscribed(&mut peer).await;
        assert_eq!(start, Start::Sequence(4));
        let troubles = stream.troubles();
        let [(address, Trouble::Fault(fault))] = &troubles[..] else { panic!("{troubles:?}") };
        assert_eq!(*address, a.address);
        assert!(fault.to_string().contains(why), "{fault}");
        peer.send(events(&subscribe, 4, 4, &[])).await;
        peer.send(events(&subscribe, 4, 6, &[record(4, 2, 0)])).await;
        assert_eq!(take(&mut stream, 2).await, [4, 5]);
        assert_eq!(stream.troubles(), [], "events have come since");
    }
}

#[tokio::test]
async fn nodes_that_cannot_serve_are_passed_over() {
    for code in [Code::BUSY, Code::NO_EVENTS, Code::EVENTS_GONE] {
        let (a, b) = (Node::start().await, Node::start().await);
        let open = Subscription::new(options(&[&a, &b])).from_sequence(5).open();
        let script = async {
            let mut peer = a.accept_as_leader().await;
            let (subscribe, _) = subscribed(&mut peer).await;
            peer.send(error(&subscribe, code, 10_000, "")).await;
            let mut peer = b.accept_as_leader().await;
            let (subscribe, start) = subscribed(&mut peer).await;
            assert_eq!(start, Start::Sequence(5));
            peer.send(events(&subscribe, 5, 5, &[])).await;
            peer.send(events(&subscribe, 5, 6, &[record(5, 1, 0)])).await;
            peer
        };
        let (stream, _peer) = join!(open, script);
        assert_eq!(take(&mut stream.unwrap(), 1).await, [5]);
    }
}

#[tokio::test]
async fn a_full_node_is_asked_again_when_it_says() {
    let node = Node::start().await;
    let open = Subscription::new(options(&[&node])).open();
    let script = async {
        let mut peer = node.accept_as_leader().await;
        let (subscribe, _) = subscribed(&mut peer).await;
        peer.send(error(&subscribe, Code::BUSY, 1, "")).await;
        let mut peer = node.accept_as_leader().await;
        let (subscribe, start) = subscribed(&mut peer).await;
        assert_eq!(start, Start::Now, "it has never begun");
        peer.send(events(&subscribe, 50, 50, &[])).await;
        peer
    };
    let (stream, _peer) = join!(open, script);
    assert_eq!(stream.unwrap().position(), 50);
}

/// A node that begins, and then has none but the events from `event` on.
async fn has_from(node: &Node, event: u64) -> ! {
    let (code, message) = (Code::EVENTS_GONE, b"gone");
    let gone = ErrorReply { code, retry_after_ms: 0, leader: b"", message, event };
    loop {
        let mut peer = node.accept("").await;
        let (subscribe, start) = subscribed(&mut peer).await;
        let Start::Sequence(from) = start else { panic!("{start:?}") };
        peer.send(events(&subscribe, from, from, &[])).await;
        peer.send(refusal(&subscribe, &gone)).await;
        assert!(peer.frame().await.is_none());
    }
}

#[tokio::test]
async fn events_that_no_node_has_end_the_stream_and_nothing_is_jumped_over() {
    let (a, b) = (Node::start().await, Node::start().await);
    let follow = async {
        let subscription = Subscription::new(options(&[&a, &b])).from_sequence(5);
        let mut stream = subscription.open().await.unwrap();
        let end = loop {
            match stream.next().await {
                Ok(batch) => assert!(batch.is_empty() && batch.next() == 5),
                Err(error) => break error,
            }
        };
        assert_eq!(stream.next().await.unwrap_err(), end, "it stays at its end");
        (end, stream.position())
    };
    let (end, position) = tokio::select! {
        end = follow => end,
        _ = has_from(&a, 80) => unreachable!("serves for ever"),
        _ = has_from(&b, 70) => unreachable!("serves for ever"),
    };
    assert_eq!(end, Error::Gone { start: Start::Sequence(5), next: Some(70) });
    assert_eq!(position, 5);
    assert_eq!(end.to_string(), "events 5..69 are nowhere any more; go on with 70");
}

#[tokio::test]
async fn a_node_that_was_named_leader_may_have_what_the_others_have_not() {
    let (a, leader) = (Node::start().await, Node::start().await);
    let open = Subscription::new(options(&[&a])).from_sequence(5).open();
    let script = async {
        let mut peer = a.accept(&leader.address).await;
        let (subscribe, _) = subscribed(&mut peer).await;
        peer.send(error(&subscribe, Code::EVENTS_GONE, 0, "")).await;
        let mut peer = leader.accept_as_leader().await;
        let (subscribe, _) = subscribed(&mut peer).await;
        peer.send(events(&subscribe, 5, 5, &[])).await;
        peer
    };
    let (stream, _peer) = join!(open, script);
    assert_eq!(stream.unwrap().connected_to(), Some(leader.address));
}

#[tokio::test]
async fn a_cluster_without_events_says_so() {
    let (a, b) = (Node::start().await, Node::start().await);
    let refuse = async |node: &Node| {
        let mut peer = node.accept_as_leader().await;
        let (subscribe, _) = subscribed(&mut peer).await;
        peer.send(error(&subscribe, Code::NO_EVENTS, 0, "")).await;
        peer
    };
    let open = Subscription::new(options(&[&a, &b])).open();
    let (stream, _, _) = join!(open, refuse(&a), refuse(&b));
    assert_eq!(stream.unwrap_err(), Error::NoEvents);
}

#[tokio::test]
async fn a_node_of_another_cluster_ends_the_stream() {
    let (a, b) = (Node::start().await, Node::start().await.of_cluster(2));
    let subscription = Subscription::new(options(&[&a, &b]));
    let (mut stream, peer, _) = following(subscription, &a, 5).await;
    assert!(stream.next().await.unwrap().is_empty());
    drop(peer);
    let (end, _peer) = join!(stream.next(), b.accept_as_leader());
    let wrong = |address: &str, expected, found| Error::WrongCluster {
        address: address.to_owned(),
        expected,
        found,
    };
    assert_eq!(end.unwrap_err(), wrong(&b.address, 1, 2));

    let open = Subscription::new(options(&[&a])).of_cluster(9).open();
    let (stream, _peer) = join!(open, a.accept_as_leader());
    assert_eq!(stream.unwrap_err(), wrong(&a.address, 9, 1));
}

#[tokio::test]
async fn a_node_that_has_not_joined_is_passed_over() {
    let (a, b) = (Node::start().await.of_cluster(0), Node::start().await);
    let open = Subscription::new(options(&[&a, &b])).open();
    let script = async {
        let _a = a.accept("").await;
        let mut peer = b.accept_as_leader().await;
        let (subscribe, _) = subscribed(&mut peer).await;
        peer.send(events(&subscribe, 5, 5, &[])).await;
        peer
    };
    let (stream, _peer) = join!(open, script);
    assert_eq!(stream.unwrap().cluster_id(), 1);
}

#[tokio::test]
async fn a_slow_caller_holds_the_server_back() {
    let node = Node::start().await;
    let subscription = Subscription::new(options(&[&node])).from_sequence(1);
    let (mut stream, mut peer, subscribe) = following(subscription, &node, 1).await;
    let window = Subscribe::decode(&subscribe.body).unwrap().credit;
    assert_eq!(window, 1 << 20);
    // Records of ten events, until a window of them is on its way.
    let mut first = 1;
    let mut sent = 0;
    while sent < window as usize {
        let frame = events(&subscribe, first, first + 10, &[record(first, 10, 64)]);
        (first, sent) = (first + 10, sent + frame.len());
        peer.send(frame).await;
    }
    let quiet = tokio::time::timeout(Duration::from_millis(50), peer.frame()).await;
    assert!(quiet.is_err(), "nothing is granted while all waits: {quiet:?}");
    let taken = take(&mut stream, first as usize - 1).await;
    assert_eq!(taken, (1..first).collect::<Vec<u64>>());
    let mut granted = 0;
    while granted <= window * 3 / 4 {
        let grant = peer.expect().await;
        assert_eq!((grant.header.kind, grant.header.request_id), (Kind::Credit, 1));
        granted += u32::from_le_bytes(grant.body[..].try_into().unwrap());
    }
    assert!(granted <= window, "as much as was taken, and no more: {granted}");
}

#[tokio::test]
async fn a_node_that_says_nothing_for_thirty_seconds_is_left() {
    let (a, b) = (Node::start().await, Node::start().await);
    let subscription = Subscription::new(options(&[&a, &b])).from_sequence(1);
    let (mut stream, _silent, _) = following(subscription, &a, 1).await;
    assert!(stream.next().await.unwrap().is_empty());
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(31)).await;
    tokio::time::resume();
    let mut peer = b.accept_as_leader().await;
    assert_eq!(subscribed(&mut peer).await.1, Start::Sequence(1));
    assert_eq!(stream.troubles(), [(a.address, Trouble::Silent)]);
}

#[tokio::test]
async fn nodes_that_are_not_there_are_named() {
    let dead = Node::start().await.address;
    let patience = Duration::from_millis(100);
    let options = stockd_client::Options { request_timeout: patience, ..dead.as_str().into() };
    let end = Subscription::new(options).open().await.unwrap_err();
    let Error::Unreachable { troubles } = &end else { panic!("{end:?}") };
    assert_eq!(troubles[0].0, dead);
    assert!(end.to_string().contains("refused"), "{end}");
}

#[test]
fn faults_are_for_people() {
    let fault = Fault::Order { expected: 3, found: 5 };
    assert_eq!(Trouble::Fault(fault).to_string(), "event 5 came where 3 should");
}
