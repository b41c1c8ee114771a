//! What runs in a process that finds the stand-in. Ignored otherwise: `main.rs` starts each.

use tileweave::abi::TwParams;
use tileweave::driver::cuda::{self, CudaDriver};
use tileweave::driver::{Driver, HostWords, Kind, Launch, Place, TensorMap};
use tileweave::topology::{self, Source, Status};
use tileweave::{DType, Error};

static FATBIN: [u8; 16] = *b"fake fatbin     ";
const WHOLE: Place = Place {
    device: 0,
    share: 0,
    shares: 1,
};

fn open() -> Result<CudaDriver, Error> {
    CudaDriver::new(Some(&FATBIN), &["sm_80", "sm_90a"], "")
}

fn share(share: usize, shares: usize) -> Place {
    Place {
        device: 0,
        share,
        shares,
    }
}

/// The reason in [`Error::Unavailable`].
fn unavailable(result: Result<CudaDriver, Error>) -> String {
    match result {
        Err(Error::Unavailable { reason, .. }) => reason,
        other => panic!("{other:?}"),
    }
}

macro_rules! inside {
    ($(fn $name:ident() $body:block)*) => {$(
        #[test]
        #[ignore = "started by main.rs with the stand-in on the loader's path"]
        fn $name() $body
    )*};
}

