//! Operations as bytes.
//!
//! [`Op::encode`] writes any operation as it was decoded. The other functions build those that carry
//! lists, and those that are sent millions of times.

use bytes::{BufMut, BytesMut};

use crate::catalogue::put_short;
use crate::lists::{CellRef, Line, Part, put_name, put_parts};
use crate::op::{Op, OpError, Terms};
use crate::opcode::{OpFlags, Opcode};
use crate::stock::put_point;
use crate::wishes::{Rules, Wish, put_wishes};
use crate::{CellHandle, OpId, ReservationId, UnixMillis, limits};

impl Op<'_> {
    /// Appends the operation.
    ///
    /// # Panics
    /// A name, a reference or a number is out of the protocol's range.
    pub fn encode(&self, out: &mut BytesMut, terms: &Terms<'_>) {
        let (count, names) = self.count_and_names();
        let flags = terms.flags.without(OpFlags::NAMES).with(names);
        begin(out, self.opcode(), count, &Terms { flags, ..*terms }, |out| self.put(out));
    }

    fn count_and_names(&self) -> (u16, OpFlags) {
        let names = |named: bool| if named { OpFlags::NAMES } else { OpFlags(0) };
        match self {
            Self::Define { cell }
            | Self::Receive { cell, .. }
            | Self::Adjust { cell, .. }
            | Self::Set { cell, .. }
            | Self::CountBegin { cell, .. }
            | Self::Move { cell, .. }
            | Self::Announce { cell, .. }
            | Self::Arrive { cell, .. }
            | Self::Return { cell, .. }
            | Self::SetPolicy { cell, .. } => (0, cell.names_flag()),
            Self::TransferShip { from, to, .. } => {
                assert!(from.names_flag() == to.names_flag(), "cells mix names and handles");
                (0, from.names_flag())
            }
            Self::Reserve { lines, .. } | Self::Amend { lines, .. } => {
                (lines.len() as u16, names(lines.is_named()))
            }
            Self::ReserveFrom { wishes, .. } => (wishes.len() as u16, names(wishes.is_named())),
            Self::Confirm { parts, .. }
            | Self::Release { parts, .. }
            | Self::Cancel { parts, .. }
            | Self::Fulfil { parts, .. } => (parts.len() as u16, OpFlags(0)),
            Self::ReadCells { cells } | Self::ReadDetails { cells } => {
                (cells.len() as u16, names(cells.is_named()))
            }
            Self::ListCells(listing) | Self::ListSkus(listing) => (listing.count, OpFlags(0)),
            Self::ReadCrossings { count, .. } => (*count, OpFlags(0)),
            _ => (0, OpFlags(0)),
        }
    }

    fn put(&self, out: &mut BytesMut) {
        match self {
            Self::Define { cell } => cell.put(out),
            Self::Receive { op_id, quantity, cell } => {
                out.put_slice(&op_id.0);
                out.put_u32_le(*quantity);
                cell.put(out);
            }
            Self::Adjust { op_id, delta, cell } | Self::Announce { op_id, delta, cell } => {
                out.put_slice(&op_id.0);
                out.put_i64_le(*delta);
                cell.put(out);
            }
            Self::Set { op_id, on_hand, guard, cell } => {
                out.put_slice(&op_id.0);
                out.put_i64_le(*on_hand);
                guard.put(out);
                cell.put(out);
            }
            Self::CountBegin { op_id, cell } => {
                out.put_slice(&op_id.0);
                cell.put(out);
            }
            Self::CountCommit { op_id, token, counted } => {
                out.put_slice(&op_id.0);
                out.put_slice(&token.0);
                out.put_i64_le(*counted);
            }
            Self::Move { op_id, from, to, quantity, cell } => {
                out.put_slice(&op_id.0);
                out.put_u8(*from as u8);
                out.put_u8(*to as u8);
                out.put_u32_le(*quantity);
                cell.put(out);
            }
            Self::Arrive { op_id, quantity, bucket, cell }
            | Self::Return { op_id, quantity, bucket, cell } => {
                out.put_slice(&op_id.0);
                out.put_u32_le(*quantity);
                out.put_u8(*bucket as u8);
                cell.put(out);
            }
            Self::TransferShip { op_id, quantity, from, to } => {
                out.put_slice(&op_id.0);
                out.put_u32_le(*quantity);
                from.put(out);
                to.put(out);
            }
            Self::TransferReceive { op_id, transfer, good, damaged } => {
                out.put_slice(&op_id.0);
                out.put_slice(&transfer.0);
                out.put_u32_le(*good);
                out.put_u32_le(*damaged);
            }
            Self::TransferClose { transfer }
            | Self::TransferCancel { transfer }
            | Self::ReadTransfer { transfer } => out.put_slice(&transfer.0),
            Self::SetPolicy { op_id, change, cell } => {
                out.put_slice(&op_id.0);
                change.put(out);
                cell.put(out);
            }
            Self::Reserve { id, ttl_ms, lines } => {
                out.put_slice(&id.0);
                out.put_u32_le(*ttl_ms);
                lines.put(out);
            }
            Self::Confirm { id, parts }
            | Self::Release { id, parts }
            | Self::Cancel { id, parts }
            | Self::Fulfil { id, parts } => {
                out.put_slice(&id.0);
                parts.put(out);
            }
            Self::Extend { id, ttl_ms } | Self::Pin { id, ttl_ms } => {
                out.put_slice(&id.0);
                out.put_u32_le(*ttl_ms);
            }
            Self::Amend { id, step, lines } => {
                out.put_slice(&id.0);
                out.put_u32_le(*step);
                lines.put(out);
            }
            Self::ReserveFrom { id, ttl_ms, wishes } => {
                out.put_slice(&id.0);
                out.put_u32_le(*ttl_ms);
                wishes.put(out);
            }
            Self::ReadCells { cells } | Self::ReadDetails { cells } => cells.put(out),
            Self::ReadReservation { id } | Self::ReadLines { id } => out.put_slice(&id.0),
            Self::ReadSku { after, sku } => {
                out.put_u32_le(after.map_or(u32::MAX, |cell| cell.0));
                put_name(out, sku, limits::SKU_BYTES_MAX);
            }
            Self::ListCells(listing) => listing.put(out),
            Self::SetOwnerLimits { op_id, limits } => {
                out.put_slice(&op_id.0);
                limits.encode(out);
            }
            Self::DescribeSku { op_id, scale, title, sku } => {
                assert!(title.len() <= limits::TITLE_BYTES_MAX, "a title has at most 64 bytes");
                out.put_slice(&op_id.0);
                out.put_u8(*scale);
                put_short(out, title);
                put_name(out, sku, limits::SKU_BYTES_MAX);
            }
            Self::NameSku { op_id, naming, sku, name } => {
                out.put_slice(&op_id.0);
                out.put_u8(*naming as u8);
                put_name(out, sku, limits::SKU_BYTES_MAX);
                put_name(out, name, limits::SKU_BYTES_MAX);
            }
            Self::SetReorder { op_id, point, sku } => {
                let most = limits::COUNTER_MAX;
                assert!((0..=most).contains(&point.unwrap_or(0)), "a point is within range");
                out.put_slice(&op_id.0);
                put_point(out, *point);
                put_name(out, sku, limits::SKU_BYTES_MAX);
            }
            Self::ListSkus(listing) => listing.put_of_skus(out),
            Self::ReadCrossings { from, count } => {
                assert!((1..=limits::LIST_CELLS_MAX).contains(count), "1 to 1,024 crossings");
                out.put_u64_le(*from);
            }
            Self::ReadOwner { owner } => put_name(out, owner, limits::OWNER_BYTES_MAX),
            Self::ReadCatalogue { sku } => put_name(out, sku, limits::SKU_BYTES_MAX),
            Self::Ping | Self::ClusterStatus => {}
        }
    }

    /// Appends DEFINE.
    pub fn encode_define(out: &mut BytesMut, warehouse: &[u8], sku: &[u8]) {
        let cell = CellRef::Name { warehouse, sku };
        Op::Define { cell }.encode(out, &Terms::default());
    }

    /// Appends RECEIVE. `flags` may hold DEFINE and RETRY.
    pub fn encode_receive(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        op_id: OpId,
        cell: CellRef<'_>,
        quantity: u32,
    ) {
        let terms = Terms { flags, not_after, note: None };
        Op::Receive { op_id, quantity, cell }.encode(out, &terms);
    }

    /// Appends RESERVE. All lines name their cells in the same way.
    ///
    /// # Panics
    /// No lines, more than 1,024, or names mixed with handles.
    #[inline]
    pub fn encode_reserve(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        id: ReservationId,
        ttl_ms: u32,
        lines: &[Line<'_>],
    ) {
        Self::encode_reserve_on(out, &Terms { flags, not_after, note: None }, id, ttl_ms, lines);
    }

    /// As [`Op::encode_reserve`], with all that may stand around an operation.
    ///
    /// # Panics
    /// As [`Op::encode_reserve`], and if the note's reference is too long.
    pub fn encode_reserve_on(
        out: &mut BytesMut,
        terms: &Terms<'_>,
        id: ReservationId,
        ttl_ms: u32,
        lines: &[Line<'_>],
    ) {
        encode_with_lines(out, Opcode::Reserve, terms, (id, ttl_ms), lines);
    }

    /// Appends RESERVE_FROM. All cells are named in the same way.
    ///
    /// # Errors
    /// Too many cells, or too many parts that the lines may be split into; nothing is appended.
    ///
    /// # Panics
    /// No wishes or more than 1,024; or a wish without cells, with more than 64, without units, or with
    /// more at least than at most; or names mixed with handles; or an owner of more than 32 bytes.
    pub fn encode_reserve_from(
        out: &mut BytesMut,
        terms: &Terms<'_>,
        id: ReservationId,
        ttl_ms: u32,
        rules: Rules<'_>,
        wishes: &[Wish<'_>],
    ) -> Result<(), OpError> {
        let lines = wishes.len();
        assert!((1..=usize::from(limits::LINES_MAX)).contains(&lines), "1 to 1,024 lines");
        let mut cells = wishes.iter().flat_map(|wish| wish.cells);
        let names = wishes[0].cells[0].names_flag();
        assert!(cells.all(|cell| cell.names_flag() == names), "cells mix names and handles");
        let terms = Terms { flags: terms.flags.with(names), ..*terms };
        let (start, mut put) = (out.len(), Ok(()));
        begin(out, Opcode::ReserveFrom, lines as u16, &terms, |out| {
            out.put_slice(&id.0);
            out.put_u32_le(ttl_ms);
            put = put_wishes(out, rules, wishes);
        });
        if put.is_err() {
            out.truncate(start);
        }
        put
    }

    /// Appends AMEND. All lines name their cells in the same way.
    ///
    /// # Panics
    /// No lines, more than 1,024, names mixed with handles, or a step of 0.
    pub fn encode_amend(
        out: &mut BytesMut,
        terms: &Terms<'_>,
        id: ReservationId,
        step: u32,
        lines: &[Line<'_>],
    ) {
        assert!(step > 0, "steps count from 1");
        encode_with_lines(out, Opcode::Amend, terms, (id, step), lines);
    }

    /// Appends CONFIRM, RELEASE, CANCEL or FULFIL of some lines, or of some of their units.
    ///
    /// # Panics
    /// Another opcode; no parts, more than 1,024, a quantity of 0, lines that do not ascend, or a step
    /// of 0.
    pub fn encode_parts(
        out: &mut BytesMut,
        opcode: Opcode,
        terms: &Terms<'_>,
        id: ReservationId,
        step: u32,
        parts: &[Part],
    ) {
        use Opcode::{Cancel, Confirm, Fulfil, Release};
        assert!(matches!(opcode, Cancel | Confirm | Fulfil | Release), "{opcode:?} has no parts");
        begin(out, opcode, parts.len() as u16, terms, |out| {
            out.put_slice(&id.0);
            put_parts(out, step, parts);
        });
    }

    /// Appends CONFIRM of the whole.
    #[inline]
    pub fn encode_confirm(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        id: ReservationId,
    ) {
        let terms = Terms { flags, not_after, note: None };
        begin(out, Opcode::Confirm, 0, &terms, |out| out.put_slice(&id.0));
    }

    /// Appends RELEASE of the whole.
    #[inline]
    pub fn encode_release(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        id: ReservationId,
    ) {
        let terms = Terms { flags, not_after, note: None };
        begin(out, Opcode::Release, 0, &terms, |out| out.put_slice(&id.0));
    }

    /// Appends EXTEND.
    pub fn encode_extend(
        out: &mut BytesMut,
        flags: OpFlags,
        not_after: Option<UnixMillis>,
        id: ReservationId,
        ttl_ms: u32,
    ) {
        Op::Extend { id, ttl_ms }.encode(out, &Terms { flags, not_after, note: None });
    }

    /// Appends READ_CELLS. All cells are named in the same way.
    ///
    /// # Panics
    /// No cells, more than 8,192, or names mixed with handles.
    pub fn encode_read_cells(out: &mut BytesMut, flags: OpFlags, cells: &[CellRef<'_>]) {
        put_refs(out, Opcode::ReadCells, flags, cells);
    }

    /// Appends READ_DETAILS. All cells are named in the same way.
    ///
    /// # Panics
    /// No cells, more than 8,192, or names mixed with handles.
    pub fn encode_read_details(out: &mut BytesMut, flags: OpFlags, cells: &[CellRef<'_>]) {
        put_refs(out, Opcode::ReadDetails, flags, cells);
    }

    /// Appends READ_RESERVATION.
    pub fn encode_read_reservation(out: &mut BytesMut, flags: OpFlags, id: ReservationId) {
        Op::ReadReservation { id }.encode(out, &Terms { flags, ..Terms::default() });
    }

    /// Appends READ_SKU.
    pub fn encode_read_sku(
        out: &mut BytesMut,
        flags: OpFlags,
        after: Option<CellHandle>,
        sku: &[u8],
    ) {
        Op::ReadSku { after, sku }.encode(out, &Terms { flags, ..Terms::default() });
    }

    /// Appends PING.
    pub fn encode_ping(out: &mut BytesMut) {
        Op::Ping.encode(out, &Terms::default());
    }

    /// Appends CLUSTER_STATUS.
    pub fn encode_cluster_status(out: &mut BytesMut) {
        Op::ClusterStatus.encode(out, &Terms::default());
    }
}

fn put_refs(out: &mut BytesMut, opcode: Opcode, flags: OpFlags, cells: &[CellRef<'_>]) {
    let count = cells.len();
    assert!((1..=usize::from(limits::READ_CELLS_MAX)).contains(&count), "1 to 8,192 cells");
    let names = cells[0].names_flag();
    let terms = Terms { flags: flags.with(names), ..Terms::default() };
    begin(out, opcode, count as u16, &terms, |out| {
        for cell in cells {
            assert!(cell.names_flag() == names, "cells mix names and handles");
            cell.put(out);
        }
    });
}

/// RESERVE and AMEND: an id, a number of the operation's own, lines.
#[inline]
fn encode_with_lines(
    out: &mut BytesMut,
    opcode: Opcode,
    terms: &Terms<'_>,
    (id, number): (ReservationId, u32),
    lines: &[Line<'_>],
) {
    let terms = Terms { flags: terms.flags.with(names_of(lines)), ..*terms };
    begin(out, opcode, lines.len() as u16, &terms, |out| {
        out.put_slice(&id.0);
        out.put_u32_le(number);
        put_lines(out, lines);
    });
}

fn names_of(lines: &[Line<'_>]) -> OpFlags {
    assert!(
        (1..=usize::from(limits::LINES_MAX)).contains(&lines.len()),
        "a reservation has 1 to 1,024 lines"
    );
    let names = lines[0].cell.names_flag();
    let same = lines.iter().all(|line| line.cell.names_flag() == names);
    assert!(same, "lines mix names and handles");
    names
}

fn put_lines(out: &mut BytesMut, lines: &[Line<'_>]) {
    for line in lines {
        line.cell.put(out);
        out.put_u32_le(line.quantity);
    }
}

/// Header, terms and body. The flags NOT_AFTER and NOTE follow from the terms.
#[inline]
fn begin(
    out: &mut BytesMut,
    opcode: Opcode,
    count: u16,
    terms: &Terms<'_>,
    body: impl FnOnce(&mut BytesMut),
) {
    let mut flags = terms.flags.without(OpFlags::NOT_AFTER.with(OpFlags::NOTE));
    if terms.not_after.is_some() {
        flags = flags.with(OpFlags::NOT_AFTER);
    }
    if terms.note.is_some() {
        flags = flags.with(OpFlags::NOTE);
    }
    let start = out.len();
    out.put_u8(opcode as u8);
    out.put_u8(flags.0);
    out.put_u16_le(count);
    out.put_u32_le(0);
    if let Some(not_after) = terms.not_after {
        out.put_u64_le(not_after.0);
    }
    if let Some(note) = terms.note {
        note.put(out);
    }
    body(out);
    let len = (out.len() - start - Op::HEADER_BYTES) as u32;
    out[start + 4..start + 8].copy_from_slice(&len.to_le_bytes());
}
