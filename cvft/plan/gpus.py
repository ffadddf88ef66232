"""GPUs by name: memory, arithmetic peak and memory bandwidth. Pure: asks no device.

Peaks are dense (the vendor's headline numbers count 2:4 sparsity, twice these) and for bf16 products summed in fp32.

Source of peaks and bandwidths, all NVIDIA's: Ada GPU Architecture white paper, appendix A (RTX 4090, RTX 6000 Ada); GA102
white paper, appendix A (RTX 3090); product briefs and data sheets of L4, L40S, A10, A100, H100 (SXM and PCIe columns),
H200 and HGX B200.

Usable memory is what CUDA gives to all processes together, the "total capacity" of torch's out-of-memory messages, lower
than the nominal size by what driver and ECC keep; where reports differ the lowest is taken. Seen in public reports:
RTX 4090 23.52 (pytorch/torchchat#1341), A100-80GB 79.25 (HiDream-ai/VAREdit#6), A10 21.99 (zai-org's issue 236), RTX 6000 Ada
with ECC on 44.43 (DINGYANB/MTVCrafter#21), L40 44.40 (QwenLM/Qwen3-VL#2097; the L40S has the same memory). The others are
estimates: the size that nvidia-smi shows less 3.5 %, about what the cards with ECC lose.
"""

from __future__ import annotations

from dataclasses import dataclass

TERA = 10**12
GIGA = 10**9


@dataclass(frozen=True)
class Gpu:
    """A GPU model.

    Args:
        name: Short name, as a user would write it.
        memory_gib: Usable memory in GiB.
        bf16_tflops_per_s: Dense bf16 peak in 1e12 FLOPs per second.
        bandwidth_gb_per_s: Memory bandwidth in 1e9 bytes per second.
        driver_names: What `nvidia-smi --query-gpu=name` prints.
    """

    name: str
    memory_gib: float
    bf16_tflops_per_s: float
    bandwidth_gb_per_s: float
    driver_names: tuple[str, ...]

    @property
    def memory_bytes(self) -> int:
        """Usable memory in bytes."""
        return int(self.memory_gib * 2**30)

    @property
    def bf16_flops_per_s(self) -> float:
        """Dense bf16 peak in FLOPs per second."""
        return self.bf16_tflops_per_s * TERA

    @property
    def bandwidth_bytes_per_s(self) -> float:
        """Memory bandwidth in bytes per second."""
        return self.bandwidth_gb_per_s * GIGA


GPUS = (
    Gpu("RTX 3090", 23.1, 71, 936, ("NVIDIA GeForce RTX 3090",)),
    Gpu("RTX 4090", 23.5, 165.2, 1008, ("NVIDIA GeForce RTX 4090",)),
    Gpu("RTX 6000 Ada", 44.4, 364.2, 960, ("NVIDIA RTX 6000 Ada Generation",)),
    Gpu("L4", 21.7, 121, 300, ("NVIDIA L4",)),
    Gpu("L40S", 44.4, 362, 864, ("NVIDIA L40S",)),
    Gpu("A10", 21.9, 125, 600, ("NVIDIA A10",)),
    Gpu("A100-40GB", 38.6, 312, 1555, ("NVIDIA A100-SXM4-40GB", "NVIDIA A100-PCIE-40GB")),
    Gpu("A100-80GB", 79.2, 312, 1935, ("NVIDIA A100-SXM4-80GB", "NVIDIA A100 80GB PCIe")),
    Gpu("H100-SXM", 76.8, 989, 3350, ("NVIDIA H100 80GB HBM3",)),
    Gpu("H100-PCIe", 76.8, 756, 2000, ("NVIDIA H100 PCIe",)),
    Gpu("H200", 135.4, 989, 4800, ("NVIDIA H200",)),
    Gpu("B200", 172.7, 2250, 8000, ("NVIDIA B200",)),
)


def find_gpu(name: str) -> Gpu | None:
    """Finds a GPU by its short name or by what the driver calls it.

    Only whole names match: an RTX 4090 D, an A10G or a slice of an A100 (MIG) is another device.

    Args:
        name: Such a name; case, spaces, hyphens and the words NVIDIA and GeForce do not matter.

    Returns:
        The GPU, or None when it is not in the table.
    """
    wanted = _key(name)
    return next((gpu for gpu in GPUS if wanted in {_key(each) for each in (gpu.name, *gpu.driver_names)}), None)


def _key(name: str) -> str:
    words = name.lower().replace("-", " ").replace("_", " ").split()
    return "".join(word for word in words if word not in ("nvidia", "geforce"))
