"""What processes of a training do in tests; a module of its own, as they import all of it."""

from lightning_fabric import Fabric

from zoo_gen.errors import InputError


def refuse(fabric: Fabric) -> None:
    """Ends the second process with an error that is meant for users."""
    if fabric.global_rank == 1:
        raise InputError("process 1 has no data")
    fabric.barrier()
