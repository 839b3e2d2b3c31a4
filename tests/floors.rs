//! A floor imports only from the floors below it.
//!
//! `protocol ← world ← engine ← log ← archive ← events ← replication ← audit ← backup ← server ← cli`; openraft is
//! named only in `replication`, a node's files are opened only in `log::storage`, and the client stays thin.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::path::{Path, PathBuf};

/// From the ground up.
const FLOORS: [&str; 10] = [
    "world",
    "engine",
    "log",
    "archive",
    "events",
    "replication",
    "audit",
    "backup",
    "server",
    "cli",
];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The lines of code of a file: no comments, nothing after `#[cfg(test)]`.
fn code(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
    let lines = lines.map(str::trim).filter(|line| !line.starts_with("//"));
    lines.map(str::to_owned).collect()
}

/// The floors that a line names by an absolute path.
fn floors_named(line: &str) -> impl Iterator<Item = usize> + '_ {
    (0..FLOORS.len()).filter(move |floor| {
        let name = FLOORS[*floor];
        [format!("crate::{name}"), format!("stockd::{name}")].iter().any(|path| {
            line.match_indices(path.as_str()).any(|(at, found)| {
                let next = line[at + found.len()..].chars().next();
                next.is_none_or(|next| !next.is_alphanumeric() && next != '_')
            })
        })
    })
}

#[test]
fn imports_point_down() {
    let mut wrong = Vec::new();
    for (floor, name) in FLOORS.iter().enumerate() {
        let files = sources(&root().join("src").join(name));
        assert!(!files.is_empty(), "floor {name} has no files");
        for path in files {
            for line in code(&path) {
                let above = floors_named(&line).filter(|named| *named > floor);
                wrong.extend(
                    above.map(|named| format!("{}: {} {line}", path.display(), FLOORS[named])),
                );
                if line.contains("crate::{") {
                    wrong.push(format!("{}: name floors one by one: {line}", path.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "imports that point up:\n{}", wrong.join("\n"));
}

#[test]
fn an_import_that_points_up_would_be_found() {
    let named: Vec<_> = floors_named("use crate::server::Session;").collect();
    assert_eq!(named, [FLOORS.iter().position(|floor| *floor == "server").unwrap()]);
    assert_eq!(floors_named("use crate::logical::Thing;").count(), 0);
}

#[test]
fn openraft_is_named_only_in_replication() {
    for path in sources(&root().join("src")) {
        if path.starts_with(root().join("src/replication")) {
            continue;
        }
        let named = code(&path).iter().any(|line| line.contains("openraft"));
        assert!(!named, "{} names openraft", path.display());
    }
}

#[test]
fn a_nodes_files_are_opened_only_in_log_storage() {
    let doors = ["File::open", "File::create", "File::options", "tokio::fs", "OpenOptions"];
    for path in sources(&root().join("src")) {
        // What `stockd load`, exports and evidence read and write are their user's files, not a node's.
        let folders = ["cli/load", "cli/events"];
        let is_in = |folder: &Path| folders.iter().any(|clients| folder.ends_with(clients));
        let is_users = path.parent().is_some_and(is_in) || path.ends_with("cli/export.rs");
        if path.ends_with("log/storage.rs") || is_users {
            continue;
        }
        for line in code(&path) {
            let opened = doors.iter().any(|door| line.contains(door));
            assert!(!opened, "{} opens files: {line}", path.display());
        }
    }
}

#[test]
fn the_client_stays_thin() {
    let manifest = fs::read_to_string(root().join("client/Cargo.toml")).unwrap();
    let dependencies = manifest.split("[dependencies]").nth(1).unwrap();
    let dependencies = dependencies.split("\n[").next().unwrap();
    let names = dependencies.lines().filter_map(|line| line.split(['.', ' ', '=']).next());
    let names: Vec<_> = names.filter(|name| !name.is_empty() && *name != "#").collect();
    assert_eq!(names, ["bytes", "stockd-protocol", "tokio"]);
}
