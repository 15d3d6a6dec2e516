//! Reading JSON by hand, with the texts and paths of Hasura's decoder (Haskell's aeson).

use serde_json::{Map, Value};

/// Why a request cannot be decoded, and where. The path starts at the value that was decoded: `$`, `$.name`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DecodeError {
    pub code: &'static str,
    pub path: String,
    pub text: String,
}

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node<'a> {
    pub value: &'a Value,
    path: String,
}

impl<'a> Node<'a> {
    /// The value that paths start at.
    pub fn root(value: &'a Value) -> Self {
        Node { value, path: "$".to_owned() }
    }

    /// An error about this value.
    pub fn error(&self, text: impl Into<String>) -> DecodeError {
        DecodeError { code: "parse-failed", path: self.path.clone(), text: text.into() }
    }

    fn mismatch(&self, parsing: &str, expected: &str) -> DecodeError {
        self.error(format!("parsing {parsing} failed, expected {expected}, but encountered {}", kind(self.value)))
    }

    /// The value as an object; `parsing` is what Hasura calls the type.
    pub fn object(&self, parsing: &str) -> Result<Object<'a>, DecodeError> {
        match self.value {
            Value::Object(map) => Ok(Object { map, node: self.clone() }),
            _ => Err(self.mismatch(parsing, "Object")),
        }
    }

    /// The elements of an array.
    pub fn array(&self) -> Result<Vec<Node<'a>>, DecodeError> {
        let Value::Array(values) = self.value else { return Err(self.mismatch("[]", "Array")) };
        let node = |(index, value)| Node { value, path: format!("{}[{index}]", self.path) };
        Ok(values.iter().enumerate().map(node).collect())
    }

    /// The value as text.
    pub fn text(&self) -> Result<&'a str, DecodeError> {
        self.value.as_str().ok_or_else(|| self.mismatch("Text", "String"))
    }

    /// The value as text that is not empty.
    pub fn non_empty_text(&self) -> Result<&'a str, DecodeError> {
        match self.text()? {
            "" => Err(self.error("empty string not allowed")),
            text => Ok(text),
        }
    }

    /// The value as a truth value.
    pub fn boolean(&self) -> Result<bool, DecodeError> {
        self.value.as_bool().ok_or_else(|| self.mismatch("Bool", "Boolean"))
    }

    /// The value as a whole number from 0 up. `4.0` is one, as in Hasura.
    pub fn count(&self) -> Result<u32, DecodeError> {
        let Value::Number(number) = self.value else { return Err(self.mismatch("Int", "Number")) };
        let whole = number.as_u64().or_else(|| {
            number
                .as_f64()
                .filter(|float| float.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(float))
                .map(|float| float as u64)
        });
        whole.and_then(|whole| u32::try_from(whole).ok()).ok_or_else(|| {
            let why = "value is negative, floating or will cause overflow";
            self.error(format!("parsing Int failed, {why}: {number}"))
        })
    }
}

/// An object and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    map: &'a Map<String, Value>,
    node: Node<'a>,
}

impl<'a> Object<'a> {
    /// An error about the object as a whole.
    pub fn error(&self, text: impl Into<String>) -> DecodeError {
        self.node.error(text)
    }

    /// The value of a key that must be there.
    pub fn required(&self, key: &str) -> Result<Node<'a>, DecodeError> {
        let value = self.map.get(key).ok_or_else(|| self.error(format!("key {key:?} not found")))?;
        Ok(Node { value, path: join(&self.node.path, key) })
    }

    /// The value of a key that may be left out or be null.
    pub fn optional(&self, key: &str) -> Option<Node<'a>> {
        let value = self.map.get(key).filter(|value| !value.is_null())?;
        Some(Node { value, path: join(&self.node.path, key) })
    }
}

/// A path and one key more; keys that are no plain identifiers are quoted.
fn join(path: &str, key: &str) -> String {
    let plain = key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
        && !key.starts_with(|first: char| first.is_ascii_digit())
        && !key.is_empty();
    if plain { format!("{path}.{key}") } else { format!("{path}[{}]", Value::from(key)) }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "Null",
        Value::Bool(_) => "Boolean",
        Value::Number(_) => "Number",
        Value::String(_) => "String",
        Value::Array(_) => "Array",
        Value::Object(_) => "Object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn counts_are_whole_and_not_negative() {
        for (value, expected) in [(json!(0), 0), (json!(4.0), 4), (json!(4e2), 400), (json!(u32::MAX), u32::MAX)] {
            assert_eq!(Node::root(&value).count(), Ok(expected));
        }
        for value in [json!(-1), json!(1.5), json!(4_294_967_296_u64), json!(1e300), json!(-1.0)] {
            let error = Node::root(&value).count().expect_err("no count");
            assert!(error.text.starts_with("parsing Int failed, value is negative, floating"), "{error:?}");
        }
        let error = Node::root(&json!("4")).count().expect_err("a text");
        assert_eq!(error.text, "parsing Int failed, expected Number, but encountered String");
    }

    #[test]
    fn keys_that_are_no_identifiers_are_quoted() {
        for (key, expected) in [("a_1", "$.a_1"), ("a-b", "$[\"a-b\"]"), ("", "$[\"\"]"), ("1", "$[\"1\"]")] {
            assert_eq!(join("$", key), expected);
        }
    }
}
