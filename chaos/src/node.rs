//! One node: a process on a machine of its own.
//!
//! Whoever wants to start, stop or break it holds its [`Machine`]; asking it something takes nothing,
//! because operators reach it on a network that no fault touches.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::{Mutex, OwnedMutexGuard};
use tokio::time::timeout;

use crate::disk::Disk;

/// How long a node may take to answer an operator who only looks.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a started node may take to answer: it may read a gigabyte of log first.
pub const START_LIMIT: Duration = Duration::from_secs(60);
/// How long a node that is asked to leave may take.
const LEAVE_LIMIT: Duration = Duration::from_secs(30);
/// How many of a node's last lines a message quotes.
const LINES_SHOWN: usize = 12;

/// What `json status` says, as far as this program cares.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub leads: bool,
    pub term: u64,
    pub last_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    /// The number of the event that it makes next.
    pub next_event: u64,
    /// Its log has no space left for what clients write.
    pub disk_full: bool,
    /// Reservations that hold units.
    pub active: u64,
    pub voters: Vec<u64>,
    pub members: Vec<u64>,
}

impl Status {
    fn parse(json: &Value) -> Option<Self> {
        let number = |part: &str, name: &str| json[part][name].as_u64();
        let rows = json["members"].as_array()?;
        let id = |row: &Value| row["id"].as_u64();
        let votes = |row: &&Value| matches!(row["role"].as_str(), Some("leader" | "follower"));
        Some(Self {
            leads: json["role"].as_str()? == "leader",
            term: json["term"].as_u64()?,
            last_index: number("log", "last_index")?,
            applied_index: number("log", "applied_index")?,
            snapshot_index: number("log", "snapshot_index")?,
            next_event: number("events", "event_next")?,
            disk_full: json["log"]["disk_full"].as_bool()?,
            active: number("stock", "reservations_active")?,
            voters: rows.iter().filter(votes).filter_map(id).collect(),
            members: rows.iter().filter_map(id).collect(),
        })
    }
}

/// How to start a node's process.
#[derive(Clone, Debug)]
pub struct Setup {
    pub id: u64,
    pub binary: PathBuf,
    /// What comes before the binary: the way into its network.
    pub launcher: Vec<String>,
    pub client: String,
    pub admin: String,
    pub peer: String,
    /// Peer addresses of the others.
    pub others: Vec<String>,
    /// More arguments of `serve`.
    pub arguments: Vec<String>,
    /// The library that bends clocks, if there is one.
    pub faketime: Option<PathBuf>,
    /// Where its messages go.
    pub output: PathBuf,
}

/// How a process's clocks go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Clock {
    /// The wall clock may be made to jump; the monotonic clock is true.
    Jumps,
    /// All clocks run at so many tenths of the true rate, for as long as the process lives.
    Slow {
        /// Below 10.
        tenths: u32,
    },
}

/// A node.
pub struct Node {
    pub setup: Setup,
    machine: Arc<Mutex<Machine>>,
}

/// The process and the disk; whoever holds it may break them.
pub struct Machine {
    setup: Setup,
    pub disk: Disk,
    child: Option<Child>,
    /// It has been started before, so it is a member and does not found a cluster.
    started: bool,
}

impl Node {
    /// A node that is not started yet.
    pub fn new(setup: Setup, disk: Disk) -> Self {
        let started = setup.id != 1;
        let machine = Machine { setup: setup.clone(), disk, child: None, started };
        Self { setup, machine: Arc::new(Mutex::new(machine)) }
    }

    /// Waits until nobody else breaks it.
    pub async fn machine(&self) -> OwnedMutexGuard<Machine> {
        Arc::clone(&self.machine).lock_owned().await
    }

    /// The machine, if nobody breaks it just now.
    pub fn machine_if_idle(&self) -> Option<OwnedMutexGuard<Machine>> {
        Arc::clone(&self.machine).try_lock_owned().ok()
    }

    /// What it says about itself; `None` if it says nothing.
    pub async fn status(&self) -> Option<Status> {
        Status::parse(&self.ask("status", LOOK_TIMEOUT).await.ok()?)
    }

    /// The index of its state and the state's digest.
    pub async fn digest(&self) -> Option<(u64, String)> {
        let answer = self.ask("digest", LOOK_TIMEOUT).await.ok()?;
        Some((answer["applied_index"].as_u64()?, answer["digest"].as_str()?.to_owned()))
    }

