//! Calls that cudarc's safe layer has and the node has nothing for. Whatever their arguments, which are not looked at,
//! they are refused; were they not there, cudarc would end the process.

use crate::answer::UNSUPPORTED;

macro_rules! refused {
    ($($name:ident),* $(,)?) => {
        calls! { $(fn $name() { Err(UNSUPPORTED) })* }
    };
}

refused!(
    cuCtxCreate_v4,
    cuCtxCreate_v3,
    cuCtxDestroy_v2,
    cuDestroyExternalMemory,
    cuDeviceSetMemPool,
    cuExternalMemoryGetMappedBuffer,
    cuImportExternalMemory,
    cuLaunchCooperativeKernel,
    cuLaunchHostFunc,
    cuMemAdvise_v2,
    cuMemAllocManaged,
    cuMemPrefetchAsync_v2,
    cuModuleGetGlobal_v2,
    cuModuleLoad,
    cuOccupancyAvailableDynamicSMemPerBlock,
    cuOccupancyMaxPotentialBlockSize,
    cuOccupancyMaxPotentialBlockSizeWithFlags,
    cuOccupancyMaxPotentialClusterSize,
    cuProfilerStart,
    cuProfilerStop,
);
