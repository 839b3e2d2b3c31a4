//! Whoever follows the events, and whoever asks what was.

use bytes::BytesMut;
use stockd::engine::EngineConfig;
use stockd::protocol::event::{Event, EventKind, EventRecord};
use stockd::protocol::{
    CellRef, Code, ErrorReply, EventsHead, Header, Kind, Line, Note, Op, OpFlags, OpId, Parts,
    Reader, Selector, Start, Subscribe, Terms,
};
use stockd::server::Limits;

use super::{Node, Setup, Wire, cell, frame, id, receive};

const ALL: Subscribe<'static> =
    Subscribe { start: Start::Oldest, credit: 1 << 20, kinds: 0, selectors: Vec::new() };

impl Wire {
    /// Sends one operation, which is done.
    async fn done(&mut self, body: impl FnOnce(&mut BytesMut)) {
        self.send(&frame(1, Kind::Op, body)).await;
        let (_, codes) = self.codes().await;
        assert!(codes[0].is_ok(), "{codes:?}");
    }

    async fn subscribe(&mut self, wish: &Subscribe<'_>) {
        self.send(&frame(9, Kind::Subscribe, |out| wish.encode(out))).await;
    }

    /// The next EVENTS frame: its head, and its events as text without their times.
    async fn events(&mut self) -> (EventsHead, Vec<String>) {
        let (head, events, _) = self.events_frame().await;
        (head, events)
    }

    /// … and the bytes that it takes of what was granted.
    async fn events_frame(&mut self) -> (EventsHead, Vec<String>, usize) {
        let frame = self.next().await.expect("the server goes on");
        assert_eq!((frame.header.request_id, frame.header.kind), (9, Kind::Events));
        let mut reader = Reader::new(&frame.body);
        let head = EventsHead::take(&mut reader).unwrap();
        let mut shown = Vec::new();
        while !reader.is_empty() {
            let record = EventRecord::take(&mut reader).unwrap();
            assert!(record.header().next() <= head.reached, "{head:?}");
            assert!(record.header().at_us <= head.server_now.0 * 1_000 + 999, "{head:?}");
            shown.extend(record.events().map(|event| show(&event.unwrap())));
        }
        let bytes = if shown.is_empty() { 0 } else { Header::BYTES + frame.body.len() };
        (head, shown, bytes)
    }

    /// Events until there are so many; frames follow each other without a gap.
    async fn events_until(&mut self, count: usize) -> Vec<String> {
        let (mut next, mut all) = (None, Vec::new());
        while all.len() < count {
            let (head, events) = self.events().await;
            assert!(next.is_none_or(|next| next == head.first), "frames follow each other");
            next = Some(head.next);
            all.extend(events);
        }
        all
    }

    async fn error(&mut self) -> (Code, String) {
        let frame = self.next().await.expect("the server answers");
        let reply = ErrorReply::decode(&frame.body).unwrap();
        (reply.code, String::from_utf8_lossy(reply.message).into_owned())
    }
}

/// Number, kind, who, and what is reserved.
fn show(event: &Event<'_>) -> String {
    let reserved = event.change.map_or(0, |change| change.after.reserved);
    let by = String::from_utf8_lossy(event.principal);
    format!("{} {} by {by}: {reserved}", event.sequence, event.kind.name())
}

fn reserve(out: &mut BytesMut, n: u8, sku: &str, quantity: u32) {
    let line = Line { cell: CellRef::name("BER", sku), quantity };
    Op::encode_reserve(out, OpFlags::default(), None, id(n), 60_000, &[line]);
}

fn receive_sku(out: &mut BytesMut, n: u8, sku: &str) {
    let cell = CellRef::name("BER", sku);
    Op::encode_receive(out, OpFlags::DEFINE, None, OpId(id(n).0), cell, 10);
}

