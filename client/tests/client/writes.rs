//! Stock writes, transfers and changes of reservations: what is sent, what is understood, and what is never
//! sent.

use std::time::Duration;

use bytes::{BufMut, BytesMut};
use stockd_client::{
    Amend, Batch, Bucket, CellHandle, CellRef, Change, Client, Code, Consistency, Error, Invalid,
    LineMode, OpError, OpId, Outcome, PolicyChange, Prolong, Refusal, ReservationState, Reserve,
    ReserveFrom, Shipment, StockWrite, Transfer, TransferState, UnixMillis,
};
use stockd_protocol::{
    CellDetails, Filter, Frame, Kind, LineShares, ListHead, ListedCell, Listing, Note, Op, OpFlags,
    Opcode, Reader, Terms, take_op_and_terms,
};
use tokio::join;

use super::fake::{self, INDEX, NOW, outcome, replies, reply};
use super::{against, connected, id};

const MUG: CellRef<'static> = CellRef::Name { warehouse: b"BER", sku: b"mug" };

fn op_id(n: u8) -> OpId {
    OpId([n; 16])
}

/// The operation of the first frame that `call` sends, which `check` looks at.
async fn sent(call: impl AsyncFnOnce(&Client), check: impl FnOnce(Op<'_>, Terms<'_>)) {
    let (client, _node, mut peer) = connected().await;
    let script = async {
        let frame = peer.expect().await;
        assert_eq!(frame.header.kind, Kind::Op);
        let (op, terms) = take_op_and_terms(&mut Reader::new(&frame.body)).unwrap();
        check(op, terms);
        peer.send(reply(&frame, Code::NOT_FOUND, 0, |_| ())).await;
    };
    join!(call(&client), script);
}

/// The refusal that `call` gives when the node answers with `code` and `body`.
async fn refused<T: std::fmt::Debug>(
    (code, detail): (Code, u16),
    body: impl Fn(&mut BytesMut),
    call: impl AsyncFnOnce(Client) -> Result<T, Error>,
) -> Refusal {
    let answer = |frame: &Frame| Some(reply(frame, code, detail, &body));
    let error = against(answer, call).await.unwrap_err();
    let refusal = error.refusal().unwrap_or_else(|| panic!("a refusal, not {error:?}"));
    assert_eq!(refusal.code, code);
    refusal.clone()
}

#[tokio::test]
async fn a_stock_write_carries_its_terms_and_makes_the_cell_it_names() {
    let write = StockWrite::adjust(op_id(1), MUG, -2)
        .truth()
        .note(7, b"INC-12")
        .not_after(UnixMillis(9))
        .retry();
    let call = async |client: &Client| drop(client.write(&write).await);
    sent(call, |op, terms| {
        assert_eq!(op, Op::Adjust { op_id: op_id(1), delta: -2, cell: MUG });
        let note = terms.note.unwrap();
        assert_eq!((note.reason, note.reference), (7, b"INC-12".as_slice()));
        assert_eq!(terms.not_after, Some(UnixMillis(9)));
        // RETRY 1, DEFINE 8, TRUTH 128, beside those of the terms: NOT_AFTER 2, NOTE 64.
        assert_eq!(terms.flags.0 & (1 | 8 | 128), 1 | 8 | 128);
    })
    .await;
    let by_handle = CellRef::Handle(CellHandle(3));
    let write = StockWrite::set(op_id(1), by_handle, 5, 4);
    let call = async |client: &Client| drop(client.write(&write).await);
    sent(call, |op, terms| {
        assert_eq!(op.opcode(), Opcode::Set);
        assert_eq!(terms, Terms::default(), "a handle makes no cell");
    })
    .await;
}

