//! The limits of protocol version 1, each with its reason. A server states those it may lower in
//! its [`HelloReply`](crate::HelloReply).

/// Largest frame, header included. One mebibyte is 8,192 operations of 128 bytes: past that,
/// batching gains nothing and one frame would hold up its neighbours.
pub const FRAME_BYTES_MAX: u32 = (1 << 20) + 1024;
/// Largest reply frame, header included. A reply may be larger than its request: a mebibyte of
/// one-line reserves, every one refused for lack of stock, is answered with less than three. A read
/// whose reply would be larger is answered TOO_LARGE.
pub const REPLY_BYTES_MAX: u32 = 4 << 20;
/// Largest frame before the hello is done, so that strangers cost little memory.
pub const FRAME_BYTES_MAX_BEFORE_HELLO: u32 = 4096;
/// Most operations in one batch frame.
pub const BATCH_OPS_MAX: u32 = 8192;
/// Most operations linked to one another: readers of cells wait while a chain is undecided.
pub const LINKED_MAX: u32 = 1024;
/// Most lines in one reservation.
pub const LINES_MAX: u16 = 1024;
/// Most cells that may meet one line of a RESERVE_FROM: a chain's regional warehouses, or the nearest shops.
pub const WISH_CELLS_MAX: u8 = 64;
/// Most cells that a RESERVE_FROM names in all: as many as a read, so that one operation's look-ups are
/// bounded.
pub const WISHES_CELLS_MAX: u16 = 8192;
/// Most cells in one read.
pub const READ_CELLS_MAX: u16 = 8192;
/// Most cells on a page of LIST_CELLS, of at most 222 bytes each.
pub const LIST_CELLS_MAX: u16 = 1024;
/// Longest warehouse name.
pub const WAREHOUSE_BYTES_MAX: usize = 32;
/// Longest SKU name.
pub const SKU_BYTES_MAX: usize = 64;
/// An id that looks like a UUIDv4 is one unless its first 48 bits are a time from 2020 on
pub const ID_MS_MIN: u64 = 1_577_836_800_000;
/// and before 2040: see [`ReservationId::born`](crate::ReservationId::born).
pub const ID_MS_MAX: u64 = 2_208_988_800_000;
/// Longest name of an owner: a UUID as hex digits, or a hash of what tells one buyer from another.
pub const OWNER_BYTES_MAX: usize = 32;
/// Most reservations of one owner that are active or confirmed: a request of the owner's looks at all.
pub const OWNER_OPEN_MAX: u32 = 256;
/// An owner that has as many lines in them gets no more. What is paid too late (REACQUIRE) goes to twice as many of
/// either.
pub const OWNER_LINES_MAX: u32 = 4096;
/// Longest title of a SKU.
pub const TITLE_BYTES_MAX: usize = 64;
/// Largest scale of a SKU: a unit is then a billionth.
pub const SCALE_MAX: u8 = 9;
/// Most names that a SKU gets beyond its first.
pub const ALIASES_MAX: usize = 8;
/// Most crossings of reorder points that a cluster keeps: a day of a large shop.
pub const CROSSINGS_MAX: usize = 65_536;
/// Longest client name in a hello.
pub const CLIENT_NAME_BYTES_MAX: usize = 64;
/// Shortest and longest time to live of a reservation: one second to four hours.
pub const TTL_MS_MIN: u32 = 1_000;
/// See [`TTL_MS_MIN`].
pub const TTL_MS_MAX: u32 = 4 * 60 * 60 * 1_000;
/// What `ttl_ms = 0` means: ten minutes.
pub const TTL_MS_DEFAULT: u32 = 10 * 60 * 1_000;
/// Longest pin of a reservation: seven days, in which a bank transfer arrives.
pub const PIN_MS_MAX: u32 = 7 * 24 * 60 * 60 * 1_000;
/// Longest reference in a note: two UUIDs as text, or an order number with a prefix.
pub const REFERENCE_BYTES_MAX: usize = 64;
/// Most steps that a reservation remembers: every line moved in part a few times.
pub const STEPS_MAX: u32 = 4096;
/// A counter stays within ±(2⁵³ − 1), so that every language can hold it exactly.
pub const COUNTER_MAX: i64 = (1 << 53) - 1;
/// Selectors of a subscription: each is looked at for each event.
pub const SELECTORS_MAX: usize = 64;
/// Bytes of events that a subscriber may have granted and not got: more is taken for so much.
pub const CREDIT_BYTES_MAX: u32 = 1 << 20;
/// Most bytes of one BACKUP_READ: what a disk reads in a millisecond or two.
pub const BACKUP_READ_BYTES_MAX: u32 = 256 << 10;
