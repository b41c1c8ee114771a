//! A composite layer on a group: whole tensors dealt to the ranks, passes, results put together again.

use std::collections::BTreeMap;
use std::ops::Range;

use tileweave::layer::*;
use tileweave::{GroupConfig, Node, Rank, Result, chunk, reference};

use super::common::{Data, Rng, Slab, check_traffic, node};
use super::dealt::*;

/// What is run.
#[derive(Debug, Clone, Copy)]
pub enum Block {
    Mlp(MlpSpec),
    Attention(AttentionSpec),
    Transformer(TransformerSpec),
}

#[derive(Debug, Clone, Copy)]
pub struct Case {
    pub block: Block,
    pub world: usize,
    pub m: usize,
    pub seq: usize,
    /// Elements between the rows of every matrix.
    pub gap: usize,
    pub data_seed: u64,
}

/// Whole tensors by their names in `torch.nn`.
pub type Tensors = BTreeMap<String, Whole>;

#[derive(Debug, Clone, PartialEq)]
pub struct Whole {
    pub rows: usize,
    pub cols: usize,
    pub values: Vec<f64>,
}

enum Layer {
    Mlp(ParallelMlp),
    Attention(ParallelAttention),
    Transformer(Box<TransformerLayer>),
}

/// A rank's operands.
pub struct OnRank {
    layer: Layer,
    pub saved: Option<Saved>,
    workspace: Workspace,
    x: Slab,
    dy: Slab,
    residual: Option<Slab>,
    y: Slab,
    dx: Slab,
    parameters: Vec<Option<Slab>>,
    gradients: Vec<Option<Slab>>,
}

/// Operations and bytes of a pass, and what was said of them.
#[derive(Debug, Clone, PartialEq)]
pub struct Sent {
    pub operations: u64,
    pub bytes: u64,
    pub stated: Vec<Sends>,
}

pub struct Group {
    pub node: Node,
    pub ranks: Vec<Rank>,
}

impl Case {
    pub fn options(&self) -> &Options {
        match &self.block {
            Block::Mlp(spec) => &spec.options,
            Block::Attention(spec) => &spec.options,
            Block::Transformer(spec) => &spec.attention.options,
        }
    }

    /// The same with other options.
    pub fn with(self, change: impl Fn(Options) -> Options) -> Case {
        let mut c = self;
        let each = match &mut c.block {
            Block::Mlp(spec) => vec![&mut spec.options],
            Block::Attention(spec) => vec![&mut spec.options],
            Block::Transformer(spec) => {
                vec![
                    &mut spec.attention.options,
                    &mut spec.mlp.options,
                    &mut spec.norm.options,
                ]
            }
        };
        each.into_iter().for_each(|options| *options = change(*options));
        c
    }

    pub fn mlp(&self) -> Option<&MlpSpec> {
        match &self.block {
            Block::Mlp(spec) => Some(spec),
            Block::Transformer(spec) => Some(&spec.mlp),
            Block::Attention(_) => None,
        }
    }

    pub fn attention(&self) -> Option<&AttentionSpec> {
        match &self.block {
            Block::Attention(spec) => Some(spec),
            Block::Transformer(spec) => Some(&spec.attention),
            Block::Mlp(_) => None,
        }
    }

    pub fn hidden(&self) -> usize {
        self.mlp()
            .map_or_else(|| self.attention().unwrap().hidden, |mlp| mlp.hidden)
    }

    /// A residual that the test brings: a transformer layer has its own.
    fn brings_residual(&self) -> bool {
        match &self.block {
            Block::Mlp(spec) => spec.residual,
            Block::Attention(spec) => spec.residual,
            Block::Transformer(_) => false,
        }
    }

    pub fn group(&self, seed: u64, one_shot_bytes: usize) -> Group {
        let node = node(self.world, seed);
        let operations = match &self.block {
            Block::Mlp(spec) => spec.operations(self.world),
            Block::Attention(spec) => spec.operations(self.world),
            Block::Transformer(spec) => spec.operations(self.world),
        };
        let config = GroupConfig::default().one_shot_bytes(one_shot_bytes);
        let ranks = node.group(self.world, &config.sized_for(&operations, self.world).unwrap());
        Group {
            node,
            ranks: ranks.unwrap(),
        }
    }

