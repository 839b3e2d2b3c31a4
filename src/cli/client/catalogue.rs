//! `stockd client describe`, `alias`, `rename` and `catalogue`.

use std::time::Duration;

use clap::{Subcommand, value_parser};
use stockd_client::{CatalogueWrite, Client, ListSkus, NamedSku, OpId, PointCrossed};

use super::super::Done;
use super::stock::Once;
use super::{again, consistency, explain, explain_in_doubt, with_terms};

/// How often somebody who follows looks again.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(500);

#[derive(Subcommand)]
pub(super) enum Request {
    /// Say what a SKU is.
    Describe {
        /// One of the SKU's names.
        sku: String,
        /// For people, at most 64 bytes.
        title: String,
        /// Decimal digits of what people count in: with 3, a quantity of 1500 is 1.5 kg.
        #[arg(long, default_value_t = 0, value_parser = value_parser!(u8).range(..=9))]
        scale: u8,
        #[command(flatten)]
        once: Once,
    },
    /// Give a SKU one more name.
    Alias {
        /// One of the SKU's names.
        sku: String,
        /// The new one.
        name: String,
        #[command(flatten)]
        once: Once,
    },
    /// Give a SKU one more name, and show it under that from now on.
    Rename {
        /// One of the SKU's names.
        sku: String,
        /// The new one, or one that it has.
        name: String,
        #[command(flatten)]
        once: Once,
    },
    /// Say when to order more of a SKU, over all warehouses.
    Reorder {
        /// One of the SKU's names.
        sku: String,
        /// When no more than this is left for orders to come; without it, nobody asks any more.
        #[arg(value_parser = value_parser!(i64).range(0..))]
        point: Option<i64>,
        #[command(flatten)]
        once: Once,
    },
    /// List SKUs by the beginning of their names, or those to order.
    Skus {
        /// What the name begins with.
        #[arg(default_value = "")]
        prefix: String,
        /// Only those at or below their reorder point.
        #[arg(long)]
        low: bool,
    },
    /// Print which reorder points were crossed, a line for each.
    Crossings {
        /// The number of the first one.
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Go on with those to come.
        #[arg(long)]
        follow: bool,
    },
    /// Read what a SKU is, and what it is called.
    Catalogue {
        /// One of the SKU's names.
        sku: String,
    },
}

impl Request {
    pub(super) async fn send(self, client: &Client) -> Done {
        match &self {
            Self::Describe { sku, title, scale, once } => {
                let write = |id| CatalogueWrite::describe(id, sku, title, *scale);
                send(client, once, write).await
            }
            Self::Alias { sku, name, once } => {
                send(client, once, |id| CatalogueWrite::alias(id, sku, name)).await
            }
            Self::Rename { sku, name, once } => {
                send(client, once, |id| CatalogueWrite::rename(id, sku, name)).await
            }
            Self::Reorder { sku, point, once } => {
                send(client, once, |id| CatalogueWrite::reorder(id, sku, *point)).await
            }
            Self::Skus { prefix, low } => {
                let list = ListSkus::new().prefix(prefix.as_str());
                print_skus(client, if *low { list.low() } else { list }).await
            }
            Self::Crossings { from, follow } => print_crossings(client, *from, *follow).await,
            Self::Catalogue { sku } => {
                let read = client.read_catalogue(sku, consistency(false)).await.map_err(explain)?;
                let found = read.ok_or("no SKU has this name")?.value;
                println!("title  {}", found.title);
                println!("scale  {}", found.scale);
                let point = found.point.map_or("none".to_owned(), |point| point.to_string());
                println!("point  {point}");
                println!("stock  {}", found.position);
                for name in &found.names {
                    println!("name   {}", crate::server::escape(name));
                }
                Ok(())
            }
        }
    }
}

async fn print_skus(client: &Client, list: ListSkus) -> Done {
    println!("{:32}  {:>12}  {:>13}  title", "sku", "position", "reorder_point");
    let mut next = Some(0);
    while let Some(from) = next {
        let read = client.list_skus(&list.clone().from(from), consistency(false)).await;
        let page = read.map_err(explain)?.value;
        for NamedSku { name, title, point, position, .. } in &page.skus {
            let name = crate::server::escape(name);
            let point = point.map_or("-".to_owned(), |point| point.to_string());
            println!("{name:32}  {position:>12}  {point:>13}  {title}");
        }
        next = page.next;
    }
    Ok(())
}

async fn print_crossings(client: &Client, mut from: u64, follow: bool) -> Done {
    loop {
        let read = client.read_crossings(from, 1_000, consistency(false)).await;
        let page = read.map_err(explain)?.value;
        if page.first > from {
            crate::cli::say!("those from {from} to {} are not kept any more", page.first - 1);
        }
        for (number, crossed) in (page.first..).zip(&page.crossings) {
            let PointCrossed { at_ms, is_low, position, point, warehouse, sku, .. } = crossed;
            let what = if *is_low { "low" } else { "enough" };
            let names = [warehouse, sku].map(|name| crate::server::escape(name));
            let place = if warehouse.is_empty() { "(all)" } else { &names[0] };
            let point = point.map_or("none".to_owned(), |point| point.to_string());
            println!("{number} {at_ms} {what} {place} {} {position} of {point}", names[1]);
        }
        from = page.next;
        match page.more {
            true => {}
            false if follow => tokio::time::sleep(FOLLOW_INTERVAL).await,
            false => return Ok(()),
        }
    }
}

async fn send<'a>(
    client: &Client,
    once: &'a Once,
    write: impl FnOnce(OpId) -> CatalogueWrite<'a>,
) -> Done {
    let id = once.id_for(client);
    let write = with_terms!(write(id), &once.terms);
    let done = client.write_catalogue(&write).await;
    let done = done.map_err(|error| explain_in_doubt(error, id))?;
    println!("done{}", again(done.replay));
    Ok(())
}
