//! The tables that the values of an input index: found once in the graph, so that an index outside of one is refused before a run.

use tract_core::internal::*;
use tract_core::ops::array::{MultiBroadcastTo, TypedConcat};
use tract_core::ops::cast::Cast;
use tract_core::ops::logic::IfThenElse;
use tract_core::ops::scan::Scan;

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

/// What a length of an axis stands for; the second argument is whether what is indexed is stored in the model.
type Rows<'a> = &'a dyn Fn(&TDim, bool) -> Dim;

/// A value that an input's values reach unchanged, and whether in the order that they have in the input.
type Reached = (OutletId, bool);

/// The tables that the values of each input of `model` index.
pub(super) fn tables(model: &TypedModel, rows: Rows<'_>) -> Vec<Vec<Table>> {
    let of_input = |input: &OutletId| {
        let mut walk = Walk { rows, tables: vec![] };
        walk.through(model, vec![(*input, true)], &|_| false);
        walk.tables.dedup();
        walk.tables
    };
    model.inputs.iter().map(of_input).collect()
}

/// Whether an input of a body is something stored outside of it.
type Given<'a> = &'a dyn Fn(OutletId) -> bool;

/// Follows the values of one input.
struct Walk<'a> {
    rows: Rows<'a>,
    tables: Vec<Table>,
}

impl Walk<'_> {
    /// Notes the tables of `model` that are indexed by what is `reached`, and goes on to all that this reaches. `given`
    /// says which of the inputs of `model` are stored.
    fn through(&mut self, model: &TypedModel, mut reached: Vec<Reached>, given: Given<'_>) -> Vec<Reached> {
        let mut next = 0;
        while let Some(&(outlet, in_order)) = reached.get(next) {
            next += 1;
            for successor in &model.node(outlet.node).outputs[outlet.slot].successors {
                let node = model.node(successor.node);
                let mut found = vec![];
                if let Some(op) = node.op_as::<Places>() {
                    self.indexed(op, in_order, reads_stored(model, node, given));
                } else if let Some(OneHot(op)) = node.op_as::<OneHot>() {
                    let rows = vec![Dim::Fixed(op.dim)];
                    self.tables.push(Table { reader: node.name.clone(), rows, strict: false });
                } else if let Some(keeps_order) = passes(node) {
                    found.push((OutletId::new(node.id, 0), in_order && keeps_order));
                } else if let Some(scan) = node.op_as::<Scan>() {
                    found = self.follow_loop(model, node, scan, (successor.slot, in_order));
                } else if let Some(choice) = node.op_as::<IfThenElse>() {
                    found = self.follow_branches(model, node, choice, (successor.slot, in_order));
                }
                let known = |o: &OutletId| reached.iter().any(|(r, _)| r == o);
                found.retain(|(o, _)| !known(o));
                reached.extend(found);
            }
        }
        reached
    }

    fn indexed(&mut self, op: &Places, in_order: bool, stored: bool) {
        if op.lengths.len() == 1 || in_order {
            let rows = op.lengths.iter().map(|d| (self.rows)(d, stored)).collect();
            self.tables.push(Table { reader: op.reader.clone(), rows, strict: true });
        }
    }

    /// Through the body of a loop, of whose inputs the one at `slot` is reached. What is carried is the input's in the
    /// first round.
    fn follow_loop(
        &mut self,
        model: &TypedModel,
        node: &TypedNode,
        scan: &Scan,
        (slot, in_order): (usize, bool),
    ) -> Vec<Reached> {
        let (Some(mapping), Some(source)) = (scan.input_mapping.get(slot), scan.body.inputs.get(slot)) else {
            return vec![];
        };
        let start = (*source, in_order && !mapping.is_scan());
        let given = |o: OutletId| {
            let from = scan.body.inputs.iter().position(|i| *i == o);
            from.and_then(|slot| node.inputs.get(slot)).is_some_and(|o| crate::ops::is_constant(model, *o))
        };
        let inside = self.through(&scan.body, vec![start], &given);
        let outputs = scan.body.outputs.iter().zip(&scan.output_mapping);
        let left = outputs.filter(|(o, _)| inside.iter().any(|(r, _)| r == *o));
        let slots = left.flat_map(|(_, m)| m.last_value_slot.into_iter().chain(m.scan.map(|(slot, _)| slot)));
        slots.map(|slot| (OutletId::new(node.id, slot), false)).collect()
    }

    /// Through both branches of a choice, of whose inputs the one at `slot` is reached; the first one decides.
    fn follow_branches(
        &mut self,
        model: &TypedModel,
        node: &TypedNode,
        choice: &IfThenElse,
        (slot, in_order): (usize, bool),
    ) -> Vec<Reached> {
        let branches =
            [(&choice.then_body, &choice.then_input_mapping), (&choice.else_body, &choice.else_input_mapping)];
        let mut left = vec![];
        for (body, mapping) in branches {
            let starts = body.inputs.iter().zip(mapping).filter(|(_, from)| **from == slot);
            let starts: Vec<Reached> = starts.map(|(source, _)| (*source, in_order)).collect();
            let given = |o: OutletId| {
                let from = body.inputs.iter().position(|i| *i == o).and_then(|at| mapping.get(at));
                from.and_then(|from| node.inputs.get(*from)).is_some_and(|o| crate::ops::is_constant(model, *o))
            };
            let inside = self.through(body, starts, &given);
            let slots = body.outputs.iter().enumerate().filter(|(_, o)| inside.iter().any(|(r, _)| r == *o));
            left.extend(slots.map(|(slot, _)| (OutletId::new(node.id, slot), false)));
        }
        left
    }
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

