//! What each input of a model of texts stands for: its role, by how the graph uses it first and by its name second.

use super::index_range::Table;
use super::{Dim, Element, Port};
use crate::input::Role;

/// Rows of the largest table that tells texts apart, and not tokens.
const MOST_TYPES: i64 = 16;

/// The role of each of `ports`, of which `tables` are those that its values index.
pub(super) fn roles(ports: &[Port], tables: &[Vec<Table>]) -> Vec<Role> {
    let text: Vec<bool> = ports.iter().map(is_text).collect();
    let mut roles: Vec<Role> = ports
        .iter()
        .zip(tables)
        .zip(&text)
        .map(|((port, tables), text)| if *text { named(&port.name, !tables.is_empty()) } else { Role::Data })
        .collect();
    let free = |roles: &[Role], ix: usize| text[ix] && roles[ix] == Role::Data;
    if let Some(ids) = ids(ports, tables, &|ix| free(&roles, ix)) {
        roles[ids] = Role::Ids;
        for ix in 0..ports.len() {
            if free(&roles, ix) && !tables[ix].is_empty() && rows(&tables[ix]) <= MOST_TYPES {
                roles[ix] = Role::Types;
            }
        }
        // The whole numbers that are left beside ids of a table, and index nothing, can only say which of them count.
        let kind = |ix: usize| ports[ix].element.is_integer() || ports[ix].element == Element::Bool;
        let beside =
            |ix: &usize| free(&roles, *ix) && tables[*ix].is_empty() && kind(*ix) && ports[*ix].dims == ports[ids].dims;
        let left: Vec<usize> = (0..ports.len()).filter(beside).collect();
        if let ([one], false, false) = (&left[..], roles.contains(&Role::Mask), tables[ids].is_empty()) {
            roles[*one] = Role::Mask;
        }
    }
    masks_beside_data(ports, &mut roles);
    roles
}

/// A mask of a sequence has another input beside it whose positions it is about, and there is one.
fn masks_beside_data(ports: &[Port], roles: &mut [Role]) {
    let mut found = false;
    for ix in 0..ports.len() {
        if roles[ix] != Role::Mask {
            continue;
        }
        // A mask over a cache as well is about the ids.
        let length = ports[ix].dims.get(1).map(|d| if *d == Dim::Total { &Dim::Sequence } else { d });
        let beside = |other: usize| other != ix && roles[other] != Role::Mask && ports[other].dims.get(1) == length;
        if found || !(0..ports.len()).any(beside) {
            roles[ix] = Role::Data;
        }
        found |= roles[ix] == Role::Mask;
    }
}

/// Of the inputs that are `free`, the one that indexes the largest table; without any, the first one of integers.
fn ids(ports: &[Port], tables: &[Vec<Table>], free: &dyn Fn(usize) -> bool) -> Option<usize> {
    let indexing = (0..ports.len()).filter(|ix| free(*ix) && !tables[*ix].is_empty());
    // The first of those that are equal.
    let largest = indexing.rev().max_by_key(|ix| rows(&tables[*ix]));
    let whole = |ix: &usize| free(*ix) && ports[*ix].element.is_integer();
    largest.or_else(|| (0..ports.len()).find(whole))
}

fn rows(tables: &[Table]) -> i64 {
    tables.iter().filter_map(|t| t.least(usize::MAX)).max().unwrap_or(0)
}

/// A row of numbers an example, one a position.
fn is_text(port: &Port) -> bool {
    matches!(port.dims[..], [_, Dim::Sequence | Dim::Total | Dim::Fixed(_)]) && port.element != Element::Other
}

/// The role that exporters give this name; masks index nothing.
fn named(name: &str, indexes: bool) -> Role {
    let words = words(name);
    let has = |known: &[&str]| words.iter().any(|w| known.contains(&w.as_str()));
    if has(&["position", "positions", "pos"]) {
        Role::Positions
    } else if has(&["type", "types", "segment", "segments"]) {
        Role::Types
    } else if has(&["mask", "masks"]) && !indexes {
        Role::Mask
    } else {
        Role::Data
    }
}

