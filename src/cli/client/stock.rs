//! What is written about stock.

use clap::{Args, Subcommand, ValueEnum, value_parser};
use stockd_client::{
    Bucket, CellRef, Client, OpId, PolicyChange, Shipment, StockWrite, Transferred,
};

use super::super::Done;
use super::{Names, Terms, again, explain, explain_in_doubt, with_terms};

#[derive(Subcommand)]
pub(super) enum Request {
    /// Make a cell without units, if it is not there; prints its handle.
    Define {
        #[command(flatten)]
        cell: Cell,
    },
    /// Add units to a cell; the cell is made if it is not there.
    Receive {
        #[command(flatten)]
        cell: Cell,
        /// How many units.
        quantity: u32,
        #[command(flatten)]
        once: Once,
    },
    /// Add or take units that were found, lost or written off.
    Adjust {
        #[command(flatten)]
        cell: Cell,
        /// How many units more, or fewer: 3 or -3.
        #[arg(allow_negative_numbers = true)]
        delta: i64,
        /// It has happened: record it even if the units are promised.
        #[arg(long)]
        truth: bool,
        #[command(flatten)]
        once: Once,
    },
    /// Say how many units there are, if nobody changed that meanwhile.
    Set {
        #[command(flatten)]
        cell: Cell,
        /// How many units are on hand.
        on_hand: i64,
        #[command(flatten)]
        guard: Guard,
        #[command(flatten)]
        once: Once,
    },
    /// Begin to count a cell; prints the token of the count.
    Count {
        #[command(flatten)]
        cell: Cell,
        #[command(flatten)]
        once: Once,
    },
    /// Say how many units there were when a count began.
    Counted {
        /// The token of the count.
        token: OpId,
        /// How many there were.
        counted: i64,
        #[command(flatten)]
        once: Once,
    },
    /// Move units of a cell between what is for sale and what is blocked.
    Move {
        #[command(flatten)]
        cell: Cell,
        /// Where they are.
        #[arg(value_enum)]
        from: Where,
        /// Where they go.
        #[arg(value_enum)]
        to: Where,
        /// How many units.
        quantity: u32,
        /// It has happened: record it even if the units are promised.
        #[arg(long)]
        truth: bool,
        #[command(flatten)]
        once: Once,
    },
    /// Say that units are on order, or are not any more.
    Announce {
        #[command(flatten)]
        cell: Cell,
        /// How many units more, or fewer.
        #[arg(allow_negative_numbers = true)]
        delta: i64,
        #[command(flatten)]
        once: Once,
    },
    /// Take in units that were announced.
    Arrive {
        #[command(flatten)]
        cell: Cell,
        /// How many units.
        quantity: u32,
        /// What becomes of them.
        #[arg(long, value_enum, default_value = "sellable")]
        bucket: Where,
        #[command(flatten)]
        once: Once,
    },
    /// Take back units from a customer.
    Return {
        #[command(flatten)]
        cell: Cell,
        /// How many units.
        quantity: u32,
        /// What becomes of them.
        #[arg(long, value_enum, default_value = "sellable")]
        bucket: Where,
        #[command(flatten)]
        once: Once,
    },
    /// Change the rules of a cell; what is not given stays as it is.
    Policy {
        #[command(flatten)]
        cell: Cell,
        #[command(flatten)]
        rules: Rules,
        #[command(flatten)]
        once: Once,
    },
    /// Send units of a SKU to another warehouse; prints the id of the shipment.
    Ship {
        /// The SKU's name.
        sku: String,
        /// The warehouse that they leave.
        from: String,
        /// The warehouse that they go to.
        to: String,
        /// How many units.
        quantity: u32,
        /// They have left: record it even if they were promised.
        #[arg(long)]
        truth: bool,
        #[command(flatten)]
        once: Once,
    },
    /// Take in units of a shipment.
    Land {
        /// The shipment's id.
        shipment: OpId,
        /// How many arrived in good order.
        good: u32,
        /// How many arrived damaged.
        #[arg(long, default_value_t = 0)]
        damaged: u32,
        #[command(flatten)]
        once: Once,
    },
    /// Give up what has not arrived of a shipment.
    Close {
        /// The shipment's id.
        shipment: OpId,
        #[command(flatten)]
        terms: Terms,
    },
    /// Put what has not arrived of a shipment back where it came from.
    Recall {
        /// The shipment's id.
        shipment: OpId,
        #[command(flatten)]
        terms: Terms,
    },
    /// Read a shipment.
    Shipment {
        /// The shipment's id.
        shipment: OpId,
    },
}

