//! Units go from one warehouse to another; some break, some come back.
//!
//! ```text
//! cargo run -p stockd-client --example transfer -- 127.0.0.1:7400
//! ```

use stockd_client::{CellRef, Client, Consistency, Error, Shipment};

const BERLIN: CellRef<'static> = CellRef::Name { warehouse: b"BER", sku: b"vase" };
const HAMBURG: CellRef<'static> = CellRef::Name { warehouse: b"HAM", sku: b"vase" };

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the operating system has threads and sockets").block_on(shop(address))
}

async fn shop(address: String) -> Result<(), Error> {
    let client = Client::connect(address).await?;
    client.receive(client.new_op_id(), BERLIN, 10).await?;

    // Ten leave Berlin. They are in transit: on nobody's shelf, and nobody's to sell. The id of the ship
    // names the transfer: write it down before it is sent, for a retry as for what follows.
    let transfer = client.new_op_id();
    client.transfer(&Shipment::ship(transfer, BERLIN, HAMBURG, 10)).await?;
    show(&client, "shipped").await?;

    // Hamburg finds seven in good order and one broken. Each delivery has an id of its own; a retry under
    // it counts nothing twice.
    let delivery = Shipment::receive(client.new_op_id(), transfer, 7, 1);
    client.transfer(&delivery).await?;
    let landed = client.transfer(&delivery).await?;
    println!("the delivery, sent again: replay {}", landed.replay);
    println!("{} still on the way", landed.transfer.map_or(0, |transfer| transfer.rest()));
    show(&client, "landed").await?;

    // The other two turn up in Berlin: they never left. (Had they been lost: Shipment::close.)
    let ended = client.transfer(&Shipment::recall(transfer)).await?;
    println!("the transfer is {}", ended.state.map_or("forgotten", |state| state.name()));
    show(&client, "recalled").await
}

async fn show(client: &Client, when: &str) -> Result<(), Error> {
    let read = client.read_details(&[BERLIN, HAMBURG], Consistency::Linearizable).await?;
    for (name, cell) in ["BER", "HAM"].iter().zip(read.value) {
        let Some(cell) = cell else { continue };
        let details = cell.details;
        let [damaged, ..] = details.blocked;
        println!(
            "{when}: {name} has {} on hand, {damaged} of them damaged; {} on the way to it",
            details.counters.on_hand, details.in_transit
        );
    }
    Ok(())
}
