//! Linked operations: all of them, or none.
//!
//! ```text
//! a LINKED · b LINKED · c      one chain: c is its last
//!   │          │        └─ refused: a and b are undone, and say LINKED_FAILED
//!   │          └─ done
//!   └─ done
//! ```
//!
//! Each operation is executed as always, so that a later one sees what an earlier one did. Everything that
//! changes is noted first (`begin_journal` of slabs, rings, indexes and cells), and put back if one is
//! refused. Readers of cells wait meanwhile: nobody sees what is not decided.
//!
//! Left as it is after a failure: names and cells that were made, with nothing in them, and that due
//! reservations are due.

use crate::protocol::Code;

use super::batch::Command;
use super::outcomes::Outcomes;
use super::state::StockState;

/// A chain that has begun.
pub(super) struct Chain {
    /// Where its outcomes begin.
    start: usize,
    /// Its operations so far.
    count: u32,
    failed: bool,
    active: u64,
    confirmed: u64,
}

impl StockState {
    /// Executes an operation that is in a chain, or begins one.
    #[cold]
    pub(super) fn execute_linked(
        &mut self,
        command: &Command<'_>,
        hash: u64,
        chain: &mut Option<Chain>,
        out: &mut Outcomes<'_>,
    ) {
        let this = match chain {
            Some(chain) => chain,
            None => chain.insert(self.begin_chain(out)),
        };
        if this.failed {
            out.plain(Code::LINKED_FAILED, 0);
        } else {
            let begin = out.len();
            self.execute(command, hash, 0, out);
            if !out.last().is_ok() {
                this.failed = true;
                out.fail_before(this.start, this.count, begin);
            }
        }
        this.count += 1;
        if !command.is_linked() {
            self.end_chain(chain);
        }
    }

    fn begin_chain(&mut self, out: &Outcomes<'_>) -> Chain {
        self.cells.begin_journal();
        self.holds.begin_journal();
        self.catalogue.begin_journal();
        let (active, confirmed) = (self.holds.active, self.holds.confirmed);
        Chain { start: out.len(), count: 0, failed: false, active, confirmed }
    }

    /// Decides a chain, if there is one.
    pub(super) fn end_chain(&mut self, chain: &mut Option<Chain>) {
        let Some(Chain { failed, active, confirmed, .. }) = chain.take() else { return };
        self.holds.end_journal(failed);
        self.catalogue.end_journal(&mut self.cells, failed);
        if failed {
            (self.holds.active, self.holds.confirmed) = (active, confirmed);
        }
        self.cells.end_journal(failed);
        if self.cells.has_crossed() {
            self.keep_crossings();
        }
    }
}
