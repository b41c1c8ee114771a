//! `tileweave layer`: every kind, files in and out, what it counts, and bad input.

use std::path::{Path, PathBuf};

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::{Value, json};

use super::files::{Tensors, read, write};
use super::{Ended, Folder, tileweave};

fn layer(words: &str) -> Ended {
    tileweave(&format!("layer --device sim --json {words}"))
}

/// Small sizes of every kind, with heads for up to 4 ranks.
const KINDS: [(&str, &str); 8] = [
    ("column", "--m 21 --hidden 24 --out 20 --bias"),
    ("row", "--m 21 --hidden 24 --out 20 --bias"),
    ("mlp", "--m 21 --hidden 24 --intermediate 20"),
    ("mlp", "--m 21 --hidden 24 --intermediate 20 --activation gelu --bias"),
    ("attention", "--m 21 --hidden 24 --heads 4 --kv-heads 2 --head-size 8"),
    (
        "attention",
        "--m 21 --hidden 24 --heads 4 --kv-heads 4 --head-size 8 --bias",
    ),
    (
        "transformer",
        "--m 21 --hidden 24 --intermediate 20 --heads 4 --kv-heads 2 --head-size 8",
    ),
    ("embedding", "--m 21 --hidden 24 --vocabulary 30"),
];

fn sum(list: &Value) -> u64 {
    list.as_array()
        .expect("a list")
        .iter()
        .map(|n| n.as_u64().expect("a number"))
        .sum()
}

#[test]
fn every_kind_is_right_and_sends_what_it_states() {
    for (kind, sizes) in KINDS {
        for (ranks, dtype) in [(1, "f32"), (2, "bf16"), (4, "f16"), (4, "f32")] {
            let mut totals = Vec::new();
            for sequence_parallel in ["", "--sequence-parallel"] {
                let words =
                    format!("--kind {kind} {sizes} --ranks {ranks} --dtype {dtype} {sequence_parallel} --backward");
                let report = layer(&words).done();
                let number = |name: &str| report[name].as_f64().expect("a number");
                assert!(
                    number("max_rel_err") <= number("bound") && number("bound") < 0.5,
                    "{words}: {report}"
                );
                assert_eq!(report["bytes_sent"], report["bytes_stated"], "{words}");
                assert_eq!(report["bytes_sent"].as_array().map(Vec::len), Some(ranks), "{words}");
                assert_eq!((&report["kind"], &report["ranks"]), (&json!(kind), &json!(ranks)));
                assert_eq!(report["sequence_parallel"], !sequence_parallel.is_empty(), "{words}");
                totals.push(sum(&report["bytes_sent"]));
                let forward = layer(&words.replace("--backward", "")).done();
                assert!(
                    forward["tensors"].as_object().is_some_and(|tensors| tensors.len() == 1),
                    "{forward}"
                );
                assert_eq!(forward["collectives"]["backward"], json!({}), "{words}");
                assert_eq!(forward["bytes_sent"], forward["bytes_stated"], "{words}");
            }
            assert!(ranks > 1 || totals == [0, 0], "{kind}: {totals:?}");
            // An embedding's gradient needs all rows of dy, which sequence parallelism has split.
            assert!(
                kind == "embedding" || totals[0] == totals[1],
                "{kind} on {ranks}: {totals:?}"
            );
        }
    }
}

/// No rows, and fewer rows and columns than ranks.
#[test]
fn layers_of_next_to_nothing() {
    for (kind, sizes) in [
        ("mlp", "--m 0 --hidden 8"),
        ("transformer", "--m 0 --hidden 8"),
        ("embedding", "--m 0 --hidden 8 --sequence-parallel"),
        ("column", "--m 0 --hidden 8 --bias --sequence-parallel"),
        ("mlp", "--m 3 --hidden 8 --intermediate 5 --sequence-parallel --ranks 8"),
        ("row", "--m 1 --hidden 3 --bias --ranks 8"),
        (
            "attention",
            "--m 1 --hidden 8 --heads 8 --kv-heads 1 --head-size 4 --ranks 8 --sequence-parallel",
        ),
    ] {
        let words = format!("--kind {kind} {sizes} --backward");
        let report = layer(&words).done();
        assert_eq!(report["bytes_sent"], report["bytes_stated"], "{words}");
    }
}

