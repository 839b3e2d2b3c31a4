//! One node: a child process, its directory, its ports.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

use crate::until;

/// The program under test.
pub const STOCKD: &str = env!("CARGO_BIN_EXE_stockd");

/// How long a node that may be stopped is asked before it counts as silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);

/// How many lines of a node's output a failing test prints.
const LINES_SHOWN: usize = 60;

/// An address of this host that nobody listens on.
///
/// Its port is below the range that the system hands out: a client that tries such a port while the
/// node is down could be given that very port for itself, connect to itself, and keep the node from
/// coming back.
pub fn free_address() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id().wrapping_mul(61);
    loop {
        let next = first.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let address = format!("127.0.0.1:{}", 10_000 + next % 20_000);
        if std::net::TcpListener::bind(&address).is_ok() {
            return address;
        }
    }
}

/// What `json status` says, as far as tests care.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    pub role: String,
    pub term: u64,
    pub state: String,
    pub last_index: u64,
    pub applied_index: u64,
    pub snapshot_index: u64,
    pub purged_index: u64,
    /// Active, confirmed, ended.
    pub reservations: [u64; 3],
    /// Ids of the members that vote.
    pub voters: Vec<u64>,
    pub members: Vec<u64>,
}

/// The value of a field in a line of JSON, as it is written there.
fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let start = json.find(&format!("\"{name}\":"))? + name.len() + 3;
    let rest = json[start..].trim_start();
    let end = rest.find([',', '}', ']']).unwrap_or(rest.len());
    Some(rest[..end].trim_matches('"'))
}

/// The value of a field that is a number.
pub fn number(json: &str, name: &str) -> Option<u64> {
    field(json, name)?.parse().ok()
}

impl Status {
    fn parse(json: &str) -> Option<Self> {
        let members = json.split("\"members\":").nth(1)?;
        let rows = || members.split('{').skip(1);
        let id = |row: &str| number(row, "id");
        let votes = |row: &&str| matches!(field(row, "role"), Some("leader" | "follower"));
        Some(Self {
            role: field(json, "role")?.to_owned(),
            term: number(json, "term")?,
            state: field(json, "state")?.to_owned(),
            last_index: number(json, "last_index")?,
            applied_index: number(json, "applied_index")?,
            snapshot_index: number(json, "snapshot_index")?,
            purged_index: number(json, "purged_index")?,
            reservations: [
                number(json, "reservations_active")?,
                number(json, "reservations_confirmed")?,
                number(json, "ended_remembered")?,
            ],
            voters: rows().filter(votes).filter_map(id).collect(),
            members: rows().filter_map(id).collect(),
        })
    }
}

/// A node, running or not. Dropping it kills its process.
pub struct Node {
    pub id: u64,
    pub client: String,
    pub admin: String,
    pub peer: String,
    /// Peer addresses to join; empty for the first node.
    pub join: Vec<String>,
    pub data: PathBuf,
    /// The same directory, as this process finds it.
    pub data_here: PathBuf,
    /// More arguments of `serve`.
    pub arguments: Vec<String>,
    /// What starts the program, if it is not started directly.
    pub launcher: Vec<String>,
    output: PathBuf,
    child: Option<Child>,
}

impl Node {
    /// A node that is not started yet, with its files in `directory`.
    pub fn new(id: u64, directory: &Path, join: &[String], arguments: &[&str]) -> Self {
        Self {
            id,
            client: free_address(),
            admin: free_address(),
            peer: free_address(),
            join: join.to_vec(),
            data: directory.join(format!("n{id}")),
            data_here: directory.join(format!("n{id}")),
            arguments: arguments.iter().map(|&argument| argument.to_owned()).collect(),
            launcher: Vec::new(),
            output: directory.join(format!("n{id}.txt")),
            child: None,
        }
    }

