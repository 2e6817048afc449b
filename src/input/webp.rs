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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::input::exif::tests::letters;

    /// `ABC/DEF`, then `UVW/XYZ`, as pillow 13.0.0 writes it with `save_all=True, lossless=True`.
    const ANIMATION: &[u8] = b"RIFF\xac\x00\x00\x00WEBPVP8X\n\x00\x00\x00\x02\x00\x00\x00\x02\x00\x00\x01\x00\x00\
        ANIM\x06\x00\x00\x00\x00\x00\x00\x00\x00\x00\
        ANMF<\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x01\x00\x00d\x00\x00\x02VP8L#\x00\x00\x00/\x02@\x00\x00/\
        \x20\x90Mv\xb4\xfc\xb1\x92\xd8\xa0\r\x9a\xff\xec0\xd4\xb4m\xc0\x86:\xffrjD\xffcz\x01\x00\
        ANMF<\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x01\x00\x00d\x00\x00\x00VP8L#\x00\x00\x00/\x02@\x00\x00/\
        \x20\x90Mv\xc8\xfca\x92\xd8\xaa\xad\x9a\xff\xec0\xd4\xb4m\xc0\x86:\xffrjD\xffcz\x01\x00";

    #[test]
    fn animations_are_their_first_picture() {
        assert_eq!(decode(ANIMATION).unwrap(), (letters("ABC/DEF"), Orientation::UPRIGHT));
        for cut in 0..ANIMATION.len() / 2 {
            assert_eq!(decode(&ANIMATION[..cut]).unwrap_err().kind(), ErrorKind::BadData, "cut at {cut}");
        }
    }

    #[test]
    fn canvases_beyond_the_limits_are_refused() {
        let (width, height) = (24, 27);
        for (at, said) in [(width, "16387 by 2 pixels"), (height, "3 by 16386 pixels")] {
            let mut large = ANIMATION.to_vec();
            large[at + 1] = 0x40;
            let e = decode(&large).unwrap_err().to_string();
            assert!(e.contains("too large") && e.contains(said), "{e}");
        }
    }
}
