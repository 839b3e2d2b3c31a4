//! Disks that lose power, fail, or are full.

use std::time::Duration;

use tokio::time::sleep;

use super::{Attack, Kind, seconds};
use crate::cluster::VOTERS;
use crate::dice::Dice;
use crate::network::{Hosts, Rule};
use crate::node::{Clock, Machine};

type Done = Result<(), String>;

/// How long to wait for a node whose disk fails to stop. One that nobody sends anything to writes
/// nothing, and does not notice.
const STOP_LIMIT: Duration = Duration::from_secs(8);

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
pub async fn fill(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, mut machine) = attack.victim_machine(dice).await;
    let full = dice.millis(2_000, 12_000);
    attack.strike(Kind::DiskFull, &format!("node {id} for {}", seconds(full)));
    machine.disk.fill().map_err(|error| format!("filling the disk of node {id}: {error}"))?;
    sleep(full).await;
    machine.disk.free().map_err(|error| format!("freeing the disk of node {id}: {error}"))?;
    match machine.ended_by_itself() {
        None => Ok(()),
        Some(status) => {
            let words = machine.last_words();
            Err(format!("node {id} ended with {status} when its disk was full:\n    {words}"))
        }
    }
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
