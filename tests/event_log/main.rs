//! The event log on a disk that fails: what a mark said is on disk is found, and what comes again is the same.
#![expect(clippy::unwrap_used, reason = "a test panics where it fails")]

mod damage;
mod faults;
mod harness;
mod history;
mod power;
mod reading;

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::ops::{ControlFlow, Range};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use stockd::archive::Notice;
use stockd::events::{
    Checks, Direction, EventDir, EventLog, EventOptions, Flaw, Key, Past, Position, ReadError,
};
use stockd::log::{Fault, FileEntry, SimStorage, Storage, Survival};
use stockd::protocol::event::{
    Cause, CellChange, Counts, Event, EventBody, EventKind, EventRecord, RecordHeader,
    RecordWriter, seal,
};
use stockd::protocol::{CellHandle, Policy, Reader, ReservationId, ShardId};
use stockd::world::{TaskThreads, World};

use harness::*;
