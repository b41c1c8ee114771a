//! What a layer is given: random tensors, or those of a file, checked against each other.

use std::collections::BTreeMap;

use tileweave::DType;
use tileweave::reference::layer::{Between, Given, Heads, Matrix};
use tileweave::reference::{decode, encode};

use super::args::{ActivationArg, LayerArgs};
use super::kind::{Kind, Need, Slot};
use crate::cli::MAX_DIMENSION;
use crate::device::notice;
use crate::failure::Failure;
use crate::run::input::available_memory;
use crate::run::random;
use crate::run::tensors::File;

/// A tensor, whole, row-major, little-endian.
#[derive(Debug, Clone, PartialEq)]
pub struct Tensor {
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
    /// Whether it was given; else it is a bias of zeros, for the sake of others that were.
    pub given: bool,
}

#[derive(Debug)]
pub struct Problem {
    pub kind: Kind,
    pub dtype: DType,
    /// By name: parameters, x, and dy for a backward pass.
    pub tensors: BTreeMap<&'static str, Tensor>,
    /// Of an embedding.
    pub ids: Vec<i64>,
    /// By letter.
    pub sizes: BTreeMap<char, usize>,
    pub backward: bool,
}

impl Problem {
    /// The size that a letter stands for; 0 where the layer has none.
    pub fn size(&self, letter: char) -> usize {
        self.sizes.get(&letter).copied().unwrap_or(0)
    }

