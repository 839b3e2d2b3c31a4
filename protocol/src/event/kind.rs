//! What kinds of events there are.

/// Declares the kinds once: number, name on paper, meaning.
macro_rules! kinds {
    ($($name:ident = $number:literal $text:literal: $doc:literal;)*) => {
        /// What has happened.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        pub enum EventKind {
            $(#[doc = $doc] $name = $number,)*
        }

        impl EventKind {
            /// All of them, by number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The inverse of `as u8`.
            pub const fn from_u8(number: u8) -> Option<Self> {
                Some(match number {
                    $($number => Self::$name,)*
                    _ => return None,
                })
            }

            /// As documents and filters write it.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

kinds! {
    CellDefined = 1 "CELL_DEFINED": "A cell was made; the body has its names.";
    Received = 2 "RECEIVED": "Units came in.";
    Adjusted = 3 "ADJUSTED": "Units were found, lost or written off.";
    Set = 4 "SET": "Somebody said how many units there are.";
    CountBegun = 5 "COUNT_BEGUN": "A count began; the id is its token.";
    Counted = 6 "COUNTED": "A count ended: what was counted differed by so much.";
    Moved = 7 "MOVED": "Units went from bucket to bucket.";
    Announced = 8 "ANNOUNCED": "Units are on order, or are not any more.";
    Arrived = 9 "ARRIVED": "Announced units came in.";
    Returned = 10 "RETURNED": "A customer sent units back.";
    TransferShipped = 11 "TRANSFER_SHIPPED": "Units left for another warehouse, or are in transit to this one.";
    TransferReceived = 12 "TRANSFER_RECEIVED": "Units of a transfer came in.";
    TransferClosed = 13 "TRANSFER_CLOSED": "What has not arrived of a transfer was given up.";
    TransferCancelled = 14 "TRANSFER_CANCELLED": "What has not arrived of a transfer is back where it came from.";
    PolicySet = 15 "POLICY_SET": "A cell has other rules; the body has them.";
    Reserved = 16 "RESERVED": "Units are held under a deadline, or promised at once.";
    Confirmed = 17 "CONFIRMED": "Held units are promised to an order.";
    Released = 18 "RELEASED": "Held units were given back.";
    Extended = 19 "EXTENDED": "A reservation has a later deadline.";
    Pinned = 20 "PINNED": "A reservation is pinned until a deadline.";
    Amended = 21 "AMENDED": "A reservation has other lines: the old ones go, the new ones come.";
    Cancelled = 22 "CANCELLED": "Promised units are free again.";
    Fulfilled = 23 "FULFILLED": "Promised units left the warehouse.";
    Expired = 24 "EXPIRED": "A reservation has run out; its units are free again.";
    Reclaimed = 25 "RECLAIMED": "The same, noticed because somebody else needed the units.";
    Fenced = 26 "FENCED": "An id that nobody knew was released: it can never be reserved.";
    Reacquired = 27 "REACQUIRED": "Units that had expired were taken again for who had held them.";
    SkuDescribed = 28 "SKU_DESCRIBED": "A SKU has a title and a scale; the body has them.";
    SkuNamed = 29 "SKU_NAMED": "A SKU has another name; the body has it.";
    ReorderSet = 30 "REORDER_SET": "A SKU has a reorder point, or none any more; the body has it.";
    OwnerLimitsSet = 31 "OWNER_LIMITS_SET": "Owners may hold so much; the body says how much.";
    CrossedDown = 32 "CROSSED_DOWN": "A position has sunk to its reorder point: time to order.";
    CrossedUp = 33 "CROSSED_UP": "A position has risen above its reorder point.";
    OutageGivenBack = 34 "OUTAGE_GIVEN_BACK": "All deadlines are later by the time in which nobody led.";
    Refused = 35 "REFUSED": "A request was refused, one of the sample of those that are told; the body says why.";
    Checkpoint = 36 "CHECKPOINT": "All counters summed up, and the chain of the events some way back.";
    Diverged = 37 "DIVERGED": "A node's state is not what the log makes of it, or not what others' are.";
}

/// Ways to group them, as filters write them.
impl EventKind {
    /// It is about a reservation.
    pub const fn is_of_hold(self) -> bool {
        let number = self as u8;
        number >= Self::Reserved as u8 && number <= Self::Reacquired as u8
    }

    /// The inverse of [`EventKind::name`], whatever the case.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }
}
