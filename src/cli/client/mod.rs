//! `stockd client`: one request to a cluster, for people who try things.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use clap::{Args, Subcommand};
use stockd_client::{
    CellCounters, CellHandle, CellRef, Client as Connection, Code, Consistency, Error, ListCells,
    NamedCell, Options, UnixMillis, Why,
};

use super::Done;

mod catalogue;
mod holds;
mod owners;
mod stock;

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
  stockd client reserve BER shirt-m 2 --line BER mug 1
  stockd client reserve-from shirt-m 5 BER,HAM --by fewest --splits 1
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
    #[command(flatten)]
    Holds(holds::Request),
    #[command(flatten)]
    Stock(stock::Request),
    #[command(flatten)]
    Owners(owners::Request),
    #[command(flatten)]
    Catalogue(catalogue::Request),
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
    /// Read all counters of a cell, and its rules.
    Details {
        /// The warehouse's name.
        warehouse: String,
        /// The SKU's name.
        sku: String,
    },
    /// Read a SKU over all its warehouses.
    Sku {
        /// The SKU's name.
        sku: String,
        /// The sum alone.
        #[arg(long)]
        total: bool,
    },
    /// List cells by the beginning of their names, or those to order for.
    List {
        /// What the SKU's name begins with.
        #[arg(default_value = "")]
        sku: String,
        /// What the warehouse's name begins with.
        #[arg(long, value_name = "PREFIX", default_value = "")]
        warehouse: String,
        /// Only cells at or below their reorder point.
        #[arg(long)]
        low: bool,
    },
    /// Ask whether somebody is there.
    Ping,
    /// Print nodes, roles and progress as the asked node sees them: JSON.
    Status,
}

/// What stands around a write.
#[derive(Args)]
struct Terms {
    /// Why it is done, by a number of your own list; it goes into the log.
    #[arg(long)]
    reason: Option<u16>,
    /// What it belongs to: an order, a document, a person; it goes into the log.
    #[arg(long = "ref", value_name = "TEXT")]
    reference: Option<String>,
    /// Not any more once the cluster's clock, which `ping` prints, has passed this: ms since 1970.
    #[arg(long, value_name = "MS")]
    not_after: Option<u64>,
}

/// All that builds a write has the same methods for what stands around it.
macro_rules! with_terms {
    ($write:expr, $terms:expr) => {{
        let (mut write, terms) = ($write, $terms);
        if let Some((reason, reference)) = terms.note() {
            write = write.note(reason, reference);
        }
        match terms.not_after() {
            Some(not_after) => write.not_after(not_after),
            None => write,
        }
    }};
}

use with_terms;

impl Terms {
    fn note(&self) -> Option<(u16, &[u8])> {
        let is_given = self.reason.is_some() || self.reference.is_some();
        let reference = self.reference.as_deref().unwrap_or_default();
        is_given.then(|| (self.reason.unwrap_or_default(), reference.as_bytes()))
    }

    fn not_after(&self) -> Option<UnixMillis> {
        self.not_after.map(UnixMillis)
    }
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
                stay: matches!(self.request, Request::Read { stale: true, .. } | Request::Status),
                ..Options::new(&self.nodes)
            };
            self.request.send(&connect(options).await?).await
        })
    }
}

impl Request {
    async fn send(self, client: &Connection) -> Done {
        match self {
            Self::Holds(request) => request.send(client).await,
            Self::Stock(request) => request.send(client).await,
            Self::Owners(request) => request.send(client).await,
            Self::Catalogue(request) => request.send(client).await,
            Self::Read { warehouse, sku, stale } => read(client, &warehouse, &sku, stale).await,
            Self::Details { warehouse, sku } => details(client, &warehouse, &sku).await,
            Self::Sku { sku, total } => read_sku(client, &sku, total).await,
            Self::List { sku, warehouse, low } => {
                let list = ListCells::new().warehouse_prefix(warehouse).sku_prefix(sku);
                print_list(client, if low { list.low() } else { list }).await
            }
            Self::Ping => {
                let UnixMillis(now) = client.ping().await.map_err(explain)?;
                println!("server_now_ms  {now}");
                Ok(())
            }
            Self::Status => {
                println!("{}", client.cluster_status().await.map_err(explain)?);
                Ok(())
            }
        }
    }
}

/// Connects to one of the nodes of `options`.
pub(super) async fn connect(options: Options) -> Result<Connection, String> {
    let nodes = options.addresses.join(", ");
    Connection::connect(options).await.map_err(|error| {
        format!("{error} ({nodes}); is `stockd serve` running, and is --node right?")
    })
}

