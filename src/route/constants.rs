//! What routes reckon with: one row per class of GPU, one of NCCL's costs per architecture, one of our kernels' own.
//!
//! Figures are peaks of data sheets, or were published by others, or are assumed, and say which. **None of them was
//! measured with these kernels** (`docs/routes.md`). Units stand in the names: TFLOP/s without sparsity, GB/s of 10^9
//! bytes, microseconds.

use crate::topology::Gpu;

/// A class of GPUs: what its data sheet says, and what part of that software reaches.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Class {
    /// As people call it.
    pub name: &'static str,
    /// Streaming multiprocessors.
    pub sms: u32,
    /// bf16 and f16 on tensor cores, sums in f32.
    pub tensor_tflops: f64,
    /// f32 on CUDA cores.
    pub f32_tflops: f64,
    /// Device memory.
    pub hbm_gb_per_s: f64,
    /// Part of the tensor peak that the vendor's library reaches on large GEMMs.
    pub library_gemm: f64,
    /// The same of our GEMM.
    pub our_gemm: f64,
    /// How much longer our GEMM takes where it communicates too, as a part of itself.
    pub fused_loss: f64,
    /// One direction of its PCIe link between GPUs, as transfers reach it.
    pub pcie_gb_per_s: f64,
    /// Part of NVLink's payload rate by the data sheet that SM stores and loads reach.
    pub nvlink_part: f64,
    /// Whether its all-gather + GEMM gives SMs to pushing alone, as the portable kernel does. Hopper's has a warp for
    /// it.
    pub gives_sms: bool,
    /// What NCCL costs on it.
    pub nccl: Nccl,
}

/// What of NCCL's costs differs between architectures. The model is `nccl.rs`; rates are parts of NVLink's data sheet but
/// where a unit stands in the name.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Nccl {
    /// What every call takes more than NCCL reckons with.
    pub call_us: f64,
    /// A ring of the simple protocol.
    pub ring_part: f64,
    /// The most that the protocol LL moves.
    pub low_latency_gb_per_s: f64,
    /// Bus bandwidth of an all-reduce in the switch (NVLS): may be more than 1, since the switch adds. 0: the GPU has
    /// none.
    pub nvls_part: f64,
    /// CTAs of NVLS.
    pub nvls_channels: u32,
}

/// A pattern of NCCL's with a protocol.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct NcclWay {
    /// Up and down a tree, which only an all-reduce goes, in place of around a ring. On one node a tree is a chain.
    pub tree: bool,
    /// Over NVLink alone.
    pub nvlink_only: bool,
    /// Whether it is the protocol LL, which has a bound of its own.
    pub low_latency: bool,
    /// A call.
    pub base_us: f64,
    /// A step, over NVLink and over PCIe.
    pub hop_us: f64,
    /// See [`NcclWay::hop_us`].
    pub pcie_hop_us: f64,
    /// Its part of what a ring of the simple protocol moves.
    pub part: f64,
}

/// What our kernels take beside work and transfer, on any GPU.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overheads {
    /// A launch that follows another kernel in a stream.
    pub launch_us: f64,
    /// Hellos, and the way out of the kernel.
    pub session_us: f64,
    /// A step in which a rank waits for all its peers, beside the link's latency.
    pub step_us: f64,
    /// A GEMM's pipeline, until the first tile is under way and after the last.
    pub gemm_us: f64,
    /// What one SM pushes.
    pub sm_push_gb_per_s: f64,
}

/// Latency of a word from GPU to GPU, one way, by the kind of link, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Latencies {
    /// Within one GPU, through its L2.
    pub local_us: f64,
    /// A direct NVLink.
    pub nvlink_us: f64,
    /// Through an NVSwitch.
    pub switch_us: f64,
    /// PCIe.
    pub pcie_us: f64,
}

/// Assumed: NVLink's come from ping-pongs published for A100 and H100 (0.7 to 1 us one way), PCIe's is about twice
/// that.
pub const LATENCIES: Latencies = Latencies {
    local_us: 0.5,
    nvlink_us: 0.8,
    switch_us: 1.0,
    pcie_us: 1.9,
};