/// Whether the reader behind a check of indices reads what is stored in the model, also where a body is `given` it.
fn reads_stored(model: &TypedModel, places: &TypedNode, given: Given<'_>) -> bool {
    let readers = &places.outputs[0].successors;
    readers.iter().map(|r| model.node(r.node).inputs[0]).all(|o| crate::ops::is_constant(model, o) || given(o))
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
            Dim::Batch | Dim::Past | Dim::Total | Dim::Open(_) => None,
        };
        self.rows.iter().map(length).collect()
    }
}

#[cfg(test)]
mod tests {
    use tract_onnx::pb::attribute_proto::AttributeType;
    use tract_onnx::pb::tensor_proto::DataType;
    use tract_onnx::pb::tensor_shape_proto::dimension::Value;
    use tract_onnx::pb::{AttributeProto, GraphProto, ModelProto, NodeProto, ValueInfoProto};

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

    /// `nodes`, which make `row` of `id`, over the positions of the ids `[batch, 6]`: the body of a Scan.
    fn in_a_loop(nodes: Vec<NodeProto>) -> Base {
        let output = vec![ValueInfoProto { name: "row".into(), ..Default::default() }];
        let inside = vec![input("id", DataType::Int64, &[open("batch")])];
        let body = GraphProto { name: "body".into(), node: nodes, input: inside, output, ..Default::default() };
        let body = AttributeProto {
            name: "body".into(),
            r#type: AttributeType::Graph as i32,
            g: Some(body),
            ..Default::default()
        };
        let axes = ["scan_input_axes", "scan_output_axes"].map(|name| ints(name, &[1]));
        let attributes = [vec![body, int("num_scan_inputs", 1)], axes.to_vec()].concat();
        let ids = input("ids", DataType::Int64, &[open("batch"), Value::DimValue(6)]);
        let stored = vec![stored("table", &[5, 2], &[0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), stored("one", &[1], &[1])];
        let proto = model(17, vec![ids], stored, vec![node("Scan", &["ids"], "y", attributes)]);
        Base::from_bytes(&proto.encode_to_vec(), std::path::Path::new("ids.onnx")).unwrap()
    }

    /// What `base` makes of one example.
    fn answer(base: &Base, ids: [i64; 6]) -> Result<Vec<i64>> {
        let model = base.concrete(&base.bucket(1, 6)).unwrap();
        crate::base::guarded(crate::ErrorKind::Internal, "cannot run it", || {
            let ids = Tensor::from_shape(&[1, 6], &ids)?;
            let plan = model.into_decluttered()?.into_optimized()?.into_runnable()?;
            let y = plan.run(tvec!(ids.into_tvalue()))?.remove(0);
            Ok(y.cast_to::<i64>()?.try_as_plain_ram()?.as_slice::<i64>()?.to_vec())
        })
    }

    #[test]
    fn tables_inside_of_a_loop_are_found_and_every_index_is_checked() {
        let read = |index: &str| node("Gather", &["table", index], "row", vec![]);
        let plain = in_a_loop(vec![read("id")]);
        assert_eq!(rows(&plain), [(vec![Dim::Fixed(5)], true)]);
        assert_eq!(answer(&plain, [0, 4, -1, -5, 2, 1]).unwrap(), [0, 1, 8, 9, 8, 9, 0, 1, 4, 5, 2, 3]);
        let behind = in_a_loop(vec![cast("id", "short", DataType::Int32), read("short")]);
        assert_eq!(rows(&behind), rows(&plain));
        // What is computed is checked where it is read.
        let computed = in_a_loop(vec![node("Add", &["id", "one"], "next", vec![]), read("next")]);
        assert_eq!(rows(&computed), []);
        assert_eq!(answer(&computed, [0, 3, -1, -5, 2, 1]).unwrap(), [2, 3, 8, 9, 0, 1, 2, 3, 6, 7, 4, 5]);
        for (base, outside) in [(&plain, 5), (&plain, -6), (&behind, 5), (&computed, 4), (&computed, -7)] {
            let e = answer(base, [0, 1, outside, 2, 3, 1]).unwrap_err();
            let index = if std::ptr::eq(base, &computed) { outside + 1 } else { outside };
            let wanted = format!("the input leads to the index {index} at [0] of a table of 5");
            assert!(e.kind() == crate::ErrorKind::BadData && e.to_string().starts_with(&wanted), "{e}");
        }
    }
}
