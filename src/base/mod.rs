//! The frozen base model: loaded once, identified by the BLAKE3 of its bytes, never changed.

mod absorb;
mod branches;
mod cache;
mod check;
mod decompose;
mod device;
mod external;
mod fed;
mod fold_dequant;
#[cfg(test)]
mod forms_tests;
mod guard;
mod half;
mod hints;
mod index_range;
mod integers;
mod learn;
mod loops;
mod lower;
mod max_length;
mod narrow;
mod onnx;
mod pins;
mod recurrent;
mod reload;
mod roles;
mod sample;
mod shape;
mod size_limits;
mod standard;
mod states;
mod stored;
mod straight_through;
mod tail;
mod wrapped;

use std::path::{Path, PathBuf};

use tract_core::internal::*;
use tract_onnx::pb::ModelProto;
use tract_onnx::prelude::*;

pub(crate) use cache::CacheEntry;
pub use check::{MAX_EXTENT, MAX_MADE_BYTES, MAX_OPSET, MAX_RANK, MAX_TENSOR_BYTES};
pub use device::{Device, DeviceChoice, Gpu, NoGpu, PlacedPlan, Placement, find_gpu};
pub(crate) use external::in_one_file;
pub(crate) use guard::guarded;
pub(crate) use half::is_half;
use index_range::Table;
pub use onnx::{Module, OnnxGraph, OnnxNode};
pub(crate) use onnx::{node_name, parse};
pub use pins::Pins;
pub(crate) use pins::apply as apply_pins;
use reload::Reload;
pub(crate) use shape::Symbols;
pub use shape::{Bucket, Dim, Element, Port};
pub(crate) use standard::{prune, standardise};
use stored::Parsed;
pub use stored::fingerprint;
pub(crate) use stored::{Piece, align, have_same_pages, in_shape, is_mapped, sweep as release_unused};
pub(crate) use tail::{EndInFile, find_tail};
pub use tail::{EndPoint, EndReport, Kind, Task};

use crate::adapter::Fingerprint;
use crate::error::{Error, ErrorKind, Result};
use crate::input::Role;

/// Largest ONNX file that is opened.
pub const MAX_MODEL_BYTES: u64 = 4 << 30;

/// A frozen ONNX model.
pub struct Base {
    path: PathBuf,
    fingerprint: Fingerprint,
    file_bytes: u64,
    external: bool,
    onnx: OnnxGraph,
    inputs: Vec<Port>,
    outputs: Vec<Port>,
    /// Of each input: the tables that its values index, and what it stands for.
    tables: Vec<Vec<Table>>,
    roles: Vec<Role>,
    symbols: Symbols,
    /// The KV cache: inputs and outputs of the graph behind those above.
    cache: Vec<CacheEntry>,
    typed: TypedModel,
    /// How a graph of other sizes is made, where symbols did not do.
    reload: Option<Reload>,
    window: max_length::Window,
    /// What was said of the output that answers, and what the model's end was found to be.
    asked: tail::Asked,
    /// Position of the input that is fed with what is given without a name.
    fed: Option<usize>,
    ending: std::sync::OnceLock<tail::Ending>,
    placement: Placement,
    /// The last to go: it gives back the memory of the weights.
    _store: Arc<stored::Store>,
}

impl Base {
    /// Loads the model at `path`.
    ///
    /// # Errors
    /// [`ErrorKind::Io`] when the file cannot be read, [`ErrorKind::BadData`] when it is not an ONNX model,
    /// [`ErrorKind::UnsupportedModel`] when the runtime cannot type it.
    pub fn open(path: impl AsRef<Path>) -> Result<Base> {
        Base::open_if(path.as_ref(), &|_| Ok(()))
    }

    /// [`Base::open`] of a model whose hash is accepted; it is not looked into before.
    pub(crate) fn open_if(path: &Path, accept: &dyn Fn(&Fingerprint) -> Result<()>) -> Result<Base> {
        Base::open_with(path, None, accept)
    }

    /// [`Base::open_if`] of a home's file. If it is `mapped`, weights that begin at pages of it are used in place:
    /// nobody may change it as long as it is used.
    pub(crate) fn open_in_home(path: &Path, mapped: bool, accept: &dyn Fn(&Fingerprint) -> Result<()>) -> Result<Base> {
        Base::open_with(path, Some(mapped), accept)
    }

