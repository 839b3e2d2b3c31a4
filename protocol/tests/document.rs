//! `protocol.md` is right: every hex example decodes to the value it claims and encodes back to the
//! same bytes, and its tables hold every kind, opcode, code, state and flag of the crate.
#![expect(clippy::unwrap_used, reason = "in a test, a panic is the report")]

use std::collections::BTreeSet;

use bytes::{BufMut, BytesMut};
use stockd_protocol::event::{EventKind, EventRecord, RecordWriter, seal};
use stockd_protocol::{
    BackupFile, BackupHead, BackupRead, Bucket, CellCounters, CellDetails, CellHandle, CellRef,
    Code, Crossing, CrossingsHead, Described, ErrorReply, EventsHead, Guard, Header, Hello,
    HelloReply, Kind, LineFault, LineShares, ListHead, ListedCell, ListedSku, Listing, Note, Op,
    OpFlags, Opcode, OutcomeHeader, OwnerBound, OwnerLimits, OwnerUsage, PolicyChange, Reader,
    ReplyPrefix, ReservationState, Rules, Selector, ShortLine, SkuTotal, Subscribe, TakenPart,
    Transfer, TransferState, begin_frame, begin_outcome, finish_frame, finish_outcome, limits,
    take_frame, take_op_and_terms, take_outcome,
};

const DOCUMENT: &str = include_str!("../../protocol.md");

/// One fenced block: ```` ```hex TAG… ````, bytes with comments, `= value`.
struct Example {
    line: usize,
    tag: Vec<&'static str>,
    bytes: Vec<u8>,
    value: &'static str,
}

fn examples() -> Vec<Example> {
    let mut examples = Vec::new();
    let mut open: Option<Example> = None;
    for (number, text) in DOCUMENT.lines().enumerate() {
        if let Some(tag) = text.strip_prefix("```hex ") {
            let tag = tag.split(' ').collect();
            open = Some(Example { line: number + 1, tag, bytes: Vec::new(), value: "" });
        } else if text == "```" {
            examples.extend(open.take());
        } else if let Some(example) = &mut open {
            match text.strip_prefix("= ") {
                Some(value) => example.value = value,
                None => example.bytes.extend(hex(text.split(';').next().unwrap())),
            }
        }
    }
    examples
}

fn hex(text: &str) -> impl Iterator<Item = u8> {
    text.split_whitespace().map(|byte| u8::from_str_radix(byte, 16).expect("two hex digits"))
}

#[test]
fn every_example_decodes_to_its_value_and_encodes_to_its_bytes() {
    let examples = examples();
    assert!(examples.len() > 30, "only {} examples were found", examples.len());
    for Example { line, tag, bytes, value } in examples {
        let mut again = BytesMut::new();
        let mut reader = Reader::new(&bytes);
        let actual = match tag.as_slice() {
            ["op"] => op(&mut reader, &mut again).1,
            ["outcome", name] => outcome(opcode(name), &mut reader, &mut again),
            ["frame"] => {
                reader.bytes(bytes.len()).unwrap();
                frame(&bytes, &mut again)
            }
            _ => panic!("line {line}: the tag {tag:?} is unknown"),
        };
        assert_eq!(actual, value, "line {line}");
        assert!(reader.is_empty(), "line {line}: bytes are left over");
        assert_eq!(again, bytes, "line {line}: encoded again");
    }
}

#[test]
fn every_operation_outcome_and_kind_has_an_example() {
    let mut missing: BTreeSet<String> = BTreeSet::new();
    for opcode in Opcode::ALL {
        missing.insert(format!("op {}", opcode.name()));
        missing.insert(format!("outcome {}", opcode.name()));
    }
    missing.extend(Kind::ALL.iter().map(|kind| format!("frame {}", kind.name())));
    for Example { tag, value, .. } in examples() {
        let first = value.split(' ').next().unwrap();
        missing.remove(&match tag.as_slice() {
            ["outcome", name] => format!("outcome {name}"),
            [tag, ..] => format!("{tag} {first}"),
            [] => continue,
        });
    }
    assert_eq!(missing, BTreeSet::new());
}

