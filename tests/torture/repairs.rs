//! What somebody does by hand meanwhile: events are skipped and sent again, one by one, by trigger, and as replays.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio_postgres::Error;
use uuid::Uuid;
use walhook::postgres::{Session, Settings, connect};

use crate::Dice;
use crate::damage::now;
use crate::found::Found;
use crate::model::{CUSTOM, TABLES};
use crate::workload::{CALLED_WITHIN, NAMES, lasting, pause};

/// That an event was skipped: between these times, in microseconds. Where no answer came there is no end.
#[derive(Clone, Copy, Debug)]
pub struct Skip {
    pub from: i64,
    pub until: i64,
}

/// What was asked for and may have been done, with the time just before, in microseconds.
#[derive(Clone, Default)]
pub struct Repairs(Arc<Mutex<Book>>);

#[derive(Default)]
struct Book {
    skips: Vec<(Uuid, Skip)>,
    resends: Vec<(Uuid, i64)>,
    /// All dead events of the trigger with this name.
    all_dead: Vec<(String, i64)>,
}

impl Repairs {
    fn note(&self, note: impl FnOnce(&mut Book)) {
        note(&mut self.0.lock().expect("the book"));
    }

    /// For the checks. Replays are known from the queue itself, also where the answer to the call was lost.
    pub fn asked(&self, found: &Found) -> AskedOfAll {
        let book = self.0.lock().expect("the book");
        let mut asked = AskedOfAll::default();
        for (event, skip) in &book.skips {
            asked.skips.entry(*event).or_default().push(*skip);
        }
        for (event, at) in &book.resends {
            asked.resends.entry(*event).or_default().push(*at);
        }
        for (trigger, name) in &found.names {
            let of_name = book.all_dead.iter().filter(|(known, _)| known == name).map(|(_, at)| *at);
            asked.resends_of_trigger.entry(*trigger).or_default().extend(of_name);
        }
        for replay in &found.replays {
            asked.resends_of_trigger.entry(replay.trigger).or_default().push(replay.requested_at);
        }
        asked
    }
}

/// What was asked for, by what it is about.
#[derive(Default)]
pub struct AskedOfAll {
    skips: HashMap<Uuid, Vec<Skip>>,
    resends: HashMap<Uuid, Vec<i64>>,
    resends_of_trigger: HashMap<Uuid, Vec<i64>>,
}

impl AskedOfAll {
    pub fn skips_of(&self, event: Uuid) -> &[Skip] {
        self.skips.get(&event).map_or(&[], Vec::as_slice)
    }

    pub fn of(&self, trigger: Uuid, event: Uuid) -> Asked<'_> {
        let of_event = self.resends.get(&event).map_or(&[][..], Vec::as_slice);
        let of_trigger = self.resends_of_trigger.get(&trigger).map_or(&[][..], Vec::as_slice);
        Asked { skips: self.skips_of(event), resends: [of_event, of_trigger] }
    }
}

/// What was asked for of one event.
#[derive(Debug)]
pub struct Asked<'a> {
    pub skips: &'a [Skip],
    resends: [&'a [i64]; 2],
}

impl Asked<'_> {
    /// How often it may have been asked to be sent again until then.
    pub fn resends_before(&self, time: i64) -> usize {
        self.resends.iter().copied().flatten().filter(|at| **at <= time).count()
    }
}

/// One who repairs deliveries, in SQL and by the API.
pub struct Operator {
    pub apis: Vec<String>,
    pub database: Settings,
    pub repairs: Repairs,
}

impl Operator {
    /// Until told to stop.
    pub async fn repair(self, mut dice: Dice, stop: Arc<AtomicBool>) {
        let client = reqwest::Client::builder().no_proxy().timeout(CALLED_WITHIN).build().expect("a client");
        while !stop.load(Ordering::Relaxed) {
            let Ok(sql) = connect(&self.database, "operator").await else {
                pause(&mut dice, 100).await;
                continue;
            };
            let mut hands =
                Hands { sql: &sql, client: &client, api: dice.pick::<String>(&self.apis), repairs: &self.repairs };
            while !stop.load(Ordering::Relaxed) && hands.repair(&mut dice).await.is_ok() {
                hands.api = dice.pick::<String>(&self.apis);
                pause(&mut dice, 250).await;
            }
        }
    }
}

struct Hands<'a> {
    sql: &'a Session,
    client: &'a reqwest::Client,
    api: &'a str,
    repairs: &'a Repairs,
}

