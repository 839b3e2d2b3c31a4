//! The command line: one seed, the same seed twice, or many, one process each. openraft keeps some
//! randomness per thread that outlives a run, and a process that hangs or aborts is one seed's
//! failure and not the sweep's.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use clap::{Parser, Subcommand};

use crate::faults::Faults;
use crate::run::{self, Outcome};

/// A seed that takes longer hangs: usual ones take less than a second.
const SEED_LIMIT: Duration = Duration::from_secs(120);

/// In so many seeds every kind of fault happens.
const SEEDS_MANY: u64 = 200;

#[derive(Parser)]
#[command(about = "Simulates whole stockd clusters, faults included, from seeds.")]
struct Arguments {
    #[command(subcommand)]
    command: What,
}

#[derive(Subcommand)]
enum What {
    /// Run one seed. STOCKD_SIM_NOTICES=1 shows what happens.
    Seed {
        /// Which.
        seed: u64,
    },
    /// Run seeds twice each and compare their traces.
    Twice {
        /// Which.
        seeds: Vec<u64>,
    },
    /// Run many seeds.
    Sweep {
        /// The first one.
        #[arg(long, default_value_t = 1)]
        from: u64,
        /// How many.
        #[arg(long, default_value_t = 100)]
        seeds: u64,
        /// Begin no more after so many minutes.
        #[arg(long)]
        minutes: Option<u64>,
        /// Processes at once.
        #[arg(long, default_value_t = 2)]
        jobs: usize,
        /// Go on after a failure.
        #[arg(long)]
        keep_going: bool,
    },
}

/// Runs what the command line says.
pub fn main() -> ExitCode {
    let passed = match Arguments::parse().command {
        What::Seed { seed } => one(seed),
        What::Twice { seeds } => twice(&seeds),
        What::Sweep { from, seeds, minutes, jobs, keep_going } => {
            let limit = minutes.map(|minutes| Duration::from_secs(60 * minutes));
            Sweep::new(from, from + seeds, limit, keep_going).run(jobs)
        }
    };
    if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// A panic anywhere is a node that stopped where it should not, or a bug of the simulation's.
fn abort_on_panic(seed: u64) {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        usual(info);
        eprintln!("{}", repeat(seed));
        std::process::exit(101);
    }));
}

fn repeat(seed: u64) -> String {
    format!("seed {seed} FAILED; repeat it with: scripts/sim.sh seed {seed}")
}

fn one(seed: u64) -> bool {
    abort_on_panic(seed);
    let Outcome { violations, counters, trace } = run::run(seed);
    println!("seed {seed} trace {trace:016x}");
    for (name, value) in &counters {
        println!("{name} = {value}");
    }
    for violation in &violations {
        eprintln!("violation: {violation}");
    }
    if !violations.is_empty() {
        eprintln!("{}", repeat(seed));
    }
    violations.is_empty()
}

fn child(seed: u64) -> Child {
    let program = std::env::current_exe().expect("a running program has a path");
    let mut command = Command::new(program);
    command.args(["seed", &seed.to_string()]).stdin(Stdio::null());
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().expect("this program can be started")
}

fn twice(seeds: &[u64]) -> bool {
    seeds.iter().all(|seed| {
        let output = || {
            let output = child(*seed).wait_with_output().expect("its output can be read");
            String::from_utf8_lossy(&output.stdout).into_owned()
        };
        let (first, second) = (output(), output());
        let trace = first.lines().next().unwrap_or_default();
        match first == second && trace.contains("trace") {
            true => println!("{trace}, twice"),
            false => println!("seed {seed} DIFFERS:\n--- first\n{first}\n--- second\n{second}"),
        }
        first == second && trace.contains("trace")
    })
}

struct Running {
    seed: u64,
    child: Child,
    began: Instant,
}

struct Sweep {
    next: u64,
    end: u64,
    first: u64,
    limit: Option<Duration>,
    keep_going: bool,
    began: Instant,
    passed: u64,
    failed: Vec<u64>,
    counters: BTreeMap<String, u64>,
    last_line: Instant,
}

impl Sweep {
    #[expect(clippy::disallowed_methods, reason = "wall time of the sweep, outside the simulation")]
    fn new(first: u64, end: u64, limit: Option<Duration>, keep_going: bool) -> Self {
        let now = Instant::now();
        Self {
            next: first,
            end,
            first,
            limit,
            keep_going,
            began: now,
            passed: 0,
            failed: Vec::new(),
            counters: BTreeMap::new(),
            last_line: now,
        }
    }

