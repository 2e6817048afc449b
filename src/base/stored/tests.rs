use std::path::Path;

use half::f16;
use prost::Message as _;

use super::wire::LARGE;
use super::*;
use crate::base::Base;

fn tensor(name: &str, dims: &[i64], from: f32) -> TensorProto {
    let count = dims.iter().product::<i64>();
    let raw_data = (0..count).flat_map(|i| ((from + i as f32) * 0.01).sin().to_le_bytes()).collect();
    let (name, dims) = (name.to_string(), dims.to_vec());
    TensorProto { name, dims, data_type: DataType::Float as i32, raw_data, ..TensorProto::default() }
}

/// The activity model, whose tensors are of all sizes.
fn activity() -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("models/har_cnn.onnx")).unwrap()
}

fn written(pieces: &[Piece], bytes: &[u8]) -> Vec<u8> {
    let piece = |p: &Piece| match p {
        Piece::New(new) => new.clone(),
        Piece::Copy(place) => bytes[place.clone()].to_vec(),
    };
    pieces.iter().flat_map(piece).collect()
}

/// Where the values of the stored tensors of a file are.
fn places(bytes: &[u8]) -> Vec<Range<usize>> {
    let mut places = vec![];
    let mut mark = |place: Range<usize>| {
        places.push(place);
        vec![]
    };
    thin::thin(bytes, &mut mark).unwrap();
    places
}

#[test]
fn an_aligned_file_is_the_same_model_and_has_its_hash() {
    let bytes = activity();
    let aligned = written(&align(&bytes).unwrap(), &bytes);
    assert_ne!(aligned, bytes);
    assert_eq!(fingerprint(&aligned), Fingerprint::of(&bytes));
    assert_eq!(written(&aligned::original(&aligned).unwrap(), &aligned), bytes);
    assert_eq!(onnx::parse(&aligned).unwrap(), onnx::parse(&bytes).unwrap());
    let at = places(&aligned);
    assert!(at.len() > 4 && at.iter().all(|p| (p.start as u64).is_multiple_of(aligned::ALIGNMENT)), "{at:?}");
    assert_eq!(align(&aligned), None, "once is enough");
}

#[test]
fn what_would_escape_the_hash_is_no_padding() {
    let bytes = activity();
    let aligned = written(&align(&bytes).unwrap(), &bytes);
    let at = places(&aligned)[0].start - 64;
    let mut changed = aligned.clone();
    changed[at] ^= 1;
    assert_eq!(fingerprint(&changed), Fingerprint::of(&changed));
    // Any other byte is the model's.
    for at in (0..aligned.len()).step_by(997) {
        let mut changed = aligned.clone();
        changed[at] ^= 0x10;
        assert_ne!(fingerprint(&changed), Fingerprint::of(&bytes), "byte {at}");
    }
}

#[test]
fn lengths_in_more_bytes_than_they_need_are_not_taken_for_the_original() {
    let mut bytes = activity();
    let proto = ModelProto::decode(&bytes[..]).unwrap();
    let graph = proto.graph.clone().unwrap().encode_to_vec();
    bytes = ModelProto { graph: None, ..proto }.encode_to_vec();
    bytes.extend(wire::key(7));
    bytes.extend(wire::five_bytes(graph.len()).unwrap());
    bytes.extend(graph);
    let aligned = written(&align(&bytes).unwrap(), &bytes);
    assert_ne!(fingerprint(&aligned), Fingerprint::of(&bytes), "the caller keeps the file as it is");
}

#[test]
fn truncated_and_random_files_are_none() {
    let bytes = activity();
    for end in (0..bytes.len()).step_by(1009) {
        let cut = &bytes[..end];
        let (small, pieces) = (thin::thin(cut, &mut |_| vec![]), align(cut));
        assert!(small.is_none() || onnx::parse(&small.unwrap()).is_err() || end < 64, "{end}");
        if let Some(pieces) = pieces {
            assert_eq!(fingerprint(&written(&pieces, cut)), Fingerprint::of(cut), "{end}");
        }
    }
}

#[test]
fn a_file_cannot_name_a_store() {
    let (mut one, mut other) = (tensor("w", &[16, 16], 0.0), tensor("w", &[16, 16], 0.0));
    let store = Store::new().unwrap();
    let source = store.add(Source::Bytes(vec![7u8; 2048].into()));
    store.refer(&mut one, source, 0..1024);
    assert!(is_stored(&one) && raw_len(&one) == 1024);
    other.external_data = one.external_data.clone();
    assert!(!is_stored(&other), "its values are its own");
    other.data_location = one.data_location;
    let name = &mut other.external_data[0].value;
    *name = name.replace(|c: char| c.is_ascii_digit(), "f");
    assert!(!is_stored(&other));
    store.refer(&mut one, source, 1536..2560);
    assert_eq!(raw(&one), None, "beyond the file");
    drop(store);
    assert!(!is_stored(&one), "the store is gone");
}

