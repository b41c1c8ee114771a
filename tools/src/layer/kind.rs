//! The layers, and the tensors that each takes: names, and shapes by letters.
//!
//! A letter stands for one size throughout a layer: S rows, D columns of x, N of y, F between the two layers of an MLP, Q and K rows of the
//! weights of q and of k and v, V rows of a table.

use tileweave::reference::layer::{self as reference, Between, Heads};

use super::args::KindArg;

/// What is computed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Kind {
    Column,
    Row,
    /// GELU, or SwiGLU.
    Mlp(Between),
    Attention(Heads),
    Embedding,
    /// Of Llama's kind.
    Transformer(Heads),
}

/// A tensor of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot {
    pub name: &'static str,
    /// A letter a dimension.
    pub letters: &'static str,
    pub need: Need,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    Always,
    /// Without it there is none: a bias.
    Optional,
    /// For a backward pass.
    Backward,
}

const fn slot(name: &'static str, letters: &'static str) -> Slot {
    let need = Need::Always;
    Slot { name, letters, need }
}

const fn bias(name: &'static str, letters: &'static str) -> Slot {
    let need = Need::Optional;
    Slot { name, letters, need }
}

const fn gradient(letters: &'static str) -> Slot {
    let need = Need::Backward;
    Slot {
        name: "dy",
        letters,
        need,
    }
}

const LINEAR: [Slot; 4] = [slot("x", "SD"), slot("weight", "ND"), bias("bias", "N"), gradient("SN")];
const GELU: [Slot; 6] = [
    slot("x", "SD"),
    slot("fc1.weight", "FD"),
    bias("fc1.bias", "F"),
    slot("fc2.weight", "DF"),
    bias("fc2.bias", "D"),
    gradient("SD"),
];
const SWIGLU: [Slot; 5] = [
    slot("x", "SD"),
    slot("gate_proj.weight", "FD"),
    slot("up_proj.weight", "FD"),
    slot("down_proj.weight", "DF"),
    gradient("SD"),
];
const ATTENTION: [Slot; 10] = [
    slot("x", "SD"),
    slot("q_proj.weight", "QD"),
    bias("q_proj.bias", "Q"),
    slot("k_proj.weight", "KD"),
    bias("k_proj.bias", "K"),
    slot("v_proj.weight", "KD"),
    bias("v_proj.bias", "K"),
    slot("o_proj.weight", "DQ"),
    bias("o_proj.bias", "D"),
    gradient("SD"),
];
const TRANSFORMER: [Slot; 11] = [
    slot("x", "SD"),
    slot("input_layernorm.weight", "D"),
    slot("q_proj.weight", "QD"),
    slot("k_proj.weight", "KD"),
    slot("v_proj.weight", "KD"),
    slot("o_proj.weight", "DQ"),
    slot("post_attention_layernorm.weight", "D"),
    slot("gate_proj.weight", "FD"),
    slot("up_proj.weight", "FD"),
    slot("down_proj.weight", "DF"),
    gradient("SD"),
];
const EMBEDDING: [Slot; 2] = [slot("weight", "VD"), gradient("SD")];

/// Of a transformer layer's norms.
pub const EPS: f32 = 1e-5;

impl Kind {
    pub fn slots(self) -> &'static [Slot] {
        match self {
            Kind::Column | Kind::Row => &LINEAR,
            Kind::Mlp(Between::SwiGlu) => &SWIGLU,
            Kind::Mlp(_) => &GELU,
            Kind::Attention(_) => &ATTENTION,
            Kind::Embedding => &EMBEDDING,
            Kind::Transformer(_) => &TRANSFORMER,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Kind::Column => "column",
            Kind::Row => "row",
            Kind::Mlp(_) => "mlp",
            Kind::Attention(_) => "attention",
            Kind::Embedding => "embedding",
            Kind::Transformer(_) => "transformer",
        }
    }

    pub fn heads(self) -> Option<Heads> {
        match self {
            Kind::Attention(heads) | Kind::Transformer(heads) => Some(heads),
            _ => None,
        }
    }

    /// The same with these heads.
    pub fn with_heads(self, heads: Heads) -> Kind {
        match self {
            Kind::Attention(_) => Kind::Attention(heads),
            Kind::Transformer(_) => Kind::Transformer(heads),
            other => other,
        }
    }

    /// Before it is known how many heads there are, and which activation.
    pub fn of(word: KindArg) -> Kind {
        let unknown = Heads {
            heads: 0,
            kv_heads: 0,
            seq: None,
        };
        match word {
            KindArg::Column => Kind::Column,
            KindArg::Row => Kind::Row,
            KindArg::Mlp => Kind::Mlp(Between::SwiGlu),
            KindArg::Attention => Kind::Attention(unknown),
            KindArg::Embedding => Kind::Embedding,
            KindArg::Transformer => Kind::Transformer(unknown),
        }
    }

    /// What the reference calls it.
    pub fn reference(self) -> reference::Kind {
        match self {
            Kind::Column => reference::Kind::Column,
            Kind::Row => reference::Kind::Row,
            Kind::Mlp(between) => reference::Kind::Mlp(between),
            Kind::Attention(heads) => reference::Kind::Attention(heads),
            Kind::Embedding => reference::Kind::Embedding,
            Kind::Transformer(heads) => reference::Kind::Transformer {
                heads,
                eps: f64::from(EPS),
            },
        }
    }
}
