//! What is wrong, and where.

use std::fmt;

use crate::events::ReadError;

/// So many findings are kept; one damaged file may be worth millions.
pub const FINDINGS_MAX: usize = 100;

/// Something that is not as it should be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The path of the file.
    pub file: String,
    /// Where in it; `None`: it is about all of it.
    pub offset: Option<u64>,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.offset {
            Some(offset) => write!(f, "{} at byte {offset}: {}", self.file, self.what),
            None => write!(f, "{}: {}", self.file, self.what),
        }
    }
}

impl Finding {
    /// What a reader of events says. `directory` is named where the operating system does not say which file.
    pub(super) fn of_events(error: ReadError, directory: &str) -> Self {
        match error {
            ReadError::Damaged { file, offset, flaw } => {
                Self { file, offset: Some(offset), what: flaw.to_string() }
            }
            error => Self { file: directory.to_owned(), offset: None, what: error.to_string() },
        }
    }
}

/// What is wrong, in the order in which it was found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Findings {
    kept: Vec<Finding>,
    count: u64,
}

impl Findings {
    /// Notes one more.
    pub(super) fn add(&mut self, finding: Finding) {
        self.count += 1;
        if self.kept.len() < FINDINGS_MAX {
            self.kept.push(finding);
        }
    }

    /// Notes one more, at a place.
    pub(super) fn at(&mut self, file: &str, offset: u64, what: impl Into<String>) {
        self.add(Finding { file: file.to_owned(), offset: Some(offset), what: what.into() });
    }

    /// Notes one more, about a file.
    pub(super) fn about(&mut self, file: &str, what: impl Into<String>) {
        self.add(Finding { file: file.to_owned(), offset: None, what: what.into() });
    }

    /// How many there are, kept or not.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The first [`FINDINGS_MAX`] of them.
    pub fn kept(&self) -> &[Finding] {
        &self.kept
    }
}
