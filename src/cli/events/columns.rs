//! Events as a Parquet file: a row each, a flat column for each field.
//!
//! ```text
//! column                              type
//! sequence, at_us, index, shard       INT64, never null
//! time, deadline                      INT64, TIMESTAMP in µs of UTC; time is never null
//! kind                                STRING, never null
//! id                                  16 bytes, UUID
//! delta_…, after_… of each counter    INT64
//! before_…, rules_… of each rule      INT64, or BOOLEAN
//! all other fields                    INT64 or STRING
//! ```
//!
//! Fields, and when there are which: [`fields`](super::fields), with `_` between the names of a group and its field.
//! What is not told is null. As in JSON, names that are not UTF-8 are in a column that ends in `_hex`.
//!
//! The file's key-value metadata has `stockd.cluster` (16 hexadecimal digits), `stockd.from` (the number of the first
//! event of the range), `stockd.next` (the number after its last) and `stockd.version`.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::sync::Arc;

use bytes::Bytes;
use parquet::basic::{Compression, Encoding};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType,
    Int64Type,
};
use parquet::errors::{ParquetError, Result};
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{WriterProperties, WriterVersion};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter};
use parquet::schema::parser::parse_message_type;
use parquet::schema::types::ColumnPath;
use stockd_client::ReservationId;
use stockd_client::events::{CellName, Counts, Event};

use super::fields::{Fields, tell};

/// Rows of a group, which waits in memory: about 16 MiB of columns, and 22 more if all names are as long as may be.
const GROUP_ROWS: usize = 1 << 16;

/// What is in a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Flag,
    Id,
    Moment,
    Number,
    /// Numbers that hardly repeat, but rise.
    Rising,
    Text,
}

/// Fields that every event has.
const ALWAYS: [&str; 6] = ["sequence", "time", "at_us", "index", "shard", "kind"];
/// The other fields, but for bytes and groups.
const SOMETIMES: [(&str, Kind); 25] = [
    ("id", Kind::Id),
    ("cell", Kind::Number),
    ("reason", Kind::Number),
    ("deadline", Kind::Moment),
    ("deadline_ms", Kind::Rising),
    ("scale", Kind::Number),
    ("naming", Kind::Text),
    ("point", Kind::Number),
    ("holds_max", Kind::Number),
    ("units_max", Kind::Number),
    ("cool_down_ms", Kind::Number),
    ("position", Kind::Number),
    ("outage_ms", Kind::Number),
    ("cells", Kind::Number),
    ("active", Kind::Number),
    ("confirmed", Kind::Number),
    ("chain_before", Kind::Rising),
    ("chain", Kind::Text),
    ("node", Kind::Number),
    ("at_index", Kind::Rising),
    ("finding", Kind::Text),
    ("op", Kind::Text),
    ("code", Kind::Number),
    ("refusal", Kind::Text),
    ("asked", Kind::Number),
];
/// Fields of bytes.
const BYTES: [&str; 7] = ["principal", "warehouse", "sku", "reference", "owner", "title", "name"];
/// Groups of counters.
const COUNTS: [&str; 3] = ["delta", "after", "totals"];
/// Groups of rules, and what is in them.
const RULES: [&str; 2] = ["before", "rules"];
const RULE: [(&str, Kind); 8] = [
    ("oversell_limit", Kind::Number),
    ("buffer", Kind::Number),
    ("reorder_point", Kind::Number),
    ("owner_max", Kind::Number),
    ("frozen", Kind::Flag),
    ("untracked", Kind::Flag),
    ("preorder", Kind::Flag),
    ("no_hold", Kind::Flag),
];

/// All columns, in the order of the file.
fn all() -> Vec<(String, Kind)> {
    let always = ALWAYS.into_iter().zip([
        Kind::Rising,
        Kind::Moment,
        Kind::Rising,
        Kind::Rising,
        Kind::Number,
        Kind::Text,
    ]);
    let plain = always.chain(SOMETIMES).map(|(name, kind)| (name.to_owned(), kind));
    let bytes = BYTES.into_iter().flat_map(|name| [name.to_owned(), hex_name(name)]);
    let counts = COUNTS.into_iter().flat_map(|group| {
        Counts::NAMES.into_iter().map(move |name| (format!("{group}_{name}"), Kind::Number))
    });
    let rules = RULES.into_iter().flat_map(|group| {
        RULE.into_iter().map(move |(name, kind)| (format!("{group}_{name}"), kind))
    });
    plain.chain(bytes.map(|name| (name, Kind::Text))).chain(counts).chain(rules).collect()
}

