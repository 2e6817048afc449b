//! What the C library does with memory that was freed: kept for speed, or given back where memory is short.

/// A plan allocates its tensors anew at every run. By default glibc gives that memory back to the system after each run and gets
/// it, filled with zeros, page by page, at the next: 9 % of a training step.
///
/// By default each thread also allocates from an arena of its own. A pass that different threads run in turn takes its
/// memory as often: 235 MiB for 195 of MiniLM with 8 texts.
pub fn keep_freed() {
    set(32 << 20, 256 << 20);
}

/// Tensors go back to the system as they are freed. Kept, the holes between them are a third of the memory of a training.
#[cfg(feature = "train")]
pub fn return_freed() {
    set(1 << 20, 2 << 20);
    trim();
}

/// Blocks of `large` bytes and more are the system's own, and it gets the end of the heap when `trim` bytes of it are free.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set(large: libc::c_int, trim: libc::c_int) {
    // SAFETY: `mallopt` sets parameters of the allocator under its own lock and touches no memory of ours.
    unsafe {
        libc::mallopt(libc::M_MMAP_THRESHOLD, large);
        libc::mallopt(libc::M_TRIM_THRESHOLD, trim);
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives back what was freed before.
#[cfg(all(feature = "train", target_os = "linux", target_env = "gnu"))]
fn trim() {
    // SAFETY: `malloc_trim` takes the allocator's locks and touches free memory only.
    unsafe { libc::malloc_trim(0) };
}

/// Other C libraries have no such settings.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
fn set(_large: i32, _trim: i32) {}

#[cfg(all(feature = "train", not(all(target_os = "linux", target_env = "gnu"))))]
fn trim() {}
