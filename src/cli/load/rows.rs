//! Reading rows of stock out of a file: one line, one row.

use std::io::{BufRead, Read};
use std::path::Path;

use clap::ValueEnum;
use csv_core::{ReadRecordResult, Reader};
use serde::Deserialize;
use stockd_protocol::limits::{COUNTER_MAX, SKU_BYTES_MAX, WAREHOUSE_BYTES_MAX};

/// Longest line: two names, escaped in the worst way, a number, and columns that nobody asked for.
const LINE_BYTES_MAX: u64 = 16 << 10;

/// How a file is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(in crate::cli) enum Format {
    /// Values with commas between, and a first line that names the columns.
    Csv,
    /// One JSON object a line.
    Ndjson,
}

impl Format {
    /// As asked for, or else by the file's name.
    pub(in crate::cli) fn of(file: &Path, asked: Option<Self>) -> Result<Self, String> {
        let by_name = file.extension().and_then(|end| match end.to_str()? {
            "csv" => Some(Self::Csv),
            "ndjson" | "jsonl" => Some(Self::Ndjson),
            _ => None,
        });
        asked
            .or(by_name)
            .ok_or_else(|| format!("{}: is it csv or ndjson? Say so with --format", file.display()))
    }
}

/// One row that can be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Row {
    pub warehouse: Vec<u8>,
    pub sku: Vec<u8>,
    pub quantity: i64,
}

/// A line of the file, counted from 1, and what it says or why it says nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Line {
    pub number: u64,
    pub row: Result<Row, String>,
}

/// The rows of a file.
pub(super) struct Rows<R> {
    input: R,
    format: Format,
    columns: Option<Columns>,
    fields: Fields,
    buffer: Vec<u8>,
    number: u64,
    /// Bytes that were read.
    pub bytes: u64,
}

/// Where the columns are that are asked for.
#[derive(Clone, Copy)]
struct Columns {
    warehouse: usize,
    sku: usize,
    quantity: usize,
}

#[derive(Deserialize)]
struct Object {
    warehouse: String,
    sku: String,
    quantity: i64,
}

impl<R: BufRead> Rows<R> {
    pub(super) fn new(input: R, format: Format) -> Self {
        let (fields, buffer) = (Fields::new(), Vec::new());
        Self { input, format, columns: None, fields, buffer, number: 0, bytes: 0 }
    }

    /// The next line that is not empty.
    ///
    /// # Errors
    /// The file cannot be read, or its first line does not name the columns.
    pub(super) fn next(&mut self) -> Result<Option<Line>, String> {
        loop {
            let Some(is_whole) = self.read_line()? else { return Ok(None) };
            while self.buffer.last().is_some_and(|byte| matches!(byte, b'\n' | b'\r')) {
                self.buffer.pop();
            }
            if self.buffer.is_empty() {
                continue;
            }
            let number = self.number;
            if !is_whole {
                let row = Err(format!("the line is longer than {LINE_BYTES_MAX} bytes"));
                return Ok(Some(Line { number, row }));
            }
            let row = match (self.format, self.columns) {
                (Format::Ndjson, _) => parse_json(&self.buffer),
                (Format::Csv, Some(columns)) => {
                    parse_csv(&mut self.buffer, &mut self.fields, columns)
                }
                (Format::Csv, None) => {
                    self.columns = Some(Columns::of(&mut self.buffer, &mut self.fields)?);
                    continue;
                }
            };
            return Ok(Some(Line { number, row }));
        }
    }

    /// Reads a line into the buffer; says whether it is all of it. Of one that is too long, the rest is
    /// passed over.
    fn read_line(&mut self) -> Result<Option<bool>, String> {
        self.buffer.clear();
        let failed = |error: std::io::Error| format!("cannot read the file: {error}");
        let mut limited = self.input.by_ref().take(LINE_BYTES_MAX);
        let read = limited.read_until(b'\n', &mut self.buffer).map_err(failed)?;
        if read == 0 {
            return Ok(None);
        }
        self.number += 1;
        self.bytes += read as u64;
        let is_whole = read < LINE_BYTES_MAX as usize || self.buffer.ends_with(b"\n");
        let mut ended = is_whole;
        while !ended {
            let there = self.input.fill_buf().map_err(failed)?;
            let end = there.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
            let passed = end.unwrap_or(there.len());
            ended = end.is_some() || there.is_empty();
            self.input.consume(passed);
            self.bytes += passed as u64;
        }
        Ok(Some(is_whole))
    }
}

impl Columns {
    fn of(line: &mut Vec<u8>, fields: &mut Fields) -> Result<Self, String> {
        // A mark of some editors, which is no part of the first name.
        if line.starts_with(b"\xef\xbb\xbf") {
            line.drain(..3);
        }
        let count = fields.split(line)?;
        let at = |wanted: &str| {
            let is =
                |at: &usize| fields.get(*at).trim_ascii().eq_ignore_ascii_case(wanted.as_bytes());
            (0..count).find(is).ok_or_else(|| {
                format!("the first line names no column {wanted}; it must name warehouse, sku and quantity")
            })
        };
        Ok(Self { warehouse: at("warehouse")?, sku: at("sku")?, quantity: at("quantity")? })
    }
}

/// The values of a line, in buffers that are used again.
struct Fields {
    reader: Reader,
    out: Vec<u8>,
    ends: Vec<usize>,
}

