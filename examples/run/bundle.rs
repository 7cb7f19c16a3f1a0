//! `config.json` of an OCI bundle, made from an image's config:
//! [runtime-spec](https://github.com/opencontainers/runtime-spec/blob/main/config.md).

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{IsTerminal, stdin, stdout};
use std::path::Path;

use plywood::image::RuntimeConfig;
use serde_json::{Value, json};

use super::user::User;

/// What podman gives a container that asks for nothing.
const CAPABILITIES: [&str; 11] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Files of the kernel that tell of the host.
const MASKED: [&str; 9] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];

/// Files of the kernel that change the host.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What is started.
pub(crate) struct Process {
    pub(crate) arguments: Vec<String>,
    pub(crate) user: User,
}

/// The bundle's `config.json`.
pub(crate) fn spec(config: &RuntimeConfig, process: &Process, root: &Path, name: &str) -> Value {
    let rootless = !rustix::process::geteuid().is_root();
    let directory = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    let user = &process.user;
    // Who is not root in the container gets none of them.
    let effective = if user.uid == 0 { &CAPABILITIES[..] } else { &[] };
    let mut spec = json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": stdin().is_terminal() && stdout().is_terminal(),
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.groups },
            "args": process.arguments,
            "env": environment(config, user),
            "cwd": directory,
            "capabilities": { "bounding": CAPABILITIES, "effective": effective, "permitted": effective },
            "noNewPrivileges": true,
        },
        "root": { "path": root },
        "hostname": name,
        "mounts": mounts(rootless),
        "linux": {
            "namespaces": namespaces(rootless),
            "maskedPaths": MASKED,
            "readonlyPaths": READ_ONLY,
        },
    });
    if rootless {
        // Only one id can be had without help, so the process is root and nobody else.
        let own = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
        spec["linux"]["uidMappings"] = own(rustix::process::geteuid().as_raw());
        spec["linux"]["gidMappings"] = own(rustix::process::getegid().as_raw());
        spec["process"]["user"] = json!({ "uid": 0, "gid": 0 });
    }
    spec
}

/// What the runtime has to be told besides.
pub(crate) fn runtime_options(runtime: &Path, bundle: &Path) -> Vec<OsString> {
    // Its notes on what runs, which it would keep in /run otherwise.
    let mut options = vec![OsString::from("--root"), bundle.join("state").into_os_string()];
    if runtime.ends_with("crun") {
        // This example limits nothing, and not everyone may make a cgroup.
        options.push("--cgroup-manager=disabled".into());
    }
    options
}

/// The image's environment, with what every process expects.
fn environment(config: &RuntimeConfig, user: &User) -> Vec<String> {
    let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut all = BTreeMap::from([("PATH", path), ("TERM", "xterm"), ("HOME", &user.home)]);
    all.extend(config.env.iter().filter_map(|variable| variable.split_once('=')));
    all.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
}

fn namespaces(rootless: bool) -> Value {
    let mut kinds = vec!["pid", "ipc", "uts", "mount", "network"];
    if rootless {
        kinds.push("user");
    }
    kinds.into_iter().map(|kind| json!({ "type": kind })).collect()
}

fn mounts(rootless: bool) -> Value {
    let mount = |place: &str, kind: &str, options: &[&str]| json!({ "destination": place, "type": kind, "source": kind, "options": options });
    let mut terminals = vec!["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"];
    // The group tty, where it is mapped.
    if !rootless && may_use_group(5) {
        terminals.push("gid=5");
    }
    json!([
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &terminals),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/run", "tmpfs", &["nosuid", "nodev", "mode=755", "size=65536k"]),
    ])
}

/// Whether the user namespace that this process is in has a group of this number.
fn may_use_group(group: u64) -> bool {
    let Ok(map) = std::fs::read_to_string("/proc/self/gid_map") else { return false };
    map.lines().any(|line| {
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        matches!(numbers[..], [first, _, count] if (first..first + count).contains(&group))
    })
}