/// The words of a name, in lower case: of `input_mask:0`, `Input-Mask` and `inputMask` the first two are the same.
pub(super) fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut before_lower = false;
    for c in name.chars() {
        if !c.is_ascii_alphanumeric() || (c.is_ascii_uppercase() && before_lower) {
            words.push(String::new());
        }
        before_lower = c.is_ascii_lowercase();
        if let (true, Some(word)) = (c.is_ascii_alphanumeric(), words.last_mut()) {
            word.push(c.to_ascii_lowercase());
        }
    }
    words.retain(|w| !w.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(name: &str, element: Element, dims: &[Dim]) -> Port {
        Port { name: name.into(), element, dims: dims.to_vec() }
    }

    /// Roles of inputs `[batch, sequence]` of i64; the number is the rows of the table that each indexes, 0 for none.
    fn of(inputs: &[(&str, usize)]) -> Vec<Role> {
        let dims = [Dim::Batch, Dim::Sequence];
        let ports: Vec<Port> = inputs.iter().map(|(name, _)| port(name, Element::I64, &dims)).collect();
        let table = |rows: usize| Table { reader: "embed".into(), rows: vec![Dim::Fixed(rows)], strict: true };
        let tables: Vec<Vec<Table>> =
            inputs.iter().map(|(_, rows)| if *rows > 0 { vec![table(*rows)] } else { vec![] }).collect();
        roles(&ports, &tables)
    }

    #[test]
    fn names_of_usual_exporters() {
        use Role::*;
        let bert = of(&[("input_ids", 30522), ("attention_mask", 0), ("token_type_ids", 2)]);
        assert_eq!(bert, [Ids, Mask, Types]);
        assert_eq!(of(&[("input_word_ids", 30522), ("input_mask", 0), ("input_type_ids", 2)]), [Ids, Mask, Types]);
        assert_eq!(of(&[("Input-Token", 100), ("Input-Segment", 2)]), [Ids, Types]);
        assert_eq!(of(&[("model/input_mask:0", 0), ("model/input_ids:0", 100)]), [Mask, Ids]);
        // Positions are a table's rows, or go into sines.
        assert_eq!(of(&[("input_ids", 100), ("position_ids", 64), ("attention_mask", 0)]), [Ids, Positions, Mask]);
        assert_eq!(of(&[("input_ids", 100), ("position_ids", 0), ("attention_mask", 0)]), [Ids, Positions, Mask]);
    }

    #[test]
    fn how_the_graph_uses_an_input_goes_before_its_name() {
        use Role::*;
        // Four letters make no mask of what is looked up, and their lack none of what can be nothing else.
        assert_eq!(of(&[("masked_ids", 100)]), [Ids]);
        assert_eq!(of(&[("mask_tokens", 100), ("padding", 0)]), [Ids, Mask]);
        assert_eq!(of(&[("unmasked", 100), ("mask", 0)]), [Ids, Mask]);
        assert_eq!(of(&[("input_1", 30522), ("input_2", 0), ("input_3", 2)]), [Ids, Mask, Types]);
        // What may be either of two is neither.
        assert_eq!(of(&[("ids", 100), ("a", 0), ("b", 0)]), [Ids, Data, Data]);
        assert_eq!(of(&[("input_ids", 100), ("decoder_input_ids", 100)]), [Ids, Data]);
        assert_eq!(of(&[("tokens", 0)]), [Ids]);
        assert_eq!(of(&[("age", 0), ("income", 0)]), [Ids, Data]);
    }

    #[test]
    fn a_mask_is_beside_what_it_masks() {
        let picture = port("mask", Element::F32, &[Dim::Batch, Dim::Fixed(28)]);
        assert_eq!(roles(&[picture], &[vec![]]), [Role::Data]);
        let ids = port("ids", Element::I64, &[Dim::Batch, Dim::Sequence]);
        let other = port("label_mask", Element::F32, &[Dim::Batch, Dim::Fixed(7)]);
        assert_eq!(roles(&[ids.clone(), other], &[vec![], vec![]]), [Role::Ids, Role::Data]);
        let float = port("attention_mask", Element::F32, &[Dim::Batch, Dim::Sequence]);
        assert_eq!(roles(&[ids, float], &[vec![], vec![]]), [Role::Ids, Role::Mask]);
        let gaps = port("gaps", Element::F32, &[Dim::Batch, Dim::Sequence]);
        let table = Table { reader: "embed".into(), rows: vec![Dim::Fixed(9)], strict: true };
        let ids = port("ids", Element::I64, &[Dim::Batch, Dim::Sequence]);
        assert_eq!(roles(&[ids, gaps], &[vec![table], vec![]]), [Role::Ids, Role::Data]);
        let frames = port("frames", Element::F32, &[Dim::Batch, Dim::Sequence, Dim::Fixed(40)]);
        let mask = port("mask", Element::Bool, &[Dim::Batch, Dim::Sequence]);
        assert_eq!(roles(&[frames, mask], &[vec![], vec![]]), [Role::Data, Role::Mask]);
    }
}
