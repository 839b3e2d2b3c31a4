//! A slice of the simulation: some seeds, and some of them twice. `scripts/sim.sh sweep` runs as many
//! as there is time for; STOCKD_SIM_SEEDS sets how many run here.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::process::Command;

/// About a tenth of a second each.
const SEEDS: &str = "200";

/// Runs the script, which builds the simulation into a target directory of its own.
fn sim(arguments: &[&str]) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/sim.sh");
    let status = Command::new(script).args(arguments).status().unwrap();
    assert!(status.success(), "scripts/sim.sh {} failed", arguments.join(" "));
}

#[test]
fn seeds_pass_and_repeat() {
    let seeds = std::env::var("STOCKD_SIM_SEEDS").unwrap_or_else(|_| SEEDS.to_owned());
    sim(&["sweep", "--seeds", &seeds]);
    sim(&["twice", "1", "2", "3", "4"]);
}
