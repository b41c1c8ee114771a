//! Checkpoints: what a rank loads is its part and nothing beside it, what all ranks store is the checkpoint again, and what is
//! wrong with a file is told by tensor, shape and size. Files are written and read by the crate `safetensors` on the other side.

mod files;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use tileweave::DType;
use tileweave::layer::checkpoint::{Checkpoint, Llama, LlamaLayer, LlamaNames, Part, Writer};

/// A folder of one test's own, removed with it.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Whole tensors: shape and bytes, by name.
type Tensors = BTreeMap<String, (Vec<usize>, Vec<u8>)>;

fn tag(dtype: DType) -> Dtype {
    match dtype {
        DType::Bf16 => Dtype::BF16,
        DType::F16 => Dtype::F16,
        DType::F32 => Dtype::F32,
    }
}

fn write(path: &Path, dtype: DType, tensors: &Tensors) {
    let view = |(name, (shape, bytes)): (&String, &(Vec<usize>, Vec<u8>))| {
        let view = TensorView::new(tag(dtype), shape.clone(), bytes).unwrap();
        (name.clone(), view.shape().to_vec(), bytes.clone())
    };
    let owned: Vec<_> = tensors.iter().map(view).collect();
    let views: Vec<_> = owned
        .iter()
        .map(|(name, shape, bytes)| {
            (
                name.as_str(),
                TensorView::new(tag(dtype), shape.clone(), bytes).unwrap(),
            )
        })
        .collect();
    std::fs::write(path, serialize(views, None).unwrap()).unwrap();
}

fn read(path: &Path, dtype: DType) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    tensors
        .iter()
        .map(|(name, view)| {
            assert_eq!(view.dtype(), tag(dtype));
            (name.to_string(), (view.shape().to_vec(), view.data().to_vec()))
        })
        .collect()
}

/// Tensors of these shapes; no two elements are alike nearby.
fn filled(dtype: DType, shapes: &[(String, Vec<usize>)]) -> Tensors {
    let mut state = 1u64;
    let mut byte = || {
        state = state
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    shapes
        .iter()
        .map(|(name, shape)| {
            let bytes = (0..shape.iter().product::<usize>() * dtype.size())
                .map(|_| byte())
                .collect();
            (name.clone(), (shape.clone(), bytes))
        })
        .collect()
}

/// Every tensor of a model of one layer.
fn shapes(model: &Llama, names: &LlamaNames) -> Vec<(String, Vec<usize>)> {
    let Llama {
        hidden,
        intermediate,
        heads,
        kv_heads,
        head_size,
        vocabulary,
        ..
    } = *model;
    let (q, kv) = (heads * head_size, kv_heads * head_size);
    let mut all = vec![
        ("model.embed_tokens.weight", vec![vocabulary, hidden]),
        ("lm_head.weight", vec![vocabulary, hidden]),
        ("model.norm.weight", vec![hidden]),
        ("model.layers.3.input_layernorm.weight", vec![hidden]),
        ("model.layers.3.post_attention_layernorm.weight", vec![hidden]),
        ("model.layers.3.self_attn.o_proj.weight", vec![hidden, q]),
        ("model.layers.3.mlp.down_proj.weight", vec![hidden, intermediate]),
    ];
    match names.fused_qkv {
        true => all.push(("model.layers.3.self_attn.qkv_proj.weight", vec![q + 2 * kv, hidden])),
        false => all.extend([
            ("model.layers.3.self_attn.q_proj.weight", vec![q, hidden]),
            ("model.layers.3.self_attn.k_proj.weight", vec![kv, hidden]),
            ("model.layers.3.self_attn.v_proj.weight", vec![kv, hidden]),
        ]),
    }
    match names.fused_gate_up {
        true => all.push(("model.layers.3.mlp.gate_up_proj.weight", vec![2 * intermediate, hidden])),
        false => all.extend([
            ("model.layers.3.mlp.gate_proj.weight", vec![intermediate, hidden]),
            ("model.layers.3.mlp.up_proj.weight", vec![intermediate, hidden]),
        ]),
    }
    all.into_iter().map(|(name, shape)| (name.to_string(), shape)).collect()
}

fn parts_of(model: &Llama, names: &LlamaNames, world: usize, rank: usize) -> (LlamaLayer, [Part; 3]) {
    let layer = model.layer(names, 3, world, rank).unwrap();
    let outside = [
        model.embedding(names, world, rank).unwrap(),
        model.head(world, rank).unwrap(),
        model.norm(names),
    ];
    (layer, outside)
}

/// An element of the fused weights, told by where it comes from: name of the separate tensor, row, column.
fn element<'a>(
    tensors: &'a Tensors,
    names: &LlamaNames,
    size: usize,
    at: (&str, usize, usize),
    model: &Llama,
) -> &'a [u8] {
    let (q, kv) = (model.heads * model.head_size, model.kv_heads * model.head_size);
    let (module, above) = match at.0 {
        "q_proj" | "k_proj" | "v_proj" if names.fused_qkv => (
            "self_attn.qkv_proj",
            match at.0 {
                "q_proj" => 0,
                "k_proj" => q,
                _ => q + kv,
            },
        ),
        "gate_proj" | "up_proj" if names.fused_gate_up => (
            "mlp.gate_up_proj",
            if at.0 == "up_proj" { model.intermediate } else { 0 },
        ),
        "q_proj" => ("self_attn.q_proj", 0),
        "k_proj" => ("self_attn.k_proj", 0),
        "v_proj" => ("self_attn.v_proj", 0),
        "gate_proj" => ("mlp.gate_proj", 0),
        "up_proj" => ("mlp.up_proj", 0),
        "o_proj" => ("self_attn.o_proj", 0),
        _ => ("mlp.down_proj", 0),
    };
    let (shape, bytes) = &tensors[&format!("model.layers.3.{module}.weight")];
    &bytes[((above + at.1) * shape[1] + at.2) * size..][..size]
}

