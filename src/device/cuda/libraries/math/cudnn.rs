//! Convolutions by cuDNN's graph API, which reaches every engine that the older API reaches, and those that came later.
//!
//! A graph of one operation gives engines with settings; an engine with settings becomes an execution plan. Algorithms
//! are named by the engine's number and its settings (`cudnn:38:2=1,12=0`), so that a name means the same in every run.

use std::collections::HashMap;
use std::ffi::c_void;
use std::ptr::null_mut;
use std::sync::Arc;

use cudarc::cudnn::sys::{
    cudnnBackendAttributeName_t as Name, cudnnBackendAttributeType_t as Type, cudnnBackendBehaviorNote_t as Behavior,
    cudnnBackendDescriptorType_t as Kind, cudnnBackendHeurMode_t as Mode, cudnnBackendNumericalNote_t as Note,
    cudnnConvolutionMode_t as ConvolutionMode, cudnnDataType_t as DataType,
};

use super::api::{CudnnApi, Object, check};
use super::descriptor::Descriptor;
use super::{MOST_ALGORITHMS, Place, WORKSPACE_BYTES};
use crate::device::cuda::launch::library::{Convolution, Layout};
use crate::device::cuda::libraries::search::SearchPath;
use crate::device::cuda::libraries::{Library, Loaded, Version};
use crate::types::{Element, Pass, Precision};
use crate::{Error, Result};

const PREFIX: &str = "cudnn:";

/// Settings of an engine and remarks on its numbers, at most: more than the library knows kinds of.
const MOST_KNOBS: usize = 64;
const MOST_NOTES: usize = 32;
/// Engines that are looked at, at most.
const MOST_ENGINES: usize = 24;

/// Numbers by which the tensors of a graph are known: input, weight and output.
const TENSORS: [i64; 3] = [1, 2, 3];

/// The library, with what was made ready.
pub(super) struct Cudnn {
    library: Loaded,
    api: Arc<CudnnApi>,
    handle: Object,
    ready: HashMap<(Convolution, String), Plan>,
}

/// An execution plan, with the objects that it was made of.
struct Plan {
    plan: Descriptor,
    _made_of: (Graph, Vec<Descriptor>),
}

impl Cudnn {
    /// # Errors
    /// Fails if the library is not there, lacks a function, or does not start.
    ///
    /// # Safety
    /// A context is current, and `stream` is a stream of it that outlives the value.
    pub unsafe fn open(search: &SearchPath, driver: Version, stream: *mut c_void) -> Result<Cudnn> {
        let library = Library::Cudnn.load(search, Some(driver))?;
        let api = Arc::new(CudnnApi::of(&library)?);
        let mut handle = null_mut();
        // SAFETY: destroyed on drop.
        check("cudnnCreate", unsafe { (api.create)(&mut handle) })?;
        let this = Cudnn { library, api, handle, ready: HashMap::new() };
        // SAFETY: the caller's.
        check("cudnnSetStream", unsafe { (this.api.set_stream)(handle, stream) })?;
        Ok(this)
    }

    pub fn library(&self) -> &Loaded {
        &self.library
    }

    /// Those that the library expects to be fastest, and that can be made ready.
    pub fn algorithms(&mut self, convolution: &Convolution) -> Vec<String> {
        let mut names: Vec<String> = Vec::new();
        for mode in [Mode::CUDNN_HEUR_MODE_A, Mode::CUDNN_HEUR_MODE_FALLBACK] {
            let found = self.engines(convolution, mode).unwrap_or_default();
            for name in found {
                let is_new = names.len() < MOST_ALGORITHMS && !names.contains(&name);
                if is_new && self.prepare(convolution, &name).is_ok() {
                    names.push(name);
                }
            }
        }
        names
    }

