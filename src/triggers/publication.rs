//! What must change on publication and tables before a trigger can work, and changing it.

use std::time::Duration;

use deadpool_postgres::Transaction;
use postgres_protocol::escape::escape_identifier;

use super::ReplicaIdentityPolicy;
use super::error::{Error, Inconsistency, Unwatchable};
use super::published::{self, Member, State};
use super::table::{Table, quote};
use crate::model::{Operations, TableName};

/// How long a lock on a plain table is waited for: so long the application's own writers queue behind us.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Locking a partitioned table takes many locks, so it can meet a writer crosswise. We must give up before the writer's
/// `deadlock_timeout` (1 s) would end the writer.
pub(super) const LOCK_WAIT_SHORT: Duration = Duration::from_millis(800);

/// What is to be changed. Empty when the trigger can work as things are.
#[derive(Debug)]
pub(super) struct Plan {
    table: TableName,
    partitioned: bool,
    publication: String,
    add: bool,
    /// Those that are given another identity.
    to_change: Vec<Member>,
}

/// Decides what must change so that this table's operations reach the WAL reader whole.
pub(super) fn plan(
    state: &State,
    table: &Table,
    operations: &Operations,
    publication: &str,
    policy: ReplicaIdentityPolicy,
) -> Result<Plan, Inconsistency> {
    check_publication(state, table, operations, publication)?;
    for member in &state.members {
        match (member.kind.as_str(), member.persistence.as_str()) {
            ("f", _) => return Err(Unwatchable::Foreign(quote(&member.name)).into()),
            (_, "u") => return Err(Unwatchable::Unlogged(quote(&member.name)).into()),
            _ => {}
        }
    }
    // A partition has the primary key of its root from the start, and no other identity.
    if table.is_partitioned() && state.needs_identities() && !state.guarded {
        return Err(Inconsistency::UnsafePartitions);
    }
    check_columns(state, operations)?;
    check_identities(state, policy)?;
    // The identity of the leaf is what counts; the root's own is kept alike, because it is what the stream describes.
    let to_change = match policy {
        ReplicaIdentityPolicy::Full => state.members.iter().filter(|member| member.wants_identity()).cloned().collect(),
        ReplicaIdentityPolicy::Keep => Vec::new(),
    };
    Ok(Plan {
        table: table.name.clone(),
        partitioned: table.is_partitioned(),
        publication: publication.to_owned(),
        add: !state.contains,
        to_change,
    })
}

fn check_publication(
    state: &State,
    table: &Table,
    operations: &Operations,
    publication: &str,
) -> Result<(), Inconsistency> {
    let alter = |what: &str| format!("ALTER PUBLICATION {} SET ({what});", escape_identifier(publication));
    let wanted =
        [operations.insert.is_some(), operations.update.is_some(), operations.delete.is_some(), operations.truncate];
    for ((operation, published), wanted) in state.publishes.into_iter().zip(wanted) {
        if wanted && !published {
            return Err(Inconsistency::Publication {
                publication: publication.to_owned(),
                reason: format!("does not publish {operation}"),
                statement: alter("publish = 'insert, update, delete, truncate'"),
            });
        }
    }
    if table.is_partitioned() && !state.via_root {
        return Err(Inconsistency::Publication {
            publication: publication.to_owned(),
            reason: "publishes partitions under their own names".to_owned(),
            statement: alter("publish_via_partition_root = true"),
        });
    }
    if state.partial {
        let (name, table) = (publication.to_owned(), quote(&table.name));
        let publication = escape_identifier(publication);
        let alter = |verb: &str| format!("ALTER PUBLICATION {publication} {verb} TABLE ONLY {table};");
        return Err(Inconsistency::Publication {
            publication: name,
            reason: "publishes only some rows or columns of the table".to_owned(),
            statement: format!("{} {}", alter("DROP"), alter("ADD")),
        });
    }
    Ok(())
}

/// What is not published cannot be compared and not be sent.
fn check_columns(state: &State, operations: &Operations) -> Result<(), Inconsistency> {
    let specs = [&operations.insert, &operations.update, &operations.delete].into_iter().flatten();
    let mut named = specs.flat_map(|spec| spec.columns.names().iter().chain(spec.payload.names()));
    match named.find(|name| state.hidden.contains(name)) {
        Some(name) => Err(Inconsistency::HiddenColumn(name.clone())),
        None => Ok(()),
    }
}

/// Postgres refuses UPDATE and DELETE on a published table without identity, so such a table is not published.
fn check_identities(state: &State, policy: ReplicaIdentityPolicy) -> Result<(), Inconsistency> {
    if !state.needs_identities() {
        return Ok(());
    }
    // A root holds no rows; it stands for the partitions it will get.
    if let Some(member) = state.members.iter().find(|member| !member.can_be_safe()) {
        return Err(Inconsistency::HiddenColumns(quote(&member.name)));
    }
    let unusable = state.members.iter().filter(|member| !member.usable);
    let statements: Vec<String> = match policy {
        ReplicaIdentityPolicy::Full => Vec::new(),
        ReplicaIdentityPolicy::Keep => unusable.map(Member::set_identity).collect(),
    };
    if statements.is_empty() { Ok(()) } else { Err(Inconsistency::NoIdentity { statements }) }
}

