//! Reverse-mode differentiation over candle tensors.
//!
//! candle's own graph forms the gradient of every operand of a matrix product or convolution,
//! frozen or not, and keeps every intermediate result until the loss is dropped. Here an operation
//! records only what its gradient needs, only where some input needs one, and frees it as soon as
//! the backward pass has used it.

use std::cell::Cell;
use std::collections::{BinaryHeap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use candle_core::{Result, Tensor, bail};
use rayon::prelude::*;

/// A tensor with the way its gradient flows back, if any.
#[derive(Clone)]
pub struct Var {
    value: Tensor,
    node: Option<Arc<Node>>,
}

type Backward = Box<dyn FnOnce(Tensor, &mut Gradients) -> Result<()> + Send>;

pub(super) struct Node {
    // Ids grow as the graph grows: descending ids are a reverse topological order.
    id: u64,
    inputs: Vec<Arc<Node>>,
    // None: a leaf, whose gradient is kept.
    backward: Mutex<Option<Backward>>,
}

impl Node {
    fn new(inputs: Vec<Arc<Node>>, backward: Option<Backward>) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Node { id, inputs, backward: Mutex::new(backward) })
    }

    pub(super) fn leaf() -> Arc<Self> {
        Node::new(vec![], None)
    }
}

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
    // Whether an operation under `no_grad` had an input that needs a gradient.
    static SKIPPED: Cell<bool> = const { Cell::new(false) };
}

impl Var {
    /// A value that no gradient flows into.
    pub fn constant(value: Tensor) -> Self {
        Var { value, node: None }
    }

    /// A value whose gradient [`Var::backward`] returns.
    pub fn leaf(value: Tensor) -> Self {
        Var { value, node: Some(Node::leaf()) }
    }

    pub(super) fn with_node(value: Tensor, node: Option<Arc<Node>>) -> Self {
        Var { value, node }
    }

    /// The value.
    pub fn value(&self) -> &Tensor {
        &self.value
    }

    /// The value's dimensions.
    pub fn dims(&self) -> &[usize] {
        self.value.dims()
    }

    /// Whether a gradient flows into this value.
    pub fn needs_grad(&self) -> bool {
        self.node.is_some()
    }

    /// The same value, cut off from its history.
    pub fn detach(&self) -> Self {
        Var::constant(self.value.clone())
    }

    /// The result `value` of an operation on `inputs`. `backward` gets the gradient of the result
    /// and a [`Flow`] that says which inputs need theirs and takes them. It is dropped at once, with
    /// all that it holds, if no input needs a gradient.
    pub fn record<'a>(
        value: Tensor,
        inputs: impl IntoIterator<Item = &'a Var>,
        backward: impl FnOnce(Tensor, &mut Flow) -> Result<()> + Send + 'static,
    ) -> Self {
        let targets: Vec<_> = inputs.into_iter().map(|v| v.node.clone()).collect();
        if targets.iter().all(Option::is_none) {
            return Var::constant(value);
        }
        if !RECORDING.get() {
            SKIPPED.set(true);
            return Var::constant(value);
        }
        let inputs = targets.iter().flatten().cloned().collect();
        let backward: Backward = Box::new(move |grad, gradients| {
            backward(grad, &mut Flow { targets: &targets, gradients })
        });
        Var { value, node: Some(Node::new(inputs, Some(backward))) }
    }

    /// The gradients of the leaves behind this scalar, each scaled by `seed`.
    ///
    /// Consumes the graph: what an operation kept is freed once its gradient has been formed.
    pub fn backward(self, seed: f64) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        let dtype = self.value.dtype();
        let seed = Tensor::full(seed as f32, self.value.shape(), self.value.device())?;
        self.backward_from(seed.to_dtype(dtype)?, &mut gradients)?;
        Ok(gradients)
    }

    fn backward_from(self, grad: Tensor, gradients: &mut Gradients) -> Result<()> {
        let Some(node) = self.node else { return Ok(()) };
        drop(self.value);
        gradients.add(&node, grad)?;
        let mut heap = BinaryHeap::from([Pending(node)]);
        while let Some(Pending(node)) = heap.pop() {
            // A node is pushed once for each use; its gradient is complete at the first pop.
            while heap.peek().is_some_and(|next| next.0.id == node.id) {
                heap.pop();
            }
            let backward = node.backward.lock().expect("no panic holds this lock").take();
            if let Some(backward) = backward {
                if let Some(grad) = gradients.0.remove(&node.id) {
                    backward(grad, gradients)?;
                }
                heap.extend(node.inputs.iter().cloned().map(Pending));
            } else if !node.inputs.is_empty() {
                bail!("the graph behind this value has already been used by a backward pass");
            }
        }
        Ok(())
    }
}