    /// Names of the engines with settings that a heuristic recommends, the best first.
    fn engines(&self, convolution: &Convolution, mode: Mode) -> Result<Vec<String>> {
        let graph = Graph::new(&self.api, self.handle, convolution)?;
        let heuristic = Descriptor::new(&self.api, Kind::CUDNN_BACKEND_ENGINEHEUR_DESCRIPTOR)?;
        heuristic.set_objects(Name::CUDNN_ATTR_ENGINEHEUR_OPERATION_GRAPH, &[&graph.graph])?;
        heuristic.set_enum(Name::CUDNN_ATTR_ENGINEHEUR_MODE, Type::CUDNN_TYPE_HEUR_MODE, mode as u32)?;
        let heuristic = heuristic.finalize()?;
        let (results, kind) = (Name::CUDNN_ATTR_ENGINEHEUR_RESULTS, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR);
        heuristic.objects(results, kind, MOST_ENGINES)?.iter().map(name).collect()
    }

    /// # Errors
    /// Fails if the algorithm is none of this library's, does not compute the convolution, may give other bits each
    /// time or fewer digits than asked for, or takes too much memory.
    pub fn prepare(&mut self, convolution: &Convolution, algorithm: &str) -> Result<()> {
        let key = (*convolution, algorithm.to_owned());
        if !self.ready.contains_key(&key) {
            let plan = Plan::new(&self.api, self.handle, convolution, algorithm)?;
            self.ready.insert(key, plan);
        }
        Ok(())
    }

    /// # Errors
    /// Fails if it was not made ready, or the library reports an error.
    ///
    /// # Safety
    /// The operands lie in the GPU's memory as the convolution says, and the place has its workspace.
    pub unsafe fn call(
        &mut self,
        convolution: &Convolution,
        algorithm: &str,
        operands: [*mut c_void; 3],
        place: Place,
    ) -> Result<()> {
        let ready = self.ready.get(&(*convolution, algorithm.to_owned()));
        let plan = ready.ok_or_else(|| Error::Internal(format!("{algorithm} was not made ready")))?;
        let pack = Descriptor::new(&self.api, Kind::CUDNN_BACKEND_VARIANT_PACK_DESCRIPTOR)?;
        pack.set_numbers(Name::CUDNN_ATTR_VARIANT_PACK_UNIQUE_IDS, &TENSORS)?;
        pack.set_pointers(Name::CUDNN_ATTR_VARIANT_PACK_DATA_POINTERS, &operands)?;
        pack.set_pointers(Name::CUDNN_ATTR_VARIANT_PACK_WORKSPACE, &[place.workspace.0 as *mut c_void])?;
        let pack = pack.finalize()?;
        // SAFETY: the caller's.
        check("cudnnBackendExecute", unsafe { (self.api.execute)(self.handle, plan.plan.object(), pack.object()) })
    }
}

impl Drop for Cudnn {
    fn drop(&mut self) {
        self.ready.clear();
        // SAFETY: created, and destroyed once.
        unsafe { (self.api.destroy)(self.handle) };
    }
}

/// The name of an engine with its settings.
fn name(config: &Descriptor) -> Result<String> {
    let engines = config.objects(Name::CUDNN_ATTR_ENGINECFG_ENGINE, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR, 1)?;
    let engine = engines.first().ok_or_else(|| Error::device("cuDNN names no engine"))?;
    let index = engine.number(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX)?;
    let kind = Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR;
    let mut knobs = Vec::new();
    for knob in config.objects(Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, kind, MOST_KNOBS)? {
        let which = knob.enums(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, Type::CUDNN_TYPE_KNOB_TYPE, 1)?;
        let which = which.first().copied().unwrap_or_default();
        knobs.push((which, knob.number(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE)?));
    }
    knobs.sort_unstable();
    let knobs: Vec<String> = knobs.iter().map(|(which, value)| format!("{which}={value}")).collect();
    Ok(format!("{PREFIX}{index}:{}", knobs.join(",")))
}