#[tokio::test]
async fn a_receive_may_carry_terms_and_without_them_is_the_short_one() {
    let note = Note { reason: 2, reference: b"PO-77" };
    let receive = StockWrite::receive(op_id(1), MUG, 5);
    let full = receive.note(note.reason, note.reference).not_after(UnixMillis(9)).retry();
    let op = Op::Receive { op_id: op_id(1), quantity: 5, cell: MUG };
    let call = async |client: &Client| drop(client.write(&full).await);
    sent(call, |sent, terms| {
        assert_eq!((sent, terms.note, terms.not_after), (op, Some(note), Some(UnixMillis(9))));
        assert!(terms.flags.contains(OpFlags::RETRY.with(OpFlags::DEFINE)));
    })
    .await;
    let only_defines = |sent: Op<'_>, terms: Terms<'_>| {
        assert_eq!((sent, terms.note, terms.not_after), (op, None, None));
        assert_eq!(terms.flags, OpFlags::DEFINE.with(OpFlags::NAMES));
    };
    sent(async |client| drop(client.write(&receive).await), only_defines).await;
    sent(async |client| drop(client.receive(op_id(1), MUG, 5).await), only_defines).await;
    let by_handle = CellRef::Handle(CellHandle(3));
    sent(
        async |client| drop(client.receive(op_id(1), by_handle, 5).await),
        |_, terms| assert_eq!(terms, Terms::default(), "a handle makes no cell"),
    )
    .await;
}

#[tokio::test]
async fn more_time_may_carry_terms_and_without_them_is_the_short_one() {
    let note = Note { reason: 2, reference: b"bank" };
    let (minute, ttl_ms) = (Duration::from_secs(60), 60_000);
    let extend = (Prolong::extend(id(1), minute), Op::Extend { id: id(1), ttl_ms });
    let pin = (Prolong::pin(id(1), minute), Op::Pin { id: id(1), ttl_ms });
    for (prolong, op) in [extend, pin] {
        let full = prolong.note(note.reason, note.reference).not_after(UnixMillis(9)).retry();
        let call = async |client: &Client| drop(client.prolong(&full).await);
        sent(call, |sent, terms| {
            assert_eq!((sent, terms.note, terms.not_after), (op, Some(note), Some(UnixMillis(9))));
            assert!(terms.flags.contains(OpFlags::RETRY));
        })
        .await;
    }
    let plain = |op: Op<'static>| {
        move |sent: Op<'_>, terms: Terms<'_>| assert_eq!((sent, terms), (op, Terms::default()))
    };
    sent(async |client| drop(client.extend(id(1), minute).await), plain(extend.1)).await;
    sent(async |client| drop(client.pin(id(1), minute).await), plain(pin.1)).await;
    let noted = pin.0.note(0, &[b'x'; 65]);
    assert_eq!(Batch::new().prolong(&noted), Err(Invalid::Op(OpError::ReferenceLength(65))));
    assert_eq!(Batch::new().prolong(&extend.0), Ok(()));
}

#[tokio::test]
async fn a_reserve_carries_its_terms() {
    let cart = Reserve::new(id(1)).cell(MUG, 2).note(7, b"ORD-9").not_after(UnixMillis(9)).commit();
    let call = async |client: &Client| drop(client.reserve(&cart).await);
    sent(call, |op, terms| {
        assert_eq!(op.opcode(), Opcode::Reserve);
        let note = terms.note.unwrap();
        assert_eq!((note.reason, note.reference), (7, b"ORD-9".as_slice()));
        assert_eq!(terms.not_after, Some(UnixMillis(9)));
        assert!(terms.flags.contains(OpFlags::COMMIT));
        assert!(!terms.flags.contains(OpFlags::RETRY));
    })
    .await;
}

#[tokio::test]
async fn parts_are_sent_in_the_order_of_lines_whatever_order_they_were_named_in() {
    let change = Change::fulfil(id(2)).part(3, 1).part(0, 2).step(1).ship();
    let call = async |client: &Client| drop(client.change(&change).await);
    sent(call, |op, terms| {
        let Op::Fulfil { id: sent, parts } = op else { panic!("a fulfil, not {op:?}") };
        let lines: Vec<_> = parts.iter().map(|part| (part.line, part.quantity)).collect();
        assert_eq!((sent, lines), (id(2), vec![(0, 2), (3, 1)]));
        assert_eq!(terms.flags.0, 128, "SHIP");
    })
    .await;
}

