//! What is known of types: the built-in ones, and what the catalogue was found to say of others.

use std::collections::HashMap;
use std::sync::Arc;

use super::builtin;
use super::value::{Array, Composite, Field, Kind};

/// What the catalogue says of a type that is not built in, as far as `row_to_json` cares.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeShape {
    /// Printed as its text: enums, ranges, most types of extensions, and what the catalogue does not have any more.
    Text,
    /// Extension hstore's type.
    Hstore,
    /// Printed as the type it is based on.
    Domain(u32),
    /// An array.
    Array {
        /// OID of the elements' type.
        element: u32,
        /// What stands between two of them.
        delimiter: u8,
    },
    /// A composite type, or the row type of a table.
    Composite {
        /// Name and type of each field, in order.
        fields: Vec<(String, u32)>,
        /// No field was ever dropped.
        only_grew: bool,
    },
}

/// Types by their OID. Pure: who uses it asks the catalogue for what it does not know and lets it learn.
#[derive(Clone, Debug, Default)]
pub struct Types {
    shapes: HashMap<u32, TypeShape>,
    wanted: Vec<u32>,
    stringify_numbers: bool,
}

/// Types nested deeper than this are printed as text. Each level doubles the quotes of the one inside, so no real value
/// comes near.
const DEEPEST: u32 = 32;

impl Types {
    /// Knows the built-in types. `stringify_numbers` prints columns of int8, float8 and numeric as strings, not those
    /// inside of arrays and composites, as Hasura does.
    pub fn new(stringify_numbers: bool) -> Self {
        Types { stringify_numbers, ..Types::default() }
    }

    /// Types that the catalogue should be asked about.
    pub fn wanted(&self) -> &[u32] {
        &self.wanted
    }

    /// Wants those of these types that are not built in to be looked up, also when they are known.
    pub fn want(&mut self, type_ids: impl IntoIterator<Item = u32>) {
        self.wanted.extend(type_ids.into_iter().filter(|type_id| builtin::kind(*type_id).is_none()));
    }

    /// Takes in what the catalogue says of all that is wanted and of what that is made of; a type that it does not have
    /// is given as [`TypeShape::Text`]. Returns whether anything is different now.
    pub fn learn(&mut self, found: impl IntoIterator<Item = (u32, TypeShape)>) -> bool {
        self.wanted.clear();
        let mut changed = false;
        for (type_id, shape) in found {
            changed |= self.shapes.get(&type_id) != Some(&shape);
            self.shapes.insert(type_id, shape);
        }
        changed
    }

    /// How a column's text becomes JSON. What is not known yet counts as text and is wanted.
    pub fn column_kind(&mut self, type_id: u32) -> Kind {
        if self.stringify_numbers && builtin::is_big_number(self.base(type_id)) {
            return Kind::Text;
        }
        let mut unknown = Vec::new();
        let kind = self.kind(type_id, DEEPEST, &mut unknown);
        self.wanted.append(&mut unknown);
        kind
    }

    /// What a domain is based on in the end; other types are their own base.
    fn base(&self, type_id: u32) -> u32 {
        let mut base = type_id;
        for _ in 0..DEEPEST {
            match self.shapes.get(&base) {
                Some(TypeShape::Domain(next)) => base = *next,
                _ => break,
            }
        }
        base
    }

    fn kind(&self, type_id: u32, levels: u32, unknown: &mut Vec<u32>) -> Kind {
        if let Some(kind) = builtin::kind(type_id) {
            return kind;
        }
        let Some(shape) = self.shapes.get(&type_id) else {
            unknown.push(type_id);
            return Kind::Text;
        };
        let Some(levels) = levels.checked_sub(1) else { return Kind::Text };
        match shape {
            TypeShape::Text => Kind::Text,
            TypeShape::Hstore => Kind::Hstore,
            TypeShape::Domain(base) => self.kind(*base, levels, unknown),
            TypeShape::Array { element, delimiter } => {
                let element = self.kind(*element, levels, unknown);
                Kind::Array(Arc::new(Array { element, delimiter: *delimiter }))
            }
            TypeShape::Composite { fields, only_grew } => {
                let field = |(name, type_id): &(String, u32)| Field::new(name, self.kind(*type_id, levels, unknown));
                let fields = fields.iter().map(field).collect();
                Kind::Composite(Arc::new(Composite::new(fields, *only_grew)))
            }
        }
    }
}