    fn open_with(path: &Path, mapped: Option<bool>, accept: &dyn Fn(&Fingerprint) -> Result<()>) -> Result<Base> {
        let file = std::fs::File::open(path).map_err(|e| Error::io("cannot open the model", path, e))?;
        let length = file.metadata().map_err(|e| Error::io("cannot read the model", path, e))?;
        if length.is_dir() {
            return Err(Error::bad_data("this is a folder, not an ONNX file")
                .at(path.display())
                .hint("give the .onnx file in it"));
        }
        let file_bytes = length.len();
        if file_bytes > MAX_MODEL_BYTES {
            return Err(Error::unsupported(format!("the model is {file_bytes} bytes, more than {MAX_MODEL_BYTES}"))
                .at(path.display()));
        }
        if file_bytes == 0 {
            return Err(Error::bad_data("the model file is empty").at(path.display()));
        }
        // SAFETY: the map is read here, and kept if the file is one that nobody writes to; a writer that shortens the
        // file nevertheless would raise SIGBUS, as for any mapped file.
        let map = unsafe { memmap2::Mmap::map(&file) }.map_err(|e| Error::io("cannot map the model", path, e))?;
        let map = Arc::new(map);
        let read = |e| Error::io("cannot read the model", path, e);
        let fingerprint = stored::fingerprint_of_file(&map, &file).map_err(read)?;
        accept(&fingerprint)?;
        // What nobody may write to, in the form that only a home has, is a home's.
        let mapped = mapped.unwrap_or_else(|| length.permissions().readonly() && stored::is_aligned(&map));
        let open = || {
            let file = file.try_clone().map_err(read)?;
            let source = match mapped {
                true => stored::Source::Mapped(Arc::new(file), Arc::clone(&map)),
                false => stored::Source::File(file),
            };
            stored::parse(&map, source).map_err(|e| e.at(path.display()))
        };
        let again = || open().ok();
        Base::of_proto(fingerprint, open()?, file_bytes, path).map_err(|e| hints::pins(e, path, &again))
    }

    /// Loads the model from `bytes`; `path` is where external data would lie and what errors name.
    pub fn from_bytes(bytes: &[u8], path: &Path) -> Result<Base> {
        let parsed = stored::parse_bytes(bytes).map_err(|e| e.at(path.display()))?;
        let again = || stored::parse_bytes(bytes).ok();
        let base = Base::of_proto(fingerprint(bytes), parsed, bytes.len() as u64, path);
        base.map_err(|e| hints::pins(e, path, &again))
    }

    fn of_proto(fingerprint: Fingerprint, parsed: Parsed, file_bytes: u64, path: &Path) -> Result<Base> {
        let Parsed { mut proto, store } = parsed;
        let external = external::bring_in(&mut proto, path.parent().unwrap_or(Path::new("")), Some(&store))
            .map_err(|e| e.within(path.display()))?;
        let operators = framework();
        let checked = |proto: &ModelProto, also: &[&str]| {
            let known = |op: &str| operators.op_register.0.contains_key(op) || lower::knows(op) || also.contains(&op);
            check::check(proto, &known).map_err(|e| e.within(path.display()))
        };
        standard::outputs_as_scores(&mut proto);
        checked(&proto, standard::REWRITTEN)?;
        let cache = cache::arrange(&mut proto);
        reload::name_open(&mut proto);
        standardise(&mut proto);
        checked(&proto, &[])?;
        let mut onnx = onnx::summarise(&proto);
        if let Some(graph) = &mut proto.graph {
            onnx.modules = lower::packed_modules(graph);
            lower::lower(graph, onnx.opset).map_err(|e| e.within(path.display()))?;
            fold_dequant::fold(graph);
            half::widen(graph);
            narrow::widen_states(graph);
            stored::as_nodes(graph);
        }
        let (typed, reload) = typed_somehow(proto).map_err(|e| e.at(path.display()))?;
        let symbols = reload.as_ref().map_or_else(|| Symbols::of(&typed), Reload::symbols);
        let mut outputs = ports(&typed, &symbols, &typed.outputs, |ix| onnx.outputs.get(ix).cloned());
        let inputs = match &reload {
            Some(reload) => {
                outputs.iter_mut().for_each(|p| p.dims = reload.output_dims(&p.dims));
                reload.input_ports()
            }
            None => ports(&typed, &symbols, &typed.inputs, |ix| onnx.inputs.get(ix).cloned()),
        };
        let mut inputs = inputs;
        inputs.truncate(inputs.len().saturating_sub(cache.len()));
        outputs.truncate(outputs.len().saturating_sub(cache.len()));
        one_batch(&inputs).map_err(|e| e.within(path.display()))?;
        let length = |d: &TDim, stored: bool| match &reload {
            Some(reload) if !stored => reload.output_dims(&[symbols.dim(d)]).swap_remove(0),
            _ => symbols.dim(d),
        };
        let tables = index_range::tables(&typed, &length);
        let roles = roles::roles(&inputs, &tables);
        Ok(Base {
            path: path.to_path_buf(),
            fingerprint,
            file_bytes,
            external,
            onnx,
            inputs,
            outputs,
            tables,
            roles,
            symbols,
            cache,
            typed,
            reload,
            window: max_length::Window::default(),
            asked: tail::Asked::default(),
            fed: None,
            ending: Default::default(),
            placement: Placement::default(),
            _store: store,
        })
    }

