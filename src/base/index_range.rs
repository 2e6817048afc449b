//! The tables that the values of an input index: found once in the graph, so that an index outside of one is refused before a run.

use tract_core::internal::*;
use tract_core::ops::array::{MultiBroadcastTo, TypedConcat};
use tract_core::ops::cast::Cast;

use super::Dim;
use crate::error::{Error, Result};
use crate::ops::{OneHot, Places};

/// A table that an input's values index as they are: through casts, reshapes and moves of axes, without arithmetic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Table {
    /// The operator that reads the table, as the file names it.
    pub reader: String,
    /// Rows of the table. Several: those of each axis that the values along the index' last axis index in turn.
    pub rows: Vec<Dim>,
    /// Whether an index outside of it is an error; a one-hot vector has nothing marked then.
    pub strict: bool,
}

/// The tables that the values of each input of `model` index. `rows` tells what a length of an axis stands for; the second argument is
/// whether what is indexed is stored in the model.
pub(super) fn tables(model: &TypedModel, rows: &dyn Fn(&TDim, bool) -> Dim) -> Vec<Vec<Table>> {
    model.inputs.iter().map(|input| of_input(model, *input, rows)).collect()
}

fn of_input(model: &TypedModel, input: OutletId, rows: &dyn Fn(&TDim, bool) -> Dim) -> Vec<Table> {
    let mut tables: Vec<Table> = vec![];
    // What the values reach, and whether in the order that they have in the input.
    let mut reached = vec![(input, true)];
    let mut next = 0;
    while let Some(&(outlet, in_order)) = reached.get(next) {
        next += 1;
        for successor in &model.node(outlet.node).outputs[outlet.slot].successors {
            let node = model.node(successor.node);
            if let Some(op) = node.op_as::<Places>() {
                let stored = reads_stored(model, node);
                if op.lengths.len() == 1 || in_order {
                    let rows = op.lengths.iter().map(|d| rows(d, stored)).collect();
                    tables.push(Table { reader: op.reader.clone(), rows, strict: true });
                }
            } else if let Some(OneHot(op)) = node.op_as::<OneHot>() {
                let rows = vec![Dim::Fixed(op.dim)];
                tables.push(Table { reader: node.name.clone(), rows, strict: false });
            } else if let Some(keeps_order) = passes(node) {
                let outlet = OutletId::new(node.id, 0);
                if !reached.iter().any(|(o, _)| *o == outlet) {
                    reached.push((outlet, in_order && keeps_order));
                }
            }
        }
    }
    tables.dedup();
    tables
}

/// Whether a node passes its input's values on unchanged; `Some(true)` if in their order.
fn passes(node: &TypedNode) -> Option<bool> {
    match node.op_as::<AxisOp>() {
        Some(AxisOp::Move(..)) => Some(false),
        Some(_) => Some(true),
        None if node.op_is::<Cast>() => Some(true),
        None if node.op_is::<MultiBroadcastTo>() || node.op_is::<TypedConcat>() => Some(false),
        None => (node.op.name() == "Identity").then_some(true),
    }
}

/// Whether the reader behind a check of indices reads what is stored in the model.
fn reads_stored(model: &TypedModel, places: &TypedNode) -> bool {
    let readers = &places.outputs[0].successors;
    readers.iter().all(|r| crate::ops::is_constant(model, model.node(r.node).inputs[0]))
}

impl Table {
    /// Checks the values of the input `input`, of one example, where the model's sequence has `sequence` positions.
    ///
    /// # Errors
    /// `BadData` that names the input, the first value outside, its place and the table.
    pub fn check(&self, input: &str, values: &[i64], shape: &[usize], sequence: usize) -> Result<()> {
        if !self.strict {
            return Ok(());
        }
        let Some(lengths) = self.lengths(sequence) else { return Ok(()) };
        let outside = |(v, length): (&i64, &i64)| !(-length..*length).contains(v);
        let Some(at) = values.iter().zip(lengths.iter().cycle()).position(outside) else { return Ok(()) };
        let (value, length) = (values[at], lengths[at % lengths.len()]);
        let place = crate::input::place(at, shape);
        Err(Error::bad_data(format!("the value {value} at {place:?} of the input {input:?} is no index of a table of {length}"))
            .at(&self.reader)
            .hint(format!(
                "give values from 0 to {}, or from -{length} to -1 counted from its end; of a text, the tokenizer must be the model's own",
                length - 1
            )))
    }

    /// The least number of rows, where it is known.
    pub fn least(&self, sequence: usize) -> Option<i64> {
        self.lengths(sequence)?.into_iter().min()
    }

