//! Opcodes and flags.

/// Which operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Opcode {
    /// Make a cell.
    Define = 0x01,
    /// Add units.
    Receive = 0x02,
    /// Add or take units that were found, lost or written off.
    Adjust = 0x03,
    /// Say how many units there are.
    Set = 0x04,
    /// Begin to count a cell.
    CountBegin = 0x05,
    /// Say what was counted.
    CountCommit = 0x06,
    /// Move units between what is for sale and what is blocked.
    Move = 0x07,
    /// Say that units are on order, or are not any more.
    Announce = 0x08,
    /// Take in units that were announced.
    Arrive = 0x09,
    /// Take back units from a customer.
    Return = 0x0a,
    /// Send units to another warehouse.
    TransferShip = 0x0b,
    /// Take in units that another warehouse sent.
    TransferReceive = 0x0c,
    /// Give up what is still in transit.
    TransferClose = 0x0d,
    /// Put what is still in transit back where it came from.
    TransferCancel = 0x0e,
    /// Change the rules of a cell.
    SetPolicy = 0x0f,
    /// Take units under a deadline.
    Reserve = 0x10,
    /// Promise a reservation's units to an order.
    Confirm = 0x11,
    /// Give a reservation's units back.
    Release = 0x12,
    /// Move a reservation's deadline.
    Extend = 0x13,
    /// Keep a reservation from expiring for longer than a ttl allows.
    Pin = 0x14,
    /// Give a reservation other lines.
    Amend = 0x15,
    /// Take a promise back.
    Cancel = 0x16,
    /// Hand over what was promised.
    Fulfil = 0x17,
    /// Take units of lines that several cells may meet.
    ReserveFrom = 0x18,
    /// Say how much an owner may hold.
    SetOwnerLimits = 0x19,
    /// Say what a SKU is.
    DescribeSku = 0x1a,
    /// Give a SKU another name.
    NameSku = 0x1b,
    /// Say when to order more of a SKU.
    SetReorder = 0x1c,
    /// Read counters.
    ReadCells = 0x20,
    /// Read a reservation.
    ReadReservation = 0x21,
    /// Read a SKU over all warehouses.
    ReadSku = 0x22,
    /// Read all counters of cells, and their rules.
    ReadDetails = 0x23,
    /// Read what has become of each line of a reservation.
    ReadLines = 0x24,
    /// Read a transfer.
    ReadTransfer = 0x25,
    /// List cells by the beginning of their names.
    ListCells = 0x26,
    /// Read what an owner holds.
    ReadOwner = 0x27,
    /// Read what a SKU is, and what it is called.
    ReadCatalogue = 0x28,
    /// List SKUs by the beginning of their names.
    ListSkus = 0x29,
    /// Read which reorder points were crossed.
    ReadCrossings = 0x2a,
    /// Is anybody there?
    Ping = 0x30,
    /// Nodes, roles and progress.
    ClusterStatus = 0x31,
}

/// Opcodes below this change state.
const READS_FROM: u8 = 0x20;