struct Pending(Arc<Node>);

impl PartialEq for Pending {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}
impl Eq for Pending {}
impl PartialOrd for Pending {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Pending {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.id.cmp(&other.0.id)
    }
}

/// Where an operation's backward pass delivers the gradients of its inputs.
pub struct Flow<'a> {
    targets: &'a [Option<Arc<Node>>],
    gradients: &'a mut Gradients,
}

impl Flow<'_> {
    /// Whether input `i` needs its gradient.
    pub fn needs(&self, i: usize) -> bool {
        self.targets[i].is_some()
    }

    /// Adds to the gradient of input `i`; ignored if it needs none.
    pub fn add(&mut self, i: usize, grad: Tensor) -> Result<()> {
        match &self.targets[i] {
            Some(node) => self.gradients.add(node, grad),
            None => Ok(()),
        }
    }

    /// As [`Flow::add`], where the gradient is formed only if it is needed.
    pub fn add_with(&mut self, i: usize, grad: impl FnOnce() -> Result<Tensor>) -> Result<()> {
        match &self.targets[i] {
            Some(node) => self.gradients.add(node, grad()?),
            None => Ok(()),
        }
    }
}

/// Gradients by leaf.
#[derive(Default)]
pub struct Gradients(HashMap<u64, Tensor>);

impl Gradients {
    fn add(&mut self, node: &Node, grad: Tensor) -> Result<()> {
        let sum = match self.0.remove(&node.id) {
            Some(sum) => super::ops::basic::sum(&sum, &grad)?,
            None => grad,
        };
        self.0.insert(node.id, sum);
        Ok(())
    }

    /// The gradient of a leaf; none if it had no part in the result.
    pub fn get(&self, leaf: &Var) -> Option<&Tensor> {
        self.0.get(&leaf.node.as_ref()?.id)
    }

    pub(super) fn of_node(&self, node: &Node) -> Option<&Tensor> {
        self.0.get(&node.id)
    }

    /// Adds the gradients of another pass over the same leaves.
    pub fn merge(&mut self, other: Gradients) -> Result<()> {
        let add = |(id, grad): (u64, Tensor)| match self.0.get(&id) {
            Some(sum) => Ok((id, super::ops::basic::sum(sum, &grad)?)),
            None => Ok((id, grad)),
        };
        // The mode, and what is counted, are this thread's.
        let sums: Vec<(u64, Tensor)> = if super::backend::reference_mode() {
            other.0.into_iter().map(add).collect::<Result<_>>()?
        } else {
            other.0.into_par_iter().map(add).collect::<Result<_>>()?
        };
        self.0.extend(sums);
        Ok(())
    }
}

