//! The network between walhook and Postgres breaks, under load: walhook goes on by itself and nothing is lost.

mod support;

use std::time::Duration;

use serde_json::json;
use support::cluster::TestDatabase;
use support::load::{Dice, LEDGER, Writers, check_delivered, check_log};
use support::proxy::{Proxy, Weather};
use support::scene::Scene;
use support::wait::eventually;
use support::walhook::Start;

/// A frozen connection is noticed after 15 s of silence and 5 s without an answer.
const LONG: Duration = Duration::from_secs(180);

async fn behind_a_proxy() -> (Scene, Proxy) {
    let database = TestDatabase::create().await;
    let proxy = Proxy::start(database.port()).await;
    let through = Start::serve_through(&database, proxy.port());
    let scene = Scene::in_database(database, LEDGER, |_| through).await;
    scene.create("ledger", "ledger", "/ledger", json!({})).await;
    (scene, proxy)
}

async fn check_everything(scene: &Scene) {
    check_log(&scene.sql, LONG).await;
    check_delivered(&scene.sql, &scene.receiver, LONG).await;
    assert_eq!(scene.count("select count(*) from walhook.gap").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_network_that_is_cut_again_and_again_loses_nothing() {
    let (scene, proxy) = behind_a_proxy().await;
    let mut dice = Dice::from_environment();
    let writers = Writers::start(&scene.database, 2, &mut dice);
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(300 + dice.below(900))).await;
        proxy.set(Weather::Cut);
        tokio::time::sleep(Duration::from_millis(dice.below(600))).await;
        proxy.set(Weather::Fair);
    }
    writers.finish().await;
    check_everything(&scene).await;
    let log = scene.walhook.log();
    assert!(log.contains("capture interrupted") && log.contains("nothing is lost"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_dead_without_a_word_is_noticed() {
    let (scene, proxy) = behind_a_proxy().await;
    scene.execute("insert into ledger (padding) values ('before')").await;
    scene.arrivals("/ledger", 1).await;
    proxy.set(Weather::Frozen);
    scene.execute("insert into ledger (padding) values ('while frozen')").await;
    let noticed = |log: String| async move { if log.contains("capture interrupted") { Ok(()) } else { Err(log) } };
    eventually("the dead connection to be noticed", LONG, || noticed(scene.walhook.log())).await;
    proxy.set(Weather::Cut);
    proxy.set(Weather::Fair);
    scene.execute("insert into ledger (padding) values ('after')").await;
    check_everything(&scene).await;
}
