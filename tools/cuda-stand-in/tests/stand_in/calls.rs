//! The calls' own answers: what is refused, and by which code.

use cudarc::driver::sys;
use sys::CUresult as Code;

use crate::support::inside;

inside! {
    fn every_call_refuses_before_it_is_initialised() {
        let (mut n, mut p) = (0, std::ptr::null_mut());
        // SAFETY: every pointer outlives its call.
        unsafe {
            assert_eq!(sys::cuDeviceGetCount(&mut n), Code::CUDA_ERROR_NOT_INITIALIZED);
            assert_eq!(sys::cuStreamCreate(&mut p, 1), Code::CUDA_ERROR_NOT_INITIALIZED);
            assert_eq!(sys::cuInit(1), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(sys::cuInit(0), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuDeviceGetCount(&mut n), Code::CUDA_SUCCESS);
        }
        assert_eq!(n, 2);
    }

    fn bad_calls_get_cudas_codes() {
        let (mut context, mut stream, mut event, mut ptr) =
            (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut(), 0);
        // SAFETY: every pointer outlives its call; handles that are none are what this is about, and are looked up.
        unsafe {
            assert_eq!(sys::cuInit(0), Code::CUDA_SUCCESS);
            // No context is current.
            assert_eq!(sys::cuStreamCreate(&mut stream, 1), Code::CUDA_ERROR_INVALID_CONTEXT);
            assert_eq!(sys::cuMemAlloc_v2(&mut ptr, 16), Code::CUDA_ERROR_INVALID_CONTEXT);
            assert_eq!(sys::cuDevicePrimaryCtxRetain(&mut context, 2), Code::CUDA_ERROR_INVALID_DEVICE);
            assert_eq!(sys::cuDevicePrimaryCtxRetain(&mut context, 1), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuCtxPushCurrent_v2(context), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuStreamCreate(&mut stream, 2), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(sys::cuStreamCreate(&mut stream, 1), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuEventCreate(&mut event, 2), Code::CUDA_SUCCESS);
            // An event is no stream.
            assert_eq!(sys::cuStreamSynchronize(event.cast()), Code::CUDA_ERROR_INVALID_HANDLE);
            // It measures no time.
            let mut ms = 0.0;
            assert_eq!(sys::cuEventRecord(event, stream), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuEventElapsedTime_v2(&mut ms, event, event), Code::CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuMemAlloc_v2(&mut ptr, 0), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(sys::cuMemAlloc_v2(&mut ptr, 1 << 40), Code::CUDA_ERROR_OUT_OF_MEMORY);
            assert_eq!(sys::cuMemAlloc_v2(&mut ptr, 16), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuMemsetD8Async(ptr, 0, 17, stream), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(sys::cuMemFree_v2(ptr + 1), Code::CUDA_ERROR_INVALID_VALUE);
            assert_eq!(sys::cuMemFree_v2(ptr), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuMemFree_v2(ptr), Code::CUDA_ERROR_INVALID_VALUE);
            // A stream of another context takes no work.
            let mut other = std::ptr::null_mut();
            assert_eq!(sys::cuDevicePrimaryCtxRetain(&mut other, 0), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuCtxPushCurrent_v2(other), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuMemAllocAsync(&mut ptr, 16, stream), Code::CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuCtxPopCurrent_v2(&mut other), Code::CUDA_SUCCESS);
            // What is refused in a capture ends it without a graph.
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
            assert_eq!(sys::cuStreamBeginCapture_v2(stream, mode), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuStreamSynchronize(stream), Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED);
            let mut graph = std::ptr::null_mut();
            assert_eq!(sys::cuStreamEndCapture(stream, &mut graph), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
            assert!(graph.is_null());
            // Addresses come with what they are for.
            assert_eq!(sys::cuMemAddressReserve(&mut ptr, 1 << 16, 0, 0, 0), Code::CUDA_ERROR_NOT_SUPPORTED);
            assert_eq!(sys::cuStreamDestroy_v2(stream), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuStreamDestroy_v2(stream), Code::CUDA_ERROR_INVALID_HANDLE);
            // The last reference ends the context, and what is left in it.
            assert_eq!(sys::cuDevicePrimaryCtxRelease_v2(1), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuEventQuery(event), Code::CUDA_ERROR_INVALID_HANDLE);
            assert_eq!(sys::cuEventCreate(&mut event, 0), Code::CUDA_ERROR_CONTEXT_IS_DESTROYED);
            let mut text = std::ptr::null();
            assert_eq!(sys::cuGetErrorString(Code::CUDA_ERROR_NOT_READY, &mut text), Code::CUDA_SUCCESS);
            assert_eq!(std::ffi::CStr::from_ptr(text), c"device not ready");
        }
    }
}
