//! The sources that the settings name, checked.

use std::path::Path;

use super::config::Problems;
use super::settings::RawSource;
use crate::postgres::Settings;

const DEFAULT_NAME: &str = "default";

/// A database whose WAL is read.
#[derive(Clone, Debug)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// The database.
    pub database: Settings,
    /// The slot's name.
    pub slot: String,
    /// The publication's name.
    pub publication: String,
}

/// The one source that flags, variables and single keys describe, or those of the file's `[[source]]` tables; never
/// both, because nobody could tell which one a flag is for.
pub(super) fn check(single: RawSource, tables: Vec<RawSource>, problems: &mut Problems) -> Vec<Source> {
    if tables.is_empty() {
        return read(single, |key| format!("--{key}"), problems).into_iter().collect();
    }
    let set = given(&single);
    if !set.is_empty() {
        let flags: Vec<String> = set.iter().map(|key| format!("--{key}")).collect();
        problems.add(format!(
            "{} and [[source]] are both set: put what is of one source into its [[source]] table, under the same key \
             (its name under name)",
            flags.join(", ")
        ));
    }
    let mut sources: Vec<Source> = Vec::new();
    for (index, table) in tables.into_iter().enumerate() {
        let place = match &table.name {
            Some(name) => format!("[[source]] {name:?}"),
            None => format!("[[source]] number {}", index + 1),
        };
        if table.name.is_none() {
            problems.add(format!("{place}: name is missing"));
        }
        let Some(source) = read(table, |key| format!("{place}: {key}"), problems) else { continue };
        if let Some(problem) = sources.iter().find_map(|other| clash(other, &source)) {
            problems.add(format!("{place}: {problem}"));
        }
        sources.push(source);
    }
    sources
}

/// `place` says where a key of the source is set.
fn read(raw: RawSource, place: impl Fn(&str) -> String, problems: &mut Problems) -> Option<Source> {
    let name = raw.name.unwrap_or_else(|| DEFAULT_NAME.into());
    let own_name = format!("walhook_{}", name.to_lowercase().replace('-', "_"));
    let url = (raw.database_url, raw.database_url_file.as_deref());
    let password = (raw.database_password, raw.database_password_file.as_deref());
    let database = database("database", url, password, &place);
    let database = database.and_then(|database| database.ok_or_else(|| missing(&place("database-url"))));
    Some(Source {
        database: problems.note(database)?,
        slot: raw.slot.unwrap_or_else(|| own_name.clone()),
        publication: raw.publication.unwrap_or(own_name),
        name,
    })
}

fn missing(setting: &str) -> String {
    match setting.starts_with("--") {
        true => format!("{setting} is missing (or WALHOOK_DATABASE_URL, or database-url in the file)"),
        false => format!("{setting} is missing"),
    }
}

/// The flags of what is set.
fn given(raw: &RawSource) -> Vec<&'static str> {
    let RawSource {
        name,
        slot,
        publication,
        database_url,
        database_url_file,
        database_password,
        database_password_file,
    } = raw;
    let all = [
        ("source", name.is_some()),
        ("database-url", database_url.is_some()),
        ("database-url-file", database_url_file.is_some()),
        ("database-password", database_password.is_some()),
        ("database-password-file", database_password_file.is_some()),
        ("slot", slot.is_some()),
        ("publication", publication.is_some()),
    ];
    all.into_iter().filter(|(_, set)| *set).map(|(key, _)| key).collect()
}

fn clash(one: &Source, other: &Source) -> Option<String> {
    if one.name == other.name {
        return Some("another source has this name".into());
    }
    // Printed settings hold host, port, database and user.
    let same_place = format!("{:?}", one.database) == format!("{:?}", other.database);
    (same_place && one.slot == other.slot).then(|| format!("slot {} is that of source {:?}", one.slot, one.name))
}

/// The database that setting `NAME-url` gives, with the password that `NAME-password` may hold in its place.
pub(super) fn database(
    name: &str,
    (url, url_file): (Option<String>, Option<&Path>),
    password: (Option<String>, Option<&Path>),
    place: impl Fn(&str) -> String,
) -> Result<Option<Settings>, String> {
    let [url_name, password_name] = ["url", "password"].map(|key| place(&format!("{name}-{key}")));
    let Some(url) = value_or_file(&url_name, url, url_file)? else {
        return match password {
            (None, None) => Ok(None),
            _ => Err(format!("{password_name} is set without {url_name}")),
        };
    };
    let database: Settings = url.parse().map_err(|error| format!("{url_name}: {error}"))?;
    match password {
        (None, None) => Ok(database),
        _ if database.holds_password() => {
            Err(format!("{password_name} is set, and {url_name} holds one too: leave one out"))
        }
        (Some(_), Some(_)) => Err(format!("{password_name} and {password_name}-file are both set: set one")),
        (Some(password), None) => Ok(database.with_password(&password)),
        (None, Some(path)) => {
            database.with_password_file(path).map_err(|error| format!("{password_name}-file: {error}"))
        }
    }
    .map(Some)
}

/// A setting, or the text of the file that holds it.
pub(super) fn value_or_file(name: &str, value: Option<String>, file: Option<&Path>) -> Result<Option<String>, String> {
    match (value, file) {
        (Some(_), Some(_)) => Err(format!("{name} and {name}-file are both set: set one")),
        (value, None) => Ok(value),
        (None, Some(path)) => std::fs::read_to_string(path)
            .map(|text| Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            .map_err(|error| format!("{name}-file {}: {error}", path.display())),
    }
}
