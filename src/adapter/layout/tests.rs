use proptest::prelude::*;

use super::super::samples::{self, larger as sample};
use super::super::{Confusion, HeadDelta, SiteDelta};
use super::*;
use crate::adapter::file::{AdapterFile, read_header};
use crate::disk::{Bytes, RealDisk};
use crate::error::ErrorKind;
use std::path::Path;

fn verify_copy(bytes: &[u8]) -> Result<(AdapterHeader, Vec<Range<usize>>)> {
    verify(&Bytes::copy_of(bytes))
}

/// `bytes` with every checksum and the hash made right again.
fn resealed(mut bytes: Vec<u8>) -> Vec<u8> {
    let header_len = u32_at(&bytes, HEADER_LEN_AT).unwrap() as usize;
    if let Some(header) = bytes.get(PREAMBLE_LEN..PREAMBLE_LEN + header_len) {
        let crc = crc32fast::hash(header);
        bytes[HEADER_CRC_AT..HEADER_CRC_AT + 4].copy_from_slice(&crc.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[..PREAMBLE_CRC_AT]);
    bytes[PREAMBLE_CRC_AT..PREAMBLE_LEN].copy_from_slice(&crc.to_le_bytes());
    let end = bytes.len() - HASH_LEN;
    let hash = blake3::hash(&bytes[..end]);
    bytes[end..].copy_from_slice(hash.as_bytes());
    bytes
}

#[test]
fn every_flipped_bit_is_detected() {
    let mut bytes = encode(&sample()).unwrap();
    assert!((3500..6000).contains(&bytes.len()), "{}", bytes.len());
    verify_copy(&bytes).unwrap();
    for bit in 0..bytes.len() * 8 {
        bytes[bit / 8] ^= 1 << (bit % 8);
        let e = verify_copy(&bytes).expect_err("a flipped bit went unseen");
        assert_eq!(e.kind(), ErrorKind::BadData);
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
}

#[test]
fn every_truncation_and_every_appendix_is_detected() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut");
    let bytes = encode(&sample()).unwrap();
    for len in 0..bytes.len() {
        assert_eq!(verify_copy(&bytes[..len]).unwrap_err().kind(), ErrorKind::BadData);
        if len % 61 == 0 {
            std::fs::write(&path, &bytes[..len]).unwrap();
            assert_eq!(AdapterFile::open(&path, None).unwrap_err().kind(), ErrorKind::BadData);
            assert_eq!(read_header(&RealDisk, &path).unwrap_err().kind(), ErrorKind::BadData);
        }
    }
    let mut longer = bytes.clone();
    longer.extend_from_slice(&[0; 64]);
    assert!(verify_copy(&longer).unwrap_err().to_string().contains("follows"));
}

#[test]
fn a_file_with_right_checksums_and_wrong_contents_is_refused() {
    let good = encode(&sample()).unwrap();
    let preamble = Preamble::decode(&good).unwrap();
    let refuse = |bytes: Vec<u8>, why: &str| {
        let e = verify_copy(&resealed(bytes)).expect_err(why);
        assert!(e.to_string().contains(why), "{e}");
    };
    let mut b = good.clone();
    b[preamble.header_end()] = 1;
    if preamble.header_end() < preamble.data_offset {
        refuse(b, "padding is not zero");
    }
    let mut b = good.clone();
    let conv_a_end = preamble.data_offset + 30 * 4;
    b[conv_a_end] = 1;
    refuse(b, "padding is not zero");
    let mut b = good.clone();
    b[preamble.data_offset..preamble.data_offset + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    refuse(b, "finite");
    let mut b = good.clone();
    b[RESERVED_AT] = 1;
    refuse(b, "contradict");
    let mut b = good.clone();
    b[VERSION_AT] = 4;
    refuse(b, "format 4");
    let mut b = good.clone();
    b[VERSION_AT] = 0;
    refuse(b, "format 0");
    let mut b = good.clone();
    b[VERSION_AT] = 1;
    refuse(b, "stray bytes");
    for (at, value) in [(TOTAL_LEN_AT, u64::MAX), (DATA_OFFSET_AT, u64::MAX - 63), (DATA_LEN_AT, u64::MAX - 63)] {
        let mut b = good.clone();
        b[at..at + 8].copy_from_slice(&value.to_le_bytes());
        refuse(b, "contradict");
    }
    let mut b = good.clone();
    b[HEADER_LEN_AT..HEADER_LEN_AT + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    refuse(b, "contradict");
}

/// A file around any header, checksums right.
fn file_of(header: &AdapterHeader, data: &[u8]) -> Vec<u8> {
    let header = encode_header(header).unwrap();
    let data_offset = (PREAMBLE_LEN + header.len()).next_multiple_of(ALIGNMENT);
    let total_len = (data_offset + data.len() + HASH_LEN) as u64;
    let (version, header_len, data_len) = (VERSION, header.len(), data.len());
    let preamble = Preamble { version, header_len, total_len, data_offset, data_len, header_crc: 0 };
    let mut out = preamble.encode().to_vec();
    out.extend(header);
    out.resize(data_offset, 0);
    out.extend_from_slice(data);
    out.extend([0; HASH_LEN]);
    resealed(out)
}

#[test]
fn tensors_that_overlap_leave_holes_or_overflow_are_refused() {
    let good = encode(&sample()).unwrap();
    let (header, ranges) = verify_copy(&good).unwrap();
    let data = &good[ranges[0].start..good.len() - HASH_LEN];
    verify_copy(&file_of(&header, data)).unwrap();
    type Spoil = fn(&mut AdapterHeader);
    let spoil: [Spoil; 6] = [
        |h| h.sites[0].b.offset = 0,
        |h| h.sites[0].b.offset += 64,
        |h| h.sites[0].b.offset = u64::MAX,
        |h| h.sites[1].a.shape = vec![usize::MAX, 4],
        |h| h.sites[0].a.shape = vec![2, 1 << 31, 1 << 31, 1 << 31],
        |h| h.head = None,
    ];
    for (i, spoil) in spoil.into_iter().enumerate() {
        let mut h = header.clone();
        spoil(&mut h);
        h.labels.clear();
        assert_eq!(verify_copy(&file_of(&h, data)).expect_err(&i.to_string()).kind(), ErrorKind::BadData);
    }
}

prop_compose! {
    fn site()(conv: bool, rank in 1u32..5, i in 1usize..9, o in 1usize..9, k in 1usize..4, alpha in 0.1f32..64.0, seed: u16)
        -> SiteDelta {
        let r = rank as usize;
        let seed = f32::from(seed);
        let (kind, a, b) = match conv {
            true => (SiteKind::Conv, vec![r, i, k], vec![o, r]),
            false => (SiteKind::Linear, vec![i, r], vec![r, o]),
        };
        SiteDelta { name: String::new(), kind, rank, alpha, a: samples::tensor(&a, seed), b: samples::tensor(&b, -seed) }
    }
}

prop_compose! {
    fn any_adapter()(sites in prop::collection::btree_map(".{0,20}", site(), 0..6), features in 0usize..9, base in 0usize..4,
        new in 0usize..4, columns in prop::collection::btree_set(0u32..4, 0..4), task in ".{0,10}", has_head: bool, has_known: bool,
        parent: u64, pairs in prop::option::of(prop::collection::vec((0u32..8, 0u32..8), 0..6)))
        -> Adapter {
        let columns: Vec<u32> =
            columns.into_iter().filter(|c| (*c as usize) < base).chain((base as u32)..((base + new) as u32)).collect();
        let sites = sites.into_iter().map(|(name, s)| SiteDelta { name, ..s }).collect();
        let head = has_head.then(|| HeadDelta {
            features,
            base_classes: base,
            classes: base + new,
            pooling: Pooling::First,
            normalised: base == 0 && parent % 2 == 1,
            weight: samples::tensor(&[features, columns.len()], 1.0),
            bias: samples::tensor(&[columns.len()], 2.0).data,
            columns,
        });
        let sample = samples::adapter(parent);
        let known = sample.known.clone().filter(|_| has_known);
        let counted = |pair: &(u32, u32)| pair.0.max(pair.1) < (base + new) as u32;
        let confusion = |(answered, right)| Confusion { answered, right, base_margin: features as f32, adapter_margin: 1.0 };
        let confusions = pairs
            .filter(|_| has_head)
            .map(|pairs| Confusions::of(pairs.into_iter().filter(counted).map(confusion), 1.0));
        Adapter { sites, head, known, confusions, task, labels: vec![], ..sample }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_adapter_survives_the_file(adapter in any_adapter()) {
        let bytes = Bytes::copy_of(&encode(&adapter).unwrap());
        prop_assert_eq!(AdapterFile::of_bytes(Path::new("memory"), bytes).unwrap().to_adapter(), adapter);
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(verify_copy(&bytes).is_err());
        let mut sealed = encode(&sample()).unwrap();
        let n = bytes.len().min(sealed.len() - PREAMBLE_LEN);
        sealed[PREAMBLE_LEN..PREAMBLE_LEN + n].copy_from_slice(&bytes[..n]);
        let _ = verify_copy(&resealed(sealed));
    }
}
