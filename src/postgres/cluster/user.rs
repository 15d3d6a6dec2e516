//! Who the server runs as: Postgres refuses to run as root.

use std::os::unix::fs::chown;
use std::path::Path;
use std::process::Command;

use super::{Error, leash};

const ROOT: u32 = 0;
/// In order of preference.
const NAMES: [&str; 2] = ["postgres", "nobody"];

/// A user without rights that stands in for root.
#[derive(Debug)]
pub(super) struct User {
    user: u32,
    group: u32,
}

impl User {
    /// `None` where we are not root and run the server ourselves. Else another user, who then owns `directory`.
    pub fn for_server(directory: &Path) -> Result<Option<User>, Error> {
        if leash::owner(directory).map_err(Error::io("looking at the temporary directory"))? != ROOT {
            return Ok(None);
        }
        let user = NAMES.iter().find_map(|name| User::named(name)).ok_or(Error::NoUnprivilegedUser)?;
        user.give(directory)?;
        Ok(Some(user))
    }

    fn named(name: &str) -> Option<User> {
        Some(User { user: id("-u", name)?, group: id("-g", name)? })
    }

    /// User and group.
    pub fn ids(&self) -> (u32, u32) {
        (self.user, self.group)
    }

    /// Makes this user the owner of a file.
    pub fn give(&self, path: &Path) -> Result<(), Error> {
        chown(path, Some(self.user), Some(self.group)).map_err(Error::io("giving the directory to the server's user"))
    }
}

/// Asks the `id` command, since reading the user database needs unsafe code.
fn id(flag: &str, name: &str) -> Option<u32> {
    let output = Command::new("id").args([flag, name]).output().ok()?;
    let id = String::from_utf8_lossy(&output.stdout).trim().parse().ok()?;
    (output.status.success() && id != ROOT).then_some(id)
}