#[derive(Args)]
pub(super) struct Cell {
    /// The warehouse's name.
    warehouse: String,
    /// The SKU's name.
    sku: String,
}

/// What makes a write be done once, and what it is done for.
#[derive(Args)]
pub(super) struct Once {
    /// Try an earlier write again, under its id.
    #[arg(long)]
    id: Option<OpId>,
    #[command(flatten)]
    pub(super) terms: Terms,
}

/// What keeps a number that is late from overwriting a newer one.
#[derive(Args)]
#[group(required = true, multiple = false)]
pub(super) struct Guard {
    /// How many there must be now.
    #[arg(long, value_name = "UNITS", allow_negative_numbers = true)]
    expected: Option<i64>,
    /// The number of this message of a feed; older ones are refused from then on.
    #[arg(long, value_name = "SEQUENCE", value_parser = value_parser!(u64).range(1..))]
    feed: Option<u64>,
}

#[derive(Args)]
#[group(required = true, multiple = true)]
pub(super) struct Rules {
    /// Nothing is reserved while it is true.
    #[arg(long, value_name = "BOOL")]
    frozen: Option<bool>,
    /// Units are sold without being counted.
    #[arg(long, value_name = "BOOL")]
    untracked: Option<bool>,
    /// Units that are announced or in transit may be sold.
    #[arg(long, value_name = "BOOL")]
    preorder: Option<bool>,
    /// Units are sold at once or not at all.
    #[arg(long, value_name = "BOOL")]
    no_hold: Option<bool>,
    /// How far below zero may be sold.
    #[arg(long, value_name = "UNITS", allow_negative_numbers = true,
        value_parser = value_parser!(i64).range(0..))]
    oversell_limit: Option<i64>,
    /// Units that are never sold.
    #[arg(long, value_name = "UNITS", allow_negative_numbers = true,
        value_parser = value_parser!(i64).range(0..))]
    buffer: Option<i64>,
    /// Order more when no more than this is left; `none` takes it away.
    #[arg(long, value_name = "UNITS", allow_negative_numbers = true, value_parser = parse_point)]
    reorder_point: Option<Point>,
    /// Most units that one owner may have, which makes it be sold to owners only; 0 takes it away.
    #[arg(long, value_name = "UNITS")]
    owner_max: Option<u32>,
}

#[derive(Clone, Copy)]
struct Point(Option<i64>);

