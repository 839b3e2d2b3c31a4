//! What is done with reservations.

use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use stockd_client::{
    Amend, CellRef, Change, Changed, Client, LineShares, Prolong, ReservationId, ReservationState,
    Reserve, ReserveFrom, Sourcing, UnixMillis,
};

use super::super::{Done, parse_duration};
use super::{Names, Terms, again, explain, explain_in_doubt, with_terms};

#[derive(Subcommand)]
pub(super) enum Request {
    /// Hold units until a deadline.
    Reserve {
        /// The warehouse's name.
        warehouse: String,
        /// The SKU's name.
        sku: String,
        /// How many units.
        quantity: u32,
        /// One more line, held together with the first or not at all; may be given several times.
        #[arg(long = "line", num_args = 3, value_names = ["WAREHOUSE", "SKU", "UNITS"])]
        lines: Vec<String>,
        #[command(flatten)]
        how: How,
    },
    /// Hold units of a SKU from whichever warehouses have them.
    ReserveFrom {
        /// The SKU's name.
        sku: String,
        /// How many units.
        quantity: u32,
        /// The warehouses that may ship, in the order of preference, with commas between.
        #[arg(value_delimiter = ',', required = true)]
        warehouses: Vec<String>,
        /// One more line, of another SKU in the same warehouses; may be given several times.
        #[arg(long = "line", num_args = 2, value_names = ["SKU", "UNITS"])]
        lines: Vec<String>,
        /// What is held if there is not enough for all lines. Default: nothing.
        #[arg(long, value_enum)]
        mode: Option<Mode>,
        /// Which of them ship.
        #[arg(long, value_enum, default_value = "first")]
        by: By,
        /// How often the units of a line may be split.
        #[arg(long, default_value_t = 0)]
        splits: u8,
        /// Take fewer units, but no fewer than this of any line, if there are not enough: --mode upto.
        #[arg(long, value_name = "UNITS")]
        at_least: Option<u32>,
        /// For whom: an account, a device; it counts against the limits of owners.
        #[arg(long)]
        owner: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Promise a reservation's units to an order.
    Confirm {
        #[command(flatten)]
        which: Which,
        /// Take again what has expired, if it is there.
        #[arg(long)]
        reacquire: bool,
    },
    /// Give a reservation's units back.
    Release {
        #[command(flatten)]
        which: Which,
    },
    /// Take back the promise of a confirmed reservation.
    Cancel {
        #[command(flatten)]
        which: Which,
    },
    /// Hand over what was promised.
    Fulfil {
        #[command(flatten)]
        which: Which,
        /// Confirm on the way what is not confirmed yet.
        #[arg(long)]
        ship: bool,
        /// With --ship: take again what has expired, if it is there.
        #[arg(long, requires = "ship")]
        reacquire: bool,
    },
    /// Move a reservation's deadline.
    Extend {
        /// The reservation's id.
        id: ReservationId,
        /// The new deadline is at least this far away.
        #[arg(long, value_parser = parse_duration, default_value = "10m")]
        ttl: Duration,
        #[command(flatten)]
        terms: Terms,
    },
    /// Keep a reservation from expiring while a payment takes days.
    Pin {
        /// The reservation's id.
        id: ReservationId,
        /// For at least this long: up to 168h.
        #[arg(long, value_parser = parse_duration, default_value = "24h")]
        ttl: Duration,
        #[command(flatten)]
        terms: Terms,
    },
    /// Give a reservation other lines; its own units count as available to it.
    Amend {
        /// The reservation's id.
        id: ReservationId,
        /// Which amendment of the reservation it is, by your count from 1.
        #[arg(long)]
        step: u32,
        /// A line that it has afterwards; may be given several times.
        #[arg(long = "line", num_args = 3, required = true,
            value_names = ["WAREHOUSE", "SKU", "UNITS"])]
        lines: Vec<String>,
        #[command(flatten)]
        terms: Terms,
    },
    /// Read a reservation, and what has become of its lines.
    Hold {
        /// The reservation's id.
        id: ReservationId,
    },
}

/// How units are reserved.
#[derive(Args)]
pub(super) struct How {
    /// How long to hold them: 30s, 5m, 1h. Default: ten minutes.
    #[arg(long, value_parser = parse_duration)]
    ttl: Option<Duration>,
    /// Confirm at once: no deadline.
    #[arg(long, conflicts_with = "ttl")]
    commit: bool,
    /// Try an earlier reserve again, under its id.
    #[arg(long)]
    id: Option<ReservationId>,
    #[command(flatten)]
    terms: Terms,
}

/// A reservation or some of its units.
#[derive(Args)]
pub(super) struct Which {
    /// The reservation's id.
    id: ReservationId,
    /// Some units of a line, counted from 0, as LINE:UNITS; may be given several times. Without it, all.
    #[arg(long = "part", value_name = "LINE:UNITS", value_parser = parse_part, requires = "step")]
    parts: Vec<(u16, u32)>,
    /// Which step of this kind it is, by your count from 1: a step that is repeated is recognised.
    #[arg(long, requires = "parts")]
    step: Option<u32>,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Clone, Copy, ValueEnum)]
