//! `stockd client`: one request to a cluster, for people who try things.

use std::time::Duration;

use clap::{Args, Subcommand};
use stockd_client::{
    CellRef, Client as Connection, Code, Consistency, Error, OpId, Options, ReservationId, Reserve,
    UnixMillis, Why,
};

use super::{Done, parse_duration};

/// Where `serve` serves clients by default.
pub(super) const CLIENT_ADDRESS: &str = "127.0.0.1:7400";

/// How long a person should wait for an answer: an election takes a second or two.
const PATIENCE: Duration = Duration::from_secs(4);

/// `stockd client`.
#[derive(Args)]
#[command(after_help = "\
Examples:
  stockd client receive BER shirt-m 100
  stockd client reserve BER shirt-m 2 --ttl 5m     prints the reservation's id
  stockd client confirm 018bcfe5-687b-7c1d-9a01-42434445464f
  stockd client read BER shirt-m")]
pub(super) struct Client {
    /// A node of the cluster; may be given several times. The leader is found from any of them.
    #[arg(long = "node", value_name = "ADDR", default_value = CLIENT_ADDRESS, global = true)]
    nodes: Vec<String>,
    #[command(subcommand)]
    request: Request,
}

#[derive(Subcommand)]
enum Request {
    /// Add units to a cell; the cell is made if it is not there.
    Receive {
        /// The warehouse's name.
        warehouse: String,
        /// The SKU's name.
        sku: String,
        /// How many units.
        quantity: u32,
        /// Try an earlier receive again, under its id.
        #[arg(long)]
        id: Option<OpId>,
    },
    /// Hold units until a deadline.
    Reserve {
        /// The warehouse's name.
        warehouse: String,
        /// The SKU's name.
        sku: String,
        /// How many units.
        quantity: u32,
        /// How long to hold them: 30s, 5m, 1h. Default: ten minutes.
        #[arg(long, value_parser = parse_duration)]
        ttl: Option<Duration>,
        /// Try an earlier reserve again, under its id.
        #[arg(long)]
        id: Option<ReservationId>,
    },
    /// Promise a reservation's units to an order.
    Confirm {
        /// The reservation's id.
        id: ReservationId,
    },
    /// Give a reservation's units back.
    Release {
        /// The reservation's id.
        id: ReservationId,
    },
    /// Move a reservation's deadline.
    Extend {
        /// The reservation's id.
        id: ReservationId,
        /// The new deadline is at least this far away.
        #[arg(long, value_parser = parse_duration, default_value = "10m")]
        ttl: Duration,
    },
    /// Read the counters of a cell.
    Read {
        /// The warehouse's name.
        warehouse: String,
        /// The SKU's name.
        sku: String,
        /// Let the asked node answer from what it has, leader or not.
        #[arg(long)]
        stale: bool,
    },
    /// Read a reservation.
    Hold {
        /// The reservation's id.
        id: ReservationId,
    },
    /// Read a SKU over all its warehouses.
    Sku {
        /// The SKU's name.
        sku: String,
    },
    /// Ask whether somebody is there.
    Ping,
}

impl Client {
    pub(super) fn run(self) -> Done {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        runtime.block_on(async {
            let options = Options {
                client_name: "stockd-cli".to_owned(),
                request_timeout: PATIENCE,
                stay: matches!(self.request, Request::Read { stale: true, .. }),
                ..Options::new(&self.nodes)
            };
            let nodes = self.nodes.join(", ");
            let connection = Connection::connect(options).await.map_err(|error| {
                format!("{error} ({nodes}); is `stockd serve` running, and is --node right?")
            })?;
            self.request.send(&connection).await
        })
    }
}

impl Request {
    async fn send(self, client: &Connection) -> Done {
        match self {
            Self::Receive { warehouse, sku, quantity, id } => {
                receive(client, &warehouse, &sku, quantity, id).await
            }
            Self::Reserve { warehouse, sku, quantity, ttl, id } => {
                reserve(client, &warehouse, &sku, quantity, ttl, id).await
            }
            Self::Confirm { id } => {
                let confirmed = client.confirm(id).await.map_err(explain)?;
                let late = if confirmed.late { ", late" } else { "" };
                println!("confirmed{late}{}", again(confirmed.replay));
                Ok(())
            }
            Self::Release { id } => {
                let released = client.release(id).await.map_err(explain)?;
                println!("{}{}", released.state.name(), again(released.replay));
                Ok(())
            }
            Self::Extend { id, ttl } => {
                let extended = client.extend(id, ttl).await.map_err(explain)?;
                println!("deadline_ms  {}", extended.deadline.0);
                Ok(())
            }
            Self::Read { warehouse, sku, stale } => read(client, &warehouse, &sku, stale).await,
            Self::Hold { id } => hold(client, id).await,
            Self::Sku { sku } => read_sku(client, &sku).await,
            Self::Ping => {
                let UnixMillis(now) = client.ping().await.map_err(explain)?;
                println!("server_now_ms  {now}");
                Ok(())
            }
        }
    }
}

