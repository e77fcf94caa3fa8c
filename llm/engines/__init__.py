"""Two ways to run the same stages: many tiny models side by side, or one model over a mesh.

Both (and `server.Served`, which asks a server) have the same operations on *weights*, whose form
is their own business:

    groups(recipes)            which recipes are worked on together
    load, save                 checkpoint folders
    join, split                weights of single models to weights of a group, and back
    tune                       train on examples, for hard tokens or a teacher's distribution
    complete                   sample completions of prompts
    measure                    log-odds and rates of a trait
    score                      log-probabilities of tokens after prompts
    facts                      what manifests record of the engine

A `Stack` keeps a leading axis of runs, which the devices share, and is one jitted, vmapped program
per operation; it lives in memory. A `OnMesh` works on one model at a time, spread over devices and
processes, with checkpoints, buckets of lengths and accumulation.
"""

from .common import OneByOne, Trained, make_loss, make_student, unpad
from .mesh import OnMesh, Weights, decoder, sampling_mesh, stackable
from .side_by_side import Stack

__all__ = [
    "OnMesh",
    "OneByOne",
    "Stack",
    "Trained",
    "Weights",
    "decoder",
    "make_loss",
    "make_student",
    "sampling_mesh",
    "stackable",
    "unpad",
]
