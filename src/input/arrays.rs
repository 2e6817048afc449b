//! Arrays by name, and the `.npy` and `.npz` files that hold them.

use std::fs::File;
use std::io::{BufReader, Read, Write};
use std::path::Path;

use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipArchive, ZipWriter};

pub use super::array::{ArrayData, ElementType, NamedArray};
use super::npy::{self, RawArray, RowReader};
use crate::error::{Error, Result};

/// Most bytes that the arrays of one file may take, in the file and once converted: 1 GiB.
pub const MAX_BYTES: u64 = 1 << 30;
/// Most arrays that an `.npz` may hold.
const MAX_ARRAYS: usize = 1024;
/// Deflate never expands by more than this, so an archive's size bounds what it can hold.
const MAX_EXPANSION: u64 = 1032;

/// Reads the arrays of an `.npy` (one, without name) or `.npz` file, converted: f16, f32, f64 to f32; u8 kept; other integers and bool to i64.
///
/// Errors name the file and, in an archive, the array: unreadable, damaged, larger than [`MAX_BYTES`], unsupported element type, NaN or infinity.
pub fn read(path: &Path) -> Result<Vec<NamedArray>> {
    convert(read_raw(path, MAX_BYTES)?, path)
}

/// Converts the arrays of the file `path` as [`read`] does, with its errors.
pub fn convert(raw: Vec<RawArray>, path: &Path) -> Result<Vec<NamedArray>> {
    let mut budget = MAX_BYTES;
    let mut arrays = Vec::with_capacity(raw.len());
    for r in raw {
        let array = r.convert(budget).map_err(|e| e.at(location(path, &r.name)))?;
        budget = budget.saturating_sub(array.data.byte_len() as u64);
        arrays.push(array);
    }
    Ok(arrays)
}

/// Reads the arrays of an `.npy` or `.npz` file without converting them; together they take at most `limit` bytes.
///
/// The content decides which of the two it is, not the file's name.
pub fn read_raw(path: &Path, limit: u64) -> Result<Vec<RawArray>> {
    match open(path, limit)? {
        Opened::One(rows) => Ok(vec![rows.whole().map_err(|e| e.at(path.display()))?]),
        Opened::Many(arrays) => Ok(arrays),
    }
}

/// An opened file of arrays.
pub(super) enum Opened {
    /// A `.npy` file, of which the start is read.
    One(RowReader<BufReader<File>>),
    /// The arrays of an `.npz` archive.
    Many(Vec<RawArray>),
}

