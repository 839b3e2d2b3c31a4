//! `stockd export`: the cells of a cluster into a file, while sales go on.
//!
//! ```text
//! LIST_CELLS, page by page ─▶ FILE.part ─▶ FILE
//!                              └ FILE.export: how far, and what was asked for
//! ```
//!
//! An export that was killed goes on where it was when it is started again: the part is cut back to what
//! FILE.export vouches for, so that no cell is in it twice.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use csv_core::{WriteResult, Writer};
use serde::{Deserialize, Serialize};
use stockd_client::{Client, Consistency, Error, ListCells, NamedCell, Options};

use super::client::{CLIENT_ADDRESS, cluster_of, connect};
use super::load::Format;
use super::progress::Progress;
use super::{Done, lock_alone};
use crate::world::{Clock, RealClock};

/// How long a cluster may be away before the export stops.
const PATIENCE: Duration = Duration::from_secs(60);

/// Bytes between two states of FILE.export: as much is written again after a kill, at most.
const SAVE_BYTES: u64 = 1 << 20;

/// `stockd export`.
#[derive(Args)]
#[command(after_help = "\
The file has a row for each cell: its names, its counters and its rules. On_hand is in the column quantity, so \
that `stockd load --as set --feed N` reads it back, and nothing else of the row. Each row is of one moment; the \
file as a whole is not, unless nothing is sold meanwhile. Run the same command again after whatever happened, \
and it goes on where it was.

Examples:
  stockd export stock.csv
  stockd export berlin.ndjson --warehouse BER
  stockd export reorder.csv --low                 what is at its reorder point")]
pub(super) struct Export {
    /// The file; it must not be there yet.
    file: PathBuf,
    /// A node of the cluster; may be given several times. The leader is found from any of them.
    #[arg(long = "node", value_name = "ADDR", default_value = CLIENT_ADDRESS)]
    nodes: Vec<String>,
    /// How the file is written [default: by its name: .csv, .ndjson or .jsonl]
    #[arg(long, value_enum)]
    format: Option<Format>,
    /// Only warehouses whose name begins so.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    warehouse: String,
    /// Only SKUs whose name begins so.
    #[arg(long, value_name = "PREFIX", default_value = "")]
    sku: String,
    /// Only cells at or below their reorder point.
    #[arg(long)]
    low: bool,
}

/// What FILE.export says.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    asked: Asked,
    /// Where the next page begins.
    next: u32,
    /// Bytes of FILE.part up to there.
    bytes: u64,
    /// Rows up to there.
    rows: u64,
}

/// What tells this export from others.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Asked {
    cluster: u64,
    format: String,
    warehouse: String,
    sku: String,
    low: bool,
}

impl Export {
    pub(super) fn run(self) -> Done {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|error| format!("cannot start: {error}"))?;
        runtime.block_on(self.export())
    }

    async fn export(self) -> Done {
        let format = Format::of(&self.file, self.format)?;
        if self.file.try_exists().map_err(|error| said(&self.file, &error))? {
            return Err(format!("{} is there already; take another name", self.file.display()));
        }
        let options =
            Options { client_name: "stockd-export".to_owned(), ..Options::new(&self.nodes) };
        let client = connect(options).await?;
        let asked = Asked {
            cluster: cluster_of(&client)?,
            format: format!("{format:?}"),
            warehouse: self.warehouse.clone(),
            sku: self.sku.clone(),
            low: self.low,
        };
        let mut part = Part::open(&self.file, asked)?;
        let clock: Arc<dyn Clock> = Arc::new(RealClock::new());
        let mut progress = Progress::new(clock);
        let written = self.write_all(&client, format, &mut part, &mut progress).await;
        progress.finish();
        written?;
        part.finish(&self.file)?;
        println!("cells      {}", part.state.rows);
        println!("file       {} ({} bytes)", self.file.display(), part.state.bytes);
        Ok(())
    }

    async fn write_all(
        &self,
        client: &Client,
        format: Format,
        part: &mut Part,
        progress: &mut Progress,
    ) -> Done {
        let list = ListCells::new()
            .warehouse_prefix(self.warehouse.as_str())
            .sku_prefix(self.sku.as_str());
        let list = if self.low { list.low() } else { list };
        let mut text = Vec::new();
        if part.state.bytes == 0 && format == Format::Csv {
            put_csv(&mut text, COLUMNS.iter().map(|name| name.as_bytes()));
        }
        loop {
            let from = part.state.next;
            let page = page(client, &list.clone().from(from)).await?;
            for cell in &page.cells {
                match format {
                    Format::Csv => put_row(&mut text, cell),
                    Format::Ndjson => put_object(&mut text, cell)?,
                }
            }
            // Behind the last cell there is nothing, however often one asks.
            let next = page.next.unwrap_or(u32::MAX);
            part.append(&text, page.cells.len() as u64, next)?;
            text.clear();
            progress.update("exporting", part.state.bytes, 0);
            if page.next.is_none() {
                return Ok(());
            }
        }
    }
}

