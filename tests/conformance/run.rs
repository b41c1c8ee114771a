//! Runs one case of the kernel `conformance`.

use std::sync::OnceLock;

use tileweave::Node;
use tileweave::abi::{TwParams, TwTensorMap};
use tileweave::driver::{DevicePtr, Driver, Launch, Place, TensorMap};

use crate::common;

const PLACE: Place = Place {
    device: 0,
    share: 0,
    shares: 1,
};
const THREADS: u32 = 128;
const SHARED: u32 = 65536;

/// The names in `TW_CONFORMANCE_CASES`, then those of Hopper's and of multicast's, in order: the cases' numbers.
pub fn listed_cases() -> Vec<&'static str> {
    let names = |source: &'static str, list: &str| {
        let list = source
            .split(&format!("#define {list}(X)"))
            .nth(1)
            .and_then(|rest| rest.split("\n\n").next())
            .expect("the list of cases");
        list.split("X(").skip(1).map(|item| item.split(')').next().unwrap())
    };
    names(crate::KERNEL, "TW_CONFORMANCE_CASES")
        .chain(names(crate::HOPPER_KERNEL, "TW_CONFORMANCE_HOPPER_CASES"))
        .chain(names(crate::MULTICAST_KERNEL, "TW_CONFORMANCE_MULTICAST_CASES"))
        .collect()
}

/// How a case is launched.
pub struct Setup<'a> {
    pub grid: u32,
    pub cluster: u32,
    pub x: &'a [u32],
    pub weight: &'a [u32],
    /// u32 words of output, which start as 0.
    pub words: usize,
    /// Fills in what the case reads besides `x`, `weight` and `out`, which are there; encodes maps.
    pub prepare: &'a dyn Fn(&mut TwParams, Encode<'_>),
}

/// Encodes a map for the machine that the case runs on.
pub type Encode<'a> = &'a dyn Fn(TensorMap) -> TwTensorMap;

impl Default for Setup<'_> {
    fn default() -> Self {
        Setup {
            grid: 1,
            cluster: 1,
            x: &[],
            weight: &[],
            words: THREADS as usize,
            prepare: &|_, _| {},
        }
    }
}

/// One case, ready to be launched.
pub struct Case {
    id: u32,
    of_hopper: bool,
}

impl Case {
    pub fn of(name: &str) -> Case {
        let id = listed_cases()
            .iter()
            .position(|case| *case == name)
            .expect("a listed case");
        Case {
            id: id as u32,
            of_hopper: id >= crate::CASES.len(),
        }
    }

    /// Runs a case that needs no more than operands.
    pub fn run(&self, grid: u32, x: &[u32], weight: &[u32], words: usize, check: impl Fn(&[u32])) {
        let setup = Setup {
            grid,
            x,
            weight,
            words,
            ..Setup::default()
        };
        self.run_with(&setup, check);
    }

    /// Runs the case on one machine after the other (one GPU, or simulated nodes of several seeds) and hands each result
    /// to `check`.
    pub fn run_with(&self, setup: &Setup<'_>, check: impl Fn(&[u32])) {
        if common::on_gpu() {
            // One context for all cases: nodes are not for free there.
            static GPU: OnceLock<Node> = OnceLock::new();
            let driver = GPU.get_or_init(|| common::node(1, 0)).driver();
            if self.of_hopper && !driver.place_info(PLACE).unwrap().hopper {
                println!("skipped: this GPU is no Hopper");
                return;
            }
            return check(&self.run_on(driver.as_ref(), setup));
        }
        for seed in 0..6 * common::deep() as u64 {
            let node = common::node(1, seed);
            check(&self.run_on(node.driver().as_ref(), setup));
        }
    }

    pub fn run_on(&self, driver: &dyn Driver, setup: &Setup<'_>) -> Vec<u32> {
        driver.load_kernels(PLACE).unwrap();
        let stream = driver.stream_create(PLACE).unwrap();
        let upload = |words: &[u32]| -> DevicePtr {
            let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
            let ptr = driver.alloc(PLACE, bytes.len().max(16)).unwrap();
            driver.copy_in(ptr, &bytes, stream).unwrap();
            ptr
        };
        let (x, weight) = (upload(setup.x), upload(setup.weight));
        let out = driver.alloc(PLACE, 4 * setup.words).unwrap();
        driver.fill(out, 0, 4 * setup.words, stream).unwrap();

        let launch = Launch {
            grid: setup.grid,
            threads: THREADS,
            shared: SHARED,
            cluster: setup.cluster,
        };
        assert!(driver.ctas_per_sm("conformance", launch, PLACE).unwrap() >= 1);
        let mut params = TwParams {
            x,
            weight,
            out,
            k: self.id,
            ..TwParams::default()
        };
        (setup.prepare)(&mut params, &|map| driver.encode_tensor_map(PLACE, &map).unwrap());
        driver.launch("conformance", launch, &params, stream).unwrap();

        let mut bytes = vec![0; 4 * setup.words];
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