prop_compose! {
    /// A model whose heads `world` ranks can split.
    fn model()(world in 1usize..=8, groups in 1usize..4, pick in any::<prop::sample::Index>(), spread in 1usize..3,
        hidden in 1usize..24, intermediate in 1usize..30, head_size in 1usize..6, vocabulary in 1usize..40,
        fused_qkv in any::<bool>(), fused_gate_up in any::<bool>(),
    ) -> (usize, Llama, LlamaNames) {
        let mut kv_heads: Vec<usize> = (1..world).filter(|kv| world.is_multiple_of(*kv)).collect();
        kv_heads.extend([world, 2 * world]);
        let kv_heads = *pick.get(&kv_heads);
        let heads = groups * if kv_heads < world { world } else { kv_heads * spread };
        let model = Llama { hidden, intermediate, heads, kv_heads, head_size, vocabulary, norm_eps: 1e-5 };
        (world, model, LlamaNames { prefix: "model.".into(), fused_qkv, fused_gate_up })
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// Every element of every fused weight is the one that the layout says, and all ranks together make the checkpoint again.
    #[test]
    fn there_and_back((world, model, names) in model(), dtype in prop::sample::select(vec![DType::Bf16, DType::F16, DType::F32])) {
        let folder = Folder::new("there-and-back");
        let (from, to) = (folder.file("from.safetensors"), folder.file("to.safetensors"));
        let tensors = filled(dtype, &shapes(&model, &names));
        write(&from, dtype, &tensors);
        let checkpoint = Checkpoint::open(&from).unwrap();
        prop_assert_eq!(&checkpoint.names_of(3).unwrap(), &names);
        let every: Vec<(LlamaLayer, [Part; 3])> = (0..world).map(|rank| parts_of(&model, &names, world, rank)).collect();
        let all = every.iter().flat_map(|(layer, outside)| layer.parts().into_iter().chain(outside));
        let mut writer = Writer::create(&to, dtype, all.clone()).unwrap();
        let mut again = BTreeMap::new();
        for part in all {
            let bytes = checkpoint.load(part, dtype).unwrap();
            let [rows, cols] = part.shape();
            prop_assert_eq!(bytes.len(), rows * cols * dtype.size());
            prop_assert_eq!(&bytes, &part.cut(dtype.size(), |name| Some(&tensors[name].1)).unwrap());
            writer.store(part, &bytes).unwrap();
            part.put(dtype.size(), &bytes, &mut again).unwrap();
        }
        writer.finish().unwrap();
        let wanted: BTreeMap<String, Vec<u8>> = tensors.iter().map(|(name, (_, bytes))| (name.clone(), bytes.clone())).collect();
        prop_assert_eq!(again, wanted);
        prop_assert_eq!(&read(&to, dtype), &tensors);
        prop_assert!(!folder.0.read_dir().unwrap().any(|entry| entry.unwrap().path().extension().unwrap() == "unfinished"));

        let size = dtype.size();
        let (own, group) = (model.heads / world, model.heads / model.kv_heads);
        for (rank, (layer, _)) in every.iter().enumerate() {
            let of = |name, row, col| element(&tensors, &names, size, (name, row, col), &model);
            let at = |bytes: &[u8], cols: usize, row: usize, col: usize| bytes[(row * cols + col) * size..][..size].to_vec();
            let qkv = checkpoint.load(&layer.qkv, dtype).unwrap();
            // The KV heads that this rank's queries need, in order.
            let mut needed: Vec<usize> = (rank * own..(rank + 1) * own).map(|q| q / group).collect();
            needed.dedup();
            let rows = (rank * own..(rank + 1) * own).map(|head| ("q_proj", head))
                .chain(needed.iter().map(|head| ("k_proj", *head)))
                .chain(needed.iter().map(|head| ("v_proj", *head)))
                .flat_map(|(name, head)| (0..model.head_size).map(move |row| (name, head * model.head_size + row)));
            let rows: Vec<_> = rows.collect();
            prop_assert_eq!(layer.qkv.shape(), [rows.len(), model.hidden]);
            for (to, (name, row)) in rows.into_iter().enumerate() {
                prop_assert_eq!(at(&qkv, model.hidden, to, model.hidden - 1), of(name, row, model.hidden - 1), "{} {}", name, row);
            }
            let (gate_up, down, o) = (
                checkpoint.load(&layer.gate_up, dtype).unwrap(),
                checkpoint.load(&layer.down, dtype).unwrap(),
                checkpoint.load(&layer.o, dtype).unwrap(),
            );
            let mine = tileweave::chunk(model.intermediate, world, rank);
            for (to, row) in mine.clone().enumerate() {
                prop_assert_eq!(at(&gate_up, model.hidden, 2 * to, 0), of("gate_proj", row, 0));
                prop_assert_eq!(at(&gate_up, model.hidden, 2 * to + 1, 0), of("up_proj", row, 0));
                prop_assert_eq!(at(&down, mine.len(), model.hidden - 1, to), of("down_proj", model.hidden - 1, row));
            }
            for col in 0..own * model.head_size {
                let whole = rank * own * model.head_size + col;
                prop_assert_eq!(at(&o, own * model.head_size, model.hidden - 1, col), of("o_proj", model.hidden - 1, whole));
            }
        }
    }
}

/// What the process reads of the file, counted by the checkpoint and, where the system counts per thread, by that.
#[test]
fn a_rank_reads_its_part_alone() {
    let folder = Folder::new("alone");
    let file = folder.file("model.safetensors");
    let model = Llama {
        hidden: 64,
        intermediate: 96,
        heads: 8,
        kv_heads: 2,
        head_size: 8,
        vocabulary: 128,
        norm_eps: 1e-5,
    };
    let names = LlamaNames::default();
    write(&file, DType::Bf16, &filled(DType::Bf16, &shapes(&model, &names)));
    // Read by this thread, by any call.
    let by_this_thread = || -> Option<u64> {
        let text = std::fs::read_to_string("/proc/thread-self/io").ok()?;
        text.lines().find_map(|line| line.strip_prefix("rchar: ")?.parse().ok())
    };
    for world in [1, 2, 4, 8] {
        let mut together = 0;
        for rank in 0..world {
            let checkpoint = Checkpoint::open(&folder.0).unwrap();
            let (layer, outside) = parts_of(&model, &names, world, rank);
            let parts: Vec<&Part> = layer.parts().into_iter().chain(&outside).collect();
            let need: usize = parts
                .iter()
                .map(|part| part.shape().iter().product::<usize>() * 2)
                .sum();
            let before = by_this_thread();
            for part in parts {
                checkpoint.load(part, DType::Bf16).unwrap();
            }
            let read = by_this_thread();
            assert_eq!(checkpoint.bytes_read(), need as u64, "rank {rank} of {world}");
            if let (Some(before), Some(after)) = (before, read) {
                // Looking costs reading, too: the same text of a few lines, twice at most.
                let (least, most) = (need as u64, need as u64 + 512);
                assert!(
                    (least..=most).contains(&(after - before)),
                    "{} of {need}",
                    after - before
                );
            }
            together += need;
        }
        // Norms are everybody's; KV heads too, where there are fewer than ranks.
        let whole = std::fs::metadata(&file).unwrap().len() as usize;
        let (norms, kv) = (3 * 64 * 2, 2 * 2 * 8 * 64 * 2);
        let copies = (world - 1) * norms + (world / 2).saturating_sub(1) * kv;
        assert!(
            (together..together + 4096).contains(&(whole + copies)),
            "{world}: {together} of {whole} and {copies}"
        );
    }
}
