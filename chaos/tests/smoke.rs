//! A short attack on real nodes, as far as this machine permits it. `scripts/chaos.sh` is the long one.

use std::path::Path;
use std::process::Command;

/// Those that need most of the machinery.
const KINDS: &str = "kill-one,peers-only,power-cut-one,power-cut-all,isolation,pause,clock-jump";

#[test]
fn what_was_answered_under_attack_is_in_the_log() {
    let program = Path::new(env!("CARGO_BIN_EXE_stockd-chaos"));
    // Cargo builds the whole workspace's programs side by side.
    let stockd = program.with_file_name("stockd");
    assert!(stockd.exists(), "{} is not built: run cargo build first", stockd.display());
    let work = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos-smoke");
    let mut command = Command::new(program);
    command.args(["--minutes=0.3", "--seed=3", "--only", KINDS]);
    command.arg("--stockd").arg(&stockd).arg("--work").arg(&work);
    // It prints what it does past the test harness's capture: a log that says "not tested here" and
    // one that counts power cuts are to look different.
    let status = command.status().expect("the program is there");
    assert!(status.success(), "an attack of a third of a minute ended with {status}");
}
