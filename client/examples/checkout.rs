//! A checkout: hold a cart, take the payment, confirm or release.
//!
//! ```text
//! cargo run -p stockd-client --example checkout -- 127.0.0.1:7400           # the payment is approved
//! cargo run -p stockd-client --example checkout -- 127.0.0.1:7400 declined
//! ```

use std::time::Duration;

use stockd_client::{CellRef, Client, Consistency, Error, Granted, ReservationId, Reserve};

const WAREHOUSE: &str = "BER";
const CART: [(&str, u32); 2] = [("shirt-m-black", 2), ("mug", 1)];

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let approved = arguments.next().is_none_or(|word| word != "declined");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the operating system has threads and sockets").block_on(shop(address, approved))
}

async fn shop(address: String, approved: bool) -> Result<(), Error> {
    let client = Client::connect(address).await?;
    println!("connected to {}", client.connected_to().unwrap_or_default());
    stock_up(&client).await?;

    // One id per cart, kept for every retry: it is what makes "again" safe.
    let id = client.new_id();
    let Some(granted) = hold(&client, id).await? else { return Ok(()) };
    let left_ms = granted.deadline.0.saturating_sub(granted.server_now.0);
    println!("held under {id} for {:.0} s", left_ms as f64 / 1000.0);

    match approved {
        true => pay(&client, id).await?,
        false => {
            let released = client.release(id).await?;
            println!("payment declined; the hold is {}", released.state.name());
        }
    }
    show(&client, id).await
}

/// Ten of each, so that the example has something to sell.
async fn stock_up(client: &Client) -> Result<(), Error> {
    for (sku, _) in CART {
        let received =
            client.receive(client.new_op_id(), CellRef::name(WAREHOUSE, sku), 10).await?;
        println!("{sku}: 10 more, {} available", received.available);
    }
    Ok(())
}

/// Holds the cart; `None` if it cannot be had.
async fn hold(client: &Client, id: ReservationId) -> Result<Option<Granted>, Error> {
    let mut cart = Reserve::new(id).ttl(Duration::from_secs(300));
    for (sku, quantity) in &CART {
        cart = cart.line(WAREHOUSE, *sku, *quantity);
    }
    match client.reserve(&cart).await {
        Ok(granted) => Ok(Some(granted)),
        Err(Error::Refused(refusal)) => {
            for short in &refusal.short {
                let (sku, _) = CART[usize::from(short.line)];
                println!("{sku}: asked for {}, {} left", short.asked, short.available);
            }
            println!("not held: {}", refusal.code);
            Ok(None)
        }
        Err(Error::Unknown(why)) => {
            // Walk away for certain: a release of an unknown id fences it.
            println!("no answer ({why}); giving the cart up");
            client.release(id).await?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// The payment took place; promise the units before the hold ends.
async fn pay(client: &Client, id: ReservationId) -> Result<(), Error> {
    println!("payment approved");
    match client.confirm(id).await {
        Ok(confirmed) => println!("confirmed at index {}", confirmed.index),
        Err(Error::Refused(refusal)) => println!("refund it: {refusal}"),
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn show(client: &Client, id: ReservationId) -> Result<(), Error> {
    if let Some(read) = client.read_reservation(id, Consistency::Linearizable).await? {
        println!("{id} is {}, {} lines", read.value.state.name(), read.value.lines.len());
    }
    for (sku, _) in CART {
        let page = client.read_sku(sku, None, Consistency::Linearizable).await?.value;
        let total = page.total;
        println!(
            "{sku}: on hand {}, reserved {}, committed {}, available {}",
            total.on_hand, total.reserved, total.committed, total.available
        );
    }
    Ok(())
}
