//! Which events, and from which cluster: options that both commands have.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use stockd_client::Options;
use stockd_client::events::{EventKind, Subscription};

use super::super::client::CLIENT_ADDRESS;

#[derive(Args)]
pub(super) struct Select {
    /// A node of the cluster; may be given several times: when one is lost, the next one is followed.
    #[arg(long = "node", value_name = "ADDR", default_value = CLIENT_ADDRESS)]
    nodes: Vec<String>,
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

fn kinds() -> impl TypedValueParser<Value = EventKind> {
    let names = EventKind::ALL.iter().map(|kind| kind.name());
    PossibleValuesParser::new(names)
        .map(|name| EventKind::from_name(&name).expect("the parser takes names of kinds alone"))
}

impl Select {
    pub(super) fn options(&self, client_name: &str) -> Options {
        Options { client_name: client_name.to_owned(), ..Options::new(&self.nodes) }
    }

    pub(super) fn subscription(&self, options: &Options) -> Subscription {
        let all = Subscription::new(options.clone()).kinds(self.kinds.iter().copied());
        let all = self.warehouses.iter().fold(all, |all, name| all.warehouse(name.as_str()));
        let all = self.skus.iter().fold(all, |all, name| all.sku(name.as_str()));
        // Two names each: the parser sees to it.
        self.cells.chunks_exact(2).fold(all, |all, names| all.cell(&*names[0], &*names[1]))
    }
}
