//! An answer to an operator: a small tree, printed as aligned text or as one line of JSON.
//!
//! ```text
//! text   node            1                     JSON  {"node":1,"members":[{"id":1,"role":"voter"}]}
//!        members
//!          id  role
//!           1  voter
//! ```
//!
//! A text never has an empty line inside, so that an empty line can end it.

use std::fmt::Write;

/// One value.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Value {
    Flag(bool),
    Lines(Vec<String>),
    None,
    Number(i128),
    Object(Vec<(&'static str, Value)>),
    Table(Vec<Vec<(&'static str, Value)>>),
    Text(String),
}

impl From<bool> for Value {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(text)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::None, Into::into)
    }
}

macro_rules! numbers {
    ($($type:ty)*) => {
        $(impl From<$type> for Value {
            fn from(number: $type) -> Self {
                Self::Number(number as i128)
            }
        })*
    };
}

numbers!(u16 u32 u64 u128 usize i64);

impl Value {
    /// One line of JSON. Numbers are exact; counters stay below 2⁵³.
    pub fn to_json(&self) -> String {
        let mut out = String::new();
        self.put_json(&mut out);
        out
    }

    fn put_json(&self, out: &mut String) {
        match self {
            Self::Flag(flag) => out.push_str(if *flag { "true" } else { "false" }),
            Self::Lines(lines) => put_list(out, lines, |line, out| put_string(out, line)),
            Self::None => out.push_str("null"),
            Self::Number(number) => put(out, number),
            Self::Object(fields) => put_object(out, fields),
            Self::Table(rows) => put_list(out, rows, |row, out| put_object(out, row)),
            Self::Text(text) => put_string(out, text),
        }
    }

    /// Lines for people, each ended by LF, none of them empty.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        match self {
            Self::Object(fields) => put_fields(&mut out, fields, ""),
            Self::Table(rows) => put_table(&mut out, rows, ""),
            other => put_lines(&mut out, &other.scalar(), ""),
        }
        out
    }

    /// As text inside a line or a cell of a table.
    fn scalar(&self) -> String {
        match self {
            Self::Flag(flag) => if *flag { "yes" } else { "no" }.to_owned(),
            Self::Lines(lines) => lines.join("\n"),
            Self::None => "-".to_owned(),
            Self::Number(number) => number.to_string(),
            Self::Object(_) | Self::Table(_) => self.to_json(),
            Self::Text(text) if text.is_empty() => "-".to_owned(),
            Self::Text(text) => text.clone(),
        }
    }

    const fn is_scalar(&self) -> bool {
        !matches!(self, Self::Lines(_) | Self::Object(_) | Self::Table(_))
    }
}

fn put(out: &mut String, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("writing to a string cannot fail");
}

fn put_list<T>(out: &mut String, items: &[T], mut each: impl FnMut(&T, &mut String)) {
    out.push('[');
    for (position, item) in items.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        each(item, out);
    }
    out.push(']');
}

fn put_object(out: &mut String, fields: &[(&'static str, Value)]) {
    out.push('{');
    for (position, (name, value)) in fields.iter().enumerate() {
        if position > 0 {
            out.push(',');
        }
        put_string(out, name);
        out.push(':');
        value.put_json(out);
    }
    out.push('}');
}

/// RFC 8259 §7.
fn put_string(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => {
                out.push('\\');
                out.push(c);
            }
            c if c < ' ' => {
                write!(out, "\\u{:04x}", c as u32).expect("writing to a string cannot fail");
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn put_fields(out: &mut String, fields: &[(&'static str, Value)], indent: &str) {
    let scalars = fields.iter().filter(|(_, value)| value.is_scalar());
    let width = scalars.map(|(name, _)| name.len()).max().unwrap_or(0);
    for (name, value) in fields {
        if value.is_scalar() {
            let line = format!("{indent}{name:width$}  {}", value.scalar());
            put_lines(out, &line, "");
            continue;
        }
        put_lines(out, name, indent);
        let deeper = format!("{indent}  ");
        match value {
            Value::Object(fields) => put_fields(out, fields, &deeper),
            Value::Table(rows) => put_table(out, rows, &deeper),
            other => put_lines(out, &other.scalar(), &deeper),
        }
    }
}

/// Columns in the order of the first row; numbers to the right, text to the left.
fn put_table(out: &mut String, rows: &[Vec<(&'static str, Value)>], indent: &str) {
    let Some(first) = rows.first() else {
        return put_lines(out, "(none)", indent);
    };
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|(_, value)| value.scalar()).collect()).collect();
    let columns: Vec<(usize, bool)> = first
        .iter()
        .enumerate()
        .map(|(column, (name, value))| {
            let widths = cells.iter().map(|row| row[column].chars().count());
            let right = matches!(value, Value::Number(_));
            (widths.max().unwrap_or(0).max(name.len()), right)
        })
        .collect();
    let names: Vec<String> = first.iter().map(|(name, _)| (*name).to_owned()).collect();
    for row in std::iter::once(&names).chain(&cells) {
        let mut line = String::new();
        for (cell, (width, right)) in row.iter().zip(&columns) {
            match right {
                true => put(&mut line, format_args!("{cell:>width$}  ")),
                false => put(&mut line, format_args!("{cell:width$}  ")),
            }
        }
        put_lines(out, &line, indent);
    }
}

/// The lines of `text` that are not empty.
fn put_lines(out: &mut String, text: &str, indent: &str) {
    for line in text.lines().map(str::trim_end).filter(|line| !line.is_empty()) {
        out.push_str(indent);
        out.push_str(line);
        out.push('\n');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Value {
        let row = |id: u64, role: &str| vec![("id", id.into()), ("role", role.into())];
        Value::Object(vec![
            ("node", 1u64.into()),
            ("leader", Value::None),
            ("log", Value::Object(vec![("full", false.into())])),
            ("members", Value::Table(vec![row(1, "voter"), row(12, "say \"hi\"\n")])),
        ])
    }

    #[test]
    fn json_is_one_line() {
        let expected = concat!(
            r#"{"node":1,"leader":null,"log":{"full":false},"members":"#,
            r#"[{"id":1,"role":"voter"},{"id":12,"role":"say \"hi\"\u000a"}]}"#
        );
        assert_eq!(sample().to_json(), expected);
    }

    #[test]
    fn text_is_aligned_and_has_no_empty_line() {
        let expected = "node    1\nleader  -\nlog\n  full  no\nmembers\n  id  role\n   1  voter\n  12  \
                        say \"hi\"\n";
        let text = sample().to_text();
        assert_eq!(text, expected);
        assert!(text.lines().all(|line| !line.is_empty()));
        assert_eq!(Value::Lines(vec!["a".into(), String::new(), "b".into()]).to_text(), "a\nb\n");
    }
}