fn hex_name(name: &str) -> String {
    format!("{name}_hex")
}

/// The schema, in Parquet's own language.
fn schema(columns: &[(String, Kind)]) -> String {
    let mut text = "message events {".to_owned();
    for (name, kind) in columns {
        let (kind, meaning) = match kind {
            Kind::Flag => ("boolean", ""),
            Kind::Id => ("fixed_len_byte_array(16)", " (UUID)"),
            Kind::Moment => ("int64", " (TIMESTAMP(MICROS, true))"),
            Kind::Number | Kind::Rising => ("int64", ""),
            Kind::Text => ("binary", " (STRING)"),
        };
        let presence = if ALWAYS.contains(&name.as_str()) { "required" } else { "optional" };
        text.push_str(&format!("{presence} {kind} {name}{meaning};"));
    }
    text.push('}');
    text
}

fn properties(columns: &[(String, Kind)]) -> WriterProperties {
    let properties = WriterProperties::builder()
        .set_writer_version(WriterVersion::PARQUET_1_0)
        .set_created_by(format!("stockd version {}", env!("CARGO_PKG_VERSION")))
        .set_compression(Compression::SNAPPY);
    let unlike =
        columns.iter().filter(|(_, kind)| matches!(kind, Kind::Id | Kind::Moment | Kind::Rising));
    let properties = unlike.fold(properties, |properties, (name, kind)| {
        let path = || ColumnPath::from(name.as_str());
        let properties = properties.set_column_dictionary_enabled(path(), false);
        match kind {
            Kind::Id => properties,
            _ => properties.set_column_encoding(path(), Encoding::DELTA_BINARY_PACKED),
        }
    });
    properties.build()
}

/// A column of the rows that wait.
struct Column {
    values: Values,
    /// For each row: 1 if it has a value. Rows at the end may lack, which then have none.
    present: Vec<i16>,
}

enum Values {
    Flags(Vec<bool>),
    Ids(Vec<[u8; 16]>),
    Numbers(Vec<i64>),
    /// All texts, and where each ends.
    Texts(Vec<u8>, Vec<usize>),
}

impl Column {
    fn new(kind: Kind) -> Self {
        let values = match kind {
            Kind::Flag => Values::Flags(Vec::new()),
            Kind::Id => Values::Ids(Vec::new()),
            Kind::Moment | Kind::Number | Kind::Rising => Values::Numbers(Vec::new()),
            Kind::Text => Values::Texts(Vec::new(), Vec::new()),
        };
        Self { values, present: Vec::new() }
    }

    /// Writes what is there for so many rows, and forgets it.
    fn write(&mut self, rows: usize, mut to: SerializedColumnWriter<'_>) -> Result<()> {
        self.present.resize(rows, 0);
        let present = &self.present;
        match &mut self.values {
            Values::Flags(flags) => put::<BoolType>(&mut to, &std::mem::take(flags), present)?,
            Values::Numbers(numbers) => {
                put::<Int64Type>(&mut to, numbers, present)?;
                numbers.clear();
            }
            Values::Ids(ids) => {
                let all = Bytes::from(std::mem::take(ids).into_flattened());
                let id = |at| FixedLenByteArray::from(ByteArray::from(all.slice(at..at + 16)));
                let ids: Vec<_> = (0..all.len()).step_by(16).map(id).collect();
                put::<FixedLenByteArrayType>(&mut to, &ids, present)?;
            }
            Values::Texts(texts, ends) => {
                let all = Bytes::from(std::mem::take(texts));
                let starts = std::iter::once(0).chain(ends.iter().copied());
                let text = |(start, end): (usize, &usize)| ByteArray::from(all.slice(start..*end));
                let texts: Vec<_> = starts.zip(ends.iter()).map(text).collect();
                put::<ByteArrayType>(&mut to, &texts, present)?;
                ends.clear();
            }
        }
        self.present.clear();
        to.close()
    }
}

fn put<T: DataType>(
    to: &mut SerializedColumnWriter<'_>,
    values: &[T::T],
    present: &[i16],
) -> Result<()> {
    // A column that is never null ignores who is present.
    to.typed::<T>().write_batch(values, Some(present), None).map(drop)
}

/// The rows that wait, and the one that is being told.
struct Rows {
    columns: Vec<Column>,
    /// By name.
    places: BTreeMap<String, usize>,
    count: usize,
    /// Of the fields that are told now.
    group: Option<&'static str>,
    /// Room for names.
    scratch: String,
}

