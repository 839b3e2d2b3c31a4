//! The admin port: lines for operators, readable with `nc` or telnet.
//!
//! ```text
//! ▶ cell BER shirt-m             one line, ended by LF or CRLF
//! ◀ warehouse  BER               text: lines, then one empty line
//! ◀ …
//! ◀
//! ▶ json cell BER shirt-m        prefix json: one line of JSON, no empty line after it
//! ◀ {"warehouse":"BER",…}
//! ```
//!
//! An error is `error: …` in text, `{"error":"…"}` in JSON, and says what to do. Words are parted by
//! blanks; see `words` for quotes and escapes. Commands of one connection run one after the other.
//!
//! The connection count, the line and the time without a word are bounded. There is no password:
//! whoever reaches the port may do everything, so it listens on loopback.

use std::io;
use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Value;
use super::commands::{self, Outcome};
use super::limits::ADMIN_LINE_BYTES_MAX;
use super::shared::Shared;
use super::status::Before;
use super::words::split_words;
use crate::world::net::{TcpListener, TcpStream};

/// Accepts operators as long as the node runs.
pub(super) async fn accept(shared: Arc<Shared>, listener: TcpListener) {
    let room = Arc::new(Semaphore::new(shared.limits.admin_connections_max as usize));
    loop {
        let Some((mut stream, _)) = super::accept(&listener).await else { continue };
        let Ok(permit) = Arc::clone(&room).try_acquire_owned() else {
            let _ = stream.try_write(b"error: too many admin connections; close one\n\n");
            let _ = stream.shutdown().await;
            continue;
        };
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            // An operator who is gone needs no answer.
            let _ = serve(&shared, &mut stream).await;
            drop(permit);
        });
    }
}

async fn serve(shared: &Arc<Shared>, stream: &mut TcpStream) -> io::Result<()> {
    let mut received = BytesMut::new();
    let mut before = Before::default();
    loop {
        let next = next_line(stream, &mut received);
        let line = match timeout(shared.limits.admin_idle_timeout, next).await {
            Ok(line) => line?,
            Err(_) => return Ok(()),
        };
        let (answer, goes_on) = match line {
            Line::End => return Ok(()),
            Line::TooLong => {
                let message = format!("a line has at most {ADMIN_LINE_BYTES_MAX} bytes; goodbye");
                (render(false, &Outcome::Error(message)), false)
            }
            Line::Whole(line) => answer(shared, &line, &mut before).await,
        };
        timeout(shared.limits.send_timeout, stream.write_all(answer.as_bytes())).await??;
        if !goes_on {
            return stream.shutdown().await;
        }
    }
}

enum Line {
    End,
    TooLong,
    Whole(BytesMut),
}

async fn next_line(stream: &mut TcpStream, received: &mut BytesMut) -> io::Result<Line> {
    loop {
        if let Some(end) = received.iter().position(|byte| *byte == b'\n') {
            let mut line = received.split_to(end + 1);
            line.truncate(end - usize::from(end > 0 && line[end - 1] == b'\r'));
            let fits = line.len() <= ADMIN_LINE_BYTES_MAX;
            return Ok(if fits { Line::Whole(line) } else { Line::TooLong });
        }
        if received.len() > ADMIN_LINE_BYTES_MAX + 1 {
            return Ok(Line::TooLong);
        }
        received.reserve(ADMIN_LINE_BYTES_MAX);
        if stream.read_buf(received).await? == 0 {
            return Ok(Line::End);
        }
    }
}

/// The answer to a line, and whether the connection goes on.
async fn answer(shared: &Arc<Shared>, line: &[u8], before: &mut Before) -> (String, bool) {
    let mut words = match split_words(line) {
        Ok(words) => words,
        Err(message) => {
            let json = line.trim_ascii_start().starts_with(b"json ");
            return (render(json, &Outcome::Error(message)), true);
        }
    };
    let json = words.first().is_some_and(|word| word == b"json");
    if json {
        words.remove(0);
    }
    let outcome = commands::run(shared, &words, before).await;
    let goes_on = !matches!(outcome, Outcome::Quit);
    (render(json, &outcome), goes_on)
}

fn render(json: bool, outcome: &Outcome) -> String {
    let error = |message: &str| Value::Object(vec![("error", message.into())]);
    match (json, outcome) {
        (_, Outcome::Quit) => String::new(),
        (true, Outcome::Answer(value)) => value.to_json() + "\n",
        (true, Outcome::Error(message)) => error(message).to_json() + "\n",
        (false, Outcome::Answer(value)) => value.to_text() + "\n",
        (false, Outcome::Error(message)) => format!("error: {message}\n\n"),
    }
}
