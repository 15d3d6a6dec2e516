//! What most tests begin with: a database with tables, a receiver, a walhook that serves, and triggers on it.

use std::time::Duration;

use serde_json::{Value, json};
use tokio_postgres::types::ToSql;
use walhook::postgres::Session;

use super::cluster::TestDatabase;
use super::receiver::{Receiver, Request};
use super::wait::eventually;
use super::walhook::{Start, Walhook};

/// Long enough for a busy machine; nothing is ever asserted about how much of it was used.
pub const DEADLINE: Duration = Duration::from_secs(60);

/// The fields are dropped in this order.
pub struct Scene {
    pub walhook: Walhook,
    pub receiver: Receiver,
    pub sql: Session,
    pub database: TestDatabase,
}

/// Arguments of `create_event_trigger` for all three operations; `changes` are set over them, null takes a key away.
pub fn trigger(name: &str, table: &str, webhook: &str, changes: Value) -> Value {
    let all = json!({"columns": "*"});
    let mut args = json!({
        "name": name, "table": table, "webhook": webhook, "insert": all, "update": all, "delete": all,
    });
    for (key, value) in changes.as_object().expect("an object of changes") {
        args[key] = value.clone();
    }
    args
}

impl Scene {
    /// A new database with these tables, and `walhook serve` on it.
    pub async fn start(ddl: &str) -> Scene {
        Scene::start_with(ddl, |start| start).await
    }

    /// With more settings.
    pub async fn start_with(ddl: &str, change: impl FnOnce(Start) -> Start) -> Scene {
        let database = TestDatabase::create().await;
        Scene::in_database(database, ddl, change).await
    }

    /// In a database that is there already.
    pub async fn in_database(database: TestDatabase, ddl: &str, change: impl FnOnce(Start) -> Start) -> Scene {
        let sql = database.connect().await;
        sql.batch_execute(&format!("set search_path = public; {ddl}")).await.expect("the test's tables");
        let walhook = change(Start::serve(&database)).ready().await;
        Scene { walhook, receiver: Receiver::start().await, sql, database }
    }

    /// Runs statements in the scene's session, where `search_path` is `public`.
    pub async fn execute(&self, statements: &str) {
        self.sql.batch_execute(statements).await.unwrap_or_else(|error| panic!("{error:?} in {statements}"));
    }

    /// The first column of one row.
    pub async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(
        &self,
        query: &str,
        parameters: &[&(dyn ToSql + Sync)],
    ) -> T {
        let row = self.sql.query_one(query, parameters).await;
        row.unwrap_or_else(|error| panic!("{error:?} in {query}")).get(0)
    }

    /// A number that a query counts.
    pub async fn count(&self, query: &str) -> i64 {
        self.value(query, &[]).await
    }

    /// Waits until a query counts so many.
    pub async fn wait_for_count(&self, query: &str, expected: i64) {
        let check = || async {
            let count = self.count(query).await;
            let log = || self.walhook.log();
            if count == expected { Ok(()) } else { Err(format!("{count} instead of {expected}: {query}\n{}", log())) }
        };
        eventually("the count", DEADLINE, check).await;
    }

    /// Calls the API by `/v1/query`; gives status and body.
    pub async fn call(&self, kind: &str, args: Value) -> (u16, Value) {
        self.walhook.post("/v1/query", &json!({"type": kind, "args": args})).await
    }

    /// Calls the API; it must succeed.
    pub async fn succeed(&self, kind: &str, args: Value) -> Value {
        let (status, body) = self.call(kind, args).await;
        assert_eq!(status, 200, "{kind}: {body}; walhook's log:\n{}", self.walhook.log());
        body
    }

    /// Makes a trigger of all operations that sends to `path`, with `changes` over it.
    pub async fn create(&self, name: &str, table: &str, path: &str, changes: Value) {
        let args = trigger(name, table, &self.receiver.url(path), changes);
        let body = self.succeed("create_event_trigger", args).await;
        assert_eq!(body, json!({"message": "success"}));
    }

    /// Waits until at least so many requests came to a path; gives them.
    pub async fn arrivals(&self, path: &str, count: usize) -> Vec<Request> {
        let enough = |all: &[Request]| all.iter().filter(|request| request.path == path).count() >= count;
        self.receiver.wait_until(DEADLINE, enough).await;
        self.receiver.requests(path)
    }

    /// Waits until at least so many requests came to a path; gives `[op, old, new]` of each.
    pub async fn changes(&self, path: &str, count: usize) -> Vec<Value> {
        self.arrivals(path, count).await.iter().map(change).collect()
    }

    /// Waits until capture has passed everything that was committed before. Makes a table and a trigger `marker`.
    pub async fn settle(&self) {
        self.execute("create table if not exists public.marker (id uuid)").await;
        if self.count("select count(*) from walhook.trigger where name = 'marker' and deleted_at is null").await == 0 {
            self.create("marker", "marker", "/marker", json!({})).await;
        }
        let id = uuid::Uuid::new_v4();
        self.execute(&format!("insert into public.marker values ('{id}')")).await;
        let passed = format!(
            "select count(*) from walhook.event where new like '%{id}%' and trigger_id =
             (select id from walhook.trigger where name = 'marker' and deleted_at is null)"
        );
        self.wait_for_count(&passed, 1).await;
    }

    /// What the log has of everything that was committed before, in its order: `[table, op, old, new]`.
    pub async fn log(&self) -> Vec<Value> {
        self.settle().await;
        let query = "select json_build_array(table_name, operation, old, new)::text from walhook.events
                     where trigger <> 'marker' order by seq";
        let rows = self.sql.query(query, &[]).await.expect("the log");
        rows.iter().map(|row| serde_json::from_str(row.get(0)).expect("JSON")).collect()
    }

    /// Kills walhook and starts it again on the same port with the same settings as [`Scene::start`].
    pub async fn crash_and_restart(self) -> Scene {
        let Scene { walhook, receiver, sql, database } = self;
        let port = walhook.port();
        walhook.kill9().await;
        let walhook = Start::serve(&database).on_port(port).ready().await;
        Scene { walhook, receiver, sql, database }
    }
}

/// `[op, old, new]` of a webhook request.
pub fn change(request: &Request) -> Value {
    let event = &request.json()["event"];
    json!([event["op"], event["data"]["old"], event["data"]["new"]])
}
