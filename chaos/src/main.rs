//! Attacks a cluster of real stockd processes, and checks what it answered.
//!
//! ```text
//! host       what this machine permits; the sandbox that cleans up after itself
//! network    hosts, and a switch that cuts, delays and loses        kernel   two ioctls
//! disk       an ext4 for each node, whose power can be cut
//! node       a process                     cluster   three of them and one that comes and goes
//! faults     what is done to them          schedule  several at a time, from a seed
//! load       applications that write down what they were told
//! follower   a subscriber that does so, too                   events    the verdict on events
//! run        all of it, and the verdict    report    printed
//! ```
//!
//! `scripts/chaos.sh` builds and starts it; ARCHITECTURE.md, section 15, says what it has shown.

mod cluster;
mod dice;
mod disk;
mod events;
mod faults;
mod follower;
mod host;
mod kernel;
mod load;
mod network;
mod node;
mod report;
mod run;
mod schedule;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{ExitCode, Stdio};
use std::time::Duration;

use clap::Parser;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use faults::Kind;
use host::{Abilities, Sandbox};

/// Something is wrong with the product.
const EXIT_WRONG: u8 = 1;
/// The run could not be made.
const EXIT_UNABLE: u8 = 2;

/// Attacks a cluster of stockd processes under load, and checks every answer against the log.
#[derive(Parser)]
#[command(
    name = "stockd-chaos",
    after_help = "\
Exit status: 0 nothing is wrong, 1 something is, 2 the run could not be made.

As root everything is tested; as a user who may make namespaces all but disks; else only processes.
It says at the beginning and at the end what is not tested. Everything happens in namespaces that go
with the process; nothing stays but the work directory of a run that failed."
)]
struct Arguments {
    /// How long to attack.
    #[arg(long, default_value_t = 3.0)]
    minutes: f64,
    /// What the faults and the load are drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The stockd to attack.
    #[arg(long)]
    stockd: PathBuf,
    /// Where disks and messages go: a directory on a disk with some gigabytes. What a run that failed
    /// leaves is in a directory of its own there.
    #[arg(long)]
    work: PathBuf,
    /// Only these kinds of faults.
    #[arg(long, value_delimiter = ',', value_enum)]
    only: Vec<Kind>,
    /// More options for the nodes, such as --serve=--lease-reads.
    #[arg(long, allow_hyphen_values = true)]
    serve: Vec<String>,
    /// Keep the directory of a run that passed, too.
    #[arg(long)]
    keep: bool,
    /// Fail if anything cannot be tested here.
    #[arg(long)]
    all: bool,
    /// This is the process in the sandbox.
    #[arg(long, value_enum, hide = true)]
    inside: Option<Sandbox>,
    /// The directory of this run.
    #[arg(long, hide = true)]
    run: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let done = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
        let all = async {
            match arguments.inside {
                None => outside(&arguments).await,
                Some(sandbox) => inside(&arguments, sandbox).await,
            }
        };
        runtime.block_on(LocalSet::new().run_until(all))
    });
    match done {
        Ok(code) => code,
        Err(message) => {
            eprintln!("stockd-chaos: {message}");
            ExitCode::from(EXIT_UNABLE)
        }
    }
}

/// Starts this program again in the best sandbox, cleans up behind it, and hands on its exit code.
async fn outside(arguments: &Arguments) -> Result<ExitCode, String> {
    let run = arguments.work.join(format!("seed-{}-{}", arguments.seed, std::process::id()));
    std::fs::create_dir_all(&run).map_err(|error| format!("{}: {error}", run.display()))?;
    let sandbox = Sandbox::best();
    let mut command = tokio::process::Command::from(sandbox.enter());
    command.arg(std::env::current_exe().map_err(|error| error.to_string())?);
    command.args(std::env::args_os().skip(1));
    command.args(["--inside", sandbox.name(), "--run"]).arg(&run);
    // The process inside ends when this one closes the pipe, which it does however it ends.
    command.stdin(Stdio::piped()).kill_on_drop(true);
    let mut child = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
    let pipe = child.stdin.take();
    let status = tokio::select! {
        status = child.wait() => status,
        () = told_to_end() => {
            drop(pipe);
            child.wait().await
        }
    };
    let status = status.map_err(|error| error.to_string())?;
    if !arguments.keep && status.code() != Some(EXIT_WRONG.into()) {
        // Here the disks of the sandbox are not mounted.
        std::fs::remove_dir_all(&run).map_err(|error| format!("{}: {error}", run.display()))?;
    }
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(ExitCode::from(code.unwrap_or(EXIT_UNABLE)))
}

async fn told_to_end() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without handlers, the signals end this process, and with it the sandbox.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}

async fn inside(arguments: &Arguments, sandbox: Sandbox) -> Result<ExitCode, String> {
    let pipe = std::io::stdin().as_fd().try_clone_to_owned().and_then(Receiver::from_owned_fd);
    let mut pipe = pipe.map_err(|error| format!("standard input: {error}"))?;
    let mut nothing = [0];
    tokio::select! {
        done = attack(arguments, sandbox) => return done,
        // Nothing is ever written to it; it ends with the process outside.
        _ = pipe.read(&mut nothing) => {}
        () = told_to_end() => {}
    }
    Err("told to end; nothing was checked".to_owned())
}

async fn attack(arguments: &Arguments, sandbox: Sandbox) -> Result<ExitCode, String> {
    let work = arguments.run.as_ref().ok_or("--inside comes with --run")?;
    let work = work.canonicalize().map_err(|error| format!("{}: {error}", work.display()))?;
    let abilities = Abilities::find(sandbox, &work);
    for missing in &abilities.missing {
        println!("not tested here: {missing}");
    }
    if arguments.all && !abilities.missing.is_empty() {
        return Err("not everything can be tested here, and --all asks for it".to_owned());
    }
    let mut kinds = Kind::possible(&abilities);
    kinds.retain(|kind| arguments.only.is_empty() || arguments.only.contains(kind));
    if kinds.is_empty() {
        return Err("none of these faults is possible here".to_owned());
    }
    let duration = Duration::try_from_secs_f64(arguments.minutes * 60.0)
        .map_err(|_| "--minutes is a positive number".to_owned())?;
    let plan = run::Plan {
        binary: arguments.stockd.clone(),
        work: work.clone(),
        seed: arguments.seed,
        duration,
        kinds,
        arguments: arguments.serve.clone(),
        abilities,
    };
    let summary = run::run(&plan).await?;
    print!("{summary}");
    if summary.is_ok() {
        return Ok(ExitCode::SUCCESS);
    }
    println!("what the nodes said is in {}/n*.txt; to check again:", work.display());
    println!(
        "  stockd-check {0}/evidence/history {0}/evidence/n*-log* --nanoseconds",
        work.display(),
    );
    Ok(ExitCode::from(EXIT_WRONG))
}
