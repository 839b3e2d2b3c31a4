//! Who leads and who belongs to the cluster.

use std::time::Duration;

use tokio::time::sleep;

use super::{Attack, Kind};
use crate::cluster::{HEAL_LIMIT, VOTERS};
use crate::dice::Dice;
use crate::node::Clock;

type Done = Result<(), String>;

/// How long a change of members may take that other faults hold up.
const CHANGE_LIMIT: Duration = Duration::from_secs(20);
/// How long a hand-over waits for somebody who could do it.
const LEADER_LIMIT: Duration = Duration::from_secs(5);
/// The fourth node.
const GUEST: u64 = 4;

pub async fn transfer(attack: &Attack, dice: &mut Dice) -> Done {
    let mut leader = None;
    let elected = attack.cluster.within(LEADER_LIMIT, "a leader", async || {
        leader = attack.cluster.leader().await.map(|(id, _)| id);
        leader.is_some()
    });
    let Some(leader) = elected.await.ok().and(leader) else {
        attack.miss(Kind::Transfer, "nobody led", "of nobody");
        return Ok(());
    };
    // To itself it would be no hand-over, and answered as if it were one.
    let others: Vec<u64> = VOTERS.into_iter().filter(|id| *id != leader).collect();
    let to = *dice.pick(&others);
    let line = if dice.chance(50) { "transfer".to_owned() } else { format!("transfer {to}") };
    // It may be refused, or fail: somebody leads afterwards, or nobody does for a while.
    match attack.cluster.node(leader).ask(&line, Duration::from_secs(5)).await {
        Ok(_) => {
            attack.strike(Kind::Transfer, &format!("node {leader} was told to {line}, and did"));
        }
        Err(why) => {
            let what = format!("node {leader} was told to {line}: {why}");
            attack.miss(Kind::Transfer, "not done", &what);
        }
    }
    Ok(())
}

/// Sometimes the cluster is told first that the node goes, and sometimes it finds out.
pub async fn wipe_and_join(attack: &Attack, dice: &mut Dice) -> Done {
    let _members = attack.cluster.members.lock().await;
    let (id, mut machine) = attack.victim_machine(dice).await;
    let told = dice.chance(50);
    let removed = told && remove(attack, id).await;
    let how = match (told, removed) {
        (true, true) => "is removed,",
        (true, false) => "is perhaps removed,",
        (false, _) => "is not removed,",
    };
    let interrupted = dice.chance(50);
    let then = if interrupted { "is killed while it joins, and joins" } else { "joins" };
    attack.strike(Kind::WipeAndJoin, &format!("node {id} {how} loses its disk and {then} anew"));
    machine.kill().await;
    machine.disk.wipe().map_err(|error| format!("wiping node {id}: {error}"))?;
    machine.spawn(Clock::Jumps)?;
    if interrupted {
        sleep(dice.millis(20, 1_500)).await;
        machine.kill().await;
        machine.spawn(Clock::Jumps)?;
    }
    attack.cluster.serving(&mut machine).await?;
    // From here on others may break it; nobody may change the members before it votes.
    drop(machine);
    votes(attack, id).await
}

pub async fn guest(attack: &Attack, dice: &mut Dice) -> Done {
    let _members = attack.cluster.members.lock().await;
    let mut machine = attack.cluster.node(GUEST).machine().await;
    attack.strike(Kind::Guest, &format!("node {GUEST} joins, and goes"));
    machine.spawn(Clock::Jumps)?;
    attack.cluster.serving(&mut machine).await?;
    let stays = async {
        votes(attack, GUEST).await?;
        sleep(dice.millis(500, 4_000)).await;
        Ok::<_, String>(())
    };
    stays.await?;
    let gone = attack
        .cluster
        .within(HEAL_LIMIT, "node 4 to be removed", async || remove(attack, GUEST).await);
    gone.await?;
    machine.kill().await;
    machine.disk.wipe().map_err(|error| format!("wiping node {GUEST}: {error}"))
}

/// Waits until a node that joins counts for majorities. As long as a leader has not heard that it lost
/// its disk, it lists the node of before, which had the same name; but that one has applied nothing anew.
async fn votes(attack: &Attack, id: u64) -> Done {
    let what = format!("node {id} to be taken in as a voter");
    attack
        .cluster
        .within(2 * HEAL_LIMIT, &what, async || {
            let leader = attack.cluster.leader().await;
            let own = attack.cluster.node(id).status().await;
            leader.zip(own).is_some_and(|((_, leader), own)| {
                own.applied_index >= leader.applied_index
                    && leader.voters.contains(&id)
                    && own.voters.contains(&id)
            })
        })
        .await
}

/// Asks whoever leads to take a node out; true when it is out for certain.
async fn remove(attack: &Attack, id: u64) -> bool {
    let Some((leader, status)) = attack.cluster.leader().await else { return false };
    if !status.members.contains(&id) {
        return true;
    }
    let asked = attack.cluster.node(leader).ask(&format!("remove {id}"), CHANGE_LIMIT).await;
    asked.is_ok()
}
