//! What peers send, and what of it is stored.

use bytes::Bytes;
use stockd::replication::fuzzing::{self, Message};

use crate::input::{self, Input, connection, mend_frames};

/// See [`connection`].
pub fn frame(data: &[u8]) {
    let (piece, bytes) = connection(data);
    let whole = input::frames(&bytes, bytes.len().max(1), fuzzing::take_peer_frame);
    assert_eq!(
        input::frames(&bytes, piece, fuzzing::take_peer_frame),
        whole,
        "how bytes arrive does not matter"
    );
    for (_, body) in &whole.0 {
        if let Err(why) = fuzzing::check_hello(body) {
            assert!(!why.is_empty(), "a refusal says why");
        }
    }
}

/// Byte 0 says which message, the rest is its body. A decoder may take a value in more than one
/// form, such as any byte but 0 for yes; but what it took, encoded, is one form for good.
pub fn message(data: &[u8]) {
    let mut input = Input(data);
    let what = Message::ALL[usize::from(input.u8()) % Message::ALL.len()];
    let body = Bytes::copy_from_slice(input.0);
    let Some(once) = fuzzing::through(what, &body) else { return };
    let twice = fuzzing::through(what, &once.clone().freeze());
    assert_eq!(twice, Some(once), "{what:?} comes back as it went");
}

/// An identity file. Bit 0 of byte 0: its checksum is in the input too.
pub fn identity(data: &[u8]) {
    let mut input = Input(data);
    let keep = input.u8() & 1 == 1;
    let mut content = input.0.to_vec();
    if !keep {
        content.extend_from_slice(&crc32fast::hash(input.0).to_le_bytes());
    }
    if let Some(again) = fuzzing::identity_through(&content) {
        let len = again.len() - 4;
        assert_eq!(again[..len], content[..len], "an identity comes back as it went");
    }
}

pub fn frames() -> Vec<Vec<u8>> {
    let frame = |kind: u8, body: &[u8]| {
        let mut out = Vec::new();
        out.extend_from_slice(&(16 + body.len() as u32).to_le_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(&7_u64.to_le_bytes());
        out.extend_from_slice(&[kind, 0, 0, 0]);
        out.extend_from_slice(body);
        mend_frames(&mut out);
        [&[200, 0], &out[..]].concat()
    };
    let hellos = fuzzing::sample_hellos().into_iter().map(|body| frame(0x41, &body));
    let appends = fuzzing::samples().into_iter().filter(|(what, _)| *what == Message::Append);
    hellos.chain(appends.map(|(_, body)| frame(0x42, &body))).collect()
}

pub fn messages() -> Vec<Vec<u8>> {
    let place = |what| Message::ALL.iter().position(|known| *known == what);
    let samples = fuzzing::samples().into_iter();
    samples
        .map(|(what, body)| {
            assert_eq!(
                fuzzing::through(what, &body.clone().into()).as_deref(),
                Some(&body[..]),
                "what a node sends is in its one form"
            );
            [&[place(what).expect("it is one of all") as u8], &body[..]].concat()
        })
        .collect()
}

pub fn identities() -> Vec<Vec<u8>> {
    let sample = fuzzing::sample_identity();
    vec![[&[1], &sample[..]].concat(), [&[0], &sample[..sample.len() - 4]].concat()]
}
