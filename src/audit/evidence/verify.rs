//! Verifying evidence, which may come from anybody: nothing in it can panic or take memory that it has not the bytes
//! for.

use std::fmt;
use std::io::{self, Read};

use sha2::{Digest, Sha256};

use super::{DIGEST_BYTES, HEAD_BYTES, Head};
use crate::audit::checkpoints::{Checked, Checkpoints};
use crate::events::Position;
use crate::protocol::CellHandle;
use crate::protocol::Reader;
use crate::protocol::event::{
    Event, EventBody, EventKind, EventRecord, Ledger, LedgerFault, RECORD_HEADER_BYTES,
    RecordHeader,
};

/// What is wrong with evidence.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// Where in the file.
    pub offset: u64,
    /// What is wrong there.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at byte {}: {}", self.offset, self.what)
    }
}

impl std::error::Error for Fault {}

/// What evidence proves, if the chain after it is that of the cluster.
#[derive(Clone, Debug)]
pub struct Proof {
    /// What it says of itself.
    pub head: Head,
    /// Events in it.
    pub events: u64,
    /// The records that they are in.
    pub records: u64,
    /// Cells whose definition is among the events: their names are proven, too.
    pub defined: u64,
    /// CHECKPOINTs among the events, and what of them could be compared.
    pub checkpoints: Checked,
    /// SHA-256 of the file without its last 32 bytes.
    pub digest: [u8; DIGEST_BYTES],
}

/// Reads evidence from its first byte to its last. `progress` is told the bytes read.
///
/// # Errors
/// It is not what a node wrote, or cannot be read.
pub fn verify(input: &mut dyn Read, progress: &mut dyn FnMut(u64)) -> Result<Proof, Fault> {
    let mut input = Hashed { input, hash: Sha256::new(), offset: 0 };
    let mut bytes = [0; HEAD_BYTES];
    input.read(&mut bytes)?;
    let head = Head::decode(&bytes).map_err(|what| fault(0, what))?;
    let is_range = head.before.next <= head.from
        && head.from <= head.to
        && head.to < head.after.next
        && head.before.next > 0;
    if !is_range {
        return Err(fault(0, "the range and the positions do not fit"));
    }
    let cells = Cells::read(&mut input, head.named)?;
    let mut reading = Reading::new(head, cells);
    let end = input.offset.saturating_add(head.records_bytes);
    let mut record = Vec::new();
    while input.offset < end {
        let offset = input.offset;
        read_record(&mut input, end - offset, &mut record)?;
        reading.take(&record).map_err(|what| fault(offset, what))?;
        progress(input.offset);
    }
    if reading.position != head.after {
        return Err(fault(end, "the chain after the records is not the one of the head"));
    }
    if head.to < reading.last_first {
        return Err(fault(end, "it has more records than the range is in"));
    }
    let digest: [u8; DIGEST_BYTES] = input.hash.clone().finalize().into();
    let mut found = [0; DIGEST_BYTES];
    input.read(&mut found)?;
    if found != digest {
        return Err(fault(end, "the digest is another: something was changed"));
    }
    if input.has_more()? {
        return Err(fault(end + DIGEST_BYTES as u64, "something follows the end"));
    }
    let Reading { events, records, defined, .. } = reading;
    let checkpoints = reading.checkpoints.checked;
    Ok(Proof { head, events, records, defined, checkpoints, digest })
}

fn fault(offset: u64, what: impl Into<String>) -> Fault {
    Fault { offset, what: what.into() }
}

/// Reads the next record, of at most `rest` bytes, into `record`.
fn read_record(input: &mut Hashed<'_>, rest: u64, record: &mut Vec<u8>) -> Result<(), Fault> {
    let offset = input.offset;
    let longer = || fault(offset, "the record is longer than what there is of records");
    if rest < RECORD_HEADER_BYTES as u64 {
        return Err(longer());
    }
    record.resize(RECORD_HEADER_BYTES, 0);
    input.read(record)?;
    let header = RecordHeader::peek(record).map_err(|error| fault(offset, error.to_string()))?;
    if header.bytes as u64 > rest {
        return Err(longer());
    }
    record.resize(header.bytes, 0);
    input.read(&mut record[RECORD_HEADER_BYTES..])
}

/// The cells that have names, by handle.
struct Cells {
    handles: Vec<u32>,
    /// Where the names of each begin: warehouse and SKU, each with its length before it.
    begins: Vec<usize>,
    names: Vec<u8>,
}

