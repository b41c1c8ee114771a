//! Checkpoints: what a rank loads is its part and nothing beside it, what all ranks store is the checkpoint again, and what is
//! wrong with a file is told by tensor, shape and size. Files are written and read by the crate `safetensors` on the other side.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use safetensors::tensor::{Dtype, TensorView};
use safetensors::{SafeTensors, serialize};
use tileweave::driver::sim::SimConfig;
use tileweave::layer::checkpoint::{Checkpoint, Llama, LlamaLayer, LlamaNames, Part, Writer};
use tileweave::{DType, GroupConfig, Node};

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
        let model = Llama { hidden, intermediate, heads, kv_heads, head_size, vocabulary };
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
        for part in all {
            let bytes = checkpoint.load(part, dtype).unwrap();
            let [rows, cols] = part.shape();
            prop_assert_eq!(bytes.len(), rows * cols * dtype.size());
            prop_assert_eq!(&bytes, &part.cut(dtype.size(), |name| Some(&tensors[name].1)).unwrap());
            writer.store(part, &bytes).unwrap();
        }
        writer.finish().unwrap();
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

#[test]
fn a_checkpoint_of_several_files() {
    let folder = Folder::new("several");
    let model = Llama {
        hidden: 8,
        intermediate: 12,
        heads: 4,
        kv_heads: 2,
        head_size: 4,
        vocabulary: 10,
    };
    let names = LlamaNames::default();
    let tensors = filled(DType::F32, &shapes(&model, &names));
    let (mut first, mut second, mut map) = (Tensors::new(), Tensors::new(), BTreeMap::new());
    for (i, (name, tensor)) in tensors.iter().enumerate() {
        let (to, file) = match i % 2 {
            0 => (&mut first, "model-00001-of-00002.safetensors"),
            _ => (&mut second, "model-00002-of-00002.safetensors"),
        };
        to.insert(name.clone(), tensor.clone());
        map.insert(name.clone(), file);
    }
    write(&folder.file("model-00001-of-00002.safetensors"), DType::F32, &first);
    write(&folder.file("model-00002-of-00002.safetensors"), DType::F32, &second);
    let index = |map: &BTreeMap<String, &str>| {
        let entries: Vec<String> = map
            .iter()
            .map(|(name, file)| format!("\"{name}\": \"{file}\""))
            .collect();
        let text = format!(
            "{{\"metadata\": {{\"total_size\": 1}}, \"weight_map\": {{{}}}}}",
            entries.join(", ")
        );
        std::fs::write(folder.file("model.safetensors.index.json"), text).unwrap();
    };
    index(&map);
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    assert_eq!(
        checkpoint.names().collect::<Vec<_>>(),
        tensors.keys().map(String::as_str).collect::<Vec<_>>()
    );
    let layer = model.layer(&names, 3, 2, 1).unwrap();
    for part in layer.parts() {
        let whole = part.cut(4, |name| Some(&tensors[name].1)).unwrap();
        assert_eq!(checkpoint.load(part, DType::F32).unwrap(), whole);
    }
    let info = checkpoint.info("model.norm.weight").unwrap();
    assert_eq!((info.dtype, info.shape), (Some(DType::F32), &[8][..]));

    let refused = |map: &BTreeMap<String, &str>, parts: &[&str]| {
        index(map);
        let error = Checkpoint::open(&folder.0).unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    };
    let mut wrong = map.clone();
    wrong.insert("model.norm.weight".into(), "model-00001-of-00002.safetensors");
    let in_second = map["model.norm.weight"] == "model-00002-of-00002.safetensors";
    assert!(in_second, "the test wants it in the other file");
    refused(
        &wrong,
        &[
            "tensor `model.norm.weight` is missing",
            "model-00001-of-00002.safetensors",
        ],
    );
    wrong.insert("model.norm.weight".into(), "../elsewhere.safetensors");
    refused(&wrong, &["../elsewhere.safetensors", "files beside it"]);
    wrong.insert("model.norm.weight".into(), "absent.safetensors");
    refused(&wrong, &["absent.safetensors is not readable"]);
    let twice = [
        folder.file("model-00001-of-00002.safetensors"),
        folder.file("model-00001-of-00002.safetensors"),
    ];
    assert!(
        Checkpoint::open_files(twice)
            .unwrap_err()
            .to_string()
            .contains("in one file")
    );
}

