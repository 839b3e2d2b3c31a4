//! Three nodes and a fourth that comes and goes.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::dice::Dice;
use crate::disk::Disk;
use crate::host::{Abilities, run};
use crate::network::{self, CLIENTS, Counts, MTU, NODES_MAX, Rules};
use crate::node::{Clock, Machine, Node, START_LIMIT, Setup, Status};

/// The nodes that vote when nothing is broken.
pub const VOTERS: [u64; 3] = [1, 2, 3];
/// How long a healed cluster may take to be whole again.
pub const HEAL_LIMIT: Duration = Duration::from_secs(90);
/// How long ended reservations are remembered: short, so that a run forgets some.
pub const RETENTION: Duration = Duration::from_secs(120);
/// How often a node compares its state with what its log makes: often, so that it does in each round.
const RECONCILE: Duration = Duration::from_secs(2);
/// So that segments come and go in a short run.
const SEGMENT_BYTES: u64 = 2 << 20;
/// Node 1 keeps its whole log; the others take snapshots often.
const SNAPSHOT_LOG_BYTES: [u64; NODES_MAX] = [64 << 30, 3 << 20, 2 << 20, 1 << 20];

/// The nodes, their network, and what is found to be wrong.
pub struct Cluster {
    pub nodes: Vec<Node>,
    pub rules: Rules,
    pub abilities: Abilities,
    /// What happened to packets; `None` without a network of one's own.
    pub packets: Option<Arc<Counts>>,
    /// Whoever changes the members holds it.
    pub members: tokio::sync::Mutex<()>,
    /// Whoever makes a clock wrong holds it: the median of three bears one.
    pub clocks: tokio::sync::Mutex<()>,
    wrong: Mutex<Vec<String>>,
    /// Each keeps a network namespace open.
    _holders: Vec<Holder>,
}

/// What the nodes are run with.
pub struct Options<'a> {
    pub binary: &'a Path,
    pub work: &'a Path,
    pub seed: u64,
    /// More arguments of `serve`, for all nodes.
    pub arguments: &'a [String],
}

