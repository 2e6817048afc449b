//! PNG files, by the crate `png`.

use std::io::Cursor;

use png::{BitDepth, ColorType, Compression, Decoder, DecodingError, Encoder, Filter, Limits, Reader, Transformations};

use super::exif::Orientation;
use super::picture_limits::{MAX_DECODE_BYTES, check_size, too_large};
use super::rgb_image::RgbImage;
use crate::error::{Error, Result};

/// A PNG never grows by more than this: deflate by 1032, 1-bit palette entries to four bytes by 32.
const MAX_EXPANSION: usize = 1032 * 32;

/// What every PNG file starts with.
pub(super) fn is_png(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\x89PNG\r\n\x1a\n")
}

/// Decodes to 8-bit RGB: grey and palettes become colours, 16 bits are rounded, transparency is dropped; of an
/// animation, the default image. The orientation is what the `eXIf` chunk says; it is not applied.
///
/// Errors: larger than the limits, before anything of that size is allocated; damaged.
pub(super) fn decode(bytes: &[u8]) -> Result<(RgbImage, Orientation)> {
    let mut reader = reader(bytes)?;
    let length = reader.output_buffer_size().ok_or_else(|| too_large("it takes too much memory"))?;
    let (width, height) = reader.info().size();
    check_size(width, height, length as u64)?;
    if length / MAX_EXPANSION > bytes.len() {
        return Err(Error::bad_data("damaged picture: it declares more pixels than its bytes can hold"));
    }
    let mut samples = vec![0; length];
    reader.next_frame(&mut samples).map_err(refused)?;
    let picture = RgbImage::from_raw(width, height, rgb(samples, reader.output_color_type()))
        .ok_or_else(|| Error::internal("the PNG decoder gave a picture of another size"))?;
    Ok((picture, orientation(reader)))
}

/// A reader that has read what comes before the pixels.
fn reader(bytes: &[u8]) -> Result<Reader<Cursor<&[u8]>>> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), Limits { bytes: MAX_DECODE_BYTES as usize });
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let (width, height) = decoder.read_header_info().map_err(refused)?.size();
    check_size(width, height, 0)?;
    decoder.read_info().map_err(refused)
}

/// The `eXIf` chunk may come before the pixels or after them, where damage does not matter.
fn orientation(mut reader: Reader<Cursor<&[u8]>>) -> Orientation {
    if reader.info().exif_metadata.is_none() {
        let _ = reader.finish();
    }
    reader.info().exif_metadata.as_deref().map_or(Orientation::UPRIGHT, Orientation::of_exif)
}

/// Three bytes a pixel of samples as PNG orders them, palettes already expanded.
fn rgb(samples: Vec<u8>, (color, depth): (ColorType, BitDepth)) -> Vec<u8> {
    let samples = match depth {
        BitDepth::Sixteen => samples.as_chunks().0.iter().map(|&s| rounded(u16::from_be_bytes(s))).collect(),
        _ => samples,
    };
    match color {
        ColorType::Grayscale => samples.iter().flat_map(|&v| [v; 3]).collect(),
        ColorType::GrayscaleAlpha => samples.as_chunks().0.iter().flat_map(|&[v, _]| [v; 3]).collect(),
        ColorType::Rgba => samples.as_chunks().0.iter().flat_map(|&[r, g, b, _]| [r, g, b]).collect(),
        ColorType::Rgb | ColorType::Indexed => samples,
    }
}

/// The nearest of 255 levels to one of 65,535.
fn rounded(sample: u16) -> u8 {
    ((u32::from(sample) + 128) / 257) as u8
}

fn refused(e: DecodingError) -> Error {
    match e {
        DecodingError::LimitsExceeded => too_large("it takes too much memory"),
        e => Error::bad_data("damaged picture").because(e),
    }
}

/// Lossless PNG of a picture.
pub(super) fn encode(picture: &RgbImage) -> Result<Vec<u8>> {
    let cannot = |e| Error::internal("cannot encode a picture").because(e);
    let (width, height) = picture.dimensions();
    let mut out = Vec::new();
    let mut encoder = Encoder::new(&mut out, width, height);
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_compression(Compression::Fast);
    encoder.set_filter(Filter::Adaptive);
    let mut writer = encoder.write_header().map_err(cannot)?;
    writer.write_image_data(picture.as_raw()).map_err(cannot)?;
    writer.finish().map_err(cannot)?;
    Ok(out)
}