/// The engine's number and its settings.
fn parse(name: &str) -> Option<(i64, Vec<(u32, i64)>)> {
    let (index, knobs) = name.strip_prefix(PREFIX)?.split_once(':')?;
    let knob = |text: &str| {
        let (which, value) = text.split_once('=')?;
        Some((which.parse().ok()?, value.parse().ok()?))
    };
    let knobs = knobs.split(',').filter(|k| !k.is_empty()).map(knob).collect::<Option<_>>()?;
    Some((index.parse().ok()?, knobs))
}

impl Plan {
    fn new(api: &Arc<CudnnApi>, handle: Object, convolution: &Convolution, algorithm: &str) -> Result<Plan> {
        let unknown = || Error::device(format!("cuDNN has no algorithm {algorithm}"));
        let (index, knobs) = parse(algorithm).ok_or_else(unknown)?;
        let graph = Graph::new(api, handle, convolution)?;
        let engine = Descriptor::new(api, Kind::CUDNN_BACKEND_ENGINE_DESCRIPTOR)?;
        engine.set_objects(Name::CUDNN_ATTR_ENGINE_OPERATION_GRAPH, &[&graph.graph])?;
        engine.set_numbers(Name::CUDNN_ATTR_ENGINE_GLOBAL_INDEX, &[index])?;
        let engine = engine.finalize()?;
        check_notes(&engine, convolution.precision)?;
        let mut parts = Vec::new();
        for (which, value) in knobs {
            let knob = Descriptor::new(api, Kind::CUDNN_BACKEND_KNOB_CHOICE_DESCRIPTOR)?;
            knob.set_enum(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_TYPE, Type::CUDNN_TYPE_KNOB_TYPE, which)?;
            knob.set_numbers(Name::CUDNN_ATTR_KNOB_CHOICE_KNOB_VALUE, &[value])?;
            parts.push(knob.finalize()?);
        }
        let config = Descriptor::new(api, Kind::CUDNN_BACKEND_ENGINECFG_DESCRIPTOR)?;
        config.set_objects(Name::CUDNN_ATTR_ENGINECFG_ENGINE, &[&engine])?;
        if !parts.is_empty() {
            config.set_objects(Name::CUDNN_ATTR_ENGINECFG_KNOB_CHOICES, &parts.iter().collect::<Vec<_>>())?;
        }
        let config = config.finalize()?;
        let plan = Descriptor::new(api, Kind::CUDNN_BACKEND_EXECUTION_PLAN_DESCRIPTOR)?;
        plan.set_handle(Name::CUDNN_ATTR_EXECUTION_PLAN_HANDLE, handle)?;
        plan.set_objects(Name::CUDNN_ATTR_EXECUTION_PLAN_ENGINE_CONFIG, &[&config])?;
        let plan = plan.finalize()?;
        let bytes = plan.number(Name::CUDNN_ATTR_EXECUTION_PLAN_WORKSPACE_SIZE)?;
        if usize::try_from(bytes).is_ok_and(|bytes| bytes <= WORKSPACE_BYTES) {
            parts.extend([engine, config]);
            return Ok(Plan { plan, _made_of: (graph, parts) });
        }
        Err(Error::device(format!("{algorithm} needs {bytes} bytes of workspace")))
    }
}