    /// Where the model was loaded from.
    pub fn path(&self) -> &Path {
        &self.path
    }
    /// BLAKE3 of the file's bytes.
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
    /// Size of the ONNX file.
    pub fn file_bytes(&self) -> u64 {
        self.file_bytes
    }
    /// Whether some weights lie in other files, which the fingerprint does not cover.
    pub fn has_external_data(&self) -> bool {
        self.external
    }
    /// Nodes, initializers and names of the ONNX file.
    pub fn onnx(&self) -> &OnnxGraph {
        &self.onnx
    }
    /// Inputs in order.
    pub fn inputs(&self) -> &[Port] {
        &self.inputs
    }
    /// Outputs in order.
    pub fn outputs(&self) -> &[Port] {
        &self.outputs
    }
    /// What each input stands for, in order.
    pub fn roles(&self) -> &[Role] {
        &self.roles
    }
    /// The input that says which positions count, where the model has one.
    pub fn mask(&self) -> Option<usize> {
        self.roles.iter().position(|r| *r == Role::Mask)
    }
    /// Whether every input takes floats of any value: none holds integers or indexes a table.
    pub(crate) fn takes_any_floats(&self) -> bool {
        self.inputs.iter().zip(&self.tables).all(|(port, tables)| port.element.is_float() && tables.is_empty())
    }
    /// The name that the file gives to the open number of examples.
    pub(crate) fn batch_name(&self) -> Option<&str> {
        self.symbols.roles.iter().find(|(_, dim)| **dim == Dim::Batch).map(|(name, _)| name.as_str())
    }
    /// The node of a stored matrix that holds a value that is not a number.
    pub(crate) fn nan_weight(&self) -> Option<String> {
        let nan = |k: &Arc<Tensor>| {
            let floats = k.rank() >= 2 && k.datum_type() == f32::datum_type();
            floats && crate::sites::floats(k).is_ok_and(|v| v.iter().any(|v| v.is_nan()))
        };
        let holds = |n: &&TypedNode| n.outputs.iter().any(|o| o.fact.konst.as_ref().is_some_and(nan));
        self.typed.nodes().iter().find(holds).map(|n| n.name.clone())
    }
    /// The tables that the values of input `ix` index as they are.
    pub(crate) fn tables(&self, ix: usize) -> &[Table] {
        self.tables.get(ix).map_or(&[], Vec::as_slice)
    }
    /// True when some input has a sequence dimension left open.
    pub fn has_sequence(&self) -> bool {
        self.inputs.iter().any(|p| p.dims.contains(&Dim::Sequence))
    }
    /// The batch size that the file fixes, if it does.
    pub fn fixed_batch(&self) -> Option<usize> {
        self.inputs.iter().find_map(|p| match p.dims.first() {
            Some(Dim::Fixed(n)) => Some(*n),
            _ => None,
        })
    }
    /// The bucket for `batch` examples of length `sequence`, with what the file fixes.
    pub fn bucket(&self, batch: usize, sequence: usize) -> Bucket {
        Bucket {
            batch: self.fixed_batch().unwrap_or(batch.max(1)),
            sequence: if self.has_sequence() { sequence.max(1) } else { 0 },
            past: 0,
        }
    }

