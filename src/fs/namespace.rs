//! Whether this process is in the user namespace that the machine began with.

/// Whether it is; false also where that cannot be told, for want of `/proc` perhaps.
pub fn in_initial_user_namespace() -> bool {
    const INITIAL: &str = "user:[4026531837]"; // fixed by the kernel
    std::fs::read_link("/proc/thread-self/ns/user").is_ok_and(|namespace| namespace.as_os_str() == INITIAL)
}
