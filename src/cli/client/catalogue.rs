//! `stockd client describe`, `alias`, `rename` and `catalogue`.

use clap::{Subcommand, value_parser};
use stockd_client::{CatalogueWrite, Client, OpId};

use super::super::Done;
use super::stock::Once;
use super::{again, consistency, explain, explain_in_doubt};

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
            Self::Catalogue { sku } => {
                let read = client.read_catalogue(sku, consistency(false)).await.map_err(explain)?;
                let found = read.ok_or("no SKU has this name")?.value;
                println!("title  {}", found.title);
                println!("scale  {}", found.scale);
                for name in &found.names {
                    println!("name   {}", crate::server::escape(name));
                }
                Ok(())
            }
        }
    }
}

async fn send<'a>(
    client: &Client,
    once: &'a Once,
    write: impl FnOnce(OpId) -> CatalogueWrite<'a>,
) -> Done {
    let id = once.id_for(client);
    let mut write = write(id);
    if let Some((reason, reference)) = once.note.note() {
        write = write.note(reason, reference);
    }
    let done = client.write_catalogue(&write).await;
    let done = done.map_err(|error| explain_in_doubt(error, id))?;
    println!("done{}", again(done.replay));
    Ok(())
}