#[test]
fn tensors_that_say_that_their_values_are_here_stay_in_the_file() {
    let mut proto = ModelProto::decode(&activity()[..]).unwrap();
    let tensors = &mut proto.graph.as_mut().unwrap().initializer;
    let values = |tensors: &[TensorProto]| tensors.iter().map(|t| raw(t).unwrap().into_owned()).collect::<Vec<_>>();
    let expected = values(tensors);
    // As onnx's `load` leaves them where a model had its values in other files.
    tensors.iter_mut().for_each(|t| t.data_location = Some(DataLocation::Default as i32));
    let parsed = parse_bytes(&proto.encode_to_vec()).unwrap();
    let tensors = &parsed.proto.graph.as_ref().unwrap().initializer;
    assert_eq!(values(tensors), expected);
    for t in tensors {
        assert_eq!(is_stored(t), raw_len(t) >= LARGE as u64, "{}", t.name);
    }
    assert!(tensors.iter().any(is_stored));
    // What says that they are elsewhere, and has some, is taken as it is.
    let tensors = &mut proto.graph.as_mut().unwrap().initializer;
    tensors.iter_mut().for_each(|t| t.data_location = Some(DataLocation::External as i32));
    assert_eq!(thin::thin(&proto.encode_to_vec(), &mut |_| vec![]), None);
}

/// A file with an aligned tensor, and the tensor's values.
fn file_of(len: usize) -> (tempfile::NamedTempFile, u64, Vec<f32>) {
    use std::io::Write;
    let values: Vec<f32> = (0..len).map(|i| i as f32).collect();
    let (mut file, at) = (tempfile::NamedTempFile::new().unwrap(), 2 * aligned::ALIGNMENT);
    file.write_all(&vec![1; at as usize]).unwrap();
    file.write_all(bytemuck::cast_slice(&values)).unwrap();
    (file, at, values)
}

fn floats(t: &Tensor) -> &[f32] {
    crate::ops::floats(t).unwrap()
}

#[test]
fn mapped_tensors_hold_what_the_file_holds_and_are_given_back() {
    for len in [1, 4095, 4096, 50_000, 1 << 20] {
        let (file, at, values) = file_of(len);
        let shared = Arc::new(file.as_file().try_clone().unwrap());
        let tensor = mapped::tensor(&shared, at, &[len]).unwrap();
        assert_eq!(floats(&tensor), values);
        let reshaped = in_shape(&tensor, &[1, len]);
        assert_eq!(reshaped.is_some(), 4 * len >= rustix::param::page_size());
        if let Some(reshaped) = reshaped {
            assert_eq!((reshaped.shape(), floats(&reshaped)), (&[1, len][..], &values[..]));
            assert!(have_same_pages(&tensor, &reshaped));
        }
        assert!(in_shape(&tensor, &[len + 1]).is_none());
        assert!(in_shape(&(*tensor).clone().into_arc_tensor(), &[len]).is_none(), "it has memory of its own");
        let at = tensor.as_bytes().as_ptr();
        assert_eq!(mapped::has(at), 4 * len >= rustix::param::page_size());
        let mut copy = (*tensor).clone();
        copy.try_as_plain_ram_mut().unwrap().as_slice_mut::<f32>().unwrap()[len - 1] = -1.0;
        assert_eq!(floats(&tensor), values, "a copy is a copy");
        sweep();
        assert_eq!(floats(&tensor), values, "somebody has it");
        drop((tensor, copy));
        sweep();
        assert!(!mapped::has(at));
        // The memory is the allocator's again, and can be used for anything.
        let again: Vec<Vec<u8>> = (0..64).map(|i| vec![i as u8; 4 * len]).collect();
        assert!(again.iter().enumerate().all(|(i, v)| v.iter().all(|b| *b == i as u8)));
    }
}

#[test]
fn a_model_answers_alike_from_memory_a_file_and_a_map() {
    let bytes = activity();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("m.onnx");
    std::fs::write(&path, written(&align(&bytes).unwrap(), &bytes)).unwrap();
    let bases = [
        Base::from_bytes(&bytes, Path::new("m.onnx")).unwrap(),
        Base::open(&path).unwrap(),
        Base::open_in_home(&path, true, &|_| Ok(())).unwrap(),
    ];
    let weights = |base: &Base| base.weights().map(|w| floats(w).to_vec()).collect::<Vec<_>>();
    assert!(!weights(&bases[0]).is_empty());
    for base in &bases {
        assert_eq!(weights(base), weights(&bases[0]));
        assert_eq!(base.fingerprint(), Fingerprint::of(&bytes));
    }
}