inside! {
    fn no_library_is_an_error() {
        let reason = unavailable(open());
        assert!(reason.contains("libcuda.so.1") && !reason.contains("kernels"), "{reason}");
        let reason = unavailable(CudaDriver::new(None, &[], "nvcc was not found"));
        assert!(reason.contains("libcuda.so.1") && reason.contains("nvcc was not found"), "{reason}");
    }

    fn a_library_that_lacks_a_symbol_is_an_error() {
        let reason = unavailable(open());
        assert!(reason.contains("cuEventElapsedTime"), "{reason}");
    }

    fn an_old_driver_is_refused() {
        let reason = unavailable(open());
        assert!(reason.contains("12.2") && reason.contains("12.5"), "{reason}");
    }

    fn no_gpu_is_an_error() {
        let reason = unavailable(open());
        assert!(reason.contains("no CUDA-capable device"), "{reason}");
    }

    fn another_gpu_than_was_built_for_is_an_error() {
        let Err(Error::KernelsNotBuilt { arch, built }) = open() else { panic!() };
        assert!(arch.starts_with("sm_75") && built == ["sm_80", "sm_90a"], "{arch} {built:?}");
    }

    fn memory_and_copies() {
        let reason = unavailable(CudaDriver::new(None, &[], "nvcc was not found"));
        assert!(reason.contains("nvcc was not found"), "{reason}");

        let driver = open().unwrap();
        assert_eq!((driver.kind(), driver.device_count()), (Kind::Cuda, 2));
        assert_eq!(cuda::driver_version().unwrap(), (13, 0));
        let stream = driver.stream_create(WHOLE).unwrap();
        // More than one piece of staging memory, and no whole number of them.
        let bytes: Vec<u8> = (0..(5 << 19) + 3).map(|i| (i * 7 / 3) as u8).collect();
        let ptr = driver.alloc(WHOLE, bytes.len()).unwrap();
        let mut back = vec![0; bytes.len()];
        driver.copy_in(ptr, &bytes, stream).unwrap();
        driver.copy_out(&mut back, ptr, stream).unwrap();
        assert!(back == bytes);
        driver.fill(ptr + 1, 0x5a, 3, stream).unwrap();
        driver.poke(ptr + 2, &[1]).unwrap();
        driver.peek(&mut back[..5], ptr).unwrap();
        assert_eq!(back[..5], [bytes[0], 0x5a, 1, 0x5a, bytes[4]]);
        let other = driver.alloc(Place { device: 1, ..WHOLE }, 64).unwrap();
        driver.fill(other, 0x77, 64, stream).unwrap();
        driver.copy_device(other + 3, ptr + 1, 2, stream).unwrap();
        driver.peek(&mut back[..6], other + 1).unwrap();
        assert_eq!(back[..6], [0x77, 0x77, 0x5a, 1, 0x77, 0x77]);
        driver.copy_device(other, ptr, 0, stream).unwrap();
        driver.free_async(other, stream).unwrap();
        driver.copy_in(ptr, &[], stream).unwrap();
        driver.fill(ptr, 0, 0, stream).unwrap();
        driver.free_async(ptr, stream).unwrap();
        let empty = driver.alloc(WHOLE, 0).unwrap();
        driver.free_async(empty, stream).unwrap();
        driver.stream_destroy(stream).unwrap();
    }

    fn streams_and_events() {
        let driver = open().unwrap();
        for place in [WHOLE, share(1, 4), Place { device: 1, ..WHOLE }] {
            let (stream, other) = (driver.stream_create(place).unwrap(), driver.stream_create(place).unwrap());
            let (start, end) = (driver.event_create(place).unwrap(), driver.event_create(place).unwrap());
            assert!(matches!(driver.event_elapsed_ms(start, end), Err(Error::Driver { code: 400, .. })));
            driver.event_record(start, stream).unwrap();
            driver.stream_wait_event(other, start).unwrap();
            driver.stream_synchronize(other).unwrap();
            driver.event_record(end, other).unwrap();
            assert!(driver.event_elapsed_ms(start, end).unwrap().unwrap() >= 0.0);
            driver.event_destroy(start).unwrap();
            driver.event_destroy(end).unwrap();
            driver.stream_destroy(stream).unwrap();
            driver.stream_destroy(other).unwrap();
        }
    }

    fn streams_tell_their_place_and_are_waited_for() {
        let driver = open().unwrap();
        let second = Place { device: 1, ..WHOLE };
        for place in [WHOLE, second, share(1, 2)] {
            let stream = driver.stream_create(place).unwrap();
            assert_eq!(driver.stream_place(stream).unwrap(), place);
            assert!(driver.stream_wait(stream, std::time::Duration::ZERO).unwrap());
            // To another driver it is somebody's stream, of which the context alone is known.
            let foreign = open().unwrap().stream_place(stream).unwrap();
            assert_eq!(foreign, Place { device: place.device, ..WHOLE });
            driver.stream_destroy(stream).unwrap();
        }
    }

    fn host_words_come_from_a_stock() {
        let driver = open().unwrap();
        let mut taken: Vec<_> = (0..100).map(|_| driver.host_words(WHOLE).unwrap()).collect();
        let apart: std::collections::HashSet<usize> = taken.iter().map(|words| words.host).collect();
        assert!(apart.len() == 100 && taken.iter().all(|words| words.host as u64 == words.device));
        let words = taken.pop().unwrap();
        // SAFETY: the words are this test's, and as long as a block.
        unsafe { std::ptr::with_exposed_provenance_mut::<u64>(words.host).add(127).write(7) };
        driver.host_words_free(words).unwrap();
        let error = driver.host_words_free(words).unwrap_err().to_string();
        assert!(error.contains("not given back"), "{error}");
        let again = driver.host_words(WHOLE).unwrap();
        assert_eq!(again, words);
        // SAFETY: as above.
        assert_eq!(unsafe { std::ptr::with_exposed_provenance::<u64>(again.host).add(127).read() }, 0);
        let elsewhere = HostWords { host: words.host + 8, ..words };
        assert!(driver.host_words_free(elsewhere).is_err());
    }

    fn kernels() {
        let driver = open().unwrap();
        for place in [WHOLE, share(2, 3)] {
            let stream = driver.stream_create(place).unwrap();
            let out = driver.alloc(place, 24).unwrap();
            driver.load_kernels(place).unwrap();
            let launch = Launch { grid: 3, threads: 128, shared: 4096, cluster: 1 };
            assert_eq!(driver.ctas_per_sm("another", launch, place).unwrap(), 16);
            let most = driver.place_info(place).unwrap().shared_per_cta;
            assert_eq!(driver.ctas_per_sm("another", Launch { shared: most, ..launch }, place).unwrap(), 0);
            let params = TwParams { out, k: 77, ..TwParams::default() };
            driver.launch("another", launch, &params, stream).unwrap();
            let seen = || {
                let mut seen = [0; 24];
                driver.copy_out(&mut seen, out, stream).unwrap();
                seen.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect::<Vec<_>>()
            };
            assert_eq!(seen(), [1, 3, 128, 4096, 77, 1]);
            let pairs = Launch { grid: 6, cluster: 2, ..launch };
            driver.launch("hopper_sm90", pairs, &params, stream).unwrap();
            assert_eq!(seen(), [2, 6, 128, 4096, 77, 2]);
            for cluster in [0, 4] {
                let error = driver.launch("another", Launch { cluster, ..pairs }, &params, stream).unwrap_err();
                let text = format!("cluster is {cluster}: expected a divisor of the grid's 6 CTAs");
                assert!(error.to_string().contains(&text), "{error}");
            }
            let error = driver.launch("absent", launch, &params, stream).unwrap_err();
            assert!(error.to_string().contains("absent"), "{error}");
            driver.free_async(out, stream).unwrap();
            driver.stream_destroy(stream).unwrap();
        }
    }

    fn graphs() {
        let driver = open().unwrap();
        for place in [WHOLE, share(2, 3)] {
            let (stream, other) = (driver.stream_create(place).unwrap(), driver.stream_create(place).unwrap());
            let out = driver.alloc(place, 32).unwrap();
            driver.load_kernels(place).unwrap();
            driver.fill(out, 9, 32, stream).unwrap();
            let seen = || {
                let mut seen = [0; 32];
                driver.copy_out(&mut seen, out, other).unwrap();
                (u32::from_le_bytes(seen[16..20].try_into().unwrap()), seen[31])
            };
            let code = |result: Result<(), Error>| match result {
                Err(Error::Driver { code, .. }) => code,
                result => panic!("{result:?}"),
            };
            let launch = Launch { grid: 4, threads: 128, shared: 4096, cluster: 2 };
            let mut params = TwParams { out, k: 77, ..TwParams::default() };
            // All that a launch does, and no more.
            let capture = |params: &TwParams| {
                driver.stream_begin_capture(stream)?;
                assert!(driver.stream_is_capturing(stream)? && !driver.stream_is_capturing(other)?);
                let map = TensorMap { address: out, dtype: DType::Bf16, rank: 2, dims: [64, 2, 1, 1], strides: [128, 0, 0], box_dims: [64, 2, 1, 1] };
                driver.encode_tensor_map(place, &map)?;
                driver.launch("hopper_sm90", launch, params, stream)?;
                driver.fill(out + 31, 5, 1, stream)
            };
            capture(&params).unwrap();
            let graph = driver.stream_end_capture(stream).unwrap();
            let exec = driver.graph_instantiate(graph, stream).unwrap();
            driver.graph_destroy(graph).unwrap();
            driver.graph_upload(exec, stream).unwrap();
            assert_eq!(seen(), (0x0909_0909, 9), "it ran while it was captured");
            // The parameters are those of the capture.
            params.k = 78;
            for _ in 0..3 {
                driver.fill(out, 9, 32, stream).unwrap();
                driver.graph_launch(exec, stream).unwrap();
                assert_eq!(seen(), (77, 5));
            }
            driver.launch("hopper_sm90", launch, &params, stream).unwrap();
            assert_eq!(seen(), (78, 5));
            driver.graph_launch(exec, other).unwrap();
            assert_eq!(seen(), (77, 5));
            // Host memory is refused before the capture is broken, waiting breaks it.
            let mut bytes = [0; 4];
            capture(&params).unwrap();
            assert_eq!(code(driver.copy_in(out, &bytes, stream)), 900);
            driver.graph_destroy(driver.stream_end_capture(stream).unwrap()).unwrap();
            for call in 0..4 {
                capture(&params).unwrap();
                let code = code(match call {
                    0 => driver.stream_synchronize(stream),
                    1 => driver.copy_out(&mut bytes, out, stream),
                    2 => driver.stream_destroy(stream),
                    _ => driver.load_kernels(place),
                });
                assert_eq!(code, 900, "{call}");
                assert!(driver.stream_is_capturing(stream).unwrap());
                assert!(matches!(driver.stream_end_capture(stream), Err(Error::Driver { code: 901, .. })));
            }
            assert!(matches!(driver.stream_end_capture(stream), Err(Error::Driver { code: 401, .. })));
            driver.graph_exec_destroy(exec).unwrap();
            driver.free_async(out, stream).unwrap();
            driver.stream_destroy(stream).unwrap();
            driver.stream_destroy(other).unwrap();
        }
    }

    fn clusters_are_counted_by_the_driver() {
        let driver = open().unwrap();
        // Whole, two of 132 SMs cannot be paired; a share has no more than its own 64.
        for (place, alone, pairs) in [(WHOLE, 264, 260), (share(1, 2), 128, 128)] {
            driver.load_kernels(place).unwrap();
            let launch = Launch { grid: 2, threads: 1024, shared: 4096, cluster: 1 };
            assert_eq!(driver.resident_ctas("hopper_sm90", launch, place).unwrap(), alone);
            let in_pairs = Launch { cluster: 2, ..launch };
            assert_eq!(driver.resident_ctas("hopper_sm90", in_pairs, place).unwrap(), pairs);
            let most = driver.place_info(place).unwrap().shared_per_cta;
            assert_eq!(driver.resident_ctas("hopper_sm90", Launch { shared: most, ..in_pairs }, place).unwrap(), 0);
        }
    }

    fn kernels_of_hopper_are_left_alone_elsewhere() {
        let driver = open().unwrap();
        assert!(!driver.place_info(WHOLE).unwrap().hopper);
        driver.load_kernels(WHOLE).unwrap();
        let launch = Launch { grid: 1, threads: 128, shared: 4096, cluster: 1 };
        assert_eq!(driver.ctas_per_sm("another", launch, WHOLE).unwrap(), 16);
    }

    fn tensor_maps() {
        let driver = open().unwrap();
        let map = TensorMap {
            address: 0x7f00_0000_0040,
            dtype: DType::Bf16,
            rank: 4,
            dims: [4096, 77, 3, 2],
            strides: [8192, 1 << 20, 1 << 30],
            box_dims: [64, 128, 1, 1],
        };
        let with = |map: TensorMap| driver.encode_tensor_map(share(1, 2), &map).unwrap().opaque;
        let expected = [9, 4, map.address, 4096, 77, 3, 2, 8192, 1 << 20, 1 << 30, 0, 64, 128, 1, 1, 0];
        assert_eq!(with(map), expected);
        let flat = [9, 2, map.address, 4096, 77, 0, 0, 8192, 0, 0, 0, 64, 128, 0, 0, 0];
        assert_eq!(with(TensorMap { rank: 2, ..map }), flat);
        assert_eq!(with(TensorMap { dtype: DType::F16, ..map })[0], 6);
        assert_eq!(with(TensorMap { dtype: DType::F32, box_dims: [32, 128, 1, 1], ..map })[0], 7);
        let error = driver.encode_tensor_map(WHOLE, &TensorMap { address: 8, ..map }).unwrap_err();
        assert!(matches!(error, Error::BadArgument { .. }), "{error}");
        let nowhere = driver.encode_tensor_map(Place { device: 2, ..WHOLE }, &map).unwrap_err();
        assert!(nowhere.to_string().contains("device is 2"), "{nowhere}");
    }

    fn virtual_memory() {
        let driver = open().unwrap();
        let bytes = driver.physical_granularity(WHOLE).unwrap();
        let memory = driver.physical_create(WHOLE, bytes).unwrap();
        let fd = driver.physical_export(memory).unwrap();
        use std::os::fd::AsFd;
        let imported = driver.physical_import(fd.as_fd(), WHOLE, bytes).unwrap();
        let accessors = [WHOLE, Place { device: 1, ..WHOLE }, share(1, 2)];
        let (one, two) = (
            driver.physical_map(memory, bytes, &accessors).unwrap(),
            driver.physical_map(imported, bytes, &accessors).unwrap(),
        );
        assert_ne!(one, two);
        driver.poke(one + 100, b"seen through the other").unwrap();
        let mut back = [0; 22];
        driver.peek(&mut back, two + 100).unwrap();
        assert_eq!(&back, b"seen through the other");
        let error = driver.physical_map(memory, 2 * bytes, &accessors).unwrap_err();
        assert!(error.to_string().starts_with("cuMemMap failed"), "{error}");
        for ptr in [one, two] {
            driver.physical_unmap(ptr, bytes).unwrap();
        }
        for memory in [memory, imported] {
            driver.physical_release(memory).unwrap();
        }
    }

    fn multicast() {
        let driver = open().unwrap();
        let places = [WHOLE, Place { device: 1, ..WHOLE }];
        assert!(driver.multicast_claim(1).unwrap());
        let granularity = driver.multicast_granularity(&places).unwrap();
        let bytes = 2 * granularity;
        let error = driver.multicast_create(2, granularity / 2).unwrap_err();
        assert!(error.to_string().starts_with("cuMulticastCreate failed"), "{error}");
        let object = driver.multicast_create(2, bytes).unwrap();
        let memory = places.map(|place| driver.physical_create(place, bytes).unwrap());
        driver.multicast_add_device(object, places[0]).unwrap();
        // Nothing is bound before everybody has joined, nobody joins twice, and nothing is bound twice.
        assert!(driver.multicast_bind(object, places[0], memory[0], 0, bytes).is_err());
        assert!(driver.multicast_add_device(object, share(1, 2)).is_err());
        driver.multicast_add_device(object, places[1]).unwrap();
        for (place, memory) in places.into_iter().zip(memory) {
            driver.multicast_bind(object, place, memory, 0, bytes).unwrap();
            assert!(driver.multicast_bind(object, place, memory, 0, bytes).is_err());
        }
        let ptr = driver.multicast_map(object, bytes, &places).unwrap();
        driver.multicast_unmap(ptr, bytes).unwrap();
        // What is bound is in use.
        assert!(driver.physical_release(memory[1]).is_err() && driver.multicast_release(object).is_err());
        for place in places {
            driver.multicast_unbind(object, place, 0, bytes).unwrap();
            assert!(driver.multicast_unbind(object, place, 0, bytes).is_err());
        }
        driver.multicast_release(object).unwrap();
        for memory in memory {
            driver.physical_release(memory).unwrap();
        }
    }

    fn a_library_without_multicast_serves_all_the_same() {
        let driver = open().unwrap();
        assert!(driver.physical_granularity(WHOLE).is_ok() && !driver.multicast_claim(0).unwrap());
        let error = driver.multicast_create(2, 4 << 20).unwrap_err().to_string();
        assert!(error.contains("CUDA 12.1"), "{error}");
    }

    fn shares_are_green_contexts() {
        let driver = open().unwrap();
        assert_eq!(driver.place_info(WHOLE).unwrap().sms, 132);
        // Whole partitions of 8 of the 132 SMs.
        for (shares, sms) in [(2, 64), (3, 40), (4, 32), (7, 16)] {
            let info = driver.place_info(share(shares - 1, shares)).unwrap();
            assert_eq!((info.sms, info.compute_capability), (sms, (9, 0)), "{}", info.name);
            assert!(info.name.contains(&format!("share {} of {shares}", shares - 1)) && !info.name.contains("capped"));
        }
    }

    fn shares_without_green_contexts_cap_their_grids() {
        let driver = open().unwrap();
        let info = driver.place_info(share(0, 4)).unwrap();
        assert_eq!(info.sms, 33);
        assert!(info.name.contains("capped") && info.name.contains("not supported"), "{}", info.name);
        // Together no more CTAs than SMs, of whatever kernels: of 16 that would fit on an SM, one.
        driver.load_kernels(share(0, 4)).unwrap();
        let launch = Launch { grid: 1, threads: 128, shared: 0, cluster: 1 };
        assert_eq!(driver.ctas_per_sm("another", launch, share(0, 4)).unwrap(), 1);
        assert_eq!(driver.ctas_per_sm("another", launch, WHOLE).unwrap(), 16);
        // An SM for each, but which ones is not known: no pairs.
        assert_eq!(driver.resident_ctas("hopper_sm90", launch, share(0, 4)).unwrap(), 33);
        assert_eq!(driver.resident_ctas("hopper_sm90", Launch { cluster: 2, ..launch }, share(0, 4)).unwrap(), 0);
        let stream = driver.stream_create(share(0, 4)).unwrap();
        driver.stream_destroy(stream).unwrap();
    }

    fn places_that_are_not_there() {
        let driver = open().unwrap();
        for place in [Place { device: 2, ..WHOLE }, share(3, 3), share(0, 0)] {
            let error = driver.stream_create(place).unwrap_err();
            assert!(matches!(error, Error::BadArgument { .. }), "{place:?}: {error}");
        }
    }

    fn queues() {
        let driver = open().unwrap();
        // One of the default 8 is kept for pokes.
        assert_eq!(driver.concurrent_kernels(0), Some(7));
        // SAFETY: the only other thread is the harness's, which waits for this one.
        unsafe { cuda::ask_for_queues() };
        assert_eq!(driver.concurrent_kernels(0), Some(31));
        driver.stream_create(share(15, 16)).unwrap();
    }

    fn the_machine_by_the_driver_alone() {
        let driver = open().unwrap();
        let topology = topology::read(&driver).unwrap();
        topology.check().unwrap();
        assert_eq!((topology.source, topology.driver.clone()), (Source::Driver, driver.version()));
        assert!(topology.notes.len() == 1 && topology.notes[0].contains("/nowhere/libnvidia-ml.so"), "{:?}", topology.notes);
        assert_eq!(topology.of_driver_order(&driver).unwrap(), [0, 1]);
        let gpu = &topology.gpus[1];
        assert_eq!((gpu.sms, gpu.memory_bytes, gpu.multicast), (Some(132), 80 << 30, Status::Yes));
        assert_eq!(gpu.uuid, driver.identity(1).unwrap().uuid);
        for link in &topology.links {
            assert_eq!((link.read, link.write, link.atomics, link.nvlink), (Status::Yes, Status::Yes, Status::No, None));
        }
    }
}
