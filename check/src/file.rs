//! A history as text: one operation a line, so that a failing run can be kept, cut down and checked
//! again.
//!
//! ```text
//! stockd history 1
//! client invoked completed operation verdict
//!      3      17        42 1100…     answered 0 2 77 1700000000500 0 -       code detail index now age body
//!      4      18         - 2100…     unknown
//!      4      40        41 1000…     not-executed
//! ```
//!
//! Operations are the wire's bytes in hex, and so are bodies; `-` is none.

use std::fmt;
use std::io::{self, BufRead, Write};

use bytes::BytesMut;
use stockd_protocol::{Code, UnixMillis};

use crate::history::{Answer, NEVER, Operation, Request, Verdict};

const TITLE: &str = "stockd history 1";

/// A history cannot be read.
#[derive(Debug)]
pub enum Error {
    /// The file cannot be read.
    Io(io::Error),
    /// This line, counted from 1, is no operation.
    Line(usize),
    /// It does not begin as a history does.
    Title,
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => error.fmt(f),
            Self::Line(line) => write!(f, "line {line} is no operation of a history"),
            Self::Title => write!(f, "it is no history: the first line is not `{TITLE}`"),
        }
    }
}

impl std::error::Error for Error {}

/// Writes a history.
///
/// # Errors
/// Writing fails.
pub fn save(history: &[Operation], out: &mut impl Write) -> io::Result<()> {
    writeln!(out, "{TITLE}")?;
    let mut bytes = BytesMut::new();
    for operation in history {
        bytes.clear();
        operation.request.encode(&mut bytes, operation.not_after);
        write!(out, "{} {} ", operation.client, operation.invoked)?;
        match operation.completed {
            NEVER => write!(out, "-")?,
            completed => write!(out, "{completed}")?,
        }
        write!(out, " {}", hex(&bytes))?;
        match &operation.verdict {
            Verdict::Answered(answer) => {
                let Answer { code, detail, body, index, server_now, age_ms } = answer;
                let (code, now) = (code.0, server_now.0);
                writeln!(out, " answered {code} {detail} {index} {now} {age_ms} {}", hex(body))?;
            }
            Verdict::NotExecuted => writeln!(out, " not-executed")?,
            Verdict::Unknown => writeln!(out, " unknown")?,
        }
    }
    Ok(())
}

/// Reads what [`save`] wrote.
///
/// # Errors
/// See [`Error`].
pub fn load(input: impl BufRead) -> Result<Vec<Operation>, Error> {
    let mut lines = input.lines();
    if lines.next().transpose()?.as_deref() != Some(TITLE) {
        return Err(Error::Title);
    }
    let mut history = Vec::new();
    for (at, line) in lines.enumerate() {
        history.push(parse(&line?).ok_or(Error::Line(at + 2))?);
    }
    Ok(history)
}

fn parse(line: &str) -> Option<Operation> {
    let mut words = line.split(' ');
    let client = words.next()?.parse().ok()?;
    let invoked = words.next()?.parse().ok()?;
    let completed = match words.next()? {
        "-" => NEVER,
        word => word.parse().ok()?,
    };
    let (request, not_after) = Request::decode(&unhex(words.next()?)?).ok()?;
    let verdict = match words.next()? {
        "answered" => Verdict::Answered(Answer {
            code: Code(words.next()?.parse().ok()?),
            detail: words.next()?.parse().ok()?,
            index: words.next()?.parse().ok()?,
            server_now: UnixMillis(words.next()?.parse().ok()?),
            age_ms: words.next()?.parse().ok()?,
            body: unhex(words.next()?)?,
        }),
        "not-executed" => Verdict::NotExecuted,
        "unknown" => Verdict::Unknown,
        _ => return None,
    };
    let whole = words.next().is_none();
    whole.then_some(Operation { client, invoked, completed, request, not_after, verdict })
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        write!(text, "{byte:02x}").expect("writing to a string cannot fail");
    }
    if text.is_empty() { "-".to_owned() } else { text }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    if text == "-" {
        return Some(Vec::new());
    }
    let digit = |digit: u8| (digit as char).to_digit(16);
    let pair = |pair: &[u8]| Some((digit(*pair.first()?)? << 4 | digit(*pair.get(1)?)?) as u8);
    text.as_bytes().chunks(2).map(pair).collect()
}