/// The textbook's counts and bytes: 2 (P - 1) / P of the matrix for an all-reduce, or for a gather and a scatter.
#[test]
fn blocks_exchange_what_the_textbook_says() {
    let (m, d, ranks) = (21, 24, 4);
    for (kind, blocks) in [("mlp", 1), ("attention", 1), ("transformer", 2)] {
        let sizes = KINDS.iter().find(|(named, _)| *named == kind).expect("there").1;
        for sequence_parallel in [false, true] {
            let option = if sequence_parallel { "--sequence-parallel" } else { "" };
            let report = layer(&format!(
                "--kind {kind} {sizes} --ranks {ranks} --dtype f32 --backward {option}"
            ))
            .done();
            let all_reduces = 2 * (ranks - 1) * m * d * 4;
            assert_eq!(sum(&report["bytes_sent"]), 2 * blocks * all_reduces, "{report}");
            let count = |pass: &str, ends: &str| -> u64 {
                let names = report["collectives"][pass].as_object().expect("counts by name");
                let named = names
                    .iter()
                    .filter(|(name, _)| name.ends_with(ends) || (ends == "all-gather" && *name == "all-gather-gemm"));
                named.map(|(_, count)| count.as_u64().expect("a count")).sum()
            };
            for pass in ["forward", "backward"] {
                let counts = ["all-reduce", "all-gather", "reduce-scatter"].map(|name| count(pass, name));
                let wanted = if sequence_parallel {
                    [0, blocks, blocks]
                } else {
                    [blocks, 0, 0]
                };
                assert_eq!(counts, wanted, "{kind} {pass} {option}: {report}");
            }
        }
    }
}

/// Of one result there is one set of bits, whatever order things happen in and whichever route they take.
#[test]
fn digests_do_not_depend_on_schedule_and_route() {
    for kind in ["mlp", "transformer"] {
        let sizes = KINDS.iter().find(|(named, _)| *named == kind).expect("there").1;
        let digest = |words: &str| {
            let report = layer(&format!("--kind {kind} {sizes} --ranks 2 --backward {words}")).done();
            report["result_digest"].clone()
        };
        let first = digest("");
        for words in [
            "--schedule-seed 7",
            "--route fused",
            "--route unfused",
            "--sequence-parallel --schedule-seed 3",
        ] {
            let same = digest(words) == first;
            // Norms' gradients are summed over ranks with sequence parallelism: other roundings.
            assert!(
                same || (kind == "transformer" && words.contains("sequence")),
                "{kind} {words}"
            );
        }
        assert_ne!(digest("--seed 1"), first);
    }
}

/// Small integers: every sum is exact.
const X: (&str, &[usize], &[f32]) = ("x", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
const WEIGHT: (&str, &[usize], &[f32]) = ("weight", &[2, 2], &[1.0, 10.0, 100.0, 1000.0]);
const BIAS: (&str, &[usize], &[f32]) = ("bias", &[2], &[0.5, 0.25]);
const DY: (&str, &[usize], &[f32]) = ("dy", &[3, 2], &[1.0, 0.0, 0.0, 1.0, 1.0, 1.0]);

fn run_files(kind: &str, input: &Path, output: &Path, rest: &str) -> Ended {
    let (input, output) = (input.display(), output.display());
    layer(&format!("--kind {kind} --input {input} --output {output} {rest}"))
}

#[test]
fn results_are_whole_tensors() {
    let folder = Folder::new("layer-results");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    write(&input, &[X, WEIGHT, BIAS, DY]);
    for kind in ["column", "row"] {
        for rest in ["--ranks 1", "--ranks 2", "--ranks 3 --sequence-parallel"] {
            run_files(kind, &input, &output, &format!("{rest} --backward")).done();
            let made = read(&output);
            let tensor = |name: &str| made[name].clone();
            assert_eq!(
                tensor("y"),
                (vec![3, 2], vec![21.5, 2100.25, 43.5, 4300.25, 65.5, 6500.25])
            );
            assert_eq!(
                tensor("dx"),
                (vec![3, 2], vec![1.0, 10.0, 100.0, 1000.0, 101.0, 1010.0])
            );
            assert_eq!(tensor("dweight"), (vec![2, 2], vec![6.0, 8.0, 8.0, 10.0]));
            assert_eq!(tensor("dbias"), (vec![2], vec![2.0, 2.0]));
            assert_eq!(made.len(), 4, "{kind} {rest}");
            run_files(kind, &input, &output, rest).done();
            assert_eq!(read(&output).keys().collect::<Vec<_>>(), ["y"]);
        }
    }
}

/// ids beside tensors of f32.
fn write_ids(path: &Path, ids: &[i64], tensors: Tensors) {
    let ids: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        let view = TensorView::new(Dtype::F32, shape.to_vec(), bytes);
        (*name, view.expect("shape and data agree"))
    });
    let ids = TensorView::new(Dtype::I64, vec![ids.len() / 8], &ids).expect("a list");
    let views: Vec<_> = views.chain([("ids", ids)]).collect();
    safetensors::serialize_to_file(views, None, path).expect("written");
}

