//! How large a picture may be.

use crate::error::{Error, Result};

/// Largest side of a picture that is decoded, pixels.
pub const MAX_SIDE: u32 = 8192;
/// Most bytes of a decoded picture, and most that its decoder may take beside it.
pub const MAX_DECODE_BYTES: u64 = 256 << 20;

/// A picture of this size, whose decoder takes `beside` bytes more, is within the limits.
pub(super) fn check_size(width: u32, height: u32, beside: u64) -> Result<()> {
    if width.max(height) > MAX_SIDE {
        return Err(too_large(&format!("it is {width} by {height} pixels")));
    }
    if beside.max(3 * u64::from(width) * u64::from(height)) > MAX_DECODE_BYTES {
        return Err(too_large("it takes too much memory"));
    }
    Ok(())
}

pub(super) fn too_large(why: &str) -> Error {
    Error::bad_data("a picture too large to decode")
        .because(why.to_owned())
        .hint(format!("scale it down to at most {MAX_SIDE} pixels a side, or fewer where it is progressive"))
}