/// The cluster that this client is connected to: what goes on in another one is not the same work.
pub(super) fn cluster_of(client: &Connection) -> Result<u64, String> {
    client.cluster_id().filter(|id| *id != 0).ok_or_else(|| {
        "the node has not joined its cluster yet; run the same command again in a moment".to_owned()
    })
}

/// What cells are called, as far as that can be told.
struct Names(BTreeMap<CellHandle, String>);

impl Names {
    /// Asks for each cell once, and for no more of them when that fails: what was done is done.
    async fn read(client: &Connection, cells: impl Iterator<Item = CellHandle>) -> Self {
        let mut names = BTreeMap::new();
        for cell in cells.collect::<BTreeSet<_>>() {
            match client.cell_name(cell, consistency(false)).await {
                Ok(Some(read)) => {
                    let NamedCell { warehouse, sku, .. } = read.value;
                    let [warehouse, sku] =
                        [warehouse, sku].map(|name| crate::server::escape(&name));
                    names.insert(cell, format!("{warehouse} {sku}"));
                }
                Ok(None) => {}
                Err(_) => break,
            }
        }
        Self(names)
    }

    fn of(&self, cell: CellHandle) -> String {
        self.0.get(&cell).cloned().unwrap_or_else(|| format!("cell {}", cell.0))
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

async fn details(client: &Connection, warehouse: &str, sku: &str) -> Done {
    let cells = [CellRef::name(warehouse, sku)];
    let read = client.read_details(&cells, Consistency::Linearizable).await.map_err(explain)?;
    let found = read.value.first().copied().flatten();
    let found = found.ok_or("no such cell; `stockd client receive` makes it")?.details;
    let [damaged, quality, safety, other] = found.blocked;
    for (name, units) in [
        ("on_hand", found.counters.on_hand),
        ("reserved", found.counters.reserved),
        ("committed", found.counters.committed),
        ("available", found.counters.available),
        ("damaged", damaged),
        ("quality", quality),
        ("safety", safety),
        ("other", other),
        ("incoming", found.incoming),
        ("in_transit", found.in_transit),
        ("oversell_limit", found.policy.oversell_limit),
        ("buffer", found.policy.buffer),
    ] {
        println!("{name:14}  {units}");
    }
    let point = found.policy.reorder_point.map_or("none".to_owned(), |point| point.to_string());
    println!("{:14}  {point}", "reorder_point");
    let most = found.policy.owner_max;
    let most = if most == 0 { "none".to_owned() } else { most.to_string() };
    println!("{:14}  {most}", "owner_max");
    println!("{:14}  {}", "feed_sequence", found.feed_sequence);
    for (name, is_so) in [
        ("frozen", found.policy.frozen),
        ("untracked", found.policy.untracked),
        ("preorder", found.policy.preorder),
        ("no_hold", found.policy.no_hold),
        ("short", found.short),
    ] {
        println!("{name:14}  {}", if is_so { "yes" } else { "no" });
    }
    Ok(())
}

async fn read_sku(client: &Connection, sku: &str, total: bool) -> Done {
    let mut after = total.then_some(CellHandle::END);
    println!(
        "{:32}  {:>12}  {:>12}  {:>12}  {:>12}",
        "warehouse", "on_hand", "reserved", "committed", "available"
    );
    loop {
        let read =
            client.read_sku(sku, after, Consistency::Linearizable).await.map_err(explain)?.value;
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

async fn print_list(client: &Connection, list: ListCells) -> Done {
    let mut next = Some(0);
    println!(
        "{:32}  {:32}  {:>12}  {:>12}  {:>12}  {:>13}",
        "warehouse", "sku", "on_hand", "available", "position", "reorder_point"
    );
    while let Some(from) = next {
        let list = list.clone().from(from);
        let read = client.list_cells(&list, Consistency::Linearizable).await.map_err(explain)?;
        for NamedCell { warehouse, sku, details, .. } in &read.value.cells {
            let [warehouse, sku] = [warehouse, sku].map(|name| crate::server::escape(name));
            let CellCounters { on_hand, available, .. } = details.counters;
            let (position, point) = (details.position(), details.policy.reorder_point);
            let point = point.map_or("-".to_owned(), |point| point.to_string());
            println!(
                "{warehouse:32}  {sku:32}  {on_hand:>12}  {available:>12}  {position:>12}  {point:>13}"
            );
        }
        next = read.value.next;
    }
    Ok(())
}

fn row(name: &str, counters: &CellCounters) {
    println!(
        "{name:32}  {:>12}  {:>12}  {:>12}  {:>12}",
        counters.on_hand, counters.reserved, counters.committed, counters.available
    );
}
