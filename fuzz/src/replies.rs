//! What servers send, through the client's decoders.

use bytes::{Bytes, BytesMut};
use stockd_client::fuzzing;
use stockd_protocol::{
    Code, ErrorReply, Frame, Header, HelloReply, Kind, Opcode, Reader, ReplyPrefix, ShardId,
    UnixMillis, take_op, take_outcome,
};

use crate::input::Input;
use crate::traffic;

/// Byte 0: bit 0, a batch was asked; bits 1.. the reply's kind. Then the operations that were asked,
/// a count and their places in [`Opcode::ALL`]; the rest is the body.
pub fn reply(data: &[u8]) {
    let mut input = Input(data);
    let first = input.u8();
    let batch = first & 1 == 1;
    let kind = Kind::ALL[usize::from(first >> 1) % Kind::ALL.len()];
    let count = if batch { usize::from(input.u8()) } else { 1 };
    let asked = input.bytes(count).iter();
    let asked: Vec<_> = asked.map(|at| Opcode::ALL[usize::from(*at) % Opcode::ALL.len()]).collect();
    let header = Header { request_id: 1, kind, shard: ShardId(0) };
    let frame = Frame { header, body: Bytes::copy_from_slice(input.0) };
    if let Some(results) = fuzzing::read_reply(batch, &asked, &frame) {
        assert_eq!(results.len(), asked.len(), "a result for each operation");
        for result in &results {
            match result {
                Ok(_) => {}
                Err(refusal) => assert!(!refusal.to_string().is_empty()),
            }
        }
    }
    if let Some(error) = fuzzing::read_error(&frame) {
        assert!(!error.to_string().is_empty());
    }
    match fuzzing::read_greeting(&frame) {
        Ok(greeting) => assert_eq!(greeting.version, stockd_protocol::VERSION),
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The engine's own outcomes, as a server frames them.
pub fn replies() -> Vec<Vec<u8>> {
    let mut state = traffic::state(0);
    let mut seeds = Vec::new();
    let (mut all, mut asked) = (prefix(), Vec::new());
    let writes = traffic::writes();
    all.extend_from_slice(&(writes.len() as u32).to_le_bytes());
    for (index, op) in (1..).zip(&writes) {
        let mut outcome = BytesMut::new();
        let entry = traffic::entry(traffic::START_MS, 1, op);
        state.apply(index, &entry, Some(&mut outcome));
        seeds.push(seed(false, Kind::OpReply, &[place(op)], &[&prefix(), &outcome[..]].concat()));
        all.extend_from_slice(&outcome);
        asked.push(place(op));
    }
    seeds.push(seed(true, Kind::BatchReply, &asked, &all));
    for op in traffic::reads() {
        let mut outcome = BytesMut::new();
        let (read, ..) = take_op(&mut Reader::new(&op)).expect("it was encoded a moment ago");
        match read {
            stockd_protocol::Op::ReadCells { cells } => {
                state.cells().read_cells(&cells, &mut outcome);
            }
            stockd_protocol::Op::ReadReservation { id } => state.read_reservation(id, &mut outcome),
            stockd_protocol::Op::ReadSku { after, sku } => {
                state.read_sku(sku, after, &mut outcome);
            }
            stockd_protocol::Op::ReadDetails { cells } => {
                state.cells().read_details(&cells, &mut outcome);
            }
            stockd_protocol::Op::ListCells(listing) => {
                state.cells().list_cells(&listing, &mut outcome);
            }
            stockd_protocol::Op::ReadLines { id } => state.read_lines(id, &mut outcome),
            stockd_protocol::Op::ListSkus(listing) => state.list_skus(&listing, &mut outcome),
            stockd_protocol::Op::ReadCrossings { from, count } => {
                state.read_crossings(from, count, &mut outcome);
            }
            stockd_protocol::Op::ReadCatalogue { sku } => state.read_catalogue(sku, &mut outcome),
            stockd_protocol::Op::ReadOwner { owner } => state.read_owner(owner, &mut outcome),
            stockd_protocol::Op::ReadTransfer { transfer } => {
                state.read_transfer(transfer, &mut outcome);
            }
            _ => outcome.extend_from_slice(&[0; 8]),
        }
        assert!(take_outcome(&mut Reader::new(&outcome)).is_ok());
        seeds.push(seed(false, Kind::OpReply, &[place(&op)], &[&prefix(), &outcome[..]].concat()));
    }
    seeds.push(seed(false, Kind::Error, &[0], &error()));
    seeds.push(seed(false, Kind::HelloReply, &[0], &hello_reply()));
    seeds
}

fn seed(batch: bool, kind: Kind, asked: &[u8], body: &[u8]) -> Vec<u8> {
    let kind = Kind::ALL.iter().position(|known| *known == kind).expect("a kind of this version");
    let mut seed = vec![kind as u8 * 2 + u8::from(batch)];
    if batch {
        seed.push(asked.len() as u8);
    }
    seed.extend_from_slice(asked);
    seed.extend_from_slice(body);
    seed
}

/// Where an encoded operation's opcode is in the list of all.
fn place(op: &[u8]) -> u8 {
    let at = Opcode::ALL.iter().position(|opcode| *opcode as u8 == op[0]);
    at.expect("an opcode of this version") as u8
}

fn prefix() -> Vec<u8> {
    let mut out = BytesMut::new();
    let prefix = ReplyPrefix { index: 5, server_now: UnixMillis(traffic::START_MS), age_ms: 0 };
    prefix.encode(&mut out);
    out.to_vec()
}

fn error() -> Vec<u8> {
    let mut out = BytesMut::new();
    let leader = b"127.0.0.1:7400";
    let (code, message) = (Code::NOT_LEADER, b"ask node 1");
    ErrorReply { code, retry_after_ms: 10, leader, message, event: 0 }.encode(&mut out);
    out.to_vec()
}

fn hello_reply() -> Vec<u8> {
    let mut out = BytesMut::new();
    let reply = HelloReply {
        version: stockd_protocol::VERSION,
        frame_bytes_max: 1 << 20,
        batch_ops_max: 8_192,
        frames_in_flight_max: 4_096,
        cluster_id: 9,
        node_id: 1,
        server_now: UnixMillis(traffic::START_MS),
        leader: b"127.0.0.1:7400",
    };
    reply.encode(&mut out);
    out.to_vec()
}
