use super::super::Calibrated;
use super::super::layout::ALIGNMENT;
use super::super::samples::{self, larger as sample};
use super::*;
use crate::adapter::{Confusion, Confusions};
use crate::disk::faulty::{Fault, FaultyDisk};
use crate::error::ErrorKind;

const V1: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapter-v1.bin");
const V2: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapter-v2.bin");
const GOLDEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/adapter-v3.bin");

#[test]
fn round_trip_through_a_file_with_aligned_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1.adapter");
    let adapter = sample();
    write_adapter(&RealDisk, &path, &adapter).unwrap();
    let file = AdapterFile::open(&path, Some(&adapter.base)).unwrap();
    assert_eq!(file.to_adapter(), adapter);
    assert_eq!(file.file_bytes(), std::fs::metadata(&path).unwrap().len());
    assert_eq!(file.header().parameters(), adapter.parameters() as u64);
    for site in file.sites() {
        assert!((site.a.data.as_ptr() as usize).is_multiple_of(ALIGNMENT), "{}", site.header.name);
        assert!((site.b.data.as_ptr() as usize).is_multiple_of(ALIGNMENT), "{}", site.header.name);
    }
    let (header, bytes) = read_header(&RealDisk, &path).unwrap();
    assert_eq!((&header, bytes), (file.header(), file.file_bytes()));
}

#[test]
fn another_base_is_refused_by_both_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1.adapter");
    let adapter = sample();
    write_adapter(&RealDisk, &path, &adapter).unwrap();
    let other = Fingerprint::of(b"another model");
    let e = AdapterFile::open(&path, Some(&other)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::BadData);
    assert!(e.to_string().contains(&other.to_string()) && e.to_string().contains(&adapter.base.to_string()));
    assert!(e.next_step().is_some());
}

#[test]
fn an_existing_file_is_not_overwritten() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("1.adapter");
    write_adapter(&RealDisk, &path, &sample()).unwrap();
    assert_eq!(write_adapter(&RealDisk, &path, &samples::adapter(0)).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(AdapterFile::open(&path, None).unwrap().to_adapter(), sample());
}

#[test]
fn a_write_that_fails_anywhere_leaves_no_file_or_a_whole_one() {
    for fault in [Fault::Full, Fault::Broken, Fault::Dead] {
        for n in 0.. {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("1.adapter");
            let disk = FaultyDisk::new(n, fault);
            let written = write_adapter(&disk, &path, &sample());
            if disk.operations() <= n {
                written.unwrap();
                break;
            }
            if path.exists() {
                AdapterFile::open(&path, None).unwrap();
            }
            if fault == Fault::Full {
                assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), usize::from(path.exists()));
            }
        }
    }
}

#[test]
fn format_1_opens_forever() {
    let file = AdapterFile::open(Path::new(V1), None).unwrap();
    assert_eq!(
        file.to_adapter(),
        Adapter { calibrated: Calibrated::default(), known: None, confusions: None, ..sample() }
    );
    assert_eq!(file.header().calibrated.temperature, 1.0);
    let (header, _) = read_header(&RealDisk, Path::new(V1)).unwrap();
    assert_eq!(&header, file.header());
}

#[test]
fn format_2_opens_forever() {
    assert_eq!(AdapterFile::open(Path::new(V2), None).unwrap().to_adapter(), sample());
}

#[test]
fn a_head_on_normalised_features_is_kept_as_one() {
    let normal = sample();
    let head = normal.head.clone().map(|head| HeadDelta {
        base_classes: 0,
        classes: 2,
        columns: vec![0, 1],
        normalised: true,
        ..head
    });
    let adapter = Adapter { head, labels: vec![], confusions: None, ..normal.clone() };
    let file = AdapterFile::of_bytes(Path::new("x"), Bytes::copy_of(&encode(&adapter).unwrap())).unwrap();
    assert_eq!(file.to_adapter(), adapter);
    let beside_classes = normal.head.map(|head| HeadDelta { normalised: true, ..head });
    let e = encode(&Adapter { head: beside_classes, ..sample() }).unwrap_err();
    assert!(e.to_string().contains("normalised"), "{e}");
}

#[test]
fn format_3_opens_forever() {
    let file = AdapterFile::open(Path::new(GOLDEN), None).unwrap();
    assert_eq!(file.to_adapter(), sample());
    assert_eq!(&*file.bytes, encode(&sample()).unwrap(), "the writer changed: a new format version is due");
}

#[test]
fn confusions_of_classes_that_nobody_counts_are_refused() {
    let beyond = Confusion { answered: 0, right: 4, base_margin: 1.5, adapter_margin: 0.75 };
    let adapter = Adapter { confusions: Some(Confusions::of([beyond], 1.0)), ..sample() };
    let e = encode(&adapter).unwrap_err();
    assert!(e.to_string().contains("confusions"), "{e}");
    let adapter = Adapter { head: None, ..sample() };
    assert!(encode(&adapter).is_err(), "without a head no class is counted");
}

#[test]
#[ignore = "writes the fixture of a new format version"]
fn write_the_fixture() {
    std::fs::write(GOLDEN, encode(&sample()).unwrap()).unwrap();
}
