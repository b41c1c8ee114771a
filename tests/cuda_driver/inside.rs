//! What runs in a process that finds the stand-in. Ignored otherwise: `main.rs` starts each.

use tileweave::Error;
use tileweave::abi::TwParams;
use tileweave::driver::cuda::{self, CudaDriver};
use tileweave::driver::{Driver, Kind, Launch, Place};

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

    fn kernels() {
        let driver = open().unwrap();
        for place in [WHOLE, share(2, 3)] {
            let stream = driver.stream_create(place).unwrap();
            let out = driver.alloc(place, 20).unwrap();
            driver.load_kernels(place).unwrap();
            let launch = Launch { grid: 3, threads: 128, shared: 4096, cluster: 1 };
            assert_eq!(driver.ctas_per_sm("another", launch, place).unwrap(), 16);
            let most = driver.place_info(place).unwrap().shared_per_cta;
            assert_eq!(driver.ctas_per_sm("another", Launch { shared: most, ..launch }, place).unwrap(), 0);
            let params = TwParams { out, k: 77, ..TwParams::default() };
            driver.launch("another", launch, &params, stream).unwrap();
            let mut seen = [0; 20];
            driver.copy_out(&mut seen, out, stream).unwrap();
            let words: Vec<u32> = seen.chunks(4).map(|w| u32::from_le_bytes(w.try_into().unwrap())).collect();
            assert_eq!(words, [1, 3, 128, 4096, 77]);
            let error = driver.launch("absent", launch, &params, stream).unwrap_err();
            assert!(error.to_string().contains("absent"), "{error}");
            driver.free_async(out, stream).unwrap();
            driver.stream_destroy(stream).unwrap();
        }
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
}