    fn lengths(&self, sequence: usize) -> Option<Vec<i64>> {
        let length = |d: &Dim| match d {
            Dim::Fixed(n) => i64::try_from(*n).ok(),
            Dim::Sequence => i64::try_from(sequence).ok(),
            Dim::Batch | Dim::Open(_) => None,
        };
        self.rows.iter().map(length).collect()
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::tensor_proto::DataType;
    use tract_onnx::pb::tensor_shape_proto::dimension::Value;
    use tract_onnx::pb::{ModelProto, NodeProto};

    use super::*;
    use crate::base::Base;
    use crate::base::decompose::tests::{input, int, ints, model, node, stored};
    use prost::Message;

    fn open(name: &str) -> Value {
        Value::DimParam(name.into())
    }

    fn cast(from: &str, to: &str, kind: DataType) -> NodeProto {
        node("Cast", &[from], to, vec![int("to", kind as i64)])
    }

    /// A model of ids `[batch, sequence]` that `nodes` make an output `y` of; "table" has 5 rows of 2, "wide" 2 rows of 7.
    fn of_ids(nodes: Vec<NodeProto>) -> Base {
        let tables =
            vec![stored("table", &[5, 2], &[0; 10]), stored("wide", &[2, 7], &[0; 14]), stored("one", &[1], &[1])];
        let ids = input("ids", DataType::Int64, &[open("batch"), open("sequence")]);
        let proto: ModelProto = model(17, vec![ids], tables, nodes);
        Base::from_bytes(&proto.encode_to_vec(), std::path::Path::new("ids.onnx")).unwrap()
    }

    fn rows(base: &Base) -> Vec<(Vec<Dim>, bool)> {
        base.tables(0).iter().map(|t| (t.rows.clone(), t.strict)).collect()
    }

    #[test]
    fn tables_are_found_behind_what_passes_values_on() {
        let strict = |rows: &[usize]| vec![(rows.iter().map(|n| Dim::Fixed(*n)).collect::<Vec<_>>(), true)];
        let plain = vec![node("Gather", &["table", "ids"], "y", vec![])];
        assert_eq!(rows(&of_ids(plain)), strict(&[5]));
        let behind = vec![
            cast("ids", "short", DataType::Int32),
            node("Identity", &["short"], "same", vec![]),
            node("Transpose", &["same"], "turned", vec![ints("perm", &[1, 0])]),
            node("Unsqueeze", &["turned", "one"], "wider", vec![]),
            node("Gather", &["wide", "wider"], "y", vec![int("axis", 1)]),
        ];
        assert_eq!(rows(&of_ids(behind)), strict(&[7]));
        let computed =
            vec![node("Add", &["ids", "one"], "next", vec![]), node("Gather", &["table", "next"], "y", vec![])];
        assert_eq!(rows(&of_ids(computed)), []);
        let nd =
            [node("Unsqueeze", &["ids", "one"], "places", vec![]), node("GatherND", &["table", "ids"], "y", vec![])];
        let base = {
            let ids = input("ids", DataType::Int64, &[open("batch"), Value::DimValue(2)]);
            let proto = model(17, vec![ids], vec![stored("table", &[5, 2], &[0; 10])], nd[1..].to_vec());
            Base::from_bytes(&proto.encode_to_vec(), std::path::Path::new("nd.onnx")).unwrap()
        };
        assert_eq!(rows(&base), strict(&[5, 2]));
    }

    #[test]
    fn a_value_outside_is_named_with_its_place() {
        let table = Table { reader: "embed".into(), rows: vec![Dim::Fixed(5)], strict: true };
        assert!(table.check("ids", &[0, 4, -5], &[3], 3).is_ok());
        for (value, place) in [(5, 2), (-6, 0), (i64::MAX, 1), (i64::MIN, 1)] {
            let mut values = [1i64; 3];
            values[place] = value;
            let e = table.check("ids", &values, &[3], 3).unwrap_err();
            let said = e.to_string();
            let wanted =
                format!("the value {value} at [{place}] of the input \"ids\" is no index of a table of 5 (embed)");
            assert!(e.kind() == crate::ErrorKind::BadData && said == wanted, "{said}");
        }
        // Rows of a matrix of places: each column has an axis of its own.
        let places = Table { rows: vec![Dim::Fixed(5), Dim::Fixed(2)], ..table.clone() };
        assert!(places.check("at", &[4, 1, -5, -2], &[2, 2], 0).is_ok());
        assert!(places.check("at", &[4, 1, 1, 4], &[2, 2], 0).unwrap_err().to_string().contains("value 4 at [1, 1]"));
        // Positions of the sequence itself, and a one-hot vector, which no index leaves.
        let sequence = Table { rows: vec![Dim::Sequence], ..table.clone() };
        assert!(sequence.check("at", &[3], &[1], 4).is_ok() && sequence.check("at", &[4], &[1], 4).is_err());
        assert!(Table { strict: false, ..table }.check("ids", &[9], &[1], 1).is_ok());
    }
}
