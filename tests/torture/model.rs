//! The reference model: from what Postgres says was committed, which events each trigger must get, and in what order.
//!
//! What was committed is told by a slot of its own with `test_decoding`, Postgres' own plugin. So it is known also
//! where the answer to a commit was lost in a crash, and the place of a trigger's definition among the commits is
//! exact.

use std::collections::{BTreeMap, HashMap};

use serde_json::{Value, json};
use tokio_postgres::types::PgLsn;
use uuid::Uuid;
use walhook::postgres::Session;

/// Tables of the application; custom events count as one more.
pub const TABLES: [&str; 3] = ["item", "entry", "shelf"];
pub const CUSTOM: &str = "order_made";
/// Columns whose changes a trigger may be about.
const WATCHED: [&str; 3] = ["mark", "n", "note"];

/// What the test asked the API for. Its number is in the webhook's path, so a stored definition says which one it is.
#[derive(Clone, Debug)]
pub struct Asked {
    pub number: usize,
    pub name: String,
    pub subject: &'static str,
    pub insert: bool,
    /// The columns of which one must have changed.
    pub update: Option<Vec<&'static str>>,
    pub delete: bool,
    pub truncate: bool,
    pub fire_on_unchanged: bool,
    pub retries: u32,
    pub ordering: &'static str,
    pub on_dead: &'static str,
    /// Events in a request at most; an array of them is its body then.
    pub batch: Option<u64>,
}

/// As often as they are asked for.
const ORDERINGS: [&str; 4] = ["row", "row", "none", "trigger"];

impl Asked {
    /// Everything that happens to a table, in some order.
    pub fn all(number: usize, name: &str, subject: &'static str, dice: &mut crate::Dice) -> Asked {
        let (ordering, on_dead) = (*dice.pick(&ORDERINGS), *dice.pick(&["continue", "hold"]));
        let batch = dice.one_in(4).then(|| 1 + dice.below(20));
        Asked {
            number,
            name: name.into(),
            subject,
            insert: true,
            update: Some(WATCHED.into()),
            delete: true,
            truncate: true,
            fire_on_unchanged: true,
            retries: dice.below(4) as u32,
            ordering,
            on_dead,
            batch,
        }
    }

    /// Whatever the dice say.
    pub fn random(number: usize, name: String, subject: &'static str, dice: &mut crate::Dice) -> Asked {
        let mut columns: Vec<&'static str> = WATCHED.iter().copied().filter(|_| dice.one_in(2)).collect();
        if columns.is_empty() {
            columns.push("n");
        }
        let update = (!dice.one_in(4)).then_some(columns);
        let (delete, truncate) = (dice.one_in(2), dice.one_in(2) && subject != "shelf");
        let insert = dice.one_in(2) || (update.is_none() && !delete && !truncate);
        let fire_on_unchanged = dice.one_in(4);
        let all = Asked::all(number, &name, subject, dice);
        Asked { insert, update, delete, truncate, fire_on_unchanged, ..all }
    }

    /// Where it sends to.
    pub fn path(&self) -> String {
        format!("/t{}", self.number)
    }

    /// Arguments of `create_event_trigger`.
    pub fn arguments(&self, webhook: &str, replace: bool) -> Value {
        let retry_conf = json!({"num_retries": self.retries, "interval_sec": 1, "timeout_sec": 1});
        let mut args = json!({"name": self.name, "webhook": webhook, "replace": replace, "retry_conf": retry_conf,
                              "ordering": self.ordering, "on_dead": self.on_dead()});
        if let Some(events) = self.batch {
            args["batch"] = json!({"max_events": events, "max_wait_ms": 20});
            // Batches that are closed by their bytes, and looked at again before they may go.
            if self.number.is_multiple_of(2) {
                args["batch"]["max_bytes"] = json!(2_048);
                args["rate_limit_per_sec"] = json!(200);
            }
        }
        if self.subject == CUSTOM {
            args["type"] = json!(CUSTOM);
            return args;
        }
        args["table"] = json!(self.subject);
        args["fire_on_unchanged"] = json!(self.fire_on_unchanged);
        if self.insert {
            args["insert"] = json!({"columns": "*"});
        }
        if let Some(columns) = &self.update {
            args["update"] = json!({"columns": columns, "payload": "*"});
        }
        if self.delete {
            args["delete"] = json!({"columns": "*"});
        }
        if self.truncate {
            args["truncate"] = json!({});
        }
        args
    }