/// Opens the `.npy` or `.npz` file that [`read_raw`] reads.
pub(super) fn open(path: &Path, limit: u64) -> Result<Opened> {
    let cannot = |e| Error::io("cannot read the arrays", path, e);
    let file = File::open(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if !meta.is_file() {
        return Err(Error::bad_data("not a regular file").at(path.display()));
    }
    let mut start = [0u8; 4];
    let filled = (&file).read(&mut start).map_err(cannot)?;
    std::io::Seek::rewind(&mut &file).map_err(cannot)?;
    let reader = BufReader::new(file);
    if start.get(..filled).is_some_and(|s| s.starts_with(b"PK")) {
        return read_archive(reader, meta.len(), path, limit).map(Opened::Many);
    }
    RowReader::new(reader, meta.len(), limit).map(Opened::One).map_err(|e| e.at(path.display()))
}

fn read_archive(reader: BufReader<File>, file_bytes: u64, path: &Path, limit: u64) -> Result<Vec<RawArray>> {
    let damaged = |e: zip::result::ZipError| Error::bad_data("damaged npz archive").at(path.display()).because(e);
    let mut archive = ZipArchive::new(reader).map_err(damaged)?;
    if archive.is_empty() || archive.len() > MAX_ARRAYS {
        return Err(Error::bad_data(format!("an npz archive of {} arrays; 1 to {MAX_ARRAYS} are read", archive.len()))
            .at(path.display()));
    }
    let mut budget = limit;
    let mut arrays: Vec<RawArray> = Vec::with_capacity(archive.len());
    for i in 0..archive.len() {
        let mut entry = archive.by_index(i).map_err(damaged)?;
        let file_name = entry.name().map_err(damaged)?.into_owned();
        let Some(name) = file_name.strip_suffix(".npy") else { continue };
        let holds = entry.size().min(entry.compressed_size().min(file_bytes).saturating_mul(MAX_EXPANSION));
        let place = |e: Error| e.at(location(path, name));
        let array = RawArray::read(&mut entry, name, holds, budget).map_err(place)?;
        // The archive's checksum is verified when its end is read.
        let surplus = std::io::copy(&mut entry.by_ref().take(1), &mut std::io::sink());
        match surplus {
            Ok(0) => {}
            Ok(_) => return Err(place(Error::bad_data("more bytes than the array's shape needs"))),
            Err(e) => return Err(place(Error::bad_data("damaged array").because(e))),
        }
        if arrays.iter().any(|a| a.name == name) {
            return Err(place(Error::bad_data("two arrays of the same name")));
        }
        budget = budget.saturating_sub(array.byte_len() as u64);
        arrays.push(array);
    }
    if arrays.is_empty() {
        return Err(Error::bad_data("an archive without .npy arrays").at(path.display()));
    }
    Ok(arrays)
}

/// The file, and the array in it when it has a name.
pub fn location(path: &Path, name: &str) -> String {
    if name.is_empty() { path.display().to_string() } else { format!("{}, array '{name}'", path.display()) }
}

/// Writes arrays as an uncompressed `.npz` that NumPy reads; entries carry a fixed date, so equal arrays give equal files.
pub fn write_npz(path: &Path, arrays: &[NamedArray]) -> Result<()> {
    let cannot = |e: std::io::Error| Error::io("cannot write the arrays", path, e);
    let mut archive = ZipWriter::new(File::create(path).map_err(cannot)?);
    let options = SimpleFileOptions::default()
        .compression_method(CompressionMethod::Stored)
        .last_modified_time(zip::DateTime::default())
        .large_file(arrays.iter().any(|a| a.data.byte_len() > u32::MAX as usize / 2));
    for array in arrays {
        archive.start_file(format!("{}.npy", array.name), options).map_err(|e| cannot(e.into()))?;
        archive.write_all(&npy::encode(array)).map_err(cannot)?;
    }
    archive.finish().map_err(|e| cannot(e.into()))?.sync_all().map_err(cannot)
}

/// Writes one array as `.npy`; its name is not stored.
pub fn write_npy(path: &Path, array: &NamedArray) -> Result<()> {
    std::fs::write(path, npy::encode(array)).map_err(|e| Error::io("cannot write the array", path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;

    fn sample() -> Vec<NamedArray> {
        vec![
            NamedArray::new("input_ids", vec![1, 3], ArrayData::I64(vec![5, 6, 7])).unwrap(),
            NamedArray::new("pixels", vec![2, 2], ArrayData::F32(vec![0.5, -1.0, 2.0, 1e-3])).unwrap(),
            NamedArray::new("raw", vec![4], ArrayData::U8(vec![0, 1, 2, 255])).unwrap(),
        ]
    }

    #[test]
    fn archives_keep_names_and_values() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        write_npz(&path, &sample()).unwrap();
        assert_eq!(read(&path).unwrap(), sample());
        let first = std::fs::read(&path).unwrap();
        write_npz(&path, &sample()).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), first);
        let path = dir.path().join("a.npy");
        write_npy(&path, &sample()[1]).unwrap();
        let back = read(&path).unwrap();
        assert_eq!((back[0].name.as_str(), &back[0].data), ("", &sample()[1].data));
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_an_error_or_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.npz");
        write_npz(&path, &sample()).unwrap();
        let whole = std::fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(read(&path).unwrap_err().kind(), ErrorKind::BadData, "cut at {cut}");
        }
        for at in 0..whole.len() {
            let mut bad = whole.clone();
            bad[at] ^= 0x41;
            std::fs::write(&path, &bad).unwrap();
            if let Ok(arrays) = read(&path) {
                assert!(
                    arrays.iter().all(|a| sample().iter().any(|s| s.data == a.data && s.shape == a.shape)),
                    "flip at {at}"
                );
            }
        }
    }

    #[test]
    fn hostile_archives_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("bomb.npz");
        let write = |entries: &[(&str, Vec<u8>)]| {
            let mut zip = ZipWriter::new(File::create(&path).unwrap());
            for (name, bytes) in entries {
                zip.start_file(*name, SimpleFileOptions::default().compression_method(CompressionMethod::Deflated))
                    .unwrap();
                zip.write_all(bytes).unwrap();
            }
            zip.finish().unwrap();
        };
        let claim = |shape: &str, data: &[u8]| npy::tests::npy("'<f4'", false, shape, data);
        // claims 2^60 elements; claims more than the archive can hold; more data than claimed; no array at all
        write(&[("x.npy", claim("(1152921504606846976,)", &[0; 64]))]);
        assert!(read(&path).unwrap_err().to_string().contains("larger than the limit"));
        write(&[("x.npy", claim("(200000000,)", &[0; 64]))]);
        assert!(read(&path).unwrap_err().to_string().contains("truncated"));
        write(&[("x.npy", claim("(2,)", &[0; 64]))]);
        assert!(read(&path).unwrap_err().to_string().contains("more bytes"));
        write(&[("readme.txt", b"hello".to_vec())]);
        assert!(read(&path).unwrap_err().to_string().contains("without .npy"));
        // the limit holds for all arrays together
        write(&[("x.npy", claim("(16,)", &[0; 64])), ("y.npy", claim("(16,)", &[0; 64]))]);
        assert!(read_raw(&path, 128).is_ok());
        let e = read_raw(&path, 127).unwrap_err().to_string();
        assert!(e.contains("array 'y'") && e.contains("limit"), "{e}");
        assert_eq!(read(&dir.path().join("absent.npz")).unwrap_err().kind(), ErrorKind::Io);
        assert_eq!(read(dir.path()).unwrap_err().kind(), ErrorKind::BadData);
    }

    #[test]
    fn nan_names_file_array_and_index() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("n.npy");
        let mut data: Vec<u8> = 1f32.to_le_bytes().to_vec();
        data.extend(f32::NEG_INFINITY.to_le_bytes());
        std::fs::write(&path, npy::tests::npy("'<f4'", false, "(2,)", &data)).unwrap();
        let e = read(&path).unwrap_err().to_string();
        assert!(e.contains("[1]") && e.contains("n.npy"), "{e}");
    }

    #[test]
    fn casts_are_checked() {
        let i = ArrayData::I64(vec![0, 255]);
        assert_eq!(i.cast(ElementType::U8).unwrap(), ArrayData::U8(vec![0, 255]));
        assert_eq!(i.cast(ElementType::F32).unwrap(), ArrayData::F32(vec![0.0, 255.0]));
        assert_eq!(ArrayData::F32(vec![3.0]).cast(ElementType::I32).unwrap(), ArrayData::I32(vec![3]));
        assert!(ArrayData::F32(vec![3.5]).cast(ElementType::I32).is_err());
        assert!(ArrayData::I64(vec![-1]).cast(ElementType::U8).is_err());
        assert!(ArrayData::I64(vec![1 << 40]).cast(ElementType::I32).is_err());
        assert!(NamedArray::new("", vec![3], ArrayData::U8(vec![1])).is_err());
        assert!(NamedArray::new("", vec![usize::MAX, 2], ArrayData::U8(vec![1])).is_err());
    }

    #[test]
    fn a_bundled_archive_reads() {
        let har =
            read_raw(&Path::new(env!("CARGO_MANIFEST_DIR")).join("models/hapt_users_23_26.npz"), MAX_BYTES).unwrap();
        let x = har.iter().find(|a| a.name == "x").unwrap();
        assert_eq!(x.shape, [1572, 6, 128]);
        let ArrayData::F32(first) = x.row(0).unwrap().data else { panic!("not f32") };
        assert_eq!(first.len(), 768);
        let expected = [1.027, 1.035, 1.03, 1.026, 1.022];
        assert!(first.iter().zip(expected).all(|(a, e)| (a - e).abs() < 1e-3), "{:?}", &first[..5]);
        assert!(har.iter().find(|a| a.name == "y").unwrap().integers().unwrap().starts_with(&[4, 4, 4]));
    }
}
