use candle_core::{Result, Tensor};

use crate::nn::Var;

/// Any function of candle operations, differentiated by candle.
///
/// The backward pass runs `f` again, so this suits cheap functions (losses) and those with no kernel.
/// `f` must not use candle's fused operations, which cut gradients silently (`softmax_last_dim`,
/// `layer_norm`, …), nor anything random.
pub fn composed<const N: usize>(
    inputs: [&Var; N],
    f: impl Fn(&[Tensor; N]) -> Result<Tensor> + Send + 'static,
) -> Result<Var> {
    let values = inputs.map(|v| v.value().clone());
    let out = f(&values)?;
    Ok(Var::record(out, inputs, move |grad, flow| {
        let mut tracked = values.clone();
        let mut leaves = Vec::with_capacity(N);
        for (i, value) in tracked.iter_mut().enumerate() {
            if flow.needs(i) {
                let leaf = candle_core::Var::from_tensor(value)?;
                *value = leaf.as_tensor().clone();
                leaves.push((i, leaf));
            }
        }
        let product = f(&tracked)?.mul(&grad)?.sum_all()?;
        let gradients = product.backward()?;
        for (i, leaf) in leaves {
            if let Some(grad) = gradients.get(&leaf) {
                flow.add(i, grad.clone())?;
            }
        }
        Ok(())
    }))
}
