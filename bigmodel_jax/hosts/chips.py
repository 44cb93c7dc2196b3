"""What the chips can do: peak rates, memory and links, each with its public source.

Every number is of one device as JAX counts them. A TPU7x chip is two devices; any other is one.
"""

import dataclasses

GIB = 2**30


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chip:
    """One kind of accelerator; the rates are peaks that nothing reaches."""

    name: str
    flops: float  # bfloat16 operations per second, a multiply-add being two.
    hbm_bytes: int  # What a program may use.
    hbm_bandwidth: float  # Bytes per second, reads and writes together.
    links: int  # To the neighbours in the torus, or to the switch.
    link_bandwidth: float  # Bytes per second over one link in one direction.
    dcn_bandwidth: float  # Bytes per second to another slice (or machine) in one direction.
    torus: int  # Dimensions of the torus; 0: all devices of a machine hang on one switch.
    devices: int = 1  # JAX devices in one chip as it is rented.
    largest: int  # Chips in the largest slice that can be asked for.

    @property
    def platform(self) -> str:
        return 'tpu' if self.torus else 'gpu'


# Usable memory: what libtpu 0.0.52 answers to a program that is too large ('exceeds available HBM (95.73G)'); the rest
# of the chip's memory is the runtime's.
#
# Bandwidth of a link: the documented 'bidirectional ICI bandwidth per chip' / links / 2 directions. DCN: the documented
# 'data center network bandwidth', per chip.

# https://cloud.google.com/tpu/docs/v4: 275 TFLOP/s, 32 GiB at 1,200 GB/s, 4,096 chips. Links: 'How to Scale Your Model'
# (jax-ml.github.io/scaling-book/tpus), 4.5e10 bytes/s one way; DCN: same table, 2.5e10 bytes/s for a host of 4 chips.
V4 = Chip(
    name='v4', flops=275e12, hbm_bytes=int(30.75 * GIB), hbm_bandwidth=1.2e12, links=6, link_bandwidth=4.5e10,
    dcn_bandwidth=6.25e9, torus=3, largest=4_096,
)  # fmt: skip
# https://cloud.google.com/tpu/docs/v5e: 197 TFLOP/s, 16 GB at 819 GB/s, ICI 400 GB/s over 4 ports, DCN 6.4 Tbit/s for a
# pod of 256.
V5E = Chip(
    name='v5e', flops=197e12, hbm_bytes=int(15.75 * GIB), hbm_bandwidth=8.19e11, links=4, link_bandwidth=5e10,
    dcn_bandwidth=3.125e9, torus=2, largest=256,
)  # fmt: skip
# https://cloud.google.com/tpu/docs/v5p: 459 TFLOP/s, 95 GiB at 2,765 GB/s, ICI 1,200 GB/s, DCN 50 Gbit/s; jobs of up to
# 6,144 chips.
V5P = Chip(
    name='v5p', flops=459e12, hbm_bytes=int(95.73 * GIB), hbm_bandwidth=2.765e12, links=6, link_bandwidth=1e11,
    dcn_bandwidth=6.25e9, torus=3, largest=6_144,
)  # fmt: skip
# https://cloud.google.com/tpu/docs/v6e: 918 TFLOP/s, 32 GB at 1,638 GB/s, ICI 800 GB/s over 4 ports, DCN 100 Gbit/s.
V6E = Chip(
    name='v6e', flops=918e12, hbm_bytes=int(31.24 * GIB), hbm_bandwidth=1.638e12, links=4, link_bandwidth=1e11,
    dcn_bandwidth=1.25e10, torus=2, largest=256,
)  # fmt: skip
# https://cloud.google.com/tpu/docs/tpu7x, of a whole chip: 2,307 TFLOP/s, 192 GiB at 7,380 GB/s, ICI 1,200 GB/s, DCN
# 100 Gbit/s. The two devices share the six links.
TPU7X = Chip(
    name='tpu7x', flops=2_307e12 / 2, hbm_bytes=int(94.74 * GIB), hbm_bandwidth=7.38e12 / 2, links=6,
    link_bandwidth=1e11 / 2, dcn_bandwidth=1.25e10 / 2, torus=3, devices=2, largest=9_216,
)  # fmt: skip
# NVIDIA data sheets of the SXM boards: dense bfloat16, without sparsity. Memory: what nvidia-smi shows. NVLink: 25 GB/s
# per link and direction; one network card per GPU in the DGX machines: ConnectX-6, 200 Gbit/s, or -7, 400 Gbit/s.
A100 = Chip(
    name='a100', flops=312e12, hbm_bytes=81_920 * 2**20, hbm_bandwidth=2.039e12, links=12, link_bandwidth=2.5e10,
    dcn_bandwidth=2.5e10, torus=0, largest=8,
)  # fmt: skip
H100 = Chip(
    name='h100', flops=989e12, hbm_bytes=81_559 * 2**20, hbm_bandwidth=3.35e12, links=18, link_bandwidth=2.5e10,
    dcn_bandwidth=5e10, torus=0, largest=8,
)  # fmt: skip
H200 = dataclasses.replace(H100, name='h200', hbm_bytes=143_771 * 2**20, hbm_bandwidth=4.8e12)

CHIPS = {chip.name: chip for chip in (V4, V5E, V5P, V6E, TPU7X, A100, H100, H200)}

# What JAX calls a device of a chip (jax.Device.device_kind), in lower case. TPUs: the names that JAX's
# mesh_utils and Pallas know. GPUs: the names of NVIDIA's driver; the boards for PCIe have other rates: not here.
KINDS = {
    'tpu v4': V4,
    'tpu v5 lite': V5E, 'tpu v5e': V5E,
    'tpu v5': V5P, 'tpu v5p': V5P,
    'tpu v6 lite': V6E, 'tpu v6e': V6E,
    'tpu7': TPU7X, 'tpu7x': TPU7X,
    'nvidia a100-sxm4-40gb': A100, 'nvidia a100-sxm4-80gb': A100,
    'nvidia h100 80gb hbm3': H100, 'nvidia h200': H200,
}  # fmt: skip


def of_kind(device_kind: str) -> Chip | None:
    """The chip that a device belongs to, by jax.Device.device_kind; None if it is not known here, as of a CPU."""
    return KINDS.get(device_kind.strip().lower())
