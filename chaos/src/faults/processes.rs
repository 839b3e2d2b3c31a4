//! Processes that die, stand still, or are asked to go.

use std::time::Duration;

use tokio::time::sleep;

use super::{Attack, Kind, seconds, some_voters};
use crate::cluster::VOTERS;
use crate::dice::Dice;
use crate::node::Clock;

type Done = Result<(), String>;

/// kill -9, some time without it, a new start.
pub async fn kill_one(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, mut machine) = attack.victim_machine(dice).await;
    let away = dice.millis(0, 5_000);
    attack.strike(Kind::KillOne, &format!("node {id}, away for {}", seconds(away)));
    machine.kill().await;
    sleep(away).await;
    machine.spawn(Clock::Jumps)?;
    attack.cluster.serving(&mut machine).await
}

pub async fn kill_majority(attack: &Attack, dice: &mut Dice) -> Done {
    let ids = some_voters(dice, 2);
    kill_several(attack, dice, Kind::KillMajority, &ids).await
}

pub async fn kill_all(attack: &Attack, dice: &mut Dice) -> Done {
    kill_several(attack, dice, Kind::KillAll, &VOTERS).await
}

async fn kill_several(attack: &Attack, dice: &mut Dice, kind: Kind, ids: &[u64]) -> Done {
    let mut machines = attack.machines(ids).await;
    let away = dice.millis(0, 2_000);
    attack.strike(kind, &format!("nodes {ids:?}, away for {}", seconds(away)));
    for (_, machine) in &mut machines {
        machine.kill().await;
    }
    dice.shuffle(&mut machines);
    for (_, machine) in &mut machines {
        sleep(away / ids.len() as u32).await;
        machine.spawn(Clock::Jumps)?;
    }
    for (_, machine) in &mut machines {
        attack.cluster.serving(machine).await?;
    }
    Ok(())
}

/// SIGSTOP: the process finds that time has passed between two of its instructions.
pub async fn pause(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, machine) = attack.victim_machine(dice).await;
    let times = 1 + dice.roll(3);
    let stills: Vec<Duration> = (0..times).map(|_| dice.millis(200, 4_000)).collect();
    let words: Vec<String> = stills.iter().map(|still| seconds(*still)).collect();
    attack.strike(Kind::Pause, &format!("node {id} stands still for {}", words.join(", for ")));
    for still in stills {
        machine.pause();
        sleep(still).await;
        machine.resume();
        sleep(dice.millis(50, 1_000)).await;
    }
    Ok(())
}

/// SIGTERM to each node in turn. Each must leave in order, come back and catch up.
pub async fn rolling_restart(attack: &Attack, dice: &mut Dice) -> Done {
    attack.strike(Kind::RollingRestart, "of all nodes");
    let mut order = VOTERS;
    dice.shuffle(&mut order);
    for id in order {
        let mut machine = attack.cluster.node(id).machine().await;
        machine.leave().await?;
        machine.spawn(Clock::Jumps)?;
        attack.cluster.serving(&mut machine).await?;
        sleep(dice.millis(0, 1_000)).await;
    }
    Ok(())
}
