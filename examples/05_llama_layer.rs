//! A Llama-style layer from a checkpoint on four ranks: each reads its own part, a forward pass, and one step of training by plain SGD. Without
//! a file it makes a small checkpoint itself. (Without rotary embeddings: what a layer does with positions is the runtime's.)
//!
//!     cargo run --release --example 05_llama_layer [FOLDER]      # with model.safetensors, or its index, and config.json

use std::path::{Path, PathBuf};

use tileweave::driver::sim::SimConfig;
use tileweave::layer::checkpoint::{Checkpoint, Llama, LlamaLayer, LlamaNames, Part, Writer};
use tileweave::layer::{
    AttentionGradients, AttentionParameters, LinearGradients, LinearParameters, MlpGradients, MlpParameters,
    NormGradients, NormParameters, Options, Saved, TransformerBackward, TransformerForward, TransformerGradients,
    TransformerLayer, TransformerParameters, TransformerSpec, Workspace,
};
use tileweave::{Buffer, DType, GroupConfig, Mat, MatMut, Node, Rank, Result};

const WORLD: usize = 4;
const TOKENS: usize = 12; // one sequence
const DTYPE: DType = DType::F32;
const RATE: f32 = 0.05;

/// A parameter of a rank, and its gradient.
struct Parameter {
    part: Part,
    value: Buffer,
    gradient: Buffer,
}

impl Parameter {
    fn load(checkpoint: &Checkpoint, part: &Part, rank: &Rank) -> Result<Parameter> {
        let value = checkpoint.upload(part, DTYPE, rank)?;
        let gradient = rank.alloc(value.len())?;
        let part = part.clone();
        Ok(Parameter { part, value, gradient })
    }

    fn mats(&mut self) -> Result<(Mat<'_>, MatMut<'_>)> {
        let [rows, cols] = match self.part.shape() {
            [elements, 1] => [1, elements], // a norm's weight
            shape => shape,
        };
        Ok((
            self.value.mat(rows, cols, DTYPE)?,
            self.gradient.mat_mut(rows, cols, DTYPE)?,
        ))
    }

    /// Plain SGD, on the host: an optimiser is the runtime's.
    fn step(&mut self) -> Result<()> {
        let count = self.value.len() / DTYPE.size();
        let (mut value, gradient) = (self.value.to_vec::<f32>(count)?, self.gradient.to_vec::<f32>(count)?);
        value
            .iter_mut()
            .zip(gradient)
            .for_each(|(value, gradient)| *value -= RATE * gradient);
        self.value.upload(&value)
    }
}

/// One rank's layer.
struct Layer {
    rank: Rank,
    layer: TransformerLayer,
    saved: Saved,
    workspace: Workspace,
    hidden: usize,
    /// In the order of [`LlamaLayer::parts`].
    parameters: [Parameter; 6],
    /// x, y, dy, dx.
    states: [Buffer; 4],
}

/// The parameters as the layer takes them, and where their gradients go.
fn lend(parameters: &mut [Parameter; 6]) -> Result<(TransformerParameters<'_>, TransformerGradients<'_>)> {
    let [input_norm, qkv, o, post_norm, gate_up, down] = parameters;
    let norm = |(gamma, into)| {
        let gradients = NormGradients {
            gamma: Some(into),
            beta: None,
        };
        (NormParameters { gamma, beta: None }, gradients)
    };
    let linear = |(weight, into)| {
        let gradients = LinearGradients {
            weight: Some(into),
            bias: None,
        };
        (LinearParameters { weight, bias: None }, gradients)
    };
    let (input_norm, d_input_norm) = norm(input_norm.mats()?);
    let (post_attention_norm, d_post_attention_norm) = norm(post_norm.mats()?);
    let ((qkv, d_qkv), (output, d_output)) = (linear(qkv.mats()?), linear(o.mats()?));
    let ((fc1, d_fc1), (fc2, d_fc2)) = (linear(gate_up.mats()?), linear(down.mats()?));
    let parameters = TransformerParameters {
        input_norm,
        attention: AttentionParameters { qkv, output },
        post_attention_norm,
        mlp: MlpParameters { fc1, fc2 },
    };
    let gradients = TransformerGradients {
        input_norm: d_input_norm,
        attention: AttentionGradients {
            qkv: d_qkv,
            output: d_output,
        },
        post_attention_norm: d_post_attention_norm,
        mlp: MlpGradients { fc1: d_fc1, fc2: d_fc2 },
    };
    Ok((parameters, gradients))
}

impl Layer {
    fn load(checkpoint: &Checkpoint, parts: &LlamaLayer, spec: &TransformerSpec, rank: &Rank) -> Result<Layer> {
        let layer = TransformerLayer::new(rank, spec)?;
        let hidden = spec.attention.hidden;
        let [a, b, c, d, e, f] = parts.parts().map(|part| Parameter::load(checkpoint, part, rank));
        let state = || rank.alloc(TOKENS * hidden * DTYPE.size());
        Ok(Layer {
            rank: rank.clone(),
            saved: layer.saved()?,
            workspace: layer.workspace()?,
            layer,
            hidden,
            parameters: [a?, b?, c?, d?, e?, f?],
            states: [state()?, state()?, state()?, state()?],
        })
    }

    /// Enqueued, as the other passes are: every rank has to come before anybody waits.
    fn forward(&mut self) -> Result<()> {
        let [x, y, ..] = &mut self.states;
        let (parameters, _) = lend(&mut self.parameters)?;
        let (m, seq) = (TOKENS, TOKENS);
        let (x, y) = (x.mat(m, self.hidden, DTYPE)?, y.mat_mut(m, self.hidden, DTYPE)?);
        self.layer.forward(
            TransformerForward {
                m,
                seq,
                x,
                parameters,
                y,
            },
            &mut self.saved,
        )
    }