    /// The model's larger f32 constants.
    pub(crate) fn weights(&self) -> impl Iterator<Item = &Arc<Tensor>> {
        const LARGE: usize = 4096;
        let constants = self.typed.nodes().iter().flat_map(|n| &n.outputs).filter_map(|o| o.fact.konst.as_ref());
        constants.filter(|k| k.datum_type() == f32::datum_type() && k.len() >= LARGE)
    }

    /// Memory that the model's weights take as they are held, bytes: quantised and half-precision ones stay narrow.
    pub fn weight_bytes(&self) -> u64 {
        let mut counted = std::collections::HashSet::new();
        let mut bytes = 0;
        for node in self.typed.nodes() {
            if let Some(widen) = node.op_as::<crate::ops::Widen>()
                && counted.insert(Arc::as_ptr(&widen.weight).cast::<u8>())
            {
                bytes += widen.weight.bytes() as u64;
            }
            for k in node.outputs.iter().filter_map(|o| o.fact.konst.as_ref()) {
                if counted.insert(Arc::as_ptr(k).cast::<u8>()) {
                    bytes += (k.len() * k.datum_type().size_of()) as u64;
                }
            }
        }
        bytes
    }

    /// Whether matrices are kept as the file stores them, quantised or in half precision.
    pub(crate) fn keeps_narrow_weights(&self) -> bool {
        self.typed.nodes().iter().any(|n| n.op_as::<crate::ops::Widen>().is_some())
    }

    /// Whether activations are rounded on the way, as in a quantised model.
    pub(crate) fn rounds(&self) -> bool {
        const ROUNDINGS: &[&str] = &["Quantise", "DynamicQuantise", "RoundStraight"];
        self.typed.nodes().iter().any(|n| ROUNDINGS.contains(&&*n.op.name()))
    }

    fn at(&self, bucket: &Bucket) -> Result<TypedModel> {
        match &self.reload {
            Some(reload) => Symbols::default().concretise(&reload.at(bucket)?, bucket),
            None => self.symbols.concretise(&self.typed, bucket),
        }
        .map_err(|e| self.size_hint(e, bucket))
    }

    /// What to pin where the model leaves sizes open: such as were tried.
    fn size_hint(&self, e: Error, bucket: &Bucket) -> Error {
        let open = self.inputs.iter().flat_map(|p| &p.dims);
        let mut names: Vec<&str> =
            open.filter_map(|d| if let Dim::Open(name) = d { Some(name.as_str()) } else { None }).collect();
        names.sort_unstable();
        names.dedup();
        if names.is_empty() {
            return e;
        }
        let works = |size: &usize| {
            let sizes = names.iter().map(|name| (name.to_string(), Dim::Fixed(*size)));
            match &self.reload {
                Some(reload) => reload.with(sizes).at(bucket).is_ok(),
                None => self.symbols.with(sizes).concretise(&self.typed, bucket).is_ok(),
            }
        };
        let sizes = hints::likely(self.onnx.initializers.values().flatten().copied());
        hints::sizes(e, &names, sizes.into_iter().find(works))
    }
}

impl std::fmt::Debug for Base {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Base({} {})", self.path.display(), self.fingerprint.short())
    }
}

/// Every input must lead with the same number of examples.
fn one_batch(inputs: &[Port]) -> Result<()> {
    let leads = |p: &Port| p.dims.first().cloned();
    for port in inputs {
        let what = match leads(port) {
            None => "a single number for all examples".to_string(),
            Some(Dim::Batch) => continue,
            Some(_) if port.dims[1..].contains(&Dim::Batch) => {
                "it does not lead with the batch: a state that is carried from call to call, which nobody feeds"
                    .to_string()
            }
            Some(Dim::Fixed(n)) => {
                // A batch of one that is left open elsewhere can be kept to.
                let other = |m: &Port| match leads(m) {
                    Some(Dim::Fixed(m)) => m != n,
                    Some(Dim::Batch) => n != 1,
                    _ => false,
                };
                let Some(other) = inputs.iter().find(|p| other(p)) else { continue };
                format!("the inputs lead with different numbers of examples: {n}, and others in {:?}", other.name)
            }
            Some(_) => continue,
        };
        return Err(Error::unsupported(what).at(format!("the input {:?}", port.name)).hint(
            "an example has one row of every input; a setting, or a state, becomes a constant by `acclimate pin`",
        ));
    }
    Ok(())
}

