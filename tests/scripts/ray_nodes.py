"""A Ray of several nodes on this machine: one joins, one leaves, and in the end the head is lost."""

import os
import tempfile
import time
from pathlib import Path

import psutil
import ray
from ray.cluster_utils import Cluster

import parallelkit as pk
from parallelkit.backends import ray_census
from parallelkit.backends.ray_start import patience


def node_of(x, folder):
    """Where an item runs; from the second node on that shows up, items run on."""
    node = ray.get_runtime_context().get_node_id()
    (folder / node).touch()
    while x > 0 and len(os.listdir(folder)) < 2:
        time.sleep(0.01)
    return node


def increment(x):
    return x + 1


if __name__ == "__main__":
    ray_census.GONE = 2.0
    head = {"num_cpus": 1, "include_dashboard": False}
    with patience(ray):
        cluster = Cluster(initialize_head=True, head_node_args=head)
    pool = pk.Pool(backend="ray", address=cluster.address, chunksize=1)
    folder = Path(tempfile.mkdtemp())
    nodes = pool.uimap(node_of, range(60), folder=folder)
    found = [next(nodes)]
    with patience(ray):
        other = cluster.add_node(num_cpus=2)
    started = psutil.Process().children(recursive=True)
    while len(set(found)) < 2:
        found.append(next(nodes))
    cluster.remove_node(other, allow_graceful=False)
    found += nodes
    print(len(found), "items on", len(set(found)), "nodes", flush=True)

    results = pool.uimap(increment, range(1_000_000))
    next(results)
    for process in psutil.Process().children(recursive=True):
        if process.name() == "gcs_server":
            process.kill()
    try:
        for _ in results:
            pass
    except pk.ParallelError as error:
        print(str(error).replace(cluster.address, "ADDRESS"), flush=True)
    pk.shutdown()
    cluster.shutdown()
    for process in started:  # agents of a node that is killed stay
        if process.is_running():
            process.kill()
