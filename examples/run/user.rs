//! Who a process runs as: what the image says (`user[:group]`, by name or number), looked up in the container's own files.

use std::fs::File;
use std::io::Read;

use plywood::fs::Dir;
use rustix::fs::OFlags;

use super::Result;

/// Who a process runs as.
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Further groups.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: String,
}

/// Finds the user that `wanted` names. An image that names none means root.
pub(crate) fn look_up(root: &Dir, wanted: &str) -> Result<User> {
    let (name, group) = match wanted.split_once(':') {
        Some((name, group)) => (name, Some(group)),
        None => (wanted, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let users = lines(&read(root, "etc/passwd")?);
    let groups = lines(&read(root, "etc/group")?);
    let number: Option<u32> = name.parse().ok();
    // name:password:uid:gid:comment:home:shell
    let entry = users.iter().find(|fields| match number {
        Some(number) => field(fields, 2).parse() == Ok(number),
        None => field(fields, 0) == name,
    });
    let uid = match (entry, number) {
        (Some(entry), _) => field(entry, 2).parse()?,
        (None, Some(number)) => number,
        (None, None) => return Err(format!("the image has no user {name:?}").into()),
    };
    // name:password:gid:members
    let gid = match group {
        None => entry.map_or(Ok(0), |entry| field(entry, 3).parse())?,
        Some(group) => match (group.parse(), groups.iter().find(|fields| field(fields, 0) == group)) {
            (Ok(number), _) => number,
            (_, Some(entry)) => field(entry, 2).parse()?,
            _ => return Err(format!("the image has no group {group:?}").into()),
        },
    };
    // A group that is asked for stands alone, as with docker.
    let known = entry.filter(|_| group.is_none()).map(|entry| field(entry, 0));
    let is_member = |fields: &&Vec<String>| field(fields, 3).split(',').any(|one| Some(one) == known);
    let further = groups.iter().filter(is_member).filter_map(|fields| field(fields, 2).parse().ok());
    let groups = further.filter(|&further| further != gid).collect();
    let home = entry.map_or("", |entry| field(entry, 5));
    let home = if home.is_empty() { "/" } else { home };
    Ok(User { uid, gid, groups, home: home.to_owned() })
}

/// Reads a file as the container would, links and all, and never one of the host's. What is not there is empty.
fn read(root: &Dir, path: &str) -> Result<String> {
    let file = match root.open_in_root(path, OFlags::RDONLY | OFlags::NONBLOCK) {
        Err(error) if error.is_not_found() => return Ok(String::new()),
        file => File::from(file?),
    };
    if !file.metadata()?.is_file() {
        return Err(format!("/{path} of the image is no file").into());
    }
    let mut text = Vec::new();
    file.take(10 << 20).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn lines(text: &str) -> Vec<Vec<String>> {
    text.lines().map(|line| line.split(':').map(str::to_owned).collect()).collect()
}

fn field(fields: &[String], number: usize) -> &str {
    fields.get(number).map_or("", String::as_str)
}
