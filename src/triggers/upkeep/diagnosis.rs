//! What keeps a trigger from working as it was defined, and what must be done about its table. Pure.

use std::collections::HashSet;

use super::super::ReplicaIdentityPolicy;
use super::super::publication;
use super::super::published::{Member, State};
use super::super::table::{Table, quote};
use crate::model::{Definition, Ordering, TableName};

/// The table of a trigger as it is now.
pub(super) struct Found {
    pub table: Table,
    pub state: State,
}

/// What was decided for the source when it was set up, and what happened since.
pub(super) struct Given<'a> {
    pub publication: &'a str,
    pub policy: ReplicaIdentityPolicy,
    /// Tables whose identity walhook has set: what they have now, somebody chose after that.
    pub chosen: &'a HashSet<u32>,
}

/// What is to be done about a table.
#[derive(Clone, Debug)]
pub(super) enum Action {
    /// Give it or a partition of it the best identity there is. `urgent`: until then UPDATE and DELETE on it fail.
    GiveIdentity { member: Member, urgent: bool },
    /// Take it out of the publication, so that UPDATE and DELETE work again.
    TakeOut,
}

/// What must be done so that the application's writes work and old rows come whole.
pub(super) fn actions(found: &Found, given: &Given<'_>) -> Vec<Action> {
    let state = &found.state;
    if !state.contains {
        return Vec::new();
    }
    let urgent = |member: &Member| state.needs_identities() && member.is_unsafe();
    match given.policy {
        ReplicaIdentityPolicy::Keep if state.members.iter().any(urgent) => vec![Action::TakeOut],
        ReplicaIdentityPolicy::Keep => Vec::new(),
        ReplicaIdentityPolicy::Full if state.members.iter().any(|member| urgent(member) && !member.can_be_safe()) => {
            vec![Action::TakeOut]
        }
        ReplicaIdentityPolicy::Full => {
            let left = |member: &&Member| {
                let can = matches!(member.kind.as_str(), "r" | "p") && member.wants_identity();
                can && (urgent(member) || !given.chosen.contains(&member.relation))
            };
            let give = |member: &Member| Action::GiveIdentity { urgent: urgent(member), member: member.clone() };
            state.members.iter().filter(left).map(give).collect()
        }
    }
}

/// Why a trigger does not work as defined; `None` when it does. With its definition the columns that tell rows apart,
/// as they were called when it was made. `namesake`: whether its table is gone and another one has the name.
pub(super) fn problem(
    (definition, key): (&Definition, &[String]),
    found: Option<&Found>,
    namesake: bool,
    given: &Given<'_>,
) -> Option<String> {
    let Some(found) = found else { return definition.subject.table().map(|table| dropped(table, namesake)) };
    let mut problems: Vec<String> = table_problem(definition, found, given).into_iter().collect();
    problems.extend(column_problems(definition, &found.table));
    problems.extend(key_problem(definition, key, found));
    (!problems.is_empty()).then(|| problems.join("; "))
}

fn dropped(table: &TableName, namesake: bool) -> String {
    let cure = match namesake {
        true => "another table has its name now: replace the trigger to watch that one, or delete the trigger",
        false => "delete the trigger, or make the table again and replace the trigger",
    };
    format!("table dropped: {}; {cure}", quote(table))
}

fn table_problem(definition: &Definition, found: &Found, given: &Given<'_>) -> Option<String> {
    let Found { table, state } = found;
    let name = quote(&table.name);
    if let Err(reason) = table.check_watchable() {
        return Some(format!("table {name}: {reason}"));
    }
    if !state.contains {
        let (publication, because) = (given.publication, why_left(state));
        return Some(format!(
            "table {name} is not in publication \"{publication}\" any more{because}; its changes are not captured \
             until the trigger is replaced"
        ));
    }
    if let Err(reason) = publication::plan(state, table, &definition.operations, given.publication, given.policy) {
        return Some(format!("table {name}: {reason}"));
    }
    let mut partial: Vec<&Member> = state.members.iter().filter(|member| member.identity != "f").collect();
    if given.policy == ReplicaIdentityPolicy::Keep || partial.is_empty() {
        return None;
    }
    partial.retain(|member| member.full_works);
    let why = match partial.is_empty() {
        true => "Postgres allows no FULL one with generated columns that it does not publish".to_owned(),
        false => format!("it is not FULL; run: {}", statements(&partial)),
    };
    Some(format!("old rows hold the replica identity's columns only, as {why}"))
}

/// Why a table is out of the publication, where its identity is the reason.
fn why_left(state: &State) -> String {
    let bare: Vec<&Member> = state.members.iter().filter(|member| member.is_unsafe()).collect();
    if bare.is_empty() {
        return String::new();
    }
    let cure = match bare.iter().all(|member| member.can_be_safe()) {
        true => format!("run: {}", statements(&bare)),
        false => "give it a primary key, as it has generated columns that Postgres does not publish".to_owned(),
    };
    format!(" because it has no usable replica identity, so the application's UPDATE and DELETE would fail; {cure}")
}

fn statements(members: &[&Member]) -> String {
    members.iter().map(|member| member.set_identity()).collect::<Vec<_>>().join(" ")
}

/// Columns that are named but gone. A trigger still sends what is there.
fn column_problems(definition: &Definition, table: &Table) -> Vec<String> {
    let gone = |names: &[String]| {
        let gone = names.iter().filter(|name| !table.columns.contains(name));
        gone.map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ")
    };
    let mut problems = Vec::new();
    let operations = &definition.operations;
    let watched = operations.update.as_ref().map(|spec| gone(spec.columns.names())).unwrap_or_default();
    if !watched.is_empty() {
        problems.push(format!(
            "update.columns names what the table does not have ({watched}), so every change of a row is sent; replace \
             the trigger"
        ));
    }
    let specs = [("insert", &operations.insert), ("update", &operations.update), ("delete", &operations.delete)];
    for (operation, spec) in specs {
        let unsent = spec.as_ref().map(|spec| gone(spec.payload.names())).unwrap_or_default();
        if !unsent.is_empty() {
            problems.push(format!(
                "{operation}.payload names what the table does not have ({unsent}), which is left out; replace the \
                 trigger"
            ));
        }
    }
    problems
}

/// Whoever renames the key leaves nothing that tells rows apart, unless the WAL says what else does; see
/// `matching::plan`.
fn key_problem(definition: &Definition, key: &[String], found: &Found) -> Option<String> {
    let is_gone = !key.is_empty() && !key.iter().any(|name| found.table.columns.contains(name));
    let matters = definition.ordering == Ordering::Row && found.state.members.iter().any(|one| one.identity == "f");
    if !(is_gone && matters) {
        return None;
    }
    let names = key.iter().map(|name| format!("\"{name}\"")).collect::<Vec<_>>().join(", ");
    Some(format!(
        "the columns that told rows apart ({names}) are gone, so what has changed since is delivered one after the \
         other, to keep its order; replace the trigger"
    ))
}
