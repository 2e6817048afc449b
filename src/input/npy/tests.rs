//! Arrays of every type and order, and hostile files.

use std::io::Read;

use half::f16;

use super::*;
use crate::error::ErrorKind;

/// Bytes of an npy file with any header fields.
pub(crate) fn npy(descr: &str, fortran: bool, shape: &str, data: &[u8]) -> Vec<u8> {
    let order = if fortran { "True" } else { "False" };
    let header = format!("{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n");
    let mut out = b"\x93NUMPY\x01\x00".to_vec();
    out.extend((header.len() as u16).to_le_bytes());
    out.extend(header.as_bytes());
    out.extend(data);
    out
}

fn read(bytes: &[u8]) -> Result<RawArray> {
    RawArray::read(&mut &bytes[..], "x", bytes.len() as u64, 1 << 20)
}

#[test]
fn every_numeric_type_converts() {
    let ints = |descr: &str, data: &[u8]| read(&npy(descr, false, "(2,)", data)).unwrap().integers().unwrap();
    assert_eq!(ints("'|i1'", &[255, 1]), [-1, 1]);
    assert_eq!(ints("'|u1'", &[255, 1]), [255, 1]);
    assert_eq!(ints("'|b1'", &[0, 1]), [0, 1]);
    assert_eq!(ints("'<i2'", &[254, 255, 1, 0]), [-2, 1]);
    assert_eq!(ints("'>i2'", &[255, 254, 0, 1]), [-2, 1]);
    assert_eq!(ints("'<u2'", &[254, 255, 1, 0]), [65534, 1]);
    assert_eq!(ints("'<i4'", &[255, 255, 255, 255, 7, 0, 0, 0]), [-1, 7]);
    assert_eq!(ints("'>u4'", &[255, 255, 255, 255, 0, 0, 0, 7]), [4294967295, 7]);
    let mut wide = (-5i64).to_le_bytes().to_vec();
    wide.extend(9i64.to_le_bytes());
    assert_eq!(ints("'<i8'", &wide), [-5, 9]);
    assert!(read(&npy("'<u8'", false, "(2,)", &[255; 16])).unwrap().integers().is_err());

    let floats =
        |descr: &str, data: &[u8]| read(&npy(descr, false, "(1,)", data)).unwrap().convert(1 << 20).unwrap().data;
    assert_eq!(floats("'<f2'", &f16::from_f32(1.5).to_le_bytes()), ArrayData::F32(vec![1.5]));
    assert_eq!(floats("'<f4'", &1.5f32.to_le_bytes()), ArrayData::F32(vec![1.5]));
    assert_eq!(floats("'>f8'", &1.5f64.to_be_bytes()), ArrayData::F32(vec![1.5]));
}

#[test]
fn fortran_order_is_undone() {
    // [[0, 1, 2], [3, 4, 5]] stored column by column
    let a = read(&npy("'|u1'", true, "(2, 3)", &[0, 3, 1, 4, 2, 5])).unwrap();
    assert_eq!(a.integers().unwrap(), [0, 1, 2, 3, 4, 5]);
    assert_eq!(a.row(1).unwrap().data, ArrayData::U8(vec![3, 4, 5]));
    // element [i, j, k] of shape (2, 3, 4) lies at i + 2 j + 6 k
    let stored: Vec<u8> = (0..24u8)
        .map(|at| {
            let (i, j, k) = (at % 2, at / 2 % 3, at / 6);
            i * 12 + j * 4 + k
        })
        .collect();
    let a = read(&npy("'|u1'", true, "(2, 3, 4)", &stored)).unwrap();
    assert_eq!(a.integers().unwrap(), (0..24).collect::<Vec<i64>>());
}

#[test]
fn text_arrays_become_strings() {
    let unicode: Vec<u8> = "on\0é".chars().flat_map(|c| (c as u32).to_le_bytes()).collect();
    assert_eq!(read(&npy("'<U2'", false, "(2,)", &unicode)).unwrap().strings().unwrap(), ["on", "\0é"]);
    assert_eq!(read(&npy("'|S3'", false, "(2,)", b"on\0off")).unwrap().strings().unwrap(), ["on", "off"]);
    assert!(read(&npy("'|S1'", false, "(1,)", &[0xff])).unwrap().strings().is_err());
    assert!(read(&npy("'<U1'", false, "(1,)", &[0xff; 4])).unwrap().strings().is_err());
}

#[test]
fn the_first_offending_index_is_named() {
    let mut data: Vec<u8> = [0f32; 12].iter().flat_map(|v| v.to_le_bytes()).collect();
    data[4 * 7..4 * 8].copy_from_slice(&f32::NAN.to_le_bytes());
    let a = read(&npy("'<f4'", false, "(2, 2, 3)", &data)).unwrap();
    for e in [a.convert(1 << 20).unwrap_err(), a.row(1).unwrap_err(), a.check_rows().unwrap_err()] {
        assert!(e.to_string().contains("[1, 0, 1]"), "{e}");
    }
    assert!(a.row(0).is_ok());
    assert!(a.row(2).is_err());
    assert!(read(&npy("'<f8'", false, "(1,)", &1e300f64.to_le_bytes())).unwrap().convert(64).is_err());
}

