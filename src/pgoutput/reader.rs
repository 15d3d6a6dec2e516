//! Checked reading of a message's fields. Every read can fail; none can panic.

use crate::model::Lsn;

/// The bytes are not a message of pgoutput's protocol version 1. The stream cannot be trusted after this: reconnect,
/// and if it comes again, report it with the server's version.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ended inside a field.
    #[error("message {tag:?} ends inside {field}")]
    Truncated {
        /// The message's first byte.
        tag: char,
        /// What was being read.
        field: &'static str,
    },
    /// Bytes are left over after the last field.
    #[error("message {tag:?} has {bytes} bytes too many")]
    TrailingBytes {
        /// The message's first byte.
        tag: char,
        /// How many are left.
        bytes: usize,
    },
    /// The message has no bytes.
    #[error("empty message")]
    Empty,
    /// A message kind that protocol version 1 does not have.
    #[error("unknown message tag {0:?}")]
    UnknownTag(char),
    /// A field holds what its type does not allow.
    #[error("message {tag:?} holds an invalid {field}")]
    Invalid {
        /// The message's first byte.
        tag: char,
        /// The field.
        field: &'static str,
    },
}

/// A message's bytes that are still to be read.
pub(super) struct Reader<'a> {
    tag: char,
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Takes the tag off a message.
    pub(super) fn new(message: &'a [u8]) -> Result<Self, DecodeError> {
        let (tag, rest) = message.split_first().ok_or(DecodeError::Empty)?;
        Ok(Reader { tag: char::from(*tag), rest })
    }

    pub(super) fn tag(&self) -> char {
        self.tag
    }

    pub(super) fn invalid(&self, field: &'static str) -> DecodeError {
        DecodeError::Invalid { tag: self.tag, field }
    }

    pub(super) fn bytes(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let (bytes, rest) = self.rest.split_at_checked(count).ok_or(DecodeError::Truncated { tag: self.tag, field })?;
        self.rest = rest;
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DecodeError> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or(DecodeError::Truncated { tag: self.tag, field })?;
        self.rest = rest;
        Ok(*bytes)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, DecodeError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, DecodeError> {
        self.array(field).map(u16::from_be_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, DecodeError> {
        self.array(field).map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, DecodeError> {
        self.array(field).map(i32::from_be_bytes)
    }

    pub(super) fn i64(&mut self, field: &'static str) -> Result<i64, DecodeError> {
        self.array(field).map(i64::from_be_bytes)
    }

    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, DecodeError> {
        self.array(field).map(u64::from_be_bytes).map(Lsn)
    }

    /// A length or count that the protocol sends signed and that cannot be negative.
    pub(super) fn length(&mut self, field: &'static str) -> Result<usize, DecodeError> {
        usize::try_from(self.i32(field)?).map_err(|_| self.invalid(field))
    }

    /// A string that ends in a zero byte.
    pub(super) fn string(&mut self, field: &'static str) -> Result<&'a str, DecodeError> {
        std::str::from_utf8(self.terminated(field)?).map_err(|_| self.invalid(field))
    }

    /// What comes before a zero byte, in whichever encoding.
    pub(super) fn terminated(&mut self, field: &'static str) -> Result<&'a [u8], DecodeError> {
        let end = self.rest.iter().position(|&byte| byte == 0);
        let end = end.ok_or(DecodeError::Truncated { tag: self.tag, field })?;
        let text = &self.rest[..end];
        self.rest = &self.rest[end + 1..];
        Ok(text)
    }

    /// What has not been read yet.
    pub(super) fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Refuses a message that is longer than its fields.
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        match self.rest.len() {
            0 => Ok(()),
            bytes => Err(DecodeError::TrailingBytes { tag: self.tag, bytes }),
        }
    }
}