/// Asks for a page until it is answered.
async fn page(client: &Client, list: &ListCells) -> Result<stockd_client::CellPage, String> {
    let until = tokio::time::Instant::now() + PATIENCE;
    loop {
        match client.list_cells(list, Consistency::Linearizable).await {
            Ok(read) => return Ok(read.value),
            Err(Error::Retry(_) | Error::Unknown(_)) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Err(error) => {
                return Err(format!(
                    "{error}; run the same command again, and it goes on from here"
                ));
            }
        }
    }
}

/// A file that is not finished.
struct Part {
    path: PathBuf,
    state_path: PathBuf,
    file: File,
    state: State,
    saved_bytes: u64,
}

impl Part {
    /// Opens the part of an export that was killed, cut back to what is known of it, or a new one.
    fn open(path: &Path, asked: Asked) -> Result<Self, String> {
        let beside = |end: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(end);
            PathBuf::from(name)
        };
        let (part, state_path) = (beside(".part"), beside(".export"));
        let file = OpenOptions::new().append(true).create(true).open(&part);
        let file = file.map_err(|error| said(&part, &error))?;
        lock_alone(&file, &part)?;
        let state = match fs::read(&state_path) {
            Ok(text) => serde_json::from_slice::<State>(&text).map_err(|error| {
                format!("{}: {error}; remove it to begin anew", state_path.display())
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                State { asked: asked.clone(), next: 0, bytes: 0, rows: 0 }
            }
            Err(error) => return Err(said(&state_path, &error)),
        };
        if state.asked != asked {
            return Err(format!(
                "{} belongs to an export of something else; remove it to begin anew",
                state_path.display()
            ));
        }
        let there = file.metadata().map_err(|error| said(&part, &error))?.len();
        if there < state.bytes {
            return Err(format!(
                "{} is shorter than {} says; remove both to begin anew",
                part.display(),
                state_path.display()
            ));
        }
        file.set_len(state.bytes).map_err(|error| said(&part, &error))?;
        let saved_bytes = state.bytes;
        let this = Self { path: part, state_path, file, state, saved_bytes };
        this.save()?;
        Ok(this)
    }

    /// Appends a page.
    fn append(&mut self, text: &[u8], rows: u64, next: u32) -> Done {
        self.file.write_all(text).map_err(|error| said(&self.path, &error))?;
        self.state.bytes += text.len() as u64;
        self.state.rows += rows;
        self.state.next = next;
        if self.state.bytes - self.saved_bytes >= SAVE_BYTES {
            self.file.sync_data().map_err(|error| said(&self.path, &error))?;
            self.save()?;
            self.saved_bytes = self.state.bytes;
        }
        Ok(())
    }

    /// Writes down how far the part is good. What it vouches for must be on the disk by now.
    fn save(&self) -> Done {
        let mut fresh = self.state_path.clone().into_os_string();
        fresh.push(".new");
        let fresh = PathBuf::from(fresh);
        let text = serde_json::to_vec(&self.state).expect("a state is plain data");
        let written = File::create(&fresh).and_then(|mut file| {
            file.write_all(&text)?;
            file.sync_data()?;
            fs::rename(&fresh, &self.state_path)
        });
        written.map_err(|error| said(&self.state_path, &error))
    }

