//! A graph under construction, and how it becomes a file.

use std::path::Path;

use candle_core::Tensor;
use prost::Message;

use super::proto::*;
use crate::diffusion::weights::Weights;
use crate::{Error, Result, safefile};

/// The operators' version: the first with LayerNormalization.
pub(super) const OPSET: i64 = 17;

/// protobuf's limit for one message.
const MAX_BYTES: usize = i32::MAX as usize;

/// A dimension: a number, or a name for what is known only when the graph runs.
pub(super) enum Dim {
    Is(usize),
    Any(&'static str),
}

/// The name of a value in the graph.
pub(super) type Value = String;

/// A graph whose weights are named, not loaded.
pub(super) struct Graph {
    name: &'static str,
    nodes: Vec<NodeProto>,
    inputs: Vec<ValueInfoProto>,
    outputs: Vec<ValueInfoProto>,
    constants: Vec<TensorProto>,
    weights: Vec<Weight>,
}

/// A tensor of the checkpoint, as the graph wants it.
pub(super) struct Weight {
    /// Its key in the checkpoint, and its name in the graph.
    pub(super) key: String,
    /// In the checkpoint.
    pub(super) shape: Vec<usize>,
    transposed: bool,
    scale: f64,
}

impl Weight {
    fn load(&self, weights: &Weights) -> Result<TensorProto> {
        let mut tensor = weights.tensor(&self.key, &self.shape)?;
        if self.transposed {
            tensor = tensor.t()?;
        }
        if self.scale != 1.0 {
            tensor = (tensor * self.scale)?;
        }
        Ok(TensorProto {
            dims: tensor.dims().iter().map(|&d| d as i64).collect(),
            data_type: Some(FLOAT),
            name: Some(self.key.clone()),
            raw_data: Some(bytes(&tensor)?),
        })
    }
}

/// Little-endian, row by row.
pub(super) fn bytes(tensor: &Tensor) -> Result<Vec<u8>> {
    let values: Vec<f32> = tensor.contiguous()?.flatten_all()?.to_vec1()?;
    Ok(values.iter().flat_map(|x| x.to_le_bytes()).collect())
}

/// What an operator's attribute holds.
pub(super) enum Attribute<'a> {
    Int(i64),
    Float(f32),
    Ints(&'a [i64]),
}

impl Graph {
    pub(super) fn new(name: &'static str) -> Self {
        Graph {
            name,
            nodes: Vec::new(),
            inputs: Vec::new(),
            outputs: Vec::new(),
            constants: Vec::new(),
            weights: Vec::new(),
        }
    }

    pub(super) fn weights(&self) -> &[Weight] {
        &self.weights
    }

    pub(super) fn input(&mut self, name: &str, element: i32, shape: &[Dim]) -> Value {
        self.inputs.push(described(name, element, shape));
        name.into()
    }

    /// Gives `value` out under `name`.
    pub(super) fn output(&mut self, name: &str, value: &Value, shape: &[Dim]) {
        self.outputs.push(described(name, FLOAT, shape));
        for node in &mut self.nodes {
            let ends = node.output.iter_mut().chain(&mut node.input);
            ends.filter(|end| *end == value).for_each(|end| *end = name.into());
        }
    }

    /// A node with one output.
    pub(super) fn node(
        &mut self,
        op: &str,
        inputs: &[&Value],
        attributes: &[(&str, Attribute)],
    ) -> Value {
        let name = format!("{op}_{}", self.nodes.len());
        let attribute = attributes.iter().map(|(name, value)| {
            let mut attribute = AttributeProto { name: Some((*name).into()), ..Default::default() };
            let kind = match value {
                Attribute::Int(i) => {
                    attribute.i = Some(*i);
                    ATTRIBUTE_INT
                }
                Attribute::Float(f) => {
                    attribute.f = Some(*f);
                    ATTRIBUTE_FLOAT
                }
                Attribute::Ints(ints) => {
                    attribute.ints = ints.to_vec();
                    ATTRIBUTE_INTS
                }
            };
            attribute.kind = Some(kind);
            attribute
        });
        self.nodes.push(NodeProto {
            input: inputs.iter().map(|i| (*i).clone()).collect(),
            output: vec![name.clone()],
            name: Some(name.clone()),
            op_type: Some(op.into()),
            attribute: attribute.collect(),
        });
        name
    }

