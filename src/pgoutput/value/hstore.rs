//! Extension hstore: `"a"=>"1", "b"=>NULL`, as its cast to json prints it.

use super::structured::{Misfit, Writer, unquote};
use super::write_string;

impl Writer<'_> {
    pub(super) fn hstore(&mut self, text: &[u8]) -> Result<(), Misfit> {
        self.out.push(b'{');
        let mut rest = text;
        while !rest.is_empty() {
            let (key, after) = unquote(rest.strip_prefix(b"\"").ok_or(Misfit)?, false)?;
            write_string(self.out, &key);
            // The cast puts spaces where `row_to_json` itself puts none.
            self.out.extend_from_slice(b": ");
            rest = self.hstore_value(after.strip_prefix(b"=>").ok_or(Misfit)?)?;
            if !rest.is_empty() {
                rest = rest.strip_prefix(b", ").filter(|rest| !rest.is_empty()).ok_or(Misfit)?;
                self.out.extend_from_slice(b", ");
            }
        }
        self.out.push(b'}');
        Ok(())
    }

    fn hstore_value<'t>(&mut self, text: &'t [u8]) -> Result<&'t [u8], Misfit> {
        if let Some(rest) = text.strip_prefix(b"NULL") {
            self.out.extend_from_slice(b"null");
            return Ok(rest);
        }
        let (value, rest) = unquote(text.strip_prefix(b"\"").ok_or(Misfit)?, false)?;
        write_string(self.out, &value);
        Ok(rest)
    }
}