impl Rows {
    fn new(columns: &[(String, Kind)]) -> Self {
        let places = columns.iter().enumerate().map(|(at, (name, _))| (name.clone(), at));
        let places = places.collect();
        let columns = columns.iter().map(|(_, kind)| Column::new(*kind)).collect();
        Self { columns, places, count: 0, group: None, scratch: String::new() }
    }

    /// The values of a column, which gets one for this row.
    fn values(&mut self, key: &'static str, suffix: &str) -> &mut Values {
        self.scratch.clear();
        if let Some(group) = self.group {
            self.scratch.push_str(group);
            self.scratch.push('_');
        }
        self.scratch.push_str(key);
        self.scratch.push_str(suffix);
        let place = self.places.get(&self.scratch).expect("every field has a column");
        let column = &mut self.columns[*place];
        column.present.resize(self.count, 0);
        column.present.push(1);
        &mut column.values
    }

    fn put_number(&mut self, key: &'static str, number: i64) {
        match self.values(key, "") {
            Values::Numbers(numbers) => numbers.push(number),
            _ => unreachable!("{key} is a number"),
        }
    }

    fn put_text(&mut self, key: &'static str, suffix: &str, text: &[u8]) {
        match self.values(key, suffix) {
            Values::Texts(texts, ends) => {
                texts.extend_from_slice(text);
                ends.push(texts.len());
            }
            _ => unreachable!("{key} is a text"),
        }
    }
}

impl Fields for Rows {
    fn number<N: Copy + Display + TryInto<i64>>(&mut self, key: &'static str, number: N) {
        self.put_number(key, number.try_into().unwrap_or(i64::MAX));
    }

    fn optional(&mut self, key: &'static str, number: Option<i64>) {
        if let Some(number) = number {
            self.put_number(key, number);
        }
    }

    fn flag(&mut self, key: &'static str, is_set: bool) {
        match self.values(key, "") {
            Values::Flags(flags) => flags.push(is_set),
            _ => unreachable!("{key} is a flag"),
        }
    }

    fn moment(&mut self, key: &'static str, at_us: u64) {
        self.number(key, at_us);
    }

    fn id(&mut self, key: &'static str, id: ReservationId) {
        match self.values(key, "") {
            Values::Ids(ids) => ids.push(id.0),
            _ => unreachable!("{key} is an id"),
        }
    }

    fn text(&mut self, key: &'static str, text: &str) {
        self.put_text(key, "", text.as_bytes());
    }

    fn bytes(&mut self, key: &'static str, bytes: &[u8]) {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.text(key, text),
            Err(_) => {
                let hex = crate::audit::hex(bytes);
                self.put_text(key, "_hex", hex.as_bytes());
            }
        }
    }

    fn group(&mut self, key: &'static str, tell: impl FnOnce(&mut Self)) {
        self.group = Some(key);
        tell(self);
        self.group = None;
    }
}

/// Writes such a file.
pub(super) struct Parquet {
    rows: Rows,
    writer: SerializedFileWriter<BufWriter<File>>,
}

impl Parquet {
    /// Begins a file.
    ///
    /// # Errors
    /// The disk says no.
    pub(super) fn begin(file: File) -> io::Result<Self> {
        let columns = all();
        let schema = parse_message_type(&schema(&columns)).map_err(said)?;
        let (schema, properties) = (Arc::new(schema), Arc::new(properties(&columns)));
        let writer = SerializedFileWriter::new(BufWriter::new(file), schema, properties);
        Ok(Self { rows: Rows::new(&columns), writer: writer.map_err(said)? })
    }

    /// Appends an event.
    ///
    /// # Errors
    /// The disk says no.
    pub(super) fn put(&mut self, event: &Event<'_>, name: Option<CellName<'_>>) -> io::Result<()> {
        tell(&mut self.rows, event, name);
        self.rows.count += 1;
        if self.rows.count == GROUP_ROWS {
            self.write_group().map_err(said)?;
        }
        Ok(())
    }

    fn write_group(&mut self) -> Result<()> {
        let mut group = self.writer.next_row_group()?;
        let mut columns = self.rows.columns.iter_mut();
        while let Some(to) = group.next_column()? {
            let column = columns.next().expect("the schema has these columns");
            column.write(self.rows.count, to)?;
        }
        self.rows.count = 0;
        group.close().map(drop)
    }

