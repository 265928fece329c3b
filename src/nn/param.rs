//! Parameters: named tensors that a model is built from, each frozen or trainable.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, RwLock};

use candle_core::{DType, Device, Result, Tensor, bail};

use super::autograd::{Gradients, Node, Var};
use super::kernels::buffer::slice;
use super::kernels::conv::Prepared;
use super::kernels::gemm::Mat;
use super::kernels::load;
use super::{backend, device};
use crate::rng::Rng;

/// A named tensor of a model. Clones share the value.
#[derive(Clone)]
pub struct Param(Arc<Inner>);

struct Inner {
    name: String,
    shape: Vec<usize>,
    kind: Kind,
    compute: DType,
    leaf: Arc<Node>,
    // Whether someone else may hold the value's storage and count on it not changing.
    shared: AtomicBool,
    state: RwLock<State>,
}

struct State {
    value: Tensor,
    trainable: bool,
    // What kernels have asked to be made of the value.
    derived: Vec<(Derived, Arc<Vec<f32>>)>,
    // Of a convolution's kernel that is frozen: the one whose convolution is the input's gradient.
    turned: Option<Tensor>,
}

/// Another form of a value, which a kernel can work with better.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Derived {
    /// Of a matrix.
    Transposed,
    /// Of a convolution's kernel.
    Kernel(Prepared),
}

impl Derived {
    /// Computes it on this thread alone: whoever holds the parameter's lock must not be lent other work
    /// meanwhile.
    fn of(self, value: &Tensor) -> Result<Arc<Vec<f32>>> {
        let values = slice(value)?;
        Ok(Arc::new(match self {
            Derived::Transposed => {
                let (rows, cols) = value.dims2()?;
                Mat::new(&values, rows, cols).t().to_rows_here()
            }
            Derived::Kernel(form) => {
                let (_, _, inputs, outputs) = value.dims4()?;
                form.of(inputs, outputs, &values)
            }
        }))
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Plain,
    // A convolution's kernel, kept as [height, width, in, out] where the CPU kernels run: the rows of
    // the matrix that unrolled pixels are multiplied with. Files have [out, in, height, width].
    ChannelsLastKernel,
}

impl Param {
    /// A frozen parameter with `value` as files have it.
    ///
    /// # Errors
    /// Only candle's, when the value cannot be converted or moved.
    pub fn new(name: impl Into<String>, value: &Tensor, compute: DType) -> Result<Self> {
        let keeping = Keeping::new(value.device(), compute, value.rank());
        Ok(Param::kept(name.into(), value.dims(), &keeping, keeping.keep(value)?))
    }

    /// A frozen parameter of this shape in files, with `value` as `keeping` keeps it.
    fn kept(name: String, shape: &[usize], keeping: &Keeping, value: Tensor) -> Self {
        Param(Arc::new(Inner {
            name,
            shape: shape.to_vec(),
            kind: keeping.kind,
            compute: keeping.dtype,
            leaf: Node::leaf(),
            shared: AtomicBool::new(true),
            state: RwLock::new(State { value, trainable: false, derived: vec![], turned: None }),
        }))
    }

    /// The name, as in the file that the model was read from.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// The dimensions, as in the file.
    pub fn shape(&self) -> &[usize] {
        &self.0.shape
    }

    /// How many numbers it holds.
    pub fn elem_count(&self) -> usize {
        self.0.shape.iter().product()
    }

    /// The value as it is kept, which for a convolution's kernel may differ from the file's order of
    /// dimensions; f32 if trainable. For optimisers, to which order means nothing.
    pub fn value(&self) -> Tensor {
        let state = self.read();
        self.0.shared.store(true, Ordering::Relaxed);
        state.value.clone()
    }

    /// Calls `f` with the value as it is kept; `f` must not let it out.
    pub(crate) fn with_value<R>(&self, f: impl FnOnce(&Tensor) -> R) -> R {
        f(&self.read().value)
    }