    fn backward(&mut self) -> Result<()> {
        let [x, _, dy, dx] = &mut self.states;
        let (parameters, gradients) = lend(&mut self.parameters)?;
        let (x, dy) = (x.mat(TOKENS, self.hidden, DTYPE)?, dy.mat(TOKENS, self.hidden, DTYPE)?);
        let dx = Some(dx.mat_mut(TOKENS, self.hidden, DTYPE)?);
        let (m, accumulate) = (TOKENS, false);
        let pass = TransformerBackward {
            m,
            x,
            parameters,
            dy,
            dx,
            gradients,
            accumulate,
        };
        self.layer.backward(pass, &mut self.saved, &mut self.workspace)?;
        // Here two ranks share a KV head, each with the gradient of its own queries; with sequence parallelism norms' are in parts, too.
        let (_, gradients) = lend(&mut self.parameters)?;
        self.layer.finish_gradients(gradients, &mut self.workspace)
    }
}

/// A forward pass on all ranks; half the mean square distance of y from `target`, and its gradient in dy.
fn loss(layers: &mut [Layer], target: &[f32]) -> Result<f32> {
    layers.iter_mut().try_for_each(Layer::forward)?;
    let mut loss = 0.0;
    for layer in layers {
        layer.rank.synchronize()?;
        let y = layer.states[1].to_vec::<f32>(target.len())?;
        let away: Vec<f32> = y.iter().zip(target).map(|(y, target)| y - target).collect();
        loss = away.iter().map(|away| away * away).sum::<f32>() / (2 * TOKENS) as f32; // the same on every rank
        let gradient: Vec<f32> = away.iter().map(|away| away / TOKENS as f32).collect();
        layer.states[2].upload(&gradient)?;
    }
    Ok(loss)
}

fn main() -> Result<()> {
    train(std::env::args().nth(1).map(PathBuf::from))
}

/// One step on a layer of this checkpoint, or of one that is made for it.
pub fn train(given: Option<PathBuf>) -> Result<()> {
    let folder = given
        .clone()
        .unwrap_or_else(|| std::env::temp_dir().join(format!("tileweave-05-{}", std::process::id())));
    if given.is_none() {
        std::fs::create_dir_all(&folder).expect("a folder for a small checkpoint");
        make(&folder)?;
    }
    let model = Llama::read_config(folder.join("config.json"))?;
    let options = Options::new(TOKENS, DTYPE);
    let spec = model.spec(options);
    let node = Node::sim(SimConfig::new(WORLD, 0))?; // on GPUs: Node::this_machine()?
    let ranks = node.group(
        WORLD,
        &GroupConfig::default().sized_for(&spec.operations(WORLD), WORLD)?,
    )?;
    let mut layers = Vec::new();
    for rank in &ranks {
        let checkpoint = Checkpoint::open(&folder)?;
        let parts = model.layer(&checkpoint.names_of(0)?, 0, WORLD, rank.rank())?;
        layers.push(Layer::load(&checkpoint, &parts, &spec, rank)?);
        println!(
            "rank {}: read {} bytes of the checkpoint",
            rank.rank(),
            checkpoint.bytes_read()
        );
    }
    let count = TOKENS * model.hidden;
    let (x, target) = (numbers(count, 1, 1.0), numbers(count, 2, 1.0));
    for layer in &mut layers {
        layer.states[0].upload(&x)?;
    }
    let before = loss(&mut layers, &target)?;
    layers.iter_mut().try_for_each(Layer::backward)?;
    for layer in &mut layers {
        layer.rank.synchronize()?;
        layer.parameters.iter_mut().try_for_each(Parameter::step)?;
    }
    let after = loss(&mut layers, &target)?;
    println!("loss {before}, after one step {after}");
    assert!(after < before, "a step down the slope");

    // What was learnt, back in one file: every rank's part goes to its place.
    let path = folder.join("trained.safetensors");
    let all = layers
        .iter()
        .flat_map(|layer| layer.parameters.iter().map(|parameter| &parameter.part));
    let mut writer = Writer::create(&path, DTYPE, all)?;
    for parameter in layers.iter().flat_map(|layer| &layer.parameters) {
        writer.store(&parameter.part, &parameter.value.to_vec::<u8>(parameter.value.len())?)?;
    }
    writer.finish()?;
    println!("written: {} tensors", Checkpoint::open(&path)?.names().count());
    if given.is_none() {
        std::fs::remove_dir_all(&folder).expect("it was made above");
    }
    Ok(())
}

/// Numbers between -1 and 1, times `scale`.
fn numbers(count: usize, seed: u32, scale: f32) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| scale * next()).collect()
}

/// A checkpoint of one small layer.
fn make(folder: &Path) -> Result<()> {
    let config = r#"{"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2,
                     "head_dim": 8, "vocab_size": 1}"#;
    std::fs::write(folder.join("config.json"), config).expect("written");
    let model = Llama::read_config(folder.join("config.json"))?;
    let whole = model.layer(&LlamaNames::default(), 0, 1, 0)?; // one rank's part is all of it
    let mut writer = Writer::create(folder.join("model.safetensors"), DTYPE, whole.parts())?;
    for (seed, part) in whole.parts().into_iter().enumerate() {
        let [rows, cols] = part.shape();
        let values = match cols {
            1 => vec![1.0; rows],
            _ => numbers(rows * cols, 10 + seed as u32, (1.0 / cols as f32).sqrt()),
        };
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        writer.store(part, &bytes)?;
    }
    writer.finish()
}