impl Opcode {
    /// Every operation of this version, in order.
    pub const ALL: &'static [Self] = &[
        Self::Define,
        Self::Receive,
        Self::Adjust,
        Self::Set,
        Self::CountBegin,
        Self::CountCommit,
        Self::Move,
        Self::Announce,
        Self::Arrive,
        Self::Return,
        Self::TransferShip,
        Self::TransferReceive,
        Self::TransferClose,
        Self::TransferCancel,
        Self::SetPolicy,
        Self::Reserve,
        Self::Confirm,
        Self::Release,
        Self::Extend,
        Self::Pin,
        Self::Amend,
        Self::Cancel,
        Self::Fulfil,
        Self::ReserveFrom,
        Self::SetOwnerLimits,
        Self::DescribeSku,
        Self::NameSku,
        Self::SetReorder,
        Self::ReadCells,
        Self::ReadReservation,
        Self::ReadSku,
        Self::ReadDetails,
        Self::ReadLines,
        Self::ReadTransfer,
        Self::ListCells,
        Self::ReadOwner,
        Self::ReadCatalogue,
        Self::ListSkus,
        Self::ReadCrossings,
        Self::Ping,
        Self::ClusterStatus,
    ];

    /// Where each opcode is in [`Opcode::ALL`], plus one.
    const PLACES: [u8; 256] = {
        let mut places = [0; 256];
        let mut at = 0;
        while at < Self::ALL.len() {
            places[Self::ALL[at] as usize] = at as u8 + 1;
            at += 1;
        }
        places
    };

    #[inline]
    pub(crate) const fn from_u8(opcode: u8) -> Option<Self> {
        match Self::PLACES[opcode as usize] {
            0 => None,
            place => Some(Self::ALL[place as usize - 1]),
        }
    }

    /// As documents write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Define => "DEFINE",
            Self::Receive => "RECEIVE",
            Self::Adjust => "ADJUST",
            Self::Set => "SET",
            Self::CountBegin => "COUNT_BEGIN",
            Self::CountCommit => "COUNT_COMMIT",
            Self::Move => "MOVE",
            Self::Announce => "ANNOUNCE",
            Self::Arrive => "ARRIVE",
            Self::Return => "RETURN",
            Self::TransferShip => "TRANSFER_SHIP",
            Self::TransferReceive => "TRANSFER_RECEIVE",
            Self::TransferClose => "TRANSFER_CLOSE",
            Self::TransferCancel => "TRANSFER_CANCEL",
            Self::SetPolicy => "SET_POLICY",
            Self::Reserve => "RESERVE",
            Self::Confirm => "CONFIRM",
            Self::Release => "RELEASE",
            Self::Extend => "EXTEND",
            Self::Pin => "PIN",
            Self::Amend => "AMEND",
            Self::Cancel => "CANCEL",
            Self::Fulfil => "FULFIL",
            Self::ReserveFrom => "RESERVE_FROM",
            Self::SetOwnerLimits => "SET_OWNER_LIMITS",
            Self::DescribeSku => "DESCRIBE_SKU",
            Self::NameSku => "NAME_SKU",
            Self::SetReorder => "SET_REORDER",
            Self::ReadCells => "READ_CELLS",
            Self::ReadReservation => "READ_RESERVATION",
            Self::ReadSku => "READ_SKU",
            Self::ReadDetails => "READ_DETAILS",
            Self::ReadLines => "READ_LINES",
            Self::ReadTransfer => "READ_TRANSFER",
            Self::ListCells => "LIST_CELLS",
            Self::ReadOwner => "READ_OWNER",
            Self::ReadCatalogue => "READ_CATALOGUE",
            Self::ListSkus => "LIST_SKUS",
            Self::ReadCrossings => "READ_CROSSINGS",
            Self::Ping => "PING",
            Self::ClusterStatus => "CLUSTER_STATUS",
        }
    }

    /// The operation changes state and goes through the log.
    pub const fn is_write(self) -> bool {
        (self as u8) < READS_FROM
    }
}

/// Bits of an operation's flags byte. All are taken; some mean different things to different operations.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpFlags(pub u8);

impl OpFlags {
    /// The request may have been sent before: it always goes through the log.
    pub const RETRY: Self = Self(1);
    /// The body starts with `not_after`.
    pub const NOT_AFTER: Self = Self(2);
    /// Cells are given by name, not by handle.
    pub const NAMES: Self = Self(4);
    /// A stock write makes the cell if it is not there.
    pub const DEFINE: Self = Self(8);
    /// A read may be answered from this node's present state, whoever leads.
    pub const STALE: Self = Self(16);
    /// CONFIRM, FULFIL: what has expired is taken again if it is still there. (The bit of STALE.)
    pub const REACQUIRE: Self = Self(16);
    /// The next operation of the batch is linked to this one: all that are linked are done, or none.
    pub const LINKED: Self = Self(32);
    /// The body has a reason and a reference, after `not_after` if there is one.
    pub const NOTE: Self = Self(64);
    /// ADJUST, MOVE, TRANSFER_SHIP: it has happened, so record it even if it leaves the cell short.
    pub const TRUTH: Self = Self(128);
    /// FULFIL: what is not confirmed yet is confirmed on the way. (The bit of TRUTH.)
    pub const SHIP: Self = Self(128);
    /// RESERVE, RESERVE_FROM: the grant is confirmed at once and has no deadline. (The bit of TRUTH.)
    pub const COMMIT: Self = Self(128);

    /// All bits of `other` are set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Both sets of bits.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The bits of `self` that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}