impl Cells {
    fn read(input: &mut Hashed<'_>, count: u32) -> Result<Self, Fault> {
        let mut cells = Self { handles: Vec::new(), begins: Vec::new(), names: Vec::new() };
        for _ in 0..count {
            let offset = input.offset;
            let mut handle = [0; 4];
            input.read(&mut handle)?;
            let handle = u32::from_le_bytes(handle);
            if cells.handles.last().is_some_and(|last| *last >= handle) {
                return Err(fault(offset, "the cells are not in the order of their handles"));
            }
            cells.handles.push(handle);
            cells.begins.push(cells.names.len());
            for _ in 0..2 {
                let mut name = [0; 256];
                input.read(&mut name[..1])?;
                let end = 1 + usize::from(name[0]);
                input.read(&mut name[1..end])?;
                cells.names.extend_from_slice(&name[..end]);
            }
        }
        Ok(cells)
    }

    /// The place of a cell among them.
    fn place_of(&self, cell: CellHandle) -> Option<usize> {
        self.handles.binary_search(&cell.0).ok()
    }

    /// Warehouse and SKU.
    fn names(&self, place: usize) -> (&[u8], &[u8]) {
        let mut reader = Reader::new(&self.names[self.begins[place]..]);
        let mut name = || reader.short_bytes().unwrap_or_default();
        (name(), name())
    }
}

/// How far it was read.
struct Reading {
    head: Head,
    cells: Cells,
    position: Position,
    /// Its cells are those of the file, by their places: it has no more entries than the file has names.
    ledger: Ledger,
    checkpoints: Checkpoints,
    events: u64,
    records: u64,
    defined: u64,
    /// The first event of the last record.
    last_first: u64,
}

impl Reading {
    fn new(head: Head, cells: Cells) -> Self {
        let mut ledger = Ledger::new();
        ledger.expect(head.before.next);
        let mut checkpoints = Checkpoints::new();
        checkpoints.begin_at(&head.before);
        Self {
            position: head.before,
            head,
            cells,
            ledger,
            checkpoints,
            events: 0,
            records: 0,
            defined: 0,
            last_first: 0,
        }
    }

    /// `Err`: what is wrong.
    fn take(&mut self, bytes: &[u8]) -> Result<(), String> {
        let record = EventRecord::take(&mut Reader::new(bytes));
        let record = record.map_err(|error| error.to_string())?;
        let header = record.header();
        if header.first != self.position.next {
            let expected = self.position.next;
            return Err(format!("event {expected} should be here, and {} is", header.first));
        }
        if header.shard != self.head.shard || header.is_filtered || header.count == 0 {
            return Err("the record is of another shard, or not whole".to_owned());
        }
        let is_first = self.records == 0;
        if is_first && header.next() <= self.head.from {
            return Err("the record is before the range".to_owned());
        }
        self.checkpoints.begin_record(self.position, header);
        for event in record.events() {
            self.add(&event.map_err(|error| error.to_string())?)?;
        }
        self.position.pass(bytes, header.next());
        self.records += 1;
        self.events += u64::from(header.count);
        self.last_first = header.first;
        Ok(())
    }

    fn add(&mut self, event: &Event<'_>) -> Result<(), String> {
        let mut wrong = None;
        self.checkpoints.add(event, &mut |what| wrong = wrong.take().or(Some(what)));
        wrong.map_or(Ok(()), Err)?;
        let mut event = *event;
        if let Some(change) = &mut event.change {
            let cell = change.cell;
            let place = self.cells.place_of(cell);
            let place = place.ok_or_else(|| {
                format!("event {} is about cell {}, which is not named", event.sequence, cell.0)
            })?;
            if let (EventKind::CellDefined, EventBody::Names { warehouse, sku }) =
                (event.kind, event.body)
            {
                self.defined += 1;
                if self.cells.names(place) != (warehouse, sku) {
                    return Err(format!("cell {} is defined with other names", cell.0));
                }
            }
            change.cell = CellHandle(place as u32);
        }
        self.ledger.take(&event).map_err(|fault| match fault {
            LedgerFault::Before { sequence, cell, counter, expected, found } => {
                let cell = CellHandle(self.cells.handles[cell.0 as usize]);
                LedgerFault::Before { sequence, cell, counter, expected, found }.to_string()
            }
            fault => fault.to_string(),
        })
    }
}

/// What is read is part of the digest.
struct Hashed<'a> {
    input: &'a mut dyn Read,
    hash: Sha256,
    offset: u64,
}

impl Hashed<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> Result<(), Fault> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => fault(self.offset, "it ends here, and should not"),
            _ => fault(self.offset, error.to_string()),
        })?;
        self.hash.update(&*bytes);
        self.offset += bytes.len() as u64;
        Ok(())
    }

    fn has_more(&mut self) -> Result<bool, Fault> {
        let more = self.input.read(&mut [0]);
        more.map(|count| count > 0).map_err(|error| fault(self.offset, error.to_string()))
    }
}
