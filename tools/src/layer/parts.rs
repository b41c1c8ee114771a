//! What of each tensor a rank has.

use std::ops::Range;

use tileweave::chunk;
use tileweave::layer::AttentionSpec;
use tileweave::layer::checkpoint::Part;
use tileweave::reference::layer::Between;

use super::kind::Kind;
use super::problem::Problem;
use crate::failure::Failure;

/// A parameter as a layer takes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Of a linear layer or an embedding.
    Weight,
    Bias,
    /// Of the two linear layers of an MLP.
    First,
    FirstBias,
    Second,
    SecondBias,
    /// Of attention.
    Qkv,
    QkvBias,
    Output,
    OutputBias,
    /// In front of attention, and in front of the MLP.
    InputNorm,
    PostNorm,
}

/// The parts of one rank.
#[derive(Debug)]
pub struct Parts {
    /// Of x and dx; none of an embedding.
    pub x: Option<Part>,
    /// Of y and dy; the tensor is called `y`.
    pub y: Part,
    pub parameters: Vec<(Role, Part)>,
}

impl Parts {
    pub fn new(problem: &Problem, sequence_parallel: bool, world: usize, rank: usize) -> Result<Parts, Failure> {
        let size = |letter| problem.size(letter);
        let (m, d, n, f) = (size('S'), size('D'), size('N'), size('F'));
        let between = match sequence_parallel {
            true => chunk(m, world, rank),
            false => 0..m,
        };
        let by_rows = |tensor: &str, width: usize| Part::rows(tensor, &[m, width], between.clone());
        let (rows, whole) = (of_rows(problem), of_whole(problem));
        let columns =
            |tensor: &str, letters: [char; 2], range: Range<usize>| Part::columns(tensor, letters.map(size), range);
        let mut parameters = Vec::new();
        let mut add = |role: Role, part: tileweave::Result<Part>| -> Result<(), Failure> {
            parameters.push((role, part?));
            Ok(())
        };
        let (x, y) = match problem.kind {
            Kind::Column => {
                let own = chunk(n, world, rank);
                add(Role::Weight, rows("weight", own.clone()))?;
                if problem.has("bias") {
                    add(Role::Bias, rows("bias", own.clone()))?;
                }
                (by_rows("x", d)?, Part::columns("y", [m, n], own)?)
            }
            Kind::Row => {
                let own = chunk(d, world, rank);
                add(Role::Weight, columns("weight", ['N', 'D'], own.clone()))?;
                if problem.has("bias") {
                    add(Role::Bias, whole("bias"))?;
                }
                (Part::columns("x", [m, d], own)?, by_rows("y", n)?)
            }
            Kind::Embedding => {
                add(Role::Weight, rows("weight", chunk(size('V'), world, rank)))?;
                return Ok(Parts {
                    x: None,
                    y: by_rows("y", d)?,
                    parameters,
                });
            }
            kind => {
                if let Kind::Transformer(_) = kind {
                    add(Role::InputNorm, whole("input_layernorm.weight"))?;
                    add(Role::PostNorm, whole("post_attention_layernorm.weight"))?;
                }
                if kind.heads().is_some() {
                    for (role, part) in attention(problem, world, rank)? {
                        add(role, Ok(part))?;
                    }
                }
                let own = chunk(f, world, rank);
                match kind {
                    Kind::Mlp(Between::SwiGlu) | Kind::Transformer(_) => {
                        let (gate, up) = (
                            rows("gate_proj.weight", own.clone())?,
                            rows("up_proj.weight", own.clone())?,
                        );
                        add(Role::First, Part::interleaved(gate, up))?;
                        add(Role::Second, columns("down_proj.weight", ['D', 'F'], own))?;
                    }
                    Kind::Mlp(_) => {
                        add(Role::First, rows("fc1.weight", own.clone()))?;
                        add(Role::Second, columns("fc2.weight", ['D', 'F'], own.clone()))?;
                        if problem.has("fc1.bias") {
                            add(Role::FirstBias, rows("fc1.bias", own))?;
                            add(Role::SecondBias, whole("fc2.bias"))?;
                        }
                    }
                    _ => {}
                }
                (by_rows("x", d)?, by_rows("y", d)?)
            }
        };
        Ok(Parts {
            x: Some(x),
            y,
            parameters,
        })
    }
}

/// Rows of a tensor of the problem.
fn of_rows(problem: &Problem) -> impl Fn(&str, Range<usize>) -> tileweave::Result<Part> + '_ {
    |tensor, range| Part::rows(tensor, &problem.tensors[tensor].shape, range)
}

fn of_whole(problem: &Problem) -> impl Fn(&str) -> tileweave::Result<Part> + '_ {
    |tensor| Part::whole(tensor, &problem.tensors[tensor].shape)
}

/// QKV in one weight, and the output projection.
fn attention(problem: &Problem, world: usize, rank: usize) -> Result<Vec<(Role, Part)>, Failure> {
    let Some(heads) = problem.kind.heads() else {
        return Ok(Vec::new());
    };
    let size = problem.size('Q') / heads.heads;
    let options = tileweave::layer::Options::new(problem.size('S'), problem.dtype);
    let spec = AttentionSpec::new(problem.size('D'), heads.heads, heads.kv_heads, options);
    let own = spec.heads_of(world, rank)?;
    let rows = of_rows(problem);
    let range = |heads: &Range<usize>| heads.start * size..heads.end * size;
    let stacked = |what: &str| {
        let part = |name: &str, heads: &Range<usize>| rows(&format!("{name}.{what}"), range(heads));
        let all = [
            part("q_proj", &own.q)?,
            part("k_proj", &own.kv)?,
            part("v_proj", &own.kv)?,
        ];
        Part::stacked(all)
    };
    let whole = [problem.size('D'), problem.size('Q')];
    let mut parts = vec![
        (Role::Qkv, stacked("weight")?),
        (Role::Output, Part::columns("o_proj.weight", whole, range(&own.q))?),
    ];
    if problem.has("q_proj.bias") {
        parts.push((Role::QkvBias, stacked("bias")?));
        parts.push((Role::OutputBias, of_whole(problem)("o_proj.bias")?));
    }
    Ok(parts)
}
