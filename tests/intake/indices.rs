//! Indices: those outside of their table are refused before the run.

use acclimate::ErrorKind;
use acclimate::input::ArrayData;
use tempfile::TempDir;
use tract_onnx::pb::{NodeProto, TensorProto};

use crate::models::{C, E, answers, array, home, logits, one_input, table, wave};
use crate::support::onnx::*;

/// Every operator that takes an index from the input: an index just outside, from either end, is refused before the run with its place;
/// one that is counted from the end is read.
#[test]
fn an_index_outside_of_its_table_is_refused() {
    let folder = TempDir::new().unwrap();
    let mean = |from: &str| node("ReduceMean", &[from], &["h"], vec![list("axes", &[1]), int("keepdims", 0)]);
    let wide = floats("wide", &[E as i64, 7], &wave(7 * E, 0.3));
    let (one, cols) = (ints("one", &[1], &[1]), ints("cols", &[2], &[1, 4]));
    let cases: Vec<(&str, i64, Vec<TensorProto>, Vec<NodeProto>)> = vec![
        ("gather", 49, vec![table(49)], vec![node("Gather", &["table", "x"], &["e"], vec![]), mean("e")]),
        (
            "behind",
            49,
            vec![table(49), one.clone()],
            vec![
                cast("x", "s", DataType::Int32),
                node("Unsqueeze", &["s", "one"], &["u"], vec![]),
                node("Squeeze", &["u", "one"], &["v"], vec![]),
                node("Gather", &["table", "v"], &["e"], vec![]),
                mean("e"),
            ],
        ),
        (
            "inner",
            7,
            vec![wide],
            vec![
                node("Gather", &["wide", "x"], &["e"], vec![int("axis", 1)]),
                node("Transpose", &["e"], &["t"], vec![list("perm", &[1, 2, 0])]),
                mean("t"),
            ],
        ),
        (
            "places",
            49,
            vec![table(49), ints("last", &[1], &[-1])],
            vec![
                node("Unsqueeze", &["x", "last"], &["u"], vec![]),
                node("GatherND", &["table", "u"], &["e"], vec![]),
                mean("e"),
            ],
        ),
        (
            "elements",
            1,
            vec![cols],
            vec![
                cast("x", "f", DataType::Float),
                node("GatherElements", &["f", "x"], &["g"], vec![int("axis", 1)]),
                node("Slice", &["g", "zero", "four", "one"], &["h"], vec![]),
            ],
        ),
    ];
    for (name, rows, more, nodes) in cases {
        let elements = name == "elements";
        let rows = if elements { 6 } else { rows };
        let more = if elements {
            vec![ints("zero", &[1], &[0]), ints("four", &[1], &[4]), ints("one", &[1], &[1])]
        } else {
            more
        };
        let x = input("x", DataType::Int64, &["batch", "6"]);
        let session = home(folder.path(), one_input(folder.path(), name, x, more, nodes), None).unwrap();
        let session = session.session("default").unwrap();
        let asked = |third: i64| session.predict_top(&array(ArrayData::I64(vec![0, 1, third, 1, 0, 2]), &[6]), C);
        for inside in [0, rows - 1] {
            let (there, turned) = (asked(inside).unwrap(), asked(inside - rows));
            // What is gathered from the input itself is another input then.
            let same = |(a, b): (&acclimate::runtime::Scored, &acclimate::runtime::Scored)| (a.p - b.p).abs() < 1e-6;
            assert!(elements || there.top.iter().zip(&turned.unwrap().top).all(same), "{name}: {inside}");
        }
        for outside in [rows, -rows - 1, 99_999, (1 << 32) + 5, i64::MIN] {
            let e = asked(outside).unwrap_err();
            let said = e.to_string();
            let wanted = format!("the value {outside} at [2] of the input \"x\" is no index of a table of {rows}");
            assert!(e.kind() == ErrorKind::BadData && said.contains(&wanted), "{name}: {said}");
            assert!(e.next_step().unwrap().contains(&format!("0 to {}", rows - 1)), "{name}: {e:?}");
        }
    }
}

