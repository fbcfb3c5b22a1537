"""Functions for the tests of interplay: what runs in other libraries' workers must be importable there."""

import os
import threading

import parallelkit as pk


def square(x):
    return x * x


def ours(x):
    """A call of ours, and where its items ran: in this process or not, at which level, on how many cores."""
    with pk.Pool() as pool:
        found = pool.map(where, range(8))
    return {
        "results": pk.map(square, range(x, x + 5)),
        "lazily": list(pk.imap(square, iter(range(3)))),
        "here": {pid for pid, _, _ in found} == {os.getpid()},
        "threads": len({thread for _, thread, _ in found}),
        "level": pk.nesting().level,
        "cores": pk.nesting().cores,
    }


def ours_with_workers(x):
    """The same with workers asked for."""
    with pk.Pool(workers=3, backend="process") as pool:
        return pool.map(square, range(x, x + 5))


def where(_):
    return os.getpid(), threading.get_ident(), pk.nesting()


def joblib_inside(x, **options):
    """joblib with all cores that it thinks there are; its workers are ended, they would stay for minutes."""
    import joblib
    from joblib.externals.loky import get_reusable_executor

    try:
        counted = joblib.cpu_count()
        results = joblib.Parallel(n_jobs=-1, **options)(joblib.delayed(square)(y) for y in range(x))
    finally:
        if options.get("backend") != "threading":
            get_reusable_executor(max_workers=1).shutdown(wait=True, kill_workers=True)
    return counted, results


def multiprocessing_inside(x, method):
    import multiprocessing

    with multiprocessing.get_context(method).Pool(2) as pool:
        results = pool.map(square, range(x))
        pool.close()
        pool.join()
    return results


def executor_inside(x, method):
    import multiprocessing
    from concurrent.futures import ProcessPoolExecutor

    context = multiprocessing.get_context(method)
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        return list(executor.map(square, range(x)))


def thread_executor_inside(x):
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(2) as executor:
        return list(executor.map(square, range(x)))


def pathos_inside(x):
    from pathos.pools import ProcessPool

    pool = ProcessPool(2, id=f"inside {os.getpid()} {threading.get_ident()}")
    try:
        return pool.map(square, range(x))
    finally:
        pool.close()
        pool.join()
        pool.clear()


def dask_inside(x, address):
    from distributed import Client

    with Client(address, set_as_default=False) as client:
        return client.gather(client.map(square, range(x)))
