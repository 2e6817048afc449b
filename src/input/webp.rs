//! WebP files, by the crate `image-webp`.

use std::io::Cursor;

use image_webp::{DecodingError, WebPDecoder};

use super::exif::Orientation;
use super::picture_limits::{MAX_DECODE_BYTES, check_size, too_large};
use super::rgb_image::RgbImage;
use crate::error::{Error, Result};

/// What every WebP file starts with.
pub(super) fn is_webp(bytes: &[u8]) -> bool {
    bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP")
}

/// Decodes to 8-bit RGB, transparency dropped; of an animation, the first picture. The orientation is what the `EXIF`
/// chunk says; it is not applied.
///
/// Errors: larger than the limits, before anything of that size is allocated; damaged.
pub(super) fn decode(bytes: &[u8]) -> Result<(RgbImage, Orientation)> {
    let mut decoder = WebPDecoder::new(Cursor::new(bytes)).map_err(refused)?;
    let length = decoder.output_buffer_size().ok_or_else(|| too_large("it takes too much memory"))?;
    let (width, height) = decoder.dimensions();
    check_size(width, height, length as u64)?;
    // No chunk that is read whole is larger than the file.
    decoder.set_memory_limit(bytes.len());
    let orientation = decoder.exif_metadata().ok().flatten();
    decoder.set_memory_limit(MAX_DECODE_BYTES as usize);
    let mut pixels = vec![0; length];
    decoder.read_image(&mut pixels).map_err(refused)?;
    if decoder.has_alpha() {
        pixels = pixels.as_chunks().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect();
    }
    let picture = RgbImage::from_raw(width, height, pixels)
        .ok_or_else(|| Error::internal("the WebP decoder gave a picture of another size"))?;
    Ok((picture, orientation.as_deref().map_or(Orientation::UPRIGHT, Orientation::of_exif)))
}

fn refused(e: DecodingError) -> Error {
    match e {
        DecodingError::MemoryLimitExceeded | DecodingError::ImageTooLarge => too_large("it takes too much memory"),
        e => Error::bad_data("damaged picture").because(e),
    }
}
