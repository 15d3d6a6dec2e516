//! Rows in the binary format of COPY (PostgreSQL manual, COPY, "Binary Format").
//!
//! Written straight into one buffer: no boxed parameters, no allocation a row.

use bytes::{BufMut, Bytes, BytesMut};
use uuid::Uuid;

use crate::model::{Lsn, Timestamp};

const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";

/// About how long a message of rows is, in bytes.
const PIECE: usize = 64 * 1024;

/// A buffer of rows.
pub(super) struct CopyRows {
    buffer: BytesMut,
}

impl CopyRows {
    /// Starts with the header of the format.
    pub(super) fn new() -> Self {
        let mut buffer = BytesMut::with_capacity(PIECE);
        buffer.put_slice(SIGNATURE);
        buffer.put_i32(0);
        buffer.put_i32(0);
        CopyRows { buffer }
    }

    /// What was written since the last piece, when it is worth sending. The server takes rows from one piece while the
    /// next one is written; one message with all of a large chunk would make each wait for the other.
    pub(super) fn piece(&mut self) -> Option<Bytes> {
        if self.buffer.len() < PIECE {
            return None;
        }
        let piece = self.buffer.split().freeze();
        self.buffer.reserve(PIECE);
        Some(piece)
    }

    /// Ends the rows and gives the bytes that are left.
    pub(super) fn finish(mut self) -> Bytes {
        self.buffer.put_i16(-1);
        self.buffer.freeze()
    }

    pub(super) fn start_row(&mut self, columns: i16) {
        self.buffer.put_i16(columns);
    }

    pub(super) fn null(&mut self) {
        self.buffer.put_i32(-1);
    }

    /// A boolean that is null for false, as it nearly always is.
    pub(super) fn set(&mut self, value: bool) {
        if value { self.bytes(&[1]) } else { self.null() }
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.buffer.put_i32(2);
        self.buffer.put_i16(value);
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.buffer.put_i32(4);
        self.buffer.put_i32(value);
    }

    pub(super) fn xid(&mut self, value: u32) {
        self.buffer.put_i32(4);
        self.buffer.put_u32(value);
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.buffer.put_i32(8);
        self.buffer.put_i64(value);
    }

    pub(super) fn lsn(&mut self, value: Lsn) {
        self.buffer.put_i32(8);
        self.buffer.put_u64(value.0);
    }

    pub(super) fn time(&mut self, value: Timestamp) {
        self.i64(value.to_postgres_micros());
    }

    pub(super) fn uuid(&mut self, value: Uuid) {
        self.bytes(value.as_bytes());
    }

    /// Text.
    pub(super) fn bytes(&mut self, value: &[u8]) {
        self.buffer.put_i32(i32::try_from(value.len()).expect("a value from Postgres is shorter than 1 GiB"));
        self.buffer.put_slice(value);
    }

    pub(super) fn optional_bytes(&mut self, value: Option<&[u8]>) {
        match value {
            Some(value) => self.bytes(value),
            None => self.null(),
        }
    }

    /// An array of `text` with one dimension.
    pub(super) fn texts(&mut self, values: &[String]) {
        const TEXT_OID: u32 = 25;
        let bytes: usize = values.iter().map(|value| 4 + value.len()).sum();
        self.buffer.put_i32(20 + bytes as i32);
        self.buffer.put_i32(1);
        self.buffer.put_i32(0);
        self.buffer.put_u32(TEXT_OID);
        self.buffer.put_i32(values.len() as i32);
        self.buffer.put_i32(1);
        values.iter().for_each(|value| self.bytes(value.as_bytes()));
    }
}
