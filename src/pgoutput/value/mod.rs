//! A value's text output as JSON, the way `row_to_json` prints it under `datestyle=ISO` and `timezone=UTC`.

mod array;
mod composite;
mod hstore;
mod structured;

pub use array::Array;
pub use composite::{Composite, Field};

use std::sync::Arc;

/// How a type's text becomes JSON. [`super::Types`] finds it by the type's OID.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// As a number where the text is one; `NaN` and the infinities as strings.
    Number,
    /// `t` and `f`.
    Bool,
    /// Embedded as it is.
    Json,
    /// Date and time joined by a `T`.
    Timestamp,
    /// The same, with the minutes of the offset.
    TimestampWithZone,
    /// As a string.
    Text,
    /// An array of one or more dimensions; lower bounds are not shown.
    Array(Arc<Array>),
    /// An object; also a table's row as a value.
    Composite(Arc<Composite>),
    /// `int2vector`: numbers between spaces, as an array.
    NumberVector,
    /// `oidvector`: the same; an OID is a string in JSON.
    OidVector,
    /// Extension hstore's type, by its cast to json: an object of strings and nulls.
    Hstore,
}

impl Kind {
    /// Whether the type can change while its columns stay as they are described: only composites do.
    pub fn is_changeable(&self) -> bool {
        match self {
            Kind::Composite(_) => true,
            Kind::Array(array) => array.element.is_changeable(),
            _ => false,
        }
    }
}

/// Appends a value that is not null. Returns false where the text is not what the type, as it is known, prints; then a
/// shorter object was written if that is certain to be right, and otherwise the text as a string.
pub fn write_value(out: &mut Vec<u8>, kind: &Kind, text: &[u8]) -> bool {
    match kind {
        Kind::Number if is_number(text) => out.extend_from_slice(text),
        Kind::Bool => out.extend_from_slice(if text == b"t" { b"true" } else { b"false" }),
        // A database without an encoding (SQL_ASCII) may hold bytes that no JSON text may.
        Kind::Json => match std::str::from_utf8(text) {
            Ok(text) => out.extend_from_slice(text.as_bytes()),
            Err(_) => out.extend_from_slice(String::from_utf8_lossy(text).as_bytes()),
        },
        Kind::Timestamp => write_timestamp(out, text, false),
        Kind::TimestampWithZone => write_timestamp(out, text, true),
        Kind::Number | Kind::Text => write_string(out, text),
        Kind::Array(_) | Kind::Composite(_) | Kind::NumberVector | Kind::OidVector | Kind::Hstore => {
            return structured::write(out, kind, text);
        }
    }
    true
}

/// Appends an object's key and its colon.
pub fn write_key(out: &mut Vec<u8>, name: &str) {
    write_string(out, name.as_bytes());
    out.push(b':');
}

/// Postgres prints every number as JSON does, apart from `NaN`, `Infinity` and `-Infinity`.
fn is_number(text: &[u8]) -> bool {
    text.strip_prefix(b"-").unwrap_or(text).first().is_some_and(u8::is_ascii_digit)
}

/// `2024-01-31 10:00:00+00` becomes `2024-01-31T10:00:00+00:00`; `infinity` stays, and so does a ` BC` at the end.
fn write_timestamp(out: &mut Vec<u8>, text: &[u8], with_zone: bool) {
    let (text, era) = match text.strip_suffix(b" BC") {
        Some(text) => (text, b" BC".as_slice()),
        None => (text, b"".as_slice()),
    };
    out.push(b'"');
    match text.iter().position(|&byte| byte == b' ') {
        None => out.extend_from_slice(text),
        Some(space) => {
            out.extend_from_slice(&text[..space]);
            out.push(b'T');
            out.extend_from_slice(&text[space + 1..]);
            if with_zone && has_hour_offset(text) {
                out.extend_from_slice(b":00");
            }
        }
    }
    out.extend_from_slice(era);
    out.push(b'"');
}

