//! Words of an admin line, and opaque bytes as text.
//!
//! ```text
//! cell BER shirt-m            three words
//! cell "old town" a\x00b      quotes keep blanks together; \xNN \" \\ stand for one byte
//! ```

use std::fmt::Write;

/// Splits a line into words.
///
/// # Errors
/// A quote is not closed or an escape is none; the text says what to do.
pub fn split_words(line: &[u8]) -> Result<Vec<Vec<u8>>, String> {
    let mut words = Vec::new();
    let mut rest = line.trim_ascii_start();
    while !rest.is_empty() {
        let (word, after) = take_word(rest)?;
        words.push(word);
        rest = after.trim_ascii_start();
    }
    Ok(words)
}

fn take_word(mut rest: &[u8]) -> Result<(Vec<u8>, &[u8]), String> {
    let mut word = Vec::new();
    let mut quoted = false;
    while let Some((byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'"' => quoted = !quoted,
            b'\\' => {
                let (escaped, after) = take_escape(rest)?;
                word.push(escaped);
                rest = after;
            }
            blank if blank.is_ascii_whitespace() && !quoted => break,
            other => word.push(*other),
        }
    }
    if quoted { Err("a quote is not closed; add \"".to_owned()) } else { Ok((word, rest)) }
}

fn take_escape(rest: &[u8]) -> Result<(u8, &[u8]), String> {
    let digit = |b: u8| (b as char).to_digit(16).map(|d| d as u8);
    match rest {
        [quoted @ (b'"' | b'\\'), after @ ..] => Ok((*quoted, after)),
        [b'x', high, low, after @ ..] => match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) => Ok((high << 4 | low, after)),
            _ => Err("\\x takes two hex digits".to_owned()),
        },
        _ => Err("after \\ write x and two hex digits, \" or \\".to_owned()),
    }
}

/// Opaque bytes as one line of text: what is not printable UTF-8 becomes `\xNN`.
pub fn escape(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            if c == '\\' || c == '"' {
                out.push('\\');
                out.push(c);
            } else if c.is_control() {
                let mut utf8 = [0; 4];
                c.encode_utf8(&mut utf8).bytes().for_each(|byte| push_hex(&mut out, byte));
            } else {
                out.push(c);
            }
        }
        chunk.invalid().iter().for_each(|byte| push_hex(&mut out, *byte));
    }
    out
}

fn push_hex(out: &mut String, byte: u8) {
    write!(out, "\\x{byte:02x}").expect("writing to a string cannot fail");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<Vec<u8>> {
        split_words(line.as_bytes()).unwrap()
    }

    #[test]
    fn blanks_part_words_unless_quoted() {
        assert_eq!(
            words("  cell  BER\tshirt "),
            [b"cell".to_vec(), b"BER".into(), b"shirt".into()]
        );
        assert_eq!(words(r#"cell "old town" x"y z""#)[1..], [b"old town".to_vec(), b"xy z".into()]);
        assert_eq!(words(r#""""#), [b"".to_vec()]);
        assert_eq!(words(""), Vec::<Vec<u8>>::new());
    }

    #[test]
    fn escapes_stand_for_one_byte() {
        assert_eq!(words(r#"a\x00\xFFb\"\\"#), [b"a\x00\xffb\"\\".to_vec()]);
        for bad in [r"\", r"\n", r"\x1", r"\xgg", "\"open"] {
            assert!(split_words(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_escaped_reads_back() {
        for name in [&b"plain"[..], b"tab\there", b"\xff\x00\"\\", "Käse".as_bytes(), b"\xc2\x85"]
        {
            let text = escape(name);
            assert!(!text.chars().any(char::is_control), "{text:?}");
            assert_eq!(split_words(format!("\"{text}\"").as_bytes()).unwrap(), [name.to_vec()]);
        }
    }
}
