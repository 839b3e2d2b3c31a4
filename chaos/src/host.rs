//! What this machine permits, and the sandbox in which everything happens.
//!
//! ```text
//! stockd-chaos ──▶ unshare --mount --net --pid --kill-child ──▶ stockd-chaos --sandbox root
//!   waits, hands on Ctrl-C      the kernel cleans up              nodes, mounts, devices
//! ```
//!
//! The program starts itself again in namespaces of its own. Mounts, loop devices, network devices
//! and processes are in them and go with them, however the run ends: that is all the cleaning up there
//! is, and `kill -9` cannot prevent it.
//!
//! | sandbox | what is there | what is not tested |
//! |---|---|---|
//! | root    | everything | |
//! | user    | namespaces of a user who is root only there (`unshare --map-root-user`) | power cuts, full and failing disks: no loop devices |
//! | none    | processes on 127.77.0.x | those, and the network |

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::ValueEnum;

/// How far this process is from its machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Sandbox {
    /// No namespaces.
    None,
    /// Namespaces, made by root.
    Root,
    /// Namespaces, made by a user.
    User,
}

/// Namespaces of one's own for mounts, network and processes.
const UNSHARE: [&str; 6] = ["--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"];

impl Sandbox {
    /// The best that this machine permits, tried out.
    pub fn best() -> Self {
        let permits = |sandbox: Self| {
            let mut command = sandbox.enter();
            command.arg("true").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        [Self::Root, Self::User].into_iter().find(|one| permits(*one)).unwrap_or(Self::None)
    }

    /// A command that runs what is appended to it in there.
    pub fn enter(self) -> Command {
        let mut command = Command::new(if self == Self::None { "env" } else { "unshare" });
        match self {
            Self::None => {}
            Self::Root => drop(command.args(UNSHARE)),
            Self::User => drop(command.args(["--user", "--map-root-user"]).args(UNSHARE)),
        }
        command
    }

    /// For `--sandbox`.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Root => "root",
            Self::User => "user",
        }
    }
}

/// What can be done to the nodes here.
#[derive(Clone, Debug)]
pub struct Abilities {
    /// Each node has a network of its own.
    pub network: bool,
    /// Each node has a disk of its own.
    pub disks: bool,
    /// The library that bends a process's clocks.
    pub faketime: Option<PathBuf>,
    /// What is missing, and what would help.
    pub missing: Vec<String>,
}

impl Abilities {
    /// Tries everything out, in the sandbox.
    pub fn find(sandbox: Sandbox, work: &Path) -> Self {
        let mut missing = Vec::new();
        let mut may = |what: &str, tried: Result<(), String>| match tried {
            Ok(()) => true,
            Err(why) => {
                missing.push(format!("{what}: {why}"));
                false
            }
        };
        let network = may("no partitions, loss or delay", try_network(sandbox));
        let disks = may("no power cuts, full or failing disks", try_disk(sandbox, work));
        let faketime = find_faketime();
        let found = faketime
            .as_ref()
            .map(|_| ())
            .ok_or_else(|| "no libfaketime.so.1 (Debian: apt-get install libfaketime)".to_owned());
        may("no wrong clocks", found);
        Self { network, disks, faketime, missing }
    }
}

fn try_network(sandbox: Sandbox) -> Result<(), String> {
    if sandbox == Sandbox::None {
        return Err("unshare makes no namespaces here; it takes root, or a kernel that lets users \
                    make them (user.max_user_namespaces, kernel.apparmor_restrict_unprivileged_userns)"
            .to_owned());
    }
    run(Command::new("ip").args(["link", "set", "lo", "up"]))?;
    run(Command::new("nsenter").arg("--version"))?;
    let tun = crate::kernel::open_tun("stockd-try");
    tun.map(drop).map_err(|error| format!("/dev/net/tun: {error}"))
}

fn try_disk(sandbox: Sandbox, work: &Path) -> Result<(), String> {
    if sandbox != Sandbox::Root {
        return Err("loop devices take root".to_owned());
    }
    // A disk of a node that will not be.
    crate::disk::Disk::make(work, 0, true)?.discard()
}

/// Where distributions have it.
fn find_faketime() -> Option<PathBuf> {
    let directories = ["/usr/lib", "/usr/lib64", "/usr/local/lib"];
    let inside = directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten();
    let inside = inside.filter_map(|entry| Some(entry.ok()?.path()));
    let places = directories.iter().map(PathBuf::from).chain(inside);
    places.map(|place| place.join("faketime/libfaketime.so.1")).find(|path| path.exists())
}

/// Runs a command that says nothing when it works.
///
/// # Errors
/// What it said, and the command itself.
pub fn run(command: &mut Command) -> Result<(), String> {
    let line = format!("{command:?}").replace('"', "");
    let output = command.stdin(Stdio::null()).output();
    let output = output.map_err(|error| format!("{line}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err(format!("{line}: {}", said.trim()))
        }
    }
}
