//! Result codes and what a client may do about them.

/// The code of an outcome or of an error reply.
///
/// Below 100 the operation took effect (now or earlier); 1xx is a refusal that the same request
/// meets again; 2xx may be sent again with the same id; 3xx is a protocol or authorisation fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Code(pub u16);

macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $advice:literal;)*) => {
        impl Code {
            $($(#[$doc])* pub const $name: Code = Code($number);)*

            /// Every code of this version, in order.
            pub const ALL: &'static [Code] = &[$(Code::$name),*];

            /// The code's name as documents write it, or `"UNKNOWN"`.
            pub const fn name(self) -> &'static str {
                match self.0 { $($number => stringify!($name),)* _ => "UNKNOWN" }
            }

            /// What it means and what to do next, in a sentence or a few.
            pub const fn advice(self) -> &'static str {
                match self.0 { $($number => $advice,)* _ => "a code of a newer protocol version" }
            }
        }
    };
}

codes! {
    /// Done.
    OK = 0, "done";
    /// Done before; the reply carries the present state.
    REPLAY = 1, "this id was executed before; the reply carries its present state";
    /// Done in part.
    OK_PARTIAL = 2, "done in part; the reply says which part";
    /// Confirmed after the deadline, inside the grace.
    OK_LATE = 3, "confirmed after the deadline but inside the grace period";
    /// Confirmed after expiry by taking the units again.
    OK_REACQUIRED = 4, "the units had expired and were taken again";
    /// Too few units.
    NO_STOCK = 100, "too few units; the reply lists every short line with its availability: ask for less, from elsewhere, or again when there is stock";
    /// The reservation has expired.
    HOLD_EXPIRED = 101, "the reservation has expired; reserve again under a new id";
    /// The reservation was released.
    HOLD_RELEASED = 102, "the reservation was released; reserve again under a new id";
    /// The reservation is confirmed.
    HOLD_CONFIRMED = 103, "the reservation is confirmed; cancel it instead";
    /// The reservation is not confirmed yet.
    NOT_CONFIRMED = 104, "confirm the reservation first";
    /// No such reservation.
    NOT_FOUND = 105, "no reservation, transfer or count has this id, or none that is still known; check the id, or begin again under a new one";
    /// The request contradicts what was done before.
    CONFLICT = 106, "it contradicts what is there. A step that was done with other quantities: count a new step. A reservation or a transfer of which units or all are over by now: read it. A name that another SKU has, or a transfer from one SKU to another: choose another";
    /// More than the reservation holds.
    QTY_EXCEEDS = 107, "more units than there are to move; the reply names the lines: read what is there, and ask for no more";
    /// The id was used with another body.
    ID_REUSED = 108, "this id was used with a different body; make a new id per request";
    /// The id is older than the retention, and not in the archive.
    ID_TOO_OLD = 109, "the id's time is too far back: it is never executed, and nobody knows any more whether it was; make a new id";
    /// The id lies in the future.
    CLOCK_SKEW = 110, "the id's time is too far in the future; check the client's clock and that ids are UUIDv7 or ULID";
    /// The expected value was another.
    STALE_EXPECTED = 111, "the value is not the expected one; read it again";
    /// A newer feed was applied.
    STALE_FEED = 112, "a newer feed was applied; drop this one";
    /// The change would make the cell short.
    WOULD_SHORT = 113, "the change would take units that are promised or withheld; the reply says how many are available: take no more, or say with TRUTH that it has happened";
    /// The cell is frozen.
    FROZEN = 114, "the cell is frozen: take another, or wait until it is not; or its units are sold only at once: reserve them with COMMIT";
    /// No such SKU.
    UNKNOWN_SKU = 115, "no such SKU; define the cell or receive stock first";
    /// No such warehouse.
    UNKNOWN_WAREHOUSE = 116, "no such warehouse; define the cell or receive stock first";
    /// The warehouse does not stock the SKU.
    NOT_STOCKED = 117, "the warehouse does not stock this SKU; define the cell first";
    /// A limit of the owner is reached: see [`OwnerBound`](crate::OwnerBound).
    OWNER_LIMIT = 118, "the owner has reached a limit, or the cell is sold to owners only; the detail says which (protocol.md, Owners): hold less, wait, or name the owner";
    /// The ttl is out of range.
    TTL_RANGE = 119, "ttl_ms must be 0 (default) or within 1,000 and 14,400,000, of a PIN 1,000 and 604,800,000; a cool-down is no longer than the retention";
    /// The reservation has reached its longest life.
    MAX_LIFE = 120, "the reservation has reached its longest life; confirm or release it";
    /// A counter would leave its range.
    OVERFLOW = 121, "something is full. A counter, or its sum over the warehouses, would leave ±(2^53 − 1): check the quantity. A reservation remembers as many steps as it can: move more units in each. A SKU has eight names beside its first: use one of them";
    /// Another operation of the linked batch failed.
    LINKED_FAILED = 122, "another operation of the linked batch was refused, so none of it was done; mend that one and send all of them again";
    /// `not_after` has passed. (What was done before it passed is still answered with REPLAY.)
    DEADLINE_PASSED = 123, "not_after has passed; the request did not and will not take effect: if it is still wanted, send it with a later one";
    /// Fewer units than `min_qty`.
    MIN_QTY = 124, "fewer units than min_quantity are there; accept fewer, or ask again when there is stock";
    /// The events are not there.
    EVENTS_GONE = 125, "these events are not on this node: it has removed them by age or size, or never had them; the message says from where on there are any. Ask another node, or begin again there and read the stock for what came before";
    /// The node keeps no events.
    NO_EVENTS = 126, "this node keeps no events; ask another one";
    /// The file is not there.
    FILE_GONE = 127, "the node cannot read this file of a backup: it has removed it, or never had it; ask for the list again";
    /// Ask the leader.
    NOT_LEADER = 200, "send it to the leader, whose address the reply carries if it is known";
    /// Too much to do.
    BUSY = 201, "a limit is reached; retry with the same id after retry_after_ms";
    /// No majority can be reached.
    NO_QUORUM = 202, "no majority of nodes can be reached; retry with the same id";
    /// The request may or may not have taken effect.
    OUTCOME_UNKNOWN = 203, "the request may have taken effect; retry with the same id and the RETRY flag";
    /// The disk is full.
    DISK_FULL = 204, "the node's disk is full; reads go on, writes resume when space is back; retry with the same id";
    /// The frame cannot be read.
    BAD_FRAME = 300, "the frame is malformed or its checksum is wrong; the connection closes: mend the client";
    /// No common version.
    VERSION = 301, "client and server share no protocol version; update the older of the two";
    /// Larger than a limit.
    TOO_LARGE = 302, "the frame or batch is over a limit stated in the hello, or the reply to a read would be: ask in several";
    /// Who are you?
    UNAUTHENTICATED = 303, "authenticate first";
    /// Not allowed.
    FORBIDDEN = 304, "this principal may not do that; ask somebody who may";
    /// The operation cannot be read.
    BAD_OP = 305, "the operation is unknown or malformed; it was not executed: mend the client, or update the server";
}

impl Code {
    /// The operation took effect, now or earlier.
    pub const fn is_ok(self) -> bool {
        self.0 < 100
    }

    /// The same request would be refused again: do not retry unchanged.
    pub const fn is_refusal(self) -> bool {
        self.0 >= 100 && self.0 < 200
    }

    /// Worth sending again, with the same id.
    pub const fn is_retry(self) -> bool {
        self.0 >= 200 && self.0 < 300
    }
}

impl std::fmt::Display for Code {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.name(), self.0)
    }
}
