//! Safetensors in and out.

use std::collections::HashMap;
use std::path::Path;

use safetensors::SafeTensors;
use safetensors::tensor::{Dtype, TensorView};

use super::{Ended, Folder, tileweave};

pub type Tensors<'a> = &'a [(&'a str, &'a [usize], &'a [f32])];

pub fn write(path: &Path, tensors: Tensors) {
    let bytes: Vec<Vec<u8>> = tensors
        .iter()
        .map(|(.., values)| values.iter().flat_map(|value| value.to_le_bytes()).collect())
        .collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape, _), bytes)| {
        (
            *name,
            TensorView::new(Dtype::F32, shape.to_vec(), bytes).expect("shape and data agree"),
        )
    });
    safetensors::serialize_to_file(views.collect::<Vec<_>>(), None, path).expect("written");
}

pub fn read(path: &Path) -> HashMap<String, (Vec<usize>, Vec<f32>)> {
    let bytes = std::fs::read(path).expect("the program wrote it");
    let tensors = SafeTensors::deserialize(&bytes).expect("whole");
    let values = |data: &[u8]| {
        data.chunks_exact(4)
            .map(|raw| f32::from_le_bytes(raw.try_into().expect("four bytes")))
            .collect()
    };
    tensors
        .iter()
        .map(|(name, view)| (name.to_string(), (view.shape().to_vec(), values(view.data()))))
        .collect()
}

fn run_files(op: &str, input: &Path, output: &Path, rest: &str) -> Ended {
    tileweave(&format!(
        "run --device sim --json --op {op} --input {} --output {} {rest}",
        input.display(),
        output.display()
    ))
}

