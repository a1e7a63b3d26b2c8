"""SGLang platform plugin for hosts without a GPU (entry point group `sglang.srt.platforms`).

SGLang's own CPU platform expects the `sgl_kernel` CPU build, which its PyPI wheel does
not bring. An out-of-tree platform keeps the torch code paths and needs no kernel
package. Where torch sees a GPU this plugin declines and SGLang chooses as always.
Read at SGLang 0.5.23: `platforms/cpu.py`, `platforms/interface.py`.
"""

from __future__ import annotations

from typing import Any


def activate() -> str | None:
    """The platform's class path, or None where torch has an accelerator or `sgl_kernel` is installed."""
    import importlib.util

    import torch

    if torch.cuda.is_available() or importlib.util.find_spec("sgl_kernel") is not None:
        return None
    return f"{__name__}.TaperCpuPlatform"


def __getattr__(name: str) -> Any:
    # Built on first use: importing SGLang's platforms at module level would import half of SGLang
    # into every process that only lists the entry points.
    if name != "TaperCpuPlatform":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from sglang.srt.platforms.cpu import CpuSRTPlatform
    from sglang.srt.platforms.device_mixin import PlatformEnum
    from sglang.srt.platforms.interface import PlatformCapabilities

    class TaperCpuPlatform(CpuSRTPlatform):
        _enum = PlatformEnum.OOT
        capabilities = PlatformCapabilities(graph_capture=False)

        def get_default_attention_backend(self, *args: Any, **kwargs: Any) -> str:
            return "torch_native"

    globals()[name] = TaperCpuPlatform
    return TaperCpuPlatform
