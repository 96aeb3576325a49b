"""Compute shaders and buffers of tinygrad on WebGPU: pipelines are kept, full memory is an error.

The classes derive from those of tinygrad's module, which must be imported as late as possible.
"""

from collections.abc import Sequence
from typing import Any


def _build_pipeline(
    dawn: Any, program: Any, *, num_buffers: int, num_values: int
) -> tuple[Any, Any]:
    """Return the bind group layout and the pipeline of a shader."""
    webgpu, device = dawn.webgpu, program.dev.device_res
    uniform, storage = webgpu.WGPUBufferBindingType_Uniform, webgpu.WGPUBufferBindingType_Storage
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
    groups = webgpu.wgpuDeviceCreateBindGroupLayout(
        device, webgpu.WGPUBindGroupLayoutDescriptor(entryCount=len(kinds), entries=entries)
    )
    layouts = (webgpu.WGPUBindGroupLayout * 1)(groups)
    layout = webgpu.wgpuDeviceCreatePipelineLayout(
        device,
        webgpu.WGPUPipelineLayoutDescriptor(bindGroupLayoutCount=1, bindGroupLayouts=layouts),
    )
    compute = webgpu.WGPUComputeState(module=program.prg, entryPoint=program.name)
    pipeline = dawn.DeviceCreateComputePipeline(
        device, webgpu.WGPUComputePipelineDescriptor(layout=layout, compute=compute)
    )
    webgpu.wgpuPipelineLayoutRelease(layout)
    return groups, pipeline


def _bind(dawn: Any, program: Any, bound: Sequence[Any], *, layout: Any) -> Any:
    """Return a bind group of the buffers, in their order."""
    webgpu = dawn.webgpu
    entries = (webgpu.WGPUBindGroupEntry * len(bound))(
        *(
            webgpu.WGPUBindGroupEntry(
                binding=place, buffer=buffer, offset=0, size=webgpu.wgpuBufferGetSize(buffer)
            )
            for place, buffer in enumerate(bound)
        )
    )
    return webgpu.wgpuDeviceCreateBindGroup(
        program.dev.device_res,
        webgpu.WGPUBindGroupDescriptor(layout=layout, entryCount=len(bound), entries=entries),
    )


def _submit(dawn: Any, program: Any, *, pipeline: Any, group: Any, size: Sequence[int]) -> None:
    """Record one pass of a shader and submit it to the queue."""
    webgpu, device = dawn.webgpu, program.dev.device_res
    encoder = webgpu.wgpuDeviceCreateCommandEncoder(device, webgpu.WGPUCommandEncoderDescriptor())
    compute = webgpu.wgpuCommandEncoderBeginComputePass(encoder, webgpu.WGPUComputePassDescriptor())
    webgpu.wgpuComputePassEncoderSetPipeline(compute, pipeline)
    webgpu.wgpuComputePassEncoderSetBindGroup(compute, 0, group, 0, None)
    webgpu.wgpuComputePassEncoderDispatchWorkgroups(compute, *size)
    webgpu.wgpuComputePassEncoderEnd(compute)
    commands = webgpu.wgpuCommandEncoderFinish(encoder, webgpu.WGPUCommandBufferDescriptor())
    webgpu.wgpuQueueSubmit(program.dev.queue, 1, (webgpu.WGPUCommandBuffer * 1)(commands))
    webgpu.wgpuComputePassEncoderRelease(compute)
    webgpu.wgpuCommandEncoderRelease(encoder)
    webgpu.wgpuCommandBufferRelease(commands)


def build_program(dawn: Any) -> Any:
    """Return a replacement of tinygrad's `WebGPUProgram` that builds each pipeline once."""
    webgpu = dawn.webgpu

    class KeptProgram(dawn.WebGPUProgram):  # type: ignore[misc]
        """One compute shader with its pipeline."""

        _pipeline = None

        def __call__(  # type: ignore[no-untyped-def]
            self, *buffers, global_size=(1, 1, 1), local_size=(1, 1, 1), vals=(), wait=False, **more
        ):
            if wait:  # tinygrad measures the time itself
                sizes = {"global_size": global_size, "local_size": local_size}
                return super().__call__(*buffers, **sizes, vals=vals, wait=wait, **more)
            webgpu.wgpuDevicePushErrorScope(self.dev.device_res, webgpu.WGPUErrorFilter_Validation)
            if self._pipeline is None:
                self._infinity = self.dev.create_uniform(float("inf"))
                self._layout, self._pipeline = _build_pipeline(
                    dawn, self, num_buffers=len(buffers), num_values=len(vals)
                )
            uniforms = [self.dev.create_uniform(value) for value in vals]
            bound = [self._infinity, *buffers, *uniforms]
            group = _bind(dawn, self, bound, layout=self._layout)
            _submit(dawn, self, pipeline=self._pipeline, group=group, size=global_size)
            webgpu.wgpuBindGroupRelease(group)
            for buffer in uniforms:
                webgpu.wgpuBufferRelease(buffer)
            if error := self.dev.pop_error():
                raise RuntimeError(f"WebGPU: {error}")
            return None

    return KeptProgram


def build_allocator(dawn: Any) -> Any:
    """Return a replacement of tinygrad's `WebGpuAllocator` that reports full memory.

    Without it a buffer that does not fit makes every kernel that uses it invalid.
    """
    webgpu = dawn.webgpu

    class CheckedAllocator(dawn.WebGpuAllocator):  # type: ignore[misc]
        """Allocates buffers in the device's memory."""

        def _alloc(self, size: int, options: Any) -> Any:
            device = self.dev.device_res
            # A buffer beyond the device's limits is invalid; one beyond its memory is null.
            webgpu.wgpuDevicePushErrorScope(device, webgpu.WGPUErrorFilter_Validation)
            webgpu.wgpuDevicePushErrorScope(device, webgpu.WGPUErrorFilter_OutOfMemory)
            buffer = super()._alloc(size, options)
            errors = [error for _ in range(2) if (error := self.dev.pop_error())]
            if errors or not buffer:
                raise MemoryError(f"out of memory on the GPU: {'; '.join(errors)}")
            return buffer

    return CheckedAllocator