#[test]
fn what_is_uploaded_is_what_is_loaded() {
    let folder = Folder::new("upload");
    let tensors = filled(DType::F32, &[("w".into(), vec![6, 5]), ("b".into(), vec![6])]);
    write(&folder.file("model.safetensors"), DType::F32, &tensors);
    let checkpoint = Checkpoint::open(&folder.0).unwrap();
    let node = Node::sim(SimConfig::new(2, 0)).unwrap();
    for rank in node.group(2, &GroupConfig::default().heap_bytes(1 << 20)).unwrap() {
        let rows = tileweave::chunk(6, 2, rank.rank());
        for part in [
            Part::rows("w", &[6, 5], rows.clone()).unwrap(),
            Part::columns("w", [6, 5], 3 * rank.rank()..3 + 2 * rank.rank()).unwrap(),
            Part::rows("b", &[6], rows).unwrap(),
        ] {
            let buffer = checkpoint.upload(&part, DType::F32, &rank).unwrap();
            assert_eq!(
                buffer.to_vec::<u8>(buffer.len()).unwrap(),
                checkpoint.load(&part, DType::F32).unwrap()
            );
        }
    }
}

#[test]
fn what_is_refused() {
    let folder = Folder::new("refused");
    let file = folder.file("model.safetensors");
    let tensors = filled(DType::F32, &[("a".into(), vec![2, 3]), ("b".into(), vec![4])]);
    write(&file, DType::F32, &tensors);
    let good = std::fs::read(&file).unwrap();
    let checkpoint = Checkpoint::open(&file).unwrap();
    let load = |part: tileweave::Result<Part>, dtype| checkpoint.load(&part.unwrap(), dtype).unwrap_err().to_string();
    assert_eq!(
        load(Part::whole("c", &[1]), DType::F32),
        "tensor `c` is missing from a checkpoint of `a`, `b`: expected a checkpoint that has it"
    );
    let place = file.display();
    assert_eq!(
        load(Part::rows("a", &[3, 3], 0..1), DType::F32),
        format!("tensor `a` is F32 [2, 3] in {place}: expected F32 [3, 3]")
    );
    assert_eq!(
        load(Part::whole("b", &[4]), DType::Bf16),
        format!("tensor `b` is F32 [4] in {place}: expected BF16 [4]")
    );
    for (part, named) in [
        (
            Part::rows("a", &[2, 3], 1..3),
            "rows of tensor `a` is 1..3: expected some within its 2",
        ),
        (
            Part::columns("a", [2, 3], 0..4),
            "columns of tensor `a` is 0..4: expected some within its 3",
        ),
        (
            Part::whole("a", &[2, 3, 4]),
            "tensor `a` is of shape [2, 3, 4]: expected one or two dimensions",
        ),
        (
            Part::stacked([Part::whole("a", &[2, 3]).unwrap(), Part::whole("b", &[4]).unwrap()]),
            "the part of `b` is of 1 columns: expected 3, as the part of `a`",
        ),
    ] {
        assert_eq!(part.unwrap_err().to_string(), named);
    }
    let model = Llama {
        hidden: 8,
        intermediate: 8,
        heads: 8,
        kv_heads: 4,
        head_size: 2,
        vocabulary: 8,
    };
    let error = |world| {
        model
            .layer(&LlamaNames::default(), 0, world, 0)
            .unwrap_err()
            .to_string()
    };
    assert_eq!(error(3), "heads is 8: expected a multiple of the 3 ranks");
    let wide = Llama { heads: 24, ..model };
    let error = wide.layer(&LlamaNames::default(), 0, 6, 0).unwrap_err().to_string();
    assert_eq!(
        error,
        "kv_heads is 4: expected a multiple of the 6 ranks, or a number that divides them"
    );

    // Files that are none, or not whole.
    let opened = |bytes: &[u8]| {
        std::fs::write(&file, bytes).unwrap();
        Checkpoint::open(&file).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(opened(&good), Ok(()));
    for (bytes, named) in [
        (&[][..], "is 0 bytes long"),
        (&good[..9], "its header claims"),
        (
            &good[..good.len() - 1],
            "tensor `b` is F32 [4] at bytes 24..40 of the data, of which",
        ),
        (
            &good[..good.len() - 20],
            "tensor `a` is F32 [2, 3] at bytes 0..24 of the data, of which",
        ),
        (&[&good[..], &[0]].concat(), "where its last tensor ends"),
        (
            &[&8u64.to_le_bytes()[..], b"{\"a\": 1}"].concat(),
            "a file with another header",
        ),
        (&u64::MAX.to_le_bytes(), "its header claims 18446744073709551615"),
    ] {
        let error = opened(bytes).unwrap_err();
        assert!(error.contains(named), "{error}");
    }
    std::fs::remove_file(&file).unwrap();
    let error = Checkpoint::open(&folder.0).unwrap_err().to_string();
    assert!(
        error.contains("model.safetensors.index.json or model.safetensors"),
        "{error}"
    );
}

#[test]
fn what_is_stored_has_to_be_whole_and_alike() {
    let folder = Folder::new("stored");
    let file = folder.file("out.safetensors");
    let rows = |range| Part::rows("w", &[4, 2], range).unwrap();
    let (top, bottom, middle) = (rows(0..2), rows(2..4), rows(1..3));
    let begin = || Writer::create(&file, DType::F16, [&top, &bottom]).unwrap();
    let mut writer = begin();
    writer.store(&top, &[1; 8]).unwrap();
    let error = writer.store(&top, &[2; 8]).unwrap_err().to_string();
    assert!(
        error.contains("tensor `w` is other than another rank stored it"),
        "{error}"
    );
    writer.store(&top, &[1; 8]).unwrap();
    let error = writer.store(&middle, &[1; 8]).unwrap_err().to_string();
    assert!(error.contains("rows 1..3") && error.contains("rows 0..2"), "{error}");
    let error = writer.store(&bottom, &[1; 7]).unwrap_err().to_string();
    assert_eq!(error, "the part of `w` is 7 bytes: expected 8, [2, 2] of 2 bytes");
    let other = Part::whole("v", &[2]).unwrap();
    let error = writer.store(&other, &[0; 4]).unwrap_err().to_string();
    assert!(error.contains("tensor `v` is [2], stored"), "{error}");
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.contains("tensor `w` is stored to 4 of 8 elements"), "{error}");
    assert_eq!(
        std::fs::read_dir(&folder.0).unwrap().count(),
        0,
        "nothing unfinished is left"
    );

    let error = Writer::create(&file, DType::F16, [&top, &Part::whole("w", &[4, 3]).unwrap()])
        .unwrap_err()
        .to_string();
    assert_eq!(
        error,
        "the shape of tensor `w` is [4, 3]: expected [4, 2], as another part has it"
    );
    let mut writer = begin();
    writer.store(&bottom, &[2; 8]).unwrap();
    writer.store(&top, &[1; 8]).unwrap();
    writer.finish().unwrap();
    assert_eq!(read(&file, DType::F16)["w"], (vec![4, 2], [[1; 8], [2; 8]].concat()));
}

#[test]
fn sizes_from_a_configuration() {
    let folder = Folder::new("config");
    let file = folder.file("config.json");
    std::fs::write(
        &file,
        r#"{"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8, "num_key_value_heads": 2, "vocab_size": 7, "rope_theta": 1.0}"#,
    )
    .unwrap();
    let model = Llama {
        hidden: 64,
        intermediate: 96,
        heads: 8,
        kv_heads: 2,
        head_size: 8,
        vocabulary: 7,
    };
    assert_eq!(Llama::read_config(&file).unwrap(), model);
    std::fs::write(&file, r#"{"hidden_size": 64}"#).unwrap();
    let error = Llama::read_config(&file).unwrap_err().to_string();
    assert!(error.contains("missing field `intermediate_size`"), "{error}");
}