#[tokio::test]
async fn a_subscriber_gets_all_events_in_their_order_and_those_to_come() {
    let node = Node::start(Limits::default()).await;
    let (mut shop, mut reader) = (node.greeted_as(b"shop").await, node.greeted().await);
    shop.done(|out| receive(out, 1, 10)).await;
    reader.subscribe(&ALL).await;
    let (head, events) = reader.events().await;
    assert_eq!((head.first, head.next, events.len()), (1, 1, 0), "where it begins");
    let defined = ["1 CELL_DEFINED by shop: 0", "2 RECEIVED by shop: 0"];
    assert_eq!(reader.events_until(2).await, defined);
    shop.done(|out| reserve(out, 2, "shirt", 3)).await;
    assert_eq!(reader.events_until(1).await, ["3 RESERVED by shop: 3"]);
    // From a number on, also in the middle of a record: the client skips what it has had.
    let mut other = node.greeted().await;
    other.subscribe(&Subscribe { start: Start::Sequence(2), ..ALL }).await;
    assert_eq!(other.events().await.0.first, 2);
    assert_eq!(other.events_until(3).await, [defined[0], defined[1], "3 RESERVED by shop: 3"]);
    // From now on.
    let mut late = node.greeted().await;
    late.subscribe(&Subscribe { start: Start::Now, ..ALL }).await;
    assert_eq!(late.events().await.0.next, 4);
    shop.done(|out| reserve(out, 3, "shirt", 1)).await;
    assert_eq!(late.events_until(1).await, ["4 RESERVED by shop: 4"]);
    // From one on that has not happened for long: it waits, and is told how far the node is.
    let mut ahead = node.greeted().await;
    ahead.subscribe(&Subscribe { start: Start::Sequence(1_000_000), ..ALL }).await;
    let (head, _) = ahead.events().await;
    assert_eq!((head.first, head.next, head.reached), (1_000_000, 1_000_000, 5));
    node.stop().await;
}

#[tokio::test]
async fn a_filter_lets_through_what_is_wanted_and_tells_how_far_it_is() {
    let node = Node::start(Limits::default()).await;
    let (mut shop, mut reader) = (node.greeted_as(b"shop").await, node.greeted().await);
    let kinds = 1 << EventKind::Reserved as u8;
    let selectors = vec![Selector::Cell { warehouse: b"BER", sku: b"mug" }, Selector::Sku(b"cup")];
    reader.subscribe(&Subscribe { kinds, selectors, ..ALL }).await;
    for (n, sku) in [(1, "mug"), (2, "cup"), (3, "pot")] {
        shop.done(|out| receive_sku(out, n, sku)).await;
    }
    for (n, sku) in [(4, "pot"), (5, "mug"), (6, "pot"), (7, "cup")] {
        shop.done(|out| reserve(out, n, sku, 1)).await;
    }
    let wanted = reader.events_until(2).await;
    assert_eq!(wanted, ["8 RESERVED by shop: 1", "10 RESERVED by shop: 1"]);
    node.stop().await;
}

#[tokio::test]
async fn a_sample_of_what_is_sold_out_goes_through_the_log_and_is_told() {
    let engine = EngineConfig { sample_refusals: 3, ..EngineConfig::default() };
    let node = Node::start_first(Setup { engine, ..Setup::default() }).await;
    let (mut shop, mut reader) = (node.greeted_as(b"shop").await, node.greeted().await);
    let kinds = 1 << EventKind::Refused as u8;
    reader.subscribe(&Subscribe { kinds, ..ALL }).await;
    shop.done(|out| receive_sku(out, 1, "mug")).await;
    let index = || node.replica.with_state(|state| state.applied_index());
    let mut told = 0;
    for n in 2..=100 {
        let (id, before) = (id(n), index());
        let line = Line { cell: CellRef::name("BER", "mug"), quantity: 11 };
        let reserve = |out: &mut _| {
            Op::encode_reserve(out, OpFlags::default(), None, id, 60_000, &[line]);
        };
        shop.send(&frame(1, Kind::Op, reserve)).await;
        assert_eq!(shop.codes().await, (1, vec![Code::NO_STOCK]));
        let is_told = node.replica.cells().samples(&id);
        assert_eq!(index() - before, u64::from(is_told), "{n}: only what is told is logged");
        told += u64::from(is_told);
    }
    // Ids have the time in them, so chance decides; all or none would take more than luck.
    assert!((1..99).contains(&told), "{told}");
    let events = reader.events_until(told as usize).await;
    assert_eq!(events[0], "3 REFUSED by shop: 0");
    assert_eq!(node.replica.with_state(|state| state.next_event()), 3 + told);
    // No unit has moved.
    shop.done(|out| reserve(out, 101, "mug", 10)).await;
    node.stop().await;
}

