"""Memory of a device for the contrastive loss and its gradient on a TPU slice, compiled here; needs libtpu.

  python scripts/benchmark/contrastive_memory.py v5e:16x16 32768

prints what the whole B x B matrix would take, and the temporary memory of a device that the compiler reports, of the
loss alone: image and text vectors are its inputs.
"""

import sys

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from bigmodel_jax.models.multimodal.clip import Temperature
from bigmodel_jax.objectives import contrastive
from bigmodel_jax.parallel import sharding

WIDTH = 512  # Of the vectors of B/32.


def main(slice_name: str, rows: int) -> None:
    devices = list(topologies.get_topology_desc(platform='tpu', topology_name=slice_name).devices)
    place = sharding.MeshShape(data=len(devices)).build(devices)
    print(f'{slice_name}: {len(devices)} devices, batch {rows:,}; a B x B matrix has {rows**2 * 4 / 2**20:,.0f} MiB')
    for of in (contrastive.InfoNce(), contrastive.SigLip()):

        def loss(
            image_BD: jax.Array, text_BD: jax.Array, log_scale: jax.Array, of: contrastive.Contrastive = of
        ) -> jax.Array:
            with sharding.use(place):
                temperature = of.scaled(Temperature(log_scale, jnp.float32(-10)))
                losses_B, _ = of.losses(image_BD, text_BD, temperature, jnp.ones(rows))
                return losses_B.mean()

        vectors = jax.ShapeDtypeStruct((rows, WIDTH), jnp.float32, sharding=place.batch_sharding(2))
        scale = jax.ShapeDtypeStruct((), jnp.float32, sharding=place.replicated)
        step = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1, 2)),
            out_shardings=(place.replicated, (place.batch_sharding(2), place.batch_sharding(2), place.replicated)),
        )
        found = step.trace(vectors, vectors, scale).lower().compile().memory_analysis()
        print(f'{type(of).__name__}: temporary {found.temp_size_in_bytes / 2**20:,.0f} MiB on a device')


if __name__ == '__main__':
    main(sys.argv[1], int(sys.argv[2]))