#[tokio::test]
async fn what_a_server_would_not_take_is_not_sent() {
    let (client, _node, mut peer) = connected().await;
    let invalid = async |write: StockWrite<'_>| client.write(&write).await.unwrap_err();
    let op = |error| Error::Invalid(Invalid::Op(error));
    let long = [b'x'; 65];

    assert_eq!(invalid(StockWrite::receive(op_id(1), MUG, 0)).await, op(OpError::ZeroQuantity));
    assert_eq!(invalid(StockWrite::adjust(op_id(1), MUG, 0)).await, op(OpError::ZeroQuantity));
    assert_eq!(invalid(StockWrite::adjust(op_id(1), MUG, i64::MAX)).await, op(OpError::Range));
    assert_eq!(invalid(StockWrite::feed(op_id(1), MUG, 1, 0)).await, op(OpError::Range));
    let noted = StockWrite::adjust(op_id(1), MUG, 1).note(0, &long);
    assert_eq!(invalid(noted).await, op(OpError::ReferenceLength(65)));
    let cart = Reserve::new(id(1)).cell(MUG, 1).note(0, &long);
    assert_eq!(client.reserve(&cart).await.unwrap_err(), op(OpError::ReferenceLength(65)));
    let nothing = StockWrite::policy(op_id(1), MUG, PolicyChange::default());
    assert_eq!(invalid(nothing).await, op(OpError::Range));

    let change = async |change: Change<'_>| client.change(&change).await.unwrap_err();
    assert_eq!(change(Change::confirm(id(1)).part(0, 1)).await, op(OpError::Step));
    assert_eq!(change(Change::release(id(1)).part(0, 0).step(1)).await, op(OpError::ZeroQuantity));
    let twice = Change::release(id(1)).part(0, 1).part(0, 2).step(1);
    assert_eq!(change(twice).await, op(OpError::Parts));

    let amend = async |amend: Amend<'_>| client.amend(&amend).await.unwrap_err();
    assert_eq!(amend(Amend::new(id(1), 1)).await, op(OpError::Count(0)));
    assert_eq!(amend(Amend::new(id(1), 0).cell(MUG, 1)).await, op(OpError::Step));
    let mixed = Amend::new(id(1), 1).cell(MUG, 1).cell(CellRef::Handle(CellHandle(1)), 1);
    assert_eq!(amend(mixed).await, Error::Invalid(Invalid::MixedCells));

    // Had anything been sent, it would come before this.
    let ping = async { client.ping().await };
    let script = async {
        let frame = peer.expect().await;
        assert!(fake::is(&frame, Opcode::Ping));
        peer.send(reply(&frame, Code::OK, 0, |_| ())).await;
    };
    join!(ping, script).0.unwrap();
}

#[test]
fn a_modifier_goes_with_an_operation_that_it_says_something_to_or_is_not_sent() {
    let wrong = |modifier, with| Err(Invalid::Modifier { modifier, with });
    let (one, sellable, other) = (op_id(1), Bucket::Sellable, Bucket::Other);
    let frozen = PolicyChange { frozen: Some(true), ..PolicyChange::default() };
    let truth = |with| wrong("truth", with);
    for (write, expected) in [
        (StockWrite::receive(one, MUG, 1), truth("RECEIVE")),
        (StockWrite::adjust(one, MUG, -1), Ok(())),
        (StockWrite::set(one, MUG, 2, 1), truth("SET")),
        (StockWrite::feed(one, MUG, 2, 1), truth("SET")),
        (StockWrite::begin_count(one, MUG), truth("COUNT_BEGIN")),
        (StockWrite::commit_count(one, op_id(2), 1), truth("COUNT_COMMIT")),
        (StockWrite::shelve(one, MUG, sellable, other, 1), Ok(())),
        (StockWrite::announce(one, MUG, 1), truth("ANNOUNCE")),
        (StockWrite::arrive(one, MUG, 1, sellable), truth("ARRIVE")),
        (StockWrite::take_back(one, MUG, 1, sellable), truth("RETURN")),
        (StockWrite::policy(one, MUG, frozen), truth("SET_POLICY")),
    ] {
        assert_eq!(Batch::new().write(&write), Ok(()));
        assert_eq!(Batch::new().write(&write.truth()), expected, "{write:?}");
    }
    let to = CellRef::name("HAM", "mug");
    for (shipment, expected) in [
        (Shipment::ship(one, MUG, to, 1), Ok(())),
        (Shipment::receive(one, op_id(2), 1, 0), truth("TRANSFER_RECEIVE")),
        (Shipment::close(one), truth("TRANSFER_CLOSE")),
        (Shipment::recall(one), truth("TRANSFER_CANCEL")),
    ] {
        assert_eq!(Batch::new().transfer(&shipment), Ok(()));
        assert_eq!(Batch::new().transfer(&shipment.truth()), expected, "{shipment:?}");
    }
    // With nothing, with ship, with reacquire, with both.
    let (ship, reacquire) = (|with| wrong("ship", with), |with| wrong("reacquire", with));
    let bare = reacquire("FULFIL without ship");
    for (change, expected) in [
        (Change::confirm(id(1)), [Ok(()), ship("CONFIRM"), Ok(()), ship("CONFIRM")]),
        (Change::release(id(1)), [Ok(()), ship("RELEASE"), reacquire("RELEASE"), ship("RELEASE")]),
        (Change::cancel(id(1)), [Ok(()), ship("CANCEL"), reacquire("CANCEL"), ship("CANCEL")]),
        (Change::fulfil(id(1)), [Ok(()), Ok(()), bare, Ok(())]),
    ] {
        for change in [change.clone(), change.clone().part(0, 1).step(1)] {
            let with = |change: &Change<'_>| Batch::new().change(change);
            let (ship, reacquire) = (change.clone().ship(), change.clone().reacquire());
            let both = ship.clone().reacquire();
            assert_eq!([change, ship, reacquire, both].each_ref().map(with), expected);
        }
        let step = Batch::new().change(&change.step(1));
        assert_eq!(step, wrong("step", "a change of the whole"));
    }
    // Whichever comes first.
    let cart = ReserveFrom::new(id(1)).line(1, [MUG]);
    let both = [
        cart.clone().some_lines().up_to(2, 0, [MUG]),
        cart.clone().up_to(2, 0, [MUG]).some_lines(),
    ];
    for cart in both {
        assert_eq!(Batch::new().reserve_from(&cart), wrong("some_lines", "up_to"));
    }
    assert_eq!(Batch::new().reserve_from(&cart.some_lines()), Ok(()));
    let said = Error::from(Invalid::Modifier { modifier: "truth", with: "SET" }).to_string();
    assert_eq!(said, "not sent: truth does not go with SET");
}