/// `x·w` of 3 rows, `w` being an initializer or what a Constant holds.
fn product_by(weight: TensorProto, constant: bool) -> Vec<u8> {
    use tract_onnx::pb::tensor_shape_proto::{Dimension, dimension::Value};
    use tract_onnx::pb::{OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto};
    let dims = weight.dims.clone();
    let value = |name: &str, dims: &[i64]| {
        let of = |d: &i64| Dimension { value: Some(Value::DimValue(*d)), ..Default::default() };
        let shape = Some(TensorShapeProto { dim: dims.iter().map(of).collect() });
        let t = type_proto::Tensor { elem_type: DataType::Float as i32, shape };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(t)), ..Default::default() };
        ValueInfoProto { name: name.into(), r#type: Some(kind), ..Default::default() }
    };
    let (initializer, weight) = if constant { (vec![], Some(weight)) } else { (vec![weight], None) };
    let mut nodes: Vec<NodeProto> = weight.into_iter().map(|t| node(String::new(), "w".into(), t)).collect();
    nodes.iter_mut().for_each(|n| n.op_type = "Constant".into());
    nodes.push(NodeProto {
        op_type: "MatMul".into(),
        input: vec!["x".into(), "w".into()],
        output: vec!["y".into()],
        ..NodeProto::default()
    });
    let graph = GraphProto {
        node: nodes,
        initializer,
        input: vec![value("x", &[3, dims[0]])],
        output: vec![value("y", &[3, dims[1]])],
        ..GraphProto::default()
    };
    let opset_import = vec![OperatorSetIdProto { version: 17, ..Default::default() }];
    ModelProto { ir_version: 8, opset_import, graph: Some(graph), ..Default::default() }.encode_to_vec()
}

#[test]
fn large_values_of_constants_are_stored_too_and_shared() {
    let side = (LARGE / 4) as i64;
    let bytes = product_by(tensor("w", &[2, side], 0.0), true);
    let Parsed { mut proto, store } = parse_bytes(&bytes).unwrap();
    let graph = proto.graph.as_mut().unwrap();
    as_nodes(graph);
    assert_eq!(graph.node[0].op_type, STORED);
    let once = crate::base::typed(&proto).unwrap();
    let again = crate::base::typed(&proto).unwrap();
    let constant = |model: &TypedModel| {
        let mut found = model.nodes().iter().filter_map(|n| n.outputs[0].fact.konst.clone());
        found.find(|k| k.len() == 2 * side as usize).unwrap()
    };
    assert!(Arc::ptr_eq(&constant(&once), &constant(&again)), "one tensor for all graphs");
    drop(store);
    assert_eq!(Base::from_bytes(&bytes, Path::new("c.onnx")).unwrap().weight_bytes(), 8 * side as u64);
}

#[test]
fn narrow_weights_are_used_from_the_map() {
    let raw_data = (0..64 * 64).flat_map(|i| f16::from_f32((i as f32).cos()).to_le_bytes()).collect();
    let (dims, data_type) = (vec![64, 64], DataType::Float16 as i32);
    let bytes =
        product_by(TensorProto { name: "w".into(), dims, data_type, raw_data, ..TensorProto::default() }, false);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("half.onnx");
    std::fs::write(&path, written(&align(&bytes).unwrap(), &bytes)).unwrap();
    let Parsed { proto, store } = {
        let file = File::open(&path).unwrap();
        // SAFETY: nobody writes to the file.
        let map = Arc::new(unsafe { Mmap::map(&file) }.unwrap());
        parse(&std::fs::read(&path).unwrap(), Source::Mapped(Arc::new(file), map)).unwrap()
    };
    let weight = &proto.graph.as_ref().unwrap().initializer[0];
    assert!(matches!(shared(weight), Some(SharedBytes::Mapped(..))));
    assert_eq!(*shared(weight).unwrap(), *raw(weight).unwrap());
    drop(store);
    let (read, mapped) = (Base::open(&path).unwrap(), Base::open_in_home(&path, true, &|_| Ok(())).unwrap());
    assert!(mapped.keeps_narrow_weights());
    let widened = |base: &Base| {
        let model = base.concrete(&base.bucket(3, 1)).unwrap();
        let outlet = model.nodes().iter().find(|n| n.op_is::<crate::ops::Widen>()).unwrap().id.into();
        floats(&crate::ops::constant(&model, outlet).unwrap().unwrap()).to_vec()
    };
    assert_eq!(widened(&read), widened(&mapped));
    let bytes = |base: &Base| {
        let model = base.concrete(&base.bucket(3, 1)).unwrap();
        model.nodes().iter().find_map(|n| n.op_as::<crate::ops::Widen>().map(|w| w.weight.stored().clone())).unwrap()
    };
    assert!(matches!(bytes(&read), SharedBytes::Own(_)));
    assert!(matches!(bytes(&mapped), SharedBytes::Mapped(..)));
}
