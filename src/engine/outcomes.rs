//! Where outcomes go: into a buffer if someone waits for them, else nowhere.

use bytes::{BufMut, BytesMut};

use crate::protocol::{Code, OutcomeHeader, ReservationState, begin_outcome, finish_outcome};

/// A sink for outcomes, one per operation.
pub(super) struct Outcomes<'a>(pub Option<&'a mut BytesMut>);

impl Outcomes<'_> {
    /// An outcome without a body.
    #[inline]
    pub fn plain(&mut self, code: Code, detail: u16) {
        if let Some(out) = &mut self.0 {
            begin_outcome(out, OutcomeHeader { code, detail });
        }
    }

    /// An outcome without a body about a reservation in this state.
    #[inline]
    pub fn state(&mut self, code: Code, state: ReservationState) {
        self.plain(code, state as u16);
    }

    /// An outcome whose body `put` writes; it is not called when nobody waits.
    #[inline]
    pub fn body(&mut self, code: Code, detail: u16, put: impl FnOnce(&mut BytesMut)) {
        if let Some(out) = &mut self.0 {
            body(out, code, detail, put);
        }
    }
}

/// Appends an outcome whose body `put` writes.
pub(super) fn body(out: &mut BytesMut, code: Code, detail: u16, put: impl FnOnce(&mut BytesMut)) {
    let start = begin_outcome(out, OutcomeHeader { code, detail });
    put(out);
    finish_outcome(out, start);
}

/// Appends a deadline or a creation time.
pub(super) fn put_millis(out: &mut BytesMut, millis: crate::protocol::UnixMillis) {
    out.put_u64_le(millis.0);
}
