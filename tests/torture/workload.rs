//! What the application, the operator and the receivers do, at random.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::task::JoinHandle;
use walhook::postgres::{Settings, connect};

use crate::Dice;
use crate::model::{Asked, CUSTOM, TABLES};
use crate::repairs::{self, Repairs};
use crate::support::receiver::{Answer, Receiver, Script};

pub const DDL: &str = "
    create sequence public.mark;
    create table public.item (id bigint primary key, mark bigint not null default nextval('public.mark'),
                              n integer not null default 0, note text);
    create table public.entry (kind text default 'k', id bigint, mark bigint not null default nextval('public.mark'),
                               n integer not null default 0, note text, primary key (kind, id));
    create table public.shelf (id bigint primary key, mark bigint not null default nextval('public.mark'),
                               n integer not null default 0, note text) partition by range (id);
    create table public.shelf_low partition of public.shelf for values from (minvalue) to (20);
    create table public.shelf_high partition of public.shelf for values from (20) to (maxvalue);
";
/// Few, so that a row changes often and writers meet.
const KEYS: u64 = 40;
const LARGE: u64 = 300;
const WRITERS: usize = 3;
/// Triggers that come and go; beside them one a table stays from the beginning to the end.
pub const NAMES: usize = 5;
pub const CALLED_WITHIN: Duration = Duration::from_secs(3);

/// Everything that goes on beside the faults, until it is told to end.
pub struct Workload {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<()>>,
}

/// What was asked of the API so far.
pub type Registry = Arc<Mutex<Vec<Asked>>>;

impl Workload {
    /// Starts all of it.
    pub fn start(
        database: &Settings,
        apis: Vec<String>,
        receiver: &Arc<Receiver>,
        registry: &Registry,
        repairs: &Repairs,
        dice: &mut Dice,
    ) -> Workload {
        let stop = Arc::new(AtomicBool::new(false));
        let mut tasks: Vec<JoinHandle<()>> =
            (0..WRITERS).map(|_| tokio::spawn(write(database.clone(), dice.split(), stop.clone()))).collect();
        let (database, repairs) = (database.clone(), repairs.clone());
        let repairer = repairs::Operator { apis: apis.clone(), database, repairs };
        tasks.push(tokio::spawn(repairer.repair(dice.split(), stop.clone())));
        let operator = Operator { apis, receiver: receiver.clone(), registry: registry.clone() };
        tasks.push(tokio::spawn(operator.change_triggers(dice.split(), stop.clone())));
        tasks.push(tokio::spawn(change_moods(receiver.clone(), registry.clone(), dice.split(), stop.clone())));
        Workload { stop, tasks }
    }

    /// Waits until all have ended what they were at, and lets the receivers accept everything.
    pub async fn finish(self, receiver: &Receiver, registry: &Registry) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.expect("a part of the workload");
        }
        for asked in registry.lock().expect("the registry").iter() {
            receiver.on(&asked.path(), Script::default());
        }
    }
}

pub async fn pause(dice: &mut Dice, longest_millis: u64) {
    tokio::time::sleep(Duration::from_millis(dice.below(longest_millis))).await;
}

async fn write(settings: Settings, mut dice: Dice, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        let Ok(session) = connect(&settings, "application").await else {
            pause(&mut dice, 100).await;
            continue;
        };
        while !stop.load(Ordering::Relaxed) {
            // A deadlock, a key that is taken or a division by zero is the end of the transaction, not of the session.
            let failed = session.batch_execute(&transaction(&mut dice)).await.is_err();
            if failed && session.batch_execute("rollback").await.is_err() {
                break;
            }
            pause(&mut dice, 50).await;
        }
    }
}

fn transaction(dice: &mut Dice) -> String {
    if dice.one_in(3) {
        // Without a transaction around it.
        return statement(dice);
    }
    let mut text = "begin;".to_owned();
    for _ in 0..=dice.below(5) {
        text += &match dice.below(6) {
            0 => format!("savepoint s; {} {} rollback to savepoint s;", statement(dice), statement(dice)),
            1 => format!("savepoint s; {} release savepoint s;", statement(dice)),
            _ => statement(dice),
        };
    }
    text + match dice.below(8) {
        0 => "rollback;",
        1 => "select 1 / 0; commit;",
        _ => "commit;",
    }
}

fn statement(dice: &mut Dice) -> String {
    let (table, key, more) = (*dice.pick(&TABLES), dice.below(KEYS), dice.below(4));
    let note = ["'a'", "'b'", "'a_longer_one'", "null"][dice.below(4) as usize];
    let rows = format!("where id between {key} and {}", key + more);
    let insert = |from: u64, to: u64| {
        format!(
            "insert into public.{table} (id, note) select i, {note} from pg_catalog.generate_series({from}, {to}) i \
             on conflict do nothing;"
        )
    };
    match dice.below(40) {
        0..=11 => insert(key, key + more),
        12..=25 => format!(
            "update public.{table} set mark = nextval('public.mark'), n = n + {}, note = {note} {rows};",
            dice.below(2)
        ),
        // Some of it without any change.
        26..=28 => format!("update public.{table} set note = {note} {rows};"),
        29..=31 => format!(
            "update public.{table} t set mark = nextval('public.mark'), id = {key} where id = {} \
             and not exists (select from public.{table} o where o.id = {key});",
            dice.below(KEYS)
        ),
        32..=35 => format!("delete from public.{table} {rows};"),
        36 if dice.one_in(3) => {
            let from = KEYS + dice.below(10) * LARGE;
            let update = format!("update public.{table} set mark = nextval('public.mark') where id between ");
            format!("{} {update} {from} and {};", insert(from, from + LARGE), from + LARGE / 4)
        }
        37 if dice.one_in(4) && table != "shelf" => format!("truncate public.{table};"),
        _ => {
            let at = match dice.below(3) {
                0 => format!("clock_timestamp() + interval '{} milliseconds'", dice.below(3000) as i64 - 200),
                _ => "null".to_owned(),
            };
            format!("select walhook.emit('{CUSTOM}', jsonb_build_object('mark', nextval('public.mark')), {at});")
        }
    }
}