#[tokio::test]
async fn nothing_is_sent_that_was_not_granted() {
    let node = Node::start(Limits::default()).await;
    let (mut shop, mut reader) = (node.greeted().await, node.greeted().await);
    reader.subscribe(&Subscribe { credit: 1, ..ALL }).await;
    assert_eq!(reader.events().await.0.next, 1);
    for n in 1..=20 {
        shop.done(|out| receive_sku(out, n, "mug")).await;
    }
    let first = reader.events_until(1).await;
    // A byte buys a record; a ping overtakes what is not granted.
    reader.send(&frame(2, Kind::Op, Op::encode_ping)).await;
    assert_eq!(reader.codes().await, (2, vec![Code::OK]));
    reader.send(&frame(9, Kind::Credit, |out| out.extend_from_slice(&[0, 0, 1, 0]))).await;
    let rest = reader.events_until(21 - first.len()).await;
    assert_eq!(rest.last().unwrap(), "21 RECEIVED by test: 0");
    node.stop().await;
}

#[tokio::test]
async fn who_grants_little_gets_the_same_in_smaller_pieces() {
    const GRANT: usize = 1_000;
    const RECORD_BYTES_MAX: usize = 200;
    let node = Node::start(Limits::default()).await;
    let (mut shop, mut reader) = (node.greeted().await, node.greeted().await);
    // More than is copied for each, so that the feed writes it to the sockets itself.
    shop.done(|out| receive_sku(out, 1, "mug")).await;
    for n in 0..400_u16 {
        let mut op_id = OpId(id(7).0);
        op_id.0[14..].copy_from_slice(&n.to_le_bytes());
        let cell = CellRef::name("BER", "mug");
        shop.done(|out| Op::encode_receive(out, OpFlags::default(), None, op_id, cell, 1)).await;
    }
    reader.subscribe(&ALL).await;
    let all = reader.events_until(402).await;
    assert_eq!(all.len(), 402);
    let mut poor = node.greeted().await;
    poor.subscribe(&Subscribe { credit: GRANT as u32, ..ALL }).await;
    let mut got = Vec::new();
    let (mut next, mut bytes_since_grant) = (1, 0);
    while got.len() < 402 {
        let (head, events, bytes) = poor.events_frame().await;
        assert_eq!(head.first, next, "frames follow each other");
        bytes_since_grant += bytes;
        assert!(bytes_since_grant < GRANT + RECORD_BYTES_MAX, "{bytes_since_grant} were sent");
        next = head.next;
        got.extend(events);
        if bytes_since_grant >= GRANT {
            bytes_since_grant = 0;
            let grant = (GRANT as u32).to_le_bytes();
            poor.send(&frame(9, Kind::Credit, |out| out.extend_from_slice(&grant))).await;
        }
    }
    assert_eq!(got, all);
    node.stop().await;
}

#[tokio::test]
async fn what_cannot_be_subscribed_to_is_refused_and_the_connection_goes_on() {
    let node = Node::start(Limits::default()).await;
    let mut wire = node.greeted().await;
    wire.send(&frame(9, Kind::Subscribe, |out| out.extend_from_slice(&[7; 30]))).await;
    assert_eq!(wire.error().await.0, Code::BAD_OP);
    wire.send(&frame(9, Kind::Credit, |out| out.extend_from_slice(&[7; 3]))).await;
    assert_eq!(wire.error().await.0, Code::BAD_OP);
    // Nobody subscribed under this number.
    wire.send(&frame(8, Kind::Credit, |out| out.extend_from_slice(&[7; 4]))).await;
    for n in 10..18 {
        wire.send(&frame(n, Kind::Subscribe, |out| ALL.encode(out))).await;
        assert_eq!(wire.next().await.unwrap().header.kind, Kind::Events);
    }
    wire.send(&frame(18, Kind::Subscribe, |out| ALL.encode(out))).await;
    assert_eq!(wire.error().await.0, Code::BUSY);
    wire.send(&frame(2, Kind::Op, Op::encode_ping)).await;
    assert_eq!(wire.codes().await, (2, vec![Code::OK]));
    node.stop().await;
}