pub(super) enum By {
    /// The first ones that have them.
    First,
    /// Those that have most.
    Most,
    /// As few as it takes.
    Fewest,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Mode {
    /// Nothing.
    All,
    /// The lines of which there is enough.
    Lines,
    /// As much of each line as there is.
    #[value(name = "upto")]
    UpTo,
}

fn parse_units(text: &str) -> Result<u32, String> {
    text.parse().map_err(|_| format!("{text:?} is no number of units"))
}

/// The lines of words that come in threes.
fn parse_lines(words: &[String]) -> Result<Vec<(CellRef<'_>, u32)>, String> {
    let lines = words.chunks_exact(3);
    lines.map(|line| Ok((CellRef::name(&line[0], &line[1]), parse_units(&line[2])?))).collect()
}

fn parse_part(text: &str) -> Result<(u16, u32), String> {
    let part = text.split_once(':').and_then(|(line, units)| {
        Some((line.trim().parse().ok()?, units.trim().parse().ok().filter(|units| *units > 0)?))
    });
    part.ok_or_else(|| format!("{text:?} is not LINE:UNITS, such as 0:2"))
}

impl Request {
    pub(super) async fn send(self, client: &Client) -> Done {
        match self {
            Self::Reserve { warehouse, sku, quantity, lines, how } => {
                let mut all = vec![(CellRef::name(&warehouse, &sku), quantity)];
                all.extend(parse_lines(&lines)?);
                reserve(client, &all, &how).await
            }
            Self::ReserveFrom {
                sku,
                quantity,
                warehouses,
                lines,
                mode,
                by,
                splits,
                at_least,
                owner,
                how,
            } => {
                let mut all = vec![(sku, quantity)];
                for line in lines.chunks_exact(2) {
                    all.push((line[0].clone(), parse_units(&line[1])?));
                }
                let implied = if at_least.is_some() { Mode::UpTo } else { Mode::All };
                let mode = mode.unwrap_or(implied);
                if at_least.is_some() && mode != Mode::UpTo {
                    return Err("--at-least goes with --mode upto only".to_owned());
                }
                let least = at_least.unwrap_or(0);
                let from = Reserving { lines: all, warehouses, mode, least, by, splits, owner };
                from.send(client, &how).await
            }
            Self::Confirm { which, reacquire } => {
                let change = which.change(Change::confirm);
                let change = if reacquire { change.reacquire() } else { change };
                which.send(client, change).await
            }
            Self::Release { which } => which.send(client, which.change(Change::release)).await,
            Self::Cancel { which } => which.send(client, which.change(Change::cancel)).await,
            Self::Fulfil { which, ship, reacquire } => {
                let change = which.change(Change::fulfil);
                let change = if ship { change.ship() } else { change };
                which.send(client, if reacquire { change.reacquire() } else { change }).await
            }
            Self::Extend { id, ttl, terms } => {
                prolong(client, Prolong::extend(id, ttl), &terms).await
            }
            Self::Pin { id, ttl, terms } => prolong(client, Prolong::pin(id, ttl), &terms).await,
            Self::Amend { id, step, lines, terms } => amend(client, id, step, &lines, &terms).await,
            Self::Hold { id } => hold(client, id).await,
        }
    }
}

impl Which {
    fn change(&self, new: impl FnOnce(ReservationId) -> Change<'static>) -> Change<'_> {
        let parts = self.parts.iter();
        let change = parts.fold(new(self.id), |change, (line, units)| change.part(*line, *units));
        let change: Change<'_> = change.step(self.step.unwrap_or(0));
        with_terms!(change, &self.terms)
    }

    async fn send(&self, client: &Client, change: Change<'_>) -> Done {
        let changed = client.change(&change).await.map_err(explain)?;
        let Changed { late, reacquired, replay, state, .. } = changed;
        let late = if late { ", after the deadline" } else { "" };
        let reacquired = if reacquired { ", taken again" } else { "" };
        println!("state  {}{late}{reacquired}{}", state.name(), again(replay));
        Ok(())
    }
}

/// What both kinds of reserve take.
macro_rules! with_how {
    ($cart:expr, $how:expr) => {{
        let (mut cart, how): (_, &How) = ($cart, $how);
        if let Some(ttl) = how.ttl {
            cart = cart.ttl(ttl);
        }
        if how.commit {
            cart = cart.commit();
        }
        with_terms!(cart, &how.terms)
    }};
}

async fn reserve(client: &Client, lines: &[(CellRef<'_>, u32)], how: &How) -> Done {
    let cart = match how.id {
        Some(id) => Reserve::new(id).retry(),
        None => Reserve::new(client.new_id()),
    };
    let cart = lines.iter().fold(cart, |cart, (cell, units)| cart.cell(*cell, *units));
    let cart = with_how!(cart, how);
    let id = cart.id();
    let granted = client.reserve(&cart).await.map_err(|error| explain_in_doubt(error, id))?;
    println!("id           {id}");
    println!("state        {}{}", granted.state.name(), again(granted.replay));
    show_deadline(granted.state, granted.deadline, granted.server_now);
    Ok(())
}

/// Only an active hold runs out: a time that is left would mislead about all others.
fn show_deadline(state: ReservationState, deadline: UnixMillis, server_now: UnixMillis) {
    if state == ReservationState::Active {
        println!("deadline_ms  {}", deadline.0);
        println!("left_ms      {}", deadline.0.saturating_sub(server_now.0));
    }
}

/// A reserve from several warehouses, as it was asked for.
struct Reserving {
    /// SKUs and units.
    lines: Vec<(String, u32)>,
    warehouses: Vec<String>,
    mode: Mode,
    /// Of each line, if the mode takes less.
    least: u32,
    by: By,
    splits: u8,
    owner: Option<String>,
}

impl Reserving {
    async fn send(&self, client: &Client, how: &How) -> Done {
        let mut cart = match how.id {
            Some(id) => ReserveFrom::new(id).retry(),
            None => ReserveFrom::new(client.new_id()),
        };
        for (sku, units) in &self.lines {
            let cells = self.warehouses.iter().map(|warehouse| CellRef::name(warehouse, sku));
            cart = match self.mode {
                Mode::UpTo => cart.up_to(*units, self.least, cells),
                Mode::All | Mode::Lines => cart.line(*units, cells),
            };
        }
        if self.mode == Mode::Lines {
            cart = cart.some_lines();
        }
        let mut cart = cart.splits_max(self.splits).sourcing(match self.by {
            By::First => Sourcing::First,
            By::Most => Sourcing::MostStock,
            By::Fewest => Sourcing::FewestSplits,
        });
        if let Some(owner) = &self.owner {
            cart = cart.owner(owner);
        }
        let cart = with_how!(cart, how);
        let id = cart.id();
        let sourced = client.reserve_from(&cart).await;
        let sourced = sourced.map_err(|error| explain_in_doubt(error, id))?;
        println!("id           {id}");
        println!("state        {}{}", sourced.state.name(), again(sourced.replay));
        show_deadline(sourced.state, sourced.deadline, sourced.server_now);
        let units: u32 = sourced.parts.iter().map(|part| part.quantity).sum();
        println!(
            "units        {units}{}",
            if sourced.partial { " (fewer than asked for)" } else { "" }
        );
        let names = Names::read(client, sourced.parts.iter().map(|part| part.cell)).await;
        for part in &sourced.parts {
            println!("part         {} from {}", part.quantity, names.of(part.cell));
        }
        Ok(())
    }
}

async fn amend(
    client: &Client,
    id: ReservationId,
    step: u32,
    lines: &[String],
    terms: &Terms,
) -> Done {
    let lines = parse_lines(lines)?.into_iter();
    let amend = lines.fold(Amend::new(id, step), |amend, (cell, units)| amend.cell(cell, units));
    let amend = with_terms!(amend, terms);
    let granted = client.amend(&amend).await.map_err(explain)?;
    println!("state        {}{}", granted.state.name(), again(granted.replay));
    println!("deadline_ms  {}", granted.deadline.0);
    Ok(())
}

async fn prolong<'a>(client: &Client, prolong: Prolong<'a>, terms: &'a Terms) -> Done {
    let extended = client.prolong(&with_terms!(prolong, terms)).await.map_err(explain)?;
    println!("deadline_ms  {}", extended.deadline.0);
    Ok(())
}

async fn hold(client: &Client, id: ReservationId) -> Done {
    let read = client.read_lines(id, super::consistency(false)).await.map_err(explain)?;
    let read = read.ok_or("no reservation has this id, or none that is still remembered")?;
    let found = read.value;
    println!("state        {}{}", found.state.name(), if found.pinned { ", pinned" } else { "" });
    println!("created_ms   {}", found.created.0);
    println!("deadline_ms  {}", found.deadline.0);
    let names = Names::read(client, found.lines.iter().map(|(cell, _)| *cell)).await;
    for (number, (cell, units)) in found.lines.iter().enumerate() {
        println!("line {number:<6}  {}, {}", names.of(*cell), shares(units));
    }
    Ok(())
}

/// Where the units of a line are.
fn shares(units: &LineShares) -> String {
    let all = [
        (units.reserved, "reserved"),
        (units.committed, "committed"),
        (units.fulfilled, "fulfilled"),
        (units.released, "released"),
        (units.expired, "expired"),
        (units.cancelled, "cancelled"),
    ];
    let some = all.iter().filter(|(units, _)| *units > 0);
    some.map(|(units, name)| format!("{units} {name}")).collect::<Vec<_>>().join(", ")
}
