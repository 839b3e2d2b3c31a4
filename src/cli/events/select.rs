//! Which events, and from which cluster: options that both commands have.

use std::time::Duration;

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use stockd_client::Options;
use stockd_client::events::{Error, EventKind, EventStream, Start, Subscription};

use super::super::client::CLIENT_ADDRESS;
use super::members::add_members;
use super::names::Namer;

#[derive(Args)]
pub(super) struct Select {
    /// A node of the cluster, which tells the others; may be given several times: when one is lost, the next one is
    /// followed.
    #[arg(long = "node", value_name = "ADDR", default_value = CLIENT_ADDRESS)]
    nodes: Vec<String>,
    /// Only nodes of this cluster, as its status and a file of events name it.
    #[arg(long, value_name = "ID", value_parser = parse_cluster)]
    cluster: Option<u64>,
    /// Only events of this kind; may be given several times.
    #[arg(long = "kind", value_name = "KIND", ignore_case = true, value_parser = kinds())]
    kinds: Vec<EventKind>,
    /// Only events of this warehouse's cells. With several of these three, events that one of them names.
    #[arg(long = "warehouse", value_name = "NAME")]
    warehouses: Vec<String>,
    /// Only events of this SKU, by its own name, and of its cells.
    #[arg(long = "sku", value_name = "NAME")]
    skus: Vec<String>,
    /// Only events of this cell.
    #[arg(long = "cell", num_args = 2, value_names = ["WAREHOUSE", "SKU"])]
    cells: Vec<String>,
}

fn parse_cluster(text: &str) -> Result<u64, String> {
    let wrong = |_| "write a cluster's id: hexadecimal digits, as in 865762dca3d564a1".to_owned();
    u64::from_str_radix(text, 16).map_err(wrong)
}

fn kinds() -> impl TypedValueParser<Value = EventKind> {
    let names = EventKind::ALL.iter().map(|kind| kind.name());
    PossibleValuesParser::new(names)
        .map(|name| EventKind::from_name(&name).expect("the parser takes names of kinds alone"))
}

impl Select {
    /// Begins to follow, and knows whom to ask for names. `patience`: how long a cluster may be away.
    ///
    /// # Errors
    /// No node sends these events; the text says why.
    pub(super) async fn open(
        &self,
        client_name: &str,
        patience: Duration,
        start: Start,
    ) -> Result<(EventStream, Namer), String> {
        let named = Options::new(&self.nodes);
        let client_name = client_name.to_owned();
        let mut options = Options { client_name, request_timeout: patience, ..named };
        add_members(&mut options).await;
        let subscription = self.subscription(&options);
        let stream = match subscription.clone().from(start).open().await {
            // It may have been the moment of an event that is missing. What there is begins behind it.
            Err(Error::Gone { start: Start::Time(_), next: Some(next) }) => {
                crate::cli::say!(
                    "stockd: events before {next} are nowhere any more; this begins with it"
                );
                subscription.from_sequence(next).open().await
            }
            opened => opened,
        };
        let stream = stream.map_err(|error| match error {
            Error::Unreachable { .. } | Error::WrongCluster { .. } => {
                format!("{error}; is --node right?")
            }
            error => error.to_string(),
        })?;
        if start == Start::Oldest && stream.position() > 1 {
            let node = stream.connected_to().unwrap_or_default();
            crate::cli::say!("stockd: the oldest event on {node} is {}", stream.position());
        }
        let namer = Namer::connect(options).await;
        let namer = namer.map_err(|error| format!("names of cells are not to be had: {error}"))?;
        Ok((stream, namer))
    }

    fn subscription(&self, options: &Options) -> Subscription {
        let all = Subscription::new(options.clone()).kinds(self.kinds.iter().copied());
        let all = self.warehouses.iter().fold(all, |all, name| all.warehouse(name.as_str()));
        let all = self.skus.iter().fold(all, |all, name| all.sku(name.as_str()));
        let all = self.cluster.into_iter().fold(all, Subscription::of_cluster);
        // Two names each: the parser sees to it.
        self.cells.chunks_exact(2).fold(all, |all, names| all.cell(&*names[0], &*names[1]))
    }
}
