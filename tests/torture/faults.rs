//! What breaks: walhook's processes, their connections, and Postgres.

use std::time::Duration;

use walhook::postgres::cluster::{Cluster, Mode};
use walhook::postgres::connect;

use crate::Dice;
use crate::damage::Damage;
use crate::support::clock::Clock;
use crate::support::cluster::TestDatabase;
use crate::support::proxy::{Proxy, Weather};
use crate::support::scene::DEADLINE;
use crate::support::wait::eventually;
use crate::support::walhook::{Start, Walhook};

const MOST_NODES: u64 = 3;

#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// kill -9 and a new start.
    Kill,
    /// Killed again while it starts.
    KillTwice,
    /// Asked to stop, and started again.
    Stop,
    /// Stands still for a while without knowing.
    Pause,
    /// Stands still while others take its lanes, and gets them back when those are killed.
    Outlive,
    /// Connections to Postgres break.
    Cut,
    /// Connections to Postgres carry nothing for a while.
    Freeze,
    /// Its wall clock is set, by up to two hours.
    StepClock,
    /// Postgres ends some of its sessions.
    Terminate,
    RestartPostgres,
    CrashPostgres,
}

impl Fault {
    pub const ALL: [Fault; 11] = [
        Fault::Kill,
        Fault::KillTwice,
        Fault::Stop,
        Fault::Pause,
        Fault::Outlive,
        Fault::Cut,
        Fault::Freeze,
        Fault::StepClock,
        Fault::Terminate,
        Fault::RestartPostgres,
        Fault::CrashPostgres,
    ];
}

/// One walhook, behind a proxy of its own.
struct Node {
    start: Start,
    proxy: Proxy,
    /// Where its clock is not the machine's.
    clock: Option<Clock>,
    walhook: Walhook,
    /// What the processes before this one wrote.
    past: Vec<String>,
}

impl Node {
    async fn new(database: &TestDatabase, clock: Option<Clock>) -> Node {
        let proxy = Proxy::start(database.port()).await;
        let start = Start::serve_through(database, proxy.port());
        let start = clock.iter().fold(start, Start::with_clock);
        let walhook = start.clone().ready().await;
        Node { start: start.on_port(walhook.port()), proxy, clock, walhook, past: Vec::new() }
    }

    fn start_again(&mut self) {
        self.past.push(self.walhook.log());
        self.walhook = self.start.clone().spawn();
    }

    fn process_id(&self) -> i32 {
        self.walhook.process_id() as i32
    }

    async fn kill(&mut self, damage: &mut Damage) {
        self.end(damage).await;
        self.start_again();
    }

    async fn end(&mut self, damage: &mut Damage) {
        self.walhook.signal("KILL");
        self.walhook.wait(DEADLINE).await;
        damage.kills += 1;
        damage.ended(format!("process {} was killed", self.walhook.process_id()));
    }
}

/// All walhooks of a round. Their logs are shown when the test fails.
pub struct Nodes(Vec<Node>);

impl Nodes {
    pub async fn start(database: &TestDatabase, dice: &mut Dice, damage: &mut Damage) -> Nodes {
        let (count, mut nodes) = (1 + dice.below(MOST_NODES), Nodes(Vec::new()));
        // A clock that can be set costs each look at it a look at a file.
        let has_clocks = cfg!(target_os = "linux") && dice.one_in(2);
        for place in 0..count {
            let ahead = ahead_sec(dice);
            let clock = has_clocks.then(|| Clock::ahead_by(ahead));
            damage.note(format!("node {place} starts, its clock {} s ahead", if has_clocks { ahead } else { 0 }));
            nodes.0.push(Node::new(database, clock).await);
        }
        nodes
    }

    /// Where their APIs are.
    pub fn apis(&self) -> Vec<String> {
        self.0.iter().map(|node| node.walhook.url("")).collect()
    }

    /// Starts those again that ended by themselves, as whoever runs them would.
    fn revive(&mut self, damage: &mut Damage) {
        for (place, node) in self.0.iter_mut().enumerate() {
            if let Some(status) = node.walhook.ended() {
                println!("a walhook ended by itself: {status}");
                damage.ended(format!("node {place} ended by itself, {status}"));
                node.start_again();
            }
        }
    }

    /// Waits until all of them work.
    pub async fn recover(&mut self, damage: &mut Damage) {
        for node in 0..self.0.len() {
            eventually("walhook to be ready", DEADLINE, || {
                self.revive(damage);
                let url = self.0[node].walhook.url("/readyz");
                async move {
                    match reqwest::get(&url).await {
                        Ok(answer) if answer.status().is_success() => Ok(()),
                        answer => Err(format!("{answer:?}")),
                    }
                }
            })
            .await;
        }
    }