    /// Whether `other` is a clone of this parameter.
    pub fn is(&self, other: &Param) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Replaces the value, given as it is kept.
    ///
    /// # Panics
    /// If the shape differs.
    pub fn set_value(&self, value: Tensor) {
        let mut state = self.write();
        assert_eq!(state.value.shape(), value.shape(), "{}", self.0.name);
        self.0.shared.store(true, Ordering::Relaxed);
        state.value = value;
        state.derived.clear();
        state.turned = None;
    }

    /// Changes the value where it lies: `f` gets it as it is kept, to write to. Tensors that
    /// [`Param::value`] or [`Param::to_file`] handed out do not change; those of [`Param::var`] do,
    /// so no graph may be waiting for its backward pass.
    pub fn update_in_place(&self, f: impl FnOnce(&Tensor) -> Result<()>) -> Result<()> {
        let mut state = self.write();
        if self.0.shared.load(Ordering::Relaxed) {
            state.value = state.value.copy()?;
            self.0.shared.store(false, Ordering::Relaxed);
        }
        f(&state.value)?;
        state.turned = None;
        // At once, while the value is in the cache and other threads update other parameters: the next
        // forward pass would have all of them wait for it.
        let State { value, derived, .. } = &mut *state;
        for (form, derived) in derived {
            *derived = form.of(value)?;
        }
        Ok(())
    }

    /// The value as files have it.
    pub fn to_file(&self) -> Result<Tensor> {
        self.file_order(&self.value())
    }

    /// A tensor laid out as the value is kept (a gradient, an optimiser's moment), in the file's order
    /// of dimensions.
    pub fn file_order(&self, kept: &Tensor) -> Result<Tensor> {
        self.0.kind.to_file(kept)
    }

    /// The inverse of [`Param::file_order`].
    pub fn kept_order(&self, file: &Tensor) -> Result<Tensor> {
        self.0.kind.kept_from_file(file)
    }

    /// Replaces the value by one as files have it, of the same shape.
    pub fn set_from_file(&self, value: &Tensor) -> Result<()> {
        let dtype = self.read().value.dtype();
        self.set_value(self.0.kind.kept_from_file(&value.to_dtype(dtype)?)?);
        Ok(())
    }

    /// This parameter's gradient in the file's order of dimensions, if it has one.
    pub fn grad_to_file(&self, gradients: &Gradients) -> Result<Option<Tensor>> {
        self.grad(gradients).map(|g| self.0.kind.to_file(g)).transpose()
    }

