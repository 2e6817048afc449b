//! Picture files to 8-bit RGB: PNG ([`png`]), WebP ([`webp`]) and JPEG ([`jpeg`]). What is damaged is an error.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use super::rgb_image::RgbImage;
use super::{jpeg, png, webp};
use crate::error::{Error, Result};
use crate::process::caught;

pub use super::picture_limits::{MAX_DECODE_BYTES, MAX_SIDE};

/// Largest picture file that is read, bytes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// Whether a file's name is that of a picture: `.png`, `.jpg`, `.jpeg`, `.webp`. The content decides which of them it
/// is.
pub fn is_named_as_picture(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).map(str::to_ascii_lowercase);
    matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg" | "webp"))
}

/// Decodes a PNG, JPEG or WebP (of an animation, the first picture): 8-bit RGB, transparency dropped, turned the way
/// its EXIF record says.
///
/// Errors: another format, damaged, more than [`MAX_SIDE`] a side or [`MAX_DECODE_BYTES`] in memory.
pub fn decode(bytes: &[u8]) -> Result<RgbImage> {
    let decoder = match bytes {
        b if jpeg::is_jpeg(b) => jpeg::decode,
        b if png::is_png(b) => png::decode,
        b if webp::is_webp(b) => webp::decode,
        _ => return Err(Error::bad_data("not a PNG, JPEG or WebP picture").hint("convert it to PNG or JPEG")),
    };
    let (picture, orientation) = caught(|| decoder(bytes))
        .map_err(|panic| Error::bad_data("damaged picture").because(format!("the decoder gave up: {panic}")))??;
    Ok(orientation.apply(picture))
}

/// As [`decode`], from a file of at most [`MAX_FILE_BYTES`].
pub fn read(path: &Path) -> Result<RgbImage> {
    let cannot = |e| Error::io("cannot read the picture", path, e);
    let file = File::open(path).map_err(cannot)?;
    if !file.metadata().map_err(cannot)?.is_file() {
        return Err(Error::bad_data("not a regular file").at(path.display()));
    }
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(cannot)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Error::bad_data(format!("a picture file of more than {MAX_FILE_BYTES} bytes")).at(path.display()));
    }
    decode(&bytes).map_err(|e| e.within(path.display()))
}

