//! `stockd admin` and `stockd cluster`: lines for a node's admin port.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use clap::{Args, Subcommand};

use super::Done;

/// Where `serve` has its admin port by default.
pub(super) const ADMIN_ADDRESS: &str = "127.0.0.1:7401";

/// Longest wait for an answer: a node that is taken in must first catch up.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10 * 60);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(super) struct Port {
    /// The admin port of a node.
    #[arg(long, value_name = "ADDR", default_value = ADMIN_ADDRESS, global = true)]
    admin: SocketAddr,
}

/// `stockd admin`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  stockd admin help
  stockd admin cell BER shirt-m
  stockd admin json status
  echo top | stockd admin --admin 127.0.0.1:7411")]
pub(super) struct Admin {
    #[command(flatten)]
    port: Port,
    /// The line; words with blanks are quoted for you.
    line: Vec<String>,
}

/// `stockd cluster`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  stockd cluster status
  stockd cluster add 2 127.0.0.1:7410 127.0.0.1:7412
  stockd cluster transfer 2 --admin 127.0.0.1:7401")]
pub(super) struct Cluster {
    #[command(flatten)]
    port: Port,
    #[command(subcommand)]
    change: Change,
}

#[derive(Subcommand)]
enum Change {
    /// Role, progress and members, as the asked node sees them.
    Status {
        /// One line of JSON.
        #[arg(long)]
        json: bool,
    },
    /// Take a node in (ask the leader). It is started with --join and catches up first.
    Add {
        /// Its id.
        id: u64,
        /// Where it serves clients, host:port.
        client: String,
        /// Where it serves its peers, host:port.
        peer: String,
    },
    /// Take a node out (ask the leader).
    Remove {
        /// Its id.
        id: u64,
    },
    /// Hand leadership over (ask the leader).
    Transfer {
        /// To whom; without it, to the follower that is furthest.
        id: Option<u64>,
    },
    /// Write a snapshot now and drop the log before it, on the asked node.
    Snapshot,
    /// Make the asked node take no more writes and hand leadership over.
    Drain,
    /// Let a drained node take writes again.
    Undrain,
}

impl Admin {
    pub(super) fn run(self) -> Done {
        let mut connection = Connection::open(self.port.admin)?;
        if !self.line.is_empty() {
            return connection.ask(&join(&self.line));
        }
        let mut failed = Ok(());
        for line in std::io::stdin().lines() {
            let line = line.map_err(|error| format!("cannot read standard input: {error}"))?;
            match line.trim() {
                "" => continue,
                "quit" | "exit" => break,
                line => {
                    if let Err(message) = connection.ask(line) {
                        crate::cli::say!("{message}");
                        failed = Err("a line was refused, see above".to_owned());
                    }
                }
            }
        }
        failed
    }
}

impl Cluster {
    pub(super) fn run(self) -> Done {
        Connection::open(self.port.admin)?.ask(&self.change.line())
    }
}

impl Change {
    /// As the admin port takes it.
    fn line(self) -> String {
        match self {
            Self::Status { json: true } => "json status".to_owned(),
            Self::Status { json: false } => "status".to_owned(),
            Self::Add { id, client, peer } => {
                join(&["add".to_owned(), id.to_string(), client, peer])
            }
            Self::Remove { id } => format!("remove {id}"),
            Self::Transfer { id: Some(id) } => format!("transfer {id}"),
            Self::Transfer { id: None } => "transfer".to_owned(),
            Self::Snapshot => "snapshot".to_owned(),
            Self::Drain => "drain".to_owned(),
            Self::Undrain => "undrain".to_owned(),
        }
    }
}

/// One line of words, as the admin port reads it back.
fn join(words: &[String]) -> String {
    let quote = |word: &String| {
        let plain = word.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\');
        if plain && !word.is_empty() {
            word.clone()
        } else {
            format!("\"{}\"", crate::server::escape(word.as_bytes()))
        }
    };
    words.iter().map(quote).collect::<Vec<_>>().join(" ")
}

struct Connection {
    address: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Connection {
    fn open(address: SocketAddr) -> Result<Self, String> {
        let connect = || {
            let stream = TcpStream::connect_timeout(&address, CONNECT_TIMEOUT)?;
            stream.set_read_timeout(Some(ANSWER_TIMEOUT))?;
            Ok(stream)
        };
        let stream = connect().map_err(|error: std::io::Error| {
            format!(
                "no node answers on the admin port {address}: {error}; is `stockd serve` running, \
                 and is --admin right?"
            )
        })?;
        Ok(Self { address, stream: BufReader::new(stream) })
    }

    /// Sends a line and prints the answer; an error answer is an `Err`.
    fn ask(&mut self, line: &str) -> Done {
        let (first, rest) = self.exchange(line).map_err(|error| {
            format!("the admin port {} went away: {error}; look at the node's output", self.address)
        })?;
        if let Some(message) = first.strip_prefix("error: ") {
            return Err(message.to_owned());
        }
        let mut out = std::io::stdout().lock();
        // A reader that has seen enough closes the pipe; that is no failure of ours.
        let _ = writeln!(out, "{first}").and_then(|()| out.write_all(rest.as_bytes()));
        if first.starts_with("{\"error\":") { Err("refused, see above".to_owned()) } else { Ok(()) }
    }

    /// The answer's first line and the others.
    fn exchange(&mut self, line: &str) -> std::io::Result<(String, String)> {
        self.stream.get_mut().write_all(format!("{line}\n").as_bytes())?;
        let first = self.next_line()?;
        let mut rest = String::new();
        let json = line.split_whitespace().next() == Some("json") && first.starts_with('{');
        if json {
            return Ok((first, rest));
        }
        loop {
            let next = self.next_line()?;
            if next.is_empty() {
                return Ok((first, rest));
            }
            rest.push_str(&next);
            rest.push('\n');
        }
    }

    fn next_line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(std::io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end_matches(['\r', '\n']).to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joined_words_split_back() {
        let words = ["cell", "old town", "a\"b\\c", "", "tab\t"].map(str::to_owned);
        let split = crate::server::split_words(join(&words).as_bytes()).unwrap();
        assert_eq!(split, words.map(String::into_bytes));
    }
}