    /// x, dy, a residual and all parameters, rounded to the type.
    pub fn tensors(&self) -> Tensors {
        let (m, d, dtype) = (self.m, self.hidden(), self.options().dtype);
        let mut rng = Rng(self.data_seed);
        let mut all = Tensors::new();
        let mut draw = |name: &str, rows: usize, cols: usize, scale: f64, around: f64| {
            let drawn: Vec<f64> = (0..rows * cols).map(|_| around + rng.normal() * scale).collect();
            let values = reference::decode(dtype, &reference::encode(dtype, &drawn));
            all.insert(name.into(), Whole { rows, cols, values });
        };
        draw("x", m, d, 1.0, 0.0);
        draw("dy", m, d, 1.0, 0.0);
        if self.brings_residual() {
            draw("residual", m, d, 1.0, 0.0);
        }
        let weight = |cols: usize| 1.0 / (cols as f64).sqrt();
        if let Some(spec) = self.attention() {
            let (q, kv) = (spec.heads * spec.head_size, spec.kv_heads * spec.head_size);
            for (name, rows, cols) in [("q_proj", q, d), ("k_proj", kv, d), ("v_proj", kv, d), ("o_proj", d, q)] {
                draw(&format!("{name}.weight"), rows, cols, weight(cols), 0.0);
                if spec.bias {
                    draw(&format!("{name}.bias"), 1, rows, 0.3, 0.0);
                }
            }
        }
        if let Some(spec) = self.mlp() {
            let f = spec.intermediate;
            let names = match spec.fc1().out_features == f {
                true => [("fc1", f, d), ("fc2", d, f), ("", 0, 0)],
                false => [("gate_proj", f, d), ("up_proj", f, d), ("down_proj", d, f)],
            };
            for (name, rows, cols) in names.into_iter().filter(|(_, rows, _)| *rows > 0) {
                draw(&format!("{name}.weight"), rows, cols, weight(cols), 0.0);
                if spec.bias {
                    draw(&format!("{name}.bias"), 1, rows, 0.3, 0.0);
                }
            }
        }
        if let Block::Transformer(spec) = &self.block {
            for name in ["input_layernorm", "post_attention_layernorm"] {
                draw(&format!("{name}.weight"), 1, d, 0.2, 1.0);
                if spec.norm.bias {
                    draw(&format!("{name}.bias"), 1, d, 0.3, 0.0);
                }
            }
        }
        all
    }

    /// Rows of x and y on a rank.
    pub fn rows(&self, rank: usize) -> Range<usize> {
        match self.options().sequence_parallel {
            true => chunk(self.m, self.world, rank),
            false => 0..self.m,
        }
    }

    pub fn load(&self, rank: &Rank, tensors: &Tensors) -> Result<OnRank> {
        let (d, dtype, rows) = (self.hidden(), self.options().dtype, self.rows(rank.rank()));
        let slab =
            |rows: usize, cols: usize, values: Option<&[f64]>| Slab::new(rank, rows, cols, self.gap, dtype, values);
        let stream = |name: &str| {
            let values = tensors
                .get(name)
                .map(|whole| Data::part(&whole.values, d, rows.clone(), 0..d));
            slab(rows.len(), d, values.as_deref())
        };
        let (mut parameters, mut gradients) = (Vec::new(), Vec::new());
        for local in self.locals(rank.rank()) {
            let Some(local) = local else {
                parameters.push(None);
                gradients.push(None);
                continue;
            };
            let values: Vec<f64> = local.elements().map(|at| value(tensors, at)).collect();
            parameters.push(Some(slab(local.rows, local.cols, Some(&values))?));
            gradients.push(Some(slab(local.rows, local.cols, None)?));
        }
        let layer = match &self.block {
            Block::Mlp(spec) => Layer::Mlp(ParallelMlp::new(rank, spec)?),
            Block::Attention(spec) => Layer::Attention(ParallelAttention::new(rank, spec)?),
            Block::Transformer(spec) => Layer::Transformer(Box::new(TransformerLayer::new(rank, spec)?)),
        };
        let training = self.options().training;
        let (saved, workspace) = match &layer {
            Layer::Mlp(layer) => (training.then(|| layer.saved()).transpose()?, layer.workspace()?),
            Layer::Attention(layer) => (training.then(|| layer.saved()).transpose()?, layer.workspace()?),
            Layer::Transformer(layer) => (training.then(|| layer.saved()).transpose()?, layer.workspace()?),
        };
        Ok(OnRank {
            layer,
            saved,
            workspace,
            x: stream("x")?,
            dy: stream("dy")?,
            residual: self.brings_residual().then(|| stream("residual")).transpose()?,
            y: slab(rows.len(), d, None)?,
            dx: slab(rows.len(), d, None)?,
            parameters,
            gradients,
        })
    }