    /// The checkpoint's tensor `key`.
    pub(super) fn weight(&mut self, key: &str, shape: &[usize]) -> Value {
        self.add_weight(key, shape, false, 1.0)
    }

    fn add_weight(&mut self, key: &str, shape: &[usize], transposed: bool, scale: f64) -> Value {
        self.weights.push(Weight { key: key.into(), shape: shape.to_vec(), transposed, scale });
        key.into()
    }

    /// `scale · (x·Wᵀ + b)` with the checkpoint's `key.weight` [outputs, inputs] and, if asked for,
    /// `key.bias`.
    pub(super) fn linear(
        &mut self,
        key: &str,
        x: &Value,
        [inputs, outputs]: [usize; 2],
        bias: bool,
        scale: f64,
    ) -> Value {
        let weight = self.add_weight(&format!("{key}.weight"), &[outputs, inputs], true, scale);
        let product = self.node("MatMul", &[x, &weight], &[]);
        if !bias {
            return product;
        }
        let bias = self.add_weight(&format!("{key}.bias"), &[outputs], false, scale);
        self.node("Add", &[&product, &bias], &[])
    }

    pub(super) fn floats(&mut self, values: &[f32], shape: &[usize]) -> Value {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(FLOAT, bytes, shape)
    }

    /// A list of numbers or, with an empty shape, a number.
    pub(super) fn ints(&mut self, values: &[i64], shape: &[usize]) -> Value {
        let bytes = values.iter().flat_map(|x| x.to_le_bytes()).collect();
        self.constant(INT64, bytes, shape)
    }

    fn constant(&mut self, element: i32, bytes: Vec<u8>, shape: &[usize]) -> Value {
        let name = format!("constant_{}", self.constants.len());
        self.constants.push(TensorProto {
            dims: shape.iter().map(|&d| d as i64).collect(),
            data_type: Some(element),
            name: Some(name.clone()),
            raw_data: Some(bytes),
        });
        name
    }

    /// Writes the graph with its weights, whole or not at all.
    ///
    /// # Errors
    /// [`Error::Input`] for a missing or misshapen tensor or more than 2 GiB, [`Error::Io`].
    pub(super) fn write(&self, weights: &Weights, path: &Path) -> Result<()> {
        let elements: usize = self.weights.iter().map(|w| w.shape.iter().product::<usize>()).sum();
        if elements > MAX_BYTES / 4 - (1 << 20) {
            return Err(Error::input(format!(
                "the {} tower has {elements} parameters: more than the 2 GiB of one ONNX file",
                self.name
            )));
        }
        let head = ModelProto {
            ir_version: Some(8),
            producer_name: Some("cdbench".into()),
            graph: Some(GraphProto {
                node: self.nodes.clone(),
                name: Some(self.name.into()),
                initializer: self.constants.clone(),
                input: self.inputs.clone(),
                output: self.outputs.clone(),
            }),
            opset_import: vec![OperatorSetIdProto {
                domain: Some(String::new()),
                version: Some(OPSET),
            }],
        };
        safefile::write_with(path, |out| {
            let mut put =
                |part: &ModelProto| out.write_all(&part.encode_to_vec()).map_err(Error::io(path));
            put(&head)?;
            // Messages one after the other are one message, by protobuf's rules: so only one weight
            // at a time is in memory.
            for weight in &self.weights {
                let graph =
                    GraphProto { initializer: vec![weight.load(weights)?], ..Default::default() };
                put(&ModelProto { graph: Some(graph), ..Default::default() })?;
            }
            Ok(())
        })
    }
}

fn described(name: &str, element: i32, shape: &[Dim]) -> ValueInfoProto {
    let dim = shape.iter().map(|dim| DimensionProto {
        value: Some(match dim {
            Dim::Is(size) => Dimension::Value(*size as i64),
            Dim::Any(name) => Dimension::Name((*name).into()),
        }),
    });
    let shape = TensorShapeProto { dim: dim.collect() };
    let tensor = TensorTypeProto { elem_type: Some(element), shape: Some(shape) };
    ValueInfoProto {
        name: Some(name.into()),
        r#type: Some(TypeProto { tensor_type: Some(tensor) }),
    }
}
