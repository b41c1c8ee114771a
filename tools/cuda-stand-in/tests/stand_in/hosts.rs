//! Our GEMM, then NCCL: ranks that are processes, of one host or, by what their launcher says, of a host each, each with the
//! stand-in of its own. NCCL's stand-in between them (`tests/nccl/between.c`) adds what they really send.
//!
//! Operands are small integers, so that every partial and every sum is exact in bf16: results equal the reference.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use tileweave::driver::Driver;
use tileweave::{DType, Environment, Error, GroupConfig, NcclPolicy, Node, Op, Path, Rank, Want, reference};

use crate::common::{Case, Data, Loaded};
use crate::support::{WHOLE, config, driver, inside};

const WORLD: usize = 3;

/// Every operation, with chunks of one size and without.
fn cases() -> Vec<Case> {
    use tileweave::DType::{Bf16, F32};
    let ops = [
        Op::GemmAllReduce,
        Op::GemmReduceScatter,
        Op::AllGatherGemm,
        Op::AllReduce,
        Op::ReduceScatter,
        Op::AllGather,
    ];
    let of = |op| [(21, Bf16), (22, F32), (70, Bf16)].map(|(m, dtype)| Case::new(op, WORLD, m, 72, 96, dtype));
    let biased = [Case::new(Op::GemmAllReduce, WORLD, 5, 24, 48, Bf16).bias()];
    ops.into_iter().flat_map(of).chain(biased).collect()
}

fn integers(case: &Case) -> Data {
    let mut data = Data::new(case);
    let all = [&mut data.x, &mut data.weight, &mut data.bias]
        .into_iter()
        .chain(&mut data.inputs);
    // A weight's values are far below 1.
    all.flatten()
        .for_each(|value| *value = f64::from(*value > 0.05) - f64::from(*value < -0.05));
    data
}

fn sized(policy: NcclPolicy) -> GroupConfig {
    let specs: Vec<_> = cases()
        .iter()
        .flat_map(|case| (0..WORLD).map(|rank| case.spec(rank, Path::Nccl)))
        .collect();
    config().nccl(policy).sized_for(&specs, WORLD).unwrap()
}

/// Joins as a launcher's environment says.
fn join(policy: NcclPolicy) -> Rank {
    let told = Environment::read().unwrap().expect("a launcher's environment");
    let driver = std::sync::Arc::new(driver());
    let stream = driver.stream_create(WHOLE).unwrap();
    let (node, id, config) = (Node::new(driver), told.id("test"), sized(policy));
    if told.spans_hosts() {
        let (host, port) = told.meeting().unwrap();
        // SAFETY: nobody ends the stream: it goes with the process.
        unsafe { Rank::join_across(&node, stream, told.rank, told.world, &id, (&host, port), &config) }.unwrap()
    } else {
        // SAFETY: as above.
        unsafe { Rank::join(&node, stream, told.rank, told.world, &id, &config) }.unwrap()
    }
}

fn check(rank: &Rank, case: &Case, route: Want) {
    let data = integers(case);
    let plan = rank.plan(&case.spec(rank.rank(), Path::Nccl).route(route)).unwrap();
    let told = plan.route(case.m);
    assert_eq!(told.path, Path::Nccl, "{case:?}: {}", told.reason);
    if route == Want::Auto {
        assert!(told.reason.starts_with("ranks on several hosts"), "{}", told.reason);
    }
    let mut operands = Loaded::new(rank, case, &data).unwrap();
    operands.launch(&plan, case.m).unwrap();
    rank.synchronize().unwrap();
    let got = reference::decode(case.dtype, &operands.result().unwrap());
    let (rows, cols) = case.part(rank.rank());
    let want = Data::part(&data.expected(case).value, case.n, rows, cols);
    assert!(got == want, "rank {} of {case:?}", rank.rank());
}