    /// Ends the file of the events of a cluster from one number to the one before another.
    ///
    /// # Errors
    /// The disk says no.
    pub(super) fn finish(mut self, cluster_id: u64, (from, next): (u64, u64)) -> io::Result<File> {
        if self.rows.count > 0 {
            self.write_group().map_err(said)?;
        }
        for (key, value) in [
            ("stockd.cluster", format!("{cluster_id:016x}")),
            ("stockd.from", from.to_string()),
            ("stockd.next", next.to_string()),
            ("stockd.version", env!("CARGO_PKG_VERSION").to_owned()),
        ] {
            self.writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        let mut file = self.writer.into_inner().map_err(said)?;
        file.flush()?;
        file.into_inner().map_err(io::IntoInnerError::into_error)
    }
}

/// What the disk has said is inside.
fn said(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(error) => io::Error::other(error),
        },
        error => io::Error::other(error),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::Field;
    use serde_json::{Map, Value};
    use stockd_client::events::{
        CellChange, Checkpoint, Divergence, EventBody, EventKind, Finding, Naming, Note,
    };
    use stockd_client::{CellHandle, Code, OwnerLimits, Policy, UnixMillis};
    use stockd_protocol::event::CHECKPOINT_BYTES;
    use stockd_protocol::{Opcode, ShardId};

    use super::super::json;
    use super::*;