#[test]
fn an_embedding_takes_ids() {
    let folder = Folder::new("layer-embedding");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    let table = ("weight", &[4usize, 1][..], &[1.0f32, 2.0, 3.0, 4.0][..]);
    let dy = ("dy", &[5usize, 1][..], &[1.0f32, 10.0, 100.0, 1000.0, 10000.0][..]);
    write_ids(&input, &[3, 0, 3, 2, 3], &[table, dy]);
    for rest in ["--ranks 2", "--ranks 4 --sequence-parallel"] {
        run_files("embedding", &input, &output, &format!("{rest} --backward")).done();
        let made = read(&output);
        assert_eq!(made["y"], (vec![5, 1], vec![4.0, 1.0, 4.0, 3.0, 4.0]));
        assert_eq!(made["dweight"], (vec![4, 1], vec![10.0, 0.0, 1000.0, 10101.0]));
        assert_eq!(made.len(), 2);
    }
    let error = run_files("embedding", &input, &output, "--ranks 5").failed(2, "bad_input");
    let message = error["message"].to_string();
    assert!(message.contains('4') && message.contains('5'), "{message}");
    for (id, named) in [(4, "ids[1] is 4"), (-1, "ids[1] is -1")] {
        write_ids(&input, &[0, id], &[table]);
        let error = run_files("embedding", &input, &output, "--ranks 2").failed(2, "bad_input");
        let message = error["message"].to_string();
        assert!(
            message.contains(named) && message.contains("vocabulary of 4"),
            "{message}"
        );
    }
}

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/layers/goldens/{name}.f32.safetensors"))
}

/// Files that PyTorch wrote, with what its own ranks computed beside the layer's tensors.
#[test]
fn files_of_pytorch_give_what_pytorch_computed() {
    let folder = Folder::new("layer-pytorch");
    let output = folder.file("out.safetensors");
    for (name, kind, options) in [
        ("mlp_gelu", "mlp", ""),
        ("mlp_swiglu", "mlp", "--sequence-parallel"),
        ("attention", "attention", "--heads 8"),
        ("attention", "attention", "--heads 8 --kv-heads 4 --sequence-parallel"),
    ] {
        let rest = format!("--ranks 4 --backward {options}");
        let ended = run_files(kind, &golden(name), &output, &rest);
        ended.done();
        assert!(
            ended.stderr.contains("not used by --kind") && ended.stderr.contains("p4.y"),
            "{}",
            ended.stderr
        );
        let made = read(&output);
        let bytes = std::fs::read(golden(name)).expect("there");
        let theirs = SafeTensors::deserialize(&bytes).expect("whole");
        for (tensor, (shape, ours)) in &made {
            let theirs = theirs.tensor(&format!("p4.{tensor}")).expect("computed, too");
            assert_eq!(theirs.shape(), shape, "{name} {tensor}");
            let theirs = theirs.data().as_chunks().0.iter().map(|raw| f32::from_le_bytes(*raw));
            let largest = ours.iter().fold(0f32, |most, value| most.max(value.abs()));
            let farthest = theirs.zip(ours).fold(0f32, |most, (a, b)| most.max((a - b).abs()));
            assert!(farthest < 4e-6 * largest, "{name} {tensor}: {farthest} of {largest}");
        }
        assert!(made.len() >= 5, "{name}: {:?}", made.keys());
    }
}

#[test]
fn bad_input_names_the_numbers() {
    for (words, parts) in [
        (
            "--kind attention --heads 6 --kv-heads 3 --ranks 4",
            &["heads is 6", "4 ranks"][..],
        ),
        (
            "--kind transformer --heads 24 --kv-heads 4 --ranks 6",
            &["kv_heads is 4", "6 ranks"],
        ),
        ("--kind attention --heads 8 --kv-heads 3", &["heads is 8", "3 KV heads"]),
        ("--kind attention --heads 0", &["--heads"]),
        (
            "--kind mlp --heads 4",
            &["--heads is 4", "attention or transformer, not mlp"],
        ),
        ("--kind column --kv-heads 4", &["--kv-heads is 4", "not column"]),
        (
            "--kind row --activation gelu",
            &["--activation is given", "--kind mlp, not row"],
        ),
        ("--kind embedding --vocabulary 3 --ranks 4", &["3", "4"]),
        ("--kind column --hidden 0", &["number of columns of x is 0", "from 1"]),
        (
            "--kind column --m 2147483647 --ranks 4",
            &["number of rows is 2147483647", "8388608"],
        ),
        (
            "--kind mlp --hidden 2147483647 --intermediate 2147483647",
            &["host memory", "expected smaller sizes"],
        ),
        ("--kind norm", &["norm", "transformer"]),
        ("", &["--kind"]),
        ("--kind mlp --input f --m 3", &["--m"]),
        (
            "--kind mlp --input /nonexistent/x.safetensors",
            &["/nonexistent/x.safetensors", "cannot be read"],
        ),
        (
            "--kind mlp --output /nonexistent/folder/y.safetensors",
            &["--output", "/nonexistent/folder"],
        ),
        ("--kind mlp --ranks 17", &["17", "1 to 16"]),
    ] {
        let message = layer(words).failed(2, "bad_input")["message"].to_string();
        for part in parts {
            assert!(message.contains(part), "{words}: {message}");
        }
    }
}