    /// Runs `pass` on all ranks; what was sent.
    pub fn on_all(
        &self,
        group: &Group,
        ranks: &mut [OnRank],
        stated: fn(&OnRank, usize) -> Vec<Sends>,
        mut pass: impl FnMut(&mut OnRank) -> Result<()>,
    ) -> Vec<Sent> {
        let stats = || {
            group
                .ranks
                .iter()
                .map(|r| (r.stats().operations(), r.stats().bytes_sent()))
        };
        let before: Vec<_> = stats().collect();
        ranks.iter_mut().for_each(|l| pass(l).unwrap());
        group.ranks.iter().for_each(|r| r.synchronize().unwrap());
        let all = stats().zip(before).zip(ranks.iter());
        let sent = all.map(|((after, before), l)| Sent {
            operations: after.0 - before.0,
            bytes: after.1 - before.1,
            stated: stated(l, self.m),
        });
        let sent: Vec<Sent> = sent.collect();
        for (r, sent) in sent.iter().enumerate() {
            assert_eq!(Sends::total(&sent.stated), Some(sent.bytes), "rank {r} of {self:?}");
            assert_eq!(sent.stated.len() as u64, sent.operations, "rank {r} of {self:?}");
        }
        sent
    }

    pub fn forward(&self, l: &mut OnRank, m: usize) -> Result<()> {
        self.pass(l, m, true)
    }

    pub fn infer(&self, l: &mut OnRank) -> Result<()> {
        self.pass(l, self.m, false)
    }

    fn pass(&self, l: &mut OnRank, m: usize, saving: bool) -> Result<()> {
        let (x, y, seq) = (l.x.mat()?, l.y.mat_mut()?, self.seq);
        let residual = l.residual.as_ref().map(Slab::mat).transpose()?;
        let p = &l.parameters;
        let none = || tileweave::Error::bad_argument("saved", "missing", "that of a layer for training");
        match &l.layer {
            Layer::Mlp(layer) => {
                let parameters = mlp(p)?;
                let pass = MlpForward {
                    m,
                    x,
                    parameters,
                    residual,
                    y,
                };
                match saving {
                    true => layer.forward(pass, l.saved.as_mut().ok_or_else(none)?),
                    false => layer.infer(pass, &mut l.workspace),
                }
            }
            Layer::Attention(layer) => {
                let parameters = attention(p)?;
                let pass = AttentionForward {
                    m,
                    seq,
                    x,
                    parameters,
                    residual,
                    y,
                };
                match saving {
                    true => layer.forward(pass, l.saved.as_mut().ok_or_else(none)?),
                    false => layer.infer(pass, &mut l.workspace),
                }
            }
            Layer::Transformer(layer) => {
                let parameters = transformer(p)?;
                let pass = TransformerForward {
                    m,
                    seq,
                    x,
                    parameters,
                    y,
                };
                match saving {
                    true => layer.forward(pass, l.saved.as_mut().ok_or_else(none)?),
                    false => layer.infer(pass, &mut l.workspace),
                }
            }
        }
    }

    /// All gradients.
    pub fn backward(&self, l: &mut OnRank, m: usize, accumulate: bool) -> Result<()> {
        let (x, dy, dx) = (l.x.mat()?, l.dy.mat()?, Some(l.dx.mat_mut()?));
        let (p, mut g) = (&l.parameters, mats(&mut l.gradients)?);
        let (saved, workspace) = (l.saved.as_mut().unwrap(), &mut l.workspace);
        match &l.layer {
            Layer::Mlp(layer) => {
                let (parameters, gradients) = (mlp(p)?, mlp_gradients(&mut g));
                let pass = MlpBackward {
                    m,
                    x,
                    parameters,
                    dy,
                    dx,
                    gradients,
                    accumulate,
                };
                layer.backward(pass, saved, workspace)
            }
            Layer::Attention(layer) => {
                let (parameters, gradients) = (attention(p)?, attention_gradients(&mut g));
                let pass = AttentionBackward {
                    m,
                    x,
                    parameters,
                    dy,
                    dx,
                    gradients,
                    accumulate,
                };
                layer.backward(pass, saved, workspace)
            }
            Layer::Transformer(layer) => {
                let (parameters, gradients) = (transformer(p)?, transformer_gradients(&mut g));
                let pass = TransformerBackward {
                    m,
                    x,
                    parameters,
                    dy,
                    dx,
                    gradients,
                    accumulate,
                };
                layer.backward(pass, saved, workspace)
            }
        }
    }

    /// What ranks have in parts is added up.
    pub fn finish(&self, l: &mut OnRank) -> Result<()> {
        let mut g = mats(&mut l.gradients)?;
        match &l.layer {
            Layer::Mlp(_) => Ok(()),
            Layer::Attention(layer) => layer.finish_gradients(linear_gradients(&mut g, QKV), &mut l.workspace),
            Layer::Transformer(layer) => layer.finish_gradients(transformer_gradients(&mut g), &mut l.workspace),
        }
    }

