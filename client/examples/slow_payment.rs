//! A checkout whose payment takes days: the hold is pinned until the bank answers.
//!
//! ```text
//! cargo run -p stockd-client --example slow_payment -- 127.0.0.1:7400            # the money arrives
//! cargo run -p stockd-client --example slow_payment -- 127.0.0.1:7400 declined
//! ```

use std::time::Duration;

use stockd_client::{CellRef, Change, Client, Consistency, Error, ReservationId, Reserve};

const POSTER: CellRef<'static> = CellRef::Name { warehouse: b"BER", sku: b"poster" };

fn main() -> Result<(), Error> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:7400".to_owned());
    let arrives = arguments.next().is_none_or(|word| word != "declined");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("the operating system has threads and sockets").block_on(shop(address, arrives))
}

async fn shop(address: String, arrives: bool) -> Result<(), Error> {
    let client = Client::connect(address).await?;
    client.receive(client.new_op_id(), POSTER, 5).await?;

    // Ten minutes to fill in a form.
    let id = client.new_id();
    let cart = Reserve::new(id).cell(POSTER, 2).ttl(Duration::from_secs(600));
    let granted = client.reserve(&cart).await?;
    println!("held under {id} until {}", granted.deadline.0);

    // The buyer chose a bank transfer: that takes days, and no ttl is that long. A pin keeps the hold for
    // as long as it takes; doing it twice does no harm.
    let pinned = client.pin(id, Duration::from_secs(3 * 24 * 3_600)).await?;
    println!("pinned until {}", pinned.deadline.0);

    match arrives {
        true => pay(&client, id).await?,
        // A pin is no promise: the units go back like those of any other hold.
        false => {
            let released = client.release(id).await?;
            println!("not paid; the hold is {}", released.state.name());
        }
    }
    show(&client).await
}

/// The money is there, perhaps later than the pin lasted: then the units are taken again if they are
/// still there. Answered or not, the same confirm may be sent again: it promises them once.
async fn pay(client: &Client, id: ReservationId) -> Result<(), Error> {
    match client.change(&Change::confirm(id).reacquire()).await {
        Ok(confirmed) if confirmed.reacquired => println!("paid late; taken again"),
        Ok(confirmed) => println!("paid; the hold is {}", confirmed.state.name()),
        Err(Error::Refused(refusal)) => println!("paid too late, pay it back: {refusal}"),
        Err(error) => return Err(error),
    }
    Ok(())
}

async fn show(client: &Client) -> Result<(), Error> {
    if let Some(cell) = client.read_cell(POSTER, Consistency::Linearizable).await?.value {
        println!("{:?}", cell.counters);
    }
    Ok(())
}