    /// One line on the admin port.
    ///
    /// # Errors
    /// The node's refusal, or that it does not answer.
    pub async fn ask(&self, line: &str, limit: Duration) -> Result<Value, String> {
        let asked = timeout(limit, async {
            let mut stream = BufReader::new(TcpStream::connect(&self.setup.admin).await?);
            stream.write_all(format!("json {line}\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        });
        let answer = asked.await.map_err(|_| "no answer".to_owned())?;
        let answer = answer.map_err(|error| error.to_string())?;
        let answer: Value = serde_json::from_str(&answer).map_err(|error| error.to_string())?;
        match answer["error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(answer),
        }
    }

    /// Where the file is that says how wrong the wall clock is.
    fn clock_file(&self) -> PathBuf {
        clock_file(&self.setup.output)
    }

    /// Makes the wall clock of the running process, and of later ones, wrong by so many seconds.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn set_clock(&self, wrong_by_s: i64) -> std::io::Result<()> {
        // In one step: the library may read it at any moment.
        let temporary = self.clock_file().with_extension("new");
        fs::write(&temporary, format!("{wrong_by_s:+}\n"))?;
        fs::rename(temporary, self.clock_file())
    }
}

fn clock_file(output: &Path) -> PathBuf {
    output.with_extension("clock")
}

impl Machine {
    /// Starts the process; it may not serve yet.
    ///
    /// # Errors
    /// It runs already, or cannot be started.
    pub fn spawn(&mut self, clock: Clock) -> Result<(), String> {
        if self.child.is_some() {
            return Err(format!("node {} runs already", self.setup.id));
        }
        let setup = &self.setup;
        let say = |error: std::io::Error| format!("node {}: {error}", setup.id);
        let output = File::options().create(true).append(true).open(&setup.output).map_err(say)?;
        let mut words = setup.launcher.clone();
        words.push(setup.binary.display().to_string());
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(["serve", "--insecure-bind"]);
        command.args(["--node-id", &setup.id.to_string()]).arg("--data").arg(self.disk.data());
        command.args(["--listen", &setup.client, "--admin", &setup.admin]);
        command.args(["--peer", &setup.peer]).args(&setup.arguments);
        if self.started {
            command.args(setup.others.iter().flat_map(|peer| ["--join", peer]));
        }
        bend_clocks(&mut command, setup, clock);
        command.stdin(Stdio::null()).kill_on_drop(true);
        command.stdout(output.try_clone().map_err(say)?).stderr(output);
        self.child = Some(command.spawn().map_err(say)?);
        self.started = true;
        Ok(())
    }

    /// Whose it is.
    pub fn id(&self) -> u64 {
        self.setup.id
    }

    /// The process runs, as far as anybody ended it on purpose.
    pub fn is_up(&self) -> bool {
        self.child.is_some()
    }

    /// The process has ended, and nobody here ended it.
    pub fn ended_by_itself(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok().flatten()
    }

    /// Ends the process without a word to it.
    pub async fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It fails only for a process that has ended.
            let _ = child.kill().await;
        }
    }

    /// Ends the process in order.
    ///
    /// # Errors
    /// It did not leave in time, or with an error.
    pub async fn leave(&mut self) -> Result<(), String> {
        self.signal(Signal::TERM);
        match self.wait(LEAVE_LIMIT).await {
            Some(status) if status.success() => Ok(()),
            Some(status) => Err(format!("node {} left with {status}", self.setup.id)),
            None => Err(format!("node {} did not leave in {LEAVE_LIMIT:?}", self.setup.id)),
        }
    }

    /// Waits until the process ends by itself; `None` if it does not in time.
    pub async fn wait(&mut self, limit: Duration) -> Option<ExitStatus> {
        let child = self.child.as_mut()?;
        let status = timeout(limit, child.wait()).await.ok()?.ok();
        self.child = None;
        status
    }

    /// Lets the process stand still.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.as_ref().and_then(Child::id).and_then(|id| Pid::from_raw(id as i32));
        if let Some(pid) = pid {
            // It fails only for a process that has ended, which is found out elsewhere.
            let _ = kill_process(pid, signal);
        }
    }

    /// The last lines that the node wrote.
    pub fn last_words(&self) -> String {
        let said = fs::read(&self.setup.output).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let lines: Vec<&str> = said.lines().collect();
        lines[lines.len().saturating_sub(LINES_SHOWN)..].join("\n    ")
    }
}

fn bend_clocks(command: &mut Command, setup: &Setup, clock: Clock) {
    let Some(library) = &setup.faketime else { return };
    command.env("LD_PRELOAD", library).env("FAKETIME_CACHE_DURATION", "1");
    match clock {
        Clock::Jumps => command
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_TIMESTAMP_FILE", clock_file(&setup.output)),
        Clock::Slow { tenths } => command.env("FAKETIME", format!("+0 x0.{tenths}")),
    };
}
