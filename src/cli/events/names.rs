//! Names in the place of handles.

use std::time::Duration;

use stockd_client::events::{Batch, CellName, Event, Names};
use stockd_client::{Client, Error, Options};

/// Between two questions for names that nobody has answered.
pub(super) const RETRY: Duration = Duration::from_millis(100);

/// Asks the cluster what cells are called.
pub(super) struct Namer {
    client: Client,
    names: Names,
}

impl Namer {
    /// Connects at once: who names one node learns of no other when that is gone.
    ///
    /// # Errors
    /// No node is there.
    pub(super) async fn connect(options: Options) -> Result<Self, Error> {
        Ok(Self { client: Client::connect(options).await?, names: Names::new() })
    }

    /// Learns the names of all cells of a batch.
    ///
    /// # Errors
    /// The cluster cannot be asked; what was learned until then is known.
    pub(super) async fn resolve(&mut self, batch: &Batch) -> Result<(), Error> {
        self.names.resolve(&self.client, batch).await
    }

    /// The names of the cell that an event is about, if it is about one, and they are known.
    pub(super) fn of(&self, event: &Event<'_>) -> Option<CellName<'_>> {
        self.names.get(event.change?.cell)
    }
}
