//! Events as one line of text, for people.

use std::fmt::{self, Write};

use super::{CellChange, Counts, Divergence, Event, EventBody};
use crate::id::{CellHandle, ReservationId};
use crate::stock::Policy;

/// Bytes that are mostly text, of which somebody else has chosen what is in them. In quotes if that is more than a
/// word: what follows it cannot be mistaken. In these `"` and `\` come after a `\`, and what cannot be printed is `\xNN`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Text<'a>(pub &'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:/-".contains(byte);
        if self.0.iter().all(is_plain) {
            return self.0.iter().try_for_each(|byte| f.write_char(char::from(*byte)));
        }
        f.write_char('"')?;
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                match c {
                    '"' | '\\' => write!(f, "\\{c}")?,
                    c if c.is_control() => put_escaped(f, c.encode_utf8(&mut [0; 4]).as_bytes())?,
                    c => f.write_char(c)?,
                }
            }
            put_escaped(f, chunk.invalid())?;
        }
        f.write_char('"')
    }
}

fn put_escaped(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "\\x{byte:02x}"))
}

/// Bytes as two digits each.
struct Hex<'a>(&'a [u8]);

impl fmt::Display for Hex<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Display for Event<'_> {
    /// `17 RESERVED id=… deadline=… cell=3 on_hand=10 reserved=2(+2) …`; what is 0 and has not changed is left out.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.sequence, self.kind.name())?;
        if let Some(ReservationId(id)) = self.id {
            write!(f, " id={}", ReservationId(id))?;
        }
        if let Some(deadline) = self.deadline {
            write!(f, " deadline={}", deadline.0)?;
        }
        if let Some(change) = &self.change {
            write!(f, " {change}")?;
        }
        write!(f, "{}", self.body)?;
        if let Some(note) = &self.note {
            write!(f, " reason={} reference={}", note.reason, Text(note.reference))?;
        }
        if !self.principal.is_empty() {
            write!(f, " by={}", Text(self.principal))?;
        }
        Ok(())
    }
}

impl fmt::Display for CellChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cell={}", self.cell.0)?;
        let counts = Counts::NAMES.iter().zip(self.after.all()).zip(self.delta.all());
        for ((name, after), delta) in counts {
            match (after, delta) {
                (0, 0) => {}
                (_, 0) => write!(f, " {name}={after}")?,
                _ => write!(f, " {name}={after}({delta:+})")?,
            }
        }
        Ok(())
    }
}

impl fmt::Display for EventBody<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = |point: Option<i64>| point.map_or("none".to_owned(), |point| point.to_string());
        match *self {
            Self::None => Ok(()),
            Self::Names { warehouse, sku } => {
                write!(f, " warehouse={} sku={}", Text(warehouse), Text(sku))
            }
            Self::Policy { before, after } => {
                write!(f, " before=[{}] after=[{}]", Rules(before), Rules(after))
            }
            Self::Owner(owner) => write!(f, " owner={}", Text(owner)),
            Self::Described { sku, scale, title } => {
                write!(f, " sku={} scale={scale} title={}", Text(sku), Text(title))
            }
            Self::Named { sku, naming, name } => {
                write!(f, " sku={} naming={} name={}", Text(sku), naming.name(), Text(name))
            }
            Self::Reorder { sku, point: at } => {
                write!(f, " sku={} point={}", Text(sku), point(at))
            }
            Self::OwnerLimits(limits) => {
                let (holds, units) = (limits.holds_max, limits.units_max);
                write!(f, " holds={holds} units={units} cool_down_ms={}", limits.cool_down_ms)
            }
            Self::Crossed { position, point: at, sku } => {
                write!(f, " position={position} point={}", point(at))?;
                match sku {
                    [] => Ok(()),
                    sku => write!(f, " sku={}", Text(sku)),
                }
            }
            Self::Outage(ms) => write!(f, " ms={ms}"),
            Self::Refused { opcode, code, asked } => {
                let (op, refusal, code) = (opcode.name(), code.name(), code.0);
                write!(f, " op={op} code={code} refusal={refusal} asked={asked}")
            }
            Self::Checkpoint(checkpoint) => {
                let (totals, anchor) = (checkpoint.totals(), checkpoint.anchor());
                write!(f, " cells={} active={}", totals.cells, totals.active)?;
                write!(f, " confirmed={}", totals.confirmed)?;
                for (name, sum) in Counts::NAMES.iter().zip(totals.sums) {
                    if sum != 0 {
                        write!(f, " {name}={sum}")?;
                    }
                }
                match anchor.next {
                    0 => Ok(()),
                    next => write!(f, " chain_before={next}:{}", Hex(&anchor.chain)),
                }
            }
            Self::Diverged(Divergence { node, index, finding, cell }) => {
                match node {
                    0 => f.write_str(" node=unknown")?,
                    node => write!(f, " node={node}")?,
                }
                write!(f, " index={index} finding={}", finding.name())?;
                match cell {
                    Some(CellHandle(cell)) => write!(f, " cell={cell}"),
                    None => Ok(()),
                }
            }
        }
    }
}

/// The rules of a cell that are not as they are in the beginning.
struct Rules(Policy);

impl fmt::Display for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rules = &self.0;
        let flags = [
            ("frozen", rules.frozen),
            ("untracked", rules.untracked),
            ("preorder", rules.preorder),
            ("no_hold", rules.no_hold),
        ];
        let numbers = [
            ("oversell_limit", Some(rules.oversell_limit).filter(|number| *number != 0)),
            ("buffer", Some(rules.buffer).filter(|number| *number != 0)),
            ("reorder_point", rules.reorder_point),
            ("owner_max", Some(i64::from(rules.owner_max)).filter(|number| *number != 0)),
        ];
        let flags = flags.iter().filter(|(_, is_set)| *is_set).map(|(name, _)| (*name).to_owned());
        let numbers = numbers.iter().filter_map(|(name, number)| Some((name, (*number)?)));
        let all: Vec<String> =
            flags.chain(numbers.map(|(name, number)| format!("{name}={number}"))).collect();
        f.write_str(&all.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_is_more_than_a_word_is_quoted() {
        let shown = |bytes: &[u8]| Text(bytes).to_string();
        for plain in ["", "shirt-m", "10.0.0.2:7400", "a/b_c"] {
            assert_eq!(shown(plain.as_bytes()), plain);
        }
        assert_eq!(shown(b"hello by=evil cell=0"), r#""hello by=evil cell=0""#);
        assert_eq!(shown("größe \"\\\n".as_bytes()), r#""größe \"\\\x0a""#);
        assert_eq!(shown(b"\xff\xc2\x85"), r#""\xff\xc2\x85""#);
    }
}