impl Fields {
    fn new() -> Self {
        Self { reader: Reader::new(), out: Vec::new(), ends: Vec::new() }
    }

    /// Takes a line apart; says how many values it has. The line gets its end back.
    fn split(&mut self, line: &mut Vec<u8>) -> Result<usize, String> {
        line.push(b'\n');
        let room = self.out.len().max(line.len() + 1);
        self.out.resize(room, 0);
        self.ends.resize(room, 0);
        self.reader.reset();
        let (result, read, _, count) = self.reader.read_record(line, &mut self.out, &mut self.ends);
        match result {
            ReadRecordResult::Record if read < line.len() => {
                Err("a carriage return inside the line, which ends one or the other row".to_owned())
            }
            ReadRecordResult::Record => Ok(count),
            _ => Err("a quote is not closed on its line".to_owned()),
        }
    }

    fn get(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.out[start..self.ends[at]]
    }
}

fn parse_csv(line: &mut Vec<u8>, fields: &mut Fields, columns: Columns) -> Result<Row, String> {
    let count = fields.split(line)?;
    let last = columns.warehouse.max(columns.sku).max(columns.quantity);
    if count <= last {
        return Err(format!("{count} values; there must be at least {}", last + 1));
    }
    let number = String::from_utf8_lossy(fields.get(columns.quantity));
    let number = number.trim();
    let quantity = number.parse().map_err(|_| format!("{number:?} is no number of units"))?;
    let (warehouse, sku) = (fields.get(columns.warehouse), fields.get(columns.sku));
    checked(Row { warehouse: warehouse.to_vec(), sku: sku.to_vec(), quantity })
}

fn parse_json(text: &[u8]) -> Result<Row, String> {
    let object: Object = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    let (warehouse, sku) = (object.warehouse.into_bytes(), object.sku.into_bytes());
    checked(Row { warehouse, sku, quantity: object.quantity })
}

fn checked(row: Row) -> Result<Row, String> {
    let name = |what: &str, name: &[u8], max: usize| match name.len() {
        0 => Err(format!("the {what} has no name")),
        len if len > max => {
            Err(format!("the name of the {what} has {len} bytes; it may have {max}"))
        }
        _ => Ok(()),
    };
    name("warehouse", &row.warehouse, WAREHOUSE_BYTES_MAX)?;
    name("SKU", &row.sku, SKU_BYTES_MAX)?;
    match row.quantity {
        0..=COUNTER_MAX => Ok(row),
        quantity => Err(format!("{quantity} units; a quantity is 0 to {COUNTER_MAX}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &[u8], format: Format) -> Vec<Line> {
        let mut rows = Rows::new(text, format);
        let lines = std::iter::from_fn(|| rows.next().unwrap()).collect();
        assert_eq!(rows.bytes, text.len() as u64);
        lines
    }

    fn row(warehouse: &str, sku: &str, quantity: i64) -> Result<Row, String> {
        Ok(Row { warehouse: warehouse.into(), sku: sku.into(), quantity })
    }

    #[test]
    fn columns_are_found_by_name_and_bad_lines_by_number() {
        let text = b"note,Quantity, sku ,warehouse\r\n\
            ,5,mug,BER\r\n\
            \n\
            \"a, \"\"b\"\"\", 7 ,\"large, red\",HAM\n\
            x,-1,mug,BER\n\
            x,many,mug,BER\n\
            x,1,,BER\n\
            x,1\n\
            x,1,\"mug,BER\n\
            ,0,hat,MUC";
        let lines = lines(text, Format::Csv);
        let numbers: Vec<u64> = lines.iter().map(|line| line.number).collect();
        assert_eq!(numbers, [2, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(lines[0].row, row("BER", "mug", 5));
        assert_eq!(lines[1].row, row("HAM", "large, red", 7));
        assert_eq!(lines[7].row, row("MUC", "hat", 0));
        for (line, why) in
            lines[2..7].iter().zip(["-1 units", "many", "no name", "2 values", "quote"])
        {
            let said = line.row.as_ref().unwrap_err();
            assert!(said.contains(why), "{said}");
        }
    }

    #[test]
    fn objects_are_lines() {
        let text =
            b"{\"sku\":\"mug\",\"warehouse\":\"BER\",\"quantity\":3,\"more\":[1]}\n{\"sku\":1}\n";
        let lines = lines(text, Format::Ndjson);
        assert_eq!(lines[0].row, row("BER", "mug", 3));
        assert!(lines[1].row.is_err());
    }

    #[test]
    fn a_line_without_an_end_costs_no_memory() {
        let mut text = b"warehouse,sku,quantity\n\"".to_vec();
        text.resize(1 << 20, b'x');
        text.extend_from_slice(b"\nBER,mug,1\n");
        let lines = lines(&text, Format::Csv);
        assert!(lines[0].row.as_ref().unwrap_err().contains("longer"));
        assert_eq!((lines[1].number, &lines[1].row), (3, &row("BER", "mug", 1)));
    }

    #[test]
    fn a_file_says_which_columns_it_has() {
        let mut rows = Rows::new(&b"BER,mug,5\n"[..], Format::Csv);
        assert!(rows.next().unwrap_err().contains("names no column warehouse"));
    }
}