impl Plan {
    pub fn is_empty(&self) -> bool {
        !self.add && self.to_change.is_empty()
    }

    /// The lock that keeps writers out. Without it a transaction that wrote before ALTER PUBLICATION and commits after
    /// it would be decoded without the table, though it commits after our answer; so we wait until no such transaction
    /// is left. A change of identity takes ACCESS EXCLUSIVE anyway, and asking for it at once avoids the upgrade, which
    /// can deadlock. Partitions are locked too, as they can be written directly; other children are not published.
    fn lock(&self) -> String {
        let only = if self.partitioned { "" } else { "ONLY " };
        let mode = if self.to_change.is_empty() { "SHARE ROW EXCLUSIVE" } else { "ACCESS EXCLUSIVE" };
        format!("LOCK TABLE {only}{} IN {mode} MODE;", quote(&self.table))
    }

    /// ONLY, because children by inheritance would be added as well.
    fn addition(&self) -> Option<String> {
        let publication = escape_identifier(&self.publication);
        self.add.then(|| format!("ALTER PUBLICATION {publication} ADD TABLE ONLY {};", quote(&self.table)))
    }

    /// The changes, in order.
    fn changes(&self) -> Vec<String> {
        self.addition().into_iter().chain(self.to_change.iter().map(Member::set_identity)).collect()
    }

    /// What an operator runs in our place.
    pub fn statements(&self) -> Vec<String> {
        let mut statements = vec!["BEGIN;".to_owned(), self.lock()];
        statements.extend(self.changes());
        statements.push("COMMIT;".to_owned());
        statements
    }

    /// Takes the lock. The caller reads the state again afterwards: it may have changed while we waited.
    pub async fn take_lock(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        let wait = if self.partitioned { LOCK_WAIT_SHORT } else { LOCK_WAIT };
        set_lock_wait(transaction, wait).await?;
        Ok(transaction.batch_execute(&self.lock()).await?)
    }

    /// Makes the changes and notes them in `walhook.watched_table`, to be undone when the last trigger goes.
    pub async fn apply(&self, transaction: &Transaction<'_>, source_id: i16, relation: u32) -> Result<(), Error> {
        if let Some(statement) = self.addition() {
            transaction.batch_execute(&statement).await?;
            published::record(transaction, source_id, relation, None, true).await?;
        }
        for member in &self.to_change {
            member.give_identity(transaction, source_id).await?;
        }
        Ok(())
    }
}

/// Takes a table out of the publication. This needs no lock that writers would notice, and not the table's ownership.
pub(super) async fn take_out(transaction: &Transaction<'_>, publication: &str, table: &TableName) -> Result<(), Error> {
    let publication = escape_identifier(publication);
    let statement = format!("ALTER PUBLICATION {publication} DROP TABLE ONLY {}", quote(table));
    Ok(transaction.batch_execute(&statement).await?)
}

/// Sets the publication to what it is, which makes the stream look anew at what is published.
pub(super) async fn renew(transaction: &Transaction<'_>, publication: &str, via_root: bool) -> Result<(), Error> {
    let publication = escape_identifier(publication);
    let statement = format!("ALTER PUBLICATION {publication} SET (publish_via_partition_root = {via_root})");
    Ok(transaction.batch_execute(&statement).await?)
}