#[tokio::test]
async fn a_line_that_takes_less_makes_all_lines_do() {
    let cart = ReserveFrom::new(id(1)).line(3, [MUG]).up_to(2, 1, [MUG]);
    let call = async |client: &Client| drop(client.reserve_from(&cart).await);
    sent(call, |op, _| {
        let Op::ReserveFrom { wishes, .. } = op else { panic!("a reserve from, not {op:?}") };
        let lines: Vec<_> = wishes.iter().map(|wish| (wish.quantity, wish.min_quantity)).collect();
        assert_eq!((wishes.rules().mode, lines), (LineMode::UpTo, vec![(3, 0), (2, 1)]));
    })
    .await;
}

#[tokio::test]
async fn what_a_write_has_done_is_understood() {
    let answer = |frame: &Frame| {
        Some(reply(frame, Code::REPLAY, 0, |out| {
            out.put_u32_le(7);
            out.put_i64_le(10);
            out.put_i64_le(-3);
        }))
    };
    let taken_back = StockWrite::take_back(op_id(1), MUG, 1, Bucket::Damaged);
    for write in [taken_back, StockWrite::receive(op_id(1), MUG, 1)] {
        let written = against(answer, async |client| client.write(&write).await).await.unwrap();
        assert_eq!((written.handle, written.on_hand, written.available), (CellHandle(7), 10, -3));
        assert_eq!((written.index, written.replay), (INDEX, true));
    }
}

#[tokio::test]
async fn a_transfer_is_shown_as_it_stands() {
    let stands =
        Transfer { from: CellHandle(1), to: CellHandle(2), shipped: 9, received: 4, damaged: 2 };
    let answer = |frame: &Frame| {
        Some(reply(frame, Code::OK, TransferState::Open as u16, |out| stands.encode(out)))
    };
    let receive = Shipment::receive(op_id(2), op_id(1), 4, 2);
    let found = against(answer, async |client| client.transfer(&receive).await).await.unwrap();
    assert_eq!((found.state, found.transfer), (Some(TransferState::Open), Some(stands)));
    assert_eq!(stands.rest(), 3);
    // A receipt is remembered for longer than its transfer.
    let answer = |frame: &Frame| Some(reply(frame, Code::REPLAY, 0, |_| ()));
    let found = against(answer, async |client| client.transfer(&receive).await).await.unwrap();
    assert_eq!((found.state, found.transfer, found.replay), (None, None, true));
}

