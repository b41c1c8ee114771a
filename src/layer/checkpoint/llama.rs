//! The parameters of Llama-style models, by their Hugging Face names.

use std::path::Path;

use serde::Deserialize;

use super::part::Part;
use super::source::Checkpoint;
use crate::dtype::DType;
use crate::error::{Error, Result};
use crate::layer::{Options, TransformerSpec};
use crate::op::chunk;

/// What is to be known of a model beside its tensors: the sizes that their shapes follow from, and the norms' eps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Llama {
    /// Columns of the hidden state.
    pub hidden: usize,
    /// Rows of gate and of up, columns of down.
    pub intermediate: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Columns of a head.
    pub head_size: usize,
    /// Rows of the embedding.
    pub vocabulary: usize,
    /// Of the norms.
    pub norm_eps: f32,
}

/// How the tensors are named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlamaNames {
    /// What stands before `layers.0`: `model.`.
    pub prefix: String,
    /// One tensor `self_attn.qkv_proj`, of `[q; k; v]`, instead of three.
    pub fused_qkv: bool,
    /// One tensor `mlp.gate_up_proj`, of `[gate; up]`, instead of two.
    pub fused_gate_up: bool,
}

impl Default for LlamaNames {
    /// Llama's own.
    fn default() -> LlamaNames {
        LlamaNames {
            prefix: "model.".into(),
            fused_qkv: false,
            fused_gate_up: false,
        }
    }
}

/// The parameters of one layer on one rank, as [`TransformerLayer`](crate::layer::TransformerLayer) takes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LlamaLayer {
    /// `input_layernorm`, whole.
    pub input_norm: Part,
    /// Rows of this rank's q heads, then of its k heads, then of its v heads.
    pub qkv: Part,
    /// Columns of this rank's q heads.
    pub o: Part,
    /// `post_attention_layernorm`, whole.
    pub post_attention_norm: Part,
    /// Rows 2j of gate, 2j + 1 of up.
    pub gate_up: Part,
    /// Columns of this rank's part of the intermediate state.
    pub down: Part,
}

impl LlamaLayer {
    /// All of them.
    pub fn parts(&self) -> [&Part; 6] {
        [
            &self.input_norm,
            &self.qkv,
            &self.o,
            &self.post_attention_norm,
            &self.gate_up,
            &self.down,
        ]
    }
}

impl LlamaNames {
    pub(super) fn find(checkpoint: &Checkpoint, layer: usize) -> Result<LlamaNames> {
        // `model.` but where the model is a part of another.
        let ending = format!("layers.{layer}.input_layernorm.weight");
        let prefix = checkpoint.names().find_map(|name| name.strip_suffix(ending.as_str()));
        let names = LlamaNames {
            prefix: prefix.unwrap_or("model.").into(),
            ..LlamaNames::default()
        };
        let one_of = |separate: &str, fused: &str| {
            let there = [separate, fused].map(|name| checkpoint.contains(&names.of(layer, name)));
            match there {
                [true, false] => Ok(false),
                [false, true] => Ok(true),
                both => {
                    let value = if both[0] { "there, both" } else { "missing, both" };
                    let [separate, fused] = [separate, fused].map(|name| names.of(layer, name));
                    let name = format!("tensors `{separate}` and `{fused}`");
                    Err(Error::bad_argument(name, value, "a checkpoint with one of them"))
                }
            }
        };
        let (fused_qkv, fused_gate_up) = (
            one_of("self_attn.q_proj", "self_attn.qkv_proj")?,
            one_of("mlp.gate_proj", "mlp.gate_up_proj")?,
        );
        Ok(LlamaNames {
            fused_qkv,
            fused_gate_up,
            ..names
        })
    }

    /// The weight of a module of a layer.
    fn of(&self, layer: usize, module: &str) -> String {
        format!("{}layers.{layer}.{module}.weight", self.prefix)
    }
}

impl Llama {
    /// As a model's `config.json` tells it. Where it does not, there are as many KV heads as heads, a head's size is the hidden size over
    /// the heads, and eps 1e-5.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a file that cannot be read or lacks a size.
    pub fn read_config(path: impl AsRef<Path>) -> Result<Llama> {
        #[derive(Deserialize)]
        struct Config {
            hidden_size: usize,
            intermediate_size: usize,
            num_attention_heads: usize,
            num_key_value_heads: Option<usize>,
            head_dim: Option<usize>,
            vocab_size: usize,
            rms_norm_eps: Option<f32>,
        }
        let path = path.as_ref();
        let wrong = |why: String| Error::bad_argument("the configuration", path.display(), why);
        let text = std::fs::read(path).map_err(|error| wrong(format!("a file that can be read ({error})")))?;
        let config: Config =
            serde_json::from_slice(&text).map_err(|error| wrong(format!("one of a Llama-style model ({error})")))?;
        let heads = config.num_attention_heads;
        Ok(Llama {
            hidden: config.hidden_size,
            intermediate: config.intermediate_size,
            heads,
            kv_heads: config.num_key_value_heads.unwrap_or(heads),
            head_size: config.head_dim.unwrap_or(config.hidden_size / heads.max(1)),
            vocabulary: config.vocab_size,
            norm_eps: config.rms_norm_eps.unwrap_or(1e-5),
        })
    }