const fn again(replay: bool) -> &'static str {
    if replay { " (it was done before)" } else { "" }
}

fn explain(error: Error) -> String {
    match &error {
        Error::Retry(Why::Code { code: Code::NOT_LEADER, .. }) => {
            "not executed: no leader was found; is a majority of the nodes running?".to_owned()
        }
        _ => error.to_string(),
    }
}

/// As [`explain`], and how to ask again under the same id.
fn explain_in_doubt(error: Error, id: impl std::fmt::Display) -> String {
    match error {
        Error::Unknown(_) => format!("{error}; repeat this command with --id {id}"),
        _ => explain(error),
    }
}

async fn receive(
    client: &Connection,
    warehouse: &str,
    sku: &str,
    quantity: u32,
    id: Option<OpId>,
) -> Done {
    let cell = CellRef::name(warehouse, sku);
    let id = id.unwrap_or_else(|| client.new_op_id());
    let received = client.receive(id, cell, quantity).await;
    let received = received.map_err(|error| explain_in_doubt(error, id))?;
    if received.replay {
        println!("it was done before");
    }
    println!("on_hand    {}", received.on_hand);
    println!("available  {}", received.available);
    Ok(())
}

async fn reserve(
    client: &Connection,
    warehouse: &str,
    sku: &str,
    quantity: u32,
    ttl: Option<Duration>,
    id: Option<ReservationId>,
) -> Done {
    let mut cart = match id {
        Some(id) => Reserve::new(id).retry(),
        None => Reserve::new(client.new_id()),
    }
    .line(warehouse, sku, quantity);
    if let Some(ttl) = ttl {
        cart = cart.ttl(ttl);
    }
    let id = cart.id();
    let granted = client.reserve(&cart).await.map_err(|error| explain_in_doubt(error, id))?;
    println!("id           {id}");
    println!("state        {}{}", granted.state.name(), again(granted.replay));
    println!("deadline_ms  {}", granted.deadline.0);
    println!("left_ms      {}", granted.deadline.0.saturating_sub(granted.server_now.0));
    Ok(())
}

const fn consistency(stale: bool) -> Consistency {
    if stale { Consistency::Stale } else { Consistency::Linearizable }
}

async fn read(client: &Connection, warehouse: &str, sku: &str, stale: bool) -> Done {
    let cell = CellRef::name(warehouse, sku);
    let read = client.read_cell(cell, consistency(stale)).await.map_err(explain)?;
    let found = read.value.ok_or("no such cell; `stockd client receive` makes it")?;
    let counters = found.counters;
    println!("on_hand    {}", counters.on_hand);
    println!("reserved   {}", counters.reserved);
    println!("committed  {}", counters.committed);
    println!("available  {}", counters.available);
    match read.age {
        Some(age) if age.is_zero() => {}
        Some(age) => println!("age_ms     {}", age.as_millis()),
        None => println!("age_ms     unknown"),
    }
    Ok(())
}

async fn hold(client: &Connection, id: ReservationId) -> Done {
    let read = client.read_reservation(id, Consistency::Linearizable).await.map_err(explain)?;
    let read = read.ok_or("no reservation has this id, or none that is still remembered")?;
    println!("state        {}", read.value.state.name());
    println!("created_ms   {}", read.value.created.0);
    println!("deadline_ms  {}", read.value.deadline.0);
    for line in &read.value.lines {
        println!("line         cell {}, {} units", line.cell.0, line.quantity);
    }
    Ok(())
}

async fn read_sku(client: &Connection, sku: &str) -> Done {
    let mut after = None;
    loop {
        let read =
            client.read_sku(sku, after, Consistency::Linearizable).await.map_err(explain)?.value;
        if after.is_none() {
            println!(
                "{:32}  {:>12}  {:>12}  {:>12}  {:>12}",
                "warehouse", "on_hand", "reserved", "committed", "available"
            );
        }
        for found in &read.cells {
            row(&crate::server::escape(&found.warehouse), &found.cell.counters);
        }
        after = read.next;
        if after.is_none() {
            row("(all)", &read.total);
            return Ok(());
        }
    }
}

fn row(name: &str, counters: &stockd_client::CellCounters) {
    println!(
        "{name:32}  {:>12}  {:>12}  {:>12}  {:>12}",
        counters.on_hand, counters.reserved, counters.committed, counters.available
    );
}
