//! What is kept of events: how far they were handled, and what their cells are called.

use std::fs;

use stockd_client::events::{
    Cursor, CursorError, EventBody, EventKind, Names, Start, Subscription,
};
use stockd_client::{CellHandle, Client, Code};
use stockd_protocol::event::{Cause, CellChange, Counts, RecordWriter, seal};
use stockd_protocol::{
    CellDetails, Frame, ListHead, ListedCell, Listing, Naming, Op, Reader, ShardId, take_op,
};
use tokio::join;

use crate::events::{events, following, subscribed};
use crate::fake::{Node, options, reply};

#[tokio::test]
async fn a_cursor_goes_on_where_it_was_and_only_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.cursor");
    let node = Node::start().await;
    let subscription = || Subscription::new(options(&[&node])).oldest();

    let mut cursor = Cursor::open(&path).unwrap();
    assert_eq!((cursor.position(), cursor.cluster_id(), cursor.data()), (None, None, &b""[..]));
    assert!(matches!(cursor.save(5), Err(CursorError::Unbound)));
    assert!(matches!(Cursor::open(&path), Err(CursorError::InUse { .. })));
    let (stream, _peer, _) = following(subscription().resume(&cursor), &node, 40).await;
    cursor.bind(&stream).unwrap();
    drop(cursor);

    // A program that stops before it has handled anything goes on there all the same.
    let mut cursor = Cursor::open(&path).unwrap();
    assert_eq!((cursor.position(), cursor.cluster_id()), (Some(40), Some(1)));
    cursor.save_with(41, b"an order").unwrap();
    cursor.save(42).unwrap();
    assert!(matches!(cursor.save_with(43, &[0; (1 << 20) + 1]), Err(CursorError::TooLarge { .. })));
    drop(cursor);
    let mut cursor = Cursor::open(&path).unwrap();
    assert_eq!((cursor.position(), cursor.data()), (Some(42), &b"an order"[..]));
    let open = subscription().resume(&cursor).open();
    let script = async {
        let mut peer = node.accept_as_leader().await;
        let (subscribe, start) = subscribed(&mut peer).await;
        assert_eq!(start, Start::Sequence(42));
        peer.send(events(&subscribe, 42, 42, &[])).await;
        peer
    };
    let (stream, _peer) = join!(open, script);
    cursor.bind(&stream.unwrap()).unwrap();
    assert_eq!(cursor.position(), Some(42), "it stays where it was");

    // Numbers of one cluster mean nothing in another.
    let other = Node::start().await.of_cluster(2);
    let elsewhere = Subscription::new(options(&[&other]));
    let (stream, _peer, _) = following(elsewhere.clone(), &other, 42).await;
    let wrong = cursor.bind(&stream).unwrap_err();
    assert!(matches!(wrong, CursorError::WrongCluster { expected: 1, found: 2 }), "{wrong}");
    let (refused, _peer) = join!(elsewhere.resume(&cursor).open(), other.accept_as_leader());
    assert!(refused.unwrap_err().to_string().contains("is of cluster 0000000000000002"));
}

#[test]
fn a_damaged_cursor_is_no_new_one() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("orders.cursor");
    fs::write(&path, b"").unwrap();
    let error = Cursor::open(&path).unwrap_err();
    assert!(matches!(error, CursorError::Damaged { .. }));
    assert!(error.to_string().contains("it is cut off; restore it, or remove it"), "{error}");
    fs::write(&path, [7; 64]).unwrap();
    assert!(Cursor::open(&path).unwrap_err().to_string().contains("no cursor"));
}

/// A record of one event about a cell.
fn about(first: u64, kind: EventKind, cell: u32, body: EventBody<'_>) -> Vec<u8> {
    let mut writer = RecordWriter::begin(Vec::new(), ShardId(0), first, 7, 1_000_000);
    let cause = Cause { kind, id: None, note: None, deadline_ms: None, body };
    let counts = Counts::default();
    let change = CellChange { cell: CellHandle(cell), after: counts, delta: counts };
    match kind {
        EventKind::SkuNamed => writer.event(&cause),
        _ => writer.cell_event(&cause, &change, false),
    }
    let mut bytes = writer.finish();
    seal(&mut bytes);
    bytes
}