    /// Starts the process; it may not serve yet.
    pub fn spawn(&mut self) {
        assert!(self.child.is_none(), "node {} runs already", self.id);
        let program: Vec<&str> = self.launcher.iter().map(String::as_str).chain([STOCKD]).collect();
        let output = File::options().create(true).append(true).open(&self.output).unwrap();
        let mut command = Command::new(program[0]);
        command.args(&program[1..]).args(["serve", "--node-id", &self.id.to_string()]);
        command.arg("--data").arg(&self.data);
        command.args(["--listen", &self.client, "--admin", &self.admin, "--peer", &self.peer]);
        command.args(self.join.iter().flat_map(|peer| ["--join", peer.as_str()]));
        command.args(&self.arguments).stdin(Stdio::null());
        command.stdout(output.try_clone().unwrap()).stderr(output);
        self.child = Some(command.spawn().unwrap());
    }

    /// Starts the process and waits until it answers.
    pub async fn start(&mut self) {
        self.spawn();
        until("a started node to answer", async || {
            let ended = self.child.as_mut().unwrap().try_wait().unwrap();
            assert_eq!(ended, None, "node {} ended at its start", self.id);
            self.status().await.is_some()
        })
        .await;
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// The process.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a node that runs").id()
    }

    /// Sends a signal to the process.
    pub fn signal(&self, name: &str) {
        // The child is not reaped yet, so its id is its own.
        let pid = self.pid().to_string();
        let sent = Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap();
        assert!(sent.success(), "cannot send {name} to node {}", self.id);
    }

    /// Bounds the size of the files that the process may write: `soft:hard`.
    pub fn limit_file_bytes(&self, limits: &str) {
        let pid = self.pid().to_string();
        let limit = format!("--fsize={limits}");
        let set = Command::new("prlimit").args(["--pid", &pid, &limit]).status().unwrap();
        assert!(set.success(), "cannot limit the files of node {}", self.id);
    }

    /// Ends the process as a power cut would, but for what the system holds in memory.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a node that runs");
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Waits until the process has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        let mut status = None;
        until("a node to end", async || {
            status = self.child.as_mut().expect("a node that runs").try_wait().unwrap();
            status.is_some()
        })
        .await;
        self.child = None;
        status.unwrap()
    }

    /// Ends the process and forgets all it knew.
    pub fn wipe(&mut self) {
        self.kill();
        fs::remove_dir_all(&self.data).unwrap();
    }

    /// What the node answers to a line on its admin port; `None` if it does not answer.
    pub async fn admin(&self, line: &str) -> Option<String> {
        let asked = tokio::time::timeout(ANSWER_TIMEOUT, async {
            let mut stream = BufReader::new(TcpStream::connect(&self.admin).await?);
            stream.write_all(format!("json {line}\n").as_bytes()).await?;
            let mut answer = String::new();
            stream.read_line(&mut answer).await?;
            std::io::Result::Ok(answer)
        });
        asked.await.ok()?.ok().filter(|answer| !answer.is_empty())
    }

    /// `None` if the node does not answer.
    pub async fn status(&self) -> Option<Status> {
        if !self.is_running() {
            return None;
        }
        let json = self.admin("status").await?;
        let status = Status::parse(&json);
        assert!(status.is_some(), "cannot read this status: {json}");
        status
    }

    /// What the process has printed.
    pub fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// A broken invariant is a failure, even if nobody noticed it from outside.
    pub fn assert_sound(&self) {
        let output = self.output();
        assert!(!output.contains("panicked"), "node {} has panicked", self.id);
        assert!(!output.contains("could not be trusted"), "node {} stopped itself", self.id);
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let output = self.output();
            let lines: Vec<&str> = output.lines().collect();
            let from = lines.len().saturating_sub(LINES_SHOWN);
            println!("--- node {} said ---\n{}", self.id, lines[from..].join("\n"));
        }
    }
}

/// Runs the program to its end; its success and all it printed.
pub async fn stockd(arguments: &[&str]) -> (bool, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let output = file.reopen().unwrap();
    let mut command = Command::new(STOCKD);
    command.args(arguments).stdin(Stdio::null());
    command.stdout(output.try_clone().unwrap()).stderr(output);
    let mut child = command.spawn().unwrap();
    let mut ended = None;
    until("a command to end", async || {
        ended = child.try_wait().unwrap();
        ended.is_some()
    })
    .await;
    (ended.unwrap().success(), fs::read_to_string(file.path()).unwrap())
}