    /// Without an order there is nothing to hold up.
    fn on_dead(&self) -> &'static str {
        if self.ordering == "none" { "continue" } else { self.on_dead }
    }

    fn wants(&self, change: &Change) -> bool {
        let is_changed = |column: &&str| change.old.get(*column) != change.new.get(*column);
        self.subject == change.subject
            && match change.operation {
                "INSERT" => self.insert,
                "UPDATE" => {
                    self.update.as_ref().is_some_and(|columns| self.fire_on_unchanged || columns.iter().any(is_changed))
                }
                "DELETE" => self.delete,
                "TRUNCATE" => self.truncate,
                _ => true,
            }
    }
}

/// A row's values as text; a null is left out.
type Row = BTreeMap<String, String>;

/// One change that was committed.
#[derive(Clone, Debug)]
struct Change {
    subject: String,
    operation: &'static str,
    old: Row,
    new: Row,
    deliver_at: Option<i64>,
}

/// What a transaction holds that matters here.
enum Part {
    Change(Change),
    /// A trigger's version came into force.
    Version(Uuid, i32),
}

/// An event that a trigger must get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    pub operation: &'static str,
    /// The marks of the rows: each write gives its row another one.
    pub marks: [Option<i64>; 2],
    /// The row that the event is about; none of a TRUNCATE or a custom event.
    pub row: Option<String>,
    /// The position behind its commit.
    pub commit_end: u64,
    /// The time that it is for, in microseconds, also one that was over.
    pub deliver_at: Option<i64>,
}

/// What all definitions that a trigger ever had promise of the order of its events.
#[derive(Clone, Debug)]
pub struct Promise {
    /// None where it changed: what was captured before goes out by the old one, beside what comes after.
    pub ordering: Option<&'static str>,
    pub goes_on_after_dead: bool,
    /// Whether an event may come beside the one before it, in one request.
    pub is_batched: bool,
}

/// What Postgres says was committed.
pub struct Judge {
    slot: String,
}

/// What the judge found.
pub struct Truth {
    /// Each trigger's events, in the order of their commits.
    pub expected: HashMap<Uuid, Vec<Expected>>,
    /// The smallest `num_retries` that each trigger ever had.
    pub fewest_retries: HashMap<Uuid, u32>,
    pub promises: HashMap<Uuid, Promise>,
    pub transactions: usize,
}

impl Judge {
    /// From now on.
    pub async fn appoint(sql: &Session, database: &str) -> Judge {
        let slot = format!("judge_{database}");
        let create = "select pg_create_logical_replication_slot($1, 'test_decoding')";
        sql.query(create, &[&slot]).await.expect("a slot of test_decoding, which Postgres brings");
        Judge { slot }
    }

    /// Everything that was committed since the appointment.
    pub async fn truth(&self, sql: &Session, asked: &[Asked]) -> Truth {
        let versions = "select trigger_id, version, case when watch is not null then
                               substring(definition::text from '/t([0-9]+)\"')::int end
                        from walhook.trigger_version";
        let versions = sql.query(versions, &[]).await.expect("the versions of all triggers");
        let versions: HashMap<(Uuid, i32), Option<i32>> =
            versions.iter().map(|row| ((row.get(0), row.get(1)), row.get(2))).collect();
        let lines = "select lsn, data from pg_logical_slot_peek_changes($1, null, null, 'skip-empty-xacts', '1')
                     where data ~ '^(COMMIT|table (public|walhook.trigger_version)|message: .*prefix: walhook,)'";
        let lines = sql.query(lines, &[&self.slot]).await.expect("what was committed");
        let mut truth = Truth {
            expected: HashMap::new(),
            fewest_retries: HashMap::new(),
            promises: HashMap::new(),
            transactions: 0,
        };
        let (mut active, mut parts) = (BTreeMap::new(), Vec::new());
        for line in &lines {
            let text: &str = line.get(1);
            if !text.starts_with("COMMIT") {
                parts.extend(parse(text));
                continue;
            }
            truth.transactions += 1;
            let commit_end = u64::from(line.get::<_, PgLsn>(0));
            for part in parts.drain(..) {
                match part {
                    Part::Change(change) => fire(&change, commit_end, &active, &mut truth.expected),
                    Part::Version(trigger, version) => {
                        let number = versions.get(&(trigger, version)).expect("a committed version is in its table");
                        active.remove(&trigger);
                        if let Some(number) = number {
                            let asked = &asked[*number as usize];
                            active.insert(trigger, asked);
                            truth.promise(trigger, asked);
                        }
                        truth.expected.entry(trigger).or_default();
                    }
                }
            }
        }
        truth
    }
}