/// Small integers: every sum is exact, so results are numbers that can be written down.
const X: (&str, &[usize], &[f32]) = ("x", &[3, 2], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
const WEIGHT: (&str, &[usize], &[f32]) = ("weight", &[2, 2], &[1.0, 10.0, 100.0, 1000.0]);
const BIAS: (&str, &[usize], &[f32]) = ("bias", &[2], &[0.5, 0.25]);

#[test]
fn results_are_what_each_rank_holds() {
    let folder = Folder::new("results");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    write(&input, &[X, WEIGHT, BIAS]);
    let full = [21.5, 2100.25, 43.5, 4300.25, 65.5, 6500.25];
    run_files("gemm-all-reduce", &input, &output, "--ranks 2").done();
    let all_reduced = read(&output);
    assert_eq!(all_reduced.len(), 2);
    for rank in 0..2 {
        assert_eq!(all_reduced[&format!("y.rank{rank}")], (vec![3, 2], full.to_vec()));
    }
    run_files("gemm-reduce-scatter", &input, &output, "--ranks 4").done();
    let scattered = read(&output);
    assert_eq!(scattered["y.rank1"], (vec![1, 2], full[2..4].to_vec()));
    assert_eq!(scattered["y.rank3"], (vec![0, 2], Vec::new()));
    run_files("all-gather-gemm", &input, &output, "--ranks 2").done();
    assert_eq!(read(&output)["y.rank1"], (vec![3, 1], vec![2100.25, 4300.25, 6500.25]));
    assert_eq!(
        folder.names(),
        ["in.safetensors", "out.safetensors"],
        "nothing unfinished is left"
    );
}

#[test]
fn an_addend_is_each_ranks_own() {
    let folder = Folder::new("addend");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    let addend = ("addend", &[2usize, 1, 1][..], &[100.0f32, 1000.0][..]);
    write(
        &input,
        &[("x", &[1, 2], &[1.0, 2.0]), ("weight", &[1, 2], &[3.0, 4.0]), addend],
    );
    run_files("gemm-all-reduce", &input, &output, "--ranks 2").done();
    assert_eq!(read(&output)["y.rank0"].1, [1111.0]);
    run_files("all-gather-gemm", &input, &output, "--ranks 2").failed(2, "bad_input");
    run_files("gemm-all-reduce", &input, &output, "--ranks 3").failed(2, "bad_input");
}

/// h = [3, 4] and [0, 0] once the ranks' sums and the residual are added; with eps the first row's scale is 1 / 4.
#[test]
fn a_residual_is_read_and_written_back() {
    let folder = Folder::new("residual");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    let x = (
        "x",
        &[2usize, 2, 2][..],
        &[1.0f32, 1.0, 1.0, 1.0, 1.0, 1.0, -2.0, 0.0][..],
    );
    let residual = ("residual", &[2usize, 2][..], &[1.0f32, 2.0, 1.0, -1.0][..]);
    let gamma = ("gamma", &[2usize][..], &[1.0f32, -2.0][..]);
    write(&input, &[x, residual, gamma]);
    run_files("all-reduce", &input, &output, "--residual-norm 3.5").done();
    let made = read(&output);
    assert_eq!(made.len(), 4);
    for rank in 0..2 {
        assert_eq!(made[&format!("y.rank{rank}")].1, [0.75, -2.0, 0.0, 0.0]);
        assert_eq!(
            made[&format!("residual.rank{rank}")],
            (vec![2, 2], vec![3.0, 4.0, 0.0, 0.0])
        );
    }
    let refused = |rest: &str, named: &str| {
        let error = run_files("all-reduce", &input, &output, rest).failed(2, "bad_input");
        assert!(error["message"].to_string().contains(named), "{rest}: {error}");
    };
    refused("", "--residual-norm is not given");
    write(&input, &[x, residual]);
    refused("--residual-norm 3.5", "`gamma` is missing");
    write(&input, &[x, residual, ("gamma", &[3], &[1.0; 3])]);
    refused("--residual-norm 3.5", "expected [2], [N]");
}

#[test]
fn collectives_take_their_ranks_from_the_file() {
    let folder = Folder::new("collectives");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    write(&input, &[("x", &[3, 1, 2], &[1.0, 2.0, 10.0, 20.0, 100.0, 200.0])]);
    run_files("all-gather", &input, &output, "").done();
    assert_eq!(
        read(&output)["y.rank2"],
        (vec![3, 2], vec![1.0, 2.0, 10.0, 20.0, 100.0, 200.0])
    );
    run_files("all-reduce", &input, &output, "--in-place").done();
    assert_eq!(read(&output)["y.rank1"], (vec![1, 2], vec![111.0, 222.0]));
    run_files("all-reduce", &input, &output, "--ranks 2").failed(2, "bad_input");
}

#[test]
fn nan_and_infinity_are_data() {
    let folder = Folder::new("nan");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    write(
        &input,
        &[
            ("x", &[2, 2], &[f32::NAN, 1.0, f32::INFINITY, 1.0]),
            ("weight", &[1, 2], &[1.0, 1.0]),
        ],
    );
    run_files("gemm-all-reduce", &input, &output, "--ranks 2").done();
    let values = &read(&output)["y.rank0"].1;
    assert!(values[0].is_nan() && values[1] == f32::INFINITY, "{values:?}");
}

#[test]
fn a_bad_file_is_refused_and_nothing_is_written() {
    let folder = Folder::new("bad");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    write(&input, &[X, WEIGHT]);
    let good = std::fs::read(&input).expect("just written");
    let refused = |what: &str, bytes: &[u8], named: &str| {
        std::fs::write(&input, bytes).expect("writable");
        let error = run_files("gemm-all-reduce", &input, &output, "--ranks 2").failed(2, "bad_input");
        assert!(error["message"].to_string().contains(named), "{what}: {error}");
        assert_eq!(folder.names(), ["in.safetensors"], "{what}");
    };
    refused("empty", &[], "0 bytes");
    refused("truncated", &good[..good.len() - 3], "tensor `x`");
    refused("header cut", &good[..20], "truncated");
    write(&input, &[X]);
    refused(
        "no weight",
        &std::fs::read(&input).expect("written"),
        "`weight` is missing",
    );
    write(&input, &[X, ("weight", &[1, 4], &[1.0; 4])]);
    refused(
        "K disagrees",
        &std::fs::read(&input).expect("written"),
        "expected [N, 2]",
    );
    write(&input, &[X, WEIGHT, ("bias", &[3], &[1.0; 3])]);
    refused(
        "bias too long",
        &std::fs::read(&input).expect("written"),
        "tensor `bias`",
    );
    let error = run_files("gemm-all-reduce", Path::new("/dev/zero"), &output, "--ranks 2").failed(2, "bad_input");
    assert!(error["message"].to_string().contains("no regular file"), "{error}");
}

#[test]
fn options_may_repeat_what_the_file_says_and_not_more() {
    let folder = Folder::new("options");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    write(&input, &[X, WEIGHT]);
    run_files(
        "gemm-all-reduce",
        &input,
        &output,
        "--ranks 2 --m 3 --n 2 --k 2 --dtype f32",
    )
    .done();
    for rest in ["--m 4", "--k 3", "--dtype bf16", "--bias"] {
        run_files("gemm-all-reduce", &input, &output, &format!("--ranks 2 {rest}")).failed(2, "bad_input");
    }
}

#[test]
fn a_failed_run_leaves_the_old_output_alone() {
    let folder = Folder::new("old");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    write(&input, &[X, WEIGHT]);
    std::fs::write(&output, b"old").expect("writable");
    run_files(
        "gemm-all-reduce",
        &input,
        &output,
        "--ranks 2 --fault silent:0 --deadline-ms 20",
    )
    .failed(3, "timeout");
    assert_eq!(std::fs::read(&output).expect("still there"), b"old");
    assert_eq!(folder.names(), ["in.safetensors", "out.safetensors"]);
}

#[test]
fn files_of_few_bytes_and_endless_rows_are_refused() {
    let folder = Folder::new("endless");
    let (input, output) = (folder.file("in.safetensors"), folder.file("out.safetensors"));
    write(&input, &[("x", &[1 << 27, 0], &[]), ("weight", &[0, 0], &[])]);
    let error = run_files("all-gather-gemm", &input, &output, "--ranks 4").failed(2, "bad_input");
    assert!(error["message"].to_string().contains("536870912 positions"), "{error}");
}

#[cfg(unix)]
mod places {
    use std::os::unix::fs::{FileTypeExt, PermissionsExt, symlink};
    use std::process::Command;

    use super::*;

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).expect("there").permissions().mode() & 0o777
    }

    #[test]
    fn an_output_has_the_mode_of_any_new_file_or_of_the_one_it_replaces() {
        let folder = Folder::new("mode");
        let (input, output, other) = (folder.file("in.safetensors"), folder.file("out"), folder.file("other"));
        write(&input, &[X, WEIGHT]);
        std::fs::write(&other, b"").expect("writable");
        run_files("gemm-all-reduce", &input, &output, "--ranks 2").done();
        assert_eq!(mode(&output), mode(&other));
        std::fs::set_permissions(&output, PermissionsExt::from_mode(0o640)).expect("ours");
        run_files("gemm-all-reduce", &input, &output, "--ranks 2").done();
        assert_eq!(mode(&output), 0o640);
    }

    #[test]
    fn a_link_stays_and_what_it_points_to_is_replaced() {
        let folder = Folder::new("link");
        let (input, link) = (folder.file("in.safetensors"), folder.file("link"));
        let inner = folder.file("inner");
        std::fs::create_dir(&inner).expect("writable");
        let target = inner.join("target");
        write(&input, &[X, WEIGHT]);
        std::fs::write(&target, b"old").expect("writable");
        symlink("inner/target", &link).expect("a link");
        run_files("gemm-all-reduce", &input, &link, "--ranks 2").done();
        assert!(link.symlink_metadata().expect("there").is_symlink());
        assert_eq!(read(&target).len(), 2);
        let names = |folder: &Path| std::fs::read_dir(folder).expect("readable").count();
        assert_eq!(
            (names(&inner), folder.names().len()),
            (1, 3),
            "nothing unfinished is left"
        );

        let nowhere = folder.file("nowhere");
        symlink("missing", &nowhere).expect("a link");
        let error = run_files("gemm-all-reduce", &input, &nowhere, "--ranks 2").failed(2, "bad_input");
        assert!(error["message"].to_string().contains("points to nothing"), "{error}");
    }

    #[test]
    fn what_is_no_regular_file_is_refused_and_left_alone() {
        let folder = Folder::new("fifo");
        let (input, fifo, link) = (folder.file("in.safetensors"), folder.file("fifo"), folder.file("link"));
        write(&input, &[X, WEIGHT]);
        let made = Command::new("mkfifo").arg(&fifo).status().expect("mkfifo is POSIX");
        assert!(made.success());
        symlink(&fifo, &link).expect("a link");
        for output in [&fifo, &link] {
            let error = run_files("gemm-all-reduce", &input, output, "--ranks 2").failed(2, "bad_input");
            assert!(error["message"].to_string().contains("a regular file"), "{error}");
        }
        assert!(fifo.metadata().expect("there").file_type().is_fifo());
        assert_eq!(folder.names(), ["fifo", "in.safetensors", "link"]);
    }
}
