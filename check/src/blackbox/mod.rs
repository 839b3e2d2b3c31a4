//! The checker that trusts nobody: it sees only what was asked and answered, and looks for an order of
//! the operations that explains every answer and agrees with real time. It does not read an index.
//!
//! The order is looked for **per reservation** and **per cell**. Both are projections: of a legal order of
//! all operations, those that touch one cell (or one reservation), each reduced to what it says and does
//! there, are a legal history of that cell alone. So what fails here is wrong (sound); but an order for
//! each cell does not make an order for all, so a cart that is half seen in one cell and not yet in
//! another passes (incomplete: `witness` catches that one).
//!
//! ```text
//!             of a cart on cells A and B          cell A              cell B
//! granted                                         available ≥ a, −a   available ≥ b, −b
//! NO_STOCK that names B                           available ≥ a       available is what it says, < b
//! confirm, release                                a moves             b moves
//! ```
//!
//! **Expiry** is an event of its own, which may happen or not, after the grant, and only where every answer
//! that comes later was given at or after `deadline + grace` on the cluster's clock, with the deadline
//! that the grant told. (Outages move deadlines later, never earlier.) It is when the units are given
//! back; a reservation that is due reads as expired before that.
//!
//! **Retries**: one call may send a request more than once. If its answer is that of a second attempt
//! (REPLAY), or a refusal, an attempt before may have taken effect, or may still
//! ([`Options::late_attempts`]): that is an optional event. Stale reads are left out.
//!
//! **Left out** are the ids and the cells that it has no rules for: those of requests that are neither a
//! DEFINE, a RECEIVE, nor a whole RESERVE, CONFIRM, RELEASE or EXTEND.
//!
//! It works for up to about 2,000 operations a cell and 16 clients. A search that is given up counts as a
//! violation.

mod beyond;
mod cells;
mod reservations;

use crate::history::Operation;
use crate::report::{Report, Rule};
use crate::search::{Found, Span, Spec, search};

/// What a check must know besides the history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Options {
    /// The cluster's grace, in ms; it is rounded up to whole ticks of 64 ms, as the engine does.
    pub grace_ms: u64,
    /// How long the cluster remembers what is over, in ms.
    pub retention_ms: u64,
    /// Connections broke or answers were waited for in vain, so that a call that was refused may have an
    /// attempt that takes effect later.
    pub late_attempts: bool,
    /// Steps after which a search is given up.
    pub steps_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        let engine = stockd::engine::EngineConfig::default();
        Self {
            grace_ms: engine.grace_ms,
            retention_ms: engine.retention_ms,
            late_attempts: true,
            steps_max: 400_000,
        }
    }
}

impl Options {
    const fn grace_rounded(&self) -> u64 {
        self.grace_ms.div_ceil(64) * 64
    }
}

/// Checks a history.
pub fn check(history: &[Operation], options: &Options) -> Report {
    let mut report = Report::default();
    report.count_history(history);
    let beyond = beyond::Beyond::of(history);
    reservations::check(history, &beyond, options, &mut report);
    cells::check(history, &beyond, options, &mut report);
    report
}

/// Searches one key, and reports.
fn explain<S: Spec>(
    what: &str,
    (spans, places): (&[Span], &[usize]),
    (spec, first): (&S, S::State),
    options: &Options,
    report: &mut Report,
) {
    let (found, steps) = search(spans, spec, first, options.steps_max);
    report.add("states visited", steps);
    match found {
        Found::Order => (),
        Found::Impossible(open) => {
            let mut open: Vec<usize> = open.into_iter().map(|event| places[event]).collect();
            if open.is_empty() {
                open = places.to_vec();
            }
            open.sort_unstable();
            open.dedup();
            let text = format!("no order of the operations explains the answers about {what}");
            report.break_rule(Rule::Linearizable, 0, &open, text);
        }
        Found::GaveUp(open) => {
            let mut open: Vec<usize> = open.into_iter().map(|event| places[event]).collect();
            open.sort_unstable();
            open.dedup();
            let text = format!("gave up on {what} after {steps} steps, {} events", spans.len());
            report.break_rule(Rule::GaveUp, 0, &open, text);
        }
    }
}