    /// Gives the part its name. Its state goes first: a kill between the two costs an export, while a state
    /// that is left behind would be in the way of the next one of this name.
    fn finish(&self, path: &Path) -> Done {
        self.file.sync_data().map_err(|error| said(&self.path, &error))?;
        fs::remove_file(&self.state_path).map_err(|error| said(&self.state_path, &error))?;
        fs::rename(&self.path, path).map_err(|error| said(path, &error))
    }
}

fn said(path: &Path, error: &std::io::Error) -> String {
    format!("{}: {error}", path.display())
}

const COLUMNS: [&str; 20] = [
    "warehouse",
    "sku",
    "quantity",
    "reserved",
    "committed",
    "available",
    "damaged",
    "quality",
    "safety",
    "other",
    "incoming",
    "in_transit",
    "oversell_limit",
    "buffer",
    "reorder_point",
    "owner_max",
    "frozen",
    "untracked",
    "preorder",
    "no_hold",
];

/// The numbers of a row, in the order of the columns; `None`: there is none.
fn numbers(cell: &NamedCell) -> [Option<i64>; 14] {
    let (details, policy) = (&cell.details, &cell.details.policy);
    let [damaged, quality, safety, other] = details.blocked;
    [
        Some(details.counters.on_hand),
        Some(details.counters.reserved),
        Some(details.counters.committed),
        Some(details.counters.available),
        Some(damaged),
        Some(quality),
        Some(safety),
        Some(other),
        Some(details.incoming),
        Some(details.in_transit),
        Some(policy.oversell_limit),
        Some(policy.buffer),
        policy.reorder_point,
        Some(i64::from(policy.owner_max)),
    ]
}

fn flags(cell: &NamedCell) -> [bool; 4] {
    let policy = &cell.details.policy;
    [policy.frozen, policy.untracked, policy.preorder, policy.no_hold]
}

fn put_row(out: &mut Vec<u8>, cell: &NamedCell) {
    let numbers = numbers(cell).map(|number| number.map_or(String::new(), |n| n.to_string()));
    let flags = flags(cell).map(|flag| if flag { "1" } else { "0" });
    let names = [&cell.warehouse[..], &cell.sku[..]];
    let values = names.into_iter().chain(numbers.iter().map(|number| number.as_bytes()));
    put_csv(out, values.chain(flags.iter().map(|flag| flag.as_bytes())));
}

fn put_csv<'a>(out: &mut Vec<u8>, values: impl Iterator<Item = &'a [u8]>) {
    let mut writer = Writer::new();
    // A value at its longest: a name, with every byte a quote.
    let mut buffer = [0; 256];
    for (at, value) in values.enumerate() {
        if at > 0 {
            let (_, written) = writer.delimiter(&mut buffer);
            out.extend_from_slice(&buffer[..written]);
        }
        let (result, read, written) = writer.field(value, &mut buffer);
        assert!(
            result == WriteResult::InputEmpty && read == value.len(),
            "a value fits the buffer"
        );
        out.extend_from_slice(&buffer[..written]);
    }
    let (_, written) = writer.terminator(&mut buffer);
    out.extend_from_slice(&buffer[..written]);
}

fn put_object(out: &mut Vec<u8>, cell: &NamedCell) -> Done {
    let mut object = serde_json::Map::new();
    for (column, name) in COLUMNS.iter().zip([&cell.warehouse, &cell.sku]) {
        let name = std::str::from_utf8(name).map_err(|_| {
            let shown = crate::server::escape(name);
            format!("the name {shown} is not UTF-8, which JSON has no way to say; export as csv")
        })?;
        object.insert((*column).to_owned(), name.into());
    }
    let numbers = numbers(cell).map(serde_json::Value::from);
    let values = numbers.into_iter().chain(flags(cell).map(serde_json::Value::from));
    for (column, value) in COLUMNS[2..].iter().zip(values) {
        object.insert((*column).to_owned(), value);
    }
    serde_json::to_writer(&mut *out, &object).expect("plain data goes into memory");
    out.push(b'\n');
    Ok(())
}
