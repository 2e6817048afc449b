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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    /// A PNG of one row of samples, `samples` bytes as the file has them.
    fn row(color: ColorType, depth: BitDepth, width: u32, samples: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        let mut encoder = Encoder::new(&mut out, width, 1);
        encoder.set_color(color);
        encoder.set_depth(depth);
        if color == ColorType::Indexed {
            encoder.set_palette(&[10, 20, 30, 40, 50, 60, 70, 80, 90, 100, 110, 120][..]);
            encoder.set_trns(&[0, 128][..]);
        }
        encoder.write_header().unwrap().write_image_data(samples).unwrap();
        out
    }

    /// Levels of a narrow grey are spread over 0 to 255; 16 bits are rounded to the nearest of 255; alpha is dropped.
    #[test]
    fn every_colour_type_and_depth_becomes_rgb() {
        use BitDepth::{Eight, Four, One, Sixteen, Two};
        use ColorType::{Grayscale, GrayscaleAlpha, Indexed, Rgb, Rgba};
        let wide = [0x0100u16, 0x807f, 0x8080, 0xff80];
        let bytes: Vec<u8> = wide.iter().flat_map(|v| v.to_be_bytes()).collect();
        let level = |v: u16| (f64::from(v) / 65535.0 * 255.0).round() as u8;
        let [a, b, c, d] = wide.map(level);
        let grey = |v: &[u8]| v.iter().flat_map(|&v| [v; 3]).collect::<Vec<u8>>();
        type Case<'a> = (ColorType, BitDepth, u32, &'a [u8], Vec<u8>);
        let cases: [Case; 14] = [
            (Grayscale, One, 3, &[0b1010_0000], grey(&[255, 0, 255])),
            (Grayscale, Two, 4, &[0b0001_1011], grey(&[0, 85, 170, 255])),
            (Grayscale, Four, 2, &[0x1f], grey(&[17, 255])),
            (Grayscale, Eight, 2, &[7, 200], grey(&[7, 200])),
            (Grayscale, Sixteen, 4, &bytes, grey(&[a, b, c, d])),
            (GrayscaleAlpha, Eight, 2, &[7, 0, 200, 255], grey(&[7, 200])),
            (GrayscaleAlpha, Sixteen, 2, &bytes, grey(&[a, c])),
            (Rgb, Eight, 1, &[1, 2, 3], vec![1, 2, 3]),
            (Rgb, Sixteen, 1, &bytes[..6], vec![a, b, c]),
            (Rgba, Eight, 1, &[1, 2, 3, 0], vec![1, 2, 3]),
            (Rgba, Sixteen, 1, &bytes, vec![a, b, c]),
            (Indexed, One, 2, &[0b0100_0000], vec![10, 20, 30, 40, 50, 60]),
            (Indexed, Two, 2, &[0b1101_0000], vec![100, 110, 120, 40, 50, 60]),
            (Indexed, Eight, 2, &[2, 0], vec![70, 80, 90, 10, 20, 30]),
        ];
        for (color, depth, width, samples, expected) in cases {
            let (picture, orientation) = decode(&row(color, depth, width, samples)).unwrap();
            assert_eq!(picture.as_raw(), expected, "{color:?} {depth:?}");
            assert_eq!((picture.dimensions(), orientation), ((width, 1), Orientation::UPRIGHT));
        }
    }

    /// With and without a default image that is none of the frames.
    #[test]
    fn animations_are_their_default_image() {
        for separate in [false, true] {
            let mut out = Vec::new();
            let mut encoder = Encoder::new(&mut out, 2, 1);
            encoder.set_color(ColorType::Rgb);
            encoder.set_animated(2, 0).unwrap();
            encoder.set_sep_def_img(separate).unwrap();
            let mut writer = encoder.write_header().unwrap();
            for level in 0..2 + u8::from(separate) {
                writer.write_image_data(&[level; 6]).unwrap();
            }
            drop(writer);
            assert_eq!(decode(&out).unwrap().0.as_raw(), [0; 6], "{separate}");
        }
    }

    #[test]
    fn a_palette_without_the_colours_that_are_asked_for_is_damage() {
        let mut out = row(ColorType::Indexed, BitDepth::Eight, 2, &[2, 0]);
        let palette = out.windows(4).position(|w| w == b"PLTE").unwrap() - 4;
        out.drain(palette..palette + 4 + 4 + 12 + 4);
        assert_eq!(decode(&out).unwrap_err().kind(), ErrorKind::BadData);
    }
}
