"""How tinygrad's kernels run on WebGPU: pipelines are kept, errors and full memory are told.

The classes are built from those of tinygrad's module, which must be imported as late as possible.
"""

from typing import Any


def build_program(dawn: Any) -> Any:
    """Return a class in the place of tinygrad's `WebGPUProgram`, whose pipelines are built once."""
    webgpu = dawn.webgpu

    class KeptProgram(dawn.WebGPUProgram):  # type: ignore[misc]
        """One compute shader with its pipeline."""

        _pipeline = None

        def _build(self, *, num_buffers: int, num_values: int) -> None:
            device = self.dev.device_res
            uniform, storage = (
                webgpu.WGPUBufferBindingType_Uniform,
                webgpu.WGPUBufferBindingType_Storage,
            )
            # The first binding is infinity, which WGSL cannot spell; see tinygrad's renderer.
            kinds = [uniform, *[storage] * num_buffers, *[uniform] * num_values]
            entries = (webgpu.WGPUBindGroupLayoutEntry * len(kinds))(
                *(
                    webgpu.WGPUBindGroupLayoutEntry(
                        binding=place,
                        visibility=webgpu.WGPUShaderStage_Compute,
                        buffer=webgpu.WGPUBufferBindingLayout(type=kind),
                    )
                    for place, kind in enumerate(kinds)
                )
            )
            self._layout = webgpu.wgpuDeviceCreateBindGroupLayout(
                device,
                webgpu.WGPUBindGroupLayoutDescriptor(entryCount=len(kinds), entries=entries),
            )
            layout = webgpu.wgpuDeviceCreatePipelineLayout(
                device,
                webgpu.WGPUPipelineLayoutDescriptor(
                    bindGroupLayoutCount=1,
                    bindGroupLayouts=(webgpu.WGPUBindGroupLayout * 1)(self._layout),
                ),
            )
            self._infinity = self.dev.create_uniform(float("inf"))
            self._pipeline = dawn.DeviceCreateComputePipeline(
                device,
                webgpu.WGPUComputePipelineDescriptor(
                    layout=layout,
                    compute=webgpu.WGPUComputeState(module=self.prg, entryPoint=self.name),
                ),
            )
            webgpu.wgpuPipelineLayoutRelease(layout)

        def __call__(  # type: ignore[no-untyped-def]
            self, *buffers, global_size=(1, 1, 1), local_size=(1, 1, 1), vals=(), wait=False, **more
        ):
            if wait:  # to be timed, which tinygrad does
                return super().__call__(
                    *buffers,
                    global_size=global_size,
                    local_size=local_size,
                    vals=vals,
                    wait=wait,
                    **more,
                )
            device = self.dev.device_res
            webgpu.wgpuDevicePushErrorScope(device, webgpu.WGPUErrorFilter_Validation)
            if self._pipeline is None:
                self._build(num_buffers=len(buffers), num_values=len(vals))
            uniforms = [self.dev.create_uniform(value) for value in vals]
            bound = [self._infinity, *buffers, *uniforms]
            entries = (webgpu.WGPUBindGroupEntry * len(bound))(
                *(
                    webgpu.WGPUBindGroupEntry(
                        binding=place,
                        buffer=buffer,
                        offset=0,
                        size=webgpu.wgpuBufferGetSize(buffer),
                    )
                    for place, buffer in enumerate(bound)
                )
            )
            group = webgpu.wgpuDeviceCreateBindGroup(
                device,
                webgpu.WGPUBindGroupDescriptor(
                    layout=self._layout, entryCount=len(bound), entries=entries
                ),
            )
            encoder = webgpu.wgpuDeviceCreateCommandEncoder(
                device, webgpu.WGPUCommandEncoderDescriptor()
            )
            compute = webgpu.wgpuCommandEncoderBeginComputePass(
                encoder, webgpu.WGPUComputePassDescriptor()
            )
            webgpu.wgpuComputePassEncoderSetPipeline(compute, self._pipeline)
            webgpu.wgpuComputePassEncoderSetBindGroup(compute, 0, group, 0, None)
            webgpu.wgpuComputePassEncoderDispatchWorkgroups(compute, *global_size)
            webgpu.wgpuComputePassEncoderEnd(compute)
            commands = webgpu.wgpuCommandEncoderFinish(
                encoder, webgpu.WGPUCommandBufferDescriptor()
            )
            webgpu.wgpuQueueSubmit(self.dev.queue, 1, (webgpu.WGPUCommandBuffer * 1)(commands))
            webgpu.wgpuBindGroupRelease(group)
            webgpu.wgpuComputePassEncoderRelease(compute)
            webgpu.wgpuCommandEncoderRelease(encoder)
            webgpu.wgpuCommandBufferRelease(commands)
            for buffer in uniforms:
                webgpu.wgpuBufferRelease(buffer)
            if error := self.dev.pop_error():
                raise RuntimeError(f"WebGPU: {error}")
            return None

    return KeptProgram


def build_allocator(dawn: Any) -> Any:
    """Return a class in the place of tinygrad's `WebGpuAllocator`, which tells when memory is full.

    Without it a buffer that does not fit makes every kernel that uses it invalid.
    """
    webgpu = dawn.webgpu

    class TellingAllocator(dawn.WebGpuAllocator):  # type: ignore[misc]
        """Gives buffers of the device's memory."""

        def _alloc(self, size: int, options: Any) -> Any:
            device = self.dev.device_res
            # A buffer beyond the device's limits is invalid, one beyond its memory is none.
            webgpu.wgpuDevicePushErrorScope(device, webgpu.WGPUErrorFilter_Validation)
            webgpu.wgpuDevicePushErrorScope(device, webgpu.WGPUErrorFilter_OutOfMemory)
            buffer = super()._alloc(size, options)
            errors = [error for _ in range(2) if (error := self.dev.pop_error())]
            if errors or not buffer:
                raise MemoryError(f"out of memory on the GPU: {'; '.join(errors)}")
            return buffer

    return TellingAllocator