/// Chosen so that all-reduces come out as openinfer reports its own on 8 H200, replayed from a graph: one-shot by
/// packets of 12 KiB 5.8 us, two-shot of 96 KiB 7.7 us (docs/models/glm52/moe-tp8-low-latency.md @06e8f74c). `gemm_us`:
/// two fills of a pipeline of four stages, by arithmetic. `sm_push_gb_per_s`: between 10, as plain stores of 76 SMs
/// fill a B200's links, and 44 to 65, as NCCL's symmetric kernels count an SM of Hopper (ParallelKittens, arXiv
/// 2511.13940; NCCL 2.30 src/sym_kernels.cc).
pub const OVERHEADS: Overheads = Overheads {
    launch_us: 2.2,
    session_us: 2.1,
    step_us: 0.9,
    gemm_us: 2.0,
    sm_push_gb_per_s: 25.0,
};

/// NCCL's own figures, with which it chooses among these (2.30.7, src/graph/tuning.cc): latencies of calls and steps; LL
/// carries half a flag and half data, LL128 120 of 128 bytes. Trees: NCCL corrects their rate by 0.6 from 64 KiB to 2 MiB,
/// where they come nearest to being the best.
pub const NCCL_WAYS: [NcclWay; 6] = [
    NcclWay {
        tree: false,
        nvlink_only: false,
        low_latency: true,
        base_us: 6.6,
        hop_us: 0.6,
        pcie_hop_us: 1.0,
        part: 0.5,
    },
    NcclWay {
        tree: false,
        nvlink_only: true,
        low_latency: false,
        base_us: 14.0,
        hop_us: 1.9,
        pcie_hop_us: 2.5,
        part: 0.92,
    },
    NcclWay {
        tree: false,
        nvlink_only: false,
        low_latency: false,
        base_us: 8.4,
        hop_us: 3.4,
        pcie_hop_us: 5.7,
        part: 1.0,
    },
    NcclWay {
        tree: true,
        nvlink_only: false,
        low_latency: true,
        base_us: 6.8,
        hop_us: 0.6,
        pcie_hop_us: 1.0,
        part: 0.6 * 0.92 / 3.8,
    },
    NcclWay {
        tree: true,
        nvlink_only: true,
        low_latency: false,
        base_us: 14.0,
        hop_us: 1.25,
        pcie_hop_us: 1.9,
        part: 0.6 * 0.92 * 7.0 / 9.0,
    },
    NcclWay {
        tree: true,
        nvlink_only: false,
        low_latency: false,
        base_us: 8.4,
        hop_us: 4.0,
        pcie_hop_us: 4.0,
        part: 0.6 * 0.92,
    },
];

/// A call by NVLS (same file).
pub const NVLS_US: f64 = 25.0;

/// Bytes of a chunk of NVLS, the largest first, each with the rounds of it that a message must have: for fewer NCCL takes the
/// next (src/enqueue.cc).
pub const NVLS_CHUNKS: [(f64, f64); 4] = [(131_072.0, 64.0), (65_536.0, 8.0), (32_768.0, 2.0), (16_384.0, 0.0)];

/// NCCL on Ampere and before. Rates as it reckons: 20 of 25 GB/s a link (2.30.7, src/graph/topo.h), LL 87.7 (tuning.cc).
const NCCL_AMPERE: Nccl = Nccl {
    call_us: 0.0,
    ring_part: 0.8,
    low_latency_gb_per_s: 87.7,
    nvls_part: 0.0,
    nvls_channels: 16,
};

/// 20.6 of 25 GB/s a link (topo.h): 370 GB/s in all, as nccl-tests #212 measured. LL 141 (tuning.cc). NVLS: 480 GB/s
/// (nccl-tests #212; #290 has 476), on 16 channels (src/transport/nvls.cc).
const NCCL_HOPPER: Nccl = Nccl {
    ring_part: 0.824,
    low_latency_gb_per_s: 141.0,
    nvls_part: 1.06,
    ..NCCL_AMPERE
};

/// 40.1 of 50 GB/s a link (topo.h), LL 282 (tuning.cc). A call: NCCL's model of its symmetric kernels has 11 us of latency
/// here against 4.5 on Hopper (src/sym_kernels.cc); its tuner has the same for all. NVLS: vLLM's rows of 64 and 128 MiB on
/// B300 are 675 GB/s apart (PR #37756); the tuner's 1000 do not show there. 24 channels (nvls.cc).
const NCCL_BLACKWELL: Nccl = Nccl {
    call_us: 6.5,
    ring_part: 0.802,
    low_latency_gb_per_s: 282.0,
    nvls_part: 0.75,
    nvls_channels: 24,
};

