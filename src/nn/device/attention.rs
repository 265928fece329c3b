use candle_core::{DType, Result, Tensor};

#[cfg(feature = "cuda")]
use super::cuda;
use super::gpu::tensor_cores;
use super::{Kind, call, counting, hollow};

/// Attention whose scores never leave the chip, in half precision with sums in f32 (Dao 2023,
/// FlashAttention-2). It has no composition of candle's operations beside it: what is computed elsewhere is
/// [`attention`](crate::nn::ops::attention)'s own, which is what it is to agree with.
#[derive(Clone, Copy)]
#[cfg_attr(not(feature = "cuda"), expect(dead_code, reason = "a count asks for less"))]
pub struct OnChip {
    pub heads: usize,
    /// Numbers of a head.
    pub d: usize,
    /// How many the kernel multiplies for them.
    pub padded: usize,
    pub causal: bool,
}

impl OnChip {
    /// If there is a kernel for these queries [batch, n, heads · d] where they are: on a GPU with
    /// [`tensor_cores`], or one that is counted.
    pub fn of(q: &Tensor, heads: usize, causal: bool) -> Option<Self> {
        let d = q.dims().last()? / heads;
        let padded = Self::width(q.dtype(), d)?;
        /// Heads of all images, of which each has a row of the grid.
        const MOST: usize = (1 << 16) - 1;
        let there = counting() || tensor_cores(q.device());
        (there && q.dims()[0] * heads <= MOST).then_some(OnChip { heads, d, padded, causal })
    }

    /// How many numbers the kernel multiplies for heads of `d`, if there is one: in half precision, for no
    /// more than 80 numbers, a multiple of 8.
    pub fn width(dtype: DType, d: usize) -> Option<usize> {
        /// Those that are compiled.
        const WIDTHS: [usize; 4] = [32, 48, 64, 80];
        let fits = matches!(dtype, DType::F16 | DType::BF16) && d.is_multiple_of(8);
        WIDTHS.into_iter().find(|&width| fits && width >= d)
    }

    /// The result [batch, n, heads · d], and what [`backward`](Self::backward) asks for besides.
    pub fn forward(self, q: &Tensor, k: &Tensor, v: &Tensor) -> Result<[Tensor; 2]> {
        if counting() {
            let out = hollow(q.shape(), q.dtype())?;
            let (batch, n, _) = q.dims3()?;
            let log_sums = hollow((batch, self.heads, n), DType::F32)?;
            let products = 2 * self.products(q, k)?;
            call(Kind::Attention, &[q, k, v]).products(products).note(&[&out, &log_sums]);
            return Ok([out, log_sums]);
        }
        #[cfg(feature = "cuda")]
        return cuda::attention(q, k, v, self);
        #[cfg(not(feature = "cuda"))]
        unreachable!("there is no such kernel");
    }

    /// The gradients of queries, keys and values, of which those of keys and values are made together. `out`
    /// is what [`forward`](Self::forward) gave, `needs` says whether queries and whether keys or values
    /// have a gradient.
    pub fn backward(
        self,
        operands: [&Tensor; 3],
        out: [&Tensor; 2],
        grad: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 3]> {
        if counting() {
            return self.count_backward(operands, out, grad, needs);
        }
        #[cfg(feature = "cuda")]
        return cuda::attention_backward(operands, out, grad, self, needs);
        #[cfg(not(feature = "cuda"))]
        unreachable!("there is no such kernel");
    }

    fn count_backward(
        self,
        [q, k, v]: [&Tensor; 3],
        [out, log_sums]: [&Tensor; 2],
        grad: &Tensor,
        needs: [bool; 2],
    ) -> Result<[Option<Tensor>; 3]> {
        let along = hollow(log_sums.shape(), DType::F32)?;
        call(Kind::Attention, &[out, grad]).note(&[&along]);
        let reads = [q, k, v, grad, log_sums, &along];
        // each kernel forms the scores and the probabilities' gradients anew
        let count = |products: usize, results: &[&Tensor]| -> Result<Vec<Option<Tensor>>> {
            let products = products * self.products(q, k)?;
            let results: Vec<Tensor> =
                results.iter().map(|x| hollow(x.shape(), x.dtype())).collect::<Result<_>>()?;
            let writes: Vec<&Tensor> = results.iter().collect();
            call(Kind::Attention, &reads).products(products).note(&writes);
            Ok(results.into_iter().map(Some).collect())
        };
        let mut gradients = [None, None, None];
        if needs[0] {
            gradients[..1].clone_from_slice(&count(3, &[q])?);
        }
        if needs[1] {
            gradients[1..].clone_from_slice(&count(4, &[k, v])?);
        }
        Ok(gradients)
    }

    /// Multiplications of one product of queries and keys.
    fn products(self, q: &Tensor, k: &Tensor) -> Result<usize> {
        let (batch, n, _) = q.dims3()?;
        Ok(batch * self.heads * n * k.dim(1)? * self.padded)
    }
}
