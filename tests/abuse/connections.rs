//! More connections than the server takes.

use stockd::protocol::{Code, ErrorReply, Kind, limits, take_frame};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::attacks::greet;
use crate::victims::Victims;
use crate::{Server, until};

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    const MAX: usize = 50;
    let mut server = Server::start(&["--max-connections", &MAX.to_string()]).await;
    let mut victims = Victims::connect(&server.node.client).await;
    let mut held = Vec::new();
    for _ in Victims::CLIENTS..MAX {
        let mut stream = TcpStream::connect(&server.node.client).await.unwrap();
        greet(&mut stream).await.unwrap();
        held.push(stream);
    }
    for _ in 0..20 {
        let mut stream = TcpStream::connect(&server.node.client).await.unwrap();
        let mut received = bytes::BytesMut::new();
        while stream.read_buf(&mut received).await.unwrap() > 0 {}
        let frame = take_frame(&mut received, limits::REPLY_BYTES_MAX).unwrap().unwrap();
        assert_eq!(frame.header.kind, Kind::Error);
        assert_eq!(ErrorReply::decode(&frame.body).unwrap().code, Code::BUSY);
    }
    assert!(server.node.status().await.is_some(), "an operator gets no answer");
    victims.buy(10).await;
    // A place that is given up is had again.
    held.pop();
    let client = server.node.client.clone();
    until("a free place", async || {
        let mut stream = TcpStream::connect(&client).await.unwrap();
        greet(&mut stream).await.is_ok()
    })
    .await;
    server.node.signal("TERM");
    assert!(server.node.ended().await.success());
    victims.account(&server.node.data);
}
