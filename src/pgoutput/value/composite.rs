//! Composites and rows as values: `(1,,"a ""b""",t)`.

use std::borrow::Cow;

use super::structured::{Misfit, Part, Writer, unquote};
use super::{Kind, write_key};

/// The fields of a composite type.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Composite {
    fields: Vec<Field>,
    /// No field was ever dropped, so a text with fewer of them is from before the last ones were added.
    only_grew: bool,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// `"name":`, escaped once for all values.
    key: Vec<u8>,
    kind: Kind,
}

impl Field {
    /// A field of this name.
    pub fn new(name: &str, kind: Kind) -> Self {
        let mut key = Vec::new();
        write_key(&mut key, name);
        Field { key, kind }
    }
}

impl Composite {
    /// The fields that there are now, in their order, and whether no other one has ever been there.
    pub fn new(fields: Vec<Field>, only_grew: bool) -> Self {
        Composite { fields, only_grew }
    }
}

impl Writer<'_> {
    pub(super) fn composite(&mut self, composite: &Composite, text: &[u8]) -> Result<(), Misfit> {
        let inside = text.strip_prefix(b"(").and_then(|text| text.strip_suffix(b")")).ok_or(Misfit)?;
        self.out.push(b'{');
        let mut fields = composite.fields.iter();
        // `()` is one field that is null, or none.
        let mut rest = Some(inside).filter(|inside| !(inside.is_empty() && composite.fields.is_empty()));
        while let Some(text) = rest {
            let field = fields.next().ok_or(Misfit)?;
            let (value, after) = read_field(text)?;
            self.out.extend_from_slice(&field.key);
            self.value_or_null(&field.kind, value.as_deref())?;
            rest = match after.split_first() {
                None => None,
                Some((b',', after)) => {
                    self.out.push(b',');
                    Some(after)
                }
                Some(_) => return Err(Misfit),
            };
        }
        if fields.next().is_some() {
            self.sure = false;
            if !composite.only_grew {
                return Err(Misfit);
            }
        }
        self.out.push(b'}');
        Ok(())
    }
}

/// Reads a field off the front; gives it, `None` for NULL, and what follows.
fn read_field(text: &[u8]) -> Result<Part<'_>, Misfit> {
    if let Some(quoted) = text.strip_prefix(b"\"") {
        let (value, rest) = unquote(quoted, true)?;
        return Ok((Some(value), rest));
    }
    let end = text.iter().position(|&byte| byte == b',').unwrap_or(text.len());
    let (value, rest) = text.split_at(end);
    Ok(((!value.is_empty()).then_some(Cow::Borrowed(value)), rest))
}