fn parse_point(text: &str) -> Result<Point, String> {
    match text {
        "none" => Ok(Point(None)),
        // On the wire -1 is `none`: nobody shall take it away by a slip.
        units => match units.parse() {
            Ok(units @ 0..) => Ok(Point(Some(units))),
            _ => Err(format!("{text:?} is neither a number of units from 0 nor `none`")),
        },
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Where {
    Sellable,
    Damaged,
    Quality,
    Safety,
    Other,
}

impl From<Where> for Bucket {
    fn from(place: Where) -> Self {
        match place {
            Where::Sellable => Self::Sellable,
            Where::Damaged => Self::Damaged,
            Where::Quality => Self::Quality,
            Where::Safety => Self::Safety,
            Where::Other => Self::Other,
        }
    }
}

impl Cell {
    fn as_ref(&self) -> CellRef<'_> {
        CellRef::name(&self.warehouse, &self.sku)
    }
}

impl Once {
    pub(super) fn id_for(&self, client: &Client) -> OpId {
        self.id.unwrap_or_else(|| client.new_op_id())
    }
}

impl Request {
    pub(super) async fn send(self, client: &Client) -> Done {
        match self {
            Self::Define { cell } => {
                let defined = client.define(&cell.warehouse, &cell.sku).await.map_err(explain)?;
                println!("handle     {}", defined.handle.0);
                Ok(())
            }
            Self::Ship { sku, from, to, quantity, truth, once } => {
                let id = once.id_for(client);
                let (from, to) = (CellRef::name(&from, &sku), CellRef::name(&to, &sku));
                let ship = Shipment::ship(id, from, to, quantity);
                let ship = if truth { ship.truth() } else { ship };
                println!("shipment  {id}");
                transfer(client, ship, Some(id), &once.terms).await
            }
            Self::Land { shipment, good, damaged, once } => {
                let id = once.id_for(client);
                let land = Shipment::receive(id, shipment, good, damaged);
                transfer(client, land, Some(id), &once.terms).await
            }
            Self::Close { shipment, terms } => {
                transfer(client, Shipment::close(shipment), None, &terms).await
            }
            Self::Recall { shipment, terms } => {
                transfer(client, Shipment::recall(shipment), None, &terms).await
            }
            Self::Shipment { shipment } => {
                let read = client.read_transfer(shipment, super::consistency(false)).await;
                let read = read.map_err(explain)?;
                let read =
                    read.ok_or("no shipment has this id, or none that is still remembered")?;
                show(client, &read).await;
                Ok(())
            }
            Self::Move { from, to, .. } if from == to => {
                Err("the units are there already; name another bucket to move them to".to_owned())
            }
            write => write.write(client).await,
        }
    }

    /// A write about one cell.
    async fn write(&self, client: &Client) -> Done {
        let (Self::Receive { once, .. }
        | Self::Adjust { once, .. }
        | Self::Set { once, .. }
        | Self::Count { once, .. }
        | Self::Counted { once, .. }
        | Self::Move { once, .. }
        | Self::Announce { once, .. }
        | Self::Arrive { once, .. }
        | Self::Return { once, .. }
        | Self::Policy { once, .. }) = self
        else {
            unreachable!("all others are sent otherwise")
        };
        let id = once.id_for(client);
        let mut write = match self {
            Self::Receive { cell, quantity, .. } => {
                StockWrite::receive(id, cell.as_ref(), *quantity)
            }
            Self::Adjust { cell, delta, .. } => StockWrite::adjust(id, cell.as_ref(), *delta),
            Self::Set { cell, on_hand, guard, .. } => match (guard.feed, guard.expected) {
                (Some(sequence), _) => StockWrite::feed(id, cell.as_ref(), *on_hand, sequence),
                (None, Some(expected)) => StockWrite::set(id, cell.as_ref(), *on_hand, expected),
                (None, None) => unreachable!("the group of the two is required"),
            },
            Self::Count { cell, .. } => StockWrite::begin_count(id, cell.as_ref()),
            Self::Counted { token, counted, .. } => StockWrite::commit_count(id, *token, *counted),
            Self::Move { cell, from, to, quantity, .. } => {
                StockWrite::shelve(id, cell.as_ref(), (*from).into(), (*to).into(), *quantity)
            }
            Self::Announce { cell, delta, .. } => StockWrite::announce(id, cell.as_ref(), *delta),
            Self::Arrive { cell, quantity, bucket, .. } => {
                StockWrite::arrive(id, cell.as_ref(), *quantity, (*bucket).into())
            }
            Self::Return { cell, quantity, bucket, .. } => {
                StockWrite::take_back(id, cell.as_ref(), *quantity, (*bucket).into())
            }
            Self::Policy { cell, rules, .. } => {
                StockWrite::policy(id, cell.as_ref(), rules.change())
            }
            _ => unreachable!("these were named above"),
        };
        if matches!(self, Self::Adjust { truth: true, .. } | Self::Move { truth: true, .. }) {
            write = write.truth();
        }
        let write = with_terms!(write, &once.terms);
        let written = client.write(&write).await.map_err(|error| explain_in_doubt(error, id))?;
        if matches!(self, Self::Count { .. }) {
            println!("token      {id}");
        }
        println!("on_hand    {}", written.on_hand);
        println!("available  {}{}", written.available, again(written.replay));
        Ok(())
    }
}

impl Rules {
    const fn change(&self) -> PolicyChange {
        PolicyChange {
            frozen: self.frozen,
            untracked: self.untracked,
            preorder: self.preorder,
            no_hold: self.no_hold,
            oversell_limit: self.oversell_limit,
            buffer: self.buffer,
            reorder_point: match self.reorder_point {
                Some(Point(point)) => Some(point),
                None => None,
            },
            owner_max: self.owner_max,
        }
    }
}

/// A step of a transfer. What ends one has no id of its own: the shipment's makes it be done once.
async fn transfer(
    client: &Client,
    shipment: Shipment<'_>,
    id: Option<OpId>,
    terms: &Terms,
) -> Done {
    let transferred = client.transfer(&with_terms!(shipment, terms)).await;
    let transferred = transferred.map_err(|error| match id {
        Some(id) => explain_in_doubt(error, id),
        None => explain(error),
    })?;
    show(client, &transferred).await;
    Ok(())
}

async fn show(client: &Client, transferred: &Transferred) {
    let state = transferred.state.map_or("forgotten", |state| state.name());
    println!("state     {state}{}", again(transferred.replay));
    if let Some(found) = &transferred.transfer {
        let names = Names::read(client, [found.from, found.to].into_iter()).await;
        println!("from      {}", names.of(found.from));
        println!("to        {}", names.of(found.to));
        println!("shipped   {}", found.shipped);
        println!("received  {}", found.received);
        println!("damaged   {}", found.damaged);
        println!("rest      {}", found.rest());
    }
}