/// The concrete graph of a model that need not have a batch: single operators, for tests of gradients.
#[cfg(all(test, feature = "train"))]
pub(crate) fn graph_of(bytes: &[u8]) -> Result<TypedModel> {
    let Parsed { mut proto, store: _store } = stored::parse_bytes(bytes)?;
    let operators = framework();
    standardise(&mut proto);
    let opset = onnx::summarise(&proto).opset;
    if let Some(graph) = &mut proto.graph {
        check::operators(graph, &|op| operators.op_register.0.contains_key(op) || lower::knows(op))?;
        lower::lower(graph, opset)?;
        half::widen(graph);
        stored::as_nodes(graph);
    }
    let model = typed(&proto)?;
    Symbols::of(&model).concretise(&model, &Bucket { batch: 1, sequence: 1, past: 0 })
}

/// The typed graph of `proto`, with symbols or at sizes of a trial.
fn typed_somehow(mut proto: ModelProto) -> Result<(TypedModel, Option<Reload>)> {
    let of = |proto: ModelProto| match typed(&proto) {
        Ok(typed) => Ok((typed, None)),
        Err(e) => Reload::new(proto).map(|(reload, typed)| (typed, Some(reload))).map_err(|_| e),
    };
    if !proto.graph.as_ref().is_some_and(|g| g.node.iter().any(|n| n.op_type == stored::STORED)) {
        return of(proto);
    }
    of(proto.clone()).or_else(|e| {
        // An operator may want to know the values of a weight before the graph is typed.
        proto.graph.iter_mut().for_each(stored::inline_all);
        of(proto).map_err(|_| e)
    })
}

/// The typed graph of `proto`.
fn typed(proto: &ModelProto) -> Result<TypedModel> {
    guarded(ErrorKind::UnsupportedModel, "cannot load the model", || {
        let mut model = framework().parse(proto, None)?.model.into_typed()?;
        crate::ops::check_places(&mut model)?;
        absorb::moved_weights(&mut model)?;
        Ok(model)
    })
    .map_err(|e| {
        e.hint("the runtime does not read this form of an operator; another opset or exporter may write another")
    })
}

/// The runtime's ONNX reader, with the operators that [`lower`] writes and those of [`decompose`].
fn framework() -> tract_onnx::Onnx {
    use tract_onnx::tract_hir::ops::element_wise::ElementWiseIntoHir;
    let mut framework = onnx().with_ignore_value_info(true).with_ignore_output_shapes(true);
    framework.op_register.insert(lower::ROUND, |_, _| Ok((straight_through::round_straight().into_hir(), vec![])));
    framework.op_register.insert(lower::QUANTISE, straight_through::load_quantise);
    framework.op_register.insert(lower::DYNAMIC, straight_through::load_dynamic);
    framework.op_register.insert(narrow::WEIGHT, narrow::load);
    framework.op_register.insert(stored::STORED, stored::load);
    framework.op_register.insert(lower::BLOCKS, lower::load_blocks);
    framework.op_register.insert(lower::DETACH, |_, _| Ok((straight_through::detach().into_hir(), vec![])));
    size_limits::bound(&mut framework);
    decompose::register(&mut framework);
    framework
}

fn ports(model: &TypedModel, symbols: &Symbols, at: &[OutletId], name: impl Fn(usize) -> Option<String>) -> Vec<Port> {
    let port = |(ix, outlet): (usize, &OutletId)| {
        let fact = model.outlet_fact(*outlet).ok()?;
        let name = name(ix).unwrap_or_else(|| model.node(outlet.node).name.clone());
        Some(Port { name, element: Element::of(fact.datum_type), dims: symbols.dims(fact) })
    };
    at.iter().enumerate().filter_map(port).collect()
}
