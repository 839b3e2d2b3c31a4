//! Disks that lose power, fail, or are full.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::{Attack, Kind, seconds};
use crate::cluster::VOTERS;
use crate::dice::Dice;
use crate::load::Padding;
use crate::network::{Hosts, Rule};
use crate::node::{Clock, Machine};

type Done = Result<(), String>;

/// How long to wait for a node whose disk fails to stop. One that nobody sends anything to writes
/// nothing, and does not notice.
const STOP_LIMIT: Duration = Duration::from_secs(8);
/// How long a node's log is made longer until it has no space. Nothing gets there while the node is
/// cut off or nobody leads.
const FULL_LIMIT: Duration = Duration::from_secs(20);
/// A node that follows is sent so many carts more after it said that it is full, which is more than it
/// keeps in reserve (half a segment): then its writer waits, too.
const CARTS_TOO_MANY: u32 = 16;
/// How long a node may take to notice that there is space again. It looks ten times a second.
const SPACE_LIMIT: Duration = Duration::from_secs(20);

pub async fn cut_one(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, mut machine) = attack.victim_machine(dice).await;
    let away = dice.millis(0, 4_000);
    attack.strike(Kind::PowerCutOne, &format!("node {id}, away for {}", seconds(away)));
    // A machine without power does not even close its connections.
    let one = Hosts::one(id as usize);
    let silent = attack.cluster.rules.enforce(&Rule::part(one, one.others()));
    cut(id, &machine)?;
    machine.kill().await;
    sleep(away).await;
    power_up(&mut machine).await?;
    drop(silent);
    attack.cluster.serving(&mut machine).await
}

pub async fn cut_all(attack: &Attack, dice: &mut Dice) -> Done {
    let mut machines = attack.machines(&VOTERS).await;
    let away = dice.millis(0, 2_000);
    attack.strike(Kind::PowerCutAll, &format!("all nodes, away for {}", seconds(away)));
    let silent = attack.cluster.rules.enforce(&Rule::part(Hosts::ALL, Hosts::ALL));
    dice.shuffle(&mut machines);
    for (id, machine) in &machines {
        cut(*id, machine)?;
    }
    for (_, machine) in &mut machines {
        machine.kill().await;
    }
    sleep(away).await;
    drop(silent);
    for (_, machine) in &mut machines {
        power_up(machine).await?;
        sleep(dice.millis(0, 1_000)).await;
    }
    for (_, machine) in &mut machines {
        attack.cluster.serving(machine).await?;
    }
    Ok(())
}

/// The disk refuses everything while the process lives on.
pub async fn fail(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, mut machine) = attack.victim_machine(dice).await;
    attack.strike(Kind::DiskFailure, &format!("node {id}"));
    cut(id, &machine)?;
    let stopped = match machine.wait(STOP_LIMIT).await {
        Some(status) => format!("stopped itself ({status})"),
        None => "wrote nothing, and is killed".to_owned(),
    };
    machine.kill().await;
    attack.say(&format!("                node {id} {stopped}"));
    sleep(dice.millis(0, 2_000)).await;
    power_up(&mut machine).await?;
    attack.cluster.serving(&mut machine).await
}

/// Writes are refused, nothing ends, and all goes on when there is space.
///
/// A log that was made ahead hides a full disk for as long as it is not used up, which takes twelve
/// buyers minutes; so it is used up on purpose.
pub async fn fill(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, mut machine) = attack.victim_machine(dice).await;
    let full = dice.millis(2_000, 12_000);
    // Nobody else names the segments of a machine that is held, and the full disk has no space for it.
    let keep = |machine: &Machine| {
        let kept = machine.disk.keep_segments();
        kept.map_err(|error| format!("node {id}: keeping its segments: {error}"))
    };
    keep(&machine)?;
    machine.disk.fill().map_err(|error| format!("filling the disk of node {id}: {error}"))?;
    let begun = Instant::now();
    match use_up(attack, id).await {
        Some(how) => {
            let (after, full_for) = (seconds(begun.elapsed()), seconds(full));
            let what =
                format!("node {id}, which {how}, says so after {after}; for {full_for} more");
            attack.strike(Kind::DiskFull, &what);
            sleep(full).await;
        }
        None => attack.miss(Kind::DiskFull, "not reached", &format!("node {id}")),
    }
    machine.disk.free().map_err(|error| format!("freeing the disk of node {id}: {error}"))?;
    keep(&machine)?;
    let mut ended = None;
    let what = format!("node {id} to find that its disk has space again");
    let goes_on = attack.cluster.within(SPACE_LIMIT, &what, async || {
        ended = machine.ended_by_itself();
        ended.is_some() || is_full(attack, id).await.is_some_and(|(full, _)| !full)
    });
    goes_on.await?;
    match ended {
        None => Ok(()),
        Some(status) => {
            let words = machine.last_words();
            Err(format!("node {id} ended with {status} when its disk was full:\n    {words}"))
        }
    }
}

/// Makes the cluster's log longer until the node says that it has no space for it. Returns what the
/// node is; `None` if it did not come to that.
async fn use_up(attack: &Attack, id: u64) -> Option<&'static str> {
    let end = Instant::now() + FULL_LIMIT;
    let mut padding = None;
    while Instant::now() < end && !attack.ledger.is_full() {
        let Some(padding) = &padding else {
            padding = Padding::connect(&attack.cluster.clients(), &attack.ledger).await;
            continue;
        };
        match is_full(attack, id).await {
            Some((true, true)) => return Some("leads"),
            Some((true, false)) => {
                for _ in 0..CARTS_TOO_MANY {
                    padding.add().await;
                }
                return Some("follows");
            }
            _ => padding.add().await,
        }
    }
    None
}

/// Whether the node says that its disk is full, and whether it leads; `None`: it says nothing.
async fn is_full(attack: &Attack, id: u64) -> Option<(bool, bool)> {
    let status = attack.cluster.node(id).status().await?;
    Some((status.disk_full, status.leads))
}

pub async fn kill_in_snapshot(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, mut machine) = attack.victim_machine(dice).await;
    let (after, power) = (dice.millis(0, 60), attack.cluster.abilities.disks && dice.chance(50));
    let how = if power { "loses power" } else { "is killed" };
    let what = format!("node {id} {how} {} ms into a snapshot", after.as_millis());
    attack.strike(Kind::SnapshotKill, &what);
    let node = attack.cluster.node(id);
    tokio::select! {
        // A small one may be done before; that is a case like any other.
        _ = node.ask("snapshot", Duration::from_secs(5)) => {}
        () = sleep(after) => {}
    }
    if power {
        cut(id, &machine)?;
    }
    machine.kill().await;
    if power {
        power_up(&mut machine).await?;
    } else {
        machine.spawn(Clock::Jumps)?;
    }
    attack.cluster.serving(&mut machine).await
}

fn cut(id: u64, machine: &Machine) -> Done {
    let cut = machine.disk.cut_power();
    cut.map_err(|error| format!("cutting the power of node {id}: {error}"))
}

async fn power_up(machine: &mut Machine) -> Done {
    machine.disk.restore_power()?;
    machine.spawn(Clock::Jumps)
}