#[tokio::test]
async fn refusals_say_what_is_so_instead() {
    let set = StockWrite::set(op_id(1), MUG, 5, 4);
    let number = |value: i64| move |out: &mut BytesMut| out.put_i64_le(value);
    let write = async |client: Client| client.write(&set).await;
    let refusal = refused((Code::STALE_EXPECTED, 0), number(-6), write).await;
    assert_eq!(refusal.value, Some(-6));
    let write = async |client: Client| client.write(&set).await;
    let refusal = refused((Code::STALE_FEED, 0), number(17), write).await;
    assert_eq!(refusal.value, Some(17));

    let close = Shipment::close(op_id(1));
    let conflict = (Code::CONFLICT, TransferState::Cancelled as u16);
    let transfer = async |client: Client| client.transfer(&close).await;
    let refusal = refused(conflict, |_| (), transfer).await;
    assert_eq!((refusal.transfer, refusal.state), (Some(TransferState::Cancelled), None));

    let cancel = Change::cancel(id(1)).part(0, 9).part(4, 9).step(1);
    let lines = |out: &mut BytesMut| [0, 4].iter().for_each(|line| out.put_u16_le(*line));
    let change = async |client: Client| client.change(&cancel).await;
    let refusal = refused((Code::QTY_EXCEEDS, 0), lines, change).await;
    assert_eq!(refusal.lines, [0, 4]);
    let not_yet = (Code::NOT_CONFIRMED, ReservationState::Active as u16);
    let change = async |client: Client| client.change(&cancel).await;
    let refusal = refused(not_yet, |_| (), change).await;
    assert_eq!(refusal.state, Some(ReservationState::Active));
}

#[tokio::test]
async fn an_expired_hold_that_was_taken_again_says_so() {
    let confirmed = ReservationState::Confirmed as u16;
    let answer = |frame: &Frame| Some(reply(frame, Code::OK_REACQUIRED, confirmed, |_| ()));
    let change = Change::confirm(id(1)).reacquire();
    let changed = against(answer, async |client| client.change(&change).await).await.unwrap();
    assert_eq!((changed.reacquired, changed.late, changed.replay), (true, false, false));
    assert_eq!(changed.state, ReservationState::Confirmed);
}

#[tokio::test]
async fn a_linked_batch_links_all_but_its_last() {
    let (client, _node, mut peer) = connected().await;
    let mut batch = Batch::new();
    batch.write(&StockWrite::adjust(op_id(1), MUG, 1)).unwrap();
    batch.reserve(&Reserve::new(id(1)).cell(MUG, 1).commit()).unwrap();
    batch.change(&Change::release(id(2))).unwrap();
    batch.link_all().unwrap();
    let script = async {
        let frame = peer.expect().await;
        let mut ops = Reader::new(&frame.body);
        assert_eq!(ops.u32().unwrap(), 3);
        let mut flags = Vec::new();
        while !ops.is_empty() {
            flags.push(take_op_and_terms(&mut ops).unwrap().1.flags.0);
        }
        // LINKED 32, NAMES 4; DEFINE 8 for the write, COMMIT 128 for the reserve.
        assert_eq!(flags, [32 | 4 | 8, 32 | 4 | 128, 0]);
        let answer = replies(&frame, Some(3), |out| {
            outcome(out, Code::LINKED_FAILED, 0, |_| ());
            outcome(out, Code::LINKED_FAILED, 0, |_| ());
            outcome(out, Code::HOLD_CONFIRMED, ReservationState::Confirmed as u16, |_| ());
        });
        peer.send(answer).await;
    };
    let (results, ()) = join!(client.batch(batch), script);
    let codes: Vec<_> =
        results.unwrap().iter().map(|result| result.as_ref().unwrap_err().code).collect();
    assert_eq!(codes, [Code::LINKED_FAILED, Code::LINKED_FAILED, Code::HOLD_CONFIRMED]);
}

#[tokio::test]
async fn reads_are_not_linked() {
    let mut batch = Batch::new();
    batch.read_reservation(id(1), Consistency::Stale).unwrap();
    assert_eq!(batch.link_all(), Err(Invalid::MixedBatch));
}

