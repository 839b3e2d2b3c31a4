//! What may go wrong, sorted by what the caller may do next.
//!
//! ```text
//! variant    executed?    do
//! Invalid    never sent   fix the request
//! Refused    no           read the refusal; the same request is refused again
//! Retry      no           send it later, or drop it
//! Unknown    perhaps      send it again under the SAME id, read the reservation, or release it
//! ```

use std::fmt;
use std::time::Duration;

use stockd_protocol::{
    Code, OpError, OwnerBound, ReservationState, ShortLine, TransferState, UnixMillis,
};

/// A call that has no result.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Error {
    /// The request cannot be sent as it is.
    Invalid(Invalid),
    /// The cluster decided against it. Not executed; but if an attempt before went unanswered, it may
    /// still be on its way, and a RESERVE that was refused for want of stock may be granted by it when
    /// there is some: to be certain, release the id, or set a `not_after`.
    Refused(Box<Refusal>),
    /// Time was up and no attempt can have been executed: safe to drop, or to send later.
    Retry(Why),
    /// Time was up and an attempt may have been executed, or may still be. Retry with the same id
    /// (for a reserve with [`Reserve::retry`](crate::Reserve::retry)), read the reservation, or
    /// release it: releasing an id that the cluster does not know fences it for good.
    Unknown(Why),
}

/// A request that this client does not send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Invalid {
    /// A batch holds no operation.
    EmptyBatch,
    /// The batch has 8,192 operations or a mebibyte.
    FullBatch,
    /// A batch holds writes or reads, not both.
    MixedBatch,
    /// Cells are all given by name or all by handle.
    MixedCells,
    /// A modifier does not go with what it was put on: a server would pass over it.
    Modifier {
        /// The method that was called.
        modifier: &'static str,
        /// The operation, or the other modifier.
        with: &'static str,
    },
    /// The operation's fields are out of range.
    Op(OpError),
}

/// A decision of the cluster against a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// How old the state may be that a stale read was refused on: zero for everything else, `None` if
    /// it is unknown.
    pub age: Option<Duration>,
    /// Why. [`Code::is_refusal`] for decisions about stock; 3xx for protocol and authorisation.
    pub code: Code,
    /// The log index at which it was decided; 0 if the whole frame was refused.
    pub index: u64,
    /// The lines, from 0, that are at fault: they name no cell (UNKNOWN_SKU, UNKNOWN_WAREHOUSE,
    /// NOT_STOCKED), one that takes no holds (FROZEN) or not from this owner (OWNER_LIMIT), or ask for
    /// more than is there (QTY_EXCEEDS).
    pub lines: Vec<u16>,
    /// For people; may be empty.
    pub message: String,
    /// Which limit of the owner is reached (OWNER_LIMIT).
    pub owner: Option<OwnerBound>,
    /// The cluster's clock at the decision; 0 if the whole frame was refused.
    pub server_now: UnixMillis,
    /// Every short cell of a NO_STOCK or WOULD_SHORT with what it has.
    pub short: Vec<ShortLine>,
    /// The state of the reservation, where it is the reason.
    pub state: Option<ReservationState>,
    /// The state of the transfer, where it is the reason (CONFLICT).
    pub transfer: Option<TransferState>,
    /// What is so instead: the units on hand (STALE_EXPECTED), the sequence of the last message of the
    /// feed (STALE_FEED), the units that the owner may yet take (OWNER_LIMIT, UNITS), the moment from
    /// which it may reserve again, on the cluster's clock (COOL_DOWN).
    pub value: Option<i64>,
}

/// What kept the last attempt from an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Why {
    /// Too many frames are unanswered on this side ([`WhenFull`](crate::WhenFull)).
    Full,
    /// The server said so: NOT_LEADER, BUSY, NO_QUORUM, OUTCOME_UNKNOWN or DISK_FULL; or a refusal
    /// that does not settle what became of an earlier attempt, such as ID_TOO_OLD.
    Code {
        /// Which.
        code: Code,
        /// When the server would have it again; zero if it does not say.
        retry_after: Duration,
    },
    /// The connection broke.
    Lost,
    /// A reply cannot be understood: not of this protocol version, or not to this request.
    BadReply,
    /// No reply came in time.
    Timeout,
    /// No node could be reached.
    Unreachable,
}

impl Error {
    /// The refusal, if it is one.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Refused(refusal) => Some(refusal),
            _ => None,
        }
    }

    /// The refusal's code, if it is one.
    pub fn code(&self) -> Option<Code> {
        self.refusal().map(|refusal| refusal.code)
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid)
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<OpError> for Invalid {
    fn from(error: OpError) -> Self {
        Self::Op(error)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Invalid(invalid) => write!(f, "not sent: {invalid}"),
            Self::Refused(refusal) => write!(f, "refused: {refusal}"),
            Self::Retry(why) => write!(f, "not executed, retry later: {why}"),
            Self::Unknown(why) => {
                write!(f, "perhaps executed, retry with the same id: {why}")
            }
        }
    }
}

impl fmt::Display for Invalid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyBatch => f.write_str("the batch holds no operation"),
            Self::FullBatch => f.write_str("the batch has 8,192 operations or a mebibyte"),
            Self::MixedBatch => f.write_str("a batch holds writes or reads, not both"),
            Self::MixedCells => f.write_str("cells are all given by name or all by handle"),
            Self::Modifier { modifier, with } => write!(f, "{modifier} does not go with {with}"),
            Self::Op(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.code)?;
        for short in &self.short {
            write!(f, ", line {} asks for {} of {}", short.line, short.asked, short.available)?;
        }
        for line in &self.lines {
            write!(f, ", line {line}")?;
        }
        let value = self.value.unwrap_or_default();
        match self.owner {
            None if self.value.is_none() => {}
            None => write!(f, ", it is {value}")?,
            Some(OwnerBound::Holds) => f.write_str(", it has as many reservations as it may")?,
            Some(OwnerBound::Units) => write!(f, ", it may take {value} units more")?,
            Some(OwnerBound::CoolDown) => {
                let left = value.saturating_sub(self.server_now.0 as i64).max(0);
                write!(f, ", it may reserve again in {left} ms")?;
            }
            Some(OwnerBound::Cell) => f.write_str(", the cell gives no more to one owner")?,
            Some(OwnerBound::Nameless) => {
                f.write_str(", the cell is sold to owners only: name one")?;
            }
        }
        if let Some(state) = self.transfer {
            write!(f, ", it is {}", state.name())?;
        }
        match self.message.as_str() {
            "" => write!(f, ": {}", self.code.advice()),
            message => write!(f, ": {message}"),
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Full => f.write_str("too many frames are unanswered"),
            Self::Code { code, .. } => write!(f, "{code}: {}", code.advice()),
            Self::Lost => f.write_str("the connection broke"),
            Self::BadReply => f.write_str("the reply cannot be understood"),
            Self::Timeout => f.write_str("no reply came in time"),
            Self::Unreachable => f.write_str("no node could be reached"),
        }
    }
}

impl std::error::Error for Error {}
impl std::error::Error for Invalid {}
impl std::error::Error for Refusal {}
