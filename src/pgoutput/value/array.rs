//! Arrays: `{1,NULL,"a \"b\""}`, `[0:1][2:3]={{1,2},{3,4}}`, and the vectors of the catalogue: `1 2 3`.

use std::borrow::Cow;

use super::Kind;
use super::structured::{Misfit, Part, Writer, unquote};

/// What an array holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Array {
    /// How an element's text becomes JSON.
    pub element: Kind,
    /// Between two elements: a comma, but for boxes, whose own text has commas.
    pub delimiter: u8,
}

/// What may come next in an array's text.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Next {
    /// An element or an inner dimension.
    Value,
    /// The same, or the end of what was just opened.
    ValueOrEnd,
    /// A delimiter or an end.
    DelimiterOrEnd,
}

impl Writer<'_> {
    pub(super) fn array(&mut self, array: &Array, text: &[u8]) -> Result<(), Misfit> {
        let mut rest = without_bounds(text)?;
        let (mut depth, mut next) = (0_usize, Next::Value);
        loop {
            let (&byte, after) = rest.split_first().ok_or(Misfit)?;
            match byte {
                b'{' if next != Next::DelimiterOrEnd => {
                    depth += 1;
                    self.out.push(b'[');
                    next = Next::ValueOrEnd;
                }
                b'}' if next != Next::Value => {
                    depth -= 1;
                    self.out.push(b']');
                    next = Next::DelimiterOrEnd;
                    if depth == 0 {
                        return if after.is_empty() { Ok(()) } else { Err(Misfit) };
                    }
                }
                _ if byte == array.delimiter && next == Next::DelimiterOrEnd => {
                    self.out.push(b',');
                    next = Next::Value;
                }
                _ if depth > 0 && next != Next::DelimiterOrEnd => {
                    let element;
                    (element, rest) = read_element(rest, array.delimiter)?;
                    self.value_or_null(&array.element, element.as_deref())?;
                    next = Next::DelimiterOrEnd;
                    continue;
                }
                _ => return Err(Misfit),
            }
            rest = after;
        }
    }

    pub(super) fn vector(&mut self, element: &Kind, text: &[u8]) -> Result<(), Misfit> {
        self.out.push(b'[');
        for (index, number) in text.split(|&byte| byte == b' ').filter(|number| !number.is_empty()).enumerate() {
            if index > 0 {
                self.out.push(b',');
            }
            self.value(element, number)?;
        }
        self.out.push(b']');
        Ok(())
    }
}

/// Bounds that are not the usual ones stand before the braces; `row_to_json` does not show them.
fn without_bounds(text: &[u8]) -> Result<&[u8], Misfit> {
    if !text.starts_with(b"[") {
        return Ok(text);
    }
    let end = text.iter().position(|&byte| byte == b'=').ok_or(Misfit)?;
    Ok(&text[end + 1..])
}

/// Reads an element off the front; gives it, `None` for NULL, and what follows.
fn read_element(text: &[u8], delimiter: u8) -> Result<Part<'_>, Misfit> {
    if let Some(quoted) = text.strip_prefix(b"\"") {
        let (element, rest) = unquote(quoted, false)?;
        return Ok((Some(element), rest));
    }
    let end = text.iter().position(|&byte| byte == delimiter || byte == b'}').ok_or(Misfit)?;
    let (element, rest) = text.split_at(end);
    // An element that is the word itself is quoted.
    Ok(((element != b"NULL").then_some(Cow::Borrowed(element)), rest))
}
