//! Rendered rows equal `row_to_json` (invariant 7), with Postgres as the judge: random tables of random types, random
//! values, and each event's rows compared byte for byte with what Postgres prints in the same transaction.
//!
//! `WALHOOK_TEST_SEED` repeats a run, `WALHOOK_TEST_ROWS` sets how many rows each table gets.

mod scalars;
#[path = "../support/mod.rs"]
mod support;
mod types;

use std::rc::Rc;

use serde_json::json;
use support::load::Dice;
use support::scene::Scene;
use tokio_postgres::Row;
use types::{Type, identifier, pick};
use walhook::postgres::Session;

const TABLES: usize = 10;
const COLUMNS: usize = 22;
const ROWS: usize = 40;
const MADE_TYPES: usize = 40;
/// So that no table lives without them.
const OFTEN: &[&str] = &["text", "float8", "numeric", "timestamptz", "json", "box", "public.mood", "public.hstore"];

/// What one change must arrive as: operation, old row, new row.
type Expected = (&'static str, Option<String>, Option<String>);

/// A table and what happened to it so far.
struct Table {
    name: String,
    columns: Vec<(String, Rc<Type>)>,
    rows: Vec<(usize, String)>,
    expected: Vec<Expected>,
}

impl Table {
    fn random(dice: &mut Dice, number: usize, known: &[Rc<Type>]) -> Table {
        let often = known.iter().filter(|known| OFTEN.contains(&known.name.as_str()));
        let mut types: Vec<Rc<Type>> = often.map(|often| pick(dice, std::slice::from_ref(often))).collect();
        types.resize_with(COLUMNS, || pick(dice, known));
        let columns = types.into_iter().enumerate().map(|(at, kind)| (identifier(dice, at), kind)).collect();
        Table { name: format!("r{number}"), columns, rows: Vec::new(), expected: Vec::new() }
    }

    fn ddl(&self) -> String {
        let columns = self.columns.iter().map(|(name, kind)| format!(", {name} {}", kind.name)).collect::<String>();
        format!("create table public.{} (id int primary key{columns});", self.name)
    }

    async fn insert(&mut self, dice: &mut Dice, sql: &Session, count: usize) {
        let values = |dice: &mut Dice, id: usize| {
            let values: String = self.columns.iter().map(|(_, kind)| format!(", {}", kind.value(dice, 0))).collect();
            format!("({id}{values})")
        };
        let rows: Vec<String> = (0..count).map(|id| values(dice, id)).collect();
        let statement = format!("insert into public.{} values {}", self.name, rows.join(", "));
        for (id, new) in self.run(sql, &statement).await.into_iter().enumerate() {
            self.rows.push((id, new.clone()));
            self.expected.push(("INSERT", None, Some(new)));
        }
    }

    /// A few columns get new values, the others stay: large ones are not in the WAL then.
    async fn update(&mut self, dice: &mut Dice, sql: &Session) {
        let place = dice.below(self.rows.len() as u64) as usize;
        let set: Vec<String> = (0..3)
            .map(|part| {
                let (name, kind) = &self.columns[part * 7 + dice.below(7) as usize];
                format!("{name} = {}", kind.value(dice, 0))
            })
            .collect();
        let (id, old) = self.rows[place].clone();
        let statement = format!("update public.{} set {} where id = {id}", self.name, set.join(", "));
        let new = self.run(sql, &statement).await.remove(0);
        self.rows[place].1 = new.clone();
        // Equal JSON need not mean an equal row, so an update that may or may not fire is not told apart here: the
        // triggers fire on every update.
        self.expected.push(("UPDATE", Some(old), Some(new)));
    }

    async fn delete(&mut self, dice: &mut Dice, sql: &Session) {
        let (id, old) = self.rows.swap_remove(dice.below(self.rows.len() as u64) as usize);
        let statement = format!("delete from public.{} where id = {id}", self.name);
        self.run(sql, &statement).await;
        self.expected.push(("DELETE", Some(old), None));
    }

    /// Runs a change; gives its rows as Postgres prints them.
    async fn run(&self, sql: &Session, statement: &str) -> Vec<String> {
        let statement = format!("{statement} returning row_to_json({})::text", self.name);
        let rows = sql.query(&statement, &[]).await;
        let rows = rows.unwrap_or_else(|error| panic!("{:?} in {}\n{statement}", error.as_db_error(), self.ddl()));
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// The first difference, so that a failure can be read.
    fn check(&self, events: &[Row]) {
        for (event, (operation, old, new)) in events.iter().zip(&self.expected) {
            assert_eq!(event.get::<_, &str>(0), *operation);
            for (column, expected) in [(1, old), (2, new)] {
                let found: Option<&str> = event.get(column);
                if found != expected.as_deref() {
                    let (found, expected) = (found.unwrap_or_default(), expected.as_deref().unwrap_or_default());
                    let pairs = found.char_indices().zip(expected.chars());
                    let at = pairs.take_while(|((_, one), other)| one == other).last().map_or(0, |((at, _), _)| at);
                    let part = |text: &str| {
                        let part = &text.as_bytes()[at.saturating_sub(150).min(text.len())..text.len().min(at + 150)];
                        String::from_utf8_lossy(part).into_owned()
                    };
                    let (found, expected) = (part(found), part(expected));
                    panic!("{operation} near byte {at}\nfound    {found}\nexpected {expected}\n{}", self.ddl());
                }
            }
        }
        assert_eq!(events.len(), self.expected.len(), "{}", self.name);
    }
}

/// The scalar types that this server has. Says which ones it has not.
async fn scalar_types(sql: &Session) -> Vec<Rc<Type>> {
    let mut known: Vec<Rc<Type>> =
        scalars::SCALARS.iter().map(|(name, generator)| Type::scalar(name, *generator)).collect();
    for (name, generator) in scalars::OPTIONAL {
        match sql.batch_execute(&format!("select '<a/>'::{name}")).await {
            Ok(()) => known.push(Type::scalar(name, *generator)),
            Err(error) => println!("without {name}, which this Postgres was built without: {error:?}"),
        }
    }
    for (extension, name, generator) in scalars::EXTENSIONS {
        match sql.batch_execute(&format!("create extension if not exists {extension} schema public")).await {
            Ok(()) => known.push(Type::scalar(name, *generator)),
            Err(error) => println!("without {name}, which this Postgres does not bring: {error:?}"),
        }
    }
    known
}

async fn create_tables(dice: &mut Dice, sql: &Session) -> Vec<Table> {
    let mut known = scalar_types(sql).await;
    let (mut ddl, fixtures) = Type::fixtures();
    known.extend(fixtures);
    for number in 0..MADE_TYPES {
        let (statements, made) = Type::random(dice, number, &known);
        ddl += &statements;
        known.push(made);
    }
    // The made types are what is hard: let them come often.
    let made: Vec<Rc<Type>> = known[known.len() - MADE_TYPES..].to_vec();
    known.extend(made);
    let tables: Vec<Table> = (0..TABLES).map(|number| Table::random(dice, number, &known)).collect();
    ddl.extend(tables.iter().map(Table::ddl));
    sql.batch_execute(&ddl).await.unwrap_or_else(|error| panic!("{error:?} in {ddl}"));
    tables
}

#[tokio::test]
async fn rows_equal_what_postgres_prints() {
    let mut dice = Dice::from_environment();
    let rows = std::env::var("WALHOOK_TEST_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(ROWS);
    let scene = Scene::start("").await;
    // Its search path is the one that capture has, and so are the formats.
    let sql = scene.database.connect().await;
    let mut tables = create_tables(&mut dice, &sql).await;
    for table in &tables {
        scene.create(&table.name, &table.name, "/rows", json!({"fire_on_unchanged": true})).await;
    }
    for table in &mut tables {
        table.insert(&mut dice, &sql, rows).await;
        for _ in 0..rows / 2 {
            table.update(&mut dice, &sql).await;
        }
        for _ in 0..rows / 4 {
            table.delete(&mut dice, &sql).await;
        }
    }
    let total: usize = tables.iter().map(|table| table.expected.len()).sum();
    scene.wait_for_count("select count(*) from walhook.event", total as i64).await;
    let query = "select e.operation, e.old, e.new from walhook.event e \
                 join walhook.trigger t on t.id = e.trigger_id where t.name = $1 order by e.commit_lsn, e.ordinal";
    for table in &tables {
        table.check(&sql.query(query, &[&table.name]).await.expect("the events"));
    }
    println!("{total} changes of {} columns in {TABLES} tables", COLUMNS + 1);
    // Nothing had to be sent as text.
    assert!(!scene.walhook.log().contains("as text"), "{}", scene.walhook.log());
}