/// Lossless PNG of a picture.
pub fn encode_png(picture: &RgbImage) -> Result<Vec<u8>> {
    png::encode(picture)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::input::arrays::{ArrayData, read};
    use crate::input::exif::Orientation;
    use crate::input::exif::tests::{TURNED, letters, record};

    /// Files of many forms and their pixels by PIL: `scripts/golden_pictures.py`.
    fn golden() -> Vec<(String, Vec<u8>, Option<RgbImage>)> {
        let arrays = read(Path::new("tests/fixtures/pictures.npz")).unwrap();
        let bytes = |a: &ArrayData| match a {
            ArrayData::U8(v) => v.clone(),
            other => panic!("{other:?}"),
        };
        let pixels = |name: &str| {
            let a = arrays.iter().find(|a| a.name == format!("{name}.rgb"))?;
            RgbImage::from_raw(a.shape[1] as u32, a.shape[0] as u32, bytes(&a.data))
        };
        let files = arrays.iter().filter(|a| !a.name.ends_with(".rgb"));
        files.map(|a| (a.name.clone(), bytes(&a.data), pixels(&a.name))).collect()
    }

    fn file(name: &str) -> (Vec<u8>, RgbImage) {
        let (_, bytes, pixels) = golden().into_iter().find(|(n, ..)| n == name).unwrap();
        (bytes, pixels.unwrap())
    }

    fn worst(a: &RgbImage, b: &RgbImage) -> u8 {
        assert_eq!(a.dimensions(), b.dimensions());
        a.as_raw().iter().zip(b.as_raw()).map(|(a, b)| a.abs_diff(*b)).max().unwrap()
    }

    /// Lossless forms to the bit; JPEG and lossy WebP within the rounding of their transforms.
    #[test]
    fn every_form_decodes_as_pil_decodes_it() {
        let (mut checked, mut refused) = (0, 0);
        for (name, bytes, expected) in golden() {
            let Some(expected) = expected else {
                let e = decode(&bytes).unwrap_err();
                assert!(e.to_string().contains("not decoded") && e.next_step().is_some(), "{name}: {e}");
                refused += 1;
                continue;
            };
            let allowed = match name.as_str() {
                // PIL keeps the upper byte, and this rounds.
                "png-16-bit" => 1,
                lossless if lossless.starts_with("png") || lossless == "webp-lossless" => 0,
                _ => 4,
            };
            let worst = worst(&decode(&bytes).unwrap_or_else(|e| panic!("{name}: {e}")), &expected);
            println!("{name}: {worst}");
            assert!(worst <= allowed, "{name}: {worst} levels of 255 from PIL");
            checked += 1;
        }
        assert_eq!((checked, refused), (47, 2));
    }

    /// A file that ends early, with or without the marker of its end put back, is never a picture with a part of it
    /// grey.
    #[test]
    fn what_is_cut_off_is_an_error_that_says_where() {
        for name in ["jpeg-baseline-2x2", "jpeg-progressive-2x2", "jpeg-separate-2x1", "jpeg-restart", "jpeg-cmyk"] {
            let (whole, _) = file(name);
            for cut in 0..whole.len() {
                let e = decode(&whole[..cut]).unwrap_err();
                assert_eq!(e.kind(), ErrorKind::BadData, "{name} cut at {cut}");
            }
            for cut in 2..whole.len() - 2 {
                // A last byte without a coded bit may go.
                let ended = [&whole[..cut], &[0xff, 0xd9]].concat();
                assert!(decode(&ended).is_err() || cut + 3 > whole.len(), "{name} ended at {cut}");
            }
            let e = decode(&whole[..whole.len() * 3 / 4]).unwrap_err().to_string();
            assert!(e.contains("damaged JPEG (byte ") && e.contains(": "), "{e}");
        }
        for name in ["png-rgb", "png-palette", "png-interlaced", "webp-lossy", "webp-lossless"] {
            let (whole, expected) = file(name);
            for cut in 0..whole.len() - 1 {
                // Only what follows the pixels may be missing.
                assert!(decode(&whole[..cut]).is_err_or_equals(&expected), "{name} cut at {cut}");
            }
        }
    }

    trait IsErrOrEquals {
        fn is_err_or_equals(&self, expected: &RgbImage) -> bool;
    }

    impl IsErrOrEquals for Result<RgbImage> {
        fn is_err_or_equals(&self, expected: &RgbImage) -> bool {
            self.as_ref().map_or(true, |p| worst(p, expected) <= 4)
        }
    }

    /// JPEG has no checksum: most flipped bits make one valid picture into another. Those that do not are errors.
    #[test]
    fn damage_within_is_seen_where_it_can_be() {
        let seen = |name: &str| {
            let (whole, _) = file(name);
            let data = whole.windows(2).position(|w| w == [0xff, 0xda]).unwrap() + 14;
            let places: Vec<usize> = (data..whole.len() - 2).collect();
            let damaged = |&&at: &&usize| {
                let mut bytes = whole.clone();
                bytes[at] ^= 0x10;
                decode(&bytes).is_err()
            };
            places.iter().filter(damaged).count() as f64 / places.len() as f64
        };
        let shares = ["jpeg-baseline-2x2", "jpeg-progressive-2x2", "jpeg-separate-2x2"].map(seen);
        assert!(shares.iter().all(|&s| s > 0.2), "{shares:?}");
        // The chunks of a PNG have one.
        let (mut png, _) = file("png-rgb");
        let middle = png.len() / 2;
        png[middle] ^= 1;
        assert_eq!(decode(&png).unwrap_err().kind(), ErrorKind::BadData);
    }

    #[test]
    fn jpegs_turn_the_way_their_exif_says() {
        let (plain, upright) = file("jpeg-baseline-1x1");
        for orientation in 1..=8 {
            let exif = [b"Exif\0\0", record(orientation % 2 == 0, orientation).as_slice()].concat();
            let length = (exif.len() as u16 + 2).to_be_bytes();
            let turned = [&plain[..2], b"\xff\xe1", &length, &exif, &plain[2..]].concat();
            let expected = Orientation::of_exif(&exif).apply(upright.clone());
            assert!(worst(&decode(&turned).unwrap(), &expected) <= 4, "orientation {orientation}");
        }
    }

    #[test]
    fn pngs_turn_the_way_their_exif_says() {
        let plain = encode_png(&letters("ABC/DEF")).unwrap();
        let chunk = |exif: &[u8]| {
            let body = [b"eXIf", exif].concat();
            [&(exif.len() as u32).to_be_bytes(), body.as_slice(), &crc32fast::hash(&body).to_be_bytes()].concat()
        };
        let at = |name: &[u8]| plain.windows(4).position(|w| w == name).unwrap() - 4;
        for (orientation, expected) in (1..).zip(TURNED) {
            let exif = chunk(&record(false, orientation));
            for place in [at(b"IDAT"), at(b"IEND")] {
                let turned = [&plain[..place], &exif, &plain[place..]].concat();
                assert_eq!(decode(&turned).unwrap(), letters(expected), "orientation {orientation} at {place}");
            }
        }
        // What follows the pixels does not make them wrong.
        let mut damaged = chunk(&record(false, 6));
        *damaged.last_mut().unwrap() ^= 1;
        let damaged = [&plain[..at(b"IEND")], &damaged, &plain[at(b"IEND")..]].concat();
        assert_eq!(decode(&damaged).unwrap(), letters("ABC/DEF"));
    }

    #[test]
    fn webps_turn_the_way_their_exif_says() {
        let (plain, upright) = file("webp-lossless");
        let (w, h) = upright.dimensions();
        for orientation in 1..=8 {
            for prefix in [&b""[..], b"Exif\0\0"] {
                let exif = [prefix, &record(true, orientation)].concat();
                let turned = webp(w, h, &[&plain[12..], &riff_chunk(b"EXIF", &exif)]);
                let expected = Orientation::of_exif(&exif).apply(upright.clone());
                assert_eq!(decode(&turned).unwrap(), expected, "orientation {orientation}");
            }
        }
        // A record that declares more bytes than the file has says nothing.
        let lying = webp(w, h, &[&plain[12..], b"EXIF\xff\xff\xff\x0f"]);
        assert_eq!(decode(&lying).unwrap(), upright);
    }

    /// A WebP of `width` by `height` pixels with an EXIF chunk.
    fn webp(width: u32, height: u32, chunks: &[&[u8]]) -> Vec<u8> {
        const EXIF: u8 = 8;
        let side = |n: u32| (n - 1).to_le_bytes();
        let header = [&[EXIF, 0, 0, 0], &side(width)[..3], &side(height)[..3]].concat();
        riff_chunk(b"RIFF", &[b"WEBP", riff_chunk(b"VP8X", &header).as_slice(), &chunks.concat()].concat())
    }

    fn riff_chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
        [name, &(body.len() as u32).to_le_bytes(), body, &[0][..body.len() % 2]].concat()
    }

    /// A PNG that declares a size it does not have.
    fn declared(w: u32, h: u32) -> Vec<u8> {
        let mut ihdr = b"IHDR".to_vec();
        ihdr.extend(w.to_be_bytes());
        ihdr.extend(h.to_be_bytes());
        ihdr.extend([8, 2, 0, 0, 0]);
        let crc = crc32fast::hash(&ihdr);
        let mut out = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0d".to_vec();
        out.extend(ihdr);
        out.extend(crc.to_be_bytes());
        out.extend(b"\x00\x00\x00\x04IDAT\x00\x00\x00\x00");
        out
    }

    #[test]
    fn hostile_pictures_are_refused() {
        let e = decode(&declared(60_000, 60_000)).unwrap_err();
        assert!(e.to_string().contains("too large"), "{e}");
        assert!(decode(&declared(8192, 8192)).unwrap_err().to_string().contains("damaged"));
        for bytes in [&b""[..], b"\x89", b"GIF89a", b"\xff\xd8\xff\xe0", b"RIFF\0\0\0\0WEBP"] {
            assert_eq!(decode(bytes).unwrap_err().kind(), ErrorKind::BadData);
        }
        // Frames of 8192 by 8192: too many pixels for the coefficients of a progressive file, too many for the few
        // bytes of any.
        for (name, said) in [("jpeg-progressive-1x1", "memory"), ("jpeg-baseline-1x1", "damaged")] {
            let (mut jpeg, _) = file(name);
            let frame = jpeg.windows(2).position(|w| matches!(w, [0xff, 0xc0 | 0xc2])).unwrap();
            jpeg[frame + 5..frame + 9].copy_from_slice(&[0x20, 0, 0x20, 0]);
            let e = decode(&jpeg).unwrap_err().to_string();
            assert!(e.contains(said), "{name}: {e}");
        }
        assert_eq!(super::read(Path::new("absent.png")).unwrap_err().kind(), ErrorKind::Io);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("one.png");
        let place = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            super::read(&path).unwrap_err().to_string()
        };
        assert!(place(b"\x89").contains("one.png"));
        assert!(place(&declared(60_000, 60_000)).contains("one.png"));
    }
}
