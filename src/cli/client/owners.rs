//! `stockd client owner` and `limit-owners`.

use std::time::Duration;

use clap::{Args, Subcommand};
use stockd_client::{Client, LimitOwners, OwnerLimits, OwnerUsage};

use super::super::{Done, parse_duration};
use super::stock::Once;
use super::{again, consistency, explain, explain_in_doubt, with_terms};

#[derive(Subcommand)]
pub(super) enum Request {
    /// Read what an owner holds.
    Owner {
        /// The owner's name, as reserves give it.
        owner: String,
    },
    /// Say how much each owner may hold; what is not given has no limit.
    LimitOwners {
        #[command(flatten)]
        limits: Limits,
        #[command(flatten)]
        once: Once,
    },
}

#[derive(Args)]
pub(super) struct Limits {
    /// Most active reservations.
    #[arg(long, value_name = "N", default_value_t = 0)]
    holds: u32,
    /// Most units in active reservations.
    #[arg(long, value_name = "UNITS", default_value_t = 0)]
    units: u32,
    /// How long it takes no more after a reservation of its own has expired: 30s, 5m, 1h.
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    cool_down: Option<Duration>,
}

impl Request {
    pub(super) async fn send(self, client: &Client) -> Done {
        match self {
            Self::Owner { owner } => {
                let read = client.read_owner(owner, consistency(false)).await.map_err(explain)?;
                show(&read.value, read.server_now.0);
                Ok(())
            }
            Self::LimitOwners { limits, once } => {
                let id = once.id_for(client);
                let write = with_terms!(LimitOwners::new(id, limits.to_limits()?), &once.terms);
                let limited = client.limit_owners(&write).await;
                let limited = limited.map_err(|error| explain_in_doubt(error, id))?;
                println!("done  limits are set{}", again(limited.replay));
                Ok(())
            }
        }
    }
}

impl Limits {
    fn to_limits(&self) -> Result<OwnerLimits, String> {
        let cool_down = self.cool_down.unwrap_or_default().as_millis();
        let cool_down_ms = u32::try_from(cool_down).map_err(|_| "that is too long".to_owned())?;
        Ok(OwnerLimits { holds_max: self.holds, units_max: self.units, cool_down_ms })
    }
}

fn show(usage: &OwnerUsage, now_ms: u64) {
    let of = |most: u32| if most == 0 { String::new() } else { format!(" of {most}") };
    println!("holds  {}{}", usage.holds, of(usage.limits.holds_max));
    println!("units  {}{}", usage.units, of(usage.limits.units_max));
    println!("open   {}", usage.open);
    if let Some(free_at) = usage.free_at {
        println!("cools  for {} ms more", free_at.0.saturating_sub(now_ms));
    }
}
