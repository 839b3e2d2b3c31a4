//! The command line: what a person types.
//!
//! ```text
//! serve      run a node                           serve.rs, progress.rs
//! cluster    status, add, remove, … of a cluster  admin.rs
//! admin      any line for the admin port          admin.rs
//! client     one request to a cluster             client/
//! load       a file of stock into a cluster       load/
//! export     the cells of a cluster into a file   export.rs
//! tail       what happens, as it happens          events/
//! events     some of it into a file               events/
//! log        look at a data directory             log.rs
//! audit      verify a data directory or evidence  audit.rs
//! backup     a node's history into a directory    backup/
//! restore    a data directory out of a backup     backup/
//! ```
//!
//! Exit codes: 0 it is done; 1 it was refused or has failed, and the last line on stderr says what to
//! do; 2 the command line is wrong.

mod admin;
mod audit;
mod backup;
mod client;
mod events;
mod export;
mod load;
mod log;
mod progress;
mod serve;

use std::fs::{File, TryLockError};
use std::path::Path;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Stock without oversell: a replicated daemon for inventory reservations.
#[derive(Parser)]
#[command(name = "stockd", version, max_term_width = 100, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// As all texts behind options: a paragraph is one line, which is wrapped for the terminal, and an example has at most
/// 80 columns.
const EXAMPLES: &str = "\
Examples:
  stockd serve                                   one node, data in ./stockd-data
  stockd client receive BER shirt-m 100          put 100 shirts into BER
  stockd client reserve BER shirt-m 2 --ttl 5m   hold two for five minutes
  stockd admin status                            how the node is

Three nodes on one machine:
  stockd serve --node-id 1 --data n1
  stockd serve --node-id 2 --data n2 --listen 127.0.0.1:7410 \\
      --admin 127.0.0.1:7411 --peer 127.0.0.1:7412 --join 127.0.0.1:7402
  stockd serve --node-id 3 --data n3 --listen 127.0.0.1:7420 \\
      --admin 127.0.0.1:7421 --peer 127.0.0.1:7422 --join 127.0.0.1:7402

Exit codes: 0 done; 1 refused or failed; 2 wrong usage.";

#[derive(Subcommand)]
enum Command {
    /// Run a node.
    Serve(serve::Serve),
    /// Look at a cluster and change it, through the admin port of one of its nodes.
    Cluster(admin::Cluster),
    /// Send a line to a node's admin port; without one, read lines from standard input.
    Admin(admin::Admin),
    /// Send one request to a cluster.
    Client(client::Client),
    /// Put the stock of a CSV or NDJSON file into a cluster.
    Load(load::Load),
    /// Write the cells of a cluster to a CSV or NDJSON file.
    Export(export::Export),
    /// Print what happens in a cluster, event by event.
    Tail(events::Tail),
    /// Work with the events of a cluster.
    Events(events::Events),
    /// Look at the log of a data directory, also while a node runs on it.
    #[command(subcommand)]
    Log(log::Log),
    /// Verify what is in a data directory: is it what has happened? Or a file of evidence.
    Audit(audit::Audit),
    /// Fetch what a node has into a directory, while it serves: what is there is not fetched again.
    Backup(backup::Backup),
    /// Make a data directory that begins where a backup has been, at its end or at a moment before.
    Restore(backup::Restore),
}

/// What a command ends with: `Err` is printed to stderr and becomes exit code 1.
type Done = Result<(), String>;

/// Keeps other processes of this kind from the file, until it is closed.
fn lock_alone(file: &File, path: &Path) -> Done {
    file.try_lock().map_err(|error| match error {
        TryLockError::WouldBlock => format!("{}: another process is at it", path.display()),
        TryLockError::Error(error) => format!("{}: {error}", path.display()),
    })
}

/// Prints a line for people, if anybody reads it: with `2>&1 | head`, nobody may, and that is no reason to end.
macro_rules! say {
    ($($text:tt)*) => {{
        use std::io::Write as _;
        let _ = writeln!(std::io::stderr().lock(), $($text)*);
    }};
}
pub(crate) use say;

/// Entry point of the binary.
pub fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Serve(serve) => serve.run(),
        Command::Cluster(cluster) => cluster.run(),
        Command::Admin(admin) => admin.run(),
        Command::Client(client) => client.run(),
        Command::Load(load) => load.run(),
        Command::Export(export) => export.run(),
        Command::Tail(tail) => tail.run(),
        Command::Events(events) => events.run(),
        Command::Log(log) => log.run(),
        Command::Audit(audit) => audit.run(),
        Command::Backup(backup) => backup.run(),
        Command::Restore(restore) => restore.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            say!("stockd: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Reads "500ms", "30s", "5m", "2h", "7d", or seconds without a unit.
fn parse_duration(text: &str) -> Result<std::time::Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(format!("'{unit}' is no unit; write ms, s, m, h or d, as in 5m")),
    };
    let number: u64 =
        number.parse().map_err(|_| "write a number and a unit, as in 5m".to_owned())?;
    let millis = number.checked_mul(millis).ok_or("that is too long")?;
    Ok(std::time::Duration::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        let millis = |text| parse_duration(text).map(|d| d.as_millis());
        assert_eq!(millis("500ms"), Ok(500));
        assert_eq!(millis("30"), Ok(30_000));
        assert_eq!(millis("5m"), Ok(300_000));
        assert_eq!(millis("2h"), Ok(7_200_000));
        assert_eq!(millis("7d"), Ok(604_800_000));
        for bad in ["", "m", "5 minutes", "99999999999999999999s", "18446744073709551615h"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }
}
