//! A bar on a terminal, plain lines elsewhere, or silence.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;

/// Shows how far a step of a run is.
#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
    plain: bool,
    step: String,
    length: u64,
    last: Mutex<Instant>,
}

const LINE_INTERVAL: Duration = Duration::from_secs(1);

impl Progress {
    /// A step of `length` units; `quiet` shows nothing.
    pub fn new(step: &str, length: u64, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = (terminal && !quiet).then(|| {
            let template = "{prefix:>9} [{bar:32}] {percent:>3} %  {msg}";
            let style = ProgressStyle::with_template(template).expect("the template is valid");
            let bar = ProgressBar::new(length).with_style(style.progress_chars("=> "));
            bar.with_prefix(step.to_owned())
        });
        let last = Mutex::new(Instant::now());
        Self { bar, plain: !terminal && !quiet, step: step.to_owned(), length, last }
    }

    /// The step has come to `position`; `what` says more.
    pub fn at(&self, position: u64, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_position(position.min(self.length));
            bar.set_message(what.to_owned());
        }
        if !self.plain {
            return;
        }
        let mut last = self.last.lock().expect("nobody panics while holding it");
        if last.elapsed() >= LINE_INTERVAL {
            *last = Instant::now();
            eprintln!("{:>9} {position} of {} {what}", self.step, self.length);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
