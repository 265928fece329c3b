//! What the operations tell a device to do, counted without doing it.
//!
//! Under [`count`] tensors have shapes and no numbers, so that a step of any size is counted in no time
//! and memory. An operation that is not told here what to count fails on them: it is not overlooked.

use std::cell::RefCell;

use candle_core::op::BackpropOp;
use candle_core::{CpuStorage, DType, Result, Shape, Storage, Tensor, bail};
use half::{bf16, f16};

use crate::nn::backend;

/// What a launch is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Convolutions and their gradients, columns and turned kernels included.
    Convolution,
    /// Matrix products of linear layers, and their biases.
    Product,
    /// Attention.
    Attention,
    /// Group and layer norms, with the activation that follows a group norm.
    Norm,
    /// Activations alone.
    Activation,
    /// Sums of residuals and of gradients.
    Sum,
    /// Changes of layout, type and resolution; embeddings.
    Copy,
    /// The loss.
    Loss,
    /// The gradients' norm and the optimiser.
    Optimizer,
}

impl Kind {
    /// All of them, in the order of reports.
    pub const ALL: [Kind; 9] = [
        Kind::Convolution,
        Kind::Product,
        Kind::Attention,
        Kind::Norm,
        Kind::Activation,
        Kind::Sum,
        Kind::Copy,
        Kind::Loss,
        Kind::Optimizer,
    ];

    /// What a table calls it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Convolution => "convolutions",
            Kind::Product => "linear layers",
            Kind::Attention => "attention",
            Kind::Norm => "norms",
            Kind::Activation => "activations",
            Kind::Sum => "sums",
            Kind::Copy => "copies",
            Kind::Loss => "loss",
            Kind::Optimizer => "optimiser",
        }
    }
}

/// Some launches that belong together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launches {
    /// What they are for.
    pub kind: Kind,
    /// How many.
    pub count: usize,
    /// Bytes that they read and write in the device's memory, each operand once a pass over it.
    pub bytes: usize,
    /// Floating-point operations of products; those of other operations are hidden behind the bytes.
    pub flops: usize,
    /// The type of the numbers.
    pub dtype: DType,
}

thread_local! {
    static TALLY: RefCell<Option<Vec<Launches>>> = const { RefCell::new(None) };
}

/// Runs `f` with operations that only count, and says what they counted. Models must be built inside,
/// from [`Shapes`](super::Shapes), and everything run on this thread.
pub fn count<T>(f: impl FnOnce() -> T) -> (T, Vec<Launches>) {
    let outer = TALLY.replace(Some(vec![]));
    let result = backend::reference(f);
    let counted = TALLY.replace(outer).expect("nothing else ends a count");
    (result, counted)
}

/// Whether operations only count.
pub fn counting() -> bool {
    TALLY.with_borrow(Option::is_some)
}

/// A tensor of which nobody may read the numbers.
pub fn hollow(shape: impl Into<Shape>, dtype: DType) -> Result<Tensor> {
    let storage = match dtype {
        DType::F32 => CpuStorage::F32(vec![0.0]),
        DType::F16 => CpuStorage::F16(vec![f16::ZERO]),
        DType::BF16 => CpuStorage::BF16(vec![bf16::ZERO]),
        other => bail!("no count of operations in {other:?}"),
    };
    Ok(Tensor::from_storage(Storage::Cpu(storage), shape.into(), BackpropOp::none(), false))
}

/// An operation on a device: what counts it, and the way to run it.
pub struct Call<'a> {
    kind: Kind,
    reads: &'a [&'a Tensor],
    launches: usize,
    flops: usize,
}

/// One launch that reads `reads` and writes its result.
pub fn call<'a>(kind: Kind, reads: &'a [&'a Tensor]) -> Call<'a> {
    Call { kind, reads, launches: 1, flops: 0 }
}

impl Call<'_> {
    /// So many launches for what counts as one.
    pub fn launches(self, launches: usize) -> Self {
        Call { launches, ..self }
    }

    /// So many multiplications, each with an addition.
    pub fn products(self, products: usize) -> Self {
        Call { flops: 2 * products, ..self }
    }

    /// Runs `f`, which gives a tensor of this shape and type; or counts it.
    pub fn run(
        self,
        shape: impl Into<Shape>,
        dtype: DType,
        f: impl FnOnce() -> Result<Tensor>,
    ) -> Result<Tensor> {
        if !counting() {
            return f();
        }
        let out = hollow(shape, dtype)?;
        self.note(&[&out]);
        Ok(out)
    }

    /// Counts it with these results.
    pub fn note(self, writes: &[&Tensor]) {
        let bytes = |tensors: &[&Tensor]| -> usize {
            tensors.iter().map(|x| x.elem_count() * x.dtype().size_in_bytes()).sum()
        };
        let launches = Launches {
            kind: self.kind,
            count: self.launches,
            bytes: bytes(self.reads) + bytes(writes),
            flops: self.flops,
            dtype: self.reads.first().or(writes.first()).map_or(DType::F32, |x| x.dtype()),
        };
        TALLY.with_borrow_mut(|tally| tally.iter_mut().for_each(|tally| tally.push(launches)));
    }
}

/// The same numbers in one piece: a copy, if they are not.
pub fn contiguous(x: &Tensor) -> Result<Tensor> {
    if x.is_contiguous() {
        return Ok(x.clone());
    }
    call(Kind::Copy, &[x]).run(x.shape(), x.dtype(), || super::copy::in_order(x))
}

/// The same numbers as another type: a copy, if they are of another.
pub fn to_dtype(x: &Tensor, dtype: DType) -> Result<Tensor> {
    if x.dtype() == dtype {
        return Ok(x.clone());
    }
    call(Kind::Copy, &[x]).run(x.shape(), dtype, || x.to_dtype(dtype))
}

/// Zeros, of which a count needs none.
pub fn zeros_like(x: &Tensor) -> Result<Tensor> {
    if counting() { hollow(x.shape(), x.dtype()) } else { x.zeros_like() }
}

/// A map with so many zero rows and columns around, or, where negative, cut off.
pub fn pad_map(x: &Tensor, rows: [isize; 2], columns: [isize; 2]) -> Result<Tensor> {
    let mut x = x.clone();
    for (dim, [before, after]) in [(2, rows), (3, columns)] {
        let cut = |side: isize| (-side).max(0) as usize;
        // in this order: a small map may lose on one side more than it has, zeros of the other with it
        x = pad(&x, dim, before.max(0) as usize, after.max(0) as usize)?;
        let start = cut(before);
        x = x.narrow(dim, start, x.dim(dim)? - start - cut(after))?;
    }
    contiguous(&x)
}

/// With so many zeros before and after along a dimension.
pub fn pad(x: &Tensor, dim: usize, before: usize, after: usize) -> Result<Tensor> {
    let sides = usize::from(before > 0) + usize::from(after > 0);
    if sides == 0 {
        return Ok(x.clone());
    }
    let mut shape = x.dims().to_vec();
    shape[dim] += before + after;
    // zeros for each side, then a copy of each part
    call(Kind::Copy, &[x])
        .launches(2 * sides + 1)
        .run(shape, x.dtype(), || x.pad_with_zeros(dim, before, after)?.contiguous())
}
