//! Doors for the fuzz targets `reply`, `events_frame` and `cursor`: what a server or a disk gives goes through the
//! client's own decoders. Not an interface for anything else.

use stockd_protocol::{ErrorReply, Frame, Kind, Opcode};

use crate::client::{decode_reply, frame_refusal};
use crate::outcome::Outcome;
use crate::raw::decode_greeting;
use crate::request::Encoded;
use crate::{Error, Refusal};

pub use crate::events::fuzzing::{read_cursor, read_events, sample_cursor};

/// The results that a caller of these operations would get from `frame`; `None` if it is no reply
/// to them.
pub fn read_reply(
    batch: bool,
    opcodes: &[Opcode],
    frame: &Frame,
) -> Option<Vec<Result<Outcome, Refusal>>> {
    let kind = if batch { Kind::Batch } else { Kind::Op };
    let request = Encoded { kind, body: Default::default(), opcodes: opcodes.to_vec() };
    decode_reply(&request, frame).ok()
}

/// What a caller would get from `frame`, the refusal of a whole request; `None` if it is none.
pub fn read_error(frame: &Frame) -> Option<Error> {
    ErrorReply::decode(&frame.body).ok().map(|reply| frame_refusal(&reply).into())
}

/// What a connection would make of `frame`, the first one of a server.
///
/// # Errors
/// The connection cannot be used.
pub fn read_greeting(frame: &Frame) -> Result<crate::raw::Greeting, crate::raw::Error> {
    decode_greeting(frame)
}
