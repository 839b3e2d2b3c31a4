//! The machines of a simulation, stepped one after the other, and what can be done to them.

use std::collections::BTreeMap;

use stockd::log::{SimStorage, Survival};
use stockd::replication::{Bootstrap, Replica, Role, Status};
use stockd_simnet::{Host, LinkState};

use crate::doors::{Dice, world};
use crate::machine::Machine;
use crate::node::{self, Exit, Handle};
use crate::oracle::Oracle;
use crate::plan::Plan;
use crate::stream::Told;

/// The hosts of applications.
pub const APP_HOSTS: [Host; 2] = [101, 102];

/// A node's machine and what is on it.
pub struct Node {
    /// From 1; also its host number.
    pub id: u64,
    /// Where it runs.
    pub machine: Machine<Exit>,
    /// What it writes to. Empty until it is first started.
    pub disk: SimStorage,
    /// The process.
    pub handle: Handle,
    /// It belongs to the cluster, so it is started again whenever it has ended.
    pub member: bool,
    /// When it is started again.
    pub start_at_ms: Option<u64>,
    /// Its disk has been lost since it was a voter.
    pub wiped: bool,
    /// Bits have flipped on its disk, which it may notice at its start or later.
    pub rotten: bool,
    /// It is being removed for good.
    pub leaving: bool,
}

/// All machines.
pub struct Cluster {
    /// What the seed stands for.
    pub plan: Plan,
    /// True time.
    pub now_ms: u64,
    /// Node `id` is at `id - 1`; the last one waits to be taken in.
    pub nodes: Vec<Node>,
    /// The applications' machines.
    pub apps: Vec<Machine<()>>,
    /// Watches all.
    pub oracle: Oracle,
    /// Chances of faults, not of anything else.
    pub dice: Dice,
    /// What was done, by kind.
    pub faults: BTreeMap<&'static str, u64>,
    /// What the nodes tell in the end.
    pub told: Vec<Told>,
    founded: bool,
}

impl Cluster {
    /// Machines of which none runs anything.
    pub fn new(plan: Plan) -> Self {
        let dice = Dice::new(plan.seed);
        stockd_simnet::start(dice.roll());
        let node = |id: u64| {
            let machine = Machine::new(id as Host, dice.split());
            machine.clock.jump(dice.between(0, 100_000) as i64 - 50_000);
            Node {
                id,
                machine,
                disk: SimStorage::new(),
                handle: Handle::default(),
                member: id <= plan.nodes,
                start_at_ms: None,
                wiped: false,
                rotten: false,
                leaving: false,
            }
        };
        let nodes: Vec<Node> = (1..=plan.nodes + 1).map(node).collect();
        let apps = APP_HOSTS.map(|host| Machine::new(host, dice.split())).into();
        let (oracle, faults) = (Oracle::new(plan.plain_names()), BTreeMap::new());
        let (now_ms, told, founded) = (0, Vec::new(), false);
        let mut cluster = Self { plan, now_ms, nodes, apps, oracle, dice, faults, told, founded };
        cluster.set_links(&|_, _, _| ());
        cluster
    }

    /// Says what happens, to who wants to follow a seed.
    pub fn note(&self, text: &str) {
        if std::env::var_os("STOCKD_SIM_NOTICES").is_some() {
            eprintln!("{:>7} ms  {text}", self.now_ms);
        }
    }

    /// Lets a millisecond pass on all machines.
    pub fn step(&mut self) {
        self.now_ms += 1;
        stockd_simnet::tick(self.now_ms);
        for at in 0..self.nodes.len() {
            let ended = self.nodes[at].machine.step();
            if self.nodes[at].disk.is_off() {
                // The power went in the middle of a write or a sync.
                self.power_off(at);
                self.start_later(at);
            } else if let Some(exit) = ended {
                self.ended(at, exit);
            }
            if self.nodes[at].start_at_ms.is_some_and(|start| start <= self.now_ms) {
                self.start(at);
            }
        }
        for app in &mut self.apps {
            app.step();
        }
        self.watch();
    }

