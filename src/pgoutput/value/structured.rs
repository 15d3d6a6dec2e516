//! Values inside of values: what arrays, composites and hstore have in common.

use std::borrow::Cow;

use super::{Kind, is_number, write_string, write_value};

/// The text is not one that the type, as it is known, prints.
#[derive(Debug)]
pub(super) struct Misfit;

/// An element or a field, `None` for NULL, and the text that follows it.
pub(super) type Part<'a> = (Option<Cow<'a, [u8]>>, &'a [u8]);

/// Appends a structured value. Where its text does not fit, nothing of it is kept but the whole text as a string.
pub(super) fn write(out: &mut Vec<u8>, kind: &Kind, text: &[u8]) -> bool {
    let start = out.len();
    let mut writer = Writer { out, sure: true };
    if writer.value(kind, text).is_ok() {
        return writer.sure;
    }
    out.truncate(start);
    write_string(out, text);
    false
}

/// Where a structured value goes.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut Vec<u8>,
    /// Whether everything so far was as it was known to be.
    pub(super) sure: bool,
}

impl Writer<'_> {
    /// The depth of this recursion is that of the type, which [`super::super::Types`] bounds; never that of the text.
    pub(super) fn value(&mut self, kind: &Kind, text: &[u8]) -> Result<(), Misfit> {
        match kind {
            Kind::Array(array) => self.array(array, text),
            Kind::Composite(composite) => self.composite(composite, text),
            Kind::NumberVector => self.vector(&Kind::Number, text),
            Kind::OidVector => self.vector(&Kind::Text, text),
            Kind::Hstore => self.hstore(text),
            // A field's type is the catalogue's word, which may be older or newer than the text. What is printed bare
            // must not pass unseen: it would be broken JSON, or somebody's text taken for structure.
            scalar if !fits(scalar, text) => Err(Misfit),
            scalar => {
                write_value(self.out, scalar, text);
                Ok(())
            }
        }
    }

    pub(super) fn value_or_null(&mut self, kind: &Kind, text: Option<&[u8]>) -> Result<(), Misfit> {
        match text {
            Some(text) => self.value(kind, text),
            None => {
                self.out.extend_from_slice(b"null");
                Ok(())
            }
        }
    }
}

fn fits(kind: &Kind, text: &[u8]) -> bool {
    match kind {
        Kind::Number => is_special_number(text) || (is_number(text) && is_json(text)),
        Kind::Bool => matches!(text, b"t" | b"f"),
        Kind::Json => is_json(text),
        Kind::Timestamp | Kind::TimestampWithZone => {
            text.iter().all(|byte| byte.is_ascii_alphanumeric() || b" :.+-".contains(byte))
        }
        _ => true,
    }
}

fn is_special_number(text: &[u8]) -> bool {
    matches!(text, b"NaN" | b"Infinity" | b"-Infinity")
}

/// Looks over the text without building anything and without recursion.
fn is_json(text: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(text).is_ok()
}

/// Reads on behind an opening quote up to the closing one; gives what was quoted, and what follows. A backslash takes
/// the next byte as it is; `doubled` says that two quotes stand for one.
pub(super) fn unquote(text: &[u8], doubled: bool) -> Result<(Cow<'_, [u8]>, &[u8]), Misfit> {
    let mut unescaped: Option<Vec<u8>> = None;
    let mut from = 0;
    loop {
        let found = text[from..].iter().position(|byte| matches!(byte, b'"' | b'\\')).ok_or(Misfit)?;
        let (at, plain) = (from + found, &text[from..from + found]);
        let next = text.get(at + 1);
        if text[at] == b'"' && !(doubled && next == Some(&b'"')) {
            let whole = match unescaped {
                None => Cow::Borrowed(plain),
                Some(mut whole) => {
                    whole.extend_from_slice(plain);
                    Cow::Owned(whole)
                }
            };
            return Ok((whole, &text[at + 1..]));
        }
        let whole = unescaped.get_or_insert_default();
        whole.extend_from_slice(plain);
        whole.push(*next.ok_or(Misfit)?);
        from = at + 2;
    }
}
