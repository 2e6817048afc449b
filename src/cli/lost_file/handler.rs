//! The handler of SIGBUS. It may be called anywhere, also within the allocator: it calls nothing but what
//! `signal-safety(7)` lists, and what it needs was made before.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::ptr::{null, null_mut};
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};

use acclimate::ErrorKind;

use super::maps::{LONGEST, Line};
use super::{LOST, NEXT, before, whole};

const WHAT: &str =
    "a file in use cannot be read any more: its disk was pulled out or is failing, or the file was cut off";

/// So often a program starts itself anew. Then it ends, for whoever started it: files that are lost again and again
/// are no accident.
const MOST_ANEW: u32 = 8;

/// What the handler needs. Made once, never freed.
struct Plan {
    json: bool,
    start: Option<Start>,
}

/// How the program starts itself anew. All end with a null pointer.
struct Start {
    arguments: Vec<*const c_char>,
    /// The last one of it points to `lost`.
    environment: Vec<*const c_char>,
    /// `LOST=`, how often, a colon, and room for a path and its end.
    lost: Vec<u8>,
    /// Where the path begins in it.
    path_at: usize,
    /// The homes, as the system names them, each with a `/` behind it.
    homes: Vec<Vec<u8>>,
}

static PLAN: AtomicPtr<Plan> = AtomicPtr::new(null_mut());
static ENTERED: AtomicBool = AtomicBool::new(false);

/// The file that the system shows this program under.
const PROGRAM: &CStr = c"/proc/self/exe";

/// Installs the handler; where there are `homes`, one that starts the program anew for a file of theirs.
pub fn install(json: bool, homes: Option<&[PathBuf]>) {
    let start = homes.and_then(start);
    PLAN.store(Box::into_raw(Box::new(Plan { json, start })), Ordering::SeqCst);
    // SAFETY: zeros are a valid `sigaction`; the handler has the signature that SA_SIGINFO asks for, and calls only
    // what a handler may. The signal is blocked while it runs: a second one within it ends the process, as the system
    // does with a fault whose signal is blocked.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) as usize;
        action.sa_flags = libc::SA_SIGINFO;
        // Where it is refused, the system's own way to end stays.
        libc::sigaction(libc::SIGBUS, &raw const action, null_mut());
    }
}

/// None where it was started anew often enough, or an argument holds a zero byte, which none can.
fn start(homes: &[PathBuf]) -> Option<Start> {
    let times = before().map_or(1, |(times, _)| times.saturating_add(1));
    if times > MOST_ANEW {
        return None;
    }
    let leak = |text: Vec<u8>| CString::new(text).ok().map(|text| text.into_raw().cast_const());
    let mut arguments = std::env::args_os().map(|a| leak(a.into_vec())).collect::<Option<Vec<_>>>()?;
    let others = std::env::vars_os().filter(|(name, _)| name != LOST);
    let entry = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        leak([name.into_vec(), b"=".to_vec(), value.into_vec()].concat())
    };
    let mut environment = others.map(entry).collect::<Option<Vec<_>>>()?;
    let mut lost = format!("{LOST}={times}:").into_bytes();
    let path_at = lost.len();
    lost.resize(path_at + LONGEST + 1, 0);
    // The bytes of a vector stay where they are when it moves.
    environment.push(lost.as_ptr().cast());
    arguments.push(null());
    environment.push(null());
    let homes = homes.iter().filter_map(|home| whole(home));
    let homes = homes.map(|home| [home.as_os_str().as_bytes(), b"/"].concat()).collect();
    Some(Start { arguments, environment, lost, path_at, homes })
}

