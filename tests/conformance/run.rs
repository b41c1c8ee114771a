//! Runs one case of the kernel `conformance`.

use std::sync::OnceLock;

use tileweave::Node;
use tileweave::abi::TwParams;
use tileweave::driver::{DevicePtr, Driver, Launch, Place};

use crate::common;

const PLACE: Place = Place {
    device: 0,
    share: 0,
    shares: 1,
};
const THREADS: u32 = 128;
const SHARED: u32 = 8192;

/// The names in `TW_CONFORMANCE_CASES`, in order.
pub fn listed_cases() -> Vec<&'static str> {
    let list = crate::KERNEL
        .split("#define TW_CONFORMANCE_CASES(X)")
        .nth(1)
        .expect("the list of cases");
    let list = list.split("\n\n").next().unwrap();
    list.split("X(")
        .skip(1)
        .map(|item| item.split(')').next().unwrap())
        .collect()
}

/// One case, ready to be launched.
pub struct Case {
    id: u32,
}

impl Case {
    pub fn of(name: &str) -> Case {
        let id = listed_cases()
            .iter()
            .position(|case| *case == name)
            .expect("a listed case");
        Case { id: id as u32 }
    }

    /// Runs the case on one machine after the other (one GPU, or simulated nodes of several seeds) and hands each result
    /// to `check`: `words` u32 of output, which start as 0.
    pub fn run(&self, grid: u32, x: &[u32], weight: &[u32], words: usize, check: impl Fn(&[u32])) {
        if common::on_gpu() {
            // One context for all cases: nodes are not for free there.
            static GPU: OnceLock<Node> = OnceLock::new();
            let node = GPU.get_or_init(|| common::node(1, 0));
            return check(&self.run_on(node.driver().as_ref(), grid, x, weight, words));
        }
        for seed in 0..6 * common::deep() as u64 {
            let node = common::node(1, seed);
            check(&self.run_on(node.driver().as_ref(), grid, x, weight, words));
        }
    }

    fn run_on(&self, driver: &dyn Driver, grid: u32, x: &[u32], weight: &[u32], words: usize) -> Vec<u32> {
        driver.load_kernels(PLACE).unwrap();
        let stream = driver.stream_create(PLACE).unwrap();
        let upload = |words: &[u32]| -> DevicePtr {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let ptr = driver.alloc(PLACE, bytes.len().max(16)).unwrap();
            driver.copy_in(ptr, &bytes, stream).unwrap();
            ptr
        };
        let (x, weight) = (upload(x), upload(weight));
        let out = driver.alloc(PLACE, 4 * words).unwrap();
        driver.fill(out, 0, 4 * words, stream).unwrap();

        let launch = Launch {
            grid,
            threads: THREADS,
            shared: SHARED,
            cluster: 1,
        };
        assert!(driver.ctas_per_sm("conformance", launch, PLACE).unwrap() >= 1);
        let params = TwParams {
            x,
            weight,
            out,
            k: self.id,
            ..TwParams::default()
        };
        driver.launch("conformance", launch, &params, stream).unwrap();

        let mut bytes = vec![0; 4 * words];
        driver.copy_out(&mut bytes, out, stream).unwrap();
        for ptr in [x, weight, out] {
            driver.free_async(ptr, stream).unwrap();
        }
        driver.stream_destroy(stream).unwrap();
        bytes
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes(word.try_into().unwrap()))
            .collect()
    }
}