/// Refuses engines whose results differ from run to run, that have fewer digits than the precision asks for, or that are
/// compiled first, which takes seconds each.
fn check_notes(engine: &Descriptor, precision: Precision) -> Result<()> {
    let never = [
        Note::CUDNN_NUMERICAL_NOTE_NONDETERMINISTIC,
        Note::CUDNN_NUMERICAL_NOTE_REDUCED_PRECISION_REDUCTION,
        // Transforms of large tiles lose digits.
        Note::CUDNN_NUMERICAL_NOTE_WINOGRAD_TILE_13x13,
    ];
    // Of f32 factors, matrix units drop 13 of 23 bits. Those that are converted may become half floats, whose range ends
    // at 65504; of bf16 there is nothing to convert.
    let more: &[Note] = match precision {
        Precision::F32 => &[Note::CUDNN_NUMERICAL_NOTE_TENSOR_CORE, Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS],
        Precision::Tf32 => &[Note::CUDNN_NUMERICAL_NOTE_DOWN_CONVERT_INPUTS],
        Precision::Bf16 => &[],
    };
    let refused = never.iter().chain(more);
    let kind = Type::CUDNN_TYPE_NUMERICAL_NOTE;
    let notes = engine.enums(Name::CUDNN_ATTR_ENGINE_NUMERICAL_NOTE, kind, MOST_NOTES)?;
    if let Some(note) = refused.copied().find(|note| notes.contains(&(*note as u32))) {
        return Err(Error::device(format!("{note:?}")));
    }
    let (name, kind) = (Name::CUDNN_ATTR_ENGINE_BEHAVIOR_NOTE, Type::CUDNN_TYPE_BEHAVIOR_NOTE);
    let compiles = Behavior::CUDNN_BEHAVIOR_NOTE_RUNTIME_COMPILATION;
    match engine.enums(name, kind, MOST_NOTES)?.contains(&(compiles as u32)) {
        true => Err(Error::device(format!("{compiles:?}"))),
        false => Ok(()),
    }
}

/// A graph of one convolution, with the objects that it was made of.
struct Graph {
    graph: Descriptor,
    _operation: Operation,
}

impl Graph {
    fn new(api: &Arc<CudnnApi>, handle: Object, convolution: &Convolution) -> Result<Graph> {
        let operation = Operation::new(api, convolution)?;
        let graph = Descriptor::new(api, Kind::CUDNN_BACKEND_OPERATIONGRAPH_DESCRIPTOR)?;
        graph.set_objects(Name::CUDNN_ATTR_OPERATIONGRAPH_OPS, &[&operation.operation])?;
        graph.set_handle(Name::CUDNN_ATTR_OPERATIONGRAPH_HANDLE, handle)?;
        Ok(Graph { graph: graph.finalize()?, _operation: operation })
    }
}

/// A convolution with its operands. Needs no handle, and no GPU.
struct Operation {
    operation: Descriptor,
    _made_of: [Descriptor; 4],
}

/// Attributes of an operation: its input, weight, output, geometry, and the factors of new and of old values.
type Attributes = [Name; 6];

const FORWARD: Attributes = [
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_X,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_W,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_Y,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_CONV_DESC,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_ALPHA,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_FORWARD_BETA,
];
const INPUT_GRAD: Attributes = [
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DX,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_W,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_DY,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_CONV_DESC,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_ALPHA,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_DATA_BETA,
];
const WEIGHT_GRAD: Attributes = [
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_X,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DW,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_DY,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_CONV_DESC,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_ALPHA,
    Name::CUDNN_ATTR_OPERATION_CONVOLUTION_BWD_FILTER_BETA,
];

impl Operation {
    fn new(api: &Arc<CudnnApi>, c: &Convolution) -> Result<Operation> {
        let s = &c.shape;
        let tensors = [
            tensor(api, TENSORS[0], [s.batch, s.in_h, s.in_w, s.in_ch], &c.input)?,
            tensor(api, TENSORS[1], [s.out_ch, s.ksize_h, s.ksize_w, s.weight_in_ch()], &c.weight)?,
            tensor(api, TENSORS[2], [s.batch, s.out_h, s.out_w, s.out_ch], &c.output)?,
        ];
        let geometry = geometry(api, c)?;
        let (kind, [input, weight, output, geometry_name, alpha, beta]) = match c.pass {
            Pass::Forward => (Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_FORWARD_DESCRIPTOR, FORWARD),
            Pass::InputGrad => (Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_DATA_DESCRIPTOR, INPUT_GRAD),
            Pass::WeightGrad => (Kind::CUDNN_BACKEND_OPERATION_CONVOLUTION_BACKWARD_FILTER_DESCRIPTOR, WEIGHT_GRAD),
        };
        let operation = Descriptor::new(api, kind)?;
        for (name, tensor) in [input, weight, output].into_iter().zip(&tensors) {
            operation.set_objects(name, &[tensor])?;
        }
        operation.set_objects(geometry_name, &[&geometry])?;
        operation.set_float(alpha, 1.0)?;
        operation.set_float(beta, 0.0)?;
        let [input, weight, output] = tensors;
        Ok(Operation { operation: operation.finalize()?, _made_of: [input, weight, output, geometry] })
    }
}

