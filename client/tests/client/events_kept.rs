//! What is kept of events: how far they were handled.

use std::fs;

use stockd_client::events::{Cursor, CursorError, Start, Subscription};
use tokio::join;

use crate::events::{events, following, subscribed};
use crate::fake::{Node, options};

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
