//! Progress of something long, on stderr: a bar on a terminal, else a line now and then.

use std::io::{IsTerminal, Write};
use std::sync::Arc;
use std::time::Duration;

use crate::world::Clock;

/// How often a bar moves.
const BAR_EVERY: Duration = Duration::from_millis(100);
/// How often a line is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(2);
const BAR_WIDTH: usize = 30;

/// Prints how far something has come. What is over quickly is never mentioned.
pub(super) struct Progress {
    clock: Arc<dyn Clock>,
    started: Duration,
    printed: Duration,
    terminal: bool,
    shown: bool,
    /// What is counted; `None`: bytes.
    unit: Option<&'static str>,
}

impl Progress {
    pub(super) fn new(clock: Arc<dyn Clock>) -> Self {
        let now = clock.monotonic();
        let terminal = std::io::stderr().is_terminal();
        Self { clock, started: now, printed: now, terminal, shown: false, unit: None }
    }

    /// Of something that is counted in `unit` and not in bytes.
    pub(super) fn counting(clock: Arc<dyn Clock>, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..Self::new(clock) }
    }

    /// `done` of `total` bytes, or whatever is counted, of `what`; `total` 0: unknown.
    pub(super) fn update(&mut self, what: &str, done: u64, total: u64) {
        let now = self.clock.monotonic();
        let every = if self.terminal { BAR_EVERY } else { LINE_EVERY };
        if now.saturating_sub(self.printed) < every {
            return;
        }
        self.printed = now;
        self.shown = true;
        let elapsed = now.saturating_sub(self.started);
        let line = render(what, (done, total), self.unit, elapsed, self.terminal);
        let mut err = std::io::stderr().lock();
        // Progress that cannot be printed is not worth a failure.
        let _ = match self.terminal {
            true => write!(err, "\r\x1b[K{line}").and_then(|()| err.flush()),
            false => writeln!(err, "{line}"),
        };
    }

    /// Clears the bar.
    pub(super) fn finish(&mut self) {
        if self.terminal && self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn render(
    what: &str,
    (done, total): (u64, u64),
    unit: Option<&str>,
    elapsed: Duration,
    bar: bool,
) -> String {
    let amount = |amount: u64| match unit {
        Some(unit) => format!("{amount} {unit}"),
        None => format!("{} MiB", amount >> 20),
    };
    if total == 0 {
        return format!("{what}: {}", amount(done));
    }
    let done = done.min(total);
    let percent = done as u128 * 100 / u128::from(total);
    let left = match done {
        0 => String::new(),
        _ => {
            let left = elapsed.as_secs_f64() * (total - done) as f64 / done as f64;
            format!(", {left:.0} s left")
        }
    };
    let bar = match bar {
        true => {
            let full = (done as u128 * BAR_WIDTH as u128 / u128::from(total)) as usize;
            format!("[{}{}] ", "#".repeat(full), "-".repeat(BAR_WIDTH - full))
        }
        false => String::new(),
    };
    format!("{what}: {bar}{percent} % of {}{left}", amount(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_says_how_much_is_left() {
        let (two, one) = (Duration::from_secs(2), Duration::from_secs(1));
        let line = render("reading the log", (25 << 20, 100 << 20), None, two, false);
        assert_eq!(line, "reading the log: 25 % of 100 MiB, 6 s left");
        let line = render("x", (50 << 20, 100 << 20), None, one, true);
        assert!(line.contains("[###############---------------] 50 %"), "{line}");
        assert_eq!(render("x", (3 << 20, 0), None, Duration::ZERO, true), "x: 3 MiB");
        let line = render("exporting", (1, 4), Some("events"), one, false);
        assert_eq!(line, "exporting: 25 % of 4 events, 3 s left");
    }
}