    /// This parameter's gradient, laid out as the value is kept.
    pub fn grad<'a>(&self, gradients: &'a Gradients) -> Option<&'a Tensor> {
        gradients.of_node(&self.0.leaf)
    }

    /// Whether gradients are formed for it.
    pub fn trainable(&self) -> bool {
        self.read().trainable
    }

    /// Freezes or releases it. A trainable parameter is kept in f32, whatever the compute type.
    pub fn set_trainable(&self, trainable: bool) -> Result<()> {
        let mut state = self.write();
        let dtype = if trainable { DType::F32 } else { self.0.compute };
        state.value = device::to_dtype(&state.value, dtype)?;
        state.trainable = trainable;
        state.turned = None;
        Ok(())
    }

    /// The value for use in a forward pass, in the compute type.
    pub fn var(&self) -> Result<Var> {
        let state = self.read();
        if !state.trainable {
            return Ok(Var::constant(state.value.clone()));
        }
        let leaf = Var::with_node(state.value.clone(), Some(self.0.leaf.clone()));
        super::ops::to_dtype(&leaf, self.0.compute)
    }

    /// Another form of the value, computed when the value has changed.
    pub(super) fn derived(&self, form: Derived) -> Result<Arc<Vec<f32>>> {
        let find = |state: &State| {
            state.derived.iter().find(|(f, _)| *f == form).map(|(_, values)| values.clone())
        };
        if let Some(derived) = find(&self.read()) {
            return Ok(derived);
        }
        let mut state = self.write();
        if let Some(derived) = find(&state) {
            return Ok(derived);
        }
        let derived = form.of(&state.value)?;
        state.derived.push((form, derived.clone()));
        Ok(derived)
    }

    /// A frozen convolution's kernel turned round, made by `turn` where it is not at hand.
    pub(super) fn turned(&self, turn: impl FnOnce() -> Result<Tensor>) -> Result<Tensor> {
        if let Some(turned) = &self.read().turned {
            return Ok(turned.clone());
        }
        let turned = turn()?;
        self.write().turned = Some(turned.clone());
        Ok(turned)
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, State> {
        self.0.state.read().expect("no panic holds this lock")
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, State> {
        self.0.state.write().expect("no panic holds this lock")
    }
}

impl Kind {
    fn kept_from_file(self, value: &Tensor) -> Result<Tensor> {
        match self {
            Kind::Plain => value.contiguous(),
            Kind::ChannelsLastKernel => value.permute((2, 3, 1, 0))?.contiguous(),
        }
    }

    fn kept_shape(self, file: &[usize]) -> Vec<usize> {
        match (self, file) {
            (Kind::ChannelsLastKernel, &[out, inputs, height, width]) => {
                vec![height, width, inputs, out]
            }
            _ => file.to_vec(),
        }
    }

    fn to_file(self, value: &Tensor) -> Result<Tensor> {
        match self {
            Kind::Plain => Ok(value.clone()),
            Kind::ChannelsLastKernel => value.permute((3, 2, 0, 1))?.contiguous(),
        }
    }
}

/// How a value is kept: on which device, in which type, and in which order of dimensions.
pub struct Keeping {
    device: Device,
    dtype: DType,
    kind: Kind,
}

impl Keeping {
    /// Of a parameter of `rank` dimensions that takes part in forward passes as `compute`.
    fn new(device: &Device, compute: DType, rank: usize) -> Self {
        let kind = match rank == 4 && backend::has_kernels(device, compute) {
            true => Kind::ChannelsLastKernel,
            false => Kind::Plain,
        };
        Keeping { device: device.clone(), dtype: compute, kind }
    }

    /// In f32 on the CPU, as files have it.
    pub fn file() -> Self {
        Keeping { device: Device::Cpu, dtype: DType::F32, kind: Kind::Plain }
    }

    /// Keeps a tensor as files have it.
    fn keep(&self, file: &Tensor) -> Result<Tensor> {
        self.kind.kept_from_file(&device::to_dtype(&file.to_device(&self.device)?, self.dtype)?)
    }

    /// Keeps a tensor of this shape, given as a file's little-endian numbers of a float type, on all threads
    /// and without a copy in between; none if a number is not finite.
    ///
    /// # Errors
    /// Numbers of another type, more or fewer of them; candle's.
    pub fn keep_bytes(
        &self,
        bytes: &[u8],
        dtype: DType,
        shape: &[usize],
    ) -> Result<Option<Tensor>> {
        let numbers: usize = shape.iter().product();
        let known = matches!(dtype, DType::F16 | DType::BF16 | DType::F32 | DType::F64);
        if !known || bytes.len() != numbers * dtype.size_in_bytes() {
            bail!("{} bytes of {dtype:?} are no tensor {shape:?}", bytes.len());
        }
        let values = match (self.kind, shape) {
            // a device converts faster than the CPU, and half precision is half as much to move
            _ if !self.device.is_cpu() && dtype != DType::F64 => {
                if !load::finite(bytes, dtype) {
                    return Ok(None);
                }
                let there = Tensor::from_raw_buffer(bytes, dtype, shape, &self.device)?;
                return Ok(Some(there.to_dtype(self.dtype)?));
            }
            (Kind::ChannelsLastKernel, &[outputs, inputs, height, width]) => {
                load::turned(bytes, dtype, [outputs, inputs, height * width])
            }
            _ => load::dense(bytes, dtype),
        };
        let Some(values) = values else { return Ok(None) };
        let shape = self.kind.kept_shape(shape);
        let tensor = Tensor::from_vec(values, shape, &Device::Cpu)?;
        Ok(Some(tensor.to_dtype(self.dtype)?.to_device(&self.device)?))
    }
}

/// How a parameter starts where there is no file to read it from.
#[derive(Clone, Copy, Debug)]
pub enum Init {
    /// Uniform in ±1/√fan_in, PyTorch's default for linear layers and convolutions.
    FanIn(usize),
    /// Normal with this standard deviation.
    Normal(f32),
    /// All the same.
    Constant(f32),
}

/// Where a model's parameters come from: a file, or a seeded generator.
pub trait Source: Send {
    /// The value of the parameter `name`, f32 on the CPU.
    fn tensor(&mut self, name: &str, shape: &[usize], init: Init) -> crate::Result<Tensor>;

    /// The same, as `keeping` keeps it.
    fn placed(
        &mut self,
        name: &str,
        shape: &[usize],
        init: Init,
        keeping: &Keeping,
    ) -> crate::Result<Tensor> {
        Ok(keeping.keep(&self.tensor(name, shape, init)?)?)
    }
}

/// Random parameters. Each depends on the seed and its name only.
pub struct RandomSource {
    /// The seed.
    pub seed: u64,
}

impl Source for RandomSource {
    fn tensor(&mut self, name: &str, shape: &[usize], init: Init) -> crate::Result<Tensor> {
        let mut rng = Rng::new(self.seed, name);
        let count = shape.iter().product();
        let values: Vec<f32> = match init {
            Init::Constant(c) => vec![c; count],
            Init::FanIn(fan_in) => {
                let bound = 1.0 / (fan_in.max(1) as f32).sqrt();
                (0..count).map(|_| rng.uniform(-bound, bound)).collect()
            }
            Init::Normal(std) => {
                let unit = rng.normal(shape, &Device::Cpu)?;
                return Ok((unit * f64::from(std))?);
            }
        };
        Ok(Tensor::from_vec(values, shape, &Device::Cpu)?)
    }
}

/// Builds a model's layers: hands out parameters by name and remembers them in order.
#[derive(Clone)]
pub struct Builder {
    shared: Arc<Mutex<Shared>>,
    prefix: String,
    device: Device,
    compute: DType,
}

struct Shared {
    source: Box<dyn Source>,
    params: Vec<Param>,
}

impl Builder {
    /// A builder at the root of `source`'s names. Parameters live on `device` and take part in forward
    /// passes as `compute`.
    pub fn new(source: impl Source + 'static, device: &Device, compute: DType) -> Self {
        Builder {
            shared: Arc::new(Mutex::new(Shared { source: Box::new(source), params: vec![] })),
            prefix: String::new(),
            device: device.clone(),
            compute,
        }
    }

    /// The builder one level down: names start with `name` and a dot.
    pub fn at(&self, name: impl std::fmt::Display) -> Self {
        Builder { prefix: format!("{}{name}.", self.prefix), ..self.clone() }
    }

    /// The same level, for parameters that take part in forward passes as `compute`.
    pub fn computing_in(&self, compute: DType) -> Self {
        Builder { compute, ..self.clone() }
    }

    /// The parameter `name` at this level.
    ///
    /// # Errors
    /// The source's: a missing or misshapen tensor.
    pub fn param(&self, name: &str, shape: &[usize], init: Init) -> crate::Result<Param> {
        let name = format!("{}{name}", self.prefix);
        let mut shared = self.shared.lock().expect("no panic holds this lock");
        let keeping = Keeping::new(&self.device, self.compute, shape.len());
        let value = shared.source.placed(&name, shape, init, &keeping)?;
        let param = Param::kept(name, shape, &keeping, value);
        shared.params.push(param.clone());
        Ok(param)
    }

    /// All parameters handed out so far, in order.
    pub fn params(&self) -> Vec<Param> {
        self.shared.lock().expect("no panic holds this lock").params.clone()
    }

    /// Where the parameters live.
    pub fn device(&self) -> &Device {
        &self.device
    }

    /// The type that forward passes compute in.
    pub fn compute_dtype(&self) -> DType {
        self.compute
    }
}
