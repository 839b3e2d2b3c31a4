//! A SKU's page against the model, which knows the cells of a SKU without any chain or sum.

use stockd_protocol::{CellCounters, Code, Reader, SkuTotal};

use crate::history::Answer;
use crate::model::{Counters, Model};

/// `answer` is a page of `sku` after the cell `after`, in the model's present state.
///
/// # Errors
/// Says what is different.
pub(crate) fn check(
    model: &Model,
    sku: &[u8],
    after: Option<u32>,
    answer: &Answer,
) -> Result<(), String> {
    let all = model.cells_of(sku);
    if all.is_empty() {
        return match answer.code {
            Code::UNKNOWN_SKU => Ok(()),
            code => Err(format!("{code} for a SKU that is not there")),
        };
    }
    let page = Page::decode(&answer.body).ok_or("not a page of a SKU")?;
    let cells = all.iter().map(|cell| model.counters(*cell));
    let total = cells.fold(Counters::default(), |total, cell| total.plus(&cell));
    agrees("the total", &page.total, total)?;
    let left: Vec<u32> = match after {
        None => all.to_vec(),
        Some(after) => all.iter().copied().skip_while(|cell| *cell != after).skip(1).collect(),
    };
    let handles: Vec<u32> = page.cells.iter().map(|cell| cell.0).collect();
    if !left.starts_with(&handles) || page.more != (handles.len() < left.len()) {
        return Err(format!("lists {handles:?}, more {}, there are {left:?}", page.more));
    }
    if page.more && handles.is_empty() {
        return Err("an empty page that says there is more".to_owned());
    }
    let mut reserved = 0;
    for (cell, warehouse, counters) in &page.cells {
        if model.names()[*cell as usize].0 != *warehouse {
            return Err(format!("cell #{cell} is in another warehouse than {warehouse:?}"));
        }
        agrees("a cell", counters, model.counters(*cell))?;
        reserved += counters.reserved;
    }
    if handles.len() == all.len() && page.total.reserved != reserved {
        return Err(format!("{} reserved in all, {reserved} in the cells", page.total.reserved));
    }
    Ok(())
}

/// The engine may still hold units that are due and that nobody has met.
fn agrees(what: &str, have: &CellCounters, want: Counters) -> Result<(), String> {
    let sums = have.available == have.on_hand - have.reserved - have.committed - want.withheld();
    let same = have.on_hand == want.on_hand && have.committed == want.committed;
    if sums && same && have.reserved >= want.reserved {
        return Ok(());
    }
    Err(format!("{what} has {have:?}, true is {want:?}"))
}

struct Page {
    more: bool,
    total: CellCounters,
    cells: Vec<(u32, Vec<u8>, CellCounters)>,
}

impl Page {
    fn decode(body: &[u8]) -> Option<Self> {
        let mut body = Reader::new(body);
        let head = SkuTotal::take(&mut body).ok()?;
        let mut cells = Vec::new();
        for _ in 0..head.cells {
            let warehouse = body.short_bytes().ok()?.to_vec();
            let (cell, _known) = (body.u32().ok()?, body.u32().ok()?);
            cells.push((cell, warehouse, CellCounters::take(&mut body).ok()?));
        }
        body.is_empty().then_some(Self { more: head.more, total: head.total, cells })
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use stockd::engine::EngineConfig;
    use stockd_protocol::{OpId, UnixMillis};

    use super::*;
    use crate::history::{Cell, Request};

    fn page(total: i64, cells: &[(&str, u32, i64)], more: bool) -> Answer {
        let counters = |on_hand| CellCounters { on_hand, available: on_hand, ..Default::default() };
        let mut body = BytesMut::new();
        let (count, total) = (cells.len() as u32, counters(total));
        SkuTotal { more, cells: count, total }.encode(&mut body);
        for (warehouse, cell, on_hand) in cells {
            body.put_u8(warehouse.len() as u8);
            body.put_slice(warehouse.as_bytes());
            body.put_u32_le(*cell);
            body.put_u32_le(1);
            counters(*on_hand).encode(&mut body);
        }
        let (code, body, server_now) = (Code::OK, body.to_vec(), UnixMillis(0));
        Answer { code, detail: 0, body, index: 1, server_now, age_ms: 0 }
    }

    #[test]
    fn a_wrong_page_is_noticed() {
        let mut model = Model::new(EngineConfig::default());
        for (number, (warehouse, sku, quantity)) in
            [("BER", "mug", 5), ("BER", "cup", 7), ("HAM", "mug", 2)].into_iter().enumerate()
        {
            let op_id = OpId::from_parts(0, [number as u8; 10]);
            let cell = Cell::name(warehouse, sku);
            model.execute(&Request::Receive { op_id, quantity, cell, define: true }, None);
        }
        let check = |after, answer| check(&model, b"mug", after, &answer);
        assert_eq!(check(None, page(7, &[("BER", 0, 5), ("HAM", 2, 2)], false)), Ok(()));
        assert_eq!(check(None, page(7, &[("BER", 0, 5)], true)), Ok(()));
        assert_eq!(check(Some(0), page(7, &[("HAM", 2, 2)], false)), Ok(()));
        for (after, wrong) in [
            (None, page(7, &[("BER", 0, 5)], false)),
            (None, page(7, &[], true)),
            (None, page(7, &[("HAM", 2, 2), ("BER", 0, 5)], false)),
            (None, page(7, &[("BER", 0, 5), ("BER", 2, 2)], false)),
            (None, page(7, &[("BER", 0, 5), ("HAM", 2, 3)], false)),
            (None, page(14, &[("BER", 0, 5), ("HAM", 2, 2)], false)),
            (None, page(7, &[("BER", 0, 5), ("BER", 1, 7)], true)),
            (Some(0), page(7, &[("BER", 0, 5), ("HAM", 2, 2)], false)),
            (Some(2), page(7, &[("HAM", 2, 2)], false)),
        ] {
            assert!(check(after, wrong).is_err());
        }
    }
}