/// Events that others may wait for.
const HEADS: &str = "select event_id from walhook.deferred where reason in ('retry', 'held', 'redelivery')";
const DONE: &str = "select event_id from walhook.attempt where verdict in ('delivered', 'dead')";

impl Hands<'_> {
    /// An error is of the session; what a call of the API came to does not matter.
    async fn repair(&self, dice: &mut Dice) -> Result<(), Error> {
        match dice.below(10) {
            0..=2 => self.skip(dice).await,
            3..=5 => self.redeliver(HEADS, dice).await,
            6..=7 => self.redeliver(DONE, dice).await,
            8 => self.redeliver_dead(dice).await,
            _ => self.replay(dice).await,
        }
    }

    async fn call(&self, kind: &str, args: Value) -> Option<Value> {
        let call = json!({"type": kind, "args": args});
        let answer = self.client.post(format!("{}/v1/query", self.api)).json(&call).send().await.ok()?;
        answer.json().await.ok()
    }

    /// One of these events; which one, the dice say.
    async fn pick(&self, among: &str, dice: &mut Dice) -> Result<Option<Uuid>, Error> {
        let one = format!("{among} order by hashtext(event_id::text || $1::text) limit 1");
        let found = self.sql.query_opt(&one, &[&dice.below(1 << 40).to_string()]).await?;
        Ok(found.map(|row| row.get(0)))
    }

    async fn skip(&self, dice: &mut Dice) -> Result<(), Error> {
        let Some(event) = self.pick(HEADS, dice).await? else { return Ok(()) };
        let from = now();
        let is_skipped = if dice.one_in(2) {
            let answer = self.call("skip_event", json!({"event_id": event})).await;
            answer.map(|answer| answer["error"].is_null())
        } else {
            skip(self.sql, event).await.ok()
        };
        // Without an answer it may have been.
        if is_skipped != Some(false) {
            let until = is_skipped.map_or(i64::MAX, |_| now());
            self.repairs.note(|book| book.skips.push((event, Skip { from, until })));
        }
        Ok(())
    }

    async fn redeliver(&self, among: &str, dice: &mut Dice) -> Result<(), Error> {
        let Some(event) = self.pick(among, dice).await? else { return Ok(()) };
        self.repairs.note(|book| book.resends.push((event, now())));
        if dice.one_in(2) {
            self.call("redeliver_event", json!({"event_id": event})).await;
            return Ok(());
        }
        self.sql.query("select walhook.redeliver($1)", &[&event]).await.map(drop)
    }

    async fn redeliver_dead(&self, dice: &mut Dice) -> Result<(), Error> {
        let name = name(dice);
        self.repairs.note(|book| book.all_dead.push((name.clone(), now())));
        if dice.one_in(2) {
            self.call("redeliver_events", json!({"name": name})).await;
        } else {
            // The trigger may not be there.
            drop(self.sql.query("select walhook.redeliver_dead($1)", &[&name]).await);
        }
        Ok(())
    }

    async fn replay(&self, dice: &mut Dice) -> Result<(), Error> {
        let from = "select (now() - $1 * interval '1 millisecond')::text";
        let from: String = self.sql.query_one(from, &[&(dice.below(2000) as f64)]).await?.get(0);
        let mut args = json!({"name": name(dice), "from_time": from});
        if dice.one_in(2) {
            args["rate"] = json!(50 + dice.below(2000));
        }
        self.call("replay_event_trigger", args).await;
        Ok(())
    }
}

fn name(dice: &mut Dice) -> String {
    let subjects: Vec<&str> = TABLES.into_iter().chain([CUSTOM]).collect();
    let subject = *dice.pick(&subjects);
    if dice.one_in(2) { lasting(subject) } else { format!("t{}", dice.below(NAMES as u64)) }
}

async fn skip(sql: &Session, event: Uuid) -> Result<bool, Error> {
    Ok(sql.query_one("select walhook.skip_event($1)", &[&event]).await?.get(0))
}

/// Gives up half of the dead events that hold others up, and has the other half sent again.
pub async fn decide(sql: &Session, repairs: &Repairs) {
    let held = "select event_id, seq from walhook.deferred where reason = 'held'";
    for row in sql.query(held, &[]).await.expect("what is held") {
        let (event, at): (Uuid, i64) = (row.get(0), now());
        if row.get::<_, i64>(1) % 2 == 0 {
            skip(sql, event).await.expect("an answer");
            repairs.note(|book| book.skips.push((event, Skip { from: at, until: now() })));
        } else {
            repairs.note(|book| book.resends.push((event, at)));
            sql.query("select walhook.redeliver($1)", &[&event]).await.expect("an answer");
        }
    }
}
