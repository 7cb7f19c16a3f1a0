//! Other processes, as `/proc` shows them.

use std::path::Path;
use std::process::Command;

/// What `/proc` says of a process, from its state on; nothing once it is gone.
pub fn stat(process: u32) -> Option<Vec<String>> {
    let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    Some(stat.rsplit(')').next()?.split_whitespace().map(str::to_owned).collect())
}

/// The processes that write their errors to the file `log`.
pub fn that_complain_to(log: &Path) -> Vec<u32> {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    ids.filter(|id: &u32| std::fs::read_link(format!("/proc/{id}/fd/2")).is_ok_and(|file| file == log))
        .collect()
}

/// Kills a process and waits until it has ended.
pub fn kill(process: u32) {
    assert!(Command::new("kill").args(["-9", &process.to_string()]).status().unwrap().success());
    wait_for_end(process);
}

/// All its threads have to be gone. That somebody has waited for it is not needed: the first process of a container often
/// waits for no one's children but its own.
pub fn wait_for_end(process: u32) {
    let threads = || std::fs::read_dir(format!("/proc/{process}/task")).map_or(0, Iterator::count);
    while stat(process).is_some_and(|stat| stat[0] != "Z" || threads() > 1) {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
