//! What each node tells at the end of a run, as a subscriber would read it: from its oldest event to its last.

use stockd::events::ReadError;
use stockd::protocol::event::Counts;
use stockd::replication::Replica;
use stockd_check::Stream;
use stockd_protocol::CellHandle;

/// Bytes of one read.
const CHUNK_BYTES: usize = 64 << 10;

/// What a node has told, and what is in its cells.
pub struct Told {
    name: String,
    /// Records that follow each other; between two of these a snapshot was installed.
    parts: Vec<Vec<u8>>,
    cells: Vec<Counts>,
}

/// All that is applied on a node can be read.
pub fn is_readable(replica: &Replica) -> bool {
    let next = replica.with_state(|stock| stock.next_event());
    replica.events().is_some_and(|events| events.position().next == next)
}

impl Told {
    /// Reads a node's events. One whose disk is rotten may say that it cannot, from some event on, and has told nothing
    /// wrong by then.
    ///
    /// # Errors
    /// It cannot read them itself.
    pub fn read(name: String, replica: &Replica, is_rotten: bool) -> Result<Self, String> {
        let events = replica.events().expect("every node of a simulation keeps events");
        let (mut from, next) = (events.oldest(), replica.with_state(|stock| stock.next_event()));
        let mut parts = vec![Vec::new()];
        while from < next {
            match events.read(from, CHUNK_BYTES) {
                Ok(chunk) => {
                    let part = parts.last_mut().expect("there is always one");
                    part.extend_from_slice(&chunk.bytes);
                    from = chunk.next;
                }
                Err(ReadError::Gone { oldest }) if oldest > from => {
                    parts.push(Vec::new());
                    from = oldest;
                }
                Err(ReadError::Damaged { .. }) if is_rotten => {
                    parts.push(Vec::new());
                    break;
                }
                Err(error) => return Err(format!("{name}: event {from}: {error}")),
            }
        }
        let cells = replica.cells();
        let counts = |cell| cells.details(CellHandle(cell)).map(|details| Counts::from(&details));
        let cells = (0..cells.count()).map_while(counts).collect();
        Ok(Self { name, parts, cells })
    }

    /// Holds it against what the log makes, and against the node's own state.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn judge(&self, stream: &mut Stream) -> Result<(), String> {
        let mut teller = stream.teller(&self.name);
        // The first part, too, begins somewhere; and after the last one, which is empty, come events that are lost.
        for part in &self.parts {
            teller.skip();
            teller.take_all(part)?;
        }
        teller.compare(|cell| self.cells.get(cell.0 as usize).copied())
    }
}
