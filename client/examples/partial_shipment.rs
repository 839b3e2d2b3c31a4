//! An order that leaves in two parcels, and of which the rest is taken back.
//!
//! ```text
//! cargo run -p stockd-client --example partial_shipment -- 127.0.0.1:7400
//! ```

use stockd_client::{CellRef, Change, Client, Consistency, Error, Reserve};

const PLATE: CellRef<'static> = CellRef::Name { warehouse: b"BER", sku: b"plate" };
const GLASS: CellRef<'static> = CellRef::Name { warehouse: b"BER", sku: b"glass" };

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the operating system has threads and sockets").block_on(shop(address))
}

async fn shop(address: String) -> Result<(), Error> {
    let client = Client::connect(address).await?;
    for cell in [PLATE, GLASS] {
        client.receive(client.new_op_id(), cell, 12).await?;
    }

    // Line 0: six plates, line 1: six glasses. A business customer: no payment to wait for.
    let id = client.new_id();
    client.reserve(&Reserve::new(id).cell(PLATE, 6).cell(GLASS, 6).commit()).await?;

    // Each parcel is a step. The same step again is the same parcel: a retry ships nothing twice.
    let first = Change::fulfil(id).part(0, 6).part(1, 2).step(1).note(1, b"parcel 4711");
    client.change(&first).await?;
    let again = client.change(&first).await?;
    println!("parcel 1, sent again: replay {}", again.replay);
    client.change(&Change::fulfil(id).part(1, 3).step(2).note(1, b"parcel 4712")).await?;

    // One glass broke on the way to the parcel; the customer does not want another.
    let rest = client.change(&Change::cancel(id).part(1, 1).step(1)).await?;
    println!("the order is {}", rest.state.name());

    if let Some(read) = client.read_lines(id, Consistency::Linearizable).await? {
        for (number, (_, units)) in read.value.lines.iter().enumerate() {
            println!("line {number}: {} shipped, {} cancelled", units.fulfilled, units.cancelled);
        }
    }
    Ok(())
}