#[test]
fn hostile_headers_are_refused_before_allocation() {
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (npy("'<f4'", false, "(1152921504606846976,)", &[0; 4]), "larger than the limit"),
        (npy("'<f4'", false, "(4294967296, 4294967296, 4294967296)", &[0; 4]), "overflow"),
        (npy("'<f4'", false, "(99999999999999999999999,)", &[]), "malformed 'shape'"),
        (npy("'<f4'", false, "(-1,)", &[]), "malformed 'shape'"),
        (npy("'<f4'", false, "(100,)", &[0; 8]), "truncated"),
        (npy("'|O'", false, "(1,)", &[0; 8]), "pickled"),
        (npy("'<c8'", false, "(1,)", &[0; 8]), "'<c8'"),
        (npy("[('a', '<f4')]", false, "(1,)", &[0; 8]), "structured"),
        (npy("'<U99999999999'", false, "(1,)", &[0; 8]), "not supported"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec(), "header of 4294967295"),
        (b"\x93NUM".to_vec(), "truncated"),
        (b"PK\x03\x04aaaaaaaaaaaa".to_vec(), "magic"),
        (b"\x93NUMPY\x01\x00\x04\x00{}\n\n".to_vec(), "without 'descr'"),
        (b"\x93NUMPY\x01\x00\x02\x00\xff\xff".to_vec(), "not text"),
    ];
    for (bytes, expected) in cases {
        let e = read(&bytes).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::BadData);
        assert!(e.to_string().contains(expected), "{e} lacks {expected}");
    }
}

/// A reader that tells how many bytes were asked of it.
struct Told<'a>(&'a [u8], &'a std::cell::Cell<usize>);

impl Read for Told<'_> {
    fn read(&mut self, to: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.read(to)?;
        self.1.set(self.1.get() + n);
        Ok(n)
    }
}

#[test]
fn rows_are_read_one_at_a_time() {
    let data: Vec<u8> = (0..24).flat_map(|v| (v as f32).to_be_bytes()).collect();
    for (descr, fortran) in [("'>f4'", false), ("'>f4'", true), ("'<i2'", false), ("'|u1'", false)] {
        let bytes = npy(descr, fortran, "(4, 3, 2)", &data);
        let whole = read(&bytes).unwrap();
        let told = std::cell::Cell::new(0);
        let mut rows = RowReader::new(Told(&bytes, &told), bytes.len() as u64, 1 << 20).unwrap();
        let start = told.get();
        for i in 0..4 {
            let (got, expected) = (rows.row().unwrap(), whole.row(i).unwrap());
            assert_eq!((got.shape, got.data), (expected.shape, expected.data), "{descr} {fortran} row {i}");
            let taken = if fortran { 4 } else { i + 1 };
            assert_eq!(told.get() - start, taken * whole.byte_len() / 4);
        }
        assert!(rows.row().is_err());
    }
    let mut bad = data.clone();
    bad[4 * 14..4 * 15].copy_from_slice(&f32::NAN.to_be_bytes());
    let bytes = npy("'>f4'", false, "(4, 3, 2)", &bad);
    let mut rows = RowReader::new(&bytes[..], bytes.len() as u64, 1 << 20).unwrap();
    assert!(rows.row().is_ok() && rows.row().is_ok());
    assert!(rows.row().unwrap_err().to_string().contains("[2, 1, 0]"));
    assert!(rows.row().is_ok());
    assert!(RowReader::new(&bytes[..], 40, 1 << 20).is_err(), "fewer bytes than it says");
}

#[test]
fn empty_arrays_cost_nothing_whatever_their_shape() {
    for shape in ["(4611686018427387904, 0)", "(0, 1099511627776, 1048576)", "(0,)", "(0, 4611686018427387904)"] {
        let a = read(&npy("'<f4'", true, shape, &[])).unwrap();
        a.check_rows().unwrap();
        assert!(a.convert(1 << 20).unwrap().data.is_empty());
        assert_eq!(a.row(0).is_ok(), a.rows() > 0);
    }
    assert_eq!(
        read(&npy("'<f4'", false, "()", &1f32.to_le_bytes())).unwrap().convert(8).unwrap().data,
        ArrayData::F32(vec![1.0])
    );
}

#[test]
fn written_arrays_read_back() {
    for data in [
        ArrayData::F32(vec![1.0, -2.5, 3.0, 0.0, 1e-9, 7.0]),
        ArrayData::I64(vec![1, 2, 3, 4, 5, i64::MIN]),
        ArrayData::U8(vec![0, 1, 2, 3, 4, 255]),
    ] {
        let a = NamedArray::new("a", vec![3, 2], data).unwrap();
        let bytes = encode(&a);
        assert_eq!(read(&bytes).unwrap().convert(1 << 20).unwrap().data, a.data);
        assert_eq!((bytes.len() - a.data.byte_len()) % 64, 0);
    }
}