/// Makes, replaces, deletes, pauses and resumes triggers. What became of a call whose answer did not come, the judge
/// knows.
struct Operator {
    apis: Vec<String>,
    receiver: Arc<Receiver>,
    registry: Registry,
}

impl Operator {
    async fn change_triggers(self, mut dice: Dice, stop: Arc<AtomicBool>) {
        let client = reqwest::Client::builder().no_proxy().timeout(CALLED_WITHIN).build().expect("a client");
        let subjects: Vec<&'static str> = TABLES.into_iter().chain([CUSTOM]).collect();
        // Whether a trigger of each name exists, as far as the operator knows, and its ordering.
        let (mut exists, mut orderings) = ([false; NAMES], [None; NAMES]);
        while !stop.load(Ordering::Relaxed) {
            pause(&mut dice, 300).await;
            // A name stays with its table: a trigger cannot be moved to another one.
            let place = dice.below(NAMES as u64) as usize;
            let (name, subject) = (format!("t{place}"), subjects[place % subjects.len()]);
            let deletes = exists[place] && dice.one_in(3);
            if dice.one_in(4) {
                let any = if dice.one_in(2) { name } else { lasting(subject) };
                // A receiver that is gone pauses its trigger as well, so there is more to be resumed.
                let verb = *dice.pick(&["pause", "resume", "resume"]);
                let call = json!({"type": format!("{verb}_event_trigger"), "args": {"name": any}});
                drop(client.post(format!("{}/v1/query", dice.pick(&self.apis))).json(&call).send().await);
                continue;
            }
            let call = if deletes {
                json!({"type": "delete_event_trigger", "args": {"name": name}})
            } else {
                // Seldom another one: little is promised then.
                let kept = orderings[place].filter(|_| exists[place] && !dice.one_in(4));
                let asked = ask(&self.registry, |number| {
                    let asked = Asked::random(number, name, subject, &mut dice);
                    Asked { ordering: kept.unwrap_or(asked.ordering), ..asked }
                });
                orderings[place] = Some(asked.ordering);
                self.receiver.on(&asked.path(), mood(&mut dice));
                let args = asked.arguments(&self.receiver.url(&asked.path()), exists[place]);
                json!({"type": "create_event_trigger", "args": args})
            };
            let api = dice.pick(&self.apis);
            let Ok(answer) = client.post(format!("{api}/v1/query")).json(&call).send().await else { continue };
            match answer.status().as_u16() {
                200 => exists[place] = !deletes,
                // It was made or deleted by a call that was not answered.
                400 => exists[place] = !exists[place],
                _ => {}
            }
        }
    }
}

/// The name of the trigger that a subject has from the beginning to the end.
pub fn lasting(subject: &str) -> String {
    format!("all_{subject}")
}

/// Notes what is going to be asked.
pub fn ask(registry: &Registry, make: impl FnOnce(usize) -> Asked) -> Asked {
    let mut registry = registry.lock().expect("the registry");
    let asked = make(registry.len());
    registry.push(asked.clone());
    asked
}

async fn change_moods(receiver: Arc<Receiver>, registry: Registry, mut dice: Dice, stop: Arc<AtomicBool>) {
    while !stop.load(Ordering::Relaxed) {
        pause(&mut dice, 300).await;
        let path = {
            let registry = registry.lock().expect("the registry");
            // The triggers that stay, or one of the latest.
            let (lasting, latest) = (&registry[..=TABLES.len()], &registry[registry.len().saturating_sub(6)..]);
            let some = if dice.one_in(2) { lasting } else { latest };
            dice.pick(some).path()
        };
        receiver.on(&path, mood(&mut dice));
    }
}

/// How a receiver answers its next requests; those after them it accepts.
fn mood(dice: &mut Dice) -> Script {
    let ill = [0, 4, 30, 100][dice.below(4) as usize];
    // Slow ones let events pile up in memory, which a crash must not lose.
    let slow = dice.one_in(3).then(|| Duration::from_millis(50 + dice.below(400)));
    let good = |dice: &mut Dice| slow.map_or_else(|| good(dice), |time| Answer::status(200).after(time));
    let answer = |dice: &mut Dice| if dice.below(100) < ill { bad(dice) } else { good(dice) };
    Script::each((0..dice.below(200)).map(|_| answer(dice)).collect())
}

fn good(dice: &mut Dice) -> Answer {
    let answer = Answer::status(*dice.pick(&[200, 201, 204]));
    if dice.one_in(20) { answer.after(Duration::from_millis(dice.below(300))) } else { answer }
}

fn bad(dice: &mut Dice) -> Answer {
    match dice.below(20) {
        0 => Answer::hang(),
        1..=3 => Answer::close(),
        4 => Answer::garbage(),
        5 => Answer::broken_off(),
        6 => Answer::status(410),
        7..=9 => Answer::status(503).retry_after("1"),
        10..=12 => Answer::status(503),
        13 => Answer::status(429),
        _ => Answer::status(500).body("no"),
    }
}