    /// Steps until `done` or for so long; false: it was not done.
    pub fn step_until(&mut self, limit_ms: u64, mut done: impl FnMut(&mut Self) -> bool) -> bool {
        let end = self.now_ms + limit_ms;
        while !done(self) {
            if self.now_ms >= end {
                return false;
            }
            self.step();
        }
        true
    }

    /// Makes all links as the plan has them, changed by `change(from, to, link)`.
    pub fn set_links(&mut self, change: &dyn Fn(Host, Host, &mut LinkState)) {
        let hosts: Vec<Host> =
            self.nodes.iter().map(|node| node.machine.host).chain(APP_HOSTS).collect();
        for from in &hosts {
            for to in &hosts {
                let latency_ms = self.plan.latency_ms;
                let mut link = LinkState { latency_ms, ..LinkState::default() };
                if from != to {
                    change(*from, *to, &mut link);
                }
                stockd_simnet::set_link(*from, *to, link);
            }
        }
    }

    /// Starts a node's process on the disk that is there.
    pub fn start(&mut self, at: usize) {
        let node = &mut self.nodes[at];
        node.start_at_ms = None;
        if node.machine.is_up() {
            return;
        }
        stockd_simnet::power_on(node.machine.host);
        // Only the first start of the first node founds a cluster.
        let bootstrap = if at == 0 && !self.founded {
            Bootstrap::Single
        } else {
            let others = (1..=self.plan.nodes).filter(|id| *id != at as u64 + 1);
            Bootstrap::Join(others.map(|id| node::info(id).peer_address).collect())
        };
        self.founded = true;
        node.disk.set_sync_delay(std::time::Duration::from_millis(self.plan.sync_ms));
        let world = world(&node.machine.clock, &self.dice);
        node.handle = Handle::default();
        let (disk, handle) = (node.disk.clone(), node.handle.clone());
        let oracle = &self.oracle;
        let options = node::options(&self.plan, node.id, bootstrap, &world, oracle, handle.clone());
        node.machine.start(node::run(options, disk, world, handle));
        self.note(&format!("node {} starts", at + 1));
    }

    /// Starts it again after a while.
    pub fn start_later(&mut self, at: usize) {
        self.nodes[at].start_at_ms = Some(self.now_ms + self.dice.between(10, 2_500));
    }

    fn ended(&mut self, at: usize, exit: Exit) {
        self.note(&format!("node {} ended: {exit:?}", at + 1));
        self.forget_handle(at);
        let survival = self.survival();
        let node = &mut self.nodes[at];
        match exit {
            // The disk has failed meanwhile.
            Exit::Refused(_) if node.disk.struck() > 0 => node.disk = node.disk.restart(survival),
            // The disk tells of damage: an operator gives the node an empty one.
            Exit::Refused(_) if node.rotten => {
                node.disk = SimStorage::new();
                node.rotten = false;
                *self.faults.entry("bit rot noticed at a start").or_default() += 1;
            }
            // An empty disk without space for a first segment.
            Exit::Refused(_) if node.wiped && node.disk.is_limited() => (),
            Exit::Refused(why) => {
                self.oracle.violation(format!("node {} does not start: {why}", at + 1));
                return;
            }
            Exit::Fatal(why) if node.disk.struck() == 0 && !node.rotten => {
                self.oracle.violation(format!("node {} stops: {why}", at + 1));
                return;
            }
            Exit::Fatal(_) | Exit::Left => node.disk = node.disk.restart(survival),
        }
        if self.nodes[at].member {
            self.start_later(at);
        }
    }

    fn forget_handle(&mut self, at: usize) {
        self.nodes[at].handle = Handle::default();
    }

    /// What a process that is gone has left on its disk.
    fn survival(&self) -> Survival {
        match self.dice.between(0, 3) {
            0 => Survival::Kept,
            1 => Survival::Lost,
            2 => Survival::Killed,
            _ => Survival::Torn(self.dice.roll()),
        }
    }

