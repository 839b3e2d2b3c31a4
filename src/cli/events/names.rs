//! Names in the place of handles.

use stockd_client::events::{Batch, CellName, Event, Names};
use stockd_client::{Client, Error, Options};

/// Asks the cluster what cells are called, once it comes to that.
pub(super) struct Namer {
    options: Options,
    client: Option<Client>,
    names: Names,
}

impl Namer {
    pub(super) fn new(options: Options) -> Self {
        Self { options, client: None, names: Names::new() }
    }

    /// Learns the names of all cells of a batch.
    ///
    /// # Errors
    /// The cluster cannot be asked; what was learned until then is known.
    pub(super) async fn resolve(&mut self, batch: &Batch) -> Result<(), Error> {
        if batch.is_empty() {
            return Ok(());
        }
        let client = match &mut self.client {
            Some(client) => client,
            none => none.insert(Client::connect(self.options.clone()).await?),
        };
        self.names.resolve(client, batch).await
    }

    /// The names of the cell that an event is about, if it is about one, and they are known.
    pub(super) fn of(&self, event: &Event<'_>) -> Option<CellName<'_>> {
        self.names.get(event.change?.cell)
    }
}
