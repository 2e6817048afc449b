//! The one error of this crate: what failed, where, why, and what to do next.

pub mod names;

use std::fmt;
use std::path::Path;

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure an [`Error`] is. The command line maps each kind to an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The call itself is off: unknown name, wrong combination, value out of range (exit 2).
    Usage,
    /// Data from outside is missing, malformed, of the wrong shape, or damaged (exit 65).
    BadData,
    /// The model cannot be used, or not in the asked way (exit 69).
    UnsupportedModel,
    /// The operating system refused a read or a write (exit 74).
    Io,
    /// Somebody else holds what is needed (exit 75).
    Busy,
    /// Something is encrypted, and its key is missing or another one (exit 77).
    NoKey,
    /// The user stopped the work; everything acknowledged is kept (exit 130).
    Interrupted,
    /// A fault of acclimate itself: please report it (exit 70).
    Internal,
}

impl ErrorKind {
    /// Exit code of the command line for this kind.
    pub fn exit_code(self) -> u8 {
        match self {
            ErrorKind::Usage => 2,
            ErrorKind::BadData => 65,
            ErrorKind::UnsupportedModel => 69,
            ErrorKind::Internal => 70,
            ErrorKind::Io => 74,
            ErrorKind::Busy => 75,
            ErrorKind::NoKey => 77,
            ErrorKind::Interrupted => 130,
        }
    }
}

/// What to do where a disk is gone.
pub(crate) const LOST_DISK: &str =
    "the disk was pulled out or is failing: connect it again, then run `acclimate verify` on the home";

/// Whether an error is one of a disk that fails or is not there any more.
fn is_of_a_lost_disk(e: &std::io::Error) -> bool {
    use rustix::io::Errno;
    let lost = [Errno::IO, Errno::NODEV, Errno::NXIO, Errno::SHUTDOWN, Errno::NOTCONN, Errno::STALE];
    e.raw_os_error().is_some_and(|code| lost.iter().any(|errno| errno.raw_os_error() == code))
}

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// An error: a lowercase fragment that says what failed, and optionally where, why and what to do next.
///
/// `Display` prints "what, at where: why"; [`Error::hint`] is kept apart so that a caller can lay it out.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    what: String,
    place: Option<String>,
    hint: Option<String>,
    source: Option<Source>,
}

impl Error {
    /// A new error of `kind`; `what` is a lowercase fragment such as "cannot read the model".
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, what: what.into(), place: None, hint: None, source: None }))
    }
    /// [`ErrorKind::Usage`].
    pub fn usage(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Usage, what)
    }
    /// [`ErrorKind::BadData`].
    pub fn bad_data(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::BadData, what)
    }
    /// [`ErrorKind::UnsupportedModel`].
    pub fn unsupported(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::UnsupportedModel, what)
    }
    /// [`ErrorKind::Internal`].
    pub fn internal(what: impl Into<String>) -> Error {
        Error::new(ErrorKind::Internal, what)
    }
    /// [`ErrorKind::Io`] on `path`.
    pub fn io(what: impl Into<String>, path: &Path, source: std::io::Error) -> Error {
        let hint = match source.kind() {
            std::io::ErrorKind::NotFound => Some("check the path"),
            std::io::ErrorKind::PermissionDenied => Some("check who owns the file and its permissions"),
            std::io::ErrorKind::StorageFull => Some("free some space on this disk; nothing already stored was changed"),
            std::io::ErrorKind::QuotaExceeded => Some("free some space: the quota on this disk is used up"),
            std::io::ErrorKind::ReadOnlyFilesystem => Some("the disk is mounted read-only; predictions still work"),
            _ if is_of_a_lost_disk(&source) => Some(LOST_DISK),
            _ => None,
        };
        let e = Error::new(ErrorKind::Io, what).at(path.display()).because(source);
        match hint {
            Some(h) => e.hint(h),
            None => e,
        }
    }

    /// Adds where it happened: a file, an ONNX node, an id.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.0.place = Some(place.to_string());
        self
    }
    /// Puts the file before the place within it.
    #[must_use]
    pub fn within(mut self, file: impl fmt::Display) -> Error {
        self.0.place = Some(match self.0.place.take() {
            Some(place) => format!("{file}: {place}"),
            None => file.to_string(),
        });
        self
    }
    /// Adds what to do next, as an imperative fragment.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }
    /// Adds the underlying cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Source>) -> Error {
        self.0.source = Some(source.into());
        self
    }

    /// Whether a disk fails or is not there any more.
    pub(crate) fn is_of_a_lost_disk(&self) -> bool {
        let source = self.0.source.as_deref().and_then(|source| source.downcast_ref());
        source.is_some_and(is_of_a_lost_disk)
    }

    /// Kind of the failure.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// What failed, without place and cause.
    pub fn what(&self) -> &str {
        &self.0.what
    }
    /// Where: a file, an ONNX node, an id.
    pub fn place(&self) -> Option<&str> {
        self.0.place.as_deref()
    }
    /// What to do next.
    pub fn next_step(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.what)?;
        if let Some(place) = &self.0.place {
            write!(f, " ({place})")?;
        }
        if let Some(source) = &self.0.source {
            write!(f, ": {source}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {self}", self.0.kind)?;
        if let Some(h) = &self.0.hint {
            write!(f, " [next: {h}]")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_deref().map(|s| s as _)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_way_in_which_a_disk_fails_says_what_to_do() {
        use rustix::io::Errno;
        let next = |errno: Errno| {
            let e = Error::io("cannot read the file", Path::new("/media/card/home"), errno.into());
            assert!(e.to_string().contains("/media/card/home"), "{e}");
            e.next_step().unwrap_or_default().to_string()
        };
        for gone in [Errno::IO, Errno::NODEV, Errno::NXIO, Errno::STALE, Errno::NOTCONN] {
            assert!(next(gone).contains("connect it again"), "{gone}");
            assert!(Error::io("cannot read", Path::new("x"), gone.into()).is_of_a_lost_disk(), "{gone}");
        }
        assert!(next(Errno::ROFS).contains("read-only"));
        assert!(next(Errno::NOSPC).contains("free some space") && next(Errno::DQUOT).contains("free some space"));
        assert!(next(Errno::NOENT).contains("path") && next(Errno::ACCESS).contains("permissions"));
        assert_eq!(next(Errno::INVAL), "");
        let full = Error::io("cannot write", Path::new("x"), Errno::NOSPC.into());
        assert!(!full.is_of_a_lost_disk() && !Error::usage("x").is_of_a_lost_disk());
    }
}
