//! What an audit has found.

use std::time::Duration;

use super::checkpoints::Checked;
use super::findings::Findings;
use crate::events::Position;

/// What was looked at, and what is wrong.
#[derive(Debug, Default)]
pub struct Report {
    /// What is wrong; nothing else counts for the verdict.
    pub findings: Findings,
    /// What whoever reads the verdict should know, and is no fault.
    pub notes: Vec<String>,
    /// Files of events.
    pub segments: u64,
    /// Events read.
    pub events: u64,
    /// The records that they are in.
    pub records: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// How long it took to read them, add them up and compare them.
    pub took: Duration,
    /// The sequence number of the first event that is there.
    pub first: u64,
    /// After the last one; `None`: there is none, or what comes last is not in order.
    pub end: Option<Position>,
    /// Events that are exactly what the log makes.
    pub derived: u64,
    /// CHECKPOINTs among the events, and what of them could be compared.
    pub checkpoints: Checked,
    /// Cells that were compared with what the events add up to.
    pub compared: u64,
    /// Cells of the state at the end.
    pub cells: u64,
    /// On_hand, reserved and committed, over all of them.
    pub totals: [i128; 3],
    /// The last log entry that is in the state at the end; `None`: there is no such state.
    pub applied: Option<u64>,
}

impl Report {
    /// Is everything right?
    pub fn is_ok(&self) -> bool {
        self.findings.count() == 0
    }

    /// Everything in a line.
    pub fn verdict(&self) -> String {
        if let Some(first) = self.findings.kept().first() {
            return format!("AUDIT FAILED: {first}");
        }
        let events = match self.end {
            Some(end) if self.events > 0 => format!(
                "{} events {}..{}, {}, chain {}…, {}",
                grouped(self.events.into()),
                self.first,
                end.next.saturating_sub(1),
                counted(self.segments, "segment"),
                hex(&end.chain[..4]),
                self.checkpoints.verdict(),
            ),
            _ => "no events".to_owned(),
        };
        let state = match self.applied {
            Some(index) => {
                let [on_hand, reserved, committed] = self.totals.map(grouped);
                format!(
                    ", {} cells, on_hand {on_hand} reserved {reserved} committed {committed}, log applied to \
                     index {index}",
                    grouped(self.cells.into())
                )
            }
            None => String::new(),
        };
        format!("AUDIT OK: {events}{state}")
    }
}

fn counted(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A number as people read it: 10,000,000.
pub fn grouped(number: i128) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut out = String::from(if number < 0 { "-" } else { "" });
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A chain or a digest as people compare it by eye: two digits for each byte.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped_by_thousands() {
        let cases = [(0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "-1,234,567")];
        for (number, text) in cases {
            assert_eq!(grouped(number), text);
        }
    }
}