    /// An event of each shape, with numbers that show when one is taken for another.
    fn samples() -> Vec<Event<'static>> {
        let body = EventBody::Names { warehouse: b"BER", sku: b"mug" };
        let plain = Event {
            sequence: 0,
            index: 77,
            at_us: 1_700_000_000_400_001,
            shard: ShardId(0),
            principal: b"",
            kind: EventKind::CellDefined,
            id: None,
            note: None,
            deadline: None,
            change: None,
            has_details: false,
            body,
        };
        let after = Counts {
            on_hand: 300,
            reserved: -5,
            committed: 1 << 40,
            blocked: [1, 2, 3, 4],
            incoming: 6,
            in_transit: 7,
        };
        let delta = Counts { reserved: -2, in_transit: 3, ..Counts::default() };
        let changed = Event {
            kind: EventKind::Reserved,
            principal: b"sh\xffop",
            id: Some(ReservationId([9; 16])),
            note: Some(Note { reason: 3, reference: b"PO \"7\"" }),
            deadline: Some(UnixMillis(1_700_000_600_400)),
            change: Some(CellChange { cell: CellHandle(7), after, delta }),
            body: EventBody::Owner(b"ann"),
            ..plain
        };
        let (before, ruled) =
            (Policy::default(), Policy { frozen: true, reorder_point: Some(5), ..changed_rules() });
        let (sku, name) = (&b"m\xff"[..], &b"cup"[..]);
        let limits = OwnerLimits { holds_max: 1, units_max: 2, cool_down_ms: 3 };
        let told = |kind, body| Event { kind, body, ..plain };
        vec![
            plain,
            changed,
            Event { principal: b"shop", has_details: true, body: EventBody::None, ..changed },
            told(EventKind::PolicySet, EventBody::Policy { before, after: ruled }),
            told(EventKind::SkuDescribed, EventBody::Described { sku, scale: 3, title: name }),
            told(EventKind::SkuNamed, EventBody::Named { sku, naming: Naming::Rename, name }),
            told(EventKind::ReorderSet, EventBody::Reorder { sku, point: None }),
            told(EventKind::OwnerLimitsSet, EventBody::OwnerLimits(limits)),
            told(
                EventKind::CrossedDown,
                EventBody::Crossed { position: -1, point: Some(5), sku: name },
            ),
            told(EventKind::OutageGivenBack, EventBody::Outage(9)),
            told(EventKind::Checkpoint, EventBody::Checkpoint(Checkpoint::of(&CHECKPOINT))),
            told(EventKind::Diverged, EventBody::Diverged(DIVERGED)),
            told(
                EventKind::Refused,
                EventBody::Refused { opcode: Opcode::Reserve, code: Code::NO_STOCK, asked: 4 },
            ),
        ]
    }

    /// A number for each body: one of a new kind wants a sample here, and its fields want columns.
    fn number_of(body: &EventBody<'_>) -> usize {
        match body {
            EventBody::None => 0,
            EventBody::Names { .. } => 1,
            EventBody::Policy { .. } => 2,
            EventBody::Owner(_) => 3,
            EventBody::Described { .. } => 4,
            EventBody::Named { .. } => 5,
            EventBody::Reorder { .. } => 6,
            EventBody::OwnerLimits(_) => 7,
            EventBody::Crossed { .. } => 8,
            EventBody::Outage(_) => 9,
            EventBody::Refused { .. } => 10,
            EventBody::Checkpoint(_) => 11,
            EventBody::Diverged(_) => 12,
        }
    }

    /// All ones: whatever is in it is there.
    static CHECKPOINT: [u8; CHECKPOINT_BYTES] = checkpoint();

    const fn checkpoint() -> [u8; CHECKPOINT_BYTES] {
        let mut bytes = [0; CHECKPOINT_BYTES];
        // A number each: cells, active, confirmed, the first sum, and the event of the anchor.
        (bytes[0], bytes[4], bytes[12], bytes[20], bytes[164]) = (3, 4, 5, 6, 7);
        bytes
    }

    const DIVERGED: Divergence =
        Divergence { node: 2, index: 70, finding: Finding::Replay, cell: Some(CellHandle(3)) };

    fn changed_rules() -> Policy {
        Policy { oversell_limit: 11, buffer: 12, owner_max: 13, no_hold: true, ..Policy::default() }
    }

    /// A JSON object as columns have it.
    fn flat(object: &Map<String, Value>) -> BTreeMap<String, Value> {
        let mut flat = BTreeMap::new();
        for (key, value) in object {
            match value {
                Value::Object(inner) => {
                    flat.extend(inner.iter().map(|(name, v)| (format!("{key}_{name}"), v.clone())));
                }
                value => drop(flat.insert(key.clone(), value.clone())),
            }
        }
        flat.retain(|_, value| !value.is_null());
        flat
    }

    /// A field as JSON has it.
    fn json_of(field: &Field) -> Value {
        let moment = |us: &i64| super::super::moment::Moment(*us as u64).to_string().into();
        match field {
            Field::Null => Value::Null,
            Field::Bool(flag) => (*flag).into(),
            Field::Long(number) => (*number).into(),
            Field::Str(text) => text.as_str().into(),
            Field::TimestampMicros(us) => moment(us),
            Field::Bytes(id) => ReservationId(id.data().try_into().unwrap()).to_string().into(),
            other => panic!("no column has {other:?}"),
        }
    }

    #[test]
    fn rows_say_what_lines_say() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("events.parquet");
        let name = Some(CellName { warehouse: b"HAM", sku: b"cup" });
        let mut parquet = Parquet::begin(File::create(&path).unwrap()).unwrap();
        let (mut lines, samples) = (Vec::new(), samples());
        let bodies: BTreeSet<_> = samples.iter().map(|event| number_of(&event.body)).collect();
        assert!(bodies.into_iter().eq(0..=12), "a sample of each body");
        // More than a group has, so that one begins in the middle of the samples.
        let count = GROUP_ROWS + samples.len() / 2;
        for (sequence, sample) in (1..).zip(samples.iter().cycle().take(count)) {
            let event = Event { sequence, ..*sample };
            let name = name.filter(|_| event.change.is_some());
            json::put_line(&mut lines, &event, name);
            parquet.put(&event, name).unwrap();
        }
        parquet.finish(0xabc, (1, count as u64 + 1)).unwrap();

        let reader = SerializedFileReader::new(File::open(&path).unwrap()).unwrap();
        let metadata = reader.metadata().file_metadata();
        let told = metadata.key_value_metadata().unwrap().iter();
        let told: Vec<_> = told.map(|kv| (kv.key.as_str(), kv.value.as_deref().unwrap())).collect();
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            told,
            [
                ("stockd.cluster", "0000000000000abc"),
                ("stockd.from", "1"),
                ("stockd.next", &(count + 1).to_string()),
                ("stockd.version", version)
            ]
        );
        assert_eq!(reader.num_row_groups(), 2);
        let lines = std::str::from_utf8(&lines).unwrap().lines();
        let (mut rows, mut names) = (0, BTreeSet::new());
        for (row, line) in reader.get_row_iter(None).unwrap().zip(lines) {
            let row = row.unwrap();
            let row: BTreeMap<String, Value> =
                row.get_column_iter().map(|(name, field)| (name.clone(), json_of(field))).collect();
            let told: BTreeMap<_, _> = row.into_iter().filter(|(_, v)| !v.is_null()).collect();
            let line: Map<String, Value> = serde_json::from_str(line).unwrap();
            assert_eq!(told, flat(&line));
            names.extend(told.into_keys());
            rows += 1;
        }
        assert_eq!(rows, count);
        // No sample has these: bytes that are no text, but for two, and counters that none changes.
        let is_rare = |name: &str| {
            name.ends_with("_hex") || name.starts_with("delta_") || name == "before_reorder_point"
        };
        let columns = all().into_iter().map(|(name, _)| name);
        let unused: Vec<_> =
            columns.filter(|name| !names.contains(name) && !is_rare(name)).collect();
        assert_eq!(unused, [""; 0]);
    }
}
