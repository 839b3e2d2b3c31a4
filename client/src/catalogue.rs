//! The catalogue: what SKUs are, and what they are called.

use bytes::BytesMut;
use stockd_protocol::{
    Code, Described, Naming, Note, Op, OpFlags, OpId, Opcode, Reader, Terms, Truncated, UnixMillis,
};

use crate::client::Client;
use crate::error::{Error, Invalid};
use crate::outcome::{Done, Outcome, Read};
use crate::request::{Consistency, Encoded};
use crate::writes::{encode_checked, terms};

/// A write to the catalogue, done once per `op_id`.
#[derive(Clone, Copy, Debug)]
pub struct CatalogueWrite<'a> {
    op: Op<'a>,
    terms: Terms<'a>,
}

impl<'a> CatalogueWrite<'a> {
    terms!();

    const fn new(op: Op<'a>) -> Self {
        let none = Terms { flags: OpFlags(0), not_after: None, note: None };
        Self { op, terms: none }
    }

    /// Says what a SKU is: a title of at most 64 bytes, and how many decimal digits (0 to 9) of what
    /// people count in a unit is.
    pub fn describe<N: AsRef<[u8]> + ?Sized>(
        op_id: OpId,
        sku: &'a N,
        title: &'a str,
        scale: u8,
    ) -> Self {
        let (title, sku) = (title.as_bytes(), sku.as_ref());
        Self::new(Op::DescribeSku { op_id, scale, title, sku })
    }

    /// Gives a SKU one more name, under which it is found, too. No other SKU may have it.
    pub fn alias<N: AsRef<[u8]> + ?Sized>(op_id: OpId, sku: &'a N, name: &'a N) -> Self {
        let (sku, name) = (sku.as_ref(), name.as_ref());
        Self::new(Op::NameSku { op_id, naming: Naming::Alias, sku, name })
    }

    /// The same, and the name is the one that is shown in lists from then on. The names before stay.
    pub fn rename<N: AsRef<[u8]> + ?Sized>(op_id: OpId, sku: &'a N, name: &'a N) -> Self {
        let (sku, name) = (sku.as_ref(), name.as_ref());
        Self::new(Op::NameSku { op_id, naming: Naming::Rename, sku, name })
    }

    /// Says when to order more of a SKU, over all warehouses: when its position is at or below `point`.
    pub fn reorder<N: AsRef<[u8]> + ?Sized>(op_id: OpId, sku: &'a N, point: Option<i64>) -> Self {
        Self::new(Op::SetReorder { op_id, point, sku: sku.as_ref() })
    }

    pub(crate) const fn opcode(&self) -> Opcode {
        self.op.opcode()
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) -> Result<(), Invalid> {
        encode_checked(&self.op, &self.terms, out)
    }
}

/// What the catalogue says about a SKU.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CatalogueEntry {
    /// A unit is 10⁻ˢᶜᵃˡᵉ of what people count in.
    pub scale: u8,
    /// For people; may be empty.
    pub title: String,
    /// Its reorder point over all warehouses.
    pub point: Option<i64>,
    /// What there is for orders to come, over all warehouses.
    pub position: i64,
    /// All its names, the one first that is shown in lists.
    pub names: Vec<Vec<u8>>,
}

impl Client {
    /// Says what a SKU is or when to order it, or gives it another name.
    ///
    /// # Errors
    /// See [`Error`]; CONFLICT: another SKU has that name. OVERFLOW: it has eight beside its first.
    pub async fn write_catalogue(&self, write: &CatalogueWrite<'_>) -> Result<Done, Error> {
        match self.one(Encoded::op(write.opcode(), |out| write.encode(out))?).await? {
            Outcome::Done(done) => Ok(done),
            _ => unreachable!("a write to the catalogue is decoded as Done"),
        }
    }

    /// Reads what a SKU is, by any of its names; `None` if there is none.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn read_catalogue(
        &self,
        sku: impl AsRef<[u8]>,
        consistency: Consistency,
    ) -> Result<Option<Read<CatalogueEntry>>, Error> {
        let op = Op::ReadCatalogue { sku: sku.as_ref() };
        let encode = |out: &mut BytesMut| encode_checked(&op, &consistency.terms(), out);
        match self.one(Encoded::op(Opcode::ReadCatalogue, encode)?).await {
            Ok(Outcome::Catalogue(read)) => Ok(Some(read)),
            Ok(_) => unreachable!("a read of the catalogue is decoded as Catalogue"),
            Err(error) if error.code() == Some(Code::UNKNOWN_SKU) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

pub(crate) fn take_entry(body: &mut Reader<'_>) -> Result<CatalogueEntry, Truncated> {
    let Described { scale, title, point, position, names } = Described::take(body)?;
    let title = String::from_utf8_lossy(title).into_owned();
    let names = names.into_iter().map(<[u8]>::to_vec).collect();
    Ok(CatalogueEntry { scale, title, point, position, names })
}
