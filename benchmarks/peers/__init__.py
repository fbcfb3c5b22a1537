"""The libraries compared. A file is where they come from, a class is an adapter, this table names them all."""

from benchmarks.peers import base, clusters, libraries, ours, standard

ALL = {
    peer.name: peer
    for peer in (
        base.Serial,
        ours.Ours,
        libraries.Pathos,
        standard.MultiprocessingPool,
        standard.Executor,
        libraries.Joblib,
        libraries.Mpire,
        clusters.Dask,
        clusters.Ray,
        ours.OursThreads,
        standard.ThreadExecutor,
        standard.MultiprocessingThreads,
        libraries.PathosThreads,
        libraries.JoblibThreads,
        libraries.JoblibOnOurs,
        libraries.JoblibOnOurThreads,
        ours.OursReturn,
        ours.OursRetry,
    )
}

#: Ours, which the others are compared with.
OURS = ("parallelkit", "parallelkit-threads", "joblib-ours", "joblib-ours-threads")
#: The sets that cases choose from.
LOCAL = ("pathos", "pool", "executor", "joblib", "mpire")
CLUSTERS = ("dask", "ray")
PROCESSES = ("serial", "parallelkit", *LOCAL)
EVERYONE = (*PROCESSES, *CLUSTERS)
THREADS = (
    "serial",
    "parallelkit-threads",
    "thread-executor",
    "thread-pool",
    "pathos-threads",
    "joblib-threads",
)
JOBLIB = ("joblib", "joblib-ours", "joblib-threads", "joblib-ours-threads")
SENSIBLE_THREADS = ("parallelkit-threads", "thread-executor", "joblib-threads")


def forks(peer, variant=""):
    """Whether a contestant's workers are forked from the program."""
    if variant in ("fork", "inherited"):
        return True
    return ALL[peer].forks() and variant != "forkserver"