/// Bounds every wait for a lock in the rest of this transaction.
pub(super) async fn set_lock_wait(transaction: &Transaction<'_>, wait: Duration) -> Result<(), Error> {
    Ok(transaction.batch_execute(&format!("set local lock_timeout = {}", wait.as_millis())).await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::OperationSpec;

    fn member(name: &str, kind: &str, identity: &str, usable: bool) -> Member {
        Member {
            relation: 1,
            name: TableName::new("public", name),
            kind: kind.into(),
            persistence: "p".into(),
            identity: identity.into(),
            identity_index: None,
            usable,
            full_works: true,
            key_works: false,
        }
    }

    fn state(contains: bool, members: Vec<Member>) -> State {
        State {
            publishes: [("insert", true), ("update", true), ("delete", true), ("truncate", true)],
            via_root: true,
            contains,
            partial: false,
            forgets_partitions: false,
            guarded: true,
            hidden: Vec::new(),
            members,
        }
    }

    fn decide(state: &State, policy: ReplicaIdentityPolicy) -> Result<Plan, Inconsistency> {
        let table = Table {
            relation: 1,
            name: TableName::new("public", "T"),
            kind: state.members[0].kind.clone(),
            persistence: "p".into(),
            system: false,
            parent: None,
            columns: Vec::new(),
            key_columns: Vec::new(),
        };
        let spec = OperationSpec { columns: crate::model::Columns::All, payload: crate::model::Columns::All };
        let operations = Operations { update: Some(spec), ..Operations::default() };
        plan(state, &table, &operations, "walhook_default", policy)
    }

    #[test]
    fn a_new_table_is_locked_added_and_made_full() {
        let plan = decide(&state(false, vec![member("T", "r", "d", true)]), ReplicaIdentityPolicy::Full).expect("plan");
        assert_eq!(
            plan.statements(),
            [
                "BEGIN;",
                "LOCK TABLE ONLY \"public\".\"T\" IN ACCESS EXCLUSIVE MODE;",
                "ALTER PUBLICATION \"walhook_default\" ADD TABLE ONLY \"public\".\"T\";",
                "ALTER TABLE \"public\".\"T\" REPLICA IDENTITY FULL;",
                "COMMIT;"
            ]
        );
        let kept = decide(&state(false, vec![member("T", "r", "d", true)]), ReplicaIdentityPolicy::Keep).expect("plan");
        assert!(kept.lock().contains("IN SHARE ROW EXCLUSIVE MODE"), "{}", kept.lock());
    }

    #[test]
    fn what_is_right_already_is_left_alone() {
        let full = state(true, vec![member("T", "r", "f", true)]);
        assert!(decide(&full, ReplicaIdentityPolicy::Full).expect("plan").is_empty());
        let keyed = state(true, vec![member("T", "r", "d", true)]);
        assert!(decide(&keyed, ReplicaIdentityPolicy::Keep).expect("plan").is_empty());
    }

    #[test]
    fn partitions_are_made_full_with_their_root() {
        let members = vec![member("T", "p", "d", true), member("T_1", "r", "d", true), member("T_2", "r", "f", true)];
        let plan = decide(&state(true, members), ReplicaIdentityPolicy::Full).expect("plan");
        assert_eq!(plan.lock(), "LOCK TABLE \"public\".\"T\" IN ACCESS EXCLUSIVE MODE;");
        assert_eq!(plan.changes().len(), 2);
    }

    #[test]
    fn what_would_break_or_lose_is_refused_with_the_cure() {
        let bare = state(false, vec![member("T", "r", "d", false)]);
        let error = decide(&bare, ReplicaIdentityPolicy::Keep).expect_err("no identity");
        assert_eq!(error.statements(), ["ALTER TABLE \"public\".\"T\" REPLICA IDENTITY FULL;"]);
        assert!(decide(&bare, ReplicaIdentityPolicy::Full).is_ok());

        let mut inserts_only = bare.clone();
        inserts_only.publishes = [("insert", true), ("update", false), ("delete", false), ("truncate", false)];
        let error = decide(&inserts_only, ReplicaIdentityPolicy::Keep).expect_err("update is not published");
        assert!(error.to_string().contains("does not publish update; run: ALTER PUBLICATION"), "{error}");

        let mut by_leaf = state(false, vec![member("T", "p", "f", true)]);
        by_leaf.via_root = false;
        let error = decide(&by_leaf, ReplicaIdentityPolicy::Full).expect_err("not via root");
        assert!(error.to_string().contains("publish_via_partition_root = true"), "{error}");

        let mut filtered = state(true, vec![member("T", "r", "f", true)]);
        filtered.partial = true;
        let error = decide(&filtered, ReplicaIdentityPolicy::Full).expect_err("a row filter");
        assert!(error.to_string().contains("some rows or columns of the table; run: ALTER PUBLICATION"), "{error}");

        let mut keyless = state(false, vec![member("T", "p", "f", true)]);
        keyless.guarded = false;
        let error = decide(&keyless, ReplicaIdentityPolicy::Full).expect_err("partitions without identity");
        assert!(error.statements()[0].starts_with("CREATE EVENT TRIGGER"), "{error}");

        // Postgres 18 and a virtual column: under FULL no UPDATE would work.
        let hiding =
            |identity, usable, key_works| Member { full_works: false, key_works, ..member("T", "r", identity, usable) };
        let plan = decide(&state(false, vec![hiding("f", false, true)]), ReplicaIdentityPolicy::Full).expect("a key");
        assert_eq!(plan.changes()[1], "ALTER TABLE \"public\".\"T\" REPLICA IDENTITY DEFAULT;");
        let plan = decide(&state(false, vec![hiding("i", true, true)]), ReplicaIdentityPolicy::Full).expect("an index");
        assert_eq!(plan.changes().len(), 1, "an identity that works is left");
        let error =
            decide(&state(false, vec![hiding("f", false, false)]), ReplicaIdentityPolicy::Full).expect_err("none");
        assert!(error.to_string().contains("give it a primary key"), "{error}");

        let foreign = state(false, vec![member("T", "p", "f", true), member("T_f", "f", "d", true)]);
        let error = decide(&foreign, ReplicaIdentityPolicy::Full).expect_err("foreign partition");
        assert!(error.to_string().contains("\"T_f\" is a foreign table"), "{error}");
    }
}