inside! {
    fn member_of_several_hosts() {
        let rank = join(NcclPolicy::Own);
        assert!(rank.nccl().unwrap().starts_with("NCCL 2.30.7"), "{:?}", rank.nccl());
        for case in cases() {
            check(&rank, &case, Want::Auto);
            check(&rank, &case, Want::Exactly(Path::Nccl));
        }
        rank.host_barrier(std::time::Duration::from_secs(60)).unwrap();
    }

    fn member_of_one_host() {
        let rank = join(NcclPolicy::Own);
        cases().iter().for_each(|case| check(&rank, case, Want::Exactly(Path::Nccl)));
    }

    fn left_in_a_collective() {
        let rank = join(NcclPolicy::Own);
        if rank.rank() == 1 {
            // Nothing is said to anybody.
            std::process::abort();
        }
        let case = Case::new(Op::GemmAllReduce, WORLD, 9, 40, 64, DType::Bf16);
        let plan = rank.plan(&case.spec(rank.rank(), Path::Nccl)).unwrap();
        let mut operands = Loaded::new(&rank, &case, &integers(&case)).unwrap();
        // It would wait for ever; the end of the process is heard of, and ends it.
        let launched = operands.launch(&plan, case.m);
        assert!(launched.is_err(), "rank 1 did not take part");
        let error = rank.synchronize().unwrap_err();
        assert!(matches!(error, Error::PeerExited { rank: 1, .. }), "{error}");
    }

    fn without_a_library() {
        let rank = join(NcclPolicy::Own);
        let case = Case::new(Op::GemmAllReduce, WORLD, 9, 40, 64, DType::Bf16);
        let route = rank.plan(&case.spec(rank.rank(), Path::Nccl).route(Want::Auto)).unwrap().route(case.m);
        assert_eq!(route.path, Path::Decline, "{}", route.reason);
        assert!(route.reason.contains("ranks on several hosts") && route.reason.contains("/nowhere"), "{}", route.reason);
    }
}

/// The stand-in for NCCL, compiled once.
fn nccl() -> &'static PathBuf {
    static LIBRARY: OnceLock<PathBuf> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let source = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/nccl/between.c");
        let library = crate::folder().join("libnccl-between.so");
        let status = Command::new(std::env::var("CC").unwrap_or_else(|_| "cc".into()))
            .args(["-std=gnu11", "-O1", "-shared", "-fPIC", "-pthread", "-o"])
            .arg(&library)
            .arg(source)
            .arg("-ldl")
            .status()
            .expect("a C compiler");
        assert!(status.success());
        library
    })
}

/// A process for each rank, `local` of them on a host; what they did.
fn run(test: &str, local: usize, library: Option<&str>) -> Vec<(bool, String)> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let start = |rank: usize| -> Child {
        let mut command = crate::inside(&format!("hosts::{test}"), &[("TILEWEAVE_STAND_IN_GPUS", "3")]);
        for (name, value) in [
            ("RANK", rank),
            ("WORLD_SIZE", WORLD),
            ("LOCAL_RANK", rank % local),
            ("LOCAL_WORLD_SIZE", local),
            ("MASTER_PORT", port.into()),
            // Of one machine, which has a GPU for each.
            ("CUDA_VISIBLE_DEVICES", rank),
        ] {
            command.env(name, value.to_string());
        }
        command
            .env("MASTER_ADDR", "localhost")
            .env("TORCHELASTIC_RUN_ID", format!("{test} {}", std::process::id()))
            .env(
                "TILEWEAVE_NCCL",
                library.map_or(nccl().as_os_str(), std::ffi::OsStr::new),
            )
            .env("TMPDIR", crate::folder())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.spawn().unwrap()
    };
    let started: Vec<Child> = (0..WORLD).map(start).collect();
    // All are waited for before one is judged.
    let ended = started.into_iter().map(|child| child.wait_with_output().unwrap());
    let told = ended.map(|output| {
        let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        (output.status.success() && text.contains("1 passed"), text.into_owned())
    });
    told.collect()
}

fn all_pass(test: &str, local: usize, library: Option<&str>) {
    for (rank, (passed, text)) in run(test, local, library).into_iter().enumerate() {
        assert!(passed, "rank {rank}: {text}");
    }
}

#[test]
fn sums_of_several_hosts_equal_the_reference() {
    all_pass("member_of_several_hosts", 1, None);
}

#[test]
fn hosts_may_have_several_ranks() {
    all_pass("member_of_several_hosts", 2, None);
}

#[test]
fn sums_of_one_host_equal_the_reference() {
    all_pass("member_of_one_host", WORLD, None);
}

#[test]
fn without_nccl_plans_of_several_hosts_decline() {
    all_pass("without_a_library", 1, Some("/nowhere/libnccl.so.2"));
}

#[test]
fn a_host_that_ends_in_a_collective_is_named() {
    for local in [1, WORLD] {
        let told = run("left_in_a_collective", local, None);
        for rank in [0, 2] {
            assert!(told[rank].0, "rank {rank}: {}", told[rank].1);
        }
        assert!(!told[1].0);
    }
}
