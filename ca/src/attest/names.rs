//! The names of uids and gids as this machine has them now. Nothing is remembered: who was renamed or deleted has lost
//! the name at the next look. A name that does not lead back to its number is ambiguous and proves nothing.

use std::sync::Arc;

use nix::unistd::{Gid, Group, Uid, User};

/// The name of a uid.
pub fn user(uid: u32) -> Result<Arc<str>, String> {
    let found = User::from_uid(Uid::from_raw(uid)).map_err(|error| failed("uid", uid, &error))?;
    let name = found.ok_or_else(|| format!("uid {uid} has no name here"))?.name;
    match User::from_name(&name) {
        Ok(Some(back)) if back.uid.as_raw() == uid => Ok(name.into()),
        Ok(Some(back)) => Err(ambiguous(&name, "uid", uid, back.uid.as_raw())),
        Ok(None) => Err(format!("the name `{name}` of uid {uid} does not lead back to it")),
        Err(error) => Err(failed("uid", uid, &error)),
    }
}

/// The name of a gid.
pub fn group(gid: u32) -> Result<Arc<str>, String> {
    let found = Group::from_gid(Gid::from_raw(gid)).map_err(|error| failed("gid", gid, &error))?;
    let name = found.ok_or_else(|| format!("gid {gid} has no name here"))?.name;
    match Group::from_name(&name) {
        Ok(Some(back)) if back.gid.as_raw() == gid => Ok(name.into()),
        Ok(Some(back)) => Err(ambiguous(&name, "gid", gid, back.gid.as_raw())),
        Ok(None) => Err(format!("the name `{name}` of gid {gid} does not lead back to it")),
        Err(error) => Err(failed("gid", gid, &error)),
    }
}

/// Why a name of an entry names nobody on this machine.
pub fn unknown_user(name: &str) -> Option<String> {
    match User::from_name(name) {
        Ok(Some(found)) => user(found.uid.as_raw()).map_or_else(Some, |real| other(name, &real)),
        Ok(None) => Some(format!("there is no user `{name}` here")),
        Err(error) => Some(format!("whether there is a user `{name}` is not known: {error}")),
    }
}

/// Why a name of an entry names no group of this machine.
pub fn unknown_group(name: &str) -> Option<String> {
    match Group::from_name(name) {
        Ok(Some(found)) => group(found.gid.as_raw()).map_or_else(Some, |real| other(name, &real)),
        Ok(None) => Some(format!("there is no group `{name}` here")),
        Err(error) => Some(format!("whether there is a group `{name}` is not known: {error}")),
    }
}

fn other(name: &str, real: &str) -> Option<String> {
    (name != real).then(|| format!("`{name}` is another name of `{real}`, by which its number is known"))
}

fn failed(kind: &str, number: u32, error: &nix::Error) -> String {
    format!("the name of {kind} {number} cannot be looked up: {error}")
}

fn ambiguous(name: &str, kind: &str, number: u32, back: u32) -> String {
    format!("the name `{name}` of {kind} {number} is also that of {kind} {back}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_its_name_and_a_name_its_number() {
        assert_eq!(user(0).as_deref(), Ok("root"));
        assert_eq!(group(0).as_deref(), Ok("root"));
        assert_eq!((unknown_user("root"), unknown_group("root")), (None, None));
    }

    #[test]
    fn who_has_no_name_gets_none() {
        assert!(user(4_242_424).unwrap_err().contains("has no name"));
        assert!(group(4_242_424).unwrap_err().contains("has no name"));
        assert!(unknown_user("nobody-of-this-name").unwrap().contains("no user"));
        assert!(unknown_group("nobody-of-this-name").unwrap().contains("no group"));
    }
}