    /// Forward, backward and what follows a step, on a group of its own; all results, whole.
    pub fn train(&self, seed: u64, one_shot_bytes: usize) -> (Tensors, [Vec<Sent>; 2]) {
        let (group, tensors) = (self.group(seed, one_shot_bytes), self.tensors());
        let mut ranks: Vec<OnRank> = group.ranks.iter().map(|r| self.load(r, &tensors).unwrap()).collect();
        let forward = self.on_all(&group, &mut ranks, OnRank::forward_sends, |l| self.forward(l, self.m));
        let backward = self.on_all(&group, &mut ranks, OnRank::backward_sends, |l| {
            self.backward(l, self.m, false)
        });
        self.on_all(&group, &mut ranks, OnRank::finish_sends, |l| self.finish(l));
        check_traffic(&group.node, &group.ranks);
        (self.results(&ranks, true), [forward, backward])
    }

    /// y, and in training all gradients, put together; ranks that have the same must have the same bits.
    pub fn results(&self, ranks: &[OnRank], training: bool) -> Tensors {
        let d = self.hidden();
        let mut whole: BTreeMap<String, BTreeMap<(usize, usize), f64>> = BTreeMap::new();
        let mut note = |name: String, at: (usize, usize), value: f64, rank: usize| {
            let known = *whole.entry(name.clone()).or_default().entry(at).or_insert(value);
            assert!(
                known.to_bits() == value.to_bits(),
                "{name} {at:?}: {known}, but rank {rank} has {value}; {self:?}"
            );
        };
        for (rank, l) in ranks.iter().enumerate() {
            let read = |slab: &Slab| reference::decode(self.options().dtype, &slab.read().unwrap());
            let streams = [("y", &l.y), ("dx", &l.dx)];
            for (name, slab) in streams.into_iter().take(if training { 2 } else { 1 }) {
                for (at, value) in read(slab).into_iter().enumerate() {
                    note(name.into(), (self.rows(rank).start + at / d, at % d), value, rank);
                }
            }
            let locals = self.locals(rank).into_iter().zip(&l.gradients).filter(|_| training);
            for (local, slab) in locals.filter_map(|(local, slab)| Some((local?, slab.as_ref()?))) {
                for ((name, i, j), value) in local.elements().zip(read(slab)) {
                    note(format!("d{name}"), (i, j), value, rank);
                }
            }
        }
        let put = |(name, elements): (String, BTreeMap<(usize, usize), f64>)| {
            let (rows, cols) = elements
                .keys()
                .fold((0, 0), |(r, c), (i, j)| (r.max(i + 1), c.max(j + 1)));
            assert_eq!(elements.len(), rows * cols, "all of {name}");
            let values = elements.into_values().collect();
            (name, Whole { rows, cols, values })
        };
        whole.into_iter().map(put).collect()
    }
}

impl OnRank {
    pub fn forward_sends(&self, m: usize) -> Vec<Sends> {
        match &self.layer {
            Layer::Mlp(layer) => layer.forward_sends(m),
            Layer::Attention(layer) => layer.forward_sends(m),
            Layer::Transformer(layer) => layer.forward_sends(m),
        }
    }

    pub fn backward_sends(&self, m: usize) -> Vec<Sends> {
        match &self.layer {
            Layer::Mlp(layer) => layer.backward_sends(m),
            Layer::Attention(layer) => layer.backward_sends(m),
            Layer::Transformer(layer) => layer.backward_sends(m),
        }
    }

    /// Takes another's matrices, and keeps what it saved.
    pub fn lend_operands(&mut self, other: &mut OnRank) {
        for (own, other) in [
            (&mut self.x, &mut other.x),
            (&mut self.dy, &mut other.dy),
            (&mut self.dx, &mut other.dx),
        ] {
            std::mem::swap(own, other);
        }
    }

    pub fn workspace_bytes(&self) -> usize {
        match &self.layer {
            Layer::Mlp(layer) => layer.workspace_bytes().unwrap(),
            Layer::Attention(layer) => layer.workspace_bytes().unwrap(),
            Layer::Transformer(layer) => layer.workspace_bytes().unwrap(),
        }
    }

    pub fn lend_small_workspace(&mut self, rank: &Rank) {
        self.workspace = Workspace::new(rank, 100).unwrap();
    }

    pub fn finish_sends(&self, _: usize) -> Vec<Sends> {
        match &self.layer {
            Layer::Mlp(_) => Vec::new(),
            Layer::Attention(layer) => layer.finish_sends(),
            Layer::Transformer(layer) => layer.finish_sends(),
        }
    }
}