    /// A layer of it.
    pub fn spec(&self, options: Options) -> TransformerSpec {
        TransformerSpec::new(self.hidden, self.heads, self.kv_heads, self.intermediate, options)
            .head_size(self.head_size)
            .eps(self.norm_eps)
    }

    /// A layer's parameters on a rank.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for heads that cannot be split, with the numbers.
    pub fn layer(&self, names: &LlamaNames, layer: usize, world: usize, rank: usize) -> Result<LlamaLayer> {
        let Llama {
            hidden,
            intermediate,
            heads,
            kv_heads,
            head_size,
            ..
        } = *self;
        let of = |module: &str| names.of(layer, module);
        if rank >= world {
            return Err(Error::bad_argument("rank", rank, format!("one below {world}")));
        }
        let own = self.spec(Options::new(0, DType::F32)).attention.heads_of(world, rank)?;
        let rows = |range: &std::ops::Range<usize>| range.start * head_size..range.end * head_size;
        let (q, kv) = (rows(&own.q), rows(&own.kv));
        let (q_rows, kv_rows) = (heads * head_size, kv_heads * head_size);
        let all = [
            ("q_proj", q_rows, &q),
            ("k_proj", kv_rows, &kv),
            ("v_proj", kv_rows, &kv),
        ];
        let mut above = 0;
        let mut qkv = Vec::new();
        for (name, height, rows) in all {
            qkv.push(match names.fused_qkv {
                true => {
                    let shape = [q_rows + 2 * kv_rows, hidden];
                    Part::rows(&of("self_attn.qkv_proj"), &shape, above + rows.start..above + rows.end)?
                }
                false => Part::rows(&of(&format!("self_attn.{name}")), &[height, hidden], rows.clone())?,
            });
            above += height;
        }
        let mine = chunk(intermediate, world, rank);
        let half = |name: &str, above: usize| match names.fused_gate_up {
            true => {
                let rows = above + mine.start..above + mine.end;
                Part::rows(&of("mlp.gate_up_proj"), &[2 * intermediate, hidden], rows)
            }
            false => Part::rows(&of(name), &[intermediate, hidden], mine.clone()),
        };
        Ok(LlamaLayer {
            input_norm: self.whole_norm(of("input_layernorm")),
            qkv: Part::stacked(qkv)?,
            o: Part::columns(&of("self_attn.o_proj"), [hidden, q_rows], q)?,
            post_attention_norm: self.whole_norm(of("post_attention_layernorm")),
            gate_up: Part::interleaved(half("mlp.gate_proj", 0)?, half("mlp.up_proj", intermediate)?)?,
            down: Part::columns(&of("mlp.down_proj"), [hidden, intermediate], mine.clone())?,
        })
    }

    /// This rank's rows of the embedding's table.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a rank that is none.
    pub fn embedding(&self, names: &LlamaNames, world: usize, rank: usize) -> Result<Part> {
        self.of_vocabulary(&format!("{}embed_tokens.weight", names.prefix), world, rank)
    }

    /// This rank's rows of the output projection. A model that ties it to the embedding has no such tensor: take that.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a rank that is none.
    pub fn head(&self, world: usize, rank: usize) -> Result<Part> {
        self.of_vocabulary("lm_head.weight", world, rank)
    }

    /// The norm behind the last layer, whole.
    pub fn norm(&self, names: &LlamaNames) -> Part {
        self.whole_norm(format!("{}norm.weight", names.prefix))
    }

    fn whole_norm(&self, tensor: String) -> Part {
        Part::block(&tensor, &[self.hidden], 0..self.hidden, 0..1)
    }

    fn of_vocabulary(&self, tensor: &str, world: usize, rank: usize) -> Result<Part> {
        if rank >= world {
            return Err(Error::bad_argument("rank", rank, format!("one below {world}")));
        }
        let rows = chunk(self.vocabulary, world, rank);
        Part::rows(tensor, &[self.vocabulary, self.hidden], rows)
    }
}