/// A process that does nothing but be in a network namespace.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        // It fails only for a process that has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Cluster {
    /// Machines without a running process.
    ///
    /// # Errors
    /// What the machine does not allow although it did a moment ago.
    pub fn prepare(options: &Options<'_>, abilities: Abilities) -> Result<Self, String> {
        let rules = Rules::default();
        let (holders, packets) = match abilities.network {
            true => {
                let (holders, packets) = lay_network(&rules, Dice::new(options.seed, 1))?;
                (holders, Some(packets))
            }
            false => (Vec::new(), None),
        };
        let mut nodes = Vec::new();
        for id in 1..=NODES_MAX as u64 {
            let disk = Disk::make(options.work, id, abilities.disks)?;
            let holder = holders.get(id as usize - 1);
            let node = Node::new(setup(id, options, &abilities, holder), disk);
            node.set_clock(0).map_err(|error| error.to_string())?;
            nodes.push(node);
        }
        let (members, clocks) = Default::default();
        let wrong = Mutex::default();
        Ok(Self { nodes, rules, abilities, packets, members, clocks, wrong, _holders: holders })
    }

    /// Starts the voters and waits until all vote.
    ///
    /// # Errors
    /// It took too long.
    pub async fn form(&self) -> Result<(), String> {
        for id in VOTERS {
            let mut machine = self.node(id).machine().await;
            machine.spawn(Clock::Jumps)?;
            self.serving(&mut machine).await?;
        }
        self.within(HEAL_LIMIT, "all nodes to vote", async || {
            self.leader().await.is_some_and(|(_, status)| status.voters == VOTERS)
        })
        .await
    }

    pub fn node(&self, id: u64) -> &Node {
        &self.nodes[id as usize - 1]
    }

    /// Client addresses of the voters.
    pub fn clients(&self) -> Vec<String> {
        VOTERS.iter().map(|id| self.node(*id).setup.client.clone()).collect()
    }

    /// Who leads in the newest term, if a node says that it does.
    pub async fn leader(&self) -> Option<(u64, Status)> {
        let mut newest: Option<(u64, Status)> = None;
        for node in &self.nodes {
            let Some(status) = node.status().await.filter(|status| status.leads) else { continue };
            if newest.as_ref().is_none_or(|(_, newest)| newest.term < status.term) {
                newest = Some((node.setup.id, status));
            }
        }
        newest
    }

    /// Waits until a started node answers its operator.
    ///
    /// # Errors
    /// It ends instead, or does not answer in time.
    pub async fn serving(&self, machine: &mut Machine) -> Result<(), String> {
        let id = machine.id();
        let mut ended = None;
        let what = format!("node {id} to answer after its start");
        let waited = self.within(START_LIMIT, &what, async || {
            ended = machine.ended_by_itself();
            ended.is_some() || self.node(id).status().await.is_some()
        });
        waited.await?;
        match ended {
            None => Ok(()),
            Some(status) => {
                let words = machine.last_words();
                Err(format!("node {id} ended at its start with {status}:\n    {words}"))
            }
        }
    }

    /// Waits until `condition` holds.
    ///
    /// # Errors
    /// It did not in time; says what was waited for.
    pub async fn within(
        &self,
        limit: Duration,
        what: &str,
        mut condition: impl AsyncFnMut() -> bool,
    ) -> Result<(), String> {
        let end = Instant::now() + limit;
        while !condition().await {
            if Instant::now() > end {
                return Err(format!("waited {limit:?} in vain for {what}"));
            }
            sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Something is wrong with the product: the run ends, and fails.
    pub fn report(&self, what: impl Into<String>) {
        let what = what.into();
        println!("WRONG: {what}");
        self.wrong.lock().expect("no holder panics").push(what);
    }

    /// What was reported.
    pub fn wrong(&self) -> Vec<String> {
        self.wrong.lock().expect("no holder panics").clone()
    }

    /// Notices nodes that ended by themselves, and keeps names of their segments.
    pub async fn look_after(&self) {
        for node in &self.nodes {
            let Some(mut machine) = node.machine_if_idle() else { continue };
            if let Some(status) = machine.ended_by_itself() {
                machine.kill().await;
                let (id, words) = (node.setup.id, machine.last_words());
                self.report(format!("node {id} ended by itself with {status}:\n    {words}"));
            }
            if machine.is_up()
                && let Err(error) = machine.disk.keep_segments()
            {
                self.report(format!("node {}: keeping its segments: {error}", node.setup.id));
            }
        }
    }

    /// Waits until the voters, and nobody else, are the cluster, and have all applied the same.
    ///
    /// # Errors
    /// They are not whole in time; says how they are.
    pub async fn whole(&self) -> Result<(), String> {
        let end = Instant::now() + HEAL_LIMIT;
        loop {
            let leader = self.leader().await.map(|(_, status)| status);
            let mut seen = Vec::new();
            for id in VOTERS {
                seen.push(self.node(id).status().await);
            }
            let caught_up = |target: u64| {
                seen.iter().all(|one| one.as_ref().is_some_and(|one| one.applied_index >= target))
            };
            if leader.as_ref().is_some_and(|leader| {
                leader.members == VOTERS
                    && leader.voters == VOTERS
                    && caught_up(leader.applied_index)
            }) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("not whole {HEAL_LIMIT:?} after the last fault: {seen:#?}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Compares the states of the voters at one index; returns it.
    ///
    /// # Errors
    /// They differ, or never stood at the same index.
    pub async fn compare_digests(&self) -> Result<u64, String> {
        let end = Instant::now() + HEAL_LIMIT;
        loop {
            let mut seen = Vec::new();
            for id in VOTERS {
                seen.push(self.node(id).digest().await);
            }
            let index = |one: &Option<(u64, String)>| one.as_ref().map(|(index, _)| *index);
            if let Some(first) = index(&seen[0])
                && seen.iter().all(|one| index(one) == Some(first))
            {
                return match seen.iter().all(|one| *one == seen[0]) {
                    true => Ok(first),
                    false => Err(format!("the states differ at index {first}: {seen:?}")),
                };
            }
            if Instant::now() > end {
                return Err(format!("no index that all nodes stood at: {seen:?}"));
            }
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks the voters whether their states are what their logs make; returns how often they have looked since they were
    /// started.
    ///
    /// # Errors
    /// One has found that its state is another, or says nothing.
    pub async fn reconciled(&self) -> Result<u64, String> {
        let mut rounds = 0;
        for id in VOTERS {
            let answer = self.node(id).ask("reconcile", HEAL_LIMIT).await;
            let answer = answer.map_err(|error| format!("node {id}: reconcile: {error}"))?;
            match answer["diverged"].as_bool() {
                Some(false) => rounds += answer["rounds"].as_u64().unwrap_or(0),
                _ => return Err(format!("the state of node {id} is not its log's: {answer}")),
            }
        }
        Ok(rounds)
    }

    /// The directories of nodes, as far as they have any.
    pub async fn directories(&self) -> Vec<PathBuf> {
        let mut directories = Vec::new();
        for node in &self.nodes {
            directories.push(node.machine().await.disk.data());
        }
        directories.retain(|directory| directory.join("identity").exists());
        directories
    }

    /// Ends all nodes in order, and reports those that do not leave so; returns the directories with
    /// their logs.
    pub async fn stop(&self) -> Vec<PathBuf> {
        let mut logs = Vec::new();
        for node in &self.nodes {
            let mut machine = node.machine().await;
            if machine.is_up() {
                let left = machine.leave().await;
                let kept = machine.disk.keep_segments();
                let kept = kept.map_err(|error| format!("node {}: {error}", node.setup.id));
                for what in [left, kept].into_iter().filter_map(Result::err) {
                    self.report(what);
                }
                machine.kill().await;
            }
            logs.extend(machine.disk.logs());
        }
        logs.retain(|log| fs::read_dir(log).is_ok_and(|mut entries| entries.next().is_some()));
        logs
    }
}

fn setup(id: u64, options: &Options<'_>, abilities: &Abilities, holder: Option<&Holder>) -> Setup {
    let host = |id: u64| match holder {
        Some(_) => network::addresses(id as usize),
        None => [format!("127.77.0.{id}"), format!("127.78.0.{id}")],
    };
    let [attacked, operator] = host(id);
    let others = (1..=VOTERS.len() as u64).filter(|other| *other != id);
    let snapshot_log_bytes = SNAPSHOT_LOG_BYTES[id as usize - 1];
    let mut arguments = vec![
        format!("--segment-bytes={SEGMENT_BYTES}"),
        format!("--snapshot-log-bytes={snapshot_log_bytes}"),
        format!("--retention={}ms", RETENTION.as_millis()),
        format!("--reconcile={}ms", RECONCILE.as_millis()),
    ];
    arguments.extend_from_slice(options.arguments);
    Setup {
        id,
        binary: options.binary.to_owned(),
        launcher: holder.map(Holder::way_in).unwrap_or_default(),
        client: format!("{attacked}:7400"),
        admin: format!("{operator}:7401"),
        peer: format!("{attacked}:7402"),
        others: others.map(|other| format!("{}:7402", host(other)[0])).collect(),
        arguments,
        faketime: abilities.faketime.clone(),
        output: options.work.join(format!("n{id}.txt")),
    }
}

impl Holder {
    fn start() -> Result<Self, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "echo; exec sleep infinity"]);
        let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        let mut holder = Self(child.map_err(|error| format!("unshare --net: {error}"))?);
        let mut ready = [0];
        let out = holder.0.stdout.as_mut().expect("it is piped");
        std::io::Read::read_exact(out, &mut ready)
            .map_err(|error| format!("unshare --net: {error}"))?;
        Ok(holder)
    }

    fn way_in(&self) -> Vec<String> {
        vec!["nsenter".to_owned(), format!("--net=/proc/{}/ns/net", self.0.id()), "--".to_owned()]
    }

    /// Runs a command in the namespace.
    fn run(&self, words: &[&str]) -> Result<(), String> {
        let way = self.way_in();
        run(Command::new(&way[0]).args(&way[1..]).args(words))
    }
}

/// Makes the hosts' namespaces and devices and starts the switch between them.
fn lay_network(rules: &Rules, dice: Dice) -> Result<(Vec<Holder>, Arc<Counts>), String> {
    let open = |host: usize| {
        let name = format!("host{host}");
        let port = crate::kernel::open_tun(&name).map_err(|error| format!("{name}: {error}"))?;
        Ok::<_, String>((name, port))
    };
    let (name, port) = open(CLIENTS)?;
    let (mut ports, mut holders) = (vec![port], Vec::new());
    for words in configuration(CLIENTS, &name) {
        run(Command::new("ip").args(words))?;
    }
    for host in 1..=NODES_MAX {
        let (name, port) = open(host)?;
        let holder = Holder::start()?;
        run(Command::new("ip").args(["link", "set", &name, "netns", &holder.0.id().to_string()]))?;
        holder.run(&["ip", "link", "set", "lo", "up"])?;
        for words in configuration(host, &name) {
            let words: Vec<&str> =
                ["ip"].into_iter().chain(words.iter().map(String::as_str)).collect();
            holder.run(&words)?;
        }
        ports.push(port);
        holders.push(holder);
    }
    let counts = network::connect(ports, rules.clone(), dice).map_err(|error| error.to_string())?;
    Ok((holders, counts))
}

/// What `ip` has to be told about a host's device.
fn configuration(host: usize, device: &str) -> Vec<Vec<String>> {
    let words = |line: String| line.split(' ').map(str::to_owned).collect();
    let addresses = network::addresses(host);
    let address = |address: &String| words(format!("addr add {address}/24 dev {device}"));
    let mut lines: Vec<Vec<String>> = addresses.iter().map(address).collect();
    lines.push(words(format!("link set {device} mtu {MTU} up")));
    lines
}