struct Restore(&'static std::thread::LocalKey<Cell<bool>>, bool);

impl Drop for Restore {
    fn drop(&mut self) {
        self.0.set(self.1);
    }
}

/// Runs `f` without recording: results are constants.
pub fn no_grad<T>(f: impl FnOnce() -> T) -> T {
    let _restore = Restore(&RECORDING, RECORDING.replace(false));
    f()
}

/// Runs `f` keeping only its inputs and output; the backward pass runs it again for the rest.
///
/// Gradients flow into `inputs` and into every leaf that `f` uses, so `f` must compute the same each
/// time. Trades one more forward pass for the memory of the intermediate results (Chen et al. 2016,
/// arXiv:1604.06174).
pub fn checkpoint(
    inputs: &[&Var],
    f: impl Fn(&[Var]) -> Result<Var> + Send + 'static,
) -> Result<Var> {
    let values: Vec<Tensor> = inputs.iter().map(|v| v.value.clone()).collect();
    let (out, uses_leaves) = {
        let _skipped = Restore(&SKIPPED, SKIPPED.replace(false));
        let constants: Vec<Var> = values.iter().cloned().map(Var::constant).collect();
        let out = no_grad(|| f(&constants))?;
        (out.value, SKIPPED.get())
    };
    let needs: Vec<bool> = inputs.iter().map(|v| v.needs_grad()).collect();
    if !uses_leaves && !needs.contains(&true) {
        return Ok(Var::constant(out));
    }
    if !RECORDING.get() {
        SKIPPED.set(true);
        return Ok(Var::constant(out));
    }
    let targets: Vec<_> = inputs.iter().map(|v| v.node.clone()).collect();
    let nodes: Vec<_> = targets.iter().flatten().cloned().collect();
    let backward: Backward = Box::new(move |grad, gradients| {
        let again: Vec<Var> = values
            .into_iter()
            .zip(&needs)
            .map(|(value, needs)| if *needs { Var::leaf(value) } else { Var::constant(value) })
            .collect();
        let mut inner = Gradients::default();
        f(&again)?.backward_from(grad, &mut inner)?;
        for (target, input) in targets.iter().zip(&again) {
            if let (Some(target), Some(leaf)) = (target, &input.node)
                && let Some(grad) = inner.0.remove(&leaf.id)
            {
                gradients.add(target, grad)?;
            }
        }
        gradients.merge(inner)
    });
    // With no input that needs a gradient the node still must not look like a leaf.
    let nodes = if nodes.is_empty() { vec![Node::leaf()] } else { nodes };
    Ok(Var { value: out, node: Some(Node::new(nodes, Some(backward))) })
}

#[cfg(test)]
mod tests {
    use candle_core::Device;

    use super::*;
    use crate::nn::{Param, ops};

    fn tensor(values: &[f32]) -> Tensor {
        Tensor::new(values, &Device::Cpu).unwrap()
    }

    fn values(x: &Tensor) -> Vec<f32> {
        x.to_vec1().unwrap()
    }

    /// Σ over the elements, as a value with history.
    fn sum(x: &Var) -> Var {
        ops::composed([x], |[x]| x.sum_all()).unwrap()
    }

    #[test]
    fn gradients_add_up_over_uses() {
        let x = Var::leaf(tensor(&[1.0, 2.0, 3.0]));
        let square = ops::mul(&x, &x).unwrap();
        let y = ops::add(&ops::mul(&square, &x).unwrap(), &x).unwrap(); // x³ + x
        let grads = sum(&y).backward(2.0).unwrap();
        assert_eq!(values(grads.get(&x).unwrap()), [8.0, 26.0, 56.0]);
    }

    #[test]
    fn constants_record_nothing() {
        let x = Var::constant(tensor(&[1.0]));
        let y = Var::record(x.value().clone(), [&x], |_, _| panic!("never called"));
        assert!(!y.needs_grad());
        let leaf = Var::leaf(tensor(&[1.0]));
        assert!(!no_grad(|| ops::mul(&leaf, &leaf)).unwrap().needs_grad());
    }

    #[test]
    fn a_graph_can_be_used_once() {
        let x = Var::leaf(tensor(&[1.0]));
        let y = sum(&ops::mul(&x, &x).unwrap());
        y.clone().backward(1.0).unwrap();
        let again = y.backward(1.0).map(|_| ()).unwrap_err().to_string();
        assert!(again.contains("already been used"), "{again}");
    }

    #[test]
    fn checkpoint_changes_no_gradient() {
        let param = Param::new("w", &tensor(&[0.5, -1.5]), candle_core::DType::F32).unwrap();
        param.set_trainable(true).unwrap();
        let run = |checkpointed: bool| {
            let x = Var::leaf(tensor(&[2.0, 3.0]));
            let w = param.clone();
            let f = move |inputs: &[Var]| {
                let y = ops::mul(&inputs[0], &w.var()?)?;
                ops::mul(&y, &y)
            };
            let y = if checkpointed {
                let inner = f.clone();
                // one inside another, as a block inside a checkpointed stage
                checkpoint(&[&x], move |i| checkpoint(&[&i[0]], inner.clone()))
            } else {
                f(std::slice::from_ref(&x))
            };
            let grads = sum(&y.unwrap()).backward(1.0).unwrap();
            (values(grads.get(&x).unwrap()), values(param.grad(&grads).unwrap()))
        };
        assert_eq!(run(true), run(false));
    }

    #[test]
    fn checkpoint_reaches_parameters_behind_a_constant_input() {
        let param = Param::new("w", &tensor(&[3.0]), candle_core::DType::F32).unwrap();
        let forward = || {
            let w = param.clone();
            checkpoint(&[&Var::constant(tensor(&[2.0]))], move |x| ops::mul(&x[0], &w.var()?))
                .unwrap()
        };
        assert!(!forward().needs_grad(), "frozen");
        param.set_trainable(true).unwrap();
        let grads = sum(&forward()).backward(1.0).unwrap();
        assert_eq!(values(param.grad(&grads).unwrap()), [2.0]);
    }
}