/// The vendor's GEMM: 0.74 to 0.76 of the peak on H800 and 0.81 on A800 at 4096 x 12288 x 49152 (Flux README). Ours: as
/// much on paper where the mainloop is the architecture's own (`docs/performance.md`), not confirmed. A fused GEMM's
/// loss is what Flux's takes beyond its GEMM and a pipeline's fill: 0.08 on H800, 0.01 on A800 (same rows; rounded up
/// to 0.02).
const AMPERE: Class = Class {
    name: "A100",
    sms: 108,
    tensor_tflops: 312.0,
    f32_tflops: 19.5,
    hbm_gb_per_s: 2039.0,
    library_gemm: 0.8,
    our_gemm: 0.75,
    fused_loss: 0.02,
    // 16 lanes of generation 4 are 32 GB/s; transfers between GPUs reach about 0.8 of it.
    pcie_gb_per_s: 25.0,
    nvlink_part: 0.8,
    gives_sms: true,
    nccl: NCCL_AMPERE,
};

/// NVLink: vLLM's one-stage all-reduce on 4 H100 moves 3 MiB a MiB in 7.6 us, about 400 of 450 GB/s at its best (PR
/// #24111, loads); NCCL counts a peak of 320 without the switch. Stores: 0.8 is between.
const HOPPER: Class = Class {
    name: "H100",
    sms: 132,
    tensor_tflops: 989.4,
    f32_tflops: 66.9,
    hbm_gb_per_s: 3350.0,
    library_gemm: 0.75,
    our_gemm: 0.75,
    fused_loss: 0.08,
    pcie_gb_per_s: 50.0,
    nvlink_part: 0.8,
    gives_sms: false,
    nccl: NCCL_HOPPER,
};

/// Our kernels have no tcgen05 mainloop: mma.sync reaches about 0.6 of Hopper's peak there (arXiv 2402.13499), and is
/// assumed to be no faster here: 600 of 2250 TFLOP/s.
const BLACKWELL: Class = Class {
    name: "B200",
    sms: 148,
    tensor_tflops: 2250.0,
    f32_tflops: 75.0,
    hbm_gb_per_s: 8000.0,
    library_gemm: 0.7,
    our_gemm: 0.27,
    fused_loss: 0.08,
    pcie_gb_per_s: 50.0,
    // 600 of 900 GB/s without the switch, by NCCL's own model; vLLM's two-shots (PR #37756) reach half of it.
    nvlink_part: 0.67,
    gives_sms: true,
    nccl: NCCL_BLACKWELL,
};

/// All classes (NVIDIA's data sheets and architecture white papers), more special names first.
pub const CLASSES: [Class; 14] = [
    Class {
        name: "H100 NVL",
        tensor_tflops: 835.5,
        f32_tflops: 60.0,
        hbm_gb_per_s: 3938.0,
        ..HOPPER
    },
    Class {
        name: "H100 PCIe",
        sms: 114,
        tensor_tflops: 756.0,
        f32_tflops: 51.0,
        hbm_gb_per_s: 2039.0,
        ..HOPPER
    },
    HOPPER,
    Class {
        name: "H200",
        hbm_gb_per_s: 4800.0,
        ..HOPPER
    },
    // An H100 with 8 NVLinks, which its topology tells.
    Class { name: "H800", ..HOPPER },
    Class {
        name: "H20",
        sms: 78,
        tensor_tflops: 148.0,
        f32_tflops: 44.0,
        hbm_gb_per_s: 4000.0,
        library_gemm: 0.9,
        our_gemm: 0.9,
        ..HOPPER
    },
    AMPERE,
    // An A100 with 8 NVLinks.
    Class { name: "A800", ..AMPERE },
    Class {
        name: "V100",
        sms: 80,
        tensor_tflops: 125.0,
        f32_tflops: 15.7,
        hbm_gb_per_s: 900.0,
        pcie_gb_per_s: 12.0,
        ..AMPERE
    },
    BLACKWELL,
    Class {
        name: "B300",
        ..BLACKWELL
    },
    Class {
        name: "L40S",
        sms: 142,
        tensor_tflops: 362.1,
        f32_tflops: 91.6,
        hbm_gb_per_s: 864.0,
        ..AMPERE
    },
    // 618 GFLOP in 5.4 to 5.7 ms: 0.9 of the peak (Flux docs/performance.md).
    Class {
        name: "L20",
        sms: 92,
        tensor_tflops: 119.5,
        f32_tflops: 59.8,
        hbm_gb_per_s: 864.0,
        library_gemm: 0.9,
        our_gemm: 0.85,
        ..AMPERE
    },
    Class {
        name: "RTX 3090",
        sms: 82,
        tensor_tflops: 71.0,
        f32_tflops: 35.6,
        hbm_gb_per_s: 936.0,
        ..AMPERE
    },
];

