//! Concrete shapes: symbols in a compiled plan cost 1.2 to 1.8 times, so every plan is compiled for one [`Bucket`].

use std::collections::{BTreeMap, HashMap};

use tract_core::internal::*;

use crate::error::{Error, ErrorKind, Result};

use super::{guard::guarded, recurrent};

/// Names of the dimensions of a KV cache: its positions, and those with the new ones.
pub(super) const PAST: &str = "past_sequence";
pub(super) const TOTAL: &str = "past_sequence + sequence";

/// One dimension of an input or output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dim {
    /// Always this many.
    Fixed(usize),
    /// The number of examples in a batch.
    Batch,
    /// The length of a sequence, padded to a bucket.
    Sequence,
    /// The number of positions in a KV cache.
    Past,
    /// Positions in the cache and new ones together.
    Total,
    /// Another dimension left open by the exporter, by its name.
    Open(String),
}

impl std::fmt::Display for Dim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Dim::Fixed(n) => write!(f, "{n}"),
            Dim::Batch => f.write_str("batch"),
            Dim::Sequence => f.write_str("sequence"),
            Dim::Past => f.write_str(PAST),
            Dim::Total => f.write_str(TOTAL),
            Dim::Open(name) => f.write_str(name),
        }
    }
}

/// The element types a model input can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// 32-bit float; floats of 16 bits are read as such.
    F32,
    /// 64-bit float.
    F64,
    /// 64-bit integer (token ids, masks).
    I64,
    /// 32-bit integer.
    I32,
    /// 16-bit integer.
    I16,
    /// 8-bit integer.
    I8,
    /// 64-bit unsigned integer.
    U64,
    /// 32-bit unsigned integer.
    U32,
    /// 16-bit unsigned integer.
    U16,
    /// Byte (pictures).
    U8,
    /// Boolean.
    Bool,
    /// Anything else: the model can be inspected but not fed.
    Other,
}

impl Element {
    pub(crate) fn of(dt: DatumType) -> Element {
        match dt {
            DatumType::F32 => Element::F32,
            DatumType::F64 => Element::F64,
            DatumType::I64 => Element::I64,
            DatumType::I32 => Element::I32,
            DatumType::I16 => Element::I16,
            DatumType::I8 => Element::I8,
            DatumType::U64 => Element::U64,
            DatumType::U32 => Element::U32,
            DatumType::U16 => Element::U16,
            DatumType::U8 => Element::U8,
            DatumType::Bool => Element::Bool,
            _ => Element::Other,
        }
    }
    /// Name as shown to the user.
    pub fn name(self) -> &'static str {
        match self {
            Element::F32 => "f32",
            Element::F64 => "f64",
            Element::I64 => "i64",
            Element::I32 => "i32",
            Element::I16 => "i16",
            Element::I8 => "i8",
            Element::U64 => "u64",
            Element::U32 => "u32",
            Element::U16 => "u16",
            Element::U8 => "u8",
            Element::Bool => "bool",
            Element::Other => "other",
        }
    }
    /// Whether it holds floats.
    pub fn is_float(self) -> bool {
        matches!(self, Element::F32 | Element::F64)
    }
    /// Whether it holds whole numbers.
    pub fn is_integer(self) -> bool {
        self.range().is_some()
    }
    /// The least and the largest whole number that it holds, as far as an i64 reaches; none for what holds no integers.
    pub fn range(self) -> Option<(i64, i64)> {
        Some(match self {
            Element::I64 => (i64::MIN, i64::MAX),
            Element::I32 => (i32::MIN.into(), i32::MAX.into()),
            Element::I16 => (i16::MIN.into(), i16::MAX.into()),
            Element::I8 => (i8::MIN.into(), i8::MAX.into()),
            Element::U64 => (0, i64::MAX),
            Element::U32 => (0, u32::MAX.into()),
            Element::U16 => (0, u16::MAX.into()),
            Element::U8 => (0, u8::MAX.into()),
            Element::F32 | Element::F64 | Element::Bool | Element::Other => return None,
        })
    }
}

/// An input or output of the model.
#[derive(Debug, Clone)]
pub struct Port {
    /// Name in the ONNX file.
    pub name: String,
    /// Element type.
    pub element: Element,
    /// Shape.
    pub dims: Vec<Dim>,
}