#[tokio::test]
async fn a_follower_serves_the_same_events() {
    let node = Node::start(Limits::default()).await;
    let other = node.joined().await;
    let (mut shop, mut reader) = (node.greeted_as(b"shop").await, other.greeted().await);
    reader.subscribe(&ALL).await;
    shop.done(|out| receive(out, 1, 10)).await;
    let defined = ["1 CELL_DEFINED by shop: 0", "2 RECEIVED by shop: 0"];
    assert_eq!(reader.events_until(2).await, defined);
    other.stop().await;
    node.stop().await;
}

#[tokio::test]
async fn an_operator_asks_what_was_and_why() {
    let node = Node::start(Limits::default()).await;
    let mut shop = node.greeted_as(b"shop").await;
    let note = Some(Note { reason: 4, reference: b"delivery 7" });
    let op_id = OpId(id(1).0);
    let terms = Terms { flags: OpFlags::DEFINE, not_after: None, note };
    shop.done(|out| Op::Receive { op_id, quantity: 10, cell: cell() }.encode(out, &terms)).await;
    let held = id(2);
    let line = Line { cell: cell(), quantity: 3 };
    shop.done(|out| Op::encode_reserve(out, OpFlags::default(), None, held, 60_000, &[line])).await;
    shop.done(|out| {
        Op::Confirm { id: held, parts: Parts::WHOLE }.encode(out, &Terms::default());
    })
    .await;
    let mut operator = node.operator().await;
    let why = operator.ask("why BER shirt").await;
    for part in [
        "on_hand         10",
        "committed       3",
        "is_whole_story  yes",
        "2 RECEIVED",
        "reason=4 reference=\"delivery 7\" by=shop",
        "4 CONFIRMED",
        "BER shirt on_hand=10 reserved=0(-3) committed=3(+3)",
    ] {
        assert!(why.contains(part), "{part} is not in\n{why}");
    }
    let one = operator.ask("why BER shirt 1").await;
    assert!(one.contains("4 CONFIRMED") && !one.contains("3 RESERVED"), "{one}");
    assert!(one.contains("before these: on_hand=10 reserved=3 committed=0"), "{one}");
    for (point, expected) in [
        ("1", "\"on_hand\":0,\"reserved\":0,\"committed\":0,\"available\":0,\"since_event\":1"),
        ("2", "\"on_hand\":10,\"reserved\":0,\"committed\":0,\"available\":10,\"since_event\":2"),
        ("3", "\"on_hand\":10,\"reserved\":3,\"committed\":0,\"available\":7,\"since_event\":3"),
        ("4", "\"on_hand\":10,\"reserved\":0,\"committed\":3,\"available\":7,\"since_event\":4"),
        ("2099-01-01T00:00:00Z", "has not come; the cluster's clock says 20"),
        ("2020-01-01T00:00:00Z", "\"there\":false"),
        ("9", "event 9 has not happened; the next is 5"),
        ("noon", "neither an event's number nor a moment"),
    ] {
        operator.say(&format!("json asof {point} BER shirt\n")).await;
        let line = operator.line().await;
        assert!(line.contains(expected), "{point}: {line}");
    }
    let held_then = operator.ask(&format!("asof 3 {held}")).await;
    assert!(held_then.contains("RESERVED") && held_then.contains("reserved"), "{held_then}");
    let history = operator.ask(&format!("history {held}")).await;
    assert!(history.contains("last            CONFIRMED"), "{history}");
    assert!(history.contains("is_whole_story  yes"), "{history}");
    assert!(history.contains("3 RESERVED") && history.contains("4 CONFIRMED"), "{history}");
    let nobody = operator.ask(&format!("history {}", id(77))).await;
    assert!(nobody.contains("no event about"), "{nobody}");
    let found = operator.ask("reconcile").await;
    assert!(
        found.contains("diverged          no") && found.contains("rounds            0"),
        "{found}"
    );
    let refused = operator.ask("reconcile now").await;
    assert!(refused.contains("compares nothing: start it without --reconcile 0s"), "{refused}");
    node.stop().await;
}