/// What a device of the simulated node stands for: an H100.
pub const SIMULATED: Class = Class {
    name: "simulated GPU",
    ..HOPPER
};

/// The part of HBM's peak that long streams reach: assumed.
pub const HBM_PART: f64 = 0.85;

/// The share of a PCIe link that NCCL's rings fill: 88 MB in 11.2 ms on 8 L20 are 7.9 of 25 GB/s (Flux
/// docs/performance.md).
pub const NCCL_PCIE_PART: f64 = 0.32;
/// The same where NCCL goes through the host's memory, since GPUs do not reach each other: assumed half of that.
pub const NCCL_HOST_PART: f64 = 0.16;

impl Class {
    /// The class of a GPU: by its name; of an unknown name, the one whose compute capability is nearest.
    pub fn of(gpu: &Gpu) -> Class {
        let by_name = |name: &str| CLASSES.iter().find(|class| class.name == name).copied();
        if let Some(class) = CLASSES.iter().find(|class| names(&gpu.name, class.name)) {
            return *class;
        }
        let kin = match gpu.compute_capability {
            (0, _) => return SIMULATED,
            (..=7, _) => "V100",
            (8, 0) => "A100",
            (8, 9) | (12, _) => "L40S",
            (8, _) => "RTX 3090",
            (9, _) => "H100",
            _ => "B200",
        };
        by_name(kin).unwrap_or(SIMULATED)
    }
}

/// Whether a GPU that calls itself `full` (`NVIDIA H100 80GB HBM3`, `NVIDIA GB200`) is of the class `name`: its words
/// stand there one after the other, the first perhaps behind a Grace's G.
fn names(full: &str, name: &str) -> bool {
    let words: Vec<&str> = full.split([' ', '-']).collect();
    let wanted: Vec<&str> = name.split(' ').collect();
    let same =
        |(i, (have, want)): (usize, (&&str, &&str))| have == want || (i == 0 && have.strip_prefix('G') == Some(*want));
    words
        .windows(wanted.len())
        .any(|window| window.iter().zip(&wanted).enumerate().all(same))
        // `NVIDIA H100 80GB PCIe` names its memory in between.
        || (wanted.len() == 2 && words.contains(&wanted[0]) && words.contains(&wanted[1]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gpus_by_the_names_they_give_themselves() {
        for (full, class) in [
            ("NVIDIA H100 80GB HBM3", "H100"),
            ("NVIDIA H100 NVL", "H100 NVL"),
            ("NVIDIA H100 PCIe", "H100 PCIe"),
            ("NVIDIA H200", "H200"),
            ("NVIDIA A100-SXM4-80GB", "A100"),
            ("NVIDIA A800-SXM4-80GB", "A800"),
            ("Tesla V100-SXM2-32GB", "V100"),
            ("NVIDIA GB200", "B200"),
            ("NVIDIA B300 SXM6 AC", "B300"),
            ("NVIDIA L40S", "L40S"),
            ("NVIDIA GeForce RTX 3090", "RTX 3090"),
        ] {
            let found = CLASSES.iter().find(|class| names(full, class.name));
            assert_eq!(found.map(|class| class.name), Some(class), "{full}");
        }
        assert!(!CLASSES.iter().any(|class| names("NVIDIA L4", class.name)));
        assert!(!CLASSES.iter().any(|class| names("NVIDIA GH1000", class.name)));
    }

    #[test]
    fn figures_are_figures() {
        for class in CLASSES.iter().chain([&SIMULATED]) {
            let parts = [
                class.library_gemm,
                class.our_gemm,
                class.nvlink_part,
                class.nccl.ring_part,
            ];
            assert!(parts.iter().all(|part| (0.1..=1.0).contains(part)), "{class:?}");
            assert!(class.sms > 0 && class.f32_tflops < class.tensor_tflops, "{class:?}");
            // The model counts an NVLink as no slower than PCIe.
            assert!(
                class.pcie_gb_per_s > 0.0 && class.hbm_gb_per_s > class.pcie_gb_per_s,
                "{class:?}"
            );
        }
    }
}