impl Truth {
    fn promise(&mut self, trigger: Uuid, asked: &Asked) {
        let fewest = self.fewest_retries.entry(trigger).or_insert(asked.retries);
        *fewest = asked.retries.min(*fewest);
        let goes_on_after_dead = asked.on_dead() == "continue";
        let first = Promise { ordering: Some(asked.ordering), goes_on_after_dead, is_batched: false };
        let promise = self.promises.entry(trigger).or_insert(first);
        promise.ordering = promise.ordering.filter(|known| *known == asked.ordering);
        promise.goes_on_after_dead |= goes_on_after_dead;
        promise.is_batched |= asked.batch.is_some();
    }
}

fn fire(
    change: &Change,
    commit_end: u64,
    active: &BTreeMap<Uuid, &Asked>,
    expected: &mut HashMap<Uuid, Vec<Expected>>,
) {
    let mark = |row: &Row| row.get("mark").map(|mark| mark.parse().expect("a number"));
    // An update that changes the key is of the row as it was called before.
    let keyed = if change.old.is_empty() { &change.new } else { &change.old };
    let row = keyed.get("id").map(|id| format!("{} {:?} {id}", change.subject, keyed.get("kind")));
    for (trigger, _) in active.iter().filter(|(_, asked)| asked.wants(change)) {
        expected.entry(*trigger).or_default().push(Expected {
            operation: change.operation,
            marks: [mark(&change.old), mark(&change.new)],
            row: row.clone(),
            commit_end,
            deliver_at: change.deliver_at,
        });
    }
}

/// One line of `test_decoding`.
fn parse(line: &str) -> Vec<Part> {
    if let Some((_, content)) = line.split_once("content:") {
        let content: Value = serde_json::from_str(content).expect("what walhook.emit writes");
        let new = Row::from([("mark".to_owned(), content["event"]["data"]["mark"].to_string())]);
        let subject = content["event"]["type"].as_str().expect("a type").to_owned();
        let deliver_at = content["event"]["deliver_at"].as_i64();
        return vec![Part::Change(Change { subject, operation: "CUSTOM", old: Row::new(), new, deliver_at })];
    }
    let rest = line.strip_prefix("table ").expect("a table");
    if let Some(version) = rest.strip_prefix("walhook.trigger_version: INSERT: ") {
        let values = values(version);
        let number = |name: &str| values[name].trim_matches('\'').to_owned();
        let trigger = number("trigger_id").parse().expect("a UUID");
        return vec![Part::Version(trigger, number("version").parse().expect("a number"))];
    }
    let (tables, rest) = rest.split_once(": ").expect("a table's name");
    let (operation, rows) = rest.split_once(": ").expect("an operation");
    let (operation, old, new) = match operation {
        "INSERT" => ("INSERT", Row::new(), values(rows)),
        "UPDATE" => {
            let rows = rows.strip_prefix("old-key: ").and_then(|rows| rows.split_once(" new-tuple: "));
            let (old, new) = rows.expect("an old row: the tables have full identity");
            ("UPDATE", values(old), values(new))
        }
        "DELETE" => ("DELETE", values(rows), Row::new()),
        _ => ("TRUNCATE", Row::new(), Row::new()),
    };
    let change = |table: &str| {
        // Partitions are called after their table, and events are of the table.
        let name = table.trim_start_matches("public.").split('_').next().unwrap_or_default();
        let (subject, old, new) = (name.to_owned(), old.clone(), new.clone());
        Part::Change(Change { subject, operation, old, new, deliver_at: None })
    };
    tables.split(", ").map(change).collect()
}

/// `name[type]:value`, with spaces between. The values that matter have no spaces.
fn values(text: &str) -> Row {
    let pairs = text.split(' ').filter_map(|word| {
        let (name, rest) = word.split_once('[')?;
        let (_, value) = rest.split_once("]:")?;
        Some((name.to_owned(), value.to_owned()))
    });
    pairs.filter(|(_, value)| value != "null").collect()
}
