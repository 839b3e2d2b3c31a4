//! What clients send: frames, hellos, operations.

use bytes::{Bytes, BytesMut};
use stockd::engine::batch;
use stockd_protocol::{
    BackupRead, Frame, FrameError, Hello, Kind, Op, OpFlags, Reader, Subscribe, Terms, begin_frame,
    finish_frame, limits, take_frame, take_op_and_terms,
};

use crate::input::{connection, frames};
use crate::traffic;

/// See [`connection`].
pub fn client_frame(data: &[u8]) {
    let (piece, bytes) = connection(data);
    let whole = frames(&bytes, bytes.len().max(1), take);
    assert_eq!(frames(&bytes, piece, take), whole, "how bytes arrive does not matter");
    for frame in &whole.0 {
        body(frame);
    }
}

fn take(buffer: &mut BytesMut) -> Result<Option<Frame>, FrameError> {
    take_frame(buffer, limits::FRAME_BYTES_MAX)
}

fn body(frame: &Frame) {
    let mut out = BytesMut::new();
    let start = begin_frame(&mut out, frame.header);
    out.extend_from_slice(&frame.body);
    finish_frame(&mut out, start);
    let again = take(&mut out);
    assert_eq!(again.as_ref().ok(), Some(&Some(frame.clone())), "a frame comes back as it went");
    match frame.header.kind {
        Kind::Hello => hello(&frame.body),
        Kind::Op => client_op(&frame.body),
        Kind::BackupRead => backup_read(&frame.body),
        Kind::Subscribe => subscribe(&frame.body),
        Kind::Batch => client_op(frame.body.get(4..).unwrap_or_default()),
        _ => {}
    }
}

fn hello(body: &Bytes) {
    let Ok(hello) = Hello::decode(body) else { return };
    // The encoder is the client's and does not write longer names; the server cuts them.
    if hello.client_name.len() <= limits::CLIENT_NAME_BYTES_MAX {
        let mut out = BytesMut::new();
        hello.encode(&mut out);
        assert_eq!(Hello::decode(&out), Ok(hello), "a hello comes back as it went");
    }
}

fn backup_read(body: &Bytes) {
    let Ok(read) = BackupRead::decode(body) else { return };
    let mut out = BytesMut::new();
    read.encode(&mut out);
    assert!(body.starts_with(&out), "a BACKUP_READ comes back as it went");
}

fn subscribe(body: &Bytes) {
    let Ok(wish) = Subscribe::decode(body) else { return };
    let mut out = BytesMut::new();
    wish.encode(&mut out);
    assert_eq!(Subscribe::decode(&out), Ok(wish), "a subscription comes back as it went");
}

/// Operations, as a frame's body or a log entry holds them.
pub fn client_op(data: &[u8]) {
    let mut reader = Reader::new(data);
    let mut writes = 0;
    let mut reads = 0;
    let end = loop {
        if reader.is_empty() {
            break Ok(());
        }
        match take_op_and_terms(&mut reader) {
            Ok((op, terms)) => {
                comes_back(&op, &terms);
                *(if op.opcode().is_write() { &mut writes } else { &mut reads }) += 1;
            }
            Err(error) => break Err(error),
        }
    };
    let checked = batch::check_ops(data);
    match (end, reads) {
        (Ok(()), 0) => assert_eq!(checked, Ok(writes), "what decodes may be logged"),
        _ => assert!(checked.is_err(), "what does not decode, or reads, is not logged"),
    }
}

/// Encodes an operation again: it must decode to the same.
fn comes_back(op: &Op<'_>, terms: &Terms<'_>) {
    let mut out = BytesMut::new();
    op.encode(&mut out, terms);
    let mut reader = Reader::new(&out);
    let again = take_op_and_terms(&mut reader);
    let flags = terms.flags.without(OpFlags::NAMES);
    let (again_op, again_terms) = again.expect("an operation decodes as it was encoded");
    assert_eq!(again_op, *op, "an operation comes back as it went");
    let again_flags = again_terms.flags.without(OpFlags::NAMES);
    assert_eq!(again_flags, flags, "flags come back as they went");
    assert_eq!((again_terms.not_after, again_terms.note), (terms.not_after, terms.note));
    assert!(reader.is_empty(), "an encoded operation is one operation");
}

pub fn client_frames() -> Vec<Vec<u8>> {
    let ops = traffic::writes().into_iter().chain(traffic::reads());
    let mut seeds: Vec<_> = ops.map(|op| traffic::frame(Kind::Op, 7, &op)).collect();
    seeds.push(traffic::hello());
    seeds.extend(traffic::following());
    seeds.push(traffic::batch_frame(8, &traffic::writes()));
    seeds.push([traffic::hello(), traffic::batch_frame(9, &traffic::reads())].concat());
    seeds.iter().map(|seed| [&[200, 0], &seed[..]].concat()).collect()
}

pub fn client_ops() -> Vec<Vec<u8>> {
    let (writes, reads) = (traffic::writes(), traffic::reads());
    let mut seeds: Vec<Vec<u8>> = writes.iter().chain(&reads).map(|op| op.to_vec()).collect();
    seeds.push(writes.concat());
    seeds
}