    /// Lets one thing break, and mends it.
    pub async fn strike(
        &mut self,
        fault: Fault,
        (cluster, database): (&mut Cluster, &TestDatabase),
        dice: &mut Dice,
        damage: &mut Damage,
    ) {
        self.revive(damage);
        let alone = self.0.len() == 1;
        if matches!(fault, Fault::Outlive) && !alone {
            return self.outlive(database, dice, damage).await;
        }
        let place = dice.below(self.0.len() as u64) as usize;
        let node = &mut self.0[place];
        damage.note(format!("{fault:?} of node {place}, process {}", node.walhook.process_id()));
        let mut rest = async |millis: u64| tokio::time::sleep(Duration::from_millis(dice.below(millis))).await;
        match fault {
            Fault::Kill => node.kill(damage).await,
            Fault::KillTwice => {
                node.kill(damage).await;
                rest(1000).await;
                node.kill(damage).await;
            }
            Fault::Stop => {
                // One that has hardly started does not know the signal yet: then it is a crash.
                if !node.walhook.terminate(DEADLINE).await.success() {
                    damage.ended("it had hardly started".to_owned());
                }
                node.start_again();
            }
            Fault::Pause | Fault::Outlive => {
                node.walhook.signal("STOP");
                rest(3000).await;
                node.walhook.signal("CONT");
            }
            Fault::Cut => {
                node.proxy.set(Weather::Cut);
                rest(1000).await;
                node.proxy.set(Weather::Fair);
            }
            Fault::Freeze => {
                node.proxy.set(Weather::Frozen);
                rest(2000).await;
                node.proxy.set(Weather::Fair);
            }
            Fault::StepClock => {
                let ahead = ahead_sec(dice);
                if let Some(clock) = &node.clock {
                    clock.set_ahead_by(ahead);
                    damage.steps += 1;
                    damage.note(format!("its clock is {ahead} s ahead"));
                }
                return;
            }
            Fault::Terminate => {
                let end = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() \
                           and application_name like 'walhook%' and pid % 2 = $1";
                drop(database.connect().await.query(end, &[&(dice.below(2) as i32)]).await);
            }
            Fault::RestartPostgres => cluster.restart(Mode::Fast).await.expect("a restart"),
            Fault::CrashPostgres => cluster.restart(Mode::Immediate).await.expect("a restart"),
        }
        // Another node takes the lanes over when their owner loses its session.
        damage.interruptions += usize::from(!alone && !matches!(fault, Fault::Stop));
        damage.note("it is mended".to_owned());
    }

    /// What one node had under way when it lost its lanes is of no account when it has them again.
    async fn outlive(&mut self, database: &TestDatabase, dice: &mut Dice, damage: &mut Damage) {
        let owner = owner_of_most(database).await;
        let place = self.0.iter().position(|node| owner == Some(node.process_id())).unwrap_or(0);
        self.0[place].walhook.signal("STOP");
        let stopped = self.0[place].process_id();
        damage.note(format!("node {place}, process {stopped}, stands still and outlives the others"));
        self.wait_for_owner("others to take the lanes", database, damage, |_, owner| owner != stopped).await;
        tokio::time::sleep(Duration::from_millis(dice.below(500))).await;
        let mut killed: Vec<Node> = std::mem::take(&mut self.0);
        self.0.push(killed.remove(place));
        for node in &mut killed {
            node.end(damage).await;
        }
        self.0[0].walhook.signal("CONT");
        let is_survivor = |nodes: &Nodes, owner| owner == nodes.0[0].process_id();
        self.wait_for_owner("the lanes to come back", database, damage, is_survivor).await;
        killed.iter_mut().for_each(Node::start_again);
        self.0.append(&mut killed);
        damage.interruptions += 2;
    }

    async fn wait_for_owner(
        &mut self,
        what: &str,
        database: &TestDatabase,
        damage: &mut Damage,
        is_right: impl Fn(&Nodes, i32) -> bool,
    ) {
        let end = std::time::Instant::now() + DEADLINE;
        loop {
            self.revive(damage);
            let owner = owner_of_most(database).await;
            if owner.is_some_and(|owner| is_right(self, owner)) {
                return;
            }
            assert!(std::time::Instant::now() < end, "not within {DEADLINE:?}: {what}; they are process {owner:?}'s");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

/// Up to an hour, or behind by as much.
fn ahead_sec(dice: &mut Dice) -> i64 {
    dice.below(7200) as i64 - 3600
}

/// The process that has the most lanes.
async fn owner_of_most(database: &TestDatabase) -> Option<i32> {
    let owner = "select process_id from walhook.lanes where process_id is not null
                 group by process_id order by count(*) desc limit 1";
    let session = connect(&database.settings(), "test").await.ok()?;
    session.query_opt(owner, &[]).await.ok()?.map(|row| row.get(0))
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (number, node) in self.0.iter().enumerate() {
                let past = &node.past[node.past.len().saturating_sub(3)..];
                println!("--- node {number}:\n{}\n{}", past.join("\n--- killed\n"), node.walhook.log());
            }
        }
    }
}