extern "C" fn handle(_: c_int, info: *mut libc::siginfo_t, _: *mut c_void) {
    // SAFETY: the system gives a valid `info` to a handler with SA_SIGINFO.
    if unsafe { (*info).si_code } != libc::BUS_ADRERR {
        // Memory that fails, or somebody's `kill`: no file is to blame, and the system ends the process as it always
        // does.
        // SAFETY: both calls may be made here. The signal waits until this returns.
        unsafe {
            libc::signal(libc::SIGBUS, libc::SIG_DFL);
            libc::raise(libc::SIGBUS);
        }
        return;
    }
    // One thread tells of it; others wait for the end.
    while ENTERED.swap(true, Ordering::SeqCst) {
        // SAFETY: it takes no memory.
        unsafe { libc::pause() };
    }
    // SAFETY: the system gives an address with a SIGBUS of a fault.
    let address = unsafe { (*info).si_addr() } as usize;
    // SAFETY: the plan was made before the handler was installed, is never freed, and `ENTERED` lets one thread in.
    let plan = unsafe { PLAN.load(Ordering::SeqCst).as_mut() };
    let mut path = [0; LONGEST];
    let length = file_at(address, &mut path);
    let path = path.get(..length).unwrap_or_default();
    if let Some(plan) = plan {
        say(plan.json, path);
        if let Some(start) = plan.start.as_mut().filter(|start| start.homes.iter().any(|home| path.starts_with(home))) {
            let Start { arguments, environment, lost, path_at, .. } = start;
            if let Some(place) = lost.get_mut(*path_at..*path_at + length) {
                place.copy_from_slice(path);
            }
            // What is blocked now would be blocked in the program that is started.
            // SAFETY: zeros are a valid set of signals; the lists end with a null pointer, and what they point to is
            // never freed.
            unsafe {
                let mut bus: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&raw mut bus);
                libc::sigaddset(&raw mut bus, libc::SIGBUS);
                libc::sigprocmask(libc::SIG_UNBLOCK, &raw const bus, null_mut());
                libc::execve(PROGRAM.as_ptr(), arguments.as_ptr(), environment.as_ptr());
            }
        }
    }
    // SAFETY: it takes no memory, and runs nothing else of this process.
    unsafe { libc::_exit(c_int::from(ErrorKind::Io.exit_code())) }
}

/// Writes the path of the file that is mapped at `address`; its length, 0 if the system does not tell.
fn file_at(address: usize, path: &mut [u8; LONGEST]) -> usize {
    // SAFETY: the path ends with a zero byte.
    let maps = unsafe { libc::open(c"/proc/self/maps".as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC) };
    let (mut line, mut bytes) = (Line::new(), [0u8; 1024]);
    loop {
        // SAFETY: the kernel writes at most so many bytes, and they are there.
        let read = unsafe { libc::read(maps, bytes.as_mut_ptr().cast(), bytes.len()) };
        let Some(read) = usize::try_from(read).ok().filter(|n| *n > 0) else { return 0 };
        for byte in bytes.get(..read).unwrap_or_default() {
            if let Some(file) = line.take(*byte, address) {
                path.iter_mut().zip(file).for_each(|(place, byte)| *place = *byte);
                return file.len();
            }
        }
    }
}

/// Says it on standard error, as every other error.
fn say(json: bool, path: &[u8]) {
    let known = !path.is_empty();
    if json {
        write(br#"{"at":"#);
        if known {
            quoted(path)
        } else {
            write(b"null")
        }
        write(br#","because":null,"error":""#);
        write(WHAT.as_bytes());
        write(br#"","exit":74,"next":""#);
        write(NEXT.as_bytes());
        write(b"\"}\n");
    } else {
        write(b"error: ");
        write(WHAT.as_bytes());
        if known {
            write(b" (");
            path.iter().for_each(|b| write(&[if b.is_ascii_control() { b'?' } else { *b }]));
            write(b")");
        }
        write(b"\n  next: ");
        write(NEXT.as_bytes());
        write(b"\n");
    }
}

/// As a string of JSON.
fn quoted(path: &[u8]) {
    write(b"\"");
    for byte in path {
        match byte {
            b'"' | b'\\' => write(&[b'\\', *byte]),
            byte if byte.is_ascii_control() => write(b"?"),
            byte => write(&[*byte]),
        }
    }
    write(b"\"");
}

fn write(bytes: &[u8]) {
    // SAFETY: the kernel reads so many bytes, and they are there. Who does not read loses the message alone.
    unsafe { libc::write(2, bytes.as_ptr().cast(), bytes.len()) };
}
