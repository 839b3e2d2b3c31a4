//! The planted bugs of `mutants/` must go on applying, or `scripts/mutants.sh` rots unnoticed. What
//! catches each of them is shown by running the script.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::path::{Path, PathBuf};
use std::process::Command;

/// Fewer would be no check of the tests.
const PATCHES_MIN: usize = 15;

const LAYERS: [&str; 17] = [
    "archive", "audit", "backup", "chaos", "cluster", "events", "faults", "fuzz", "lib", "model",
    "power", "races", "replica", "sessions", "sim", "snapshot", "steps",
];

fn patches() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("mutants");
    let entries = std::fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut patches: Vec<_> = paths.filter(|path| path.extension().unwrap() == "patch").collect();
    patches.sort();
    patches
}

#[test]
fn every_planted_bug_still_applies() {
    let patches = patches();
    assert!(patches.len() >= PATCHES_MIN, "{} patches", patches.len());
    for patch in &patches {
        let root = env!("CARGO_MANIFEST_DIR");
        let check =
            Command::new("git").args(["apply", "--check"]).arg(patch).current_dir(root).output();
        let check = check.expect("git is there");
        let why = String::from_utf8_lossy(&check.stderr);
        assert!(check.status.success(), "{}: {why}", patch.display());
    }
    println!("{} patches apply", patches.len());
}

#[test]
fn every_planted_bug_says_what_it_is_and_what_finds_it() {
    for patch in patches() {
        let text = std::fs::read_to_string(&patch).unwrap();
        let (plants, rest) = text.split_once("\n\nLayers: ").unwrap();
        assert!(plants.ends_with('.'), "{}: the first line is a sentence", patch.display());
        let layers = rest.lines().next().unwrap();
        assert!(!layers.is_empty(), "{} names layers", patch.display());
        for layer in layers.split(' ') {
            assert!(LAYERS.contains(&layer), "{}: no layer {layer}", patch.display());
        }
    }
}
