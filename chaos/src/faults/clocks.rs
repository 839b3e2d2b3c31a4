//! Clocks that jump, and clocks that run slow.

use std::time::Duration;

use tokio::time::sleep;

use super::{Attack, Kind, seconds};
use crate::cluster::VOTERS;
use crate::dice::Dice;
use crate::network::{Hosts, Rule};
use crate::node::Clock;

type Done = Result<(), String>;

/// One node at a time: the cluster's clock is the median of three.
pub async fn jump(attack: &Attack, dice: &mut Dice) -> Done {
    let _one = attack.cluster.clocks.lock().await;
    let id = attack.victim(dice).await;
    let node = attack.cluster.node(id);
    let size = *dice.pick(&[2, 30, 600, 18_000]);
    let wrong_by_s = if dice.chance(50) { size } else { -size };
    let duration = dice.millis(2_000, 10_000);
    attack.strike(
        Kind::ClockJump,
        &format!("node {id} by {wrong_by_s:+} s, back after {}", seconds(duration)),
    );
    let set = |wrong| node.set_clock(wrong).map_err(|error| format!("the clock's file: {error}"));
    set(wrong_by_s)?;
    sleep(duration).await;
    set(0)
}

/// How slow: three tenths of the true rate, so that a lease lasts three times as long as it should.
pub const SLOW_TENTHS: u32 = 3;

/// The recipe that finds stale reads on leases: the node with the slow clock leads, the others cut it
/// off and elect another, and clients still reach it.
pub async fn slow(attack: &Attack, dice: &mut Dice) -> Done {
    let _one = attack.cluster.clocks.lock().await;
    let (id, mut machine) = attack.victim_machine(dice).await;
    attack.strike(Kind::SlowClock, &format!("node {id} at 0.{SLOW_TENTHS} of the true rate"));
    machine.kill().await;
    machine.spawn(Clock::Slow { tenths: SLOW_TENTHS })?;
    attack.cluster.serving(&mut machine).await?;
    let one = Hosts::one(id as usize);
    for _ in 0..2 + dice.roll(3) {
        sleep(dice.millis(1_000, 2_000)).await;
        if !lead(attack, id).await {
            continue;
        }
        let cut_off = dice.millis(1_500, 4_000);
        attack.say(&format!(
            "                node {id} leads, and is cut off from its peers for {}",
            seconds(cut_off)
        ));
        let cut = attack.cluster.rules.enforce(&Rule::part(one, one.others().nodes()));
        sleep(cut_off).await;
        drop(cut);
    }
    machine.kill().await;
    machine.spawn(Clock::Jumps)?;
    attack.cluster.serving(&mut machine).await
}

/// Tries to make the node lead; other faults may prevent it.
async fn lead(attack: &Attack, id: u64) -> bool {
    for _ in 0..10 {
        match attack.cluster.leader().await {
            Some((leader, _)) if leader == id => return true,
            Some((leader, _)) if VOTERS.contains(&leader) => {
                // Refusals are answered by the next look.
                let line = format!("transfer {id}");
                let _ = attack.cluster.node(leader).ask(&line, Duration::from_secs(3)).await;
            }
            _ => {}
        }
        sleep(Duration::from_millis(300)).await;
    }
    false
}
