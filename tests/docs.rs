//! What docs/postgres.md says to run, runs; and the README has every setting.

mod support;

use clap::Args;
use serde_json::json;
use support::scene::{DEADLINE, Scene};
use walhook::service::RawSettings;

/// The statements under a heading, with the test's own names.
fn statements(heading: &str, scene: &Scene) -> String {
    let page = include_str!("../docs/postgres.md");
    let (_, section) = page.split_once(&format!("\n## {heading}\n")).expect("the heading");
    let (_, after) = section.split_once("```sql\n").expect("statements under it");
    let (sql, _) = after.split_once("```").expect("their end");
    assert!(!sql.contains("\n## "), "no statements under {heading}");
    // Slot and publication of a test have the same name.
    sql.replace("walhook_default", &scene.database.slot())
}

#[tokio::test]
async fn the_slot_can_be_watched_and_walhook_be_removed() {
    let mut scene = Scene::start("create table items (id int primary key)").await;
    scene.create("t", "items", "/t", json!({})).await;
    scene.execute("insert into items values (1)").await;
    scene.arrivals("/t", 1).await;

    let watched = statements("Watching the slot", &scene);
    let row = scene.sql.query_one(watched.trim_end().trim_end_matches(';'), &[]).await.expect("the slot");
    assert!(row.get::<_, bool>("active"));
    assert_eq!(row.get::<_, &str>("wal_status"), "reserved");

    scene.succeed("delete_event_trigger", json!({"name": "t"})).await;
    assert!(scene.walhook.terminate(DEADLINE).await.success(), "{}", scene.walhook.log());
    // One by one, as psql sends them.
    for statement in statements("Removing walhook", &scene).split_terminator(";\n") {
        scene.execute(statement).await;
    }
    let left = "select (select count(*) from pg_replication_slots where database = current_database())
                     + (select count(*) from pg_publication) + (select count(*) from pg_event_trigger)
                     + (select count(*) from pg_namespace where nspname = 'walhook')
                     + (select count(*) from pg_class where oid = 'items'::regclass and relreplident <> 'd')";
    assert_eq!(scene.count(left).await, 0);
    scene.execute("update items set id = 2").await;
}

#[test]
fn the_table_of_settings_has_every_flag_and_variable() {
    let readme = include_str!("../README.md");
    let row_of =
        |flag: &str| readme.lines().find(|line| line.starts_with("| `--") && line.contains(&format!("`{flag}`")));
    let command = RawSettings::augment_args(clap::Command::new("settings"));
    let mut missing = Vec::new();
    for argument in command.get_arguments() {
        let flag = format!("--{}", argument.get_long().expect("each setting has a flag"));
        let is_complete = match flag.strip_suffix("-file") {
            // A row tells of both forms.
            Some(flag) => row_of(flag).is_some_and(|row| row.contains("(or `…_FILE`")),
            None => row_of(&flag).is_some_and(|row| {
                let variable = argument.get_env().and_then(|name| name.to_str());
                variable.is_none_or(|variable| row.contains(&format!("`{variable}`")))
            }),
        };
        if !is_complete {
            missing.push(flag);
        }
    }
    assert!(missing.is_empty(), "not in README's table of settings: {missing:?}");
}