#[test]
fn bad_files_name_the_tensor() {
    let folder = Folder::new("layer-bad");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    let refused = |kind: &str, tensors: Tensors, rest: &str, named: &[&str]| {
        write(&input, tensors);
        let error = run_files(kind, &input, &output, &format!("--ranks 2 {rest}")).failed(2, "bad_input");
        let message = error["message"].to_string();
        assert!(named.iter().all(|part| message.contains(part)), "{kind}: {message}");
        assert_eq!(folder.names(), ["in.safetensors"]);
    };
    refused("column", &[X], "", &["`weight` is missing"]);
    refused("column", &[X, WEIGHT], "--backward", &["`dy` is missing"]);
    refused(
        "row",
        &[X, ("weight", &[2, 3], &[0.0; 6])],
        "",
        &["`weight`", "[2, 3]", "expected [2, 2], [N, D]"],
    );
    refused(
        "row",
        &[X, WEIGHT, ("bias", &[3], &[0.0; 3])],
        "",
        &["`bias`", "expected [2], [N]"],
    );
    refused(
        "row",
        &[X, WEIGHT, ("dy", &[2, 2], &[0.0; 4])],
        "--backward",
        &["`dy`", "expected [3, 2], [S, N]"],
    );
    refused("mlp", &[X], "", &["`gate_proj.weight` is missing"]);
    let (fc1, gate) = (
        ("fc1.weight", &[4usize, 2][..], &[0.0f32; 8][..]),
        ("gate_proj.weight", &[4usize, 2][..], &[0.0f32; 8][..]),
    );
    refused("mlp", &[X, fc1, gate], "", &["`gate_proj.weight`", "`fc1.weight`, too"]);
    refused(
        "mlp",
        &[X, fc1, ("fc2.weight", &[2, 3], &[0.0; 6])],
        "",
        &["`fc2.weight`", "expected [2, 4], [D, F]"],
    );
    let q = ("q_proj.weight", &[8usize, 2][..], &[0.0f32; 16][..]);
    let (k, v) = (
        ("k_proj.weight", &[4usize, 2][..], &[0.0f32; 8][..]),
        ("v_proj.weight", &[4usize, 2][..], &[0.0f32; 8][..]),
    );
    let o = ("o_proj.weight", &[2usize, 8][..], &[0.0f32; 16][..]);
    refused(
        "attention",
        &[X, q, k, v, o],
        "",
        &["--heads is not given", "8 rows of q_proj.weight"],
    );
    refused(
        "attention",
        &[X, q, k, v, o],
        "--heads 3",
        &["--heads is 3", "divides the 8 rows"],
    );
    refused(
        "attention",
        &[X, q, k, v, o],
        "--heads 4 --kv-heads 4",
        &["--kv-heads is 4", "4 rows of k_proj.weight", "2 of a head"],
    );
    refused(
        "embedding",
        &[("weight", &[4, 1], &[0.0; 4])],
        "",
        &["`ids` is missing"],
    );
    refused(
        "embedding",
        &[("weight", &[4, 1], &[0.0; 4]), ("ids", &[2], &[0.0; 2])],
        "",
        &["`ids`", "expected I64"],
    );
}

#[test]
fn what_is_not_there_is_exit_4() {
    for (words, why) in [
        ("--kind row --route nccl", "the simulated node has no NCCL"),
        ("--kind column --route nccl", "the simulated node has no NCCL"),
        ("--kind embedding --route fused", "no GEMM"),
    ] {
        let error = layer(words).failed(4, "unavailable");
        assert!(error["message"].to_string().contains(why), "{words}: {error}");
    }
}

#[test]
fn a_table_for_people() {
    let ended = tileweave("layer --device sim --kind mlp --m 5 --hidden 8 --intermediate 8 --ranks 2 --backward");
    assert_eq!(ended.code, 0, "{}", ended.stderr);
    for part in [
        "1 gemm-all-reduce",
        "bytes sent",
        "dgate_proj.weight",
        "The result is right",
    ] {
        assert!(ended.stdout.contains(part), "{part}: {}", ended.stdout);
    }
}
