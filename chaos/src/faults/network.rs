//! Packets that do not arrive, or arrive late.

use std::time::Duration;

use tokio::time::sleep;

use super::{Attack, Kind, seconds};
use crate::dice::Dice;
use crate::network::{Effect, Hosts, Rule};

type Done = Result<(), String>;

/// How long a partition lasts: shorter and longer than the time-outs of an election.
fn duration(dice: &mut Dice) -> Duration {
    dice.millis(200, 8_000)
}

async fn enforce(attack: &Attack, rules: &[Rule], duration: Duration) -> Done {
    let in_force = attack.cluster.rules.enforce(rules);
    sleep(duration).await;
    drop(in_force);
    Ok(())
}

pub async fn isolate(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, duration) = (attack.victim(dice).await, duration(dice));
    attack.strike(Kind::Isolation, &format!("node {id} for {}", seconds(duration)));
    let one = Hosts::one(id as usize);
    enforce(attack, &Rule::part(one, one.others()), duration).await
}

pub async fn peers_only(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, duration) = (attack.victim(dice).await, duration(dice));
    attack.strike(Kind::PeersOnly, &format!("node {id} for {}", seconds(duration)));
    let one = Hosts::one(id as usize);
    enforce(attack, &Rule::part(one, one.others().nodes()), duration).await
}

pub async fn one_way(attack: &Attack, dice: &mut Dice) -> Done {
    let (id, duration) = (attack.victim(dice).await, duration(dice));
    let (one, deaf, clients) = (Hosts::one(id as usize), dice.chance(50), dice.chance(50));
    let others = if clients { one.others() } else { one.others().nodes() };
    let (from, to) = if deaf { (others, one) } else { (one, others) };
    let how = if deaf { "hears nothing of" } else { "is not heard by" };
    let whom = if clients { "anybody" } else { "the other nodes" };
    attack.strike(Kind::OneWay, &format!("node {id} {how} {whom} for {}", seconds(duration)));
    enforce(attack, &[Rule { from, to, effect: Effect::Cut }], duration).await
}

/// From a link to the next town to a congested one around the world.
pub async fn delay(attack: &Attack, dice: &mut Dice) -> Done {
    let duration = duration(dice);
    let base = *dice.pick(&[1, 5, 20, 60]);
    let effect = Effect::Delay {
        base: Duration::from_millis(base),
        jitter: Duration::from_millis(*dice.pick(&[0, base, 2 * base])),
    };
    let (rules, whose) = around(attack, dice, effect).await;
    attack.strike(Kind::Delay, &format!("{effect:?} {whose} for {}", seconds(duration)));
    enforce(attack, &rules, duration).await
}

pub async fn lose(attack: &Attack, dice: &mut Dice) -> Done {
    let (duration, percent) = (duration(dice), *dice.pick(&[1, 5, 20, 40]));
    let (rules, whose) = around(attack, dice, Effect::Lose(percent)).await;
    attack.strike(Kind::Loss, &format!("{percent} % {whose} for {}", seconds(duration)));
    enforce(attack, &rules, duration).await
}

/// The effect on all packets, or on those of one node.
async fn around(attack: &Attack, dice: &mut Dice, effect: Effect) -> (Vec<Rule>, String) {
    if dice.chance(30) {
        let rule = Rule { from: Hosts::ALL, to: Hosts::ALL, effect };
        return (vec![rule], "everywhere".to_owned());
    }
    let id = attack.victim(dice).await;
    let rules = Rule::part(Hosts::one(id as usize), Hosts::ALL);
    (rules.map(|rule| Rule { effect, ..rule }).to_vec(), format!("around node {id}"))
}