    /// kill -9: the kernel closes its sockets and keeps its writes.
    pub fn kill(&mut self, at: usize) {
        self.note(&format!("node {} is killed", at + 1));
        self.forget_handle(at);
        let node = &mut self.nodes[at];
        node.machine.kill();
        node.disk = node.disk.restart(Survival::Killed);
    }

    /// The power goes: nobody hears of it, and what was not synced is gone, kept or torn.
    pub fn power_off(&mut self, at: usize) {
        self.note(&format!("node {} loses its power", at + 1));
        self.forget_handle(at);
        let survival = match self.dice.between(0, 2) {
            0 => Survival::Lost,
            1 => Survival::Kept,
            _ => Survival::Torn(self.dice.roll()),
        };
        let node = &mut self.nodes[at];
        stockd_simnet::power_off(node.machine.host);
        node.machine.kill();
        node.disk = node.disk.restart(survival);
    }

    /// The replica of a node that runs.
    pub fn replica(&self, at: usize) -> Option<Replica> {
        let node = &self.nodes[at];
        let replica = node.handle.replica.lock().expect("nobody panics with it").clone();
        replica.filter(|_| node.machine.is_up() && !node.machine.paused)
    }

    /// Who leads, with the highest term if several believe it.
    pub fn leader(&self) -> Option<(usize, Replica)> {
        let leading = (0..self.nodes.len()).filter_map(|at| {
            let replica = self.replica(at)?;
            let leadership = replica.leadership();
            (leadership.role == Role::Leader).then_some((leadership.term, at, replica))
        });
        leading.max_by_key(|(term, ..)| *term).map(|(_, at, replica)| (at, replica))
    }

    /// What a node says of itself.
    pub fn status(&self, at: usize) -> Option<Status> {
        let replica = self.replica(at)?;
        self.nodes[at].machine.inside(|| replica.status())
    }

    /// Every node that should run does, follows the same leader, and has applied all there is.
    pub fn has_converged(&self) -> bool {
        let Some((at, _)) = self.leader() else { return false };
        let Some(leader) = self.status(at) else { return false };
        let voters = leader.members.iter().filter(|member| member.voter).count() as u64;
        let members = self.nodes.iter().filter(|node| node.member).count() as u64;
        voters == members
            && leader.applied_index == leader.last_index
            && self.nodes.iter().filter(|node| node.member).all(|node| {
                self.status(node.id as usize - 1).is_some_and(|status| {
                    status.applied_index == leader.applied_index
                        && status.leadership.term == leader.leadership.term
                })
            })
    }

    /// Follows what becomes of nodes that lost their disk or are to leave. Memberships that a leader
    /// knows of may still be lost with it, so what all nodes agree on counts.
    fn watch(&mut self) {
        if self.nodes.iter().any(|node| node.wiped) && self.has_converged() {
            for node in &mut self.nodes {
                (node.wiped, node.rotten) = (false, false);
            }
        }
        let Some(leaving) = self.nodes.iter().position(|node| node.leaving) else { return };
        let id = self.nodes[leaving].id;
        let lists = |cluster: &Self, at| {
            let status = cluster.status(at)?;
            Some(status.members.iter().any(|member| member.node.id == id))
        };
        let others = (0..self.plan.nodes as usize).map(|at| lists(self, at));
        if others.into_iter().all(|listed| listed == Some(false)) {
            self.note(&format!("node {id} is out"));
            self.kill(leaving);
            let node = &mut self.nodes[leaving];
            (node.leaving, node.member, node.start_at_ms) = (false, false, None);
            node.disk = SimStorage::new();
        } else if self.now_ms.is_multiple_of(500)
            && let Some((at, replica)) = self.leader()
        {
            self.nodes[at].machine.spawn(async move {
                let _ = replica.remove_node(id).await; // in bad weather it may fail: tried again
            });
        }
    }
}
