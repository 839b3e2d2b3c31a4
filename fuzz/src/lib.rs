//! Fuzz targets: plain functions over bytes, each with seeds made by the real encoders.
//!
//! ```text
//!                       ┌─ tests/smoke.rs      seeds and seeded mutations of them, on stable, in CI
//! TARGETS: fn(&[u8]) ───┤
//!                       └─ libfuzzer/          the same under libFuzzer: scripts/fuzz.sh
//! ```
//!
//! | target | bytes from | goes through |
//! |---|---|---|
//! | `admin` | an operator | a running node's admin port |
//! | `client_frame` | a client | framing, hello, the syntax of requests |
//! | `client_op` | a client | operations |
//! | `cursor` | a disk | a subscriber's cursor file |
//! | `engine` | – | decisions of a run of the engine against its naive model |
//! | `engine_ops` | a client, by way of the log | apply, on two replicas |
//! | `event_files` | a disk | event segments with arbitrary content, from outside and by a node |
//! | `events_frame` | a server | what a subscriber gets |
//! | `evidence` | anybody | the verification of evidence |
//! | `identity` | a disk | the identity file |
//! | `log_files` | a disk | recovery of segments with arbitrary content |
//! | `log_power` | – | calls to the log, and power cuts |
//! | `peer_frame` | a peer | framing and hello |
//! | `peer_message` | a peer, a disk | every message of Raft, votes, memberships |
//! | `reply` | a server | the client's decoders |
//! | `session` | a client | a running node's client port |
//! | `snapshot` | a disk or a peer | restore of the engine |
//! | `snapshot_file` | a disk or a peer | the file around it |
//!
//! A target panics when a rule is broken: not only on a crash, but also when what was decoded does
//! not encode to the same value, when a recovered log lacks what was acknowledged, or when a state
//! that was restored is not sound. Where a checksum would stop a fuzzer at the door, the target sets
//! it right first, unless the input says otherwise.
//!
//! Left out on purpose: a peer with the right cluster id that lies in Raft's own terms. Peers are
//! trusted; what they send must decode or be refused, no more.

mod engine;
mod events;
mod evidence;
mod frames;
mod input;
mod log;
mod node;
mod peers;
mod replies;
mod snapshots;
mod traffic;

use std::io::ErrorKind;
use std::path::Path;

/// A fuzz target.
#[derive(Clone, Copy)]
pub struct Target {
    /// Its name here, in `libfuzzer/` and for `scripts/fuzz.sh`.
    pub name: &'static str,
    /// Runs one input. Panics if a rule is broken.
    pub run: fn(&[u8]),
    /// Inputs made by the real encoders.
    pub seeds: fn() -> Vec<Vec<u8>>,
    /// Bytes that a run may allocate in all, whatever its input, and for each byte of it. What only
    /// decodes has a small allowance: nothing may be allocated for a length that is only declared. A
    /// node makes segments and takes snapshots meanwhile.
    pub allowance: (u64, u64),
}

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// All targets, by name.
pub const TARGETS: &[Target] = &[
    Target {
        name: "admin",
        run: node::admin,
        seeds: node::admin_lines,
        allowance: (64 * MIB, 16 * KIB),
    },
    Target {
        name: "client_frame",
        run: frames::client_frame,
        seeds: frames::client_frames,
        allowance: (16 * KIB, 64),
    },
    Target {
        name: "client_op",
        run: frames::client_op,
        seeds: frames::client_ops,
        allowance: (16 * KIB, 64),
    },
    Target {
        name: "cursor",
        run: events::cursor,
        seeds: events::cursors,
        allowance: (4 * KIB, 16),
    },
    Target {
        name: "engine",
        run: engine::against_model,
        seeds: engine::decisions,
        allowance: (512 * MIB, 512 * KIB),
    },
    Target {
        name: "engine_ops",
        run: engine::ops,
        seeds: engine::entries,
        allowance: (16 * MIB, 16 * KIB),
    },
    Target {
        name: "event_files",
        run: events::files,
        seeds: events::directories,
        allowance: (16 * MIB, 4 * KIB),
    },
    Target {
        name: "events_frame",
        run: events::frame,
        seeds: events::frames,
        allowance: (16 * KIB, 64),
    },
    Target {
        name: "evidence",
        run: evidence::file,
        seeds: evidence::files,
        allowance: (4 * MIB, 256),
    },
    Target {
        name: "identity",
        run: peers::identity,
        seeds: peers::identities,
        allowance: (4 * KIB, 16),
    },
    Target {
        name: "log_files",
        run: log::files,
        seeds: log::directories,
        allowance: (16 * MIB, 4 * KIB),
    },
    Target {
        name: "log_power",
        run: log::power,
        seeds: log::lives,
        allowance: (256 * MIB, 4 * MIB),
    },
    Target {
        name: "peer_frame",
        run: peers::frame,
        seeds: peers::frames,
        allowance: (16 * KIB, 64),
    },
    Target {
        name: "peer_message",
        run: peers::message,
        seeds: peers::messages,
        allowance: (16 * KIB, 256),
    },
    Target {
        name: "reply",
        run: replies::reply,
        seeds: replies::replies,
        allowance: (16 * KIB, 64),
    },
    Target {
        name: "session",
        run: node::session,
        seeds: node::conversations,
        allowance: (64 * MIB, 16 * KIB),
    },
    Target {
        name: "snapshot",
        run: snapshots::restore,
        seeds: snapshots::streams,
        allowance: (32 * MIB, 4 * KIB),
    },
    Target {
        name: "snapshot_file",
        run: snapshots::file,
        seeds: snapshots::files,
        allowance: (32 * MIB, 4 * KIB),
    },
];

impl Target {
    /// Inputs that once broke it, from `regressions/`.
    ///
    /// # Panics
    /// They cannot be read.
    pub fn regressions(&self) -> Vec<Vec<u8>> {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions").join(self.name);
        let mut files: Vec<_> = match std::fs::read_dir(&directory) {
            Ok(entries) => {
                entries.map(|entry| entry.expect("a directory's entry").path()).collect()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
            Err(error) => panic!("{}: {error}", directory.display()),
        };
        files.sort();
        files.iter().map(|file| std::fs::read(file).expect("a regression can be read")).collect()
    }
}

/// The target of this name.
pub fn target(name: &str) -> Option<&'static Target> {
    TARGETS.iter().find(|target| target.name == name)
}
