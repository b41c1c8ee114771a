//! One rank of a layer: its part of everything in device memory, and the passes.

use tileweave::layer::Sends;
use tileweave::layer::checkpoint::Part;
use tileweave::{Buffer, DType, Mat, MatMut, Rank, Result};

use super::kind::Kind;
use super::parts::{Parts, Role};
use super::planned::Planned;
use super::problem::Problem;
use super::whole::Whole;
use crate::failure::Failure;

/// One rank, ready to launch.
pub struct Lane {
    pub rank: Rank,
    planned: Planned,
    operands: Operands,
}

/// What a layer is given and leaves on a rank.
pub struct Operands {
    pub m: usize,
    pub dtype: DType,
    pub ids: Option<Buffer>,
    /// x and its gradient; none of an embedding.
    pub x: Option<Operand>,
    /// y and its gradient.
    pub y: Operand,
    pub parameters: Vec<(Role, Operand)>,
}

/// A matrix and its gradient.
pub struct Operand {
    part: Part,
    shape: [usize; 2],
    dtype: DType,
    pub value: Buffer,
    /// Where there is a backward pass.
    pub gradient: Option<Buffer>,
}

impl Operand {
    pub fn mat(&self) -> Result<Mat<'_>> {
        self.value.mat(self.shape[0], self.shape[1], self.dtype)
    }

    /// The value to be read, and the gradient to be written.
    pub fn both(&mut self) -> Result<(Mat<'_>, Option<MatMut<'_>>)> {
        let [rows, cols] = self.shape;
        let gradient = self.gradient.as_mut();
        let gradient = gradient.map(|gradient| gradient.mat_mut(rows, cols, self.dtype));
        Ok((self.value.mat(rows, cols, self.dtype)?, gradient.transpose()?))
    }

    /// The value to be written, and the gradient to be read.
    pub fn turned(&mut self) -> Result<(MatMut<'_>, Option<Mat<'_>>)> {
        let [rows, cols] = self.shape;
        let gradient = self.gradient.as_ref();
        let gradient = gradient.map(|gradient| gradient.mat(rows, cols, self.dtype));
        Ok((self.value.mat_mut(rows, cols, self.dtype)?, gradient.transpose()?))
    }
}

/// What a matrix begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Content {
    /// Its part of the tensors of its names.
    Given,
    /// Its part of dy.
    OutputGradient,
    /// It is to be written.
    Nothing,
}

/// What a result holds that nothing has written: NaN in every type.
const UNWRITTEN: u8 = 0xff;

impl Operands {
    fn upload(rank: &Rank, problem: &Problem, parts: Parts) -> Result<Operands, Failure> {
        let (dtype, backward) = (problem.dtype, problem.backward);
        let filled = |part: &Part, content: Content| -> Result<Buffer, Failure> {
            let [rows, cols] = part.shape();
            let mut buffer = rank.alloc(rows * cols * dtype.size())?;
            let whole = |named: &str| {
                let tensor = problem.tensors.get(if content == Content::OutputGradient {
                    "dy"
                } else {
                    named
                });
                tensor.map(|tensor| tensor.bytes.as_slice())
            };
            match content {
                Content::Nothing => buffer.fill(UNWRITTEN)?,
                _ => buffer.upload(&part.cut(dtype.size(), whole)?)?,
            }
            Ok(buffer)
        };
        let operand = |part: Part, value: Content, gradient: Content| -> Result<Operand, Failure> {
            let [rows, cols] = part.shape();
            // A bias is a row.
            let is_row = part.tensors().all(|(_, shape)| shape.len() == 1);
            Ok(Operand {
                shape: if is_row { [cols, rows] } else { [rows, cols] },
                dtype,
                value: filled(&part, value)?,
                gradient: backward.then(|| filled(&part, gradient)).transpose()?,
                part,
            })
        };
        let given = |part: Part| operand(part, Content::Given, Content::Nothing);
        let ids = (problem.kind == Kind::Embedding).then(|| {
            let mut ids = rank.alloc(problem.ids.len() * size_of::<i64>())?;
            let bytes: Vec<u8> = problem.ids.iter().flat_map(|id| id.to_le_bytes()).collect();
            ids.upload(&bytes)?;
            Ok::<_, Failure>(ids)
        });
        let parameters = parts.parameters.into_iter();
        let parameters = parameters.map(|(role, part)| Ok::<_, Failure>((role, given(part)?)));
        Ok(Operands {
            m: problem.size('S'),
            dtype,
            ids: ids.transpose()?,
            x: parts.x.map(given).transpose()?,
            y: operand(parts.y, Content::Nothing, Content::OutputGradient)?,
            parameters: parameters.collect::<Result<_, _>>()?,
        })
    }
}

impl Lane {
    pub fn new(rank: &Rank, problem: &Problem, planned: Planned, sequence_parallel: bool) -> Result<Lane, Failure> {
        let parts = Parts::new(problem, sequence_parallel, rank.world(), rank.rank())?;
        Ok(Lane {
            rank: rank.clone(),
            planned,
            operands: Operands::upload(rank, problem, parts)?,
        })
    }

    pub fn forward(&mut self) -> Result<()> {
        self.planned.forward(&mut self.operands)
    }

    pub fn backward(&mut self) -> Result<()> {
        self.planned.backward(&mut self.operands)
    }

    /// Sums up gradients that ranks have in parts.
    pub fn finish(&mut self) -> Result<()> {
        self.planned.finish(&mut self.operands)
    }

    /// What passes send: forward, backward, and the sums of gradients.
    pub fn sends(&self) -> [Vec<Sends>; 3] {
        self.planned.sends(self.operands.m)
    }

    /// Puts this rank's results to their places among values and gradients.
    pub fn collect(&self, values: &mut Whole, gradients: &mut Whole) -> Result<(), Failure> {
        let rank = self.rank.rank();
        let put = |whole: &mut Whole, operand: &Operand, buffer: &Buffer| -> Result<(), Failure> {
            whole.put(rank, &operand.part, &buffer.to_vec::<u8>(buffer.len())?)
        };
        let Operands { x, y, parameters, .. } = &self.operands;
        put(values, y, &y.value)?;
        for operand in x.iter().chain(parameters.iter().map(|(_, operand)| operand)) {
            if let Some(gradient) = &operand.gradient {
                put(gradients, operand, gradient)?;
            }
        }
        Ok(())
    }
}