#[test]
fn every_number_of_the_crate_is_in_a_table() {
    let mut rows = Vec::new();
    rows.extend(Kind::ALL.iter().map(|kind| format!("| {:#04x} | {} |", *kind as u8, kind.name())));
    for opcode in Opcode::ALL {
        let kind = if opcode.is_write() { "write" } else { "read" };
        rows.push(format!("| {:#04x} | {} | {kind} |", *opcode as u8, opcode.name()));
    }
    let codes = Code::ALL.iter();
    rows.extend(codes.map(|code| format!("| {} | {} | {} |", code.0, code.name(), code.advice())));
    let kinds = EventKind::ALL.iter();
    rows.extend(kinds.map(|kind| format!("| {} | {} |", *kind as u8, kind.name())));
    let states = (1..=7).map(|detail| (detail, ReservationState::from_detail(detail).unwrap()));
    rows.extend(states.map(|(detail, state)| format!("| {detail} | {} |", state.name())));
    rows.extend(FLAGS.iter().map(|(flag, name)| format!("| {} | {name} |", flag.0)));
    for row in rows {
        assert!(DOCUMENT.contains(&format!("\n{row}")), "protocol.md lacks the row {row}");
    }
    assert_eq!(ReservationState::from_detail(8), None, "a new state must be documented");
    for bucket in Bucket::ALL {
        let row = format!("\n| {} | {} |", bucket as u8, bucket.name());
        assert!(DOCUMENT.contains(&row), "protocol.md lacks the row {row}");
    }
    for state in (1..=4).filter_map(TransferState::from_detail) {
        let row = format!("\n| {} | {} |", state as u8, state.name());
        assert!(DOCUMENT.contains(&row), "protocol.md lacks the row {row}");
    }
}

#[test]
fn the_limits_are_those_of_the_crate() {
    for limit in [
        u64::from(limits::FRAME_BYTES_MAX),
        u64::from(limits::FRAME_BYTES_MAX_BEFORE_HELLO),
        u64::from(limits::REPLY_BYTES_MAX),
        u64::from(limits::BATCH_OPS_MAX),
        u64::from(limits::LINES_MAX),
        u64::from(limits::READ_CELLS_MAX),
        u64::from(limits::TTL_MS_MIN),
        u64::from(limits::TTL_MS_MAX),
        u64::from(limits::TTL_MS_DEFAULT),
        u64::from(limits::PIN_MS_MAX),
        u64::from(limits::STEPS_MAX),
        u64::from(limits::LINKED_MAX),
        u64::from(limits::OWNER_OPEN_MAX),
        u64::from(limits::OWNER_LINES_MAX),
        2 * u64::from(limits::OWNER_OPEN_MAX),
        2 * u64::from(limits::OWNER_LINES_MAX),
        limits::REFERENCE_BYTES_MAX as u64,
        limits::COUNTER_MAX as u64,
        limits::WAREHOUSE_BYTES_MAX as u64,
        limits::SKU_BYTES_MAX as u64,
        u64::from(limits::BACKUP_READ_BYTES_MAX),
    ] {
        let section = DOCUMENT.split("\n## 11.").nth(1).unwrap();
        let section = section.split("\n## ").next().unwrap().replace(',', "");
        let words: Vec<&str> = section.split(|c: char| !c.is_ascii_digit()).collect();
        assert!(words.contains(&limit.to_string().as_str()), "section 11 lacks {limit}");
    }
}

/// What some bits mean depends on the operation.
const FLAGS: [(OpFlags, &str); 11] = [
    (OpFlags::RETRY, "RETRY"),
    (OpFlags::NOT_AFTER, "NOT_AFTER"),
    (OpFlags::NAMES, "NAMES"),
    (OpFlags::DEFINE, "DEFINE"),
    (OpFlags::STALE, "STALE"),
    (OpFlags::REACQUIRE, "REACQUIRE"),
    (OpFlags::LINKED, "LINKED"),
    (OpFlags::NOTE, "NOTE"),
    (OpFlags::TRUTH, "TRUTH"),
    (OpFlags::SHIP, "SHIP"),
    (OpFlags::COMMIT, "COMMIT"),
];

