//! The operands of a pass, lent out: a forward pass reads values and writes y, a backward pass reads those and dy, and writes gradients.

use tileweave::layer::{
    AttentionGradients, AttentionParameters, LinearGradients, LinearParameters, MlpGradients, MlpParameters,
    NormGradients, NormParameters, TransformerGradients, TransformerParameters,
};
use tileweave::{Error, Mat, MatMut, Result};

use super::lane::Operands;
use super::parts::Role;

/// Parameters by role.
pub struct Values<'a>(Vec<(Role, Mat<'a>)>);

/// Their gradients.
pub struct Gradients<'a>(Vec<(Role, MatMut<'a>)>);

pub struct ForwardMats<'a> {
    pub x: Option<Mat<'a>>,
    pub values: Values<'a>,
    pub y: MatMut<'a>,
}

pub struct BackwardMats<'a> {
    pub x: Option<Mat<'a>>,
    pub dx: Option<MatMut<'a>>,
    pub values: Values<'a>,
    pub gradients: Gradients<'a>,
    pub dy: Mat<'a>,
}

/// Operands and roles are this program's own: what is missing is a defect of it.
fn missing(what: &str) -> Error {
    Error::bad_argument(what, "missing", "an operand of this layer's")
}

pub fn forward(operands: &mut Operands) -> Result<ForwardMats<'_>> {
    let values = operands
        .parameters
        .iter()
        .map(|(role, operand)| Ok((*role, operand.mat()?)));
    Ok(ForwardMats {
        x: operands.x.as_ref().map(|x| x.mat()).transpose()?,
        values: Values(values.collect::<Result<_>>()?),
        y: operands.y.turned()?.0,
    })
}

pub fn backward(operands: &mut Operands) -> Result<BackwardMats<'_>> {
    let (mut values, mut gradients) = (Vec::new(), Vec::new());
    for (role, operand) in &mut operands.parameters {
        let (value, gradient) = operand.both()?;
        values.push((*role, value));
        gradients.extend(gradient.map(|gradient| (*role, gradient)));
    }
    let (x, dx) = match operands.x.as_mut().map(|x| x.both()).transpose()? {
        Some((x, dx)) => (Some(x), dx),
        None => (None, None),
    };
    Ok(BackwardMats {
        x,
        dx,
        values: Values(values),
        gradients: Gradients(gradients),
        dy: operands.y.turned()?.1.ok_or_else(|| missing("dy"))?,
    })
}

impl<'a> Values<'a> {
    pub fn get(&self, role: Role) -> Option<Mat<'a>> {
        self.0.iter().find(|(at, _)| *at == role).map(|(_, mat)| *mat)
    }

    pub fn need(&self, role: Role) -> Result<Mat<'a>> {
        self.get(role).ok_or_else(|| missing("a parameter"))
    }

    fn linear(&self, weight: Role, bias: Role) -> Result<LinearParameters<'a>> {
        Ok(LinearParameters {
            weight: self.need(weight)?,
            bias: self.get(bias),
        })
    }

    fn norm(&self, role: Role) -> Result<NormParameters<'a>> {
        Ok(NormParameters {
            gamma: self.need(role)?,
            beta: None,
        })
    }

    pub fn mlp(&self) -> Result<MlpParameters<'a>> {
        Ok(MlpParameters {
            fc1: self.linear(Role::First, Role::FirstBias)?,
            fc2: self.linear(Role::Second, Role::SecondBias)?,
        })
    }

    pub fn attention(&self) -> Result<AttentionParameters<'a>> {
        Ok(AttentionParameters {
            qkv: self.linear(Role::Qkv, Role::QkvBias)?,
            output: self.linear(Role::Output, Role::OutputBias)?,
        })
    }

    pub fn transformer(&self) -> Result<TransformerParameters<'a>> {
        Ok(TransformerParameters {
            input_norm: self.norm(Role::InputNorm)?,
            attention: self.attention()?,
            post_attention_norm: self.norm(Role::PostNorm)?,
            mlp: self.mlp()?,
        })
    }
}

impl<'a> Gradients<'a> {
    pub fn take(&mut self, role: Role) -> Option<MatMut<'a>> {
        let at = self.0.iter().position(|(at, _)| *at == role)?;
        Some(self.0.swap_remove(at).1)
    }

    pub fn linear(&mut self, weight: Role, bias: Role) -> LinearGradients<'a> {
        LinearGradients {
            weight: self.take(weight),
            bias: self.take(bias),
        }
    }

    fn norm(&mut self, role: Role) -> NormGradients<'a> {
        NormGradients {
            gamma: self.take(role),
            beta: None,
        }
    }

    pub fn mlp(&mut self) -> MlpGradients<'a> {
        MlpGradients {
            fc1: self.linear(Role::First, Role::FirstBias),
            fc2: self.linear(Role::Second, Role::SecondBias),
        }
    }

    pub fn attention(&mut self) -> AttentionGradients<'a> {
        AttentionGradients {
            qkv: self.linear(Role::Qkv, Role::QkvBias),
            output: self.linear(Role::Output, Role::OutputBias),
        }
    }

    pub fn transformer(&mut self) -> TransformerGradients<'a> {
        TransformerGradients {
            input_norm: self.norm(Role::InputNorm),
            attention: self.attention(),
            post_attention_norm: self.norm(Role::PostNorm),
            mlp: self.mlp(),
        }
    }
}