#[tokio::test]
async fn details_and_lines_are_read() {
    let (client, _node, mut peer) = connected().await;
    let details = CellDetails { incoming: 12, short: true, ..CellDetails::default() };
    let cells = [CellRef::Handle(CellHandle(4)), CellRef::Handle(CellHandle(5))];
    let shares = LineShares { reserved: 1, fulfilled: 2, ..LineShares::default() };
    let calls = async {
        let read = client.read_details(&cells, Consistency::Linearizable).await.unwrap();
        let lines = client.read_lines(id(1), Consistency::Linearizable).await.unwrap().unwrap();
        let none = client.read_lines(id(2), Consistency::Linearizable).await.unwrap();
        (read, lines, none)
    };
    let script = async {
        let frame = peer.expect().await;
        let answer = reply(&frame, Code::OK, 0, |out| {
            out.put_u32_le(4);
            out.put_u32_le(1);
            details.encode(out);
            out.put_u32_le(5);
            out.put_u32_le(0);
            CellDetails::default().encode(out);
        });
        peer.send(answer).await;
        let frame = peer.expect().await;
        let answer = reply(&frame, Code::OK, ReservationState::Active as u16, |out| {
            out.put_u64_le(1);
            out.put_u64_le(2);
            out.put_u32_le(1);
            out.put_u32_le(1);
            out.put_u32_le(4);
            shares.encode(out);
        });
        peer.send(answer).await;
        let frame = peer.expect().await;
        peer.send(reply(&frame, Code::NOT_FOUND, 0, |_| ())).await;
    };
    let ((read, lines, none), ()) = join!(calls, script);
    let found: Vec<_> = read.value.iter().map(|cell| cell.map(|cell| cell.details)).collect();
    assert_eq!((found, read.server_now), (vec![Some(details), None], NOW));
    let lines = lines.value;
    assert_eq!((lines.created, lines.deadline), (UnixMillis(1), UnixMillis(2)));
    assert_eq!((lines.pinned, lines.lines), (true, vec![(CellHandle(4), shares)]));
    assert!(none.is_none());
}

#[tokio::test]
async fn a_cell_is_named_by_its_handle() {
    let listed = |frame: &Frame, handle: u32| {
        let (warehouse, sku) = (b"BER".as_slice(), b"mug".as_slice());
        let (handle, details) = (CellHandle(handle), CellDetails::default());
        let cell = ListedCell { handle, warehouse, sku, details };
        reply(frame, Code::OK, 0, |out| {
            out.put_slice(&ListHead { next: Some(8), cells: 1 }.to_bytes());
            cell.encode(out);
        })
    };
    let answer = |frame: &Frame| {
        let (op, terms) = take_op_and_terms(&mut Reader::new(&frame.body)).unwrap();
        let (filter, none) = (Filter::All, b"".as_slice());
        let asked = Listing { from: 7, count: 1, filter, warehouse: none, sku: none };
        assert_eq!((op, terms), (Op::ListCells(asked), Terms::default()));
        Some(listed(frame, 7))
    };
    let name =
        async |client: Client| client.cell_name(CellHandle(7), Consistency::Linearizable).await;
    let read = against(answer, name).await.unwrap().unwrap();
    assert_eq!((read.value.warehouse, read.value.sku), (b"BER".to_vec(), b"mug".to_vec()));
    assert_eq!((read.value.handle, read.index, read.server_now), (CellHandle(7), INDEX, NOW));
    // Another cell, or none, is not it.
    let other = |frame: &Frame| Some(listed(frame, 9));
    assert_eq!(against(other, name).await, Ok(None));
    let none = |frame: &Frame| {
        let head = ListHead { next: None, cells: 0 }.to_bytes();
        Some(reply(frame, Code::OK, 0, |out| out.put_slice(&head)))
    };
    assert_eq!(against(none, name).await, Ok(None));
}

#[tokio::test]
async fn a_step_of_a_transfer_in_a_batch_is_decoded_as_one() {
    let (client, _node, mut peer) = connected().await;
    let stands =
        Transfer { from: CellHandle(1), to: CellHandle(2), shipped: 1, received: 0, damaged: 0 };
    let mut batch = Batch::new();
    let to = CellRef::name("HAM", "mug");
    batch.transfer(&Shipment::ship(op_id(1), MUG, to, 1)).unwrap();
    let script = async {
        let frame = peer.expect().await;
        let answer = replies(&frame, Some(1), |out| {
            outcome(out, Code::OK, TransferState::Open as u16, |out| stands.encode(out));
        });
        peer.send(answer).await;
    };
    let (results, ()) = join!(client.batch(batch), script);
    match results.unwrap().remove(0).unwrap() {
        Outcome::Transferred(found) => assert_eq!(found.transfer, Some(stands)),
        other => panic!("a transfer, not {other:?}"),
    }
}