/// The concrete sizes a plan is compiled for.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Bucket {
    /// Examples per run.
    pub batch: usize,
    /// Sequence length, where the model has one.
    pub sequence: usize,
    /// Positions in the KV cache before the sequence.
    pub past: usize,
}

impl Dim {
    /// The size of a dimension called `name` in `bucket`.
    pub(super) fn size(&self, bucket: &Bucket, name: &str) -> Result<usize> {
        match self {
            Dim::Fixed(n) => Ok(*n),
            Dim::Batch => Ok(bucket.batch),
            Dim::Sequence => Ok(bucket.sequence),
            Dim::Past => Ok(bucket.past),
            Dim::Total => Ok(bucket.past + bucket.sequence),
            Dim::Open(_) => Err(Error::unsupported(format!("the model leaves the dimension {name:?} open"))),
        }
    }
}

/// What a named dimension of an input stands for: the leading one is the batch, the second of an integer matrix the
/// sequence; those of a cache have names of their own; anything else stays open.
pub(super) fn role(axis: usize, float: bool, rank: usize, name: &str) -> Dim {
    match axis {
        _ if name == PAST => Dim::Past,
        _ if name == TOTAL => Dim::Total,
        0 => Dim::Batch,
        1 if !float && rank == 2 => Dim::Sequence,
        _ => Dim::Open(name.to_string()),
    }
}

/// What each symbol of the typed model stands for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Symbols {
    pub roles: BTreeMap<String, Dim>,
}

impl Symbols {
    /// Reads the [`role`]s off the input facts.
    pub fn of(model: &TypedModel) -> Symbols {
        let mut roles = BTreeMap::new();
        let mut facts: Vec<&TypedFact> = (0..model.inputs.len()).filter_map(|ix| model.input_fact(ix).ok()).collect();
        // A mask of floats has the sequence of the ids beside it.
        facts.sort_by_key(|fact| fact.datum_type.is_float());
        for fact in facts {
            for (axis, dim) in fact.shape.iter().enumerate() {
                if let TDim::Sym(s) = dim {
                    let role = role(axis, fact.datum_type.is_float(), fact.rank(), &s.to_string());
                    roles.entry(s.to_string()).or_insert(role);
                }
            }
        }
        Symbols { roles }
    }

    /// The same with other roles for some names.
    pub fn with(&self, roles: impl Iterator<Item = (String, Dim)>) -> Symbols {
        let mut all = self.clone();
        all.roles.extend(roles);
        all
    }

    pub fn dims(&self, fact: &TypedFact) -> Vec<Dim> {
        fact.shape.iter().map(|d| self.dim(d)).collect()
    }

    pub fn dim(&self, d: &TDim) -> Dim {
        match d {
            TDim::Val(v) => Dim::Fixed(usize::try_from(*v).unwrap_or(0)),
            TDim::Sym(s) => self.roles.get(&s.to_string()).cloned().unwrap_or_else(|| Dim::Open(s.to_string())),
            TDim::Add(terms) if self.is_total(terms) => Dim::Total,
            other => Dim::Open(other.to_string()),
        }
    }

    /// Whether a sum is that of the positions in the cache and the new ones.
    fn is_total(&self, terms: &[TDim]) -> bool {
        let roles: Vec<Dim> = terms.iter().map(|term| self.dim(term)).collect();
        roles.len() == 2 && roles.contains(&Dim::Past) && roles.contains(&Dim::Sequence)
    }

    /// The model at the sizes of `bucket`.
    pub fn concretise(&self, model: &TypedModel, bucket: &Bucket) -> Result<TypedModel> {
        let mut values = HashMap::new();
        for (name, role) in &self.roles {
            let size = role.size(bucket, name)?;
            values.insert(model.symbols.sym(name), size.to_dim());
        }
        let what = format!("cannot fix the model's shapes to batch {} × {}", bucket.batch, bucket.sequence);
        guarded(ErrorKind::UnsupportedModel, what, || {
            let mut concrete = model.set_symbols(&values)?;
            concrete.prop_consts()?;
            recurrent::prepare(&mut concrete)?;
            crate::ops::sweep(&mut concrete, crate::ops::spread_rule)?;
            Ok(concrete)
        })
        .map_err(|e| match bucket.sequence {
            0 => e,
            _ => e.hint("the model may take fewer positions than that: give it a shorter input"),
        })
    }
}