/// A flag by this name means something to the operation.
fn means(opcode: Opcode, flag: &str) -> bool {
    match flag {
        "STALE" => !opcode.is_write(),
        "REACQUIRE" => matches!(opcode, Opcode::Confirm | Opcode::Fulfil),
        "TRUTH" => matches!(opcode, Opcode::Adjust | Opcode::Move | Opcode::TransferShip),
        "SHIP" => opcode == Opcode::Fulfil,
        "COMMIT" => matches!(opcode, Opcode::Reserve | Opcode::ReserveFrom),
        _ => true,
    }
}

fn opcode(name: &str) -> Opcode {
    *Opcode::ALL.iter().find(|opcode| opcode.name() == name).expect("an opcode's name")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn cell(cell: CellRef<'_>) -> String {
    match cell {
        CellRef::Handle(handle) => format!("#{}", handle.0),
        CellRef::Name { warehouse, sku } => format!("{}/{}", text(warehouse), text(sku)),
    }
}

/// Takes an operation, appends it to `out` again, and says what it is.
fn op(reader: &mut Reader<'_>, out: &mut BytesMut) -> (Opcode, String) {
    let (op, terms) = take_op_and_terms(reader).unwrap();
    let (flags, not_after) = (terms.flags, terms.not_after);
    op.encode(out, &terms);
    let opcode = op.opcode();
    let is_set =
        |(flag, name): &&(OpFlags, &'static str)| flags.contains(*flag) && means(opcode, name);
    let names = FLAGS.iter().filter(is_set).map(|(_, name)| *name);
    let mut said = format!("{} [{}]", op.opcode().name(), names.collect::<Vec<_>>().join(" "));
    if let Some(not_after) = not_after {
        said += &format!(" not_after={}", not_after.0);
    }
    if let Some(Note { reason, reference }) = terms.note {
        said += &format!(" reason={reason} ref={}", text(reference));
    }
    said += &match op {
        Op::Define { cell: at } => format!(" {}", cell(at)),
        Op::Receive { op_id, quantity, cell: at } => {
            format!(" op_id={op_id} {quantity} x {}", cell(at))
        }
        Op::Reserve { id, ttl_ms, lines } => {
            let all = lines.iter().map(|line| format!("{} x {}", line.quantity, cell(line.cell)));
            format!(" id={id} ttl_ms={ttl_ms} {}", all.collect::<Vec<_>>().join(", "))
        }
        Op::Adjust { op_id, delta, cell: at } | Op::Announce { op_id, delta, cell: at } => {
            format!(" op_id={op_id} {delta:+} x {}", cell(at))
        }
        Op::Set { op_id, on_hand, guard, cell: at } => {
            let guard = match guard {
                Guard::Expected(expected) => format!("expected={expected}"),
                Guard::Feed(sequence) => format!("feed={sequence}"),
            };
            format!(" op_id={op_id} {on_hand} x {} {guard}", cell(at))
        }
        Op::CountBegin { op_id, cell: at } => format!(" op_id={op_id} {}", cell(at)),
        Op::CountCommit { op_id, token, counted } => {
            format!(" op_id={op_id} token={token} counted={counted}")
        }
        Op::Move { op_id, from, to, quantity, cell: at } => {
            let (from, to) = (from.name(), to.name());
            format!(" op_id={op_id} {quantity} x {} {from} to {to}", cell(at))
        }
        Op::Arrive { op_id, quantity, bucket, cell: at }
        | Op::Return { op_id, quantity, bucket, cell: at } => {
            format!(" op_id={op_id} {quantity} x {} {}", cell(at), bucket.name())
        }
        Op::TransferShip { op_id, quantity, from, to } => {
            format!(" op_id={op_id} {quantity} from {} to {}", cell(from), cell(to))
        }
        Op::TransferReceive { op_id, transfer, good, damaged } => {
            format!(" op_id={op_id} transfer={transfer} good={good} damaged={damaged}")
        }
        Op::TransferClose { transfer }
        | Op::TransferCancel { transfer }
        | Op::ReadTransfer { transfer } => format!(" transfer={transfer}"),
        Op::SetPolicy { op_id, change, cell: at } => {
            format!(" op_id={op_id} {} {}", cell(at), policy_change(&change))
        }
        Op::Confirm { id, parts }
        | Op::Release { id, parts }
        | Op::Cancel { id, parts }
        | Op::Fulfil { id, parts } => match parts.is_whole() {
            true => format!(" id={id}"),
            false => {
                let all = parts.iter().map(|part| format!("{}:{}", part.line, part.quantity));
                let all = all.collect::<Vec<_>>().join(" ");
                format!(" id={id} step={} {all}", parts.step())
            }
        },
        Op::Amend { id, step, lines } => {
            let all = lines.iter().map(|line| format!("{} x {}", line.quantity, cell(line.cell)));
            format!(" id={id} step={step} {}", all.collect::<Vec<_>>().join(", "))
        }
        Op::ReserveFrom { id, ttl_ms, wishes } => {
            let Rules { mode, sourcing, splits_max, owner } = wishes.rules();
            let all = wishes.iter().map(|wish| {
                let cells = wish.cells().map(cell).collect::<Vec<_>>().join("|");
                format!("{}..{} x {cells}", wish.min_quantity, wish.quantity)
            });
            let all = all.collect::<Vec<_>>().join(", ");
            let rules = format!("{} {} splits_max={splits_max}", mode.name(), sourcing.name());
            let rules = format!("{rules} owner={}", text(owner));
            format!(" id={id} ttl_ms={ttl_ms} {rules} {all}")
        }
        Op::ReadReservation { id } | Op::ReadLines { id } => format!(" id={id}"),
        Op::Extend { id, ttl_ms } | Op::Pin { id, ttl_ms } => format!(" id={id} ttl_ms={ttl_ms}"),
        Op::ReadCells { cells } | Op::ReadDetails { cells } => {
            format!(" {}", cells.iter().map(cell).collect::<Vec<_>>().join(", "))
        }
        Op::ReadSku { after, sku } => {
            let after = after.map_or("none".to_owned(), |after| format!("#{}", after.0));
            format!(" {} after={after}", text(sku))
        }
        Op::ListCells(Listing { from, count, filter, warehouse, sku }) => {
            let names = format!("{}*/{}*", text(warehouse), text(sku));
            format!(" {filter:?} {names} from={from} count={count}")
        }
        Op::SetOwnerLimits { op_id, limits } => {
            let OwnerLimits { holds_max, units_max, cool_down_ms } = limits;
            let most = format!("holds_max={holds_max} units_max={units_max}");
            format!(" op_id={op_id} {most} cool_down_ms={cool_down_ms}")
        }
        Op::ReadOwner { owner } => format!(" {}", text(owner)),
        Op::DescribeSku { op_id, scale, title, sku } => {
            format!(" op_id={op_id} {} scale={scale} title={:?}", text(sku), text(title))
        }
        Op::NameSku { op_id, naming, sku, name } => {
            format!(" op_id={op_id} {} {} {}", naming.name(), text(sku), text(name))
        }
        Op::ReadCatalogue { sku } => format!(" {}", text(sku)),
        Op::SetReorder { op_id, point, sku } => {
            format!(" op_id={op_id} {} point={point:?}", text(sku))
        }
        Op::ListSkus(Listing { from, count, filter, sku, .. }) => {
            format!(" {filter:?} {}* from={from} count={count}", text(sku))
        }
        Op::ReadCrossings { from, count } => format!(" from={from} count={count}"),
        Op::Ping | Op::ClusterStatus => String::new(),
    };
    (op.opcode(), said)
}

fn policy_change(change: &PolicyChange) -> String {
    let mut said = Vec::new();
    for (name, flag) in [
        ("frozen", change.frozen),
        ("untracked", change.untracked),
        ("preorder", change.preorder),
        ("no_hold", change.no_hold),
    ] {
        said.extend(flag.map(|flag| format!("{name}={flag}")));
    }
    let numbers = [("oversell_limit", change.oversell_limit), ("buffer", change.buffer)];
    for (name, number) in numbers {
        said.extend(number.map(|number| format!("{name}={number}")));
    }
    said.extend(change.reorder_point.map(|point| match point {
        Some(point) => format!("reorder_point={point}"),
        None => "reorder_point=none".to_owned(),
    }));
    said.extend(change.owner_max.map(|units| format!("owner_max={units}")));
    said.join(" ")
}

/// Takes an outcome of an operation, appends it to `out` again, and says what it is.
fn outcome(opcode: Opcode, reader: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let outcome = take_outcome(reader).unwrap();
    let is_transfer = matches!(
        opcode,
        Opcode::TransferShip
            | Opcode::TransferReceive
            | Opcode::TransferClose
            | Opcode::TransferCancel
            | Opcode::ReadTransfer
    );
    let names_lines = matches!(
        outcome.code,
        Code::UNKNOWN_SKU | Code::UNKNOWN_WAREHOUSE | Code::NOT_STOCKED | Code::FROZEN
    );
    let bound = OwnerBound::from_detail(outcome.detail).map_or("-", OwnerBound::name);
    let state = match is_transfer {
        _ if outcome.code == Code::OWNER_LIMIT => bound,
        _ if names_lines => "-",
        true => TransferState::from_detail(outcome.detail).map_or("-", TransferState::name),
        false => outcome.state().map_or("-", ReservationState::name),
    };
    let header = OutcomeHeader { code: outcome.code, detail: outcome.detail };
    let start = begin_outcome(out, header);
    let mut body = Reader::new(outcome.body);
    let said = match outcome.code.is_ok() {
        true => ok_body(opcode, &mut body, out),
        false if matches!(bound, "UNITS" | "COOL_DOWN") && outcome.code == Code::OWNER_LIMIT => {
            u64(&mut body, out).to_string()
        }
        false => refusal_body(outcome.code, &mut body, out),
    };
    assert!(body.is_empty(), "an outcome has bytes after its last field");
    finish_outcome(out, start);
    format!("{} {state} {said}", outcome.code.name()).trim_end().to_owned()
}

fn ok_body(opcode: Opcode, body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    match opcode {
        Opcode::Define => handle(body, out),
        Opcode::Receive
        | Opcode::Adjust
        | Opcode::Set
        | Opcode::CountBegin
        | Opcode::CountCommit
        | Opcode::Move
        | Opcode::Announce
        | Opcode::Arrive
        | Opcode::Return
        | Opcode::SetPolicy => {
            let handle = handle(body, out);
            format!("{handle} on_hand={} available={}", i64(body, out), i64(body, out))
        }
        Opcode::TransferShip
        | Opcode::TransferReceive
        | Opcode::TransferClose
        | Opcode::TransferCancel
        | Opcode::ReadTransfer => {
            let transfer = Transfer::take(body).unwrap();
            transfer.encode(out);
            let Transfer { from, to, shipped, received, damaged } = transfer;
            let way = format!("#{} to #{}", from.0, to.0);
            format!("{way} shipped={shipped} received={received} damaged={damaged}")
        }
        Opcode::Reserve | Opcode::Amend => {
            let mut said = format!("deadline={}", u64(body, out));
            while !body.is_empty() {
                said += &format!(" {}", handle(body, out));
            }
            said
        }
        Opcode::ReserveFrom => {
            let said = format!("deadline={}", u64(body, out));
            let parts = (0..u32(body, out)).map(|_| {
                let part = TakenPart::take(body).unwrap();
                part.encode(out);
                format!("{}: {} x #{}", part.line, part.quantity, part.cell.0)
            });
            format!("{said} {}", parts.collect::<Vec<_>>().join(", "))
        }
        Opcode::Confirm
        | Opcode::Release
        | Opcode::Cancel
        | Opcode::Fulfil
        | Opcode::SetOwnerLimits
        | Opcode::DescribeSku
        | Opcode::NameSku
        | Opcode::SetReorder
        | Opcode::Ping => String::new(),
        Opcode::ReadCatalogue => {
            let found = Described::take(body).unwrap();
            found.encode(out);
            let names: Vec<_> = found.names.iter().map(|name| text(name)).collect();
            let Described { scale, point, position, .. } = found;
            let what = format!("scale={scale} title={:?}", text(found.title));
            format!("{what} point={point:?} position={position} {}", names.join(", "))
        }
        Opcode::ListSkus => {
            let head = ListHead::take(body).unwrap();
            out.put_slice(&head.to_bytes());
            let skus = (0..head.cells).map(|_| {
                let sku = ListedSku::take(body).unwrap();
                sku.encode(out);
                let ListedSku { scale, point, position, .. } = sku;
                let what = format!("{} {:?} scale={scale}", text(sku.name), text(sku.title));
                format!("{what} point={point:?} position={position}")
            });
            let skus = skus.collect::<Vec<_>>().join(", ");
            format!("next={:?} {skus}", head.next)
        }
        Opcode::ReadCrossings => {
            let head = CrossingsHead::take(body).unwrap();
            head.encode(out);
            let crossings = (0..head.count).map(|_| {
                let crossing = Crossing::take(body).unwrap();
                crossing.encode(out);
                let Crossing { at_ms, position, point, is_low, cell, .. } = crossing;
                let names = format!("{}/{}", text(crossing.warehouse), text(crossing.sku));
                let what = format!("low={is_low} position={position} point={point:?}");
                format!("at={at_ms} {names} {cell:?} {what}")
            });
            let crossings = crossings.collect::<Vec<_>>().join(", ");
            format!("first={} next={} {crossings}", head.first, head.next)
        }
        Opcode::ReadOwner => {
            let usage = OwnerUsage::take(body).unwrap();
            usage.encode(out);
            let OwnerUsage { holds, open, units, free_at, limits } = usage;
            let OwnerLimits { holds_max, units_max, cool_down_ms } = limits;
            let free_at = free_at.map_or(0, |at| at.0);
            let has = format!("holds={holds} open={open} units={units} free_at={free_at}");
            format!("{has} of {holds_max} {units_max} {cool_down_ms}")
        }
        Opcode::Extend | Opcode::Pin => format!("deadline={}", u64(body, out)),
        Opcode::ReadCells => {
            let mut cells = Vec::new();
            while !body.is_empty() {
                cells.push(found_cell(body, out));
            }
            cells.join(", ")
        }
        Opcode::ReadReservation => {
            let said = format!("created={} deadline={}", u64(body, out), u64(body, out));
            let lines = (0..u32(body, out)).map(|_| {
                let handle = handle(body, out);
                format!("{} x {handle}", u32(body, out))
            });
            format!("{said} {}", lines.collect::<Vec<_>>().join(", "))
        }
        Opcode::ReadSku => {
            let head = SkuTotal::take(body).unwrap();
            head.encode(out);
            let cells = (0..head.cells).map(|_| {
                let warehouse = body.short_bytes().unwrap();
                out.put_u8(warehouse.len() as u8);
                out.put_slice(warehouse);
                format!("{} {}", text(warehouse), found_cell(body, out))
            });
            let cells = cells.collect::<Vec<_>>().join(", ");
            format!("more={} total {}: {cells}", head.more, counters(&head.total))
        }
        Opcode::ClusterStatus => {
            let json = body.bytes(body.rest().len()).unwrap();
            out.put_slice(json);
            text(json).to_owned()
        }
        Opcode::ReadDetails => {
            let handle = handle(body, out);
            assert_eq!(u32(body, out), 1, "the example is of a cell that is there");
            let details = CellDetails::take(body).unwrap();
            details.encode(out);
            format!("{handle} {details:?}")
        }
        Opcode::ListCells => {
            let head = ListHead::take(body).unwrap();
            out.put_slice(&head.to_bytes());
            let cells = (0..head.cells).map(|_| {
                let cell = ListedCell::take(body).unwrap();
                cell.encode(out);
                let names = format!("{}/{}", text(cell.warehouse), text(cell.sku));
                let low = cell.details.is_low();
                format!("#{} {names} position {} low={low}", cell.handle.0, cell.details.position())
            });
            let cells = cells.collect::<Vec<_>>().join(", ");
            format!("next={:?} {cells}", head.next)
        }
        Opcode::ReadLines => {
            let said = format!("created={} deadline={}", u64(body, out), u64(body, out));
            let pinned = u32(body, out);
            let lines = (0..u32(body, out)).map(|_| {
                let handle = handle(body, out);
                let units = LineShares::take(body).unwrap();
                units.encode(out);
                let LineShares { reserved, committed, fulfilled, released, expired, cancelled } =
                    units;
                let before = format!("reserved={reserved} committed={committed}");
                let over = format!("fulfilled={fulfilled} released={released}");
                format!("{handle} {before} {over} expired={expired} cancelled={cancelled}")
            });
            format!("{said} pinned={pinned} {}", lines.collect::<Vec<_>>().join(", "))
        }
    }
}

fn refusal_body(code: Code, body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let mut said = Vec::new();
    while !body.is_empty() {
        said.push(match code {
            Code::NO_STOCK | Code::WOULD_SHORT => {
                let short = ShortLine::take(body).unwrap();
                short.encode(out);
                let ShortLine { line, cell, asked, available } = short;
                format!("line {line} #{} asked={asked} available={available}", cell.0)
            }
            Code::STALE_EXPECTED => format!("on_hand={}", i64(body, out)),
            Code::STALE_FEED => format!("feed={}", u64(body, out)),
            Code::OWNER_LIMIT
            | Code::UNKNOWN_SKU
            | Code::UNKNOWN_WAREHOUSE
            | Code::NOT_STOCKED
            | Code::FROZEN
            | Code::QTY_EXCEEDS => {
                let fault = LineFault::take(body).unwrap();
                fault.encode(out);
                format!("line {}", fault.line)
            }
            _ => panic!("{code} has no body"),
        });
    }
    said.join(", ")
}

/// Takes a frame, appends it to `out` again, and says what it is.
fn frame(bytes: &[u8], out: &mut BytesMut) -> String {
    let mut buffer = BytesMut::from(bytes);
    let frame = take_frame(&mut buffer, limits::FRAME_BYTES_MAX).unwrap().expect("a whole frame");
    assert!(buffer.is_empty(), "bytes follow the frame");
    let Header { request_id, kind, shard } = frame.header;
    let start = begin_frame(out, frame.header);
    let mut body = Reader::new(&frame.body);
    let said = match kind {
        Kind::Hello => hello(&mut body, out),
        Kind::Op => op(&mut body, out).1,
        Kind::Batch => {
            let ops = (0..u32(&mut body, out)).map(|_| op(&mut body, out).1);
            ops.collect::<Vec<_>>().join("; ")
        }
        Kind::HelloReply => hello_reply(&mut body, out),
        // A reply does not repeat its operation; those in examples answer a confirm and a release,
        // or a ping, whose bodies are empty.
        Kind::OpReply => {
            format!("{}: {}", prefix(&mut body, out), outcome(Opcode::Ping, &mut body, out))
        }
        Kind::BatchReply => {
            let prefix = prefix(&mut body, out);
            let all = (0..u32(&mut body, out)).map(|_| outcome(Opcode::Confirm, &mut body, out));
            format!("{prefix}: {}", all.collect::<Vec<_>>().join("; "))
        }
        Kind::Subscribe => subscribe(&mut body, out),
        Kind::Credit => format!("bytes={}", u32(&mut body, out)),
        Kind::Events => events(&mut body, out),
        Kind::BackupList => "nothing".to_owned(),
        Kind::BackupRead => backup_read(&mut body, out),
        Kind::BackupFiles => backup_files(&mut body, out),
        Kind::BackupBytes => {
            let bytes = body.bytes(body.rest().len()).unwrap();
            out.extend_from_slice(bytes);
            format!("bytes={}", bytes.len())
        }
        Kind::Error => error(&mut body, out),
    };
    assert!(body.is_empty(), "a body has bytes after its last field");
    finish_frame(out, start);
    format!("{} request_id={request_id} shard={} {said}", kind.name(), shard.0)
}

fn subscribe(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let wish = Subscribe::decode(body.bytes(body.rest().len()).unwrap()).unwrap();
    wish.encode(out);
    let selectors = wish.selectors.iter().map(|selector| match *selector {
        Selector::Warehouse(warehouse) => format!("{}/*", text(warehouse)),
        Selector::Sku(sku) => format!("*/{}", text(sku)),
        Selector::Cell { warehouse, sku } => format!("{}/{}", text(warehouse), text(sku)),
    });
    let selectors: Vec<_> = selectors.collect();
    let (start, credit) = (wish.start, wish.credit);
    format!("{start:?} credit={credit} kinds={:#x} [{}]", wish.kinds, selectors.join(", "))
}

fn events(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let head = EventsHead::take(body).unwrap();
    head.encode(out);
    let (now, mut said) = (head.server_now.0, Vec::new());
    while !body.is_empty() {
        let record = EventRecord::take(body).unwrap();
        out.extend_from_slice(&copied(&record));
        said.extend(record.events().map(|event| event.unwrap().to_string()));
    }
    let EventsHead { first, next, reached, .. } = head;
    format!("first={first} next={next} reached={reached} server_now={now}: {}", said.join("; "))
}

fn backup_read(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let read = BackupRead::decode(body.bytes(body.rest().len()).unwrap()).unwrap();
    read.encode(out);
    format!("{} offset={} bytes={}", text(read.name), read.offset, read.bytes)
}

fn backup_files(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let head = BackupHead::take(body).unwrap();
    head.encode(out);
    let mut files = Vec::new();
    for _ in 0..u32(body, out) {
        let file = BackupFile::take(body).unwrap();
        file.encode(out);
        files.push(format!("{} bytes={} sealed={}", text(file.name), file.bytes, file.is_sealed));
    }
    let chain: String = head.chain[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "cluster_id={} node_id={} incarnation={} rules={:?} index={} now={} next={} chain={chain}: {}",
        head.cluster_id,
        head.node_id,
        head.incarnation,
        head.rules,
        head.index,
        head.now_us,
        head.next_event,
        files.join("; ")
    )
}

/// The record, written again.
fn copied(record: &EventRecord<'_>) -> Vec<u8> {
    let header = record.header();
    let (first, index, at_us) = (header.first, header.index, header.at_us);
    let mut writer = RecordWriter::begin(Vec::new(), header.shard, first, index, at_us);
    record.events().for_each(|event| writer.copy(&event.unwrap()));
    let mut bytes = writer.finish();
    seal(&mut bytes);
    bytes
}

fn hello(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let hello = Hello::decode(body.bytes(body.rest().len()).unwrap()).unwrap();
    assert_eq!(hello.magic, stockd_protocol::MAGIC);
    hello.encode(out);
    let name = text(hello.client_name);
    format!("versions={}..{} name={name}", hello.version_min, hello.version_max)
}

fn hello_reply(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let reply = HelloReply::decode(body.bytes(body.rest().len()).unwrap()).unwrap();
    reply.encode(out);
    format!(
        "version={} frame_bytes_max={} batch_ops_max={} frames_in_flight_max={} cluster_id={} \
         node_id={} server_now={} leader={}",
        reply.version,
        reply.frame_bytes_max,
        reply.batch_ops_max,
        reply.frames_in_flight_max,
        reply.cluster_id,
        reply.node_id,
        reply.server_now.0,
        text(reply.leader)
    )
}

fn error(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let reply = ErrorReply::decode(body.bytes(body.rest().len()).unwrap()).unwrap();
    reply.encode(out);
    let event = if reply.event > 0 { format!(" event={}", reply.event) } else { String::new() };
    format!(
        "{} retry_after_ms={} leader={} message={}{event}",
        reply.code.name(),
        reply.retry_after_ms,
        text(reply.leader),
        text(reply.message)
    )
}

fn prefix(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let prefix = ReplyPrefix::take(body).unwrap();
    prefix.encode(out);
    let ReplyPrefix { index, server_now, age_ms } = prefix;
    format!("index={index} server_now={} age_ms={age_ms}", server_now.0)
}

fn found_cell(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    let handle = handle(body, out);
    let found = u32(body, out) == 1;
    let cell = CellCounters::take(body).unwrap();
    cell.encode(out);
    format!("{} {}", if found { &handle } else { "none" }, counters(&cell))
}

fn counters(cell: &CellCounters) -> String {
    let CellCounters { on_hand, reserved, committed, available } = cell;
    format!("on_hand={on_hand} reserved={reserved} committed={committed} available={available}")
}

fn handle(body: &mut Reader<'_>, out: &mut BytesMut) -> String {
    format!("#{}", CellHandle(u32(body, out)).0)
}

fn u32(body: &mut Reader<'_>, out: &mut BytesMut) -> u32 {
    let value = body.u32().unwrap();
    out.put_u32_le(value);
    value
}

fn u64(body: &mut Reader<'_>, out: &mut BytesMut) -> u64 {
    let value = body.u64().unwrap();
    out.put_u64_le(value);
    value
}

fn i64(body: &mut Reader<'_>, out: &mut BytesMut) -> i64 {
    let value = body.i64().unwrap();
    out.put_i64_le(value);
    value
}
