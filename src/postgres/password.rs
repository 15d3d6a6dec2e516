//! Where a password comes from. Files are read at each connection, so that a password can be changed while walhook
//! runs.

use std::path::{Path, PathBuf};

use super::Error;

/// Where the password of a connection is.
#[derive(Clone)]
pub(super) enum Password {
    /// In the connection string or a setting of its own.
    Given(String),
    /// The content of a file, as secrets are mounted into containers.
    File(PathBuf),
    /// A file of the form of `~/.pgpass`. It must be there and tell the password if the connection string names it.
    PassFile {
        /// Where it is.
        path: PathBuf,
        /// Whether the connection string names it.
        named: bool,
    },
}

/// What a line of the password file must match.
#[derive(Clone, Copy, Debug)]
pub(super) struct Login<'a> {
    /// As the connection string has it; `localhost` for a Unix socket in its usual directory.
    pub host: &'a str,
    /// The server's port.
    pub port: u16,
    /// The database.
    pub database: &'a str,
    /// The role.
    pub user: &'a str,
}

impl Password {
    /// What libpq does where nothing is said: `PGPASSFILE`, else `~/.pgpass`.
    pub(super) fn from_environment() -> Option<Password> {
        let named = std::env::var_os("PGPASSFILE").filter(|path| !path.is_empty()).map(PathBuf::from);
        let path = named.or_else(|| Some(std::env::home_dir()?.join(".pgpass")))?;
        Some(Password::PassFile { path, named: false })
    }

    /// The password for a login; `None` where a password file that nobody named does not have it.
    pub(super) fn read(&self, login: Login<'_>) -> Result<Option<String>, Error> {
        match self {
            Password::Given(password) => Ok(Some(password.clone())),
            Password::File(path) => {
                let text = std::fs::read_to_string(path).map_err(|error| unreadable(path, &error.to_string()))?;
                Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
            }
            Password::PassFile { path, named } => match read_pass_file(path, login) {
                Ok(found) => Ok(found),
                Err(_) if !named => Ok(None),
                Err(reason) => Err(unreadable(path, &reason)),
            },
        }
    }
}

fn unreadable(path: &Path, reason: &str) -> Error {
    Error::Settings(format!("the password cannot be read from {}: {reason}", path.display()))
}

fn read_pass_file(path: &Path, login: Login<'_>) -> Result<Option<String>, String> {
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    if is_open_to_others(path) {
        return Err(format!("other users can read it: run  chmod 600 {}", path.display()));
    }
    Ok(find(&text, login))
}

#[cfg(unix)]
fn is_open_to_others(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).is_ok_and(|metadata| metadata.mode() & 0o077 != 0)
}

#[cfg(not(unix))]
fn is_open_to_others(_: &Path) -> bool {
    false
}

/// The password in the first line that matches: `host:port:database:user:password`, where `*` stands for anything.
fn find(text: &str, login: Login<'_>) -> Option<String> {
    let port = login.port.to_string();
    let wanted = [login.host, &port, login.database, login.user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let (password, keys) = fields.split_last()?;
        let matches =
            keys.len() == wanted.len() && keys.iter().zip(wanted).all(|(key, want)| key == "*" || key == want);
        matches.then(|| password.clone())
    })
}

/// Up to five fields between colons; a backslash takes the next character as it is.
fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        let last = fields.len() - 1;
        match character {
            ':' if fields.len() < 5 => fields.push(String::new()),
            '\\' => fields[last].extend(characters.next()),
            other => fields[last].push(other),
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGIN: Login<'_> = Login { host: "db", port: 5432, database: "app", user: "me" };

    #[test]
    fn the_first_line_that_matches_tells_the_password() {
        let text = "# db:5432:app:me:comment\nother:*:*:*:no\nshort:line\ndb:5432:*:me:one\\:two\\\\\n*:*:*:*:last\n";
        assert_eq!(find(text, LOGIN).as_deref(), Some("one:two\\"));
        assert_eq!(find(text, Login { user: "you", ..LOGIN }).as_deref(), Some("last"));
        assert_eq!(find("db:5433:app:me:x", LOGIN), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_where_it_was_asked_for() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("pass");
        std::fs::write(&path, "*:*:*:*:secret").expect("a file");
        let read = |named| Password::PassFile { path: path.clone(), named }.read(LOGIN);
        let allow = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
        allow(0o644);
        let refusal = read(true).expect_err("open to others").to_string();
        assert!(refusal.contains("chmod 600") && !refusal.contains("secret"), "{refusal}");
        assert_eq!(read(false).expect("ignored"), None);
        allow(0o600);
        assert_eq!(read(true).expect("readable").as_deref(), Some("secret"));
    }
}
