//! What the driver layer sees of the machine: devices, memory, streams, events.

use std::os::fd::AsFd;
use std::time::Duration;

use cudarc::driver::sys;
use tileweave::driver::{Driver, Place, Stream};

use crate::support::{WHOLE, driver, inside};

fn ok(code: sys::CUresult) {
    assert_eq!(code, sys::CUresult::CUDA_SUCCESS);
}

fn handle(stream: Stream) -> sys::CUstream {
    std::ptr::with_exposed_provenance_mut(stream.0)
}

/// Makes device 0's primary context current for the rest of the test.
fn enter() {
    let mut context = std::ptr::null_mut();
    // SAFETY: the pointer outlives the call; the context is kept.
    unsafe {
        ok(sys::cuDevicePrimaryCtxRetain(&mut context, 0));
        ok(sys::cuCtxPushCurrent_v2(context));
    }
}

inside! {
    fn devices_are_the_nodes() {
        let driver = driver();
        assert_eq!(driver.device_count(), 2);
        let info = driver.place_info(WHOLE).unwrap();
        assert_eq!((info.compute_capability, info.sms, info.hopper), ((9, 0), 8, true));
        let sim = tileweave::driver::sim::SimNode::new(tileweave::driver::sim::SimConfig::new(2, 0)).unwrap();
        for device in 0..2 {
            let (here, there) = (driver.identity(device).unwrap(), sim.identity(device).unwrap());
            assert_eq!((here.uuid, here.pci), (there.uuid, there.pci));
        }
        assert!(driver.peer_claim(0, 1).unwrap().access && !driver.multicast_claim(0).unwrap());
        assert_eq!(driver.version(), "CUDA 13.0");
    }

    fn memory_and_copies() {
        let driver = driver();
        let stream = driver.stream_create(WHOLE).unwrap();
        let bytes: Vec<u8> = (0..(5 << 19) + 3).map(|i| (i * 7 / 3) as u8).collect();
        let ptr = driver.alloc(WHOLE, bytes.len()).unwrap();
        let mut back = vec![0; bytes.len()];
        driver.copy_in(ptr, &bytes, stream).unwrap();
        driver.copy_out(&mut back, ptr, stream).unwrap();
        assert!(back == bytes);
        driver.fill(ptr + 1, 0x5a, 3, stream).unwrap();
        driver.stream_synchronize(stream).unwrap();
        driver.poke(ptr + 2, &[1]).unwrap();
        driver.peek(&mut back[..5], ptr).unwrap();
        assert_eq!(back[..5], [bytes[0], 0x5a, 1, 0x5a, bytes[4]]);
        // Devices that do not map each other's memory copy all the same.
        let other = driver.alloc(Place { device: 1, ..WHOLE }, 64).unwrap();
        driver.fill(other, 0x77, 64, stream).unwrap();
        driver.copy_device(other + 3, ptr + 1, 2, stream).unwrap();
        driver.stream_synchronize(stream).unwrap();
        driver.peek(&mut back[..6], other + 1).unwrap();
        assert_eq!(back[..6], [0x77, 0x77, 0x5a, 1, 0x77, 0x77]);
        driver.free_async(other, stream).unwrap();
        driver.free_async(ptr, stream).unwrap();
        driver.stream_destroy(stream).unwrap();
        let words = driver.host_words(WHOLE).unwrap();
        assert_eq!(words.host as u64, words.device);
        driver.host_words_free(words).unwrap();
    }

    fn locked_memory_is_copied_when_its_turn_comes() {
        let driver = driver();
        enter();
        let stream = driver.stream_create(WHOLE).unwrap();
        let (a, b) = (driver.alloc(WHOLE, 64).unwrap(), driver.alloc(WHOLE, 64).unwrap());
        let mut locked = std::ptr::null_mut();
        // SAFETY: the pointer outlives the call.
        ok(unsafe { sys::cuMemHostAlloc(&mut locked, 64, 0) });
        let locked = locked.cast::<u8>();
        // Out of a, into the host, and back into b, all in the order of the stream.
        driver.fill(a, 9, 64, stream).unwrap();
        // SAFETY: 64 bytes are there on each side until the stream has run.
        unsafe {
            ok(sys::cuMemcpyDtoHAsync_v2(locked.cast(), a, 64, handle(stream)));
            ok(sys::cuMemcpyHtoDAsync_v2(b, locked.cast(), 64, handle(stream)));
        }
        driver.stream_synchronize(stream).unwrap();
        let mut seen = [0; 64];
        driver.peek(&mut seen, b).unwrap();
        assert_eq!(seen, [9; 64]);
        // SAFETY: as above, and nothing runs.
        assert_eq!(unsafe { std::slice::from_raw_parts(locked, 64) }, [9; 64]);
        // SAFETY: locked above, freed once.
        ok(unsafe { sys::cuMemFreeHost(locked.cast()) });
    }

    fn streams_and_events() {
        let driver = driver();
        for place in [WHOLE, Place { device: 1, ..WHOLE }] {
            let (stream, other) = (driver.stream_create(place).unwrap(), driver.stream_create(place).unwrap());
            assert_eq!(driver.stream_place(stream).unwrap(), place);
            let (start, end) = (driver.event_create(place).unwrap(), driver.event_create(place).unwrap());
            assert!(driver.event_elapsed_ms(start, end).is_err());
            driver.event_record(start, stream).unwrap();
            driver.stream_wait_event(other, start).unwrap();
            driver.event_record(end, other).unwrap();
            assert!(driver.stream_wait(other, Duration::from_secs(100)).unwrap());
            assert!(driver.event_elapsed_ms(start, end).unwrap().unwrap() >= 0.0);
            driver.event_destroy(start).unwrap();
            driver.event_destroy(end).unwrap();
            driver.stream_destroy(stream).unwrap();
            driver.stream_destroy(other).unwrap();
        }
    }

    fn the_legacy_stream_waits_for_blocking_ones() {
        let driver = driver();
        enter();
        let ptr = driver.alloc(WHOLE, 1 << 20).unwrap();
        let mut stream = std::ptr::null_mut();
        // SAFETY: every pointer outlives its call, and the memory is there until the end.
        unsafe {
            ok(sys::cuStreamCreate(&mut stream, 0));
            for round in 0..50u8 {
                ok(sys::cuMemsetD8Async(ptr, round, 1 << 20, stream));
                ok(sys::cuMemsetD32Async(ptr + 4, 0x0102_0304 + u32::from(round), 1, std::ptr::null_mut()));
                ok(sys::cuMemsetD8Async(ptr, 200, 2, stream));
                ok(sys::cuStreamSynchronize(stream));
                let mut seen = [0; 9];
                driver.peek(&mut seen, ptr).unwrap();
                assert_eq!(seen, [200, 200, round, round, 4 + round, 3, 2, 1, round]);
            }
            ok(sys::cuStreamDestroy_v2(stream));
        }
    }

    fn virtual_memory_is_shared_by_descriptors() {
        let driver = driver();
        let second = Place { device: 1, ..WHOLE };
        let bytes = 2 * driver.physical_granularity(second).unwrap();
        let memory = driver.physical_create(second, bytes).unwrap();
        let ptr = driver.physical_map(memory, bytes, &[WHOLE]).unwrap();
        driver.poke(ptr + 5, b"abc").unwrap();
        let fd = driver.physical_export(memory).unwrap();
        // What comes back is known: of the same device, whatever the importer says.
        let again = driver.physical_import(fd.as_fd(), WHOLE, bytes).unwrap();
        assert_eq!(again, memory);
        driver.physical_release(again).unwrap();
        let mut seen = [0; 3];
        driver.peek(&mut seen, ptr + 5).unwrap();
        assert_eq!(&seen, b"abc");
        driver.physical_unmap(ptr, bytes).unwrap();
        driver.physical_release(memory).unwrap();
        assert!(driver.physical_release(memory).is_err());
    }
}
