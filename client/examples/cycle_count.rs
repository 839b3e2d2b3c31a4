//! Counting a shelf while it is sold from: what leaves during the count is not taken for missing.
//!
//! ```text
//! cargo run -p stockd-client --example cycle_count -- 127.0.0.1:7400
//! ```

use stockd_client::{CellRef, Change, Client, Code, Error, Reserve, StockWrite};

const SOAP: CellRef<'static> = CellRef::Name { warehouse: b"BER", sku: b"soap" };

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the operating system has threads and sockets").block_on(shop(address))
}

async fn shop(address: String) -> Result<(), Error> {
    let client = Client::connect(address).await?;
    let before = client.receive(client.new_op_id(), SOAP, 20).await?.on_hand;
    println!("{before} on the books");

    // The token of the count is the id of the write that begins it.
    let token = client.new_op_id();
    client.write(&StockWrite::begin_count(token, SOAP)).await?;

    // While somebody counts, three are sold and leave.
    let id = client.new_id();
    client.reserve(&Reserve::new(id).cell(SOAP, 3).commit()).await?;
    client.change(&Change::fulfil(id)).await?;

    // There was one less on the shelf than on the books when the count began.
    let counted = StockWrite::commit_count(client.new_op_id(), token, before - 1);
    match client.write(&counted.note(9, b"shelf 3")).await {
        Ok(written) => println!("{} on the books now: 3 sold, 1 missing", written.on_hand),
        // Somebody else said how many there are, so this count is void: count again.
        Err(Error::Refused(refusal)) if refusal.code == Code::STALE_EXPECTED => {
            println!("counted in vain: {refusal}");
        }
        Err(error) => return Err(error),
    }
    Ok(())
}
