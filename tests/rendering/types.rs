//! Random types made of others, and random values of them.

use std::rc::Rc;

use super::scalars::{self, Generator};
use crate::support::load::Dice;

/// A type of the test's database.
pub struct Type {
    /// As SQL writes it; with its schema, for `search_path` is `pg_catalog`.
    pub name: String,
    shape: Shape,
}

enum Shape {
    Scalar(Generator),
    /// Built by SQL from two texts in order.
    TextRange,
    Domain(Rc<Type>),
    Array(Rc<Type>),
    Composite(Vec<Rc<Type>>),
}

/// Deeper values become NULL, so that arrays of composites of arrays stay small.
const DEEPEST: u32 = 5;

impl Type {
    pub fn scalar(name: &str, generator: Generator) -> Rc<Type> {
        Rc::new(Type { name: name.into(), shape: Shape::Scalar(generator) })
    }

    /// Types that every run has: an enum with odd labels, and ranges of the test's own.
    pub fn fixtures() -> (String, Vec<Rc<Type>>) {
        const LABELS: &[&str] = &["", "so so", "a\"b", "c\\d", "e,f", "{g}", "NULL", "é🦀", "it's"];
        let labels: Vec<String> = LABELS.iter().map(|label| quoted(label)).collect();
        let ddl = format!(
            "create type public.mood as enum ({});
             create type public.textrange as range (subtype = text, collation = \"C\");
             create type public.floatrange as range (subtype = float8);
             create table public.\"odd \"\" name\" (a int, \"dropped\" text, \"B \\ b\" text);
             alter table public.\"odd \"\" name\" drop column \"dropped\";",
            labels.join(", ")
        );
        let mood = Type::scalar("public.mood", |dice| scalars::one_of(dice, LABELS));
        let floats = |dice: &mut Dice| scalars::one_of(dice, &["empty", "[0.1,1e300)", "(-Infinity,NaN]", "(,)"]);
        let multi = |dice: &mut Dice| scalars::one_of(dice, &["{}", "{[1,2),[3,4)}"]);
        let texts = Type { name: "public.textrange".into(), shape: Shape::TextRange };
        let (int, text) = (Type::scalar("int4", |_| "7".into()), Type::scalar("text", scalars::text));
        let row = Type { name: "public.\"odd \"\" name\"".into(), shape: Shape::Composite(vec![int, text]) };
        let floats = Type::scalar("public.floatrange", floats);
        (ddl, vec![mood, Rc::new(texts), floats, Type::scalar("public.floatmultirange", multi), Rc::new(row)])
    }

    /// A new type made of known ones, and the statements that create it.
    pub fn random(dice: &mut Dice, number: usize, known: &[Rc<Type>]) -> (String, Rc<Type>) {
        let name = format!("public.t{number}");
        if dice.below(3) == 0 {
            let base = pick(dice, known);
            let ddl = format!("create domain {name} as {};", base.name);
            return (ddl, Rc::new(Type { name, shape: Shape::Domain(base) }));
        }
        let fields: Vec<Rc<Type>> = (0..dice.below(6)).map(|_| pick(dice, known)).collect();
        let listed: Vec<String> =
            fields.iter().enumerate().map(|(at, field)| format!("{} {}", identifier(dice, at), field.name)).collect();
        let mut ddl = format!("create type {name} as ({});", listed.join(", "));
        if dice.below(3) == 0 {
            ddl += &format!("alter type {name} add attribute gone int; alter type {name} drop attribute gone;");
        }
        (ddl, Rc::new(Type { name, shape: Shape::Composite(fields) }))
    }

    /// An expression of this type.
    pub fn value(&self, dice: &mut Dice, depth: u32) -> String {
        let name = &self.name;
        if dice.below(10) == 0 || depth > DEEPEST {
            return format!("null::{name}");
        }
        match &self.shape {
            Shape::Scalar(generator) => format!("{}::{name}", quoted(&generator(dice))),
            Shape::TextRange => {
                let (one, other) = (quoted(&scalars::text(dice)), quoted(&scalars::text(dice)));
                let order = |which| format!("{which}({one} collate \"C\", {other} collate \"C\")");
                format!("{name}({}, {}, '[]')", order("least"), order("greatest"))
            }
            Shape::Domain(base) => format!("({})::{name}", base.value(dice, depth)),
            Shape::Array(element) => array(dice, name, element, depth),
            Shape::Composite(fields) => {
                let values: Vec<String> = fields.iter().map(|field| field.value(dice, depth + 1)).collect();
                format!("row({})::{name}", values.join(", "))
            }
        }
    }
}

fn array(dice: &mut Dice, name: &str, element: &Type, depth: u32) -> String {
    let mut items = |count: u64| -> String {
        let items: Vec<String> = (0..count).map(|_| element.value(dice, depth + 1)).collect();
        format!("[{}]", items.join(", "))
    };
    let (one, two) = (items(3), items(3));
    let few = 1 + dice.below(2);
    match dice.below(8) {
        0 => format!("'{{}}'::{name}"),
        1 => format!("array[{one}, {two}]::{name}"),
        2 => format!("array[[{one}], [{two}]]::{name}"),
        // Bounds of its own: only a text can give them.
        3 => format!("('[-1:1]=' || array{one}::{name}::text)::{name}"),
        4 => format!("('[0:1][5:7]=' || array[{one}, {two}]::{name}::text)::{name}"),
        5 => format!("array[null]::{name}"),
        _ => {
            let items: Vec<String> = (0..few).map(|_| element.value(dice, depth + 1)).collect();
            format!("array[{}]::{name}", items.join(", "))
        }
    }
}

/// One of them, or an array of it.
pub fn pick(dice: &mut Dice, known: &[Rc<Type>]) -> Rc<Type> {
    let one = Rc::clone(&known[dice.below(known.len() as u64) as usize]);
    if dice.below(3) > 0 || one.name.ends_with("[]") {
        return one;
    }
    Rc::new(Type { name: format!("{}[]", one.name), shape: Shape::Array(one) })
}

/// A name that has to be quoted, distinct by its place.
pub fn identifier(dice: &mut Dice, place: usize) -> String {
    let odd = scalars::one_of(dice, &["a", "B", "with space", "\"\"", "é", "\\", "select", "{,}", "🦀", "\t"]);
    format!("\"{odd}{place}\"")
}

pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