/// A tensor of extent (N,H,W,C) in memory, which the library calls (N,C,H,W), its distances told one by one.
fn tensor(api: &Arc<CudnnApi>, id: i64, extent: [usize; 4], layout: &Layout) -> Result<Descriptor> {
    let [n, h, w, c] = extent.map(|v| v as i64);
    let stride = layout.stride as i64;
    let element = match layout.element {
        Element::F32 => DataType::CUDNN_DATA_FLOAT,
        Element::Bf16 => DataType::CUDNN_DATA_BFLOAT16,
    };
    let tensor = Descriptor::new(api, Kind::CUDNN_BACKEND_TENSOR_DESCRIPTOR)?;
    tensor.set_numbers(Name::CUDNN_ATTR_TENSOR_UNIQUE_ID, &[id])?;
    tensor.set_enum(Name::CUDNN_ATTR_TENSOR_DATA_TYPE, Type::CUDNN_TYPE_DATA_TYPE, element as u32)?;
    tensor.set_numbers(Name::CUDNN_ATTR_TENSOR_BYTE_ALIGNMENT, &[layout.align as i64])?;
    tensor.set_numbers(Name::CUDNN_ATTR_TENSOR_DIMENSIONS, &[n, c, h, w])?;
    tensor.set_numbers(Name::CUDNN_ATTR_TENSOR_STRIDES, &[h * w * stride, 1, w * stride, stride])?;
    tensor.finalize()
}

/// The geometry of a convolution; sums are in f32.
fn geometry(api: &Arc<CudnnApi>, c: &Convolution) -> Result<Descriptor> {
    let twice = |value: usize| [value as i64; 2];
    let geometry = Descriptor::new(api, Kind::CUDNN_BACKEND_CONVOLUTION_DESCRIPTOR)?;
    let (sums, mode) = (DataType::CUDNN_DATA_FLOAT as u32, ConvolutionMode::CUDNN_CROSS_CORRELATION as u32);
    geometry.set_enum(Name::CUDNN_ATTR_CONVOLUTION_COMP_TYPE, Type::CUDNN_TYPE_DATA_TYPE, sums)?;
    geometry.set_enum(Name::CUDNN_ATTR_CONVOLUTION_CONV_MODE, Type::CUDNN_TYPE_CONVOLUTION_MODE, mode)?;
    geometry.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_SPATIAL_DIMS, &[2])?;
    geometry.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_PRE_PADDINGS, &twice(c.shape.pad))?;
    geometry.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_POST_PADDINGS, &twice(c.shape.pad))?;
    geometry.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_DILATIONS, &twice(c.shape.dilation))?;
    geometry.set_numbers(Name::CUDNN_ATTR_CONVOLUTION_FILTER_STRIDES, &twice(c.shape.stride))?;
    geometry.finalize()
}

/// Whether the library takes a description, which needs neither a handle nor a GPU.
#[cfg(test)]
pub(super) fn check_description(api: &Arc<CudnnApi>, convolution: &Convolution) -> Result<()> {
    Operation::new(api, convolution).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_algorithm_is_the_same_after_being_named() {
        assert_eq!(parse("cudnn:38:2=1,12=-4"), Some((38, vec![(2, 1), (12, -4)])));
        assert_eq!(parse("cudnn:0:"), Some((0, vec![])));
        for wrong in ["", "own", "cudnn:", "cudnn:x:", "cudnn:1", "cudnn:1:2", "cudnn:1:2=x", "cublaslt:1:"] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
