//! Where outcomes go: into a buffer if someone waits for them, else nowhere.

use bytes::{BufMut, BytesMut};

use crate::protocol::{Code, OutcomeHeader, ReservationState, begin_outcome, finish_outcome};

/// A sink for outcomes, one per operation.
pub(super) struct Outcomes<'a> {
    out: Option<&'a mut BytesMut>,
    last: Code,
    too_old: bool,
}

/// What is refused of a request that was not done before: that it is late comes first.
pub(super) const fn in_time(code: Code, late: bool) -> Code {
    if late { Code::DEADLINE_PASSED } else { code }
}

impl<'a> Outcomes<'a> {
    /// Into a buffer, or nowhere.
    pub fn new(out: Option<&'a mut BytesMut>) -> Self {
        Self { out, last: Code::OK, too_old: false }
    }

    /// What the last outcome said.
    pub fn last(&self) -> Code {
        self.last
    }

    /// One of them says that an id is too old.
    pub fn too_old(&self) -> bool {
        self.too_old
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.out.as_ref().map_or(0, |out| out.len())
    }

    /// The last outcome, which begins at `last`, fails those before it, from `start` on.
    pub fn fail_before(&mut self, start: usize, count: u32, last: usize) {
        let Some(out) = &mut self.out else { return };
        let failure = out.split_off(last);
        out.truncate(start);
        for _ in 0..count {
            begin_outcome(out, OutcomeHeader { code: Code::LINKED_FAILED, detail: 0 });
        }
        out.extend_from_slice(&failure);
    }

    /// An outcome without a body.
    #[inline]
    pub fn plain(&mut self, code: Code, detail: u16) {
        self.last = code;
        self.too_old |= code == Code::ID_TOO_OLD;
        if let Some(out) = &mut self.out {
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
        self.last = code;
        if let Some(out) = &mut self.out {
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