/// Where a list of cells begins that is asked for.
fn list_from(frame: &Frame) -> u32 {
    match take_op(&mut Reader::new(&frame.body)).unwrap().0 {
        Op::ListCells(Listing { from, count: 1024, .. }) => from,
        op => panic!("{op:?}"),
    }
}

#[tokio::test]
async fn names_are_learned_from_events_and_asked_for_by_the_page() {
    let node = Node::start().await;
    let subscription = Subscription::new(options(&[&node])).from_sequence(1);
    let (mut stream, mut events_peer, subscribe) = following(subscription, &node, 1).await;
    let (client, mut peer) = join!(Client::connect(options(&[&node])), node.accept_as_leader());
    let client = client.unwrap();
    let mut names = Names::new();
    let name = |names: &Names, cell| {
        let name = names.get(CellHandle(cell))?;
        Some([name.warehouse, name.sku].map(|name| String::from_utf8_lossy(name).into_owned()))
    };
    let page = |to: &Frame, cells: &[(u32, &str)]| {
        reply(to, Code::OK, 0, |out| {
            let cells_count = cells.len() as u32;
            out.extend_from_slice(&ListHead { next: None, cells: cells_count }.to_bytes());
            for (handle, sku) in cells {
                let (handle, details) = (CellHandle(*handle), CellDetails::default());
                ListedCell { handle, warehouse: b"BER", sku: sku.as_bytes(), details }.encode(out);
            }
        })
    };

    let made = EventBody::Names { warehouse: b"HAM", sku: b"cup" };
    let records = [
        about(1, EventKind::CellDefined, 9, made),
        about(2, EventKind::Received, 9, EventBody::None),
        about(3, EventKind::Received, 4, EventBody::None),
        about(4, EventKind::Received, 5, EventBody::None),
    ];
    events_peer.send(events(&subscribe, 1, 5, &records)).await;
    let mut batch = stream.next().await.unwrap();
    while batch.is_empty() {
        batch = stream.next().await.unwrap();
    }
    let script = async {
        let list = peer.expect().await;
        assert_eq!(list_from(&list), 4, "9 is known, and 5 comes with 4");
        peer.send(page(&list, &[(4, "mug"), (5, "hat")])).await;
    };
    let (resolved, ()) = join!(names.resolve(&client, &batch), script);
    resolved.unwrap();
    assert_eq!(name(&names, 9), Some(["HAM", "cup"].map(String::from)));
    assert_eq!(name(&names, 4), Some(["BER", "mug"].map(String::from)));
    assert_eq!(name(&names, 5), Some(["BER", "hat"].map(String::from)));
    names.resolve(&client, &batch).await.unwrap();

    // Renamed: what it is called now is asked for.
    let renamed = EventBody::Named { sku: b"mug", naming: Naming::Rename, name: b"beaker" };
    let records = [
        about(5, EventKind::SkuNamed, 0, renamed),
        about(6, EventKind::Received, 4, EventBody::None),
    ];
    events_peer.send(events(&subscribe, 5, 7, &records)).await;
    let batch = stream.next().await.unwrap();
    let script = async {
        let list = peer.expect().await;
        assert_eq!(list_from(&list), 4);
        peer.send(page(&list, &[(4, "beaker")])).await;
        let list = peer.expect().await;
        assert_eq!(list_from(&list), 77);
        peer.send(page(&list, &[])).await;
    };
    let ask = async {
        names.resolve(&client, &batch).await.unwrap();
        let nobody = names.of(&client, CellHandle(77)).await.unwrap();
        assert_eq!(nobody, None);
    };
    let ((), ()) = join!(ask, script);
    assert_eq!(name(&names, 4), Some(["BER", "beaker"].map(String::from)));
    assert_eq!(name(&names, 9), None, "all were forgotten");
}
