//! What the fuzz targets do with their bytes. `tests/decoder.rs` runs the same on mutated messages and texts.

use std::sync::Arc;

use serde::de::IgnoredAny;
use walhook::pgoutput::{Array, Composite, DecodeError, Field, Kind, Message, OldRow, Tuple, decode, write_value};

/// The first bytes of the messages that there are.
pub const TAGS: &[u8] = b"BCMIUDRTYO";

/// Whatever the bytes are, they are a message or an error, and all of a message can be read.
pub fn decode_message(bytes: &[u8]) {
    let rows: Vec<Tuple<'_>> = match decode(bytes) {
        Ok(Message::Insert { new, .. }) => vec![new],
        Ok(Message::Update { old: OldRow::Key(old) | OldRow::Full(old), new, .. }) => vec![old, new],
        Ok(Message::Update { new, .. }) => vec![new],
        Ok(Message::Delete { old: OldRow::Key(old) | OldRow::Full(old), .. }) => vec![old],
        Ok(Message::Truncate(relations)) => {
            assert!(relations.iter().count() <= bytes.len() / 4);
            Vec::new()
        }
        Ok(_) => Vec::new(),
        Err(error) => {
            // An unknown tag is said to be one, and no known tag is.
            let unknown = bytes.first().filter(|tag| !TAGS.contains(tag)).map(|tag| char::from(*tag));
            let named = match error {
                DecodeError::UnknownTag(tag) => Some(tag),
                _ => None,
            };
            assert_eq!(named, unknown, "{error}");
            Vec::new()
        }
    };
    for row in rows {
        assert_eq!(row.cells().count(), row.len(), "a row has the cells that it says");
    }
}

/// Whatever the text is, each structured type makes one JSON value of it.
pub fn print_value(text: &[u8]) {
    for kind in structured_kinds() {
        let mut out = b"before".to_vec();
        write_value(&mut out, &kind, text);
        let json = out.strip_prefix(b"before").expect("what was there stays");
        let valid = std::str::from_utf8(json).is_ok() && serde_json::from_slice::<IgnoredAny>(json).is_ok();
        assert!(valid, "{kind:?} made {} of {}", String::from_utf8_lossy(json), String::from_utf8_lossy(text));
    }
}

fn structured_kinds() -> Vec<Kind> {
    let array = |element, delimiter| Kind::Array(Arc::new(Array { element, delimiter }));
    let all =
        [Kind::Number, Kind::Bool, Kind::Json, Kind::Timestamp, Kind::TimestampWithZone, Kind::Text, Kind::Hstore];
    let scalars: Vec<Kind> = all.into_iter().chain([Kind::NumberVector, Kind::OidVector]).collect();
    let composite = |fields: &[Kind], only_grew| {
        let fields = fields.iter().map(|kind| Field::new("a \"b\"", kind.clone())).collect();
        Kind::Composite(Arc::new(Composite::new(fields, only_grew)))
    };
    let pair = composite(&[Kind::Number, Kind::Text], true);
    let mut kinds = vec![composite(&[], true), composite(&scalars, false), composite(&scalars, true), pair.clone()];
    kinds.extend(scalars.iter().map(|scalar| array(scalar.clone(), b',')));
    kinds.extend(scalars.iter().map(|scalar| composite(std::slice::from_ref(scalar), true)));
    kinds.push(array(Kind::Text, b';'));
    kinds.push(array(array(Kind::Json, b','), b','));
    kinds.push(composite(&[array(pair, b','), Kind::Json], true));
    kinds.extend([Kind::Text, Kind::Hstore, Kind::NumberVector, Kind::OidVector]);
    kinds
}
