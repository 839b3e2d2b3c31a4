//! Makes the cells of a run: one warehouse of its own, one RECEIVE per cell, over the same wire as
//! the load.

use bytes::{BufMut, Bytes, BytesMut};
use stockd_protocol::{
    CellRef, Code, Op, OpFlags, OpId, OwnerLimits, Reader, ReplyPrefix, Terms, take_outcome,
};

use crate::draw::mix;
use crate::link::LinkError;
use crate::progress::Progress;
use crate::session::Session;

/// Which cells to make.
#[derive(Clone, Debug)]
pub struct Cells {
    /// Their warehouse.
    pub warehouse: String,
    /// How many.
    pub count: u32,
    /// Units received into each; 0 only defines them.
    pub stock: u32,
    /// Milliseconds since 1970, for the ids of the receives.
    pub born_ms: u64,
}

const CELLS_PER_FRAME: u32 = 4_096;
const FRAMES_PER_WINDOW: usize = 4;

impl Cells {
    /// Makes the cells and returns their handles in order.
    ///
    /// # Errors
    /// No node answered, or one refused.
    pub async fn make(
        &self,
        session: &mut Session,
        progress: &Progress,
    ) -> Result<Vec<u32>, LinkError> {
        let mut handles = Vec::with_capacity(self.count as usize);
        let firsts: Vec<u32> = (0..self.count).step_by(CELLS_PER_FRAME as usize).collect();
        for window in firsts.chunks(FRAMES_PER_WINDOW) {
            let bodies: Vec<Bytes> = window.iter().map(|first| self.encode(*first)).collect();
            for reply in session.exchange(&bodies).await? {
                take_handles(&reply, &mut handles)?;
            }
            progress.at(handles.len() as u64, "cells");
        }
        assert!(handles.len() == self.count as usize, "every cell was answered");
        Ok(handles)
    }

    /// Says how much each owner may hold.
    ///
    /// # Errors
    /// No node answered, or one refused.
    pub async fn limit_owners(
        &self,
        session: &mut Session,
        limits: OwnerLimits,
    ) -> Result<(), LinkError> {
        let mut out = BytesMut::new();
        out.put_u32_le(1);
        let op_id = OpId::from_parts(self.born_ms, [0xff; 10]);
        Op::SetOwnerLimits { op_id, limits }.encode(&mut out, &Terms::default());
        let cut = |_| LinkError("a reply is cut short".into());
        for reply in session.exchange(&[out.freeze()]).await? {
            let mut reader = Reader::new(&reply);
            ReplyPrefix::take(&mut reader).and_then(|_| reader.u32()).map_err(cut)?;
            let code = take_outcome(&mut reader).map_err(cut)?.code;
            if !code.is_ok() {
                let advice = code.advice();
                return Err(LinkError(format!("the limits were refused: {code}: {advice}")));
            }
        }
        Ok(())
    }

    fn encode(&self, first: u32) -> Bytes {
        let last = self.count.min(first + CELLS_PER_FRAME);
        let mut out = BytesMut::new();
        out.put_u32_le(last - first);
        for cell in first..last {
            let sku = format!("sku-{cell:08}");
            let (warehouse, sku) = (self.warehouse.as_bytes(), sku.as_bytes());
            if self.stock == 0 {
                Op::encode_define(&mut out, warehouse, sku);
                continue;
            }
            let mut random = [0; 10];
            random[2..].copy_from_slice(&mix(u64::from(cell)).to_be_bytes());
            random[..4].copy_from_slice(&cell.to_be_bytes());
            let op_id = OpId::from_parts(self.born_ms, random);
            let name = CellRef::Name { warehouse, sku };
            Op::encode_receive(&mut out, OpFlags::DEFINE, None, op_id, name, self.stock);
        }
        out.freeze()
    }
}

fn take_handles(reply: &[u8], handles: &mut Vec<u32>) -> Result<(), LinkError> {
    let cut = |_| LinkError("a reply is cut short".into());
    let mut reader = Reader::new(reply);
    ReplyPrefix::take(&mut reader).map_err(cut)?;
    for _ in 0..reader.u32().map_err(cut)? {
        let outcome = take_outcome(&mut reader).map_err(cut)?;
        if outcome.code != Code::OK && outcome.code != Code::REPLAY {
            let advice = outcome.code.advice();
            return Err(LinkError(format!("a cell was refused: {}: {advice}", outcome.code)));
        }
        handles.push(Reader::new(outcome.body).u32().map_err(cut)?);
    }
    Ok(())
}