    pub fn has(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// The same for the reference.
    pub fn given(&self) -> Given {
        let mut given = Given::of_ids(self.ids.clone());
        for (name, tensor) in self.tensors.iter().filter(|(_, tensor)| tensor.given) {
            let (rows, cols) = match tensor.shape[..] {
                [rows, cols] => (rows, cols),
                _ => (1, tensor.shape.iter().product()),
            };
            given.insert(name, Matrix::new(rows, cols, decode(self.dtype, &tensor.bytes)));
        }
        given
    }

    /// Biases that were not given, beside ones that were.
    fn fill_biases(&mut self) {
        let slots = self.kind.slots().iter();
        let missing: Vec<&Slot> = slots
            .filter(|slot| slot.need == Need::Optional && !self.has(slot.name))
            .collect();
        if missing.len()
            < self
                .kind
                .slots()
                .iter()
                .filter(|slot| slot.need == Need::Optional)
                .count()
        {
            for slot in missing {
                let shape: Vec<usize> = slot.letters.chars().map(|letter| self.size(letter)).collect();
                let bytes = vec![0; shape.iter().product::<usize>() * self.dtype.size()];
                let given = false;
                self.tensors.insert(slot.name, Tensor { shape, bytes, given });
            }
        }
    }
}

/// Makes or reads it; nothing of it is on a device yet.
pub fn problem(args: &LayerArgs, ranks: usize) -> Result<Problem, Failure> {
    let mut problem = match &args.input {
        Some(path) => from_file(args, ranks, &File::read(path)?)?,
        None => random(args, ranks)?,
    };
    problem.fill_biases();
    Ok(problem)
}

fn from_file(args: &LayerArgs, ranks: usize, file: &File) -> Result<Problem, Failure> {
    let mut kind = Kind::of(args.kind);
    if let Kind::Mlp(_) = kind {
        let [gelu, swiglu] = ["fc1.weight", "gate_proj.weight"].map(|name| file.optional(name));
        kind = match (gelu?, swiglu?) {
            (Some(_), Some(swiglu)) => {
                return Err(swiglu.wrong("there is `fc1.weight`, too: expected one MLP's tensors".into()));
            }
            (Some(_), None) => Kind::Mlp(Between::Gelu),
            (None, _) => Kind::Mlp(Between::SwiGlu),
        };
    }
    let first = file.tensor(kind.slots()[0].name)?;
    let dtype = first.dtype()?;
    let mut problem = Problem {
        kind,
        dtype,
        tensors: BTreeMap::new(),
        ids: Vec::new(),
        sizes: BTreeMap::new(),
        backward: args.backward,
    };
    if kind == Kind::Embedding {
        let ids = file.tensor("ids")?;
        let [rows] = ids.dims("[S]")?;
        problem.ids = ids.integers()?;
        problem.sizes.insert('S', rows);
    }
    let mut known = vec!["x", "ids", "dy"];
    for slot in kind.slots() {
        known.push(slot.name);
        let found = match slot.need {
            Need::Backward if !args.backward => continue,
            Need::Optional => match file.optional(slot.name)? {
                Some(found) => found,
                None => continue,
            },
            _ => file.tensor(slot.name)?,
        };
        let form = format!("[{}]", form(slot));
        let dims = found.shape();
        if dims.len() != slot.letters.len() {
            return Err(found.wrong(format!("expected {} dimensions, {form}", slot.letters.len())));
        }
        let wanted: Vec<usize> = slot
            .letters
            .chars()
            .zip(dims)
            .map(|(letter, dim)| *problem.sizes.entry(letter).or_insert(*dim))
            .collect();
        found.expect(dtype, &wanted, kind.slots()[0].name, &form)?;
        let tensor = Tensor {
            shape: wanted,
            bytes: found.bytes().to_vec(),
            given: true,
        };
        problem.tensors.insert(slot.name, tensor);
    }
    let unused: Vec<String> = file
        .names()
        .into_iter()
        .filter(|name| !known.contains(&name.as_str()))
        .collect();
    if !unused.is_empty() {
        notice(&format!("not used by --kind {}: {}", kind.name(), unused.join(", ")));
    }
    check_sizes(&problem, ranks)?;
    check_ids(&problem)?;
    let heads = heads_of((args.heads, args.kv_heads), &problem)?;
    problem.kind = kind.with_heads(heads);
    Ok(problem)
}

/// A slot's letters, as a person reads them.
fn form(slot: &Slot) -> String {
    let letters: Vec<String> = slot.letters.chars().map(String::from).collect();
    letters.join(", ")
}

/// The heads that are asked for, against the rows that the weights have.
fn heads_of(asked: (Option<usize>, Option<usize>), problem: &Problem) -> Result<Heads, Failure> {
    let none = Heads {
        heads: 0,
        kv_heads: 0,
        seq: None,
    };
    if problem.kind.heads().is_none() {
        for (option, given) in [("--heads", asked.0), ("--kv-heads", asked.1)] {
            if let Some(given) = given {
                let expected = format!("--kind attention or transformer, not {}", problem.kind.name());
                return Err(Failure::bad_value(option, given, &expected));
            }
        }
        return Ok(none);
    }
    let (q, kv) = (problem.size('Q'), problem.size('K'));
    let Some(heads) = asked.0 else {
        let expected = format!("the number of query heads, which divides the {q} rows of q_proj.weight");
        return Err(Failure::bad_value("--heads", "not given", &expected));
    };
    if heads == 0 || !q.is_multiple_of(heads) || q == 0 {
        let expected = format!("a number that divides the {q} rows of q_proj.weight");
        return Err(Failure::bad_value("--heads", heads, &expected));
    }
    let size = q / heads;
    let kv_heads = asked.1.unwrap_or(kv / size);
    if kv_heads == 0 || kv_heads.saturating_mul(size) != kv {
        let expected = format!(
            "the {kv} rows of k_proj.weight over the {size} of a head ({q} of q_proj.weight over {heads} query heads)"
        );
        return Err(Failure::bad_value("--kv-heads", kv_heads, &expected));
    }
    Ok(Heads {
        heads,
        kv_heads,
        seq: None,
    })
}

fn random(args: &LayerArgs, ranks: usize) -> Result<Problem, Failure> {
    let kind = match (Kind::of(args.kind), args.activation) {
        (Kind::Mlp(_), Some(ActivationArg::Gelu)) => Kind::Mlp(Between::Gelu),
        (kind @ Kind::Mlp(_), _) | (kind, None) => kind,
        (kind, Some(_)) => {
            let expected = format!("--kind mlp, not {}", kind.name());
            return Err(Failure::bad_value("--activation", "given", &expected));
        }
    };
    let heads = args.heads.unwrap_or(8);
    let kv_heads = args.kv_heads.unwrap_or(heads.div_ceil(2));
    let size = args.head_size.unwrap_or(64);
    for (option, given) in [("--heads", heads), ("--kv-heads", kv_heads), ("--head-size", size)] {
        if given == 0 && kind.heads().is_some() {
            return Err(Failure::bad_value(option, given, "at least 1"));
        }
    }
    let hidden = args.hidden.unwrap_or(256);
    let sizes = [
        ('S', args.m.unwrap_or(64)),
        ('D', hidden),
        ('N', args.out.unwrap_or(512)),
        ('F', args.intermediate.unwrap_or(512)),
        ('Q', heads.saturating_mul(size)),
        ('K', kv_heads.saturating_mul(size)),
        ('V', args.vocabulary.unwrap_or(1000)),
    ];
    let dtype = args.dtype.unwrap_or(DType::Bf16);
    let used = |letter: char| letter == 'S' || kind.slots().iter().any(|slot| slot.letters.contains(letter));
    let mut problem = Problem {
        kind,
        dtype,
        tensors: BTreeMap::new(),
        ids: Vec::new(),
        sizes: sizes.into_iter().filter(|(letter, _)| used(*letter)).collect(),
        backward: args.backward,
    };
    check_sizes(&problem, ranks)?;
    let asked = kind.heads().map(|_| (Some(heads), Some(kv_heads)));
    problem.kind = kind.with_heads(heads_of(asked.unwrap_or((args.heads, args.kv_heads)), &problem)?);
    for slot in kind.slots() {
        let skipped = match slot.need {
            Need::Always => false,
            Need::Optional => !args.bias,
            Need::Backward => !args.backward,
        };
        if skipped {
            continue;
        }
        let shape: Vec<usize> = slot.letters.chars().map(|letter| problem.size(letter)).collect();
        let count = shape.iter().product();
        // Results of x's own size; norms' weights about 1.
        let (scale, middle) = match (shape.len(), slot.name) {
            (1, name) if name.contains("layernorm") => (0.25, 1.0),
            (2, "x" | "dy") => (1.0, 0.0),
            (2, _) => (1.0 / (shape[1].max(1) as f64).sqrt(), 0.0),
            _ => (1.0, 0.0),
        };
        let drawn = random::named(args.seed, slot.name, count);
        let values: Vec<f64> = drawn.map(|value| middle + scale * value).collect();
        let tensor = Tensor {
            shape,
            bytes: encode(dtype, &values),
            given: true,
        };
        problem.tensors.insert(slot.name, tensor);
    }
    if kind == Kind::Embedding {
        let vocabulary = problem.size('V') as f64;
        // The sum of uniform numbers folded into the vocabulary: every id may come, those in the middle more often.
        let drawn = random::named(args.seed, "ids", problem.size('S'));
        problem.ids = drawn
            .map(|value| ((value + 6.0) * 64.0).rem_euclid(vocabulary.max(1.0)) as i64)
            .collect();
    }
    check_ids(&problem)?;
    Ok(problem)
}

/// Every id is in the vocabulary.
fn check_ids(problem: &Problem) -> Result<(), Failure> {
    let vocabulary = problem.size('V');
    let outside = |id: &i64| !usize::try_from(*id).is_ok_and(|id| id < vocabulary);
    match problem.ids.iter().position(outside) {
        Some(at) => {
            let expected = format!("an id below the vocabulary of {vocabulary}, at least 0");
            Err(Failure::bad_value(&format!("ids[{at}]"), problem.ids[at], &expected))
        }
        None => Ok(()),
    }
}

/// Rows that all ranks together move, beyond which a simulated node takes minutes even where a row has no bytes.
const MAX_ROWS: usize = 1 << 25;

/// Refuses what layers do not take, what kernels cannot count, and what does not fit in memory.
fn check_sizes(problem: &Problem, ranks: usize) -> Result<(), Failure> {
    for (letter, size) in &problem.sizes {
        let name = match letter {
            'S' => "the number of rows",
            'D' => "the number of columns of x",
            'N' => "the number of columns of y",
            'F' => "the intermediate size",
            'Q' => "the number of rows of q_proj.weight",
            'K' => "the number of rows of k_proj.weight",
            _ => "the vocabulary",
        };
        let most = if *letter == 'S' {
            MAX_ROWS / ranks
        } else {
            MAX_DIMENSION
        };
        let least = usize::from(*letter != 'S');
        if !(least..=most).contains(size) {
            return Err(Failure::bad_value(name, size, &format!("from {least} to {most}")));
        }
    }
    let elements = |letters: &str| -> u128 { letters.chars().map(|letter| problem.size(letter) as u128).product() };
    // Every tensor: as read, on the device with its gradient, gathered, in f64 thrice (given, exact, rounded). Between them, on
    // every rank and in f64, some matrices as wide as the widest.
    let tensors: u128 = problem.kind.slots().iter().map(|slot| elements(slot.letters)).sum();
    let widest = problem
        .sizes
        .iter()
        .filter(|(letter, _)| **letter != 'S')
        .map(|(_, size)| *size as u128)
        .max();
    let between = problem.size('S') as u128 * widest.unwrap_or(0);
    let need = tensors * (4 * problem.dtype.size() as u128 + 40) + between * (8 * ranks as u128 + 64);
    let have = u128::from(available_memory());
    match need <= have {
        true => Ok(()),
        false => Err(Failure::bad_input(format!(
            "--kind {} of {} rows on {ranks} ranks needs about {need} bytes of host memory, and {have} are available: expected smaller sizes",
            problem.kind.name(),
            problem.size('S')
        ))),
    }
}
