//! `reconcile`: is this node's state what its log makes, and the one that the others have? Where it is not, both values
//! and the events since it was.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::answer::Value;
use super::commands::done;
use super::past::Told;
use super::shared::Shared;
use super::status::{named, progress};
use super::words::escape;
use crate::engine::Difference;
use crate::protocol::CellHandle;
use crate::protocol::event::Finding;
use crate::replication::{Alarm, ReconcileStatus};

/// Cells whose events are shown, and of each the latest so many.
const CELLS_SHOWN: usize = 5;
const EVENTS_SHOWN: usize = 20;

/// `reconcile`.
pub(super) async fn found(shared: &Arc<Shared>) -> Result<Value, String> {
    let status = shared.replica.status().reconcile;
    let alarm = status.alarm.as_ref();
    let mut fields = vec![
        ("diverged", alarm.is_some().into()),
        ("diverged_at", alarm.map(|alarm| alarm.index).into()),
        ("finding", alarm.map(|alarm| alarm.finding.name().to_owned()).into()),
    ];
    fields.extend(so_far(&status));
    if let Some(alarm) = alarm {
        fields.push(("differences", differences(shared, alarm)));
        fields.push(("between_events", between(&alarm.events).into()));
        fields.push(("events", events(shared, alarm).await));
    }
    Ok(Value::Object(fields))
}

fn so_far(status: &ReconcileStatus) -> [(&'static str, Value); 11] {
    let (digest, digest_index) = status.digest;
    let (compared, not_compared) = status.snapshots;
    [
        ("found_wrong", named(&status.named).into()),
        ("rounds", status.rounds.into()),
        ("given_up", status.given_up.into()),
        ("index", status.index.into()),
        ("at_ms", status.at.as_millis().into()),
        ("digest", format!("{digest:016x}").into()),
        ("digest_index", digest_index.into()),
        ("agreed_index", status.agreed_index.into()),
        ("chain_differs_at", status.chain_differs_at.into()),
        ("snapshots", format!("{compared} compared, {not_compared} not").into()),
        ("running", status.running.as_ref().map(progress).into()),
    ]
}

fn between(events: &Range<u64>) -> String {
    match events.is_empty() {
        true => "no event since the state was right".to_owned(),
        false => format!("{} to {}", events.start, events.end - 1),
    }
}

fn name_of(shared: &Shared, cell: CellHandle) -> Option<String> {
    let (warehouse, sku) = shared.replica.cells().names(cell)?;
    Some(format!("{} {}", escape(warehouse), escape(sku)))
}

fn differences(shared: &Shared, alarm: &Alarm) -> Value {
    let whose = match alarm.finding {
        Finding::Replica => "by_the_leader",
        _ => "by_the_log",
    };
    let row = |difference: &Difference| {
        vec![
            ("part", difference.part.into()),
            ("number", u64::from(difference.number).into()),
            ("cell", difference.cell.and_then(|cell| name_of(shared, cell)).into()),
            ("id", difference.id.map(|id| id.to_string()).into()),
            ("in_memory", difference.live.as_str().into()),
            (whose, difference.right.as_str().into()),
        ]
    };
    Value::Table(alarm.differences.iter().map(row).collect())
}

/// The events about the cells that are wrong, since they were right.
async fn events(shared: &Arc<Shared>, alarm: &Alarm) -> Value {
    let cells: BTreeSet<CellHandle> =
        alarm.differences.iter().filter_map(|difference| difference.cell).collect();
    let mut lines = Vec::new();
    for cell in cells.into_iter().take(CELLS_SHOWN) {
        let told = match Told::open(shared, Some(cell)).await {
            Ok(told) => told,
            Err(why) => return Value::Lines(vec![why]),
        };
        let (name, range) = (name_of(shared, cell).unwrap_or_default(), alarm.events.clone());
        let deed = move |told: &Told| told.latest(cell, range, EVENTS_SHOWN, |_| ());
        match told.aside(deed).await {
            Ok((_, events)) if events.is_empty() => lines.push(format!("{name}: no event")),
            Ok((is_all, events)) => {
                lines.extend((!is_all).then(|| format!("{name}: and more before these; see why")));
                lines.extend(events);
            }
            Err(why) => lines.push(format!("{name}: {why}")),
        }
    }
    Value::Lines(lines)
}

/// `reconcile now`.
pub(super) fn begin(shared: &Shared) -> Result<Value, String> {
    shared.replica.reconcile().map_err(|error| error.to_string())?;
    Ok(done("all nodes compare their states; reconcile tells what each has found"))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use crate::log::SimStorage;
    use crate::protocol::{CellHandle, CellRef, Line, Op, OpFlags, ReservationId};
    use crate::replication::tests::{NEVER, PATIENCE, leads, start_as, until, write, write_a_cell};
    use crate::replication::{Bootstrap, Replica};
    use crate::server::{Limits, Listeners};
    use crate::world::World;

    async fn rounds(replica: &Replica, count: u64) {
        replica.reconcile().expect("it leads");
        until("a round", || replica.status().reconcile.rounds == count).await;
    }

    #[tokio::test]
    async fn the_cell_both_values_and_the_events_in_between_are_shown() {
        let address = "127.0.0.1:0".to_owned();
        let storage = SimStorage::new();
        let replica = start_as(&storage, (1, address), Bootstrap::Single, NEVER).await;
        assert!(leads(&replica, PATIENCE).await, "alone it founds the cluster");
        write_a_cell(&replica).await;
        rounds(&replica, 1).await;
        let id = ReservationId::from_parts(replica.now().as_millis(), [2; 10]);
        write(&replica, 1, |out| {
            let lines = [Line { cell: CellRef::Handle(CellHandle(0)), quantity: 3 }];
            Op::encode_reserve(out, OpFlags::default(), None, id, 60_000, &lines);
        })
        .await;
        replica.plant_fault(CellHandle(0), -1);
        replica.reconcile().expect("it leads");
        until("the alarm", || replica.status().reconcile.alarm.is_some()).await;
        until("the event", || !replica.status().reconcile.named.is_empty()).await;

        let any = "127.0.0.1:0".parse().unwrap();
        let listeners = Listeners::bind(any, any).await.unwrap();
        let admin = listeners.admin_address().unwrap();
        let server = listeners.serve(replica, World::real(), Limits::default()).unwrap();
        let mut operator = tokio::net::TcpStream::connect(admin).await.unwrap();
        operator.write_all(b"reconcile\nstatus\nquit\n").await.unwrap();
        let mut answer = String::new();
        operator.read_to_string(&mut answer).await.unwrap();
        let found = [
            "diverged          yes",
            "finding           REPLAY",
            "found_wrong       node 1, REPLAY after entry",
            "w s",
            "on_hand=9 reserved=3 committed=0",
            "on_hand=10 reserved=3 committed=0",
            "between_events    4 to 5",
            "4 RESERVED",
        ];
        found.iter().for_each(|part| assert!(answer.contains(part), "{part} is not in\n{answer}"));
        assert!(!answer.contains("2 RECEIVED"), "it was right after that:\n{answer}");
        server.shutdown().await;
    }
}