    #[expect(clippy::disallowed_methods, reason = "waits for processes, outside the simulation")]
    fn run(mut self, jobs: usize) -> bool {
        let mut running: Vec<Running> = Vec::new();
        while self.may_begin() || !running.is_empty() {
            while running.len() < jobs && self.may_begin() {
                let (seed, began) = (self.next, Instant::now());
                self.next += 1;
                running.push(Running { seed, child: child(seed), began });
            }
            let mut waiting = Vec::new();
            for run in running {
                waiting.extend(self.look_at(run));
            }
            running = waiting;
            self.show_progress();
            std::thread::sleep(Duration::from_millis(2));
        }
        self.summary()
    }

    fn may_begin(&self) -> bool {
        let in_time = self.limit.is_none_or(|limit| self.began.elapsed() < limit);
        self.next < self.end && in_time && (self.keep_going || self.failed.is_empty())
    }

    /// Takes the result of a process that has ended; gives back one that has not.
    fn look_at(&mut self, mut run: Running) -> Option<Running> {
        let ended = run.child.try_wait().expect("a child can be waited for");
        if ended.is_none() && run.began.elapsed() < SEED_LIMIT {
            return Some(run);
        }
        if ended.is_none() {
            eprintln!("seed {} hangs for {SEED_LIMIT:?}", run.seed);
            let _ = run.child.kill(); // it may have just ended
        }
        let output = run.child.wait_with_output().expect("its output can be read");
        let passed = ended.is_some_and(|status| status.success());
        if passed {
            self.passed += 1;
        } else {
            self.failed.push(run.seed);
            let _ = std::io::stderr().write_all(&output.stderr); // nobody may listen
            eprintln!("{}", repeat(run.seed));
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some((name, value)) = line.split_once(" = ")
                && let Ok(value) = value.parse::<u64>()
            {
                *self.counters.entry(name.to_owned()).or_default() += value;
            }
        }
        None
    }

    /// A line that is written over on a terminal, one every half a minute elsewhere.
    #[expect(clippy::disallowed_methods, reason = "wall time of the sweep, outside the simulation")]
    fn show_progress(&mut self) {
        let terminal = std::io::stdout().is_terminal();
        let every = Duration::from_millis(if terminal { 200 } else { 30_000 });
        if self.last_line.elapsed() < every {
            return;
        }
        self.last_line = Instant::now();
        let done = self.passed + self.failed.len() as u64;
        let operations = self.counters.get("operations").copied().unwrap_or(0);
        let text = format!(
            "{done} of {} seeds, {} failed, {operations} operations checked, {} s",
            self.end - self.first,
            self.failed.len(),
            self.began.elapsed().as_secs()
        );
        match terminal {
            true => print!("\r{text}\x1b[K"),
            false => println!("{text}"),
        }
        let _ = std::io::stdout().flush(); // nobody may listen
    }

    fn summary(self) -> bool {
        let wall = self.began.elapsed().as_secs_f64();
        let simulated = self.counters.get("simulated ms").copied().unwrap_or(0) as f64 / 1_000.0;
        println!("\n{:>12}  seeds {} to {}", self.passed, self.first, self.next.saturating_sub(1));
        for (name, value) in &self.counters {
            println!("{value:>12}  {name}");
        }
        println!(
            "{} seeds passed, {} failed; {simulated:.0} simulated s in {wall:.0} s ({:.0} x)",
            self.passed,
            self.failed.len(),
            simulated / wall
        );
        for seed in &self.failed {
            println!("{}", repeat(*seed));
        }
        let idle = self.idle();
        for name in &idle {
            println!("{name}: never, in so many seeds; the sweep shows nothing of it");
        }
        self.failed.is_empty() && self.passed > 0 && idle.is_empty()
    }

    /// What a sweep of many seeds must have done and has not.
    fn idle(&self) -> Vec<String> {
        if self.passed < SEEDS_MANY {
            return Vec::new();
        }
        let done = ["snapshots installed", "snapshots restored", "segments lost", "resets"];
        let faults = Faults::kinds().map(|kind| format!("fault: {kind}"));
        let wanted = done.into_iter().map(str::to_owned).chain(faults);
        wanted.filter(|name| self.counters.get(name).is_none_or(|count| *count == 0)).collect()
    }
}