#[test]
fn an_index_that_is_computed_is_refused_where_it_is_used() {
    let folder = TempDir::new().unwrap();
    let nodes = vec![
        node("Mul", &["x", "two"], &["twice"], vec![]),
        node("Gather", &["table", "twice"], &["e"], vec![]),
        node("ReduceMean", &["e"], &["h"], vec![list("axes", &[1]), int("keepdims", 0)]),
    ];
    let x = input("x", DataType::Int64, &["batch", "2"]);
    let model = one_input(folder.path(), "twice", x, vec![table(300), ints("two", &[1], &[2])], nodes);
    let session = home(folder.path(), model, None).unwrap().session("default").unwrap();
    assert!(session.predict(&array(ArrayData::I64(vec![149, -150]), &[2])).is_ok());
    for outside in [150, -151] {
        let e = session.predict(&array(ArrayData::I64(vec![1, outside]), &[2])).unwrap_err();
        let said = format!("the input leads to the index {} at [0, 1] of a table of 300 (e)", 2 * outside);
        assert!(e.kind() == ErrorKind::BadData && e.to_string() == said && e.next_step().is_some(), "{e}");
    }
}

/// An index outside of a one-hot vector marks nothing, and is no error.
#[test]
fn a_one_hot_vector_has_nothing_marked_by_what_lies_outside() {
    let folder = TempDir::new().unwrap();
    let nodes = vec![
        node("OneHot", &["x", "depth", "values"], &["hot"], vec![]),
        node("ReduceSum", &["hot", "one"], &["h"], vec![int("keepdims", 0)]),
    ];
    let more = vec![ints("depth", &[], &[4]), floats("values", &[2], &[0.0, 1.0]), ints("one", &[1], &[1])];
    let model = one_input(folder.path(), "hot", input("x", DataType::Int64, &["batch", "3"]), more, nodes);
    let session = home(folder.path(), model, None).unwrap().session("default").unwrap();
    for (ids, hot) in [
        ([0, 3, 3], [1.0, 0.0, 0.0, 2.0]),
        ([4, -1, -4], [1.0, 0.0, 0.0, 1.0]),
        ([-5, (1 << 32) + 1, 1], [0.0, 1.0, 0.0, 0.0]),
    ] {
        answers(&session, &array(ArrayData::I64(ids.to_vec()), &[3]), &logits(&hot), &format!("{ids:?}"));
    }
}

/// Made-up inputs, as `gradcheck` and `bench` use them, stay within every table.
#[test]
fn made_up_inputs_stay_inside() {
    let folder = TempDir::new().unwrap();
    let mean = |from: &str| node("ReduceMean", &[from], &["h"], vec![list("axes", &[1]), int("keepdims", 0)]);
    for (name, nodes) in [
        ("plain", vec![node("Gather", &["table", "x"], &["e"], vec![]), mean("e")]),
        (
            "nd",
            vec![
                node("Unsqueeze", &["x", "last"], &["u"], vec![]),
                node("GatherND", &["table", "u"], &["e"], vec![]),
                mean("e"),
            ],
        ),
    ] {
        let x = input("x", DataType::Int64, &["batch", "6"]);
        let model = one_input(folder.path(), name, x, vec![table(9), ints("last", &[1], &[-1])], nodes);
        let base = acclimate::base::Base::open(&model).unwrap();
        for example in base.random_examples(&base.bucket(64, 0), 3).unwrap() {
            let ArrayData::I64(ids) = &example.arrays[0].data else { panic!("not integers") };
            assert!(ids.iter().all(|id| (0..9).contains(id)), "{name}: {ids:?}");
        }
        let options = acclimate::tools::gradcheck::Options::default();
        acclimate::tools::gradcheck::check(&base, base.guess_task().unwrap(), &options, None).unwrap();
    }
}
