//! Idle priority: any other program goes first.

use std::io;

/// Puts this thread, and those that it starts from now on, behind all others; what the system refused, and why.
#[cfg(target_os = "linux")]
pub fn be_idle() -> Vec<(&'static str, io::Error)> {
    /// Of `linux/ioprio.h`.
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    const IOPRIO_IDLE: libc::c_int = 3 << 13;
    let nice = rustix::process::setpriority_process(None, 19).map_err(io::Error::from);
    // All that the kernel's `sched_param` holds; musl's has more fields.
    let priority: libc::c_int = 0;
    // Not through the C library: musl's own function refuses.
    // SAFETY: the kernel reads `priority`, which lives through the call, and touches no other memory of ours.
    let scheduler = unsafe { libc::syscall(libc::SYS_sched_setscheduler, 0, libc::SCHED_IDLE, &raw const priority) };
    let scheduler = if scheduler == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: three numbers, no memory.
    let disk = unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, IOPRIO_IDLE) };
    let disk = if disk == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let all = [("nice 19", nice), ("SCHED_IDLE", scheduler), ("the idle class of input and output", disk)];
    all.into_iter().filter_map(|(what, done)| Some((what, done.err()?))).collect()
}

/// Other systems only know nice.
#[cfg(not(target_os = "linux"))]
pub fn be_idle() -> Vec<(&'static str, io::Error)> {
    let nice = rustix::process::setpriority_process(None, 19).map_err(io::Error::from);
    nice.err().map(|e| ("nice 19", e)).into_iter().collect()
}
