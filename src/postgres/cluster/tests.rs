//! The cluster against the real programs, and its leash against a real kill.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::*;

/// Set for the child that `a_killed_owner_leaves_nothing_behind` starts: this very test, which then kills itself.
const CHILD: &str = "WALHOOK_TEST_CLUSTER_CHILD";

fn is_running(process: u32) -> bool {
    let mut kill = Command::new("/bin/sh");
    kill.args(["-c", &format!("kill -0 {process}")]).stderr(Stdio::null());
    // A process nobody waited for yet has ended all the same.
    let zombie = std::fs::read_to_string(format!("/proc/{process}/stat")).is_ok_and(|stat| stat.contains(") Z "));
    kill.status().is_ok_and(|status| status.success()) && !zombie
}

fn wait_until(what: &str, check: impl Fn() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !check() {
        assert!(Instant::now() < end, "not within 20 s: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn a_cluster_starts_restarts_on_its_port_and_leaves_nothing_behind() {
    let options = Options { settings: vec![("work_mem".into(), "5MB".into())], ..Options::default() };
    let mut cluster = Cluster::start(options).await.expect("a cluster");
    let session = connect(&cluster.settings("postgres"), "test").await.expect("a session");
    let row = session.query_one("select current_setting('wal_level'), current_setting('work_mem')", &[]).await;
    let row = row.expect("a row");
    assert_eq!((row.get(0), row.get(1)), ("logical", "5MB"));
    connect(&cluster.socket_url("postgres").parse().expect("settings"), "test").await.expect("a session by the socket");

    let (port, first) = (cluster.port(), cluster.process_id().expect("a process"));
    for mode in [Mode::Fast, Mode::Immediate] {
        cluster.restart(mode).await.expect("a restart");
        assert_eq!(cluster.port(), port);
        assert!(!is_running(first));
        connect(&cluster.settings("postgres"), "test").await.expect("a session after the restart");
    }

    let (directory, last) = (cluster.directory.path().to_owned(), cluster.process_id().expect("a process"));
    drop(cluster);
    assert!(!is_running(last));
    assert!(!directory.exists());
}

#[tokio::test]
async fn a_wrong_password_is_refused_on_both_ways_in() {
    let cluster = Cluster::start(Options::default()).await.expect("a cluster");
    for url in [cluster.url("postgres"), cluster.socket_url("postgres")] {
        let wrong = url.replace(cluster.password(), "guess").parse().expect("settings");
        assert!(connect(&wrong, "test").await.is_err(), "{} let a wrong password in", url);
    }
}

#[tokio::test]
async fn a_server_that_cannot_start_shows_its_log() {
    let options = Options { settings: vec![("shared_buffers".into(), "nonsense".into())], ..Options::default() };
    let error = Cluster::start(options).await.expect_err("nonsense is no size").to_string();
    assert!(error.contains("it ended") && error.contains("nonsense"), "{error}");
}

#[test]
fn a_killed_owner_leaves_nothing_behind() {
    if std::env::var_os(CHILD).is_some() {
        return start_and_be_killed();
    }
    let program = std::env::current_exe().expect("this test's program");
    let name = "postgres::cluster::tests::a_killed_owner_leaves_nothing_behind";
    let output = Command::new(program).args([name, "--exact", "--nocapture"]).env(CHILD, "1").output();
    let printed = String::from_utf8_lossy(&output.expect("the child's output").stdout).into_owned();
    let line = printed.lines().find_map(|line| line.split_once("cluster: ").map(|(_, rest)| rest));
    let (process, directory) = line.and_then(|line| line.split_once(' ')).expect("the child's line");
    let process: u32 = process.parse().expect("a process id");
    wait_until("Postgres ended", || !is_running(process));
    wait_until("its directory went", || !Path::new(directory).exists());
}

fn start_and_be_killed() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let cluster = runtime.block_on(Cluster::start(Options::default())).expect("a cluster");
    let process = cluster.process_id().expect("a process");
    assert!(is_running(process));
    println!("cluster: {process} {}", cluster.directory.path().display());
    let kill = format!("kill -s KILL {}", std::process::id());
    Command::new("/bin/sh").args(["-c", &kill]).status().expect("never answered");
    unreachable!("signal 9 cannot be survived");
}