/// Whether the text ends in an offset of two digits.
fn has_hour_offset(text: &[u8]) -> bool {
    matches!(text, [.., b'+' | b'-', tens, ones] if tens.is_ascii_digit() && ones.is_ascii_digit())
}

/// Appends a JSON string with the escapes that Postgres uses. Bytes that are not UTF-8 are replaced.
pub fn write_string(out: &mut Vec<u8>, text: &[u8]) {
    out.push(b'"');
    match std::str::from_utf8(text) {
        Ok(text) => write_escaped(out, text.as_bytes()),
        Err(_) => write_escaped(out, String::from_utf8_lossy(text).as_bytes()),
    }
    out.push(b'"');
}

fn write_escaped(out: &mut Vec<u8>, text: &[u8]) {
    let mut rest = text;
    while let Some(index) = first_escaped(rest) {
        out.extend_from_slice(&rest[..index]);
        match rest[index] {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0x08 => out.extend_from_slice(b"\\b"),
            0x0c => out.extend_from_slice(b"\\f"),
            byte => {
                const HEX: &[u8; 16] = b"0123456789abcdef";
                out.extend_from_slice(b"\\u00");
                out.push(HEX[usize::from(byte >> 4)]);
                out.push(HEX[usize::from(byte & 15)]);
            }
        }
        rest = &rest[index + 1..];
    }
    out.extend_from_slice(rest);
}

/// Looks at a block at a time without a branch in it, which compilers turn into vector instructions: most text needs
/// no escape.
fn first_escaped(text: &[u8]) -> Option<usize> {
    const BLOCK: usize = 32;
    let is_escaped = |byte: &u8| (*byte < 0x20) | (*byte == b'"') | (*byte == b'\\');
    let is_plain = |block: &&[u8]| !block.iter().fold(false, |found, byte| found | is_escaped(byte));
    let plain = text.chunks_exact(BLOCK).take_while(is_plain).count() * BLOCK;
    text[plain..].iter().position(is_escaped).map(|index| plain + index)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::Types;

    fn check(type_id: u32, text: &str, expected: &str) {
        let mut out = Vec::new();
        let kind = Types::default().column_kind(type_id);
        assert!(write_value(&mut out, &kind, text.as_bytes()));
        assert_eq!(String::from_utf8(out).expect("UTF-8"), expected);
    }

    #[test]
    fn numbers_booleans_and_json_are_native() {
        check(23, "-42", "-42");
        check(1700, "0.10000000000000000000001", "0.10000000000000000000001");
        check(701, "1e+300", "1e+300");
        check(701, "NaN", "\"NaN\"");
        check(1700, "-Infinity", "\"-Infinity\"");
        check(16, "t", "true");
        check(16, "f", "false");
        check(3802, "{\"a\": [1, null]}", "{\"a\": [1, null]}");
    }

    #[test]
    fn text_is_escaped_as_postgres_escapes_it() {
        check(25, "a\"b\\c\n\t\r\u{8}\u{c}\u{1}é/🦀", "\"a\\\"b\\\\c\\n\\t\\r\\b\\f\\u0001é/🦀\"");
        check(17, "\\xdeadbeef", "\"\\\\xdeadbeef\"");
        check(2950, "37b7f91a-b3a5-4b85-be59-e5920d72f6aa", "\"37b7f91a-b3a5-4b85-be59-e5920d72f6aa\"");
    }

    #[test]
    fn timestamps_are_iso() {
        check(1114, "2018-09-05 07:14:21.601701", "\"2018-09-05T07:14:21.601701\"");
        check(1184, "2018-09-05 07:14:21+00", "\"2018-09-05T07:14:21+00:00\"");
        check(1184, "0044-03-15 12:00:00+00 BC", "\"0044-03-15T12:00:00+00:00 BC\"");
        check(1184, "infinity", "\"infinity\"");
        check(1082, "2006-02-02", "\"2006-02-02\"");
    }

    #[test]
    fn bytes_that_are_not_utf8_are_replaced() {
        let mut out = Vec::new();
        write_string(&mut out, b"a\xffb");
        assert_eq!(out, "\"a\u{fffd}b\"".as_bytes());
    }
}
