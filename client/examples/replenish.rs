//! Orders more of what runs low: once for each time that it does, whatever crashes meanwhile.
//!
//! ```text
//! cargo run -p stockd-client --example replenish -- orders.cursor 127.0.0.1:7400 127.0.0.1:7410
//!
//! CROSSED_DOWN ─▶ intent with an op_id ─▶ cursor, on disk ─▶ RECEIVE under the op_id ─▶ intent forgotten
//!                                          └─ after a crash: sent again, under the same op_id
//! ```
//!
//! An intent is on disk, together with how far the events were read, before its order is sent; so a crash can only
//! make an order be sent again, and stockd does what has one op_id once. If this program was down for longer than
//! stockd remembers ids, the answer is ID_TOO_OLD: then the order will never be done any more, and an event with its
//! op_id tells whether it was.
//!
//! Set a reorder point, sell below it, and see: `stockd client policy BER mug --reorder-point 10`.

use std::error::Error;

use stockd_client::events::{Cursor, Event, EventBody, EventKind, Subscription};
use stockd_client::{CellHandle, CellRef, Client, Code, Error as CallError, OpId, StockWrite, Why};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let path = arguments.next().unwrap_or_else(|| "orders.cursor".to_owned());
    let mut nodes: Vec<String> = arguments.collect();
    if nodes.is_empty() {
        nodes.push("127.0.0.1:7400".to_owned());
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(replenish(&path, &nodes))
}

/// Follows the crossings of reorder points, from where the cursor is.
pub async fn replenish(path: &str, nodes: &[String]) -> Result<(), Box<dyn Error>> {
    let mut cursor = Cursor::open(path)?;
    let crossings = Subscription::new(nodes).oldest();
    let crossings = crossings.kinds([EventKind::CrossedDown, EventKind::CrossedUp]);
    let mut stream = crossings.resume(&cursor).open().await?;
    cursor.bind(&stream)?;
    let intents = Intent::read_all(cursor.data())?;
    let mut buyer = Buyer { client: Client::connect(nodes).await?, cursor, intents };
    loop {
        buyer.send_all().await?;
        let batch = stream.next().await?;
        for event in &batch {
            buyer.note(&event);
        }
        buyer.save(batch.next())?;
    }
}

/// An order that was decided on, and perhaps sent.
#[derive(Clone, Copy)]
struct Intent {
    op_id: OpId,
    cell: CellHandle,
    units: u32,
    /// The number of the event that asked for it.
    crossing: u64,
}

struct Buyer {
    client: Client,
    cursor: Cursor,
    intents: Vec<Intent>,
}

impl Buyer {
    /// Decides what an event asks for. Nothing is sent before it is saved.
    fn note(&mut self, event: &Event<'_>) {
        let (Some(change), EventBody::Crossed { position, point: Some(point), .. }) =
            (event.change, event.body)
        else {
            return; // A SKU over all its warehouses, or a point that was taken away.
        };
        let (cell, crossing) = (change.cell, event.sequence);
        match event.kind {
            EventKind::CrossedUp => println!("{crossing}: enough of cell {} again", cell.0),
            _ => {
                let units = u32::try_from(2 * point - position).unwrap_or(1).max(1);
                let op_id = self.client.new_op_id();
                self.intents.push(Intent { op_id, cell, units, crossing });
            }
        }
    }

    /// Puts on disk how far the events were read, and the intents with it.
    fn save(&mut self, next: u64) -> Result<(), Box<dyn Error>> {
        let text: String = self.intents.iter().copied().map(Intent::to_line).collect();
        Ok(self.cursor.save_with(next, text.as_bytes())?)
    }

    /// Saves the intents alone.
    fn save_intents(&mut self) -> Result<(), Box<dyn Error>> {
        let next = self.cursor.position().ok_or("a cursor that is bound has a position")?;
        self.save(next)
    }

    /// Sends what is on disk, until nothing is left of it.
    async fn send_all(&mut self) -> Result<(), Box<dyn Error>> {
        while let Some(intent) = self.intents.first().copied() {
            let reference = format!("crossing {}", intent.crossing);
            let order =
                StockWrite::receive(intent.op_id, CellRef::Handle(intent.cell), intent.units);
            match self.client.write(&order.note(0, reference.as_bytes())).await {
                // A replay is as good: it was done before a crash.
                Ok(written) => {
                    let again = if written.replay { ", before" } else { "" };
                    println!("{}: ordered {}{again}", intent.crossing, intent.units);
                }
                Err(error) if is_too_old(&error) => {
                    if !self.was_done(&intent).await? {
                        // It will never be done under this id: it is safe to take another, once that is on disk.
                        self.intents[0].op_id = self.client.new_op_id();
                        self.save_intents()?;
                        continue;
                    }
                }
                // Perhaps it was done, perhaps not: the same id again.
                Err(CallError::Retry(_) | CallError::Unknown(_)) => continue,
                Err(error) => return Err(error.into()),
            }
            self.intents.remove(0);
            self.save_intents()?;
        }
        Ok(())
    }

    /// Whether an order was done whose id is forgotten: then an event behind its crossing has the id. The node that
    /// has just called it too old has had an hour and more to write that event.
    async fn was_done(&self, intent: &Intent) -> Result<bool, Box<dyn Error>> {
        let node = self.client.connected_to().ok_or("the node has gone; start again")?;
        let orders = Subscription::new(node).kind(EventKind::Received);
        let mut stream = orders.from_sequence(intent.crossing).open().await?;
        let end = stream.position() + stream.lag();
        while stream.position() < end {
            let batch = stream.next().await?;
            if batch.events().any(|event| event.id.is_some_and(|id| id.0 == intent.op_id.0)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_too_old(error: &CallError) -> bool {
    match error {
        CallError::Refused(refusal) => refusal.code == Code::ID_TOO_OLD,
        // An attempt before went unanswered.
        CallError::Unknown(Why::Code { code, .. }) => *code == Code::ID_TOO_OLD,
        _ => false,
    }
}

impl Intent {
    fn to_line(self) -> String {
        format!("{} {} {} {}\n", self.op_id, self.cell.0, self.units, self.crossing)
    }

    fn read_all(data: &[u8]) -> Result<Vec<Self>, Box<dyn Error>> {
        std::str::from_utf8(data)?.lines().map(Self::read).collect()
    }

    fn read(line: &str) -> Result<Self, Box<dyn Error>> {
        let mut words = line.split(' ');
        let mut word = || words.next().ok_or("an intent has four words");
        let (op_id, cell) = (word()?.parse()?, CellHandle(word()?.parse()?));
        Ok(Self { op_id, cell, units: word()?.parse()?, crossing: word()?.parse()? })
    }
}
