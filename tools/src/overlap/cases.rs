//! What is measured: layers of models, one exact shape, or messages.
//!
//! A model's row-parallel layers (attention output, down) end in GEMM + reduce-scatter, or in GEMM + all-reduce without
//! sequence parallelism; its column-parallel layers on the hidden state (queries, keys and values; up) begin with
//! all-gather + GEMM.

use tileweave::Op;

use super::args::OverlapArgs;
use super::subject::Subject;
use crate::bench::shapes::Fused;
use crate::explore::models::{self, Model, Split};
use crate::failure::Failure;

/// One row of the report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Case {
    /// An operation with a GEMM.
    Gemm(Gemm),
    /// A collective alone.
    Message(Message),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gemm {
    /// Model and layer, or that the shape was named.
    pub of: String,
    pub op: Op,
    pub ranks: usize,
    pub m: usize,
    /// Of the GEMM of one rank.
    pub n: usize,
    pub k: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub op: Op,
    pub ranks: usize,
    pub bytes: usize,
}

const MODEL: &str = "llama3-70b";
const ROWS: [usize; 2] = [1024, 4096];
/// From what a token's activations come to, to what a long prompt's do.
const BYTES: [usize; 8] = [
    8 << 10,
    32 << 10,
    128 << 10,
    512 << 10,
    2 << 20,
    8 << 20,
    32 << 20,
    64 << 20,
];

/// The cases asked for, in the order of the words.
pub fn cases(args: &OverlapArgs, subject: &Subject) -> Result<Vec<Case>, Failure> {
    let ops = args.operations()?;
    let worlds = match args.ranks.as_slice() {
        [] => vec![subject.default_ranks()],
        ranks => ranks.to_vec(),
    };
    for world in &worlds {
        subject.check_ranks(*world)?;
    }
    let named: Vec<&str> = match args.models.as_slice() {
        [] => vec![MODEL],
        models => models.iter().map(String::as_str).collect(),
    };
    let models = named
        .into_iter()
        .map(models::named)
        .collect::<Result<Vec<Model>, Failure>>()?;
    let given = |given: &[usize], default: &[usize]| {
        if given.is_empty() {
            default.to_vec()
        } else {
            given.to_vec()
        }
    };
    let (rows, sizes) = (given(&args.m, &ROWS), given(&args.bytes, &BYTES));
    let mut all = Vec::new();
    for op in ops {
        if !op.has_gemm() {
            let message = |ranks, bytes| Case::Message(Message { op, ranks, bytes });
            all.extend(
                worlds
                    .iter()
                    .flat_map(|ranks| sizes.iter().map(move |bytes| message(*ranks, *bytes))),
            );
            continue;
        }
        for ranks in worlds.iter().copied() {
            if let Some(shape) = args.shape {
                let (of, m, n, k) = ("--shape".into(), shape.m, shape.n, shape.k);
                all.push(Case::Gemm(Gemm { of, op, ranks, m, n, k }));
                continue;
            }
            for model in &models {
                for (layer, n, k) in layers(model, op, ranks) {
                    let of = format!("{} {layer}", model.label);
                    all.extend(rows.iter().map(|m| {
                        Case::Gemm(Gemm {
                            of: of.clone(),
                            op,
                            ranks,
                            m: *m,
                            n,
                            k,
                        })
                    }));
                }
            }
        }
    }
    Ok(all)
}

/// The layers that begin or end with the operation, with n and k of one rank.
fn layers(model: &Model, op: Op, ranks: usize) -> Vec<(&'static str, usize, usize)> {
    let has = |split: Split, k: usize| match op {
        // What is gathered is the hidden state, cut over the ranks.
        Op::AllGatherGemm => split == Split::Column && k == model.hidden,
        _ => split == Split::Row,
    };
    let of_rank = |linear: &models::Linear| {
        let (n, k) = linear.of_rank(ranks, model.kv_heads);
        (linear.name, n, k)
    };
    let layers = model.linears.iter().filter(|linear| has(linear.split, linear.k));
    layers.map(of_rank).collect()
}

impl Gemm {
    /// The same as the measurements of a GPU name it: by the whole weight.
    pub fn whole(&self) -> Fused {
        let (n, k) = match self.op {
            Op::AllGatherGemm => (self.n * self.ranks, self.k),
            _ => (self.n, self.k * self.ranks),
        };
        Fused {
            layer: "",
            op: self.op,
            ranks: self.ranks,
            m: self.m,
            n,
            k,
        }
    }
}

impl Case {
    /// As the progress bar tells it.
    pub fn name(&self) -> String {
        match self {
            Case::Gemm(g) => format!("{} {}x{}x{}, P={}", g.op, g.m, g.n, g.k, g.ranks),
            Case::Message(m) => format!("{} of {} bytes, P={}", m.op, m.bytes, m.ranks),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_of_models() {
        let model = |name: &str| models::named(name).expect("a known model");
        let of = |name: &str, op, ranks| layers(&model(name), op, ranks);
        assert_eq!(
            of("llama3-70b", Op::GemmAllReduce, 8),
            [("attention output", 8192, 1024), ("down", 8192, 3584)]
        );
        assert_eq!(
            of("llama3-70b", Op::AllGatherGemm, 8),
            [("qkv", 1280, 8192), ("up", 7168, 8192)]
        );
        assert_eq!(
            of("gpt3-175b", Op::AllGatherGemm, 8),
            [("qkv", 4608, 12288), ("up", 6144, 12288)]
        );
        // Latents are every rank's own; none is gathered.
        assert_eq!(of("deepseek-v3-dense", Op::AllGatherGemm, 8), [("up", 4608, 7168)]);
        // 3 divides neither: the rank that has most.
        assert_eq!(of("llama3-8b", Op::GemmReduceScatter, 3)[1], ("down", 4096, 4779));
    }

    #[test]
    fn whole_weights() {
        let gemm = |op| Gemm {
            of: String::new(),
            op,
            ranks: 4,
            m: 64,
            n: 24,
            k: 40,
        };
        let sizes = |op| {
            let f = gemm(op).whole();
            (f.m, f.n, f.k)
        };
        assert_eq!(sizes(Op::AllGatherGemm), (64, 96, 40));
        assert_eq!(sizes(Op::GemmReduceScatter), (64, 24, 160));
    }
}
