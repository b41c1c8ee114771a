//! Several files, uploads, what is refused, what is written.

use std::collections::BTreeMap;

use tileweave::driver::sim::SimConfig;
use tileweave::layer::checkpoint::{Checkpoint, Llama, LlamaNames, Part, Writer};
use tileweave::{DType, GroupConfig, Node};

use super::{Folder, Tensors, filled, read, shapes, write};

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
        norm_eps: 1e-5,
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
    for rank in node.group(2, &GroupConfig::default().heap_bytes(2 << 20)).unwrap() {
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
        norm_eps: 1e-5,
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
        "kv_heads is 4: expected a multiple of the 6 ranks, or a divisor of 6"
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
        norm_eps: 1e-5,
    };
    assert_eq!(Llama::read_config(&file).unwrap(), model);
    std::fs::write(&file, r#"{"hidden_size": 64}"#).unwrap();
    let error = Llama::read_config(&file).unwrap_err().to_string();
    assert!(error.contains("missing field `intermediate_size`"), "{error}");
}
